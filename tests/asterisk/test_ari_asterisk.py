"""The ARI client and a real Asterisk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ari_app.ari import LinkDown, generate
from ari_app.ari import events as generated_events
from ari_app.ari.errors import (
    AllocationFailed,
    ApplicationReplaced,
    AriError,
    Conflict,
    Invalid,
    NotFound,
    RequestTooLarge,
    ServerError,
    Unreachable,
)
from ari_app.ari.model import Event
from ari_app.ari.websocket import FRAME_LIMIT
from ari_app.instance import find_asterisk
from ari_app.settings import load
from tests.asterisk.ari_asterisk import AriAsterisk, hears, linked

pytestmark = pytest.mark.asterisk


@pytest.fixture
def asterisk() -> AriAsterisk:
    return AriAsterisk()


def test_the_generated_code_is_what_this_asterisk_describes() -> None:
    asterisk = find_asterisk(load(environment={}))
    root = asterisk.root or Path("/")
    description = generate.Description(generate.rest_api_folder(root))
    if description.digest not in (generated_events.__doc__ or ""):
        pytest.skip(f"generated from another Asterisk than {asterisk.version}")
    assert generate.main(["--check", str(root)]) == 0


async def test_a_caller_is_answered_hears_a_prompt_and_hangs_up(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        arrival = await asterisk.a_caller(client)
        caller, inbox = arrival.event.channel, arrival.mailbox
        assert arrival.event.args == ("inbound",)
        assert caller.id.startswith("ari-")
        channel = await client.channels.get(channelId=caller.id)
        await channel.answer()
        await channel.play(media="sound:beep", playbackId=f"{caller.id}~play-1")
        seen = await hears(inbox, "PlaybackFinished")
        assert "PlaybackStarted" not in seen, "nobody acts on it"
        await channel.hangup(reason="normal")
        await hears(inbox, "StasisEnd")
        async with asyncio.timeout(5):
            while caller.id in {one.id for one in await client.channels.list()}:  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(0.02)
        with pytest.raises(NotFound):
            await channel.answer()
        assert client.unread == 0


async def test_one_call_s_blocked_verb_does_not_delay_another_s_answer(asterisk: AriAsterisk) -> None:
    """Five callers hear a prompt while a variable is set on each; a sixth must not feel it."""
    async with asterisk.client() as client:
        quiet = (await asterisk.a_caller(client)).event.channel.id
        undisturbed_s = await seconds(client.channels.answer(channelId=quiet))
        callers = [(await asterisk.a_caller(client)).event.channel.id for _ in range(6)]
        *listening, sixth = callers
        for caller in listening:
            await client.channels.answer(channelId=caller)
            await client.channels.play(channelId=caller, media=asterisk.long_media, playbackId=f"{caller}~play")
        async with asyncio.TaskGroup() as group:
            setting = [
                group.create_task(seconds(client.channels.setChannelVar(channelId=caller, variable="V", value="1")))
                for caller in listening
            ]
            await asyncio.sleep(0.3)
            answered_s = await seconds(client.channels.answer(channelId=sixth))
            fast_s = await seconds(client.channels.get(channelId=sixth))
            assert not any(task.done() for task in setting)
            await asyncio.sleep(1.0)
            for caller in listening:
                await client.playbacks.stop(playbackId=f"{caller}~play")
        blocked_s = min(task.result() for task in setting)
        assert blocked_s > 1.0
        assert answered_s < blocked_s / 10, f"undisturbed {undisturbed_s:.4f} s"
        assert fast_s < blocked_s / 10


async def test_exactly_the_verbs_that_asterisk_holds_back_have_lanes(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        channel, _ = await asterisk.a_phone(client)
        bridge = await client.bridges.create(type="mixing", bridgeId=f"{channel.id}~bridge")
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "channels.setChannelVar": lambda: channel.setChannelVar(variable="V", value="1"),
            "channels.setChannelVars": lambda: channel.setChannelVars(variables={"V": "1"}),
            "channels.answer": channel.answer,
            "channels.get": channel.get,
            "channels.getChannelVar": lambda: channel.getChannelVar(variable="CHANNEL(state)"),
            "channels.play": lambda: channel.play(media="sound:beep"),
            "channels.ring": channel.ring,
            "channels.ringStop": channel.ringStop,
            "channels.mute": channel.mute,
            "channels.unmute": channel.unmute,
            "channels.hold": channel.hold,
            "channels.unhold": channel.unhold,
            "channels.startMoh": channel.startMoh,
            "channels.stopMoh": channel.stopMoh,
            "channels.startSilence": channel.startSilence,
            "channels.stopSilence": channel.stopSilence,
            "channels.sendDTMF": lambda: channel.sendDTMF(dtmf="1"),
            "channels.originate": lambda: asterisk.a_phone(client),
            "applications.subscribe": lambda: client.follow(channel.id),
            "bridges.addChannel": lambda: bridge.addChannel(channel=channel.id),
            "bridges.removeChannel": lambda: bridge.removeChannel(channel=channel.id),
            "channels.continueInDialplan": lambda: channel.continueInDialplan(context="ari-test", extension="leaving"),
        }
        held_back: set[str] = set()
        for number, (verb, ask) in enumerate(asked.items()):
            playback = await channel.play(media=asterisk.long_media, playbackId=f"{channel.id}~play-{number}")
            request = asyncio.ensure_future(ask())
            done, _ = await asyncio.wait([request], timeout=0.3)
            if not done:
                held_back.add(verb)
            await playback.stop()
            await request
        # A playback on a channel in a bridge is heard there and holds nothing back; removal may wait elsewhere.
        assert held_back | {"bridges.removeChannel"} == generate.BLOCKING


async def test_refusals_are_told_apart(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        channel, _ = await asterisk.a_phone(client)
        await client.bridges.create(type="mixing,dtmf_events", bridgeId="call-1~bridge")
        refused: list[tuple[Awaitable[Any], type[AriError]]] = [
            (client.channels.answer(channelId="nobody"), NotFound),
            (client.channels.getChannelVar(channelId=channel.id, variable="UNSET"), NotFound),
            (client.playbacks.stop(playbackId="nothing"), NotFound),
            (client.follow("nobody"), NotFound),
            (client.channels.originate(endpoint="PJSIP/999", app="sanling"), AllocationFailed),
            (client.bridges.create(type="mixing", bridgeId="call-1~bridge"), Conflict),
            (client.channels.play(channelId=channel.id, media=[]), ServerError),
            (client.applications.subscribe(applicationName="sanling", eventSource="nonsense"), Invalid),
        ]
        for request, expected in refused:
            with pytest.raises(expected):
                await request


async def test_what_is_written_is_what_is_read(asterisk: AriAsterisk) -> None:
    awkward = '张伟 "a,b;c" \\n=& %20+'
    async with asterisk.client() as client:
        channel, _ = await asterisk.a_phone(client)
        await channel.setChannelVar(variable="ONE", value=awkward)
        await channel.setChannelVars(variables={"TWO": awkward, "THREE": ""})
        assert (await channel.getChannelVar(variable="ONE")).value == awkward
        read = await channel.getChannelVars(variables=["ONE", "TWO"])
        assert read.variables == {"ONE": awkward, "TWO": awkward}


async def test_the_frame_limit_is_asterisk_s_own(asterisk: AriAsterisk) -> None:
    """The largest request that we let through is one that Asterisk reads."""
    async with asterisk.client() as client:
        size, refused = FRAME_LIMIT - 400, None
        while refused is None:
            size += 1
            try:
                await client.asterisk.setGlobalVar(variable="V", value="x" * size)
            except RequestTooLarge as error:
                refused = error
        assert size > FRAME_LIMIT - 300
        assert client.links.empty()


async def test_a_caller_sent_into_the_dialplan_comes_back_to_the_same_mailbox(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        arrival = await asterisk.a_caller(client)
        caller = arrival.event.channel.id
        await client.channels.continueInDialplan(channelId=caller, context="ari-test", extension="returning")
        await hears(arrival.mailbox, "StasisEnd")
        await hears(arrival.mailbox, "StasisStart")
        assert client.arrivals.empty()


async def test_a_followed_caller_s_end_in_the_dialplan_is_heard(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        followed, unheard = await asterisk.a_caller(client), await asterisk.a_caller(client)
        await client.follow(followed.event.channel.id)
        for caller in (followed, unheard):
            await client.channels.continueInDialplan(
                channelId=caller.event.channel.id, context="ari-test", extension="leaving"
            )
        seen = await hears(followed.mailbox, "ChannelDestroyed")
        assert seen.count("StasisEnd") == 1
        await hears(unheard.mailbox, "StasisEnd")
        with pytest.raises(TimeoutError):
            await hears(unheard.mailbox, "ChannelDestroyed", within_s=1.0)


async def test_calls_outlive_a_broken_link_and_are_in_the_snapshot(asterisk: AriAsterisk) -> None:
    wire = asterisk.wire()
    async with asterisk.client() as client:
        arrival = await asterisk.a_caller(client)
        caller = arrival.event.channel.id
        cut_link(client)
        assert isinstance(await client.links.get(), LinkDown)
        up = await linked(client)
        assert caller in {channel.id for channel in up.snapshot.channels}
        assert caller in up.snapshot.application.channel_ids
        await client.channels.answer(channelId=caller)
        await hears(arrival.mailbox, "ChannelStateChange")
    with pytest.raises(Unreachable):
        await wire.request("GET", "asterisk/ping", {}, None, blocking=False, timeout_s=1)


async def test_asterisk_may_be_restarted(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        await asterisk.stop()
        assert isinstance(await client.links.get(), LinkDown)
        with pytest.raises(Unreachable):
            await client.asterisk.ping()
        await asterisk.start()
        assert (await linked(client)).snapshot.channels == ()
        assert (await asterisk.a_caller(client)).event.type == "StasisStart"


async def test_a_second_controller_takes_the_application_and_the_first_one_ends(asterisk: AriAsterisk) -> None:
    first = asyncio.create_task(hold(asterisk))
    await asyncio.sleep(0.5)
    async with asterisk.client() as second:
        with pytest.raises(ApplicationReplaced):
            await asyncio.wait_for(first, 5)
        await second.asterisk.ping()


async def test_lanes_leave_no_trace_in_asterisk(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        await client.channels.answer(channelId=(await asterisk.a_caller(client)).event.channel.id)
        earlier = {application.name for application in await client.applications.list()}
        assert len(earlier) > 1
    async with asterisk.client() as client:
        now = {application.name for application in await client.applications.list()}
        assert earlier & now == {"sanling"}


async def test_only_the_events_that_were_asked_for_are_sent(asterisk: AriAsterisk) -> None:
    async with asterisk.client() as client:
        channel, mailbox = await asterisk.a_phone(client)
        for n in range(5):
            await channel.setChannelVar(variable=f"V{n}", value="1")
        await channel.hangup()
        seen = await hears(mailbox, "ChannelDestroyed")
        assert "ChannelVarset" not in seen


async def test_every_event_asterisk_sends_is_one_we_know(
    asterisk: AriAsterisk, caplog: pytest.LogCaptureFixture
) -> None:
    async with asterisk.client() as client:
        await client.applications.filter(applicationName="sanling", filter={})
        channel, mailbox = await asterisk.a_phone(client)
        other, _ = await asterisk.a_phone(client)
        bridge = await client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{channel.id}~bridge")
        await bridge.addChannel(channel=[channel.id, other.id])
        await bridge.play(media="sound:beep", playbackId=f"{channel.id}~play")
        await channel.record(name=f"{channel.id}~rec", format="wav")
        await channel.setChannelVar(variable="V", value="1")
        await hears(mailbox, "PlaybackFinished")
        await bridge.destroy()
        await channel.hangup()
        await asyncio.sleep(0.5)
        rest = [await mailbox.get() for _ in range(len(mailbox))]
        assert len(rest) > 3
        assert [event for event in rest if not isinstance(event, Event)] == []
    assert "unexpected shape" not in caplog.text


async def hold(asterisk: AriAsterisk) -> None:
    async with asterisk.client():
        await asyncio.Event().wait()


def cut_link(client: Any) -> None:
    client._wire._fast.abort()


async def seconds(request: Awaitable[Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    await request
    return time.perf_counter() - began
