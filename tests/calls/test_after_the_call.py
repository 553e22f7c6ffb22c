"""After the talk: how it was, why it was bad, what the agent keys about it, and whether it was the second time."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from ari_app import orders
from ari_app.flow.sop import State
from ari_app.rules import Rules, Survey
from ari_app.settings import PROJECT
from ari_app.store import models
from tests.calls.house import PARTY, STRANGER, FakeHouse
from tests.calls.paths import reach
from tests.calls.test_broken import soon

CLIPS = PROJECT / "dialplan" / "prompts" / "audio"
SPEECH_S = 3.0
PAUSE_S = 2.5
"""ari_app.spoken.PAUSE_MS"""


async def rows(hotline, table):
    """Of this script's calls: a real hotline has served other scripts before."""
    own = select(models.Call.id).where(models.Call.at >= hotline.since)
    return await hotline.ask(lambda session: list(session.scalars(select(table).where(table.call_id.in_(own)))))


async def open_orders(hotline):
    return [order for order in await hotline.ask(orders.orders) if order.at >= hotline.since]


def speech(seconds: float) -> bytes:
    return b"\0" * round(seconds * 8000)


# ---------------------------------------------------------------- how it was


@pytest.mark.real_for("3-*6", "5-hangs up")
@pytest.mark.parametrize("ends", ["*6", "hangs up"])
@pytest.mark.parametrize("score", [3, 5])
async def test_a_caller_who_is_content_is_asked_once_and_hears_the_closing_question(hotline, ends, score):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    if ends == "*6":
        await offer.keys("*6")
    else:
        offer.hang_up()
    await caller.hears("ask-rating")
    await caller.keys(str(score))
    await caller.hears("closing")
    await caller.ended()
    ending = await hotline.ending()
    assert (ending.outcome, ending.hung_up_by) == ("handled", "hotline")
    assert abs(ending.after_closing_s - 5.0) < 0.3
    [rating] = await rows(hotline, models.Rating)
    assert (rating.agent, rating.score) == ("601", score)
    assert not await open_orders(hotline)
    assert not await caller.transcript(["ask-rating-reason"])


async def test_a_key_over_the_question_is_an_answer(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.RATING, agent)
    await asyncio.sleep(0.6)
    await caller.keys("4")
    await caller.hears("closing")
    caller.hang_up()
    await hotline.ending()
    [rating] = await rows(hotline, models.Rating)
    assert rating.score == 4


async def test_whoever_says_nothing_goes_on_to_the_closing_question():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING, agent)
        asked = await caller.hears("ask-rating")
        closing = await caller.hears("closing")
        assert closing.at_s - asked.until_s == pytest.approx(4.0, abs=0.3)
        await caller.ended()
        assert len(await caller.transcript(["ask-rating"])) == 1
        assert not await rows(hotline, models.Rating)
        assert hotline.registry.get_sample_value("sanling_surveys_total", {"result": "silent"}) == 1
        await hotline.nothing_is_left()


async def test_a_wrong_key_is_asked_about_once_more_and_no_more():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING, agent)
        await caller.hears("ask-rating")
        await caller.keys("9")
        await caller.hears("entry-invalid")
        await asyncio.sleep(3)
        await caller.keys("8")
        await caller.hears("closing")
        await caller.ended()
        assert len(await caller.transcript(["ask-rating"])) == 2
        assert not await rows(hotline, models.Rating)
        assert (await hotline.ending()).hung_up_by == "hotline"


async def test_zero_in_the_survey_is_a_person_who_is_asked_about_afterwards(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.RATING, agent)
    await asyncio.sleep(0.6)
    await caller.keys("0")
    await caller.hears("transferring")
    again = await agent.rings(timeout_s=40)
    await again.picks_up()
    await hotline.call_is(State.TALKING, within_s=15)
    await asyncio.sleep(3)
    await again.keys("*6")
    await hotline.call_is(State.RATING)
    await asyncio.sleep(0.6)
    await caller.keys("5")
    await caller.hears("closing")
    caller.hang_up()
    await hotline.ending()
    assert [rating.score for rating in await rows(hotline, models.Rating)] == [5]


