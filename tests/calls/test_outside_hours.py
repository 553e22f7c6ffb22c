"""Outside hours, told as calls: nobody is there, the case is told to the proven, a message is kept in both stores."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import opening, orders
from ari_app.cases import Person
from ari_app.flow.identity import Role
from ari_app.flow.sop import State
from ari_app.prompts import Catalogue
from ari_app.rules import parse
from ari_app.selfservice import cases_of, closed, status_of, told
from ari_app.store import models
from ari_app.testcall.hearing import RATE
from tests.calls.house import LANDLINE, PARTY, STRANGER, FakeHouse, Script

SHUT = """
[hours]
message_silence_s = 4.0
message_longest_s = 20.0
[hours.weekly]
monday = ["00:00-00:01"]
"""
"""Open for one minute a week: nobody is there when the scripts run."""
pytestmark = pytest.mark.hotline_settings(rules=SHUT)
WEI = Person(Role.PARTY, "张", "mr", party_id=1)
PROVES = "2112345#99#"
"""Identity after the menu: a party, by the calling number, case …12345, 张伟."""
OF_THE_CASE = ("next-hearing", "month-", "court-", "latest-", "milestone-", "hearing-none", "open-orders")


async def shut(hotline: Script, from_: str, keys: str = "0") -> Any:
    """A caller who got as far as to be told that nobody is there."""
    caller = await hotline.rings(from_=from_)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys(keys)
    await caller.hears("closed-now")
    return caller


def now_of(hotline: Script) -> float:
    return float(hotline._now()) if isinstance(hotline, FakeHouse) else time.time()


def words_of(hotline: Script) -> Catalogue:
    return Catalogue.inspect(hotline.settings.prompts)


async def his_case(hotline: Script) -> tuple[str, ...]:
    """What 张伟 is to hear of his cases now."""
    now, zone, words = now_of(hotline), hotline.settings.zone, words_of(hotline)

    def read(session: Session) -> tuple[str, ...]:
        found = orders.open_orders_of(session, WEI, cases_of(session, WEI))
        return told(status_of(session, WEI, now), found, words, zone, now)

    return await hotline.ask(read)


async def hears_in_order(caller: Any, prompts: tuple[str, ...]) -> None:
    for prompt in prompts:
        await caller.hears(prompt)


async def is_asked_to_speak(hotline: Script, caller: Any, prompt: str = "leave-message") -> None:
    """Hears `prompt` and the tone after it; on a real phone that is a second in which nearly all sound is at 1 kHz."""
    asked = await caller.hears(prompt, within_s=20)
    if isinstance(hotline, FakeHouse):
        await caller.hears("beep")
        return
    await asyncio.sleep(max(asked.until_s + 1.0 - caller.heard.seconds, 0.0))
    begin = int((asked.until_s - 0.2) * RATE)
    heard = np.asarray(caller.heard.samples[begin : begin + 2 * RATE], dtype=np.float64)
    tones = 0
    for piece in heard[: heard.size // 400 * 400].reshape(-1, 400):
        power = np.abs(np.fft.rfft(piece * np.hanning(400))) ** 2
        tones += bool(power[48:53].sum() > 0.8 * power.sum() and np.sqrt((piece**2).mean()) > 0.003)
    assert tones >= 5, "no tone of a quarter of a second or more"


async def the_order(hotline: Script, call_id: str | None = None) -> orders.Order:
    """The order that came of the last call, or of `call_id`."""
    last = select(models.Call.id).order_by(models.Call.at.desc()).limit(1)
    of = call_id or await hotline.ask(lambda session: session.scalar(last))
    for _ in range(50):
        found = await hotline.ask(lambda session: orders.orders(session, call_id=of))
        if found:
            assert len(found) == 1
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError("no order was opened")


async def test_nobody_is_there_is_said_with_the_next_hour_and_zero_is_no_dead_end(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await shut(hotline, STRANGER)
    now, zone = now_of(hotline), hotline.settings.zone
    opens = opening.next_opening(parse(SHUT), zone, now)
    await hears_in_order(caller, closed(opens, words_of(hotline), zone, now)[1:])
    await caller.hears("ask-after-hours")
    await caller.keys("0")
    await caller.hears("closed-now")
    await caller.hears("ask-after-hours", within_s=20)
    caller.hang_up()
    ending = await hotline.ending()
    assert (ending.outcome, ending.wait_s) == ("left_in_menu", 0.0)
    assert (await hotline.states())[-3:] == ["ADMITTING", "AFTER_HOURS", "ENDED"]
    assert [call for call in agent.calls if call.incoming] == []


async def test_a_proven_party_hears_hearing_milestones_and_orders_in_whole_clauses(hotline):
    caller = await shut(hotline, PARTY)
    await caller.hears("ask-after-hours", within_s=20)
    await caller.keys("1")
    await caller.hears("identity-first")
    await caller.hears("ask-role")
    await caller.keys(PROVES)
    await caller.hears("case-1", within_s=20)
    told_now = await his_case(hotline)
    assert {"case-1", "next-hearing-this", "milestone-scheduled", "case-2", "hearing-none"} <= set(told_now)
    await hears_in_order(caller, told_now[1:])
    await caller.hears("ask-again")
    await caller.keys("1")
    await caller.hears("case-1")
    await caller.keys("2")
    await caller.hears("ask-after-hours")
    caller.hang_up()
    await hotline.ending()
    assert "WAITING" not in await hotline.states()


@pytest.mark.fake_only
async def test_whoever_was_proven_before_is_not_asked_again(hotline):
    caller = await shut(hotline, PARTY, "2112345#99#1")
    await caller.hears("ask-after-hours", within_s=20)
    await caller.keys("1")
    await caller.hears("case-1")
    caller.hang_up()
    await hotline.ending()
    assert (await hotline.states()).count("ASKING_ROLE") <= 1


async def test_whoever_is_not_proven_hears_nothing_of_the_case_however_often_the_menu_is_tried(hotline):
    caller = await shut(hotline, PARTY)
    await caller.hears("ask-after-hours", within_s=20)
    await caller.keys("1")
    for _ in range(3):
        await caller.hears("ask-role", within_s=20)
        await caller.keys("2154321#99#")
    await caller.hears("no-status", within_s=20)
    await caller.keys("1")
    await caller.hears("no-status")
    await caller.hears("ask-after-hours")
    caller.hang_up()
    await hotline.ending()
    heard = [one.prompt for one in await caller.transcript()]
    after_the_hours = heard[heard.index("ask-after-hours") :]  # before it: the day on which somebody is there again
    assert "no-status" in after_the_hours
    assert not [prompt for prompt in after_the_hours if prompt.startswith(OF_THE_CASE)]
    assert len(await hotline.ask(lambda s: s.scalars(select(models.Identity)).all())) >= 3
    assert (await hotline.states()).count("SELF_SERVICE") == 0


async def test_a_message_is_recorded_after_the_tone_ended_by_hash_and_becomes_an_order(hotline):
    caller = await shut(hotline, PARTY, "2112345#99#2")
    await caller.hears("ask-after-hours", within_s=20)
    await caller.keys("2")
    await is_asked_to_speak(hotline, caller)
    await hotline.call_is(State.LEAVING_MESSAGE)
    await caller.says(hotline.settings.prompts / "audio" / "disclaimer.alaw")
    await caller.keys("#")
    await caller.hears("message-noted")
    await caller.hears("closing")
    await caller.ended()
    assert (await hotline.ending()).hung_up_by == "hotline"
    order = await the_order(hotline)
    assert (order.kind, order.must_answer, order.need, order.opened_by) == ("message", "party", "material", "hotline")
    opens = opening.next_opening(parse(SHUT), hotline.settings.zone, order.at)
    assert abs(order.due_at - (opens + 4 * 3600.0)) < 1.0
    assert order.message is not None
    assert 2.0 <= order.message.spoken_s <= order.message.seconds <= 8.0
    await hotline.nothing_is_left()
    if not isinstance(hotline, FakeHouse):
        await the_message_is_audible_in_both_stores(hotline, order)


async def the_message_is_audible_in_both_stores(hotline: Script, order: orders.Order) -> None:
    message, call_id = order.message, order.call_id
    assert message is not None
    copies: list[models.Recording] = []
    query = select(models.Recording).where(models.Recording.call_id == call_id)
    for _ in range(100):
        copies = list(await hotline.ask(lambda s: s.scalars(query).all()))
        if len(copies) == 2:
            break
        await asyncio.sleep(0.2)
    assert {copy.store for copy in copies} == {"local", "second"}
    call = await hotline.ask(lambda s: s.get(models.Call, call_id))
    for copy in copies:
        folder = hotline.settings.local_store if copy.store == "local" else hotline.settings.second_store
        sound, rate = soundfile.read(folder / copy.path)
        begin = int((message.at - call.at) * rate)
        said = sound[begin : begin + int(message.seconds * rate), 0]
        loud = np.sqrt((said[: said.size // 400 * 400].reshape(-1, 400) ** 2).mean(axis=1))
        assert (loud > 0.01).sum() * 400 / rate >= 2.0, f"{copy.store}: the caller's voice is not in the message"


async def test_silence_ends_a_message(hotline):
    caller = await shut(hotline, STRANGER)
    await caller.keys("2")
    await is_asked_to_speak(hotline, caller)
    await caller.says(hotline.settings.prompts / "audio" / "disclaimer.alaw")
    await caller.hears("message-noted", within_s=20)
    caller.hang_up()
    await hotline.ending()
    order = await the_order(hotline)
    assert (order.must_answer, order.need) == ("party", None)


async def test_hanging_up_ends_a_message_and_it_is_kept(hotline):
    caller = await shut(hotline, STRANGER)
    await caller.keys("2")
    await is_asked_to_speak(hotline, caller)
    await caller.says(hotline.settings.prompts / "audio" / "disclaimer.alaw")
    caller.hang_up()
    await hotline.ending()
    order = await the_order(hotline)
    assert order.message is not None
    assert order.message.spoken_s >= 2.0
    await hotline.nothing_is_left()


async def test_a_message_ends_at_the_longest_it_may_be(hotline):
    caller = await shut(hotline, STRANGER)
    await caller.keys("2")
    await is_asked_to_speak(hotline, caller)

    async def goes_on() -> None:
        while True:
            await caller.says(hotline.settings.prompts / "audio" / "disclaimer.alaw")

    talking = asyncio.create_task(goes_on())
    await caller.hears("message-noted", within_s=40)
    talking.cancel()
    caller.hang_up()
    await hotline.ending()
    order = await the_order(hotline)
    assert order.message is not None
    assert 18.0 <= order.message.seconds <= 21.0


async def test_an_empty_message_is_said_and_asked_for_again_and_the_third_time_it_is_the_menu(hotline):
    caller = await shut(hotline, STRANGER)
    await caller.keys("2")
    await is_asked_to_speak(hotline, caller)
    for _ in range(2):
        await is_asked_to_speak(hotline, caller, "message-empty")
    await caller.hears("message-given-up", within_s=20)
    await caller.hears("ask-after-hours")
    caller.hang_up()
    ending = await hotline.ending()
    assert await hotline.ask(lambda s: orders.orders(s, call_id=ending.call_id)) == []


@pytest.mark.fake_only
async def test_a_proven_caller_hears_of_the_message_that_waits_to_be_answered(hotline):
    for left in await hotline.ask(orders.orders):  # by scripts that this hotline served before
        await hotline.ask(
            lambda s, left=left: orders.change(
                s, left.id, orders.Standing.CLOSED, by="601", at=max(hotline.since, left.changed_at)
            )
        )
    first = await shut(hotline, PARTY, "2112345#99#2")
    await first.keys("2")
    await is_asked_to_speak(hotline, first)
    await first.says(hotline.settings.prompts / "audio" / "disclaimer.alaw")
    await first.keys("#")
    await first.hears("message-noted")
    first.hang_up()
    await hotline.ending()
    order = await the_order(hotline)
    again = await shut(hotline, PARTY, "2112345#99#2")
    await again.keys("1")
    told_now = await his_case(hotline)
    assert {"open-orders-1", "orders-due-this"} <= set(told_now)
    await again.hears("open-orders-1", within_s=60)
    await again.hears("orders-due-this")
    again.hang_up()
    await hotline.ending()
    await hotline.ask(
        lambda s: orders.change(s, order.id, orders.Standing.CLOSED, by="601", at=order.at + 1.0)
    )  # fmt: skip
    assert "open-orders-none" in await his_case(hotline)


async def test_a_callback_is_noted_outside_hours(hotline):
    caller = await shut(hotline, PARTY)
    await caller.keys("3")
    await caller.hears("callback-confirm", within_s=20)
    await caller.keys("11")
    await caller.hears("callback-noted", within_s=20)
    caller.hang_up()
    await hotline.ending()


async def test_within_hours_nothing_of_this_is_heard():
    async with FakeHouse(rules=SHUT.replace("00:00-00:01", "00:00-24:00")) as hotline:
        agent = await hotline.agent_signs_in("601")
        caller = await hotline.rings(from_=LANDLINE)
        await caller.answered()
        await caller.keys("0")
        await caller.hears("transferring")
        offer = await agent.rings()
        await offer.picks_up()
        caller.hang_up()
        assert (await hotline.ending()).agent in ("601", None)


async def test_hours_that_end_while_the_caller_keys_count_when_an_agent_is_asked_for():
    """The caller came at nine o'clock; at a minute past nobody is there any more."""
    async with FakeHouse(rules=SHUT.replace("00:00-00:01", "09:00-09:01")) as hotline:
        await hotline.agent_signs_in("601")
        await asyncio.sleep(20)
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await caller.keys("2")
        await asyncio.sleep(45)
        await caller.keys("0")
        await caller.hears("closed-now", within_s=30)
        caller.hang_up()
        await hotline.ending()


async def test_cases_that_cannot_be_looked_up_are_said_and_the_menu_goes_on(monkeypatch):
    async with FakeHouse(rules=SHUT) as hotline:
        caller = await shut(hotline, PARTY, "2112345#99#2")

        def away(*_: object) -> None:
            from ari_app.errors import StoreUnavailable

            raise StoreUnavailable("The database is away.")

        monkeypatch.setattr("ari_app.selfservice.status_of", away)
        await caller.keys("1")
        await caller.hears("status-unavailable")
        await caller.hears("ask-after-hours")
        caller.hang_up()
        await hotline.ending()


async def test_a_recording_that_cannot_begin_is_said_and_the_menu_goes_on():
    async with FakeHouse(rules=SHUT) as hotline:
        caller = await shut(hotline, STRANGER)
        hotline.asterisk.refuses_next("POST", "/record$", 500)
        await caller.keys("2")
        await caller.hears("message-failed", within_s=20)
        await caller.hears("ask-after-hours")
        caller.hang_up()
        await hotline.ending()
