"""Work orders (派单): what must be answered, by whom, and by when. CRM-7.

An order is opened once and never altered; each change of its state is a row of its own. Opening goes through the
ledger's journal, so that it outlives a database that is away and a controller that is killed. Reading and closing are
synchronous, with a session of ``ari_app.store`` (in the controller: ``ledger.ask``).
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session, aliased

from ari_app.cases import Person
from ari_app.errors import SanlingError
from ari_app.flow.sop import Need
from ari_app.ledger import Ledger
from ari_app.rules import LINES
from ari_app.store.models import Agent, Call, Case, Lawyer, Party, Recording, Segment, WorkOrder, WorkOrderChange

HOTLINE = "hotline"
"""Who opened an order that no agent opened."""
LEADER = "leader"
"""Whoever leads the team, as one who must answer."""
CLOCK_STEP_S = 1e-6
"""An order's changes are at least so far apart, in the order in which they were made, whatever the clock says."""


class Kind(StrEnum):
    """What an order came of."""

    MESSAGE = "message"
    SECOND_LINE = "second_line"
    DISPOSITION = "disposition"
    """An agent could not answer on the spot."""
    RATING = "rating"
    """A caller was not satisfied."""
    EXCEPTION = "exception"


class Standing(StrEnum):
    OPEN = "open"
    TAKEN = "taken"
    REASSIGNED = "reassigned"
    CLOSED = "closed"
    REOPENED = "reopened"


