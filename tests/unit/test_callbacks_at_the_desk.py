"""A callback's seat at the desk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC

from prometheus_client import CollectorRegistry

from ari_app.callbacks import SEAT_EVERY_S, Callbacks, Seat
from ari_app.desk import Desk, Reserved
from ari_app.flow.duty import Duty
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.settings import Queue
from ari_app.store import models
from metrics.hotline import HotlineMetrics
from tests.unit.test_desk import BEGAN, settled, staffed


def clock() -> float:
    return BEGAN + asyncio.get_running_loop().time()


@asynccontextmanager
async def desk_and_callbacks(*agents: str) -> AsyncIterator[tuple[Desk, Callbacks]]:
    """With these agents, all idle; nobody is called back before ``go()``."""
    engine = staffed(*agents, duty=Duty.IDLE)
    ledger = Ledger(engine, executor=InlineExecutor())
    desk = Desk(ledger, Queue(), clock)
    callbacks = Callbacks(ledger, desk, HotlineMetrics(CollectorRegistry()), clock, UTC, "demo")
    await desk.open()
    await callbacks.open(set())
    yield desk, callbacks
    desk.close()
    await ledger.close()
    engine.dispose()


async def test_an_agent_for_a_seat_that_was_left_goes_to_the_later_seat_of_the_same_person():
    async with desk_and_callbacks("601") as (desk, callbacks):
        placed: list[models.OutboundCall] = []
        left = Seat(callbacks, "demo-1.1", "demo-out_1.001")
        assert await desk.take("601", left.call_id)
        callbacks.asked(models.Callback(id="demo-1.1", at=clock(), number="15400001234", reason="asked", role="party"))
        callbacks.go(placed.append)
        [later] = desk.in_line()
        left.put(Reserved("601"))
        await settled()
        assert [call.call_id for call in placed] == [later.call.call_id]
        assert desk.agent("601").call_id == later.call.call_id


async def test_everybody_whom_asterisk_cut_off_is_seated_one_after_another_in_the_order_of_their_places():
    async with desk_and_callbacks() as (desk, callbacks):
        for n in (3, 1, 4, 2, 0):
            lost = models.Callback(id=f"demo-1.{n}", at=clock(), since=BEGAN - 60 + n, number=f"1540000123{n}",
                                   reason="lost", role="party")  # fmt: skip
            callbacks.asked(lost)
        callbacks.go(lambda _: None)
        looking = asyncio.create_task(callbacks.run())
        seated: list[list[float]] = []
        for _ in range(6):
            seated.append([BEGAN - place.call.since for place in desk.in_line()])
            await asyncio.sleep(SEAT_EVERY_S + 0.01)
        assert seated[0] == [60]
        assert seated[-1] == [60, 59, 58, 57, 56]
        assert [len(now) for now in seated] == sorted(len(now) for now in seated)
        assert [len(now) for now in seated][1] < 5
        looking.cancel()
