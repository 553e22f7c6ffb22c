"""Asterisks that misbehave: one behind real WebSockets, one in memory."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ari_app.ari import Link, Response

ADDRESS = "127.0.53.10"
APP = "sanling"

Request = dict[str, Any]
Answer = Callable[[ServerConnection, Request], Awaitable[None]]

NOTHING_GOING_ON: dict[str, Any] = {
    f"PUT applications/{APP}/eventFilter": {"name": APP},
    f"GET applications/{APP}": {"name": APP, "channel_ids": [], "bridge_ids": []},
    "GET channels": [],
    "GET asterisk/info": {"status": {"startup_time": "2026-03-02T01:00:00.000+0000"}},
    "GET bridges": [],
    "GET asterisk/ping": {"ping": "pong"},
}


def reply(request: Request, status: int, body: Any = None) -> str:
    """The frame that answers `request`."""
    return json.dumps(
        {
            "type": "RESTResponse",
            "transaction_id": request["transaction_id"],
            "request_id": request["request_id"],
            "status_code": status,
            "message_body": "" if body is None else json.dumps(body),
        }
    )


async def serve_well(socket: ServerConnection, request: Request) -> None:
    asked = f"{request['method']} {request['uri']}"
    body = NOTHING_GOING_ON.get(asked)
    await socket.send(reply(request, 200 if body is not None else 204, body))


class OddAsterisk:
    """Serves ARI over WebSockets as well as it can, except for what `odd` says."""

    def __init__(self) -> None:
        self.odd: dict[str, Answer] = {}
        """How to answer `METHOD uri` instead."""
        self.fast: ServerConnection | None = None
        self.lanes: list[ServerConnection] = []
        self.credentials = ""
        self.asked: Counter[str] = Counter()
        self.in_flight: Counter[ServerConnection] = Counter()
        self.most_in_flight_on_a_lane = 0
        self.linked = asyncio.Event()
        self.links = 0
        self._changed = asyncio.Condition()
        self._server: Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://{ADDRESS}:{self.port}/ari"

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def open(self, port: int = 0) -> None:
        self._server = await serve(self._serve, ADDRESS, port, max_size=None, compression=None)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def __aexit__(self, *_: object) -> None:
        for task in self._answering:
            task.cancel()
        await self.close()

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.credentials = socket.request.headers["Authorization"]
        if f"app={APP}&" in socket.request.path:
            self.fast = socket
            self.links += 1
            self.linked.set()
        else:
            self.lanes.append(socket)
        async with self._changed:
            self._changed.notify_all()
        try:
            async for message in socket:
                task = asyncio.create_task(self._answer(socket, json.loads(message)))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        except ConnectionClosed:
            pass
        finally:
            if socket is self.fast:
                self.fast = None
                self.linked.clear()

    async def _answer(self, socket: ServerConnection, request: Request) -> None:
        asked = f"{request['method']} {request['uri']}"
        self.asked[asked] += 1
        self.in_flight[socket] += 1
        if socket is not self.fast:
            self.most_in_flight_on_a_lane = max(self.most_in_flight_on_a_lane, self.in_flight[socket])
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.odd.get(asked, serve_well)(socket, request)
        except ConnectionClosed:
            pass
        finally:
            self.in_flight[socket] -= 1

    async def works_on(self, requests: int) -> None:
        """Wait until this many requests are unanswered."""
        async with self._changed:
            await self._changed.wait_for(lambda: sum(self.in_flight.values()) >= requests)

    async def has_lanes(self, lanes: int) -> None:
        """Wait until so many are open."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.lanes) >= lanes)

    @property
    def in_flight_on_lanes(self) -> list[int]:
        """Unanswered requests of each lane that has any."""
        return [n for socket, n in self.in_flight.items() if n and socket is not self.fast]

    async def says(self, **event: Any) -> None:
        """Send one event to whoever holds the application."""
        await self.says_raw(json.dumps({"application": APP, **event}))

    async def says_raw(self, frame: str) -> None:
        await self.linked.wait()
        assert self.fast is not None
        await self.fast.send(frame)

    def drops_the_link(self) -> None:
        assert self.fast is not None
        self.fast.transport.abort()


class ScriptedWire:
    """A wire without a network: answers come from `answers`, events from the test."""

    def __init__(self) -> None:
        self.answers: dict[str, Response] = {
            asked: Response(200, json.dumps(body).encode()) for asked, body in NOTHING_GOING_ON.items()
        }
        self.requests: list[tuple[str, dict[str, str], Any, bool]] = []
        self.fatal: asyncio.Future[None] | None = None

    async def request(
        self,
        method: str,
        uri: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        *,
        blocking: bool,
        timeout_s: float,
    ) -> Response:
        self.requests.append((f"{method} {uri}", dict(query), body, blocking))
        await asyncio.sleep(0)
        return self.answers.get(f"{method} {uri}", Response(204, b""))

    def attach(self, on_event: Callable[[bytes], None], on_link: Callable[[Link], None]) -> None:
        self.on_event = on_event
        self.on_link = on_link

    async def run(self) -> None:
        self.fatal = asyncio.get_running_loop().create_future()
        self.on_link(Link.UP)
        await self.fatal

    def says(self, type: str, **event: Any) -> None:
        self.on_event(json.dumps({"type": type, "application": APP, **event}).encode())
