"""Listening, whispering and joining by a snoop on the agent's channel, asked of the fake and of a real Asterisk."""

import asyncio
from typing import Any

import pytest

from tests.contract.line import AUDIO, HELLO, PAUSED, READY, Line, status

SETTLES_S = 0.5


async def leader_dials(line: Line) -> tuple[Any, str]:
    """A leader's phone that dialled a code and was answered: its call, its channel's id."""
    leader = await line.agent("602")
    call = await leader.dials("*81601", line.at)
    while True:
        arrival = await asyncio.wait_for(line.client.arrivals.get(), 5)
        arrival.mailbox.close()
        if arrival.event.args == ("feature", "*81601"):  # and not the agent's leg
            break
    await line.client.channels.answer(channelId=arrival.event.channel.id)
    await call.answered()
    return call, arrival.event.channel.id


async def snoop(line: Line, leader: str, spied: str, whisper: str, n: int = 1) -> str:
    """A snoop on `spied`, in the leader's bridge; gives its id."""
    bridge, name = f"{leader}~lead", f"{leader}~snoop-{n}"
    if n == 1:
        await line.client.bridges.create(bridgeId=bridge, type="mixing,dtmf_events", name=bridge)
        await line.client.bridges.addChannel(bridgeId=bridge, channel=leader, absorbDTMF=True)
    await line.client.channels.snoopChannelWithId(
        channelId=spied, snoopId=name, app="sanling", spy="both", whisper=whisper, appArgs="snoop"
    )
    await line.until("StasisStart", name)
    await line.client.bridges.addChannel(bridgeId=bridge, channel=name)
    await asyncio.sleep(SETTLES_S)
    return name


async def says(call: Any, prompt: str) -> None:
    await call.says(AUDIO / f"{prompt}.alaw")
    await asyncio.sleep(SETTLES_S)


@pytest.mark.parametrize(
    ("whisper", "agent_hears", "caller_hears"), [("none", False, False), ("out", True, False), ("both", True, True)]
)
async def test_who_hears_whom(line: Line, whisper: str, agent_hears: bool, caller_hears: bool) -> None:
    caller, agent, _, offer, _ = await line.talks()
    leader, id = await leader_dials(line)
    await snoop(line, id, offer, whisper)
    await says(agent, READY)
    await says(caller, PAUSED)
    await leader.hears(READY)
    await leader.hears(PAUSED)
    await caller.hears(READY)
    await agent.hears(PAUSED)
    await says(leader, HELLO)
    assert bool(await agent.transcript([HELLO])) is agent_hears
    assert bool(await caller.transcript([HELLO])) is caller_hears
    assert not await leader.transcript([HELLO])


async def test_what_the_hotline_says_to_both_is_heard_by_the_listener_too(line: Line) -> None:
    caller, _, id, offer, bridge = await line.talks()
    leader, listener = await leader_dials(line)
    await snoop(line, listener, offer, "none")
    await line.client.bridges.play(bridgeId=bridge, media=f"sound:{AUDIO / HELLO}", playbackId=f"{id}~play-1")
    await caller.hears(HELLO)
    await leader.hears(HELLO)


async def test_what_is_said_to_the_leader_alone_is_heard_by_nobody_else(line: Line) -> None:
    caller, agent, _, offer, _ = await line.talks()
    leader, id = await leader_dials(line)
    await snoop(line, id, offer, "both")
    await line.play(id, HELLO)
    await leader.hears(HELLO)
    assert not await agent.transcript([HELLO])
    assert not await caller.transcript([HELLO])


async def test_a_second_snoop_takes_the_place_of_the_first(line: Line) -> None:
    caller, agent, _, offer, _ = await line.talks()
    leader, id = await leader_dials(line)
    first = await snoop(line, id, offer, "none")
    await snoop(line, id, offer, "out", 2)
    await line.client.channels.hangup(channelId=first)
    await line.until("StasisEnd", first)
    await says(leader, HELLO)
    await agent.hears(HELLO)
    await says(caller, PAUSED)
    await leader.hears(PAUSED)
    assert not await caller.transcript([HELLO])


