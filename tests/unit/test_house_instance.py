from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from ari_app import instance as house
from ari_app import processes, roots
from ari_app.errors import SetUpFailed
from ari_app.instance import AgentAccount, Instance, environment_of
from ari_app.settings import PROJECT, Settings, load

HA1 = "0123456789abcdef0123456789abcdef"


def settings_in(folder: Path, **more: Any) -> Settings:
    return load(environment={}, instance="unit", address="127.0.51.90", var_dir=str(folder), **more)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_prepared_twice_is_prepared_the_same(tmp_path: Path) -> None:
    one = Instance(settings_in(tmp_path))
    one.prepare([AgentAccount("601", HA1, "张三")])
    before = {p: (p.read_text(), p.stat().st_mtime_ns) for p in sorted((tmp_path / "unit/etc").iterdir())}
    password = one.ari_password
    again = Instance(settings_in(tmp_path))
    again.prepare([AgentAccount("601", HA1, "张三")])
    assert {p: (p.read_text(), p.stat().st_mtime_ns) for p in sorted((tmp_path / "unit/etc").iterdir())} == before
    assert again.ari_password == password
    assert len(password) >= 32


def test_nobody_else_reads_the_run_time_folder(tmp_path: Path) -> None:
    one = Instance(settings_in(tmp_path, trunk={"username": "carrier"}))
    one.prepare([AgentAccount("601", HA1)])
    assert mode(tmp_path / "unit") == 0o700
    assert mode(one.settings.secrets_file) == 0o600
    assert {mode(file) for file in (tmp_path / "unit/etc").iterdir()} == {0o600}
    assert one.trunk_password in (tmp_path / "unit/etc/pjsip.conf").read_text()


def test_configuration_names_no_person_and_leaves_no_placeholder(tmp_path: Path) -> None:
    Instance(settings_in(tmp_path)).prepare([AgentAccount("601", HA1, "张三")])
    for file in (tmp_path / "unit/etc").iterdir():
        text = file.read_text()
        assert "@{" not in text, file
        assert "张三" not in text, file


@pytest.mark.parametrize(
    "account",
    [
        AgentAccount("601\n[evil]", HA1),
        AgentAccount("601", f"{HA1}\n"),
        AgentAccount("601]", HA1),
        AgentAccount("", HA1),
        AgentAccount("trunk", HA1),
    ],
)
def test_an_account_cannot_write_configuration_of_its_own(tmp_path: Path, account: AgentAccount) -> None:
    with pytest.raises(SetUpFailed, match="2 to 8 digits"):
        Instance(settings_in(tmp_path)).prepare([account])


def test_a_folder_that_asterisk_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetUpFailed, match="folder's name"):
        Instance(settings_in(tmp_path / "a;b")).prepare([])


def test_secrets_are_missed_with_advice(tmp_path: Path) -> None:
    with pytest.raises(SetUpFailed, match="make run"):
        _ = Instance(settings_in(tmp_path)).ari_password


def test_children_get_these_very_settings(tmp_path: Path) -> None:
    given = settings_in(
        tmp_path,
        trunk={"addresses": ["127.0.51.0/24", "127.0.52.1"]},
        recordings={"listening_copies": True, "s3": {"bucket": "b"}},
        queue={"announce_every_s": 20.5},
        rtp_ports=(21000, 21999),
    )
    environment = environment_of(given)
    assert load(Path(environment["SANLING_CONFIG"]), environment) == given


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    one = Instance(settings_in(tmp_path))
    one.prepare([])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.51.90", 5060))
        with pytest.raises(SetUpFailed, match=r"127\.0\.51\.90:5060/udp is not free"):
            await one.start_asterisk()


def test_modules_are_named_one_by_one_and_native_rtp_is_not() -> None:
    text = (PROJECT / "asterisk-conf" / "modules.conf").read_text()
    assert "autoload = no" in text
    loaded = [line.split()[2] for line in text.splitlines() if line.startswith(("require =", "load ="))]
    assert len(loaded) == len(set(loaded))
    assert not {"bridge_native_rtp.so", "bridge_simple.so"} & set(loaded)
    assert not {"app_originate.so", "pbx_spool.so", "app_queue.so"} & set(loaded)


def contexts() -> dict[str, list[str]]:
    """The dialplan's steps by context."""
    found: dict[str, list[str]] = {}
    for line in (PROJECT / "dialplan" / "extensions.conf").read_text().splitlines():
        if line.startswith("["):
            steps = found[line.strip("[] ")] = []
        elif "=>" in line and not line.startswith(";"):
            steps.append(line)
    return found


