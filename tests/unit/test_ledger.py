"""The ledger: nothing lost, nothing twice, nothing changed, and every call replayed as it went."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, func, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.errors import LedgerContradiction, SanlingError, StoreUnavailable
from ari_app.flow.sop import Heard, Progress, State, step
from ari_app.ledger import GATHERS_S, RETRY_AFTER_S, InlineExecutor, Ledger, replay, timeline
from ari_app.settings import PROJECT
from ari_app.store import models
from tests.fake.virtual_time import run_virtual
from tests.unit.core_database import LostAnswers, Outage, in_file, in_memory
from tests.unit.test_journal import FullDisk

CALL = "demo-1763763200.3"
AT = 1_763_763_200.25


def call(id: str = CALL, at: float = AT) -> models.Call:
    return models.Call(id=id, caller_number="15400001001", called_number="12368", at=at)


def prompt(n: int, call_id: str = CALL, prompt: str = "opening") -> models.PromptHeard:
    return models.PromptHeard(
        call_id=call_id, n=n, at=AT + n, side="caller", prompt=prompt, seconds=2.0, whole=True
    )  # fmt: skip


def heard(engine: Engine) -> list[int]:
    """Which rows are there, in the order in which they were written."""
    with store.session(engine) as session:
        return [n for (n,) in session.execute(text("SELECT n FROM prompts_heard ORDER BY rowid"))]


@contextmanager
def commits(engine: Engine) -> Iterator[list[int]]:
    counted: list[int] = []
    event.listen(engine, "commit", lambda connection: counted.append(1))
    yield counted


def ledger_of(engine: Engine) -> Ledger:
    return Ledger(engine, executor=InlineExecutor())


# ---------------------------------------------------------------- writing


async def test_rows_are_written_in_order_and_those_of_one_step_together():
    engine = in_memory()
    ledger = ledger_of(engine)
    with commits(engine) as counted:
        ledger.write(call())
        ledger.write(*(prompt(n) for n in range(50)))
        ledger.write(prompt(50), prompt(51))
        assert ledger.waiting_rows == 53
        await ledger.flush()
        assert len(counted) == 1
    assert ledger.waiting_rows == 0
    assert heard(engine) == list(range(52))
    await ledger.close()


async def test_a_question_sees_all_that_was_written_before_it():
    ledger = ledger_of(in_memory())
    ledger.write(call())
    for n in range(20):
        ledger.write(prompt(n))
        found = await ledger.ask(lambda s: s.scalar(select(func.count()).select_from(models.PromptHeard)))
        assert found == n + 1
    await ledger.close()


async def test_a_question_that_fails_leaves_nothing_half_done():
    ledger = ledger_of(in_memory())

    def half(session: Session) -> None:
        session.add(call())
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ledger.ask(half)
    assert await ledger.ask(lambda s: s.get(models.Call, CALL)) is None
    await ledger.close()


async def test_closing_writes_what_waits():
    engine = in_memory()
    ledger = ledger_of(engine)
    ledger.write(call(), prompt(0))
    await ledger.close()
    assert heard(engine) == [0]


@pytest.mark.real_time
async def test_its_own_thread_writes_and_the_loop_does_not_wait(tmp_path: Path):
    engine = in_file(tmp_path / "sanling.db")
    ledger = Ledger(engine)
    ledger.write(call())
    for n in range(200):
        ledger.write(prompt(n))
        if n % 20 == 0:
            await asyncio.sleep(0)
    await ledger.close()
    assert heard(engine) == list(range(200))
    engine.dispose()


async def test_rows_that_come_all_the_time_are_not_told_as_rows_that_wait_for_the_database():
    """Else the alert of a database that is away fires whenever there is much to do."""
    engine = in_memory()
    ledger, outage = ledger_of(engine), Outage(engine)
    ledger.write(call())
    told = []
    for n in range(200):
        ledger.write(prompt(n))
        await asyncio.sleep(0.013)
        told.append(ledger.overdue_rows)
    assert set(told) == {0}
    outage.away = True
    ledger.write(prompt(200))
    await asyncio.sleep(GATHERS_S + 0.1)
    for n in range(201, 300):
        ledger.write(prompt(n))
        await asyncio.sleep(0.013)
        assert ledger.overdue_rows == ledger.waiting_rows > 0
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S + 1)
    assert ledger.waiting_rows == 0
    assert heard(engine) == list(range(300))
    await ledger.close()


# ---------------------------------------------------------------- when the database is away


async def test_rows_wait_for_a_locked_database_and_come_once_in_order(tmp_path: Path, caplog):
    engine = in_file(tmp_path / "sanling.db")
    ledger = ledger_of(engine)
    other = sqlite3.connect(tmp_path / "sanling.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.CRITICAL):
        ledger.write(call(), prompt(0))
        await asyncio.sleep(5 * RETRY_AFTER_S + 0.5)
        ledger.write(prompt(1))
        with pytest.raises(StoreUnavailable):
            await ledger.ask(lambda s: s.add(prompt(7)))
    assert ledger.waiting_rows == 3
    assert heard(engine) == []
    other.execute("COMMIT")
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert ledger.waiting_rows == 0
    assert heard(engine) == [0, 1]
    ledger.write(prompt(2))
    await ledger.close()
    assert heard(engine) == [0, 1, 2]
    other.close()
    engine.dispose()


async def test_a_database_that_comes_and_goes_loses_nothing_and_doubles_nothing():
    engine = in_memory()
    ledger, outage = ledger_of(engine), Outage(engine)
    ledger.write(call())
    for n in range(40):
        outage.away = n % 3 != 0
        ledger.write(prompt(n))
        await asyncio.sleep(0.3)
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert heard(engine) == list(range(40))
    await ledger.close()


async def test_a_database_that_fails_in_the_middle_of_a_batch_doubles_nothing():
    """The bad row makes the ledger write one by one; then the database goes, having taken some."""
    engine = in_memory()
    ledger = ledger_of(engine)
    outage = Outage(engine)
    written: list[int] = []

    @event.listens_for(engine, "commit")
    def _after_three(_: object) -> None:
        written.append(1)
        outage.away = len(written) == 3

    ledger.write(call(), prompt(0), prompt(1), prompt(0), prompt(2), prompt(3))
    await ledger.flush()
    assert ledger.waiting_rows > 0
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert ledger.waiting_rows == 0
    assert heard(engine) == [0, 1, 2, 3]
    await ledger.close()


async def test_closing_while_the_database_is_away_says_what_is_lost_and_ends(caplog):
    engine = in_memory()
    ledger, outage = ledger_of(engine), Outage(engine)
    outage.away = True
    ledger.write(call(), prompt(0))
    await asyncio.sleep(0.1)
    await ledger.close()
    assert "2 rows" in caplog.text
    await asyncio.sleep(10 * RETRY_AFTER_S)  # nothing is tried after the end


# ---------------------------------------------------------------- refused rows


async def test_a_refused_row_does_not_take_its_neighbours_with_it(caplog):
    engine = in_memory()
    ledger = ledger_of(engine)
    nobodys = prompt(0, call_id="demo-9.9")
    nothing = models.Callback(id="demo-9.9", at=AT, number=None, reason="fallback")
    ledger.write(call(), prompt(0), prompt(0), nobodys, prompt(1), nothing, prompt(2))
    await ledger.flush()
    assert heard(engine) == [0, 1, 2]
    assert caplog.text.count("was refused") == 3
    assert "15400001001" not in caplog.text
    await ledger.close()


async def test_a_row_that_no_database_can_hold_does_not_stop_the_ledger(caplog):
    """Not refused by a constraint but unfit altogether: the calls after it are written down all the same."""
    engine = in_memory()
    ledger = ledger_of(engine)
    unfit = models.Callback(id="demo-1.1", at=AT, number={"not": "a number"}, reason="fallback")
    ledger.write(call(), prompt(0), unfit, prompt(1))
    await ledger.flush()
    ledger.write(prompt(2))
    await ledger.close()
    assert heard(engine) == [0, 1, 2]
    assert caplog.text.count("was refused") == 1


async def test_values_that_only_one_database_refuses_stop_nobody_either():
    """An integer of 71 bits is a mistake that SQLite's driver finds before the database does."""

    engine = in_memory()
    ledger = ledger_of(engine)
    huge = models.OfferEvent(call_id=CALL, n=2**70, event="offered", at=AT, agent="601")
    ledger.write(call(), prompt(0), huge, prompt(1))
    await ledger.close()
    assert heard(engine) == [0, 1]
    assert ledger.refused_rows == 1


