"""Work orders: opened once through the ledger, changed by rows that stay."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event, insert, select

from ari_app import store
from ari_app.cases import Person
from ari_app.errors import SanlingError
from ari_app.flow.identity import Role
from ari_app.flow.sop import Need
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.orders import Kind, Standing, change, open_order, open_orders_of, orders
from ari_app.store import models
from tests.unit.core_database import in_memory

AT = 1_795_000_000.0
CALL = "orders-1795000000.1"
WEI = Person(Role.PARTY, "张", "mr", party_id=1)
JIAN = Person(Role.LAWYER, "王", "lawyer", lawyer_id=1)


@pytest.fixture
def engine():
    engine = in_memory()
    with store.session(engine) as session:
        session.add(models.Call(id=CALL, caller_number="15400001001", called_number="12368", at=AT))
    return engine


def opened(engine, **order) -> str:
    """An order opened through a ledger that is closed again."""

    async def play() -> str:
        ledger = Ledger(engine, executor=InlineExecutor())
        order_id = open_order(
            ledger,
            **{"kind": Kind.MESSAGE, "at": AT, "due_at": AT + 3600.0, "must_answer": "front", "call_id": CALL, **order},
        )
        await ledger.flush()
        await ledger.close()
        assert ledger.refused_rows == order.get("refused", 0)
        return order_id

    return asyncio.run(play())


def test_an_order_tells_what_it_came_of_who_must_answer_and_by_when(engine):
    order_id = opened(engine, name="message-0", person=WEI, need=Need.MATERIAL, case_id=1)
    assert order_id == f"{CALL}~order-message-0"
    with store.session(engine) as session:
        session.add(models.Segment(call_id=CALL, n=0, kind="message", at=AT - 9.0, seconds=9.0, spoken_s=7.0))
    with store.session(engine) as session:
        [order] = orders(session)
        assert (order.kind, order.call_id, order.need, order.case_id) == (Kind.MESSAGE, CALL, "material", 1)
        assert (order.due_at, order.must_answer, order.opened_by) == (AT + 3600.0, "front", "hotline")
        assert (order.standing, order.is_open) == (Standing.OPEN, True)
        assert (order.overdue(AT + 3600.0), order.overdue(AT + 3600.1)) == (False, True)
        assert order.message is not None
        assert order.message.seconds == 9.0


def test_an_order_without_a_call_has_an_id_of_its_own(engine):
    first, second = (opened(engine, call_id=None, kind=Kind.EXCEPTION) for _ in range(2))
    assert first != second
    with store.session(engine) as session:
        assert len(orders(session)) == 2
        assert orders(session, call_id=CALL) == []


def test_the_most_urgent_come_first_and_each_line_sees_its_own(engine):
    later = opened(engine, name="a", due_at=AT + 20.0)
    sooner = opened(engine, name="b", due_at=AT + 10.0, must_answer="second_line", kind=Kind.SECOND_LINE)
    with store.session(engine) as session:
        assert [order.id for order in orders(session)] == [sooner, later]
        assert [order.id for order in orders(session, must_answer="front")] == [later]


def test_what_becomes_of_an_order_is_rows_and_the_last_one_counts(engine):
    order_id = opened(engine)
    with store.session(engine) as session:
        change(session, order_id, Standing.TAKEN, by="601", at=AT + 1.0)
        change(session, order_id, Standing.REASSIGNED, by="601", at=AT + 2.0, must_answer="second_line", note="law")
        assert [order.must_answer for order in orders(session)] == ["second_line"]
        change(session, order_id, Standing.CLOSED, by="901", at=AT + 3.0, note="answered")
        assert orders(session) == []
        [order] = orders(session, open_only=False)
        assert (order.standing, order.changed_at, order.note) == (Standing.CLOSED, AT + 3.0, "answered")
        assert order.overdue(AT + 9999.0) is False
        change(session, order_id, Standing.REOPENED, by="600", at=AT + 4.0)
        assert [order.standing for order in orders(session)] == [Standing.REOPENED]
        assert len(session.scalars(select(models.WorkOrderChange)).all()) == 4


def test_a_clock_that_went_back_does_not_undo_a_change(engine):
    order_id = opened(engine)
    with store.session(engine) as session:
        change(session, order_id, Standing.CLOSED, by="601", at=AT - 60.0)
        assert orders(session) == []
        change(session, order_id, Standing.REOPENED, by="601", at=AT - 120.0)
        assert [order.standing for order in orders(session)] == [Standing.REOPENED]


@pytest.mark.parametrize(
    ("now", "to", "said"),
    [
        (Standing.REOPENED, None, "still open"),
        (Standing.REASSIGNED, None, "name the line"),
        (Standing.TAKEN, "second_line", "name the line"),
        (Standing.OPEN, None, "name the line"),
    ],
)
def test_what_cannot_be_is_a_sentence(engine, now, to, said):
    order_id = opened(engine)
    with store.session(engine) as session, pytest.raises(SanlingError, match=said):
        change(session, order_id, now, by="601", at=AT, must_answer=to)
    with store.session(engine) as session:
        assert session.scalars(select(models.WorkOrderChange)).all() == []


def test_a_closed_order_is_closed_once_and_an_unknown_one_never(engine):
    order_id = opened(engine)
    with store.session(engine) as session:
        change(session, order_id, Standing.CLOSED, by="601", at=AT)
    with store.session(engine) as session, pytest.raises(SanlingError, match="closed already"):
        change(session, order_id, Standing.CLOSED, by="601", at=AT)
    with store.session(engine) as session, pytest.raises(SanlingError, match="There is no order"):
        change(session, "order-none", Standing.CLOSED, by="601", at=AT)


def test_whoever_is_proven_sees_own_orders_and_those_of_own_cases_and_no_others(engine):
    mine = opened(engine, name="mine", person=WEI)
    of_case = opened(engine, name="case", case_id=7, due_at=AT + 7200.0)
    closed = opened(engine, name="closed", person=WEI)
    opened(engine, name="theirs", person=Person(Role.PARTY, "李", "ms", party_id=2))
    lawyers = opened(engine, name="lawyers", person=JIAN)
    opened(engine, name="nobodys")
    with store.session(engine) as session:
        change(session, closed, Standing.CLOSED, by="601", at=AT)
        assert [order.id for order in open_orders_of(session, WEI, [7])] == [mine, of_case]
        assert [order.id for order in open_orders_of(session, JIAN, [])] == [lawyers]


def test_of_all_orders_there_ever_were_only_the_open_ones_are_read(engine):
    """By no list of ids: PostgreSQL takes 65,535 at most."""
    order_id, loaded, bound = opened(engine, name="open"), [], []
    with store.session(engine) as session:
        change(session, order_id, Standing.CLOSED, by="601", at=AT + 1.0)
        change(session, order_id, Standing.REOPENED, by="601", at=AT + 2.0)
        closed = {"at": AT, "kind": "message", "due_at": AT, "must_answer": "front", "opened_by": "hotline"}
        session.execute(
            insert(models.WorkOrder), [{"id": f"o{n}", "call_id": f"demo-{n}.1", **closed} for n in range(500)]
        )
        over = {"at": AT, "now": "closed", "by": "601", "note": ""}
        session.execute(
            insert(models.WorkOrderChange), [{"id": f"c{n}", "order_id": f"o{n}", **over} for n in range(500)]
        )

    def asks(_c: object, _cursor: object, _statement: str, parameters: tuple[object, ...], *_: object) -> None:
        bound.append(len(parameters))

    def loads(row: object, _context: object) -> None:
        loaded.append(row)

    event.listen(engine, "before_cursor_execute", asks)
    event.listen(models.Table, "load", loads, propagate=True)
    try:
        with store.session(engine) as session:
            assert [order.id for order in orders(session)] == [order_id]
            assert len(loaded) == 3, "an order and its two changes"
            assert len(orders(session, open_only=False)) == 501
    finally:
        event.remove(models.Table, "load", loads)
    assert max(bound) < 10
