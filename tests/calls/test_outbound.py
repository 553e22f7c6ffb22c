"""Calls that we place, told as calls: callbacks with the place kept, agents' calls in a case, and how they fail."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.callbacks import CallIds
from ari_app.callbacks import read as open_callbacks
from ari_app.flow.callbacks import Happened, Stage
from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import LANDLINE, LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import reach

TRUNK = {"outbound": "127.0.0.2:5060"}
OTHER = "15400007777"


RULES = "[callbacks]\nretry_after_s = [60, 120]\n"


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse(trunk=TRUNK, rules=RULES)


async def asks_for_callback(hotline: FakeHouse, from_: str, *, window: str = "1") -> Any:
    """Waits, presses 1, confirms the number, chooses a time, hangs up."""
    caller, _ = await reach(hotline, State.WAITING, from_=from_)
    await caller.keys("1")
    await caller.hears("callback-number-is")
    await caller.hears("callback-confirm")
    await caller.keys("1")
    await caller.hears("callback-ask-window")
    await caller.keys(window)
    await caller.hears("callback-noted")
    caller.hang_up()
    await caller.ended()
    return caller


async def events(hotline: FakeHouse) -> list[str]:
    """What became of the callbacks, in order."""
    return await hotline.ask(
        lambda s: [e.event for e in s.scalars(select(models.CallbackEvent).order_by(models.CallbackEvent.n))]
    )


async def came_to(hotline: FakeHouse, *last: str) -> None:
    """The callbacks' rows end so, now or soon."""
    for _ in range(30):
        if (await events(hotline))[-len(last) :] == [*last]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{await events(hotline)} does not end with {last}")


async def callbacks(hotline: FakeHouse) -> list[models.Callback]:
    return await hotline.ask(lambda s: list(s.scalars(select(models.Callback).order_by(models.Callback.at))))


async def test_a_callback_keeps_the_place_reads_the_number_back_and_is_served(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    caller, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    joined = hotline.house.clock()
    await asyncio.sleep(20)
    await caller.keys("1")
    read_back = [await caller.hears(f"digits-{group}") for group in ("154", "00", "00", "99", "99")]
    assert all(a.at_s < b.at_s for a, b in pairwise(read_back))
    await caller.keys("1")
    await caller.keys("1")
    await caller.hears("callback-noted")
    await caller.hears("closing")
    await caller.ended()
    assert (await hotline.ending()).outcome == "callback"
    (asked,) = await callbacks(hotline)
    assert asked.number == STRANGER
    assert asked.since == pytest.approx(joined, abs=1.0)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    assert offer.display == "回电 身份未知"
    assert not person.calls, "the agent is there first"
    await offer.picks_up()
    await offer.hears("whisper-callback-unknown-none")
    ringing = await person.rings()
    assert ringing.number == "12368"
    await asyncio.sleep(2)
    assert offer.ear.sounds[-1].what == "ring"
    assert offer.ear.sounds[-1].lasts
    await ringing.picks_up()
    await ringing.hears("recording-notice")
    await ringing.hears("opening-agent-601")
    await offer.says("speech")
    assert any(s.what == "speech" for s in ringing.ear.sounds)
    await offer.keys("*6")
    await ringing.hears("closing")
    await ringing.ended()
    ending = await hotline.ending()
    assert (ending.outcome, ending.agent) == ("handled", "601")
    assert await events(hotline) == ["returned", "left", "called", "served"]
    await hotline.duty_becomes("601", "wrap_up")
    assert hotline.asterisk.recorded[ending.call_id] > 5.0
    await hotline.nothing_is_left()


async def the_other_waits(hotline: FakeHouse, agent: Any, person: Any) -> tuple[Any, Any]:
    """An open callback whose agent has picked up: the agent's call and the person's, which rings."""
    offer = await agent.rings()
    await offer.picks_up()
    return offer, await person.rings()


@pytest.mark.parametrize(
    ("code", "prompt", "why"),
    [(486, "outbound-busy", "busy"), (603, "outbound-refused", "refused"), (480, "outbound-no-answer", "no_answer"),
     (404, "outbound-unreachable", "unreachable")],
)  # fmt: skip
async def test_who_is_not_reached_is_tried_again_later_and_the_agent_is_free(hotline, code, prompt, why):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, agent, person)
    ringing.refuses(code)
    await offer.hears(prompt)
    if code == 486:
        assert any(sound.what == "busy" for sound in offer.ear.sounds)
    await offer.ended()
    await hotline.duty_becomes("601", "idle")
    rows = await hotline.ask(lambda s: list(s.scalars(select(models.CallbackEvent))))
    assert [(row.event, row.why) for row in rows[-1:]] == [("missed", why)]
    missed_at = hotline.house.clock()
    offer, ringing = await asyncio.wait_for(the_other_waits_long(agent, person), 200)
    assert hotline.house.clock() - missed_at == pytest.approx(60, abs=10)
    await ringing.picks_up()
    await ringing.hears("opening-agent-601")
    ringing.hang_up()
    await offer.ended()
    await came_to(hotline, "served")
    await hotline.nothing_is_left()


