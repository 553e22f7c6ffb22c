"""The API as it is served: on its own thread, over real sockets, beside a hotline that must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from typer.testing import CliRunner

from ari_app import sample, store
from ari_app.api import access
from ari_app.api.access import Act, Role
from ari_app.api.app import create
from ari_app.api.floor import Floor
from ari_app.api.happenings import Happenings
from ari_app.api.server import Server, serve
from ari_app.cli import app
from tests.calls.house import FakeHouse

ADDRESS = "127.0.0.1"
pytestmark = [pytest.mark.real_time, pytest.mark.timeout(300)]


class Served:
    def __init__(self, house: FakeHouse, floor: Floor, server: Server, tokens: dict[str, str]) -> None:
        self.house, self.floor, self.server, self.tokens = house, floor, server, tokens

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server.port}"

    def headers(self, role: str = "leader") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(f"{self.url}{path}", headers={**self.headers(), **headers})

    @asynccontextmanager
    async def listening(self, **headers: str) -> AsyncIterator[AsyncIterator[str]]:
        async with (
            httpx.AsyncClient(timeout=5) as client,
            client.stream("GET", f"{self.url}/v1/events", headers={**self.headers(), **headers}) as answer,
        ):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield answer.aiter_lines()


@asynccontextmanager
async def serving(kept: int = 2000, port: int = 0) -> AsyncIterator[Served]:
    async with FakeHouse() as house:
        desk = house.house.desk
        happenings = Happenings(house.house.clock(), kept)
        house.house.ledger.watch(happenings.written)
        desk.watch(lambda news: happenings.desk_changed(house.house.clock(), desk.queue_length, news))

        async def read(question: Any) -> Any:
            return await floor.inside(house.house.ledger.look_up(question))

        floor = Floor(
            house.house,
            house.reception.calls.values,
            read,
            house.reception.leading,
            house.reception.case_calls,
            happenings,
            asyncio.get_running_loop(),
        )

        def make(session: Any) -> dict[str, str]:
            return {role.value: access.new_token(session, role, "601", "", 0.0)[0] for role in Role}

        server = Server(create(floor), happenings, ADDRESS, port)
        tokens = await house.ask(make)
        running = asyncio.create_task(server.run())
        try:
            await asyncio.sleep(0)
            yield Served(house, floor, server, tokens)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def next_event(lines: AsyncIterator[str]) -> tuple[str, str, Any]:
    """Id, kind and data."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line and "event" in fields:
            return fields.get("id", ""), fields["event"], json.loads(fields["data"])
        name, _, value = line.partition(": ")
        fields[name] = value
    raise AssertionError("the stream ended")


async def test_events_come_live_and_go_on_after_the_last_that_was_read():
    async with serving() as served:
        async with served.listening() as lines:
            await served.house.agent_signs_in("601")
            first = await next_event(lines)
            assert (first[1], first[2]["agent"], first[2]["state"]) == ("agent", "601", "idle")
        await served.house.house.desk.pause("601")
        await served.house.house.desk.resume("601")
        async with served.listening(**{"Last-Event-ID": first[0]}) as lines:
            assert [(await next_event(lines))[2]["state"] for _ in range(2)] == ["paused", "idle"]


