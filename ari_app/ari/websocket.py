"""REST over WebSocket: the wire to a real Asterisk.

Asterisk serves the requests of one socket strictly one after the other, and a few verbs are not answered while a
playback lasts on their channel. So there are two kinds of socket:

- The **fast lane** is registered under the application's name. It carries every event, and those requests that
  Asterisk answers at once. It is pinged; when it dies, the link is down.
- **Lanes** are registered under throw-away names that receive no events. Each carries one blocking request at a
  time. A few are kept open; more are opened while the others are stuck, so that nobody waits behind a stranger's
  playback. A lane whose request was given up is thrown away, because Asterisk is still busy with it.

Answers find their request by transaction id, so one that comes late, or twice, meets nobody and is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State

from ari_app.ari.errors import ApplicationReplaced, RequestTimeout, RequestTooLarge, Unreachable
from ari_app.ari.wire import Link, Response

log = logging.getLogger("sanling.ari")

FRAME_LIMIT = 65_527
"""Bytes of payload that Asterisk reads: 65,535 less its header (measured). More makes it close the socket with 1009."""

ANSWER_LIMIT = 64 * 1024 * 1024
"""Bytes of a frame that we read. A list of 1,000 channels is about 1 MB; refusing it would cost the link."""

PING_EVERY_S = 0.3
PONG_CHECKED_EVERY_S = 0.1
PONG_CHECKS = 15
"""A half-open link is noticed after 1.8 s at the latest, before any request on it has waited in vain. Counted in
checks of ours, not by the clock: a controller that was itself stopped for a while must not take Asterisk for dead."""
NOTICED_WITHIN_S = PING_EVERY_S + PONG_CHECKS * PONG_CHECKED_EVERY_S

CLOSE_WITHIN_S = 0.5
OPEN_WITHIN_S = 5.0

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
"""Between attempts to connect, doubling. Short, because while we are away callers get an apology from the dialplan."""

STEADY_AFTER_S = 5.0
"""A link that lived this long starts the pauses over; one that broke sooner does not."""


class _Frame(msgspec.Struct, frozen=True):
    """What must be known of a frame to route it: an answer to its request, anything else to the client."""

    type: str = ""
    application: str = ""
    transaction_id: str = ""
    status_code: int = 0
    message_body: str = ""

    @property
    def response(self) -> Response:
        return Response(self.status_code, self.message_body.encode())


_frames = msgspec.json.Decoder(_Frame)
_transactions = (f"{n:x}" for n in itertools.count(1))


def _request_frame(
    transaction: str, method: str, uri: str, query: Mapping[str, str], body: Mapping[str, Any] | None
) -> bytes:
    frame: dict[str, Any] = {
        "type": "RESTRequest",
        "transaction_id": transaction,
        "request_id": transaction,
        "method": method,
        "uri": uri,
    }
    if query:
        frame["query_strings"] = [{"name": name, "value": value} for name, value in query.items()]
    if body is not None:
        frame["content_type"] = "application/json"
        frame["message_body"] = msgspec.json.encode(body).decode()
    encoded = msgspec.json.encode(frame)
    if len(encoded) > FRAME_LIMIT:
        raise RequestTooLarge(f"{method} {uri}", len(encoded), FRAME_LIMIT)
    return encoded


class WebSocketWire:
    """One Asterisk, over WebSockets. Implements `Wire`."""

    def __init__(self, url: str, user: str, password: str, app: str, *, lanes: int = 4, most_lanes: int = 32) -> None:
        """`url` is that of ARI, e.g. `http://127.0.0.1:8088/ari`.

        `lanes` are kept open, up to `most_lanes` while the others are stuck. Asterisk's `sessionlimit` in http.conf
        (100 unless set) must leave room for them.
        """
        self._url = "ws" + url.removeprefix("http").removeprefix("ws").rstrip("/")
        self._credentials = b64encode(f"{user}:{password}".encode()).decode()
        self._app = app
        self._lanes_kept = lanes
        self._lane_slots = asyncio.Semaphore(most_lanes)
        self._lane_name = f"{app}-lane-{secrets.token_hex(4)}"
        self._lane_numbers = itertools.count(1)
        self._idle_lanes: list[ClientConnection] = []
        self._busy_lanes: set[ClientConnection] = set()
        self._fast: ClientConnection | None = None
        self._waiting: dict[str, asyncio.Future[Response]] = {}
        self._on_event: Callable[[bytes], None] = _nobody
        self._on_link: Callable[[Link], None] = _nobody

    def attach(self, on_event: Callable[[bytes], None], on_link: Callable[[Link], None]) -> None:
        self._on_event = on_event
        self._on_link = on_link

    # --- the link ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and reconnect with growing, jittered pauses, until cancelled. Raises ApplicationReplaced."""
        pause_s, complaint = FIRST_PAUSE_S, ""
        loop = asyncio.get_running_loop()
        while True:
            try:
                socket = await self._connect(self._app)
            except (OSError, WebSocketException, TimeoutError) as error:
                if complaint != (complaint := _why(error)):
                    log.warning("no link to Asterisk: %s; trying on", complaint)
            else:
                complaint, came_up = "", loop.time()
                try:
                    await self._live(socket)
                finally:
                    await self._part(socket)
                if loop.time() - came_up >= STEADY_AFTER_S:
                    pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _connect(self, app: str) -> ClientConnection:
        return await connect(
            f"{self._url}/events?app={quote(app, safe='')}&subscribeAll=false",
            additional_headers={"Authorization": f"Basic {self._credentials}"},
            compression=None,
            proxy=None,
            open_timeout=OPEN_WITHIN_S,
            close_timeout=CLOSE_WITHIN_S,
            ping_interval=None,
            max_size=ANSWER_LIMIT,
            max_queue=None,
        )

    async def _live(self, socket: ClientConnection) -> None:
        """From a fresh socket to its end."""
        self._fast = socket
        log.info("linked to Asterisk as %s", self._app)
        self._on_link(Link.UP)
        beside = [asyncio.create_task(self._warm_lanes()), asyncio.create_task(_ping(socket))]
        try:
            while True:
                self._take(await socket.recv(decode=False))
        except ConnectionClosed as end:
            log.warning("the link to Asterisk broke: %s", end)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def _part(self, socket: ClientConnection) -> None:
        """Everyone who waits hears of it at once; only then are the sockets put away."""
        self._fast = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unreachable("the link to Asterisk broke before the answer came"))
        for lane in self._busy_lanes:
            lane.transport.abort()
        idle, self._idle_lanes = self._idle_lanes, []
        self._on_link(Link.DOWN)
        await asyncio.gather(socket.close(), *(lane.close() for lane in idle))

    def _take(self, data: bytes) -> None:
        """One frame of the fast lane. Nothing here waits: Asterisk cuts off a slow reader."""
        try:
            frame = _frames.decode(data)
        except msgspec.MsgspecError:
            frame = _Frame()
        if frame.type == "RESTResponse":
            future = self._waiting.get(frame.transaction_id)
            if future is not None and not future.done():
                future.set_result(frame.response)
            return
        try:
            self._on_event(data)
        except Exception:
            log.exception("an event could not be delivered")
        if frame.type == "ApplicationReplaced" and frame.application == self._app:
            self._on_link(Link.REPLACED)
            raise ApplicationReplaced(f"another client registered {self._app}; only one controller can run")

    # --- requests ---------------------------------------------------------------------------------------------------

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
        transaction = next(_transactions)
        frame = _request_frame(transaction, method, uri, query, body)
        try:
            async with asyncio.timeout(timeout_s):
                if blocking:
                    return await self._ask_on_a_lane(transaction, frame)
                return await self._ask_fast(transaction, frame)
        except TimeoutError:
            raise RequestTimeout(f"no answer to {method} {uri} within {timeout_s} s") from None
        except ConnectionClosed:
            raise Unreachable("the link to Asterisk broke before the answer came") from None

    async def _ask_fast(self, transaction: str, frame: bytes) -> Response:
        socket = self._linked()
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[transaction] = answer
        try:
            await socket.send(frame, text=True)
            return await answer
        finally:
            del self._waiting[transaction]

    async def _ask_on_a_lane(self, transaction: str, frame: bytes) -> Response:
        async with self._lane_slots:
            lane = await self._free_lane()
            self._busy_lanes.add(lane)
            try:
                await lane.send(frame, text=True)
                while True:
                    answer = _frames.decode(await lane.recv(decode=False))
                    if answer.transaction_id == transaction:
                        break
            except BaseException as error:
                # Given up, or broken: Asterisk may still be at it, so nobody else must queue up behind.
                lane.transport.abort()
                if isinstance(error, msgspec.MsgspecError):
                    raise Unreachable("a lane to Asterisk carried something that is no answer") from error
                raise
            finally:
                self._busy_lanes.discard(lane)
            if self._fast is not None:
                self._idle_lanes.append(lane)
            return answer.response

    def _linked(self) -> ClientConnection:
        if self._fast is None:
            raise Unreachable("there is no link to Asterisk")
        return self._fast

    async def _free_lane(self) -> ClientConnection:
        self._linked()
        while self._idle_lanes:
            lane = self._idle_lanes.pop()
            if lane.state is State.OPEN:
                return lane
        return await self._new_lane()

    async def _new_lane(self) -> ClientConnection:
        try:
            lane = await self._connect(f"{self._lane_name}-{next(self._lane_numbers)}")
        except (OSError, WebSocketException) as error:
            raise Unreachable(f"no further lane to Asterisk: {_why(error)}") from error
        if self._fast is None:
            lane.transport.abort()
        self._linked()
        return lane

    async def _warm_lanes(self) -> None:
        """Open the lanes that are kept, so that the first callers need not wait for them."""
        for _ in range(self._lanes_kept):
            try:
                self._idle_lanes.append(await self._new_lane())
            except (Unreachable, TimeoutError) as error:
                log.warning("%s", error)


async def _ping(socket: ClientConnection) -> None:
    """Until Asterisk answers no more: the socket is cut off then, without the handshake that nobody would answer."""
    while True:
        await asyncio.sleep(PING_EVERY_S)
        pong = asyncio.create_task(_pong(socket))
        try:
            for _ in range(PONG_CHECKS):
                await asyncio.wait([pong], timeout=PONG_CHECKED_EVERY_S)
                if pong.done():
                    break
            else:
                log.warning("Asterisk did not answer a ping within %.1f s", NOTICED_WITHIN_S - PING_EVERY_S)
                socket.transport.abort()
                return
        finally:
            pong.cancel()


async def _pong(socket: ClientConnection) -> None:
    """Sends a ping, and waits for its answer or the link's end."""
    with suppress(ConnectionClosed):
        await (await socket.ping())


def _nobody(_: Any) -> None:
    raise RuntimeError("attach() comes before run()")


def _why(error: Exception) -> str:
    """In a person's words, with what to do where that is known."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status == 401:
            return "401, user or password differ from ari.conf"
        return f"HTTP status {status}" + (", is ARI enabled in ari.conf?" if status == 404 else "")
    return str(error) or type(error).__name__
