"""The second line, as scripts: an agent asks, swaps, brings all three together, hands over, comes back; transfers; and
each of the legs that may end on the way. SOP-4, AGT-6.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import FakeHouse
from tests.calls.paths import reach

AGENT, LAWYER, OTHER = "601", "605", "602"


CLOSES_SOON = """
[hours.weekly]
monday = ["08:00-09:01"]
"""
"""Scripts begin on a Monday at nine."""


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def lawyer_signs_in(hotline: FakeHouse, number: str = LAWYER) -> Any:
    """An agent of the second line, and of no other."""
    phone = await hotline.agent_signs_in(number)
    skills = {"second_line": 5, "party": 0, "lawyer": 0}
    await hotline.house.desk.set_skills(number, skills)
    return phone


async def asks_the_lawyer(hotline: FakeHouse) -> tuple[Any, Any, Any, Any]:
    """Caller, agent's leg, lawyer's leg and lawyer's phone, in CONSULTING."""
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    asked = await lawyer.rings()
    assert asked.display.startswith("身份未知 未核身")
    await caller.hears("hold-music")
    await asked.picks_up()
    await asked.hears("whisper-unknown-unverified-none")
    await hotline.call_is(State.CONSULTING)
    return caller, offer, asked, lawyer


async def hears_whom(*talkers: Any) -> set[tuple[int, int]]:
    """Each who is there says something in turn; (who, by whom it was heard), by place."""
    found = set()
    for n, one in enumerate(talkers):
        if one.ended_at is not None:
            continue
        word = f"word-{n}-{sum(len(other.ear.sounds) for other in talkers)}"
        await one.says(word)
        for m, other in enumerate(talkers):
            if other is not one and any(sound.what == word and sound.complete for sound in other.ear.sounds):
                found.add((n, m))
    return found


CALLER_AND_AGENT = {(0, 1), (1, 0)}
AGENT_AND_LAWYER = {(1, 2), (2, 1)}
CALLER_AND_LAWYER = {(0, 2), (2, 0)}
ALL_THREE = CALLER_AND_AGENT | AGENT_AND_LAWYER | CALLER_AND_LAWYER


async def spent(hotline: FakeHouse) -> dict[tuple[str, str], float]:
    """Seconds by agent and company."""
    rows = await hotline.ask(lambda s: s.scalars(select(models.TalkTime)).all())
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        found[row.agent, row.company] = found.get((row.agent, row.company), 0.0) + row.until - row.at
    return found


async def test_who_hears_whom_in_each_mode(hotline):
    caller, agent, lawyer, _ = await asks_the_lawyer(hotline)
    three = (caller, agent, lawyer)
    assert await hotline.duty(AGENT) == "consulting"
    assert await hotline.duty(LAWYER) == "talking"
    assert await hears_whom(*three) == AGENT_AND_LAWYER
    await agent.keys("*2")
    await hotline.call_is(State.CONSULT_SWAPPED)
    await lawyer.hears("hold-music")
    assert await hears_whom(*three) == CALLER_AND_AGENT
    assert await hotline.duty(AGENT) == "talking"
    await agent.keys("*2")
    await hotline.call_is(State.CONSULTING)
    assert await hears_whom(*three) == AGENT_AND_LAWYER
    await agent.keys("*3")
    await hotline.call_is(State.THREE_WAY)
    assert await hears_whom(*three) == ALL_THREE
    await lawyer.keys("*5")
    await caller.hears("disclaimer")
    await agent.keys("*0")
    await hotline.call_is(State.TALKING)
    await lawyer.ended()
    assert await hears_whom(*three) == CALLER_AND_AGENT
    await hotline.duty_becomes(LAWYER, "wrap_up")
    await agent.keys("*6")
    await caller.hears("closing")
    await caller.ended(10)
    assert (await hotline.ending()).agent == AGENT
    await hotline.nothing_is_left()