# ---------------------------------------------------------------- the journal


def left_in(folder: Path) -> dict[str, int]:
    """Files and their sizes."""
    return {file.name: file.stat().st_size for file in folder.iterdir()}


def journals(engine: Engine) -> dict[str, int]:
    with store.session(engine) as session:
        return {row.id: row.applied for row in session.scalars(select(models.Journal))}


async def test_what_was_written_while_the_database_was_away_outlives_the_process(tmp_path: Path, caplog):
    engine = in_memory()
    outage = Outage(engine)
    outage.away = True
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    ledger.write(call(), prompt(0))
    await asyncio.sleep(0.1)
    ledger.write(prompt(1))
    # the process is killed here
    await asyncio.sleep(0.1)
    after = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    with pytest.raises(StoreUnavailable):
        await after.open()
    after.write(prompt(2))
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    await after.open()
    ledger._stop_trying()
    ledger._closed = True
    found = await after.ask(lambda s: s.scalars(select(models.PromptHeard.n).order_by(text("rowid"))).all())
    assert found == [0, 1, 2]
    await after.close()
    assert left_in(tmp_path) == {}
    assert journals(engine) == {}
    assert "15400001001" not in caplog.text


async def test_a_question_before_opening_sees_what_an_earlier_process_left(tmp_path: Path):
    engine = in_memory()
    outage = Outage(engine)
    outage.away = True
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    ledger.write(call())
    await ledger.close()
    outage.away = False
    after = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    assert await after.ask(lambda s: s.get(models.Call, CALL)) is not None
    await after.close()