@pytest.mark.parametrize(("status", "reason"), [(404, "Channel not found"), (500, "Allocation failed")])
async def test_an_outside_leg_that_is_gone_before_it_is_dialled_is_told_to_the_agent(hotline, status, reason):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    hotline.asterisk.refuses_next("POST", r"^channels/[^/~]+/dial$", status, reason)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    await offer.picks_up()
    await offer.hears("outbound-unreachable")
    await offer.ended()
    assert not person.calls
    await came_to(hotline, "missed")
    await hotline.duty_becomes("601", "idle")
    await hotline.nothing_is_left()


async def the_other_waits_long(agent: Any, person: Any) -> tuple[Any, Any]:
    offer = await agent.rings(timeout_s=200)
    await offer.picks_up()
    return offer, await person.rings()


async def test_who_lets_it_ring_is_let_go_after_the_rules_time_and_given_up_after_the_last_attempt():
    async with FakeHouse(trunk=TRUNK, rules=RULES + "attempts = 2\nring_s = 20\n") as hotline:
        person = hotline.asterisk.phones.person(STRANGER)
        await asks_for_callback(hotline, STRANGER)
        agent = await hotline.agent_signs_in("601")
        for _ in range(2):
            offer, ringing = await the_other_waits_long(agent, person)
            began = asyncio.get_running_loop().time()
            await ringing.ended(timeout_s=30)
            assert asyncio.get_running_loop().time() - began == pytest.approx(20, abs=1)
            await offer.hears("outbound-no-answer")
            await offer.ended()
        await came_to(hotline, "called", "given_up")
        await asyncio.sleep(400)
        assert len(person.calls) == 2
        await hotline.nothing_is_left()


async def test_the_agent_hears_what_the_network_plays_and_no_tone_of_ours(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, agent, person)
    await ringing.announces("the-number-is-busy", 3.0)
    ringing.refuses(486)
    await offer.hears("outbound-busy")
    heard = [sound.what for sound in offer.ear.sounds]
    assert "the-number-is-busy" in heard
    assert "busy" not in heard
    assert all(not s.lasts for s in offer.ear.sounds if s.what == "ring")


@pytest.mark.parametrize("how", ["refuses", "lets it ring", "hangs up in the whisper"])
async def test_an_agent_who_does_not_take_it_is_paused_and_the_next_one_serves_it(hotline, how):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    first = await hotline.agent_signs_in("601")
    offer = await first.rings()
    if how == "refuses":
        offer.refuses(603)
    elif how != "lets it ring":
        await offer.picks_up()
        await asyncio.sleep(0.5)
        offer.hang_up()
    await hotline.duty_becomes("601", "no_answer", within_s=20)
    assert not person.calls
    second = await hotline.agent_signs_in("602")
    offer, ringing = await the_other_waits(hotline, second, person)
    await ringing.picks_up()
    await ringing.hears("opening-agent-602")
    assert (await events(hotline)).count("declined") == 1
    assert "missed" not in await events(hotline), "the person was not called in vain"
    offer.hang_up()
    await ringing.ended()
    await hotline.nothing_is_left()


