"""A day of 4,000 services comes to what Erlang A says, and nobody is overtaken in it."""

from __future__ import annotations

from dataclasses import fields
from math import sqrt
from statistics import mean, stdev

import pytest

from ari_app.flow.erlang import Service
from tests.simulation.day import Plan, Shift, simulate

THREE_SHIFTS = Plan((Shift(10, 215), Shift(9, 190), Shift(5, 95)), handle_s=140, patience_s=120)
"""24 agents, 4,000 calls. AGT-3, LOAD-1."""
VECTOR = Plan((Shift(12, 100, hours=30.0),), handle_s=300, patience_s=120)
DAYS = 8
T_99 = 3.499
"""Student's t for 7 degrees of freedom, 99 % on both sides."""


def held_against(met: list[Service], promised: Service, *, at_most: dict[str, float]) -> None:
    """Each figure of the formula lies within the 99 % interval of the days' mean, and that interval is narrow."""
    for field in fields(Service):
        values = [float(getattr(one, field.name)) for one in met]
        half = T_99 * stdev(values) / sqrt(len(values))
        said = f"{field.name}: {mean(values):.4f} ± {half:.4f}, Erlang A {getattr(promised, field.name):.4f}"
        print(said)
        assert abs(mean(values) - getattr(promised, field.name)) <= half, said
        assert half <= at_most[field.name], said


@pytest.mark.timeout(900)
def test_three_shifts_are_as_erlang_a_says_and_nobody_is_overtaken():
    days = [simulate(THREE_SHIFTS, seed) for seed in range(DAYS)]
    for day in days:
        assert 3_700 < len(day.callers) < 4_300
        assert day.offers == sum(one.served for one in day.callers)
        assert day.overtaken == []
    held_against(
        [day.met() for day in days], THREE_SHIFTS.promised(),
        at_most={"waits": 0.05, "within": 0.05, "abandons": 0.02, "wait_s": 2.5},
    )  # fmt: skip


@pytest.mark.timeout(900)
def test_the_known_figures_come_out_of_the_desk():
    days = [simulate(VECTOR, 100 + seed) for seed in range(DAYS)]
    promised = VECTOR.promised()
    assert (round(promised.abandons, 4), round(promised.wait_s, 2)) == (0.0311, 3.73)
    held_against(
        [day.met() for day in days], promised,
        at_most={"waits": 0.05, "within": 0.05, "abandons": 0.02, "wait_s": 2.0},
    )  # fmt: skip


def test_with_the_database_a_day_comes_to_the_same():
    short = Plan((Shift(3, 90, hours=0.5), Shift(2, 60, hours=0.5)), handle_s=120, patience_s=120)
    assert simulate(short, 7, database=True) == simulate(short, 7)


def test_what_callers_are_told_of_the_wait_is_near_what_it_is():
    """Of those who had to wait and stayed; the others shorten it, which nobody can know before."""
    day = simulate(THREE_SHIFTS, 1)
    told = [(one.told_s, one.wait_s) for one in day.counted if one.told_s is not None and one.served]
    assert len(told) > 500
    assert 0.9 < mean(said for said, _ in told) / mean(waited for _, waited in told if waited is not None) < 1.35
