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
from sqlalchemy.orm import Session

from ari_app import orders
from ari_app.ari.client import Snapshot
from ari_app.ari.events import Application, Bridge, Channel
from ari_app.ari.mailboxes import CAPACITY
from ari_app.call import Call
from ari_app.desk import Duty
from ari_app.flow.callbacks import Stage
from ari_app.flow.duty import News, What
from ari_app.flow.sop import Heard, State
from ari_app.reconcile import NO_GHOSTS, Ghosts, ghosts, recordings_left
from ari_app.rules import RuleBook, parse
from ari_app.store import models
from tests.calls.house import BEGAN, LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import WITH_AGENT, reach
from tests.calls.test_broken import BreakableHouse, soon
from tests.calls.test_outbound import RULES, asks_for_callback
from tests.calls.test_outbound import TRUNK as OUTBOUND
from tests.calls.test_outside_hours import PROVES, SHUT
from tests.calls.test_second_line import (
    AGENT_AND_LAWYER,
    ALL_THREE,
    CALLER_AND_AGENT,
    asks_the_lawyer,
    hears_whom,
)

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


def test_a_recording_of_ours_is_left_once_nobody_serves_its_call():
    stored = [f"{CALL}~message-9", f"{OTHER}~message-3", "other-1.1~message-2", "demo-1.7", "voicemail"]
    assert recordings_left(stored, [CALL], "demo-") == {f"{OTHER}~message-3"}
    assert recordings_left(stored, [CALL, OTHER], "demo-") == frozenset()


# ---------------------------------------------------------------- scripts


@pytest.fixture
def hotline(tmp_path: Path) -> BreakableHouse:
    return BreakableHouse(tmp_path)


def count(hotline: BreakableHouse, kind: str) -> float:
    return hotline.registry.get_sample_value("sanling_ghosts_total", {"kind": kind})


def counts(hotline: BreakableHouse) -> dict[str, float]:
    """Of ghosts found, by kind, without those of which there were none."""
    return {kind: n for kind in ("agent", "bridge", "caller", "leg", "recording") if (n := count(hotline, kind))}


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


# ---------------------------------------------------------------- a talk that was torn apart


def torn(hotline: BreakableHouse, how: str, caller: Any, agent: Any) -> None:
    """By somebody at Asterisk's command line, say; or by a fault of it."""
    [bridge] = hotline.asterisk.bridges.values()
    if how == "the bridge is destroyed":
        hotline.asterisk.destroy_bridge(bridge)
    else:
        kicked = {"the caller": caller, "the agent": agent}[how.removesuffix(" is kicked")]
        hotline.asterisk.leave(bridge, kicked.channel)


AT_ONCE_S = 1.2
TORN = ["the bridge is destroyed", "the caller is kicked", "the agent is kicked"]


@pytest.mark.parametrize("how", TORN)
async def test_two_who_talk_and_are_torn_apart_hear_each_other_again_at_once(hotline, how):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await looks(hotline)
    torn(hotline, how, caller, offer)
    await asyncio.sleep(AT_ONCE_S)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    await offer.keys("*5")
    await caller.hears("disclaimer")
    await offer.keys("*6")
    await caller.hears("closing")
    await caller.ended()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


@pytest.mark.parametrize("how", TORN)
async def test_two_who_were_torn_apart_unheard_hear_each_other_after_a_look(hotline, how):
    """No event comes of it, as when Asterisk drops one."""
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    hotline.asterisk.allowed -= {"ChannelLeftBridge", "BridgeDestroyed"}
    await looks(hotline)
    torn(hotline, how, caller, offer)
    await asyncio.sleep(AT_ONCE_S)
    assert await hears_whom(caller, offer) == set()
    await looks(hotline)
    await asyncio.sleep(AT_ONCE_S)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


@pytest.mark.parametrize("how", TORN)
async def test_two_who_were_torn_apart_while_the_link_was_down_hear_each_other_when_it_is_back(hotline, how):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    hotline.asterisk.drop_link()
    torn(hotline, how, caller, offer)
    await asyncio.sleep(1)
    hotline.asterisk.restore_link()
    await asyncio.sleep(AT_ONCE_S)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


