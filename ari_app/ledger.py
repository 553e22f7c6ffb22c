"""What happened, written down: append-only rows, from which every figure and the replay are derived.

``write`` puts rows into the local journal, at once; one thread takes them from there to the database, in order, in
batches, each exactly once: a batch's transaction also says how far the journal is applied. So SQLite never sees two
writers, the event loop never waits for the database, and rows outlive a process that is killed. Another thread only
reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update
from sqlalchemy.exc import NotSupportedError, ProgrammingError, StatementError
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.errors import LedgerContradiction, SanlingError, StoreUnavailable
from ari_app.flow.sop import Heard, Progress, State, step
from ari_app.journal import Journal, Record, Unfit, id_of, line_of, read, record_of
from ari_app.store import models
from ari_app.store.models import (
    Agent,
    AgentState,
    Call,
    Ending,
    Hold,
    Identity,
    OfferEvent,
    OutboundCall,
    PromptHeard,
    Recording,
    Table,
    TalkSound,
    Transition,
)

log = logging.getLogger("sanling.ledger")
T = TypeVar("T")

RETRY_AFTER_S = 1.0
ASK_WITHIN_S = 2.0
"""A question that is not answered in this time is given up, and takes no effect later."""
STARTS_WITHIN_S = 10.0
"""All questions of a start: of calls that are to be taken up nobody else can tell, and better late than never."""
BATCH_ROWS = 500
"""Rows of one transaction, at most."""
GATHERS_S = 0.5
"""Rows are in the journal at once, and in the database so much later unless somebody waits for them."""
FULL_AT = 0.9
WORTH_EMPTYING_BYTES = 1_000_000
"""A journal smaller than this is left as it is while rows still wait."""

logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings quote refused rows: personal data
OPEN_AT_MOST_S = 86_400.0
"""No call lasts so long. What an earlier controller left is younger than its newest call by less: the years before it
need not be read while callers wait.
"""
CUT_OFF = ("broken", "fallback")
"""Outcomes of calls that did not come to their end in the SOP."""


class InlineExecutor(Executor):
    """Runs each call at once, in the caller's thread: for tests in virtual time, where no thread may run beside."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class AgentChange:
    """An agent's change of state that the desk made while the database was away: what became of it, and its row."""

    id: int
    agent: str
    at: float
    was: str
    was_call: str | None
    now: str
    reason: str
    call_id: str | None
    wrap_up_until: float | None
    phone: str | None = None
    pause_code: str | None = None
    since: float | None = None
    """Since when the agent is `now`, if not since this change."""

    def noted(self) -> dict[str, Any]:
        """The values of its row in ``agent_states``."""
        return {
            "id": self.id, "agent": self.agent, "at": self.at, "was": self.was, "now": self.now, "reason": self.reason,
            "call_id": self.call_id, "phone": self.phone, "code": self.pause_code,
        }  # fmt: skip

    def row(self) -> AgentState:
        return AgentState(**self.noted())


