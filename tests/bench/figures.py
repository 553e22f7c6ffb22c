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
    """Looks for the highest rate that holds: up by `STEP_UP` until one fails, then between the two."""

    def __init__(self, first: float, *, at_most: float, steps: int) -> None:
        """Rates in calls a second; no more than `steps` are tried."""
        self.held = 0.0
        """The highest rate that held; 0: none did."""
        self.failed: float | None = None
        """The lowest that did not."""
        self._next = first
        self._at_most = at_most
        self._left = steps

    @property
    def rate(self) -> float | None:
        """What to try next; None: it is found, or the steps are used up."""
        close = self.failed is not None and self.held > 0 and self.failed / self.held <= CLOSE_ENOUGH
        if not self._left or close or self._next > self._at_most or self._next < 1:
            return None
        return self._next

    def tried(self, rate: float, *, held: bool) -> None:
        self._left -= 1
        if held:
            self.held = max(self.held, rate)
        else:
            self.failed = rate if self.failed is None else min(self.failed, rate)
        if self.failed is None:
            self._next = round(rate * STEP_UP, 1)
        elif self.held:
            self._next = round((self.held + self.failed) / 2, 1)
        else:
            self._next = round(self.failed / STEP_UP, 1)


def holds(failed: int, calls: int) -> bool:
    """Whether `failed` of `calls` are few enough."""
    return calls > 0 and failed < max(calls * ALLOWED_SHARE, 1)
