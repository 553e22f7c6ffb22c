"""REST over WebSocket: the wire to a real Asterisk.

Asterisk serves the requests of one socket strictly one after the other, and a few verbs are not answered while a
playback lasts on their channel. So there are two kinds of socket:

- The **fast lane** is registered under the application's name. It carries every event, and those requests that
  Asterisk answers at once. It is pinged; when it dies, the link is down.
- **Lanes** are registered under throw-away names that receive no events. Each carries one request at a time: those that
  block, and others that would have to wait for an answer on the fast lane. A few are kept open; more are opened while
  blocking requests have the others, so that nobody waits behind a stranger's playback. A lane whose request was given
  up is thrown away, because Asterisk is still busy with it.

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
from typing import Any, cast
from urllib.parse import quote

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response as Handshake
from websockets.protocol import State
from websockets.uri import parse_uri

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

BROKE = "the link to Asterisk broke before the answer came"
CLOSE_WITHIN_S = 0.5
OPEN_WITHIN_S = 5.0

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
"""Between attempts to connect, doubling. Short, because while we are away callers get an apology from the dialplan."""

STEADY_AFTER_S = 5.0
"""A link that lived this long starts the pauses over; one that broke sooner does not."""


class _Message(msgspec.Struct, frozen=True):
    """What must be known of a message to route it: an answer to its request, anything else to the client."""

    type: str = ""
    application: str = ""
    transaction_id: str = ""
    status_code: int = 0
    message_body: str = ""

    @property
    def response(self) -> Response:
        return Response(self.status_code, self.message_body.encode())


_messages = msgspec.json.Decoder(_Message)
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


class _Socket(asyncio.Protocol):
    """One WebSocket to Asterisk. What arrives is dealt with in the moment in which it arrives, with no task in between:
    of the controller's time for a call a fifth went into waking such tasks.
    """

    def __init__(self, url: str, credentials: str) -> None:
        self._websocket = ClientProtocol(parse_uri(url), max_size=ANSWER_LIMIT)
        self._credentials = credentials
        self._on_message: Callable[[_Message, bytes], None] | None = None
        self._kept: list[tuple[_Message, bytes]] = []
        """Messages for which nobody has asked yet: Asterisk sends events right after the handshake."""
        self._waiting: dict[str, asyncio.Future[Response]] = {}
        self._pong: asyncio.Future[None] | None = None
        self._begun = b""
        """Of a message that comes in pieces."""
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[str] = loop.create_future()

    @property
    def is_asked(self) -> bool:
        """Somebody waits for an answer."""
        return bool(self._waiting)

    # --- the socket's life ------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, url: str, credentials: str) -> _Socket:
        """Raises OSError, WebSocketException, TimeoutError."""
        there, opening = parse_uri(url), cls(url, credentials)
        loop, tls = asyncio.get_running_loop(), there.secure or None
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                await loop.create_connection(lambda: opening, there.host, there.port, ssl=tls)
                await opening._opened
        except BaseException:
            opening.abort()
            raise
        return opening

    @property
    def is_open(self) -> bool:
        return self._websocket.state is State.OPEN and not self._ended.done()

    async def ended(self) -> str:
        """Waits for the end, and says why. Raises what a listener raised."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """In order, if the other side plays along."""
        try:
            if self.is_open:
                self._websocket.send_close()
                self._send()
                await asyncio.wait([self._ended], timeout=CLOSE_WITHIN_S)
        finally:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._end("it was cut off")

    def give_up(self) -> None:
        """Whoever waits for an answer hears that none will come."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unreachable(BROKE))

    def _end(self, why: str | Exception) -> None:
        if not self._opened.done():
            self._opened.set_exception(why if isinstance(why, Exception) else ConnectionResetError(why))
            self._opened.exception()
        if self._ended.done():
            return
        if isinstance(why, Exception):
            self._ended.set_exception(why)
            self._ended.exception()
        else:
            self._ended.set_result(why)
        self.give_up()
        if self._pong is not None and not self._pong.done():
            self._pong.cancel()

    # --- asking -----------------------------------------------------------------------------------------------------

    async def ask(self, transaction: str, request: bytes) -> Response:
        """Raises Unreachable when the socket breaks before the answer."""
        if not self.is_open:
            raise Unreachable(BROKE)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[transaction] = answer
        try:
            self._websocket.send_text(request)
            self._send()
            return await answer
        finally:
            del self._waiting[transaction]

    async def answers_ping(self) -> None:
        """Until a ping, sent now, is answered; cancelled when the socket ends. Of one that has ended, nothing comes."""
        self._pong = asyncio.get_running_loop().create_future()
        if self.is_open:
            self._websocket.send_ping(b"")
            self._send()
        await self._pong

    def _send(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            for data in self._websocket.data_to_send():
                if data:
                    transport.write(data)
                elif transport.can_write_eof():
                    transport.write_eof()

    # --- what arrives -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        handshake = self._websocket.connect()
        handshake.headers["Authorization"] = f"Basic {self._credentials}"
        self._websocket.send_request(handshake)
        self._send()

    def data_received(self, data: bytes) -> None:
        websocket = self._websocket
        websocket.receive_data(data)
        self._send()
        for event in websocket.events_received():
            if isinstance(event, Frame):
                self._frame_came(event)
            elif isinstance(event, Handshake) and websocket.handshake_exc is None and not self._opened.done():
                self._opened.set_result(None)
        if websocket.handshake_exc is not None:
            self._is_over(websocket.handshake_exc)
        elif websocket.state is State.CLOSING and (
            websocket.close_rcvd is not None or websocket.parser_exc is not None
        ):
            self._is_over(self._why_closed())

    def _is_over(self, why: str | Exception) -> None:
        """What there is to send still goes out."""
        self._end(why)
        if self._transport is not None:
            self._transport.close()

    def _why_closed(self) -> str:
        told = self._websocket.close_rcvd or self._websocket.parser_exc
        return f"it was closed: {told}" if told is not None else "it was closed without a word"

    def _frame_came(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT if not frame.fin:
                self._begun += frame.data
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                whole, self._begun = self._begun + frame.data, b""
                self._message_came(whole)
            case Opcode.PONG if self._pong is not None and not self._pong.done():
                self._pong.set_result(None)

    def _message_came(self, data: bytes) -> None:
        """Nothing here waits: Asterisk cuts off a slow reader."""
        try:
            message = _messages.decode(data)
        except msgspec.MsgspecError:
            message = _Message()
        if message.type == "RESTResponse":
            answer = self._waiting.get(message.transaction_id)
            if answer is not None and not answer.done():
                answer.set_result(message.response)
            return
        if self._on_message is None:
            self._kept.append((message, data))
        else:
            self._tell(self._on_message, message, data)

    def tells(self, on_message: Callable[[_Message, bytes], None]) -> None:
        """From now on `on_message` is told of each message that is no answer, as read and as it came; at once of those
        that have come already.
        """
        kept, self._kept, self._on_message = self._kept, [], on_message
        for message, data in kept:
            self._tell(on_message, message, data)

    def _tell(self, on_message: Callable[[_Message, bytes], None], message: _Message, data: bytes) -> None:
        try:
            on_message(message, data)
        except ApplicationReplaced as error:
            self._end(error)
            self.abort()

    def eof_received(self) -> None:
        self._websocket.receive_eof()
        self._send()
        self._end(self._websocket.handshake_exc or self._why_closed())

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._end(error or ConnectionResetError("the connection was closed"))
        self._end(str(error) if error is not None else self._why_closed())


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
        self._idle_lanes: list[_Socket] = []
        self._busy_lanes: set[_Socket] = set()
        self._fast: _Socket | None = None
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

    async def _connect(self, app: str) -> _Socket:
        return await _Socket.open(f"{self._url}/events?app={quote(app, safe='')}&subscribeAll=false", self._credentials)

    async def _live(self, socket: _Socket) -> None:
        """From a fresh socket to its end."""
        self._fast = socket
        log.info("linked to Asterisk as %s", self._app)
        self._on_link(Link.UP)
        socket.tells(self._take)
        beside = [asyncio.create_task(self._warm_lanes()), asyncio.create_task(_ping(socket))]
        try:
            log.warning("the link to Asterisk broke: %s", await socket.ended())
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def _part(self, socket: _Socket) -> None:
        """Everyone who waits hears of it at once; only then are the sockets put away."""
        self._fast = None
        for ended in (socket, *self._busy_lanes):
            ended.give_up()
        for lane in list(self._busy_lanes):
            lane.abort()
        idle, self._idle_lanes = self._idle_lanes, []
        self._on_link(Link.DOWN)
        await asyncio.gather(socket.close(), *(lane.close() for lane in idle))

    def _take(self, message: _Message, data: bytes) -> None:
        """A message of the fast lane that is no answer."""
        if self._fast is None:
            return
        try:
            self._on_event(data)
        except Exception:
            log.exception("an event could not be delivered")
        if message.type == "ApplicationReplaced" and message.application == self._app:
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
                if blocking or (self._linked().is_asked and self._has_a_lane_to_spare()):
                    return await self._ask_on_a_lane(transaction, frame)
                return await self._linked().ask(transaction, frame)
        except TimeoutError:
            raise RequestTimeout(f"no answer to {method} {uri} within {timeout_s} s") from None

    def _has_a_lane_to_spare(self) -> bool:
        """One that is open and that nobody waits for."""
        return not self._lane_slots.locked() and any(lane.is_open for lane in self._idle_lanes)

    async def _ask_on_a_lane(self, transaction: str, frame: bytes) -> Response:
        async with self._lane_slots:
            lane = await self._free_lane()
            self._busy_lanes.add(lane)
            try:
                answer = await lane.ask(transaction, frame)
            except BaseException:
                # Given up, or broken: Asterisk may still be at it, so nobody else must queue up behind.
                lane.abort()
                raise
            finally:
                self._busy_lanes.discard(lane)
            if self._fast is not None:
                self._idle_lanes.append(lane)
            return answer

    def _linked(self) -> _Socket:
        if self._fast is None:
            raise Unreachable("there is no link to Asterisk")
        return self._fast

    async def _free_lane(self) -> _Socket:
        self._linked()
        while self._idle_lanes:
            lane = self._idle_lanes.pop()
            if lane.is_open:
                return lane
        return await self._new_lane()

    async def _new_lane(self) -> _Socket:
        try:
            lane = await self._connect(f"{self._lane_name}-{next(self._lane_numbers)}")
        except (OSError, WebSocketException) as error:
            raise Unreachable(f"no further lane to Asterisk: {_why(error)}") from error
        lane.tells(_nobody_s_news)
        if self._fast is None:
            lane.abort()
        self._linked()
        return lane

    async def _warm_lanes(self) -> None:
        """Open the lanes that are kept, so that the first callers need not wait for them."""
        for _ in range(self._lanes_kept):
            try:
                self._idle_lanes.append(await self._new_lane())
            except (Unreachable, TimeoutError) as error:
                log.warning("%s", error)


async def _ping(socket: _Socket) -> None:
    """Until Asterisk answers no more: the socket is cut off then, without the handshake that nobody would answer."""
    while True:
        await asyncio.sleep(PING_EVERY_S)
        pong = asyncio.create_task(socket.answers_ping())
        try:
            for _ in range(PONG_CHECKS):
                await asyncio.wait([pong], timeout=PONG_CHECKED_EVERY_S)
                if pong.done():
                    break
            else:
                log.warning("Asterisk did not answer a ping within %.1f s", NOTICED_WITHIN_S - PING_EVERY_S)
                socket.abort()
                return
        finally:
            pong.cancel()


def _nobody_s_news(message: _Message, data: bytes) -> None:
    """A lane hears of nothing but its answers."""


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
