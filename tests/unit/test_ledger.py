"""The ledger: nothing lost, nothing twice, nothing changed, and every call replayed as it went."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, event, func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.errors import LedgerContradiction, SanlingError, StoreUnavailable
from ari_app.flow.sop import Heard, Progress, State, step
from ari_app.ledger import RETRY_AFTER_S, InlineExecutor, Ledger, replay, timeline
from ari_app.store import models
from tests.unit.core_database import Outage, in_file, in_memory

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
    models.AgentState(agent="601", at=AT, was="idle", now="paused", reason="paused", call_id=None),
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
    Heard.CONTEXT_CAME, Heard.SAID_MILESTONE, Heard.PROMPT_ENDED, Heard.ANNOUNCEMENT_DUE, Heard.AGENT_RESERVED,
    Heard.AGENT_ANSWERED, Heard.WHISPER_ENDED, Heard.DISCLAIMER_ASKED, Heard.CLOSING_ASKED, Heard.PROMPT_ENDED,
    Heard.FIVE_SECONDS_PASSED,
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
    assert replayed(written_down(PATH[:8], outcome=None)).state is State.WAITING


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
    assert {line.kind for line in lines} == {"step", "caller", "identity", "offer", "end", "recording"}
    steps = [line.text for line in lines if line.kind == "step"]
    assert len(steps) == len(PATH)
    assert steps[0] == "RINGING — RANG_ENOUGH → GREETING: answer, say_recording_notice, say_opening, listen"
    assert lines[-1].text == "handled, hung up by hotline; talk 30.0 s"
    told = "\n".join(line.text for line in lines)
    assert "heard opening, 2.0 s" in told
    assert "unverified, missing: case" in told
    assert "15400001001" not in told
