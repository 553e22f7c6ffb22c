"""Percentiles, medians of rounds, and the search for the highest rate. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log
from statistics import median

PERCENTILES = (50, 95, 99)
STEP_UP = 1.5
"""A rate that holds is followed by one so much higher, until one fails."""
CLOSE_ENOUGH = 1.06
"""The search ends when the lowest rate that failed is at most so many times the highest that held."""
ALLOWED_SHARE = 0.001
"""Failed calls, of all: fewer than this and the rate holds."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the least value that at least `percent` of all do not exceed. Raises ValueError for none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 99)
    (2.0, 4.0)
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(ceil(percent / 100 * len(values)), 1) - 1]


def percentiles_ms(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds, and how many there were; empty if none."""
    values = list(seconds)
    if not values:
        return {}
    return {f"p{p}": round(percentile(values, p) * 1000, 3) for p in PERCENTILES} | {"n": len(values)}


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises ValueError for none."""
        found = list(values)
        if not found:
            raise ValueError("no values")
        return cls(median(found), min(found), max(found))


def growth(small: tuple[float, float], large: tuple[float, float]) -> float:
    """The exponent e of time ∝ size^e between two (size, time) pairs: 1 is linear, near 0 logarithmic or better."""
    return log(large[1] / small[1]) / log(large[0] / small[0])


class Climb:
    """Looks for the highest rate that holds: up by `STEP_UP` until one fails, then between the two.

    Its steps are short; so what it found is then tried at length, and what held next below it if that fails.
    """

    def __init__(self, first: float, *, at_most: float, steps: int, confirmations: int = 0) -> None:
        """Rates in calls a second; no more than `steps` are tried, and `confirmations` at length."""
        self.failed: float | None = None
        """The lowest that did not hold."""
        self.confirmed: bool | None = None
        """Whether `held` held at length; None: that was not tried."""
        self._held: set[float] = set()
        self._next = first
        self._at_most = at_most
        self._left = steps
        self._confirmations = confirmations

    @property
    def held(self) -> float:
        """The highest rate that held; 0: none did."""
        return max(self._held, default=0.0)

    @property
    def converged(self) -> bool:
        """Whether the highest rate is found: what holds and what fails are close. If not, the search was cut off, or
        what it found failed at length.
        """
        close = self.failed is not None and self.held > 0 and self.failed / self.held <= CLOSE_ENOUGH
        return close and self.confirmed is not False

    @property
    def rate(self) -> float | None:
        """What to try next; None: it is found, or the steps are used up."""
        if not self._left or self.converged or self._next > self._at_most or self._next < 1:
            return None
        return self._next

    def tried(self, rate: float, *, held: bool) -> None:
        self._left -= 1
        self._learn(rate, held)
        if self.failed is None:
            self._next = round(rate * STEP_UP, 1)
        elif self.held:
            self._next = round((self.held + self.failed) / 2, 1)
        else:
            self._next = round(self.failed / STEP_UP, 1)

    @property
    def unconfirmed(self) -> float | None:
        """What to try at length next, after the search; None: that held, was tried often enough, or is not known.

        If one fails, the next lower rate that held; if there is none, one that is just close enough to it.
        """
        if self.confirmed or not self._confirmations:
            return None
        if self.held:
            return self.held
        return None if self.confirmed is None or self.failed is None else ceil(self.failed / CLOSE_ENOUGH * 100) / 100

    def tried_at_length(self, rate: float, *, held: bool) -> None:
        self._confirmations -= 1
        self.confirmed = held
        self._learn(rate, held)

    def _learn(self, rate: float, held: bool) -> None:
        if held:
            self._held.add(rate)
        else:
            self.failed = rate if self.failed is None else min(self.failed, rate)
            self._held = {one for one in self._held if one < rate}


def holds(failed: int, calls: int) -> bool:
    """Whether `failed` of `calls` are few enough."""
    return calls > 0 and failed < max(calls * ALLOWED_SHARE, 1)
