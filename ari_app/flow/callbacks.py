"""Callbacks: how each one stands, and when it may be tried. Pure.

Theory of operation. A `Wish` is what somebody asked for, with the place in the queue that is kept for it. What becomes
of it is a row each (`Happened`); ``after()`` folds them, in order, into how it stands, so that the rows alone tell.
While it is open it waits in the queue like a caller, at its old place, whenever ``next_try()`` allows; one attempt at a
time. It ends served, given up after its last attempt, expired, or cancelled.

Moments are Unix seconds. What is allowed by the clock on the wall is in `Terms`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta, tzinfo
from enum import StrEnum


class Window(StrEnum):
    """When in the day the caller wants to be called."""

    ANY = "any"
    MORNING = "morning"
    AFTERNOON = "afternoon"


class Stage(StrEnum):
    WAITING = "waiting"
    """For its turn, its window, or the next attempt."""
    CALLING = "calling"
    """An attempt is being made."""
    RETURNED = "returned"
    """The person has called in, and waits at the kept place."""
    SERVED = "served"
    GIVEN_UP = "given_up"
    """Every attempt was in vain."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


OVER = (Stage.SERVED, Stage.GIVEN_UP, Stage.EXPIRED, Stage.CANCELLED)


class Happened(StrEnum):
    """What became of a callback: the `event` of a row."""

    MOVED = "moved"
    """Asked for again: another number or window; the place stays."""
    HASTENED = "hastened"
    """The person's call was lost with Asterisk: first in line from now on."""
    CALLED = "called"
    """An agent is reserved, and the attempt begins."""
    DECLINED = "declined"
    """That agent did not take it, or was lost before the person was called: no attempt was made."""
    MISSED = "missed"
    """The person was not reached; not tried again before `until`."""
    RETURNED = "returned"
    """The person has called in."""
    LEFT = "left"
    """And has left again unserved."""
    SERVED = "served"
    GIVEN_UP = "given_up"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Event:
    """A row of ``callback_events``."""

    n: int
    at: float
    happened: Happened
    call_id: str | None = None
    agent: str | None = None
    number: str | None = None
    window: Window | None = None
    until: float | None = None


@dataclass(frozen=True)
class Wish:
    """A callback as it stands. `number` is personal data."""

    id: str
    number: str
    since: float
    """The place in the queue that is kept."""
    asked_at: float
    first: bool = False
    """Before all others: cut off by us."""
    window: Window = Window.ANY
    role: str = "unknown"
    need: str | None = None
    party_id: int | None = None
    lawyer_id: int | None = None
    asked_from: str | None = None
    """The number of the call in which it was asked for. Personal data."""
    stage: Stage = Stage.WAITING
    rows: int = 0
    """How many events there were; the next one's number is one more."""
    attempts: int = 0
    not_before: float = 0.0
    call_id: str | None = None
    """The attempt, or the call in which the person is back."""
    declined: frozenset[str] = frozenset()
    """Agents who did not take it."""

    @property
    def is_open(self) -> bool:
        return self.stage not in OVER


@dataclass(frozen=True)
class Terms:
    """What is allowed. Times of day are those of `zone`."""

    zone: tzinfo
    hours: tuple[time, time]
    """Nobody is called before the first or from the second on."""
    morning: tuple[time, time]
    afternoon: tuple[time, time]
    attempts: int
    retry_after_s: tuple[float, ...]
    """After the first attempt, the second, …; the last one counts for all that follow."""
    expires_after_s: float

    def allows(self, at: float, window: Window = Window.ANY) -> bool:
        """Whether somebody may be called at this moment."""
        now = datetime.fromtimestamp(at, self.zone).time()
        return all(begin <= now < end for begin, end in self._spans(window))

    def opens_at(self, at: float, window: Window = Window.ANY) -> float:
        """The first moment from `at` on at which it is allowed."""
        if self.allows(at, window):
            return at
        day = datetime.fromtimestamp(at, self.zone)
        begin = max(begin for begin, _ in self._spans(window))
        opening = datetime.combine(day.date(), begin, self.zone)
        return (opening if opening > day else opening + timedelta(days=1)).timestamp()

    def _spans(self, window: Window) -> tuple[tuple[time, time], ...]:
        match window:
            case Window.MORNING:
                return (self.hours, self.morning)
            case Window.AFTERNOON:
                return (self.hours, self.afternoon)
        return (self.hours,)


