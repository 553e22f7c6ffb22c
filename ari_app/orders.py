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

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from ari_app.cases import Person
from ari_app.errors import SanlingError
from ari_app.flow.sop import Need
from ari_app.ledger import Ledger
from ari_app.store.models import Segment, WorkOrder, WorkOrderChange

HOTLINE = "hotline"
"""Who opened an order that no agent opened."""
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
    """A line's id, or an agent's number."""
    opened_by: str
    standing: Standing
    changed_at: float
    note: str
    """What was written at the last change."""
    message: Segment | None = None
    """The message that it came of."""

    @property
    def is_open(self) -> bool:
        return self.standing is not Standing.CLOSED

    def overdue(self, now: float) -> bool:
        return self.is_open and self.due_at < now


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
    found = _standing(session, session.scalars(query).all())
    return [
        order
        for order in found
        if (order.is_open or not open_only) and (must_answer is None or order.must_answer == must_answer)
    ]


def open_orders_of(session: Session, person: Person, cases: Collection[int]) -> list[Order]:
    """Open orders of a proven `person` or of one of the person's `cases`, the most urgent first."""
    conditions: list[ColumnElement[bool]] = [WorkOrder.case_id.in_(cases)]
    if person.party_id is not None:
        conditions.append(WorkOrder.party_id == person.party_id)
    if person.lawyer_id is not None:
        conditions.append(WorkOrder.lawyer_id == person.lawyer_id)
    found = session.scalars(select(WorkOrder).where(or_(*conditions))).all()
    return [order for order in _standing(session, found) if order.is_open]


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

    Raises SanlingError if there is no such order, it is closed (or, to be reopened, is not), or nobody is named to
    whom it is reassigned.
    """
    row = session.get(WorkOrder, order_id)
    if row is None:
        raise SanlingError(f"There is no order {order_id}; `sanling orders` lists them.")
    order = _standing(session, [row])[0]
    if order.is_open == (now is Standing.REOPENED):
        raise SanlingError(f"Order {order_id} is {'still open' if order.is_open else 'closed already'}.")
    if (now is Standing.REASSIGNED) != (must_answer is not None) or now is Standing.OPEN:
        raise SanlingError("To reassign an order, and only then, name the line or the agent who must answer.")
    session.add(
        WorkOrderChange(
            id=f"{order_id}~{secrets.token_hex(6)}", order_id=order_id, at=max(at, order.changed_at + CLOCK_STEP_S),
            now=now.value, by=by, must_answer=must_answer, note=note,
        )
    )  # fmt: skip
    session.flush()


def _standing(session: Session, rows: Collection[WorkOrder]) -> list[Order]:
    ids = [row.id for row in rows]
    calls = [row.call_id for row in rows if row.kind == Kind.MESSAGE]
    changes: defaultdict[str, list[WorkOrderChange]] = defaultdict(list)
    query = select(WorkOrderChange).where(WorkOrderChange.order_id.in_(ids)).order_by(WorkOrderChange.at)
    for one in session.scalars(query):
        changes[one.order_id].append(one)
    left = select(Segment).where(Segment.call_id.in_(calls), Segment.kind == Kind.MESSAGE.value)
    messages = {f"{one.call_id}~order-message-{one.n}": one for one in session.scalars(left)}
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
            )
        )  # fmt: skip
    return sorted(found, key=lambda order: (order.due_at, order.id))
