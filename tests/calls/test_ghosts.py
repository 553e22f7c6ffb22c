"""The regular look: what belongs to no call is ended, who is held for nothing is freed, what is stuck goes on.

And what only looks like it, because it comes or goes in this moment, is left alone.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.ari.client import Snapshot
from ari_app.ari.events import Application, Bridge, Channel
from ari_app.call import Call
from ari_app.desk import Duty
from ari_app.flow.duty import News, What
from ari_app.flow.sop import Heard, State
from ari_app.reconcile import NO_GHOSTS, Ghosts, ghosts
from ari_app.store import models
from tests.calls.house import BEGAN, LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import WITH_AGENT, reach
from tests.calls.test_broken import BreakableHouse, soon

CALL, OTHER = "demo-1.1", "demo-1.2"
TRUNK, PHONE = "PJSIP/trunk-00000001", "PJSIP/601-00000002"


# ---------------------------------------------------------------- one snapshot against the calls there are


def snapshot(
    *channels: tuple[str, str], ours: tuple[str, ...] | None = None, bridges: tuple[str, ...] = ()
) -> Snapshot:
    """Channels by id and name; `ours`: ids of those that are with our application (None: all)."""
    ids = tuple(id for id, _ in channels) if ours is None else ours
    return Snapshot(
        Application(name="sanling", channel_ids=ids),
        tuple(Channel(id=id, name=name) for id, name in channels),
        tuple(Bridge(id=id) for id in bridges),
    )


def found(callers: str = "", legs: str = "", bridges: str = "") -> Ghosts:
    return Ghosts(*(frozenset(ids.split()) for ids in (callers, legs, bridges)))


WHOLE_CALL = ((CALL, TRUNK), (f"{CALL}~offer-1", PHONE))
BRIDGE = f"{CALL}~bridge-1"


@pytest.mark.parametrize(
    ("now", "owners", "expected"),
    [
        (snapshot(), [CALL], NO_GHOSTS),
        (snapshot(*WHOLE_CALL, bridges=(BRIDGE,)), [CALL], NO_GHOSTS),
        (snapshot(*WHOLE_CALL, bridges=(BRIDGE,)), [], found(CALL, f"{CALL}~offer-1", BRIDGE)),
        (snapshot(*WHOLE_CALL, (OTHER, TRUNK), bridges=(BRIDGE,)), [CALL], found(OTHER)),
        (snapshot(*WHOLE_CALL[1:], bridges=(BRIDGE,)), [OTHER], found("", f"{CALL}~offer-1", BRIDGE)),
        (snapshot((f"{CALL};2", "Local/s@x-00000001;2")), [CALL], NO_GHOSTS),
    ],
    ids=["nothing", "a whole call", "nobody's", "one of two", "its caller gone", "the half of a Local channel"],
)  # fmt: skip
def test_what_belongs_to_no_call_is_found(now, owners, expected):
    assert ghosts(now, owners) == expected


def test_an_agents_phone_that_dialled_a_feature_code_is_a_call_of_its_own_and_never_a_caller():
    assert ghosts(snapshot((OTHER, PHONE)), [OTHER]) == NO_GHOSTS
    assert ghosts(snapshot((OTHER, PHONE)), []) == found("", OTHER)


def test_what_is_not_with_our_application_is_left_alone():
    others = (("other-1.1", "PJSIP/carrier-00000003"), ("other-1.1~offer-1", PHONE), (CALL, TRUNK))
    assert ghosts(snapshot(*others, ours=()), []) == NO_GHOSTS
    assert ghosts(snapshot(*others, ours=(CALL,)), [CALL]) == NO_GHOSTS
    assert ghosts(snapshot(*others, bridges=("2fd2a8a0-confbridge", "other-1.1")), [CALL, "other-1.1"]) == NO_GHOSTS


def test_what_is_subscribed_to_and_is_not_there_any_more_is_no_ghost():
    assert ghosts(snapshot(ours=(CALL, f"{CALL}~offer-1")), []) == NO_GHOSTS


def test_only_what_was_one_before_is_one():
    before, now = (
        found(f"{CALL} {OTHER}", "a~offer-1", "a~bridge-1"),
        found(OTHER, "a~offer-2", "a~bridge-1 b~bridge-1"),
    )
    assert now.both(before) == found(OTHER, "", "a~bridge-1")
    assert now.both(NO_GHOSTS) == NO_GHOSTS


# ---------------------------------------------------------------- scripts


@pytest.fixture
def hotline(tmp_path: Path) -> BreakableHouse:
    return BreakableHouse(tmp_path)


def count(hotline: BreakableHouse, kind: str) -> float:
    return hotline.registry.get_sample_value("sanling_ghosts_total", {"kind": kind})


def counts(hotline: BreakableHouse) -> dict[str, float]:
    """Of ghosts found, by kind, without those of which there were none."""
    return {kind: n for kind in ("agent", "bridge", "caller", "leg") if (n := count(hotline, kind))}


LAST_ASKED = "asterisk/info"
"""What a look asks last of Asterisk."""


async def looks(hotline: FakeHouse, times: int = 1) -> None:
    """Until so many looks around are over."""

    def so_far() -> int:
        return sum(one.uri == LAST_ASKED for one in hotline.asterisk.requests)

    wanted = so_far() + times
    await soon(lambda: so_far() >= wanted, within_s=times * 10.0 + 4.0)
    await asyncio.sleep(0.05)


async def forgotten(hotline: BreakableHouse, caller: Any) -> None:
    """The call's task goes, and all that it made stays: nobody serves it, and nobody knows."""
    id = caller.channel.id
    [serving] = [task for task in asyncio.all_tasks() if task.get_name() == f"call {id}" and _is_ours(task)]
    serving.cancel()
    await soon(lambda: id not in hotline.reception.calls)


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """The fake Asterisk has a task of that name too."""
    return "Reception" in task.get_coro().__qualname__


