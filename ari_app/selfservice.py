"""Outside hours: what a proven caller hears of the case at any hour, and messages that somebody must answer.

What is read out is composed of whole approved clauses: which ones, and in which order, is decided here, once, from
what is in the database. A message is a stretch of the call's own recording (REC-1, REC-2). Asterisk records it once
more beside, so that # or silence ends it also while no controller listens; that second file is thrown away. Whether
there is a voice in it is told by TALK_DETECT, because ARI counts its recordings in whole seconds of the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import partial
from math import ceil

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import opening
from ari_app.ari.errors import AriError, Conflict, NotFound, ServerError
from ari_app.ari.events import LiveRecording
from ari_app.ari.mailboxes import owner_of
from ari_app.cases import Person
from ari_app.cases import person as person_of
from ari_app.errors import StoreUnavailable
from ari_app.flow.identity import Role
from ari_app.flow.sop import Heard, Need, Progress, step
from ari_app.flow.story import Story
from ari_app.line import Hotline, Line
from ari_app.orders import Kind, Order, open_order, open_orders_of
from ari_app.prompts import Catalogue
from ari_app.spoken import Spoken
from ari_app.store.models import Case, Ending, Identity, Milestone, OutboundCall, Recording, Segment, Transition

log = logging.getLogger("sanling.selfservice")

CASES_READ = 3
"""More than so many are for an agent to tell."""
MILESTONES_READ = 2
HEARING = "heard"
MILESTONES = ("filed", "scheduled", "served", "heard", "judged")
MOST_ORDERS = 9
VOICE_S = 0.3
"""Less voice than this is no message."""
PAUSE_MS = 500
"""A voice that is not heard for so long has paused, for counting."""
MESSAGE_GRACE_S = 5.0
"""A message that Asterisk has not ended so long after its longest is taken as ended: its end was lost."""
FORMAT = "alaw"


@dataclass(frozen=True)
class CaseStatus:
    """Moments are Unix seconds. Never said before identity is proven."""

    court: str
    next_hearing: float | None
    past: tuple[tuple[str, float], ...]
    """Milestones that have happened, code and moment, the newest first."""


def cases_of(session: Session, person: Person) -> list[int]:
    """Ids of the cases that `person` is party to or lawyer in."""
    mine = Case.party_id == person.party_id if person.party_id is not None else Case.lawyer_id == person.lawyer_id
    return list(session.scalars(select(Case.id).where(mine)))


def status_of(session: Session, person: Person, now: float) -> list[CaseStatus]:
    """How `person`'s cases stand: those with the nearest hearing first, then those in which something happened last."""
    found = []
    ids = cases_of(session, person)
    for case in session.scalars(select(Case).where(Case.id.in_(ids)).order_by(Case.id)):
        query = select(Milestone.code, Milestone.at).where(Milestone.case_id == case.id).order_by(Milestone.at)
        milestones = [(code, at) for code, at in session.execute(query) if code in MILESTONES]
        ahead = [at for code, at in milestones if at > now and code == HEARING]
        past = tuple(reversed([one for one in milestones if one[1] <= now]))
        found.append(CaseStatus(case.court, ahead[0] if ahead else None, past))
    return sorted(
        found, key=lambda one: (one.next_hearing or float("inf"), -one.past[0][1] if one.past else float("inf"))
    )


def told(
    cases: Sequence[CaseStatus], orders: Sequence[Order], catalogue: Catalogue, zone: tzinfo, now: float
) -> tuple[str, ...]:
    """The prompts that tell of `cases` and of open `orders`, the most urgent first."""
    prompts: list[str] = []
    for n, case in enumerate(cases[:CASES_READ], start=1):
        if len(cases) > 1:
            prompts.append(f"case-{n}")
        prompts += _hearing(case, catalogue, zone, now)
        prompts += _milestones(case, catalogue, zone, now)
    if not cases:
        prompts.append("no-cases")
    if len(cases) > CASES_READ:
        prompts.append("cases-more")
    return (*prompts, *_orders(orders, catalogue, zone, now))


