"""What happens in the house, as a live stream that never slows the house.

The controller publishes into one bounded buffer; each reader has a place in it and nothing else, so that a hundred
readers cost the controller no more than one. Who reads more slowly than the buffer turns over is cut off. Publishing
and reading may be on different threads.

No event holds a caller's number or name.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from ari_app.desk import AgentNow
from ari_app.flow.sop import State
from ari_app.ledger import AgentChange
from ari_app.store import models

KEPT = 2000
"""Events kept for who comes back: some minutes of a busy hour."""
ALIVE_EVERY_S = 10.0
COME_BACK_AFTER_MS = 2000

Kind = Literal["agent", "queue", "call", "offer", "callback"]


@dataclass(frozen=True)
class Happening:
    n: int
    at: float
    kind: Kind
    agent: str | None
    """Whom it concerns: an agent's own stream holds these only."""
    data: dict[str, Any]


class FellBehind(Exception):
    """What should be read next is in the buffer no more."""


class Happenings:
    """`started` (Unix seconds) makes the ids of this controller's events unlike any other's."""

    def __init__(self, started: float, kept: int = KEPT) -> None:
        self._name = f"{int(started * 1000):x}"
        self._kept: deque[Happening] = deque(maxlen=kept)
        self._last = 0
        self._lock = threading.Lock()
        self._readers: set[_Reader] = set()
        self._closed = False

    # ------------------------------------------------------------ in the controller

    def desk_changed(self, now: float, queue_length: int, news: AgentNow | str) -> None:
        """To be told by ``Desk.watch``."""
        if isinstance(news, str):
            self.publish(now, "queue", {"call": news, "length": queue_length})
        else:
            data = {"agent": news.number, "state": news.duty.value, "since": news.since, "call": news.call_id}
            self.publish(now, "agent", data, news.number)

    def written(self, row: models.Table | AgentChange) -> None:
        """To be told by ``Ledger.watch``."""
        match row:
            case models.Call():
                self.publish(row.at, "call", {"call": row.id, "state": State.RINGING.name, "heard": "ARRIVED"})
            case models.Transition():
                step = {"call": row.call_id, "state": row.next, "heard": row.heard, "agent": row.agent}
                self.publish(row.at, "call", step, row.agent)
            case models.OfferEvent():
                data = {"call": row.call_id, "agent": row.agent, "event": row.event}
                self.publish(row.at, "offer", data, row.agent)
            case models.Ending():
                ended = {"call": row.call_id, "state": State.ENDED.name, "outcome": row.outcome, "agent": row.agent}
                self.publish(row.at, "call", ended, row.agent)
            case models.Callback():
                self.publish(row.at, "callback", {"id": row.id, "reason": row.reason})

    def publish(self, at: float, kind: Kind, data: dict[str, Any], agent: str | None = None) -> None:
        """Never waits, never fails."""
        with self._lock:
            self._last += 1
            self._kept.append(Happening(self._last, at, kind, agent, {"at": at, **data}))
            readers = list(self._readers)
        for reader in readers:
            reader.wake()

    def close(self) -> None:
        """Ends every stream."""
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        for reader in readers:
            reader.wake()

    # ------------------------------------------------------------ for readers

    @property
    def last_id(self) -> str:
        """Who reads from here on misses nothing of what comes."""
        return self.id_of(self._last)

    def id_of(self, n: int) -> str:
        return f"{self._name}-{n}"

    def after(self, n: int) -> list[Happening]:
        """What came after event `n`, in order. Raises FellBehind."""
        with self._lock:
            first = self._last - len(self._kept) + 1
            if not first - 1 <= n <= self._last:
                raise FellBehind
            return list(islice(self._kept, n + 1 - first, None))

    async def stream(
        self,
        came_from: str | None,
        concerns: Callable[[Happening], bool],
        still_welcome: Callable[[], Awaitable[bool]],
    ) -> AsyncIterator[str]:
        """Server-sent events (HTML standard, 9.2) after id `came_from`, or from now on.

        If that id is of an earlier controller or out of the buffer, `missed` comes first: read the snapshot anew. A
        comment comes every 10 s, whatever happens; the stream ends then if not `still_welcome`, and after `cut` for
        who reads too slowly.
        """
        reader = _Reader()
        with self._lock:
            self._readers.add(reader)
        try:
            yield f"retry: {COME_BACK_AFTER_MS}\n\n"
            place = self._place(came_from)
            if place is None:
                place = self._last
                yield f"id: {self.id_of(place)}\nevent: missed\ndata: {{}}\n\n"
            clock = asyncio.get_running_loop().time
            asks_at = clock() + ALIVE_EVERY_S
            while not self._closed:
                if clock() >= asks_at:
                    if not await still_welcome():
                        return
                    yield ": alive\n\n"
                    asks_at = clock() + ALIVE_EVERY_S
                reader.woken.clear()
                try:
                    batch = self.after(place)
                except FellBehind:
                    yield "event: cut\ndata: {}\n\n"
                    return
                for one in batch:
                    if clock() >= asks_at:
                        break
                    place = one.n
                    if concerns(one):
                        yield self._line(one)
                if batch:
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(asks_at):
                        await reader.woken.wait()
        finally:
            with self._lock:
                self._readers.discard(reader)

    def _place(self, came_from: str | None) -> int | None:
        """None: it cannot be gone on from there."""
        if came_from is None:
            return self._last
        name, _, n = came_from.partition("-")
        if name != self._name or not (n.isascii() and n.isdigit() and len(n) < 16):
            return None
        try:
            self.after(int(n))
        except FellBehind:
            return None
        return int(n)

    def _line(self, one: Happening) -> str:
        data = json.dumps(one.data, ensure_ascii=False, separators=(",", ":"))
        return f"id: {self.id_of(one.n)}\nevent: {one.kind}\ndata: {data}\n\n"


class _Reader:
    """Wakes a stream from whichever thread publishes."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        if not self.woken.is_set():
            try:
                self._loop.call_soon_threadsafe(self.woken.set)
            except RuntimeError:  # its loop is closed: nobody reads any more
                return