class Ledger:
    """The database as the controller uses it: rows to append, and questions to ask in order with them.

    Without a `journal` folder what waits is kept in memory only. `journal_mb` bounds what waits, in either place.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        executor: Executor | None = None,
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
        journal: Path | None = None,
        journal_mb: float = 64.0,
    ) -> None:
        self._engine = engine
        self._thread = executor or ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._reader = executor or ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        """For questions that change nothing: they do not wait while the other finds the database locked."""
        self._timed = timed
        self._limit_bytes = int(journal_mb * 1_000_000)
        self._journal = Journal(journal, limit_bytes=self._limit_bytes) if journal is not None else None
        self._id = self._journal.id if self._journal is not None else secrets.token_hex(8)
        self._earlier = deque(self._journal.earlier if self._journal is not None else ())
        self._rows: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._last = 0
        self._last_change = 0
        """The number of the last row that changes an agent."""
        self._unsaved_from: int | None = None
        self._saving_again: asyncio.TimerHandle | None = None
        self._overflowing = False
        self._writer: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._away = False
        self._closed = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._gathering = False
        self._awaited = asyncio.Event()
        """Somebody waits for rows to be applied."""
        self._patient_until = 0.0
        self._watchers: list[Callable[[Table | AgentChange], None]] = []
        self.refused_rows = 0
        """Rows that are not written down: the database would not have them, or there was no room."""

    async def open(self) -> None:
        """Applies what earlier processes left in the journal. A database that can be read but takes no rows (SQLite
        locked, disk full) gets them later; `left_open` and `waiting` tell them meanwhile.

        Raises StoreUnavailable if it cannot be read either.
        """
        try:
            await self._all_applied()
        except StoreUnavailable:
            await self.look_up(lambda session: session.scalar(select(models.Journal.applied).limit(1)))

    # ------------------------------------------------------------ writing

    def write(self, *rows: Table | AgentChange) -> None:
        """Appends `rows`: in the journal when this returns, in the database soon."""
        lines: list[bytes] = []
        for row in rows:
            for watcher in self._watchers:
                watcher(row)
            record = _record(self._last + 1, row)
            try:
                line = line_of(record)
            except Unfit as error:
                self._refuse(record, str(error))
                continue
            if self._bytes + len(line) > self._limit_bytes:
                self._overflow()
                continue
            self._last += 1
            if isinstance(row, AgentChange):
                self._last_change = self._last
            self._bytes += len(line)
            self._rows.append((self._last, line))
            lines.append(line)
        if lines and self._unsaved_from is None:
            self._save(self._last - len(lines) + 1, lines)
        elif self._saving_again is None:
            self._save_the_rest()
        self._wake()

    def watch(self, watcher: Callable[[Table | AgentChange], None]) -> None:
        """From now on `watcher` hears of each row as it is written; at once, so it must not wait."""
        self._watchers.append(watcher)

    @property
    def waiting_rows(self) -> int:
        return len(self._rows)

    @property
    def overdue_rows(self) -> int:
        """Of these, those that wait for the database, and not just for others to share a transaction with."""
        return 0 if self._gathering else len(self._rows)

    @property
    def away(self) -> bool:
        """The database takes no rows."""
        return self._away

    @property
    def full(self) -> bool:
        """There is room for the calls in progress, but for no new ones."""
        return self._bytes >= FULL_AT * self._limit_bytes

    def _save(self, first: int, lines: list[bytes]) -> None:
        """Journals the last rows, from number `first` on; what cannot be is kept in memory and tried again."""
        if self._journal is None:
            return
        try:
            if self._journal.size + sum(map(len, lines)) > self._limit_bytes:
                self._journal.keep_only(line for n, line in self._rows if n < first)
            self._journal.append(lines)
        except OSError as error:
            if self._unsaved_from is None:
                log.critical("The journal cannot be written (%s): rows are kept in memory", error.strerror)
            self._unsaved_from = first
            if not self._closed:
                self._saving_again = asyncio.get_running_loop().call_later(RETRY_AFTER_S, self._save_the_rest)
        else:
            if self._unsaved_from is not None:
                log.warning("The journal can be written again")
            self._unsaved_from = None

    def _save_the_rest(self) -> None:
        first, self._saving_again = self._unsaved_from, None
        if first is not None and (lines := [line for n, line in self._rows if n >= first]):
            self._save(first, lines)

    def _overflow(self) -> None:
        self.refused_rows += 1
        if not self._overflowing:
            self._overflowing = True
            log.critical("No more rows can wait for the database: they are refused until it takes some")

    # ------------------------------------------------------------ asking

    async def ask(self, question: Callable[[Session], T]) -> T:
        """The answer of `question` in a transaction of its own, after all rows written so far.

        Raises StoreUnavailable when the database is away, after at most ASK_WITHIN_S. Nothing is changed then, unless
        the commit itself was under way: what a question changes must be recognisable when it is entered again.
        """
        return await self._ask(self._in_a_session(question), self._thread, after_rows=True)

    async def change(self, change: Callable[[Connection], T]) -> T:
        """Like `ask`, but rows that nobody waits for may be entered after it: only changes of agents go first.

        For one change of an agent's state, which no other row tells of.
        """
        changes_wait = bool(self._rows) and self._rows[0][0] <= self._last_change
        after_rows = changes_wait or self._retry is not None or self._away

        def answer(go_on: Callable[[], None]) -> T:
            with self._timed(), store.transaction(self._engine) as connection:
                go_on()
                found = change(connection)
                go_on()
                return found

        return await self._ask(answer, self._thread, after_rows=after_rows)

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """The questions of this block may take STARTS_WITHIN_S together: calls may leave them little processor."""
        self._patient_until = asyncio.get_running_loop().time() + STARTS_WITHIN_S
        try:
            yield
        finally:
            self._patient_until = 0.0

    async def look_up(self, question: Callable[[Session], T]) -> T:
        """Like `ask`, but even while rows wait or cannot be entered: for what no row of the ledger tells, such as cases
        and PINs. It must not change anything.
        """
        return await self._ask(self._in_a_session(question), self._reader, after_rows=False)

    def _in_a_session(self, question: Callable[[Session], T]) -> Callable[[Callable[[], None]], T]:
        def answer(go_on: Callable[[], None]) -> T:
            with self._timed(), store.session(self._engine) as session:
                go_on()
                found = question(session)
                session.flush()
                go_on()
                return found

        return answer

    async def _ask(self, answer: Callable[[Callable[[], None]], T], thread: Executor, *, after_rows: bool) -> T:
        """`answer` is told what to call before it takes effect: it raises StoreUnavailable if nobody waits any more."""
        given_up = threading.Event()
        within_s = max(ASK_WITHIN_S, self._patient_until - asyncio.get_running_loop().time())
        go_on = partial(_go_on_unless, given_up)
        try:
            async with asyncio.timeout(within_s):
                if after_rows:
                    await self._all_applied()
                return await asyncio.get_running_loop().run_in_executor(thread, answer, go_on)
        except TimeoutError:
            raise StoreUnavailable(f"The database did not answer in {within_s:.3g} s.") from None
        finally:
            given_up.set()

    def waiting(self) -> list[Table | AgentChange]:
        """What is journalled, here or by an earlier process, and perhaps not in the database; in order."""
        records: list[Record | None] = []
        for file in list(self._earlier):
            with contextlib.suppress(FileNotFoundError):  # applied in this moment
                records += [record for _, record in read(file)]
        records += [record_of(line) for _, line in self._rows]
        return [_row(record) for record in records if record is not None]

    async def flush(self) -> None:
        """Waits until what was written is committed, or was found impossible for now."""
        with contextlib.suppress(StoreUnavailable):
            await self._all_applied()

    async def close(self) -> None:
        """Applies what can be applied; the rest waits in the journal for the next start."""
        self._stop_trying()
        self._wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_WITHIN_S):
                await self.flush()
        self._closed = True
        self._stop_trying()
        if self._writer is not None:
            self._writer.cancel()
        self._save_the_rest()
        if self._rows:
            lost = [n for n, _ in self._rows if self._journal is None or n >= (self._unsaved_from or n + 1)]
            if lost:
                log.critical("%d rows are lost: the database is away to the last", len(lost))
            if kept := len(self._rows) - len(lost):
                log.warning("%d rows wait in the journal for the next start", kept)
        forgotten = not self._rows and not self._away and await self._is_forgotten()
        if self._journal is not None:
            self._journal.close(needed=not forgotten)
        self._thread.shutdown(wait=False)
        self._reader.shutdown(wait=False)

    async def _is_forgotten(self) -> bool:
        """Takes the journal, all of which is applied, out of the database; False if it still has to be kept."""
        if self._journal is not None and self._journal.size:
            return False
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                await self._run(partial(self._forget, self._id))
        except (StoreUnavailable, TimeoutError):
            return False
        return True

    # ------------------------------------------------------------ how far the database is

    def _wake(self) -> None:
        work = self._rows or self._earlier
        if work and self._retry is None and not self._closed and (self._writer is None or self._writer.done()):
            self._writer = asyncio.get_running_loop().create_task(self._drain(), name="ledger")

    async def _all_applied(self) -> None:
        """Waits for the rows written so far. Raises StoreUnavailable, at once if the database is known to be away."""
        self._wake()
        if self._retry is not None:
            raise StoreUnavailable(f"The database is away; {len(self._rows)} rows wait for it.")
        if self._writer is not None and not self._writer.done():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((self._last, waiter))
            self._awaited.set()
            await waiter

    async def _drain(self) -> None:
        try:
            while self._earlier:
                await self._run(partial(self._apply_file, self._earlier[0]))
                self._earlier.popleft()
            while self._rows:
                await self._gather()
                batch = list(islice(self._rows, BATCH_ROWS))
                records = filter(None, (record_of(line) for _, line in batch))
                await self._run(partial(self._apply, self._id, list(records)))
                self._are_applied(len(batch))
                self._tell()
            self._tell()
        except StoreUnavailable as error:
            self._is_away(error)
        except Exception as error:
            log.exception("The ledger cannot write; it tries again")
            self._is_away(StoreUnavailable(f"The ledger cannot write: {type(error).__name__}."))

    async def _gather(self) -> None:
        """A transaction costs more than its rows: those of the next moment go along, unless somebody waits."""
        if not (self._waiters or self._away) and len(self._rows) < BATCH_ROWS:
            self._gathering = True
            try:
                async with asyncio.timeout(GATHERS_S):
                    await self._awaited.wait()
            except TimeoutError:
                pass
            finally:
                self._gathering = False
        self._awaited.clear()

    def _are_applied(self, count: int) -> None:
        for _ in range(count):
            self._bytes -= len(self._rows.popleft()[1])
        if self._away:
            log.warning("The database takes rows again; %d wait", len(self._rows))
        if self._overflowing and not self.full:
            log.warning("Rows can wait for the database again; %d were refused", self.refused_rows)
            self._overflowing = False
        self._away = False
        if self._unsaved_from is not None and (not self._rows or self._rows[0][0] > self._unsaved_from):
            self._unsaved_from = self._rows[0][0] if self._rows else self._last + 1
        self._keep_small()

    def _keep_small(self) -> None:
        """Empties the journal of what is applied, when there is much of it or nothing else."""
        if self._journal is None or not self._journal.size:
            return
        if not self._rows or self._journal.size > max(WORTH_EMPTYING_BYTES, 4 * self._bytes):
            needed = (line for n, line in self._rows if self._unsaved_from is None or n < self._unsaved_from)
            with contextlib.suppress(OSError):  # as long as it fails, the file is larger than it need be
                self._journal.keep_only(needed)

    def _is_away(self, error: StoreUnavailable) -> None:
        if not self._away:
            log.error("%d rows wait for the database: %s", len(self._rows), error)
        self._away = True
        self._retry = asyncio.get_running_loop().call_later(RETRY_AFTER_S, self._try_again)
        self._tell(error)

    def _try_again(self) -> None:
        self._retry = None
        self._wake()

    def _stop_trying(self) -> None:
        for timer in (self._retry, self._saving_again):
            if timer is not None:
                timer.cancel()
        self._retry = self._saving_again = None

    def _tell(self, error: StoreUnavailable | None = None) -> None:
        """Those who wait hear that their rows are applied, or that they cannot be."""
        first = self._rows[0][0] if self._rows else self._last + 1
        for last, waiter in self._waiters:
            if waiter.done():
                continue
            if error is not None:
                waiter.set_exception(StoreUnavailable(str(error)))
            elif last < first:
                waiter.set_result(None)
        self._waiters = [(last, waiter) for last, waiter in self._waiters if not waiter.done()]

    # ------------------------------------------------------------ in the thread

    def _apply_file(self, file: Path) -> None:
        """Applies an earlier process's journal, then removes it."""
        name, damaged, applied = id_of(file), 0, 0
        try:
            lines = read(file)
            while batch := list(islice(lines, BATCH_ROWS)):
                records = [record for _, record in batch if record is not None]
                if records:
                    self._apply(name, records)
                applied += len(records)
                damaged += len(batch) - len(records)
            if damaged:
                self.refused_rows += damaged
                log.critical("%d lines of journal %s cannot be read; it is kept as .damaged", damaged, name)
                file.rename(file.with_suffix(".damaged"))
                self._forget(name)
            else:
                os.truncate(file, 0)  # only then may the database forget how far it was applied
                self._forget(name)
                file.unlink()
        except OSError as error:
            raise StoreUnavailable(f"The journal {file} cannot be read: {error.strerror}.") from error
        if applied:
            log.warning("%d rows that an earlier run left in the journal are in the database", applied)

    def _apply(self, name: str, records: list[Record]) -> None:
        """Enters `records` of journal `name`, each once whatever became of an attempt before.

        Raises StoreUnavailable; what was entered until then is known to the database.
        """
        try:
            self._enter(name, records)
        except StoreUnavailable:
            raise
        except Exception:  # the one bad row must not take its neighbours with it
            for record in records:
                self._apply_one(name, record)

    def _apply_one(self, name: str, record: Record) -> None:
        try:
            self._enter(name, [record])
        except (ProgrammingError, NotSupportedError) as error:  # a right that is missing, say: not the row's fault
            raise StoreUnavailable(f"The database cannot be used: {_first_line(error)}") from error
        except StatementError as error:
            self._refuse(record, _first_line(error))
        except (OverflowError, ValueError, TypeError) as error:
            self._refuse(record, type(error).__name__)
        else:
            return
        with self._timed(), store.transaction(self._engine) as connection:
            _advance(connection, name, record.n)

    def _enter(self, name: str, records: list[Record]) -> None:
        with self._timed(), store.transaction(self._engine) as connection:
            applied = _advance(connection, name, records[-1].n)
            fresh = (record for record in records if record.n > applied)
            for (kind, _names), alike in groupby(fresh, lambda record: (record.kind, tuple(record.values))):
                if kind == AGENT_CHANGE:
                    with Session(connection) as session:
                        for record in alike:
                            _enter_change(session, AgentChange(**record.values))
                        session.flush()
                else:
                    connection.execute(_INSERTS[kind], [record.values for record in alike])

    def _refuse(self, record: Record, reason: str) -> None:
        self.refused_rows += 1
        kept = self._journal is not None and self._journal.set_aside(record, reason)
        log.error("A row of %s was refused%s: %s", record.kind, " and set aside" if kept else "", reason)

    def _forget(self, name: str) -> None:
        """Nothing will be applied from journal `name` any more."""
        with self._timed(), store.transaction(self._engine) as connection:
            connection.execute(delete(_JOURNALS).where(_JOURNALS.c.id == name))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