def test_only_one_context_places_calls_and_nothing_leads_there(tmp_path: Path) -> None:
    found = contexts()
    steps = [step for context in found.values() for step in context]
    assert [line for line in steps if "System(" in line] == [line for line in steps if "${REQUEST}.txt" in line]
    for word in ("Originate(", "Local/", "SHELL(", "include", "switch", "EVAL(", "Exec("):
        assert not [step for step in steps if word in step], word
    assert {name for name, context in found.items() if any("Dial(" in step for step in context)} == {"outbound"}
    leads = [step for name, context in found.items() if name != "outbound" for step in context if "outbound" in step]
    assert not leads
    jumps = [step for step in steps if "Goto" in step]
    assert not [step for step in jumps if re.search(r"Goto(If)?\(\$\{", step)], "no context is named by a variable"
    Instance(settings_in(tmp_path, trunk={"outbound": "127.0.51.2:5062"})).prepare([AgentAccount("601", HA1)])
    etc = tmp_path / "unit" / "etc"
    entered = re.findall(r"(?m)^context = (\S+)", (etc / "pjsip.conf").read_text())
    entered += re.findall(r"(?m)^context = (\S+)", (etc / "pjsip-agents.conf").read_text())
    assert set(entered) == {"inbound", "agents"}
    assert "outbound" not in (etc / "extensions.conf").read_text().lower().replace("#include", "")


def test_a_placed_call_is_recorded_before_it_is_dialled() -> None:
    steps = contexts()["outbound"]
    assert "MixMonitor(" in steps[0]
    assert sum("Dial(" in step for step in steps) == 1
    dialled = next(step for step in steps if "Dial(" in step)
    assert "PJSIP/${FILTER(0-9,${EXTEN})}@trunk" in dialled


def test_calls_are_sent_only_where_the_trunk_says(tmp_path: Path) -> None:
    one = Instance(settings_in(tmp_path))
    one.prepare([])
    pjsip = tmp_path / "unit/etc/pjsip.conf"
    assert "contact = sip:" not in pjsip.read_text()
    one = Instance(settings_in(tmp_path, trunk={"outbound": "127.0.51.2:5062", "username": "carrier"}))
    one.prepare([])
    text = pjsip.read_text()
    assert "aors = trunk" in text.partition("[trunk-identify]")[0]
    assert "contact = sip:127.0.51.2:5062" in text
    assert "outbound_auth = trunk-outbound" in text
    assert "TRUNK_CALLER_ID = 12368" in (tmp_path / "unit/etc/extensions.conf").read_text()


def test_old_asterisk_of_the_machine_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "asterisk"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'Asterisk 18.10.0~dfsg'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    private = tmp_path / "root"
    monkeypatch.setattr(roots, "fetch", lambda *_, **__: private)
    monkeypatch.setattr(roots, "sandbox", lambda *_, **__: ["sh", "-c", "echo Asterisk 22.10.1+dfsg", "-V"])
    found = house.find_asterisk(settings_in(tmp_path))
    assert (found.version, found.root, found.major) == ("22.10.1", private, 22)
    program.write_text("#!/bin/sh\necho 'Asterisk 20.6.0~dfsg+~cs6.13'\n")
    assert house.find_asterisk(settings_in(tmp_path)) == house.Asterisk("20.6.0", None)


@pytest.mark.real_time
async def test_a_child_is_asked_first_and_then_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOPS_WITHIN_S", 0.3)
    deaf = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    out = tmp_path / "out"
    with out.open("wb") as file:
        child = await processes.start_child([sys.executable, "-c", deaf], {}, file)
    while not out.read_text():  # noqa: ASYNC110 - a file tells nobody
        await asyncio.sleep(0.02)
    await processes.end_child(child)
    assert child.returncode == -9


@pytest.mark.real_time
async def test_children_die_with_their_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from ari_app.processes import start_child\n"
        "async def main():\n"
        "    child = await start_child(['sleep', '60'], {}, None)\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=PROJECT
    )
    said, _ = await parent.communicate()
    async with asyncio.timeout(5):
        while lives(int(said)):  # noqa: ASYNC110 - nor does an orphan
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    stat_file = Path(f"/proc/{pid}/stat")
    return stat_file.exists() and " Z " not in stat_file.read_text()
