"""The desk under everything that callers, agents, timers and a second writer can do to it, in virtual time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.__main__ import reload
from ari_app.desk import ON_A_CALL, Desk, Duty, FeatureRefused, Numbers, Reserved, hash_pin
from ari_app.errors import StoreUnavailable
from ari_app.flow.fairness import overtakings
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.rules import RuleBook, load
from ari_app.settings import Queue
from ari_app.store.models import Agent, AgentSkill, AgentState, QueueEvent
from ari_app.waiting import ON_DUTY, WhoWaits, rules_in_force_since, told_by
from tests.fake.virtual_time import VirtualTimeLoop
from tests.unit.core_database import LostAnswers, Outage, in_memory

T = TypeVar("T")
BEGAN = 1_795_000_000.0
NUMBERS = ("601", "602", "603")
QUEUE = Queue(wrap_up_s=20.0)
PIN = "246813"
PIN_HASH = hash_pin(PIN)


class Inbox:
    """A call's mailbox: what the desk put there."""

    def __init__(
        self, told: Callable[[Reserved], None] = lambda _: None, lost: Callable[[Reserved], None] = lambda _: None
    ) -> None:
        self.got: list[Reserved] = []
        self._told = told
        self._lost = lost

    def put(self, event: object) -> None:
        assert isinstance(event, Reserved)
        self._told(event)
        self.got.append(event)
        if event.stands is not None:
            event.stands.add_done_callback(lambda stands: None if stands.result() else self._lost(event))

    @property
    def agents(self) -> list[str]:
        return [reserved.agent for reserved in self.got]


def staffed(*numbers: str, duty: Duty = Duty.SIGNED_OUT) -> Engine:
    engine = in_memory()
    with store.session(engine) as session:
        for place, number in enumerate(numbers):
            session.add(
                Agent(
                    number=number, name="", sip_ha1="0" * 32, pin_hash=PIN_HASH, state=duty.value,
                    state_since=BEGAN - 100 + place,
                )
            )  # fmt: skip
    return engine


async def settled() -> None:
    """All that is under way at this moment has been done."""
    await asyncio.sleep(1e-6)


# ---------------------------------------------------------------- everything at once


