"""The house that a call comes to, and the caller's line in it: its name in Asterisk, its inbox, its deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ari_app.ari.client import Client
from ari_app.ari.errors import Conflict, Invalid, NotFound
from ari_app.ari.mailboxes import Mailbox
from ari_app.callbacks import Callbacks
from ari_app.desk import Desk
from ari_app.flow.sop import Heard
from ari_app.ledger import Ledger
from ari_app.prompts import Catalogue
from ari_app.settings import Settings
from metrics.hotline import HotlineMetrics

NOT_IN_STASIS = (400, 422)
"""What addChannel answers when the channel has gone: 400 if it was destroyed, 422 if it is on its way out."""


@dataclass(frozen=True)
class Hotline:
    """What a call needs of the house it comes to."""

    settings: Settings
    client: Client
    desk: Desk
    ledger: Ledger
    catalogue: Catalogue
    metrics: HotlineMetrics
    clock: Callable[[], float]
    """Unix seconds."""
    linked: asyncio.Event
    """Set while Asterisk is reachable."""
    callbacks: Callbacks = field(init=False)

    def __post_init__(self) -> None:
        made = Callbacks(self.ledger, self.desk, self.metrics, self.clock, self.settings.zone, self.settings.instance)
        object.__setattr__(self, "callbacks", made)


@dataclass(frozen=True)
class Due:
    """A deadline of this call has come; void if it was cleared or set anew since (`n`)."""

    name: str
    n: int


class Line:
    """One caller's. Whoever serves the call shares it."""

    def __init__(self, hotline: Hotline, id: str, inbox: Mailbox) -> None:
        self.hotline = hotline
        self.id = id
        self.inbox = inbox
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self._dues = 0

    def within(self, name: str, seconds: float) -> None:
        """`Due(name)` arrives after `seconds`, in place of an earlier one of that name."""
        self.clear(name)
        self._dues += 1
        due = asyncio.get_running_loop().call_later(max(seconds, 0.0), self.inbox.put, Due(name, self._dues))
        self._timers[name] = (self._dues, due)

    def clear(self, *names: str) -> None:
        for name in names:
            _, timer = self._timers.pop(name, (0, None))
            if timer is not None:
                timer.cancel()

    def clear_all(self) -> None:
        self.clear(*list(self._timers))

    def is_due(self, due: Due) -> bool:
        """Whether `due` still counts; it is over with that."""
        if self._timers.get(due.name, (0, None))[0] != due.n:
            return False
        del self._timers[due.name]
        return True

    @property
    def awaited(self) -> frozenset[str]:
        """Names of the deadlines that are to come."""
        return frozenset(self._timers)

    @contextmanager
    def gone_is_hung_up(self, heard: Heard | None = Heard.HUNG_UP) -> Iterator[None]:
        """ "Not there" or "not with us" from Asterisk means that this side has hung up: normal, never an alarm."""
        try:
            yield
        except (NotFound, Conflict):
            if heard is not None:
                self.inbox.put(heard)
        except Invalid as error:
            if error.status not in NOT_IN_STASIS:
                raise
            if heard is not None:
                self.inbox.put(heard)