def _hearing(case: CaseStatus, catalogue: Catalogue, zone: tzinfo, now: float) -> list[str]:
    if case.next_hearing is None:
        return ["hearing-none"]
    at, this_year = _local(case.next_hearing, zone), _local(now, zone).year
    if at.year > this_year + 1:
        return ["hearing-later"]
    year = "this" if at.year == this_year else "next"
    day = (*catalogue.date(at.date()), f"weekday-{at.isoweekday()}")
    return [f"next-hearing-{year}", *day, *catalogue.time(at.hour, at.minute), catalogue.court(case.court)]


def _milestones(case: CaseStatus, catalogue: Catalogue, zone: tzinfo, now: float) -> list[str]:
    prompts: list[str] = []
    this_year = _local(now, zone).year
    for lead, (code, moment) in zip(("latest", "before"), case.past[:MILESTONES_READ], strict=False):
        at = _local(moment, zone)
        if at.year >= this_year - 1:
            prompts += [f"{lead}-{'this' if at.year == this_year else 'last'}", *catalogue.date(at.date())]
        else:
            prompts.append("earlier")
        prompts.append(f"milestone-{code}")
    return prompts


def _orders(orders: Sequence[Order], catalogue: Catalogue, zone: tzinfo, now: float) -> list[str]:
    if not orders:
        return ["open-orders-none"]
    prompts = [f"open-orders-{len(orders)}" if len(orders) <= MOST_ORDERS else "open-orders-many"]
    if any(order.overdue(now) for order in orders):
        return [*prompts, "orders-overdue"]
    due, this_year = _local(orders[0].due_at, zone), _local(now, zone).year
    if due.year <= this_year + 1:
        year = "this" if due.year == this_year else "next"
        prompts += [f"orders-due-{year}", *catalogue.date(due.date()), *catalogue.time(due.hour, due.minute)]
    return prompts


def closed(opens: float | None, catalogue: Catalogue, zone: tzinfo, now: float) -> tuple[str, ...]:
    """That nobody is there, and when somebody will be (Unix seconds; None: never)."""
    if opens is None:
        return ("closed-now",)
    at, today = _local(opens, zone), _local(now, zone).date()
    time = catalogue.time(at.hour, at.minute)
    named: dict[date, str] = {today: "opens-today", today + timedelta(days=1): "opens-tomorrow"}
    if at.date() in named:
        return ("closed-now", named[at.date()], *time)
    return ("closed-now", "opens-on", *catalogue.date(at.date()), *time)


