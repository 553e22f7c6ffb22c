"""The desk: callers who wait, agents who are free, and the offers that bring them together.

What becomes of an agent is decided by ``flow.duty``; the desk is the only one who brings it news, and the only writer
of agents' states. A change is one conditional UPDATE, from the state that was decided on to the next, and a row of the
ledger: so an agent is reserved before a phone rings, and no order of events, nor a second desk on the same database,
gives an agent two calls. While the database is away the desk goes on from its own memory, and the journal tells the
database later what became of whom.

An agent is held for a call by its id. A second agent of the same call (consulted, say) is held for a name that begins
with that id and ``~``; only one agent is ever held for one name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from math import inf
from typing import Any, Protocol

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ari_app.errors import SanlingError, StoreUnavailable
from ari_app.flow.duty import (
    BUSY,
    OFFERED,
    ON_A_CALL,
    PHONE_BUSY,
    SIGNED_IN,
    AgentNow,
    Change,
    Duty,
    News,
    Refusal,
    What,
    day_of,
    step,
    times,
)
from ari_app.flow.routing import Wants
from ari_app.ledger import AgentChange, Ledger
from ari_app.rules import Pause, RuleBook
from ari_app.settings import Queue
from ari_app.store.models import Agent, AgentSkill, AgentState, DutyNote
from ari_app.waiting import Inbox, Place, WaitingRoom, WhoWaits, read_skills, wants_of

__all__ = [
    "ON_A_CALL", "SIGNED_IN", "AgentNow", "Desk", "Duty", "FeatureRefused", "PauseTaken", "Reserved", "WhoWaits",
    "hash_pin", "pin_matches",
]  # fmt: skip

log = logging.getLogger("sanling.desk")


STUCK_AGAIN_S = 0.1
"""A call whose agent could not be reserved, though free, is tried again so much later."""
COMES_BACK_WITHIN_S = 1.0
"""A call whose agent is lost has joined again by then, or is not waited for."""
AGAIN_AFTER_S = 1.0
"""What the desk could not do while the database was away is tried again so much later."""
DECIDED_ANEW = 3
"""So often news is taken to the table, when another desk changes the agent in the same moment."""
ALLOWANCE_AGAIN_S = 10.0
FREES = (What.TALK_ENDED, What.OFFER_WITHDRAWN, What.WRAP_UP_OVER)
"""News of the usual ends of a call."""
SETTLES_S = 5.0
"""What is younger than this the watchdog leaves alone: the news that ends it may be on its way."""


class FeatureRefused(SanlingError):
    """An agent's feature code cannot be carried out now; `prompt` says so to the agent."""

    def __init__(self, prompt: str) -> None:
        super().__init__(f"Refused: {prompt}.")
        self.prompt = prompt


@dataclass(frozen=True)
class PauseTaken:
    """A pause by code, and what is left of its allowance today."""

    pause: Pause
    left_s: float | None
    """None: there is no allowance, or the database cannot be asked. 0 or less: spent."""


@dataclass(frozen=True)
class Reserved:
    """Tells a waiting call that `agent` is reserved for it."""

    agent: str
    stands: asyncio.Future[bool] | None = None
    """Told early, while that is being written down: whether it stands. Until then the phone's channel may be made, but
    no phone may ring. None: it stands.
    """


class Clock(Protocol):
    def __call__(self) -> float: ...


