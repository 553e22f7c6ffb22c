"""A real hotline for call scripts: `sanling run` as a user starts it, real SIP phones, ears for what they heard.

One hotline a test process and settings, on loopback addresses of its own; scripts run one after another on it and
leave their agents signed out.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self, TextIO, TypeVar
from zlib import crc32

from sqlalchemy.orm import Session

from ari_app import callbacks, store
from ari_app.flow.duty import ON_A_CALL
from ari_app.instance import Instance, environment_of
from ari_app.processes import at_the_parents_death
from ari_app.settings import Settings, load
from ari_app.staff import Access
from ari_app.testcall.hearing import Ear, PromptSounds
from ari_app.testcall.phone import Phones
from tests.calls.house import NUMBER, Script

T = TypeVar("T")

READY_WITHIN_S = 60.0


def zone_of_noon() -> str:
    """Where it is about noon: what a script does today is not yesterday's, whenever the tests run."""
    east = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-east:+d}"


def own_network(nth: int = 0) -> str:
    """Three bytes of loopback addresses that no other test process uses, of this test run or one beside it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw30").removeprefix("gw"))
    return f"127.{64 + crc32(run.encode()) % 128}.{worker * 8 + nth}"


STARTS_AT_ONCE = 2


@contextlib.contextmanager
def few_at_once() -> Iterator[None]:
    """Hotlines of call scripts, in all test processes of this user. A start takes all of a core for seconds, and calls
    beside it lose sound.
    """
    with contextlib.ExitStack() as opened:
        slots = [
            opened.enter_context(Path(tempfile.gettempdir(), f"sanling-tests-{os.getuid()}-{n}.lock").open("w"))
            for n in range(STARTS_AT_ONCE)
        ]
        while not any(_taken(slot) for slot in slots):
            time.sleep(0.1)
        yield


def _taken(slot: TextIO) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Running:
    """`sanling run` in a process of its own."""

    _running: ClassVar[dict[str, Running]] = {}

    def __init__(self, settings: Settings, desk: Path | None = None) -> None:
        """`desk`: the file of rules."""
        self.settings = settings
        rules = {} if desk is None else {"SANLING_DESK": str(desk)}
        self.log = settings.run_dir.parent / f"{settings.instance}.out"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("sanling"), "run"],
                env={**os.environ, **environment_of(settings), **rules},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=at_the_parents_death(signal.SIGINT),  # killed tests cannot stop it
            )
        self._wait()
        with (settings.run_dir / "agents.csv").open(encoding="utf-8") as file:
            self.access = {row["number"]: Access(**row) for row in csv.DictReader(file)}
        self.engine = store.open_engine(settings.database)
        self.ear = Ear(PromptSounds(settings.prompts / "audio"))

    @classmethod
    def stop_all(cls) -> None:
        """Ends every hotline of this test process, all at once, and removes their folders."""
        for one in cls._running.values():
            one.ask_to_stop()
        for one in cls._running.values():
            one.stop()
            one.engine.dispose()
            shutil.rmtree(one.settings.run_dir.parent, ignore_errors=True)
        cls._running.clear()

    @classmethod
    def of(cls, worker: str, changed: dict[str, Any]) -> Running:
        """The hotline of this test process with these settings, started once."""
        changed = {"queue": {"wrap_up_s": 6.0}, **changed}
        key = json.dumps(changed, sort_keys=True)
        if key not in cls._running:
            net = own_network(len(cls._running))
            folder = tempfile.mkdtemp(prefix="sanling-calls-")
            rules = changed.pop("rules", "")
            desk = Path(folder, "desk.toml")
            desk.write_text(rules, encoding="utf-8")
            settings = load(
                Path(os.devnull),
                {},
                instance=f"calls-{worker}-{len(cls._running)}",
                address=f"{net}.1",
                var_dir=folder,
                trunk={"addresses": [f"{net}.0/24"], "outbound": f"{net}.4:5060"},
                time_zone=zone_of_noon(),
                **changed,
            )
            with few_at_once():
                cls._running[key] = cls(settings, desk)
        return cls._running[key]

    def _wait(self) -> None:
        url = f"http://{self.settings.address}:{self.settings.metrics_port}/health"
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"the hotline did not come up:\n{self.log.read_text(errors='replace')[-3000:]}")

    def sanling(self, *command: str) -> str:
        """What a command of the command line printed about this hotline, whether it did it or not."""
        return subprocess.run(
            [Path(sys.executable).with_name("sanling"), *command],
            env={**os.environ, **environment_of(self.settings)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.ask_to_stop()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


class RealHouse(Script):
    """Over a real Asterisk, in real time."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.settings = running.settings
        self.access = running.access
        address = self.settings.address.rpartition(".")[0]
        self._callers_at, self._agents_at = f"{address}.2", f"{address}.3"

    async def __aenter__(self) -> Self:
        self.since = time.time()
        self._stack = AsyncExitStack()
        self.phones = await self._stack.enter_async_context(Phones(self._callers_at, ear=self.running.ear))
        self._agents: dict[str, Any] = {}
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._everybody_leaves()
            await self.nobody_is_called_back()
        finally:
            await self._stack.aclose()

    async def _everybody_leaves(self) -> None:
        """Signs out whom the script signed in, so that the next script meets an empty floor."""
        for number, phone in self._agents.items():
            for call in phone.in_talk:
                call.hang_up()
            for _ in range(50):
                there = await self.agent_at(number)
                if there is None or await self.duty(there) not in ON_A_CALL:
                    break
                await asyncio.sleep(0.2)
            if there is not None:
                if not phone.registered:
                    await phone.register()
                leaving = await phone.dials(f"*12{self.access[there].pin}")
                await leaving.ended()

    async def nobody_is_called_back(self) -> None:
        """Else the agents of the next script are rung for it."""
        for wish in await self.ask(callbacks.read):
            await asyncio.to_thread(self.running.sanling, "callbacks", "cancel", wish.id)

    async def ask(self, question: Callable[[Session], T]) -> T:
        def read() -> T:
            with store.session(self.running.engine) as session:
                return question(session)

        return await asyncio.to_thread(read)

    def said_until(self, call: Any, heard: Any) -> float:
        return float(call.heard.t0 + heard.until_s)

    async def nothing_is_left(self) -> None:
        instance = Instance(self.settings)
        login = f"{instance.ari_user}:{instance.ari_password}"
        for _ in range(50):
            left = [
                found["id"]
                for kind in ("channels", "bridges")
                for found in await asyncio.to_thread(_get, f"{instance.ari_url}/{kind}", login)
            ]
            if not left:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"still in Asterisk: {left}")

    async def phone(self, number: str, **how: Any) -> Any:
        at = f"{self.settings.address}:{self.settings.sip_port}"
        phone = await self.phones.agent(
            number, self.access[number].password, registrar=at, address=self._agents_at, **how
        )
        self._agents[number] = phone
        return phone

    async def rings(self, from_: str, **how: Any) -> Any:
        at = f"{self.settings.address}:{self.settings.sip_port}"
        return await self.phones.caller(from_, **how).dials(NUMBER, at=at)


def _get(url: str, login: str) -> Any:
    request = urllib.request.Request(url)  # noqa: S310
    request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=3) as answer:  # noqa: S310
        return json.load(answer)
