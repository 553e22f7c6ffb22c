"""Those who wait for the desk, what each of them wants, and who may be offered to whom: the desk's memory of the queue.

Who comes next is decided by ``flow.routing``; each decision and all that it rests on is a row of ``queue_events``, so
that `sanling fairness` can decide it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ari_app.flow.duty import ON_A_CALL, AgentNow, Duty
from ari_app.flow.fairness import Happened
from ari_app.flow.pace import Pace, Places
from ari_app.flow.routing import OnDuty, Router, Skills, Waiting, Wants, usual_skills
from ari_app.ledger import Ledger
from ari_app.rules import LINES, Rules
from ari_app.store.models import AgentSkill, QueueEvent

ON_DUTY = (*ON_A_CALL, Duty.IDLE, Duty.WRAP_UP)
"""Signed in and not paused: whom a caller can expect."""
AT_ONCE_S = 1.0
"""Who is offered to an agent so soon did not have to wait for one."""


class Inbox(Protocol):
    def put(self, event: object) -> None: ...


class WhoWaits(StrEnum):
    """Who has a place in the queue."""

    CALLER = "caller"
    """On the line, hearing music."""
    CALLBACK = "callback"
    """Somebody who is called when it is their turn."""
    SECOND_LINE = "second_line"
    """A call that is in talk, for a second agent."""


@dataclass
class Place:
    """A call's place in the queue."""

    call: Waiting
    inbox: Inbox
    offered: bool
    who: WhoWaits
    early: bool = False
    """It hears that an agent is being reserved."""


@dataclass(frozen=True)
class Served:
    """What an agent was last offered, and when (Unix seconds)."""

    line: str
    at: float


