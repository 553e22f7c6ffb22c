"""Databases for tests: migrated once, then copied."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from ari_app import store


@functools.cache
def _migrated() -> sqlite3.Connection:
    engine = store.open_engine("sqlite://")
    store.migrate(engine)
    template = sqlite3.connect(":memory:", check_same_thread=False)
    _connection(engine).backup(template)
    engine.dispose()
    return template


def _connection(engine: Engine) -> sqlite3.Connection:
    with engine.connect() as connection:
        found: Any = connection.connection.driver_connection
        return found


def in_memory() -> Engine:
    """A new empty database in memory, with this version's tables and triggers."""
    engine = store.open_engine("sqlite://")
    _migrated().backup(_connection(engine))
    return engine


def in_file(path: Path) -> Engine:
    """The same in a file; it does not wait for another's lock, so that tests need not either."""
    file = sqlite3.connect(path)
    _migrated().backup(file)
    file.execute("PRAGMA journal_mode=WAL")
    file.close()
    engine = store.open_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=0"))
    return engine


class Outage:
    """A database that can go away: every statement fails as it does when the server is gone or the file is locked."""

    def __init__(self, engine: Engine) -> None:
        self.away = False
        self.error: Callable[[str, Any], DBAPIError] = _away
        event.listen(engine, "before_cursor_execute", self._before)

    def _before(self, _c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if self.away:
            raise self.error(statement, parameters)


def _away(statement: str, parameters: Any) -> DBAPIError:
    return OperationalError(statement, parameters, sqlite3.OperationalError("the database is away"))


class LostAnswers:
    """Commits whose answer does not arrive: the database has the rows, its user hears that it is away."""

    def __init__(self, engine: Engine) -> None:
        self.losing = False
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            commit(connection)
            if self.losing:
                raise OperationalError("COMMIT", {}, sqlite3.OperationalError("the line was cut"))

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]
