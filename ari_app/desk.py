"""The desk: callers who wait, agents who are free, and the offers that bring them together.

An agent is reserved in the database before a phone rings, by one conditional UPDATE, so that no order of events gives
an agent two calls. The desk is the only writer of agents' states; each change is a row of the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ari_app.errors import SanlingError, StoreUnavailable
from ari_app.flow.dispatch import Idle, Waiting, expected_wait_s, pairs, position
from ari_app.ledger import Ledger
from ari_app.settings import Queue
from ari_app.store.models import Agent, AgentState

log = logging.getLogger("sanling.desk")


class Duty(StrEnum):
    """An agent's state."""

    SIGNED_OUT = "signed_out"
    IDLE = "idle"
    RESERVED = "reserved"
    TALKING = "talking"
    WRAP_UP = "wrap_up"
    PAUSED = "paused"
    NO_ANSWER = "no_answer"
    """Paused by the hotline because an offer was not taken (RONA)."""


ON_A_CALL = (Duty.RESERVED, Duty.TALKING)
NOT_RUNG = (Duty.SIGNED_OUT, Duty.PAUSED, Duty.NO_ANSWER)
SIGNED_IN = tuple(duty for duty in Duty if duty is not Duty.SIGNED_OUT)
AGAIN_AFTER_S = 1.0
"""What the desk could not do while the database was away is tried again so much later."""


class FeatureRefused(SanlingError):
    """An agent's feature code cannot be carried out now; `prompt` says so to the agent."""

    def __init__(self, prompt: str) -> None:
        super().__init__(f"Refused: {prompt}.")
        self.prompt = prompt


@dataclass(frozen=True)
class AgentNow:
    number: str
    name: str
    duty: Duty
    since: float
    call_id: str | None = None
    wrap_up_until: float | None = None


@dataclass(frozen=True)
class Reserved:
    """Tells a waiting call that `agent` is reserved for it."""

    agent: str


class Inbox(Protocol):
    def put(self, event: object) -> None: ...


class Clock(Protocol):
    def __call__(self) -> float: ...