class Floor(RuleBasedStateMachine):
    """Three agents and any number of callers; each rule is something a call or an agent may do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop(horizon_s=10 * 24 * 3600.0)
        asyncio.set_event_loop(self.loop)
        self.engine = staffed(*NUMBERS)
        self.outage = Outage(self.engine)
        self.ledger = Ledger(self.engine, executor=InlineExecutor())
        self.handled: list[str] = []
        self.desk = Desk(
            self.ledger,
            QUEUE,
            lambda: BEGAN + self.loop.time(),
            on_wrapped_up=lambda agent, *_: self.handled.append(agent),
        )
        self.waiting: dict[str, float] = {}
        self.offered: dict[str, str] = {}
        self.talking: dict[str, str] = {}
        self.declined: defaultdict[str, set[str]] = defaultdict(set)
        self.inboxes: dict[str, Inbox] = {}
        self.wrapping: dict[str, float] = {}
        self.talks = 0
        self.dialling: dict[str, AbstractContextManager[None]] = {}
        self.callers = 0
        self.does(self.desk.open())

    def does(self, *coros: Any) -> list[Any]:
        """Runs `coros` at the same time and lets everything settle; exceptions are results."""

        async def work() -> list[Any]:
            results = await asyncio.gather(*coros, return_exceptions=True)
            await settled()
            while any(
                r.stands is not None and not r.stands.done() for inbox in self.inboxes.values() for r in inbox.got
            ):
                await asyncio.sleep(0.01)  # who was told early and cannot have the agent joins again soon
                await settled()
            return results

        results = self.loop.run_until_complete(work())
        assert not self.loop.failures
        return results

    def teardown(self) -> None:
        while self.dialling:
            self.an_agent_ends_dialling(next(iter(self.dialling)))
        rows = [row for row in self.ledger.waiting() if isinstance(row, QueueEvent)]
        told = self.reads(lambda s: told_by([*s.scalars(select(QueueEvent)), *rows]))
        assert list(overtakings(told)) == [], "by what the ledger says"
        self.desk.close()
        self.engine.dispose()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        asyncio.set_event_loop(None)

    def reads(self, question: Callable[[Session], T]) -> T:
        away, self.outage.away = self.outage.away, False
        with store.session(self.engine) as session:
            answer = question(session)
        self.outage.away = away
        return answer

    def idle_since(self, number: str) -> float:
        """When this agent last became idle, by the ledger."""
        return self.reads(
            lambda s: (
                s.scalars(
                    select(AgentState.at)
                    .where(AgentState.agent == number, AgentState.now == "idle")
                    .order_by(AgentState.id.desc())
                ).first()
                or 0.0
            )
        )

    # what the desk does

    def reserved(self, call: str, reserved: Reserved) -> None:
        """Called in the very moment in which the desk offers `reserved.agent` to `call`."""
        assert call in self.waiting, "an offer to somebody who does not wait"
        assert reserved.agent not in self.dialling
        if not self.ledger.waiting_rows:
            mine = (self.idle_since(reserved.agent), reserved.agent)
            for number in set(NUMBERS) - {reserved.agent}:
                agent = self.desk.agent(number)
                assert agent is not None
                if agent.duty is Duty.IDLE and number not in self.dialling:
                    assert mine < (agent.since, number), f"{number} was idle longer than {reserved.agent}"
        since = self.waiting.pop(call)
        overtaken = [
            one for one, other in self.waiting.items() if other < since and self.could_take(reserved.agent, one)
        ]
        assert not overtaken, "somebody was overtaken"
        self.offered[call] = reserved.agent

    def joins(self, call: str, since: float, told: Callable[[str, Reserved], None]) -> None:
        """Every second call hears of its agent while that is written down."""
        self.waiting[call] = since
        inbox = Inbox(lambda reserved: told(call, reserved), lambda reserved: self.lost(call, since, reserved))
        self.inboxes[call] = inbox
        self.desk.join(call, since, inbox, early=self.is_early(call))

    @staticmethod
    def is_early(call: str) -> bool:
        return int(call.split("-")[1].partition(".")[0]) % 2 == 1

    def lost(self, call: str, since: float, reserved: Reserved) -> None:
        if self.offered.get(call) == reserved.agent:  # else it has gone
            del self.offered[call]
            self.waiting[call] = since
            self.desk.join(call, since, self.inboxes[call], early=True)

    def could_take(self, number: str, call: str) -> bool:
        """Whoever declined a call is not offered it again, unless nobody else could take it."""
        on_duty = {n for n in NUMBERS if self.desk.agent(n).duty in ON_DUTY}
        return number not in self.declined[call] or on_duty <= self.declined[call]

    # what callers do

    @initialize()
    def everybody_signs_in(self) -> None:
        self.does(*(self.desk.sign_in(number) for number in NUMBERS))

    @rule(together=st.integers(1, 3))
    def callers_join(self, together: int) -> None:
        async def join() -> None:
            for _ in range(together):
                self.callers += 1
                since = BEGAN + self.loop.time() + self.callers * 1e-7
                self.joins(f"demo-{self.callers}.1", since, self.reserved)

        self.does(join())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiting_caller_hangs_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.waiting)))

        async def leave() -> None:
            del self.waiting[call]
            self.desk.leave(call)

        self.does(leave())

    @rule(steps=st.integers(0, 12))
    def a_caller_hangs_up_just_as_an_agent_is_sought(self, steps: int) -> None:
        self.callers += 1
        call = f"demo-{self.callers}.1"
        since = BEGAN + self.loop.time() + self.callers * 1e-7

        async def come_and_go() -> None:
            self.joins(call, since, self.reserved)
            for _ in range(steps):
                await asyncio.sleep(0)
            if call in self.offered:
                await self.desk.withdraw(call, self.offered.pop(call))
            else:
                del self.waiting[call]
            self.desk.leave(call)

        self.does(come_and_go())

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def a_caller_hangs_up_while_the_phone_rings(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.offered)))
        agent = self.offered.pop(call)

        async def gone() -> None:
            await self.desk.withdraw(call, agent)
            self.desk.leave(call)

        self.does(gone())

    # what agents do

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def an_agent_answers(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.offered)))
        agent = self.offered.pop(call)

        async def answered() -> None:
            self.desk.leave(call)
            await self.desk.talks(call, agent)

        self.does(answered())
        self.talking[call] = agent

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def an_agent_does_not_answer(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.offered)))
        agent = self.offered.pop(call)
        since = BEGAN + float(call.split("-")[1]) * 1e-7
        self.waiting[call] = since
        self.declined[call].add(agent)

        async def not_answered() -> None:
            await self.desk.did_not_answer(call, agent, "no_answer")
            assert self.desk.agent(agent).duty is Duty.NO_ANSWER
            self.desk.join(call, since, self.inboxes[call], early=self.is_early(call))

        self.does(not_answered())

    @precondition(lambda self: self.talking)
    @rule(data=st.data())
    def a_talk_ends(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.talking)))
        agent = self.talking.pop(call)
        self.does(self.desk.wraps_up(call, agent, 60.0, 0.0))
        assert self.desk.agent(agent).duty is Duty.WRAP_UP
        self.wrapping[agent] = self.loop.time()
        self.talks += 1

    @rule(number=st.sampled_from(NUMBERS), code=st.sampled_from(["sign_in", "sign_out", "pause", "resume", "ready"]))
    def an_agent_dials_a_code(self, number: str, code: str) -> None:
        duty = self.desk.agent(number).duty
        [result] = self.does(getattr(self.desk, code)(number))
        if duty in ON_A_CALL:
            assert isinstance(result, FeatureRefused)
            assert result.prompt == "agent-busy"
        elif duty is Duty.SIGNED_OUT and code not in ("sign_in", "sign_out"):
            assert isinstance(result, FeatureRefused)
            assert result.prompt == "agent-not-signed-in"
        else:
            assert result is None
            after = self.desk.agent(number).duty
            match code:
                case "sign_out":
                    assert after is Duty.SIGNED_OUT
                case "pause":
                    assert after is Duty.PAUSED
                case "ready" if duty is not Duty.WRAP_UP:
                    assert after is duty or (duty is Duty.IDLE and after is Duty.RESERVED)
                case _:
                    assert after in (Duty.IDLE, Duty.RESERVED)

    @rule(
        number=st.sampled_from(NUMBERS),
        first=st.sampled_from(["sign_in", "sign_out", "pause", "resume", "ready"]),
        second=st.sampled_from(["sign_in", "sign_out", "pause", "resume", "ready"]),
    )
    def an_agent_dials_two_codes_at_once_while_a_caller_comes(self, number: str, first: str, second: str) -> None:
        self.callers += 1
        call = f"demo-{self.callers}.1"

        async def join() -> None:
            self.joins(call, BEGAN + self.callers * 1e-7, self.reserved_in_a_crowd)

        results = self.does(getattr(self.desk, first)(number), join(), getattr(self.desk, second)(number))
        assert all(result is None or isinstance(result, FeatureRefused) for result in results)

    def reserved_in_a_crowd(self, call: str, reserved: Reserved) -> None:
        """While codes are being dialled the order of the agents is not told from outside."""
        del self.waiting[call]
        self.offered[call] = reserved.agent

    @rule(number=st.sampled_from(NUMBERS))
    def an_agent_begins_or_ends_dialling(self, number: str) -> None:
        if number in self.dialling:
            self.an_agent_ends_dialling(number)
        else:
            self.dialling[number] = self.desk.on_the_phone(number)
            self.dialling[number].__enter__()

    def an_agent_ends_dialling(self, number: str) -> None:
        async def end() -> None:
            self.dialling.pop(number).__exit__(None, None, None)

        self.does(end())

    @rule()
    def the_database_goes_or_comes(self) -> None:
        self.outage.away = not self.outage.away
        if not self.outage.away:
            self.does(asyncio.sleep(1.1))

    @rule(seconds=st.sampled_from([0.5, 5.0, 19.9, 20.1, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.does(asyncio.sleep(seconds))
        for number, since in list(self.wrapping.items()):
            if self.loop.time() - since > QUEUE.wrap_up_s + 0.01:
                assert self.desk.agent(number).duty is not Duty.WRAP_UP, "wrap-up did not end by itself"
                del self.wrapping[number]

    # what must hold whenever nothing is under way

    @invariant()
    def the_database_says_what_the_desk_thinks(self) -> None:
        self.does(self.ledger.flush())
        if self.ledger.waiting_rows:
            assert self.outage.away
            return
        for row in self.reads(lambda s: s.scalars(select(Agent)).all()):
            agent = self.desk.agent(row.number)
            assert (row.state, row.state_since, row.call_id) == (agent.duty.value, agent.since, agent.call_id)

    @invariant()
    def an_agent_on_a_call_belongs_to_a_caller_and_to_one_only(self) -> None:
        held = {**self.offered, **self.talking}
        assert len(set(held.values())) == len(held), "an agent holds two calls"
        for number in NUMBERS:
            agent = self.desk.agent(number)
            if agent.duty in ON_A_CALL:
                assert held.get(agent.call_id) == number
            else:
                assert number not in held.values()
                assert agent.call_id is None

    @invariant()
    def nobody_waits_while_somebody_is_free(self) -> None:
        free = [n for n in NUMBERS if self.desk.agent(n).duty is Duty.IDLE and n not in self.dialling]
        assert not [(call, number) for call in self.waiting for number in free if self.could_take(number, call)]

    @invariant()
    def the_queue_holds_who_waits_or_is_offered(self) -> None:
        assert self.desk.queue_length == len(self.waiting) + len(self.offered)
        places = [self.desk.position(call) for call in (*self.waiting, *self.offered)]
        assert sorted(places) == list(range(1, len(places) + 1))

    @invariant()
    def each_change_begins_where_the_one_before_ended(self) -> None:
        last = dict.fromkeys(NUMBERS, "signed_out")
        for row in self.reads(lambda s: s.scalars(select(AgentState).order_by(AgentState.id)).all()):
            assert row.was == last[row.agent]
            last[row.agent] = row.now

    @invariant()
    def each_talk_is_measured_once(self) -> None:
        wrapping = sum(self.desk.agent(n).duty is Duty.WRAP_UP for n in NUMBERS)
        assert len(self.handled) == self.talks - wrapping


TestFloor = Floor.TestCase
TestFloor.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


# ---------------------------------------------------------------- one thing at a time


class SlowLedger(Ledger):
    """Whose changes take so many seconds, and take effect at their end."""

    seconds = 0.0

    async def change(self, change: Callable[[Connection], T]) -> T:
        await asyncio.sleep(self.seconds)
        return await super().change(change)


class House:
    def __init__(self, engine: Engine, journal: Path | None = None, slow_s: float = 0.0) -> None:
        self.engine = engine
        self.ledger = SlowLedger(engine, executor=InlineExecutor(), journal=journal)
        self.ledger.seconds = slow_s
        self.handled: list[tuple[str, float, float, float]] = []
        self.desk = Desk(
            self.ledger,
            QUEUE,
            lambda: BEGAN + asyncio.get_running_loop().time(),
            on_wrapped_up=lambda *measured: self.handled.append(measured),
        )

    def joins(self, call: str, *, early: bool = False) -> Inbox:
        inbox = Inbox()
        self.desk.join(call, BEGAN + asyncio.get_running_loop().time(), inbox, early=early)
        return inbox

    async def talks(self, call: str, agent: str) -> None:
        """`call` has waited for the one who is free, and they talk."""
        self.joins(call)
        await settled()
        self.desk.leave(call)
        await self.desk.talks(call, agent)

    def behind_the_desks_back(self, number: str, duty: Duty, call_id: str | None = None) -> None:
        with store.session(self.engine) as session:
            session.execute(update(Agent).where(Agent.number == number).values(state=duty.value, call_id=call_id))

    def duties(self) -> dict[str, tuple[str, str | None]]:
        """What the database says: state and call. Asked past what makes it look away."""
        connection = self.engine.raw_connection()
        rows = connection.cursor().execute("SELECT number, state, call_id FROM agents").fetchall()
        connection.close()
        return {number: (state, call_id) for number, state, call_id in rows}

    def reasons(self, number: str) -> list[str]:
        with store.session(self.engine) as session:
            return list(
                session.scalars(select(AgentState.reason).where(AgentState.agent == number).order_by(AgentState.id))
            )


@asynccontextmanager
async def opened(*numbers: str, duty: Duty = Duty.IDLE, slow_s: float = 0.0) -> AsyncIterator[House]:
    house = House(staffed(*numbers, duty=duty), slow_s=slow_s)
    await house.desk.open()
    yield house
    house.desk.close()
    await house.ledger.close()
    house.engine.dispose()


async def test_the_agent_idle_longest_is_offered_first_and_callers_in_their_order():
    async with opened("601", "602", "603") as house:
        await house.desk.pause("601")
        await asyncio.sleep(1)
        await house.desk.resume("601")
        calls = [house.joins(f"demo-{n}.1") for n in range(4)]
        await settled()
        assert [inbox.agents for inbox in calls] == [["602"], ["603"], ["601"], []]
        assert house.desk.agents_in(Duty.RESERVED) == 3
        assert house.desk.position("demo-3.1") == 4


async def test_an_agent_who_did_not_answer_stays_paused_until_resuming():
    async with opened("601") as house:
        inbox = house.joins("demo-1.1")
        await settled()
        await house.desk.did_not_answer("demo-1.1", "601", "no_answer")
        house.desk.join("demo-1.1", BEGAN, inbox)
        await asyncio.sleep(3600)
        assert house.desk.agent("601").duty is Duty.NO_ANSWER
        assert inbox.agents == ["601"]
        await house.desk.resume("601")
        await settled()
        assert inbox.agents == ["601", "601"]


async def test_wrap_up_ends_by_itself_and_is_measured():
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        await house.desk.wraps_up("demo-1.1", "601", 90.0, 10.0)
        next_caller = house.joins("demo-2.1")
        await asyncio.sleep(19.9)
        assert next_caller.agents == []
        await asyncio.sleep(0.2)
        assert next_caller.agents == ["601"]
        [(agent, talked, held, wrapped)] = house.handled
        assert (agent, talked, held) == ("601", 90.0, 10.0)
        assert wrapped == pytest.approx(20.0, abs=0.01)


async def test_where_there_is_no_wrap_up_the_next_caller_comes_at_once_and_the_call_is_measured():
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        next_caller = house.joins("demo-2.1")
        talk_ended_at = BEGAN + asyncio.get_running_loop().time() - 20.0
        await house.desk.wraps_up("demo-1.1", "601", 90.0, 10.0, since=talk_ended_at)
        await settled()
        assert next_caller.agents == ["601"]
        assert house.handled == [("601", 90.0, 10.0, pytest.approx(0.0, abs=0.01))]
        assert house.reasons("601")[-2:] == ["talk ended", "offer"]


@pytest.mark.parametrize(
    ("code", "duty"),
    [
        ("ready", Duty.IDLE),
        ("resume", Duty.IDLE),
        ("sign_in", Duty.IDLE),
        ("pause", Duty.PAUSED),
        ("sign_out", Duty.SIGNED_OUT),
    ],
)
async def test_wrap_up_ends_early_by_code_and_is_measured_once(code, duty):
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        await house.desk.wraps_up("demo-1.1", "601", 90.0, 0.0)
        await asyncio.sleep(5)
        await getattr(house.desk, code)("601")
        assert house.desk.agent("601").duty is duty
        await asyncio.sleep(60)
        assert house.desk.agent("601").duty is duty
        assert [round(measured[3]) for measured in house.handled] == [5]


async def test_wrap_up_ended_by_code_in_the_moment_it_ends_by_itself_is_measured_once():
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        await house.desk.wraps_up("demo-1.1", "601", 90.0, 0.0)
        await asyncio.sleep(QUEUE.wrap_up_s)
        await house.desk.ready("601")
        await settled()
        assert [measured[1] for measured in house.handled] == [90.0]


@pytest.mark.parametrize("duty", [Duty.PAUSED, Duty.NO_ANSWER])
async def test_the_code_without_a_pin_does_not_resume_a_paused_agent(duty):
    """*15 asks for no PIN, so it may end wrap-up and nothing else."""
    async with opened("601", duty=duty) as house:
        await house.desk.ready("601")
        assert house.desk.agent("601").duty is duty


@pytest.mark.parametrize("code", ["sign_in", "sign_out", "pause", "resume", "ready"])
@pytest.mark.parametrize("talks", [False, True])
async def test_codes_are_refused_on_a_call(code, talks):
    async with opened("601") as house:
        house.joins("demo-1.1")
        await settled()
        if talks:
            await house.desk.talks("demo-1.1", "601")
        with pytest.raises(FeatureRefused, match="agent-busy"):
            await getattr(house.desk, code)("601")
        assert house.desk.agent("601").call_id == "demo-1.1"


@pytest.mark.parametrize("code", ["pause", "resume", "ready"])
async def test_codes_are_refused_before_signing_in(code):
    async with opened("601", duty=Duty.SIGNED_OUT) as house:
        with pytest.raises(FeatureRefused, match="agent-not-signed-in"):
            await getattr(house.desk, code)("601")


async def test_pausing_in_the_moment_of_an_offer_is_refused_or_comes_first():
    async with opened("601") as house:
        inbox = house.joins("demo-1.1")
        [refused] = await asyncio.gather(house.desk.pause("601"), return_exceptions=True)
        await settled()
        offered = inbox.agents == ["601"]
        assert isinstance(refused, FeatureRefused) == offered
        assert house.desk.agent("601").duty is (Duty.RESERVED if offered else Duty.PAUSED)


async def test_an_agent_who_dials_a_code_is_not_offered_a_call():
    async with opened("601") as house:
        with house.desk.on_the_phone("601"):
            inbox = house.joins("demo-1.1")
            await asyncio.sleep(10)
            assert inbox.agents == []
        await settled()
        assert inbox.agents == ["601"]


async def test_many_matches_at_once_reserve_each_agent_once():
    async with opened(*NUMBERS) as house:
        inboxes = [house.joins(f"demo-{n:02}.1") for n in range(20)]
        for number in NUMBERS:
            with house.desk.on_the_phone(number):
                pass
        await settled()
        offered = [agent for inbox in inboxes for agent in inbox.agents]
        assert sorted(offered) == sorted(NUMBERS)
        assert [inbox.agents != [] for inbox in inboxes] == [True] * 3 + [False] * 17


async def test_a_caller_who_leaves_while_an_agent_is_reserved_makes_room_for_the_next():
    async with opened("601") as house:
        house.joins("demo-1.1")
        second = house.joins("demo-2.1")
        await asyncio.sleep(0)  # the desk has begun to reserve 601 for the first
        house.desk.leave("demo-1.1")
        await settled()
        assert second.agents == ["601"]


async def test_whoever_asks_for_it_hears_of_an_agent_while_that_is_written_down():
    async with opened("601", slow_s=0.2) as house:
        inbox = house.joins("demo-1.1", early=True)
        await asyncio.sleep(0.1)
        [reserved] = inbox.got
        assert reserved.stands is not None
        assert not reserved.stands.done()
        assert house.duties()["601"] == ("idle", None)
        assert await reserved.stands
        assert house.duties()["601"] == ("reserved", "demo-1.1")


@pytest.mark.parametrize("duty", [Duty.PAUSED, Duty.RESERVED, Duty.SIGNED_OUT])
async def test_an_agent_who_was_told_early_and_is_anothers_goes_to_nobody_and_the_call_joins_again(duty):
    async with opened("601", "602") as house:
        house.behind_the_desks_back("601", duty, "other-9.1" if duty is Duty.RESERVED else None)
        inbox = house.joins("demo-1.1", early=True)
        await settled()
        [reserved] = inbox.got
        assert reserved.agent == "601"
        assert not await reserved.stands
        assert house.duties()["601"][0] == duty.value
        assert house.desk.agent("602").duty is Duty.IDLE, "the call has not said that it waits again"
        house.desk.join("demo-1.1", BEGAN, inbox, early=True)
        await settled()
        assert await inbox.got[-1].stands
        assert inbox.agents == ["601", "602"]


async def test_a_call_that_leaves_in_the_moment_in_which_it_is_told_early_leaves_the_agent_free():
    async with opened("601", slow_s=0.2) as house:
        inbox = house.joins("demo-1.1", early=True)
        await asyncio.sleep(0.1)
        house.desk.leave("demo-1.1")
        assert not await inbox.got[0].stands
        await asyncio.sleep(0.5)
        assert house.duties()["601"] == ("idle", None)
        house.joins("demo-2.1")
        await asyncio.sleep(0.5)
        assert house.duties()["601"] == ("reserved", "demo-2.1")


async def test_a_call_that_leaves_and_joins_while_the_agent_is_let_go_is_not_told_that_it_has_the_agent():
    async with opened("601", slow_s=0.2) as house:
        inbox = house.joins("demo-1.1", early=True)
        await asyncio.sleep(0.1)
        house.desk.leave("demo-1.1")
        await asyncio.sleep(0.2)  # the reservation is written down, and its end is under way
        house.desk.join("demo-1.1", BEGAN, inbox, early=True)
        assert not await inbox.got[0].stands
        await asyncio.sleep(1)
        assert [reserved.stands.result() for reserved in inbox.got] == [False, True]
        assert house.duties()["601"] == ("reserved", "demo-1.1")


async def test_a_call_that_left_is_told_even_if_its_agent_cannot_be_let_go():
    async with opened("601", slow_s=0.2) as house:
        inbox = house.joins("demo-1.1", early=True)
        await asyncio.sleep(0.1)
        house.desk.leave("demo-1.1")
        await asyncio.sleep(0.15)
        house.behind_the_desks_back("601", Duty.TALKING, "other-9.1")

        async def away(_question: object) -> None:
            raise StoreUnavailable("as ordered by the test")

        house.ledger.ask = away
        await asyncio.sleep(0.3)
        assert inbox.got[0].stands.done()


async def fairly(house: House) -> bool:
    """By what the ledger says."""
    told = await house.ledger.ask(lambda s: told_by(s.scalars(select(QueueEvent))))
    return not list(overtakings(told))


async def test_whoever_loses_an_agent_in_that_moment_is_overtaken_by_nobody():
    async with opened("601", "602") as house:
        house.behind_the_desks_back("601", Duty.RESERVED, "other-9.1")
        first = house.joins("demo-1.1", early=True)
        second = Inbox()
        house.desk.join("demo-2.1", BEGAN + 0.1, second, early=True)
        await settled()
        assert not await first.got[0].stands
        assert second.agents == []
        house.desk.join("demo-1.1", BEGAN, first, early=True)
        await settled()
        assert (first.agents, second.agents) == (["601", "602"], [])
        assert await fairly(house)


@pytest.mark.parametrize("leaves", [True, False])
async def test_whoever_loses_an_agent_and_does_not_come_back_holds_nobody_up(leaves):
    async with opened("601", "602") as house:
        house.behind_the_desks_back("601", Duty.RESERVED, "other-9.1")
        house.joins("demo-1.1", early=True)
        second = Inbox()
        house.desk.join("demo-2.1", BEGAN + 0.1, second, early=True)
        await settled()
        if leaves:
            house.desk.leave("demo-1.1")
        await asyncio.sleep(0.1 if leaves else 1.1)
        assert second.agents == ["602"]


async def test_a_phone_that_cannot_be_made_before_its_agent_is_reserved_overtakes_nobody():
    async with opened("601", "602", slow_s=0.05) as house:
        first, second = house.joins("demo-1.1", early=True), Inbox()
        house.desk.join("demo-2.1", BEGAN + 0.0001, second, early=True)
        await asyncio.sleep(0.01)
        assert first.agents == ["601"]
        await house.desk.did_not_answer("demo-1.1", "601", "unreachable")
        house.desk.join("demo-1.1", BEGAN, first, early=True)
        await asyncio.sleep(1)
        assert await fairly(house)


async def test_news_that_could_not_be_compared_with_the_database_is_heard_later():
    """Another desk changed the agent, and the database goes in that moment."""
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        house.behind_the_desks_back("601", Duty.TALKING, "other-9.1")

        async def away(_question: object) -> None:
            raise StoreUnavailable("as ordered by the test")

        house.ledger.ask = away
        await house.desk.withdraw("demo-1.1", "601")
        assert house.desk.agent("601").call_id == "demo-1.1", "as before"
        del house.ledger.ask
        await asyncio.sleep(2)
        assert house.desk.agent("601").call_id == "other-9.1"


async def test_whoever_has_done_with_a_call_is_sought_while_that_is_written_down():
    async with opened("601", slow_s=0.2) as house:
        house.joins("demo-1.1")
        await asyncio.sleep(0.3)
        house.desk.leave("demo-1.1")
        inbox = house.joins("demo-2.1", early=True)
        ends = asyncio.create_task(house.desk.withdraw("demo-1.1", "601"))
        await asyncio.sleep(0.1)
        [reserved] = inbox.got
        assert house.duties()["601"] == ("reserved", "demo-1.1"), "nothing is written down yet"
        assert await reserved.stands
        await ends
        assert house.duties()["601"] == ("reserved", "demo-2.1")
        assert house.reasons("601")[-2:] == ["offer withdrawn", "offer"]


async def test_whoever_is_not_free_after_all_is_offered_to_nobody():
    """The desk believed that the agent's talk had ended; another desk had given the agent a call."""
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        inbox = house.joins("demo-2.1", early=True)
        house.behind_the_desks_back("601", Duty.TALKING, "other-9.1")
        await house.desk.withdraw("demo-1.1", "601")
        await settled()
        assert [await reserved.stands for reserved in inbox.got] == [False] * len(inbox.got)
        assert house.duties()["601"] == ("talking", "other-9.1")
        assert house.desk.agent("601").call_id == "other-9.1"


