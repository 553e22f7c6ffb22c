"""The client above its wire: arrivals, refusals, ari-py's objects, the link's story."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from ari_app.ari import Client, Link, LinkDown, LinkUp, Response
from ari_app.ari.errors import (
    AllocationFailed,
    AriError,
    Conflict,
    Invalid,
    NotFound,
    RequestFailed,
    ServerError,
)
from ari_app.ari.events import Channel, ChannelDtmfReceived
from ari_app.ari.verbs import BoundBridge, BoundChannel
from tests.unit.ari_servers import ScriptedWire


@pytest.fixture
def wire() -> ScriptedWire:
    return ScriptedWire()


async def test_the_filter_lets_the_answers_through(wire: ScriptedWire) -> None:
    async with Client(wire, events=["StasisStart"]) as client:
        await client.links.get()
    asked, _, body, _ = wire.requests[0]
    assert asked == "PUT applications/sanling/eventFilter"
    assert body == {"allowed": [{"type": "StasisStart"}, {"type": "RESTResponse"}]}


async def test_an_unknown_caller_arrives_with_an_open_mailbox(wire: ScriptedWire) -> None:
    async with Client(wire) as client:
        await client.links.get()
        wire.says("StasisStart", args=["inbound"], channel={"id": "call"})
        wire.says("ChannelDtmfReceived", digit="0", channel={"id": "call"})
        arrival = client.arrivals.get_nowait()
        assert (arrival.event.args, arrival.mailbox.owner) == (("inbound",), "call")
        assert (await arrival.mailbox.get()).digit == "0"


async def test_a_call_that_comes_back_from_the_dialplan_finds_its_mailbox(wire: ScriptedWire) -> None:
    async with Client(wire) as client:
        await client.links.get()
        mailbox = client.mailboxes.open("call")
        wire.says("StasisEnd", channel={"id": "call"})
        wire.says("StasisStart", args=["context"], channel={"id": "call"})
        assert [(await mailbox.get()).type for _ in range(2)] == ["StasisEnd", "StasisStart"]
        assert client.arrivals.empty()


async def test_an_agents_leg_goes_to_the_call_and_to_nobody_once_that_is_over(wire: ScriptedWire) -> None:
    async with Client(wire) as client:
        await client.links.get()
        mailbox = client.mailboxes.open("call")
        wire.says("StasisStart", args=["offer", "call", "1"], channel={"id": "call~offer-1"})
        assert len(mailbox) == 1
        mailbox.close()
        wire.says("StasisStart", args=["offer", "call", "2"], channel={"id": "call~offer-2"})
        ghost = client.arrivals.get_nowait()
        assert ghost.event.channel.id == "call~offer-2"


async def test_a_channel_that_takes_a_caller_s_place_is_the_same_call(wire: ScriptedWire) -> None:
    async with Client(wire) as client:
        await client.links.get()
        mailbox = client.mailboxes.open("call")
        wire.says("StasisStart", channel={"id": "new"}, replace_channel={"id": "call"})
        wire.says("ChannelDtmfReceived", digit="5", channel={"id": "new"})
        assert [(await mailbox.get()).type for _ in range(2)] == ["StasisStart", "ChannelDtmfReceived"]
        assert client.arrivals.empty()


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (404, {"message": "Channel not found"}, NotFound),
        (409, {"message": "Channel not in Stasis"}, Conflict),
        (412, {"message": "Channel in invalid state"}, Conflict),
        (400, {"message": "Missing parameter"}, Invalid),
        (422, {"message": "Event source does not exist"}, Invalid),
        (500, {"error": "Allocation failed"}, AllocationFailed),
        (500, {"message": "Failed to queue media"}, ServerError),
        (503, {"message": "Shutting down"}, ServerError),
    ],
)
async def test_a_refusal_says_what_it_means(
    wire: ScriptedWire, status: int, said: dict[str, str], expected: type[RequestFailed]
) -> None:
    wire.answers["POST channels"] = Response(status, json.dumps(said).encode())
    async with Client(wire) as client:
        with pytest.raises(RequestFailed) as refused:
            await client.channels.originate(endpoint="PJSIP/601", app="sanling")
    assert type(refused.value) is expected
    assert (refused.value.status, refused.value.verb) == (status, "channels.originate")
    assert next(iter(said.values())) in str(refused.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"no"'])
async def test_a_refusal_without_words_is_still_one(wire: ScriptedWire, body: bytes) -> None:
    wire.answers["DELETE channels/c"] = Response(502, body)
    async with Client(wire) as client:
        with pytest.raises(ServerError, match="no reason given"):
            await client.channels.hangup(channelId="c")


async def test_an_answer_of_another_shape_is_an_error_of_ours(wire: ScriptedWire) -> None:
    wire.answers["GET channels/c"] = Response(200, b'{"nothing": "of it"}')
    async with Client(wire) as client:
        with pytest.raises(AriError, match="shape"):
            await client.channels.get(channelId="c")


async def test_following_a_channel_that_is_gone_says_so(wire: ScriptedWire) -> None:
    asked = "POST applications/sanling/subscription"
    async with Client(wire) as client:
        wire.answers[asked] = Response(200, b'{"name": "sanling"}')
        await client.follow("call")
        assert wire.requests[-1] == (asked, {"eventSource": "channel:call"}, None, False)
        wire.answers[asked] = Response(422, b'{"message": "Event source does not exist"}')
        with pytest.raises(NotFound):
            await client.follow("call")
        wire.answers[asked] = Response(400, b'{"message": "No source"}')
        with pytest.raises(Invalid):
            await client.follow("call")


async def test_objects_know_their_verbs(wire: ScriptedWire) -> None:
    wire.answers["GET channels/call~offer-1"] = Response(200, b'{"id": "call~offer-1", "state": "Up"}')
    wire.answers["POST bridges"] = Response(200, b'{"id": "call~bridge"}')
    wire.answers["POST channels/call~offer-1/play"] = Response(201, b'{"id": "call~play-1"}')
    async with Client(wire) as client:
        await client.links.get()
        wire.requests.clear()
        channel = await client.channels.get(channelId="call~offer-1")
        bridge = await client.bridges.create(type="mixing,dtmf_events", bridgeId="call~bridge")
        await channel.answer()
        await bridge.addChannel(channel=["call", channel.id])
        playback = await channel.play(media=["sound:a", "sound:b"], playbackId="call~play-1")
        await playback.stop()
        await channel.setChannelVars(variables={"A": "1"})
        await channel.hangup(reason="busy")
    assert isinstance(channel, BoundChannel)
    assert isinstance(bridge, BoundBridge)
    assert channel.state == "Up"
    assert wire.requests == [
        ("GET channels/call~offer-1", {}, None, False),
        ("POST bridges", {"type": "mixing,dtmf_events", "bridgeId": "call~bridge"}, None, False),
        ("POST channels/call~offer-1/answer", {}, None, True),
        ("POST bridges/call~bridge/addChannel", {"channel": "call,call~offer-1"}, None, True),
        (
            "POST channels/call~offer-1/play",
            {"media": "sound:a,sound:b", "playbackId": "call~play-1"},
            None,
            False,
        ),
        ("DELETE playbacks/call~play-1", {}, None, False),
        ("POST channels/call~offer-1/variables", {}, {"variables": {"A": "1"}}, True),
        ("DELETE channels/call~offer-1", {"reason": "busy"}, None, False),
    ]


async def test_an_id_with_a_slash_stays_one_segment(wire: ScriptedWire) -> None:
    async with Client(wire) as client:
        await client.recordings.deleteStored(recordingName="2025/demo 1?")
        assert wire.requests[-1][0] == "DELETE recordings/stored/2025%2Fdemo%201%3F"


async def test_mute_says_its_direction(wire: ScriptedWire) -> None:
    """Described as optional, refused when absent."""
    async with Client(wire) as client:
        await client.channels.mute(channelId="c")
        assert wire.requests[-1][1] == {"direction": "both"}


async def test_listeners_hear_until_they_close_or_the_channel_is_gone(wire: ScriptedWire) -> None:
    heard: list[str] = []

    async def slowly(channel: BoundChannel, event: ChannelDtmfReceived) -> None:
        await asyncio.sleep(1)
        heard.append(f"{channel.id} {event.digit}")

    async with Client(wire) as client:
        await client.links.get()
        channel = BoundChannel.bound(Channel(id="c"), client)
        listening = channel.on_event("ChannelDtmfReceived", slowly)
        everywhere = client.on_event("ChannelDtmfReceived", lambda event: heard.append(f"any {event.digit}"))
        wire.says("ChannelDtmfReceived", digit="1", channel={"id": "c"})
        wire.says("ChannelDtmfReceived", digit="2", channel={"id": "other"})
        await asyncio.sleep(5)
        assert heard == ["any 1", "c 1", "any 2"]
        listening.close()
        everywhere.close()
        channel.on_event("ChannelDtmfReceived", slowly)
        wire.says("ChannelDestroyed", channel={"id": "c"})
        wire.says("ChannelDtmfReceived", digit="3", channel={"id": "c"})
        await asyncio.sleep(5)
        assert len(heard) == 3


async def test_a_listener_that_fails_harms_nobody(wire: ScriptedWire, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def fails(event: ChannelDtmfReceived) -> None:
        raise LookupError

    async with Client(wire) as client:
        await client.links.get()
        client.on_event("ChannelDtmfReceived", fails)
        client.on_event("ChannelDtmfReceived", lambda event: heard.append(event.digit))
        with caplog.at_level(logging.CRITICAL):
            wire.says("ChannelDtmfReceived", digit="1", channel={"id": "c"})
            await asyncio.sleep(1)
    assert heard == ["1"]


async def test_the_link_s_story_is_told_in_order(wire: ScriptedWire) -> None:
    async with Client(wire) as client:
        assert isinstance(await client.links.get(), LinkUp)
        wire.answers["GET channels"] = Response(200, b'[{"id": "survivor"}]')
        wire.on_link(Link.DOWN)
        assert not client.linked
        wire.on_link(Link.UP)
        assert isinstance(await client.links.get(), LinkDown)
        up = await client.links.get()
        assert isinstance(up, LinkUp)
        assert [channel.id for channel in up.snapshot.channels] == ["survivor"]


async def test_a_link_is_up_only_once_it_can_be_used(wire: ScriptedWire) -> None:
    wire.answers["GET applications/sanling"] = Response(500, b"{}")
    async with Client(wire) as client:
        await asyncio.sleep(3)
        assert client.links.empty()
        wire.answers["GET applications/sanling"] = Response(200, b'{"name": "sanling"}')
        assert isinstance(await client.links.get(), LinkUp)


async def test_whoever_watches_sees_every_request(wire: ScriptedWire) -> None:
    seen: list[tuple[str, bool, type | None]] = []

    def watch(verb: str, blocking: bool, seconds: float, failure: AriError | None) -> None:
        seen.append((verb, blocking, type(failure) if failure else None))

    wire.answers["POST channels/c/answer"] = Response(404, b"{}")
    async with Client(wire, watch=watch) as client:
        await client.links.get()
        seen.clear()
        with pytest.raises(NotFound):
            await client.channels.answer(channelId="c")
        await client.asterisk.ping()
    assert seen == [("channels.answer", True, NotFound), ("asterisk.ping", False, None)]
