"""Whole calls, told as scripts. Each runs against the fake Asterisk in virtual time, and against a real one."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from ari_app.flow.sop import ENTRIES, QUESTIONS, State
from ari_app.staff import new_agent
from ari_app.store import models
from tests.calls.house import LANDLINE, LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import KEYS, WITH_AGENT, reach


async def test_party_is_verified_served_and_hung_up_five_seconds_after_the_closing(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    assert caller.rings == 1
    await caller.hears("recording-notice")
    await caller.hears("opening")
    await caller.hears("ask-role")
    await caller.keys("2")
    await caller.hears("ask-own-number")
    await caller.keys("1")
    await caller.hears("ask-case")
    await caller.keys("12345#")
    await caller.hears("ask-name")
    await caller.keys("99#")
    await caller.hears("identity-proven")
    await caller.hears("ask-need")
    await caller.keys("1")
    await caller.hears("transferring")
    offer = await agent.rings()
    display = offer.display.replace("二次来电 ", "")  # as it may be on a hotline that served other scripts before
    assert display.startswith("当事人 已核身 节点 1案 最近:排期")
    await offer.picks_up()
    await offer.hears("whisper-party-verified-milestone")
    await caller.hears("opening-agent-601")
    await caller.hears("is-it-mr-5f20")
    await offer.keys("*5")
    await caller.hears("disclaimer")
    await offer.hears("disclaimer")
    await offer.keys("*6")
    closing = await caller.hears("closing")
    await caller.ended()
    assert caller.hung_up_by == "them"
    assert abs(caller.ended_at - hotline.said_until(caller, closing) - 5.0) < 0.3
    ending = await hotline.ending()
    assert (ending.outcome, ending.agent, ending.hung_up_by) == ("handled", "601", "hotline")
    assert abs(ending.after_closing_s - 5.0) < 0.3
    assert await hotline.offers() == [("601", "offered"), ("601", "answered"), ("601", "joined")]
    asked = select(models.PromptHeard.prompt).where(models.PromptHeard.call_id == ending.call_id)
    said = await hotline.ask(lambda s: set(s.scalars(asked)))
    assert {"is-it", "closing"} <= said
    assert not {prompt for prompt in said if prompt.startswith("is-it-")}, "the ledger has a caller's surname"


async def test_lawyer_is_verified_by_firm_name_licence_and_own_number(hotline):
    agent = await hotline.agent_signs_in("602")
    caller = await hotline.rings(from_=LAWYER)
    await caller.answered()
    await caller.keys("1")
    await caller.hears("ask-firm")
    await caller.keys("54#")
    await caller.hears("ask-name")
    await caller.keys("954#")
    await caller.hears("ask-licence")
    await caller.keys("0417#")
    await caller.hears("ask-own-number")
    await caller.keys("1")
    await caller.hears("identity-proven")
    await caller.keys("3")
    offer = await agent.rings()
    assert offer.display.startswith("律师 已核身 时间")
    await offer.picks_up()
    await offer.hears("whisper-lawyer-verified-time")
    await caller.hears("is-it-lawyer-738b")
    caller.hang_up()
    await offer.ended()
    assert (await hotline.ending()).hung_up_by == "caller"
    await hotline.duty_becomes("602", "wrap_up")


async def test_lawyer_calling_from_the_office_keys_the_registered_mobile(hotline):
    caller = await hotline.rings(from_=LANDLINE)
    await caller.answered()
    await caller.keys("154#954#0417#")
    await caller.hears("ask-mobile")
    await caller.keys("15400002001#")
    await caller.hears("identity-proven")
    caller.hang_up()
    await hotline.ending()
    assert (await hotline.identity()).verified


@pytest.mark.fake_only
@pytest.mark.parametrize("name", ["79", "29", "39"], ids=["shan", "chan", "dan"])
async def test_every_reading_of_a_polyphone_is_accepted(hotline, name):
    caller = await hotline.rings(from_="15400002003")  # 单文博: W B after 单's three readings
    await caller.answered()
    await caller.keys(f"165#{name[0]}92#2935#1")
    await caller.hears("identity-proven")
    caller.hang_up()
    await hotline.ending()


WRONG_PARTY = {
    "mobile": ("215400001002#", "12345#", "99#"),
    "case": ("1", "54321#", "99#"),
    "name": ("1", "12345#", "22#"),
}
WRONG_LAWYER = {
    "firm": ("22#", "954#", "0417#", "1"), "name": ("54#", "222#", "0417#", "1"),
    "licence": ("54#", "954#", "7777#", "1"), "mobile": ("54#", "954#", "0417#", "215400002002#"),
}  # fmt: skip


@pytest.mark.real_for("case")
@pytest.mark.parametrize("wrong", WRONG_PARTY)
async def test_party_with_a_wrong_element_three_times_hears_nothing_of_the_case_and_reaches_an_agent_as_unverified(
    hotline, wrong
):
    await unverified(hotline, PARTY, "2", WRONG_PARTY[wrong], wrong, "当事人")


@pytest.mark.real_for("licence")
@pytest.mark.parametrize("wrong", WRONG_LAWYER)
async def test_lawyer_with_a_wrong_element_three_times_hears_nothing_of_the_case_and_reaches_an_agent_as_unverified(
    hotline, wrong
):
    await unverified(hotline, LAWYER, "1", WRONG_LAWYER[wrong], wrong, "律师")


WORDS = {"mobile": "手机号", "case": "案号", "name": "姓名", "firm": "律所", "licence": "执业证号"}


async def unverified(hotline, number, role, keys, wrong, said):
    agent = await hotline.agent_signs_in("603")
    caller = await hotline.rings(from_=number)
    await caller.answered()
    for attempt in range(3):
        await caller.keys(role)
        for entry in keys:
            await asyncio.sleep(0.3)
            await caller.keys(entry)
        await caller.hears("identity-retry" if attempt < 2 else "cannot-verify")
    await caller.hears("ask-need")
    await caller.keys("2")
    offer = await agent.rings()
    assert f"{said} 未核身 缺" in offer.display
    assert WORDS[wrong] in offer.display
    assert "案 " not in offer.display
    await offer.picks_up()
    role_id = "party" if role == "2" else "lawyer"
    await offer.hears(f"whisper-{role_id}-unverified-material")
    await caller.hears("opening-agent-603", partly=True)
    offer.hang_up()
    await caller.hears("closing")
    caller.hang_up()
    await hotline.ending()
    identity = await hotline.identity()
    assert not identity.verified
    assert wrong in identity.missing.split()
    said_to_caller = {heard.prompt for heard in await caller.transcript()}
    assert not {prompt for prompt in said_to_caller if prompt.startswith(("identity-proven", "is-it"))}


QUESTIONED = [state for state in KEYS if state in QUESTIONS]


@pytest.mark.real_for("GREETING", "ASKING_NEED")
@pytest.mark.parametrize("state", [State.GREETING, *QUESTIONED], ids=lambda state: state.name)
async def test_zero_is_a_person_at_every_question(hotline, state):
    agent = await hotline.agent_signs_in("604")
    caller, _ = await reach(hotline, state)
    await caller.keys("0")
    await caller.hears("transferring")
    offer = await agent.rings()
    await offer.picks_up()
    await caller.hears("opening-agent-604", partly=True)
    caller.hang_up()
    await offer.ended()
    assert (await hotline.ending()).outcome == "handled"


@pytest.mark.real_for("LEAVING")
@pytest.mark.parametrize("state", [State.CLOSING, State.LEAVING], ids=lambda state: state.name)
async def test_zero_after_the_closing_is_a_person_again(hotline, state):
    agent = await hotline.agent_signs_in("605")
    caller, _ = await reach(hotline, state, agent)
    await caller.keys("0")
    await caller.hears("transferring")
    again = await agent.rings(timeout_s=40)  # after the wrap-up
    await again.picks_up()
    await caller.hears("opening-agent-605", partly=True)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"


@pytest.mark.real_for("ASKING_ROLE")
@pytest.mark.parametrize("state", QUESTIONED, ids=lambda state: state.name)
async def test_silence_is_asked_three_times_and_then_the_call_goes_on(hotline, state):
    caller, _ = await reach(hotline, state)
    for _ in range(2):
        await caller.hears("entry-missing", within_s=25)
    if state in (State.ASKING_ROLE, State.ASKING_NEED):
        await caller.hears("nobody-signed-in", within_s=25)
        await hotline.call_is(State.WAITING)
    else:
        await caller.hears("cannot-verify", within_s=25)
        await hotline.call_is(State.ASKING_NEED)
    caller.hang_up()
    await hotline.ending()


@pytest.mark.real_for("PARTY_CASE")
@pytest.mark.parametrize("state", [s for s in ENTRIES if s in KEYS], ids=lambda state: state.name)
async def test_an_impossible_entry_is_refused_and_a_star_starts_over(hotline, state):
    caller, _ = await reach(hotline, state)
    await caller.keys("2#")
    await caller.hears("entry-invalid")
    await caller.keys("23*")
    await caller.hears("entry-cleared")
    await hotline.call_is(state)
    caller.hang_up()
    await hotline.ending()


async def test_typing_over_a_prompt_stops_it(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    await caller.hears("ask-case", partly=True)
    await caller.keys("1")
    await asyncio.sleep(1)
    heard = [one for one in await caller.transcript(["ask-case", "ask-name"]) if one.prompt == "ask-case"]
    assert heard[0].cut_at_s is not None or heard[0].whole
    await caller.keys("2345#99#")
    await caller.hears("identity-proven")
    caller.hang_up()
    await hotline.ending()


@pytest.mark.real_for("RINGING", "OFFERING", "WHISPERING", "TALKING", "RATING")
@pytest.mark.parametrize(
    "state",
    [State.RINGING, *KEYS, *WITH_AGENT],
    ids=lambda state: state.name,
)
async def test_caller_may_hang_up_at_any_state_and_nothing_stays_behind(hotline, state):
    agent = await hotline.agent_signs_in("606") if state in WITH_AGENT else None
    caller, offer = await reach(hotline, state, agent)
    caller.hang_up()
    ending = await hotline.ending()
    assert ending.hung_up_by == "caller"
    if offer is not None:
        await offer.ended()
        await hotline.duty_becomes("606", "idle" if state in (State.OFFERING, State.WHISPERING) else "wrap_up")
    await hotline.nothing_is_left()


async def test_caller_may_hang_up_while_the_identity_is_checked(hotline):
    caller, _ = await reach(hotline, State.PARTY_NAME)
    await caller.keys("99#")
    caller.hang_up()
    await hotline.ending(within_s=10)
    await hotline.nothing_is_left()


@pytest.mark.real_for("486-busy", "603-refused")
@pytest.mark.parametrize(("code", "outcome"), [(486, "busy"), (603, "refused"), (480, "no_answer")])
async def test_agent_who_refuses_is_paused_and_the_offer_goes_on(hotline, code, outcome):
    first = await hotline.agent_signs_in("607")
    second = await hotline.agent_signs_in("608")
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await caller.keys("0")
    (await first.rings()).refuses(code)
    offer = await second.rings()
    await offer.picks_up()
    await caller.hears("opening-agent-608", partly=True)
    assert await hotline.duty("607") == "no_answer"
    caller.hang_up()
    await hotline.ending()
    assert await hotline.offers() == [
        ("607", "offered"), ("607", outcome), ("608", "offered"), ("608", "answered"), ("608", "joined"),
    ]  # fmt: skip
    resuming = await first.dials(f"*14{hotline.access['607'].pin}")
    await resuming.hears("agent-resumed")
    await hotline.duty_becomes("607", "idle")


async def test_agent_who_does_not_answer_is_rung_three_rings_and_the_offer_goes_on(hotline):
    first = await hotline.agent_signs_in("609")
    second = await hotline.agent_signs_in("610")
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await caller.keys("0")
    ignored = await first.rings()
    offer = await second.rings(timeout_s=20)
    assert 10.5 < offer.began_at - ignored.began_at < 12.5
    await offer.picks_up()
    await caller.hears("opening-agent-610", partly=True)
    caller.hang_up()
    await hotline.ending()
    assert ("609", "no_answer") in await hotline.offers()
    assert await hotline.duty("609") == "no_answer"


async def test_agent_whose_phone_is_gone_is_passed_over(hotline):
    gone = await hotline.agent_signs_in("611")
    there = await hotline.agent_signs_in("612")
    await gone.unregister()
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await caller.keys("0")
    offer = await there.rings()
    await offer.picks_up()
    await caller.hears("opening-agent-612", partly=True)
    caller.hang_up()
    await hotline.ending()
    assert ("611", "unreachable") in await hotline.offers()


async def test_agent_who_hangs_up_in_the_whisper_is_paused_and_the_caller_waits_on(hotline):
    first = await hotline.agent_signs_in("601")
    second = await hotline.agent_signs_in("602")
    caller, offer = await reach(hotline, State.WHISPERING, first)
    offer.hang_up()
    again = await second.rings()
    await again.picks_up()
    await caller.hears("opening-agent-602", partly=True)
    caller.hang_up()
    assert (await hotline.ending()).agent == "602"
    assert await hotline.duty("601") == "no_answer"


async def test_agent_hangs_up_first_and_the_caller_hears_the_closing(hotline):
    agent = await hotline.agent_signs_in("603")
    caller, offer = await reach(hotline, State.TALKING, agent)
    offer.hang_up()
    await caller.hears("closing")
    await caller.ended()
    ending = await hotline.ending()
    assert ending.hung_up_by == "hotline"
    assert abs(ending.after_closing_s - 5.0) < 0.3


async def test_two_callers_and_one_agent(hotline):
    agent = await hotline.agent_signs_in("604")
    first, offer = await reach(hotline, State.TALKING, agent)
    second = await hotline.rings(from_=STRANGER)
    await second.answered()
    await second.keys("0")
    await second.hears("transferring")
    await second.hears("hold-music")
    await second.hears("position-1", within_s=40)
    await asyncio.sleep(4)
    waits = {one.prompt for one in await second.transcript(["wait-1", "wait-2", "wait-3", "wait-4"]) if one.whole}
    assert waits, "how long depends on how long the last calls of this hotline took"
    await offer.keys("*6")
    await offer.ended()
    ready = await agent.dials("*15")
    await ready.hears("agent-ready")
    await ready.ended()
    next_offer = await agent.rings()
    await next_offer.picks_up()
    await second.hears("opening-agent-604", partly=True)
    second.hang_up()
    await first.ended()
    await hotline.ending()


async def test_keys_of_the_caller_reach_the_agent(hotline):
    agent = await hotline.agent_signs_in("605")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await caller.keys("159")
    await asyncio.sleep(0.5)
    assert offer.digits.endswith("159")
    caller.hang_up()
    await hotline.ending()


async def test_agents_sign_in_pause_resume_and_sign_out_with_their_pin(hotline):
    phone = await hotline.phone("606")
    pin = hotline.access["606"].pin
    call = await phone.dials("*11")
    await call.hears("agent-enter-pin")
    await call.keys("9999#")
    await call.hears("agent-pin-wrong")
    await call.hears("agent-enter-pin")
    await call.keys(f"{pin}#")
    await call.hears("agent-signed-in")
    await call.ended()
    assert await hotline.duty("606") == "idle"
    for code, prompt, duty in (
        ("*13", "agent-paused", "paused"), ("*14", "agent-resumed", "idle"), ("*12", "agent-signed-out", "signed_out"),
    ):  # fmt: skip
        call = await phone.dials(code + pin)
        await call.hears(prompt)
        await call.ended()
        assert await hotline.duty("606") == duty
    call = await phone.dials(f"*13{pin}")
    await call.hears("agent-not-signed-in")
    await call.ended()


async def test_a_hotline_that_answers_at_once_is_answered_by_the_dialplan_and_says_its_opening():
    async with FakeHouse(answering={"after_rings": 0}) as hotline:
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        assert caller.rings == 0
        assert caller.answered_after_s < 0.01
        await caller.hears("recording-notice")
        asked = [one.uri for one in hotline.asterisk.requests]
        assert not [uri for uri in asked if uri.endswith(("/answer", "/ring"))]
        caller.hang_up()
        await hotline.ending()


@pytest.mark.parametrize("rings", [1, 2, 3])
async def test_the_hotline_answers_after_as_many_rings_as_it_is_told_and_never_later_than_three(rings):
    async with FakeHouse(answering={"after_rings": rings}) as hotline:
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        assert caller.rings == rings
        assert caller.answered_after_s < 11.1
        caller.hang_up()
        await hotline.ending()


async def test_caller_may_hang_up_in_the_closing_at_the_ceiling():
    async with FakeHouse(ending={"call_ceiling_s": 61.0, "warn_before_ceiling_s": 60.0}) as hotline:
        caller, _ = await reach(hotline, State.WAITING)
        await caller.hears("closing", within_s=90)
        await hotline.call_is(State.OVERTIME)
        caller.hang_up()
        assert (await hotline.ending()).hung_up_by == "caller"
        await hotline.nothing_is_left()


@pytest.mark.hotline_settings(ending={"call_ceiling_s": 75.0, "warn_before_ceiling_s": 60.0})
async def test_a_call_has_a_ceiling_warned_a_minute_before(hotline):
    agent = await hotline.agent_signs_in("607")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await caller.hears("ceiling-near", within_s=30)
    await caller.hears("closing", within_s=75)
    await offer.ended()
    await caller.ended()
    assert (await hotline.ending()).hung_up_by == "hotline"


async def test_an_agent_who_was_added_since_the_start_signs_in_and_takes_a_call():
    async with FakeHouse() as hotline:
        hotline.access["650"] = await hotline.ask(lambda session: new_agent(session, "650", "新来"))
        agent = await hotline.agent_signs_in("650")
        caller, offer = await reach(hotline, State.TALKING, agent)
        caller.hang_up()
        await offer.ended()
        assert (await hotline.ending()).agent == "650"
