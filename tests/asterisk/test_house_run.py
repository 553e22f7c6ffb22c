"""`sanling run` as a user, or systemd, starts it: what dies or freezes in it is replaced, and Asterisk stays."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ari_app import notify
from ari_app.instance import environment_of
from ari_app.settings import PROJECT, Settings, load
from ari_app.supervision import Standing, look
from tests.asterisk.house_caller import Caller

pytestmark = pytest.mark.asterisk

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SERVES_WITHIN_S = 15.0
"""A controller takes one second to start; on a machine that does much else, several."""
HOUSE = f"127.0.51.{200 + WORKER}"


class Running:
    """The three processes, and systemd's ear."""

    def __init__(self, settings: Settings, systemd: str, heard: list[notify.Message]) -> None:
        self.settings = settings
        self._heard = heard
        of_systemd = {"NOTIFY_SOCKET": systemd, "WATCHDOG_USEC": "2000000"}
        self._environment = {**os.environ, **environment_of(settings), **of_systemd}
        self._by_hand = {name: value for name, value in self._environment.items() if name != "NOTIFY_SOCKET"}
        self.out = settings.run_dir.parent / "out"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                self._command("run"),
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("sanling")), *arguments]

    async def sanling(self, *arguments: str) -> tuple[int, str]:
        """Exit code and all that was printed."""
        return await self._run(self._command(*arguments))

    @asynccontextmanager
    async def draining(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """`sanling drain`, which has found the hotline and waits for its end."""
        process = await asyncio.create_subprocess_exec(
            *self._command("drain"), env=self._by_hand, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            assert process.stdout is not None
            assert b"call" in await asyncio.wait_for(process.stdout.readline(), 30)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def second_controller(self) -> tuple[int, str]:
        return await self._run([sys.executable, "-m", "ari_app"])

    async def _run(self, command: list[str]) -> tuple[int, str]:
        done = await asyncio.to_thread(
            subprocess.run, command, env=self._by_hand, cwd=PROJECT, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    def standing(self) -> Standing:
        standing = look(self.settings)
        assert standing is not None, self.out.read_text()
        return standing

    def pid(self, name: str) -> int:
        pid = self.standing().parts[name].pid
        assert pid is not None
        return pid

    async def until(self, holds: Callable[[Standing], bool], within_s: float) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            standing = look(self.settings)
            if standing is not None and holds(standing):
                return time.monotonic() - began
            assert self.process.poll() is None, self.out.read_text()
            await asyncio.sleep(0.02)
        raise AssertionError(f"not within {within_s} s: {look(self.settings)}\n{self.out.read_text()}")

    async def replaced(self, name: str, sent: signal.Signals, within_s: float) -> None:
        """Sends one process a signal; a successor is there within the time, and serves soon."""
        before = self.pid(name)
        os.kill(before, sent)
        await self.until(lambda now: now.parts[name].pid not in (None, before), within_s)
        await self.until(lambda now: now.parts[name].ready, SERVES_WITHIN_S)

    async def health(self) -> dict[str, bool]:
        def ask() -> Any:
            try:
                with urllib.request.urlopen(f"http://{HOUSE}:{self.settings.metrics_port}/health", timeout=3) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as refused:
                return json.load(refused)

        return dict((await asyncio.to_thread(ask))["parts"])

    def systemd_heard(self, name: str) -> list[str]:
        return [message[name] for message in self._heard if name in message]


@pytest.fixture
def hotline(tmp_path: Path) -> AbstractAsyncContextManager[Running]:
    """With the metrics' port taken by somebody else, and without a second store."""

    @asynccontextmanager
    async def running() -> AsyncIterator[Running]:
        prompts = tmp_path / "prompts"
        shutil.copytree(PROJECT / "dialplan" / "prompts", prompts)
        settings = load(
            environment={}, instance="house-run", address=HOUSE, var_dir=str(tmp_path), prompts_dir=str(prompts),
            recordings={"second": str(tmp_path / "away" / "second")}, trunk={"addresses": ["127.0.51.0/24"]},
        )  # fmt: skip
        heard: list[notify.Message] = []
        with socket.create_server((HOUSE, settings.metrics_port)) as somebody:
            async with notify.listen(tmp_path / "systemd", heard.append) as systemd:
                one = Running(settings, systemd, heard)
                try:
                    await one.until(lambda now: all(part.ready for part in now.parts.values()), 60)
                    somebody.close()
                    yield one
                finally:
                    if one.process.poll() is None:
                        one.process.kill()
                    await asyncio.to_thread(one.process.wait)

    return running()


async def test_what_freezes_or_dies_is_replaced_and_the_rest_stays(hotline: Running) -> None:
    asterisk, agi = hotline.pid("asterisk"), hotline.pid("agi")
    for name in ("controller", "agi"):
        await hotline.replaced(name, signal.SIGSTOP, within_s=5.0)
    assert await hotline.health() == {"ari": True, "database": True, "prompts": True}
    assert hotline.pid("agi") != agi

    (hotline.settings.prompts / "audio" / "opening.alaw").unlink()
    await hotline.replaced("controller", signal.SIGKILL, within_s=0.5)
    assert (await hotline.health())["prompts"] is False
    assert "opening" in (hotline.settings.run_dir / "log" / "controller.log").read_text()

    agi, controller = hotline.pid("agi"), hotline.pid("controller")
    code, said = await hotline.sanling("restart")
    assert code == 0, said
    assert "serve again" in said
    assert hotline.pid("agi") != agi
    assert hotline.pid("controller") != controller
    assert hotline.pid("asterisk") == asterisk

    for refused in (hotline.sanling("run"), hotline.second_controller()):
        code, said = await refused
        assert code == 1
        assert "house-run" in said
        assert "Traceback" not in said

    await drained_with_people_on_the_line(hotline)
    assert hotline.process.wait(5) == 0
    assert look(hotline.settings) is None
    assert hotline.systemd_heard("READY") == ["1"]
    assert len(hotline.systemd_heard("WATCHDOG")) > 10
    assert "serving; 0 calls in progress" in hotline.systemd_heard("STATUS")
    assert hotline.systemd_heard("STATUS")[-1] == "stopping"
    assert hotline.systemd_heard("STOPPING") == ["1"]


async def drained_with_people_on_the_line(hotline: Running) -> None:
    """One is served to the end; one who calls meanwhile hears the fallback, and that to its end as well."""
    served, late = (Caller(f"127.0.51.{230 + 10 * n + WORKER}", (HOUSE, 5060)) for n in range(2))
    async with served, late:
        await served.dial("12368")
        await served.answered()
        code, said = await hotline.sanling("drain", "--within", "1")
        assert code == 1
        assert "1 call in progress" in said
        assert "ends after the last one" in said
        await late.dial("12368")
        await late.answered()
        async with hotline.draining() as draining:
            await served.hang_up()
            await hotline.until(lambda now: now.parts["controller"].pid is None, 15)
            assert not late.hung_up_by_hotline.is_set()
            assert draining.returncode is None
            await late.hang_up()
            said, _ = await draining.communicate()
            assert draining.returncode == 0, said
            assert said.endswith(b"stopped\n")