async def test_closing_while_the_database_is_away_loses_nothing(tmp_path: Path, caplog):
    engine = in_memory()
    outage = Outage(engine)
    outage.away = True
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    ledger.write(call(), prompt(0))
    await ledger.close()
    assert "lost" not in caplog.text
    assert "2 rows wait in the journal" in caplog.text
    ledger.write(prompt(1))  # somebody was late
    outage.away = False
    after = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    await after.open()
    assert heard(engine) == [0, 1]
    await after.close()


@pytest.mark.parametrize("journal", [False, True])
async def test_a_commit_whose_answer_was_lost_is_not_done_again(tmp_path: Path, journal: bool):
    engine = in_memory()
    answers = LostAnswers(engine)
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path if journal else None)
    ledger.write(call(), prompt(0))
    await ledger.flush()
    answers.losing = True
    ledger.write(prompt(1), prompt(1), prompt(2))  # the second is refused: these are written one by one
    await asyncio.sleep(3 * RETRY_AFTER_S)
    ledger.write(prompt(3))
    answers.losing = False
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert ledger.waiting_rows == 0
    assert heard(engine) == [0, 1, 2, 3]
    assert ledger.refused_rows == 1
    await ledger.close()


async def test_a_journal_whose_rows_are_all_applied_is_empty_and_stays_small(tmp_path: Path):
    engine = in_memory()
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    ledger.write(call())
    largest = 0
    for n in range(0, 20_000, 100):
        ledger.write(*(prompt(n + more) for more in range(100)))
        if n % 4000 == 0:
            await ledger.flush()
        largest = max(largest, *left_in(tmp_path).values())
    await ledger.flush()
    assert 100_000 < largest < 1_000_000
    assert list(left_in(tmp_path).values()) == [0]
    await ledger.close()


async def test_a_journal_is_emptied_of_what_is_applied_even_if_rows_always_wait(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("ari_app.ledger.WORTH_EMPTYING_BYTES", 20_000)
    engine = in_memory()
    outage = Outage(engine)
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    outage.away = True
    ledger.write(call(), *(prompt(n) for n in range(3000)))
    await asyncio.sleep(0.1)
    batches: list[int] = []

    @event.listens_for(engine, "commit")
    def _after_five(_: object) -> None:
        batches.append(1)
        outage.away = len(batches) == 5

    [before] = left_in(tmp_path).values()
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S)
    assert ledger.waiting_rows == 3001 - 5 * 500
    assert sum(left_in(tmp_path).values()) < before / 3
    ledger._closed = True  # killed
    outage.away = False
    after = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    await after.open()
    ledger._stop_trying()
    assert heard(engine) == list(range(3000))
    await after.close()


