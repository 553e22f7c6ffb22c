"""Who waits next and which agent is offered the call. Pure functions over snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, order=True)
class Waiting:
    """A caller in the queue; ordered by when the place was taken."""

    since: float
    call_id: str


@dataclass(frozen=True, order=True)
class Idle:
    """An agent who is free; ordered by how long."""

    since: float
    number: str


def pairs(waiting: Iterable[Waiting], idle: Iterable[Idle]) -> Iterator[tuple[Waiting, Idle]]:
    """First come, first served; the agent idle longest first."""
    return zip(sorted(waiting), sorted(idle), strict=False)


def position(waiting: Iterable[Waiting], call_id: str) -> int:
    """1 for the caller who is next; 0 if `call_id` does not wait."""
    for place, one in enumerate(sorted(waiting), start=1):
        if one.call_id == call_id:
            return place
    return 0


def expected_wait_s(place: int, agents: int, handle_s: float) -> float:
    """Seconds until the caller at `place` is served by `agents` who need `handle_s` on average for a call.

    With every agent busy, one comes free each ``handle_s / agents`` seconds. No agents: as if there were one.
    """
    return place * handle_s / max(agents, 1)


def minutes(seconds: float) -> int:
    """Whole minutes as said to a caller: rounded up, at least one."""
    return max(1, ceil(seconds / 60))
