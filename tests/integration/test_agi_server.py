"""The FastAGI server with a real database, spoken to as Asterisk speaks, over real sockets."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import Engine

from agi_scripts.database import open_reader
from agi_scripts.server import SCRIPTS, Server
from agi_scripts.session import Session
from ari_app import store
from ari_app.settings import PROJECT, Settings, load
from ari_app.store.models import Case, LawFirm, Lawyer, Milestone, Party

ADDRESS = "127.0.57.2"
DEADLINE_S = 1.0
PARTY, LAWYER, STRANGER = "15400001234", "15400005678", "15400009999"
OK = {
    "SANLING_CONTEXT": "ok",
    "SANLING_ROLE": "party",
    "SANLING_CASES": "1",
    "SANLING_MILESTONE": "filed",
    "SANLING_NEXT": "hearing",
}
NONE = {
    "SANLING_CONTEXT": "none",
    "SANLING_ROLE": "unknown",
    "SANLING_CASES": "0",
    "SANLING_MILESTONE": "none",
    "SANLING_NEXT": "none",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = load(
        environment={}, var_dir=str(tmp_path), instance="agi", address=ADDRESS, agi_deadline_s=DEADLINE_S, agi_port=4599
    )
    made.run_dir.mkdir(parents=True)
    engine = store.open_engine(made.database)
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
    return made


@contextmanager
def serving(engine: Engine, **options: object) -> Iterator[int]:
    """A running server's port; afterwards the server has stopped and freed its port."""
    server = Server(ADDRESS, 0, engine, **{"deadline_s": DEADLINE_S, **options})  # type: ignore[arg-type]
    port = server.port
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield port
    finally:
        server.stop()
        thread.join(5)
        engine.dispose()
        assert not thread.is_alive()


@pytest.fixture
def port(settings: Settings) -> Iterator[int]:
    with serving(open_reader(settings)) as port:
        yield port


def headers(*arguments: str, script: str = "case_context", name: bytes = b"unknown") -> bytes:
    lines = [
        b"agi_network: yes", b"agi_network_script: " + script.encode(), b"agi_request: agi://x/" + script.encode(),
        b"agi_channel: PJSIP/trunk-00000001", b"agi_uniqueid: demo-1763763200.3", b"agi_calleridname: " + name,
    ]  # fmt: skip
    lines += [f"agi_arg_{n}: {argument}".encode() for n, argument in enumerate(arguments, 1)]
    return b"\n".join(lines) + b"\n\n"


def call(port: int, *arguments: str, script: str = "case_context", name: bytes = b"unknown") -> dict[str, str]:
    """What a channel's variables are after AGI(), having been preset as in the dialplan."""
    variables = {"SANLING_CONTEXT": "unavailable"}
    with socket.create_connection((ADDRESS, port), timeout=10) as line:
        line.sendall(headers(*arguments, script=script, name=name))
        try:
            for command in line.makefile("rb"):
                words = command.decode().replace('"', "").split()
                assert words[:2] == ["SET", "VARIABLE"], words
                variables[words[2]] = words[3]
                line.sendall(b"200 result=1\n")
        except (ConnectionResetError, BrokenPipeError):
            pass
    return variables


@pytest.mark.parametrize("number", [PARTY, f"+86{PARTY}", f"0086 {PARTY}", f"0{PARTY}", f"{PARTY[:3]}-{PARTY[3:]}"])
def test_a_caller_on_file_is_found_by_the_number(port, number):
    assert call(port, number) == OK


@pytest.mark.parametrize(
    ("keyed", "expected"),
    [
        ((PARTY, "party", "12345", ""), OK),
        ((PARTY, "party", "54321", ""), NONE),
        ((PARTY, "lawyer", "", "5678"), NONE),
        ((LAWYER, "lawyer", "", "5678"), OK | {"SANLING_ROLE": "lawyer"}),
        ((LAWYER, "lawyer", "", "0000"), NONE),
        ((PARTY, "party", "1234", ""), NONE),
        ((PARTY, "judge", "", ""), NONE),
        ((PARTY, "party", "%", "%"), NONE),
        ((STRANGER,), NONE),
        (("anonymous",), NONE),
        (("",), NONE),
        ((), NONE),
        (("1" * 5000,), NONE),
        ((f"{PARTY}' OR 1=1 --",), NONE),
        ((PARTY, "party", "12345", "", "and", "more"), OK),
    ],
)
def test_what_was_keyed_decides(port, keyed, expected):
    assert call(port, *keyed) == expected


@pytest.mark.parametrize("name", [b'"\\', b"\xff\xfe", b"x" * 65536, b"\0", b"a" * 3000 + b'" "'])
def test_a_hostile_caller_name_changes_nothing(port, name):
    assert call(port, PARTY, name=name) == OK


