"""The wire against an Asterisk that misbehaves."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from ari_app.ari import Arrival, Client, LinkDown, LinkUp
from ari_app.ari.errors import (
    ApplicationReplaced,
    MailboxOverflow,
    RequestTimeout,
    RequestTooLarge,
    Unreachable,
)
from ari_app.ari.websocket import NOTICED_WITHIN_S, PING_EVERY_S, WebSocketWire
from tests.unit.ari_servers import ADDRESS, APP, OddAsterisk, Request, reply, serve_well

pytestmark = pytest.mark.real_time

PING = "GET asterisk/ping"


@pytest.fixture
def asterisk() -> OddAsterisk:
    return OddAsterisk()


def client_of(asterisk: OddAsterisk, *, timeout_s: float = 2.0, lanes: int = 2, url: str = "", **more: Any) -> Client:
    wire = WebSocketWire(url or asterisk.url, "user", "secret", APP, lanes=lanes)
    return Client(wire, APP, timeout_s=timeout_s, **more)


async def linked(client: Client) -> LinkUp:
    async with asyncio.timeout(5):
        while not isinstance(link := await client.links.get(), LinkUp):
            pass
    return link


async def never(socket: ServerConnection, request: Request) -> None:
    await asyncio.Event().wait()


async def test_the_link_comes_up_with_credentials_in_a_header(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk) as client:
        up = await linked(client)
        assert up.snapshot.application.name == APP
        assert asterisk.credentials == "Basic " + b64encode(b"user:secret").decode()
        assert (await client.asterisk.ping()).ping == "pong"


async def test_a_link_that_drops_fails_whoever_waits_at_once_and_comes_back(asterisk: OddAsterisk) -> None:
    asterisk.odd = {PING: never, "POST channels/c/answer": never}
    async with client_of(asterisk, timeout_s=60) as client:
        await linked(client)
        waiting = [
            asyncio.create_task(client.asterisk.ping()),
            asyncio.create_task(client.channels.answer(channelId="c")),
        ]
        await asterisk.works_on(2)
        asterisk.drops_the_link()
        async with asyncio.timeout(1):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unreachable, Unreachable]
        assert isinstance(await client.links.get(), LinkDown)
        await linked(client)
        asterisk.odd.clear()
        await client.asterisk.ping()
        await client.channels.answer(channelId="c")


async def test_a_late_answer_meets_nobody(asterisk: OddAsterisk) -> None:
    release = asyncio.Event()

    async def late(socket: ServerConnection, request: Request) -> None:
        await release.wait()
        await socket.send(reply(request, 200, {"ping": "too late"}))

    async with client_of(asterisk, timeout_s=0.1) as client:
        await linked(client)
        asterisk.odd = {PING: late}
        with pytest.raises(RequestTimeout):
            await client.asterisk.ping()
        asterisk.odd.clear()
        release.set()
        assert (await client.asterisk.ping()).ping == "pong"
        assert client.linked


async def test_two_answers_to_one_request_count_once(asterisk: OddAsterisk) -> None:
    async def twice(socket: ServerConnection, request: Request) -> None:
        await socket.send(reply(request, 200, {"ping": "first"}))
        await socket.send(reply(request, 200, {"ping": "second"}))

    asterisk.odd = {PING: twice}
    async with client_of(asterisk) as client:
        await linked(client)
        assert [(await client.asterisk.ping()).ping for _ in range(3)] == ["first"] * 3


async def test_requests_without_a_link_fail_at_once(asterisk: OddAsterisk) -> None:
    client = client_of(asterisk)
    with pytest.raises(Unreachable):
        await client.asterisk.ping()
    with pytest.raises(Unreachable):
        await client.channels.answer(channelId="c")


async def test_asterisk_may_start_after_us(asterisk: OddAsterisk) -> None:
    port = asterisk.port
    await asterisk.close()
    async with client_of(asterisk, url=f"http://{ADDRESS}:{port}/ari") as client:
        await asyncio.sleep(0.3)
        assert not client.linked
        await asterisk.open(port)
        await linked(client)


async def test_a_request_too_large_for_asterisk_is_never_sent(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk) as client:
        await linked(client)
        with pytest.raises(RequestTooLarge):
            await client.channels.setChannelVar(channelId="c", variable="V", value="x" * 65_527)
        assert not asterisk.asked["POST channels/c/variable"]
        assert client.linked


async def test_a_link_closed_with_1009_fails_the_request_and_comes_back(asterisk: OddAsterisk) -> None:
    async def too_big(socket: ServerConnection, request: Request) -> None:
        await socket.close(1009)

    asterisk.odd = {PING: too_big}
    async with client_of(asterisk) as client:
        await linked(client)
        with pytest.raises(Unreachable):
            await client.asterisk.ping()
        assert isinstance(await client.links.get(), LinkDown)
        await linked(client)


async def test_garbage_is_counted_and_does_no_harm(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk) as client:
        await linked(client)
        for garbage in ("{", "", "[]", "nil", '{"type": 7}', '{"no": "type"}', '{"type":"RESTResponse"}'):
            await asterisk.says_raw(garbage)
        assert (await client.asterisk.ping()).ping == "pong"
        assert client.unread == 6


async def test_unknown_events_and_unknown_fields_pass_through(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk) as client:
        await linked(client)
        mailbox = client.mailboxes.open("call")
        await asterisk.says(type="ChannelSang", channel={"id": "call~offer-1"}, song="三铃")
        await asterisk.says(type="StasisEnd", channel={"id": "call", "mood": "blue"}, weather="fair")
        song, end = await mailbox.get(), await mailbox.get()
        assert (song.type, song.raw["song"]) == ("ChannelSang", "三铃")
        assert (end.type, end.channel.id) == ("StasisEnd", "call")


async def test_a_flood_breaks_the_one_call_it_is_about(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk, mailbox_capacity=100) as client:
        await linked(client)
        flooded, neighbour = client.mailboxes.open("flooded"), client.mailboxes.open("neighbour")
        for _ in range(500):
            await asterisk.says(type="ChannelDtmfReceived", channel={"id": "flooded"}, digit="1")
        await asterisk.says(type="StasisEnd", channel={"id": "neighbour"})
        assert (await neighbour.get()).type == "StasisEnd"
        with pytest.raises(MailboxOverflow):
            await flooded.get()
        assert client.mailboxes.overflows == 1


async def test_a_call_that_arrives_in_a_flood_misses_nothing(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk) as client:
        await linked(client)
        await asterisk.says(type="StasisStart", args=["inbound"], channel={"id": "call"})
        for digit in "0123456789" * 50:
            await asterisk.says(type="ChannelDtmfReceived", channel={"id": "call"}, digit=digit)
        arrival: Arrival = await client.arrivals.get()
        heard = "".join([(await arrival.mailbox.get()).digit for _ in range(500)])
        assert heard == "0123456789" * 50


async def test_a_request_never_answered_ends_in_time_and_its_lane_is_not_used_again(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk, timeout_s=0.2, lanes=1) as client:
        await linked(client)
        await client.channels.answer(channelId="c")
        asterisk.odd = {"POST channels/c/answer": never}
        with pytest.raises(RequestTimeout):
            await client.channels.answer(channelId="c")
        stuck = asterisk.lanes[-1]
        asterisk.odd.clear()
        await client.channels.answer(channelId="c")
        assert asterisk.lanes[-1] is not stuck
        await asyncio.wait_for(stuck.wait_closed(), 1)


async def test_each_lane_carries_one_request_and_more_open_while_all_are_stuck(asterisk: OddAsterisk) -> None:
    release = asyncio.Event()

    async def until_the_playback_ends(socket: ServerConnection, request: Request) -> None:
        await release.wait()
        await serve_well(socket, request)

    asterisk.odd = {f"POST channels/c{n}/variable": until_the_playback_ends for n in range(5)}
    async with client_of(asterisk, lanes=2) as client, asyncio.TaskGroup() as stuck:
        await linked(client)
        for n in range(5):
            stuck.create_task(client.channels.setChannelVar(channelId=f"c{n}", variable="V", value="1"))
        await asterisk.works_on(5)
        async with asyncio.timeout(1):
            await client.channels.answer(channelId="sixth")
            await client.asterisk.ping()
        assert asterisk.most_in_flight_on_a_lane == 1
        release.set()


async def test_nobody_waits_behind_a_stranger_on_the_fast_lane_while_another_lane_is_idle(
    asterisk: OddAsterisk,
) -> None:
    release = asyncio.Event()

    async def slowly(socket: ServerConnection, request: Request) -> None:
        await release.wait()
        await serve_well(socket, request)

    async with client_of(asterisk, lanes=2) as client, asyncio.TaskGroup() as slow:
        await linked(client)
        await asterisk.has_lanes(2)
        asterisk.odd = {PING: slowly}
        slow.create_task(client.asterisk.ping())
        await asterisk.works_on(1)
        assert not asterisk.in_flight_on_lanes
        for _ in range(2):
            slow.create_task(client.asterisk.ping())
        await asterisk.works_on(3)
        assert asterisk.in_flight_on_lanes == [1, 1]
        slow.create_task(client.asterisk.ping())  # no lane is opened for it
        await asterisk.works_on(4)
        assert len(asterisk.lanes) == 2
        release.set()


@pytest.mark.parametrize("asked", [PING, "POST channels/c/answer"])
async def test_a_cancelled_request_leaves_nothing_behind(asterisk: OddAsterisk, asked: str) -> None:
    async with client_of(asterisk, lanes=1) as client:
        await linked(client)
        asterisk.odd = {asked: never}
        request = client.asterisk.ping() if asked == PING else client.channels.answer(channelId="c")
        task = asyncio.create_task(request)
        await asterisk.works_on(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asterisk.odd.clear()
        await client.asterisk.ping()
        await client.channels.answer(channelId="c")


async def test_an_asterisk_that_keeps_hanging_up_is_not_hammered(asterisk: OddAsterisk) -> None:
    async def hang_up(socket: ServerConnection, request: Request) -> None:
        socket.transport.abort()

    asterisk.odd = {f"PUT applications/{APP}/eventFilter": hang_up}
    async with client_of(asterisk, lanes=0) as client:
        await asyncio.sleep(1.0)
        assert 2 <= asterisk.links <= 6
        assert client.links.empty()
        asterisk.odd.clear()
        await linked(client)


async def test_another_client_taking_the_application_is_fatal(asterisk: OddAsterisk) -> None:
    client = client_of(asterisk)
    running = asyncio.create_task(client.run())
    await linked(client)
    await asterisk.says(type="ApplicationReplaced")
    with pytest.raises(ApplicationReplaced):
        await asyncio.wait_for(running, 2)
    assert not client.linked


async def test_losing_the_application_ends_the_body_of_async_with(asterisk: OddAsterisk) -> None:
    async def body() -> None:
        async with client_of(asterisk) as client:
            await linked(client)
            await asterisk.says(type="ApplicationReplaced")
            await asyncio.sleep(60)

    with pytest.raises(ApplicationReplaced):
        await body()
    await asyncio.sleep(0)  # the test's own task is not left cancelled


async def test_the_body_s_own_error_is_raised_as_it_is(asterisk: OddAsterisk) -> None:
    async def body() -> None:
        async with client_of(asterisk) as client:
            await linked(client)
            raise LookupError

    with pytest.raises(LookupError):
        await body()


async def test_stopping_leaves_no_task_of_ours_behind(asterisk: OddAsterisk) -> None:
    before = asyncio.all_tasks()
    async with client_of(asterisk) as client:
        await linked(client)
        asterisk.odd = {PING: never}
        asking = asyncio.create_task(client.asterisk.ping())
        await asterisk.works_on(1)
    with pytest.raises(Unreachable):
        await asking
    ours = [task for task in asyncio.all_tasks() - before if "ari_app" in repr(task)]
    assert ours == []


async def test_a_controller_that_stood_still_does_not_take_asterisk_for_dead(asterisk: OddAsterisk) -> None:
    async with client_of(asterisk) as client:
        await linked(client)
        for _ in range(3):
            await asyncio.sleep(PING_EVERY_S + 0.01)
            time.sleep(NOTICED_WITHIN_S + 0.5)  # noqa: ASYNC251 - the whole process stands still
        await client.asterisk.ping()
        assert client.links.empty()


async def test_a_half_open_link_is_noticed_soon(asterisk: OddAsterisk) -> None:
    """Nothing closes, nothing arrives: a machine that froze, a cable that was pulled."""
    frozen = asyncio.Event()
    pumps: set[asyncio.Task[Any]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if frozen.is_set():
                    await asyncio.Event().wait()
                writer.write(data)

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (pumping := asyncio.current_task()) is not None:
            pumps.add(pumping)
        there, back = await asyncio.open_connection(ADDRESS, asterisk.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pump(reader, back))
                both.create_task(pump(there, writer))
        finally:
            back.transport.abort()
            writer.transport.abort()

    cable = await asyncio.start_server(between, ADDRESS, 0)
    port = cable.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    try:
        async with client_of(asterisk, url=f"http://{ADDRESS}:{port}/ari", timeout_s=60) as client:
            await linked(client)
            frozen.set()
            since = loop.time()
            asking = asyncio.create_task(client.asterisk.ping())
            async with asyncio.timeout(10):
                assert isinstance(await client.links.get(), LinkDown)
            assert loop.time() - since < 3.0
            with pytest.raises(Unreachable):
                await asking
    finally:
        cable.close()
        for pumping in pumps:
            pumping.cancel()
