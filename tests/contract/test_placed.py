"""A call that we place, through a Local channel into [outbound], as the fake and a real Asterisk tell of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ari_app.ari.errors import Conflict
from tests.contract.line import Line
from tests.contract.test_contract import is_subsequence
from tests.faults.lightphone import Leg
from tests.faults.lightphone import Line as People

NUMBER = "15400009999"
CALL = "contract-out_1795328458.001"


class Person:
    """Somebody outside whose telephone rings, on either exchange."""

    def __init__(self, fake: Any = None) -> None:
        self.fake = fake
        self.called: asyncio.Queue[Leg] = asyncio.Queue()

    async def rings(self) -> Any:
        if self.fake is not None:
            return await self.fake.rings()
        leg = await asyncio.wait_for(self.called.get(), 8)
        leg.rings()
        return leg


def refuse(call: Any, code: int) -> None:
    call.refuse(code) if isinstance(call, Leg) else call.refuses(code)


async def pick_up(call: Any) -> None:
    if isinstance(call, Leg):
        call.pick_up()
    else:
        await call.picks_up()


@asynccontextmanager
async def somebody(line: Line) -> AsyncIterator[Person]:
    if not line.people_at:
        yield Person(line.phones.person(NUMBER))
        return
    person = Person()
    host, _, port = line.at.partition(":")
    async with People(line.people_at, (host, int(port)), on_invite=lambda _, leg: person.called.put_nowait(leg)):
        yield person


async def made(line: Line, *, ring_s: int = 20) -> None:
    await line.client.channels.create(
        channelId=CALL, otherChannelId=f"{CALL}~line", endpoint=f"Local/{NUMBER}@outbound/n", formats="alaw",
        app="sanling", appArgs="outside", variables={"SANLING_RING_S": str(ring_s)},
    )  # fmt: skip
    await line.until("StasisStart", CALL)


@pytest.mark.parametrize(("code", "cause"), [(486, 17), (603, 21), (480, 19), (404, 1)])
async def test_why_nobody_was_reached_is_the_cause_of_the_first_half(line: Line, code: int, cause: int) -> None:
    async with somebody(line) as person:
        await made(line)
        await line.client.channels.dial(channelId=CALL)
        call = await person.rings()
        await line.until("Dial", CALL, dialstatus="RINGING")
        refuse(call, code)
        await line.until("ChannelDestroyed", CALL)
        assert line.told("ChannelDestroyed", CALL)[0]["cause"] == cause
        assert is_subsequence(
            ["StasisStart", "Dial dialstatus=", "ChannelStateChange state=Ringing", "Dial dialstatus=RINGING",
             f"ChannelHangupRequest cause={cause}", "StasisEnd", f"ChannelDestroyed cause={cause}"],
            [text.partition(" tech_cause")[0] for text in line.story(CALL)],
        ), line.story(CALL)  # fmt: skip


async def test_who_lets_it_ring_is_let_go_in_time(line: Line) -> None:
    async with somebody(line) as person:
        await made(line, ring_s=3)
        await line.client.channels.dial(channelId=CALL)
        await person.rings()
        await line.until("ChannelDestroyed", CALL)
        assert line.told("ChannelDestroyed", CALL)[0]["cause"] == 19


async def test_the_agent_sits_in_the_bridge_before_and_the_answer_is_told(line: Line) -> None:
    async with somebody(line) as person:
        await made(line)
        _, offer = await line.picked_up(CALL, await line.agent())
        bridge = f"{CALL}~bridge-1"
        await line.client.bridges.create(type="mixing,dtmf_events", bridgeId=bridge, name=bridge)
        await line.client.bridges.addChannel(bridgeId=bridge, channel=[offer])
        await line.client.bridges.addChannel(bridgeId=bridge, channel=[CALL])
        await line.client.channels.dial(channelId=CALL)
        call = await person.rings()
        await line.until("Dial", CALL, dialstatus="RINGING")
        await pick_up(call)
        await line.until("ChannelStateChange", CALL, state="Up")
        there = await line.client.bridges.get(bridgeId=bridge)
        assert set(there.channels) == {CALL, offer}
        lines = {channel.id: channel for channel in await line.client.channels.list()}
        assert lines[f"{CALL}~line"].dialplan.app_name == "Dial"
        await line.client.channels.hangup(channelId=CALL)
        await line.until("ChannelDestroyed", CALL)
        await asyncio.sleep(1)
        assert (line.spool / "monitor" / f"{CALL}.done").exists()


async def test_a_name_that_begins_anothers_is_taken(line: Line) -> None:
    await line.agent()
    await line.create(CALL)
    with pytest.raises(Conflict):
        await made(line)


async def test_a_line_that_is_not_up_cannot_be_sent_into_the_dialplan(line: Line) -> None:
    await made(line)
    with pytest.raises(Conflict) as refused:
        await line.client.channels.continueInDialplan(channelId=CALL, context="fallback", extension="s", priority=1)
    assert refused.value.status == 412
    await line.client.channels.hangup(channelId=CALL)
    await line.until("ChannelDestroyed", CALL)
