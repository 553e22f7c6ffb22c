"""A database of the first version, brought to this one with all it holds."""

from __future__ import annotations

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