async def test_a_caller_nobody_serves_is_sent_to_the_fallback_after_two_looks(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    neighbour, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    await forgotten(hotline, caller)
    await looks(hotline)
    assert not hotline.asterisk.fallbacks
    assert counts(hotline) == {}
    await looks(hotline)
    assert hotline.asterisk.fallbacks == [caller.channel.id]
    assert counts(hotline) == {"caller": 1.0}
    await caller.hears("fallback-sorry")
    await looks(hotline, 2)
    assert counts(hotline) == {"caller": 1.0}, "once"
    assert await neighbour.hears("hold-music", from_s=0.0)
    for one in (caller, neighbour):
        one.hang_up()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


async def test_an_agents_leg_and_a_bridge_left_behind_are_ended_and_the_agent_is_free(hotline):
    agent, second = [await hotline.agent_signs_in(number) for number in ("601", "602")]
    caller, offer = await reach(hotline, State.TALKING, agent)
    neighbour, talk = await reach(hotline, State.TALKING, second, from_=LAWYER)
    await forgotten(hotline, caller)
    caller.hang_up()
    await caller.ended()
    await looks(hotline)
    assert offer.ended_at is None
    await looks(hotline)
    await offer.ended(1)
    assert counts(hotline) == {"bridge": 1.0, "leg": 1.0}
    assert await hotline.duty("601") == "talking", "not offered a call while the phone is busy"
    await looks(hotline)
    assert counts(hotline) == {"agent": 1.0, "bridge": 1.0, "leg": 1.0}
    assert await hotline.duty("601") == "idle"
    assert await hotline.duty("602") == "talking"
    await talk.keys("*6")
    await neighbour.hears("closing")
    await neighbour.ended()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


@pytest.mark.parametrize("duty", [Duty.RESERVED, Duty.TALKING])
async def test_an_agent_who_is_held_for_a_call_that_is_over_is_free_after_a_look(hotline, duty):
    first, second = [await hotline.agent_signs_in(number) for number in ("601", "602")]
    caller, _ = await reach(hotline, State.TALKING, first)
    for what in (What.IS_OFFERED, What.JOINS)[: 2 if duty is Duty.TALKING else 1]:
        await hotline.desk._hears("602", News(what, hotline.desk._clock(), "demo-1.99"))
    waiting, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    await looks(hotline)
    assert counts(hotline) == {"agent": 1.0}
    assert await hotline.duty("601") == "talking"
    assert (await second.rings(1)).number == LAWYER
    for one in (caller, waiting):
        one.hang_up()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


async def test_nothing_is_found_in_a_house_full_of_calls(hotline):
    agents = [await hotline.agent_signs_in(number) for number in ("601", "602")]
    callers = [(await reach(hotline, State.TALKING, agents[0]))[0]]
    callers.append((await reach(hotline, State.OFFERING, agents[1], from_=LAWYER))[0])
    callers.append((await reach(hotline, State.WAITING, from_=STRANGER))[0])
    callers.append((await reach(hotline, State.LAWYER_FIRM, from_=STRANGER))[0])
    await looks(hotline, 4)
    assert counts(hotline) == {}
    assert all(caller.ended_at is None for caller in callers)
    assert not hotline.asterisk.fallbacks
    for caller in callers:
        caller.hang_up()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


async def test_calls_taken_up_are_counted_and_are_no_ghosts(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.TALKING, agent)
    other, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    await hotline.controller_dies()
    await hotline.controller_starts()
    await looks(hotline, 3)
    assert hotline.registry.get_sample_value("sanling_calls_adopted_total") == 2.0
    assert counts(hotline) == {}
    for one in (caller, other):
        one.hang_up()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- what comes in the moment of a look

ASKED = [r"^applications/", r"^channels$", r"^bridges$", r"^asterisk/info$"]
"""What a look asks, in order."""


async def in_the_middle_of_a_look(hotline: BreakableHouse, late: str) -> None:
    hotline.asterisk.delays_next("GET", late, 3.0)
    seen = len(hotline.asterisk.requests)
    await soon(lambda: any(re.search(late, one.uri) for one in hotline.asterisk.requests[seen:]), within_s=12)
    await asyncio.sleep(0.1)


@pytest.mark.parametrize("late", ASKED)
async def test_a_call_that_arrives_during_a_look_is_no_ghost(hotline, late):
    await in_the_middle_of_a_look(hotline, late)
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await caller.hears("ask-role", within_s=20)
    await looks(hotline)
    assert caller.ended_at is None
    assert counts(hotline) == {}
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("late", ASKED)
async def test_an_offer_that_is_made_during_a_look_is_not_lost(hotline, late):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.ASKING_ROLE)
    await in_the_middle_of_a_look(hotline, late)
    await caller.keys("0")
    offer = await agent.rings(5)
    await asyncio.sleep(5)
    await offer.picks_up()
    await caller.hears("opening-agent-601")
    assert [event for _, event in await hotline.offers()] == ["offered", "answered", "joined"]
    assert counts(hotline) == {}
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_an_agent_who_keys_a_feature_code_for_long_is_left_alone(hotline):
    phone = await hotline.phone("601")
    signing = await phone.dials("*11")
    await signing.answered()
    await signing.hears("agent-enter-pin")
    await looks(hotline, 2)
    await signing.hears("agent-enter-pin", within_s=30)
    await signing.keys(f"{hotline.access['601'].pin}#")
    await signing.hears("agent-signed-in")
    await signing.ended()
    assert counts(hotline) == {}
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- a call with nothing to wait for

