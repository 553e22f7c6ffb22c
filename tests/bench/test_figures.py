"""Percentiles, spreads, growth, and the climb to the highest rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import CLOSE_ENOUGH, Climb, Spread, growth, holds, percentile, percentiles_ms


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (1, 50, 95, 99, 100)] == [1.0, 50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(1, 100))
def test_at_least_so_many_do_not_exceed_it(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-9
    assert sum(value < found for value in values) < percent / 100 * len(values)


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])
    assert percentiles_ms([]) == {}


def test_milliseconds_and_how_many() -> None:
    assert percentiles_ms([0.001, 0.002, 0.003, 0.004]) == {"p50": 2.0, "p95": 4.0, "p99": 4.0, "n": 4}


def test_a_spread_over_rounds() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_growth_is_the_exponent() -> None:
    assert growth((10, 5.0), (1000, 500.0)) == pytest.approx(1.0)
    assert growth((10, 5.0), (1000, 5.0)) == pytest.approx(0.0)
    assert growth((100, 1.0), (400, 16.0)) == pytest.approx(2.0)


def climbed(
    limit: float, *, first: float = 10.0, at_most: float = 1000.0, steps: int = 30
) -> tuple[Climb, list[float]]:
    climb, rates = Climb(first, at_most=at_most, steps=steps), []
    while (rate := climb.rate) is not None:
        rates.append(rate)
        climb.tried(rate, held=rate <= limit)
    return climb, rates


@given(st.floats(3.0, 800.0))
def test_the_climb_finds_the_highest_rate_that_holds(limit: float) -> None:
    climb, rates = climbed(limit)
    assert climb.held <= limit
    assert climb.failed is None or climb.failed > limit
    assert climb.held * CLOSE_ENOUGH >= min(limit, 600.0)
    assert len(rates) == len(set(rates))


def test_the_climb_stops_at_the_highest_rate_and_after_its_steps() -> None:
    climb, rates = climbed(1e9, at_most=40.0)
    assert rates == [10.0, 15.0, 22.5, 33.8]
    assert climb.failed is None
    assert len(climbed(500.0, steps=4)[1]) == 4


def test_a_flow_that_never_holds_has_no_rate() -> None:
    climb, rates = climbed(0.0)
    assert climb.held == 0
    assert rates[0] == 10.0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("limit", [8.0, 10.0, 14.99, 15.0, 19.3, 22.4, 77.7, 500.0])
def test_a_climb_that_is_left_alone_converges(limit: float) -> None:
    climb, _ = climbed(limit)
    assert climb.converged
    assert climb.failed is not None
    assert climb.failed / climb.held <= CLOSE_ENOUGH


@pytest.mark.parametrize(
    ("limit", "at_most", "steps", "held", "failed"),
    [
        (1e9, 40.0, 30, 33.8, None),
        (1e9, 1000.0, 3, 22.5, None),
        (20.0, 1000.0, 3, 15.0, 22.5),
        (2.0, 1000.0, 3, 0, 4.5),
    ],
)
def test_a_climb_that_was_cut_off_did_not_converge(
    limit: float, at_most: float, steps: int, held: float, failed: float | None
) -> None:
    climb, _ = climbed(limit, at_most=at_most, steps=steps)
    assert (climb.converged, climb.held, climb.failed) == (False, held, failed)


def confirmed(climb: Climb, limit: float) -> list[float]:
    rates = []
    while (rate := climb.unconfirmed) is not None:
        rates.append(rate)
        climb.tried_at_length(rate, held=rate <= limit)
    return rates


def test_what_was_found_is_tried_at_length_once_if_it_holds() -> None:
    climb = Climb(10.0, at_most=1000.0, steps=30, confirmations=3)
    while (rate := climb.rate) is not None:
        climb.tried(rate, held=rate <= 20.0)
    found = climb.held
    assert confirmed(climb, 1e9) == [found]
    assert (climb.held, climb.confirmed, climb.converged) == (found, True, True)


def test_what_fails_at_length_is_followed_by_what_held_below_it_then_by_less() -> None:
    climb = Climb(10.0, at_most=15.0, steps=30, confirmations=3)
    climb.tried(10.0, held=True)
    climb.tried(15.0, held=True)
    assert confirmed(climb, 9.5) == [15.0, 10.0, 9.44]
    assert (climb.held, climb.failed, climb.confirmed, climb.converged) == (9.44, 10.0, True, True)


def test_after_the_last_confirmation_nothing_is_known_to_hold() -> None:
    climb = Climb(10.0, at_most=15.0, steps=30, confirmations=2)
    climb.tried(10.0, held=True)
    climb.tried(15.0, held=True)
    assert confirmed(climb, 5.0) == [15.0, 10.0]
    assert (climb.held, climb.failed, climb.confirmed, climb.converged) == (0.0, 10.0, False, False)


def test_what_failed_at_length_has_not_converged_however_close_what_is_below_it() -> None:
    climb = Climb(10.0, at_most=15.0, steps=30, confirmations=1)
    climb.tried(10.0, held=True)
    climb.tried(10.5, held=True)
    assert confirmed(climb, 10.2) == [10.5]
    assert (climb.held, climb.confirmed, climb.converged) == (10.0, False, False)


def test_where_nothing_held_there_is_nothing_to_confirm() -> None:
    climb = Climb(10.0, at_most=1000.0, steps=3, confirmations=3)
    assert climb.unconfirmed is None
    while (rate := climb.rate) is not None:
        climb.tried(rate, held=False)
    assert climb.unconfirmed is None


@pytest.mark.parametrize(("failed", "calls", "held"), [(0, 60, True), (1, 60, False), (0, 0, False), (1, 1000, False),
                                                       (1, 1001, True), (2, 2000, False), (2, 2001, True)])  # fmt: skip
def test_less_than_one_in_a_thousand_may_fail(failed: int, calls: int, held: bool) -> None:
    assert holds(failed, calls) is held
