"""A whole hotline for call scripts: over the fake Asterisk in virtual time, or over a real one with real phones.

Both offer the same: callers who dial, agents who sign in, and the ledger that tells what was written down.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from prometheus_client import CollectorRegistry
from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import cases, ledger, sample, store
from ari_app.ari import Client
from ari_app.desk import Desk
from ari_app.flow.sop import State
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.line import Hotline
from ari_app.prompts import Catalogue
from ari_app.reception import Reception
from ari_app.rules import RuleBook, parse
from ari_app.settings import Settings, load
from ari_app.staff import Access
from ari_app.store import models
from metrics.hotline import HotlineMetrics
from tests.fake.asterisk import FakeAsterisk, lengths_of
from tests.fake.exchange import EPOCH

T = TypeVar("T")

NUMBER = "12368"
PARTY = "15400001001"
"""张伟: case …12345, name 99."""
STRANGER = "15400009999"
LAWYER = "15400002001"
"""王建国 of 北京金衡律师事务所: firm 54 (金衡), name 954, licence …0417."""
LANDLINE = "02150001234"
BEGAN = EPOCH.timestamp()


class Script:
    """What scripts ask of a hotline, whichever it is."""

    settings: Settings
    access: dict[str, Access]
    since = 0.0
    """Unix seconds at which this script began."""

    async def ask(self, question: Callable[[Session], T]) -> T:
        raise NotImplementedError

    async def agent_signs_in(self, number: str, **how: Any) -> Any:
        """A registered phone whose agent has signed in by `*11` and the PIN."""
        phone = await self.phone(number, **how)
        signing = await phone.dials(f"*11{self.access[number].pin}")
        await signing.answered()
        await signing.hears("agent-signed-in")
        await signing.ended()
        return phone

    async def phone(self, number: str, **how: Any) -> Any:
        raise NotImplementedError

    async def rings(self, from_: str, **how: Any) -> Any:
        raise NotImplementedError

    def said_until(self, call: Any, heard: Any) -> float:
        """When the last of a prompt was heard, on the clock of `call.ended_at`; from the received audio."""
        raise NotImplementedError

    async def states(self) -> list[str]:
        """States that the last call went through, in order, without repeats."""

        def read(session: Session) -> list[str]:
            last = session.scalar(
                select(models.Call.id).order_by(models.Call.at.desc(), models.Call.id.desc()).limit(1)
            )
            if last is None:
                return []
            rows = session.scalars(
                select(models.Transition).where(models.Transition.call_id == last).order_by(models.Transition.n)
            ).all()
            path = [rows[0].state] if rows else []
            for row in rows:
                if row.next != path[-1]:
                    path.append(row.next)
            return path

        return await self.ask(read)

    async def ending(self, *, within_s: float = 5.0) -> models.Ending:
        """The last call's closing line; its ledger must replay to the same end."""

        def read(session: Session) -> models.Ending | None:
            last = session.scalar(
                select(models.Call.id).order_by(models.Call.at.desc(), models.Call.id.desc()).limit(1)
            )
            found = session.get(models.Ending, last) if last is not None else None
            if found is not None and found.outcome != "broken":
                ledger.replay(session, found.call_id)
            return found

        for _ in range(round(within_s / 0.1)):
            found = await self.ask(read)
            if found is not None:
                return found
            await asyncio.sleep(0.1)
        raise AssertionError("the call was not closed in the ledger")

    async def identity(self) -> models.Identity | None:
        return await self.ask(lambda s: s.scalars(select(models.Identity).order_by(models.Identity.at.desc())).first())

    async def offers(self) -> list[tuple[str, str]]:
        """Of the last call: agent and event, in order."""

        def read(session: Session) -> list[tuple[str, str]]:
            last = session.scalar(
                select(models.Call.id).order_by(models.Call.at.desc(), models.Call.id.desc()).limit(1)
            )
            rows = session.scalars(
                select(models.OfferEvent).where(models.OfferEvent.call_id == last).order_by(models.OfferEvent.at)
            )
            return [(row.agent, row.event) for row in rows]

        return await self.ask(read)

    async def call_is(self, state: State, within_s: float = 5.0) -> None:
        """The last call is in `state` now, or soon."""
        for _ in range(round(within_s / 0.1)):
            path = await self.states()
            if (path or ["RINGING"])[-1] == state.name:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the call is in {path}, not {state.name}")

    async def nothing_is_left(self) -> None:
        """No channel, bridge or playback stays in Asterisk."""
        raise NotImplementedError

    async def duty(self, agent: str) -> str:
        found = await self.ask(lambda s: s.scalar(select(models.Agent.state).where(models.Agent.number == agent)))
        assert found is not None
        return found

    async def agent_at(self, phone: str) -> str | None:
        """Who is signed in at `phone`."""
        return await self.ask(lambda s: s.scalar(select(models.Agent.number).where(models.Agent.phone == phone)))

    async def duty_becomes(self, agent: str, state: str, within_s: float = 5.0) -> None:
        for _ in range(round(within_s / 0.1)):
            if await self.duty(agent) == state:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"agent {agent} is {await self.duty(agent)}, not {state}")