@pytest.mark.parametrize("duty", [Duty.PAUSED, Duty.RESERVED, Duty.SIGNED_OUT])
async def test_an_agent_taken_behind_the_desks_back_is_not_rung_and_the_next_one_is(duty):
    """As by a second controller on the same database."""
    async with opened("601", "602") as house:
        house.behind_the_desks_back("601", duty, "other-9.1" if duty is Duty.RESERVED else None)
        inbox = house.joins("demo-1.1")
        await settled()
        assert inbox.agents == ["602"]
        assert house.desk.agent("601").duty is duty
        assert house.reasons("601") == []


async def test_an_agent_removed_behind_the_desks_back_is_not_rung():
    async with opened("601", "602") as house:
        with store.session(house.engine) as session:
            session.delete(session.get(Agent, "601"))
        inbox = house.joins("demo-1.1")
        await settled()
        assert inbox.agents == ["602"]
        assert house.desk.agent("601") is None


async def test_pausing_loses_against_a_reservation_behind_the_desks_back():
    async with opened("601") as house:
        house.behind_the_desks_back("601", Duty.RESERVED, "other-9.1")
        with pytest.raises(FeatureRefused, match="agent-busy"):
            await house.desk.pause("601")


@pytest.mark.parametrize("what", ["withdraw", "did_not_answer", "talks", "wraps_up"])
async def test_news_of_a_call_that_no_longer_holds_the_agent_changes_nothing(what):
    async with opened("601") as house:
        house.joins("demo-1.1")
        await settled()
        more = {"did_not_answer": ("refused",), "wraps_up": (1.0, 0.0)}.get(what, ())
        await getattr(house.desk, what)("demo-9.9", "601", *more)
        await getattr(house.desk, what)("demo-9.9", "699", *more)
        assert house.desk.agent("601").call_id == "demo-1.1"
        assert house.desk.agent("601").duty is Duty.RESERVED