async def test_the_leaders_keys_are_told_and_heard_by_nobody(line: Line) -> None:
    caller, agent, _, offer, _ = await line.talks()
    leader, id = await leader_dials(line)
    await snoop(line, id, offer, "both")
    await leader.keys("2")
    await line.until("ChannelDtmfReceived", id, digit="2")
    assert (agent.digits, caller.digits) == ("", "")


async def test_a_snoop_ends_with_whom_it_listens_to_and_the_leader_stays(line: Line) -> None:
    caller, agent, id, offer, bridge = await line.talks()
    _, listener = await leader_dials(line)
    name = await snoop(line, listener, offer, "out")
    agent.hang_up()
    await line.until("StasisEnd", name)
    await line.until("ChannelDestroyed", offer)
    assert await status(line.client.channels.get(channelId=name)) == 404
    assert await status(line.client.channels.get(channelId=listener)) == 0
    assert (await line.client.bridges.get(bridgeId=f"{listener}~lead")).channels == (listener,)
    assert (await line.client.bridges.get(bridgeId=bridge)).channels == (id,)
    assert caller.ended_at is None


async def test_a_leader_who_hangs_up_leaves_the_snoop_and_the_talk(line: Line) -> None:
    caller, agent, _, offer, _ = await line.talks()
    leader, listener = await leader_dials(line)
    name = await snoop(line, listener, offer, "both")
    leader.hang_up()
    await line.until("StasisEnd", listener)
    assert await status(line.client.channels.get(channelId=name)) == 0
    await line.client.channels.hangup(channelId=name)
    await line.until("StasisEnd", name)
    await says(caller, PAUSED)
    await agent.hears(PAUSED)
    assert not line.told("ChannelDestroyed", name)


async def test_a_snoop_outlives_the_controller_as_something_of_ours(line: Line) -> None:
    *_, offer, _ = await line.talks()
    _, listener = await leader_dials(line)
    name = await snoop(line, listener, offer, "out")
    now = await line.another_controller()
    assert name in now.application.channel_ids
    assert name in {channel.id for channel in now.channels}
    await line.client.channels.hangup(channelId=name)
    await line.until("StasisEnd", name)


async def test_a_leader_who_enters_the_talks_bridge_takes_the_agents_place(line: Line) -> None:
    caller, agent, id, offer, bridge = await line.talks()
    leader, listener = await leader_dials(line)
    name = await snoop(line, listener, offer, "none")
    await line.client.bridges.addChannel(bridgeId=bridge, channel=listener, inhibitConnectedLineUpdates=True)
    await line.client.channels.hangup(channelId=offer)
    await agent.ended()
    await line.until("StasisEnd", name)
    assert set((await line.client.bridges.get(bridgeId=bridge)).channels) == {id, listener}
    await asyncio.sleep(SETTLES_S)
    await says(leader, READY)
    await caller.hears(READY)
    await says(caller, PAUSED)
    await leader.hears(PAUSED)


async def test_what_cannot_be_snooped_on(line: Line) -> None:
    _, id = await line.is_through()
    snoop = line.client.channels.snoopChannelWithId
    assert await status(snoop(channelId="nobody", snoopId="s-1", app="sanling", spy="both")) == 404
    assert await status(snoop(channelId=id, snoopId="s-1", app="sanling", spy="none", whisper="none")) == 400
    assert await status(snoop(channelId=id, snoopId="s-1", app="", spy="both")) == 400
    await snoop(channelId=id, snoopId="s-1", app="sanling", spy="both")
    await line.until("StasisStart", "s-1")
    assert await status(snoop(channelId=id, snoopId="s-1", app="sanling", spy="both")) == 500
