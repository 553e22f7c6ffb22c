"""The case context on a real Asterisk: the variables arrive, and no fault of the look-up stops a call."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import Engine

from agi_scripts.database import open_reader
from agi_scripts.server import SCRIPTS, Script, Server
from agi_scripts.session import Session
from ari_app import store
from ari_app.ari import Arrival, Client, events
from ari_app.ari.websocket import WebSocketWire
from ari_app.instance import Instance
from ari_app.settings import Settings, load
from ari_app.store.models import Case, LawFirm, Lawyer, Milestone, Party
from tests.asterisk.house_caller import Caller

pytestmark = pytest.mark.asterisk

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
ADDRESS, CALLER_ADDRESS = f"127.0.57.{20 + WORKER}", f"127.0.57.{120 + WORKER}"
PARTY, LAWYER, STRANGER = "15400001234", "15400005678", "15400009999"
PARTYS = {
    "SANLING_CONTEXT": "ok",
    "SANLING_ROLE": "party",
    "SANLING_CASES": "1",
    "SANLING_MILESTONE": "filed",
    "SANLING_NEXT": "hearing",
}
LAWYERS = PARTYS | {"SANLING_ROLE": "lawyer"}
NOBODYS = {
    "SANLING_CONTEXT": "none",
    "SANLING_ROLE": "unknown",
    "SANLING_CASES": "0",
    "SANLING_MILESTONE": "none",
    "SANLING_NEXT": "none",
}
UNAVAILABLE = {
    "SANLING_CONTEXT": "unavailable",
    "SANLING_ROLE": "",
    "SANLING_CASES": "",
    "SANLING_MILESTONE": "",
    "SANLING_NEXT": "",
}


@dataclass
class Line:
    """A hotline's Asterisk, with the test in the controller's place."""

    settings: Settings
    client: Client

    @asynccontextmanager
    async def rings(self, number: str, name: str = "") -> AsyncIterator[tuple[Arrival, Mapping[str, str], float]]:
        """A call, once it reaches the controller: with its variables, and the seconds from dialling to there."""
        caller = Caller(CALLER_ADDRESS, (ADDRESS, self.settings.sip_port), number=number)
        if name:
            caller.from_header = f'"{name}" <sip:{number}@{CALLER_ADDRESS}>'
        async with caller:
            began = time.monotonic()
            await caller.dial("12368")
            async with asyncio.timeout(10):
                arrival = await self.client.arrivals.get()
            took = time.monotonic() - began
            try:
                yield arrival, _context(arrival.event), took
            finally:
                await self.client.channels.hangup(channelId=arrival.event.channel.id)

    async def looks_up_again(self, arrival: Arrival, **keyed: str) -> Mapping[str, str]:
        """The second look-up, as the controller asks for it once an identity was keyed."""
        channel = arrival.event.channel.id
        await self.client.channels.setChannelVars(
            channelId=channel, variables={f"SANLING_KEYED_{name.upper()}": value for name, value in keyed.items()}
        )
        await self.client.channels.continueInDialplan(
            channelId=channel, context="case-context", extension="s", priority=1
        )
        async with asyncio.timeout(10):
            while not isinstance(event := await arrival.mailbox.get(), events.StasisStart):
                pass
        return _context(event)


def _context(event: events.StasisStart) -> Mapping[str, str]:
    return {name: str(value) for name, value in dict(event.channel.channelvars or {}).items()}


def _case_file(settings: Settings) -> None:
    engine = store.open_engine(settings.database)
    store.migrate(engine)
    with store.session(engine) as session:
        firm = LawFirm(name="北京试验律师事务所", short_name="试验")
        session.add(firm)
        session.flush()
        lawyer = Lawyer(name="李试", licence="11101200012345678", mobile=LAWYER, firm_id=firm.id)
        party = Party(name="张伟", title="先生", mobile=PARTY)
        session.add_all([lawyer, party])
        session.flush()
        case = Case(
            number="（2025）京0105民初12345号", serial_last5="12345", court="京0105", cause="合同纠纷",
            amount_fen=100, party_id=party.id, lawyer_id=lawyer.id,
        )  # fmt: skip
        session.add(case)
        session.flush()
        session.add(Milestone(case_id=case.id, code="filed", at=1.0))
        session.add(Milestone(case_id=case.id, code="scheduled", at=time.time() + 86400))
    engine.dispose()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        environment={}, instance="agi-test", address=ADDRESS, var_dir=str(tmp_path), agi_deadline_s=1.0,
        trunk={"addresses": [CALLER_ADDRESS]},
    )  # fmt: skip


@pytest.fixture
def line(settings: Settings) -> object:
    @asynccontextmanager
    async def running() -> AsyncIterator[Line]:
        instance = Instance(settings)
        instance.prepare([])
        _case_file(settings)
        await instance.start_asterisk()
        try:
            wire = WebSocketWire(instance.ari_url, instance.ari_user, instance.ari_password, "sanling")
            async with Client(wire, app="sanling") as client:
                await client.links.get()
                yield Line(settings, client)
        finally:
            await instance.stop()

    return running()


@contextmanager
def agi_server(settings: Settings, scripts: Mapping[str, Script] = SCRIPTS) -> Iterator[None]:
    engine = open_reader(settings)
    server = Server(settings.address, settings.agi_port, engine, deadline_s=settings.agi_deadline_s, scripts=scripts)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()
        engine.dispose()


async def test_the_callers_context_arrives_with_the_call(line, settings):
    with agi_server(settings):
        for number, expected in ((PARTY, PARTYS), (f"+86{PARTY}", PARTYS), (LAWYER, LAWYERS), (STRANGER, NOBODYS)):
            async with line.rings(number) as (_, context, _):
                assert context == expected, number


async def test_what_was_keyed_is_looked_up_the_second_time(line, settings):
    with agi_server(settings):
        async with line.rings(STRANGER) as (arrival, context, _):
            assert context == NOBODYS
            assert await line.looks_up_again(arrival, number=PARTY, role="party", case="12345") == PARTYS
            assert await line.looks_up_again(arrival, number=PARTY, role="party", case="54321") == NOBODYS
            assert await line.looks_up_again(arrival, number=LAWYER, role="lawyer", licence="5678") == LAWYERS
            assert await line.looks_up_again(arrival, number=LAWYER, role="lawyer", licence="0000") == NOBODYS


@pytest.mark.parametrize(
    "name",
    ['\\"', "\\\\", '\\"; SET VARIABLE SANLING_ROLE lawyer', "\udcff\udcfe", "张" * 900, "${SHELL(id)}", "a: b"],
    ids=["quote", "backslash", "command", "not UTF-8", "2.7 kB", "function", "colon"],
)
async def test_a_hostile_name_in_the_sip_header_changes_nothing(line, settings, name):
    with agi_server(settings):
        async with line.rings(STRANGER, name) as (_, context, _):
            assert context == NOBODYS


async def test_a_name_with_line_feeds_or_of_60_kb_brings_nobodys_context(line, settings):
    hostile = (
        'x"\nSET VARIABLE SANLING_CONTEXT ok\n',
        f"x\nagi_arg_1: {PARTY}",
        "x\n\n200 result=1\nSET VARIABLE SANLING_ROLE party",
        "x\nagi_network_script: other",
        "x" * 60_000,
    )
    with agi_server(settings):
        async with line.rings(STRANGER) as (arrival, _, _):
            channel = arrival.event.channel.id
            for name in hostile:
                await line.client.channels.setChannelVar(channelId=channel, variable="CALLERID(name)", value=name)
                context = await line.looks_up_again(arrival, number=STRANGER, role="party", case="12345")
                assert context["SANLING_CONTEXT"] in ("none", "unavailable"), name[:40]
                assert context["SANLING_ROLE"] in ("unknown", ""), name[:40]


def _break(_session: Session, _engine: Engine) -> None:
    raise RuntimeError


def _hang(_session: Session, _engine: Engine) -> None:
    time.sleep(3)


def _half(session: Session, _engine: Engine) -> None:
    session.set_variable("SANLING_CONTEXT", "unavailable")
    raise RuntimeError


@pytest.mark.parametrize(
    ("script", "within_s"),
    [(None, 0.5), (_break, 0.5), (_half, 0.5), (_hang, 1.5)],
    ids=["server away", "crash", "crash halfway", "hang"],
)
async def test_without_a_look_up_the_call_goes_on_as_unavailable(line, settings, script, within_s):
    async def goes_on() -> None:
        async with line.rings(PARTY) as (_, context, took):
            assert context == UNAVAILABLE
            assert took < within_s

    if script is None:
        await goes_on()
    else:
        with agi_server(settings, {"case_context": script}):
            await goes_on()


async def test_a_server_that_is_no_agi_server_holds_no_call_for_ever(line, settings):
    async def says_nothing(_reads: asyncio.StreamReader, writes: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            writes.close()

    mute = await asyncio.start_server(says_nothing, ADDRESS, settings.agi_port)
    try:
        async with line.rings(PARTY) as (_, context, took):
            assert context == UNAVAILABLE
            assert took < settings.agi_deadline_s + 2
    finally:
        mute.close()


async def test_without_its_database_the_call_goes_on_as_unavailable(line, settings, caplog):
    caplog.set_level(logging.DEBUG)
    with agi_server(settings):
        for file in settings.run_dir.glob("sanling.db*"):
            file.unlink()
        async with line.rings(PARTY) as (_, context, took):
            assert context == UNAVAILABLE
            assert took < 0.5
    assert PARTY not in caplog.text


async def test_the_look_up_costs_a_call_milliseconds(line, settings, record_property):
    took: dict[str, list[float]] = {"without": [], "with": []}

    async def measure(which: str) -> None:
        for _ in range(20):
            async with line.rings(PARTY) as (_, _, seconds):
                took[which].append(seconds * 1000)

    await measure("without")
    with agi_server(settings):
        await measure("with")
    cost = median(took["with"]) - median(took["without"])
    record_property("agi_look_up_ms", cost)
    print(f"\nA look-up costs a call {cost:.1f} ms (dial to Stasis {median(took['with']):.1f} ms)")
    assert cost < 100
