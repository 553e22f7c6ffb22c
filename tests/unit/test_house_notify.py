"""The notify protocol: as systemd would hear it, and as a child of ours would say it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from ari_app import notify

pytestmark = pytest.mark.real_time


def bound(address: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.settimeout(1)
    listening.bind(address)
    return listening


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"sanling-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with bound(f"\0{name}" if abstract else name) as systemd:
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify.send(notify.READY, notify.status("3 calls\nin progress"))
        assert systemd.recv(4096) == b"READY=1\nSTATUS=3 calls in progress"


def test_nobody_is_told_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.send(notify.READY)


def test_one_who_is_gone_or_reads_no_more_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify.send(notify.ALIVE)
    with bound(str(tmp_path / "notify")):
        began = time.monotonic()
        for _ in range(2000):
            notify.send(notify.ALIVE)
        assert time.monotonic() - began < 1.0
    notify.send(notify.ALIVE)


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("15000000", "", 7.5),
        ("15000000", "own", 7.5),
        ("15000000", "1", None),
        ("", "", None),
        ("0", "", None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_every_s() == expected


@pytest.mark.parametrize("folder", ["short", "long" * 30, "missing/one"])
async def test_a_child_is_heard_wherever_its_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    if "missing" not in folder:
        (tmp_path / folder).mkdir()
    heard: asyncio.Queue[notify.Message] = asyncio.Queue()
    async with notify.listen(tmp_path / folder / "controller", heard.put_nowait) as address:
        assert address.startswith("@") == (folder != "short")
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.send(notify.ALIVE, notify.patience(30), notify.status("a=b 中"), "no sign")
        async with asyncio.timeout(1):
            assert await heard.get() == {"WATCHDOG": "1", "EXTEND_TIMEOUT_USEC": "30000000", "STATUS": "a=b 中"}
    assert not (tmp_path / folder / "controller").exists()


async def test_each_child_speaks_for_itself_and_an_earlier_one_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one: list[notify.Message] = []
    other: asyncio.Queue[notify.Message] = asyncio.Queue()
    async with notify.listen(tmp_path / "controller", one.append) as earlier:
        monkeypatch.setenv("NOTIFY_SOCKET", earlier)
        notify.send(notify.READY)
    async with (
        notify.listen(tmp_path / "controller", one.append),
        notify.listen(tmp_path / "agi", other.put_nowait) as address,
    ):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.send(notify.READY)
        async with asyncio.timeout(1):
            await other.get()
    assert one == []