class Desk:
    """`clock` gives Unix seconds; timers run on the event loop. A day begins and ends in `zone`.

    `on_wrapped_up` hears of each handled call: agent, talk, hold and wrap-up in seconds; `on_mended` of each state that
    the watchdog ended. `instance` begins the ids of this hotline's calls: agents who are held for another's on the same
    database are none of this desk's business.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        clock: Clock,
        on_wrapped_up: Callable[[str, float, float, float], None] | None = None,
        rules: RuleBook | None = None,
        *,
        zone: tzinfo = UTC,
        instance: str = "",
        on_mended: Callable[[Duty], None] | None = None,
    ) -> None:
        self.rules = RuleBook() if rules is None else rules
        self._ledger = ledger
        self._queue = queue
        self._clock = clock
        self._on_wrapped_up = on_wrapped_up
        self._zone = zone
        self._ours = f"{instance}-" if instance else ""
        self._on_mended = on_mended
        self._wrong_pins: dict[str, WrongPins] = {}
        self._talked: dict[str, tuple[float, float]] = {}
        self._agents: dict[str, AgentNow] = {}
        self._dialling: Counter[str] = Counter()
        """How often each phone is in use beside the offers."""
        self._in_turn = asyncio.Lock()
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changes = Numbers(clock)
        self._room = WaitingRoom(
            self.rules.now, ledger, clock, self._changes.next, desk=instance, expected_handle_s=queue.expected_handle_s
        )
        self._match_again: asyncio.TimerHandle | None = None
        self._holding = False
        self._come_back: set[str] = set()
        """Calls that were told of an agent who is not to be had, and join again in this moment."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: list[Callable[[AgentNow | str], None]] = []

    # ------------------------------------------------------------ starting and looking

    async def open(self, calls: Collection[str] = ()) -> None:
        """Reads the agents. Whoever is on one of `calls` stays on it, wrap-up goes on from its start; an agent who was
        on any other call is free. With `calls`, nobody is offered a call before ``all_are_back()``.
        """
        self._holding = bool(calls)

        def read(session: Session) -> list[AgentNow]:
            return [_now(agent) for agent in session.scalars(select(Agent))]

        waiting = self._ledger.waiting()  # first: what is entered in this moment is then told twice, not never
        agents = await self._ledger.look_up(read)
        self._room.skills_are(await self._ledger.look_up(read_skills))
        self._room.remember(await self._ledger.look_up(lambda session: wants_of(session, calls)))
        self._agents = {agent.number: agent for agent in agents}
        for change in waiting:
            if isinstance(change, AgentChange) and (was := self._agents.get(change.agent)) is not None:
                duty = Duty(change.now)
                self._agents[was.number] = replace(
                    was, duty=duty, since=change.since or change.at, call_id=change.call_id,
                    wrap_up_until=change.wrap_up_until, pause_code=change.pause_code,
                    phone=None if duty is Duty.SIGNED_OUT else change.phone or was.number,
                )  # fmt: skip
        offered = [agent for agent in self._agents.values() if agent.duty in OFFERED]
        self._agents |= await self._ledger.look_up(lambda session: with_rests(session, offered))
        for agent in self._agents.values():
            self._is_now(agent)
        wrapping = [agent.number for agent in self._agents.values() if agent.duty is Duty.WRAP_UP]
        talked_since = await self._ledger.look_up(lambda session: talking_since(session, wrapping))
        for agent in list(self._agents.values()):
            if agent.duty in ON_A_CALL and not self._is_held_for_one_of(agent, calls):
                await self._hears(agent.number, News(What.RESTARTED, self._clock()))
            elif agent.duty is Duty.WRAP_UP:
                self._talked[agent.number] = (agent.since - talked_since.get(agent.number, agent.since), 0.0)
            self._set_timer(self._agents[agent.number])
        self._room.opened()

    def reload(self) -> None:
        """Puts changed rules in force, and changed skills soon; no call is dropped and everybody keeps place. Raises
        SettingsInvalid: the rules in force stay.
        """
        self.rules.reload()
        self._room.follow(self.rules.now)
        self._beside(self._look_at_skills())

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
        for timer in (*self._timers.values(), self._match_again):
            if timer is not None:
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
        """Callers on the line."""
        return len(self._room.on_the_line())

    @property
    def oldest_wait_s(self) -> float:
        """Of the callers on the line."""
        now = self._clock()
        return max((now - place.call.since for place in self._room.on_the_line()), default=0.0)

    def position(self, call_id: str) -> int:
        """Among the callers of the same line; 1 is next, 0: does not wait."""
        return self._room.position(call_id)

    def may_be_served(self, call_id: str) -> bool:
        """Whether the call has an agent, or anybody is on duty who serves its line."""
        return self._room.may_be_served(call_id)

    def expected_wait_s(self, call_id: str) -> float:
        """Seconds until an agent is reserved for the call, from how fast its line was served lately."""
        return self._room.expected_wait_s(call_id)

    # ------------------------------------------------------------ callers

    def join(
        self,
        call_id: str,
        since: float,
        inbox: Inbox,
        *,
        wants: Wants | None = None,
        offered: bool = False,
        who: WhoWaits | None = None,
        early: bool = False,
    ) -> None:
        """`call_id` waits since `since` for what it `wants`; a Reserved will arrive in `inbox`, unless it is `offered`
        to an agent now. Joining again changes what it wants and keeps the place. `who`: told by the name, if not said.
        `early`: the Reserved may be one that does not stand yet; if it never will, the call must join again.
        """
        if who is None:
            who = WhoWaits.CALLER if call_of(call_id) == call_id else WhoWaits.SECOND_LINE
        self._room.join(call_id, since, inbox, wants, offered, who, early)
        self._is_back(call_id)
        if not offered:
            self._match_soon()
        self._tell(call_id)

    def leave(self, call_id: str) -> None:
        self._is_back(call_id)
        if self._room.leave(call_id):
            self._tell(call_id)

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

        self._beside(patiently())

    def _beside(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="desk")
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
        if self._match_again is not None:
            self._match_again.cancel()
        stuck: list[str] = []
        try:
            while not self._come_back and (pair := self._room.next(self._clock())) is not None:
                call_id, number = pair
                if await self._reserve(number, call_id):
                    continue
                agent = self._agents.get(number)
                if agent is not None and self._can_be_rung(agent) and self._room.set_aside(call_id):
                    stuck.append(call_id)
        finally:
            for call_id in stuck:
                self._room.is_free_again(call_id)
        wait_s = STUCK_AGAIN_S if stuck else max(self._room.wake_at - self._clock(), 0.001)
        if wait_s < inf:
            self._match_again = asyncio.get_running_loop().call_later(wait_s, self._match_soon)

    async def _reserve(self, number: str, call_id: str, *, pulled: bool = False) -> bool:
        """Offers agent `number` to `call_id`; False if one of them is not there any more."""
        agent = self._agents.get(number)
        place = self._room.places.get(call_id)
        if agent is None or place is None or not (pulled or self._can_be_rung(agent)):
            return False
        at, row = self._clock(), self._changes.next()
        offer = News(What.PULLS if pulled else What.IS_OFFERED, at, call_id)
        if place.early and not pulled:
            return await self._reserve_early(number, place, offer, row)
        if not await self._hears(number, offer):
            return False
        place = self._room.places.get(call_id)
        if place is None:
            await self._hears(number, News(What.OFFER_WITHDRAWN, self._clock(), call_id, reason="caller left"))
            return False
        self._room.offered(call_id, number, at, row, pulled=pulled)
        self._tell(call_id)
        place.inbox.put(Reserved(number))
        return True

    async def _reserve_early(self, number: str, place: Place, offer: News, row: int) -> bool:
        """The same for a call that hears of it at once. Who finds that it does not stand joins again; not too soon."""
        loop, call_id = asyncio.get_running_loop(), place.call.call_id
        stands: asyncio.Future[bool] = loop.create_future()
        self._room.set_aside(call_id)
        place.inbox.put(Reserved(number, stands))
        reserved = False
        try:
            reserved = await self._hears(number, offer) is not None
        finally:
            if not reserved:
                self._is_lost(number, call_id, stands)
        if not reserved:
            return True
        if call_id in self._room.places:
            self._room.offered(call_id, number, offer.at, row)
            self._tell(call_id)
            stands.set_result(True)
        else:  # it left meanwhile
            stands.set_result(False)
            await self._hears(number, News(What.OFFER_WITHDRAWN, self._clock(), call_id, reason="caller left"))
        return True

    def _is_lost(self, number: str, call_id: str, stands: asyncio.Future[bool]) -> None:
        """Nobody is offered a call before this one has joined again: it would be overtaken. Where the agent looks free
        all the same, the others do not wait for what the watchdog must mend.
        """
        loop, agent = asyncio.get_running_loop(), self._agents.get(number)
        if agent is not None and self._can_be_rung(agent):
            loop.call_later(STUCK_AGAIN_S, stands.set_result, False)
            return
        stands.set_result(False)
        if call_id in self._room.places:
            self._come_back.add(call_id)
            loop.call_later(COMES_BACK_WITHIN_S, self._is_back, call_id)

    def _is_back(self, call_id: str) -> None:
        if call_id in self._come_back:
            self._come_back.discard(call_id)
            self._match_soon()

    async def take(self, number: str, held_for: str) -> bool:
        """Reserves agent `number` for that call's name, past the queue: an agent transfers to this one. False if the
        agent is not free.
        """
        agent = self._agents.get(number)
        if agent is None or not self._can_be_rung(agent):
            return False
        return await self._hears(number, News(What.IS_OFFERED, self._clock(), held_for)) is not None

    async def pull(self, call_id: str, number: str, *, dialled: bool = False) -> bool:
        """A leader's order: the waiting caller is offered to agent `number`, out of turn. False if the call has an
        agent, or is nobody on the line. `dialled`: by the feature code that is under way at the agent's phone.

        Raises FeatureRefused if the agent or the phone has a call, or is signed out, and StoreUnavailable.
        """
        async with self._in_turn:
            place = self._room.places.get(call_id)
            if place is None or place.offered or place.who is not WhoWaits.CALLER:
                return False
            self._must_be_on_the_hook(number, dialled)
            return await self._reserve(number, call_id, pulled=True)

    def in_line(self) -> list[Place]:
        """Who waits, on the line or not, in the order in which they come."""
        return sorted(self._room.places.values(), key=lambda place: place.call.rank)

    def longest_waiting(self) -> str | None:
        """The caller on the line who waits longest and has no agent."""
        waiting = [place.call for place in self._room.on_the_line() if not place.offered]
        return min(waiting, key=lambda call: call.since).call_id if waiting else None

    def language_of(self, called_number: str) -> str:
        """What callers of that hotline number speak."""
        return self.rules.now.routing.language_by_number.get(called_number, "mandarin")

    # ------------------------------------------------------------ agents' skills

    def skills_of(self, number: str) -> dict[str, int]:
        """Level by line, need and language; the usual ones for what nobody set."""
        return self._room.skills_of(number)

    async def set_skills(self, number: str, skills: Mapping[str, int]) -> None:
        """Level by skill, 0: not at all; the others stay as they are. Raises StoreUnavailable."""

        def enter(session: Session) -> dict[str, dict[str, int]]:
            for skill, level in skills.items():
                session.merge(AgentSkill(agent=number, skill=skill, level=level))
            session.flush()
            return read_skills(session)

        self._room.skills_are(await self._ledger.ask(enter))
        self._match_soon()

    async def _look_at_skills(self) -> None:
        """While the database is away, nothing: the watchdog looks at them as well."""
        try:
            self._room.skills_are(await self._ledger.ask(read_skills))
        except StoreUnavailable as error:
            log.warning("skills stay as they were: %s", error)
        self._match_soon()

    def _can_be_rung(self, agent: AgentNow) -> bool:
        return agent.duty is Duty.IDLE and agent.phone not in self._dialling

    @contextmanager
    def on_the_phone(self, phone: str) -> Iterator[None]:
        """While a feature code is dialled at `phone` it is not offered a call: it would be busy, and that is RONA."""
        self._dialling[phone] += 1
        self._is_dialled_or_not(phone)
        try:
            yield
        finally:
            self._dialling[phone] -= 1
            if not self._dialling[phone]:
                del self._dialling[phone]
            self._is_dialled_or_not(phone)
            self._match_soon()

    def _is_dialled_or_not(self, phone: str) -> None:
        for agent in self._agents.values():
            if agent.phone == phone:
                self._is_now(agent)

    def _must_be_on_the_hook(self, number: str, dialled: bool) -> None:
        """Agent `number`'s phone, but for the feature code itself if it was `dialled` there. Raises FeatureRefused."""
        if self._dialling[self.phone_of(number)] > dialled:
            raise FeatureRefused(BUSY.prompt)

    def phone_of(self, number: str) -> str:
        """The phone to ring for agent `number`: where the agent signed in, else the agent's own."""
        agent = self._agents.get(number)
        return (agent.phone if agent is not None else None) or number

    def agent_at(self, phone: str) -> str | None:
        """Who is signed in at `phone`."""
        return next((agent.number for agent in self._agents.values() if agent.phone == phone), None)

    # ------------------------------------------------------------ the watchdog

    async def free_the_forgotten(self, calls: Collection[str]) -> list[str]:
        """Numbers of the agents who were held for a call that is none of `calls`; they are free now."""
        held = [
            (a.number, a.call_id)
            for a in self._agents.values()
            if a.duty in ON_A_CALL and a.call_id is not None and not self._is_held_for_one_of(a, calls)
        ]
        for number, call_id in held:
            await self.withdraw(call_id, number)
        return [number for number, _ in held]

    async def mend(self, channels: Mapping[str, str], at: float) -> list[tuple[str, Duty]]:
        """Frees whoever is in a state that cannot last, and counts it: reserved for too long, or ringing, with no
        channel of that offer among those that there were `at` (Unix seconds; names by id); in a wrap-up that should
        have ended.

        Agents who were changed by another desk, or added, are met as well. Raises StoreUnavailable.
        """
        await self._look_at_all()
        watchdog = self.rules.now.watchdog
        mended = []
        for agent in list(self._agents.values()):
            news = News(What.STUCK, self._clock(), agent.call_id, reason=f"{What.STUCK}: {agent.duty}")
            match agent.duty:
                case Duty.RESERVED | Duty.RINGING:
                    lasts_s = watchdog.reserved_s if agent.duty is Duty.RESERVED else SETTLES_S
                    stuck = at - agent.since > lasts_s and not _has_a_channel(agent, channels) and self._is_ours(agent)
                case Duty.WRAP_UP:
                    stuck = at - (agent.wrap_up_until or 0.0) > SETTLES_S
                    news = replace(news, what=What.WRAP_UP_OVER, call_id=None)
                case _:
                    stuck = False
            if stuck and await self._hears(agent.number, news):
                mended.append((agent.number, agent.duty))
                self._note(agent.number, "mended", call_id=agent.call_id)
                self._room.is_free_again(agent.call_id or "")
                self._match_soon()
                log.error("agent %s was %s for nothing: free", agent.number, agent.duty)
                if self._on_mended is not None:
                    self._on_mended(agent.duty)
        return mended

    def _is_ours(self, agent: AgentNow) -> bool:
        return (agent.call_id or "").startswith(self._ours)

    def _is_held_for_one_of(self, agent: AgentNow, calls: Collection[str]) -> bool:
        """Or for another hotline's call, which is nothing to this one."""
        return agent.call_id is not None and (not self._is_ours(agent) or call_of(agent.call_id) in calls)

    # ------------------------------------------------------------ what becomes of an offer, and of a talk

    async def withdraw(self, call_id: str, number: str) -> None:
        """The offer ended for the caller's reasons: the agent is free, with no penalty."""
        await self._surely_hears(number, News(What.OFFER_WITHDRAWN, self._clock(), call_id))

    def withdraw_soon(self, call_id: str, number: str) -> None:
        """The same, beside."""
        self._beside(self.withdraw(call_id, number))

    async def places(self, call_id: str, number: str, *, dialled: bool = False) -> None:
        """Agent `number` is taken for a call that is placed; `dialled`: by the feature code that is under way at the
        agent's phone. Raises FeatureRefused, StoreUnavailable.
        """
        self._must_be_on_the_hook(number, dialled)
        await self._hears(number, News(What.PLACES, self._clock(), call_id))

    async def forget(self, call_id: str) -> None:
        """The call is over: whoever is still held for it, by an offer that crossed its end, is free."""
        self.leave(call_id)
        for agent in list(self._agents.values()):
            if agent.call_id is not None and call_of(agent.call_id) == call_id:
                await self.withdraw(agent.call_id, agent.number)

    def rings(self, call_id: str, number: str) -> None:
        """The agent's phone rings for it. Written down beside: whoever answers at once need not wait for that."""
        self._beside(self._surely_hears(number, News(What.RINGS, self._clock(), call_id)))

    async def did_not_answer(self, call_id: str, number: str, why: str) -> None:
        """RONA: the agent is paused until resuming by code."""
        self._room.declined(call_id, number)
        await self._surely_hears(number, News(What.NOT_TAKEN, self._clock(), call_id, reason=why))

    async def talks(self, call_id: str, number: str) -> None:
        """With the caller; or with the other agent of the same call, if held for a name of its own."""
        await self._surely_hears(number, News(What.JOINS, self._clock(), call_id))

    async def consults(self, call_id: str, number: str) -> None:
        """The agent speaks with a second one while the caller waits."""
        await self._surely_hears(number, News(What.CONSULTS, self._clock(), call_id))

    async def returns(self, call_id: str, number: str) -> None:
        """Back from consulting to the caller."""
        await self._surely_hears(number, News(What.RETURNS, self._clock(), call_id))

    async def steps_in(self, held_for: str, number: str) -> None:
        """A leader at rest is in a talk, held for `held_for`, without having been offered it. AGT-5."""
        await self._surely_hears(number, News(What.STEPS_IN, self._clock(), held_for))

    async def takes_over(self, held_for: str, call_id: str, number: str) -> None:
        """The agent who was held for `held_for` has the caller of `call_id` now; whoever had it is let go before."""
        await self._surely_hears(number, News(What.TAKES_OVER, self._clock(), held_for, to_call=call_id))

    async def wraps_up(
        self,
        call_id: str,
        number: str,
        talked_s: float,
        held_s: float,
        *,
        since: float | None = None,
        line: str | None = None,
    ) -> None:
        """The talk is over since then (Unix seconds; None: now): wrap-up runs from there as long as the rules give it
        for `line`, ends by itself or by code.
        """
        until = (self._clock() if since is None else since) + self._wrap_up_s(line)
        await self._surely_hears(
            number, News(What.TALK_ENDED, self._clock(), call_id, until=until), talked=(talked_s, held_s)
        )

    def _wrap_up_s(self, line: str | None) -> float:
        return self.rules.now.wrap_up.by_line.get(line or "", self._queue.wrap_up_s)

    async def _surely_hears(self, number: str, news: News, talked: tuple[float, float] | None = None) -> None:
        """As ``_hears``; while the database is away, beside: a call does not break for what its agent is told."""

        async def hear() -> None:
            if await self._hears(number, news) and talked is not None:
                self._talked[number] = talked
                if (now := self._agents[number]).duty is not Duty.WRAP_UP:
                    self._wrapped_up(now)

        await self._surely(hear)

    # ------------------------------------------------------------ what comes by itself

    def _set_timer(self, agent: AgentNow) -> None:
        """What ends, or is to be looked at, if nothing else comes before: one thing for each agent."""
        timer = self._timers.pop(agent.number, None)
        if timer is not None:
            timer.cancel()
        if agent.duty is Duty.WRAP_UP:
            self._wake(agent.number, (agent.wrap_up_until or 0.0) - self._clock(), self._wrap_up_over)
        elif agent.pause_code is not None:
            self._wake(agent.number, 0.0, self._watch_allowance)

    def _wake(self, number: str, seconds: float, work: Callable[[str], Awaitable[None]]) -> None:
        async def do() -> None:
            await work(number)

        loop = asyncio.get_running_loop()
        self._timers[number] = loop.call_later(max(seconds, 0.0), self._soon, do)

    async def _wrap_up_over(self, number: str) -> None:
        agent = self._agents.get(number)
        if agent is not None and (agent.wrap_up_until or 0.0) <= self._clock() + 0.001:
            await self._hears(number, News(What.WRAP_UP_OVER, self._clock()))

    async def _watch_allowance(self, number: str) -> None:
        """Writes down, once in a pause, that its allowance is spent."""
        agent = self._agents.get(number)
        pause = self.rules.now.pause(agent.pause_code) if agent is not None else None
        if agent is None or pause is None or not pause.daily_minutes:
            return
        noted = select(DutyNote.id).where(
            DutyNote.agent == number, DutyNote.what == "allowance_spent", DutyNote.at >= agent.since
        )
        try:
            left_s = await self._left_s(number, pause)
            is_noted = await self._ledger.ask(lambda session: session.scalar(noted.limit(1))) is not None
        except StoreUnavailable:  # offers must not wait for this
            left_s, is_noted = ALLOWANCE_AGAIN_S, False
        if self._agents.get(number) != agent:
            return
        if left_s > 0:
            self._wake(number, left_s, self._watch_allowance)
        elif not is_noted:
            self._note(number, "allowance_spent", code=pause.code)
            log.info("agent %s: today's time for pause %s is spent", number, pause.code)

    def _wrapped_up(self, agent: AgentNow) -> None:
        talked = self._talked.pop(agent.number, None)
        if talked is None:  # counted before, when it was left for a call of which nothing came
            return
        talked_s, held_s = talked
        wrapped_s = self._clock() - agent.since
        self._room.handled(agent.number, talked_s + held_s + wrapped_s)
        if self._on_wrapped_up is not None:
            self._on_wrapped_up(agent.number, talked_s, held_s, wrapped_s)

    # ------------------------------------------------------------ agents' feature codes

    async def knows(self, number: str) -> bool:
        """Whether there is an agent `number`; one who was added since the start is met now."""
        if number not in self._agents:
            await self._look_again(number)
        return number in self._agents

    async def check_pin(self, number: str, pin: str) -> bool:
        """Whether `pin` is agent `number`'s. Raises FeatureRefused after too many wrong ones in a row, for a while; and
        StoreUnavailable: no PIN is believed that cannot be looked up.
        """
        asked = select(Agent.pin_hash, Agent.wrong_pins, Agent.locked_until).where(Agent.number == number)
        found = await self._ledger.look_up(lambda session: session.execute(asked).one_or_none())
        if found is None:
            return False
        sign_in, now = self.rules.now.sign_in, self._clock()
        before = self._wrong_pins.get(number, WrongPins(found.wrong_pins, found.locked_until))
        if before.locked_until is not None and now < before.locked_until:
            raise FeatureRefused("agent-locked")
        right = pin_matches(pin, found.pin_hash)
        count = 0 if right else before.count % sign_in.wrong_pins + 1
        locked = count >= sign_in.wrong_pins
        after = WrongPins(count, now + sign_in.locked_s if locked else None)
        if after != before:
            await self._remember(number, after)
        if not right:
            self._note(number, "pin_locked" if locked else "wrong_pin")
        if locked:
            log.warning("agent %s: %d wrong PINs, none is taken for %g s", number, count, sign_in.locked_s)
            raise FeatureRefused("agent-locked")
        return right

    async def _remember(self, number: str, wrong: WrongPins) -> None:
        """In the database, so that it outlives the desk; here, so that it holds while no row is taken."""
        self._wrong_pins[number] = wrong
        setting = update(Agent).where(Agent.number == number)
        setting = setting.values(wrong_pins=wrong.count, locked_until=wrong.locked_until)
        try:
            await self._ledger.ask(lambda session: session.execute(setting).close())
        except StoreUnavailable as error:
            log.warning("agent %s: wrong PINs are counted in memory: %s", number, error)
        else:
            del self._wrong_pins[number]

    async def sign_in(self, number: str, phone: str | None = None) -> None:
        """At `phone`, or the agent's own. Whoever was signed in there and is on no call is signed out."""
        phone = phone or number
        news = News(What.SIGNS_IN, self._clock(), phone=phone)
        refused = step(self._agents[number], news)
        if isinstance(refused, Refusal):
            raise FeatureRefused(refused.prompt)
        for other in await self._who_sits_at(phone):
            if other != number:
                await self._hears(other, News(What.PHONE_TAKEN, self._clock()))
        await self._hears(number, news)

    async def _who_sits_at(self, phone: str) -> list[str]:
        """Also by another desk's doing."""
        there = {agent.number for agent in self._agents.values() if agent.phone == phone}
        try:
            asked = select(Agent.number).where(Agent.phone == phone)
            for number in set(await self._ledger.ask(lambda session: session.scalars(asked).all())) - there:
                await self._look_again(number)
                there.add(number)
        except StoreUnavailable as error:
            log.warning("who sits at phone %s is told from memory: %s", phone, error)
        return sorted(there)

    async def sign_out(self, number: str, why: str = "") -> None:
        await self._hears(number, News(What.SIGNS_OUT, self._clock(), reason=why))

    async def pause(self, number: str, code: str | None = None, why: str = "") -> PauseTaken | None:
        """With a `code` of the rules, what is left of its allowance; it is granted even if that is spent, because an
        agent who goes without pausing leaves callers ringing.
        """
        pause = self.rules.now.pause(code)
        if code is not None and pause is None:
            raise FeatureRefused("agent-pause-unknown")
        await self._hears(number, News(What.PAUSES, self._clock(), code=code, reason=why))
        return await self._taken(number, pause)

    async def resume(self, number: str) -> PauseTaken | None:
        """Back from a pause; if it was one by code, what is left of its allowance."""
        before = await self._hears(number, News(What.RESUMES, self._clock()))
        return await self._taken(number, self.rules.now.pause(before.pause_code) if before else None)

    async def ready(self, number: str) -> None:
        """Ends wrap-up early, and nothing else."""
        await self._hears(number, News(What.READY, self._clock()))

    async def extend(self, number: str) -> None:
        """Wrap-up lasts longer; not for ever."""
        agent, wrap_up = self._agents[number], self.rules.now.wrap_up
        until = max(agent.wrap_up_until or 0.0, self._clock()) + wrap_up.extension_s
        if agent.duty is Duty.WRAP_UP and (agent.wrap_up_until or 0.0) >= agent.since + wrap_up.longest_s - 1:
            raise FeatureRefused("agent-wrap-up-longest")
        await self._hears(number, News(What.EXTENDS, self._clock(), until=min(until, agent.since + wrap_up.longest_s)))

    async def _taken(self, number: str, pause: Pause | None) -> PauseTaken | None:
        if pause is None:
            return None
        left_s = None
        if pause.daily_minutes:
            try:
                left_s = await self._left_s(number, pause)
            except StoreUnavailable as error:
                log.info("agent %s: nobody knows what is left of pause %s: %s", number, pause.code, error)
        return PauseTaken(pause, left_s)

    async def _left_s(self, number: str, pause: Pause) -> float:
        """Of today's allowance of `pause`, which has one. Raises StoreUnavailable."""
        begin, end = day_of(self._clock(), self._zone)
        changes = await self._ledger.ask(lambda session: changes_since(session, begin, number))
        spent = times(changes, begin, min(end, self._clock()))
        return pause.daily_minutes * 60.0 - spent.get((number, Duty.PAUSED, pause.code), 0.0)

    def _note(self, number: str, what: str, *, code: str | None = None, call_id: str | None = None) -> None:
        self._ledger.write(
            DutyNote(
                id=self._changes.next(), agent=number, at=self._clock(), what=what, code=code, call_id=call_id
            )
        )  # fmt: skip

    # ------------------------------------------------------------ the one place where a state changes

    async def _hears(self, number: str, news: News) -> AgentNow | None:
        """Takes `news` to the table and writes down what comes of it, in the database and here. The agent as before; or
        None if nothing changed. Raises FeatureRefused.

        While the database is away it is set here, and in the journal for the database to hear later. Whoever has done
        with a call is free before that is written down: the next caller is found meanwhile, and reserved after it.
        """
        async with self._changing[number]:
            for _ in range(DECIDED_ANEW):
                before = self._agents.get(number)
                if before is None:
                    return None
                after = step(before, news)
                if isinstance(after, Refusal):
                    raise FeatureRefused(after.prompt)
                if after == before:
                    return None
                with self._free_at_once(before, after, news):
                    entered = await self._enter(before, after, news)
                    if not entered:
                        await self._look_again(number)
                if entered:
                    break
            else:
                return None
            self._is_now(after)
            self._set_timer(after)
        log.info("agent %s: %s → %s (%s)", number, before.duty, after.duty, news.reason or news.what)
        if before.duty is Duty.WRAP_UP and after.duty is not Duty.WRAP_UP:
            self._wrapped_up(before)
        self._tell(after)
        if after.duty is Duty.IDLE and news.what not in FREES:
            self._match_soon()
        return before

    @contextmanager
    def _free_at_once(self, before: AgentNow, after: AgentNow, news: News) -> Iterator[None]:
        """In the block an agent who has done with a call is as `after`, in memory."""
        if after.duty is not Duty.IDLE or news.what not in FREES:
            yield
            return
        self._is_now(after)
        self._match_soon()
        try:
            yield
        except BaseException:
            self._is_now(before)
            raise

    async def _enter(self, before: AgentNow, after: AgentNow, news: News) -> bool:
        """False if the agent is no longer as `before`."""
        change = AgentChange(
            id=self._changes.next(), agent=before.number, at=news.at, was=before.duty.value, was_call=before.call_id,
            now=after.duty.value, reason=news.reason or news.what.value, call_id=after.call_id,
            wrap_up_until=after.wrap_up_until, phone=after.phone, pause_code=after.pause_code, since=after.since,
        )  # fmt: skip
        try:
            return await self._ledger.change(lambda connection: _entered(connection, change, before))
        except StoreUnavailable as error:
            log.warning("agent %s goes on from memory: %s", before.number, error)
            self._ledger.write(change)
            return True
        except IntegrityError:  # another desk was faster: the call has another agent, or the phone has
            if news.what is What.SIGNS_IN:
                raise FeatureRefused(PHONE_BUSY.prompt) from None
            return False

    async def _look_again(self, number: str) -> None:
        """Somebody else changed this agent: what the database says counts."""
        found = await self._ledger.ask(lambda session: session.get(Agent, number))
        if found is None:
            self._is_gone(number)
        elif self._agents.get(number) != (now := _now(found)):
            self._is_now(now)

    def _is_now(self, agent: AgentNow) -> None:
        self._agents[agent.number] = agent
        self._room.sees(agent, free=self._can_be_rung(agent))

    def _is_gone(self, number: str) -> None:
        self._agents.pop(number, None)
        self._room.sees_no_more(number)

    async def _look_at_all(self) -> None:
        """The same for everybody, but for those who are being changed just now."""
        found, skills = await self._ledger.ask(
            lambda session: ([_now(agent) for agent in session.scalars(select(Agent))], read_skills(session))
        )
        self._room.skills_are(skills)
        gone = self._agents.keys() - {agent.number for agent in found}
        for agent in found:
            if not self._changing[agent.number].locked() and self._agents.get(agent.number) != agent:
                self._is_now(agent)
                self._tell(agent)
        for number in gone:
            self._is_gone(number)