async def test_whoever_has_rated_is_not_asked_again_in_the_same_call():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.CLOSING, agent)
        await caller.keys("0")
        again = await agent.rings(timeout_s=40)
        await again.picks_up()
        await hotline.call_is(State.TALKING, within_s=15)
        await again.keys("*6")
        await hotline.call_is(State.CLOSING)
        await caller.ended()
        assert [sound.what for sound in caller.ear.sounds].count("ask-rating") == 1
        assert hotline.registry.get_sample_value("sanling_surveys_total", {"result": "not_asked"}) == 1


async def test_a_caller_may_hang_up_instead_of_answering():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING, agent)
        caller.hang_up()
        assert (await hotline.ending()).hung_up_by == "caller"
        assert hotline.registry.get_sample_value("sanling_surveys_total", {"result": "left"}) == 1
        await hotline.duty_becomes("601", "wrap_up")
        await hotline.nothing_is_left()


async def test_whoever_was_not_served_is_not_asked():
    async with FakeHouse(ending={"call_ceiling_s": 61.0, "warn_before_ceiling_s": 60.0}) as hotline:
        caller, _ = await reach(hotline, State.WAITING)
        await caller.hears("closing", within_s=90)
        await caller.ended()
        assert not await caller.transcript(["ask-rating"])


async def test_nobody_is_asked_if_the_rules_say_so():
    async with FakeHouse() as hotline:
        hotline.house.desk.rules.now = Rules(survey=Survey(share=0.0))
        agent = await hotline.agent_signs_in("601")
        caller, offer = await reach(hotline, State.TALKING, agent)
        await offer.keys("*6")
        await caller.hears("closing", within_s=4)
        await caller.ended()
        assert not await caller.transcript(["ask-rating"])
        assert (await hotline.ending()).outcome == "handled"


# ---------------------------------------------------------------- why it was bad


async def test_a_spoken_reason_ends_with_its_pause_and_is_a_segment(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.RATING_REASON, agent)
    await caller.hears("ask-rating-reason")
    await caller.says(CLIPS / "closing.alaw")
    await caller.hears("reason-noted")
    await caller.hears("closing")
    await caller.ended()
    assert (await hotline.ending()).hung_up_by == "hotline"
    clip_s = (CLIPS / "closing.alaw").stat().st_size / 8000
    [reason] = await rows(hotline, models.Segment)
    assert reason.spoken_s == pytest.approx(clip_s, abs=0.6)
    assert clip_s + PAUSE_S - 0.6 <= reason.seconds <= clip_s + PAUSE_S + 1.0
    [order] = await open_orders(hotline)
    assert order.must_answer == "leader"


@pytest.mark.parametrize("ends", ["#", "silence"])
async def test_a_low_score_is_asked_why_and_the_leader_is_told(ends):
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING_REASON, agent)
        await caller.hears("ask-rating-reason")
        began_at = hotline._now()
        await caller.says(speech(SPEECH_S))
        if ends == "#":
            await caller.keys("#")
        noted = await caller.hears("reason-noted")
        lasted_s = caller.began_at + noted.at_s - asyncio.get_running_loop().time() + hotline._now() - began_at
        assert lasted_s == pytest.approx(SPEECH_S + (PAUSE_S if ends == "silence" else 0.2), abs=0.5)
        await caller.hears("closing")
        await caller.ended()
        assert (await hotline.ending()).hung_up_by == "hotline"
        [rating] = await rows(hotline, models.Rating)
        assert (rating.agent, rating.score) == ("601", 1)
        [reason] = await rows(hotline, models.Segment)
        assert reason.kind == "reason"
        assert reason.at == pytest.approx(began_at, abs=0.3)
        assert reason.seconds == pytest.approx(lasted_s, abs=0.3)
        assert reason.spoken_s == pytest.approx(SPEECH_S, abs=0.4)
        [order] = await open_orders(hotline)
        assert (order.kind, order.must_answer, order.opened_by) == (orders.Kind.RATING, "leader", "hotline")
        assert order.call_id == rating.call_id
        assert order.due_at == pytest.approx(rating.at + 24 * 3600)


async def test_whoever_gives_no_reason_goes_on_and_the_leader_is_told_all_the_same():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING_REASON, agent)
        asked = await caller.hears("ask-rating-reason")
        closing = await caller.hears("closing")
        assert closing.at_s - asked.until_s == pytest.approx(4.0, abs=0.3)
        await caller.ended()
        assert not await rows(hotline, models.Segment)
        assert len(await open_orders(hotline)) == 1


