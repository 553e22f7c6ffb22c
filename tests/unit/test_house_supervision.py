"""One `sanling run`, one controller; who runs, and how it stands; the unit that systemd is given."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from ari_app import supervision
from ari_app.__main__ import only_controller
from ari_app.errors import SanlingError, SetUpFailed
from ari_app.instance import Instance
from ari_app.settings import PROJECT, Settings, load
from ari_app.supervision import CHILDREN, Part, Post, Standing, look, supervise

UNIT = PROJECT / "systemd" / "sanling.service"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = load(environment={}, instance="unit", address="127.0.51.91", var_dir=str(tmp_path))
    made.run_dir.mkdir()
    return made


def standing(status: str) -> Standing:
    return Standing(os.getpid(), status, {"controller": Part(4711, True, "3 calls in progress")})


def test_the_second_is_told_who_the_first_is(settings: Settings) -> None:
    with Post(settings) as post:
        post.write(standing("serving"))
        with pytest.raises(SetUpFailed, match=rf"unit runs already \(pid {os.getpid()}\): stop that one first"):
            Post(settings)
        with pytest.raises(SetUpFailed, match="SANLING_INSTANCE"):
            supervision.refuse_a_second(settings)
    with Post(settings):
        pass


def test_how_it_stands_is_read_while_it_runs_and_only_then(settings: Settings) -> None:
    assert look(settings) is None
    with Post(settings) as post:
        for status in ("not ready: asterisk, agi, controller", "serving", "draining"):
            post.write(standing(status))
            assert look(settings) == standing(status)
    assert (settings.run_dir / "supervisor.lock").stat().st_mode & 0o777 == 0o600
    assert look(settings) is None, "a file that nobody holds is from one who is gone"
    supervision.refuse_a_second(settings)


def test_one_who_only_looks_keeps_nobody_from_starting(settings: Settings) -> None:
    with Post(settings):
        pass
    for _ in range(200):
        look(settings)
        with Post(settings):
            pass


def test_where_nothing_runs_there_is_nothing_to_drain_or_restart(settings: Settings) -> None:
    said: list[str] = []
    assert supervision.drain(settings, said.append)
    assert said == ["the hotline unit does not run"]
    with pytest.raises(SetUpFailed, match="make run"):
        supervision.restart(settings, said.append)


class NoAsterisk:
    """An instance whose Asterisk is there for ever."""

    asterisk_version, asterisk_pid = "20", 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def start_asterisk(self) -> None: ...

    async def stop(self) -> None: ...

    async def answers(self) -> bool:
        return True

    async def wait_asterisk(self) -> int:
        return await asyncio.get_running_loop().create_future()


PART = """
import pathlib, sys, time
from ari_app import notify
def is_there(mark): return pathlib.Path({folder!r}, mark).exists()
is_there({name!r} + " does not load") and sys.exit(1)
notify.stand_by() or sys.exit(1)
while True:
    notify.send(notify.ALIVE, *([] if is_there({name!r} + " is never ready") else [notify.READY]))
    time.sleep(0.05)
"""


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("fault", "kept", "said"),
    [
        ("controller does not load", {"agi", "controller"}, "new controller does not load (exit code 1)"),
        ("agi does not load", {"agi", "controller"}, "new agi does not load (exit code 1)"),
        ("agi is never ready", {"controller"}, "new AGI server is not ready after 1.5 s"),
    ],
)
async def test_an_upgrade_that_does_not_start_leaves_the_controller_and_is_told_to_whoever_asked_for_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, kept: set[str], said: str
) -> None:
    programs = {name: (sys.executable, "-c", PART.format(folder=str(tmp_path), name=name)) for name in CHILDREN}
    tried = f"import pathlib, sys; sys.exit(pathlib.Path({str(tmp_path)!r}, 'agi does not load').exists())"
    monkeypatch.setattr(supervision, "CHILDREN", programs)
    monkeypatch.setattr(supervision, "LOADS", {"agi": (sys.executable, "-c", tried)})
    monkeypatch.setattr(supervision, "STOPS_WITHIN_S", 1.5)
    for part in ("log", "run"):
        (settings.run_dir / part).mkdir()
    heard: list[str] = []
    supervising = asyncio.create_task(supervise(cast(Instance, NoAsterisk(settings))))

    async def all_ready() -> dict[str, int | None]:
        async with asyncio.timeout(15):
            while (now := look(settings)) is None or not all(part.ready for part in now.parts.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return {name: part.pid for name, part in now.parts.items() if name in CHILDREN}

    try:
        before = await all_ready()
        (tmp_path / fault).touch()
        for _ in range(2):
            with pytest.raises(SanlingError, match=re.escape(said)) as failed:
                await asyncio.to_thread(supervision.restart, settings, heard.append)
        assert str(failed.value).endswith("The controller goes on as it was: mend that, then `sanling restart` again.")
        assert "\n" not in str(failed.value)
        now = look(settings)
        assert now is not None
        assert {name for name in CHILDREN if now.parts[name].pid == before[name]} == kept
        assert now.parts["controller"].ready
        (tmp_path / fault).unlink()
        await all_ready()
        await asyncio.to_thread(supervision.restart, settings, heard.append)
        assert len(heard) == 1
        after = await all_ready()
        assert not set(before.values()) & set(after.values())
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(supervising, 10)


def test_the_second_controller_is_refused(settings: Settings) -> None:
    with (
        only_controller(settings),
        pytest.raises(SetUpFailed, match="Another controller serves the instance unit"),
        only_controller(settings),
    ):
        pass
    with only_controller(settings):
        pass


def test_a_controller_without_an_instance_is_told_to_make_one(tmp_path: Path) -> None:
    with (
        pytest.raises(SetUpFailed, match="sanling setup"),
        only_controller(load(environment={}, var_dir=str(tmp_path))),
    ):
        pass


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_the_unit_lets_bubblewrap_make_its_sandbox() -> None:
    service = unit()["Service"]
    for forbids in ("RestrictNamespaces", "PrivateUsers", "ProtectProc", "ProcSubset", "ProtectKernelTunables",
                    "ProtectKernelLogs", "SystemCallFilter", "MemoryDenyWriteExecute"):  # fmt: skip
        assert forbids not in service
    assert float(service["TimeoutStopSec"]) >= supervision.STOPS_WITHIN_S
    assert service["Type"] == "notify"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "sanling"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text(encoding="utf-8").replace("/opt/sanling/.venv/bin/sanling", str(program))
    copy = tmp_path / "sanling.service"
    copy.write_text(text.replace("User=sanling", "User=root").replace("/opt/sanling", str(tmp_path)), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    about_us = [line for line in done.stderr.splitlines() if "sanling" in line]
    assert (done.returncode, about_us) == (0, []), done.stderr