async def test_handed_over_the_lawyer_has_the_caller_and_may_do_all_that_an_agent_may(hotline):
    caller, agent, lawyer, _ = await asks_the_lawyer(hotline)
    await asyncio.sleep(10)
    await agent.keys("*4")
    await agent.ended()
    await hotline.call_is(State.TALKING)
    assert await hears_whom(caller, agent, lawyer) == CALLER_AND_LAWYER
    await hotline.duty_becomes(AGENT, "wrap_up")
    assert await hotline.duty(LAWYER) == "talking"
    await lawyer.keys("*5")
    await caller.hears("disclaimer")
    await lawyer.keys("*6")
    await caller.hears("closing")
    await caller.ended(10)
    ending = await hotline.ending()
    assert (ending.outcome, ending.agent) == ("handled", LAWYER)
    await hotline.duty_becomes(LAWYER, "wrap_up")
    times = await spent(hotline)
    assert times[AGENT, "agent"] == pytest.approx(times[LAWYER, "agent"], abs=0.1)
    assert times[AGENT, "agent"] == pytest.approx(10, abs=1)
    assert ending.talk_s == pytest.approx(times[AGENT, "caller"] + times[LAWYER, "caller"], abs=0.1)
    await hotline.nothing_is_left()


async def test_a_lawyer_who_took_over_asks_another(hotline):
    caller, agent, lawyer, _ = await asks_the_lawyer(hotline)
    await agent.keys("*4")
    await hotline.call_is(State.TALKING)
    other = await lawyer_signs_in(hotline, OTHER)
    await lawyer.keys("*1")
    asked = await other.rings()
    await asked.picks_up()
    await hotline.call_is(State.CONSULTING)
    assert await hears_whom(caller, lawyer, asked) == AGENT_AND_LAWYER
    await lawyer.keys("*0")
    await hotline.call_is(State.TALKING)
    caller.hang_up()
    assert (await hotline.ending()).agent == LAWYER
    await hotline.nothing_is_left()


MODES = {"consulting": "", "swapped": "*2", "three-way": "*3"}


@pytest.mark.parametrize("keys", MODES.values(), ids=MODES)
@pytest.mark.parametrize("who", ["caller", "agent", "lawyer"])
async def test_whoever_hangs_up_leaves_the_others_together(hotline, who, keys):
    caller, agent, lawyer, _ = await asks_the_lawyer(hotline)
    await agent.keys(keys)
    await asyncio.sleep(1)
    {"caller": caller, "agent": agent, "lawyer": lawyer}[who].hang_up()
    if who == "caller":
        await agent.ended()
        await lawyer.ended()
    else:
        await hotline.call_is(State.TALKING)
        left = lawyer if who == "agent" else agent
        assert await hears_whom(caller, left) == CALLER_AND_AGENT
        await left.keys("*6")
        await caller.hears("closing")
        await caller.ended(10)
    ending = await hotline.ending()
    assert ending.outcome == "handled"
    assert ending.agent == (LAWYER if who == "agent" else AGENT)
    for number in (AGENT, LAWYER):
        await hotline.duty_becomes(number, "wrap_up")
    await hotline.nothing_is_left()