class WaitingRoom:
    """`clock` gives Unix seconds; `keys` the ids of rows, `desk` the name of this hotline."""

    def __init__(
        self,
        rules: Rules,
        ledger: Ledger,
        clock: Callable[[], float],
        keys: Callable[[], int],
        *,
        desk: str,
        expected_handle_s: float,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._keys = keys
        self._desk = desk
        self.places: dict[str, Place] = {}
        self._skills: dict[str, dict[str, int]] = {}
        self._known: dict[str, Wants] = {}
        """What calls of an earlier controller want."""
        self._floor: dict[str, tuple[AgentNow, bool]] = {}
        """Every agent as told last, and whether the phone can be rung."""
        self._served: dict[str, Served] = {}
        self._all = {line: Places() for line in LINES}
        self._not_offered = {line: Places() for line in LINES}
        self._paces = {line: Pace(expected_handle_s) for line in LINES}
        self._follow(rules)

    # ------------------------------------------------------------ rules and skills

    def _follow(self, rules: Rules) -> None:
        self._rules = rules
        self._router = Router(rules)
        self._show_all()
        for place in self.places.values():
            if not place.offered:
                self._router.join(place.call)

    def follow(self, rules: Rules) -> None:
        """From now on these are the rules; everybody keeps place."""
        self._follow(rules)
        self._write("rules", detail=_encode(rules))

    def opened(self) -> None:
        """Whoever waits says so anew from here on."""
        self._write("opened", detail=_encode(self._rules))

    def skills_are(self, skills: dict[str, dict[str, int]]) -> None:
        """Of every agent: level by skill."""
        if skills != self._skills:
            self._skills = skills
            self._show_all()

    def remember(self, wants: Mapping[str, Wants]) -> None:
        """What calls wanted of an earlier controller, until they say it anew."""
        self._known = dict(wants)

    def skills_of(self, number: str) -> dict[str, int]:
        return usual_skills(self._skills.get(number, {}), self._rules.routing)

    # ------------------------------------------------------------ who comes, who goes

    def on_the_line(self) -> list[Place]:
        """Callers alone: what the queue's figures count."""
        return [place for place in list(self.places.values()) if place.who is WhoWaits.CALLER]

    def join(
        self,
        call_id: str,
        since: float,
        inbox: Inbox,
        wants: Wants | None,
        offered: bool,
        who: WhoWaits,
        early: bool = False,
    ) -> None:
        before = self.places.get(call_id)
        known = before.call.wants if before is not None else self._known.pop(call_id, Wants())
        wants = known if wants is None else replace(wants, declined=wants.declined | known.declined)
        call = Waiting(call_id, since, wants)
        if before is not None:
            self._take_out(before)
        self.places[call_id] = place = Place(call, inbox, offered, who, early)
        self._all[wants.line].take(call)
        if not offered:
            self._let_in(place)
            if before is None or before.offered or before.call != call:
                self._write("waits", call_id=call_id, since=since, detail=_encode(wants))

    def leave(self, call_id: str) -> bool:
        """False if the call did not wait."""
        place = self.places.pop(call_id, None)
        if place is None:
            return False
        self._take_out(place)
        self._write("left", call_id=call_id)
        return True

    def offered(self, call_id: str, number: str, at: float, row: int, *, pulled: bool = False) -> None:
        """The call has agent `number`, as was decided `at`, when the key of the `row` was given."""
        place = self.places[call_id]
        self.set_aside(call_id)
        line = place.call.wants.line
        self._served[number] = Served(line, at)
        if at - place.call.since > AT_ONCE_S:
            self._paces[line].served(at)
        self._write(
            "pulled" if pulled else "offered",
            call_id=call_id, agent=number, at=at, row=row, detail=_encode(self.skills_of(number)),
        )  # fmt: skip

    def set_aside(self, call_id: str) -> bool:
        """Not offered to anybody before it ``is_free_again()``; False if it is not there."""
        place = self.places.get(call_id)
        if place is None or place.offered:
            return False
        self._take_out(place)
        self._all[place.call.wants.line].take(place.call)
        place.offered = True
        return True

    def is_free_again(self, call_id: str) -> None:
        """The offer came to nothing, and nobody told the call."""
        place = self.places.get(call_id)
        if place is not None and place.offered:
            self.join(call_id, place.call.since, place.inbox, None, offered=False, who=place.who, early=place.early)

    def declined(self, call_id: str, number: str) -> None:
        """Agent `number` did not take the call: it is not offered there again, unless nobody else could."""
        place = self.places.get(call_id)
        if place is not None:
            wants = replace(place.call.wants, declined=place.call.wants.declined | {number})
            self.join(call_id, place.call.since, place.inbox, wants, place.offered, place.who, place.early)

    def handled(self, number: str, seconds: float) -> None:
        """Agent `number` has done with a call, after so long; if known, counted from the offer."""
        served = self._served.pop(number, None)
        if served is not None:
            self._paces[served.line].handled(max(self._clock() - served.at, seconds))

    def _let_in(self, place: Place) -> None:
        line = place.call.wants.line
        self._router.join(place.call)
        self._not_offered[line].take(place.call)
        self._paces[line].queue_is(len(self._not_offered[line]), self._clock())

    def _take_out(self, place: Place) -> None:
        line = place.call.wants.line
        self._all[line].give_up(place.call)
        if not place.offered:
            self._router.leave(place.call.call_id)
            self._not_offered[line].give_up(place.call)
            self._paces[line].queue_is(len(self._not_offered[line]), self._clock())

    # ------------------------------------------------------------ who is next

    def sees(self, agent: AgentNow, *, free: bool) -> None:
        """An agent as of now; `free`: can be rung. Told of each change, so that a choice need not look at everybody."""
        now = agent, free
        if self._floor.get(agent.number) != now:
            self._floor[agent.number] = now
            self._show(agent, free)

    def sees_no_more(self, number: str) -> None:
        """There is no such agent any more."""
        if self._floor.pop(number, None) is not None:
            self._router.off_duty(number)

    def _show(self, agent: AgentNow, free: bool) -> None:
        if agent.duty in ON_DUTY:
            idle_since = agent.since if free else None
            self._router.on_duty(OnDuty(agent.number, self.skills_of(agent.number), idle_since))
        else:
            self._router.off_duty(agent.number)

    def _show_all(self) -> None:
        for agent, free in self._floor.values():
            self._show(agent, free)

    def next(self, now: float) -> tuple[str, str] | None:
        """The call that is offered next and the agent it is offered to, of those who were seen."""
        return self._router.next(now)

    @property
    def wake_at(self) -> float:
        """When `next()`, which has just answered None, may answer otherwise although nobody comes or goes."""
        return self._router.wake_at

    # ------------------------------------------------------------ what is told to callers

    def position(self, call_id: str) -> int:
        """Among the callers of the same line; 1 is next, 0: does not wait."""
        place = self.places.get(call_id)
        return self._all[place.call.wants.line].of(place.call) if place is not None else 0

    def _able(self, line: str) -> int:
        """Agents on duty who serve `line`."""
        return sum(
            agent.duty in ON_DUTY and self.skills_of(agent.number).get(line, 0) > 0 for agent, _ in self._floor.values()
        )

    def may_be_served(self, call_id: str) -> bool:
        """Whether the call has an agent, or anybody is on duty who serves its line."""
        place = self.places.get(call_id)
        return place is not None and (place.offered or self._able(place.call.wants.line) > 0)

    def expected_wait_s(self, call_id: str) -> float:
        """Seconds, from how fast the callers of that line were served lately; 0: has an agent, or does not wait."""
        place = self.places.get(call_id)
        if place is None or place.offered:
            return 0.0
        line = place.call.wants.line
        able = self._able(line)
        ahead = self._not_offered[line].of(place.call)
        return self._paces[line].expected_wait_s(ahead, able, self._clock())

    # ------------------------------------------------------------ the ledger

    def _write(
        self,
        event: str,
        *,
        call_id: str | None = None,
        agent: str | None = None,
        since: float | None = None,
        at: float | None = None,
        row: int | None = None,
        detail: str | None = None,
    ) -> None:
        self._ledger.write(
            QueueEvent(
                id=self._keys() if row is None else row, at=self._clock() if at is None else at, desk=self._desk,
                event=event, call_id=call_id, agent=agent, since=since, detail=detail,
            )
        )  # fmt: skip


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def read_skills(session: Session) -> dict[str, dict[str, int]]:
    """Of every agent of whom something is known: level by skill."""
    skills: dict[str, dict[str, int]] = {}
    for row in session.scalars(select(AgentSkill)):
        skills.setdefault(row.agent, {})[row.skill] = row.level
    return skills


def wants_of(session: Session, calls: Iterable[str]) -> dict[str, Wants]:
    """What each of `calls` wanted last."""
    last = (
        select(func.max(QueueEvent.id))
        .where(QueueEvent.event == "waits", QueueEvent.call_id.in_(list(calls)))
        .group_by(QueueEvent.call_id)
    )
    rows = session.scalars(select(QueueEvent).where(QueueEvent.id.in_(last)))
    return {row.call_id: msgspec.json.decode(row.detail or "{}", type=Wants) for row in rows if row.call_id is not None}


def rules_in_force_since(session: Session, desk: str, at: float) -> Rules | None:
    """The rules that hotline `desk` said last were in force, if it said so after `at` (Unix seconds)."""
    said = select(QueueEvent.detail).where(QueueEvent.desk == desk, QueueEvent.event == "rules", QueueEvent.at >= at)
    detail = session.scalar(said.order_by(QueueEvent.id.desc()).limit(1))
    return msgspec.json.decode(detail, type=Rules) if detail is not None else None


def happened(session: Session, since: float, until: float) -> list[Happened]:
    """What the ledger tells of the queue between two moments (Unix seconds), in order."""
    rows = select(QueueEvent).where(QueueEvent.at >= since, QueueEvent.at < until)
    return told_by(session.scalars(rows))


def told_by(rows: Iterable[QueueEvent]) -> list[Happened]:
    """What `rows` tell, in order."""
    return [_happened(row) for row in sorted(rows, key=lambda row: (row.at, row.id))]


def _happened(row: QueueEvent) -> Happened:
    detail = row.detail or "{}"
    skills: Skills = {}
    wants, rules = None, None
    if row.event == "waits":
        wants = msgspec.json.decode(detail, type=Wants)
    elif row.event in ("offered", "pulled"):
        skills = msgspec.json.decode(detail, type=dict[str, int])
    elif row.event in ("opened", "rules"):
        rules = msgspec.json.decode(detail, type=Rules)
    waiting = Waiting(row.call_id or "", row.since or 0.0, wants) if wants is not None else None
    return Happened(
        row.at, row.desk, row.event, row.call_id or "", agent=row.agent or "", waiting=waiting, skills=skills,
        rules=rules,
    )  # fmt: skip