async def test_agents_on_a_call_of_an_earlier_run_are_free_again_and_pauses_stay():
    engine = staffed("601", "602", "603", "604", duty=Duty.IDLE)
    with store.session(engine) as session:
        for number, duty in (("601", Duty.TALKING), ("602", Duty.WRAP_UP), ("603", Duty.PAUSED)):
            session.get(Agent, number).state = duty.value
        session.get(Agent, "601").call_id = "demo-1.1"
    house = House(engine)
    await house.desk.open()
    await settled()
    assert [house.desk.agent(n).duty for n in ("601", "602", "603", "604")] == [
        Duty.IDLE, Duty.IDLE, Duty.PAUSED, Duty.IDLE,
    ]  # fmt: skip
    assert house.desk.agent("601").call_id is None
    assert house.desk.agent("604").since == BEGAN - 97
    house.desk.close()
    await house.ledger.close()


# ---------------------------------------------------------------- while the database is away


async def test_agents_serve_on_while_the_database_is_away_and_it_hears_of_all_in_order():
    async with opened("601", "602") as house:
        outage = Outage(house.engine)
        outage.away = True
        first, second = house.joins("demo-1.1"), house.joins("demo-2.1")
        await settled()
        assert (first.agents, second.agents) == (["601"], ["602"])
        house.desk.leave("demo-1.1")
        await house.desk.talks("demo-1.1", "601")
        await house.desk.did_not_answer("demo-2.1", "602", "no_answer")
        await asyncio.sleep(90)
        await house.desk.wraps_up("demo-1.1", "601", 90.0, 0.0)
        await house.desk.ready("601")
        await settled()
        house.desk.join("demo-2.1", BEGAN, second)
        await settled()
        assert second.agents == ["602", "601"]
        assert house.duties() == {"601": ("idle", None), "602": ("idle", None)}
        outage.away = False
        await asyncio.sleep(2)
        assert house.duties() == {"601": ("reserved", "demo-2.1"), "602": ("no_answer", None)}
        assert house.reasons("601") == ["offer", "joined", "talk ended", "wrap-up ended by code", "offer"]
        assert house.reasons("602") == ["offer", "no_answer"]
        await house.desk.talks("demo-2.1", "601")
        assert house.duties()["601"] == ("talking", "demo-2.1")
        assert [measured[1] for measured in house.handled] == [90.0]


