"""The hotline under test, started as a user starts it, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ari_app import founding, staff, store
from ari_app.instance import Instance, environment_of
from ari_app.settings import Settings, load
from ari_app.staff import Access

READY_WITHIN_S = 60.0
SHORT_CALLS: dict[str, Any] = {
    "answering": {"after_rings": 1},
    "keypad": {"first_digit_s": 1.0, "between_digits_s": 1.0},
    "queue": {"announce_every_s": 12.0, "offer_timeout_s": 3.0, "wrap_up_s": 1.0},
    "ending": {"leave_within_s": 1.0, "call_ceiling_s": 120.0, "warn_before_ceiling_s": 20.0},
}
"""Nothing in these makes a caller wait in silence for as long as the law allows."""


RULES = """
[callbacks]
allowed = ["00:00", "23:59"]
morning = ["00:00", "23:59"]
afternoon = ["00:00", "23:59"]
attempts = 1
ring_s = 10.0
[survey]
answer_within_s = 1.0
reason_begins_within_s = 1.0
"""
"""Callbacks at whatever hour the harness runs and whatever time of day the caller chose, once: a second attempt would
come after a minute at the earliest. The survey, like all else, waits in silence for less than the law allows.
"""


def faults_network() -> str:
    """Three bytes of loopback addresses of this process's own; other tests use 127.64 to 127.191."""
    return f"127.{192 + os.getpid() % 32}.{os.getpid() // 32 % 256}"


def settings_for(net: str, folder: Path, **changed: Any) -> Settings:
    """A hotline at `net`.1 whose trunk, both ways, is `net`.2."""
    return load(
        Path(os.devnull),
        {},
        instance="faults",
        address=f"{net}.1",
        var_dir=str(folder),
        trunk={"addresses": [f"{net}.2"], "outbound": f"{net}.2:5060"},
        **{**SHORT_CALLS, **changed},
    )


@dataclass(frozen=True)
class Process:
    pid: int
    command: tuple[str, ...]
    parent: int
    started_at: float
    """Unix seconds, to a hundredth."""


def process(pid: int) -> Process | None:
    """None if it does not run (any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = tuple(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    except OSError:
        return None
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    started = boot + int(stat[19]) / os.sysconf("SC_CLK_TCK")
    return None if stat[0] == "Z" else Process(pid, command, int(stat[1]), started)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, tasks.read_text().split())
    return found


def cpu_s(pid: int, *, below: bool = False) -> float:
    """Seconds of processor time that a process has used, with `below` also by what it started; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    used = sum(map(int, stat[11:15] if below else stat[11:13])) / os.sysconf("SC_CLK_TCK")
    return used + (sum(cpu_s(child, below=True) for child in children(pid)) if below else 0.0)


def machine_cpu_s() -> float:
    """Seconds of processor time that everything on this machine has used."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class House:
    """`sanling run` in a process of its own, with `agents` agents."""

    def __init__(self, settings: Settings, agents: int) -> None:
        self.settings = settings
        self.instance = Instance(settings)
        self.log = settings.run_dir / "run.out"
        self._desk = settings.run_dir.parent / "desk.toml"
        self._desk.parent.mkdir(parents=True, exist_ok=True)
        self._desk.write_text(RULES)
        self._found(agents)
        with (settings.run_dir / "agents.csv").open(encoding="utf-8") as file:
            self.access = {row["number"]: Access(**row) for row in csv.DictReader(file)}
        self.engine = store.open_engine(settings.database)
        self._login = base64.b64encode(f"{self.instance.ari_user}:{self.instance.ari_password}".encode()).decode()

    @classmethod
    def temporary(cls, agents: int, **changed: Any) -> House:
        folder = Path(tempfile.mkdtemp(prefix="sanling-faults-"))
        return cls(settings_for(faults_network(), folder, **changed), agents)

    def _found(self, agents: int) -> None:
        """The sample data's people, and as many more agents as are wanted."""
        founding.prepare(self.settings, say=lambda _: None)
        engine = store.open_engine(self.settings.database)
        try:
            with store.session(engine) as session:
                there = len(staff.accounts(session))
                new = [staff.new_agent(session, str(701 + n), f"座席{n}") for n in range(agents - there)]
                founding.hand_out(self.settings, new)
        finally:
            engine.dispose()

    def start(self) -> None:
        """Raises RuntimeError with the hotline's last words if it does not come up."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("sanling"), "run"],
                env={**os.environ, **environment_of(self.settings), "COLUMNS": "200", "SANLING_DESK": str(self._desk)},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self.process.poll() is None:
            if self.health().get("ari"):
                return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"the hotline did not come up:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def remove(self) -> None:
        """Everything of it on the disk."""
        self.engine.dispose()
        shutil.rmtree(self.settings.run_dir.parent)

    # What can be seen of it

    def health(self, timeout_s: float = 1.0) -> dict[str, bool]:
        """The controller's parts; empty if it does not answer."""
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            _, body = self._get(self.settings.metrics_port, "/health", timeout_s)
            return dict(json.loads(body)["parts"])
        return {}

    def ari(self, path: str) -> Any:
        """What Asterisk says; raises OSError or HTTPException while it is away."""
        _, body = self._get(self.settings.ari_port, f"/ari/{path}", 5.0)
        return json.loads(body)

    def _get(self, port: int, path: str, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.settings.control_address, port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"Authorization": f"Basic {self._login}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def pid_of(self, name: str) -> int | None:
        """Of `controller`, `agi` or `asterisk`; None while it is not running."""
        found = self._child(name)
        return found.pid if found else None

    def started_at(self, name: str) -> float | None:
        found = self._child(name)
        return found.started_at if found else None

    def _child(self, name: str) -> Process | None:
        own = [one for one in map(process, children(self.process.pid)) if one is not None]
        below = [one for child in own for one in map(process, children(child.pid)) if one is not None]
        for one in (*own, *below):
            match name:
                case "asterisk" if one.command and Path(one.command[0]).name == "asterisk":
                    return one
                case "controller" if one.command[1:3] == ("-m", "ari_app") and self._serves(one.pid):
                    return one
                case "agi" if one.command[1:3] == ("-m", "agi_scripts") and one.parent == self.process.pid:
                    return one
        return None

    def _serves(self, pid: int) -> bool:
        """Whether it is the controller, not a spare one: it has the lock's file open."""
        lock = str(self.settings.run_dir / "controller.lock")
        with contextlib.suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(handle) == lock:
                        return True
        return False

    async def ask(self, question: Any) -> Any:
        """The answer of `question`, asked of the database beside the event loop."""

        def read() -> Any:
            with store.session(self.engine) as session:
                return question(session)

        return await asyncio.to_thread(read)
