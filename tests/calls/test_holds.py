"""A phone's own hold key, the agent's and the caller's: told by the ledger, so that nobody is judged unheard for it."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import PARTY, FakeHouse
from tests.calls.paths import reach


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def test_both_sides_holds_are_rows(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.TALKING, agent, from_=PARTY)
    call_id = caller.channel.id
    there = hotline.asterisk.channels
    for kind, channel in (
        ("ChannelHold", f"{call_id}~offer-1"), ("ChannelHold", call_id),
        ("ChannelUnhold", f"{call_id}~offer-1"), ("ChannelUnhold", call_id),
    ):  # fmt: skip
        hotline.asterisk.channel_event(kind, there[channel])
        await asyncio.sleep(5)
    caller.hang_up()
    await hotline.ending()
    rows = await hotline.ask(lambda s: s.scalars(select(models.Hold).order_by(models.Hold.at)).all())
    assert [(row.call_id == call_id, row.who, row.began) for row in rows] == [
        (True, "601", True), (True, "caller", True), (True, "601", False), (True, "caller", False),
    ]  # fmt: skip
