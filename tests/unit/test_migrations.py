"""A database of the first version, brought to this one with all it holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from ari_app import store
from ari_app.errors import StoreUnavailable
from ari_app.store import models


def test_rows_of_the_first_version_stay_and_stay_append_only(tmp_path: Path):
    engine = store.open_engine(f"sqlite:///{tmp_path / 'sanling.db'}")
    store.migrate(engine, "0001")
    with store.session(engine) as session:
        session.execute(
            text(
                "INSERT INTO agent_states (id, agent, at, was, now, reason) "
                "VALUES (7, '601', 1.5, 'idle', 'paused', 'paused')"
            )
        )
    with pytest.raises(StoreUnavailable, match="sanling setup"):
        store.check_version(engine)
    store.migrate(engine)
    store.check_version(engine)
    with store.session(engine) as session:
        session.add(
            models.AgentState(
                id=1_795_000_000_000 * 1_000_000, agent="601", at=2.5, was="paused", now="idle", reason="", call_id=None
            )
        )
    with store.session(engine) as session:
        rows = session.scalars(select(models.AgentState).order_by(models.AgentState.id)).all()
        assert [(row.id, row.at) for row in rows] == [(7, 1.5), (1_795_000_000_000_000_000, 2.5)]
    with pytest.raises(DBAPIError, match="append-only"), store.session(engine) as session:
        session.execute(text("DELETE FROM agent_states"))
    engine.dispose()


def test_a_database_of_a_newer_version_is_left_alone_and_says_what_to_do(tmp_path: Path):
    engine = store.open_engine(f"sqlite:///{tmp_path / 'sanling.db'}")
    store.migrate(engine)
    with store.transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for asked in (store.check_version, store.migrate):
        with pytest.raises(StoreUnavailable, match="start the version that made it"):
            asked(engine)
    with pytest.raises(StoreUnavailable, match="run `sanling setup`"):
        store.check_version(store.open_engine(f"sqlite:///{tmp_path / 'empty.db'}"))
    engine.dispose()


def test_what_only_a_set_up_or_another_database_needs_is_not_loaded():
    slow = "import sys, ari_app.cli; sys.exit(bool({'alembic', 'psycopg'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", slow], check=False, timeout=60).returncode == 0
