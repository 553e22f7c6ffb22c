"""What a database that is away looks like, whatever the driver calls it."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError

from ari_app import store
from ari_app.errors import StoreUnavailable

GONE = sqlite3.Error("the server closed the connection")


def failing(error: DBAPIError) -> None:
    engine = store.open_engine("sqlite://")

    def fail(*_: object) -> None:
        raise error

    event.listen(engine, "before_cursor_execute", fail)
    try:
        with store.session(engine) as session:
            session.execute(text("SELECT 1"))
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "error",
    [
        InterfaceError("SELECT 1", {}, GONE),
        DBAPIError("SELECT 1", {}, GONE, connection_invalidated=True),
        DataError("SELECT 1", {}, GONE, connection_invalidated=True),
    ],
    ids=["interface", "invalidated", "invalidated-data"],
)
def test_a_database_that_is_away_is_unavailable(error):
    with pytest.raises(StoreUnavailable, match="the server closed the connection") as raised:
        failing(error)
    assert raised.value.__cause__ is error


def test_a_database_that_is_there_and_refuses_is_not_unavailable():
    with pytest.raises(DataError):
        failing(DataError("SELECT 1", {}, GONE))