def _local(moment: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(moment, zone)


@dataclass(frozen=True)
class Message:
    """A stretch of a call's recording."""

    call_id: str
    row: int
    """The step that began it."""
    at: float
    """Unix seconds."""
    seconds: float
    spoken_s: float


class SelfService:
    """One call's."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._house = line.hotline
        self._found: tuple[str, ...] = ()
        self._recording: str | None = None
        self._stored: list[str] = []
        self._untaken: str | None = None
        """The recording of a message that is neither taken nor empty."""
        self.spoken = Spoken(line)
        self._began = 0.0
        self._heard_all = True
        """Whether whatever was said in this message was heard by this controller."""
        self._ended: tuple[float, float] | None = None
        """Length of the message that has just ended, and of the voice in it, in seconds."""
        self._taken: set[int] = set()

    # ---------------------------------------------------------------- hours

    def is_open(self, line: str) -> bool:
        """Whether people serve `line` now."""
        return opening.is_open(self._house.desk.rules.now, self._house.settings.zone, self._house.clock(), line)

    def closed_words(self, line: str) -> tuple[str, ...]:
        house, now = self._house, self._house.clock()
        opens = opening.next_opening(house.desk.rules.now, house.settings.zone, now, line)
        return closed(opens, house.catalogue, house.settings.zone, now)

    # ---------------------------------------------------------------- cases

    async def look_up(self, person: Person | None) -> None:
        """What there is to tell of a proven person's cases; the SOP hears whether there is anything."""
        self._found = ()
        now = self._house.clock()

        def read(session: Session, proven: Person) -> tuple[list[CaseStatus], list[Order]]:
            return status_of(session, proven, now), open_orders_of(session, proven, cases_of(session, proven))

        try:
            if person is None:
                raise StoreUnavailable("Nobody knows who was proven.")
            cases, orders = await self._house.ledger.look_up(lambda session: read(session, person))
        except StoreUnavailable as error:
            log.error("call %s: the caller's cases cannot be told: %s", self._line.id, error)
            self._line.inbox.put(Heard.CASES_UNAVAILABLE)
            return
        self._found = told(cases, orders, self._house.catalogue, self._house.settings.zone, now)
        self._line.inbox.put(Heard.CASES_FOUND)

    def cases_words(self, *, verified: bool) -> tuple[str, ...]:
        """What was looked up; nothing for a caller who is not proven."""
        return self._found if verified else ()

    # ---------------------------------------------------------------- messages

    async def record(self, row: int) -> None:
        """The caller speaks, from now on, until #, silence, or the longest that a message may be."""
        hours = self._house.desk.rules.now.hours
        self._recording, self._ended = message_name(self._line.id, row), None
        await self._throw_away()
        self._untaken = self._recording
        await self.spoken.attend(PAUSE_MS)
        self._began, self._heard_all = self._house.clock(), True
        self._line.within("message", hours.message_longest_s + MESSAGE_GRACE_S)
        try:
            await self._house.client.channels.record(
                channelId=self._line.id,
                name=self._recording,
                format=FORMAT,
                maxDurationSeconds=ceil(hours.message_longest_s),
                maxSilenceSeconds=ceil(hours.message_silence_s),
                ifExists="overwrite",
                beep=False,
                terminateOn="#",
            )
        except Conflict:
            if not await self._is_live():  # else it was asked for before the link broke
                self._line.inbox.put(Heard.HUNG_UP)
        except NotFound:
            self._line.inbox.put(Heard.HUNG_UP)
        except ServerError as error:
            log.error("call %s: no message can be recorded: %s", self._line.id, error)
            self._line.inbox.put(Heard.MESSAGE_FAILED)
        self._stored.append(self._recording)

    def ended(self, recording: LiveRecording) -> Heard | None:
        """What the end of `recording` means, if it is the message that is being left."""
        if recording.name != self._recording:
            return None
        self._recording = None
        self._line.clear("message")
        if recording.state == "failed":
            return Heard.MESSAGE_FAILED
        seconds = self._house.clock() - self._began
        voice = min(self.spoken.spoken_s, seconds) if self._heard_all else seconds
        self._ended = (seconds, voice)
        if voice >= VOICE_S:
            return Heard.MESSAGE_LEFT
        self._untaken = None
        return Heard.MESSAGE_EMPTY

    async def ended_unheard(self) -> Heard | None:
        """What became of the message while the link was down, if it is over."""
        if self._recording is None:
            return None
        self._heard_all = False
        if await self._is_live():
            return None
        self._recording = None
        self._line.clear("message")
        return Heard.MESSAGE_LEFT

    async def take(
        self, message: tuple[int, float, float] | None, line: str, person: Person | None, need: Need | None
    ) -> None:
        """Enters the message (the step that began it, when it began, when it was over), and who must answer it."""
        if message is None or message[0] in self._taken:
            return
        row, at, until = message
        await self._stop()
        seconds, voice = self._ended or (until - at, until - at)
        if seconds >= VOICE_S and voice >= VOICE_S:
            enter(self._house, Message(self._line.id, row, at, seconds, voice), line, person, need)
        self._taken.add(row)
        self._untaken = None
        await self.spoken.stop()
        await self._throw_away()

    async def close(self) -> None:
        """The call is over: no file of it stays beside its recording, but that of a message in which the call broke: it
        is entered when it is found (``left_behind``).
        """
        await self._stop()
        self._stored = [name for name in self._stored if name != self._untaken]
        await self._throw_away()

    # ---------------------------------------------------------------- taken up by another controller

    async def go_on_recording(self, began: tuple[int, float]) -> Heard | None:
        """A message that was being left when another controller stopped: what it means, or None while it goes on."""
        row, at = began
        self._recording, self._began, self._heard_all = message_name(self._line.id, row), at, False
        self._untaken = self._recording
        self._stored.append(self._recording)
        hours = self._house.desk.rules.now.hours
        if await self._is_live():
            self._line.within("message", at + hours.message_longest_s + MESSAGE_GRACE_S - self._house.clock())
            return None
        name, self._recording = self._recording, None
        try:
            await self._house.client.recordings.getStored(recordingName=name)
        except AriError:
            return Heard.RESUMED
        return Heard.MESSAGE_LEFT

    async def settle(
        self, messages: Sequence[tuple[int, float, float]], line: str, person: Person | None, need: Need | None
    ) -> None:
        """Enters what another controller took and did not live to enter. Raises StoreUnavailable."""
        for message in messages:
            row = message[0]
            if await self._house.ledger.look_up(partial(_is_entered, call_id=self._line.id, n=row)):
                self._taken.add(row)
            self._recording = message_name(self._line.id, row)
            self._stored.append(self._recording)
            await self._stop()
            await self.take(message, line, person, need)

    # ---------------------------------------------------------------- Asterisk's file

    async def _is_live(self) -> bool:
        try:
            await self._house.client.recordings.getLive(recordingName=self._recording or "")
        except NotFound:
            return False
        return True

    async def _stop(self) -> None:
        if self._recording is not None:
            with suppress(NotFound, Conflict):
                await self._house.client.recordings.stop(recordingName=self._recording)
        self._recording = None
        self._line.clear("message")

    async def _throw_away(self) -> None:
        """Of each recording that is over; one that is just ending goes the next time, at the latest with the call."""
        for name in list(self._stored):
            with suppress(AriError):
                await self._house.client.recordings.deleteStored(recordingName=name)
                self._stored.remove(name)


def enter(house: Hotline, message: Message, line: str, person: Person | None, need: Need | None) -> None:
    """Writes `message` down; `line` must answer it."""
    now, rules = house.clock(), house.desk.rules.now
    opens = opening.next_opening(rules, house.settings.zone, now, line)
    house.ledger.write(
        Segment(
            call_id=message.call_id, n=message.row, kind=Kind.MESSAGE.value, at=message.at, seconds=message.seconds,
            spoken_s=message.spoken_s,
        )
    )  # fmt: skip
    open_order(
        house.ledger,
        kind=Kind.MESSAGE,
        at=now,
        due_at=(opens or now) + rules.hours.answer_within_h * 3600.0,
        must_answer=line,
        call_id=message.call_id,
        name=f"message-{message.row}",
        person=person,
        need=need,
    )


@dataclass(frozen=True)
class LeftBehind:
    """What the ledger tells of a recording that was found after its call."""

    message: Message | None
    """What is in it, if the caller left it and nobody was told; how much of it is voice, is not known."""
    progress: Progress
    person: Person | None
    is_kept: bool
    """The call's own recording, which has the same in it, is in a store."""


def left_behind(session: Session, name: str, longest_s: float) -> LeftBehind:
    """Of the recording `name`; `longest_s`: how long a message may be."""
    call_id = owner_of(name)
    ending, errand = session.get(Ending, call_id), session.get(OutboundCall, call_id)
    progress, story = Progress(role=Role(errand.role) if errand is not None else Role.UNKNOWN), Story()
    rows = select(Transition).where(Transition.call_id == call_id).order_by(Transition.n)
    for row in session.scalars(rows):
        if row.heard in Heard.__members__:
            was, heard = progress.state, Heard[row.heard]
            progress, actions = step(progress, heard)
            story.note(row.at, was, heard, progress.state, actions)
    messages = list(story.messages)
    if story.recording is not None and ending is not None:  # the call broke in it
        began, at = story.recording
        messages.append((began, at, min(ending.at, at + longest_s)))
    left = [
        Message(call_id, began, at, until - at, until - at)
        for began, at, until in messages
        if message_name(call_id, began) == name and until - at >= VOICE_S
    ]
    message = next((one for one in left if not _is_entered(session, call_id, one.row)), None)
    stored = select(Recording.store).where(Recording.call_id == call_id).limit(1)
    is_kept = ending is not None and session.scalar(stored) is not None
    checks = select(Identity).where(Identity.call_id == call_id, Identity.verified).order_by(Identity.n.desc())
    who = session.scalar(checks.limit(1)) or errand
    person = None
    if who is not None:
        person = person_of(session, party_id=who.party_id, lawyer_id=who.lawyer_id, case_id=who.case_id)
    return LeftBehind(message, progress, person, is_kept)


def _is_entered(session: Session, call_id: str, n: int) -> bool:
    return session.get(Segment, (call_id, n)) is not None


def message_name(call_id: str, row: int) -> str:
    """Of the message that step `row` began to record."""
    return f"{call_id}~message-{row}"
