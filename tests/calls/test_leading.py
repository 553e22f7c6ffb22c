"""Leaders and mentors in an agent's call: who hears whom, who goes on with the caller, what a death leaves. AGT-5."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select

from ari_app.flow.leading import Act, Order
from ari_app.flow.sop import State
from ari_app.settings import PROJECT
from ari_app.store import models
from tests.calls.house import LAWYER, PARTY, STRANGER, FakeHouse, Script
from tests.calls.paths import reach

AUDIO = PROJECT / "dialplan" / "prompts" / "audio"
AGENT_SAYS, CALLER_SAYS, LEADER_SAYS = "fallback-noted", "fallback-goodbye", "ceiling-near"
"""Prompts of some length that nobody plays here, spoken by the phones."""
SETTLES_S = 0.8
MODES = {"1": "leading-listen", "2": "leading-whisper", "3": "leading-join"}


async def in_talk(hotline: Script, from_: str = PARTY) -> tuple[Any, Any]:
    """Agent 601 talks with a caller: the caller's call, the agent's."""
    agent = await hotline.agent_signs_in("601")
    return await reach(hotline, State.TALKING, agent, from_=from_)


async def dials(hotline: Script, code: str, *said: str, number: str = "612") -> tuple[Any, Any]:
    """The phone of leader `number`, signed in, that has dialled `code` and heard what is `said`: phone and call."""
    phone = await hotline.agent_signs_in(number)
    call = await phone.dials(code)
    await call.answered()
    for prompt in said:
        await call.hears(prompt)
        if prompt in MODES.values():
            await call.hears(f"leading-agent-{code[3:]}")
    await asyncio.sleep(SETTLES_S)
    return phone, call


async def says(call: Any, prompt: str) -> None:
    await call.says(AUDIO / f"{prompt}.alaw")
    await asyncio.sleep(SETTLES_S)


async def heard(call: Any, prompt: str) -> bool:
    return bool(await call.transcript([prompt]))


async def acts(hotline: Script) -> list[tuple[str, str, str, str | None]]:
    """What is written of leaders' acts since the last call came, in order."""
    last = select(func.coalesce(func.max(models.Call.at), 0.0)).scalar_subquery()
    rows = select(models.Supervision).where(models.Supervision.at >= last)
    rows = rows.order_by(models.Supervision.at, models.Supervision.n, models.Supervision.event)
    return [(row.who, row.event, row.what, row.whom) for row in await hotline.ask(lambda s: s.scalars(rows).all())]


@pytest.mark.real_for("*83601-leading-join-True-True")
@pytest.mark.parametrize(("code", "said", "agent_hears", "caller_hears"), [
    ("*81601", "leading-listen", False, False),
    ("*82601", "leading-whisper", True, False),
    ("*83601", "leading-join", True, True),
])  # fmt: skip
async def test_who_hears_whom(hotline, code, said, agent_hears, caller_hears):
    caller, agent = await in_talk(hotline)
    _, leader = await dials(hotline, code, said)
    await says(agent, AGENT_SAYS)
    await says(caller, CALLER_SAYS)
    await leader.hears(AGENT_SAYS)
    await leader.hears(CALLER_SAYS)
    await caller.hears(AGENT_SAYS)
    await agent.hears(CALLER_SAYS)
    await says(leader, LEADER_SAYS)
    assert await heard(agent, LEADER_SAYS) is agent_hears
    assert await heard(caller, LEADER_SAYS) is caller_hears
    assert not await heard(leader, LEADER_SAYS)
    assert not await heard(agent, said)
    leader.hang_up()
    await says(agent, AGENT_SAYS)
    await caller.hears(AGENT_SAYS)
    caller.hang_up()
    assert (await hotline.ending()).agent == "601"
    await hotline.nothing_is_left()
    act = code[:3].replace("*81", "listen").replace("*82", "whisper").replace("*83", "join")
    assert await acts(hotline) == [("612", "began", act, "601"), ("612", "ended", act, "601")]


