"""Callbacks on a real Asterisk, judged from what each side received: the number read back, agent first, ringback, busy
as it is, and both sides in the recording.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import soundfile
from sqlalchemy import select

from ari_app.callmeback import spoken
from ari_app.flow.sop import State
from ari_app.store import models
from ari_app.testcall.hearing import Ear, PromptSounds
from tests.calls.paths import reach
from tests.calls.real import RealHouse, Running
from tests.faults.lightphone import CALLER_TONE, Leg, Line

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(300)]

RING_HZ, PERSON_HZ = 450.0, 500.0
"""Of the mainland's tones, and of what the person says."""
PERSON = "15400006001"


@pytest.fixture
def hotline() -> RealHouse:
    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), {}))


@asynccontextmanager
async def people(hotline: RealHouse) -> AsyncIterator[asyncio.Queue[tuple[str, Leg]]]:
    """Where calls through the trunk arrive: number, and the call."""
    net = hotline.settings.address.rpartition(".")[0]
    called: asyncio.Queue[tuple[str, Leg]] = asyncio.Queue()

    def told(number: str, leg: Leg) -> None:
        leg.keep_tape = True
        called.put_nowait((number, leg))

    at = (hotline.settings.address, hotline.settings.sip_port)
    async with Line(f"{net}.4", at, voice=CALLER_TONE, on_invite=told):
        yield called


def strength(samples: Any, hz: float) -> float:
    """How much of one frequency there is, against all that is heard: 0 to 1."""
    sound = np.asarray(samples, dtype=float)
    if not len(sound) or not np.abs(sound).max():
        return 0.0
    wave = np.exp(-2j * np.pi * hz * np.arange(len(sound)) / 8000)
    return float(abs((sound * wave).mean()) * np.sqrt(2) / np.sqrt((sound**2).mean()))


def loudest(samples: Any, hz: float, second: int = 8000) -> float:
    """The same in the best of its seconds."""
    sound = np.asarray(samples)
    return max(
        (strength(sound[i : i + second], hz) for i in range(0, len(sound) - second + 1, second // 4)), default=0.0
    )


def heard_by(leg: Leg) -> Any:
    """The person's tape as samples."""
    codes = np.frombuffer(bytes(leg.stream.tape or b"") if leg.stream else b"", dtype=np.uint8) ^ 0x55
    segment, step = (codes >> 4) & 7, (codes & 15).astype(int) * 16 + 8
    size = np.where(segment == 0, step, (step + 256) << np.maximum(segment.astype(int) - 1, 0))
    return (np.where(codes & 0x80, size, -size) / 32768).astype(np.float32)


async def asks(hotline: RealHouse, from_: str = PERSON) -> Any:
    caller, _ = await reach(hotline, State.WAITING, from_=from_)
    await caller.hears("nobody-signed-in")
    await caller.keys("1")
    await caller.hears("callback-number-is")
    await caller.hears("callback-confirm", within_s=20)
    await caller.keys("1")
    await caller.hears("callback-ask-window")
    await caller.keys("1")
    await caller.hears("callback-noted")
    caller.hang_up()
    await caller.ended()
    return caller


async def test_the_number_is_read_back_and_the_person_called_once_an_agent_is_there(hotline):
    async with people(hotline) as called:
        caller = await asks(hotline)
        sounds = PromptSounds(hotline.settings.prompts / "audio")
        read_back = np.concatenate([sounds[prompt] for prompt in spoken(PERSON)])
        judged = Ear({"read-back": read_back}).judge(caller.heard.samples, "read-back")
        assert judged.score > 0.8  # of the whole number: between its groups there is a little more time on the line
        assert judged.share > 0.8
        agent = await hotline.agent_signs_in("601")
        offer = await agent.rings()
        assert called.empty(), "the agent is there first"
        await offer.picks_up()
        await offer.hears("whisper-callback-unknown-none")
        number, leg = await asyncio.wait_for(called.get(), 10)
        assert number == PERSON
        assert "12368" in leg.incoming.one("from")
        leg.rings()
        await asyncio.sleep(6.0)
        ringing = len(offer.heard.samples)
        assert loudest(offer.heard.samples[-6 * 8000 :], RING_HZ) > 0.7, "the agent hears it ring"
        leg.pick_up()
        await hotline.call_is(State.TALKING)
        await asyncio.sleep(11.0)
        assert loudest(offer.heard.samples[ringing:], PERSON_HZ) > 0.5, "the agent hears the person"
        ear = Ear(sounds)
        assert ear.judge(heard_by(leg), "recording-notice").whole
        assert ear.judge(heard_by(leg), "opening-agent-601").whole
        leg.hang_up()
        await offer.ended()
        ending = await hotline.ending()
        assert (ending.outcome, ending.agent) == ("handled", "601")
        await both_sides_are_stored(hotline, ending.call_id, ear)
        await hotline.duty_becomes("601", "idle", within_s=15)
        await hotline.nothing_is_left()


async def both_sides_are_stored(hotline: RealHouse, call_id: str, ear: Ear) -> None:
    """In two stores: the person on the left, on the right what the person heard, from the first ring on."""
    rows: list[models.Recording] = []
    for _ in range(100):
        rows = await hotline.ask(
            lambda s: list(s.scalars(select(models.Recording).where(models.Recording.call_id == call_id)))
        )
        if len(rows) == 2:
            break
        await asyncio.sleep(0.1)
    assert {row.store for row in rows} == {"local", "second"}
    assert rows[0].seconds > 14.0
    local = next(row for row in rows if row.store == "local")
    samples, rate = soundfile.read(hotline.settings.local_store / local.path, dtype="float32", always_2d=True)
    assert rate == 8000
    assert loudest(samples[:, 0], PERSON_HZ) > 0.8
    assert loudest(samples[:, 1], PERSON_HZ) < 0.3
    assert loudest(samples[: 6 * 8000, 1], RING_HZ) > 0.7
    for prompt in ("recording-notice", "opening-agent-601"):
        assert ear.judge(samples[:, 1].copy(), prompt).whole


async def test_busy_is_heard_and_the_agent_is_free(hotline):
    async with people(hotline) as called:
        await asks(hotline, "15400006002")
        agent = await hotline.agent_signs_in("601")
        offer = await agent.rings()
        await offer.picks_up()
        _, leg = await asyncio.wait_for(called.get(), 15)
        leg.refuse(486)
        await offer.hears("outbound-busy")
        assert loudest(offer.heard.samples, RING_HZ, second=2400) > 0.7, "the busy tone"
        await offer.ended()
        await hotline.duty_becomes("601", "idle", within_s=15)
        cancelled = await agent.dials(f"*12{hotline.access['601'].pin}")
        await cancelled.ended()
        await hotline.nothing_is_left()