AGENT_CHANGE = "agent change"
_JOURNALS: Any = models.Journal.__table__
_HOW_FAR = select(_JOURNALS.c.applied).where(_JOURNALS.c.id == bindparam("journal")).with_for_update()
_SO_FAR = update(_JOURNALS).where(_JOURNALS.c.id == bindparam("journal")).values(applied=bindparam("n"))
_FIRST = insert(_JOURNALS)
_TABLES: dict[str, Any] = {table.__tablename__: table.__table__ for table in models.LEDGER}
_INSERTS: dict[str, Any] = {name: insert(table) for name, table in _TABLES.items()}
"""Made once: to make a statement takes longer than to execute it."""
_MODELS: dict[str, Any] = {table.__tablename__: table for table in models.LEDGER}


@cache
def _columns(table: type[Table]) -> tuple[str, ...]:
    return tuple(column.key for column in table.__table__.columns)


def _record(n: int, row: Table | AgentChange) -> Record:
    if isinstance(row, AgentChange):
        return Record(n, AGENT_CHANGE, asdict(row))
    values = {name: getattr(row, name) for name in _columns(type(row))}
    if values.get("id", "") is None:  # numbered by the database
        del values["id"]
    return Record(n, row.__tablename__, values)


def _row(record: Record) -> Table | AgentChange:
    if record.kind == AGENT_CHANGE:
        return AgentChange(**record.values)
    row: Table = _MODELS[record.kind](**record.values)
    return row


