"""Asterisk is killed, freezes, or its line to us is cut, at every state of a call."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from ari_app.call import SHUTDOWN
from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import LAWYER, PARTY, FakeHouse
from tests.calls.paths import KEYS, WITH_AGENT, reach

STATES = [*KEYS, State.RINGING, *WITH_AGENT]
SAID_GOODBYE = (State.CLOSING, State.LEAVING)


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def callbacks(hotline: FakeHouse) -> list[tuple[str, str]]:
    rows = await hotline.ask(lambda s: s.scalars(select(models.Callback)).all())
    return [(row.number, row.reason) for row in rows]


async def ending_of(hotline: FakeHouse, call: str) -> models.Ending:
    for _ in range(200):
        found = await hotline.ask(lambda s: s.get(models.Ending, call))
        if found is not None:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{call} was not closed in the ledger")


async def is_closed_by_asterisks_end(hotline: FakeHouse, call: str, state: State) -> None:
    """A call that was in `state`, and its agent is free."""
    ending = await ending_of(hotline, call)  # an agent who is free may be calling back already
    if state in SAID_GOODBYE:
        assert ending.outcome == "handled"
        assert await callbacks(hotline) == []
    else:
        assert (ending.outcome, ending.hung_up_by) == ("lost", "line")
        assert await callbacks(hotline) == [(PARTY, "lost")]
    if state in WITH_AGENT:
        await hotline.duty_becomes("601", "idle", within_s=60)


async def test_a_deadline_between_the_new_link_and_the_first_look_at_it_hangs_nobody_up(hotline):
    caller, _ = await reach(hotline, State.RINGING)
    [call] = hotline.reception.calls
    await hotline.asterisk.dies()
    await hotline.asterisk.starts_again()
    hotline.asterisk.delays_next("PUT", r"/eventFilter$", 3.0)
    ending = await ending_of(hotline, call)
    assert (ending.outcome, ending.hung_up_by) == ("lost", "line")
    assert await callbacks(hotline) == [(PARTY, "lost")]
    caller.hang_up()


@pytest.mark.parametrize("restarted", [False, True], ids=["controller-lives", "controller-dies-too"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
async def test_a_call_that_dies_with_asterisk_is_closed_as_lost_and_called_back(hotline, state, restarted):
    agent = await hotline.agent_signs_in("601") if state in WITH_AGENT else None
    caller, _ = await reach(hotline, state, agent)
    [call] = hotline.reception.calls
    await hotline.asterisk.dies()
    if restarted:
        await hotline.controller_dies()
    await asyncio.sleep(3)
    await hotline.asterisk.starts_again()
    if restarted:
        await hotline.controller_starts()
    await is_closed_by_asterisks_end(hotline, call, state)
    caller.hang_up()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
async def test_a_call_that_ends_because_asterisk_is_stopped_was_not_hung_up_by_its_caller(hotline, state):
    agent = await hotline.agent_signs_in("601") if state in WITH_AGENT else None
    await reach(hotline, state, agent)
    [call] = hotline.reception.calls
    await hotline.asterisk.is_stopped()
    await asyncio.sleep(3)
    await hotline.asterisk.starts_again()
    await is_closed_by_asterisks_end(hotline, call, state)
    await hotline.nothing_is_left()


async def test_a_call_whose_asterisk_was_to_be_stopped_and_stays_is_closed_all_the_same(hotline):
    await reach(hotline, State.PARTY_CASE)
    [channel] = hotline.asterisk.channels.values()
    hotline.asterisk.hangup_requested(channel, SHUTDOWN, soft=True)
    hotline.asterisk.hang_up(channel)
    assert (await hotline.ending(within_s=60)).outcome == "left_in_menu"


async def test_a_caller_without_a_number_is_lost_but_cannot_be_called_back(hotline):
    caller = await hotline.rings(from_="anonymous")
    await caller.answered()
    await hotline.asterisk.dies()
    await asyncio.sleep(3)
    await hotline.asterisk.starts_again()
    assert (await hotline.ending(within_s=20)).outcome == "lost"
    assert await callbacks(hotline) == []


async def test_the_hotline_serves_on_after_asterisk_was_restarted(hotline):
    agent = await hotline.agent_signs_in("601")
    _, offer = await reach(hotline, State.TALKING, agent, from_=LAWYER)
    await hotline.asterisk.dies()
    await asyncio.sleep(3)
    await hotline.asterisk.starts_again()
    offer.hang_up()  # the phone's own end of the dead call
    await hotline.duty_becomes("601", "idle", within_s=60)
    caller, _ = await reach(hotline, State.TALKING, agent)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_a_call_is_not_given_up_before_asterisk_is_back_however_long_that_takes(hotline):
    await reach(hotline, State.PARTY_CASE)
    await hotline.asterisk.dies()
    await asyncio.sleep(300)
    assert await hotline.ask(lambda s: s.scalars(select(models.Ending)).all()) == []
    await hotline.asterisk.starts_again()
    assert (await hotline.ending(within_s=20)).outcome == "lost"
    assert await callbacks(hotline) == [(PARTY, "lost")]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
async def test_a_call_outlives_an_asterisk_that_stood_still(hotline, state):
    agent = await hotline.agent_signs_in("601") if state in WITH_AGENT else None
    caller, _ = await reach(hotline, state, agent)
    hotline.asterisk.freezes()
    await asyncio.sleep(8)
    hotline.asterisk.thaws()
    await asyncio.sleep(20)
    caller.hang_up()
    ending = await hotline.ending(within_s=30)
    assert ending.outcome in ("handled", "abandoned", "left_in_menu")
    await hotline.nothing_is_left()
