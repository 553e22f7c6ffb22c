"""The database: SQLite (WAL) by default, PostgreSQL by URL. Sessions are synchronous; the controller runs them in a
thread of its own (see ``ari_app.ledger``), the AGI server in its session's thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from ari_app.errors import StoreUnavailable

__all__ = ["check_version", "migrate", "open_engine", "session", "transaction"]


VERSION = "0004"
"""The newest migration, which `check_version` wants: alembic itself would take a fifth of a second to load."""
NEWER = "start the version that made it."
SQLITE_LOCK_S = 1.0
"""So long a statement waits for another's lock on the file."""
SQLITE_LOCK_SHORT_S = 0.5
"""The same for whoever is waited for: a controller that takes calls up tries once in vain while the file is locked."""


def open_engine(url: str, *, answer_within_s: float | None = None) -> Engine:
    """An engine for `url`. SQLite gets WAL, foreign keys and a short wait for a lock.

    With `answer_within_s` a PostgreSQL server that is frozen or behind a dead line is given up after that time, at each
    statement, by closing the connection; a lock on SQLite's file is waited for less long.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        if answer_within_s is None:
            return create_engine(parsed, pool_pre_ping=True)
        return _impatient(parsed, answer_within_s)
    if parsed.database in (None, "", ":memory:"):
        engine = create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        lock_s = SQLITE_LOCK_S if answer_within_s is None else SQLITE_LOCK_SHORT_S
        engine = create_engine(parsed, connect_args={"timeout": lock_s, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _impatient(url: URL, answer_within_s: float) -> Engine:
    import psycopg  # slow to load, and SQLite does without

    given = dict(url.query)
    limit = f"-c statement_timeout={round(answer_within_s * 1000)}"
    limits = {"connect_timeout": "2", **given, "options": f"{given.get('options', '')} {limit}".strip()}
    engine = create_engine(url.set(query=limits), pool_pre_ping=True)

    class Impatient(psycopg.Connection[Any]):
        """A frozen server's kernel goes on acknowledging, so no option of libpq's notices it: the wait itself ends."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            began = time.monotonic()
            try:
                return super().wait(gen, interval, answer_within_s)
            except psycopg.OperationalError:
                if time.monotonic() - began >= answer_within_s:
                    self.pgconn.finish()
                raise

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, arguments: Any, named: Any) -> psycopg.Connection[Any]:
        return Impatient.connect(*arguments, **named)

    return engine


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end of the block, or rolls back.

    Raises StoreUnavailable when the database is away.
    """
    with _told_apart(), Session(engine, expire_on_commit=False) as opened:
        yield opened
        opened.commit()


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """The same without a session, for statements that are made once: it takes less than half as long."""
    with _told_apart(), engine.begin() as connection:
        yield connection


@contextmanager
def _told_apart() -> Iterator[None]:
    """A database that is away from one that refuses."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, OperationalError | InterfaceError | InternalError) or error.connection_invalidated:
            raise StoreUnavailable(f"The database cannot be used: {error.orig}") from error
        raise


def migrate(engine: Engine, to: str = "head") -> None:
    """Brings the database to this version's tables, or up to an earlier one's; nothing is lost.

    Raises StoreUnavailable if the database is away, or was made by a newer version.
    """
    from alembic import command  # slow to load, and only a set-up needs it
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = engine
    try:
        command.upgrade(config, to)
    except DBAPIError as error:
        raise StoreUnavailable(f"The database cannot be used: {error.orig}") from error
    except CommandError as error:
        raise StoreUnavailable(f"The database was made by a newer version ({error}): {NEWER}") from error


def check_version(engine: Engine) -> None:
    """Raises StoreUnavailable if the tables are not those of this version, saying what to run."""
    try:
        with engine.connect() as connection:
            known = inspect(connection).has_table("alembic_version")
            current = connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None
    except DBAPIError as error:
        raise StoreUnavailable(f"The database cannot be used: {error.orig}") from error
    if current != VERSION:
        mend = NEWER if current is not None and current > VERSION else "run `sanling setup`."
        raise StoreUnavailable(f"The database is at version {current}, not {VERSION}: {mend}")