async def test_one_key_changes_what_the_leader_does(hotline):
    caller, agent = await in_talk(hotline)
    _, leader = await dials(hotline, "*81601", "leading-listen")
    for key, agent_hears, caller_hears in (("2", True, False), ("3", True, True), ("1", False, False)):
        await leader.keys(key)
        await leader.hears(MODES[key])
        await asyncio.sleep(SETTLES_S)
        before = [len(await call.transcript([LEADER_SAYS])) for call in (agent, caller)]
        await says(leader, LEADER_SAYS)
        after = [len(await call.transcript([LEADER_SAYS])) for call in (agent, caller)]
        assert [now > then for then, now in zip(before, after, strict=True)] == [agent_hears, caller_hears]
        await says(caller, CALLER_SAYS)
        await leader.hears(CALLER_SAYS)
    assert (agent.digits, caller.digits) == ("", "")
    leader.hang_up()
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()
    told = [(event, what) for _, event, what, _ in await acts(hotline)]
    assert told.count(("began", "listen")) == told.count(("ended", "listen")) == 2


@pytest.mark.real_for("4")
@pytest.mark.parametrize("how", ["*84601", "4"])
async def test_the_leader_goes_on_with_the_caller_and_the_agent_wraps_up(hotline, how):
    caller, agent = await in_talk(hotline)
    if how == "4":
        _, leader = await dials(hotline, "*81601", "leading-listen")
        await leader.keys("4")
    else:
        _, leader = await dials(hotline, how)
    await agent.ended()
    await hotline.duty_becomes("601", "wrap_up")
    await hotline.duty_becomes("612", "talking")
    await asyncio.sleep(SETTLES_S)
    await says(leader, LEADER_SAYS)
    await caller.hears(LEADER_SAYS)
    await says(caller, CALLER_SAYS)
    await leader.hears(CALLER_SAYS)
    await leader.keys("*5")
    await caller.hears("disclaimer")
    await leader.keys("*6")
    await leader.ended()
    await hotline.duty_becomes("612", "wrap_up")
    await caller.hears("closing", within_s=20)
    ending = await hotline.ending(within_s=15)
    assert (ending.outcome, ending.agent) == ("handled", "612")
    assert ("601", "joined") in await hotline.offers()
    assert ("612", "joined") in await hotline.offers()
    talked = select(models.TalkTime).filter_by(call_id=ending.call_id).order_by(models.TalkTime.at)
    billed = await hotline.ask(lambda s: s.scalars(talked).all())
    assert [row.agent for row in billed] == ["601", "612"]
    assert billed[0].until == billed[1].at
    assert sum(row.until - row.at for row in billed) == pytest.approx(ending.talk_s)
    assert ("612", "done", "take_over", "601") in await acts(hotline)
    await hotline.nothing_is_left()


async def test_whoever_listens_is_told_when_the_talk_is_over(hotline):
    caller, agent = await in_talk(hotline)
    _, leader = await dials(hotline, "*81601", "leading-listen")
    await agent.keys("*6")
    await caller.hears("closing")
    await leader.hears("leading-over")
    await leader.ended()
    assert leader.hung_up_by == "them"
    await hotline.ending(within_s=15)
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- over the fake alone


@pytest.fixture
def fake() -> FakeHouse:
    return FakeHouse()


@pytest.mark.parametrize(("number", "code", "said"), [
    ("602", "*81601", "leading-not-allowed"),
    ("610", "*82601", "leading-not-allowed"),
    ("611", "*85601", "leading-not-allowed"),
    ("611", "*87", "leading-not-allowed"),
    ("612", "*81603", "leading-agent-signed-out"),
    ("612", "*81999", "leading-no-such-agent"),
    ("612", "*81612", "leading-not-talking"),
    ("612", "*81", "entry-invalid"),
    ("612", "*88601*9", "entry-invalid"),
    ("612", "*85601", "leading-agent-on-call"),
    ("612", "*86601", "leading-agent-on-call"),
    ("612", "*86603", "leading-agent-signed-out"),
    ("612", "*87", "leading-nobody-waits"),
])  # fmt: skip
async def test_what_may_not_or_cannot_be_done_is_said(fake, number, code, said):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, code, said, number=number)
        await leader.ended()
        assert not await heard(agent, said)
        assert (await hotline.duty("601"), await hotline.duty(number)) == ("talking", "idle")
        if said != "entry-invalid":
            (row,) = await hotline.ask(lambda s: s.scalars(select(models.Supervision)).all())
            assert (row.who, row.event, row.detail) == (number, "refused", said)
        caller.hang_up()
        await hotline.nothing_is_left()


async def test_who_is_not_signed_in_orders_nothing(fake):
    async with fake as hotline:
        await in_talk(hotline)
        phone = await hotline.phone("612")
        call = await phone.dials("*81601")
        await call.answered()
        await call.hears("agent-not-signed-in")
        await call.ended()


