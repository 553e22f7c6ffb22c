"""The controller is killed while nobody is there: in the menu, while the case is told, while a message is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from ari_app import orders
from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import PARTY, FakeHouse
from tests.calls.test_killed import MOMENTS, SILENCE_S, Killed, longest_silence_s
from tests.calls.test_outside_hours import SHUT

ANSWERS = {
    "ask-role": "2", "ask-own-number": "1", "ask-case": "12345#", "ask-name": "99#", "ask-need": "2",
}  # fmt: skip
SPEAKS_S = 3.0


class Patient:
    """A caller who hears the case, then leaves a message, and answers whatever is asked."""

    def __init__(self, caller: Any) -> None:
        self.caller = caller
        self.spoke: list[tuple[float, float]] = []
        """From and until, on the loop's clock: the recording hears it, the caller nothing."""
        self._answered = 0

    async def goes_on(self) -> None:
        while self.caller.ended_at is None:
            asked = [
                sound
                for sound in self.caller.ear.sounds
                if sound.what in (*ANSWERS, "ask-after-hours", "ask-again", "beep")
            ]
            if len(asked) > self._answered and (asked[-1].complete or asked[-1].seconds(now()) > 1.0):
                self._answered = len(asked)
                await self._answers(asked[-1].what)
            await asyncio.sleep(0.1)

    async def _answers(self, asked: str) -> None:
        if asked == "beep":
            began = now()
            await asyncio.sleep(0.3)
            await self.caller.says([0.0] * int(8000 * SPEAKS_S))
            await self.caller.keys("#")
            self.spoke.append((began, now() + 2.0))
            return
        told = any(sound.what == "open-orders-none" and sound.complete for sound in self.caller.ear.sounds)
        for key in ANSWERS.get(asked, "2" if told else "1"):
            if self.caller.ended_at is None:
                await self.caller.keys(key)


def now() -> float:
    return asyncio.get_running_loop().time()


async def served(hotline: FakeHouse, state: State, after_s: float | None) -> tuple[Any, Patient]:
    killed = Killed(hotline, state, after_s)
    caller = await hotline.rings(from_=PARTY)
    patient = Patient(caller)
    going = asyncio.create_task(patient.goes_on())
    try:
        await caller.answered()
        await caller.keys("0")
        await caller.ended(timeout_s=300)
        async with asyncio.timeout(30):
            await killed.done.wait()
    finally:
        going.cancel()
    return caller, patient


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "state", [State.AFTER_HOURS, State.SELF_SERVICE, State.LEAVING_MESSAGE], ids=lambda state: state.name
)
async def test_the_caller_hears_the_case_and_leaves_one_message_all_the_same(state, moment):
    await goes_well(state, MOMENTS[moment])


@pytest.mark.parametrize("after_s", [6.5, 7.5, 8.5, 9.5])
async def test_a_message_that_is_being_left_is_kept(after_s):
    """The tone ends about six seconds after the state is entered: the caller speaks, or ends while nobody listens."""
    await goes_well(State.LEAVING_MESSAGE, after_s)