async def test_whoever_goes_on_and_on_is_heard_for_a_minute():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING_REASON, agent)
        asked = await caller.hears("ask-rating-reason")
        speaking = asyncio.create_task(caller.says(speech(90.0)))
        noted = await caller.hears("reason-noted", within_s=70)
        assert noted.at_s - asked.until_s == pytest.approx(60.0, abs=0.5)
        await caller.hears("closing")
        speaking.cancel()
        await caller.ended()
        [reason] = await rows(hotline, models.Segment)
        assert reason.seconds == pytest.approx(60.0, abs=0.5)


async def test_a_caller_may_hang_up_in_the_reason_and_what_was_said_is_kept():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING_REASON, agent)
        await caller.hears("ask-rating-reason")
        await caller.says(speech(2.0))
        caller.hang_up()
        await hotline.ending()
        [reason] = await rows(hotline, models.Segment)
        assert reason.seconds == pytest.approx(2.0, abs=0.4)
        assert len(await open_orders(hotline)) == 1
        await hotline.nothing_is_left()


async def test_zero_in_the_reason_is_a_person():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING_REASON, agent)
        await caller.hears("ask-rating-reason")
        await caller.keys("0")
        again = await agent.rings(timeout_s=40)
        await again.picks_up()
        await hotline.call_is(State.TALKING, within_s=15)
        caller.hang_up()
        await hotline.ending()


async def test_a_reason_goes_on_though_the_controller_is_killed_in_it():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, _ = await reach(hotline, State.RATING_REASON, agent)
        await caller.hears("ask-rating-reason")
        speaking = asyncio.create_task(caller.says(speech(8.0)))
        await asyncio.sleep(2)
        await hotline.controller_dies()
        await asyncio.sleep(1.5)
        await hotline.controller_starts()
        await speaking
        await caller.hears("reason-noted")
        await caller.ended()
        assert not await caller.transcript(["interrupted"])
        assert (await hotline.ending()).hung_up_by == "hotline"
        [reason] = await rows(hotline, models.Segment)
        assert reason.seconds == pytest.approx(8.0 + PAUSE_S, abs=0.6)
        assert len(await open_orders(hotline)) == 1
        await hotline.nothing_is_left()


# ---------------------------------------------------------------- the disposition


