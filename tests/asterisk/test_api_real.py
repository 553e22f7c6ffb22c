"""The API of a hotline as a user runs it: a real call, followed and led over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from ari_app import store
from ari_app.api import access
from tests.calls.house import PARTY
from tests.calls.real import RealHouse, Running

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(240)]


@pytest.fixture
def hotline() -> RealHouse:
    return RealHouse(Running.of("api", {}))


async def test_a_real_call_is_followed_step_by_step_and_its_agent_is_paused_over_http(hotline):
    settings = hotline.settings
    with store.session(hotline.running.engine) as session:
        token, _ = access.new_token(session, "leader", None, "", time.time())
    async with httpx.AsyncClient(
        base_url=f"http://{settings.control_address}:{settings.api_port}/v1",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    ) as api:
        told: list[tuple[str, Any]] = []
        connected = asyncio.Event()

        async def follow() -> None:
            async with api.stream("GET", "/events", timeout=None) as stream:
                kind = ""
                connected.set()
                async for line in stream.aiter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        told.append((kind, json.loads(value)))

        following = asyncio.create_task(follow())
        await asyncio.wait_for(connected.wait(), 10)
        agent = await hotline.agent_signs_in("601")
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await caller.keys("2112345#99#1")
        offer = await agent.rings(timeout_s=40)
        board = (await api.get("/board")).json()
        assert [one["number"] for one in board["agents"] if one["state"] in ("reserved", "ringing")] == ["601"]
        assert (board["linked"], board["calls"][0]["caller"]) == (True, PARTY)
        await offer.picks_up()
        await asyncio.sleep(6)
        calls = (await api.get("/calls")).json()
        assert [(one["state"], one["agent"]) for one in calls] == [("TALKING", "601")]
        busy = await api.post("/agents/601/pause")
        assert (busy.status_code, "on a call" in busy.json()["detail"]) == (409, True)
        caller.hang_up()
        await hotline.ending()
        assert (await api.post("/agents/601/pause")).json()["state"] == "paused"
        assert await hotline.duty("601") == "paused"
        await asyncio.sleep(0.5)
        following.cancel()
    states = [data["state"] for kind, data in told if kind == "agent" and data["agent"] == "601"]
    assert states == ["idle", "reserved", "ringing", "talking", "wrap_up", "paused"]
    heard = [data.get("heard") for kind, data in told if kind == "call"]
    assert heard[0] == "ARRIVED"
    assert told[-1][0] in ("agent", "call")
    assert PARTY not in json.dumps(told)
