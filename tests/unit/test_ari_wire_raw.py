"""The wire against a peer that controls what goes into which segment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.utils import accept_key

from ari_app.ari.errors import Unreachable
from ari_app.ari.websocket import WebSocketWire
from ari_app.ari.wire import Link
from tests.unit.ari_servers import ADDRESS, APP

pytestmark = pytest.mark.real_time

EVENT = b'{"type":"StasisStart","channel":{"id":"early"}}'
Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


def text(data: bytes, *, opcode: Opcode = Opcode.TEXT, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=False)


class Heard:
    """What the wire says, in order: changes of the link, and events."""

    def __init__(self) -> None:
        self.all: list[Link | bytes] = []
        self._came = asyncio.Event()

    def put(self, one: Link | bytes) -> None:
        self.all.append(one)
        self._came.set()

    async def hears(self, *wanted: Link | bytes) -> None:
        async with asyncio.timeout(3):
            while self.all[: len(wanted)] != list(wanted):
                self._came.clear()
                await self._came.wait()


@asynccontextmanager
async def wired(peer: Peer) -> AsyncIterator[tuple[WebSocketWire, Heard]]:
    """A wire to `peer`, who is given the answer to the handshake to send."""
    busy: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            busy.add(task)
        asked = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", asked)
        assert key is not None
        accepted = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}\r\n\r\n"
        )
        try:
            await peer(reader, writer, accepted.encode())
        finally:
            writer.close()

    heard = Heard()
    server = await asyncio.start_server(serve, ADDRESS, 0)
    wire = WebSocketWire(f"http://{ADDRESS}:{server.sockets[0].getsockname()[1]}/ari", "user", "secret", APP, lanes=0)
    wire.attach(heard.put, heard.put)
    running = asyncio.create_task(wire.run())
    try:
        yield wire, heard
    finally:
        running.cancel()
        for task in busy:
            task.cancel()
        await asyncio.wait([running, *busy])
        server.close()


async def ping(wire: WebSocketWire) -> None:
    await wire.request("GET", "asterisk/ping", {}, None, blocking=False, timeout_s=2.0)


async def to_the_end(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def test_an_event_in_the_segment_of_the_handshake_is_heard_after_the_link() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        writer.write(accepted + text(EVENT))
        await to_the_end(reader)

    async with wired(peer) as (_, heard):
        await heard.hears(Link.UP, EVENT)


async def test_an_event_in_pieces_with_a_ping_between_is_one_event() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        first, second, third = EVENT[:5], EVENT[5:20], EVENT[20:]
        writer.write(accepted + text(first, fin=False) + Frame(Opcode.PING, b"?").serialize(mask=False))
        writer.write(text(second, opcode=Opcode.CONT, fin=False))
        await asyncio.sleep(0.05)
        writer.write(text(third, opcode=Opcode.CONT) + text(EVENT))
        await to_the_end(reader)

    async with wired(peer) as (_, heard):
        await heard.hears(Link.UP, EVENT, EVENT)


async def test_who_asks_when_asterisk_has_said_goodbye_is_told_that_it_is_out_of_reach() -> None:
    """It closes in order when it is stopped, and the connection ends only later."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        writer.write(accepted)
        await reader.read(65_536)
        writer.write(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False))
        await asyncio.sleep(1.0)

    async with wired(peer) as (wire, heard):
        await heard.hears(Link.UP)
        for _ in range(2):
            with pytest.raises(Unreachable):
                await ping(wire)
        await heard.hears(Link.UP, Link.DOWN)


async def test_who_asks_on_the_last_word_of_a_dying_asterisk_is_told_that_it_is_out_of_reach() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        writer.write(accepted)
        await asyncio.sleep(0.1)
        writer.write(text(EVENT))
        writer.write_eof()
        await to_the_end(reader)

    asked: list[asyncio.Task[None]] = []
    async with wired(peer) as (wire, heard):
        told = heard.put

        def ask(event: bytes) -> None:
            told(event)
            asked.append(asyncio.create_task(ping(wire)))

        wire.attach(ask, heard.put)
        await heard.hears(Link.UP, EVENT, Link.DOWN)
        with pytest.raises(Unreachable):
            await asked[0]


async def test_a_handshake_that_is_none_is_tried_again() -> None:
    tries = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        nonlocal tries
        tries += 1
        writer.write(accepted if tries > 1 else b"220 this is no web server\r\n\r\n")
        await to_the_end(reader)

    async with wired(peer) as (_, heard):
        await heard.hears(Link.UP)
    assert tries == 2