async def test_a_refused_row_is_set_aside_and_not_lost(tmp_path: Path, caplog):
    engine = in_memory()
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    unfit = models.Callback(id="demo-1.1", at=AT, number={"15400001001": object()}, reason="fallback")
    nobodys = models.Callback(id="demo-9.9", at=AT, number=None, reason="fallback")
    ledger.write(call(), call(), prompt(0), unfit, nobodys, prompt(1))
    await ledger.flush()
    aside = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in aside] == ["callbacks", "calls", "callbacks"]
    assert aside[1]["values"]["caller_number"] == "15400001001"
    assert "UNIQUE" in aside[1]["reason"]
    assert ledger.refused_rows == 3
    assert "15400001001" not in caplog.text
    await ledger.close()


async def test_what_waits_is_bounded_and_says_so_in_time(tmp_path: Path, caplog):
    engine = in_memory()
    outage = Outage(engine)
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path, journal_mb=0.02)
    outage.away = True
    ledger.write(call())
    written = 0
    while not ledger.full:
        ledger.write(prompt(written))
        written += 1
        assert not ledger.refused_rows
    await asyncio.sleep(0)
    for n in range(written, written + 100):
        ledger.write(prompt(n))
    assert 0 < ledger.refused_rows < 100
    assert caplog.text.count("refused until") == 1
    assert sum(left_in(tmp_path).values()) <= 20_000
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert not ledger.full
    assert heard(engine) == list(range(written + 100 - ledger.refused_rows))
    ledger.write(prompt(1000))
    await ledger.close()
    assert heard(engine)[-1] == 1000


async def test_a_full_disk_under_the_journal_crashes_nothing_and_is_said_once(tmp_path: Path, monkeypatch, caplog):
    engine = in_memory()
    outage, disk = Outage(engine), FullDisk(monkeypatch)
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    outage.away = True
    ledger.write(call(), prompt(0))
    disk.room = 150
    for n in range(1, 20):
        ledger.write(prompt(n))
        await asyncio.sleep(0.2)
    assert disk.refused <= 5  # a second apart
    assert caplog.text.count("The journal cannot be written") == 1
    assert ledger.waiting_rows == 21
    disk.room = None
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert caplog.text.count("The journal can be written again") == 1
    ledger._closed = True  # killed: all the same, nothing is lost
    outage.away = False
    after = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    await after.open()
    ledger._stop_trying()
    assert heard(engine) == list(range(20))
    await after.close()


async def test_with_a_full_disk_under_the_journal_the_database_is_written_all_the_same(tmp_path: Path, monkeypatch):
    engine = in_memory()
    disk = FullDisk(monkeypatch)
    disk.room = 0
    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    ledger.write(call())
    for n in range(50):
        ledger.write(prompt(n))
        await asyncio.sleep(0.1)
    disk.room = None
    ledger.write(prompt(50))
    await asyncio.sleep(2 * RETRY_AFTER_S)
    ledger.write(prompt(51))
    assert len(left_in(tmp_path)) == 1
    await ledger.close()
    assert heard(engine) == list(range(52))


async def test_a_full_database_makes_rows_wait(tmp_path: Path):
    engine = in_file(tmp_path / "sanling.db")
    pages: list[int | None] = [None]

    @event.listens_for(engine, "begin")
    def _limit(connection: Any) -> None:
        connection.connection.execute(f"PRAGMA max_page_count = {pages[0] or 1_000_000}")

    ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path / "journal")
    ledger.write(call(), prompt(0))
    await ledger.flush()
    pages[0] = 1  # SQLite takes it as: not one page more than there are
    ledger.write(*(prompt(n, prompt="x" * 4000) for n in range(1, 50)))
    await asyncio.sleep(3 * RETRY_AFTER_S)
    assert ledger.waiting_rows == 49
    with pytest.raises(StoreUnavailable):
        await ledger.ask(lambda s: s.get(models.Call, CALL))
    assert await ledger.look_up(lambda s: s.get(models.Call, CALL)) is not None
    pages[0] = None
    await asyncio.sleep(RETRY_AFTER_S + 0.1)
    assert heard(engine) == list(range(50))
    await ledger.close()
    engine.dispose()


async def test_a_database_that_takes_no_rows_for_want_of_a_right_costs_none():
    engine = in_memory()
    ledger = ledger_of(engine)
    outage = Outage(engine)
    outage.error = lambda *what: ProgrammingError(*what, sqlite3.ProgrammingError("permission denied"))
    outage.away = True
    ledger.write(call(), prompt(0))
    await asyncio.sleep(2 * RETRY_AFTER_S)
    assert (ledger.waiting_rows, ledger.refused_rows) == (2, 0)
    outage.away = False
    await asyncio.sleep(RETRY_AFTER_S)
    assert heard(engine) == [0]
    await ledger.close()


