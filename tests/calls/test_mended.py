"""Faults that a review found, one script each: they do not come back. The fake Asterisk only, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.call import Call
from ari_app.flow.sop import State
from ari_app.store import models
from ari_app.testcall.phone import KEY_TONE_S
from tests.calls.house import LAWYER, STRANGER
from tests.calls.paths import reach
from tests.calls.test_broken import BreakableHouse, soon

HANG_UP_OF_THE_AGENT = ("DELETE", r"^channels/[^/]+~offer-1$")


@pytest.fixture
def hotline(tmp_path: Path) -> BreakableHouse:
    return BreakableHouse(tmp_path)


def now() -> float:
    return asyncio.get_running_loop().time()


def asked(hotline: BreakableHouse, method: str, ending: str) -> list[str]:
    """Uris of the requests of `method` that end so."""
    return [one.uri for one in hotline.asterisk.requests if one.method == method and one.uri.endswith(ending)]


def only_call(hotline: BreakableHouse) -> Call:
    [call] = hotline.reception.calls.values()
    return call


async def heard(hotline: BreakableHouse) -> list[str]:
    """What the calls have heard, by the ledger."""
    return list(await hotline.ask(lambda s: s.scalars(select(models.Transition.heard)).all()))


async def link_blips(hotline: BreakableHouse, for_s: float) -> None:
    hotline.asterisk.drop_link()
    await asyncio.sleep(for_s)
    hotline.asterisk.restore_link()


async def next_event_falls_into_the_gap(hotline: BreakableHouse, gap_s: float = 1.0) -> None:
    """What Asterisk has just said is still on its way when the link breaks."""
    await asyncio.sleep(0.1)
    await link_blips(hotline, gap_s)
    hotline.asterisk.events_late_s = 0.0


# ---------------------------------------------------------------- 1. an agent who is let go


async def test_the_link_that_breaks_in_the_agents_hangup_leaves_no_agent_behind(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    hotline.asterisk.delays_next(*HANG_UP_OF_THE_AGENT, 1.0)
    await offer.keys("*6")
    await soon(lambda: asked(hotline, "DELETE", "~offer-1"))
    await asyncio.sleep(0.2)
    await link_blips(hotline, 3.0)
    await caller.hears("closing", within_s=20)
    assert await hotline.duty("601") == "wrap_up"
    await offer.ended()
    await caller.ended()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_a_reply_to_the_agents_hangup_that_comes_too_late_leaves_no_agent_behind(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    hotline.asterisk.delays_next(*HANG_UP_OF_THE_AGENT, 7.0)
    await offer.keys("*6")
    await hotline.duty_becomes("601", "wrap_up", within_s=1)
    await offer.ended(30)
    caller.hang_up()
    await soon(lambda: not hotline.reception.calls, within_s=30)
    await hotline.duty_becomes("601", "idle", within_s=40)
    await hotline.nothing_is_left()


async def test_an_agent_whose_caller_hung_up_is_free_though_the_link_breaks_in_the_withdrawal(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    hotline.asterisk.delays_next(*HANG_UP_OF_THE_AGENT, 1.0)
    caller.hang_up()
    await soon(lambda: asked(hotline, "DELETE", "~offer-1"))
    await asyncio.sleep(0.2)
    await link_blips(hotline, 3.0)
    await hotline.duty_becomes("601", "idle", within_s=5)
    await offer.ended()
    assert (await hotline.ending()).outcome == "abandoned"
    assert ("601", "caller_left") in await hotline.offers()
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 2. the return from the dialplan


async def test_a_return_from_the_dialplan_that_nobody_heard_is_found_when_the_link_is_back(hotline):
    caller, _ = await reach(hotline, State.PARTY_NAME)
    hotline.asterisk.agi_s = 2.0
    await caller.keys("99#")
    await hotline.call_is(State.FETCHING_CONTEXT)
    await asyncio.sleep(0.5)
    hotline.asterisk.events_late_s = 0.5
    await soon(lambda: caller.channel.in_stasis)
    await next_event_falls_into_the_gap(hotline)
    await caller.hears("identity-proven", within_s=5)
    await caller.hears("ask-need", within_s=5)
    await caller.keys("1")
    await caller.hears("nobody-signed-in")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 3. the whisper


async def test_a_whisper_that_cannot_be_played_keeps_nobody_waiting(hotline):
    lengths = hotline.asterisk.lengths
    hotline.asterisk.lengths = lambda media: None if "/whisper-" in media else lengths(media)
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.WHISPERING, agent)
    await caller.hears("opening-agent-601", within_s=5)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 4. the join


@pytest.mark.parametrize("how", ["gone", "going"])
async def test_a_caller_whose_agent_hangs_up_in_the_join_keeps_the_place_and_gets_another(hotline, how):
    first = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.WHISPERING, first, from_=STRANGER)
    call = only_call(hotline)
    since = call.story.waiting_since
    later, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    if how == "gone":
        hotline.asterisk.delays_next("POST", "addChannel", 0.3)
    else:
        hotline.asterisk.refuses_next("POST", "addChannel", 422, "Channel not in Stasis application")
    await soon(lambda: asked(hotline, "POST", "/addChannel"), within_s=20)
    offer.hang_up()
    lost_s = now() - caller.began_at
    await caller.hears("hold-music", from_s=lost_s)
    assert call.progress.state is State.WAITING
    assert call.story.waiting_since == since
    assert await hotline.duty("601") == "no_answer"
    second = await hotline.agent_signs_in("602")
    again = await second.rings()
    assert again.number == STRANGER
    await again.picks_up()
    await soon(lambda: call.talk.served_by == "602")
    waited_s = hotline._now() - since
    await caller.hears("opening-agent-602")
    joined = await hotline.ask(
        lambda s: s.scalars(select(models.OfferEvent.agent).where(models.OfferEvent.event == "joined")).all()
    )
    assert joined == ["602"]
    for one in (caller, later):
        one.hang_up()
        await one.ended()
    await soon(lambda: not hotline.reception.calls)
    ending = (await hotline.endings())[call.id]
    assert (ending.outcome, ending.agent) == ("handled", "602")
    assert ending.wait_s == pytest.approx(waited_s, abs=1.0)  # once, with the offer that failed
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 5. who the caller claims to be


async def test_what_failed_as_a_party_is_not_what_a_lawyer_lacks(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.PARTY_NAME)
    await caller.keys("22#")
    await caller.hears("identity-retry")
    await caller.keys("1")
    await hotline.call_is(State.LAWYER_FIRM)
    await caller.keys("0")
    offer = await agent.rings()
    assert offer.display == "律师 未核身 缺律所、姓名、执业证号、手机号"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 6. the disclaimer


async def test_the_disclaimer_is_heard_whole_whatever_the_agent_keys(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*5")
    await asyncio.sleep(1.0)
    await offer.keys("*5*6")
    for side in (caller, offer):
        assert (await side.hears("disclaimer")).whole
    closing = await caller.hears("closing")
    for side in (caller, offer):
        [disclaimer] = await side.transcript(["disclaimer"])
        assert disclaimer.whole
        assert disclaimer.until_s + side.began_at <= closing.at_s + caller.began_at
    assert hotline.registry.get_sample_value("sanling_disclaimers_total") == 1.0
    await caller.ended()
    assert (await heard(hotline)).count("DISCLAIMER_ASKED") == 1
    read = select(models.PromptHeard.whole).where(models.PromptHeard.prompt == "disclaimer")
    assert await hotline.ask(lambda s: s.scalars(read).all()) == [True]
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 7. a key in the moment of a deadline


async def keys_just_before(hotline: BreakableHouse, caller: Any, deadline: float, key: str) -> None:
    """`deadline` on the loop's clock passes while Asterisk is slow to do what `key` asks of it."""
    await asyncio.sleep(deadline - 0.1 - KEY_TONE_S - now())
    hotline.asterisk.delays_next("POST", r"/silence$", 0.5)
    await caller.keys(key, pause_s=0.0)
    assert now() < deadline


