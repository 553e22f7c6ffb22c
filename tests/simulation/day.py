"""A day at the desk, in virtual time: the real desk, routing and ledger; callers and talks drawn by chance.

The database is away all day long, unless it is asked for: the desk then goes on from its memory, a row for each change
waits in the journal, and a day takes seconds. With the database it comes to the same, to the bit.

Three shifts of eight hours with as many agents each as the rules give it. Callers of both lines and of several needs
come by a Poisson process, have exponential patience, and are talked with for an exponential time; an agent answers at
once and wraps up in no time, so that a formula can say what the day must come to.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field

from sqlalchemy import Engine

from ari_app import ledger, store
from ari_app.desk import Desk, Duty, FeatureRefused, Reserved, hash_pin
from ari_app.flow.erlang import Load, Service, service
from ari_app.flow.fairness import Overtaking, overtakings
from ari_app.flow.routing import Wants
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.settings import Queue
from ari_app.store.models import Agent, QueueEvent
from ari_app.waiting import happened, told_by
from tests.fake.virtual_time import run_virtual
from tests.unit.core_database import Outage, in_memory

log = logging.getLogger("sanling")

BEGAN = 1_795_000_000.0
HOUR_S = 3600.0
SETTLING_S = 900.0
"""After a shift has begun its callers are not counted for so long."""
THRESHOLD_S = 15.0
NEEDS = ("milestone", "material", "time", None)


@dataclass(frozen=True)
class Shift:
    agents: int
    calls_h: float
    hours: float = 8.0


@dataclass(frozen=True)
class Plan:
    shifts: tuple[Shift, ...]
    handle_s: float
    patience_s: float

    @property
    def seconds(self) -> float:
        return sum(shift.hours for shift in self.shifts) * HOUR_S

    def promised(self) -> Service:
        """What Erlang A says, of all callers."""
        calls = [shift.calls_h * (shift.hours * HOUR_S - SETTLING_S) for shift in self.shifts]
        each = [
            service(Load(one.calls_h / HOUR_S, self.handle_s, one.agents, self.patience_s), THRESHOLD_S)
            for one in self.shifts
        ]

        def mean(name: str) -> float:
            return sum(n * float(getattr(one, name)) for n, one in zip(calls, each, strict=True)) / sum(calls)

        return Service(mean("waits"), mean("within"), mean("abandons"), mean("wait_s"))


@dataclass
class Caller:
    came: float
    counted: bool
    wait_s: float | None = None
    served: bool = False
    told_s: float | None = None
    """The expected wait, as a caller who had to wait was told."""


@dataclass
class Day:
    """How it went."""

    callers: list[Caller] = field(default_factory=list)
    overtaken: list[Overtaking] = field(default_factory=list)
    offers: int = 0

    @property
    def counted(self) -> list[Caller]:
        return [one for one in self.callers if one.counted]

    def met(self) -> Service:
        """What the callers met."""
        all_of_them = self.counted
        waits = [one.wait_s or 0.0 for one in all_of_them]
        n = len(all_of_them)
        return Service(
            waits=sum(wait > 0.001 for wait in waits) / n,
            within=sum(one.served and (one.wait_s or 0.0) <= THRESHOLD_S for one in all_of_them) / n,
            abandons=sum(not one.served for one in all_of_them) / n,
            wait_s=sum(waits) / n,
        )


def simulate(plan: Plan, seed: int, *, database: bool = False) -> Day:
    """One day."""
    engine, level, retry_s = in_memory(), log.level, ledger.RETRY_AFTER_S
    log.setLevel(logging.CRITICAL)  # that the database is away would be told a hundred thousand times
    ledger.RETRY_AFTER_S = 100 * HOUR_S
    try:
        simulation = _Simulation(plan, engine, random.Random(seed), database)
        return run_virtual(simulation.run(), horizon_s=100 * HOUR_S)
    finally:
        log.setLevel(level)
        ledger.RETRY_AFTER_S = retry_s
        engine.dispose()


class _Simulation:
    def __init__(self, plan: Plan, engine: Engine, chance: random.Random, database: bool) -> None:
        self.plan, self.engine, self.chance, self.database = plan, engine, chance, database
        self.day = Day()
        self.numbers = [str(601 + n) for n in range(sum(shift.agents for shift in plan.shifts))]
        self.leaving: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Day:
        loop = asyncio.get_running_loop()
        pin = hash_pin("0")
        with store.session(self.engine) as session:
            for number in self.numbers:
                session.add(Agent(number=number, name="", sip_ha1="0" * 32, pin_hash=pin))
        ledger = Ledger(self.engine, executor=InlineExecutor())
        outage = Outage(self.engine)
        self.desk = Desk(ledger, Queue(wrap_up_s=0.0), lambda: BEGAN + loop.time(), instance="day")
        await self.desk.open()
        outage.away = not self.database
        off: list[str] = []
        for n, shift in enumerate(self.plan.shifts):
            here = self.numbers[: shift.agents]
            self.numbers = self.numbers[shift.agents :]
            for number in here:
                await self.desk.sign_in(number)
            for number in off:
                await self._goes_home(number)
            off = here
            await self._callers_come(n, shift)
        await asyncio.sleep(HOUR_S)
        if self.database:
            await ledger.flush()
            with store.session(self.engine) as session:
                told = happened(session, 0, BEGAN + 200 * HOUR_S)
        else:
            told = told_by(row for row in ledger.waiting() if isinstance(row, QueueEvent))
        self.day.offers = sum(one.event == "offered" for one in told)
        self.day.overtaken = list(overtakings(told))
        self.desk.close()
        await ledger.close()
        return self.day

    async def _callers_come(self, n: int, shift: Shift) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(self.chance.expovariate(shift.calls_h / HOUR_S))
            if loop.time() - began > shift.hours * HOUR_S:
                return
            caller = Caller(loop.time(), counted=loop.time() - began > SETTLING_S)
            self.day.callers.append(caller)
            Line(self, f"day-{len(self.day.callers)}.{n}", caller).joins()

    async def _goes_home(self, number: str) -> None:
        """After the call, if in one."""
        try:
            await self.desk.sign_out(number)
        except FeatureRefused:
            self.leaving.add(number)

    def soon(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Line:
    """One caller, and the inbox that the desk puts an agent into."""

    def __init__(self, simulation: _Simulation, call_id: str, caller: Caller) -> None:
        self.simulation, self.call_id, self.caller = simulation, call_id, caller
        self.loop = asyncio.get_running_loop()

    def joins(self) -> None:
        chance, desk = self.simulation.chance, self.simulation.desk
        self.patience = self.loop.call_later(chance.expovariate(1 / self.simulation.plan.patience_s), self.gives_up)
        wants = Wants(line=chance.choice(("party", "lawyer")), need=chance.choice(NEEDS))
        desk.join(self.call_id, BEGAN + self.caller.came, self, wants=wants)
        if not desk.agents_in(Duty.IDLE):
            self.caller.told_s = desk.expected_wait_s(self.call_id)

    def gives_up(self) -> None:
        self.caller.wait_s = self.loop.time() - self.caller.came
        self.simulation.desk.leave(self.call_id)

    def put(self, event: object) -> None:
        assert isinstance(event, Reserved)
        self.patience.cancel()
        self.caller.wait_s = self.loop.time() - self.caller.came
        self.caller.served = True
        self.simulation.soon(self.talks(event.agent))

    async def talks(self, agent: str) -> None:
        desk = self.simulation.desk
        desk.leave(self.call_id)
        await desk.talks(self.call_id, agent)
        talk_s = self.simulation.chance.expovariate(1 / self.simulation.plan.handle_s)
        await asyncio.sleep(talk_s)
        await desk.wraps_up(self.call_id, agent, talk_s, 0.0)
        if agent in self.simulation.leaving:
            self.simulation.leaving.discard(agent)
            await desk.sign_out(agent)
