"""Erlang C and A against known figures, and against the chain of states solved directly."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.erlang import Load, erlang_b, service

HOUR = 3600.0


def test_known_figures():
    endless = service(Load(100 / HOUR, 300, 12), within_s=15)
    assert (round(endless.waits, 4), round(endless.within, 4), round(endless.wait_s, 2)) == (0.1760, 0.8535, 14.40)
    assert endless.abandons == 0
    impatient = service(Load(100 / HOUR, 300, 12, patience_s=120), within_s=15)
    assert (round(impatient.abandons, 4), round(impatient.wait_s, 2)) == (0.0311, 3.73)


def test_a_queue_that_grows_without_end_is_refused():
    with pytest.raises(ValueError, match="grows without end"):
        service(Load(1.0, 10, 10), within_s=15)


def test_nobody_is_blocked_by_endless_agents_and_everybody_by_none():
    assert erlang_b(5.0, 0) == 1.0
    assert erlang_b(5.0, 50) < 1e-9


@pytest.mark.untraced
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.floats(0.2, 1.3), st.floats(20, 600), st.floats(30, 600))
def test_erlang_a_is_the_solution_of_the_chain(agents, occupancy, handle_s, patience_s):
    """The states (callers in the system) of M/M/n+M, their probabilities by detailed balance."""
    calls_s = occupancy * agents / handle_s
    mass, states = 1.0, [1.0]
    for k in range(1, 4000):
        mass *= calls_s / (min(k, agents) / handle_s + max(k - agents, 0) / patience_s)
        states.append(mass)
        if k > agents and mass < 1e-14 * max(states):
            break
    total = sum(states)
    queued = sum((k - agents) * p for k, p in enumerate(states) if k > agents) / total
    found = service(Load(calls_s, handle_s, agents, patience_s), within_s=15)
    assert found.waits == pytest.approx(sum(states[agents:]) / total, rel=1e-4, abs=1e-6)
    assert found.abandons == pytest.approx(queued / patience_s / calls_s, rel=1e-3, abs=1e-6)
    assert found.wait_s == pytest.approx(queued / calls_s, rel=1e-3, abs=1e-6)


def test_the_service_level_is_that_of_the_closed_form_with_one_agent_and_patience_as_long_as_handling():
    """n = 1 and 1/θ = 1/μ: with k ahead an agent is reached after k + 1 departures; the chain is M/M/∞."""
    load = Load(1 / 60, 60, 1, 60)
    states = [exp(-1)]
    for k in range(1, 60):
        states.append(states[-1] / k)
    within = states[0]
    for k in range(1, 60):
        within += states[k] * _reached(k, 15 / 60)
    assert service(load, 15).within == pytest.approx(within, rel=1e-4)


def _reached(others: int, t: float, steps: int = 4000) -> float:
    """Probability of being reached within `t`, before one's patience ends, with `others` ahead: by Euler's steps."""
    waits = [0.0] * (others + 1)
    waits[others] = 1.0
    h = t / steps
    for _ in range(steps):
        moved = waits[:]
        for k in range(1, others + 1):
            moved[k] -= waits[k] * (k + 1) * h
            moved[k - 1] += waits[k] * k * h
        waits = moved
    return waits[0]