KINDS = {
    Kind.MESSAGE: "留言", Kind.SECOND_LINE: "二线答复", Kind.DISPOSITION: "派单", Kind.RATING: "低分评价",
    Kind.EXCEPTION: "异常",
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """An order as it stands. Moments are Unix seconds."""

    id: str
    at: float
    kind: Kind
    call_id: str | None
    case_id: int | None
    need: str | None
    due_at: float
    must_answer: str
    """A line's id, an agent's number, or `LEADER`."""
    opened_by: str
    standing: Standing
    changed_at: float
    note: str
    """What was written at the last change."""
    message: Segment | None = None
    """The message that it came of."""
    caller: str | None = None
    """Number of the person in the call that it came of; None: no call, or no number was shown."""

    @property
    def is_open(self) -> bool:
        return self.standing is not Standing.CLOSED

    def overdue(self, now: float) -> bool:
        return self.is_open and self.due_at < now


@dataclass(frozen=True)
class Part:
    """A stretch of a recording."""

    from_s: float
    """From the recording's beginning."""
    seconds: float


@dataclass(frozen=True)
class Dossier:
    """All there is to answer an order."""

    order: Order
    proven: str | None
    """Name of whom it concerns, if an identity was proven."""
    case_number: str | None
    changes: tuple[WorkOrderChange, ...]
    copies: tuple[Recording, ...]
    """Of the call's recording, in the stores."""
    part: Part | None
    """Of it what was said: the message, or the reason of a low score."""


def open_order(
    ledger: Ledger,
    *,
    kind: Kind,
    at: float,
    due_at: float,
    must_answer: str,
    call_id: str | None = None,
    name: str = "",
    case_id: int | None = None,
    person: Person | None = None,
    need: Need | None = None,
    opened_by: str = HOTLINE,
) -> str:
    """Opens an order; its id. `at`, `due_at`: Unix seconds. `must_answer`: a line's id or an agent's number.

    `name` tells a call's orders apart: the same one, opened again by a controller that took the call up, is entered
    once. An order without a call gets a random id.
    """
    order_id = f"{call_id}~order-{name or kind}" if call_id is not None else f"order-{secrets.token_hex(6)}"
    ledger.write(
        WorkOrder(
            id=order_id,
            at=at,
            kind=kind.value,
            call_id=call_id,
            party_id=person.party_id if person else None,
            lawyer_id=person.lawyer_id if person else None,
            case_id=case_id,
            need=need.name.lower() if need else None,
            due_at=due_at,
            must_answer=must_answer,
            opened_by=opened_by,
        )
    )
    return order_id


def orders(
    session: Session,
    *,
    open_only: bool = True,
    must_answer: str | None = None,
    call_id: str | None = None,
) -> list[Order]:
    """Orders as they stand, the most urgent first; of one line or agent, or of one call, if that is given."""
    query = select(WorkOrder)
    if call_id is not None:
        query = query.where(WorkOrder.call_id == call_id)
    found = _standing(session, query.where(_is_open()) if open_only else query)
    return [order for order in found if must_answer is None or order.must_answer == must_answer]


def open_orders_of(session: Session, person: Person, cases: Collection[int]) -> list[Order]:
    """Open orders of a proven `person` or of one of the person's `cases`, the most urgent first."""
    conditions: list[ColumnElement[bool]] = [WorkOrder.case_id.in_(cases)]
    if person.party_id is not None:
        conditions.append(WorkOrder.party_id == person.party_id)
    if person.lawyer_id is not None:
        conditions.append(WorkOrder.lawyer_id == person.lawyer_id)
    return _standing(session, select(WorkOrder).where(or_(*conditions), _is_open()))


def dossier(session: Session, order_id: str) -> Dossier:
    """Raises SanlingError if there is no such order."""
    row = _row(session, order_id)
    [order] = _standing(session, select(WorkOrder).where(WorkOrder.id == order_id))
    person: Party | Lawyer | None = None
    if row.party_id is not None:
        person = session.get(Party, row.party_id)
    elif row.lawyer_id is not None:
        person = session.get(Lawyer, row.lawyer_id)
    case = session.get(Case, row.case_id) if row.case_id is not None else None
    call = session.get(Call, row.call_id) if row.call_id is not None else None
    changes = select(WorkOrderChange).where(WorkOrderChange.order_id == order_id).order_by(WorkOrderChange.at)
    copies = select(Recording).where(Recording.call_id == row.call_id).order_by(Recording.store)
    said = order.message
    if order.kind is Kind.RATING:
        reason = select(Segment).where(Segment.call_id == row.call_id, Segment.kind == "reason", Segment.at >= row.at)
        said = session.scalar(reason.order_by(Segment.at).limit(1))
    return Dossier(
        order=order,
        proven=person.name if person is not None else None,
        case_number=case.number if case is not None else None,
        changes=tuple(session.scalars(changes)),
        copies=tuple(session.scalars(copies)),
        part=Part(max(said.at - call.at, 0.0), said.seconds) if said is not None and call is not None else None,
    )


def change(
    session: Session,
    order_id: str,
    now: Standing,
    *,
    by: str,
    at: float,
    note: str = "",
    must_answer: str | None = None,
) -> None:
    """Enters that the order is `now` so. `by`: an agent's number, or who else did it.

    Raises SanlingError if there is no such order, it is closed (or, to be reopened, is not), or who is named to
    answer it from now on is nobody.
    """
    _row(session, order_id)
    [order] = _standing(session, select(WorkOrder).where(WorkOrder.id == order_id))
    if order.is_open == (now is Standing.REOPENED):
        raise SanlingError(f"Order {order_id} is {'still open' if order.is_open else 'closed already'}.")
    if (now is Standing.REASSIGNED) != (must_answer is not None) or now is Standing.OPEN:
        raise SanlingError("To reassign an order, and only then, name the line or the agent who must answer.")
    if must_answer not in (None, LEADER, *LINES) and session.get(Agent, must_answer) is None:
        raise SanlingError(
            f"Nobody is {must_answer!r}: write a line ({', '.join(LINES)}), an agent's number, or {LEADER}."
        )
    session.add(
        WorkOrderChange(
            id=f"{order_id}~{secrets.token_hex(6)}", order_id=order_id, at=max(at, order.changed_at + CLOCK_STEP_S),
            now=now.value, by=by, must_answer=must_answer, note=note,
        )
    )  # fmt: skip
    session.flush()


def _row(session: Session, order_id: str) -> WorkOrder:
    row = session.get(WorkOrder, order_id)
    if row is None:
        raise SanlingError(f"There is no order {order_id}; `sanling orders` lists them.")
    return row


def _is_open() -> ColumnElement[bool]:
    """The last change of a WorkOrder did not close it."""
    change = aliased(WorkOrderChange)
    of_order = select(change.now).where(change.order_id == WorkOrder.id).order_by(change.at.desc()).limit(1)
    last = of_order.correlate(WorkOrder).scalar_subquery()
    return func.coalesce(last, Standing.OPEN.value) != Standing.CLOSED.value


def _standing(session: Session, which: Select[WorkOrder]) -> list[Order]:
    """The most urgent first. What belongs to them is asked for by `which`: their ids may be too many."""
    rows = session.scalars(which).all()
    ids, calls = which.with_only_columns(WorkOrder.id), which.with_only_columns(WorkOrder.call_id)
    changes: defaultdict[str, list[WorkOrderChange]] = defaultdict(list)
    query = select(WorkOrderChange).where(WorkOrderChange.order_id.in_(ids)).order_by(WorkOrderChange.at)
    for one in session.scalars(query):
        changes[one.order_id].append(one)
    left = select(Segment).where(Segment.call_id.in_(calls), Segment.kind == Kind.MESSAGE.value)
    messages = {f"{one.call_id}~order-message-{one.n}": one for one in session.scalars(left)}
    numbers = select(Call.id, Call.caller_number).where(Call.id.in_(calls))
    callers = {id: number for id, number in session.execute(numbers)}
    found = []
    for row in rows:
        last = changes[row.id][-1] if changes[row.id] else None
        named = [one.must_answer for one in changes[row.id] if one.must_answer is not None]
        found.append(
            Order(
                id=row.id, at=row.at, kind=Kind(row.kind), call_id=row.call_id, case_id=row.case_id, need=row.need,
                due_at=row.due_at, must_answer=named[-1] if named else row.must_answer, opened_by=row.opened_by,
                standing=Standing(last.now) if last else Standing.OPEN, changed_at=last.at if last else row.at,
                note=last.note if last else "", message=messages.get(row.id),
                caller=callers.get(row.call_id or ""),
            )
        )  # fmt: skip
    return sorted(found, key=lambda order: (order.due_at, order.id))
