"""Queues in formulas: what a line with Poisson arrivals, exponential handle times and patience comes to. Pure.

Erlang C (M/M/n): A. K. Erlang, "Solution of some problems in the theory of probabilities of significance in automatic
telephone exchanges" (1917); L. Kleinrock, "Queueing Systems" I, 3.5. Callers wait for ever.

Erlang A (M/M/n+M): C. Palm (1946). Whoever waits longer than his or her patience hangs up. By the building blocks of
A. Mandelbaum and S. Zeltyn, "Call Centers with Impatient Customers: Many-Server Asymptotics of the M/M/n+G Queue",
Queueing Systems 51 (2005): with H(x) = ∫₀ˣ P(patience > u) du, a caller who would wait for ever waits for x with the
density v(x) = λ π exp(λ H(x) − n μ x), where π is the probability that exactly one agent is free.

Rates are per second, times in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf

STEPS = 20_000
"""Of Simpson's rule, in which the integrals below have no closed form; an even number."""


@dataclass(frozen=True)
class Load:
    """`calls_s` arrive a second, for `agents` who need `handle_s` for each; a caller's patience is `patience_s`."""

    calls_s: float
    handle_s: float
    agents: int
    patience_s: float = inf

    @property
    def erlangs(self) -> float:
        return self.calls_s * self.handle_s


@dataclass(frozen=True)
class Service:
    """What callers meet."""

    waits: float
    """Probability that no agent is free."""
    within: float
    """Probability of being served within the service level's threshold."""
    abandons: float
    """Probability of hanging up first."""
    wait_s: float
    """Mean wait of all callers, served or not; of Erlang C: average speed of answer."""


def service(load: Load, within_s: float) -> Service:
    """Erlang C if patience is endless, else Erlang A. Raises ValueError if the queue grows without end."""
    return _erlang_a(load, within_s) if load.patience_s < inf else _erlang_c(load, within_s)


def erlang_b(erlangs: float, agents: int) -> float:
    """Probability that all agents are busy where nobody waits; by the usual recursion, which does not overflow."""
    blocked = 1.0
    for n in range(1, agents + 1):
        blocked = erlangs * blocked / (n + erlangs * blocked)
    return blocked


def _erlang_c(load: Load, within_s: float) -> Service:
    free = load.agents - load.erlangs
    if free <= 0:
        raise ValueError(f"{load.agents} agents cannot handle {load.erlangs:.1f} Erlang: the queue grows without end.")
    blocked = erlang_b(load.erlangs, load.agents)
    waits = blocked / (1 - load.erlangs / load.agents * (1 - blocked))
    return Service(
        waits=waits,
        within=1 - waits * exp(-free * within_s / load.handle_s),
        abandons=0.0,
        wait_s=waits * load.handle_s / free,
    )


def _erlang_a(load: Load, within_s: float) -> Service:
    served_s = load.agents / load.handle_s

    def density(x: float) -> float:
        """Of the wait of one who would wait for ever, but for the factor λ π."""
        stays = load.patience_s * (1 - exp(-x / load.patience_s))
        return exp(load.calls_s * stays - served_s * x)

    def leaves(x: float) -> float:
        return density(x) * (1 - exp(-x / load.patience_s))

    horizon_s = 40 / served_s + load.patience_s * 40
    everybody = _integral(density, within_s) + _integral(density, horizon_s, since=within_s)
    impatient = _integral(leaves, within_s) + _integral(leaves, horizon_s, since=within_s)
    # With n - 1 agents, of all states of M/M/n-1/n-1 the last has probability B: 1/B is the sum, with the last as unit.
    one_free = 1 / (1 / erlang_b(load.erlangs, load.agents - 1) + load.calls_s * everybody)
    waits = load.calls_s * one_free * everybody
    abandons = load.calls_s * one_free * impatient
    stayed = _integral(lambda x: density(x) - leaves(x), within_s)
    return Service(
        waits=waits,
        within=1 - waits + load.calls_s * one_free * stayed,
        abandons=abandons,
        wait_s=abandons * load.patience_s,
    )


def _integral(of: Callable[[float], float], until: float, since: float = 0.0) -> float:
    """By Simpson's rule."""
    h = (until - since) / STEPS
    inner = sum((4 if n % 2 else 2) * of(since + n * h) for n in range(1, STEPS))
    return h / 3 * (of(since) + inner + of(until))