def _go_on_unless(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise StoreUnavailable("The question was given up.")


def _first_line(error: StatementError) -> str:
    """Why, without the row: PostgreSQL goes on with its values, which are personal data."""
    return str(error.orig).partition("\n")[0]


def _advance(connection: Connection, name: str, n: int) -> int:
    """Says that journal `name` is applied up to `n` as soon as this transaction is; how far it was before."""
    applied: int | None = connection.scalar(_HOW_FAR, {"journal": name})
    if applied is None:
        connection.execute(_FIRST, {"id": name, "applied": n})
    elif applied < n:
        connection.execute(_SO_FAR, {"journal": name, "n": n})
    return applied or 0


def _enter_change(session: Session, change: AgentChange) -> None:
    """What the desk did while the database was away, unless it is there; the desk's word counts."""
    agent = session.get(Agent, change.agent, with_for_update=True)
    if session.get(AgentState, change.id) is not None:
        return
    session.add(change.row())
    if agent is None:
        return
    if (agent.state, agent.call_id) != (change.was, change.was_call):
        log.warning("agent %s was made %s meanwhile; %s counts", agent.number, agent.state, change.now)
    if change.call_id is not None:
        others = update(Agent).where(Agent.call_id == change.call_id, Agent.number != change.agent)
        session.execute(others.values(call_id=None, state="idle"))
    if change.phone is not None:
        others = update(Agent).where(Agent.phone == change.phone, Agent.number != change.agent)
        session.execute(others.values(phone=None, pause_code=None, call_id=None, state="signed_out"))
    agent.state, agent.state_since = change.now, change.since or change.at
    agent.call_id, agent.wrap_up_until = change.call_id, change.wrap_up_until
    agent.phone, agent.pause_code = change.phone, change.pause_code
    session.flush()


# ---------------------------------------------------------------- reading it back


@dataclass
class Past:
    """A call that is not closed, as its rows tell it."""

    call: Call
    transitions: list[Transition] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    offers: list[OfferEvent] = field(default_factory=list)
    prompts_heard: int = 0
    outbound: OutboundCall | None = None
    """What it is for, if we placed it."""


def left_open(session: Session, instance: str, waiting: Iterable[Table] = ()) -> list[Past]:
    """The calls of `instance` that have no ending yet: an earlier controller did not live to close them.

    `waiting`: rows that are in a journal and perhaps not in the database.
    """
    ours = Call.id.startswith(f"{instance}-", autoescape=True)
    newest = select(Call.at).where(ours).order_by(Call.at.desc()).limit(1).scalar_subquery()
    unclosed = (
        select(Call)
        .outerjoin(Ending, Ending.call_id == Call.id)
        .where(Ending.call_id.is_(None), ours, Call.at >= newest - OPEN_AT_MOST_S)
    )
    calls = {call.id: call for call in session.scalars(unclosed)}
    more: dict[type[Table], dict[Any, Any]] = {}
    for row in waiting:
        more.setdefault(type(row), {})[_key(row)] = row
    calls |= {call.id: call for call in more.get(Call, {}).values()}
    for ending in more.get(Ending, {}).values():
        calls.pop(ending.call_id, None)

    pasts = {call.id: Past(call) for call in sorted(calls.values(), key=lambda call: call.at)}

    def rows(model: Any) -> Iterable[Any]:
        found = {_key(row): row for row in session.scalars(select(model).where(model.call_id.in_(pasts)))}
        found |= {key: row for key, row in more.get(model, {}).items() if row.call_id in pasts}
        return found.values()

    for step_row in sorted(rows(Transition), key=lambda row: int(row.n)):
        pasts[step_row.call_id].transitions.append(step_row)
    for check in sorted(rows(Identity), key=lambda row: int(row.n)):
        pasts[check.call_id].identities.append(check)
    for event in sorted(rows(OfferEvent), key=lambda row: (row.at, row.n)):
        pasts[event.call_id].offers.append(event)
    for heard in rows(PromptHeard):
        pasts[heard.call_id].prompts_heard += 1
    for errand in rows(OutboundCall):
        pasts[errand.call_id].outbound = errand
    return list(pasts.values())


def _key(row: Table) -> tuple[Any, ...]:
    return tuple(getattr(row, column.key) for column in row.__table__.primary_key)


@dataclass(frozen=True)
class Line:
    """One line of a call's timeline, of whatever kind."""

    at: float
    kind: str
    text: str


def replay(session: Session, call_id: str) -> Progress:
    """Runs the recorded events of `call_id` through ``step()``.

    Raises LedgerContradiction at the first row that ``step()`` would not have written, and SanlingError for a call
    that is not in the ledger.
    """
    rows = session.scalars(select(Transition).where(Transition.call_id == call_id).order_by(Transition.n)).all()
    if not rows and session.get(Call, call_id) is None:
        raise SanlingError(f"There is no call {call_id} in the ledger; `sanling calls` lists them.")
    progress = Progress()
    for n, row in enumerate(rows):
        if row.n != n:
            raise LedgerContradiction(f"Row {n} of call {call_id} is missing.")
        if row.heard not in Heard.__members__:
            raise LedgerContradiction(f"Row {n} of call {call_id}: the table does not know {row.heard}.")
        was = progress.state
        progress, actions = step(progress, Heard[row.heard])
        wanted = (was.name, progress.state.name, " ".join(do.name for do in actions))
        if wanted != (row.state, row.next, row.actions):
            raise LedgerContradiction(
                f"Row {row.n} of call {call_id}: {row.state} heard {row.heard} and is recorded as "
                f"{row.next} ({row.actions}); the table says {wanted[1]} ({wanted[2]}) from {wanted[0]}."
            )
    ending = session.get(Ending, call_id)
    if ending is not None and ending.outcome not in CUT_OFF and progress.state is not State.ENDED:
        raise LedgerContradiction(f"Call {call_id} is closed, but its rows end in {progress.state.name}.")
    return progress


def timeline(session: Session, call_id: str) -> list[Line]:
    """Everything the ledger holds of `call_id`, in order of time."""
    lines: list[Line] = []

    def rows(model: type[Any]) -> Iterable[Any]:
        return session.scalars(select(model).where(model.call_id == call_id))

    for t in rows(Transition):
        actions = t.actions.replace(" ", ", ").lower() or "nothing"
        lines.append(Line(t.at, "step", f"{t.state} — {t.heard} → {t.next}: {actions}"))
    for p in rows(PromptHeard):
        cut = "" if p.whole else " (cut off)"
        lines.append(Line(p.at, p.side, f"heard {p.prompt}, {p.seconds:.1f} s{cut}"))
    for i in rows(Identity):
        verdict = "verified" if i.verified else f"unverified, missing: {i.missing}"
        lines.append(Line(i.at, "identity", f"{i.role} {verdict}"))
    for o in rows(OfferEvent):
        lines.append(Line(o.at, "offer", f"{o.n} to agent {o.agent}: {o.event}"))
    for e in rows(Ending):
        lines.append(Line(e.at, "end", f"{e.outcome}, hung up by {e.hung_up_by}; talk {e.talk_s:.1f} s"))
    for r in rows(Recording):
        lines.append(Line(r.at, "recording", f"{r.store}: {r.path} ({r.seconds:.1f} s, sha256 {r.sha256[:12]}…)"))
    for h in rows(Hold):
        lines.append(Line(h.at, "hold", f"{_who(h.who)} {'holds' if h.began else 'is back'}"))
    for s in rows(TalkSound):
        lines.append(Line(s.at, "sound", f"talk with agent {s.agent}: {_heard(s)}"))
    return sorted(lines, key=lambda line: line.at)


def _who(name: str) -> str:
    return name if name == "caller" else f"agent {name}"


def _heard(sound: TalkSound) -> str:
    if sound.agent_db is None:
        return f"not judged, {sound.seconds:.0f} s"
    levels = [("caller", sound.caller_db), ("agent", sound.agent_db)]
    told = ", ".join(f"{who} {level:.0f} dB" for who, level in levels if level is not None)
    return f"{told} in {sound.seconds:.0f} s" + (f"; not heard: {sound.unheard}" if sound.unheard else "")