async def goes_on_without_a_try(hotline: BreakableHouse, caller: Any, state: State, question: str) -> None:
    await caller.hears(question)
    await hotline.call_is(state)
    assert only_call(hotline).progress.tries == 0
    assert "NO_ENTRY" not in await heard(hotline)
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_key_in_the_moment_the_first_ones_time_is_up_costs_no_try_of_the_next_question(hotline):
    caller, _ = await reach(hotline, State.ASKING_ROLE)
    asked_until = caller.began_at + (await caller.hears("ask-role")).until_s
    await keys_just_before(hotline, caller, asked_until + hotline.settings.keypad.first_digit_s, "2")
    await goes_on_without_a_try(hotline, caller, State.PARTY_NUMBER, "ask-own-number")


async def test_a_key_in_the_moment_the_next_ones_time_is_up_costs_no_try_of_the_next_question(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    await caller.keys("1234")
    await caller.keys("5", pause_s=0.0)
    await keys_just_before(hotline, caller, now() + hotline.settings.keypad.between_digits_s, "#")
    await goes_on_without_a_try(hotline, caller, State.PARTY_NAME, "ask-name")


# ---------------------------------------------------------------- 8. agents' feature codes


async def test_a_feature_call_that_cannot_be_told_anything_is_hung_up_at_once(hotline):
    phone = await hotline.phone("601")
    hotline.asterisk.refuses_next("POST", r"^channels/[^/]+/play", 500)
    call = await phone.dials(f"*11{hotline.access['601'].pin}")
    await call.answered()
    await call.ended(1.0)
    assert call.hung_up_by == "them"
    await hotline.nothing_is_left()


async def test_a_feature_call_that_nobody_heard_of_is_hung_up_and_not_sent_to_the_callers_fallback(hotline):
    phone = await hotline.phone("601")
    hotline.asterisk.events_late_s = 0.5
    call = await phone.dials(f"*11{hotline.access['601'].pin}")
    await soon(lambda: call.channel.in_stasis)
    await next_event_falls_into_the_gap(hotline)
    await call.ended()
    assert not asked(hotline, "POST", "/continue")
    assert asked(hotline, "DELETE", call.channel.id)
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 9. an offer lost with the link


async def test_an_offer_that_was_lost_with_the_link_is_not_held_against_its_agent(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    hotline.asterisk.drop_link()
    await asyncio.sleep(0.5)
    offer.refuses(480)
    await asyncio.sleep(1.0)
    hotline.asterisk.restore_link()
    again = await agent.rings()
    assert hotline.registry.get_sample_value("sanling_agent_rona_total", {"agent": "601"}) == 0.0
    await again.picks_up()
    await caller.hears("opening-agent-601")
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_an_announcer_that_is_just_leaving_the_bridge_keeps_nobody_from_hearing_the_next_words(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    hotline.asterisk.refuses_next("POST", r"^bridges/[^/]+/play", 500, "Allocation failed")
    await offer.keys("*5")
    await caller.hears("disclaimer")
    await offer.keys("*6")
    await caller.hears("closing")
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_a_phone_that_is_just_being_hung_up_and_cannot_be_dialled_does_not_break_the_call(hotline):
    first, second = await hotline.agent_signs_in("601"), await hotline.agent_signs_in("602")
    hotline.asterisk.refuses_next("POST", r"~offer-1/dial$", 500, "Allocation failed")
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await caller.keys("0")
    await (await second.rings(20.0)).picks_up()
    await caller.hears("opening-agent-602")
    assert not first.in_talk
    assert await hotline.duty("601") == "no_answer", "as with a phone that is gone"
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- 10. what a link that breaks leaves playing


async def test_a_link_that_breaks_as_a_prompt_is_stopped_leaves_nobody_in_silence(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await asyncio.sleep(1.0)  # the notice is being read out
    hotline.asterisk.delays_next("DELETE", r"^playbacks/", 60)  # never heard of: the link breaks before
    keying = asyncio.create_task(caller.keys("0"))
    await soon(lambda: asked(hotline, "DELETE", only_call(hotline).id + "~play-0-0"))
    hotline.asterisk.drop_link()
    await asyncio.sleep(0.3)
    hotline.asterisk.restore_link()
    await keying
    offer = await agent.rings()
    await offer.picks_up()
    await caller.hears("opening-agent-601")
    await offer.keys("*6")
    await caller.hears("closing")
    caller.hang_up()
    assert "opening" not in [heard.prompt for heard in await caller.transcript()], "it was stopped all the same"
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_silence_that_no_prompt_has_ended_is_ended_before_the_talk(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    call = only_call(hotline)
    await hotline.house.client.channels.startSilence(channelId=call.id)  # done when what is being played has ended
    await call.voice.hush()
    await offer.picks_up()
    await caller.hears("opening-agent-601")
    await offer.keys("*6")
    await caller.hears("closing")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()