class Desk:
    """`clock` gives Unix seconds; timers run on the event loop.

    `on_wrapped_up` hears of each handled call: agent, talk, hold and wrap-up in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        clock: Clock,
        on_wrapped_up: Callable[[str, float, float, float], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._clock = clock
        self._on_wrapped_up = on_wrapped_up
        self._talked: dict[str, tuple[float, float]] = {}
        self._agents: dict[str, AgentNow] = {}
        self._waiting: dict[str, tuple[Waiting, Inbox]] = {}
        self._offered: set[str] = set()
        self._dialling: set[str] = set()
        self._in_turn = asyncio.Lock()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handled_s: list[float] = []

    # ------------------------------------------------------------ starting and looking

    async def open(self) -> None:
        """Reads the agents; whoever was on a call of an earlier run is free again."""

        def read(session: Session) -> list[AgentNow]:
            return [_now(agent) for agent in session.scalars(select(Agent))]

        self._agents = {agent.number: agent for agent in await self._ledger.ask(read)}
        for agent in list(self._agents.values()):
            if agent.duty in ON_A_CALL or agent.duty is Duty.WRAP_UP:
                await self._change(agent.number, Duty.IDLE, "hotline restarted")

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    def agents_in(self, duty: Duty) -> int:
        return sum(agent.duty is duty for agent in list(self._agents.values()))

    def agent(self, number: str) -> AgentNow | None:
        return self._agents.get(number)

    @property
    def queue_length(self) -> int:
        return len(self._waiting)

    @property
    def oldest_wait_s(self) -> float:
        now = self._clock()
        return max((now - place.since for place, _ in list(self._waiting.values())), default=0.0)

    def position(self, call_id: str) -> int:
        return position((place for place, _ in self._waiting.values()), call_id)

    def expected_wait_s(self, call_id: str) -> float:
        handle_s = (
            sum(self._handled_s) / len(self._handled_s) if len(self._handled_s) >= 10 else self._queue.expected_handle_s
        )
        serving = sum(agent.duty in (*ON_A_CALL, Duty.IDLE, Duty.WRAP_UP) for agent in self._agents.values())
        return expected_wait_s(self.position(call_id), serving, handle_s)

    # ------------------------------------------------------------ callers

    def join(self, call_id: str, since: float, inbox: Inbox) -> None:
        """`call_id` waits since `since`; a Reserved will arrive in `inbox`."""
        self._waiting[call_id] = (Waiting(since, call_id), inbox)
        self._offered.discard(call_id)
        self._match_soon()

    def leave(self, call_id: str) -> None:
        self._waiting.pop(call_id, None)
        self._offered.discard(call_id)

    def _match_soon(self) -> None:
        self._soon(self._match)

    def _soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work` beside, in turn, and again while the database is away."""

        async def patiently() -> None:
            async with self._in_turn:
                while True:
                    try:
                        return await work()
                    except StoreUnavailable as error:
                        log.error("The desk waits: %s", error)
                        await asyncio.sleep(AGAIN_AFTER_S)

        task = asyncio.get_running_loop().create_task(patiently(), name="desk")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _surely(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work` now, or beside while the database is away: a call does not break for what its agent is told."""
        try:
            await work()
        except StoreUnavailable as error:
            log.error("The desk waits: %s", error)
            self._soon(work)

    async def _match(self) -> None:
        waiting = [place for place, _ in self._waiting.values() if place.call_id not in self._offered]
        idle = [Idle(a.since, a.number) for a in self._agents.values() if self._can_be_rung(a)]
        matched = [await self._reserve(agent.number, caller.call_id) for caller, agent in pairs(waiting, idle)]
        if not all(matched):
            self._match_soon()

    async def _reserve(self, number: str, call_id: str) -> bool:
        """Offers agent `number` to `call_id`; False if one of them is not there any more."""
        agent = self._agents.get(number)
        if agent is None or not self._can_be_rung(agent) or call_id not in self._waiting:
            return False
        if not await self._change(number, Duty.RESERVED, "offer", call_id, was=Duty.IDLE):
            return False
        if call_id not in self._waiting:
            await self._change(number, Duty.IDLE, "caller left", was=Duty.RESERVED)
            return False
        self._offered.add(call_id)
        self._waiting[call_id][1].put(Reserved(number))
        return True

    def _can_be_rung(self, agent: AgentNow) -> bool:
        return agent.duty is Duty.IDLE and agent.number not in self._dialling

    @contextmanager
    def on_the_phone(self, number: str) -> Iterator[None]:
        """While an agent dials a feature code the phone is not offered a call: it would be busy, and that is RONA."""
        self._dialling.add(number)
        try:
            yield
        finally:
            self._dialling.discard(number)
            self._match_soon()

    # ------------------------------------------------------------ what becomes of an offer

    async def withdraw(self, call_id: str, number: str) -> None:
        """The offer ended for the caller's reasons: the agent is free, with no penalty."""

        async def free() -> None:
            if self._holds(number, call_id):
                await self._change(number, Duty.IDLE, "offer withdrawn")
                self._match_soon()

        await self._surely(free)

    async def forget(self, call_id: str) -> None:
        """The call is over: whoever is still held for it, by an offer that crossed its end, is free."""
        self.leave(call_id)
        for agent in list(self._agents.values()):
            if agent.call_id == call_id:
                await self.withdraw(call_id, agent.number)

    async def did_not_answer(self, call_id: str, number: str, why: str) -> None:
        """RONA: the agent is paused until resuming by code."""

        async def pause() -> None:
            if self._holds(number, call_id):
                await self._change(number, Duty.NO_ANSWER, why)

        await self._surely(pause)

    async def talks(self, call_id: str, number: str) -> None:
        async def talk() -> None:
            if self._holds(number, call_id):
                await self._change(number, Duty.TALKING, "joined", call_id)

        await self._surely(talk)

    async def wraps_up(self, call_id: str, number: str, talked_s: float, held_s: float) -> None:
        """The talk is over: wrap-up begins and ends by itself or by code."""

        async def wrap_up() -> None:
            if not self._holds(number, call_id):
                return
            until = self._clock() + self._queue.wrap_up_s
            await self._change(number, Duty.WRAP_UP, "talk ended", wrap_up_until=until)
            self._talked[number] = (talked_s, held_s)
            self._timers[number] = asyncio.get_running_loop().call_later(
                self._queue.wrap_up_s, self._wrap_up_over, number
            )

        await self._surely(wrap_up)

    def _wrap_up_over(self, number: str) -> None:
        async def end() -> None:
            await self._end_wrap_up(number, "wrap-up time over")

        self._soon(end)

    async def _end_wrap_up(self, number: str, why: str, then: Duty = Duty.IDLE) -> bool:
        """False if it had ended already."""
        agent = self._agents[number]
        if agent.duty is not Duty.WRAP_UP or not await self._change(number, then, why, was=Duty.WRAP_UP):
            return False
        timer = self._timers.pop(number, None)
        if timer is not None:
            timer.cancel()
        talked_s, held_s = self._talked.pop(number, (0.0, 0.0))
        wrapped_s = self._clock() - agent.since
        self._handled_s = [*self._handled_s[-49:], talked_s + held_s + wrapped_s]
        if self._on_wrapped_up is not None:
            self._on_wrapped_up(number, talked_s, held_s, wrapped_s)
        self._match_soon()
        return True

    def _holds(self, number: str, call_id: str) -> bool:
        agent = self._agents.get(number)
        return agent is not None and agent.call_id == call_id

    # ------------------------------------------------------------ agents' feature codes

    async def knows(self, number: str) -> bool:
        """Whether there is an agent `number`; one who was added since the start is met now."""
        if number not in self._agents:
            await self._look_again(number)
        return number in self._agents

    async def check_pin(self, number: str, pin: str) -> bool:
        """Whether `pin` is agent `number`'s."""
        stored = await self._ledger.ask(lambda s: s.scalar(select(Agent.pin_hash).where(Agent.number == number)))
        return stored is not None and pin_matches(pin, stored)

    async def sign_in(self, number: str) -> None:
        await self._free(number, "signed in")

    async def sign_out(self, number: str) -> None:
        await self._off(number, Duty.SIGNED_OUT, "signed out")

    async def pause(self, number: str) -> None:
        self._must_be_signed_in(number)
        await self._off(number, Duty.PAUSED, "paused")

    async def resume(self, number: str) -> None:
        self._must_be_signed_in(number)
        await self._free(number, "resumed")

    async def ready(self, number: str) -> None:
        """Ends wrap-up early, and nothing else: this code asks for no PIN."""
        self._must_be_signed_in(number)
        self._must_not_be_on_a_call(number)
        await self._end_wrap_up(number, "wrap-up ended by code")

    async def _free(self, number: str, why: str) -> None:
        self._must_not_be_on_a_call(number)
        if not await self._end_wrap_up(number, why) and (was := self._agents[number].duty) in NOT_RUNG:
            await self._change(number, Duty.IDLE, why, was=was)
            self._match_soon()

    async def _off(self, number: str, duty: Duty, why: str) -> None:
        self._must_not_be_on_a_call(number)
        if not await self._end_wrap_up(number, why, then=duty) and (was := self._agents[number].duty) is not duty:
            self._must_not_be_on_a_call(number)
            if not await self._change(number, duty, why, was=was):
                raise FeatureRefused("agent-busy")

    def _must_not_be_on_a_call(self, number: str) -> None:
        if self._agents[number].duty in ON_A_CALL:
            raise FeatureRefused("agent-busy")

    def _must_be_signed_in(self, number: str) -> None:
        if self._agents[number].duty is Duty.SIGNED_OUT:
            raise FeatureRefused("agent-not-signed-in")

    # ------------------------------------------------------------ the one place where a state changes

    async def _change(
        self,
        number: str,
        duty: Duty,
        why: str,
        call_id: str | None = None,
        *,
        was: Duty | None = None,
        wrap_up_until: float | None = None,
    ) -> bool:
        """Sets agent `number`'s state in the database and here; False if the agent was no longer in `was`."""
        now = self._clock()
        before = self._agents[number]

        def write(session: Session) -> bool:
            change = (
                update(Agent)
                .where(Agent.number == number)
                .values(state=duty.value, state_since=now, call_id=call_id, wrap_up_until=wrap_up_until)
                .returning(Agent.number)
            )
            if was is not None:
                change = change.where(Agent.state == was.value)
            if session.scalar(change) is None:
                return False
            session.add(
                AgentState(agent=number, at=now, was=before.duty.value, now=duty.value, reason=why, call_id=call_id)
            )
            return True

        if not await self._ledger.ask(write):
            await self._look_again(number)
            return False
        self._agents[number] = replace(before, duty=duty, since=now, call_id=call_id, wrap_up_until=wrap_up_until)
        log.info("agent %s: %s → %s (%s)", number, before.duty, duty, why)
        return True

    async def _look_again(self, number: str) -> None:
        """Somebody else changed this agent: what the database says counts."""
        found = await self._ledger.ask(lambda session: session.get(Agent, number))
        if found is None:
            self._agents.pop(number, None)
        else:
            self._agents[number] = _now(found)


def _now(agent: Agent) -> AgentNow:
    return AgentNow(agent.number, agent.name, Duty(agent.state), agent.state_since, agent.call_id, agent.wrap_up_until)


def hash_pin(pin: str) -> str:
    """A salted scrypt hash (RFC 7914) of an agent's PIN."""
    salt = os.urandom(16)
    return f"{salt.hex()}${_scrypt(pin, salt).hex()}"


def pin_matches(pin: str, stored: str) -> bool:
    salt, _, digest = stored.partition("$")
    return hmac.compare_digest(_scrypt(pin, bytes.fromhex(salt)).hex(), digest)


def _scrypt(pin: str, salt: bytes) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, n=2**12, r=8, p=1)
