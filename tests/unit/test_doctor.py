"""The doctor: what is broken is red, with what to do about it; what is well is green; nothing makes it stumble."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from ari_app import doctor, store
from ari_app.doctor import Finding, Sick, examine
from ari_app.errors import SanlingError
from ari_app.instance import Instance
from ari_app.settings import PROJECT, Settings, load
from metrics.exporter import Exporter
from tests.unit.core_database import in_file

ADDRESS = "127.0.59.3"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An instance with a database, secrets and both stores, of which nothing runs, and without an Asterisk."""
    ready = load(
        environment={}, instance="sick", var_dir=str(tmp_path), address=ADDRESS,
        asterisk_root=str(tmp_path / "no-root"), ari_port=free_port(), agi_port=free_port(), metrics_port=free_port(),
    )  # fmt: skip
    ready.run_dir.mkdir()
    (ready.run_dir / "etc").mkdir()
    shutil.copy(PROJECT / "asterisk-conf" / "modules.conf", ready.run_dir / "etc")
    ready.secrets_file.write_text('[ari]\nuser = "sanling"\npassword = "p"\n[trunk]\npassword = "q"\n')
    in_file(ready.run_dir / "sanling.db").dispose()
    for folder in (ready.local_store, ready.second_store):
        folder.mkdir(parents=True)
        (folder / ".sanling-store").touch()
    return ready


def found(settings: Settings) -> dict[str, Finding]:
    findings = asyncio.run(examine(settings))
    return {finding.part: finding for finding in findings}


def changed(settings: Settings, **changes: Any) -> Settings:
    return msgspec.structs.replace(settings, **changes)