async def test_a_wrap_up_ends_in_time_while_the_database_is_away():
    async with opened("601") as house:
        await house.talks("demo-1.1", "601")
        await house.desk.wraps_up("demo-1.1", "601", 90.0, 0.0)
        outage = Outage(house.engine)
        outage.away = True
        await asyncio.sleep(QUEUE.wrap_up_s + 0.1)
        assert house.desk.agent("601").duty is Duty.IDLE
        assert [measured[1] for measured in house.handled] == [90.0]
        outage.away = False
        await asyncio.sleep(2)
        assert house.duties() == {"601": ("idle", None)}


async def test_what_agents_did_while_the_database_was_away_outlives_the_controller(tmp_path: Path):
    engine = staffed("601", duty=Duty.IDLE)
    house = House(engine, journal=tmp_path)
    await house.desk.open()
    outage = Outage(engine)
    outage.away = True
    house.joins("demo-1.1")
    await settled()
    await house.desk.talks("demo-1.1", "601")
    house.desk.close()
    await house.ledger.close()
    assert house.duties() == {"601": ("idle", None)}
    outage.away = False
    after = House(engine, journal=tmp_path)
    await after.ledger.open()
    assert after.duties() == {"601": ("talking", "demo-1.1")}
    assert after.reasons("601") == ["offer", "joined"]
    await after.ledger.close()


