"""The callbacks that are open: who is to be called back, from which place in the queue, and when.

Theory of operation. What was asked for and what became of it are rows; ``flow.callbacks`` folds them. A callback that
may be tried now waits at the desk like a caller, at its old place, under the name of the call that will come of it; the
desk reserves an agent for that name, and the call is placed (``ari_app.outbound``). It is out of the queue while an
attempt is made, while the person is on the line, and until its next moment. Every change is one row, written here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import tzinfo

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ari_app.desk import Desk, Reserved, WhoWaits
from ari_app.flow import callbacks as law
from ari_app.flow.callbacks import Event, Happened, Stage, Terms, Window, Wish
from ari_app.flow.routing import Wants
from ari_app.ledger import Ledger
from ari_app.privacy import mask
from ari_app.rules import Rules, time_of_day
from ari_app.store import models
from metrics.hotline import HotlineMetrics

log = logging.getLogger("sanling.callbacks")

FIRST_OF_ALL = 10
"""The priority of somebody whom we cut off: above every caller's."""
LOOK_EVERY_S = 5.0
"""So often it is looked whose moment has come, or is over."""
SEAT_EVERY_S = 0.2
"""One at a time takes a place at the desk, in their order. When Asterisk has died, everybody who was cut off is due in
the same moment: fifty calls placed at once delay those who call again by themselves, and take their phones' lines.
"""


@dataclass(frozen=True)
class Seat:
    """A callback's place at the desk; `call_id` is the call that will come of it."""

    callbacks: Callbacks
    wish_id: str
    call_id: str

    def put(self, event: object) -> None:
        if isinstance(event, Reserved):
            self.callbacks.agent_reserved(self, event.agent)


class CallIds:
    """Names of the calls that we place: ``demo-out_1763763200.003``, like the ids of those that come in. By the
    millisecond: another controller in the same second gives none of them again. All are of one length: Asterisk takes
    no name that begins another's.
    """

    def __init__(self, instance: str, clock: Callable[[], float]) -> None:
        self._instance = instance
        self._clock = clock
        self._last_ms = 0

    def next(self) -> str:
        self._last_ms = max(self._last_ms + 1, int(self._clock() * 1000))
        return f"{self._instance}-out_{self._last_ms // 1000}.{self._last_ms % 1000:03d}"


