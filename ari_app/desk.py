"""The desk: callers who wait, agents who are free, and the offers that bring them together.

An agent is reserved in the database before a phone rings, by one conditional UPDATE, so that no order of events gives
an agent two calls. The desk is the only writer of agents' states; each change is a row of the ledger. While the
database is away the desk goes on from its own memory, and the journal tells the database later what became of whom.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from ari_app.errors import SanlingError, StoreUnavailable
from ari_app.flow.dispatch import Idle, Waiting, expected_wait_s, pairs, position
from ari_app.flow.routing import Wants
from ari_app.ledger import AgentChange, Ledger
from ari_app.rules import RuleBook
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
        rules: RuleBook | None = None,
    ) -> None:
        self.rules = RuleBook() if rules is None else rules
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
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changes = Numbers(clock)
        self._holding = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handled_s: list[float] = []
        self._watchers: list[Callable[[AgentNow | str], None]] = []

    # ------------------------------------------------------------ starting and looking

    async def open(self, calls: Collection[str] = ()) -> None:
        """Reads the agents. Whoever is on one of `calls` stays on it, wrap-up goes on from its start; an agent who was
        on any other call is free. With `calls`, nobody is offered a call before ``all_are_back()``.
        """
        self._holding = bool(calls)

        def read(session: Session) -> tuple[list[AgentNow], dict[str, float]]:
            agents = [_now(agent) for agent in session.scalars(select(Agent))]
            talking = select(AgentState.agent, func.max(AgentState.at)).where(AgentState.now == Duty.TALKING.value)
            return agents, {number: at for number, at in session.execute(talking.group_by(AgentState.agent))}

        agents, talked_since = await self._ledger.look_up(read)
        self._agents = {agent.number: agent for agent in agents}
        for change in self._ledger.waiting():
            if isinstance(change, AgentChange) and (was := self._agents.get(change.agent)) is not None:
                self._agents[was.number] = replace(
                    was, duty=Duty(change.now), since=change.at, call_id=change.call_id,
                    wrap_up_until=change.wrap_up_until,
                )  # fmt: skip
        for agent in list(self._agents.values()):
            if agent.duty in ON_A_CALL and agent.call_id not in calls:
                await self._change(agent.number, Duty.IDLE, "hotline restarted")
            elif agent.duty is Duty.WRAP_UP:
                self._talked[agent.number] = (agent.since - talked_since.get(agent.number, agent.since), 0.0)
                self._time_wrap_up(agent.number, (agent.wrap_up_until or 0.0) - self._clock())

    def all_are_back(self) -> None:
        """Whoever waited before the restart has taken the old place: agents are offered in turn again."""
        self._holding = False
        self._match_soon()

    def watch(self, watcher: Callable[[AgentNow | str], None]) -> None:
        """From now on `watcher` hears of each agent's new state, and the id of each call that joins or leaves the
        queue or is offered; at once, so it must not wait.
        """
        self._watchers.append(watcher)

    def _tell(self, news: AgentNow | str) -> None:
        for watcher in self._watchers:
            watcher(news)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    def agents_in(self, duty: Duty) -> int:
        return sum(agent.duty is duty for agent in list(self._agents.values()))

    def agents(self) -> list[AgentNow]:
        return list(self._agents.values())

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

    def join(
        self, call_id: str, since: float, inbox: Inbox, *, wants: Wants | None = None, offered: bool = False
    ) -> None:
        """`call_id` waits since `since` for what it `wants`; a Reserved will arrive in `inbox`, unless it is `offered`
        to an agent now. Joining again changes what it wants and keeps the place.
        """
        self._waiting[call_id] = (Waiting(since, call_id), inbox)
        if offered:
            self._offered.add(call_id)
        else:
            self._offered.discard(call_id)
            self._match_soon()
        self._tell(call_id)

    def leave(self, call_id: str) -> None:
        if self._waiting.pop(call_id, None) is not None:
            self._tell(call_id)
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
        if self._holding:
            return
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
        self._tell(call_id)
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

    async def free_the_forgotten(self, calls: Collection[str]) -> list[str]:
        """Numbers of the agents who were held for a call that is none of `calls`; they are free now."""
        held = [
            (a.number, a.call_id)
            for a in self._agents.values()
            if a.duty in ON_A_CALL and a.call_id is not None and a.call_id not in calls
        ]
        for number, call_id in held:
            await self.withdraw(call_id, number)
        return [number for number, _ in held]

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

    async def wraps_up(
        self, call_id: str, number: str, talked_s: float, held_s: float, *, since: float | None = None
    ) -> None:
        """The talk is over since then (Unix seconds; None: now): wrap-up runs from there, ends by itself or by code."""

        async def wrap_up() -> None:
            if not self._holds(number, call_id):
                return
            until = (self._clock() if since is None else since) + self._queue.wrap_up_s
            await self._change(number, Duty.WRAP_UP, "talk ended", wrap_up_until=until)
            self._talked[number] = (talked_s, held_s)
            self._time_wrap_up(number, until - self._clock())

        await self._surely(wrap_up)

    def _time_wrap_up(self, number: str, seconds: float) -> None:
        self._timers[number] = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._wrap_up_over, number)

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
        stored = await self._ledger.look_up(lambda s: s.scalar(select(Agent.pin_hash).where(Agent.number == number)))
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
        """Sets agent `number`'s state in the database and here; False if the agent was no longer in `was`.

        While the database is away it is set here, and in the journal for the database to hear later.
        """
        async with self._changing[number]:
            before = self._agents.get(number)
            if before is None:
                return False
            now = self._clock()
            after = replace(before, duty=duty, since=now, call_id=call_id, wrap_up_until=wrap_up_until)
            change = AgentChange(
                id=self._changes.next(), agent=number, at=now, was=before.duty.value, was_call=before.call_id,
                now=duty.value, reason=why, call_id=call_id, wrap_up_until=wrap_up_until,
            )  # fmt: skip
            try:
                changed = await self._ledger.ask(lambda session: _enter(session, change, was))
            except StoreUnavailable as error:
                if was is not None and before.duty is not was:
                    return False
                log.warning("agent %s goes on from memory: %s", number, error)
                self._ledger.write(change)
                changed = True
            if not changed:
                await self._look_again(number)
                return False
            self._agents[number] = after
        self._tell(after)
        log.info("agent %s: %s → %s (%s)", number, before.duty, duty, why)
        return True

    async def _look_again(self, number: str) -> None:
        """Somebody else changed this agent: what the database says counts."""
        found = await self._ledger.ask(lambda session: session.get(Agent, number))
        if found is None:
            self._agents.pop(number, None)
        else:
            self._agents[number] = _now(found)


class Numbers:
    """Keys for the rows of agents' states: rising with the clock, and no other controller's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mine = secrets.randbelow(1_000_000)
        self._last_ms: int = 0

    def next(self) -> int:
        self._last_ms = max(self._last_ms + 1, int(self._clock() * 1000))
        return self._last_ms * 1_000_000 + self._mine


def _enter(session: Session, change: AgentChange, was: Duty | None) -> bool:
    """False if the agent is no longer in `was`."""
    setting = (
        update(Agent)
        .where(Agent.number == change.agent)
        .values(
            state=change.now, state_since=change.at, call_id=change.call_id, wrap_up_until=change.wrap_up_until,
        )
        .returning(Agent.number)
    )  # fmt: skip
    if was is not None:
        setting = setting.where(Agent.state == was.value)
    if session.scalar(setting) is None:
        return False
    session.add(
        AgentState(
            id=change.id, agent=change.agent, at=change.at, was=change.was, now=change.now, reason=change.reason,
            call_id=change.call_id,
        )
    )  # fmt: skip
    return True


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
