"""What became of calls: callers' ratings, agents' dispositions, second calls on the same matter. KPI-2, KPI-7, CRM-7.

All of it is rows of the ledger; what follows from them is pure (``flow.matters``, ``flow.survey``). Reading is
synchronous, with a session of ``ari_app.store``.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, cast

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from ari_app import cases
from ari_app.cases import Person
from ari_app.flow.matters import WITHIN_S, Matter, Resolution, judged, resolution
from ari_app.flow.sop import Need
from ari_app.flow.survey import is_low
from ari_app.store import models

NEEDS_BY_KEY = dict(zip("1234", Need, strict=True))
"""What an agent keys after ``*17`` first: the same keys as the caller's (SOP-3)."""

LONGEST_CALL_S = 86_400.0
"""No call lasts longer."""

NeedName = Literal["milestone", "material", "time", "pressing"]


class Result(StrEnum):
    """What came of a call, by its agent's word."""

    ON_THE_SPOT = "on_the_spot"
    WORK_ORDER = "work_order"


RESULTS_BY_KEY = {"1": Result.ON_THE_SPOT, "2": Result.WORK_ORDER}


# ---------------------------------------------------------------- second calls


def matters_of(session: Session, person: Person, at: float, within_s: float = WITHIN_S) -> tuple[Matter, ...]:
    """What `person` called about in the `within_s` before `at` (Unix seconds), in order."""
    mine = [
        column == id
        for column, id in ((models.Matter.party_id, person.party_id), (models.Matter.lawyer_id, person.lawyer_id))
        if id is not None
    ]
    if not mine:
        return ()
    return _told(session, or_(*mine), models.Matter.until >= at - within_s)


def matters_between(session: Session, since: float, before: float) -> tuple[Matter, ...]:
    """What all calls that came from `since` on and before `before` (Unix seconds) were about, in order."""
    return _told(session, models.Matter.at >= since, models.Matter.at < before)


def judged_between(session: Session, since: float, before: float) -> list[tuple[Matter, bool]]:
    """``flow.matters.judged`` of the ledger: first-call resolution, as every report tells it."""
    return judged(matters_between(session, since - WITHIN_S - LONGEST_CALL_S, before), since, before)


def _told(session: Session, *which: ColumnElement[bool]) -> tuple[Matter, ...]:
    """With the need that the agent keyed in place of the caller's."""
    rows = session.scalars(select(models.Matter).where(*which).order_by(models.Matter.until, models.Matter.call_id))
    dispositions = session.execute(
        select(models.Disposition.call_id, models.Disposition.need)
        .join(models.Matter, models.Matter.call_id == models.Disposition.call_id)
        .where(*which)
        .order_by(models.Disposition.at)
    )
    keyed = {call_id: need for call_id, need in dispositions}
    return tuple(
        Matter(
            row.call_id, row.at, row.until, row.agent, row.party_id, row.lawyer_id, row.case_id,
            need_named(keyed.get(row.call_id, row.need)),
        )
        for row in rows
    )  # fmt: skip


def row_of(matter: Matter, second_of: Matter | None) -> models.Matter:
    """The row of a call that is over."""
    return models.Matter(
        call_id=matter.call_id,
        at=matter.at,
        until=matter.until,
        agent=matter.agent,
        party_id=matter.party_id,
        lawyer_id=matter.lawyer_id,
        case_id=matter.case_id,
        need=name_of(matter.need),
        second_of=second_of.call_id if second_of is not None else None,
    )


def name_of(need: Need | None) -> str | None:
    return need.name.lower() if need is not None else None


def label_of(need: Need) -> NeedName:
    return cast(NeedName, need.name.lower())


def need_named(name: str | None) -> Need | None:
    return Need[name.upper()] if name is not None else None


# ---------------------------------------------------------------- dispositions


@dataclass(frozen=True)
class Handled:
    """The call that an agent handled last, as far as it concerns its disposition."""

    call_id: str
    person: Person | None


def last_handled(session: Session, agent: str) -> Handled | None:
    """The call in which `agent` talked with the caller last."""
    call_id = session.scalar(
        select(models.OfferEvent.call_id)
        .where(models.OfferEvent.agent == agent, models.OfferEvent.event == "joined")
        .order_by(models.OfferEvent.at.desc())
        .limit(1)
    )
    if call_id is None:
        return None
    proven = session.scalars(
        select(models.Identity)
        .where(models.Identity.call_id == call_id, models.Identity.verified)
        .order_by(models.Identity.n.desc())
        .limit(1)
    ).first()
    person = (
        cases.person(session, party_id=proven.party_id, lawyer_id=proven.lawyer_id, case_id=proven.case_id)
        if proven is not None
        else None
    )
    return Handled(call_id, person)


def disposition(keys: str) -> tuple[Need, Result] | None:
    """What an agent keyed after ``*17``: the need (1 to 4), then what came of it (1 or 2); None if it is neither.

    >>> disposition("12")
    (<Need.MILESTONE: '节点'>, <Result.WORK_ORDER: 'work_order'>)
    >>> disposition("53") is None
    True
    """
    if len(keys) != 2 or keys[0] not in NEEDS_BY_KEY or keys[1] not in RESULTS_BY_KEY:
        return None
    return NEEDS_BY_KEY[keys[0]], RESULTS_BY_KEY[keys[1]]


def disposition_row(call_id: str, agent: str, at: float, need: Need, result: Result) -> models.Disposition:
    return models.Disposition(
        id=secrets.token_hex(16), call_id=call_id, at=at, agent=agent, need=need.name.lower(), result=result.value
    )


# ---------------------------------------------------------------- the figures


@dataclass(frozen=True)
class Figures:
    """One agent's, over some days."""

    agent: str
    ratings: int = 0
    points: int = 0
    """Sum of the ratings."""
    low: int = 0
    on_the_spot: int = 0
    work_orders: int = 0
    resolution: Resolution = field(default_factory=Resolution)

    @property
    def mean(self) -> float | None:
        """Mean rating, 1 to 5. KPI-4."""
        return self.points / self.ratings if self.ratings else None

    @property
    def answered_share(self) -> float | None:
        """Of the calls with a disposition, those answered on the spot, 0 to 1. CRM-7."""
        disposed = self.on_the_spot + self.work_orders
        return self.on_the_spot / disposed if disposed else None


def figures(session: Session, since: float, now: float) -> list[Figures]:
    """Of each agent of whom anything was written down since then (Unix seconds), by number."""
    scores: defaultdict[str, list[int]] = defaultdict(list)
    for agent, score in session.execute(
        select(models.Rating.agent, models.Rating.score).where(models.Rating.at >= since)
    ):
        scores[agent].append(score)
    last: dict[str, tuple[str, str]] = {}
    for call_id, agent, result in session.execute(
        select(models.Disposition.call_id, models.Disposition.agent, models.Disposition.result)
        .where(models.Disposition.at >= since)
        .order_by(models.Disposition.at)
    ):
        last[call_id] = agent, result
    results = Counter(last.values())
    resolved = resolution(judged_between(session, since, now))
    return [
        Figures(
            agent,
            ratings=len(scores[agent]),
            points=sum(scores[agent]),
            low=sum(is_low(score) for score in scores[agent]),
            on_the_spot=results[agent, Result.ON_THE_SPOT.value],
            work_orders=results[agent, Result.WORK_ORDER.value],
            resolution=resolved.get(agent, Resolution()),
        )
        for agent in sorted({*scores, *resolved, *(agent for agent, _ in last.values())})
    ]
