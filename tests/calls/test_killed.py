"""The controller is killed, at every state of the table and at several moments in it; another one takes over.

The caller is patient and answers whatever is asked. Whatever the moment: the call is served to its end, nobody is in
silence for more than five seconds, people who talk are not interrupted, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ari_app.flow.sop import State
from ari_app.store import models
from tests.calls.house import LAWYER, PARTY, FakeHouse
from tests.calls.paths import KEYS, WITH_AGENT

ANSWERS = {
    PARTY: {
        "ask-role": "2", "ask-own-number": "1", "ask-case": "12345#", "ask-name": "99#", "ask-need": "1",
        "ask-rating": "5",
    },
    LAWYER: {
        "ask-role": "1", "ask-firm": "54#", "ask-name": "954#", "ask-licence": "0417#", "ask-own-number": "2",
        "ask-mobile": "15400002001#", "ask-need": "2", "ask-rating": "1", "ask-rating-reason": "#",
    },
}  # fmt: skip
WHO = {state: LAWYER if state.name.startswith("LAWYER") else PARTY for state in State} | {State.RATING_REASON: LAWYER}
BY_ITSELF = (State.RINGING, State.CHECKING, State.FETCHING_CONTEXT, State.ADMITTING)
ON_THE_WAY = [s for s in State if s in (*KEYS, *BY_ITSELF, *WITH_AGENT) and s is not State.PARTY_MOBILE]
"""Of the patient caller; the others are below, or in the scripts of their own."""
SILENCE_S = 5.0
GAP_S = 1.5
"""Until the next controller is there."""
MOMENTS = {"before anything of it is done": None, "during its first request": 0.0, "soon": 0.3, "later": 1.2}


class Killed:
    """Kills the controller once, when the call enters `state`; another one starts after `GAP_S`."""

    def __init__(self, hotline: FakeHouse, state: State, after_s: float | None) -> None:
        self.hotline, self.state, self.after_s = hotline, state, after_s
        self.done = asyncio.Event()
        self.at_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._write = hotline._ledger.write
        hotline._ledger.write = self._watch

    def _watch(self, *rows: Any) -> None:
        self._write(*rows)
        entered = [r for r in rows if isinstance(r, models.Transition) and r.next == self.state.name != r.state]
        if self.state is State.RINGING:
            entered = [row for row in rows if isinstance(row, models.Call)]
        if entered and self._task is None:
            if self.after_s is None:
                self.hotline.asterisk.drop_link()
            self._task = asyncio.get_running_loop().create_task(self._kill())

    async def _kill(self) -> None:
        if self.after_s:
            await asyncio.sleep(self.after_s)
        self.at_s = asyncio.get_running_loop().time()
        await self.hotline.controller_dies()
        await asyncio.sleep(GAP_S)
        await self.hotline.controller_starts()
        self.done.set()


async def answers_whatever_is_asked(caller: Any, answers: dict[str, str]) -> None:
    answered = 0
    while caller.ended_at is None:
        asked = [sound for sound in caller.ear.sounds if sound.what in answers]
        last = asked[-1] if asked else None
        if last is not None and len(asked) > answered and (last.complete or last.seconds(_now()) > 1.0):
            answered = len(asked)
            for key in answers[last.what]:
                if caller.ended_at is None and sum(s.what in answers for s in caller.ear.sounds) == answered:
                    await caller.keys(key)
        await asyncio.sleep(0.1)


async def serves(agent: Any, talk_s: float) -> None:
    """Picks up whatever rings, talks, asks for the closing."""
    while True:
        offer = await agent.rings(timeout_s=600)
        await asyncio.sleep(2.0)
        if offer.ended_at is not None:
            continue
        await offer.picks_up()
        await offer.hears(f"opening-agent-{agent.number}", within_s=60)
        await asyncio.sleep(talk_s)
        while offer.ended_at is None:
            await offer.keys("*6")
            await asyncio.sleep(3.0)


def longest_silence_s(caller: Any, talks: Callable[[float], bool]) -> float:
    """While the line is up and nobody is there to talk with."""
    assert caller.answered_at is not None
    longest, since = 0.0, caller.answered_at
    for sound in sorted((s for s in caller.ear.sounds if s.at_s >= caller.answered_at), key=lambda s: s.at_s):
        if not talks(sound.at_s):
            longest = max(longest, sound.at_s - since)
        since = max(since, sound.until_s or caller.ended_at)
    return max(longest, caller.ended_at - since - 5.0)  # the five seconds to hang up are silent by design


def _now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def served_whole(hotline: FakeHouse, state: State, after_s: float | None) -> tuple[Any, Any]:
    """One patient call during which the controller is killed; caller and agent's phone."""
    agent = await hotline.agent_signs_in("601")
    if state is State.FETCHING_CONTEXT:
        hotline.asterisk.agi_s = 1.0
    killed = Killed(hotline, state, after_s)
    serving = asyncio.create_task(serves(agent, talk_s=4.0))
    caller = await hotline.rings(from_=WHO[state])
    answering = asyncio.create_task(answers_whatever_is_asked(caller, ANSWERS[WHO[state]]))
    try:
        await caller.ended(timeout_s=240)
        async with asyncio.timeout(30):
            await killed.done.wait()
    finally:
        for task in (serving, answering):
            task.cancel()
    return caller, agent


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("state", ON_THE_WAY, ids=lambda state: state.name)
async def test_the_controller_is_killed_and_the_call_is_served_to_its_end(hotline, state, moment):
    caller, agent = await served_whole(hotline, state, MOMENTS[moment])
    ending = await hotline.ending(within_s=30)
    assert ending.outcome == "handled", caller._story()
    assert ending.hung_up_by == "hotline"
    assert 4.7 <= ending.after_closing_s <= max(5.3, GAP_S + 0.5)
    identity = await hotline.identity()
    assert identity is not None
    assert identity.verified
    assert len(agent.calls) <= 3, "signing in, the offer, at most one offer more"
    talks = [call for call in agent.calls if call.incoming and call.answered_at is not None]
    assert (
        longest_silence_s(caller, lambda at: any(t.answered_at <= at <= (t.ended_at or at) for t in talks)) <= SILENCE_S
    ), caller._story()
    assert sum(sound.what == "closing" and sound.complete for sound in caller.ear.sounds) >= 1
    await hotline.duty_becomes("601", "idle", within_s=60)
    await hotline.nothing_is_left()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_people_who_talk_hear_nothing_of_it(hotline, moment):
    caller, agent = await served_whole(hotline, State.TALKING, MOMENTS[moment])
    heard = [sound.what for sound in caller.ear.sounds]
    assert "interrupted" not in heard
    assert sum(what.startswith("opening-agent") for what in heard) == 1
    assert sum(call.incoming for call in agent.calls) == 1


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("state", [State.OVERTIME, State.PARTY_MOBILE], ids=lambda state: state.name)
async def test_states_off_the_usual_way(state, moment):
    async with FakeHouse(ending={"call_ceiling_s": 60.0, "warn_before_ceiling_s": 20.0}) as hotline:
        killed = Killed(hotline, state, MOMENTS[moment])
        caller = await hotline.rings(from_=PARTY)
        answers = {**ANSWERS[PARTY], "ask-own-number": "2", "ask-mobile": f"{PARTY}#"}
        answering = asyncio.create_task(answers_whatever_is_asked(caller, answers))
        await caller.ended(timeout_s=240)
        await killed.done.wait()
        answering.cancel()
        assert (await hotline.ending()).outcome == "ceiling"
        assert (await hotline.identity()).verified
        assert sum(sound.what == "closing" and sound.complete for sound in caller.ear.sounds) >= 1
        assert longest_silence_s(caller, lambda _: False) <= SILENCE_S, caller._story()
        await hotline.nothing_is_left()