async def test_a_change_whose_commit_was_not_answered_is_entered_once():
    """The database has it, the desk was told that it is away, and enters it again."""
    async with opened("601") as house:
        answers = LostAnswers(house.engine)
        answers.losing = True
        inbox = house.joins("demo-1.1")
        await settled()
        assert inbox.agents == ["601"]
        answers.losing = False
        await asyncio.sleep(2)
        assert house.duties() == {"601": ("reserved", "demo-1.1")}
        assert house.reasons("601") == ["offer"]
        assert house.ledger.refused_rows == 0


async def test_whatever_others_did_meanwhile_agents_on_the_hotlines_calls_are_as_the_desk_says(caplog):
    async with opened("601", "602", "603") as house:
        outage = Outage(house.engine)
        outage.away = True
        house.joins("demo-1.1")
        house.joins("demo-2.1")
        await settled()
        outage.away = False
        house.behind_the_desks_back("601", Duty.PAUSED)
        house.behind_the_desks_back("602", Duty.TALKING, "other-9.1")
        house.behind_the_desks_back("603", Duty.PAUSED, "demo-1.1")
        await asyncio.sleep(2)
        assert house.duties()["601"] == ("reserved", "demo-1.1")
        assert house.duties()["602"] == ("reserved", "demo-2.1")
        assert house.duties()["603"][1] is None
        assert "agent 601 was made paused meanwhile; reserved counts" in caplog.text
        assert "agent 602 was made talking meanwhile; reserved counts" in caplog.text
        assert house.ledger.refused_rows == 0