async def test_a_question_fails_at_once_while_rows_wait_and_a_look_up_is_tried():
    engine = in_memory()
    ledger = ledger_of(engine)
    outage = Outage(engine)
    outage.away = True
    ledger.write(call())
    await asyncio.sleep(0.1)
    asked: list[int] = []
    with pytest.raises(StoreUnavailable):
        await ledger.ask(lambda s: asked.append(1))
    assert asked == []
    with pytest.raises(StoreUnavailable):
        await ledger.look_up(lambda s: s.get(models.Call, CALL))
    outage.away = False
    assert await ledger.look_up(lambda s: s.get(models.Call, CALL)) is None
    await asyncio.sleep(RETRY_AFTER_S)
    assert await ledger.ask(lambda s: s.get(models.Call, CALL)) is not None
    await ledger.close()


@pytest.mark.real_time
async def test_a_locked_database_delays_no_caller_and_what_was_given_up_never_happens(tmp_path: Path):
    """Locked for 5 s by another program: asked for 2 s at most, the loop never waits, and nothing is done later."""
    path = tmp_path / "sanling.db"
    in_file(path).dispose()
    engine = store.open_engine(f"sqlite:///{path}")
    ledger = Ledger(engine, journal=tmp_path / "journal")
    ledger.write(call(), prompt(0))
    await ledger.flush()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    loop, lag, waited = asyncio.get_running_loop(), [0.0], []
    began = loop.time()

    async def watch() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            lag.append(loop.time() - before - 0.005)

    async def asks(n: int) -> None:
        await asyncio.sleep(n * 0.15)
        before = loop.time()
        with pytest.raises(StoreUnavailable):
            await ledger.ask(lambda s: s.add(prompt(1000 + n)))
        waited.append(loop.time() - before)

    async def looks_up() -> None:
        before = loop.time()
        assert await ledger.look_up(lambda s: s.get(models.Call, CALL)) is not None
        looked_up.append(loop.time() - before)

    looked_up: list[float] = []
    watching = asyncio.create_task(watch())
    asking = [asyncio.create_task(asks(n)) for n in range(20)]
    for n in range(1, 40):
        await asyncio.sleep(0.05)
        ledger.write(prompt(n))
        await looks_up()
    await asyncio.gather(*asking)
    await asyncio.sleep(5 - (loop.time() - began))
    other.execute("COMMIT")
    other.close()
    await asyncio.sleep(RETRY_AFTER_S + 1.2)
    watching.cancel()
    assert max(waited) < 2.3
    assert sorted(looked_up)[-3] < 0.2, "reading waits for no lock, nor for a writer that does"
    assert sum(lag) / len(lag) < 0.05
    assert ledger.waiting_rows == 0
    assert heard(engine) == list(range(40))
    await ledger.close()
    engine.dispose()


@pytest.mark.real_time
async def test_a_question_given_up_while_it_runs_is_rolled_back(tmp_path: Path):
    path = tmp_path / "sanling.db"
    in_file(path).dispose()
    engine = store.open_engine(f"sqlite:///{path}")
    ledger = Ledger(engine)
    began = threading.Event()

    def slow(session: Session) -> None:
        session.add(call())
        session.flush()
        began.set()
        time.sleep(2.5)

    asking = asyncio.create_task(ledger.ask(slow))
    await asyncio.to_thread(began.wait)
    second = asyncio.create_task(ledger.ask(lambda s: s.add(call("demo-2.2"))))
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await asking
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await second
    assert await ledger.ask(lambda s: s.scalars(select(models.Call.id)).all()) == []
    await ledger.close()
    engine.dispose()