@pytest.mark.parametrize(
    ("keys", "together"),
    [("", AGENT_AND_LAWYER), ("*2", CALLER_AND_AGENT), ("*3", ALL_THREE), ("*0", CALLER_AND_AGENT)],
    ids=["consulting", "swapped", "all three", "back"],
)
async def test_a_consultation_that_was_torn_apart_is_as_it_was(hotline, keys, together):
    caller, agent, lawyer, _ = await asks_the_lawyer(hotline)
    await agent.keys(keys)
    await asyncio.sleep(0.5)
    torn(hotline, "the bridge is destroyed", caller, agent)
    await asyncio.sleep(AT_ONCE_S)
    assert await hears_whom(caller, agent, lawyer) == together
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_who_hears_music_while_the_bridge_is_destroyed_comes_back_to_the_agent(hotline):
    """Nobody is in it, so nobody is told."""
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    await caller.hears("hold-music")
    torn(hotline, "the bridge is destroyed", caller, offer)
    await looks(hotline)
    await asyncio.sleep(AT_ONCE_S)
    await offer.keys("*0")
    await hotline.call_is(State.TALKING)
    await asyncio.sleep(0.1)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_disclaimer_that_broke_off_with_its_bridge_is_not_held_for_heard(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*5")
    await asyncio.sleep(1)
    await offer.keys("*6")  # waits for its end
    torn(hotline, "the bridge is destroyed", caller, offer)
    await caller.hears("ask-rating")
    asked = select(models.PromptHeard).where(models.PromptHeard.prompt == "disclaimer")
    [disclaimer] = await hotline.ask(lambda session: session.scalars(asked).all())
    assert not disclaimer.whole
    assert disclaimer.seconds == pytest.approx(2.4, abs=0.4)
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("state", [State.RATING, State.CLOSING], ids=lambda state: state.name)
async def test_who_is_spoken_to_in_a_bridge_that_is_destroyed_hears_the_question_again(hotline, state):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, state, agent)
    await asyncio.sleep(0.5)
    [bridge] = hotline.asterisk.bridges.values()
    hotline.asterisk.destroy_bridge(bridge)
    if state is State.RATING:
        await caller.hears("ask-rating")
        await caller.keys("5")
    await caller.hears("closing")
    await caller.ended(10)
    assert (await hotline.ending()).hung_up_by == "hotline"
    await hotline.nothing_is_left()


async def test_who_is_waited_for_has_the_same_time_to_key_though_the_bridge_is_destroyed(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.RATING, agent)
    asked = await caller.hears("ask-rating")
    [bridge] = hotline.asterisk.bridges.values()
    hotline.asterisk.destroy_bridge(bridge)
    await asyncio.sleep(2)
    await caller.keys("5")
    await caller.hears("closing")
    assert not [sound for sound in caller.ear.sounds if sound.what == "interrupted"]
    assert asked.whole
    await caller.ended(10)
    await hotline.nothing_is_left()


async def test_nobody_is_torn_apart_whom_we_move_ourselves_or_who_hangs_up(hotline, caplog):
    caller, agent, lawyer, _ = await asks_the_lawyer(hotline)
    for keys in ("*2", "*2", "*3", "*2", "*2", "*3"):
        await agent.keys(keys)
    await asyncio.sleep(1)
    asked = len(hotline.asterisk.requests)
    await looks(hotline, 2)
    agent.hang_up()
    await asyncio.sleep(1)
    lawyer.hang_up()
    await caller.hears("ask-rating")
    caller.hang_up()
    await hotline.ending()
    assert not [one for one in hotline.asterisk.requests[asked:] if one.method == "GET" and "bridges/" in one.uri]
    assert "was put out of it" not in caplog.text
    heard = await hotline.ask(lambda session: session.scalars(select(models.Transition.heard)).all())
    assert Heard.RESUMED.name not in heard
    await hotline.nothing_is_left()


@pytest.mark.parametrize("who", ["the agent", "the caller"])
async def test_whoever_is_long_in_hanging_up_has_torn_nothing_apart(hotline, who, caplog):
    """A loaded Asterisk takes its time from the hang-up to the channel's end."""
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    leaves = offer if who == "the agent" else caller
    hotline.asterisk.hangup_requested(leaves.channel, 16)
    hotline.asterisk.leave(leaves.channel.bridge, leaves.channel)
    await looks(hotline, 2)
    assert "its bridge is gone" not in caplog.text
    leaves.hang_up()
    if who == "the agent":
        await caller.hears("ask-rating")
        caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- a message in which the call broke


