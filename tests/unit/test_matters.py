from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.matters import WITHIN_S, Matter, judged, last_agent, resolution, second_of
from ari_app.flow.sop import Need

DAY_S = 86_400.0
FIRST = Matter("1", at=0.0, until=100.0, agent="601", party_id=1, case_id=7, need=Need.TIME)
NOW = replace(FIRST, call_id="2", at=DAY_S, until=DAY_S, agent=None)


def test_a_call_on_the_same_matter_within_seven_days_is_a_second_one():
    assert second_of(NOW, [FIRST]) == FIRST
    assert second_of(replace(NOW, at=100.0 + WITHIN_S), [FIRST]) == FIRST


@pytest.mark.parametrize(
    "other",
    [
        replace(NOW, at=101.0 + WITHIN_S),
        replace(NOW, at=50.0),
        replace(NOW, party_id=2),
        replace(NOW, party_id=None, lawyer_id=1),
        replace(NOW, case_id=8),
        replace(NOW, need=Need.MATERIAL),
        replace(NOW, call_id="1"),
        replace(NOW, party_id=None),
        replace(NOW, case_id=None),
        replace(NOW, need=None),
    ],
    ids=[
        "later", "while the first went on", "another party", "the lawyer", "another case", "another need", "itself",
        "nobody proven", "no case known", "no need named",
    ],
)  # fmt: skip
def test_any_other_call_is_not(other):
    assert second_of(other, [FIRST]) is None


def test_whoever_was_not_served_calls_for_the_first_time():
    assert second_of(NOW, [replace(FIRST, agent=None)]) is None


def test_the_last_served_call_is_the_one_that_did_not_help():
    later = replace(FIRST, call_id="1b", at=500.0, until=600.0, agent="602")
    assert second_of(NOW, [later, FIRST]) == later


def test_a_lawyer_has_matters_too():
    first = replace(FIRST, party_id=None, lawyer_id=3)
    assert second_of(replace(NOW, party_id=None, lawyer_id=3), [first]) == first


def test_the_last_agent_is_the_one_of_the_last_talk_whatever_it_was_about():
    other = replace(FIRST, call_id="3", until=900.0, agent="602", need=Need.MATERIAL)
    unserved = replace(FIRST, call_id="4", until=950.0, agent=None)
    assert last_agent([other, FIRST, unserved]) == "602"
    assert last_agent([unserved]) is None


def test_first_call_resolution():
    """601 served three matters: one came again within seven days, one after them, one is not over yet."""
    again = replace(FIRST, call_id="1b", at=DAY_S, until=DAY_S + 100, agent="602")
    late = replace(FIRST, call_id="2", case_id=8)
    later = replace(late, call_id="2b", at=late.until + WITHIN_S + 1, until=late.until + WITHIN_S + 2, agent=None)
    open_still = replace(FIRST, call_id="3", case_id=9, at=12 * DAY_S, until=12 * DAY_S)
    unknown = replace(FIRST, call_id="4", case_id=None)
    found = resolution(judged([FIRST, again, late, later, open_still, unknown], 0.0, 13 * DAY_S))
    assert (found["601"].judged, found["601"].resolved, found["601"].share) == (2, 1, 0.5)
    assert (found["602"].judged, found["602"].share) == (1, 1.0)
    assert resolution(judged([open_still], 0.0, 13 * DAY_S)) == {}


def test_a_call_is_judged_when_its_seven_days_are_over_also_if_a_second_one_came_sooner():
    again = replace(FIRST, call_id="1b", at=DAY_S, until=DAY_S + 100, agent="602")
    over = FIRST.until + WITHIN_S
    assert judged([FIRST, again], 0.0, over) == []
    assert judged([FIRST, again], over, over + 1) == [(FIRST, False)]
    assert judged([FIRST, again], over + 1, over + DAY_S) == []
    assert judged([FIRST], over, over + 1) == [(FIRST, True)]


MATTERS = st.lists(
    st.builds(
        Matter,
        call_id=st.uuids().map(str),
        at=st.floats(0, 30 * DAY_S),
        until=st.just(0.0),
        agent=st.sampled_from([None, "601", "602"]),
        party_id=st.sampled_from([None, 1, 2]),
        lawyer_id=st.none(),
        case_id=st.sampled_from([None, 7, 8]),
        need=st.sampled_from([None, *Need]),
    ).map(lambda one: replace(one, until=one.at + 60.0)),
    max_size=20,
)


@settings(deadline=None)
@given(MATTERS)
def test_each_agent_is_held_to_exactly_the_calls_that_came_again(calls):
    now = 60 * DAY_S
    found = resolution(judged(calls, 0.0, now))
    did_not_help = {first.call_id for one in calls if (first := second_of(one, calls)) is not None}
    for agent, figures in found.items():
        mine = [one for one in calls if one.agent == agent and one.key is not None]
        assert figures.judged == len(mine)
        unresolved = {one.call_id for one in mine if any(second_of(other, [one]) for other in calls)}
        assert figures.judged - figures.resolved == len(unresolved)
        assert {one.call_id for one in mine} & did_not_help <= unresolved


@settings(deadline=None)
@given(MATTERS)
def test_a_second_call_is_always_later_the_same_matter_and_within_seven_days(calls):
    for one in calls:
        first = second_of(one, calls)
        if first is not None:
            assert first.key == one.key is not None
            assert first.agent is not None
            assert 0 <= one.at - first.until <= WITHIN_S
