"""The sweep of the recordings runs beside the calls, and nothing that it finds ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from ari_app.__main__ import SALVAGE_EVERY_S, SWEEP_EVERY_S, Pending, keep_recordings
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.store import models
from metrics.hotline import HotlineMetrics
from recordings.vault import Backlog, Space, Stored
from tests.unit.core_database import in_memory
from tests.unit.recordings_spool import BEGAN, Spool


class House:
    """What the sweep needs of a hotline without calls."""

    def __init__(self) -> None:
        self.client = SimpleNamespace(channels=SimpleNamespace(list=self._nobody))
        self.metrics = HotlineMetrics(CollectorRegistry())
        self.clock = time.time
        self._engine = in_memory()
        self.ledger = Ledger(self._engine, executor=InlineExecutor())

    async def __aenter__(self) -> House:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ledger.close()
        self._engine.dispose()

    async def _nobody(self) -> tuple[()]:
        return ()

    async def stored(self) -> set[tuple[str, str]]:
        rows = await self.ledger.ask(lambda s: s.execute(select(models.Recording.call_id, models.Recording.store)))
        return {(row.call_id, row.store) for row in rows}

    async def began(self, call_id: str) -> float:
        at = await self.ledger.ask(lambda s: s.scalar(select(models.Call.at).where(models.Call.id == call_id)))
        assert at is not None
        return at


@pytest.fixture
def house() -> House:
    return House()


async def while_it_sweeps(house: House, vault: Any, body: Callable[[Pending], Any]) -> None:
    pending = Pending()
    sweeping = asyncio.get_running_loop().create_task(keep_recordings(house, vault, pending))  # type: ignore[arg-type]
    try:
        await body(pending)
        if sweeping.done():
            await sweeping
        assert not sweeping.done()
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


class BrokenOnce:
    """A vault whose first sweep, or first count, fails in a way that nobody foresaw."""

    def __init__(self, breaks: str) -> None:
        self._breaks = breaks
        self.sweeps = 0

    async def sweep(self, live: Collection[str] | None) -> AsyncIterator[Stored]:
        self.sweeps += 1
        if self.sweeps == 1 and self._breaks == "sweep":
            raise OSError("the disk is gone")
        yield Stored(f"demo-{BEGAN}.{self.sweeps}", "local", "/somewhere", "0" * 64, 1.0, 2, 100)

    async def backlog(self, live: Collection[str] | None) -> Backlog:
        if self.sweeps == 1 and self._breaks == "backlog":
            raise ValueError("no number")
        return Backlog(3, 0, 0.0)

    async def space(self) -> tuple[Space, ...]:
        return (Space("spool", 7_000_000_000, True),)


@pytest.mark.parametrize("breaks", ["sweep", "backlog"])
async def test_a_sweep_that_breaks_is_followed_by_another(house, breaks, caplog):
    vault = BrokenOnce(breaks)

    async def another(pending: Pending) -> None:
        await asyncio.sleep(SALVAGE_EVERY_S + 3 * SWEEP_EVERY_S)
        assert pending.count == 3

    with caplog.at_level(logging.ERROR, "sanling"):
        await while_it_sweeps(house, vault, another)
    assert vault.sweeps >= 2
    assert (f"demo-{BEGAN}.2", "local") in await house.stored()
    assert "the recordings' sweep failed" in caplog.text
    assert house.metrics.registry.get_sample_value("sanling_disk_free_bytes", {"place": "spool"}) == 7_000_000_000


@pytest.mark.real_time
async def test_a_file_of_no_call_is_kept_like_a_call_and_the_calls_beside_it_are_too(house, tmp_path):
    spool = Spool(tmp_path)
    (spool.folder / "x.done").touch()
    call = spool.ended_call()
    expected = {(id, store) for id in ("x", call) for store in ("local", "second")}

    async def both(_: Pending) -> None:
        for _ in range(400):
            if await house.stored() == expected:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"stored {await house.stored()} only")

    async with spool.vault(None) as vault:
        await while_it_sweeps(house, vault, both)
    assert await house.began(call) == BEGAN
    assert await house.began("x") == pytest.approx(time.time(), abs=60)
