from __future__ import annotations

import pytest

from ari_app.flow.assessment import Mark, agent_of_the_day, marks
from ari_app.flow.measures import BY_ID, Figure, Part
from ari_app.rules import Assessment, Target


def counted(id: str, good: float, of: float, agent: str = "601") -> Figure:
    return Figure(BY_ID[id], (Part(good, of, "1", agent),))


def mark(target: Target, good: float, of: float) -> Mark:
    return Mark(target, counted(target.measure, good, of))


RULES = Assessment()
CALLS, HANDLE, OFFERS, RESOLUTION, TICKETS, SATISFACTION, COMPLAINTS, *_ = RULES.targets


def test_there_are_seven_dimensions():
    assert len({target.dimension for target in RULES.targets}) == 7


@pytest.mark.parametrize(
    ("target", "good", "of", "met", "points", "yuan"),
    [
        (CALLS, 120, 1, True, 0, 0),
        (CALLS, 119, 1, False, 0, 0),
        (HANDLE, 360, 2, True, 0, 0),
        (HANDLE, 361, 2, False, 0, 0),
        (OFFERS, 1, 2, None, 0, 0),
        (RESOLUTION, 17, 20, True, 1.5, 0),  # also with the target met: each second call costs half a point
        (RESOLUTION, 16, 20, False, 2.0, 0),
        (SATISFACTION, 47, 10, True, 0, 0),
        (SATISFACTION, 461, 100, False, 0, 0),
        (SATISFACTION, 46, 10, False, 0, 100),  # in floating point 4.7 - 4.6 is less than 0.1
        (SATISFACTION, 45, 10, False, 0, 200),
        (SATISFACTION, 0, 0, None, 0, 0),
    ],
)  # fmt: skip
def test_marks_by_hand(target, good, of, met, points, yuan):
    found = mark(target, good, of)
    assert (found.met, found.points, found.yuan) == (met, points, yuan)


def test_each_case_over_a_limit_costs():
    target = Target(dimension="未接", measure="rona_rate", at_most=0.05, points_each=2.0, yuan_each=10.0)
    assert (mark(target, 3, 100).met, mark(target, 3, 100).points, mark(target, 3, 100).yuan) == (True, 6.0, 30.0)
    assert mark(target, 6, 100).met is False


def test_each_step_over_a_limit_costs():
    target = Target(dimension="接听", measure="handle_time", at_most=180.0, step=10.0, yuan_a_step=5.0)
    assert [mark(target, seconds, 1).yuan for seconds in (180, 189, 190, 215)] == [0, 0, 5, 15]


@pytest.mark.parametrize("target", [TICKETS, COMPLAINTS])
def test_what_nothing_tells_is_neither_met_nor_missed_and_costs_nothing(target):
    found = Mark(target, Figure(BY_ID[target.measure], ()))
    assert (found.met, found.points, found.yuan) == (None, 0, 0)


def agent(calls: int, points: float, ratings: int, handle_s: float = 100.0) -> dict[str, Figure]:
    return {
        "calls_a_day": counted("calls_a_day", calls, 1),
        "satisfaction": counted("satisfaction", points, ratings),
        "handle_time": counted("handle_time", handle_s, 1),
    }


def test_an_agents_marks_are_in_the_order_of_the_rules():
    figures = {target.measure: counted(target.measure, 1, 1) for target in RULES.targets}
    assert [one.target for one in marks(RULES, figures)] == list(RULES.targets)


@pytest.mark.parametrize(
    ("agents", "best"),
    [
        ({}, None),
        ({"601": agent(100, 10, 2), "602": agent(101, 10, 2)}, "602"),
        ({"601": agent(100, 10, 2), "602": agent(101, 9, 2)}, "601"),
        ({"601": agent(100, 9.4, 2), "602": agent(100, 10, 2)}, "602"),
        ({"601": agent(100, 10, 2, 90.0), "602": agent(100, 10, 2, 80.0)}, "602"),
        ({"602": agent(100, 10, 2), "601": agent(100, 10, 2)}, "601"),
        ({"601": agent(100, 0, 0)}, None),
    ],
    ids=["nobody", "more calls", "not liked", "liked better", "quicker", "all the same", "not rated"],
)
def test_the_agent_of_the_day(agents, best):
    assert agent_of_the_day(RULES, agents) == best