class Callbacks:
    """`place` is set by whoever places calls: it is given what the call is for."""

    def __init__(
        self,
        ledger: Ledger,
        desk: Desk,
        metrics: HotlineMetrics,
        clock: Callable[[], float],
        zone: tzinfo,
        instance: str,
    ) -> None:
        self._ledger = ledger
        self._desk = desk
        self._metrics = metrics
        self._clock = clock
        self._zone = zone
        self.ids = CallIds(instance, clock)
        self._wishes: dict[str, Wish] = {}
        self._seats: dict[str, Seat] = {}
        self._seated_at = 0.0
        self._held_back = asyncio.Event()
        """Somebody is due, and another has just sat down."""
        self._on_the_line: dict[str, str] = {}
        """Of whose callback the person is on the line in a call of the person's own: the call."""
        self.place: Callable[[models.OutboundCall], None] | None = None

    @property
    def terms(self) -> Terms:
        return terms_of(self._desk.rules.now, self._zone)

    def all(self) -> list[Wish]:
        """Those that are open, in the order in which they come."""
        return sorted(self._wishes.values(), key=lambda w: (not w.first, w.since))

    def open_for(self, number: str | None, party_id: int | None = None, lawyer_id: int | None = None) -> Wish | None:
        return law.open_for(self._wishes.values(), number=number, party_id=party_id, lawyer_id=lawyer_id)

    def now(self, wish: Wish) -> Wish:
        """As it stands."""
        return self._wishes[wish.id]

    def held_by(self, call_id: str) -> Wish | None:
        """The open callback of the person on this call, or for whom the call was placed."""
        mine = (w for w in self._wishes.values() if call_id in (w.call_id, self._on_the_line.get(w.id)))
        return next(mine, None)

    def is_on_the_line(self, wish_id: str) -> bool:
        """Whether the person has called in: whoever waits in a call of their own is not dialled."""
        return wish_id in self._on_the_line

    # ------------------------------------------------------------ starting, and from then on

    async def open(self, calls: set[str]) -> None:
        """Reads those that are open. `calls` are in progress; what was held for any other is free again. Raises
        StoreUnavailable.
        """
        waiting = self._ledger.waiting()  # first: what is entered in this moment is then told twice, not never
        self._wishes = {wish.id: wish for wish in await self._ledger.look_up(read)}
        callers: dict[str, str | None] = {}
        for row in waiting:
            if isinstance(row, models.Call):
                callers[row.id] = row.caller_number
            elif isinstance(row, models.Callback):
                self._wishes.setdefault(row.id, wish_of(row, callers.get(row.id)))
            elif isinstance(row, models.CallbackEvent):
                known = self._wishes.get(row.callback_id)
                if known is not None and row.n > known.rows:
                    self._wishes[known.id] = law.after(known, event_of(row))
        self._wishes = {wish.id: wish for wish in self._wishes.values() if wish.is_open}
        for wish in list(self._wishes.values()):
            if wish.stage is Stage.RETURNED and wish.call_id not in calls:
                self.happens(wish, Happened.LEFT, call_id=wish.call_id)
            elif wish.stage is Stage.CALLING and wish.call_id not in calls:
                self.was_missed(wish, "broken")

    def go(self, place: Callable[[models.OutboundCall], None]) -> None:
        """From now on calls are placed, by `place`; before that, whoever is to be called waits and expires."""
        self.place = place
        self.look()

    def stop(self) -> None:
        """Nobody is called any more; what is open waits for the next controller."""
        self.place = None
        for wish_id in list(self._seats):
            self._get_up(wish_id)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._held_back.wait(), LOOK_EVERY_S)
                self._held_back.clear()
                await asyncio.sleep(SEAT_EVERY_S)

    def look(self) -> None:
        """Who may be tried now waits at the desk; who may not does not; who has waited too long has expired."""
        now, terms = self._clock(), self.terms
        for wish in self.all():
            if wish.stage is not Stage.WAITING:
                continue
            at = law.next_try(wish, now, terms)
            if at is None:
                self.happens(wish, Happened.EXPIRED)
            elif at <= now and self.place is not None:
                self._sit_down(wish)
            else:
                self._get_up(wish.id)

    def _sit_down(self, wish: Wish) -> None:
        if wish.id in self._seats:
            return
        now = self._clock()
        if abs(now - self._seated_at) < SEAT_EVERY_S:  # abs: the clock may be set back
            self._held_back.set()
            return
        self._seated_at = now
        seat = self._seats[wish.id] = Seat(self, wish.id, self.ids.next())
        rules = self._desk.rules.now.routing
        pressing = rules.pressing_priority if wish.need == "pressing" else 0
        self._desk.join(
            seat.call_id,
            wish.since,
            seat,
            wants=Wants(
                line="lawyer" if wish.role == "lawyer" else "party",
                need=wish.need,
                priority=FIRST_OF_ALL if wish.first else pressing,
                declined=wish.declined,
            ),
            who=WhoWaits.CALLBACK,
        )

    def _get_up(self, wish_id: str) -> None:
        seat = self._seats.pop(wish_id, None)
        if seat is not None:
            self._desk.leave(seat.call_id)

    def agent_reserved(self, seat: Seat, agent: str) -> None:
        """One attempt begins, if it still may."""
        wish = self._wishes.get(seat.wish_id)
        now = self._clock()
        if (
            wish is None
            or self._seats.get(wish.id) is not seat
            or self.place is None
            or wish.stage is not Stage.WAITING
            or not self.terms.allows(now, wish.window)
        ):
            if self._seats.get(seat.wish_id) is seat:  # else the person waits by a later one
                self._get_up(seat.wish_id)
            self._desk.withdraw_soon(seat.call_id, agent)
            return
        self._get_up(wish.id)
        self.happens(wish, Happened.CALLED, call_id=seat.call_id, agent=agent)
        log.info("callback %s: call %s to %s, agent %s", wish.id, seat.call_id, mask(wish.number), agent)
        self.place(
            models.OutboundCall(
                call_id=seat.call_id, at=now, agent=agent, number=wish.number, callback_id=wish.id, case_id=None,
                role=wish.role, need=wish.need, party_id=wish.party_id, lawyer_id=wish.lawyer_id,
            )
        )  # fmt: skip

    # ------------------------------------------------------------ what becomes of one

    def asked(self, row: models.Callback, *, asked_from: str | None = None, on_the_line: bool = False) -> Wish | None:
        """Enters a callback; None if this person has an open one, which is told instead. What is asked again because
        the person's call was lost comes first from then on. `asked_from`: the number that asks; `on_the_line`: in the
        call that is going on.
        """
        known = (
            self._wishes.get(row.id) or self.held_by(row.id) or self.open_for(row.number, row.party_id, row.lawyer_id)
        )
        if known is not None:
            if row.reason == "lost" and not (known.first and known.id == row.id):
                self.happens(known, Happened.HASTENED, call_id=row.id)
            elif row.reason != "lost" and known.id != row.id:
                self.happens(
                    known, Happened.MOVED, call_id=row.id, number=row.number,
                    window=Window(row.window) if row.window else None,
                )  # fmt: skip
            return None
        self._ledger.write(row)
        self._metrics.callback_left()
        wish = self._wishes[row.id] = wish_of(row, asked_from)
        if on_the_line:
            self.returned(wish, row.id)
        else:
            self.look()
        return self._wishes.get(row.id, wish)

    def moved(self, wish: Wish, number: str, window: Window) -> None:
        self.happens(wish, Happened.MOVED, number=number, window=window)

    def returned(self, wish: Wish, call_id: str) -> None:
        """The person is on the line, and nobody calls back meanwhile; an attempt that is under way ends first."""
        if self.now(wish).call_id != call_id:
            self._on_the_line[wish.id] = call_id
            self._stays_on_the_line(wish.id)

    def _stays_on_the_line(self, wish_id: str) -> None:
        call_id, wish = self._on_the_line.get(wish_id), self._wishes.get(wish_id)
        if call_id is not None and wish is not None and wish.stage is Stage.WAITING:
            self.happens(wish, Happened.RETURNED, call_id=call_id)

    def hung_up(self, wish: Wish, call_id: str, *, served: bool) -> None:
        """The person's own call is over; `served`: an agent has spoken with the person."""
        if self._on_the_line.get(wish.id) == call_id:
            del self._on_the_line[wish.id]
        if served:
            self.happens(wish, Happened.SERVED, call_id=call_id)
        elif wish.stage is Stage.RETURNED and wish.call_id == call_id:
            self.happens(wish, Happened.LEFT, call_id=call_id)

    def was_missed(self, wish: Wish, why: str) -> None:
        """The attempt is over without the person."""
        self._write(wish, law.missed(wish, self._clock(), self.terms), why=why)

    def happens(
        self,
        wish: Wish,
        happened: Happened,
        *,
        call_id: str | None = None,
        agent: str | None = None,
        number: str | None = None,
        window: Window | None = None,
        why: str | None = None,
    ) -> None:
        wish = self._wishes[wish.id]
        event = Event(wish.rows + 1, self._clock(), happened, call_id, agent, number, window)
        self._write(wish, event, why=why)

    def _write(self, wish: Wish, event: Event, *, why: str | None) -> None:
        after = self._wishes[wish.id] = law.after(wish, event)
        if after.stage is not Stage.WAITING:
            self._get_up(wish.id)
        self._ledger.write(
            models.CallbackEvent(
                callback_id=wish.id, n=event.n, at=event.at, event=event.happened.value, call_id=event.call_id,
                agent=event.agent, number=event.number, window=event.window, until=event.until, why=why,
            )
        )  # fmt: skip
        if event.happened in law.ENDS:
            self._metrics.callback_ended(event.happened.value)
        log.info("callback %s: %s", wish.id, event.happened)
        if not after.is_open:
            del self._wishes[wish.id]
            self._on_the_line.pop(wish.id, None)
        self._stays_on_the_line(wish.id)

    def cancel(self, wish_id: str) -> bool:
        """Nobody is called back any more; False if there is no such open one, or it is being tried."""
        wish = self._wishes.get(wish_id)
        if wish is None or wish.stage is not Stage.WAITING:
            return False
        self.happens(wish, Happened.CANCELLED)
        return True