async def test_an_inspector_who_presses_the_wrong_key_goes_on_listening(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen", number="610")
        await leader.keys("2")
        await leader.hears("leading-not-allowed")
        await says(leader, LEADER_SAYS)
        assert not await heard(agent, LEADER_SAYS)
        await says(caller, CALLER_SAYS)
        await leader.hears(CALLER_SAYS)
        assert ("610", "refused", "whisper", "601") in await acts(hotline)


async def test_two_listen_one_takes_over_and_the_other_is_told(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        _, mentor = await dials(hotline, "*81601", "leading-listen", number="611")
        await asyncio.gather(leader.keys("4"), mentor.keys("4"))
        await agent.ended()
        await asyncio.sleep(5)
        talking = [number for number in ("611", "612") if await hotline.duty(number) == "talking"]
        assert len(talking) == 1
        assert {leader.ended_at is None, mentor.ended_at is None} == {True, False}
        caller.hang_up()
        assert (await hotline.ending()).agent == talking[0]
        await hotline.nothing_is_left()


async def test_a_paused_leader_takes_over_and_is_not_offered_calls_meanwhile(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        phone = await hotline.agent_signs_in("612")
        pausing = await phone.dials("*13")
        await pausing.ended()
        listening = await phone.dials("*81601")
        await listening.hears("leading-agent-601")
        await asyncio.sleep(SETTLES_S)
        await listening.keys("4")
        await agent.ended()
        await hotline.duty_becomes("612", "talking")
        caller.hang_up()
        await listening.ended()
        await hotline.duty_becomes("612", "wrap_up")
        await hotline.nothing_is_left()


async def test_a_disclaimer_is_heard_whole_before_the_leader_takes_over(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        await agent.keys("*5")
        await leader.keys("4")
        assert (await caller.hears("disclaimer")).whole
        await agent.ended()
        await hotline.duty_becomes("612", "talking")


# who dies


@pytest.mark.parametrize("mode", ["1", "2", "3"])
async def test_when_the_leaders_phone_dies_the_talk_goes_on(fake, mode):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        await leader.keys(mode)
        await asyncio.sleep(3)
        leader.hang_up()
        await asyncio.sleep(1)
        assert not [one for one in hotline.asterisk.ghosts() if "lead" in one or "snoop" in one]
        await says(caller, CALLER_SAYS)
        await agent.hears(CALLER_SAYS)
        await hotline.call_is(State.TALKING)
        assert {event for _, event, _, _ in await acts(hotline)} == {"began", "ended"}


@pytest.mark.parametrize("mode", ["1", "2", "3"])
async def test_when_the_controller_dies_the_listening_ends_and_the_talk_never_notices(fake, mode):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        await leader.keys(mode)
        await asyncio.sleep(3)
        heard_before = [len(call.ear.sounds) for call in (caller, agent)]
        await hotline.controller_dies()
        await asyncio.sleep(1)
        await hotline.controller_starts()
        await leader.ended()
        await asyncio.sleep(1)
        assert [len(call.ear.sounds) for call in (caller, agent)] == heard_before
        assert not [one for one in hotline.asterisk.ghosts() if "lead" in one or "snoop" in one]
        await hotline.call_is(State.TALKING)
        await says(caller, CALLER_SAYS)
        await agent.hears(CALLER_SAYS)
        told = await acts(hotline)
        assert sum(event == "began" for _, event, _, _ in told) == sum(event == "ended" for _, event, _, _ in told)
        await agent.keys("*6")
        await caller.hears("closing")


async def test_when_the_controller_dies_after_the_taking_over_the_leader_goes_on(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*84601", "leading-take-over")
        await agent.ended()
        await asyncio.sleep(5)
        await hotline.controller_dies()
        await asyncio.sleep(1)
        await hotline.controller_starts()
        assert (await hotline.duty("601"), await hotline.duty("612")) == ("wrap_up", "talking")
        await asyncio.sleep(12)  # so long that the ghosts were looked for
        await hotline.call_is(State.TALKING)
        await says(caller, CALLER_SAYS)
        await leader.hears(CALLER_SAYS)
        assert await hotline.duty("612") == "talking"
        await leader.keys("*6")
        await caller.hears("closing")
        ending = await hotline.ending(within_s=15)
        assert (ending.outcome, ending.agent) == ("handled", "612")
        billed = await hotline.ask(lambda s: s.scalars(select(models.TalkTime)).all())
        assert ending.talk_s == pytest.approx(sum(row.until - row.at for row in billed))
        await hotline.nothing_is_left()


async def test_a_leader_who_took_over_and_seeks_the_second_line_is_found_again_after_a_death(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*84601", "leading-take-over")
        await agent.ended()
        await leader.keys("*1")
        await hotline.call_is(State.CONSULT_RINGING)
        await asyncio.sleep(1)
        await hotline.controller_dies()
        await asyncio.sleep(1)
        await hotline.controller_starts()
        await asyncio.sleep(2)
        await hotline.call_is(State.CONSULT_RINGING)
        assert leader.ended_at is None
        await leader.keys("*0")
        await hotline.call_is(State.TALKING)
        await asyncio.sleep(1)
        await says(caller, CALLER_SAYS)
        await leader.hears(CALLER_SAYS)


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.012, 0.02])
async def test_a_controller_that_dies_in_the_taking_over_leaves_the_caller_with_one_of_them(fake, after_s):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        pressing = asyncio.create_task(leader.keys("4"))
        await asyncio.sleep(0.1 + after_s)
        await hotline.controller_dies()
        await pressing
        await asyncio.sleep(1)
        await hotline.controller_starts()
        await asyncio.sleep(3)
        await hotline.call_is(State.TALKING)
        duties = (await hotline.duty("601"), await hotline.duty("612"))
        assert duties in (("talking", "idle"), ("wrap_up", "talking"))
        who = leader if duties[1] == "talking" else agent
        assert (leader.ended_at is None, agent.ended_at is None) == (who is leader, who is agent)
        await says(caller, CALLER_SAYS)
        await who.hears(CALLER_SAYS)
        await who.keys("*6")
        await caller.hears("closing")
        await hotline.ending(within_s=15)
        await hotline.nothing_is_left()


async def test_a_link_that_breaks_ends_no_listening_and_no_talk(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        hotline.asterisk.drop_link()
        await asyncio.sleep(2)
        hotline.asterisk.restore_link()
        await asyncio.sleep(2)
        await leader.keys("2")
        await leader.hears("leading-whisper")
        await says(leader, LEADER_SAYS)
        assert await heard(agent, LEADER_SAYS)
        assert not await heard(caller, LEADER_SAYS)


@pytest.mark.parametrize("who", ["leader", "agent", "caller"])
async def test_whoever_hangs_up_while_the_link_is_broken_ends_what_is_theirs(fake, who):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        hotline.asterisk.drop_link()
        {"leader": leader, "agent": agent, "caller": caller}[who].hang_up()
        await asyncio.sleep(1)
        hotline.asterisk.restore_link()
        await asyncio.sleep(8)
        assert leader.ended_at is not None
        assert (agent.ended_at is None) == (who == "leader")
        assert not [one for one in hotline.asterisk.ghosts() if "lead" in one or "snoop" in one]
        assert not hotline.reception.leading.sessions()
        assert (await acts(hotline))[-1][1] == "ended"


# with a second line


async def test_a_listener_stays_with_the_agent_in_a_consultation_and_takes_nobody_over_there(fake):
    async with fake as hotline:
        await lawyer_on_duty(hotline, "608")
        caller, agent = await in_talk(hotline)
        _, leader = await dials(hotline, "*81601", "leading-listen")
        lawyer_phone = hotline.asterisk.phones.find("608")
        await agent.keys("*1")
        lawyer = await lawyer_phone.rings()
        await lawyer.picks_up()
        await hotline.call_is(State.CONSULTING)
        await asyncio.sleep(1)
        await says(lawyer, AGENT_SAYS)
        await leader.hears(AGENT_SAYS)
        await leader.keys("4")
        await leader.hears("leading-not-now")
        await hotline.call_is(State.CONSULTING)
        await says(lawyer, AGENT_SAYS)
        await leader.hears(AGENT_SAYS)
        caller.hang_up()
        await leader.ended()
        await hotline.nothing_is_left()


async def lawyer_on_duty(hotline: FakeHouse, number: str) -> Any:
    await hotline.house.desk.set_skills(number, {"second_line": 3, "party": 0, "lawyer": 0})
    return await hotline.agent_signs_in(number)


# orders


@pytest.mark.parametrize(("code", "said", "duty"), [
    ("*85601", "leading-paused", "paused"), ("*86601", "leading-signed-out", "signed_out"),
])  # fmt: skip
async def test_an_agent_is_paused_or_signed_out_by_force(fake, code, said, duty):
    async with fake as hotline:
        await hotline.agent_signs_in("601")
        _, leader = await dials(hotline, code, said)
        await leader.ended()
        assert await hotline.duty("601") == duty
        last = select(models.AgentState).where(models.AgentState.agent == "601").order_by(models.AgentState.id.desc())
        assert "by 612" in (await hotline.ask(lambda s: s.scalars(last).first())).reason
        assert [event for _, event, _, _ in await acts(hotline)] == ["done"]


@pytest.mark.parametrize("paused", [False, True])
async def test_the_caller_who_waits_longest_is_pulled_to_the_leaders_phone(fake, paused):
    async with fake as hotline:
        first, _ = await reach(hotline, State.WAITING, from_=STRANGER)
        await asyncio.sleep(2)
        second, _ = await reach(hotline, State.WAITING, from_=LAWYER)
        phone = await hotline.phone("612")
        hotline.house.desk._holding = True  # nobody is offered anything on the way
        signing = await phone.dials(f"*11{hotline.access['612'].pin}")
        await signing.ended()
        if paused:
            pausing = await phone.dials("*13")
            await pausing.ended()
        call = await phone.dials("*87")
        await call.answered()
        await call.hears("leading-pulled")
        await call.ended()
        offer = await phone.rings()
        await offer.picks_up()
        await first.hears("opening-agent-612")
        assert not await heard(second, "opening-agent-612")
        assert ("612", "done", "pull", None) in await acts(hotline)


async def test_an_agent_is_moved_to_another_line(fake):
    async with fake as hotline:
        await hotline.agent_signs_in("601")
        _, leader = await dials(hotline, "*88601*2", "leading-moved-lawyer")
        await leader.ended()
        skills = hotline.house.desk.skills_of("601")
        assert (skills["lawyer"], skills.get("party", 0), skills.get("second_line", 0)) == (3, 0, 0)
        (row,) = await hotline.ask(lambda s: s.scalars(select(models.Supervision)).all())
        assert (row.event, row.what, row.whom, row.detail) == ("done", "move", "601", "lawyer")


async def test_the_leaders_own_phone_is_rung_and_listens(fake):
    async with fake as hotline:
        caller, agent = await in_talk(hotline)
        phone = await hotline.agent_signs_in("612")
        name = await hotline.reception.leading.ring("612", Order(Act.WHISPER, "601"))
        ringing = await phone.rings()
        assert ringing.display == "指导 601"
        await ringing.picks_up()
        await ringing.hears("leading-whisper")
        await ringing.hears("leading-agent-601")
        await asyncio.sleep(SETTLES_S)
        await says(ringing, LEADER_SAYS)
        assert await heard(agent, LEADER_SAYS)
        assert not await heard(caller, LEADER_SAYS)
        (now,) = hotline.reception.leading.sessions()
        assert (now.session, now.who, now.whom, now.act) == (name, "612", "601", Act.WHISPER)
        ringing.hang_up()
        await asyncio.sleep(1)
        assert not hotline.reception.leading.sessions()


async def test_a_leader_who_does_not_pick_up_listens_to_nobody(fake):
    async with fake as hotline:
        await in_talk(hotline)
        phone = await hotline.agent_signs_in("612")
        await hotline.reception.leading.ring("612", Order(Act.LISTEN, "601"))
        await phone.rings()
        await asyncio.sleep(15)
        assert not hotline.reception.leading.sessions()
        assert await acts(hotline) == [("612", "refused", "listen", "601")]
        assert await hotline.duty("612") == "idle"


@pytest.mark.parametrize("told", ["nothing", "by the look at the channels"])
async def test_a_ring_whose_end_was_missed_is_over_and_the_phone_is_free(fake, told, monkeypatch):
    async with fake as hotline:
        await in_talk(hotline)
        phone = await hotline.agent_signs_in("612")
        leading = hotline.reception.leading
        if told == "nothing":
            monkeypatch.setattr(leading, "tell", lambda _: None)
        name = await leading.ring("612", Order(Act.LISTEN, "601"))
        ringing = await phone.rings()
        del hotline.house.client.mailboxes._open[name]  # no news of it is heard any more
        ringing.refuses()
        await asyncio.sleep(12 if told != "nothing" else 25)
        assert await acts(hotline) == [("612", "refused", "listen", "601")]
        assert not leading._ringing
        assert not hotline.house.desk._dialling