STUCK_IN = {
    State.RINGING: Heard.RANG_ENOUGH,
    State.GREETING: Heard.PROMPT_ENDED,
    State.ASKING_ROLE: Heard.NO_ENTRY,
    State.PARTY_CASE: Heard.NO_ENTRY,
    State.FETCHING_CONTEXT: Heard.CONTEXT_FAILED,
    State.WAITING: Heard.PROMPT_ENDED,
    State.OFFERING: Heard.OFFER_LOST,
    State.WHISPERING: Heard.WHISPER_ENDED,
    State.CLOSING: Heard.PROMPT_ENDED,
    State.LEAVING: Heard.FIVE_SECONDS_PASSED,
}
"""CHECKING waits for nothing but the database, and a talk for nothing at all."""


def gets_stuck(call: Call) -> None:
    """What it waits for was lost: the end of what is said, every deadline, the return from the dialplan."""
    call.voice.speech = call.voice.whispered = None
    call.voice.music = False
    call._context_came = lambda channel: None
    call.line.clear_all()


async def goes_on_after_a_look(hotline: FakeHouse, caller: Any, heard: Heard) -> None:
    """Not before, and not later."""
    gets_stuck(hotline.reception.calls[caller.channel.id])
    asked = select(models.Transition).where(models.Transition.call_id == caller.channel.id)
    before = len(await hotline.ask(lambda s: s.scalars(asked).all()))
    await looks(hotline)
    looked_at = max(one.at_s for one in hotline.asterisk.requests if one.uri == LAST_ASKED)
    row = (await hotline.ask(lambda s: s.scalars(asked.order_by(models.Transition.n)).all()))[before]
    assert row.heard == heard.name
    assert row.at - BEGAN == pytest.approx(looked_at, abs=0.05)


@pytest.mark.parametrize(("state", "heard"), STUCK_IN.items(), ids=lambda one: one.name)
async def test_a_call_with_nothing_to_wait_for_goes_on_after_a_look(hotline, state, heard):
    agent = await hotline.agent_signs_in("601") if state in WITH_AGENT else None
    await looks(hotline)
    if state is State.FETCHING_CONTEXT:
        hotline.asterisk.agi_s = 0.5
        caller, _ = await reach(hotline, State.PARTY_NAME)
        await caller.keys("99#")
        await hotline.call_is(state)
    else:
        caller, _ = await reach(hotline, state, agent)
    await goes_on_after_a_look(hotline, caller, heard)
    assert counts(hotline) == {}
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("said", [False, True], ids=["while the closing is said", "in the five seconds"])
async def test_a_call_stuck_after_its_ceiling_is_ended_all_the_same(said):
    async with FakeHouse(ending={"call_ceiling_s": 30.0, "warn_before_ceiling_s": 10.0}) as hotline:
        caller, _ = await reach(hotline, State.WAITING)
        await hotline.call_is(State.OVERTIME, within_s=40)
        if said:
            await caller.hears("closing")
            await asyncio.sleep(1)
        await goes_on_after_a_look(hotline, caller, Heard.PROMPT_ENDED)
        await caller.ended(10)
        assert (await hotline.ending()).outcome == "ceiling"
        await hotline.nothing_is_left()
