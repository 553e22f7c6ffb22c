"""No new calls, and nobody who is there is sent away."""

from __future__ import annotations

import asyncio

import pytest

from ari_app.flow.sop import State
from tests.calls.house import LAWYER, STRANGER, FakeHouse
from tests.calls.paths import reach


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def test_whoever_talks_waits_or_keys_is_served_to_the_end_and_newcomers_hear_the_apology(hotline):
    agent = await hotline.agent_signs_in("601")
    talking, talk = await reach(hotline, State.TALKING, agent, from_=LAWYER)
    waiting, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    keying, _ = await reach(hotline, State.PARTY_CASE)
    draining = asyncio.create_task(hotline.reception.drain())
    await asyncio.sleep(1)
    newcomer = await hotline.rings(from_="15400008888")
    await newcomer.hears("fallback-sorry")
    newcomer.hang_up()
    await talk.keys("*6")
    await talking.hears("ask-rating")
    await talking.keys("5")
    await talking.ended()
    await keying.keys("12345#")
    await keying.hears("ask-name")
    keying.hang_up()
    again = await agent.rings(60)
    assert not draining.done()
    await again.picks_up()
    await waiting.hears("opening-agent-601")
    assert not draining.done()
    waiting.hang_up()
    async with asyncio.timeout(10):
        await draining
    await hotline.nothing_is_left()


async def test_a_hotline_without_calls_is_drained_at_once(hotline):
    async with asyncio.timeout(1):
        await hotline.reception.drain()


async def test_an_agent_may_sign_in_and_serves_whoever_waits(hotline):
    waiting, _ = await reach(hotline, State.WAITING, from_=STRANGER)
    draining = asyncio.create_task(hotline.reception.drain())
    agent = await hotline.agent_signs_in("601")
    offer = await agent.rings()
    await offer.picks_up()
    await waiting.hears("opening-agent-601")
    waiting.hang_up()
    async with asyncio.timeout(10):
        await draining