async def test_an_agent_keys_in_wrap_up_what_the_call_was_about(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    offer.hang_up()
    caller.hang_up()
    await hotline.duty_becomes("601", "wrap_up")
    for code, said in (("*1721", "disposition-noted"), ("*1753", "disposition-codes"), ("*17", "disposition-codes")):
        phone = await agent.dials(code)
        await phone.hears(said)
        await phone.ended()
    found = await rows(hotline, models.Disposition)
    assert [(one.agent, one.need, one.result) for one in found] == [("601", "material", "on_the_spot")]
    assert not await open_orders(hotline)


async def test_a_work_order_comes_of_a_call_that_could_not_be_answered_and_a_change_is_a_row_more():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        await served(hotline, agent, keys="2112345#99#1")
        for code in ("*1711", "*1742", "*1742"):
            phone = await agent.dials(code)
            await phone.hears("disposition-noted")
            await phone.ended()
        found = await rows(hotline, models.Disposition)
        assert [(one.need, one.result) for one in sorted(found, key=lambda one: one.at)] == [
            ("milestone", "on_the_spot"), ("pressing", "work_order"), ("pressing", "work_order"),
        ]  # fmt: skip
        [order] = await open_orders(hotline)
        assert (order.kind, order.need, order.must_answer) == (orders.Kind.DISPOSITION, "pressing", "party")
        assert (order.opened_by, order.case_id) == ("601", 1)
        labels = {"need": "pressing", "result": "work_order"}
        assert hotline.registry.get_sample_value("sanling_dispositions_total", labels) == 2


async def test_out_of_wrap_up_there_is_no_call_to_key_anything_about():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        phone = await agent.dials("*1711")
        await phone.hears("nothing-to-dispose")
        await phone.ended()
        assert not await rows(hotline, models.Disposition)


# ---------------------------------------------------------------- the second time


async def served(hotline, agent, *, keys: str, from_: str = PARTY) -> str:
    """A call with these keys, served and over; what the agent's phone displayed."""
    caller = await hotline.rings(from_=from_)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys(keys)
    offer = await agent.rings(timeout_s=60)
    await offer.picks_up()
    await hotline.call_is(State.TALKING, within_s=15)
    await asyncio.sleep(2)
    caller.hang_up()
    await offer.ended()
    await hotline.ending()
    await hotline.duty_becomes(agent.number, "wrap_up")
    return str(offer.display)


async def test_a_second_call_on_the_same_matter_shows_and_is_counted():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        assert "二次来电" not in await served(hotline, agent, keys="2112345#99#1")
        assert "二次来电" not in await served(hotline, agent, keys="2112345#99#2"), "another need"
        assert "二次来电" in await served(hotline, agent, keys="2112345#99#1")
        assert hotline.registry.get_sample_value("sanling_second_calls_total", {"need": "milestone"}) == 1
        found = sorted(await rows(hotline, models.Matter), key=lambda one: one.at)
        assert [one.second_of for one in found] == [None, None, found[0].call_id]
        assert {(one.party_id, one.case_id, one.agent) for one in found} == {(1, 1, "601")}


async def test_the_agents_word_on_the_need_counts_more_than_the_callers():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        await served(hotline, agent, keys="2112345#99#1")
        phone = await agent.dials("*1731")
        await phone.ended()
        assert "二次来电" not in await served(hotline, agent, keys="2112345#99#1")
        assert "二次来电" in await served(hotline, agent, keys="2112345#99#3")


async def test_a_second_call_comes_before_those_who_wait_and_goes_to_the_agent_of_the_first():
    async with FakeHouse() as hotline:
        first = await hotline.agent_signs_in("601")
        await served(hotline, first, keys="2112345#99#1")
        stranger = await hotline.rings(from_=STRANGER)
        await stranger.answered()
        await stranger.keys("0")
        await stranger.hears("transferring")
        again = await hotline.rings(from_=PARTY)
        await again.answered()
        await asyncio.sleep(0.5)
        await again.keys("2112345#99#1")
        offer = await first.rings(timeout_s=60)
        assert "二次来电" in offer.display
        await offer.picks_up()
        await again.hears("opening-agent-601")
        for caller in (again, stranger):
            caller.hang_up()
        await hotline.ending()


async def test_a_second_call_is_known_to_the_next_controller_too():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        await served(hotline, agent, keys="2112345#99#1")
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await asyncio.sleep(0.5)
        await caller.keys("2112345#99#1")
        await hotline.call_is(State.WAITING)
        await hotline.controller_dies()
        await asyncio.sleep(1)
        await hotline.controller_starts()
        offer = await agent.rings(timeout_s=60)
        assert "二次来电" in offer.display
        caller.hang_up()
        await hotline.ending()


@pytest.mark.parametrize("ends", [False, True], ids=["caller-leaves-in-the-gap", "ended-and-not-closed"])
async def test_what_a_proven_caller_called_about_is_told_by_whoever_takes_the_call_up_after_its_end(ends):
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await asyncio.sleep(0.5)
        await caller.keys("2112345#99#1")
        await (await agent.rings(timeout_s=60)).picks_up()
        await hotline.call_is(State.TALKING, within_s=15)
        [call] = hotline.reception.calls
        before = models.Call(id="demo-1.1", caller_number=None, called_number="12368", at=hotline.house.clock())
        hotline.house.ledger.write(before)
        hotline.house.callbacks.asked(
            models.Callback(id=before.id, at=before.at, number="15400008888", reason="asked", role="party", party_id=1)
        )
        serving = hotline.reception.calls[call]
        serving.callmeback.take_up(serving.person)
        if ends:
            serving._write_ending = lambda: None
            caller.hang_up()
            await asyncio.sleep(0.1)
        await hotline.controller_dies()
        caller.hang_up()
        await asyncio.sleep(1)
        await hotline.controller_starts()
        await soon(lambda: call not in hotline.reception.calls, within_s=5)
        matter = await hotline.ask(lambda session: session.get(models.Matter, call))
        assert (matter.agent, matter.party_id) == ("601", 1)
        assert not hotline.house.callbacks.all()
