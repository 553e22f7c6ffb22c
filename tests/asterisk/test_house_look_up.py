"""The way a call takes between dialplan, AGI server and controller, with stand-ins for the latter two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets

from ari_app.instance import Instance
from tests.asterisk.house_caller import Caller
from tests.asterisk.test_house_asterisk import CALLER, HOTLINE, HOUSE, prepared

pytestmark = pytest.mark.asterisk


class Desk:
    """An Asterisk with an AGI server that notes what it is asked, and a controller's socket."""

    def __init__(self, instance: Instance, socket: websockets.ClientConnection) -> None:
        self.instance = instance
        self.asked: list[list[str]] = []
        self._socket = socket

    async def look_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\n\n")).decode().splitlines()
        self.asked.append([line.partition(": ")[2] for line in head if line.startswith("agi_arg_")])
        writer.write(b'SET VARIABLE SANLING_CONTEXT "ok"\n')
        await reader.readline()
        writer.close()

    async def enters(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            async for frame in self._socket:
                event: dict[str, Any] = json.loads(frame)
                if event["type"] == "StasisStart":
                    return event
        raise AssertionError("the socket closed")

    async def does(self, method: str, path: str) -> None:
        status, _ = await self.instance._ari(method, path)
        assert status in (200, 204), path


@pytest.fixture
def desk(tmp_path: Path) -> AbstractAsyncContextManager[Desk]:
    @asynccontextmanager
    async def running() -> AsyncIterator[Desk]:
        instance = prepared(tmp_path)
        await instance.start_asterisk()
        url = f"ws://{HOUSE}:8088/ari/events?app=sanling&api_key={instance.ari_user}:{instance.ari_password}"
        try:
            async with websockets.connect(url) as socket:
                desk = Desk(instance, socket)
                async with await asyncio.start_server(desk.look_up, HOUSE, 4573):
                    yield desk
        finally:
            await instance.stop()

    return running()


async def test_the_case_is_looked_up_by_number_before_the_controller_has_the_call(desk: Desk) -> None:
    async with Caller(CALLER, HOTLINE, number="+8613800001111") as caller:
        await caller.dial("12368")
        arrival = await desk.enters()
        assert arrival["args"] == ["inbound"]
        assert arrival["channel"]["id"].startswith("house-")
        assert arrival["channel"]["channelvars"]["SANLING_CONTEXT"] == "ok"
        assert desk.asked == [["+8613800001111"]]


async def test_what_was_keyed_is_looked_up_and_forgotten(desk: Desk) -> None:
    async with Caller(CALLER, HOTLINE) as caller:
        await caller.dial("12368")
        call = (await desk.enters())["channel"]["id"]
        keyed = {"ROLE": "party", "NUMBER": "13900002222", "CASE": '12345"%0AHANGUP,', "LICENCE": "123X"}
        for name, value in keyed.items():
            await desk.does("POST", f"channels/{call}/variable?variable=SANLING_KEYED_{name}&value={value}")
        await desk.does("POST", f"channels/{call}/continue?context=case-context&extension=s&priority=1")
        back = await desk.enters()
        assert back["args"] == ["context"]
        assert back["channel"]["id"] == call
        assert desk.asked[1] == ["13900002222", "party", "12345", "123X"]
        for name in keyed:
            _, body = await desk.instance._ari("GET", f"channels/{call}/variable?variable=SANLING_KEYED_{name}")
            assert json.loads(body) == {"value": ""}, name


async def test_a_call_that_the_controller_gives_up_hears_the_apology(desk: Desk) -> None:
    async with Caller(CALLER, HOTLINE) as caller:
        await caller.dial("12368")
        call = (await desk.enters())["channel"]["id"]
        await desk.does("POST", f"channels/{call}/continue?context=fallback&extension=s&priority=1")
        await caller.answered()
        await asyncio.sleep(1.5)
        await caller.keys("#")
        await asyncio.wait_for(caller.hung_up_by_hotline.wait(), 15)
    requests = list((desk.instance.settings.spool_dir / "callbacks").iterdir())
    assert [file.stem for file in requests] == [call]