SPEAKS_S = 4.0


@pytest.fixture
def shut(tmp_path: Path) -> BreakableHouse:
    hotline = BreakableHouse(tmp_path)
    hotline.rules = RuleBook(parse(SHUT))
    return hotline


def breaks(hotline: BreakableHouse, caller: Any) -> None:
    """The call's task cannot go on, and gives it up."""
    call = hotline.reception.calls[caller.channel.id]
    for _ in range(CAPACITY + 1):
        call.inbox.put(None)


async def leaves_a_message(hotline: BreakableHouse, caller: Any, keys: str = "0") -> None:
    """Asked for one by `keys`, the caller has begun to speak."""
    await caller.answered()
    await caller.keys(keys)
    await caller.hears("ask-after-hours", within_s=60)
    await caller.keys("2")
    await caller.hears("beep")
    await caller.says([0.0] * int(8000 * SPEAKS_S))


async def messages(hotline: BreakableHouse) -> list[tuple[orders.Order, models.Segment]]:
    found = await hotline.ask(orders.orders)
    return [(order, order.message) for order in found if order.message is not None]


async def is_kept(hotline: BreakableHouse, call_id: str) -> None:
    """The recording of the whole call is in a store."""

    def keep(session: Session) -> None:
        session.add(
            models.Recording(
                call_id=call_id, store="local", at=BEGAN, path="x", sha256="0" * 64, seconds=1.0, channels=2, bytes=1
            )
        )

    await hotline.ask(keep)


async def test_a_message_in_which_the_call_broke_is_entered_and_kept_until_the_calls_recording_is(shut):
    caller = await shut.rings(from_=LAWYER)
    await leaves_a_message(shut, caller, "1154#954#0417#12")
    id = caller.channel.id
    breaks(shut, caller)
    await caller.hears("fallback-sorry", within_s=2)
    caller.hang_up()
    [recording] = shut.asterisk.stored_recordings
    assert await messages(shut) == []
    await looks(shut, 3)
    [(order, message)] = await messages(shut)
    assert (order.call_id, message.call_id, f"{id}~message-{message.n}") == (id, id, recording)
    assert order.must_answer == "lawyer"
    assert message.seconds == pytest.approx(SPEAKS_S, abs=0.5)
    assert shut.asterisk.stored_recordings == {recording}, "the call's own is not in a store yet"
    await is_kept(shut, id)
    await looks(shut, 2)
    assert shut.asterisk.stored_recordings == set()
    assert len(await messages(shut)) == 1, "once"
    assert counts(shut) == {"recording": 1.0}
    await shut.nothing_is_left()


async def test_a_message_that_was_taken_and_not_entered_is_entered(shut):
    caller = await shut.rings(from_=PARTY)
    await leaves_a_message(shut, caller, f"{PROVES}2")
    call = shut.reception.calls[caller.channel.id]

    async def take(*message: object) -> None:
        raise ZeroDivisionError

    call.selfservice.take = take
    await caller.keys("#")
    await caller.hears("fallback-sorry")
    caller.hang_up()
    await looks(shut, 3)
    [(order, message)] = await messages(shut)
    assert message.seconds == pytest.approx(SPEAKS_S, abs=0.5)
    assert (order.must_answer, order.need) == ("party", "material")
    assert (await shut.ask(lambda s: s.get(models.WorkOrder, order.id))).party_id == 1
    assert len(shut.asterisk.stored_recordings) == 1
    await shut.nothing_is_left()


@pytest.mark.parametrize("spoken", [True, False], ids=["entered", "empty"])
async def test_what_was_to_be_thrown_away_is_as_soon_as_nothing_can_be_lost(shut, spoken):
    caller = await shut.rings(from_=STRANGER)
    for _ in range(9):
        shut.asterisk.refuses_next("DELETE", r"^recordings/", 500)
    if spoken:
        await leaves_a_message(shut, caller)
        await caller.keys("#")
        await caller.hears("message-noted")
    else:
        await caller.answered()
        await caller.keys("0")
        await caller.hears("ask-after-hours", within_s=60)
        await caller.keys("2")
        await caller.hears("message-empty", within_s=60)
    caller.hang_up()
    await shut.ending()
    shut.asterisk.refuses_nothing_more()
    [left] = shut.asterisk.stored_recordings
    await looks(shut, 3)
    assert shut.asterisk.stored_recordings == {left}
    await is_kept(shut, caller.channel.id)
    await looks(shut, 2)
    assert shut.asterisk.stored_recordings == set()
    assert len(await messages(shut)) == spoken
    assert counts(shut) == {"recording": 1.0}
    await shut.nothing_is_left()


