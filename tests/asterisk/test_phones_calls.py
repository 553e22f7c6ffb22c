"""Test phones and a real Asterisk: what they do arrives, what they report is what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import numpy as np
import pytest

from ari_app.testcall.hearing import RATE, PromptSounds, silences
from ari_app.testcall.phone import Call, NotHeard, Phones, Refused, TooLate
from tests.asterisk.phones_exchange import PhoneExchange

pytestmark = pytest.mark.asterisk


@pytest.fixture
def exchange() -> PhoneExchange:
    return PhoneExchange()


async def test_a_caller_rings_is_answered_and_hears_two_prompts(exchange: PhoneExchange) -> None:
    caller = await exchange.call("prompts")
    await caller.ringing()
    await caller.answered()
    assert caller.rings == 1
    assert caller.answered_after_s == pytest.approx(1.0, abs=0.1)
    opening = await caller.hears("opening", 2)
    role = await caller.hears("ask-role", 2)
    assert (opening.whole, role.whole) == (True, True)
    assert caller.heard.t0 + opening.at_s == pytest.approx(caller.answered_at, abs=0.15)
    assert role.at_s - opening.at_s == pytest.approx(exchange.phones.ear.seconds("opening") + 0.4, abs=0.5)
    await caller.ended(5)
    assert caller.hung_up_by == "them"
    assert [heard.prompt for heard in await caller.transcript()] == ["opening", "ask-role"]
    assert [s.code for s in caller.signals if s.code] == [100, 180, 200]
    assert caller.heard.seconds == pytest.approx(caller.heard.at(caller.ended_at or 0), abs=0.15)
    assert silences(caller.heard.samples[: int(opening.at_s * RATE)], 0.9)


async def test_a_prompt_is_not_heard_that_was_not_played(exchange: PhoneExchange) -> None:
    caller = await exchange.call("prompts")
    await caller.answered()
    with pytest.raises(NotHeard, match="heard: opening at"):
        await caller.hears("closing", 4)


async def test_a_prompt_that_was_cut_is_heard_partly(exchange: PhoneExchange) -> None:
    caller = await exchange.call("cut")
    await caller.answered()
    heard = await caller.hears("ask-need", 1, partly=True)
    assert not heard.whole
    assert heard.cut_at_s == pytest.approx(3.0, abs=0.5)


async def test_music_on_hold_is_recognised(exchange: PhoneExchange) -> None:
    caller = await exchange.call("music")
    await caller.answered()
    await caller.hears("hold-music", 2)
    await caller.hears("closing", 8)
    await caller.ended()
    transcript = await caller.transcript(["hold-music", "closing", "opening"])
    assert [heard.prompt for heard in transcript] == ["hold-music", "closing"]
    assert 3 < transcript[0].until_s - transcript[0].at_s < 7


async def test_twenty_digits_of_twenty_arrive_in_five_calls_at_once(exchange: PhoneExchange) -> None:
    keyed = {f"1540000000{n}": "".join(str((n + d) % 10) for d in range(20)) for n in range(5)}

    async def keys(number: str, digits: str) -> None:
        caller = await exchange.call("digits", from_=number)
        await caller.answered()
        await caller.keys(digits)
        await caller.ended()

    async with asyncio.TaskGroup() as group:
        for number, digits in keyed.items():
            group.create_task(keys(number, digits))
    assert {number: exchange.keyed(number) for number in keyed} == keyed


async def test_an_agent_sees_who_calls_and_both_hear_each_other(exchange: PhoneExchange) -> None:
    agent = await exchange.agent("601")
    caller = await exchange.call("601", display="张律师 (沪)")
    offer = await agent.rings()
    assert (offer.display, offer.number) == ("张律师 (沪)", "15400001234")
    await offer.picks_up()
    await caller.answered()
    sounds = PromptSounds(exchange.instance.settings.prompts)
    async with asyncio.TaskGroup() as group:
        group.create_task(caller.says(sounds["closing"]))
        group.create_task(offer.says(exchange.instance.settings.prompts / "audio" / "disclaimer.alaw"))
    assert (await offer.hears("closing", 1)).whole
    assert (await caller.hears("disclaimer", 1)).whole
    await caller.keys("12#")
    await offer.keys("*5")
    assert (offer.digits, caller.digits) == ("12#", "*5")
    offer.hang_up()
    await caller.ended()
    assert (caller.hung_up_by, offer.hung_up_by) == ("them", "us")


@pytest.mark.parametrize("code", [486, 603, 480])
async def test_an_agent_refuses(exchange: PhoneExchange, code: int) -> None:
    agent = await exchange.agent("601")
    caller = await exchange.call("601")
    offer = await agent.rings()
    offer.refuses(code)
    with pytest.raises(Refused):
        await caller.answered()
    await offer.ended()
    assert (offer.code, offer.hung_up_by, agent.in_talk) == (code, "us", [])


async def test_an_agent_lets_it_ring_until_the_caller_gives_up(exchange: PhoneExchange) -> None:
    agent = await exchange.agent("601")
    caller = await exchange.call("601")
    offer = await agent.rings()
    with pytest.raises(TooLate):
        await caller.answered(1.0)
    caller.hang_up()
    await offer.ended(2)
    assert (offer.state, offer.answered_at, offer.hung_up_by) == ("ended", None, "them")
    assert "CANCEL" in [signal_.name for signal_ in offer.signals]


async def test_a_phone_in_talk_is_busy(exchange: PhoneExchange) -> None:
    agent = await exchange.agent("601")
    first = await exchange.call("601")
    await (await agent.rings()).picks_up()
    await first.answered()
    second = await exchange.call("601", from_="15400009999")
    with pytest.raises(Refused, match="486"):
        await second.answered()
    assert [call.code for call in agent.calls] == [200, 486]


async def test_an_unregistered_phone_cannot_be_reached_until_it_is_back(exchange: PhoneExchange) -> None:
    agent = await exchange.agent("601")
    await agent.unregister()
    with pytest.raises(Refused):
        await (await exchange.call("601")).answered()
    await agent.register()
    await exchange.call("601")
    assert (await agent.rings()).number == "15400001234"


async def test_a_wrong_password_does_not_register(exchange: PhoneExchange) -> None:
    with pytest.raises(Refused) as refusal:
        await exchange.phones.agent("602", "wrong", registrar=exchange.at)
    assert refusal.value.code == 401


async def test_an_agent_dials_its_own_exchange(exchange: PhoneExchange) -> None:
    agent = await exchange.agent("603")
    call = await agent.dials("closing")
    await call.answered()
    assert (await call.hears("closing", 2)).whole


@pytest.mark.parametrize("display", ['quote " and \\', "；DROP <sip:x@y>", "x" * 300])
async def test_a_caller_may_have_an_odd_name(exchange: PhoneExchange, display: str) -> None:
    caller = await exchange.call("prompts", from_="+8615400001234", display=display)
    await caller.answered()


async def test_eight_calls_at_once_cost_little_and_all_hear(exchange: PhoneExchange) -> None:
    calls: list[Call] = [await exchange.call("prompts", from_=f"1540000000{n}") for n in range(8)]
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(call.hears("opening", 5))
    assert len(exchange.phones._handsets) == 3


async def test_a_handset_that_dies_ends_its_calls_and_nothing_else(exchange: PhoneExchange) -> None:
    caller = await exchange.call("music")
    await caller.answered()
    os.kill(exchange.phones._handsets[0]._process.pid, signal.SIGKILL)
    await caller.ended(2)
    with pytest.raises(TooLate):
        await caller.keys("1")
    assert np.isfinite(caller.heard.samples).all()


async def test_phones_say_so_when_nobody_answers() -> None:
    async with Phones("127.0.56.250") as phones:
        began = time.monotonic()
        caller = await phones.caller("15400001234").dials("1", at="127.0.56.251:5060")
        with pytest.raises(TooLate, match="did not ring"):
            await caller.ringing(0.5)
        caller.hang_up()
    assert time.monotonic() - began < 10
