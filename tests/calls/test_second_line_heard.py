"""The second line, judged by what each phone received: who hears whom in each mode. SOP-4, AGT-6."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.flow.sop import State
from ari_app.settings import PROJECT
from ari_app.store import models
from tests.calls.house import PARTY, Script
from tests.calls.paths import reach

AUDIO = PROJECT / "dialplan" / "prompts" / "audio"
SPOKEN = {"caller": "fallback-goodbye", "agent": "fallback-noted", "lawyer": "fallback-sorry"}
"""Prompts that nobody plays here, spoken by the phones."""
SETTLES_S = 0.8
EVERYBODY = pytest.mark.hotline_settings(rules='[routing]\nusual_lines = ["party", "lawyer", "second_line"]\n')
"""Any agent who is free is of the second line, too."""
Pairs = set[tuple[str, str]]


def both_ways(*pairs: tuple[str, str]) -> Pairs:
    return {one for a, b in pairs for one in ((a, b), (b, a))}


AGENTS = both_ways(("agent", "lawyer"))
FIRST = both_ways(("agent", "caller"))
HANDED_OVER = both_ways(("lawyer", "caller"))


async def who_hears_whom(**talkers: Any) -> Pairs:
    """Each who is there says something in turn: (who said it, who heard it whole)."""
    found = set()
    await asyncio.sleep(SETTLES_S)
    for who, one in talkers.items():
        before = {other: await times(talkers[other], SPOKEN[who]) for other in talkers}
        await one.says(AUDIO / f"{SPOKEN[who]}.alaw")
        await asyncio.sleep(SETTLES_S)
        found |= {(who, other) for other in talkers if await times(talkers[other], SPOKEN[who]) > before[other]}
    return found


async def times(call: Any, prompt: str) -> int:
    return len(await call.transcript([prompt]))


@EVERYBODY
async def test_who_hears_whom_in_each_mode(hotline: Script) -> None:
    agent = await hotline.agent_signs_in("601")
    caller, first = await reach(hotline, State.TALKING, agent, from_=PARTY)
    lawyer = await hotline.agent_signs_in("605")
    await first.keys("*1")
    second = await lawyer.rings()
    assert "未核身" in second.display
    await caller.hears("hold-music")
    await second.picks_up()
    await second.hears("whisper-unknown-unverified-none")
    await hotline.call_is(State.CONSULTING)
    talkers = {"caller": caller, "agent": first, "lawyer": second}
    assert await who_hears_whom(**talkers) == AGENTS
    await first.keys("*2")
    await hotline.call_is(State.CONSULT_SWAPPED)
    await second.hears("hold-music")
    assert await who_hears_whom(**talkers) == FIRST
    await first.keys("*3")
    await hotline.call_is(State.THREE_WAY)
    assert await who_hears_whom(**talkers) == AGENTS | FIRST | HANDED_OVER
    await second.keys("*5")
    for one in talkers.values():
        await one.hears("disclaimer", within_s=20)
    await first.keys("*4")
    await first.ended()
    await hotline.call_is(State.TALKING)
    assert await who_hears_whom(caller=caller, lawyer=second) == HANDED_OVER
    await second.keys("*6")
    await caller.hears("closing", within_s=30)
    await caller.ended(20)
    ending = await hotline.ending()
    assert (ending.outcome, ending.agent) == ("handled", "605")
    rows = await hotline.ask(lambda s: s.scalars(select(models.TalkTime).filter_by(call_id=ending.call_id)).all())
    assert {(row.agent, row.company) for row in rows} >= {
        ("601", "caller"), ("601", "agent"), ("605", "agent"), ("601", "both"), ("605", "both"), ("605", "caller"),
    }  # fmt: skip
    await hotline.nothing_is_left()


@EVERYBODY
async def test_a_lawyer_hangs_up_and_the_agent_goes_on_then_hands_the_caller_on_by_number(hotline: Script) -> None:
    agent = await hotline.agent_signs_in("601")
    caller, first = await reach(hotline, State.TALKING, agent, from_=PARTY)
    lawyer = await hotline.agent_signs_in("605")
    await first.keys("*1")
    second = await lawyer.rings()
    await second.picks_up()
    await hotline.call_is(State.CONSULTING, within_s=15)
    second.hang_up()
    await hotline.call_is(State.TALKING)
    assert await who_hears_whom(caller=caller, agent=first) == FIRST
    await hotline.duty_becomes("605", "idle", within_s=20)
    await first.keys("*7605#")
    await first.ended()
    third = await lawyer.rings()
    await third.picks_up()
    await hotline.call_is(State.TALKING, within_s=15)
    await asyncio.sleep(4)
    assert await who_hears_whom(caller=caller, lawyer=third) == HANDED_OVER
    caller.hang_up()
    assert (await hotline.ending()).agent == "605"
    await hotline.nothing_is_left()


@EVERYBODY
async def test_the_agent_hangs_up_and_the_caller_stays_with_the_lawyer(hotline: Script) -> None:
    agent = await hotline.agent_signs_in("601")
    caller, first = await reach(hotline, State.TALKING, agent, from_=PARTY)
    lawyer = await hotline.agent_signs_in("605")
    await first.keys("*1")
    second = await lawyer.rings()
    await second.picks_up()
    await hotline.call_is(State.CONSULTING, within_s=15)
    first.hang_up()
    await hotline.call_is(State.TALKING)
    assert await who_hears_whom(caller=caller, lawyer=second) == HANDED_OVER
    second.hang_up()
    await caller.hears("closing", within_s=30)
    await caller.ended(20)
    assert (await hotline.ending()).agent == "605"
    await hotline.nothing_is_left()


@EVERYBODY
async def test_the_phones_own_transfer_key_ends_in_the_same_place(hotline: Script) -> None:
    agent = await hotline.agent_signs_in("601")
    caller, first = await reach(hotline, State.TALKING, agent, from_=PARTY)
    first.transfers("602")
    await caller.hears("transfer-not-possible")
    assert await who_hears_whom(caller=caller, agent=first) == FIRST
    lawyer = await hotline.agent_signs_in("605")
    await asyncio.sleep(1)
    first.transfers("605")
    await first.ended()
    second = await lawyer.rings()
    await second.picks_up()
    await hotline.call_is(State.TALKING, within_s=15)
    await asyncio.sleep(4)
    assert await who_hears_whom(caller=caller, lawyer=second) == HANDED_OVER
    second.transfers("3")
    await second.ended()
    await hotline.call_is(State.TRANSFERRING)
    await caller.hears("hold-music", within_s=20)
    caller.hang_up()
    assert (await hotline.ending()).agent == "605"
    await hotline.nothing_is_left()