@contextmanager
def http(settings_port: int, answers: Callable[[str], tuple[int, str]]) -> Iterator[None]:
    """A web server on the instance's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer((ADDRESS, settings_port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def talker(port: int, says: bytes) -> Iterator[None]:
    """A server that says something to whoever connects, whatever it is asked."""
    listening = socket.create_server((ADDRESS, port))

    def serve() -> None:
        try:
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(says)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass
        except OSError:  # closed below
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


# ---------------------------------------------------------------- nothing runs


def test_a_hotline_that_does_not_run_is_red_where_it_must_be_and_green_elsewhere(settings):
    findings = found(settings)
    assert list(findings) == [
        "Asterisk", "prompts", "database", "ARI", "modules", "AGI", "controller", "local store", "second store", "disk",
        "callbacks", "opening hours", "clock",
    ]  # fmt: skip
    red = {part for part, finding in findings.items() if not finding.healthy}
    assert red == {"Asterisk", "ARI", "modules", "AGI", "controller", "clock"}
    for part in red - {"Asterisk"}:
        assert "make run" in findings[part].remedy, part
    assert "no-root" in findings["Asterisk"].said
    assert "asterisk_root" in findings["Asterisk"].remedy
    assert "as sealed" in findings["prompts"].said
    assert findings["database"].said.startswith("sqlite")


@pytest.mark.parametrize("part", ["Asterisk", "ARI", "AGI", "controller", "local store", "database"])
def test_before_any_set_up_every_red_part_still_says_what_to_do(tmp_path, part):
    bare = load(
        environment={}, instance="bare", var_dir=str(tmp_path / "var"), address=ADDRESS, asterisk_root=str(tmp_path),
        ari_port=free_port(), agi_port=free_port(), metrics_port=free_port(),
    )  # fmt: skip
    finding = found(bare)[part]
    assert not finding.healthy
    assert finding.remedy or "run `" in finding.said or "Run `" in finding.said or "asterisk_root" in finding.said, (
        finding
    )


# ---------------------------------------------------------------- one part broken


def test_prompts_that_are_not_there(settings, tmp_path):
    finding = found(changed(settings, prompts_dir=str(tmp_path)))["prompts"]
    assert not finding.healthy


def test_a_database_of_another_version(settings):
    engine = store.open_engine(settings.database)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    engine.dispose()
    finding = found(settings)["database"]
    assert not finding.healthy
    assert "sanling setup" in finding.said


def test_a_database_that_is_no_database(settings):
    (settings.run_dir / "sanling.db").write_bytes(b"not a database" * 1000)
    for leftover in settings.run_dir.glob("sanling.db-*"):
        leftover.unlink()
    finding = found(settings)["database"]
    assert not finding.healthy
    assert "database" in finding.said


def test_a_database_server_that_is_away(settings):
    url = f"postgresql+psycopg://sanling@{ADDRESS}:{free_port()}/sanling?connect_timeout=2"
    finding = found(changed(settings, database_url=url))["database"]
    assert not finding.healthy
    assert "cannot be used" in finding.said


@pytest.mark.parametrize("which", ["local", "second"])
def test_a_store_that_is_away(settings, which):
    folder = settings.local_store if which == "local" else settings.second_store
    folder.rename(folder.with_name("unmounted"))
    finding = found(settings)[f"{which} store"]
    assert not finding.healthy
    assert "until this is mended" in finding.remedy


def test_a_second_store_whose_service_is_away(settings):
    s3 = {"endpoint": f"http://{ADDRESS}:{free_port()}", "bucket": "recordings", "access_key": "a", "secret_key": "b"}
    away = load(
        environment={}, instance="sick", var_dir=settings.var_dir, address=ADDRESS,
        asterisk_root=settings.asterisk_root, recordings={"s3": s3},
    )  # fmt: skip
    finding = found(away)["second store"]
    assert not finding.healthy
    assert finding.remedy


def test_a_disk_that_is_nearly_full(settings):
    full = changed(settings, recordings=load(environment={}, recordings={"minimum_free_mb": 10**9}).recordings)
    finding = found(full)["disk"]
    assert not finding.healthy
    assert "Make room" in finding.remedy


# ---------------------------------------------------------------- somebody answers, but not as it should


def test_a_controller_that_has_lost_its_parts(settings):
    registry = CollectorRegistry()
    for parts in ({"ari": False, "database": True}, {"ari": True, "database": True}):
        with Exporter(registry, ADDRESS, settings.metrics_port, health=lambda parts=parts: parts):
            finding = found(settings)["controller"]
        assert finding.healthy == all(parts.values()), finding
        if not finding.healthy:
            assert "not ready: ari" in finding.said
            assert "controller.log" in finding.remedy


def test_a_changed_password_is_told_from_an_asterisk_that_is_away(settings):
    with http(settings.ari_port, lambda path: (401, "{}")):
        findings = found(settings)
    assert "401" in findings["ARI"].said
    assert "secrets.toml" in findings["ARI"].remedy


def test_modules_that_do_not_run_are_named(settings):
    needed = sorted(Instance(settings).required_modules())
    modules = [{"name": name, "status": "Running"} for name in needed[1:]]
    modules.append({"name": needed[0], "status": "Not Running"})
    with http(settings.ari_port, lambda path: (200, json.dumps(modules))):
        finding = found(settings)["modules"]
    assert not finding.healthy
    assert finding.said == f"not running: {needed[0]}"
    assert "messages.log" in finding.remedy


@pytest.mark.parametrize(("off_s", "healthy"), [(0.0, True), (30.0, False)])
def test_asterisks_clock_is_compared_with_ours(settings, off_s, healthy):
    def answers(path: str) -> tuple[int, str]:
        at = time.time() + off_s
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}+0000"
        return 200, json.dumps({"ping": "pong", "timestamp": clock, "system": {"version": "22.10.1"}})

    with http(settings.ari_port, answers):
        findings = found(settings)
    assert findings["clock"].healthy is healthy
    assert findings["ARI"].healthy
    if not healthy:
        assert "timedatectl" in findings["clock"].remedy


@pytest.mark.parametrize("body", ["hello", "[]", "{}", '"x"', ""])
def test_strangers_on_our_ports_are_red_and_nothing_stumbles(settings, body):
    with (
        http(settings.ari_port, lambda path: (200, body)),
        http(settings.metrics_port, lambda path: (503, body)),
        talker(settings.agi_port, b"HTTP/1.0 400 Bad Request\r\n\r\n"),
    ):
        findings = found(settings)
    for part in ("ARI", "modules", "AGI", "controller", "clock"):
        assert not findings[part].healthy, findings[part]
        assert findings[part].said


def test_an_agi_server_that_floods_is_red(settings):
    with talker(settings.agi_port, b"x" * 300_000):
        finding = found(settings)["AGI"]
    assert not finding.healthy


def test_an_agi_session_is_held_to_the_end(settings):
    with talker(settings.agi_port, b'SET VARIABLE SANLING_CONTEXT "none"\nSET VARIABLE SANLING_ROLE "unknown"\n'):
        finding = found(settings)["AGI"]
    assert finding.healthy
    assert "2 variables" in finding.said


@pytest.mark.parametrize(
    ("rules", "healthy", "said"),
    [
        ("", True, "open at all times"),
        ("[hours.weekly]\nmonday = ['00:00-24:00']\n", True, "now"),
        ("[hours]\ncalendar = 'CALENDAR'\n[hours.weekly]\nmonday = ['00:00-24:00']\n", False, "by their weekday"),
        ("[hours]\ncalendar = 'none.toml'\n[hours.weekly]\nmonday = ['00:00-24:00']\n", False, "cannot be read"),
    ],
)
def test_a_calendar_that_does_not_tell_of_this_year_is_said(tmp_path, monkeypatch, rules, healthy, said):
    monkeypatch.setattr("ari_app.doctor.time.time", lambda: 1_795_000_000.0)  # 18 November 2026
    own = tmp_path / "calendar.toml"
    own.write_text("[2020]\nnotice = 'own'\nholidays = [2020-01-01]\n", encoding="utf-8")
    desk = tmp_path / "desk.toml"
    desk.write_text(rules.replace("CALENDAR", str(own)), encoding="utf-8")
    monkeypatch.setenv("SANLING_DESK", str(desk))
    settings = load(Path(os.devnull), {}, var_dir=str(tmp_path))
    try:
        answer = doctor._hours(settings)
    except (Sick, SanlingError) as error:
        answer, told = str(error), False
    else:
        told = True
    assert (told, said in answer) == (healthy, True)
