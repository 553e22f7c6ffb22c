"""A controller that writes rows until it is killed: ``ledger_killed.py DATABASE JOURNAL FIRST``.

After each ``write()`` that returned it says on its standard output, in four bytes, how many rows there are.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ari_app import store
from ari_app.ledger import Ledger
from tests.unit.test_ledger import call, prompt


async def write(database: str, journal: Path, first: int) -> None:
    ledger = Ledger(store.open_engine(database), journal=journal)
    if not first:
        ledger.write(call())
    n = first
    while True:
        for together in (1, 3, 1, 7):
            ledger.write(*(prompt(n + more) for more in range(together)))
            n += together
            os.write(1, n.to_bytes(4, "big"))
            await asyncio.sleep(0.0005 if n % 3 else 0)


asyncio.run(write(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
