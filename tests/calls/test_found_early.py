"""An agent is sought, and the phone made ready, while other things are still under way: the words with which the caller
waits, the row that reserves the agent. No phone rings before that row is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from ari_app.call import Resync
from ari_app.flow.duty import Duty
from ari_app.flow.sop import State
from ari_app.store.models import Agent
from tests.calls.house import STRANGER, FakeHouse
from tests.calls.paths import reach

WORDS_LATE_S = 2.0
ROW_LATE_S = 1.5


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def greeted(hotline: FakeHouse) -> Any:
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await asyncio.sleep(0.8)
    return caller


def rows_are_late(hotline: FakeHouse, by_s: float = ROW_LATE_S) -> None:
    """From now on each change of an agent takes so long."""
    change: Callable[..., Awaitable[Any]] = hotline.house.ledger.change

    async def later(work: Any) -> Any:
        await asyncio.sleep(by_s)
        return await change(work)

    hotline.house.ledger.change = later  # type: ignore[method-assign]


def asked(hotline: FakeHouse, since: int = 0) -> list[str]:
    """What Asterisk was asked for, without ids."""
    return [f"{one.method} {one.uri.rpartition('/')[2]}" for one in hotline.asterisk.requests[since:]]


async def test_an_agents_phone_rings_while_asterisk_is_still_asked_for_the_words(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    before = len(hotline.asterisk.requests)
    hotline.asterisk.delays_next("POST", r"/play$", WORDS_LATE_S)
    await caller.keys("0")
    offer = await agent.rings(1.0)
    begun = [one for one in asked(hotline, before) if not one.startswith("DELETE")]
    assert sorted(begun) == ["POST create", "POST dial", "POST play"]
    assert not [one for one in hotline.asterisk.playbacks.values() if "transferring" in one.media], "it is not late"
    await caller.hears("transferring")
    await offer.picks_up()
    await caller.hears("opening-agent-601", partly=True)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_an_agent_who_answers_before_the_words_were_begun_talks_after_them(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    hotline.asterisk.delays_next("POST", r"/play$", WORDS_LATE_S)
    await caller.keys("0")
    await (await agent.rings(1.0)).picks_up()
    await caller.hears("opening-agent-601", partly=True)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_a_caller_who_leaves_before_the_words_were_begun_leaves_nobody_ringing(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    hotline.asterisk.delays_next("POST", r"/play$", WORDS_LATE_S)
    await caller.keys("0")
    offer = await agent.rings(1.0)
    caller.hang_up()
    await offer.ended()
    assert (await hotline.ending()).outcome == "abandoned"
    await hotline.duty_becomes("601", "idle")
    await hotline.nothing_is_left()


async def test_words_that_break_break_the_call_and_not_its_agent(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    hotline.asterisk.delays_next("DELETE", r"^playbacks/", WORDS_LATE_S)
    hotline.asterisk.refuses_next("POST", r"/play$", 500)
    await caller.keys("0")
    offer = await agent.rings(1.0)
    await caller.hears("fallback-sorry")
    await offer.ended()
    await hotline.duty_becomes("601", "idle")
    caller.hang_up()
    assert (await hotline.ending()).outcome == "broken"
    await hotline.nothing_is_left()


async def test_no_phone_rings_before_its_agent_is_reserved_in_the_database(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    rows_are_late(hotline)
    began = asyncio.get_running_loop().time()
    await caller.keys("0")
    offer = await agent.rings()
    assert asyncio.get_running_loop().time() - began >= ROW_LATE_S
    assert await hotline.duty("601") in (Duty.RESERVED, Duty.RINGING)
    await offer.picks_up()
    await caller.hears("opening-agent-601", partly=True)
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_an_agent_who_is_anothers_in_that_moment_is_not_rung_and_the_next_one_is(hotline):
    """As by another hotline on the same database: this desk still believes that 601 is free."""
    first, second = await hotline.agent_signs_in("601"), await hotline.agent_signs_in("602")
    caller = await greeted(hotline)
    await hotline.ask(
        lambda s: (
            s.execute(update(Agent).where(Agent.number == "601").values(state="reserved", call_id="other-9.1")) and None
        )
    )
    before = len(hotline.asterisk.requests)
    await caller.keys("0")
    offer = await second.rings(3.0)
    await offer.picks_up()
    await caller.hears("opening-agent-602", partly=True)
    made = [one for one in asked(hotline, before) if one in ("POST create", "POST dial")]
    assert made == ["POST create", "POST create", "POST dial"]
    assert first.calls == [call for call in first.calls if not call.incoming], "the phone of 601 rang"
    assert hotline.house.desk.agent("601").call_id == "other-9.1"
    assert await hotline.offers() == [
        ("601", "offered"), ("601", "caller_left"), ("602", "offered"), ("602", "answered"), ("602", "joined"),
    ]  # fmt: skip
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 1.0, ROW_LATE_S, ROW_LATE_S + 0.01])
async def test_a_caller_who_leaves_while_the_agent_is_being_reserved_leaves_the_agent_free(hotline, after_s):
    await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    rows_are_late(hotline)
    await caller.keys("0")
    await asyncio.sleep(after_s)
    caller.hang_up()
    assert (await hotline.ending(within_s=10)).outcome in ("abandoned", "left_in_menu")
    await hotline.duty_becomes("601", "idle", within_s=10)
    await hotline.nothing_is_left()


async def test_no_phone_rings_for_a_caller_who_left_while_the_agent_was_being_reserved(hotline):
    await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    rows_are_late(hotline)
    before = len(hotline.asterisk.requests)
    await caller.keys("0")
    await asyncio.sleep(0.5)
    caller.hang_up()
    await hotline.duty_becomes("601", "idle", within_s=10)
    assert "POST create" in asked(hotline, before)
    assert "POST dial" not in asked(hotline, before)


async def test_no_phone_rings_for_a_caller_who_left_while_the_words_were_asked_for(hotline):
    await hotline.agent_signs_in("601")
    await hotline.house.desk.pause("601")
    caller = await greeted(hotline)
    hotline.asterisk.delays_next("POST", r"/play$", WORDS_LATE_S)
    before = len(hotline.asterisk.requests)
    await caller.keys("0")
    await asyncio.sleep(0.3)
    caller.hang_up()
    await asyncio.sleep(0.2)
    await hotline.house.desk.resume("601")
    await asyncio.sleep(5.0)
    assert "POST dial" not in asked(hotline, before)
    assert await hotline.duty("601") == "idle"


async def test_an_agent_without_a_phone_who_is_anothers_is_not_held_to_have_refused(hotline):
    await hotline.agent_signs_in("601")
    second = await hotline.agent_signs_in("602")
    caller = await greeted(hotline)
    await hotline.ask(
        lambda s: (
            s.execute(update(Agent).where(Agent.number == "601").values(state="reserved", call_id="other-9.1")) and None
        )
    )
    rows_are_late(hotline, 0.2)
    hotline.asterisk.refuses_next("POST", r"channels/create$", 500, "Allocation failed")
    await caller.keys("0")
    await (await second.rings(5.0)).picks_up()
    await caller.hears("opening-agent-602", partly=True)
    assert hotline.registry.get_sample_value("sanling_agent_rona_total", {"agent": "601"}) in (None, 0.0)
    assert hotline.house.desk.agent("601").call_id == "other-9.1"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("late", ["words", "row"])
async def test_a_controller_that_dies_while_the_agent_is_found_leaves_the_caller_served(hotline, late, after_s):
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    if late == "words":
        hotline.asterisk.delays_next("POST", r"/play$", WORDS_LATE_S)
    else:
        rows_are_late(hotline)
    await caller.keys("0")
    await asyncio.sleep(after_s)
    await hotline.controller_dies()
    await asyncio.sleep(1.0)
    hotline.house.ledger.__dict__.pop("change", None)
    await hotline.controller_starts()
    while True:
        offer = await agent.rings(20)
        if not offer.ended_at is not None:
            break
    await offer.picks_up()
    await caller.hears("opening-agent-601", partly=True)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_a_look_around_that_overtakes_the_making_of_a_channel_takes_no_offer_for_lost(hotline):
    """Asterisk answers on several sockets: the list of channels may be told before the channel is made."""
    agent = await hotline.agent_signs_in("601")
    caller = await greeted(hotline)
    hotline.asterisk.delays_next("POST", r"channels/create$", 1.0)
    await caller.keys("0")
    await asyncio.sleep(0.5)
    call = hotline.reception.calls[caller.channel.id]
    now = call.hotline.clock()
    call.inbox.put(Resync({call.id: "Up"}, frozenset({call.id}), {}, at=now))
    offer = await agent.rings(3.0)
    await offer.picks_up()
    await caller.hears("opening-agent-601", partly=True)
    assert [event for _, event in await hotline.offers()] == ["offered", "answered", "joined"]
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_whoever_hangs_up_has_the_next_caller_while_the_end_of_the_talk_is_written_down():
    async with FakeHouse(queue={"wrap_up_s": 0.0}) as hotline:
        agent = await hotline.agent_signs_in("601")
        _, offer = await reach(hotline, State.TALKING, agent)
        waits = await greeted(hotline)
        await waits.keys("0")
        await waits.hears("transferring")
        rows_are_late(hotline)
        before = len(hotline.asterisk.requests)
        offer.hang_up()
        await asyncio.sleep(0.5)
        assert "POST create" in asked(hotline, before)
        assert "POST dial" not in asked(hotline, before)
        await (await agent.rings()).picks_up()
        await waits.hears("opening-agent-601", partly=True)
        waits.hang_up()