@pytest.mark.parametrize("away", [False, True], ids=["database there", "database locked"])
def test_every_row_that_was_written_outlives_a_kill_and_none_is_there_twice(tmp_path: Path, away: bool):
    database, folder = tmp_path / "sanling.db", tmp_path / "journal"
    in_file(database).dispose()
    engine = store.open_engine(f"sqlite:///{database}")
    random = Random(20260704)
    promised = 0
    for _ in range(4):
        lock = sqlite3.connect(database, isolation_level=None)
        if away:
            lock.execute("BEGIN EXCLUSIVE")
        with subprocess.Popen(
            [sys.executable, "-m", "tests.unit.ledger_killed", f"sqlite:///{database}", str(folder), str(promised)],
            stdout=subprocess.PIPE, cwd=PROJECT,
        ) as writing:  # fmt: skip
            assert writing.stdout is not None
            writing.stdout.read(4)
            time.sleep(random.uniform(0.02, 0.4))
            writing.kill()
            promised = int.from_bytes(([*batched4(writing.stdout.read())] or [b"\0\0\0\0"])[-1], "big") or promised
        lock.close()

        async def reopen() -> None:
            ledger = Ledger(engine, journal=folder)
            await ledger.open()
            await ledger.close()

        asyncio.run(reopen())
        there = heard(engine)
        assert there == list(range(len(there)))
        assert promised <= len(there) <= promised + 8
        promised = len(there)
    assert promised > 100
    assert list(folder.iterdir()) == []
    assert journals(engine) == {}
    engine.dispose()


def batched4(said: bytes) -> Iterator[bytes]:
    for place in range(0, len(said) - len(said) % 4, 4):
        yield said[place : place + 4]