@pytest.mark.parametrize(
    "name", [b'"\nSET VARIABLE X 1', b"x\nagi_arg_1: 15400001234", b"x\n\n200 result=1", b"x\nagi_network_script: y"]
)
def test_a_line_feed_in_a_caller_name_gets_no_context(port, name):
    assert call(port, STRANGER, name=name)["SANLING_CONTEXT"] != "ok"
    assert call(port, PARTY) == OK


def test_an_unknown_script_ends_at_once(port):
    began = time.monotonic()
    assert call(port, PARTY, script="reboot") == {"SANLING_CONTEXT": "unavailable"}
    assert time.monotonic() - began < DEADLINE_S / 2


def test_the_caller_may_be_gone_at_any_point(port):
    said = headers(PARTY)
    for end in (*range(0, len(said), 7), len(said)):
        with socket.create_connection((ADDRESS, port), timeout=5) as line:
            line.sendall(said[:end])
    for answer in (b"HANGUP\n", b"200 result=-1\n", b"511 dead\n", b"520-Usage\nx\n520 End\n", b"510 ?\n", b"\xff\n"):
        with socket.create_connection((ADDRESS, port), timeout=5) as line:
            line.sendall(said)
            line.makefile("rb").readline()
            line.sendall(answer * 300)
            line.shutdown(socket.SHUT_WR)
            assert b"ok" not in b"".join(iter(lambda: _last_words(line), b""))
    assert call(port, PARTY) == OK


def _last_words(line: socket.socket) -> bytes:
    try:
        return line.recv(4096)
    except ConnectionResetError:
        return b""


def test_somebody_who_connects_and_says_nothing_is_closed_at_the_deadline(port):
    began = time.monotonic()
    with socket.create_connection((ADDRESS, port), timeout=5) as line:
        assert line.recv(1) == b""
    assert DEADLINE_S * 0.9 < time.monotonic() - began < DEADLINE_S + 0.3


def test_a_script_that_hangs_is_cut_off_at_the_deadline(settings):
    released = threading.Event()

    def hang(_session: Session, _engine: Engine) -> None:
        released.wait(10)

    with serving(open_reader(settings), scripts={**SCRIPTS, "hang": hang}, workers=2) as port:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as callers:
            hung = [callers.submit(call, port, PARTY, script="hang") for _ in range(4)]
            assert [one.result() for one in hung] == [{"SANLING_CONTEXT": "unavailable"}] * 4
        assert DEADLINE_S * 0.9 < time.monotonic() - began < DEADLINE_S + 0.3, "those that found no worker too"
        released.set()
        assert call(port, PARTY) == OK, "the workers are free again"


def test_more_callers_than_can_wait_go_on_at_once(settings):
    released = threading.Event()

    def hang(_session: Session, _engine: Engine) -> None:
        released.wait(10)

    with serving(open_reader(settings), scripts={"hang": hang}, workers=1, longest_queue=1) as port:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as callers:
            waits = list(callers.map(lambda _: _seconds(lambda: call(port, script="hang")), range(8)))
        assert sum(wait < DEADLINE_S / 2 for wait in waits) >= 5
        assert time.monotonic() - began < DEADLINE_S + 0.3
        released.set()


