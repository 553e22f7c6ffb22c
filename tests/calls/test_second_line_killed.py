"""The controller is killed while an agent asks the second line, or hands a caller on; another one takes over.

The agent goes through all modes and hands over at the end; whoever is not understood, because nobody was there, keys
again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ari_app.flow.sop import State
from tests.calls.house import PARTY, FakeHouse
from tests.calls.paths import reach
from tests.calls.test_killed import MOMENTS, SILENCE_S, Killed, longest_silence_s
from tests.calls.test_second_line import AGENT, CALLER_AND_AGENT, LAWYER, hears_whom, lawyer_signs_in, spent

ASKING = (State.CONSULT_RINGING, State.CONSULTING, State.CONSULT_SWAPPED, State.THREE_WAY)
HANDED_ON = {State.TRANSFERRING: "*73#", State.TRANSFERRING_TO_AGENT: f"*7{LAWYER}#"}


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def keys_until(hotline: FakeHouse, phone: Any, keys: str, *states: State) -> None:
    for _ in range(10):
        await phone.keys(keys)
        for _ in range(30):
            if (await hotline.states())[-1] in [state.name for state in states]:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"the call is in {await hotline.states()}, not in {states}")


async def takes_whatever_rings(lawyer: Any) -> Any:
    while True:
        asked = await lawyer.rings(timeout_s=60)
        await asyncio.sleep(2.0)
        if asked.ended_at is None:
            await asked.picks_up()
            return asked


async def is_served_to_the_end(hotline: FakeHouse, caller: Any, lawyer: Any) -> None:
    await keys_until(hotline, lawyer, "*6", State.RATING, State.CLOSING, State.LEAVING, State.ENDED)
    await caller.hears("closing", within_s=30)
    await caller.ended(20)
    ending = await hotline.ending(within_s=30)
    assert (ending.outcome, ending.agent, ending.hung_up_by) == ("handled", LAWYER, "hotline")
    for number in (AGENT, LAWYER):
        await hotline.duty_becomes(number, "idle", within_s=60)
    await hotline.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("state", ASKING, ids=lambda state: state.name)
async def test_killed_while_an_agent_asks_the_second_line(hotline, state, moment):
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    caller, offer = await reach(hotline, State.TALKING, agent, from_=PARTY)
    killed = Killed(hotline, state, MOMENTS[moment])
    taking = asyncio.create_task(takes_whatever_rings(lawyer))
    await keys_until(hotline, offer, "*1", State.CONSULT_RINGING, State.CONSULTING)
    asked = await taking
    await hotline.call_is(State.CONSULTING, within_s=20)
    await keys_until(hotline, offer, "*2", State.CONSULT_SWAPPED)
    await keys_until(hotline, offer, "*3", State.THREE_WAY)
    await asyncio.sleep(4)
    assert killed.done.is_set()
    assert len(await hears_whom(caller, offer, asked)) == 6
    await keys_until(hotline, offer, "*4", State.TALKING)
    await asyncio.sleep(1)
    assert await hears_whom(caller, asked) == CALLER_AND_AGENT
    times = await spent(hotline)
    assert times[AGENT, "both"] == pytest.approx(times[LAWYER, "both"], abs=0.1)
    await is_served_to_the_end(hotline, caller, asked)
    assert sum(call.incoming for call in lawyer.calls) == 1
    assert "interrupted" not in [sound.what for sound in caller.ear.sounds]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("state", HANDED_ON, ids=lambda state: state.name)
async def test_killed_while_a_caller_is_handed_on(hotline, state, moment):
    agent = await hotline.agent_signs_in(AGENT)
    if state is State.TRANSFERRING:
        lawyer = await lawyer_signs_in(hotline)
    else:
        lawyer = await hotline.phone(LAWYER)
    caller, offer = await reach(hotline, State.TALKING, agent, from_=PARTY)
    if state is State.TRANSFERRING_TO_AGENT:
        lawyer = await hotline.agent_signs_in(LAWYER)
    killed = Killed(hotline, state, MOMENTS[moment])
    taking = asyncio.create_task(takes_whatever_rings(lawyer))
    await offer.keys(HANDED_ON[state])
    asked = await taking
    await caller.hears(f"opening-agent-{LAWYER}", within_s=30)
    await killed.done.wait()
    assert await hears_whom(caller, asked) == CALLER_AND_AGENT
    assert offer.ended_at is not None
    await is_served_to_the_end(hotline, caller, asked)
    talks = (offer, asked)
    assert longest_silence_s(caller, lambda at: any(t.answered_at <= at <= (t.ended_at or at) for t in talks)) <= (
        SILENCE_S
    ), caller._story()


async def test_an_agent_who_hung_up_while_nobody_was_there_left_the_caller_to_the_lawyer(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    asked = await takes_whatever_rings(lawyer)
    await hotline.call_is(State.CONSULTING)
    await hotline.controller_dies()
    offer.hang_up()
    await asyncio.sleep(1.5)
    await hotline.controller_starts()
    await hotline.call_is(State.TALKING)
    await asyncio.sleep(1)
    assert await hears_whom(caller, asked) == CALLER_AND_AGENT
    await is_served_to_the_end(hotline, caller, asked)


async def test_a_lawyer_who_hung_up_while_nobody_was_there_left_the_caller_to_the_agent(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    asked = await takes_whatever_rings(lawyer)
    await hotline.call_is(State.CONSULTING)
    await hotline.controller_dies()
    asked.hang_up()
    await asyncio.sleep(1.5)
    await hotline.controller_starts()
    await hotline.call_is(State.TALKING)
    await asyncio.sleep(1)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    await hotline.duty_becomes(LAWYER, "wrap_up")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("keys", ["*4", "*0"], ids=["handed over", "back"])
async def test_killed_in_the_moment_one_of_the_agents_is_let_go(hotline, keys, moment):
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    asked = await takes_whatever_rings(lawyer)
    await hotline.call_is(State.CONSULTING)
    killed = Killed(hotline, State.TALKING, MOMENTS[moment])
    await offer.keys(keys)
    await killed.done.wait()
    await asyncio.sleep(1)
    left, gone, its_agent = (asked, offer, AGENT) if keys == "*4" else (offer, asked, LAWYER)
    await gone.ended()
    assert await hears_whom(caller, left) == CALLER_AND_AGENT
    assert sum(sound.what.startswith("opening-agent") for sound in caller.ear.sounds) == 1
    await hotline.duty_becomes(its_agent, "wrap_up")
    caller.hang_up()
    assert (await hotline.ending()).agent == (LAWYER if keys == "*4" else AGENT)
    await hotline.nothing_is_left()
