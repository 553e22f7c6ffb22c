"""The database of several nodes: everything that SQLite keeps, kept by a real PostgreSQL too."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select, text, update
from sqlalchemy.exc import DBAPIError

from ari_app import sample, store
from ari_app.cases import check_identity, context
from ari_app.desk import Desk, Duty, FeatureRefused
from ari_app.errors import LedgerContradiction, StoreUnavailable
from ari_app.flow.identity import Element, Role
from ari_app.ledger import RETRY_AFTER_S, Ledger, replay
from ari_app.settings import Queue
from ari_app.store import models
from tests.integration.postgres import Postgres
from tests.unit.test_desk import BEGAN, Inbox
from tests.unit.test_ledger import AT, CALL, PATH, ROWS, call, copy_of, prompt

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("postgres"), pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres"), address="127.0.59.1", progress=print) as running:
        yield running


@pytest.fixture(scope="session")
def template(server: Postgres) -> str:
    """A database with this version's tables, to copy."""
    _create(server, "migrated", "template0")
    engine = store.open_engine(server.url("migrated"))
    store.migrate(engine)
    store.migrate(engine)  # nothing is left to do, and nothing is harmed
    engine.dispose()
    return "migrated"


@pytest.fixture
def database(server: Postgres, template: str) -> str:
    name = f"t{secrets.token_hex(6)}"
    _create(server, name, template)
    return name


@pytest.fixture
def engine(server: Postgres, database: str) -> Iterator[Engine]:
    opened = store.open_engine(server.url(database))
    yield opened
    opened.dispose()


@pytest.fixture
def controllers(server: Postgres, database: str) -> Iterator[Engine]:
    """As the controller opens it: a server that does not answer is given up."""
    opened = store.open_engine(server.url(database), answer_within_s=3.0)
    yield opened
    opened.dispose()


def _create(server: Postgres, name: str, template: str) -> None:
    engine = store.open_engine(server.url("postgres")).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    engine.dispose()


def staffed(engine: Engine, *numbers: str, duty: Duty = Duty.IDLE) -> None:
    with store.session(engine) as session:
        for number in numbers:
            session.add(
                models.Agent(number=number, name="", sip_ha1="0" * 32, pin_hash="", state=duty.value, state_since=BEGAN)
            )


# ---------------------------------------------------------------- tables


def test_the_migrations_make_the_tables_of_the_models(server, engine):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    store.check_version(engine)
    with engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), models.Table.metadata)
    assert difference == []


def test_a_database_without_tables_says_what_to_run(server):
    engine = store.open_engine(server.url("postgres"))
    with pytest.raises(StoreUnavailable, match="sanling setup"):
        store.check_version(engine)
    engine.dispose()


@pytest.mark.parametrize("change", ["update", "delete"])
def test_no_row_of_the_ledger_is_ever_changed_or_deleted(engine, change):
    with store.session(engine) as session:
        for row in ROWS:
            session.add(copy_of(row))
            session.flush()
    for table in models.LEDGER:
        statement = update(table).values(at=0.0) if change == "update" else delete(table)
        with pytest.raises(DBAPIError, match="append-only"), store.session(engine) as session:
            session.execute(statement)
        with store.session(engine) as session:
            assert session.scalars(select(table.at)).all() == [AT]


def test_the_sample_data_and_what_it_opens(engine):
    with store.session(engine) as session:
        access = sample.fill(session, BEGAN)
        assert len(access) == len(sample.AGENTS)
    with store.session(engine) as session:
        found = context(session, number="15400001001", case_last5="12345", now=BEGAN)
        assert (found.status, found.cases, found.milestone, found.next) == ("ok", 1, "scheduled", "hearing")
        assert context(session, number="15400002001", licence_last4="____", now=BEGAN).status == "none"
        right = {Element.MOBILE: "15400001001", Element.CASE: "12345", Element.NAME: "99"}
        assert check_identity(session, Role.PARTY, right)[0] is not None
        assert check_identity(session, Role.PARTY, {**right, Element.CASE: "20871"}) == (None, (Element.CASE,))


def test_a_call_is_replayed_and_a_changed_row_is_found(engine):
    from ari_app.flow.sop import Progress, step

    with store.session(engine) as session:
        session.add(call())
        session.flush()
        progress = Progress()
        for n, heard in enumerate(PATH):
            was = progress
            progress, actions = step(was, heard)
            session.add(
                models.Transition(
                    call_id=CALL, n=n, at=AT + n, state=was.state.name, heard=heard.name, next=progress.state.name,
                    actions=" ".join(do.name for do in actions), agent=None,
                )
            )  # fmt: skip
    with store.session(engine) as session:
        assert replay(session, CALL).verified
        session.execute(text("ALTER TABLE transitions DISABLE TRIGGER ALL"))
        session.execute(update(models.Transition).where(models.Transition.n == 4).values(next="TALKING"))
        session.expire_all()
        with pytest.raises(LedgerContradiction, match="Row 4"):
            replay(session, CALL)