def _seconds(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


def test_a_script_that_breaks_ends_its_call_only_and_tells_nobody_who_called(settings, caplog):
    def break_(session: Session, _engine: Engine) -> None:
        number, name = session.arguments
        raise RuntimeError(number + name)

    caplog.set_level(logging.DEBUG)
    with serving(open_reader(settings), scripts={**SCRIPTS, "break": break_}) as port:
        assert call(port, PARTY, "张伟", script="break") == {"SANLING_CONTEXT": "unavailable"}
        assert call(port, PARTY) == OK
    assert "RuntimeError" in caplog.text
    for personal in (PARTY, PARTY[-4:], "张伟"):
        assert personal not in caplog.text


def test_a_writer_does_not_keep_a_reader_waiting(settings):
    with serving(open_reader(settings)) as port, closing(sqlite3.connect(settings.run_dir / "sanling.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("DELETE FROM milestones")
        assert call(port, PARTY) == OK
        writer.rollback()


def test_a_locked_database_is_given_up_at_the_deadline(settings):
    with serving(open_reader(settings)) as port, closing(sqlite3.connect(settings.run_dir / "sanling.db")) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM milestones")
        assert _seconds(lambda: call(port, PARTY)) < DEADLINE_S + 0.3
        assert call(port, PARTY) == {"SANLING_CONTEXT": "unavailable"}


def test_a_database_that_is_away_is_unavailable_and_is_not_made_anew(settings, caplog):
    (settings.run_dir / "sanling.db").unlink()
    with serving(open_reader(settings)) as port:
        assert call(port, PARTY) == {"SANLING_CONTEXT": "unavailable"}
    assert not (settings.run_dir / "sanling.db").exists()
    assert PARTY not in caplog.text


def test_a_postgresql_that_never_answers_is_cut_off_at_the_deadline(settings):
    with socket.create_server((ADDRESS, 0)) as silent:
        away = Settings(
            database_url=f"postgresql+psycopg://u:p@{ADDRESS}:{silent.getsockname()[1]}/d", agi_deadline_s=DEADLINE_S
        )
        with serving(open_reader(away)) as port:
            began = time.monotonic()
            assert call(port, PARTY) == {"SANLING_CONTEXT": "unavailable"}
            assert time.monotonic() - began < DEADLINE_S + 0.3


def test_fifty_callers_at_once(settings):
    with serving(open_reader(settings), deadline_s=2.0) as port, ThreadPoolExecutor(50) as callers:
        assert list(callers.map(lambda _: call(port, PARTY), range(200))) == [OK] * 200


def test_a_session_takes_milliseconds(port, record_property):
    call(port, PARTY)
    took = [_seconds(lambda: call(port, PARTY)) * 1000 for _ in range(200)]
    record_property("agi_session_ms_p50", median(took))
    record_property("agi_session_ms_p95", sorted(took)[190])
    print(f"\nFastAGI session: p50 {median(took):.2f} ms, p95 {sorted(took)[190]:.2f} ms")
    assert median(took) < 50


def environment(settings: Settings) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "SANLING_CONFIG": os.devnull,
        "SANLING_INSTANCE": settings.instance,
        "SANLING_VAR_DIR": settings.var_dir,
        "SANLING_ADDRESS": ADDRESS,
        "SANLING_AGI_PORT": str(settings.agi_port),
        "SANLING_AGI_DEADLINE_S": str(DEADLINE_S),
    }


def test_the_program_serves_until_sigterm(settings):
    with subprocess.Popen(
        [sys.executable, "-m", "agi_scripts"], env=environment(settings), stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        assert "AGI scripts on" in program.stderr.readline()
        assert call(settings.agi_port, PARTY) == OK
        with socket.create_connection((ADDRESS, settings.agi_port), timeout=5):  # one who says nothing
            began = time.monotonic()
            program.send_signal(signal.SIGTERM)
            said = program.stderr.read()
            assert program.wait(5) == 0
        assert time.monotonic() - began < DEADLINE_S + 1
        assert "has stopped" in said
        assert "Traceback" not in said


def test_it_says_that_it_serves_and_each_second_that_it_lives(settings, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(5)
        told = environment(settings) | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        program = subprocess.Popen([sys.executable, "-m", "agi_scripts"], env=told)
        try:
            assert supervisor.recv(100) == b"READY=1\nSTATUS=serving"
            assert call(settings.agi_port, PARTY) == OK
            at = []
            for _ in range(3):
                assert supervisor.recv(100) == b"WATCHDOG=1"
                at.append(time.monotonic())
            program.send_signal(signal.SIGSTOP)
            supervisor.settimeout(1.5)
            with pytest.raises(TimeoutError):
                supervisor.recv(100)
        finally:
            program.kill()
            program.wait()
    assert at[2] - at[1] < 1.5


def test_a_taken_port_is_said_in_one_sentence(settings):
    with socket.create_server((ADDRESS, settings.agi_port)):
        done = subprocess.run(
            [sys.executable, "-m", "agi_scripts"], env=environment(settings), capture_output=True, text=True, timeout=20
        )
    assert done.returncode == 1
    assert done.stderr.startswith("The AGI server cannot start: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [["-m", "agi_scripts.case_context"], [str(PROJECT / "agi_scripts/case_context.py")]])
def test_case_context_is_also_a_plain_agi_script(settings, how, tmp_path):
    with_path = environment(settings)
    if how[0] != "-m":
        del with_path["PYTHONPATH"]
    said = headers(PARTY) + b"200 result=1\n" * 6
    done = subprocess.run(
        [sys.executable, *how], env=with_path, input=said, capture_output=True, timeout=20, cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.splitlines() == [
        b'SET VARIABLE "SANLING_CONTEXT" "unavailable"',
        b'SET VARIABLE "SANLING_ROLE" "party"',
        b'SET VARIABLE "SANLING_CASES" "1"',
        b'SET VARIABLE "SANLING_MILESTONE" "filed"',
        b'SET VARIABLE "SANLING_NEXT" "hearing"',
        b'SET VARIABLE "SANLING_CONTEXT" "ok"',
    ]


def test_the_plain_script_gives_up_at_its_deadline_too(settings):
    with subprocess.Popen(
        [sys.executable, "-m", "agi_scripts.case_context"], env=environment(settings), stdin=subprocess.PIPE
    ) as program:
        assert program.wait(15) == 1


def test_the_plain_script_is_silent_when_it_fails(settings):
    done = subprocess.run(
        [sys.executable, "-m", "agi_scripts.case_context"],
        env=environment(settings),
        input=b"nonsense\n",
        capture_output=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
