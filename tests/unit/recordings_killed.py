"""Stores what lies in a spool, and is killed with SIGKILL just before its n-th change on disk.

``python -m tests.unit.recordings_killed HOME N TOLD``: the call ids and stores that were told are appended to TOLD.
The worker process imports this module too, so its changes count as well, in one count with ours.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from recordings.vault import Stored
from tests.unit.recordings_spool import Spool

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod", "os.truncate"}


def die_before_change(number: int, home: str, count_file: str) -> None:
    count = os.open(count_file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    parent = os.getppid() if __name__ != "__main__" else None
    one_at_a_time = threading.Lock()
    counting = threading.local()

    def watch(event: str, args: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if getattr(counting, "now", False) or not (event in CHANGES or writes) or not str(args[0]).startswith(home):
            return
        with one_at_a_time:
            counting.now = True
            os.write(count, f"{event} {args[0]}\n".encode())
            with open(count_file, "rb") as so_far:
                reached = len(so_far.read().splitlines()) == number
            counting.now = False
            if reached:
                if parent is not None:
                    os.kill(parent, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


async def store(spool: Spool, told: Path) -> None:
    async with spool.vault(None) as vault:
        with told.open("a") as ledger:
            async for item in vault.sweep():
                if isinstance(item, Stored):
                    ledger.write(f"{item.call_id} {item.store} {item.sha256}\n")
                    ledger.flush()


if len(sys.argv) == 4:
    home, number, told = sys.argv[1:]
    made = Spool(Path(home))
    die_before_change(int(number), home, f"{told}.changes")
    if __name__ == "__main__":
        asyncio.run(store(made, Path(told)))
