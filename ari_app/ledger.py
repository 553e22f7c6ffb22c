"""What happened, written down: append-only rows, from which every figure and the replay are derived.

One thread writes, so SQLite never sees two writers and the event loop never waits for a disk. ``write`` only enqueues;
rows of one step are committed together, in order. What cannot be written is kept and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Engine, select
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session, make_transient

from ari_app import store
from ari_app.errors import LedgerContradiction, SanlingError, StoreUnavailable
from ari_app.flow.sop import Heard, Progress, State, step
from ari_app.store.models import Call, Ending, Identity, OfferEvent, PromptHeard, Recording, Table, Transition

log = logging.getLogger("sanling.ledger")
T = TypeVar("T")

RETRY_AFTER_S = 1.0

logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its warnings quote refused rows: personal data
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


class Ledger:
    """The database as the controller uses it: rows to append, and questions to ask in order with them."""

    def __init__(
        self,
        engine: Engine,
        *,
        executor: Executor | None = None,
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._engine = engine
        self._thread = executor or ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._timed = timed
        self._rows: deque[Table] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    def write(self, *rows: Table) -> None:
        """Appends `rows`, soon."""
        self._rows.extend(rows)
        if (self._writer is None or self._writer.done()) and self._retry is None:
            self._writer = asyncio.get_running_loop().create_task(self._drain(), name="ledger")

    async def ask(self, question: Callable[[Session], T]) -> T:
        """The answer of `question` in a transaction of its own, after all rows written so far.

        Raises StoreUnavailable when the database is away.
        """
        await self.flush()
        return await self._run(lambda: self._in_session(question))

    async def close_calls_of_the_past(self, instance: str, now: float) -> None:
        """Writes the ending of every call of `instance` that an earlier controller did not live to close."""

        def unclosed(session: Session) -> list[str]:
            query = (
                select(Call.id)
                .outerjoin(Ending, Ending.call_id == Call.id)
                .where(Ending.call_id.is_(None), Call.id.startswith(f"{instance}-", autoescape=True))
            )
            return list(session.scalars(query))

        for call_id in await self.ask(unclosed):
            log.warning("call %s was cut off with an earlier controller", call_id)
            self.write(
                Ending(
                    call_id=call_id, at=now, outcome="broken", hung_up_by="hotline", agent=None,
                    answered_after_s=None, wait_s=0.0, talk_s=0.0, after_closing_s=None,
                )
            )  # fmt: skip

    async def flush(self) -> None:
        """Waits until what was written is committed, or was found impossible for now."""
        if self._writer is not None:
            await asyncio.shield(self._writer)

    async def close(self) -> None:
        self._stop_retrying()
        self.write()
        await self.flush()
        self._stop_retrying()
        if self._rows:
            log.critical("%d rows are lost: the database is away to the last", len(self._rows))
        self._thread.shutdown(wait=False)

    @property
    def waiting_rows(self) -> int:
        return len(self._rows)

    async def _drain(self) -> None:
        while self._rows:
            left = list(self._rows)
            taken = len(left)
            try:
                await self._run(partial(self._append, left))
            except StoreUnavailable as error:
                log.error("%d rows wait for the database: %s", len(left), error)
                self._retry = asyncio.get_running_loop().call_later(RETRY_AFTER_S, self._again)
                return
            finally:
                for _ in range(taken - len(left)):
                    self._rows.popleft()

    def _append(self, rows: list[Table]) -> None:
        """Takes out of `rows` what has been written."""
        try:
            self._in_session(lambda session: session.add_all(rows))
            rows.clear()
        except StatementError:  # the one bad row must not take its neighbours with it
            while rows:
                self._append_one(rows[0])
                del rows[0]

    def _append_one(self, row: Table) -> None:
        make_transient(row)
        try:
            self._in_session(lambda session: session.add(row))
        except StatementError as error:
            reason = str(error.orig).splitlines()[0]  # PostgreSQL goes on with the row itself: personal data
            log.error("A row of %s was refused: %s", row.__tablename__, reason)

    def _again(self) -> None:
        self._retry = None
        self.write()

    def _stop_retrying(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _in_session(self, work: Callable[[Session], T]) -> T:
        with self._timed(), store.session(self._engine) as session:
            return work(session)


# ---------------------------------------------------------------- reading it back


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
    return sorted(lines, key=lambda line: line.at)