async def test_an_agent_is_offered_one_call_however_many_wait_while_the_database_is_away():
    async with opened("601") as house:
        outage = Outage(house.engine)
        outage.away = True
        inboxes = [house.joins(f"demo-{n}.1") for n in range(5)]
        [refused] = await asyncio.gather(house.desk.pause("601"), return_exceptions=True)
        await settled()
        assert isinstance(refused, FeatureRefused)
        assert sum(len(inbox.agents) for inbox in inboxes) == 1
        outage.away = False
        await asyncio.sleep(2)
        assert house.duties()["601"][0] == "reserved"


async def test_a_pin_is_not_believed_while_the_database_is_away():
    async with opened("601") as house:
        Outage(house.engine).away = True
        with pytest.raises(StoreUnavailable):
            await house.desk.check_pin("601", PIN)


async def test_changes_are_numbered_upwards_even_if_the_clock_is_set_back():
    time = [BEGAN]
    numbers, others = Numbers(lambda: time[0]), Numbers(lambda: time[0])
    given = [numbers.next() for _ in range(3)]
    time[0] -= 3600
    given += [numbers.next() for _ in range(3)]
    time[0] += 7200
    given.append(numbers.next())
    assert given == sorted(set(given))
    assert given[-1] < 2**63
    assert others.next() not in given


async def test_expected_wait_follows_the_calls_that_were_handled():
    async with opened("601", "602") as house:
        for n in range(10):
            call = f"demo-{n}.1"
            inbox = house.joins(call)
            await settled()
            house.desk.leave(call)
            [agent] = inbox.agents
            await house.desk.talks(call, agent)
            await house.desk.wraps_up(call, agent, 30.0, 0.0)
            await asyncio.sleep(30)
        for n in range(3):
            house.joins(f"wait-{n}.1")
        await settled()
        assert house.desk.expected_wait_s("wait-1.1") == 0.0
        assert house.desk.expected_wait_s("wait-2.1") == pytest.approx(50 / 2, abs=0.1)
        await asyncio.sleep(7)
        assert house.desk.oldest_wait_s == pytest.approx(7, abs=0.01)


