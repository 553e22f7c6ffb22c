"""A message on a caller's line, recorded by ARI: how it ends and what is told of it, by fake and real Asterisk."""

import asyncio
from typing import Any

import pytest

from ari_app.ari.errors import Conflict, NotFound
from tests.contract.line import AUDIO, HELLO, Line

SILENCE_S = 2


async def recording(line: Line, id: str) -> str:
    """One that has begun; its name."""
    name = f"{id}~message-1"
    await line.client.channels.record(
        channelId=id, name=name, format="alaw", maxDurationSeconds=10, maxSilenceSeconds=SILENCE_S,
        ifExists="overwrite", beep=False, terminateOn="#",
    )  # fmt: skip
    await line.tap.until(lambda: bool(of(line, "RecordingStarted")), 3.0)
    return name


def of(line: Line, type: str) -> list[dict[str, Any]]:
    return [event["recording"] for event in line.tap.events if event["type"] == type]


async def finished(line: Line, within_s: float) -> dict[str, Any]:
    await line.tap.until(lambda: bool(of(line, "RecordingFinished")), within_s)
    [told] = of(line, "RecordingFinished")
    assert told["state"] == "done"
    return told


async def test_a_key_ends_it(line: Line) -> None:
    caller, id = await line.is_through()
    name = await recording(line, id)
    await caller.says(AUDIO / "disclaimer.alaw")
    await caller.keys("#")
    told = await finished(line, 3.0)
    assert (told["name"], told["target_uri"]) == (name, f"channel:{id}")


async def test_silence_ends_it(line: Line) -> None:
    _, id = await line.is_through()
    await recording(line, id)
    await finished(line, SILENCE_S + 4.0)


async def test_a_voice_is_told_of_while_it_is_recorded(line: Line) -> None:
    caller, id = await line.is_through()
    await line.client.channels.setChannelVar(channelId=id, variable="TALK_DETECT(set)", value="500,256")
    await recording(line, id)
    assert not line.told("ChannelTalkingStarted", id)
    await caller.says(AUDIO / "disclaimer.alaw")
    await line.until("ChannelTalkingStarted", id)
    await line.until("ChannelTalkingFinished", id)
    await finished(line, SILENCE_S + 4.0)
    assert sum(event["duration"] for event in line.told("ChannelTalkingFinished", id)) > 1500


async def test_a_hang_up_ends_it_before_the_channel_goes(line: Line) -> None:
    caller, id = await line.is_through()
    await recording(line, id)
    await caller.says(AUDIO / f"{HELLO}.alaw")
    caller.hang_up()
    await line.until("StasisEnd", id)
    types = [event["type"] for event in line.tap.events]
    assert types.index("RecordingFinished") < types.index("StasisEnd")


async def test_it_is_live_until_it_is_stopped_then_stored_then_thrown_away(line: Line) -> None:
    caller, id = await line.is_through()
    name = await recording(line, id)
    recordings = line.client.recordings
    assert (await recordings.getLive(recordingName=name)).name == name
    with pytest.raises(Conflict):
        await line.client.channels.record(channelId=id, name=name, format="alaw", ifExists="overwrite")
    talking = asyncio.create_task(caller.says(AUDIO / "disclaimer.alaw"))
    await asyncio.sleep(1.0)
    await recordings.stop(recordingName=name)
    await finished(line, 3.0)
    await talking
    with pytest.raises(NotFound):
        await recordings.getLive(recordingName=name)
    assert (await recordings.getStored(recordingName=name)).name == name
    await recordings.deleteStored(recordingName=name)
    with pytest.raises(NotFound):
        await recordings.getStored(recordingName=name)
