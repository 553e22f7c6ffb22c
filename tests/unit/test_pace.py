"""Where a caller stands, and how long the wait will be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.pace import HALF_LIFE_S, PRIOR, Pace, Places, minutes
from ari_app.flow.routing import Waiting, Wants


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 2)), max_size=20), st.randoms())
def test_places_count_from_one_in_the_order_of_service(callers, chance):
    calls = [Waiting(f"c{n}", since, Wants(priority=priority)) for n, (since, priority) in enumerate(callers)]
    places = Places()
    for one in chance.sample(calls, len(calls)):
        places.take(one)
    assert [one.call_id for one in sorted(calls, key=places.of)] == [
        one.call_id for one in sorted(calls, key=lambda one: (-one.wants.priority, one.since, one.call_id))
    ]
    assert sorted(places.of(one) for one in calls) == list(range(1, len(calls) + 1))
    for left, one in enumerate(reversed(calls)):
        assert len(places) == len(calls) - left
        places.give_up(one)


def test_until_something_was_measured_the_wait_is_what_agents_and_handle_times_promise():
    pace = Pace(expected_handle_s=180)
    assert pace.expected_wait_s(1, 24, 0) == pytest.approx(7.5)
    assert pace.expected_wait_s(3, 2, 0) == pytest.approx(270)
    assert pace.expected_wait_s(2, 0, 0) == pytest.approx(360)
    pace.handled(100)
    pace.handled(50)
    assert pace.expected_wait_s(2, 3, 0) == pytest.approx(50)


def test_the_wait_follows_the_pace_at_which_callers_are_served():
    """Agents and handle times promise one caller in 10 s; one in 30 s is served."""
    chance = random.Random(1)
    pace = Pace(expected_handle_s=100)
    now = 0.0
    pace.queue_is(5, now)
    for _ in range(200):
        now += chance.expovariate(1 / 30)
        pace.served(now)
    assert pace.expected_wait_s(4, 10, now) == pytest.approx(120, rel=0.35)


def test_time_without_a_queue_says_nothing_about_the_pace():
    pace = Pace(expected_handle_s=100)
    pace.queue_is(1, 0.0)
    pace.queue_is(0, 10.0)
    before = pace.expected_wait_s(1, 10, 10.0)
    assert before == pytest.approx((PRIOR * 10 + 10) / PRIOR)
    assert 10.0 < pace.expected_wait_s(1, 10, 10.0 + HALF_LIFE_S) < before


def test_what_was_measured_long_ago_is_forgotten():
    pace = Pace(expected_handle_s=100)
    pace.queue_is(1, 0.0)
    for n in range(50):
        pace.served(float(n))
    pace.queue_is(0, 50.0)
    assert pace.expected_wait_s(1, 10, 50.0) < 2.0
    assert pace.expected_wait_s(1, 10, 50.0 + 20 * HALF_LIFE_S) == pytest.approx(10.0, rel=0.01)


def test_a_clock_that_is_set_back_does_no_harm():
    pace = Pace(expected_handle_s=100)
    pace.queue_is(1, 100.0)
    pace.served(50.0)
    assert pace.expected_wait_s(1, 10, 40.0) > 0


def test_minutes_are_rounded_up_and_never_none():
    assert [minutes(s) for s in (0, 1, 59.9, 60, 60.1, 120, 3599)] == [1, 1, 1, 1, 2, 2, 60]
