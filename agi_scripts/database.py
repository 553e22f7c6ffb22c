"""The database as AGI scripts use it: only read, and only for as long as a caller can wait."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, event, make_url

from ari_app import store
from ari_app.settings import Settings


def open_reader(settings: Settings) -> Engine:
    """An engine that cannot write, and gives up on a lock, a statement or a connection after `agi_deadline_s`.

    The session is closed by then; this frees its thread.
    """
    milliseconds = max(1, round(settings.agi_deadline_s * 1000))
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite":
        url = url.update_query_dict({"options": "-c default_transaction_read_only=on"})
        return store.open_engine(url.render_as_string(hide_password=False), answer_within_s=settings.agi_deadline_s)
    if url.database and url.database != ":memory:":  # a missing file is an error here, not a new database
        url = url.set(database=f"file:{quote(url.database)}").update_query_dict({"mode": "rw", "uri": "true"})
    engine = store.open_engine(url.render_as_string(hide_password=False))

    @event.listens_for(engine, "connect")
    def _only_read(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={milliseconds}")
        cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    return engine
