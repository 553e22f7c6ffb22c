"""What an earlier controller left is read back, though the database takes no rows: it is in the journal then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ari_app import store
from ari_app.desk import Desk, Duty
from ari_app.ledger import Ledger, left_open
from ari_app.settings import Queue
from ari_app.store.models import Agent, Call, Ending, OfferEvent, Table, Transition
from tests.unit.core_database import in_file

AT = 1_795_000_000.0
pytestmark = pytest.mark.real_time


@contextmanager
def locked(database: Path) -> Iterator[None]:
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.close()


def call(n: int) -> Call:
    return Call(id=f"demo-{n}.1", caller_number=None, called_number="12368", at=AT + n)


def step(n: int, row: int, next: str) -> Transition:
    return Transition(
        call_id=f"demo-{n}.1", n=row, at=AT + n + row, state="RINGING", heard="X", next=next, actions="", agent=None
    )


def ending(n: int) -> Ending:
    return Ending(
        call_id=f"demo-{n}.1", at=AT + 99, outcome="handled", hung_up_by="caller", agent=None, answered_after_s=None,
        wait_s=0.0, talk_s=0.0, after_closing_s=None,
    )  # fmt: skip


async def test_calls_and_agents_are_as_the_journal_says_while_the_database_is_locked(tmp_path):
    file = tmp_path / "sanling.db"
    engine = in_file(file)
    with store.session(engine) as session:
        session.add(Agent(number="601", name="", sip_ha1="0" * 32, pin_hash="", state="idle", state_since=AT))
        session.add_all([call(1), call(2), step(1, 0, "GREETING")])
    first = Ledger(engine, journal=tmp_path / "journal")
    await first.open()
    desk = Desk(first, Queue(), lambda: AT + 50)
    await desk.open()
    with locked(file):
        offered = OfferEvent(call_id="demo-3.1", n=1, event="offered", at=AT + 40, agent="601")
        first.write(step(1, 1, "ASKING_ROLE"), ending(2), call(3), step(3, 0, "GREETING"), offered)
        await first.flush()
        assert await desk._reserve("601", "demo-3.1") is False  # it does not wait
        desk.join("demo-3.1", AT + 3, _Nobody())
        assert await desk._reserve("601", "demo-3.1")
        # … and is killed.
        second = Ledger(engine, journal=tmp_path / "journal")
        await second.open()
        waiting = second.waiting()
        rows = [row for row in waiting if isinstance(row, Table)]
        past = await second.look_up(lambda session: left_open(session, "demo", rows))
        assert [(one.call.id, [row.next for row in one.transitions], len(one.offers)) for one in past] == [
            ("demo-1.1", ["GREETING", "ASKING_ROLE"], 0),
            ("demo-3.1", ["GREETING"], 1),
        ]
        again = Desk(second, Queue(), lambda: AT + 60)
        await again.open({"demo-1.1", "demo-3.1"})
        agent = again.agent("601")
        assert agent is not None
        assert (agent.duty, agent.call_id) == (Duty.RESERVED, "demo-3.1")
    await second.close()
    with store.session(engine) as session:
        assert [one.call.id for one in left_open(session, "demo")] == ["demo-1.1", "demo-3.1"]
        kept = session.get(Agent, "601")
        assert kept is not None
        assert (kept.state, kept.call_id) == ("reserved", "demo-3.1")
    engine.dispose()


async def test_a_row_that_is_in_journal_and_database_counts_once(tmp_path):
    engine = in_file(tmp_path / "sanling.db")
    with store.session(engine) as session:
        session.add_all([call(1), step(1, 0, "GREETING")])
        [past] = left_open(session, "demo", [call(1), step(1, 0, "GREETING"), step(1, 1, "ASKING_ROLE")])
        assert [row.n for row in past.transitions] == [0, 1]
        assert left_open(session, "other") == []
    engine.dispose()


class _Nobody:
    def put(self, event: object) -> None:
        """Whoever waits for an agent here does nothing about it."""
