"""A real PostgreSQL for tests, from nothing, on an address of its own; it runs as an ordinary user under bubblewrap."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from ari_app import roots

SUITE = "forky"
PACKAGES = ("postgresql",)
INSIDE = "/srv/postgres"
"""Where the folder is seen inside the sandbox."""
USER = "sanling"
UP_WITHIN_S = 60.0


class PostgresDidNotStart(Exception):
    pass


class Postgres:
    """One throw-away server. ``with Postgres(folder, address=...) as server: server.url("name")``

    Reached over TCP on `address` only, where everybody is trusted: it lives as long as the tests.
    """

    def __init__(self, folder: Path, *, address: str, progress: Callable[[str], None] = lambda text: None) -> None:
        self.address = address
        self._folder = folder
        self._progress = progress
        self._running: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind((address, 0))
            self._port: int = probe.getsockname()[1]

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, database: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@{self.address}:{self._port}/{database}?connect_timeout=2"

    def start(self) -> None:
        with (self._folder / "postgres.out").open("ab") as out:
            self._running = subprocess.Popen(
                self._inside(["postgres", "-D", f"{INSIDE}/data"]),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        until = time.monotonic() + UP_WITHIN_S
        while not self._ready():
            if self._running.poll() is not None:
                raise PostgresDidNotStart(f"it ended with {self._running.returncode}\n{self._log()}")
            if time.monotonic() > until:
                raise PostgresDidNotStart(f"it did not come up in {UP_WITHIN_S:g} s\n{self._log()}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut off and what was committed is kept ("fast"); SIGKILL: a crash."""
        process, self._running = self._running, None
        if process is None:
            return
        family = [process.pid, *_below(process.pid)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(next((pid for pid in family if _name(pid) == "postgres"), process.pid), how)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        until = time.monotonic() + 20
        while any(_name(pid) == "postgres" for pid in family) and time.monotonic() < until:
            time.sleep(0.02)

    def freeze(self) -> None:
        """All its processes stand still; the kernel goes on accepting and acknowledging for them."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._running is not None
        for pid in _below(self._running.pid):
            if _name(pid) == "postgres":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _make(self) -> None:
        root = roots.fetch("postgresql", SUITE, PACKAGES, progress=self._progress)
        self._root = root
        self._programs = next(iter(sorted((root / "usr/lib/postgresql").glob("*/bin"))))
        command = ["initdb", "-D", f"{INSIDE}/data", "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]
        made = subprocess.run(
            self._inside(command), capture_output=True, text=True, timeout=UP_WITHIN_S, check=False,
        )  # fmt: skip
        if made.returncode:
            raise PostgresDidNotStart(f"initdb: {made.stderr[-2000:]}")
        data = self._folder / "data"
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"listen_addresses = '{self.address}'\nport = {self._port}\nunix_socket_directories = ''\n"
                "max_connections = 60\nshared_buffers = 32MB\n"
            )
        (data / "pg_hba.conf").write_text(f"host all {USER} 127.0.0.0/8 trust\n")

    def _inside(self, argv: list[str]) -> list[str]:
        program = f"/{self._programs.relative_to(self._root)}/{argv[0]}"
        return roots.sandbox(
            self._root, [program, *argv[1:]], rw_binds=[(self._folder, INSIDE)], uid=roots.SANDBOX_UID
        )  # fmt: skip

    def _ready(self) -> bool:
        try:
            with psycopg.connect(
                f"host={self.address} port={self._port} user={USER} dbname=postgres connect_timeout=2"
            ):
                return True
        except psycopg.OperationalError:
            return False

    def _log(self) -> str:
        return (self._folder / "postgres.out").read_text(errors="replace")[-3000:]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(text), *_below(int(text))]
    return found
