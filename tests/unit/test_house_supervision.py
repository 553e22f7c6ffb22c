"""One `sanling run`, one controller; who runs, and how it stands; the unit that systemd is given."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ari_app import supervision
from ari_app.__main__ import only_controller
from ari_app.errors import SetUpFailed
from ari_app.settings import PROJECT, Settings, load
from ari_app.supervision import Part, Post, Standing, look

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
