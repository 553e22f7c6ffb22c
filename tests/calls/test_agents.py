"""What agents do at their phones: sign in anywhere, pause with a reason, wrap up for longer. Each script runs against
the fake Asterisk, and against a real one, where what was said is judged from the audio.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ari_app.flow.duty import day_of
from ari_app.flow.sop import State
from ari_app.store.models import Agent, AgentState, DutyNote
from tests.calls.house import STRANGER, FakeHouse, Script
from tests.calls.paths import reach

pytestmark = pytest.mark.hotline_settings(queue={"wrap_up_s": 6.0})
"""A real hotline of their own: a locked account and a spent allowance last longer than a script."""


async def dials(phone: Any, code: str, *prompts: str) -> None:
    """`phone` dials `code`, hears `prompts` in this order, and is hung up."""
    call = await phone.dials(code)
    for prompt in prompts:
        await call.hears(prompt)
    await call.ended()


async def codes(hotline: Script, agent: str) -> list[tuple[str, str | None]]:
    """What this agent became in the last steps: state and code of the pause."""

    def read(session: Session) -> list[tuple[str, str | None]]:
        rows = select(AgentState.now, AgentState.code).where(AgentState.agent == agent).order_by(AgentState.id)
        return [(now, code) for now, code in session.execute(rows)]

    return await hotline.ask(read)


async def notes(hotline: Script, agent: str) -> list[tuple[str, str | None]]:
    def read(session: Session) -> list[tuple[str, str | None]]:
        rows = select(DutyNote.what, DutyNote.code).where(DutyNote.agent == agent).order_by(DutyNote.id)
        return [(what, code) for what, code in session.execute(rows)]

    return await hotline.ask(read)


# ---------------------------------------------------------------- at which phone


async def test_an_agent_signs_in_at_another_phone_and_is_rung_there(hotline):
    own, other = await hotline.phone("603"), await hotline.phone("605")
    await dials(other, f"*11603*{hotline.access['603'].pin}", "agent-signed-in")
    assert await hotline.agent_at("605") == "603"
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await caller.keys("0")
    offer = await other.rings()
    assert own.in_talk == []
    await hotline.duty_becomes("603", "ringing")
    await offer.picks_up()
    await caller.hears("opening-agent-603", partly=True)
    caller.hang_up()
    await offer.ended()
    assert (await hotline.ending()).agent == "603"
    assert await hotline.offers() == [("603", "offered"), ("603", "answered"), ("603", "joined")]
    await hotline.duty_becomes("603", "wrap_up")
    await dials(other, "*15", "agent-ready")
    await dials(own, f"*11{hotline.access['603'].pin}", "agent-signed-in")
    assert await hotline.agent_at("603") == "603"
    second = await hotline.rings(from_=STRANGER)
    await second.answered()
    await second.keys("0")
    await (await own.rings()).picks_up()
    await second.hears("opening-agent-603", partly=True)
    second.hang_up()
    await hotline.ending()


async def test_number_and_pin_are_asked_for_one_after_the_other(hotline):
    phone = await hotline.phone("605")
    call = await phone.dials("*11*")
    await call.hears("agent-enter-number")
    await call.keys("606#")
    await call.hears("agent-enter-pin")
    await call.keys(f"{hotline.access['606'].pin}#")
    await call.hears("agent-signed-in")
    await call.ended()
    assert await hotline.agent_at("605") == "606"
    await dials(phone, "*12", "agent-signed-out")
    assert await hotline.agent_at("605") is None


async def test_an_agent_number_that_is_not_there_is_refused(hotline):
    phone = await hotline.phone("605")
    await dials(phone, "*11699*246813", "entry-invalid")


async def test_whoever_signs_in_at_a_phone_that_was_left_takes_it(hotline):
    phone = await hotline.agent_signs_in("608")
    await dials(phone, f"*11609*{hotline.access['609'].pin}", "agent-signed-in")
    assert (await hotline.duty("608"), await hotline.duty("609")) == ("signed_out", "idle")
    await dials(phone, "*131", "agent-paused-break")
    assert (await hotline.duty("608"), await hotline.duty("609")) == ("signed_out", "paused")


async def test_signing_in_elsewhere_while_on_a_call_is_refused(hotline):
    agent, elsewhere = await hotline.agent_signs_in("604"), await hotline.phone("605")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await dials(elsewhere, f"*11604*{hotline.access['604'].pin}", "agent-busy")
    assert await hotline.agent_at("604") == "604"
    offer.hang_up()
    caller.hang_up()
    await hotline.ending()


async def test_a_phone_whose_agent_is_on_a_call_is_not_given_to_another():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("604")
        caller, offer = await reach(hotline, State.TALKING, agent)
        await dials(agent, f"*11607*{hotline.access['607'].pin}", "agent-phone-taken")
        assert (await hotline.duty("604"), await hotline.duty("607")) == ("talking", "signed_out")
        assert offer.ended_at is None
        caller.hang_up()
        await hotline.ending()


async def test_three_wrong_pins_lock_the_account_and_the_right_one_does_not_open_it(hotline):
    phone = await hotline.phone("612")
    unlocked = update(Agent).where(Agent.number == "612").values(wrong_pins=0, locked_until=None)
    await hotline.ask(lambda session: session.execute(unlocked).close())  # by an earlier try
    call = await phone.dials("*11999999")
    for _ in range(2):
        await call.hears("agent-pin-wrong")
        await call.hears("agent-enter-pin")
        await call.keys("999999#")
    await call.hears("agent-locked")
    await call.ended()
    await dials(phone, f"*11{hotline.access['612'].pin}", "agent-locked")
    assert await hotline.duty("612") == "signed_out"
    assert (await notes(hotline, "612"))[-3:] == [("wrong_pin", None), ("wrong_pin", None), ("pin_locked", None)]


async def test_a_locked_account_is_open_again_after_a_while():
    async with FakeHouse(rules="[sign_in]\nwrong_pins = 1\nlocked_s = 60") as hotline:
        phone = await hotline.phone("612")
        await dials(phone, "*11999999", "agent-locked")
        await asyncio.sleep(61)
        await dials(phone, f"*11{hotline.access['612'].pin}", "agent-signed-in")


# ---------------------------------------------------------------- pauses


async def test_a_pause_with_its_code_says_the_reason_and_what_is_left_of_today(hotline):
    phone = await hotline.agent_signs_in("610")
    await dials(phone, "*131", "agent-paused-break", "agent-pause-left-30")
    assert await hotline.duty("610") == "paused"
    await dials(phone, "*14", "agent-resumed")
    await dials(phone, "*133", "agent-paused-training")
    await dials(phone, "*13", "agent-paused")
    assert (await codes(hotline, "610"))[-5:] == [
        ("idle", None), ("paused", "1"), ("idle", None), ("paused", "3"), ("paused", None),
    ]  # fmt: skip
    await dials(phone, "*139", "agent-pause-unknown")


async def test_a_spent_allowance_is_said_and_recorded_and_the_pause_is_granted(hotline):
    phone = await hotline.agent_signs_in("611")

    def paused_for_long(session: Session) -> None:
        """Today, half an hour and more before the sign-in just now."""
        signed_in = session.scalars(select(AgentState).where(AgentState.agent == "611").order_by(AgentState.id)).one()
        began = signed_in.at - 3600
        assert day_of(began, hotline.settings.zone) == day_of(signed_in.at, hotline.settings.zone), (
            "it is past midnight"
        )
        for n, (after_s, was, now, code) in enumerate(
            ((0, "signed_out", "idle", None), (60, "idle", "paused", "1"), (1920, "paused", "signed_out", None))
        ):
            session.add(
                AgentState(
                    id=n + 1, agent="611", at=began + after_s, was=was, now=now, reason="", call_id=None, code=code
                )
            )

    await hotline.ask(paused_for_long)
    await dials(phone, "*131", "agent-paused-break", "agent-pause-spent")
    assert await hotline.duty("611") == "paused"
    await dials(phone, "*14", "agent-resumed", "agent-pause-spent")
    assert await notes(hotline, "611") == [("allowance_spent", "1")]


# ---------------------------------------------------------------- wrap-up


async def test_wrap_up_is_made_longer_by_code_and_ended_by_another(hotline):
    agent = await hotline.agent_signs_in("602")
    caller, offer = await reach(hotline, State.TALKING, agent)
    caller.hang_up()
    await offer.ended()
    await hotline.ending()
    await dials(agent, "*16", "agent-wrap-up-extended")
    await asyncio.sleep(7)
    assert await hotline.duty("602") == "wrap_up"
    await dials(agent, "*15", "agent-ready")
    assert await hotline.duty("602") == "idle"
    await dials(agent, "*16", "agent-not-wrapping-up")


# ---------------------------------------------------------------- states


async def test_a_phone_that_rings_is_a_state_of_its_own_and_outlives_the_controller():
    async with FakeHouse() as hotline:
        agent = await hotline.agent_signs_in("601")
        caller, offer = await reach(hotline, State.OFFERING, agent)
        await hotline.duty_becomes("601", "ringing")
        await hotline.controller_dies()
        await hotline.controller_starts()
        assert await hotline.duty("601") == "ringing"
        await offer.picks_up()
        await caller.hears("opening-agent-601", partly=True)
        assert await hotline.duty("601") == "talking"
        caller.hang_up()
        await hotline.ending()
        states = [now for now, _ in await codes(hotline, "601")]
        assert states == ["idle", "reserved", "ringing", "talking", "wrap_up"]


async def test_an_agent_who_is_held_for_nothing_is_free_and_it_is_counted():
    async with FakeHouse() as hotline:
        await hotline.agent_signs_in("601")
        desk = hotline.house.desk
        desk.join("demo-9.9", desk._clock(), Nobody())  # a call that never answers its reservation
        hotline.reception.calls["demo-9.9"] = Nobody()
        await hotline.duty_becomes("601", "reserved")
        desk.leave("demo-9.9")
        await asyncio.sleep(45)
        assert await hotline.duty("601") == "idle"
        assert await notes(hotline, "601") == [("mended", None)]
        assert hotline.registry.get_sample_value("sanling_agents_mended_total", {"state": "reserved"}) == 1
        del hotline.reception.calls["demo-9.9"]


class Nobody:
    """A call, and its mailbox, that hears nothing."""

    inbox: Any = property(lambda self: self)

    def put(self, event: object) -> None:
        pass