@given(
    happens=st.lists(
        st.sampled_from(["write", "write", "bad row", "away", "back", "wait", "ask", "kill", "close", "cut", "heal"]),
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_meanwhile_the_rows_are_there_in_order_and_once(happens: list[str]):
    """Outages, kills, restarts, lost answers and refused rows in any order; in the end, each row where it belongs."""

    async def play(folder: Path) -> None:
        engine = in_memory()
        outage, answers = Outage(engine), LostAnswers(engine)
        ledger = Ledger(engine, executor=InlineExecutor(), journal=folder)
        ledger.write(call())
        n = refused = 0
        for what in happens:
            match what:
                case "write":
                    ledger.write(prompt(n), prompt(n + 1))
                    n += 2
                case "bad row":
                    ledger.write(prompt(n), prompt(n, call_id="demo-9.9"))
                    n += 1
                    refused += 1
                case "away":
                    outage.away = True
                case "back":
                    outage.away = False
                case "cut":
                    answers.losing = True
                case "heal":
                    answers.losing = False
                case "wait":
                    await asyncio.sleep(0.7)
                case "ask":
                    with suppress(StoreUnavailable):
                        assert await ledger.ask(lambda s: s.scalar(select(func.count(models.PromptHeard.n)))) == n
                case "kill":
                    ledger._closed = True
                    ledger._stop_trying()
                    if ledger._writer is not None:
                        ledger._writer.cancel()
                    ledger = Ledger(engine, executor=InlineExecutor(), journal=folder)
                case "close":
                    await ledger.close()
                    ledger = Ledger(engine, executor=InlineExecutor(), journal=folder)
        outage.away = answers.losing = False
        await asyncio.sleep(RETRY_AFTER_S + 0.1)
        await ledger.open()
        assert heard(engine) == list(range(n))
        assert ledger.waiting_rows == 0
        await ledger.close()
        aside = folder / "refused.jsonl"
        rows = {line.partition('"values"')[2] for line in aside.read_text().splitlines()} if aside.exists() else set()
        assert len(rows) == refused
        assert set(left_in(folder)) <= {"refused.jsonl"}
        assert journals(engine) == {}
        engine.dispose()

    with tempfile.TemporaryDirectory() as folder:
        run_virtual(play(Path(folder)))


# ---------------------------------------------------------------- append-only

ROWS: list[models.Table] = [
    call(),
    models.Transition(call_id=CALL, n=0, at=AT, state="RINGING", heard="HUNG_UP", next="ENDED", actions="", agent=None),
    models.Identity(
        call_id=CALL, n=0, at=AT, role="party", verified=False, missing="case", party_id=None, lawyer_id=None
    ),
    models.OfferEvent(call_id=CALL, n=1, event="offered", at=AT, agent="601"),
    prompt(0),
    models.Ending(
        call_id=CALL,
        at=AT,
        outcome="left_in_menu",
        hung_up_by="caller",
        agent=None,
        answered_after_s=None,
        wait_s=0.0,
        talk_s=0.0,
        after_closing_s=None,
    ),
    models.Recording(
        call_id=CALL, store="local", at=AT, path="a.flac", sha256="0" * 64, seconds=1.0, channels=2, bytes=10
    ),
    models.Callback(id=CALL, at=AT, number="15400001001", reason="fallback"),
    models.CallbackEvent(callback_id=CALL, n=1, at=AT, event="missed", call_id="demo-out_1.001", until=AT + 600),
    models.OutboundCall(
        call_id="demo-out_1.001", at=AT, agent="601", number="15400001001", callback_id=CALL, role="party", need="time"
    ),
    models.AgentState(agent="601", at=AT, was="idle", now="paused", reason="paused", call_id=None),
    models.DutyNote(agent="601", at=AT, what="allowance_spent", code="1"),
    models.WorkOrder(
        id=f"{CALL}~order-message-0",
        at=AT,
        kind="message",
        call_id=CALL,
        party_id=None,
        lawyer_id=None,
        case_id=None,
        need=None,
        due_at=AT + 3600.0,
        must_answer="front",
        opened_by="hotline",
    ),
    models.WorkOrderChange(
        id=f"{CALL}~order-message-0~1",
        order_id=f"{CALL}~order-message-0",
        at=AT,
        now="closed",
        by="601",
        must_answer=None,
        note="answered",
    ),
    models.Segment(call_id=CALL, n=0, kind="message", at=AT, seconds=9.0, spoken_s=7.0),
    models.Supervision(
        session="demo-1.9",
        n=0,
        event="began",
        at=AT,
        who="612",
        whom="601",
        what="listen",
        call_id=CALL,
        detail="",
    ),
    models.Rating(call_id=CALL, n=7, at=AT, agent="601", score=5),
    models.Disposition(id="0" * 32, call_id=CALL, at=AT, agent="601", need="milestone", result="on_the_spot"),
    models.Matter(
        call_id=CALL,
        at=AT,
        until=AT + 60.0,
        agent="601",
        party_id=1,
        lawyer_id=None,
        case_id=1,
        need="milestone",
        second_of=None,
    ),
    models.Audit(
        id="0" * 32,
        at=AT,
        by="612",
        role="leader",
        act="force_pause",
        agent="601",
        call_id=None,
        detail="",
        result="done",
    ),
    models.TalkTime(call_id=CALL, n=7, agent="601", company="caller", at=AT, until=AT + 60.0),
    models.QueueEvent(id=1, at=AT, desk="demo", event="waits", call_id=CALL, agent=None, since=AT, detail="{}"),
    models.Hold(call_id=CALL, who="601", at=AT, began=True),
    models.TalkSound(
        call_id=CALL, agent="601", at=AT, line="party", seconds=40.0, caller_db=-90.0, agent_db=-20.0, unheard="caller"
    ),
]


def copy_of(row: models.Table) -> models.Table:
    """A row of the same values; numbered by the database where it numbers them itself."""
    columns = [column.key for column in row.__table__.columns if column.autoincrement is not True]
    return type(row)(**{name: getattr(row, name) for name in columns})


def test_every_table_of_the_ledger_is_tried_below():
    assert {type(row) for row in ROWS} == set(models.LEDGER)


@pytest.mark.parametrize("table", models.LEDGER, ids=lambda table: table.__tablename__)
@pytest.mark.parametrize("change", ["update", "delete"])
def test_no_row_of_the_ledger_is_ever_changed_or_deleted(table, change):
    engine = in_memory()
    with store.session(engine) as session:
        for row in ROWS:
            session.add(copy_of(row))
            session.flush()
    statement = update(table).values(at=0.0) if change == "update" else delete(table)
    with pytest.raises(DBAPIError, match="append-only"), store.session(engine) as session:
        session.execute(statement)
    with store.session(engine) as session:
        assert session.scalars(select(table.at)).all() == [AT]


# ---------------------------------------------------------------- reading back

PATH = (
    Heard.RANG_ENOUGH, Heard.SAID_PARTY, Heard.OWN_NUMBER, Heard.ENTERED, Heard.ENTERED, Heard.IDENTITY_PROVEN,
    Heard.CONTEXT_CAME, Heard.SAID_MILESTONE, Heard.ADMITTED, Heard.ANNOUNCEMENT_DUE, Heard.AGENT_RESERVED,
    Heard.AGENT_ANSWERED, Heard.WHISPER_ENDED, Heard.DISCLAIMER_ASKED, Heard.CLOSING_ASKED, Heard.RATING_NOT_ASKED,
    Heard.PROMPT_ENDED, Heard.FIVE_SECONDS_PASSED,
)  # fmt: skip


def written_down(path: tuple[Heard, ...] = PATH, outcome: str | None = "handled") -> Engine:
    """A ledger that holds one call, which went along `path`."""
    engine = in_memory()
    with store.session(engine) as session:
        session.add(call())
        progress = Progress()
        for n, one in enumerate(path):
            was = progress
            progress, actions = step(was, one)
            names = " ".join(do.name for do in actions)
            session.add(
                models.Transition(
                    call_id=CALL, n=n, at=AT + n, state=was.state.name, heard=one.name, next=progress.state.name,
                    actions=names, agent=None,
                )
            )  # fmt: skip
        if outcome is not None:
            session.add(
                models.Ending(
                    call_id=CALL, at=AT + 100, outcome=outcome, hung_up_by="hotline", agent="601", answered_after_s=1.0,
                    wait_s=9.0, talk_s=30.0, after_closing_s=5.0,
                )
            )  # fmt: skip
    return engine


def tampered(engine: Engine, statement: str) -> None:
    """What somebody with the database's file can do: away with the triggers, then change what happened."""
    with store.session(engine) as session:
        for table in ("transitions", "endings"):
            for verb in ("update", "delete"):
                session.execute(text(f"DROP TRIGGER {table}_no_{verb}"))
        assert session.execute(text(statement)).rowcount


def replayed(engine: Engine) -> Progress:
    with store.session(engine) as session:
        return replay(session, CALL)


def test_a_call_replays_to_the_end_it_had():
    progress = replayed(written_down())
    assert progress.state is State.ENDED
    assert progress.verified


def test_a_call_in_progress_replays_as_far_as_it_is():
    assert replayed(written_down(PATH[:9], outcome=None)).state is State.WAITING


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("UPDATE transitions SET heard = 'IDENTITY_NOT_PROVEN' WHERE n = 5", 5),
        ("UPDATE transitions SET next = 'TALKING' WHERE n = 7", 7),
        ("UPDATE transitions SET state = 'CLOSING' WHERE n = 13", 13),
        ("UPDATE transitions SET actions = 'HANG_UP' WHERE n = 3", 3),
        ("UPDATE transitions SET actions = '' WHERE n = 13", 13),
        ("UPDATE transitions SET heard = 'NONSENSE' WHERE n = 2", 2),
        ("DELETE FROM transitions WHERE n = 0", 0),
        ("DELETE FROM transitions WHERE n = 9", 9),
        ("DELETE FROM transitions WHERE n = 13", 13),
    ],
)
def test_what_was_tampered_with_is_found_and_the_first_of_it_is_named(change, row):
    engine = written_down()
    tampered(engine, change)
    with pytest.raises(LedgerContradiction, match=rf"[Rr]ow {row} of call {CALL}"):
        replayed(engine)


