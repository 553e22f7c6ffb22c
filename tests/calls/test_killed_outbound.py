"""The controller is killed in every state of a callback, asked for or being made; another one takes over.

Whatever the moment: the number that was confirmed is not lost and not entered twice, the person who is called is served
to the end, the agent is free afterwards, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.flow.callbacks import Stage
from ari_app.flow.sop import OFFERING_CALLBACK, PLACING, State
from ari_app.store import models
from tests.calls.house import STRANGER, FakeHouse
from tests.calls.test_killed import MOMENTS, Killed, answers_whatever_is_asked, serves
from tests.calls.test_outbound import RULES, TRUNK, asks_for_callback, events

WISHES = {"callback-ask-number": f"{STRANGER}#", "callback-ask-window": "1", "queue-full": "1"}


async def answers(person: Any, talk_s: float) -> None:
    """Picks up whenever it rings, talks, hangs up."""
    while True:
        ringing = await person.rings(timeout_s=2000)
        await asyncio.sleep(3.0)
        if ringing.ended_at is None:
            await ringing.picks_up()
            await asyncio.sleep(talk_s)
            ringing.hang_up()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("state", [s for s in PLACING if s is not State.NOT_REACHED], ids=lambda state: state.name)
async def test_a_callback_is_served_whatever_the_moment(state, moment):
    async with FakeHouse(trunk=TRUNK, rules=RULES) as hotline:
        person = hotline.asterisk.phones.person(STRANGER)
        await asks_for_callback(hotline, STRANGER)
        killed = Killed(hotline, state, MOMENTS[moment])
        agent = await hotline.agent_signs_in("601")
        tasks = [asyncio.create_task(serves(agent, 30.0)), asyncio.create_task(answers(person, 10.0))]
        try:
            async with asyncio.timeout(1500):
                await killed.done.wait()
                while (await events(hotline))[-1] != "served":  # noqa: ASYNC110 - told by the ledger alone
                    await asyncio.sleep(1.0)
        finally:
            for task in tasks:
                task.cancel()
        assert len(person.calls) == 1, "called once"
        assert person.calls[0].answered_at is not None
        await hotline.duty_becomes("601", "idle", within_s=60)
        assert not hotline.house.callbacks.all()
        await hotline.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_who_is_busy_is_tried_again(moment):
    async with FakeHouse(trunk=TRUNK, rules=RULES) as hotline:
        person = hotline.asterisk.phones.person(STRANGER)
        await asks_for_callback(hotline, STRANGER)
        killed = Killed(hotline, State.NOT_REACHED, MOMENTS[moment])
        agent = await hotline.agent_signs_in("601")
        offer = await agent.rings()
        await offer.picks_up()
        (await person.rings()).refuses(486)
        await killed.done.wait()
        await offer.ended(timeout_s=30)
        await hotline.duty_becomes("601", "idle", within_s=10)
        (wish,) = hotline.house.callbacks.all()
        assert (wish.stage, wish.attempts) == (Stage.WAITING, 1)
        offer = await agent.rings(timeout_s=100)
        offer.hang_up()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("state", [*OFFERING_CALLBACK, State.CLOSING], ids=lambda state: state.name)
async def test_a_callback_that_is_asked_for_is_entered_once(state, moment):
    rules = RULES + ("[waiting]\nfull_at = 1\n" if state is State.CALLBACK_OFFERED else "")
    async with FakeHouse(trunk=TRUNK, rules=rules) as hotline:
        if state is State.CALLBACK_OFFERED:
            waiting = await hotline.rings(from_="15400008888")
            await waiting.answered()
            await asyncio.sleep(0.5)
            await waiting.keys("0")
            await hotline.call_is(State.WAITING)
        killed = Killed(hotline, state, MOMENTS[moment])
        caller = await hotline.rings(from_=STRANGER)
        await caller.answered()
        await asyncio.sleep(0.5)
        await caller.keys("0")
        if state is not State.CALLBACK_OFFERED:
            await hotline.call_is(State.WAITING)
            await caller.keys("1")
        if state is State.CALLBACK_ENTRY:
            await hotline.call_is(State.CALLBACK_NUMBER)
            await caller.keys("2")
        confirming = asyncio.create_task(confirms(caller))
        answering = asyncio.create_task(answers_whatever_is_asked(caller, WISHES))
        await caller.ended(timeout_s=300)
        async with asyncio.timeout(30):
            await killed.done.wait()
        for task in (confirming, answering):
            task.cancel()
        await asyncio.sleep(1)
        found = await hotline.ask(lambda s: list(s.scalars(select(models.Callback))))
        assert [(row.number, row.reason) for row in found] == [(STRANGER, "asked")], caller._story()
        (wish,) = hotline.house.callbacks.all()
        assert wish.stage is Stage.WAITING


async def confirms(caller: Any) -> None:
    """1 whenever the number was read back."""
    heard = 0
    while caller.ended_at is None:
        now = sum(sound.what == "callback-confirm" and sound.complete for sound in caller.ear.sounds)
        if now > heard:
            heard = now
            await caller.keys("1")
        await asyncio.sleep(0.1)