async def test_a_message_that_is_being_left_and_recordings_of_others_are_left_alone(shut):
    caller = await shut.rings(from_=STRANGER)
    await leaves_a_message(shut, caller)
    others = {"other-1.1~message-3", "demo-1.1", "voicemail"}
    shut.asterisk.stored_recordings |= others
    talking = asyncio.create_task(caller.says([0.0] * 8000 * 60))
    await looks(shut)
    assert shut.asterisk.stored_recordings == others
    assert await messages(shut) == []
    await caller.hears("message-noted", within_s=20)
    talking.cancel()
    caller.hang_up()
    await shut.ending()
    await looks(shut, 3)
    assert shut.asterisk.stored_recordings == others
    assert len(await messages(shut)) == 1
    assert counts(shut) == {}


async def test_a_recording_of_a_call_that_nobody_knows_is_told_of_once_and_kept(shut):
    shut.asterisk.stored_recordings.add(name := f"{OTHER}~message-3")
    await looks(shut)
    assert counts(shut) == {}
    await looks(shut, 3)
    assert counts(shut) == {"recording": 1.0}
    assert shut.asterisk.stored_recordings == {name}


# ---------------------------------------------------------------- a call that nobody closed


def cannot_close(call: Call) -> None:
    def breaks() -> None:
        raise ZeroDivisionError

    call._write_ending = breaks


async def test_a_call_that_breaks_at_its_end_is_closed_at_the_next_look(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    cannot_close(hotline.reception.calls[caller.channel.id])
    caller.hang_up()
    await soon(lambda: not hotline.reception.calls)
    assert await hotline.endings() == {}
    await looks(hotline)
    assert [one.outcome for one in (await hotline.endings()).values()] == ["broken"]
    assert hotline.registry.get_sample_value("sanling_calls_ended_total", {"outcome": "broken"}) == 1.0
    await looks(hotline, 2)
    assert hotline.registry.get_sample_value("sanling_calls_ended_total", {"outcome": "broken"}) == 1.0
    await hotline.controller_dies()
    await hotline.controller_starts()
    assert not hotline.reception.calls
    await hotline.nothing_is_left()


async def test_a_call_that_nobody_serves_is_closed_once_its_caller_is_gone(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    await forgotten(hotline, caller)
    await looks(hotline, 2)
    await caller.hears("fallback-leave-number")
    assert await hotline.endings() == {}
    caller.hang_up()
    await looks(hotline, 2)
    assert {id: one.outcome for id, one in (await hotline.endings()).items()} == {caller.channel.id: "broken"}
    await hotline.nothing_is_left()


async def test_calls_in_progress_are_not_closed(hotline):
    agent = await hotline.agent_signs_in("601")
    talking, _ = await reach(hotline, State.TALKING, agent)
    waiting, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    await looks(hotline, 2)
    await hotline.controller_dies()
    await hotline.controller_starts()
    await looks(hotline, 2)
    assert await hotline.endings() == {}
    for one in (talking, waiting):
        one.hang_up()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


async def test_whom_we_called_in_a_call_that_broke_at_its_end_is_called_again():
    async with FakeHouse(trunk=OUTBOUND, rules=RULES) as hotline:
        person = hotline.asterisk.phones.person(STRANGER)
        await asks_for_callback(hotline, STRANGER)
        agent = await hotline.agent_signs_in("601")
        offer = await agent.rings()
        await offer.picks_up()
        ringing = await person.rings()
        [call] = hotline.reception.calls.values()
        cannot_close(call)
        ringing.refuses(486)
        await offer.ended(timeout_s=30)
        [wish] = hotline.house.callbacks.all()
        assert wish.stage is Stage.CALLING
        await looks(hotline)
        [wish] = hotline.house.callbacks.all()
        assert (wish.stage, wish.attempts) == (Stage.WAITING, 1)
        ended = {"purpose": "callback", "outcome": "broken"}
        assert hotline.registry.get_sample_value("sanling_calls_placed_total", ended) == 1.0