async def test_an_agent_who_hangs_up_while_it_rings_ends_the_attempt(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, agent, person)
    offer.hang_up()
    await ringing.ended()
    assert ringing.answered_at is None
    await came_to(hotline, "called", "missed")
    assert [wish.attempts for wish in hotline.house.callbacks.all()] == [1]
    await asyncio.sleep(50)
    assert len(person.calls) == 1, "left in peace until the next attempt"
    await the_other_waits_long(agent, person)


async def test_whoever_answers_and_hangs_up_at_once_was_reached(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, agent, person)
    await ringing.picks_up()
    ringing.hang_up()
    await offer.ended()
    await hotline.duty_becomes("601", "wrap_up")
    await came_to(hotline, "served")
    await hotline.nothing_is_left()


async def test_another_number_and_a_time_of_day_are_taken():
    """It is nine in the morning: the afternoon begins at ten, for once."""
    async with FakeHouse(trunk=TRUNK, rules='[callbacks]\nafternoon = ["10:00", "18:00"]\n') as hotline:
        person = hotline.asterisk.phones.person("02150001234")
        caller, _ = await reach(hotline, State.WAITING, from_=STRANGER)
        await caller.keys("12")
        await caller.hears("callback-ask-number")
        await caller.keys("00861#")
        await caller.hears("entry-invalid")
        await caller.keys("02150001234#")
        await caller.hears("digits-34")
        await caller.keys("13")
        await caller.hears("callback-noted")
        caller.hang_up()
        (asked,) = await callbacks(hotline)
        assert (asked.number, asked.window) == ("02150001234", "afternoon")
        agent = await hotline.agent_signs_in("601")
        await asyncio.sleep(3300)
        assert not agent.calls[1:]
        offer = await agent.rings(timeout_s=400)
        await offer.picks_up()
        await person.rings()


async def test_nobody_is_called_at_night():
    async with FakeHouse(trunk=TRUNK, rules='[callbacks]\nallowed = ["10:00", "19:00"]\n') as hotline:
        hotline.asterisk.phones.person(STRANGER)
        await asks_for_callback(hotline, STRANGER)
        agent = await hotline.agent_signs_in("601")
        await asyncio.sleep(3000)
        assert len(agent.calls) == 1
        await agent.rings(timeout_s=700)


async def test_it_expires():
    async with FakeHouse(trunk=TRUNK, rules=RULES + "expires_after_s = 3600\n") as hotline:
        await asks_for_callback(hotline, STRANGER)
        await asyncio.sleep(3700)
        await came_to(hotline, "expired")
        agent = await hotline.agent_signs_in("601")
        await asyncio.sleep(60)
        assert len(agent.calls) == 1


async def test_one_who_asks_again_is_told_and_the_callback_moves(hotline):
    await asks_for_callback(hotline, STRANGER)
    caller, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    await caller.hears("callback-returned")
    await caller.keys("1")
    await caller.hears("callback-open")
    await caller.keys("12")
    await caller.hears("callback-moved")
    caller.hang_up()
    await caller.ended()
    assert len(await callbacks(hotline)) == 1
    assert "moved" in await events(hotline)
    (wish,) = hotline.house.callbacks.all()
    assert wish.window == "morning"