def test_rows_cut_off_at_the_end_are_missed():
    engine = written_down()
    tampered(engine, "DELETE FROM transitions WHERE n >= 14")
    with pytest.raises(LedgerContradiction, match=f"Call {CALL} is closed, but its rows end in TALKING"):
        replayed(engine)


@pytest.mark.parametrize(("rows", "outcome"), [(8, "broken"), (0, "fallback")])
def test_a_call_that_the_sop_did_not_end_replays_without_a_contradiction(rows, outcome):
    """Broken inside us, or never in the controller's hands: the closing line says so, and no step is missing."""
    replayed(written_down(PATH[:rows], outcome=outcome))


def test_an_unknown_call_is_said_to_be_unknown():
    with store.session(in_memory()) as session, pytest.raises(SanlingError, match="sanling calls"):
        replay(session, "demo-0.0")


def test_the_timeline_tells_the_whole_call_in_order():
    engine = written_down()
    with store.session(engine) as session:
        for row in ROWS:
            if not isinstance(row, models.Call | models.Transition | models.Ending | models.AgentState):
                session.add(copy_of(row))
        lines = timeline(session, CALL)
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert {line.kind for line in lines} == {"step", "caller", "identity", "offer", "end", "recording", "hold", "sound"}
    steps = [line.text for line in lines if line.kind == "step"]
    assert len(steps) == len(PATH)
    assert steps[0] == "RINGING — RANG_ENOUGH → GREETING: answer, say_recording_notice, say_opening, listen"
    assert lines[-1].text == "handled, hung up by hotline; talk 30.0 s"
    told = "\n".join(line.text for line in lines)
    assert "heard opening, 2.0 s" in told
    assert "unverified, missing: case" in told
    assert "15400001001" not in told
