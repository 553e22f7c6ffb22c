"""What the controller relies on, asked of the fake and of a real Asterisk alike.

Where the two differ the fake is wrong. Times are never compared, orders and outcomes are.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from ari_app.ari import LinkDown, LinkUp
from ari_app.ari.errors import (
    AllocationFailed,
    ApplicationReplaced,
    Conflict,
    NotFound,
    RequestTimeout,
    ServerError,
)
from ari_app.ari.model import instant
from ari_app.ari.wire import Link
from ari_app.testcall.phone import Refused, TooLate
from tests.contract.line import AUDIO, HELLO, PAUSED, READY, Line, media, status


def is_subsequence(lines: list[str], story: list[str]) -> bool:
    """Whether all `lines` are in `story`, in this order."""
    rest = iter(story)
    return all(line in rest for line in lines)


# Arriving and answering


async def test_a_caller_arrives_ringing_and_is_answered(line: Line) -> None:
    caller, id = await line.arrives("15400001234")
    start = line.told("StasisStart", id)[0]
    assert start["args"] == ["inbound"]
    assert start["channel"]["state"] == "Ring"
    assert start["channel"]["caller"]["number"] == "15400001234"
    assert start["channel"]["channelvars"]["SANLING_CONTEXT"] == "unavailable"
    await caller.ringing()
    assert caller.answered_at is None
    await line.client.channels.answer(channelId=id)
    await caller.answered()
    await line.client.channels.answer(channelId=id)
    await line.until("ChannelStateChange", id, state="Up")
    assert line.story(id) == ["StasisStart", "ChannelStateChange state=Up"]


async def test_ids_begin_with_the_instance_and_events_carry_the_moment(line: Line) -> None:
    _, id = await line.is_through()
    name, _, serial = id.rpartition("-")
    assert name
    assert serial.replace(".", "", 1).isdigit()
    moments = [instant(event["timestamp"]) for event in line.tap.events]
    assert moments == sorted(moments)


async def test_a_number_that_is_not_the_hotlines_is_refused(line: Line) -> None:
    caller = await line.phones.caller("15400001234").dials("99999", line.at)
    with pytest.raises(Refused):
        await caller.answered()
    assert caller.code == 404


async def test_a_caller_who_gives_up_before_the_answer(line: Line) -> None:
    caller, id = await line.arrives()
    await line.client.follow(id)
    caller.hang_up()
    await line.until("ChannelDestroyed", id)
    assert line.story(id) == [
        "StasisStart",
        "ChannelHangupRequest cause=127 tech_cause=487",
        "StasisEnd",
        "ChannelHangupRequest cause=16 tech_cause=487 soft=True",
        "ChannelDestroyed cause=127 tech_cause=487",
    ]
    assert await status(line.client.channels.answer(channelId=id)) == 404


# Prompts


async def test_a_prompt_is_started_finished_and_heard(line: Line) -> None:
    caller, id = await line.is_through()
    play = await line.play(id, HELLO)
    await line.until("PlaybackFinished", play)
    assert line.story(play) == ["PlaybackStarted play-1 state=playing", "PlaybackFinished play-1 state=done"]
    await caller.hears(HELLO)
    assert await status(line.client.playbacks.get(playbackId=play)) == 404


async def test_a_stopped_prompt_finishes_as_if_played_out(line: Line) -> None:
    caller, id = await line.is_through()
    play = await line.play(id, HELLO)
    await line.until("PlaybackStarted", play)
    await asyncio.sleep(1.3)
    await line.client.playbacks.stop(playbackId=play)
    await line.until("PlaybackFinished", play)
    assert line.story(play) == ["PlaybackStarted play-1 state=playing", "PlaybackFinished play-1 state=done"]
    heard = await caller.hears(HELLO, partly=True)
    assert not heard.whole
    assert await status(line.client.playbacks.stop(playbackId=play)) == 404


async def test_prompts_on_one_channel_queue(line: Line) -> None:
    caller, id = await line.is_through()
    for n, prompt in enumerate((HELLO, PAUSED, READY), start=1):
        await line.play(id, prompt, n)
    await line.client.playbacks.stop(playbackId=f"{id}~play-2")
    await line.until("PlaybackFinished", f"{id}~play-3")
    assert [entry for entry in line.story() if entry.startswith("Playback")] == [
        "PlaybackStarted play-1 state=playing",
        "PlaybackFinished play-1 state=done",
        "PlaybackFinished play-2 state=done",
        "PlaybackStarted play-3 state=playing",
        "PlaybackFinished play-3 state=done",
    ]
    await caller.hears(HELLO)
    await caller.hears(READY)


async def test_a_playlist_continues_and_skips_what_is_missing(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.play(
        channelId=id, media=[media(PAUSED), "sound:/nowhere", media(READY)], playbackId=f"{id}~list"
    )
    await line.until("PlaybackFinished", f"{id}~list")
    assert line.story(f"{id}~list") == [
        "PlaybackStarted list state=playing",
        "PlaybackContinuing list state=continuing",
        "PlaybackStarted list state=playing",
        "PlaybackContinuing list state=continuing",
        "PlaybackStarted list state=playing",
        "PlaybackFinished list state=done",
    ]
    await caller.hears(PAUSED)
    await caller.hears(READY)


async def test_a_missing_sound_fails_at_once(line: Line) -> None:
    _, id = await line.is_through()
    await line.client.channels.play(channelId=id, media="sound:/nowhere", playbackId=f"{id}~play-1")
    await line.until("PlaybackFinished", f"{id}~play-1")
    assert line.story(f"{id}~play-1") == [
        "PlaybackStarted play-1 state=playing",
        "PlaybackFinished play-1 state=failed",
    ]


async def test_one_name_for_two_playbacks_is_not_refused(line: Line) -> None:
    _, id = await line.is_through()
    await line.play(id, PAUSED)
    await line.play(id, PAUSED)
    await line.until("PlaybackFinished", f"{id}~play-1", times=2)


async def test_blocking_verbs_wait_for_the_prompt_and_hold_up_nobody_else(line: Line) -> None:
    _, id = await line.is_through()
    _, other = await line.arrives("15400005678")
    play = await line.play(id, HELLO)
    setting = asyncio.create_task(line.client.channels.setChannelVar(channelId=id, variable="X", value="1"))
    await line.until("PlaybackStarted", play)
    await line.client.channels.answer(channelId=other)
    assert not line.told("PlaybackFinished", play)
    assert not setting.done()
    await setting
    await line.until("PlaybackFinished", play, within_s=0.5)
    assert (await line.client.channels.getChannelVar(channelId=id, variable="X")).value == "1"


async def test_a_variable_that_is_not_set_is_not_found(line: Line) -> None:
    _, id = await line.is_through()
    unset = {"message": "Provided variable was not found"}
    assert await line.asks(f"channels/{id}/variable", variable="X") == (404, unset)
    await line.client.channels.setChannelVar(channelId=id, variable="X", value="甲 b,c")
    assert await line.asks(f"channels/{id}/variable", variable="X") == (200, {"value": "甲 b,c"})
    await line.client.channels.setChannelVars(channelId=id, variables={"X": "", "Y": "1"})
    assert await line.asks(f"channels/{id}/variable", variable="X") == (200, {"value": ""})
    assert await line.asks(f"channels/{id}/variables", variables="X,Y") == (200, {"variables": {"X": "", "Y": "1"}})
    assert await line.asks(f"channels/{id}/variables", variables="X,Z") == (404, unset)
    assert await line.asks(f"channels/{id}/variable") == (400, {"message": "Variable name is required"})
    gone = {"message": "Provided channel was not found"}
    assert await line.asks("channels/nobody/variable", variable="X") == (404, gone)


async def test_what_a_channel_keeps_is_there_for_the_next_controller(line: Line) -> None:
    _, id = await line.is_through()
    await line.client.channels.setChannelVar(channelId=id, variable="X", value="1")
    await line.another_controller()
    assert await line.asks(f"channels/{id}/variable", variable="X") == (200, {"value": "1"})


async def test_how_far_a_playlist_has_come(line: Line) -> None:
    _, id = await line.is_through()
    name, next_name = f"{id}~list", f"{id}~play-2"
    await line.client.channels.play(channelId=id, media=[media(PAUSED), media(READY)], playbackId=name)
    await line.play(id, HELLO, 2)
    await line.until("PlaybackStarted", name)
    told = {"id": name, "target_uri": f"channel:{id}", "language": "zh", "state": "playing"}
    first, second = {"media_uri": media(PAUSED), "next_media_uri": media(READY)}, {"media_uri": media(READY)}
    assert await line.asks(f"playbacks/{name}") == (200, told | first)
    assert (await line.asks(f"playbacks/{next_name}"))[1]["state"] == "queued"
    await line.until("PlaybackStarted", name, times=2)
    assert await line.asks(f"playbacks/{name}") == (200, told | second)
    await line.another_controller()
    assert await line.asks(f"playbacks/{name}") == (200, told | second)
    await line.until("PlaybackFinished", name)
    assert await line.asks(f"playbacks/{name}") == (404, {"message": "Playback not found"})


async def test_how_far_a_playlist_in_a_bridge_has_come(line: Line) -> None:
    _, _, id, _, bridge = await line.talks()
    name = f"{id}~list"
    await line.client.bridges.play(bridgeId=bridge, media=[media(PAUSED), media(READY)], playbackId=name)
    await line.until("PlaybackStarted", name)
    told = {"id": name, "target_uri": f"bridge:{bridge}", "language": "en", "state": "playing"}
    first, second = {"media_uri": media(PAUSED), "next_media_uri": media(READY)}, {"media_uri": media(READY)}
    assert await line.asks(f"playbacks/{name}") == (200, told | first)
    await line.until("PlaybackStarted", name, times=2)
    await line.another_controller()
    assert await line.asks(f"playbacks/{name}") == (200, told | second)
    await line.until("PlaybackFinished", name, state="done")
    assert await line.asks(f"playbacks/{name}") == (404, {"message": "Playback not found"})


# Keys


async def test_keys_pressed_over_a_prompt_come_one_by_one(line: Line) -> None:
    caller, id = await line.is_through()
    await line.play(id, HELLO)
    await caller.keys("19*#")
    await line.until("ChannelDtmfReceived", id, times=4)
    await asyncio.sleep(0.3)
    assert [event["digit"] for event in line.told("ChannelDtmfReceived", id)] == ["1", "9", "*", "#"]


async def test_keys_of_both_sides_come_through_a_bridge_with_dtmf_events(line: Line) -> None:
    caller, agent, id, offer, _ = await line.talks()
    await asyncio.sleep(0.3)
    await caller.keys("7")
    await agent.keys("*5")
    await line.until("ChannelDtmfReceived", offer, times=2)
    await asyncio.sleep(0.3)
    assert [event["digit"] for event in line.told("ChannelDtmfReceived", id)] == ["7"]
    assert [event["digit"] for event in line.told("ChannelDtmfReceived", offer)] == ["*", "5"]


async def test_keys_that_are_absorbed_are_told_and_go_to_nobody_else_in_the_bridge(line: Line) -> None:
    caller, agent, id, offer, bridge = await line.talks()
    await asyncio.sleep(0.3)
    await agent.keys("12")
    await line.until("ChannelDtmfReceived", offer, times=2)
    await asyncio.sleep(0.3)
    assert caller.digits == "12"
    for channel in (offer, id):
        await line.client.bridges.removeChannel(bridgeId=bridge, channel=[channel])
        await line.client.bridges.addChannel(bridgeId=bridge, channel=[channel], absorbDTMF=True)
    await asyncio.sleep(0.3)
    await agent.keys("*5")
    await caller.keys("7")
    await line.until("ChannelDtmfReceived", offer, times=4)
    await line.until("ChannelDtmfReceived", id)
    await asyncio.sleep(0.3)
    assert (caller.digits, agent.digits) == ("12", "")
    await agent.says(AUDIO / f"{READY}.alaw")
    await caller.hears(READY)


# Hanging up


async def test_a_caller_who_hangs_up_during_a_prompt(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.follow(id)
    await line.play(id, HELLO, 1)
    await line.play(id, HELLO, 2)
    await asyncio.sleep(0.4)
    caller.hang_up()
    await line.until("ChannelDestroyed", id)
    assert line.story() == [
        "StasisStart",
        "ChannelStateChange state=Up",
        "PlaybackStarted play-1 state=playing",
        "ChannelHangupRequest",
        "PlaybackFinished play-1 state=failed",
        "PlaybackStarted play-2 state=playing",
        "PlaybackFinished play-2 state=failed",
        "StasisEnd",
        "ChannelHangupRequest cause=16 soft=True",
        "ChannelDestroyed cause=0",
    ]
    for gone in (
        line.client.channels.get(channelId=id),
        line.client.channels.answer(channelId=id),
        line.client.channels.hangup(channelId=id),
        line.client.channels.play(channelId=id, media=media(HELLO), playbackId=f"{id}~play-3"),
        line.client.channels.setChannelVar(channelId=id, variable="X", value="1"),
        line.client.channels.continueInDialplan(channelId=id, context="fallback", extension="s", priority=1),
        line.client.playbacks.stop(playbackId=f"{id}~play-1"),
    ):
        assert await status(gone) == 404


async def test_without_following_a_caller_nobody_tells_of_the_end(line: Line) -> None:
    caller, id = await line.is_through()
    caller.hang_up()
    await line.until("StasisEnd", id)
    await asyncio.sleep(0.3)
    assert line.story(id)[-1] == "StasisEnd"


async def test_we_hang_up(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.follow(id)
    await line.client.channels.hangup(channelId=id)
    await line.until("ChannelDestroyed", id)
    await caller.ended()
    assert caller.hung_up_by == "them"
    assert line.story(id)[2:] == [
        "ChannelHangupRequest cause=32 soft=True",
        "StasisEnd",
        "ChannelHangupRequest cause=16 soft=True",
        "ChannelDestroyed cause=16",
    ]


async def test_a_reason_for_hanging_up_that_does_not_exist(line: Line) -> None:
    _, id = await line.is_through()
    bored: Any = "bored"
    assert await status(line.client.channels.hangup(channelId=id, reason=bored)) == 400


# Offers to agents


async def test_an_agent_is_offered_a_call_and_picks_up(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.create(id)
    start = line.told("StasisStart", offer)[0]
    assert start["args"] == ["offer", id, "1"]
    assert start["channel"]["state"] == "Down"
    await line.client.channels.dial(channelId=offer, timeout=10)
    call = await agent.rings()
    assert (call.display, call.number) == ("party, verified", "15400001234")
    await line.until("Dial", offer, dialstatus="RINGING")
    await line.until("ChannelStateChange", offer, state="Ringing")
    await call.picks_up()
    await line.until("Dial", offer, dialstatus="ANSWER")
    story = line.story(offer)
    assert story[0] == "StasisStart offer-1"
    assert sorted(story[1:4]) == [  # a phone may ring before Asterisk has said that it dials
        "ChannelStateChange offer-1 state=Ringing", "Dial offer-1 dialstatus=", "Dial offer-1 dialstatus=RINGING",
    ]  # fmt: skip
    assert story[4:] == ["ChannelStateChange offer-1 state=Up", "Dial offer-1 dialstatus=ANSWER"]
    snapshot = await line.client.snapshot()
    assert set(snapshot.application.channel_ids) == {id, offer}
    assert {channel.id: channel.state for channel in snapshot.channels} == {id: "Up", offer: "Up"}


async def test_a_channel_just_created_may_not_be_there_to_dial(line: Line) -> None:
    """It enters our application in its own time, mostly after the answer: dial once it has."""
    _, id = await line.is_through()
    agent = await line.agent()
    offer = f"{id}~offer-1"
    await line.client.channels.create(endpoint="PJSIP/601", channelId=offer, app="sanling", appArgs="offer")
    at_once = await status(line.client.channels.dial(channelId=offer, timeout=10))
    assert at_once in (0, 409)
    await line.until("StasisStart", offer)
    if at_once:
        await line.client.channels.dial(channelId=offer, timeout=10)
    await agent.rings()


async def test_a_phone_is_dialled_once(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.offer(id)
    call = await agent.rings()
    await line.until("ChannelStateChange", offer, state="Ringing")
    assert await status(line.client.channels.dial(channelId=offer, timeout=10)) == 409
    await call.picks_up()
    await line.until("Dial", offer, dialstatus="ANSWER")
    assert await status(line.client.channels.dial(channelId=offer, timeout=10)) == 409
    call.hang_up()
    await line.until("ChannelDestroyed", offer)
    assert await status(line.client.channels.dial(channelId=offer, timeout=10)) == 404
    assert await status(line.client.channels.dial(channelId="nobody", timeout=10)) == 404


@pytest.mark.parametrize("dialled", [False, True], ids=["created", "ringing"])
async def test_what_cannot_be_done_before_the_agent_answers(line: Line, dialled: bool) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.create(id)
    channels = line.client.channels
    if dialled:
        await channels.dial(channelId=offer, timeout=10)
        await agent.rings()
        await line.until("ChannelStateChange", offer, state="Ringing")
    assert await status(channels.play(channelId=offer, media=media(HELLO), playbackId=f"{id}~play-1")) == 412
    assert await status(channels.answer(channelId=offer)) == 412
    assert await status(channels.ring(channelId=offer)) == 412
    assert await status(channels.startMoh(channelId=offer, mohClass="sanling")) == 412
    leaving = channels.continueInDialplan(channelId=offer, context="fallback", extension="s", priority=1)
    assert await status(leaving) == 412
    await channels.setChannelVar(channelId=offer, variable="X", value="1")
    assert (await channels.getChannelVar(channelId=offer, variable="X")).value == "1"
    assert (await channels.get(channelId=offer)).state == ("Ringing" if dialled else "Down")


@pytest.mark.parametrize(
    ("code", "cause"),
    [(486, 17), (603, 21), (480, 19), (404, 1), (408, 18), (500, 38), (503, 34)],
)
async def test_an_agent_refuses(line: Line, code: int, cause: int) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.offer(id)
    call = await agent.rings()
    await line.until("ChannelStateChange", offer, state="Ringing")
    call.refuses(code)
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer)[-3:] == [
        f"ChannelHangupRequest offer-1 cause={cause} tech_cause={code}",
        "StasisEnd offer-1",
        f"ChannelDestroyed offer-1 cause={cause} tech_cause={code}",
    ]
    assert [event["dialstatus"] for event in line.told("Dial", offer)] == ["", "RINGING"]
    assert await status(line.client.channels.get(channelId=offer)) == 404


async def test_an_agent_in_talk_is_busy(line: Line) -> None:
    _, _, id, _, _ = await line.talks()
    offer = await line.offer(id, 2)
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer) == [
        "StasisStart offer-2",
        "Dial offer-2 dialstatus=",
        "ChannelHangupRequest offer-2 cause=17 tech_cause=486",
        "StasisEnd offer-2",
        "ChannelDestroyed offer-2 cause=17 tech_cause=486",
    ]


async def test_an_agent_does_not_answer_in_time(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.offer(id, ring_s=1)
    call = await agent.rings()
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer)[-3:] == [
        "ChannelHangupRequest offer-1 cause=32 soft=True",
        "StasisEnd offer-1",
        "ChannelDestroyed offer-1 cause=19 tech_cause=480",
    ]
    assert [event["dialstatus"] for event in line.told("Dial", offer)] == ["", "RINGING"]
    await call.ended()
    assert call.hung_up_by == "them"
    assert call.code == 487


async def test_an_offer_is_taken_back(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.offer(id)
    call = await agent.rings()
    await line.until("ChannelStateChange", offer, state="Ringing")
    await line.client.channels.hangup(channelId=offer)
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer)[-3:] == [
        "ChannelHangupRequest offer-1 cause=32 soft=True",
        "StasisEnd offer-1",
        "ChannelDestroyed offer-1 cause=16",
    ]
    await call.ended()
    assert call.hung_up_by == "them"
    assert call.code == 487


async def test_an_offer_is_taken_back_before_anybody_dialled(line: Line) -> None:
    _, id = await line.is_through()
    await line.agent()
    offer = await line.create(id)
    await line.client.channels.hangup(channelId=offer)
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer) == [
        "StasisStart offer-1",
        "ChannelHangupRequest offer-1 cause=32 soft=True",
        "StasisEnd offer-1",
        "ChannelHangupRequest offer-1 cause=16 tech_cause=603",
        "ChannelDestroyed offer-1 cause=16 tech_cause=603",
    ]


async def test_an_offer_is_taken_back_in_the_moment_of_dialling(line: Line) -> None:
    """The phone rings for a moment, or never."""
    _, id = await line.is_through()
    agent = await line.agent()
    for n in (1, 2, 3):
        offer = await line.create(id, n)
        channels = line.client.channels
        dialled, _ = await asyncio.gather(
            channels.dial(channelId=offer, timeout=10), channels.hangup(channelId=offer), return_exceptions=True
        )
        assert dialled is None or isinstance(dialled, NotFound | Conflict | AllocationFailed)
        await line.until("ChannelDestroyed", offer)
        assert line.story(offer)[-1].startswith(f"ChannelDestroyed offer-{n} cause=16")
    await asyncio.sleep(0.3)
    assert not agent.in_talk


async def test_a_phone_that_is_not_registered_cannot_be_allocated(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    await agent.unregister()
    assert await status(line.offer(id)) == 500
    assert await status(line.offer(id, number="699")) == 500
    await agent.register()
    await line.offer(id)
    await agent.rings()


async def test_a_name_taken_makes_later_failures_look_alike(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    await line.offer(id)
    await agent.rings()
    assert await status(line.offer(id)) == 409
    assert await status(line.offer(id, 2, number="602")) == 409


async def test_an_agent_who_hangs_up_before_the_bridge(line: Line) -> None:
    _, id = await line.is_through()
    call, offer = await line.picked_up(id, await line.agent())
    call.hang_up()
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer)[-3:] == [
        "ChannelHangupRequest offer-1",
        "StasisEnd offer-1",
        "ChannelDestroyed offer-1 cause=16",
    ]


async def test_a_whisper_before_the_bridge(line: Line) -> None:
    _, id = await line.is_through()
    call, offer = await line.picked_up(id, await line.agent())
    play = await line.play(offer, READY)
    await call.hears(READY)
    await line.until("PlaybackFinished", play, state="done")


async def test_an_agent_who_answers_while_no_controller_is_connected_waits(line: Line) -> None:
    caller, id = await line.is_through()
    agent = await line.agent()
    offer = await line.offer(id)
    call = await agent.rings()
    await line.until("ChannelStateChange", offer, state="Ringing")
    await line.leave()
    await asyncio.sleep(0.2)
    await call.picks_up()
    await asyncio.sleep(1)
    assert call.ended_at is None
    await line.connect()
    up = await asyncio.wait_for(line.client.links.get(), 5)
    assert isinstance(up, LinkUp)
    assert {channel.id: channel.state for channel in up.snapshot.channels} == {id: "Up", offer: "Up"}
    assert set(up.snapshot.application.channel_ids) == {id, offer}
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    await line.client.bridges.addChannel(bridgeId=f"{id}~bridge", channel=[id, offer])
    await asyncio.sleep(0.3)
    await caller.says(AUDIO / f"{READY}.alaw")
    await call.hears(READY)
    call.hang_up()
    await line.until("ChannelDestroyed", offer)


async def test_an_offer_runs_out_while_no_controller_is_connected(line: Line) -> None:
    _, id = await line.is_through()
    agent = await line.agent()
    offer = await line.offer(id, ring_s=1)
    call = await agent.rings()
    await line.leave()
    await call.ended()
    await line.connect()
    up = await asyncio.wait_for(line.client.links.get(), 5)
    assert isinstance(up, LinkUp)
    assert [channel.id for channel in up.snapshot.channels] == [id]
    assert list(up.snapshot.application.channel_ids) == [id]
    assert not line.told("ChannelDestroyed", offer)


# Bridges


async def test_a_bridge_name_is_given_once(line: Line) -> None:
    _, id = await line.is_through()
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    again = line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    assert await status(again) == 409


async def test_joining_and_leaving_a_bridge(line: Line) -> None:
    _, _, id, offer, bridge = await line.talks()
    assert set((await line.client.bridges.get(bridgeId=bridge)).channels) == {id, offer}
    assert list((await line.client.snapshot()).application.bridge_ids) == [bridge]
    await line.client.bridges.addChannel(bridgeId=bridge, channel=id)
    await line.client.bridges.removeChannel(bridgeId=bridge, channel=id)
    await line.client.bridges.addChannel(bridgeId=bridge, channel=id)
    await line.until("ChannelEnteredBridge", id, times=3)
    assert [entry for entry in line.story(id) if "Bridge" in entry] == [
        "ChannelEnteredBridge",
        "ChannelLeftBridge",
        "ChannelEnteredBridge",
        "ChannelLeftBridge",
        "ChannelEnteredBridge",
    ]


async def test_what_cannot_be_done_with_a_bridge(line: Line) -> None:
    _, id = await line.is_through()
    bridge = f"{id}~bridge"
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=bridge, name="talk")
    assert await status(line.client.bridges.addChannel(bridgeId=bridge, channel="nobody")) == 400
    assert await status(line.client.bridges.removeChannel(bridgeId=bridge, channel=id)) == 422
    assert await status(line.client.bridges.addChannel(bridgeId="none", channel=id)) == 404
    assert await status(line.client.bridges.get(bridgeId="none")) == 404
    assert await status(line.client.bridges.destroy(bridgeId="none")) == 404


async def test_a_prompt_in_the_bridge_is_heard_by_both_and_blocks_nothing(line: Line) -> None:
    caller, agent, id, _, bridge = await line.talks()
    play = f"{id}~play-1"
    await line.client.bridges.play(bridgeId=bridge, media=media(HELLO), playbackId=play)
    await line.until("PlaybackStarted", play)
    await line.client.channels.setChannelVar(channelId=id, variable="X", value="1")
    assert not line.told("PlaybackFinished", play)
    await line.until("PlaybackFinished", play, state="done")
    await caller.hears(HELLO)
    await agent.hears(HELLO)


async def test_prompts_in_a_bridge_queue_and_can_be_stopped(line: Line) -> None:
    _, _, id, _, bridge = await line.talks()
    for n in (1, 2):
        await line.client.bridges.play(bridgeId=bridge, media=media(HELLO), playbackId=f"{id}~play-{n}")
    await line.until("PlaybackStarted", f"{id}~play-1")
    for n in (1, 2):
        for _ in range(3):
            with suppress(ServerError):  # 500 in the moment between the two: taken, and not begun
                await line.client.playbacks.stop(playbackId=f"{id}~play-{n}")
                break
            await asyncio.sleep(0.1)
    await line.until("PlaybackFinished", f"{id}~play-2")
    assert is_subsequence(["PlaybackStarted play-1 state=playing", "PlaybackFinished play-1 state=done"], line.story())


async def test_a_bridge_without_members_tells_nothing_of_its_prompts(line: Line) -> None:
    _, id = await line.is_through()
    bridge = f"{id}~bridge"
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=bridge, name="talk")
    await line.client.bridges.play(bridgeId=bridge, media=media(PAUSED), playbackId=f"{id}~play-1")
    await asyncio.sleep(2.2)
    assert line.story() == ["StasisStart", "ChannelStateChange state=Up"]


async def test_while_a_bridge_plays_its_announcer_is_not_among_the_channels(line: Line) -> None:
    _, _, id, offer, bridge = await line.talks()
    await line.client.bridges.play(bridgeId=bridge, media=media(HELLO), playbackId=f"{id}~play-1")
    await line.until("PlaybackStarted", f"{id}~play-1")
    assert {channel.id for channel in await line.client.channels.list()} == {id, offer}
    assert set((await line.client.bridges.get(bridgeId=bridge)).channels) == {id, offer}


async def test_a_whisper_is_heard_by_the_agent_alone(line: Line) -> None:
    caller, agent, _, offer, _ = await line.talks()
    await line.play(offer, HELLO)
    await agent.hears(HELLO)
    assert not await caller.transcript([HELLO])


async def test_the_sides_of_a_bridge_hear_each_other(line: Line) -> None:
    caller, agent, _, _, _ = await line.talks()
    await asyncio.sleep(0.3)
    await agent.says(AUDIO / f"{READY}.alaw")
    await caller.hears(READY)
    await caller.says(AUDIO / f"{PAUSED}.alaw")
    await agent.hears(PAUSED)


async def test_an_agent_who_hangs_up_first_leaves_the_caller_in_the_bridge(line: Line) -> None:
    _, agent, id, offer, bridge = await line.talks()
    agent.hang_up()
    await line.until("ChannelDestroyed", offer)
    assert line.story(offer)[-4:] == [
        "ChannelHangupRequest offer-1 cause=16",
        "ChannelLeftBridge offer-1",
        "StasisEnd offer-1",
        "ChannelDestroyed offer-1 cause=16",
    ]
    assert list((await line.client.bridges.get(bridgeId=bridge)).channels) == [id]


async def test_a_caller_who_hangs_up_first_leaves_agent_and_bridge_as_ghosts(line: Line) -> None:
    caller, agent, id, offer, bridge = await line.talks()
    await line.client.follow(id)
    caller.hang_up()
    await line.until("ChannelDestroyed", id)
    assert line.story(id)[-5:] == [
        "ChannelHangupRequest",
        "ChannelLeftBridge",
        "StasisEnd",
        "ChannelHangupRequest cause=16 soft=True",
        "ChannelDestroyed cause=16",
    ]
    snapshot = await line.client.snapshot()
    assert [channel.id for channel in snapshot.channels] == [offer]
    assert [held.id for held in snapshot.bridges] == [bridge]
    assert agent.ended_at is None


async def test_a_bridge_taken_away_leaves_its_channels(line: Line) -> None:
    _, _, id, offer, bridge = await line.talks()
    await line.client.bridges.destroy(bridgeId=bridge)
    await line.until("ChannelLeftBridge", id)
    await line.until("ChannelLeftBridge", offer)
    # BridgeDestroyed comes or not: the last one to leave takes the subscription along.
    assert {channel.id for channel in await line.client.channels.list()} == {id, offer}
    assert await status(line.client.bridges.get(bridgeId=bridge)) == 404


async def test_a_prompt_dies_with_its_bridge(line: Line) -> None:
    caller, _, id, _, bridge = await line.talks()
    await line.client.bridges.play(bridgeId=bridge, media=media(HELLO), playbackId=f"{id}~play-1")
    await line.until("PlaybackStarted", f"{id}~play-1")
    await line.client.bridges.destroy(bridgeId=bridge)
    await asyncio.sleep(3.5)
    # PlaybackFinished comes or not: whoever takes the bridge away must not wait for it.
    assert not line.told("PlaybackFinished", f"{id}~play-1", state="done")
    assert not [heard for heard in await caller.transcript([HELLO]) if heard.whole]


async def test_joining_a_bridge_waits_for_the_prompt(line: Line) -> None:
    _, id = await line.is_through()
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    await line.play(id, PAUSED)
    await line.client.bridges.addChannel(bridgeId=f"{id}~bridge", channel=id)
    await line.until("ChannelEnteredBridge", id)
    assert is_subsequence(["PlaybackFinished play-1 state=done", "ChannelEnteredBridge"], line.story())


# Music


async def test_music_plays_until_stopped(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.startMoh(channelId=id, mohClass="sanling")
    await caller.hears("hold-music")
    await line.client.channels.stopMoh(channelId=id)
    await line.client.channels.stopMoh(channelId=id)
    await asyncio.sleep(1)
    heard = await caller.transcript(["hold-music"])
    await asyncio.sleep(3)
    assert len(await caller.transcript(["hold-music"])) == len(heard) == 1
    assert line.story() == ["StasisStart", "ChannelStateChange state=Up"]


async def test_a_prompt_ends_the_music_for_good(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.startMoh(channelId=id, mohClass="sanling")
    await caller.hears("hold-music")
    play = await line.play(id, HELLO)
    await caller.hears(HELLO)
    await line.until("PlaybackFinished", play)
    await asyncio.sleep(3)
    assert len(await caller.transcript(["hold-music"])) == 1
    await line.client.channels.startMoh(channelId=id, mohClass="sanling")
    await caller.hears("hold-music")


async def test_music_goes_on_in_a_bridge_and_drowns_what_is_said_there(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.startMoh(channelId=id, mohClass="sanling")
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    call, offer = await line.picked_up(id, await line.agent())
    await line.client.bridges.addChannel(bridgeId=f"{id}~bridge", channel=[id, offer])
    await asyncio.sleep(0.3)
    await call.says(AUDIO / f"{HELLO}.alaw")
    await line.client.channels.stopMoh(channelId=id)
    await asyncio.sleep(0.3)
    await call.says(AUDIO / f"{READY}.alaw")
    await caller.hears(READY)
    assert [heard.prompt for heard in await caller.transcript([HELLO, READY, "hold-music"])] == [
        "hold-music",
        READY,
    ]


async def test_silence_goes_on_in_a_bridge_and_drowns_what_is_said_there(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.startSilence(channelId=id)
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    call, offer = await line.picked_up(id, await line.agent())
    await line.client.bridges.addChannel(bridgeId=f"{id}~bridge", channel=[id, offer])
    await asyncio.sleep(0.3)
    await call.says(AUDIO / f"{HELLO}.alaw")
    await line.client.channels.stopSilence(channelId=id)
    await line.client.channels.stopSilence(channelId=id)
    await asyncio.sleep(0.3)
    await call.says(AUDIO / f"{READY}.alaw")
    await caller.hears(READY)
    assert [heard.prompt for heard in await caller.transcript([HELLO, READY])] == [READY]


async def test_a_prompt_ends_the_silence_for_good(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.startSilence(channelId=id)
    play = await line.play(id, HELLO)
    await caller.hears(HELLO)
    await line.until("PlaybackFinished", play)
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    call, offer = await line.picked_up(id, await line.agent())
    await line.client.bridges.addChannel(bridgeId=f"{id}~bridge", channel=[id, offer])
    await asyncio.sleep(0.3)
    await call.says(AUDIO / f"{READY}.alaw")
    await caller.hears(READY)


async def test_music_that_is_started_twice_goes_on(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.startMoh(channelId=id, mohClass="sanling")
    await caller.hears("hold-music")
    await line.client.channels.startMoh(channelId=id, mohClass="sanling")
    await asyncio.sleep(4)
    await line.client.channels.stopMoh(channelId=id)
    assert len(await caller.transcript(["hold-music"])) == 1
    await asyncio.sleep(1)
    heard = await caller.transcript(["hold-music"])
    await asyncio.sleep(3)
    assert await caller.transcript(["hold-music"]) == heard


async def test_music_of_a_class_that_does_not_exist_is_not_refused(line: Line) -> None:
    _, id = await line.is_through()
    assert await status(line.client.channels.startMoh(channelId=id, mohClass="nowhere")) == 0


# The dialplan


async def test_a_second_look_up_comes_back_with_the_same_channel(line: Line) -> None:
    _, id = await line.is_through()
    keyed = {"SANLING_KEYED_ROLE": "party", "SANLING_KEYED_NUMBER": "15400001234"}
    await line.client.channels.setChannelVars(channelId=id, variables=keyed)
    await line.client.channels.continueInDialplan(channelId=id, context="case-context", extension="s", priority=1)
    await line.until("StasisStart", id, times=2)
    assert line.story(id)[2:] == ["StasisEnd", "StasisStart"]
    assert line.told("StasisStart", id)[1]["args"] == ["context"]
    value = await line.client.channels.getChannelVar(channelId=id, variable="SANLING_CONTEXT")
    assert value.value == "unavailable"


async def test_leaving_for_the_dialplan_waits_for_the_prompt(line: Line) -> None:
    _, id = await line.is_through()
    play = await line.play(id, PAUSED)
    await line.client.channels.continueInDialplan(channelId=id, context="case-context", extension="s", priority=1)
    assert not line.told("PlaybackFinished", play)
    await line.until("StasisStart", id, times=2)
    assert is_subsequence(["PlaybackFinished play-1 state=done", "StasisEnd", "StasisStart"], line.story())


async def test_a_call_given_up_is_apologised_to_and_leaves_a_number(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.continueInDialplan(channelId=id, context="fallback", extension="s", priority=1)
    await caller.hears("fallback-sorry")
    await caller.hears("fallback-leave-number")
    await caller.keys("15400009999#")
    await caller.hears("fallback-noted")
    await caller.ended()
    assert caller.hung_up_by == "them"
    note = (line.spool / "callbacks" / f"{id}.txt").read_text(encoding="ascii")
    assert note.split()[1:] == ["15400009999", "15400001234"]
    assert await status(line.client.channels.get(channelId=id)) == 404


async def test_a_context_that_does_not_exist_drops_the_call(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.follow(id)
    await line.client.channels.continueInDialplan(channelId=id, context="nowhere", extension="s", priority=1)
    await line.until("ChannelDestroyed", id)
    await caller.ended()
    assert caller.hung_up_by == "them"


async def test_feature_codes_of_agents_arrive(line: Line) -> None:
    agent = await line.agent()
    call = await agent.dials("*111234", line.at)
    arrival = await asyncio.wait_for(line.client.arrivals.get(), 5)
    assert arrival.event.args == ("feature", "*111234")
    assert arrival.event.channel.caller.number == "601"
    await line.client.channels.answer(channelId=arrival.event.channel.id)
    await call.answered()
    await line.play(arrival.event.channel.id, "agent-signed-in")
    await call.hears("agent-signed-in")


async def test_agents_cannot_dial_out(line: Line) -> None:
    agent = await line.agent()
    call = await agent.dials("15400001234", line.at)
    with pytest.raises(Refused):
        await call.answered()
    assert call.code == 404


# The controller away


async def test_without_a_controller_the_caller_is_apologised_to(line: Line) -> None:
    await line.leave()
    await asyncio.sleep(0.2)
    caller = await line.phones.caller("15400001234").dials("12368", line.at)
    await caller.hears("fallback-sorry")
    for _ in range(2):  # nothing is keyed
        await caller.hears("fallback-leave-number")
    await caller.hears("fallback-noted")
    caller.hang_up()
    agent = await line.agent()
    call = await agent.dials("*11", line.at)
    await call.hears("fallback-agent")
    await call.ended()


async def test_calls_outlive_the_controller_and_nothing_is_replayed(line: Line) -> None:
    caller, agent, id, offer, bridge = await line.talks()
    await line.leave()
    await asyncio.sleep(0.2)
    await caller.keys("1")
    assert (caller.ended_at, agent.ended_at) == (None, None)
    await line.connect()
    up = await asyncio.wait_for(line.client.links.get(), 5)
    assert isinstance(up, LinkUp)
    assert set(up.snapshot.application.channel_ids) == {id, offer}
    assert list(up.snapshot.application.bridge_ids) == [bridge]
    assert set(up.snapshot.bridges[0].channels) == {id, offer}
    assert line.tap.events == []
    await caller.keys("2")
    await line.until("ChannelDtmfReceived", id)
    assert [event["digit"] for event in line.told("ChannelDtmfReceived", id)] == ["2"]


async def test_bridges_and_playbacks_of_an_earlier_controller_are_heard_of(line: Line) -> None:
    """A bridge belongs to the application while a channel of ours is in it; an empty one is found among all."""
    _, _, id, offer, bridge = await line.talks()
    empty = f"{id}~bridge-2"
    await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=empty, name="talk")
    found = await line.another_controller()
    assert list(found.application.bridge_ids) == [bridge]
    assert {one.id: set(one.channels) for one in found.bridges} == {bridge: {id, offer}, empty: set()}
    play = f"{id}~play-1"
    await line.client.bridges.play(bridgeId=bridge, media=media(READY), playbackId=play)
    await line.until("PlaybackFinished", play)
    await line.client.bridges.addChannel(bridgeId=empty, channel=[id, offer])
    await line.until("ChannelEnteredBridge", empty, times=2)
    assert len(line.told("ChannelLeftBridge", bridge)) == 2
    found = await line.another_controller()
    assert list(found.application.bridge_ids) == [empty]
    await line.client.bridges.destroy(bridgeId=bridge)
    await line.client.bridges.destroy(bridgeId=empty)
    await line.until("ChannelLeftBridge", empty, times=2)
    async with asyncio.timeout(5):
        while (await line.client.snapshot()).bridges:  # noqa: ASYNC110 - listed a moment longer, nothing tells its end
            await asyncio.sleep(0.05)


async def test_a_second_controller_takes_the_application_from_the_first(line: Line) -> None:
    _, id = await line.is_through()
    wire = line.another_wire()
    events: list[bytes] = []
    links: asyncio.Queue[Link] = asyncio.Queue()
    wire.attach(events.append, links.put_nowait)
    running = asyncio.create_task(wire.run())
    try:
        with pytest.raises(ApplicationReplaced):
            await line.is_replaced()
        assert await asyncio.wait_for(links.get(), 5) is Link.UP
        response = await wire.request("GET", "applications/sanling", {}, None, blocking=False, timeout_s=5)
        assert json.loads(response.body)["channel_ids"] == [id]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_look_up_that_ends_while_no_controller_is_connected_waits_for_one(line: Line) -> None:
    caller, id = await line.is_through()
    await line.play(id, PAUSED)
    await line.client.channels.continueInDialplan(channelId=id, context="case-context", extension="s", priority=1)
    await line.leave()
    await caller.hears(PAUSED)
    await asyncio.sleep(2)
    await line.connect()
    await line.linked()
    await line.until("StasisStart", id)
    assert line.told("StasisStart", id)[0]["args"] == ["context"]
    await line.play(id, READY)
    await caller.hears(READY)
    assert not await caller.transcript(["fallback-sorry"])


async def test_a_look_up_is_given_up_when_no_controller_comes(line: Line) -> None:
    caller, id = await line.is_through()
    await line.play(id, PAUSED)
    await line.client.channels.continueInDialplan(channelId=id, context="case-context", extension="s", priority=1)
    await line.leave()
    said = await caller.hears(PAUSED)
    sorry = await caller.hears("fallback-sorry")
    assert sorry.at_s - said.until_s > 3.5


# Asterisk itself


async def test_asterisk_tells_of_itself(line: Line) -> None:
    code, told = await line.asks("asterisk/info", only="status")
    assert code == 200
    assert set(told) == {"status"}
    assert set(told["status"]) == {"startup_time", "last_reload_time"}
    assert instant(told["status"]["startup_time"])
    _, told = await line.asks("asterisk/info")
    assert set(told) == {"build", "system", "config", "status"}
    assert told["system"]["version"].startswith("22.")
    _, told = await line.asks("asterisk/info", only="status,system")
    assert set(told) == {"status", "system"}
    code, told = await line.asks("asterisk/ping")
    assert (code, told["ping"]) == (200, "pong")
    assert set(told) == {"ping", "timestamp", "asterisk_id"}


async def test_asterisk_dies_with_all_its_calls_and_the_phones_notice_nothing(line: Line) -> None:
    caller, agent, id, offer, bridge = await line.talks()
    await asyncio.sleep(2)  # a registration is written down within a second
    await line.play(id, HELLO)
    _, before = await line.asks("asterisk/info", only="status")
    await line.asterisk.dies()
    assert isinstance(await asyncio.wait_for(line.client.links.get(), 10), LinkDown)
    story = line.story()
    await line.asterisk.starts_again()
    held = await line.linked()
    _, after = await line.asks("asterisk/info", only="status")
    assert after["status"]["startup_time"] > before["status"]["startup_time"]
    assert (held.channels, held.bridges) == ((), ())
    assert (held.application.channel_ids, held.application.bridge_ids) == ((), ())
    assert await status(line.client.channels.get(channelId=id)) == 404
    assert await status(line.client.bridges.get(bridgeId=bridge)) == 404
    assert line.story() == story
    assert (caller.state, agent.state) == ("talking", "talking")
    agent.hang_up()
    caller.hang_up()
    await agent.ended()
    await caller.ended()
    assert not line.told("ChannelDestroyed", offer)
    caller, again = await line.is_through()
    await line.offer(again)
    await agent.phone.rings()


async def test_asterisk_stands_still_and_comes_back(line: Line) -> None:
    """For less time than it takes the link to count as broken."""
    caller, id = await line.is_through()
    line.asterisk.freezes()
    asking = line.tap.request("GET", f"channels/{id}", {}, None, blocking=False, timeout_s=0.5)
    with pytest.raises(RequestTimeout):
        await asking
    await caller.keys("5")
    assert not line.told("ChannelDtmfReceived", id)
    line.asterisk.thaws()
    await line.until("ChannelDtmfReceived", id)
    assert (await line.asks(f"channels/{id}"))[0] == 200


async def test_asterisk_stands_still_until_the_link_breaks(line: Line) -> None:
    caller, id = await line.is_through()
    line.asterisk.freezes()
    assert isinstance(await asyncio.wait_for(line.client.links.get(), 10), LinkDown)
    line.asterisk.thaws()
    assert [channel.id for channel in (await line.linked()).channels] == [id]
    await line.play(id, READY)
    await caller.hears(READY)


# Recordings


async def test_every_call_leaves_a_recording(line: Line) -> None:
    caller, id = await line.is_through()
    await line.play(id, PAUSED)
    await caller.hears(PAUSED)
    caller.hang_up()
    await line.until("StasisEnd", id)
    done = line.spool / "monitor" / f"{id}.done"
    async with asyncio.timeout(5):
        while not done.exists():  # noqa: ASYNC110 - a file, not an event
            await asyncio.sleep(0.05)
    assert done.with_suffix(".raw").stat().st_size >= 8000 * 4


async def test_a_phone_that_nobody_calls_does_not_ring(line: Line) -> None:
    agent = await line.agent()
    with pytest.raises(TooLate):
        await agent.rings(0.5)
