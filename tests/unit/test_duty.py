"""Agents' states: the laws that hold after every step, and each row of the table in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.duty import (
    AT_REST,
    BUSY,
    GIVES_A_CALL,
    IN_TALK,
    NOT_SIGNED_IN,
    NOT_WRAPPING_UP,
    OF_A_CALL,
    OFFERED,
    ON_A_CALL,
    PHONE_BUSY,
    TABLE,
    AgentNow,
    Back,
    Change,
    Duty,
    News,
    Refusal,
    What,
    day_of,
    step,
    times,
)

AT = 1_795_000_000.0
CODES = (What.SIGNS_IN, What.SIGNS_OUT, What.PAUSES, What.RESUMES, What.READY, What.EXTENDS)
"""What agents dial."""
SHANGHAI = ZoneInfo("Asia/Shanghai")


def agent(duty: Duty, **more: object) -> AgentNow:
    """An agent in `duty`, with all that belongs to it."""
    return replace(
        AgentNow(
            "601",
            "",
            duty,
            AT - 60,
            call_id="demo-1.1" if duty in ON_A_CALL else None,
            wrap_up_until=AT + 5 if duty is Duty.WRAP_UP else None,
            phone=None if duty is Duty.SIGNED_OUT else "601",
            pause_code="1" if duty is Duty.PAUSED else None,
        ),
        **more,
    )


def news(what: What, **more: object) -> News:
    """`what`, with all that it needs, of the call that ``agent()`` holds."""
    return replace(
        News(
            what,
            AT,
            call_id="demo-1.1" if what in (*OF_A_CALL, *GIVES_A_CALL) else None,
            to_call="demo-1.1" if what is What.TAKES_OVER else None,
            phone="602" if what is What.SIGNS_IN else "",
            code="2" if what is What.PAUSES else None,
            until=AT + 20 if what in (What.TALK_ENDED, What.EXTENDS) else None,
        ),
        **more,
    )


def is_sound(one: AgentNow) -> None:
    """What holds of an agent at every moment."""
    assert (one.call_id is not None) == (one.duty in ON_A_CALL)
    assert (one.phone is not None) == (one.duty is not Duty.SIGNED_OUT)
    assert (one.wrap_up_until is not None) == (one.duty is Duty.WRAP_UP)
    assert one.pause_code is None or one.duty is Duty.PAUSED


ANY_NEWS = st.builds(
    lambda what, call, other, phone, code, at: replace(
        news(what, at=at),
        call_id=call if what in (*OF_A_CALL, *GIVES_A_CALL) else None,
        to_call=other if what is What.TAKES_OVER else None,
        phone=phone if what is What.SIGNS_IN else "",
        code=code if what is What.PAUSES else None,
    ),
    st.sampled_from(What),
    st.sampled_from(["demo-1.1", "demo-2.1", "demo-1.1~consult-1"]),
    st.sampled_from(["demo-1.1", "demo-2.1"]),
    st.sampled_from(["601", "602", "603"]),
    st.sampled_from([None, "1", "2"]),
    st.floats(AT, AT + 1e6),
)

# ---------------------------------------------------------------- the table as a whole


@pytest.mark.parametrize(("duty", "what"), list(product(Duty, What)))
def test_every_duty_has_an_answer_to_everything(duty, what):
    after = step(agent(duty), news(what))
    if not isinstance(after, Refusal):
        is_sound(after)
        to = TABLE.get((duty, what), duty)
        assert after.duty is (Duty.IDLE if to is Back.TO_REST else to)


@pytest.mark.untraced
@settings(max_examples=2000, deadline=None)
@given(st.lists(ANY_NEWS, max_size=40))
def test_whatever_comes_in_whatever_order_an_agent_is_sound_and_holds_one_call_until_it_is_over(story):
    one = agent(Duty.SIGNED_OUT)
    for item in story:
        after = step(one, item)
        if isinstance(after, Refusal):
            continue
        is_sound(after)
        if one.call_id is not None and after.call_id not in (None, one.call_id):
            assert item.what is What.TAKES_OVER
        if one.call_id is None and after.call_id is not None:
            assert item.what in GIVES_A_CALL
            assert one.duty is Duty.IDLE or item.what is not What.IS_OFFERED
            assert after.duty is (Duty.TALKING if item.what is What.STEPS_IN else Duty.RESERVED)
        if item.what in OF_A_CALL and item.call_id != one.call_id:
            assert after is one, "what another call does is none of this agent's business"
        one = after


@given(st.sampled_from(Duty), ANY_NEWS)
def test_news_heard_twice_are_heard_once(duty, item):
    once = step(agent(duty), item)
    if isinstance(once, AgentNow) and item.what not in (What.IS_OFFERED, What.TAKES_OVER):
        again = step(once, item)
        assert again == once or isinstance(again, Refusal)


@pytest.mark.parametrize("duty", ON_A_CALL)
def test_an_agent_on_a_call_is_not_offered_another(duty):
    one = agent(duty)
    assert step(one, news(What.IS_OFFERED, call_id="demo-2.1")) is one


@pytest.mark.parametrize("duty", [duty for duty in Duty if duty is not Duty.IDLE])
def test_only_the_idle_are_offered_a_call(duty):
    one = agent(duty)
    assert step(one, news(What.IS_OFFERED)) is one


@pytest.mark.parametrize("duty", ON_A_CALL)
@pytest.mark.parametrize("code", CODES)
def test_no_code_takes_an_agent_off_a_call(duty, code):
    assert step(agent(duty), news(code)) is BUSY


@pytest.mark.parametrize("code", [code for code in CODES if code not in (What.SIGNS_IN, What.SIGNS_OUT)])
def test_whoever_is_signed_out_can_only_sign_in(code):
    assert step(agent(Duty.SIGNED_OUT), news(code)) is NOT_SIGNED_IN


@pytest.mark.parametrize("duty", ON_A_CALL)
def test_a_restart_and_the_watchdog_free_whoever_is_held(duty):
    for what in (What.RESTARTED, What.STUCK, What.OFFER_WITHDRAWN):
        assert step(agent(duty), news(what)) == agent(Duty.IDLE, since=AT)


@pytest.mark.parametrize("over", [What.OFFER_WITHDRAWN, What.STUCK, What.RESTARTED])
@pytest.mark.parametrize("begun", [What.PLACES, What.PULLS])
@pytest.mark.parametrize("duty", [duty for duty in AT_REST if duty is not Duty.IDLE])
def test_a_call_out_of_a_pause_or_wrap_up_of_which_no_talk_came_leaves_it_as_it_was(duty, begun, over):
    at_rest = agent(duty)
    held = step(at_rest, news(begun))
    ringing = step(held, news(What.RINGS))
    for one in (held, ringing):
        assert (one.call_id, one.pause_code, one.wrap_up_until) == ("demo-1.1", None, None)
        assert step(one, news(over)) == at_rest
    assert step(ringing, news(What.NOT_TAKEN)) == agent(Duty.NO_ANSWER, since=AT)
    assert step(step(ringing, news(What.JOINS)), news(over)) == agent(Duty.IDLE, since=AT), "a talk came of it"


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize("what", OF_A_CALL)
def test_news_of_another_call_change_nothing(duty, what):
    one = agent(duty)
    assert step(one, news(what, call_id="demo-9.9")) is one


# ---------------------------------------------------------------- in words


def test_a_call_from_the_offer_to_the_end_of_wrap_up():
    path, one = [], agent(Duty.IDLE)
    for what in (What.IS_OFFERED, What.RINGS, What.JOINS, What.CONSULTS, What.RETURNS, What.TALK_ENDED,
                 What.WRAP_UP_OVER):  # fmt: skip
        one = step(one, news(what))
        path.append(one.duty)
    assert path == [
        Duty.RESERVED, Duty.RINGING, Duty.TALKING, Duty.CONSULTING, Duty.TALKING, Duty.WRAP_UP, Duty.IDLE,
    ]  # fmt: skip
    assert one.since == AT


@pytest.mark.parametrize("duty", ON_A_CALL)
def test_where_there_is_no_wrap_up_the_agent_is_idle_at_once(duty):
    assert step(agent(duty), news(What.TALK_ENDED, until=AT)) == agent(Duty.IDLE, since=AT)
    assert step(agent(duty), news(What.TALK_ENDED, until=AT - 5)) == agent(Duty.IDLE, since=AT)


def test_signing_in_elsewhere_moves_the_agent_and_the_phone_is_that_one():
    assert step(agent(Duty.SIGNED_OUT), news(What.SIGNS_IN)) == agent(Duty.IDLE, phone="602", since=AT)
    moved = step(agent(Duty.IDLE), news(What.SIGNS_IN))
    assert moved == agent(Duty.IDLE, phone="602"), "whoever moves is idle as long as before"
    same = agent(Duty.IDLE)
    assert step(same, news(What.SIGNS_IN, phone="601")) == same


@pytest.mark.parametrize("duty", AT_REST)
def test_whoever_is_on_no_call_is_signed_out_by_another_at_the_phone(duty):
    assert step(agent(duty), news(What.PHONE_TAKEN)) == agent(Duty.SIGNED_OUT, since=AT)


@pytest.mark.parametrize("duty", ON_A_CALL)
def test_nobody_signs_in_at_the_phone_of_an_agent_on_a_call(duty):
    assert step(agent(duty), news(What.PHONE_TAKEN)) is PHONE_BUSY


def test_a_pause_has_its_code_and_another_code_begins_another_pause():
    paused = step(agent(Duty.IDLE), news(What.PAUSES))
    assert paused == agent(Duty.PAUSED, pause_code="2", since=AT)
    assert step(paused, news(What.PAUSES, at=AT + 9)) == paused
    assert step(paused, news(What.PAUSES, code="3", at=AT + 9)) == agent(Duty.PAUSED, pause_code="3", since=AT + 9)
    assert step(paused, news(What.RESUMES, at=AT + 9)) == agent(Duty.IDLE, since=AT + 9)


@pytest.mark.parametrize("duty", OFFERED)
def test_an_offer_that_is_not_taken_pauses(duty):
    assert step(agent(duty), news(What.NOT_TAKEN)) == agent(Duty.NO_ANSWER, since=AT)


@pytest.mark.parametrize("duty", IN_TALK)
def test_a_call_that_is_handed_over_changes_its_name_and_nothing_else(duty):
    one = agent(duty, call_id="demo-1.1~consult-1")
    after = step(one, news(What.TAKES_OVER, call_id="demo-1.1~consult-1"))
    assert (after.duty, after.call_id) == (Duty.TALKING, "demo-1.1")


def test_wrap_up_is_extended_from_where_it_began():
    assert step(agent(Duty.WRAP_UP), news(What.EXTENDS)) == agent(Duty.WRAP_UP, wrap_up_until=AT + 20)
    for duty in (Duty.IDLE, Duty.PAUSED, Duty.NO_ANSWER):
        assert step(agent(duty), news(What.EXTENDS)) is NOT_WRAPPING_UP


# ---------------------------------------------------------------- how long

DUTIES = st.tuples(st.sampled_from(["601", "602"]), st.floats(0, 1000), st.sampled_from(Duty))


@given(st.lists(DUTIES), st.floats(0, 500), st.floats(500, 1000))
def test_an_agent_is_something_at_every_moment_since_the_first_change_and_never_two_things(rows, begin, end):
    changes = [Change(number, at, duty) for number, at, duty in sorted(rows, key=lambda row: row[1])]
    spent = times(changes, begin, end)
    for number in ("601", "602"):
        first = min((change.at for change in changes if change.agent == number), default=end)
        known = sum(seconds for (one, _, _), seconds in spent.items() if one == number)
        assert known == pytest.approx(max(0.0, end - max(first, begin)))


def test_a_pause_over_midnight_counts_on_both_days_each_its_part():
    begin, end = day_of(datetime(2026, 3, 2, 12, tzinfo=SHANGHAI).timestamp(), SHANGHAI)
    assert end - begin == 86400
    changes = [
        Change("601", begin - 600, Duty.PAUSED, "1"), Change("601", begin + 300, Duty.IDLE),
        Change("601", end - 60, Duty.PAUSED, "2"),
    ]  # fmt: skip
    assert times(changes, begin, end) == {
        ("601", Duty.PAUSED, "1"): 300, ("601", Duty.IDLE, None): 86400 - 360, ("601", Duty.PAUSED, "2"): 60,
    }  # fmt: skip


def test_what_lasted_no_time_is_not_told():
    changes = [Change("601", 5.0, Duty.IDLE), Change("601", 5.0, Duty.PAUSED, "1"), Change("601", 9.0, Duty.SIGNED_OUT)]
    assert times(changes, 0.0, 9.0) == {("601", Duty.PAUSED, "1"): 4.0}


def test_a_day_is_the_hotlines_and_not_the_machines():
    at = datetime(2026, 3, 1, 17, tzinfo=ZoneInfo("UTC")).timestamp()
    assert day_of(at, SHANGHAI)[0] == datetime(2026, 3, 2, tzinfo=SHANGHAI).timestamp()
    summer = day_of(datetime(2026, 3, 29, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp(), ZoneInfo("Europe/Berlin"))
    assert summer[1] - summer[0] == 23 * 3600


@pytest.mark.parametrize("duty", AT_REST)
def test_a_leader_at_rest_goes_on_with_an_agents_caller_or_pulls_one_who_waits(duty):
    after = step(agent(duty), news(What.STEPS_IN))
    assert (after.duty, after.call_id, after.pause_code, after.wrap_up_until) == (Duty.TALKING, "demo-1.1", None, None)
    after = step(agent(duty), news(What.PULLS))
    assert (after.duty, after.call_id) == (Duty.RESERVED, "demo-1.1")


@pytest.mark.parametrize("duty", ON_A_CALL)
def test_a_leader_who_has_a_caller_gets_no_second_one(duty):
    assert step(agent(duty), news(What.PULLS, call_id="demo-2.1")) == BUSY
    assert step(agent(duty), news(What.STEPS_IN, call_id="demo-2.1")) == agent(duty)