def after(wish: Wish, event: Event) -> Wish:
    """How `wish` stands after `event`. What is over stays over."""
    wish = replace(wish, rows=max(wish.rows, event.n))
    if not wish.is_open:
        return wish
    match event.happened:
        case Happened.MOVED:
            return replace(wish, number=event.number or wish.number, window=event.window or wish.window)
        case Happened.HASTENED:
            return replace(wish, first=True, not_before=0.0)
        case Happened.CALLED:
            return replace(wish, stage=Stage.CALLING, call_id=event.call_id)
        case Happened.DECLINED:
            declined = wish.declined | {event.agent} if event.agent else wish.declined
            return replace(wish, stage=Stage.WAITING, call_id=None, declined=declined)
        case Happened.MISSED:
            until = event.until or event.at
            return replace(wish, stage=Stage.WAITING, call_id=None, attempts=wish.attempts + 1, not_before=until)
        case Happened.RETURNED:
            return replace(wish, stage=Stage.RETURNED, call_id=event.call_id)
        case Happened.LEFT:
            return replace(wish, stage=Stage.WAITING, call_id=None)
    return replace(wish, stage=ENDS[event.happened])


ENDS = {
    Happened.SERVED: Stage.SERVED, Happened.GIVEN_UP: Stage.GIVEN_UP, Happened.EXPIRED: Stage.EXPIRED,
    Happened.CANCELLED: Stage.CANCELLED,
}  # fmt: skip


def expires_at(wish: Wish, terms: Terms) -> float:
    return wish.asked_at + terms.expires_after_s


def next_try(wish: Wish, now: float, terms: Terms) -> float | None:
    """The first moment from `now` on at which it may wait for an agent; None: it expires before that."""
    at = terms.opens_at(max(now, wish.not_before), wish.window)
    return at if at < expires_at(wish, terms) else None


def missed(wish: Wish, now: float, terms: Terms) -> Event:
    """The row of an attempt that did not reach the person: tried again later, or given up."""
    n = wish.rows + 1
    if wish.attempts + 1 >= terms.attempts:
        return Event(n, now, Happened.GIVEN_UP, wish.call_id)
    pauses = terms.retry_after_s
    return Event(n, now, Happened.MISSED, wish.call_id, until=now + pauses[min(wish.attempts, len(pauses) - 1)])


NOBODY = (None, None)


def is_of(wish: Wish, *, number: str | None, party_id: int | None = None, lawyer_id: int | None = None) -> bool:
    """Whether this person asked for it, as far as one knows: by proof or, unless both are proven, by the number."""
    asked, asks = (wish.party_id, wish.lawyer_id), (party_id, lawyer_id)
    if NOBODY not in (asked, asks):
        return asked == asks
    return number is not None and number in (wish.number, wish.asked_from)


def is_answered_by(
    wish: Wish, *, number: str | None, party_id: int | None = None, lawyer_id: int | None = None
) -> bool:
    """Whether it is over once an agent has spoken with this person. A number may be shared: it does not answer for
    somebody who was proven when asking.
    """
    nobodys = (wish.party_id, wish.lawyer_id) == NOBODY
    alike = (wish.party_id, wish.lawyer_id) == (party_id, lawyer_id)
    return (nobodys or alike) and is_of(wish, number=number, party_id=party_id, lawyer_id=lawyer_id)


def open_for(
    wishes: Iterable[Wish], *, number: str | None, party_id: int | None = None, lawyer_id: int | None = None
) -> Wish | None:
    """The open callback of this person; of several at a shared number, the person's own."""
    who = {"party_id": party_id, "lawyer_id": lawyer_id}
    mine = [wish for wish in wishes if wish.is_open and is_of(wish, number=number, **who)]
    return min(mine, key=lambda wish: not is_answered_by(wish, number=number, **who), default=None)