async def test_who_reads_nothing_is_cut_and_the_controller_never_waits():
    async with serving(kept=50) as served:
        with socket.create_connection((ADDRESS, served.server.port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.tokens['ops']}\r\n\r\n"
            deaf.sendall(request.encode())
            await asyncio.sleep(0.5)
            began, worst = time.monotonic(), 0.0
            for n in range(20_000):
                at = time.monotonic()
                served.floor.happenings.publish(0.0, "call", {"n": n, "padding": "x" * 200})
                worst = max(worst, time.monotonic() - at)
                if n % 100 == 0:
                    await asyncio.sleep(0.001)
            assert time.monotonic() - began < 10
            assert worst < 0.5

            def rest() -> bytes:
                deaf.settimeout(10)
                read = b""
                with contextlib.suppress(ConnectionError):
                    while piece := deaf.recv(1 << 16):
                        read += piece
                        if b"event: cut" in read[-4096:]:
                            break
                return read

            read = await asyncio.to_thread(rest)
            assert b"event: cut" in read
            assert read.count(b"event: call") < 20_000
        assert (await served.get("/v1/queue")).status_code == 200


async def test_a_request_that_blocks_its_thread_does_not_stall_the_controller(monkeypatch):
    async with serving() as served:
        describe = served.server._app.openapi

        def slow() -> Any:
            time.sleep(1.0)
            return describe()

        monkeypatch.setattr(served.server._app, "openapi", slow)
        asking = asyncio.create_task(served.get("/openapi.json"))
        worst, before = 0.0, time.monotonic()
        while not asking.done():
            await asyncio.sleep(0.01)
            worst, before = max(worst, time.monotonic() - before), time.monotonic()
        assert (await asking).status_code == 200
        assert worst < 0.7


async def test_a_taken_port_is_said_and_tried_again(monkeypatch, caplog):
    monkeypatch.setattr("ari_app.api.server.AGAIN_EVERY_S", 0.1)
    with socket.create_server((ADDRESS, 0)) as somebody:
        port = somebody.getsockname()[1]
        with caplog.at_level(logging.ERROR):
            async with serving(port=port) as served:
                await asyncio.sleep(0.3)
                assert f"No API on {ADDRESS}:{port}" in caplog.text
                somebody.close()
                for _ in range(50):
                    await asyncio.sleep(0.1)
                    with contextlib.suppress(httpx.HTTPError):
                        assert (await served.get("/v1/me")).json()["role"] == "leader"
                        return
        raise AssertionError("the port was free and the API did not take it")


async def test_the_server_ends_though_a_stream_is_open():
    async with serving() as served, served.listening():
        began = time.monotonic()
    assert time.monotonic() - began < 5


async def test_the_controllers_api_reads_the_database_by_an_engine_of_its_own(tmp_path):
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    async with FakeHouse(var_dir=str(tmp_path), address=ADDRESS, api_port=port) as house:
        house.settings.run_dir.mkdir()
        engine = store.open_engine(house.settings.database)
        store.migrate(engine)
        with store.session(engine) as session:
            token, _ = access.new_token(session, Role.OPS, None, "", 0.0)
        reception = house.reception
        served = asyncio.create_task(
            serve(house.house, reception.calls.values, reception.leading, reception.case_calls)
        )
        await asyncio.sleep(0.3)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            board = await client.get(f"http://{ADDRESS}:{port}/v1/board")
            assert board.status_code == 200, board.text
            assert board.json()["today"]["over"] == 0
            before = board.json()["last_event"]
            await house.agent_signs_in("601")
            assert (await client.get(f"http://{ADDRESS}:{port}/v1/board")).json()["last_event"] > before
        served.cancel()
        await asyncio.gather(served, return_exceptions=True)
        engine.dispose()


# ---------------------------------------------------------------- the command line


def sanling(served: Served, *arguments: str, role: str = "leader") -> Any:
    environment = {
        "SANLING_ADDRESS": ADDRESS, "SANLING_API_PORT": str(served.server.port),
        "SANLING_API_TOKEN": served.tokens.get(role, role), "SANLING_CONFIG": os.devnull, "COLUMNS": "200",
    }  # fmt: skip
    return CliRunner().invoke(app, list(arguments), env=environment)


async def test_the_command_line_shows_and_changes_the_running_desk():
    async with serving() as served:

        async def run(*arguments: str, role: str = "leader") -> Any:
            return await asyncio.to_thread(sanling, served, *arguments, role=role)

        await served.house.agent_signs_in("601")
        assert re.search(r"601\s+何静\s+idle", (await run("agents", "list")).output)
        assert "agent 601 is paused" in (await run("agents", "pause", "601")).output
        assert await served.house.duty("601") == "paused"
        assert "agent 601 is idle" in (await run("agents", "resume", "601")).output
        assert "nobody waits" in (await run("queue")).output
        assert "nobody listens" in (await run("listening")).output
        refused = await run("agents", "pause", "999")
        assert (refused.exit_code, str(refused.exception)) == (1, "There is no agent 999.")
        assert "may not do this" in str((await run("agents", "pause", "601", role="ops")).exception)
        unknown = (await run("queue", role="sanling_unknown")).exception
        assert "The token in SANLING_API_TOKEN is not known here" in str(unknown)
        nobodys = await run("listen", "601")
        assert "leader" in str(nobodys.exception)


def test_a_hotline_that_is_down_is_said_and_the_database_still_shows_its_agents(tmp_path, monkeypatch):
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    for name, value in {
        "ADDRESS": ADDRESS, "API_PORT": str(port), "INSTANCE": "down", "VAR_DIR": str(tmp_path), "CONFIG": os.devnull,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SANLING_{name}", value)
    run = CliRunner().invoke
    assert "There is no instance down" in str(run(app, ["queue"]).exception)
    (tmp_path / "down").mkdir()
    engine = store.open_engine(f"sqlite:///{tmp_path / 'down' / 'sanling.db'}")
    store.migrate(engine)
    with store.session(engine) as session:
        sample.fill(session, 0.0)
    assert "does not answer" in str(run(app, ["queue"]).exception)
    assert "601" in run(app, ["agents", "list"]).output
    own = tmp_path / "down" / "cli.token"
    assert own.stat().st_mode & 0o777 == 0o600
    told = run(app, ["token", "new", "agent", "--agent", "602", "--note", "a screen"]).output
    token = re.search(r"sanling_\S+", told)
    assert token is not None
    with store.session(engine) as session:
        found = access.holder_of(session, access.digest(token[0]))
        mine = access.holder_of(session, access.digest(own.read_text().strip()))
    assert found is not None
    assert mine is not None
    assert (found.role, found.agent, mine.role) == (Role.AGENT, "602", Role.LEADER)
    listed = run(app, ["token", "list"]).output
    assert token[0] not in listed
    assert "a screen" in listed
    assert f"token {found.id} is revoked" in run(app, ["token", "revoke", found.id]).output
    with store.session(engine) as session:
        assert access.holder_of(session, access.digest(token[0])) is None
    engine.dispose()


# ---------------------------------------------------------------- whatever is sent


OPERATIONS = sorted({act.value for act in Act} | {"see_agent", "see_call"})


async def test_nothing_that_is_sent_makes_it_break():
    """Schemathesis: whatever fits the description or does not, the answer is as described, and never a 500."""
    async with serving() as served:
        schema = schemathesis.openapi.from_dict(served.server._app.openapi())
        for operation in OPERATIONS:
            for mode in GenerationMode:
                await asyncio.to_thread(attack, schema.find_operation_by_id(operation), mode, served)


def attack(operation: Any, mode: GenerationMode, served: Served) -> None:
    headers = served.headers() if operation.path != "/v1/events" else {}  # which would not end: told without a token

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=10, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=served.url, headers=headers)

    ask()
