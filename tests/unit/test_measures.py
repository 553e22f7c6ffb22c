"""Each figure from vectors computed by hand; what holds of all of them as laws."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.duty import Duty
from ari_app.flow.identity import Role
from ari_app.flow.measures import (
    BY_ID,
    MEASURES,
    CallRecord,
    Facts,
    Figure,
    Offer,
    Part,
    Stretch,
    Talk,
    Unit,
    Verdict,
    day,
    figure,
    figures_by_agent,
    hands_on,
    week,
)
from ari_app.flow.sop import Do, Heard, State
from ari_app.rules import ASSESSED, SHARES
from ari_app.settings import PROJECT

SHANGHAI = ZoneInfo("Asia/Shanghai")
MONDAY, TUESDAY = date(2026, 3, 2), date(2026, 3, 3)
AT = datetime(2026, 3, 2, 9, tzinfo=SHANGHAI).timestamp()


def call(id: str, at: float = AT, until: float | None = None, **what: object) -> CallRecord:
    return CallRecord(id, at, at + 100 if until is None else until, MONDAY, **what)  # type: ignore[arg-type]


def served(id: str, wait_s: float, *talks: Talk, **what: object) -> CallRecord:
    return call(id, answered_after_s=1.0, wait_s=wait_s, talks=talks, **what)


def gave_up(id: str, wait_s: float) -> CallRecord:
    return call(id, answered_after_s=1.0, wait_s=wait_s, outcome="abandoned")


def spent(agent: str, **seconds: float) -> tuple[Stretch, ...]:
    """One after the other, from `AT` on, each for a call of its own."""
    found: list[Stretch] = []
    for duty, lasted in seconds.items():
        begin = found[-1].end if found else AT
        found.append(Stretch(agent, Duty(duty), begin, begin + lasted, f"{agent} {duty}"))
    return tuple(found)


A_DAY = Facts(
    calls=(
        served("in time", 15.0, Talk("601", 100.0, 10.0, 20.0), scores=(("601", 5),), role=Role.LAWYER,
               offers=(Offer("601", True, 11.0),), disposition=("601", True)),
        served("late", 15.1, Talk("601", 60.0, 0.0, 30.0, transferred=True), Talk("602", 80.0, 0.0, 0.0),
               scores=(("602", 2),), role=Role.PARTY, disposition=("602", False), one_way=("601",),
               offers=(Offer("602", False, 5.0), Offer("601", True, 4.0), Offer("602", True, 11.1))),
        served("consulted", 0.0, Talk("602", 40.0, 20.0, 5.0), Talk("603", 30.0, 0.0, 10.0, with_caller=False),
               scores=(("602", 4),), role=Role.LAWYER, offers=(Offer("602", True, 2.0), Offer("603", None))),
        gave_up("gave up", 5.0),
        gave_up("at once", 4.9),
        call("menu", answered_after_s=11.0, outcome="left_in_menu"),
        call("callback", answered_after_s=12.0, wait_s=30.0, outcome="callback"),
        call("never heard", until=AT + 10.9, outcome="left_in_menu"),
        call("rang on", until=AT + 11.0, outcome="left_in_menu"),
        call("fallback", until=AT + 1.0, outcome="fallback"),
        call("placed", placed=True, answered_after_s=20.0, talks=(Talk("601", 50.0, 0.0, 10.0),),
             one_way=("601",), offers=(Offer("601", False),)),
        call("in vain", placed=True, outcome="unreached"),
    ),
    stretches=(
        *spent("601", talking=200.0, wrap_up=60.0, idle=120.0, paused=99.0, ringing=20.0),
        *spent("602", consulting=50.0, reserved=10.0, idle=40.0, no_answer=70.0),
        *spent("604", signed_out=400.0),
    ),
    verdicts=(Verdict("a", AT, "601", True), Verdict("b", AT, "601", False), Verdict("c", AT, "602", True)),
    in_progress=1,
)  # fmt: skip

BY_HAND = {
    "calls": (10, 0),
    "queued": (6, 0),
    "answered": (3, 0),
    "abandoned": (2, 0),
    "short_abandons": (1, 0),
    # In time: the three served, who gave up twice, the menu at 11.0 s. Not: at 12.0 s, rang on, the fallback
    "answer_within_three_rings": (6, 9),
    "phones_within_three_rings": (4, 6),
    # Of 3 answered + 1 abandoned: the one at 15.0 s and the one at once
    "service_level": (2, 4),
    "answer_rate": (3, 6),
    "abandonment": (1, 4),
    "asa": (30.1, 3),
    "abandon_wait": (9.9, 2),
    # Who took a callback, too
    "queue_wait": (70.0, 6),
    # 130 + 90 + 80 + 65 + 40 + 60
    "handle_time": (465, 6),
    "talk_time": (360, 6),
    "hold_time": (30, 6),
    "wrap_up_time": (75, 6),
    # 601: 260 of 400; 602: 50 of 100
    "occupancy": (310, 500),
    "rona_rate": (2, 6),
    "offers_taken": (4, 6),
    "transfer_rate": (1, 5),
    "first_call_resolution": (2, 3),
    "satisfaction": (11, 3),
    "lawyer_satisfaction": (9, 2),
    "satisfied": (2, 3),
    "on_the_spot": (1, 2),
    # 601 talked three times, 602 twice, 603 only in a consultation
    "calls_a_day": (5, 2),
    "one_way_audio": (2, 0),
}


def of(id: str, facts: Facts = A_DAY) -> Figure:
    return figure(BY_ID[id], facts)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.id)
def test_a_day_by_hand(measure):
    found = of(measure.id)
    if not measure.has_source:
        assert (found.parts, found.value) == ((), None)
        return
    above, below = BY_HAND[measure.id]
    assert (found.numerator, found.denominator) == (pytest.approx(above), pytest.approx(below))
    assert found.value == pytest.approx(above if measure.unit is Unit.CALLS else above / below)


@pytest.mark.parametrize(
    ("agent", "id", "above", "below"),
    [
        ("601", "handle_time", 280, 3),
        ("601", "calls_a_day", 3, 1),
        ("601", "rona_rate", 1, 3),
        ("601", "occupancy", 260, 400),
        ("601", "first_call_resolution", 1, 2),
        ("602", "satisfaction", 6, 2),
        ("602", "transfer_rate", 0, 2),
        ("603", "handle_time", 40, 1),
        ("603", "calls_a_day", 0, 0),
        ("603", "rona_rate", 0, 0),
    ],
)
def test_an_agents_day_by_hand(agent, id, above, below):
    found = figures_by_agent(A_DAY)[agent][id]
    assert (found.numerator, found.denominator) == (above, below)


def test_occupancy_names_each_stretch_that_it_counts_and_the_call_that_it_was_for():
    assert [(one.agent, one.call_id, one.numerator, one.denominator) for one in of("occupancy").parts] == [
        ("601", "601 talking", 200, 200), ("601", "601 wrap_up", 60, 60), ("601", "601 idle", 0, 120),
        ("601", "601 ringing", 0, 20),
        ("602", "602 consulting", 50, 50), ("602", "602 reserved", 0, 10), ("602", "602 idle", 0, 40),
    ]  # fmt: skip


@settings(deadline=None)
@given(st.deferred(lambda: PERIODS))
def test_every_part_of_an_agents_figure_is_somebodys(facts):
    for measure in MEASURES:
        assert all(part.agent for part in figure(measure, facts).parts) or not measure.of_agents


def test_only_those_who_were_there_have_figures():
    assert list(figures_by_agent(A_DAY)) == ["601", "602", "603"]


def test_nothing_counted_is_no_zero():
    assert {one.id for one in MEASURES if of(one.id, Facts()).value is not None} == {
        one.id for one in MEASURES if one.unit is Unit.CALLS and one.has_source
    }


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.id)
def test_what_has_no_source_is_told_by_nobody(measure):
    assert measure.has_source == (measure.id in BY_HAND)


def test_agents_are_assessed_by_figures_that_agents_have():
    assert set(ASSESSED) <= {measure.id for measure in MEASURES if measure.of_agents}
    assert {BY_ID[id].unit for id in SHARES} == {Unit.SHARE}


def test_the_document_says_what_the_table_says():
    text = (PROJECT / "docs" / "measures.md").read_text(encoding="utf-8")
    for one in MEASURES:
        assert f"| `{one.id}` | {one.name} | {one.unit.value} | {one.numerator} | {one.denominator} |" in text


# ---------------------------------------------------------------- transfers


@pytest.mark.parametrize(
    ("heard", "state", "to", "actions", "transfer"),
    [
        (Heard.TRANSFER_TO_AGENT, State.TALKING, State.TRANSFERRING_TO_AGENT, (Do.RELEASE_AGENT,), True),
        (Heard.TRANSFER_TO_LAWYER_LINE, State.TALKING, State.ADMITTING, (Do.RELEASE_AGENT, Do.ADMIT), True),
        (Heard.TRANSFER_NOT_POSSIBLE, State.TALKING, State.TALKING, (Do.SAY_NOT_POSSIBLE,), False),
        (Heard.HAND_OVER_ASKED, State.CONSULTING, State.TALKING, (Do.RELEASE_AGENT, Do.HAND_OVER), True),
        (Heard.AGENT_LEFT, State.CONSULT_RINGING, State.TRANSFERRING, (Do.RELEASE_AGENT, Do.PLAY_MUSIC), True),
        (Heard.BACK_ASKED, State.THREE_WAY, State.TALKING, (Do.RELEASE_SECOND, Do.ARRANGE), False),
        (Heard.HUNG_UP, State.CONSULTING, State.ENDED, (Do.RELEASE_SECOND, Do.RELEASE_AGENT), False),
        (Heard.TAKEN_OVER, State.TALKING, State.TALKING, (Do.RELEASE_AGENT, Do.HAND_OVER), False),
        (Heard.AGENT_LEFT, State.TALKING, State.RATING, (Do.RELEASE_AGENT,), False),
    ],
)
def test_what_a_transfer_is(heard, state, to, actions, transfer):
    assert hands_on(heard, state, to, actions) == transfer


# ---------------------------------------------------------------- days


def test_a_week_is_monday_to_sunday_in_the_hotlines_zone():
    found = week(date(2026, 3, 5), SHANGHAI)
    assert (found.first, found.last) == (MONDAY, date(2026, 3, 8))
    assert found.begin == datetime(2026, 3, 1, 16, tzinfo=UTC).timestamp()
    assert found.end - found.begin == 7 * 86_400
    assert found.days[0] == MONDAY
    assert len(found.days) == 7


@given(st.dates(date(2025, 1, 1), date(2030, 12, 31)))
def test_where_no_clock_is_changed_every_day_has_24_hours(on):
    found = day(on, SHANGHAI)
    assert found.end - found.begin == 86_400
    assert found.days == (on,)


@given(st.dates(date(2025, 1, 1), date(2030, 12, 31)), st.sampled_from(["Asia/Shanghai", "Europe/Berlin"]))
def test_the_days_of_a_week_follow_each_other_without_gap_also_where_clocks_are_changed(on, zone):
    found = week(on, ZoneInfo(zone))
    days = [day(one, ZoneInfo(zone)) for one in found.days]
    assert (days[0].begin, days[-1].end) == (found.begin, found.end)
    assert all(one.end == other.begin for one, other in pairwise(days))


# ---------------------------------------------------------------- laws

AGENTS = st.sampled_from(["601", "602", "603"])
SECONDS = st.integers(0, 600).map(float)
TALKS = st.builds(Talk, AGENTS, SECONDS, SECONDS, SECONDS, with_caller=st.booleans(), transferred=st.booleans())
OFFERS = st.builds(Offer, AGENTS, st.sampled_from([True, False, None]), st.none() | SECONDS)
CALLS = st.builds(
    CallRecord,
    id=st.uuids().map(str),
    at=st.just(AT),
    until=st.integers(0, 600).map(lambda seconds: AT + seconds),
    day=st.dates(MONDAY, date(2026, 3, 8)),
    placed=st.booleans(),
    outcome=st.sampled_from(["handled", "abandoned", "left_in_menu", "lost", "callback", "fallback"]),
    role=st.sampled_from(Role),
    answered_after_s=st.none() | st.integers(0, 20).map(float),
    wait_s=st.none() | SECONDS,
    talks=st.lists(TALKS, max_size=3, unique_by=lambda talk: talk.agent).map(tuple),
    offers=st.lists(OFFERS, max_size=3).map(tuple),
    scores=st.lists(st.tuples(AGENTS, st.integers(1, 5)), max_size=1).map(tuple),
    disposition=st.none() | st.tuples(AGENTS, st.booleans()),
    one_way=st.lists(AGENTS, max_size=2, unique=True).map(tuple),
).map(lambda one: replace(one, wait_s=None) if one.placed else one)
STRETCHES = st.builds(
    lambda agent, duty, after_s, seconds, call_id: Stretch(agent, duty, AT + after_s, AT + after_s + seconds, call_id),
    AGENTS, st.sampled_from(Duty), SECONDS, SECONDS, st.none() | st.uuids().map(str),
)  # fmt: skip
PERIODS = st.builds(
    Facts,
    calls=st.lists(CALLS, max_size=12).map(tuple),
    stretches=st.lists(STRETCHES, max_size=8).map(tuple),
    verdicts=st.lists(
        st.builds(Verdict, st.uuids().map(str), st.just(AT), AGENTS, st.booleans()), max_size=5
    ).map(tuple),
)  # fmt: skip


@settings(deadline=None)
@given(PERIODS)
def test_the_days_add_up_to_the_week(facts):
    days = [
        Facts(calls=tuple(one for one in facts.calls if one.day == on)) for on in week(MONDAY, SHANGHAI).days
    ]  # fmt: skip
    whole = replace(facts, stretches=(), verdicts=())
    for measure in MEASURES:
        each = [figure(measure, one) for one in days]
        found = figure(measure, whole)
        assert found.numerator == pytest.approx(sum(one.numerator for one in each))
        assert found.denominator == pytest.approx(sum(one.denominator for one in each))


@settings(deadline=None)
@given(PERIODS)
def test_the_agents_add_up_to_the_hotline(facts):
    by_agent = figures_by_agent(facts)
    for measure in MEASURES:
        if measure.of_agents:
            found = figure(measure, facts)
            assert found.numerator == pytest.approx(sum(of[measure.id].numerator for of in by_agent.values()))
            assert found.denominator == pytest.approx(sum(of[measure.id].denominator for of in by_agent.values()))


def size(part: Part) -> float:
    """A call, or the seconds of a stretch."""
    return 1.0 if part.stretch is None else part.stretch.end - part.stretch.begin


@settings(deadline=None)
@given(PERIODS)
def test_as_many_calls_or_as_much_time_stands_behind_a_figure_as_it_says(facts):
    for measure in MEASURES:
        found = figure(measure, facts)
        if measure.unit is Unit.CALLS or measure.id == "calls_a_day":
            assert sum(map(size, found.parts)) == found.numerator
        else:
            assert sum(map(size, found.parts)) == found.denominator
        if measure.unit is Unit.SHARE:
            assert sum(size(part) for part in found.parts if part.numerator == size(part)) == found.numerator
        known = {one.id for one in facts.calls} | {one.call_id for one in facts.verdicts}
        for part in found.parts:
            assert part.call_id in known if part.stretch is None else part.call_id == part.stretch.call_id
            assert part.stretch is None or part.stretch in facts.stretches


@settings(deadline=None)
@given(PERIODS)
def test_shares_are_shares(facts):
    for measure in MEASURES:
        value = figure(measure, facts).value
        if measure.unit is Unit.SHARE and value is not None:
            assert 0 <= value <= 1
    answered, abandoned, short = (of(id, facts).numerator for id in ("answered", "abandoned", "short_abandons"))
    assert of("service_level", facts).denominator == of("abandonment", facts).denominator
    assert abandoned >= short
    assert of("queued", facts).numerator >= answered
