"""When a voice begins and when it pauses, as TALK_DETECT tells it, asked of the fake and of a real Asterisk."""

import asyncio

from tests.contract.line import AUDIO, HELLO, Line

PAUSE_S = 1.0
WITHIN_S = 0.5


async def listens(line: Line, id: str) -> None:
    await line.client.channels.setChannelVar(channelId=id, variable="TALK_DETECT(set)", value="1000,256")


async def test_a_voice_is_told_of_and_its_pause_with_how_long_it_lasted(line: Line) -> None:
    caller, id = await line.is_through()
    await listens(line, id)
    began = asyncio.get_running_loop().time()
    await caller.says(AUDIO / f"{HELLO}.alaw")
    lasted_s = asyncio.get_running_loop().time() - began
    await line.until("ChannelTalkingStarted", id)
    await line.until("ChannelTalkingFinished", id)
    assert asyncio.get_running_loop().time() - began - lasted_s < PAUSE_S + WITHIN_S
    [finished] = line.told("ChannelTalkingFinished", id)
    assert abs(finished["duration"] / 1000 - lasted_s) < WITHIN_S


async def test_nothing_is_told_of_somebody_who_is_not_listened_to_any_more(line: Line) -> None:
    caller, id = await line.is_through()
    await listens(line, id)
    await line.client.channels.setChannelVar(channelId=id, variable="TALK_DETECT(remove)", value="")
    await caller.says(AUDIO / f"{HELLO}.alaw")
    await asyncio.sleep(PAUSE_S + WITHIN_S)
    assert not [event for event in line.tap.events if event["type"].startswith("ChannelTalking")]