# ---------------------------------------------------------------- one agent, many controllers


def test_of_eight_controllers_exactly_one_gets_an_agent(server, database):
    """Each with a desk, an engine, a thread and a loop of its own; round after round."""
    rounds, controllers = 12, 8
    first = store.open_engine(server.url(database))
    numbers = [str(701 + n) for n in range(rounds)]
    staffed(first, *numbers, duty=Duty.SIGNED_OUT)
    barrier = threading.Barrier(controllers)
    won: list[tuple[str, str]] = []
    failures: list[BaseException] = []

    async def control(name: int) -> None:
        engine = store.open_engine(server.url(database))
        ledger = Ledger(engine)
        desk = Desk(ledger, Queue(), lambda: BEGAN)
        for n, number in enumerate(numbers):
            if name == 0:
                with store.session(first) as session:
                    session.execute(update(models.Agent).where(models.Agent.number == number).values(state="idle"))
            await asyncio.to_thread(barrier.wait, 60)
            await desk.open()
            await asyncio.to_thread(barrier.wait, 60)
            inbox, call_id = Inbox(), f"node{name}-{n}.1"
            desk.join(call_id, BEGAN, inbox)
            while desk._tasks:
                await asyncio.wait(desk._tasks)
            desk.leave(call_id)
            won.extend((number, reserved.agent) for reserved in inbox.got)
            await asyncio.to_thread(barrier.wait, 60)
            if name == 0:
                with store.session(first) as session:
                    session.execute(
                        update(models.Agent)
                        .where(models.Agent.number == number)
                        .values(state="signed_out", call_id=None)
                    )
            await asyncio.to_thread(barrier.wait, 60)
        desk.close()
        await ledger.close()
        engine.dispose()

    def run(name: int) -> None:
        try:
            asyncio.run(control(name))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(name,)) for name in range(controllers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(won) == [(number, number) for number in numbers]
    with store.session(first) as session:
        offers = session.scalars(select(models.AgentState.agent).where(models.AgentState.now == "reserved")).all()
    assert sorted(offers) == numbers
    first.dispose()


def test_the_database_itself_refuses_one_call_two_agents(engine):
    staffed(engine, "601", "602")
    with pytest.raises(DBAPIError, match="uq_agents_call"), store.session(engine) as session:
        session.execute(update(models.Agent).values(call_id="demo-1.1"))


async def test_an_agent_whom_another_node_took_is_refused_and_passed_over(engine):
    staffed(engine, "601", "602")
    ledger = Ledger(engine)
    desk = Desk(ledger, Queue(), lambda: BEGAN)
    await desk.open()
    with store.session(engine) as session:
        session.execute(
            update(models.Agent).where(models.Agent.number == "601").values(state="reserved", call_id="other-1.1")
        )
    with pytest.raises(FeatureRefused):
        await desk.pause("601")
    inbox = Inbox()
    desk.join("demo-1.1", BEGAN, inbox)
    await asyncio.sleep(0.5)
    assert inbox.agents == ["602"]
    desk.close()
    await ledger.close()


# ---------------------------------------------------------------- the server goes and comes


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["restart", "crash"])
async def test_the_ledger_outlives_its_server(server, engine, how, caplog):
    caplog.set_level(logging.CRITICAL)
    ledger = Ledger(engine)
    ledger.write(call(), prompt(0))
    await ledger.flush()
    server.stop(how)
    try:
        ledger.write(prompt(1))
        await ledger.flush()
        ledger.write(prompt(2), prompt(3))
        assert ledger.waiting_rows == 3
        with pytest.raises(StoreUnavailable):
            await ledger.ask(lambda s: s.get(models.Call, CALL))
    finally:
        server.start()  # here: bubblewrap dies with the thread that started it
    await asyncio.sleep(RETRY_AFTER_S + 0.5)
    assert ledger.waiting_rows == 0
    count = await ledger.ask(lambda s: s.scalar(select(func.count()).select_from(models.PromptHeard)))
    assert count == 4
    await ledger.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["restart", "crash"])
async def test_a_server_that_goes_in_the_middle_of_writing_costs_no_row_and_doubles_none(
    server, controllers, how, tmp_path: Path, caplog
):
    caplog.set_level(logging.CRITICAL)
    ledger = Ledger(controllers, journal=tmp_path)
    ledger.write(call())
    n = 0

    async def writes(seconds: float) -> None:
        nonlocal n
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            ledger.write(*(prompt(n + more) for more in range(3)))
            n += 3
            await asyncio.sleep(0.001)

    await writes(0.5)
    for _ in range(2):
        writing = asyncio.create_task(writes(1.0))
        await asyncio.sleep(0.1)
        server.stop(how)  # here, not in a thread: bubblewrap dies with the thread that started it
        server.start()
        await writing
    await asyncio.sleep(2 * RETRY_AFTER_S + 0.5)
    await ledger.flush()
    assert (ledger.waiting_rows, ledger.refused_rows) == (0, 0)
    assert await ledger.ask(lambda s: s.scalars(select(models.PromptHeard.n)).all()) == list(range(n))
    assert await ledger.ask(lambda s: s.scalar(select(func.max(models.Journal.applied)))) == n + 1
    await ledger.close()