async def goes_well(state: State, after_s: float | None) -> None:
    async with FakeHouse(rules=SHUT) as hotline:
        caller, patient = await served(hotline, state, after_s)
        ending = await hotline.ending(within_s=30)
        assert ending.hung_up_by == "hotline", caller._story()
        assert ending.outcome == "left_in_menu"
        identity = await hotline.identity()
        assert identity is not None
        assert identity.verified
        heard = [sound.what for sound in caller.ear.sounds if sound.complete]
        assert {"case-1", "message-noted", "closing"} <= set(heard), caller._story()
        left = await hotline.ask(lambda s: orders.orders(s, call_id=ending.call_id))
        assert len(left) == 1, caller._story()
        assert left[0].message is not None
        assert left[0].message.spoken_s >= SPEAKS_S - 1.0
        assert len(await hotline.ask(lambda s: s.scalars(select(models.Segment)).all())) == 1
        silence = longest_silence_s(caller, lambda at: any(begin <= at <= end for begin, end in patient.spoke))
        assert silence <= SILENCE_S + SPEAKS_S, caller._story()
        assert hotline.asterisk.stored_recordings == set()
        await hotline.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_message_is_kept_when_its_caller_hangs_up_and_the_controller_is_killed_at_that(moment):
    async with FakeHouse(rules=SHUT) as hotline:
        killed = Killed(hotline, State.ENDED, MOMENTS[moment])
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await caller.keys("0")
        await caller.hears("ask-after-hours", within_s=60)
        await caller.keys("2")
        await caller.hears("beep")
        await caller.says([0.0] * 32_000)
        hotline.asterisk.delays_next("POST", "/stop$", 0.5)
        caller.hang_up()
        async with asyncio.timeout(30):
            await killed.done.wait()
        ending = await hotline.ending(within_s=30)
        left = await hotline.ask(lambda s: orders.orders(s, call_id=ending.call_id))
        assert [order.message is not None for order in left] == [True]
        assert hotline.asterisk.stored_recordings == set()
        await hotline.nothing_is_left()


@pytest.mark.parametrize("gone_after_s", [0.3, 1.0])
async def test_a_caller_who_hangs_up_while_nobody_listens_has_left_the_message(gone_after_s):
    async with FakeHouse(rules=SHUT) as hotline:
        killed = Killed(hotline, State.LEAVING_MESSAGE, 10.0)
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await caller.keys("2112345#99#2")
        await caller.hears("ask-after-hours", within_s=60)
        await caller.keys("2")
        await caller.hears("beep")
        talking = asyncio.create_task(caller.says([0.0] * 80_000))
        while not killed.at_s:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        await asyncio.sleep(gone_after_s)
        caller.hang_up()
        talking.cancel()
        await killed.done.wait()
        ending = await hotline.ending(within_s=30)
        left = await hotline.ask(lambda s: orders.orders(s, call_id=ending.call_id))
        assert [order.message is not None for order in left] == [True]
        row = await hotline.ask(lambda s: s.get(models.WorkOrder, left[0].id))
        assert row.party_id is not None, "whose message it is, is known"


async def test_a_link_that_breaks_as_a_message_ends_loses_nothing():
    async with FakeHouse(rules=SHUT) as hotline:
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await caller.keys("0")
        await caller.hears("ask-after-hours", within_s=60)
        await caller.keys("2")
        await caller.hears("beep")
        await caller.says([0.0] * 32_000)
        hotline.asterisk.drop_link()
        await asyncio.sleep(4.0)
        hotline.asterisk.restore_link()
        await caller.hears("message-noted", within_s=30)
        caller.hang_up()
        ending = await hotline.ending(within_s=30)
        left = await hotline.ask(lambda s: orders.orders(s, call_id=ending.call_id))
        assert [order.message is not None for order in left] == [True]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_message_that_the_ceiling_cut_off_is_entered_by_the_next_controller(moment):
    """Asterisk must stop the recording first: the controller is killed before it has."""
    ending = {"call_ceiling_s": 20.0, "warn_before_ceiling_s": 5.0}
    async with FakeHouse(rules=SHUT, ending=ending) as hotline:
        killed = Killed(hotline, State.OVERTIME, MOMENTS[moment])
        caller = await hotline.rings(from_=PARTY)
        await caller.answered()
        await asyncio.sleep(0.5)
        await caller.keys("0")
        await caller.hears("closed-now")
        await caller.keys("2")
        await caller.hears("beep")
        talking = asyncio.create_task(caller.says([0.0] * 160_000))
        async with asyncio.timeout(60):
            await killed.done.wait()
        talking.cancel()
        await caller.ended(timeout_s=60)
        closed = await hotline.ending(within_s=30)
        assert closed.outcome == "ceiling"
        left = await hotline.ask(lambda s: orders.orders(s, call_id=closed.call_id))
        assert [order.message is not None for order in left] == [True]
        assert hotline.asterisk.stored_recordings == set()
        await hotline.nothing_is_left()
