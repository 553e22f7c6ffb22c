"""One inbox per call.

Every resource that the controller creates for a call is named `<call>~<what>`, so an event finds its call by
name alone: the owner of an id is what stands before `~`. An event that concerns two calls (an agent's leg moved
from one to the other) goes to both, once each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from ari_app.ari.errors import MailboxClosed, MailboxOverflow

CAPACITY = 1000
"""Events of one call that may wait. A whole call has about 60; a thousand means that its task has stopped reading."""


def owner_of(resource_id: str) -> str:
    """The call a resource belongs to, by its name.

    >>> owner_of("demo-1763763200.3~offer-1"), owner_of("demo-1763763200.3")
    ('demo-1763763200.3', 'demo-1763763200.3')

    The second half of a `Local/` channel is `<id>;2` and belongs to the first one's owner:

    >>> owner_of("demo-1.0;2"), owner_of("demo-1.0~offer-1;2")
    ('demo-1.0', 'demo-1.0')
    """
    return resource_id.partition("~")[0].partition(";")[0]


class Keyed(Protocol):
    """Anything that names the resources it concerns."""

    def keys(self) -> tuple[str, ...]: ...


class Mailbox:
    """The inbox of one call: Asterisk's events and our own (timers, identity answers, offers), in order of arrival.

    One reader. It never blocks the sender: when `CAPACITY` is exceeded the content is thrown away and the reader
    hears MailboxOverflow from then on, because a call that missed an event cannot be trusted to go on.
    """

    def __init__(self, owner: str, registry: Mailboxes, capacity: int = CAPACITY) -> None:
        self.owner = owner
        self.aliases: list[str] = []
        """Other owners whose events come here too."""
        self._registry = registry
        self._capacity = capacity
        self._waiting: list[Any] = []
        self._reader: asyncio.Future[None] | None = None
        """Plain ones: a deque and an Event would take 1.5 kB for each call, and almost always nothing waits."""
        self._overflowed = False
        self._closed = False

    async def get(self) -> Any:
        """The next event, waiting for it. Raises MailboxOverflow, MailboxClosed."""
        while True:
            if self._overflowed:
                raise MailboxOverflow(f"more than {self._capacity} events waited in one call's mailbox")
            if self._waiting:
                return self._waiting.pop(0)
            if self._closed:
                raise MailboxClosed("the mailbox was closed")
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def put(self, event: Any) -> None:
        """Add an event; any object. After `close` or an overflow it is of no interest and dropped."""
        if self._closed or self._overflowed:
            return
        if len(self._waiting) >= self._capacity:
            self._overflowed = True
            self._waiting.clear()
            self._registry.overflows += 1
        else:
            self._waiting.append(event)
        self._wake()

    def close(self) -> None:
        """No more events; what is already inside can still be read."""
        if not self._closed:
            self._closed = True
            self._registry.forget(self)
            self._wake()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def overflowed(self) -> bool:
        return self._overflowed

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Mailboxes:
    """All open inboxes, by owner."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._open: dict[str, Mailbox] = {}
        self.overflows = 0
        """How many mailboxes ran full since the start; each is a call that we broke."""

    def open(self, owner: str) -> Mailbox:
        """A new inbox for everything named `owner` or `owner~…`. Open it before you create the first of them."""
        if owner_of(owner) != owner:
            raise ValueError("an owner's name contains neither ~ nor ;")
        if owner in self._open:
            raise ValueError("this owner has an open mailbox already")
        mailbox = self._open[owner] = Mailbox(owner, self, self._capacity)
        return mailbox

    def alias(self, owner: str, mailbox: Mailbox) -> None:
        """From now on `mailbox` receives `owner`'s events too: another channel took this call's place."""
        if self._open.setdefault(owner, mailbox) is not mailbox:
            raise ValueError("this owner has an open mailbox already")
        mailbox.aliases.append(owner)

    def find(self, owner: str) -> Mailbox | None:
        """The inbox that receives `owner`'s events, if one is open."""
        return self._open.get(owner)

    def deliver(self, event: Keyed) -> int:
        """Put `event` into every inbox it concerns, once each; returns into how many."""
        keys = event.keys()
        boxes = [box for key in keys if (box := self._open.get(owner_of(key))) is not None]
        concerned = dict.fromkeys(boxes)
        for mailbox in concerned:
            mailbox.put(event)
        return len(concerned)

    def forget(self, mailbox: Mailbox) -> None:
        for owner in (mailbox.owner, *mailbox.aliases):
            self._open.pop(owner, None)

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(dict.fromkeys(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)