@dataclass(frozen=True)
class WrongPins:
    """In a row; `locked_until` in Unix seconds."""

    count: int
    locked_until: float | None


class Numbers:
    """Keys for the rows of agents' states: rising with the clock, and no other controller's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mine = secrets.randbelow(1_000_000)
        self._last_ms: int = 0

    def next(self) -> int:
        self._last_ms = max(self._last_ms + 1, int(self._clock() * 1000))
        return self._last_ms * 1_000_000 + self._mine


def changes_since(session: Session, begin: float, agent: str | None = None, *, end: float = inf) -> list[Change]:
    """What agents (or that one) were at `begin` (Unix seconds) and became since, before `end`, in order of time."""
    rows = select(AgentState.agent, AgentState.at, AgentState.now, AgentState.code)
    before = select(func.max(AgentState.id)).where(AgentState.at < begin).group_by(AgentState.agent)
    if agent is not None:
        rows, before = rows.where(AgentState.agent == agent), before.where(AgentState.agent == agent)
    if end < inf:
        rows = rows.where(AgentState.at < end)
    found = session.execute(rows.where((AgentState.at >= begin) | AgentState.id.in_(before)).order_by(AgentState.id))
    return [Change(number, at, Duty(now), code) for number, at, now, code in found]


def talking_since(session: Session, agents: Iterable[str]) -> dict[str, float]:
    """When (Unix seconds) each of `agents` last began to talk."""
    last = select(AgentState.at).where(AgentState.agent == Agent.number, AgentState.now == Duty.TALKING.value)
    began = last.order_by(AgentState.id.desc()).limit(1).scalar_subquery()
    found = session.execute(select(Agent.number, began).where(Agent.number.in_(list(agents))))
    return {number: at for number, at in found if at is not None}


def with_rests(session: Session, agents: Iterable[AgentNow]) -> dict[str, AgentNow]:
    """By number, those of `agents` who are held for a call out of a pause, with it: they go back to it. What waits in
    the journal is not asked, so the row must be of the call for which the agent is held now.
    """
    rows, found = select(AgentState).order_by(AgentState.id.desc()).limit(1), {}
    for agent in agents:
        of_agent = rows.where(AgentState.agent == agent.number)
        held = session.scalars(of_agent.where(AgentState.now == Duty.RESERVED.value)).first()
        if held is None or held.call_id != agent.call_id or held.was not in (Duty.PAUSED, Duty.NO_ANSWER):
            continue
        before = session.scalars(of_agent.where(AgentState.now == held.was)).first()
        if before is not None:
            rest = replace(agent, duty=Duty(before.now), since=before.at, call_id=None, pause_code=before.code)
            found[agent.number] = replace(agent, rest=rest)
    return found


_AGENTS: Any = Agent.__table__
SET_BY_A_CHANGE = ("state", "state_since", "call_id", "wrap_up_until", "phone", "pause_code")
_SET = (
    update(_AGENTS)
    .where(
        _AGENTS.c.number == bindparam("of"),
        _AGENTS.c.state == bindparam("was"),
        _AGENTS.c.call_id.is_not_distinct_from(bindparam("was_call", type_=_AGENTS.c.call_id.type)),
    )
    .values({name: bindparam(f"now_{name}") for name in SET_BY_A_CHANGE})
)
_SET_AT_THE_PHONE = _SET.where(func.coalesce(_AGENTS.c.phone, _AGENTS.c.number) == bindparam("was_phone"))
_STATES: Any = AgentState.__table__
_NOTED = insert(_STATES)
"""Made once: to make a statement takes longer than to execute it."""


def _entered(connection: Connection, change: AgentChange, before: AgentNow) -> bool:
    """False if the agent is no longer as `before`."""
    values = {
        "of": change.agent, "was": before.duty.value, "was_call": before.call_id,
        "now_state": change.now, "now_state_since": change.since or change.at, "now_call_id": change.call_id,
        "now_wrap_up_until": change.wrap_up_until, "now_phone": change.phone, "now_pause_code": change.pause_code,
    }  # fmt: skip
    if before.phone is None:
        entered = connection.execute(_SET, values)
    else:
        entered = connection.execute(_SET_AT_THE_PHONE, values | {"was_phone": before.phone})
    if entered.rowcount != 1:
        return False
    connection.execute(_NOTED, change.noted())
    return True


def _now(agent: Agent) -> AgentNow:
    duty = Duty(agent.state)
    phone = None if duty is Duty.SIGNED_OUT else agent.phone or agent.number
    return AgentNow(
        agent.number, agent.name, duty, agent.state_since, agent.call_id, agent.wrap_up_until, phone, agent.pause_code
    )


def call_of(held_for: str) -> str:
    """The call to which a name that an agent is held for belongs."""
    return held_for.partition("~")[0]


def _has_a_channel(agent: AgentNow, channels: Mapping[str, str]) -> bool:
    """Whether the agent's phone has a channel of the call; others' legs of it say nothing of this one."""
    leg, phone = f"{call_of(agent.call_id or '')}~", f"PJSIP/{agent.phone}-"
    return any(id.startswith(leg) and name.startswith(phone) for id, name in channels.items())


def hash_pin(pin: str) -> str:
    """A salted scrypt hash (RFC 7914) of an agent's PIN."""
    salt = os.urandom(16)
    return f"{salt.hex()}${_scrypt(pin, salt).hex()}"


def pin_matches(pin: str, stored: str) -> bool:
    salt, _, digest = stored.partition("$")
    return hmac.compare_digest(_scrypt(pin, bytes.fromhex(salt)).hex(), digest)


def _scrypt(pin: str, salt: bytes) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, n=2**12, r=8, p=1)