async def test_a_server_that_is_frozen_is_noticed_and_nothing_is_lost_or_doubled(
    server, controllers, database, tmp_path: Path, caplog
):
    """SIGSTOP: connections stay, questions are never answered. Nobody waits for it longer than 2 s."""
    caplog.set_level(logging.CRITICAL)
    staffed(controllers, "601", "602")
    ledger = Ledger(controllers, journal=tmp_path)
    desk = Desk(ledger, Queue(), lambda: BEGAN)
    await desk.open()
    loop = asyncio.get_running_loop()
    lag: list[float] = [0.0]

    async def watch() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            lag.append(loop.time() - before - 0.005)

    watching = asyncio.create_task(watch())
    ledger.write(call(), prompt(0))
    await ledger.flush()
    server.freeze()
    try:
        began = loop.time()
        ledger.write(prompt(1))
        first, second = Inbox(), Inbox()
        desk.join("demo-1.1", BEGAN, first)
        desk.join("demo-2.1", BEGAN, second)
        with pytest.raises(StoreUnavailable):
            await ledger.look_up(lambda s: s.get(models.Call, CALL))
        assert loop.time() - began < 2.2
        while not second.agents:
            await asyncio.sleep(0.05)
            assert loop.time() - began < 4.5
        assert (first.agents, second.agents) == (["601"], ["602"])
        while not ledger._retry:
            await asyncio.sleep(0.05)
            assert loop.time() - began < 9, "the ledger's thread is stuck"
        before = loop.time()
        await desk.talks("demo-1.1", "601")
        with pytest.raises(StoreUnavailable):
            await ledger.ask(lambda s: s.get(models.Call, CALL))
        assert loop.time() - before < 2.2
    finally:
        server.thaw()
    await asyncio.sleep(2 * RETRY_AFTER_S + 2.5)
    await desk.talks("demo-2.1", "602")
    agents = await ledger.ask(
        lambda s: s.execute(select(models.Agent.state, models.Agent.call_id).order_by(models.Agent.number)).all()
    )
    assert [tuple(row) for row in agents] == [("talking", "demo-1.1"), ("talking", "demo-2.1")]
    changes = select(models.AgentState.agent, models.AgentState.now).order_by(models.AgentState.id)
    assert [tuple(row) for row in await ledger.ask(lambda s: s.execute(changes).all())] == [
        ("601", "reserved"), ("602", "reserved"), ("601", "talking"), ("602", "talking"),
    ]  # fmt: skip
    assert await ledger.ask(lambda s: s.scalars(select(models.PromptHeard.n)).all()) == [0, 1]
    assert (ledger.waiting_rows, ledger.refused_rows) == (0, 0)
    watching.cancel()
    assert max(lag) < 0.5
    desk.close()
    await ledger.close()


def test_a_lock_that_another_holds_is_not_waited_for_long(controllers, engine):
    staffed(engine, "601")
    with engine.connect() as other:
        other.execute(update(models.Agent).values(state="paused"))
        began = time.monotonic()
        with pytest.raises(StoreUnavailable), store.session(controllers) as session:
            session.execute(update(models.Agent).values(state="idle"))
        assert time.monotonic() - began < 3.5


async def test_what_postgres_refuses_is_logged_without_the_row(engine, caplog):
    ledger = Ledger(engine)
    nobody = models.Callback(id="demo-15400001001.1", at=AT, number=None, reason="fallback")
    long = models.Callback(id="demo-1.2", at=AT, number="15400001001", reason="much longer than the column")
    nul = models.Callback(id="demo-1.3", at=AT, number="15400001001\x00", reason="fallback")
    ledger.write(call(), prompt(0), nobody, prompt(0), long, nul, prompt(1))
    await ledger.flush()
    assert ledger.waiting_rows == 0
    assert await ledger.ask(lambda s: s.scalars(select(models.PromptHeard.n)).all()) == [0, 1]
    assert caplog.text.count("was refused") == 4
    assert "15400001001" not in caplog.text
    await ledger.close()


def test_nothing_of_the_server_is_open_to_others(server, tmp_path: Path):
    """It listens on its address only, and not in the file system."""
    import socket

    port = int(server.url("x").rpartition(":")[2].partition("/")[0])
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