@cache
def stocked() -> tuple[bytes, tuple[Access, ...]]:
    """A database with the sample in it, and its agents' PINs: made once, because it takes longer than many a call."""
    engine = store.open_engine("sqlite://")
    store.migrate(engine)
    with store.session(engine) as session:
        access = tuple(sample.fill(session, BEGAN))
    connection = engine.raw_connection().driver_connection
    assert connection is not None
    return connection.serialize(), access


@cache
def approved_prompts(folder: Path) -> Catalogue:
    return Catalogue.load(folder)


class FakeHouse(Script):
    """Over the fake Asterisk, in virtual time; the database is SQLite in memory."""

    def __init__(self, *, rules: str = "", **overrides: Any) -> None:
        """`rules`: what desk.toml says."""
        self.rules = RuleBook(parse(rules))
        self.settings = load(Path(os.devnull), {}, instance="demo", **overrides)

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        engine = store.open_engine("sqlite://")
        database, access = stocked()
        engine.raw_connection().driver_connection.deserialize(database)  # type: ignore[union-attr]
        self.access = {a.number: a for a in access}
        self._now = lambda: BEGAN + asyncio.get_running_loop().time()
        catalogue = approved_prompts(self.settings.prompts)
        self.asterisk = await self._stack.enter_async_context(
            FakeAsterisk(
                lengths=lengths_of(self.settings.prompts / "audio"),
                instance="demo",
                hotline_numbers=self.settings.hotline_numbers,
                case_context=self._case_context,
                at_once=not self.settings.answering.after_rings,
            )
        )
        self._ledger = Ledger(engine, executor=InlineExecutor())
        self.registry = CollectorRegistry()
        self._metrics = HotlineMetrics(self.registry)
        self._metrics.register_agents(self.access)
        self._catalogue = catalogue
        self._engine = engine
        self.agi_away = False
        self._stack.push_async_callback(self._ledger.close)
        self._controller: AsyncExitStack | None = None
        self._stack.push_async_callback(self.controller_dies)
        await self.controller_starts()
        return self

    async def controller_starts(self) -> None:
        """One that knows nothing but the ledger and what Asterisk holds; returns once it serves."""
        self._controller = controller = AsyncExitStack()
        client = Client(self.asterisk.wire())
        desk = Desk(
            self._ledger, self.settings.queue, self._now, on_wrapped_up=self._metrics.handled, rules=self.rules,
            zone=self.settings.zone, instance="demo", on_mended=self._metrics.agent_mended,
        )  # fmt: skip
        controller.callback(desk.close)
        self.house = Hotline(
            self.settings, client, desk, self._ledger, self._catalogue, self._metrics, self._now, asyncio.Event()
        )
        self.reception = Reception(self.house)
        await self.reception.open()
        await controller.enter_async_context(client)
        task = asyncio.get_running_loop().create_task(self.reception.run(), name="reception")
        controller.push_async_callback(asyncio.gather, task, return_exceptions=True)
        controller.callback(task.cancel)
        self.asterisk.restore_link()
        await self.reception.ready.wait()

    async def controller_dies(self) -> None:
        """All of it at once; what it had in Asterisk stays there."""
        controller, self._controller = self._controller, None
        if controller is not None:
            self.asterisk.drop_link()
            await controller.aclose()

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def _case_context(self, number: str, role: str, case: str, licence: str) -> dict[str, str]:
        if self.agi_away:
            raise ConnectionError
        with store.session(self._engine) as session:
            found = cases.context(
                session, number=number or None, role=role or None, case_last5=case or None,
                licence_last4=licence or None, now=BEGAN,
            )  # fmt: skip
        return {
            "SANLING_CONTEXT": found.status, "SANLING_ROLE": found.role, "SANLING_CASES": str(found.cases),
            "SANLING_MILESTONE": found.milestone, "SANLING_NEXT": found.next,
        }  # fmt: skip

    async def ask(self, question: Callable[[Session], T]) -> T:
        return await self._ledger.ask(question)

    def said_until(self, call: Any, heard: Any) -> float:
        return float(call.began_at + heard.until_s)

    async def nothing_is_left(self) -> None:
        await asyncio.sleep(1)
        assert not self.asterisk.ghosts()

    async def phone(self, number: str, **how: Any) -> Any:
        return await self.asterisk.phones.agent(number)

    async def rings(self, from_: str, **how: Any) -> Any:
        return await self.asterisk.phones.caller(from_).dials(NUMBER)
