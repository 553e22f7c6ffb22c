"""Founding a hotline: all that must be there before its first process starts."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

from ari_app import sample, staff, store
from ari_app.doctor import second_store
from ari_app.instance import Instance
from ari_app.prompts import Catalogue
from ari_app.settings import PROJECT, Settings
from recordings.stores import FolderStore


def prepare(settings: Settings, say: Callable[[str], None], new_stores: bool = False) -> Instance:
    """Everything before the first process is started. Idempotent.

    The invented sample data goes into the built-in SQLite database only: its people could prove an identity.
    `new_stores`: also make stores of folders outside the run-time folder. Only by hand: the empty mount point of a
    disk that is away must not become one. Raises SanlingError with what to do.
    """
    Catalogue.load(settings.prompts)
    instance = Instance(settings, progress=lambda line: say(f"  {line}"))
    version = instance.asterisk_version
    say(f"Asterisk {version} {'of the system' if instance.asterisk.root is None else 'in its private root'}")
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = store.open_engine(settings.database)
    try:
        store.migrate(engine)
        with store.session(engine) as session:
            new = sample.fill(session) if not settings.database_url else []
            instance.prepare(staff.accounts(session))
            hand_out(settings, new)  # last: were anything above to fail, these agents would not exist
    finally:
        engine.dispose()
    say(f"database ready{f', sample data entered, {len(new)} agents' if new else ''}")
    for kept in (FolderStore(settings.local_store, "local"), second_store(settings)):
        if isinstance(kept, FolderStore) and (new_stores or kept.root.is_relative_to(settings.run_dir)):
            kept.prepare()
    say(f"run-time folder {shown(settings.run_dir)}")
    return instance


def hand_out(settings: Settings, new: list[staff.Access]) -> None:
    """Passwords and PINs of new agents, in the one place where they can be read: agents.csv, for the owner only."""
    if new:
        _write_access(settings, {a.number for a in new}, [[a.number, a.name, a.password, a.pin] for a in new])


def take_back(settings: Settings, number: str) -> None:
    """What agents.csv has of an agent is no longer true."""
    if access_file(settings).exists():
        _write_access(settings, {number}, [])


def _write_access(settings: Settings, instead_of: set[str], rows: list[list[str]]) -> None:
    file = access_file(settings)
    kept: list[list[str]] = []
    if file.exists():
        with file.open(encoding="utf-8", newline="") as opened:
            kept = [row for row in list(csv.reader(opened))[1:] if row and row[0] not in instead_of]
    new = file.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(("number", "name", "password", "pin"))
        writer.writerows(kept + rows)
    new.replace(file)


def access_file(settings: Settings) -> Path:
    return settings.run_dir / "agents.csv"


def shown(path: Path) -> str:
    """`path` as a user types it from the project's folder."""
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)