async def test_who_calls_in_again_has_the_kept_place_and_is_not_called_meanwhile(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    other, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    assert offer.number == STRANGER, "before the one who came in between"
    await offer.picks_up()
    await again.hears("opening-agent-601")
    again.hang_up()
    await again.ended()
    await came_to(hotline, "served")
    other.hang_up()
    await asyncio.sleep(60)
    assert not person.calls


async def test_who_called_in_again_and_left_is_called_back_after_all(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    again.hang_up()
    await again.ended()
    agent = await hotline.agent_signs_in("601")
    await the_other_waits(hotline, agent, person)


async def test_who_calls_in_while_an_attempt_is_made_and_is_served_is_not_called_again(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    first = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, first, person)
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    ringing.refuses(486)
    await offer.ended()
    await came_to(hotline, "called", "missed", "returned")
    second = await hotline.agent_signs_in("602")
    offer = await second.rings()
    await offer.picks_up()
    await again.hears("opening-agent-602")
    again.hang_up()
    await again.ended()
    await came_to(hotline, "returned", "served")
    await asyncio.sleep(300)
    assert len(person.calls) == 1
    await hotline.nothing_is_left()


async def test_who_calls_in_and_is_served_before_the_attempt_ends_is_not_called_again(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    first = await hotline.agent_signs_in("601")
    _, ringing = await the_other_waits(hotline, first, person)
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    second = await hotline.agent_signs_in("602")
    offer = await second.rings()
    await offer.picks_up()
    await again.hears("opening-agent-602")
    again.hang_up()
    await again.ended()
    await came_to(hotline, "called", "served")
    ringing.refuses(603)
    await asyncio.sleep(300)
    assert (await events(hotline))[-1] == "served"
    assert len(person.calls) == 1


async def test_who_is_served_while_an_attempt_is_made_and_the_controller_dies_is_not_called_again(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    first = await hotline.agent_signs_in("601")
    _, ringing = await the_other_waits(hotline, first, person)
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    second = await hotline.agent_signs_in("602")
    offer = await second.rings()
    await offer.picks_up()
    await again.hears("opening-agent-602")
    await hotline.controller_dies()
    await hotline.controller_starts()
    again.hang_up()
    await again.ended()
    await came_to(hotline, "called", "served")
    ringing.refuses(603)
    await asyncio.sleep(300)
    assert len(person.calls) == 1


async def test_who_calls_in_and_leaves_while_an_attempt_is_made_is_called_again(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, agent, person)
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    again.hang_up()
    await again.ended()
    ringing.refuses(486)
    await offer.ended()
    await came_to(hotline, "called", "missed")
    await the_other_waits_long(agent, person)


async def test_who_waits_on_the_line_is_not_dialled(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    again, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    await offer.picks_up()
    await offer.hears("outbound-busy")
    await offer.ended()
    assert not person.calls
    await came_to(hotline, "called", "declined", "returned")
    offer = await agent.rings(timeout_s=30)
    assert offer.number == STRANGER, "the call that waits"
    await offer.picks_up()
    await again.hears("opening-agent-601")
    again.hang_up()
    await came_to(hotline, "served")
    await hotline.nothing_is_left()


async def test_a_call_that_is_taken_up_still_has_the_persons_name_and_its_ringback_ends(hotline):
    person = hotline.asterisk.phones.person(LAWYER)
    hotline.house.callbacks.asked(
        models.Callback(id="demo-1772413200.7", at=hotline.house.clock(), number=LAWYER, reason="asked", lawyer_id=1)
    )
    agent = await hotline.agent_signs_in("601")
    offer, ringing = await the_other_waits(hotline, agent, person)
    await asyncio.sleep(2)
    assert offer.ear.sounds[-1].what == "ring"
    await hotline.controller_dies()
    await hotline.controller_starts()
    (call,) = hotline.reception.calls.values()
    assert call.person is not None
    assert call.person.lawyer_id == 1
    ringing.refuses(480)
    await offer.hears("outbound-no-answer")
    assert not any(sound.lasts for sound in offer.ear.sounds if sound.what == "ring")
    await offer.ended()
    await hotline.nothing_is_left()


async def proves_and_waits(hotline: FakeHouse) -> Any:
    """张伟, from a landline; the own number is keyed."""
    caller = await hotline.rings(from_=LANDLINE)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys(f"2{PARTY}#12345#99#1")
    await hotline.call_is(State.WAITING)
    proven = await hotline.identity()
    assert proven is not None
    assert proven.verified
    return caller


async def test_whoever_is_served_at_a_shared_number_leaves_the_others_callback_open(hotline):
    hotline.asterisk.phones.person(LANDLINE)
    row = models.Callback(
        id="demo-1772413200.7", at=hotline.house.clock(), number=LANDLINE, reason="asked", window="any", role="lawyer",
        lawyer_id=1,
    )  # fmt: skip
    hotline.house.callbacks.asked(row)
    caller = await proves_and_waits(hotline)
    first = await hotline.agent_signs_in("601")
    assert (await first.rings()).display.startswith("回电")
    second = await hotline.agent_signs_in("602")
    offer = await second.rings()
    await offer.picks_up()
    await caller.hears("opening-agent-602")
    caller.hang_up()
    await caller.ended()
    assert (await hotline.offers())[-1][0] == "601", "still being tried"
    assert await events(hotline) == ["called"]


async def test_an_unproven_number_does_not_answer_a_callback_of_somebody_proven(hotline):
    """It keeps the place, and whoever asked is called all the same."""
    person = hotline.asterisk.phones.person(LANDLINE)
    row = models.Callback(
        id="demo-1772413200.7", at=hotline.house.clock(), number=LANDLINE, reason="asked", window="any", role="lawyer",
        lawyer_id=1,
    )  # fmt: skip
    hotline.house.callbacks.asked(row)
    caller, _ = await reach(hotline, State.WAITING, from_=LANDLINE)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    await offer.picks_up()
    await caller.hears("opening-agent-601")
    caller.hang_up()
    await caller.ended()
    await came_to(hotline, "returned", "left")
    await the_other_waits_long(agent, person)


async def asks_for_callback_at(hotline: FakeHouse, from_: str, number: str, *, window: str = "1") -> Any:
    caller, _ = await reach(hotline, State.WAITING, from_=from_)
    await caller.keys(f"12{number}#")
    await caller.hears(f"digits-{number[-2:]}")
    await caller.hears("callback-confirm")
    await caller.keys("1")
    await caller.hears("callback-ask-window")
    await caller.keys(window)
    return caller


async def test_who_asked_to_be_called_elsewhere_is_known_again_also_after_a_restart(hotline):
    caller = await asks_for_callback_at(hotline, STRANGER, LANDLINE)
    await caller.hears("callback-noted")
    caller.hang_up()
    await caller.ended()
    await hotline.controller_dies()
    await hotline.controller_starts()
    caller, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    await caller.hears("callback-returned")
    await caller.keys("1")
    await caller.hears("digits-34")
    caller.hang_up()
    await caller.ended()
    assert len(await callbacks(hotline)) == 1


async def test_who_asks_from_elsewhere_for_the_same_number_moves_the_one_that_is_open(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    await agent.rings()
    caller = await asks_for_callback_at(hotline, OTHER, STRANGER, window="2")
    await caller.hears("callback-moved")
    (wish,) = hotline.house.callbacks.all()
    assert (wish.number, wish.window) == (STRANGER, "morning")
    await caller.ended()
    assert len(await callbacks(hotline)) == 1
    assert not person.calls


async def test_who_goes_back_to_the_queue_keeps_the_place(hotline):
    first, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    other, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    await first.keys("1")
    await asyncio.sleep(2)
    await first.keys("0")
    await asyncio.sleep(1)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    assert offer.number == STRANGER
    for caller in (first, other):
        caller.hang_up()
    assert not await callbacks(hotline)


async def test_a_full_queue_is_said_and_a_callback_offered():
    async with FakeHouse(trunk=TRUNK, rules=RULES + "[waiting]\nfull_at = 1\n") as hotline:
        await reach(hotline, State.WAITING, from_=LAWYER)
        caller = await hotline.rings(from_=STRANGER)
        await caller.answered()
        await asyncio.sleep(0.5)
        await caller.keys("0")
        await caller.hears("queue-full")
        await caller.keys("1")
        await caller.hears("callback-confirm")
        await caller.keys("1")
        await caller.keys("1")
        await caller.hears("callback-noted")
        await caller.ended()
        assert (await hotline.ending()).outcome == "callback"


async def test_nobody_signed_in_is_said_and_the_caller_may_wait(hotline):
    caller, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    await caller.hears("nobody-signed-in")
    await caller.hears("hold-music")


async def test_a_long_wait_is_said_once():
    async with FakeHouse(trunk=TRUNK, rules=RULES + "[waiting]\nlongest_wait_s = 100\n") as hotline:
        caller, _ = await reach(hotline, State.WAITING, from_=STRANGER)
        await asyncio.sleep(200)
        heard = [sound.what for sound in caller.ear.sounds]
        assert heard.count("longest-wait") == 1
        assert "callback-hint" in heard
        await hotline.call_is(State.WAITING)


async def test_a_call_that_was_lost_is_called_back_before_all_others(hotline):
    person = hotline.asterisk.phones.person(PARTY)
    await asks_for_callback(hotline, STRANGER)
    await reach(hotline, State.WAITING, from_=PARTY)
    await hotline.asterisk.dies()
    await asyncio.sleep(1)
    await hotline.asterisk.starts_again()
    await asyncio.sleep(2)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    await offer.picks_up()
    await person.rings()


async def test_an_asterisk_that_dies_while_the_agent_is_briefed_is_not_the_agents_fault(hotline):
    person = hotline.asterisk.phones.person(STRANGER)
    await asks_for_callback(hotline, STRANGER)
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    await offer.picks_up()
    await offer.hears("whisper-callback-unknown-none")
    await hotline.asterisk.dies()
    await asyncio.sleep(1)
    await hotline.asterisk.starts_again()
    offer.hang_up()  # the phone's own end of the dead call
    again = await agent.rings()
    await again.picks_up()
    await person.rings()


async def proven_and_cut_off(hotline: FakeHouse) -> None:
    """A party who was proven, by Asterisk's death in the queue."""
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys("2112345#99#1")
    await hotline.call_is(State.WAITING)
    await hotline.asterisk.dies()
    await asyncio.sleep(1)
    await hotline.asterisk.starts_again()
    await hotline.ending(within_s=20)
    caller.hang_up()


async def test_a_proven_person_who_is_cut_off_on_another_telephone_is_entered_once_and_keeps_who_it_is(hotline):
    wish = models.Callback(
        id="demo-1.1", at=hotline.house.clock(), number="15400008888", reason="asked", role="party", party_id=1
    )
    hotline.house.ledger.write(models.Call(id=wish.id, caller_number=None, called_number="12368", at=wish.at))
    hotline.house.callbacks.asked(wish)
    for times_cut_off in range(2):
        await proven_and_cut_off(hotline)
        [known] = hotline.house.callbacks.all()
        assert (known.party_id, known.first, known.number) == (1, True, "15400008888"), times_cut_off
    hotline.house.callbacks.cancel(wish.id)
    await proven_and_cut_off(hotline)
    [known] = hotline.house.callbacks.all()
    assert (known.party_id, known.need, known.number) == (1, "milestone", PARTY)


async def test_a_number_left_in_the_apology_of_a_last_attempt_is_a_callback_of_its_own(hotline, tmp_path):
    asked = models.Callback(id="demo-1.1", at=hotline.house.clock(), number=STRANGER, reason="asked")
    hotline.house.ledger.write(models.Call(id=asked.id, caller_number=None, called_number="12368", at=asked.at))
    wish = hotline.house.callbacks.asked(asked)
    attempt = "demo-out_1772413300.001"
    hotline.house.callbacks.happens(wish, Happened.CALLED, call_id=attempt, agent="601")
    hotline.house.callbacks.happens(wish, Happened.GIVEN_UP, call_id=attempt)
    file = tmp_path / f"{attempt}.txt"
    file.write_text(f"1772413301 {STRANGER} {STRANGER}\n")
    await hotline.reception._take_up(file)
    assert [one.id for one in hotline.house.callbacks.all()] == [attempt]
    assert not file.exists()


def test_no_two_controllers_give_a_placed_call_the_same_name():
    def name(at: float) -> str:
        return CallIds("demo", lambda: at).next()

    assert name(1772413200.2) != name(1772413200.3)
    ids = CallIds("demo", lambda: 1772413200.9995)
    several = [ids.next() for _ in range(3)]
    assert several == ["demo-out_1772413200.999", "demo-out_1772413201.000", "demo-out_1772413201.001"]


async def test_a_number_left_in_the_dialplan_is_served_by_the_same_machine(hotline, tmp_path):
    person = hotline.asterisk.phones.person(STRANGER)
    row = models.Callback(id="demo-1772413200.7", at=hotline.house.clock(), number=STRANGER, reason="fallback")
    hotline.house.callbacks.asked(row)
    agent = await hotline.agent_signs_in("601")
    await the_other_waits(hotline, agent, person)


async def test_without_a_trunk_nobody_is_rung():
    async with FakeHouse(rules=RULES) as hotline:
        await asks_for_callback(hotline, STRANGER)
        agent = await hotline.agent_signs_in("601")
        await asyncio.sleep(20)
        assert len(agent.calls) == 1
        await hotline.duty_becomes("601", "idle")
        assert [(wish.stage, wish.attempts) for wish in await hotline.ask(open_callbacks)] == [(Stage.WAITING, 0)]


# ---------------------------------------------------------------- an agent's call in a case


async def test_an_agent_calls_the_last_cases_lawyer_and_party_back(hotline):
    lawyer, party = hotline.asterisk.phones.person(LAWYER), hotline.asterisk.phones.person(PARTY)
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys("2112345#99#1")
    offer = await agent.rings()
    await offer.picks_up()
    await offer.hears("opening-agent-601")
    caller.hang_up()
    await offer.ended()
    for code, person, role in (("*92", lawyer, "lawyer"), ("*91", party, "party")):
        dialled = await agent.dials(code)
        await dialled.hears("outbound-hang-up")
        await dialled.ended()
        ours = await agent.rings()
        assert ours.display.startswith("外呼")
        await ours.picks_up()
        await ours.hears(f"whisper-outbound-{role}")
        theirs = await person.rings()
        await hotline.duty_becomes("601", "ringing")
        await theirs.picks_up()
        await theirs.hears("recording-notice")
        await hotline.duty_becomes("601", "talking")
        await ours.keys("*5")
        await theirs.hears("disclaimer")
        theirs.hang_up()
        await ours.ended()
        ending = await hotline.ending()
        assert (ending.outcome, ending.agent) == ("handled", "601")
        assert hotline.asterisk.recorded[ending.call_id] > 3
    assert [number for _, number in hotline.asterisk.placed] == [LAWYER, PARTY]
    await hotline.nothing_is_left()


async def test_an_agent_without_a_case_calls_nobody(hotline):
    agent = await hotline.agent_signs_in("601")
    dialled = await agent.dials("*91")
    await dialled.hears("outbound-no-case")
    await dialled.ended()
    await hotline.duty_becomes("601", "idle")
    assert not hotline.asterisk.placed


async def test_a_hotline_that_is_drained_places_no_call(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys("2112345#99#1")
    offer = await agent.rings()
    await offer.picks_up()
    await offer.hears("opening-agent-601")
    draining = asyncio.create_task(hotline.reception.drain())
    await asyncio.sleep(1)
    caller.hang_up()
    await offer.ended()
    await draining
    dialled = await agent.dials("*91")
    await dialled.hears("fallback-agent")
    await dialled.ended()
    assert not hotline.asterisk.placed


async def test_whoever_was_not_reached_yet_has_lost_no_line(hotline):
    party = hotline.asterisk.phones.person(PARTY)
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys("2112345#99#1")
    offer = await agent.rings()
    await offer.picks_up()
    await offer.hears("opening-agent-601")
    caller.hang_up()
    await offer.ended()
    dialled = await agent.dials("*91")
    await dialled.ended()
    await (await agent.rings()).picks_up()
    await party.rings()
    await hotline.asterisk.dies()
    await asyncio.sleep(1)
    await hotline.asterisk.starts_again()
    await asyncio.sleep(5)
    assert not hotline.house.callbacks.all()


async def test_no_number_but_a_code_can_be_dialled_and_no_number_but_the_hotlines_called(hotline):
    agent = await hotline.agent_signs_in("601")
    for number in (OTHER, f"0{OTHER}", f"{OTHER}@outbound", f"*91{OTHER}#", "outbound"):
        dialled = await agent.dials(number)
        await asyncio.sleep(5)
        assert not hotline.asterisk.placed, number
        dialled.hang_up()
    outsider = await hotline.asterisk.phones.caller(STRANGER).dials(OTHER)
    assert outsider.code == 404


async def test_a_line_that_nobody_serves_is_taken_down(hotline):
    """Not sent to the apology: nobody has answered."""
    await hotline.house.client.channels.create(
        channelId="demo-out_1772413201.001", otherChannelId="demo-out_1772413201.001~line",
        endpoint=f"Local/{OTHER}@outbound/n", app="sanling", variables={"SANLING_RING_S": "20"},
    )  # fmt: skip
    await asyncio.sleep(30)
    await hotline.nothing_is_left()
