"""The database: SQLite (WAL) by default, PostgreSQL by URL. Sessions are synchronous; the controller runs them in a
thread of its own (see ``ari_app.ledger``), the AGI server in its session's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from ari_app.errors import StoreUnavailable

__all__ = ["check_version", "migrate", "open_engine", "session"]


def open_engine(url: str) -> Engine:
    """An engine for `url`. SQLite gets WAL, foreign keys and a 5 s wait for a lock."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database in (None, "", ":memory:"):
        engine = create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(parsed, connect_args={"timeout": 5.0, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end of the block, or rolls back.

    Raises StoreUnavailable when the database is away.
    """
    with Session(engine, expire_on_commit=False) as opened:
        try:
            yield opened
            opened.commit()
        except DBAPIError as error:
            if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
                raise StoreUnavailable(f"The database cannot be used: {error.orig}") from error
            raise


def _alembic(engine: Engine) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = engine
    return config


def migrate(engine: Engine) -> None:
    """Brings the database to this version's tables; nothing is lost."""
    try:
        command.upgrade(_alembic(engine), "head")
    except DBAPIError as error:
        raise StoreUnavailable(f"The database cannot be used: {error.orig}") from error


def check_version(engine: Engine) -> None:
    """Raises StoreUnavailable if the tables are not those of this version, saying what to run."""
    head = ScriptDirectory.from_config(_alembic(engine)).get_current_head()
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except DBAPIError as error:
        raise StoreUnavailable(f"The database cannot be used: {error.orig}") from error
    if current != head:
        raise StoreUnavailable(f"The database is at version {current}, not {head}: run `sanling setup`.")
