"""The vault is killed just before each single change it makes on disk, and another one takes over. REC-1, REC-2."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recordings.vault import Stored
from recordings.worker import Worker
from tests.unit.recordings_spool import Spool, speech_like

PROJECT = Path(__file__).resolve().parents[2]
SHARES = 4


def store(home: Path, *, killed_before_change: int) -> int:
    """Returns the exit code."""
    arguments = [str(home), str(killed_before_change), str(home.with_suffix(".told"))]
    return subprocess.run(
        [sys.executable, "-m", "tests.unit.recordings_killed", *arguments],
        cwd=PROJECT, capture_output=True, timeout=60, check=False,
    ).returncode  # fmt: skip


@pytest.mark.real_time
@pytest.mark.timeout(300)
@pytest.mark.parametrize("share", range(SHARES))
async def test_killed_before_any_change_on_disk_the_next_one_finishes(tmp_path: Path, share: int) -> None:
    whole = Spool(tmp_path / "whole")
    whole.ended_call(seconds=0.1)
    assert store(whole.home, killed_before_change=0) == 0
    changes = len((tmp_path / "whole.told.changes").read_text().splitlines())
    assert changes > 25

    killed = {}
    for change in range(1 + share, changes + 1, SHARES):
        killed[change] = Spool(tmp_path / f"killed-{change}")
        killed[change].ended_call(seconds=0.1)
    with ThreadPoolExecutor(2) as threads:
        codes = list(threads.map(lambda change: store(killed[change].home, killed_before_change=change), killed))
    ends = [change for change, code in zip(killed, codes, strict=True) if code != -signal.SIGKILL]
    assert all(change > changes - 2 for change in ends), "two threads may meet, and one finds a folder made already"

    async with Worker() as worker:
        for change, spool in killed.items():
            told = read(spool.home.with_suffix(".told"))
            async with spool.vault(worker) as vault:
                async for item in vault.sweep():
                    assert isinstance(item, Stored), f"killed before change {change}: {item}"
                    told.add((item.call_id, item.store, item.sha256))
                verdict = await vault.verify(call := "demo-1763763200.1")
            assert verdict.agreed, f"killed before change {change}: {verdict}"
            assert told == {(call, "local", verdict.sha256), (call, "second", verdict.sha256)}, change
            assert spool.left() == [], f"killed before change {change}"
            for folder in (spool.local, spool.second):
                assert spool.samples(folder, call) == speech_like(0.1, 1)
                assert not list(folder.root.rglob("*.damaged*"))


def read(ledger: Path) -> set[tuple[str, str, str]]:
    if not ledger.exists():
        return set()
    lines = ledger.read_text().splitlines()
    return {(call, name, sha256) for call, name, sha256 in (line.split() for line in lines)}
