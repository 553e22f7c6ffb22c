"""Where a caller stands in the queue, and how long the wait will be: from what really happens. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil

from ari_app.flow.routing import Rank, Waiting

HALF_LIFE_S = 600.0
"""What was measured so long ago counts half: a shift changes, and so does the pace."""
PRIOR = 5.0
"""Until more was measured, the pace that agents and handle times promise counts as so many callers served."""
HANDLED = 50
"""So many handle times are remembered of each line."""


class Places:
    """Callers of one line, offered to an agent or not, in the order in which they are served."""

    def __init__(self) -> None:
        self._ranks: list[Rank] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def take(self, call: Waiting) -> None:
        insort(self._ranks, call.rank)

    def give_up(self, call: Waiting) -> None:
        del self._ranks[bisect_left(self._ranks, call.rank)]

    def of(self, call: Waiting) -> int:
        """1 for the caller who is next."""
        return bisect_left(self._ranks, call.rank) + 1


class Pace:
    """How fast the queue of one line moves: callers served a second, while there is one.

    `expected_handle_s`: mean handle time until one was measured.
    """

    def __init__(self, expected_handle_s: float) -> None:
        self._expected_handle_s = expected_handle_s
        self._handled_s: deque[float] = deque(maxlen=HANDLED)
        self._served = self._queued_s = 0.0
        self._at = 0.0
        self._length = 0

    def queue_is(self, length: int, now: float) -> None:
        """`length` callers wait from `now` (seconds) on. Told at each change, and before one is `served`."""
        passed_s = max(now - self._at, 0.0)
        fade = 0.5 ** (passed_s / HALF_LIFE_S)
        self._served *= fade
        self._queued_s = self._queued_s * fade + (passed_s if self._length else 0.0)
        self._at, self._length = now, length

    def served(self, now: float) -> None:
        """A caller who had to wait has been offered to an agent who then took the call."""
        self.queue_is(self._length, now)
        self._served += 1

    def handled(self, seconds: float) -> None:
        self._handled_s.append(seconds)

    @property
    def handle_s(self) -> float:
        """Mean handle time, of the talk to the end of wrap-up."""
        return sum(self._handled_s) / len(self._handled_s) if self._handled_s else self._expected_handle_s

    def expected_wait_s(self, place: int, agents: int, now: float) -> float:
        """Seconds until the caller at `place` is served. `agents`: on duty, who could; none: as if there were one."""
        self.queue_is(self._length, now)
        promised_s = self.handle_s / max(agents, 1)
        return place * (PRIOR * promised_s + self._queued_s) / (PRIOR + self._served)


def minutes(seconds: float) -> int:
    """Whole minutes as said to a caller: rounded up, at least one."""
    return max(1, ceil(seconds / 60))
