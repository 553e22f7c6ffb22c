"""What the fake Asterisk can do beyond what it has in common with the real one: trouble to order, and judging."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ari_app.ari import Client, LinkDown, LinkUp
from ari_app.ari.client import NEEDED_EVENTS
from ari_app.ari.errors import ApplicationReplaced, NotFound, RequestTimeout, ServerError, Unreachable
from ari_app.testcall.phone import NotHeard, TooLate
from tests.fake.asterisk import LANES_KEPT, FakeAsterisk, NotModelled, seconds_each


class Hotline:
    def __init__(self, asterisk: FakeAsterisk, client: Client) -> None:
        self.asterisk = asterisk
        self.client = client

    async def answers(self, from_: str = "15400001234") -> tuple[Any, str]:
        caller = await self.asterisk.phones.caller(from_).dials("12368")
        id = (await self.client.arrivals.get()).event.channel.id
        await self.client.channels.answer(channelId=id)
        return caller, id


def case_context(number: str, role: str, case: str, licence: str) -> Mapping[str, str]:
    if number == "15400009999":
        raise ConnectionError("the AGI server is away")
    return {"SANLING_CONTEXT": "ok", "SANLING_ROLE": role or "unknown", "SANLING_CASES": case or "0"}


@asynccontextmanager
async def a_hotline(spool: Path) -> AsyncIterator[Hotline]:
    lengths = seconds_each(2.0, long=30.0, nothing=None)
    async with (
        FakeAsterisk(lengths, case_context=case_context, spool=spool) as asterisk,
        Client(asterisk) as client,
    ):
        await client.links.get()
        yield Hotline(asterisk, client)


@pytest.fixture
def hotline(tmp_path: Path) -> AbstractAsyncContextManager[Hotline]:
    return a_hotline(tmp_path)


async def test_the_look_up_sets_what_it_finds(hotline: Hotline) -> None:
    _, id = await hotline.answers()
    channel = await hotline.client.channels.get(channelId=id)
    assert channel.channelvars["SANLING_CONTEXT"] == "ok"
    keyed = {"SANLING_KEYED_ROLE": "party", "SANLING_KEYED_NUMBER": "15400001234", "SANLING_KEYED_CASE": "12345"}
    await hotline.client.channels.setChannelVars(channelId=id, variables=keyed)
    await hotline.client.channels.continueInDialplan(channelId=id, context="case-context", extension="s", priority=1)
    await asyncio.sleep(1)
    channel = await hotline.client.channels.get(channelId=id)
    assert channel.channelvars["SANLING_ROLE"] == "party"
    assert channel.channelvars["SANLING_CASES"] == "12345"
    assert "SANLING_KEYED_CASE" not in hotline.asterisk.channels[id].variables


async def test_a_look_up_that_fails_leaves_the_context_unavailable(hotline: Hotline) -> None:
    _, id = await hotline.answers("15400009999")
    channel = await hotline.client.channels.get(channelId=id)
    assert channel.channelvars["SANLING_CONTEXT"] == "unavailable"


async def test_a_link_that_drops_loses_events_and_comes_back_with_a_snapshot(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    hotline.asterisk.drop_link()
    assert isinstance(await hotline.client.links.get(), LinkDown)
    with pytest.raises(Unreachable):
        await hotline.client.channels.get(channelId=id)
    await caller.keys("5")
    assert [event["type"] for event in hotline.asterisk.missed] == ["ChannelDtmfReceived"]
    turned_away = await hotline.asterisk.phones.caller("15400005678").dials("12368")
    await turned_away.hears("fallback-sorry")
    hotline.asterisk.restore_link()
    up = await hotline.client.links.get()
    assert isinstance(up, LinkUp)
    assert up.snapshot.application.channel_ids == (id,)
    assert len(up.snapshot.channels) == 2
    assert turned_away.channel is not None
    assert hotline.asterisk.fallbacks == [turned_away.channel.id]


async def test_a_request_caught_by_a_breaking_link_is_unreachable(hotline: Hotline) -> None:
    _, id = await hotline.answers()
    hotline.asterisk.delays_next("GET", "^channels/", 3.0)
    asking = asyncio.create_task(hotline.client.channels.get(channelId=id))
    await asyncio.sleep(1)
    hotline.asterisk.drop_link()
    with pytest.raises(Unreachable):
        await asking


async def test_another_client_takes_the_application(tmp_path: Path) -> None:
    async with FakeAsterisk() as asterisk:
        running = asyncio.create_task(Client(asterisk).run())
        await asyncio.sleep(1)
        asterisk.replace_application()
        with pytest.raises(ApplicationReplaced):
            await running


async def test_each_controller_has_a_wire_of_its_own() -> None:
    async with FakeAsterisk() as asterisk:
        first, second = Client(asterisk.wire()), Client(asterisk.wire())
        async with first:
            await first.links.get()
        turned_away = await asterisk.phones.caller("15400005678").dials("12368")
        await turned_away.hears("fallback-sorry")
        async with second:
            await second.links.get()
            await second.asterisk.ping()
            asked = len(asterisk.requests)
            with pytest.raises(Unreachable):
                await first.asterisk.ping()
            assert len(asterisk.requests) == asked
            await asterisk.phones.caller("15400001234").dials("12368")
            await second.arrivals.get()
            assert first.arrivals.empty()


async def test_what_was_asked_of_an_asterisk_that_dies_is_never_done(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    await hotline.client.channels.startMoh(channelId=id, mohClass="sanling")
    hotline.asterisk.delays_next("POST", "^bridges$", 3.0)
    asking = asyncio.create_task(hotline.client.bridges.create(type="mixing", bridgeId=f"{id}~bridge", name="talk"))
    await asyncio.sleep(1)
    events = len(hotline.asterisk.events)
    await hotline.asterisk.dies()
    with pytest.raises(Unreachable):
        await asking
    assert isinstance(await hotline.client.links.get(), LinkDown)
    await hotline.asterisk.starts_again()
    up = await hotline.client.links.get()
    assert isinstance(up, LinkUp)
    assert not up.snapshot.channels
    await asyncio.sleep(10)
    assert not hotline.asterisk.ghosts()
    assert len(hotline.asterisk.events) == events
    assert not hotline.asterisk.missed
    assert caller.state == "talking"
    assert [
        round(sound.seconds(caller.began_at + 99)) for sound in caller.ear.sounds if sound.what == "hold-music"
    ] == [1]
    assert not hotline.asterisk.recorded
    caller.hang_up()
    assert caller.state == "ended"


async def test_a_dead_asterisk_takes_no_calls_and_leaves_phones_in_their_talk(hotline: Hotline) -> None:
    agent = await hotline.asterisk.phones.agent("601")
    talking = await agent.dials("*111234")
    id = (await hotline.client.arrivals.get()).event.channel.id
    await hotline.client.channels.answer(channelId=id)
    await hotline.asterisk.dies()
    unheard = await hotline.asterisk.phones.caller("15400001234").dials("12368")
    await talking.keys("1")
    await talking.says("prompt")
    assert (unheard.state, talking.state) == ("calling", "talking")
    await hotline.asterisk.starts_again()
    await hotline.client.links.get()
    await hotline.client.links.get()
    for n, code in ((1, 486), (2, 0)):
        offer = f"{id}~offer-{n}"
        await hotline.client.channels.create(endpoint="PJSIP/601", channelId=offer, app="sanling")
        await asyncio.sleep(0.1)
        await hotline.client.channels.dial(channelId=offer, timeout=10)
        await asyncio.sleep(0.1)
        assert agent.calls[-1].code == code
        talking.hang_up()


async def test_what_a_frozen_asterisk_was_asked_is_done_when_it_thaws(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    hotline.asterisk.freezes()
    asking = hotline.asterisk.request("DELETE", f"channels/{id}", {}, None, blocking=False, timeout_s=1)
    with pytest.raises(RequestTimeout):
        await asking
    new = await hotline.asterisk.phones.caller("15400005678").dials("12368")
    await asyncio.sleep(0.5)
    assert hotline.client.linked
    assert hotline.client.links.empty()
    await asyncio.sleep(2)
    assert isinstance(await hotline.client.links.get(), LinkDown)
    assert (caller.state, new.state) == ("talking", "calling")
    hotline.asterisk.thaws()
    await caller.ended()
    assert isinstance(await hotline.client.links.get(), LinkUp)


async def test_a_new_caller_falls_back_at_once_and_one_who_was_looked_up_after_four_seconds(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    await hotline.client.channels.play(channelId=id, media="sound:opening", playbackId=f"{id}~play-1")
    await hotline.client.channels.continueInDialplan(channelId=id, context="case-context", extension="s", priority=1)
    hotline.asterisk.drop_link()
    new = await hotline.asterisk.phones.caller("15400005678").dials("12368")
    assert (await new.hears("fallback-sorry")).at_s < 0.1
    await caller.hears("opening")
    assert (await caller.hears("fallback-sorry")).at_s == pytest.approx(6.0, abs=0.1)


async def test_trouble_to_order(hotline: Hotline) -> None:
    _, id = await hotline.answers()
    hotline.asterisk.refuses_next("POST", "/play", 500)
    with pytest.raises(ServerError):
        await hotline.client.channels.play(channelId=id, media="sound:opening", playbackId=f"{id}~play-1")
    await hotline.client.channels.play(channelId=id, media="sound:opening", playbackId=f"{id}~play-1")
    hotline.asterisk.delays_next("DELETE", "^playbacks/", 60)
    with pytest.raises(RequestTimeout):
        await hotline.client.playbacks.stop(playbackId=f"{id}~play-1")


async def test_a_blocking_verb_given_up_is_done_all_the_same(hotline: Hotline) -> None:
    _, id = await hotline.answers()
    await hotline.client.channels.play(channelId=id, media="sound:long", playbackId=f"{id}~play-1")
    with pytest.raises(RequestTimeout):
        await hotline.client.channels.setChannelVar(channelId=id, variable="X", value="1")
    await asyncio.sleep(30)
    assert hotline.asterisk.channels[id].variables["X"] == "1"


async def test_blocking_verbs_on_the_fast_lane_and_all_others_hold_up_everybody(hotline: Hotline) -> None:
    _, id = await hotline.answers()
    _, other = await hotline.answers("15400005678")
    await hotline.client.channels.play(channelId=id, media="sound:long", playbackId=f"{id}~play-1")
    answer = partial(hotline.asterisk.request, "POST", f"channels/{id}/answer", {}, None, blocking=False, timeout_s=60)
    wrongly = [asyncio.create_task(answer())]
    for _ in range(LANES_KEPT):
        await asyncio.sleep(0.1)
        await hotline.client.channels.get(channelId=other)  # there is still an idle lane
        wrongly.append(asyncio.create_task(answer()))
    await asyncio.sleep(0.1)
    with pytest.raises(RequestTimeout):
        await hotline.client.channels.get(channelId=other)
    assert [reply.status for reply in await asyncio.gather(*wrongly)] == [204] * (LANES_KEPT + 1)


async def test_keys_are_lost_between_two_in_a_plain_mixing_bridge(hotline: Hotline) -> None:
    """Asterisk may join two SIP legs natively and then sees no keys; the real one here does not load that module."""
    one, first = await hotline.answers()
    other, second = await hotline.answers("15400005678")
    await hotline.client.bridges.create(type="mixing", bridgeId=f"{first}~bridge", name="plain")
    await hotline.client.bridges.addChannel(bridgeId=f"{first}~bridge", channel=[first, second])
    await one.keys("7")
    assert other.digits == "7"
    assert not [event for event in hotline.asterisk.events if event["type"] == "ChannelDtmfReceived"]


async def test_what_is_not_modelled_is_an_error(hotline: Hotline) -> None:
    _, id = await hotline.answers()
    with pytest.raises(NotModelled):
        await hotline.client.channels.hold(channelId=id)


async def test_ghosts_are_named(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    await hotline.client.bridges.create(type="mixing,dtmf_events", bridgeId=f"{id}~bridge", name="talk")
    caller.hang_up()
    await asyncio.sleep(1)
    assert hotline.asterisk.ghosts() == [f"{id}~bridge"]
    with pytest.raises(NotFound):
        await hotline.client.channels.get(channelId=id)


async def test_every_call_leaves_a_recording_of_its_length(hotline: Hotline, tmp_path: Path) -> None:
    caller, id = await hotline.answers()
    await asyncio.sleep(10)
    caller.hang_up()
    await asyncio.sleep(1)
    raw = tmp_path / "monitor" / f"{id}.raw"
    assert raw.with_suffix(".done").exists()
    assert raw.stat().st_size / 32_000 == pytest.approx(hotline.asterisk.recorded[id], abs=0.01)
    assert hotline.asterisk.recorded[id] == pytest.approx(10, abs=0.1)


async def test_what_was_not_heard_is_told(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    await hotline.client.channels.play(channelId=id, media="sound:opening", playbackId=f"{id}~play-1")
    await caller.hears("opening")
    with pytest.raises(NotHeard, match=r"closing within 12 s; heard: .*opening at 0\.00 s"):
        await caller.hears("closing")
    with pytest.raises(NotHeard):
        await caller.hears("opening")
    caller.hang_up()
    with pytest.raises(TooLate):
        await caller.keys("1")


async def test_a_prompt_not_begun_in_time_does_not_count(hotline: Hotline) -> None:
    caller, id = await hotline.answers()
    hearing = asyncio.create_task(caller.hears("opening", 5.0))
    await asyncio.sleep(5.5)
    await hotline.client.channels.play(channelId=id, media="sound:opening", playbackId=f"{id}~play-1")
    with pytest.raises(NotHeard):
        await hearing


async def test_who_joins_a_bridge_during_a_prompt_has_not_heard_it_whole(hotline: Hotline) -> None:
    one, first = await hotline.answers()
    other, second = await hotline.answers("15400005678")
    bridge = f"{first}~bridge"
    await hotline.client.bridges.create(type="mixing,dtmf_events", bridgeId=bridge, name="talk")
    await hotline.client.bridges.addChannel(bridgeId=bridge, channel=first)
    await hotline.client.bridges.play(bridgeId=bridge, media="sound:disclaimer", playbackId=f"{first}~play-1")
    await asyncio.sleep(1)
    await hotline.client.bridges.addChannel(bridgeId=bridge, channel=second)
    await one.hears("disclaimer")
    assert not (await other.transcript())[0].whole


@pytest.mark.parametrize(("late_s", "before_the_answer"), [(0.0, True), (0.01, False)])
async def test_events_come_before_the_answer_or_after_it(late_s: float, before_the_answer: bool) -> None:
    events = (*NEEDED_EVENTS, "PlaybackStarted")
    async with FakeAsterisk(events_late_s=late_s) as asterisk, Client(asterisk, events=events) as client:
        await client.links.get()
        hotline = Hotline(asterisk, client)
        _, id = await hotline.answers()
        mailbox = client.mailboxes.find(id)
        assert mailbox is not None
        while len(mailbox):
            await mailbox.get()
        await client.channels.play(channelId=id, media="sound:opening", playbackId=f"{id}~play-1")
        assert bool([event async for event in _all(mailbox)]) is before_the_answer


async def _all(mailbox: Any) -> AsyncIterator[Any]:
    while len(mailbox):
        event = await mailbox.get()
        if event.type == "PlaybackStarted":
            yield event
