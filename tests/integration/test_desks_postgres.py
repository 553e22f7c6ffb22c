"""Two desks on one real PostgreSQL: random sequences one after the other, and at the same time."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from random import Random
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine, select, text

from ari_app import store
from ari_app.desk import Desk, FeatureRefused, Reserved
from ari_app.ledger import Ledger
from ari_app.settings import Queue
from ari_app.store import models
from tests.integration.test_store_postgres import database, server, staffed, template  # noqa: F401 - fixtures
from tests.unit.test_desk_states import NOON, NUMBERS, TwoDesks

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres"), pytest.mark.timeout(600)]
SEQUENCES = int(os.environ.get("SANLING_SEQUENCES", "20"))


class TwoDesksOnPostgres(TwoDesks):
    url: ClassVar[str]

    def database(self) -> Engine:
        engine = store.open_engine(self.url)
        with store.session(engine) as session:
            session.execute(text("TRUNCATE agents, agent_states, duty_notes, journals CASCADE"))
            for number in NUMBERS:
                session.add(models.Agent(number=number, name="", sip_ha1="0" * 32, pin_hash="", state_since=NOON))
        return engine


def test_two_desks_give_no_agent_two_calls_whatever_the_order(server, database):  # noqa: F811
    TwoDesksOnPostgres.url = server.url(database)
    run_state_machine_as_test(
        TwoDesksOnPostgres,
        settings=settings(
            max_examples=SEQUENCES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class Floor:
    """What the calls of all desks were told: which agent each has."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.offers = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def takes(self, call: str, agent: str) -> None:
        with self._lock:
            self.offers += 1
            if agent in self.held.values():
                self.wrong.append(f"{agent} is offered {call} and has another: {self.held}")
            self.held[call] = agent

    def lets_go(self, call: str) -> str:
        with self._lock:
            return self.held.pop(call)


class Caller:
    def __init__(self, floor: Floor, call: str, mine: set[str]) -> None:
        self._floor, self._call, self._mine = floor, call, mine

    def put(self, event: object) -> None:
        assert isinstance(event, Reserved)
        self._floor.takes(self._call, event.agent)
        self._mine.add(self._call)


ENDS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("withdraw", ()), ("did_not_answer", ("refused",)), ("wraps_up", (1.0, 0.0)),
)  # fmt: skip


async def unless_refused(code: Awaitable[object]) -> None:
    with suppress(FeatureRefused):
        await code


async def serve(name: str, url: str, floor: Floor, barrier: threading.Barrier, actions: int) -> None:
    """One hotline's desk, and whatever its callers and agents may do, at random."""
    rng = Random(f"two desks {name}")
    engine = store.open_engine(url)
    ledger = Ledger(engine)
    desk = Desk(ledger, Queue(wrap_up_s=0.02), lambda: NOON + asyncio.get_running_loop().time(), instance=name)
    await desk.open()
    mine: set[str] = set()
    joined: set[str] = set()
    await asyncio.to_thread(barrier.wait, 60)
    for n in range(actions):
        number = rng.choice(NUMBERS)
        match rng.randrange(8):
            case 0 | 1 | 2:
                call = f"{name}-{n}"
                joined.add(call)
                desk.join(call, float(n), Caller(floor, call, mine))
            case 3 | 4 if mine:
                call = rng.choice(sorted(mine))
                mine.discard(call)
                desk.leave(call)
                how, more = rng.choice(ENDS)
                await getattr(desk, how)(call, floor.lets_go(call), *more)
            case 5:
                await unless_refused(desk.resume(number))
            case 6:
                await unless_refused(desk.sign_in(number, rng.choice(NUMBERS)))
            case _:
                legs = {f"{call}~offer-{at}": f"PJSIP/{at}-1" for call in floor.held for at in NUMBERS}
                await desk.mend(legs, NOON)
        await asyncio.sleep(rng.uniform(0.0, 0.01))
    for call in joined - mine:
        desk.leave(call)
    while desk._tasks:
        await asyncio.wait(desk._tasks)
    desk.close()
    await ledger.close()
    engine.dispose()


def test_two_desks_at_the_same_time_give_no_agent_two_calls(server, database):  # noqa: F811
    url, floor, barrier = server.url(database), Floor(), threading.Barrier(2)
    engine = store.open_engine(url)
    staffed(engine, *NUMBERS)
    failures: list[BaseException] = []

    def run(name: str) -> None:
        try:
            asyncio.run(serve(name, url, floor, barrier, actions=400))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("east", "west")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not floor.wrong
    assert floor.offers > 50
    with store.session(engine) as session:
        rows = session.execute(select(models.AgentState.agent, models.AgentState.was, models.AgentState.now)).all()
        for agent in session.scalars(select(models.Agent)):
            entered = Counter(now for number, _, now in rows if number == agent.number) + Counter(["idle"])
            left = Counter(was for number, was, _ in rows if number == agent.number) + Counter([agent.state])
            assert entered == left, "a change began where none ended"
            assert (agent.call_id is not None) == (agent.state in ("reserved", "ringing", "talking", "consulting"))
    engine.dispose()