async def test_pins():
    async with opened("601") as house:
        assert await house.desk.check_pin("601", PIN)
        assert not await house.desk.check_pin("601", PIN[:-1])
        assert not await house.desk.check_pin("601", "")
        assert not await house.desk.check_pin("699", PIN)
    assert PIN not in PIN_HASH
    assert hash_pin(PIN) != PIN_HASH


async def test_a_hangup_signal_reads_the_rules_anew_and_a_mistake_leaves_those_in_force(tmp_path, caplog):
    file = tmp_path / "desk.toml"
    file.write_text("", encoding="utf-8")
    engine = staffed("601")
    ledger = Ledger(engine, executor=InlineExecutor())
    now = asyncio.get_running_loop().time
    desk = Desk(ledger, QUEUE, lambda: BEGAN + now(), rules=RuleBook(load(file), file), instance="demo")
    await desk.open()
    with store.session(engine) as session:
        session.add(AgentSkill(agent="601", skill="party", level=1))
    await desk.sign_in("601")
    inbox = Inbox()
    desk.reload()
    await settled()
    desk.join("demo-1.1", BEGAN + now(), inbox)
    await asyncio.sleep(5)
    file.write_text("[[lines.party.steps]]\nafter_s = 1\n", encoding="utf-8")
    reload(desk)
    assert "line 2: lines.party.steps" in caplog.text
    await settled()
    assert (inbox.agents, desk.queue_length) == ([], 1)
    file.write_text("[[lines.party.steps]]\nafter_s = 0\n", encoding="utf-8")
    reload(desk)
    await settled()
    assert inbox.agents == ["601"]
    in_force = await ledger.ask(lambda s: rules_in_force_since(s, "demo", BEGAN))
    assert in_force == load(file)
    desk.close()
    await ledger.close()
    engine.dispose()


async def test_a_leader_pulls_a_caller_out_of_turn_and_the_ledger_says_so():
    async with opened("601") as house:
        await house.desk.pause("601")
        first, second = house.joins("demo-1.1"), house.joins("demo-3.1")
        await settled()
        assert await house.desk.pull("demo-3.1", "601")
        await settled()
        assert (first.agents, second.agents) == ([], ["601"])
        assert not await house.desk.pull("demo-3.1", "601"), "it has an agent"
        told = await house.ledger.ask(lambda s: told_by(s.scalars(select(QueueEvent))))
        assert [one.event for one in told] == ["opened", "waits", "waits", "pulled"]
        assert list(overtakings(told)) == []


async def test_callbacks_and_the_second_line_wait_in_order_and_are_no_callers_on_the_line():
    async with opened() as house:
        callback, second = Inbox(), Inbox()
        house.desk.join("demo-1.1", BEGAN, callback, who=WhoWaits.CALLBACK)
        await asyncio.sleep(5)
        house.desk.join("demo-2.1~second", BEGAN, second)
        assert (house.desk.queue_length, house.desk.oldest_wait_s, house.desk.longest_waiting()) == (0, 0.0, None)
        since = BEGAN + asyncio.get_running_loop().time()
        house.joins("demo-3.1")
        await asyncio.sleep(2)
        assert (house.desk.queue_length, house.desk.longest_waiting()) == (1, "demo-3.1")
        assert house.desk.oldest_wait_s == pytest.approx(BEGAN + asyncio.get_running_loop().time() - since, abs=0.01)
        assert house.desk.position("demo-3.1") == 3
        house.desk._room.declined("demo-1.1", "601")
        assert [place.who for place in house.desk.in_line()] == [
            WhoWaits.CALLBACK, WhoWaits.SECOND_LINE, WhoWaits.CALLER,
        ]  # fmt: skip


async def test_a_leader_pulls_callers_alone():
    async with opened("601") as house:
        await house.desk.pause("601")
        house.desk.join("demo-1.1", BEGAN, Inbox(), who=WhoWaits.CALLBACK)
        house.desk.join("demo-2.1~second", BEGAN, Inbox())
        for call in ("demo-1.1", "demo-2.1~second"):
            assert not await house.desk.pull(call, "601")
        assert house.desk.agent("601").duty is Duty.PAUSED


async def test_a_phone_in_use_twice_is_in_use_until_both_are_over():
    async with opened("601") as house:
        with house.desk.on_the_phone("601"):
            with house.desk.on_the_phone("601"):
                inbox = house.joins("demo-1.1")
            await settled()
            assert inbox.agents == []
        await settled()
        assert inbox.agents == ["601"]


async def test_a_phone_in_use_is_neither_pulled_to_nor_called_out_from_but_by_what_is_dialled_there():
    async with opened("601", "602") as house:
        for number in ("601", "602"):
            await house.desk.pause(number)
        house.joins("demo-1.1")
        for work in (house.desk.pull, house.desk.places):
            with house.desk.on_the_phone("601"), pytest.raises(FeatureRefused, match="agent-busy"):
                await work("demo-1.1", "601")
            with (
                house.desk.on_the_phone("601"),
                house.desk.on_the_phone("601"),
                pytest.raises(FeatureRefused, match="agent-busy"),
            ):
                await work("demo-1.1", "601", dialled=True)
        with house.desk.on_the_phone("601"), house.desk.on_the_phone("602"):
            assert await house.desk.pull("demo-1.1", "601", dialled=True)
            await house.desk.places("demo-2.1", "602", dialled=True)
        assert {house.desk.agent(number).duty for number in ("601", "602")} == {Duty.RESERVED}


async def test_rules_are_read_anew_while_the_database_is_away_and_agents_are_offered_meanwhile():
    async with opened("601") as house:
        outage = Outage(house.engine)
        outage.away = True
        house.desk.reload()
        await settled()
        inbox = house.joins("demo-1.1")
        await asyncio.sleep(0.5)
        assert inbox.agents == ["601"]