@pytest.mark.parametrize("how", ["refuses", "busy", "no answer", "away"])
async def test_a_lawyer_who_does_not_take_it_is_paused_and_the_next_one_is_asked(hotline, how):
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    await asyncio.sleep(1)
    other = await lawyer_signs_in(hotline, OTHER)
    caller, offer = await reach(hotline, State.TALKING, agent)
    if how == "away":
        await lawyer.unregister()
    await offer.keys("*1")
    if how != "away":
        asked = await lawyer.rings()
        if how != "no answer":
            asked.refuses(603 if how == "refuses" else 486)
    asked = await other.rings(timeout_s=20)
    await asked.picks_up()
    await hotline.call_is(State.CONSULTING)
    assert await hotline.duty(LAWYER) == "no_answer"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_the_agent_may_come_back_before_anybody_answers(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    lawyer = await lawyer_signs_in(hotline)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    asked = await lawyer.rings()
    await offer.keys("*0")
    await asked.ended()
    await hotline.call_is(State.TALKING)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    await hotline.duty_becomes(LAWYER, "idle")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_nobody_free_in_ninety_seconds_and_a_work_order_is_opened_and_both_are_told(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    began = asyncio.get_running_loop().time()
    await offer.keys("*1")
    told = await caller.hears("second-line-answers-this", within_s=100)
    assert told.at_s + caller.began_at - began == pytest.approx(90, abs=1.5)
    await offer.hears("second-line-answers-this")
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    [order] = await hotline.ask(lambda s: s.scalars(select(models.WorkOrder)).all())
    assert (order.kind, order.must_answer, order.opened_by) == ("second_line", "second_line", AGENT)
    assert order.due_at - order.at == pytest.approx(4 * 3600)
    times_before = await hotline.duty(AGENT)
    assert times_before == "talking"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("how", ["hands over", "hangs up"])
async def test_an_agent_who_does_not_wait_for_the_lawyer_leaves_the_caller_waiting_for_one(hotline, how):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*1")
    await hotline.call_is(State.CONSULT_RINGING)
    if how == "hangs up":
        offer.hang_up()
    else:
        await offer.keys("*4")
    await hotline.call_is(State.TRANSFERRING)
    lawyer = await lawyer_signs_in(hotline)
    asked = await lawyer.rings()
    await asked.picks_up()
    await caller.hears(f"opening-agent-{LAWYER}")
    assert await hears_whom(caller, asked) == CALLER_AND_AGENT
    caller.hang_up()
    assert (await hotline.ending()).agent == LAWYER
    await hotline.nothing_is_left()


async def test_transferred_to_the_second_line_with_nobody_there_the_caller_is_told_and_the_call_is_closed(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys("*73#")
    await offer.ended()
    await caller.hears("transferring-second-line")
    await caller.hears("second-line-answers-this", within_s=100)
    await caller.hears("closing", within_s=30)
    await caller.ended(10)
    assert len(await hotline.ask(lambda s: s.scalars(select(models.WorkOrder)).all())) == 1
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_transferred_to_an_agent_the_caller_gets_that_one(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await hotline.agent_signs_in("603")
    other = await hotline.agent_signs_in(OTHER)
    await offer.keys(f"*7{OTHER}#")
    await offer.ended()
    asked = await other.rings()
    assert asked.display.startswith("身份未知 未核身")
    await caller.hears("transferring")
    await asked.picks_up()
    await caller.hears(f"opening-agent-{OTHER}")
    assert await hears_whom(caller, asked) == CALLER_AND_AGENT
    assert await hotline.duty(OTHER) == "talking"
    asked.hang_up()
    await caller.hears("closing")
    await caller.ended(10)
    assert (await hotline.ending()).agent == OTHER
    await hotline.nothing_is_left()


@pytest.mark.parametrize("free", [True, False])
async def test_a_transfer_waits_until_the_disclaimer_has_been_read_out(hotline, free):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    if free:
        await hotline.agent_signs_in(OTHER)
    await offer.keys("*5")
    await asyncio.sleep(1.0)
    await offer.keys(f"*7{OTHER}#")
    assert (await caller.hears("disclaimer")).whole
    await caller.hears("transferring" if free else "transfer-not-possible")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_lawyer_who_leaves_does_not_cut_off_the_disclaimer_that_the_other_two_hear(hotline):
    caller, offer, asked, _ = await asks_the_lawyer(hotline)
    await offer.keys("*3")
    await hotline.call_is(State.THREE_WAY)
    await offer.keys("*5")
    await asyncio.sleep(1.0)
    asked.hang_up()
    for side in (caller, offer):
        assert (await side.hears("disclaimer")).whole
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_transfer_to_an_agent_who_is_not_free_is_not_made(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await offer.keys(f"*7{OTHER}#")
    await caller.hears("transfer-not-possible")
    await hotline.call_is(State.TALKING)
    assert await hears_whom(caller, offer) == CALLER_AND_AGENT
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_an_agent_who_does_not_take_a_transfer_is_paused_and_the_caller_waits_for_any(hotline):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    other = await hotline.agent_signs_in(OTHER)
    await offer.keys(f"*7{OTHER}#")
    asked = await other.rings()
    asked.refuses(603)
    await hotline.call_is(State.WAITING)
    assert await hotline.duty(OTHER) == "no_answer"
    third = await hotline.agent_signs_in("603")
    asked = await third.rings()
    await asked.picks_up()
    await caller.hears("opening-agent-603")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_caller_who_is_handed_on_keeps_the_place_though_the_queue_is_full():
    async with FakeHouse(rules="[waiting]\nfull_at = 1\n") as hotline:
        agent = await hotline.agent_signs_in(AGENT)
        caller, offer = await reach(hotline, State.TALKING, agent)
        other, _ = await reach(hotline, State.WAITING, from_="15400001009")
        await offer.keys("*71#")
        await caller.hears("transferring")
        await offer.ended()
        await agent.dials("*15")
        again = await agent.rings(timeout_s=60)
        await again.picks_up()
        await caller.hears(f"opening-agent-{AGENT}")
        assert "queue-full" not in [heard.prompt for heard in await caller.transcript()]
        for one in (caller, other):
            one.hang_up()
        await again.ended()
        await hotline.nothing_is_left()


async def test_a_caller_who_is_handed_on_after_closing_time_is_not_sent_away():
    async with FakeHouse(rules=CLOSES_SOON) as hotline:
        agent = await hotline.agent_signs_in(AGENT)
        caller, offer = await reach(hotline, State.TALKING, agent)
        await asyncio.sleep(120)
        await offer.keys("*71#")
        await caller.hears("transferring")
        await hotline.call_is(State.WAITING)
        stranger = await hotline.rings(from_="15400001009")
        await stranger.answered()
        await stranger.keys("0")
        await hotline.call_is(State.AFTER_HOURS)
        for one in (caller, stranger):
            one.hang_up()
        await hotline.ending()
        await hotline.nothing_is_left()


@pytest.mark.parametrize(("key", "line"), [("1", "party"), ("2", "lawyer")])
async def test_transferred_to_a_line_the_caller_waits_in_it(hotline, key, line):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    await hotline.agent_signs_in("603")
    await offer.keys(f"*7{key}#")
    await caller.hears("transferring")
    call = hotline.reception.calls[caller.channel.id]
    assert call.wanted_line == line
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("state", [State.CONSULT_RINGING, State.CONSULTING, State.THREE_WAY, State.TRANSFERRING])
async def test_the_ceiling_ends_these_too(state):
    async with FakeHouse(ending={"call_ceiling_s": 100.0, "warn_before_ceiling_s": 60.0}) as hotline:
        if state in (State.CONSULTING, State.THREE_WAY):
            caller, agent, _, _ = await asks_the_lawyer(hotline)
            await agent.keys("*3" if state is State.THREE_WAY else "")
        else:
            phone = await hotline.agent_signs_in(AGENT)
            caller, agent = await reach(hotline, State.TALKING, phone)
            await agent.keys("*1" if state is State.CONSULT_RINGING else "*73#")
        await hotline.call_is(state)
        await caller.hears("ceiling-near", within_s=60)
        await caller.hears("closing", within_s=75)
        await caller.ended(10)
        assert (await hotline.ending()).outcome == "handled"
        await hotline.nothing_is_left()


@pytest.mark.parametrize(
    ("to", "told"), [("3", "channel_answered"), (OTHER, "channel_declined"), ("", "channel_declined")]
)
async def test_a_phones_transfer_key_is_told_what_became_of_it(hotline, to, told):
    agent = await hotline.agent_signs_in(AGENT)
    caller, offer = await reach(hotline, State.TALKING, agent)
    offer.transfers(to)
    await asyncio.sleep(1)
    assert offer.transfer_told == [told]
    await hotline.call_is(State.TRANSFERRING if told == "channel_answered" else State.TALKING)
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_the_second_line_transfers_nobody_whom_it_does_not_have(hotline):
    caller, _, lawyer, _ = await asks_the_lawyer(hotline)
    lawyer.transfers("3")
    await asyncio.sleep(1)
    assert lawyer.transfer_told == ["channel_declined"]
    await hotline.call_is(State.CONSULTING)
    caller.hang_up()
    await hotline.ending()
