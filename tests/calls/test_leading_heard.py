"""A leader in an agent's call, measured on real phones: who receives whose tone in each mode, what is recorded, and
that neither caller nor agent can hear anybody come, change or go. AGT-5.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from sqlalchemy import select

from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import PARTY
from tests.calls.paths import reach

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(240)]

RATE = 8000
TONES = {"agent": 440.0, "caller": 700.0, "leader": 1130.0}
"""Hz; no one is a multiple of another."""
FRAME_S = 0.01
HEARD_DB, SILENT_DB = -30.0, -55.0
"""Re full scale; the tones are sent at -14."""
BASELINE_S, MODE_S, AROUND_S = 4.0, 6.0, 0.6
MEASURED_S = 2.0
"""The last of a mode: at first its name is said to the leader."""


@pytest.fixture
def hotline() -> Any:
    from tests.calls.real import RealHouse, Running

    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), {}))


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def level_db(samples: np.ndarray, hertz: float) -> float:
    """Of that tone, re full scale; the median over a tenth of a second each, so that a lost packet is no matter."""
    size = RATE // 10
    frames = samples[: len(samples) // size * size].reshape(-1, size) * np.hanning(size)
    wave = np.exp(-2j * np.pi * hertz * np.arange(size) / RATE)
    amplitude = np.abs(frames @ wave) * 2 / np.hanning(size).sum()
    return float(20 * np.log10(np.median(amplitude) + 1e-7))


def glitches(samples: np.ndarray, hertz: float) -> np.ndarray:
    """For each 10 ms, how far it is from going on as the tone did, re the tone: a click, a gap or a jump of phase."""
    size = int(FRAME_S * RATE)
    wave = np.exp(2j * np.pi * hertz * np.arange(len(samples)) / RATE)
    steady = np.convolve(samples * wave.conj(), np.ones(size) / size, mode="same") * 2
    frames = steady[: len(steady) // size * size : size]
    return np.abs(np.diff(frames)) / np.median(np.abs(frames))


class Moments:
    """What happened when, by the ledger, on the clock of what a phone received."""

    def __init__(self, rows: list[models.Supervision]) -> None:
        unix = time.time() - time.monotonic()
        self.began = {row.what + str(row.n): row.at - unix for row in rows if row.event == "began"}
        self.gone = max(row.at for row in rows if row.event == "ended") - unix


def between(call: Any, begin: float, end: float) -> np.ndarray:
    heard = call.heard
    return heard.samples[int((begin - heard.t0) * RATE) : int((end - heard.t0) * RATE)]


async def began(hotline: Any, what: str, n: int) -> None:
    asked = select(models.Supervision.at).where(models.Supervision.what == what, models.Supervision.n == n)
    for _ in range(100):
        if await hotline.ask(lambda s: s.scalars(asked.where(models.Supervision.at > hotline.since)).first()):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{what} did not begin")


async def test_tones_of_all_three_in_every_mode_and_nothing_of_a_listener(hotline):
    agent_phone = await hotline.agent_signs_in("601")
    caller, agent = await reach(hotline, State.TALKING, agent_phone, from_=PARTY)
    leader_phone = await hotline.agent_signs_in("612")
    speaking = [asyncio.create_task(call.says(tone(TONES[who], 45.0))) for who, call in
                (("agent", agent), ("caller", caller))]  # fmt: skip
    quiet_since = time.monotonic() + 1.0
    await asyncio.sleep(BASELINE_S + 1.0)
    leader = await leader_phone.dials("*81601")
    await leader.answered()
    await began(hotline, "listen", 0)
    speaking.append(asyncio.create_task(leader.says(tone(TONES["leader"], 30.0))))
    await asyncio.sleep(MODE_S)
    for n, (key, what) in enumerate((("2", "whisper"), ("3", "join"), ("1", "listen")), start=1):
        await leader.keys(key)
        await began(hotline, what, n)
        await asyncio.sleep(MODE_S)
    leader.hang_up()
    await asyncio.sleep(2.0)
    asked = select(models.Supervision).where(models.Supervision.at > hotline.since)
    moments = Moments(list(await hotline.ask(lambda s: s.scalars(asked).all())))
    ends = {"listen0": "whisper1", "whisper1": "join2", "join2": "listen3"}
    levels = {
        mode: {
            (who, whom): level_db(between(call, until - MEASURED_S, until), hertz)
            for who, hertz in TONES.items()
            for whom, call in (("agent", agent), ("caller", caller), ("leader", leader))
            if who != whom
        }
        for mode in moments.began
        for until in [(moments.began[ends[mode]] if mode in ends else moments.gone) - 0.3]
    }
    always = {("agent", "caller"), ("caller", "agent"), ("agent", "leader"), ("caller", "leader")}
    expected = {
        "listen0": always, "listen3": always, "whisper1": always | {("leader", "agent")},
        "join2": always | {("leader", "agent"), ("leader", "caller")},
    }  # fmt: skip
    wrong = {
        (mode, *pair): round(level)
        for mode, pairs in expected.items()
        for pair, level in levels[mode].items()
        if not (level > HEARD_DB if pair in pairs else level < SILENT_DB)
    }
    assert not wrong, (wrong, levels)
    worst = {}
    silently = {"caller": ("listen0", "whisper1", "gone"), "agent": ("listen0", "gone")}
    for whom, call, whose in (("caller", caller, "agent"), ("agent", agent, "caller")):
        before = glitches(between(call, quiet_since, quiet_since + BASELINE_S), TONES[whose]).max()
        for moment in silently[whom]:
            at = moments.gone if moment == "gone" else moments.began[moment]
            around = glitches(between(call, at - AROUND_S, at + AROUND_S), TONES[whose]).max()
            worst[whom, moment] = (round(float(around), 3), round(float(before), 3))
    assert all(around < max(2 * before, 0.1) for around, before in worst.values()), worst
    print({mode: {pair: round(level) for pair, level in found.items()} for mode, found in levels.items()}, worst)
    caller.hang_up()
    for task in speaking:
        task.cancel()
    ending = await hotline.ending()
    await hotline.nothing_is_left()
    await recorded_whole(hotline, ending.call_id, moments, caller)


async def recorded_whole(hotline: Any, call_id: str, moments: Moments, caller: Any) -> None:
    """Left: what the caller says. Right: what the caller hears, the leader only while joined."""
    asked = select(models.Recording).where(models.Recording.call_id == call_id, models.Recording.store == "local")
    for _ in range(100):
        row = await hotline.ask(lambda s: s.scalars(asked).first())
        if row is not None:
            break
        await asyncio.sleep(0.2)
    sound, rate = soundfile.read(hotline.settings.local_store / row.path, dtype="float32")
    assert rate == RATE
    said, heard = sound[:, 0], sound[:, 1]
    begin = caller.heard.t0

    def at(what: str, side: np.ndarray, hertz: float) -> float:
        until = moments.began[what] - begin + MODE_S - 0.3
        return level_db(side[int((until - MEASURED_S) * RATE) : int(until * RATE)], hertz)

    for what in moments.began:
        assert at(what, said, TONES["caller"]) > HEARD_DB
        assert at(what, heard, TONES["agent"]) > HEARD_DB
        leader = at(what, heard, TONES["leader"])
        assert leader > HEARD_DB if what == "join2" else leader < SILENT_DB, (what, leader)
        assert at(what, said, TONES["leader"]) < SILENT_DB