def read(session: Session) -> list[Wish]:
    """Every callback that is open, as it stands. What is over is not read: it grows without end."""
    end = aliased(models.CallbackEvent)
    ends = [one.value for one in law.ENDS]
    ended = select(end.n).where(end.callback_id == models.Callback.id, end.event.in_(ends)).exists()
    asked = (
        select(models.Callback, models.Call.caller_number)
        .outerjoin(models.Call, models.Call.id == models.Callback.id)
        .where(~ended)
    )
    found = {row.id: wish_of(row, number) for row, number in session.execute(asked)}
    told = (
        select(models.CallbackEvent)
        .join(models.Callback, models.Callback.id == models.CallbackEvent.callback_id)
        .where(~ended)
        .order_by(models.CallbackEvent.n)
    )
    for row in session.scalars(told):
        found[row.callback_id] = law.after(found[row.callback_id], event_of(row))
    return list(found.values())


def wish_of(row: models.Callback, asked_from: str | None = None) -> Wish:
    return Wish(
        row.id, row.number, since=row.at if row.since is None else row.since, asked_at=row.at,
        first=row.reason == "lost", window=Window(row.window or Window.ANY), role=row.role or "unknown", need=row.need,
        party_id=row.party_id, lawyer_id=row.lawyer_id, asked_from=asked_from,
    )  # fmt: skip


def event_of(row: models.CallbackEvent) -> Event:
    return Event(
        row.n, row.at, Happened(row.event), row.call_id, row.agent, row.number,
        Window(row.window) if row.window else None, row.until,
    )  # fmt: skip


def terms_of(rules: Rules, zone: tzinfo) -> Terms:
    said = rules.callbacks
    spans = [tuple(time_of_day(one) for one in span) for span in (said.allowed, said.morning, said.afternoon)]
    allowed, morning, afternoon = ((begin, end) for begin, end in spans if begin is not None and end is not None)
    return Terms(zone, allowed, morning, afternoon, said.attempts, said.retry_after_s, said.expires_after_s)
