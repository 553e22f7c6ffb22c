"""This machine: what it is, and what processes use of it, read from /proc."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ari_app.settings import PROJECT
from tests.faults.house import children, cpu_s, machine_cpu_s

OTHERS_AT_MOST = 0.2
"""Of the machine's processor time: a measurement beside which others used more is not valid."""


def describe() -> dict[str, str | int | float]:
    """What a figure must be read with; no host name."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M)
    release = Path("/etc/os-release")
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', release.read_text() if release.exists() else "", re.M)
    said = subprocess.run(
        ["git", "-C", PROJECT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(int(memory[1]) / 1024**2, 1) if memory else 0.0,
        "kernel": platform.release(),
        "system": name[1] if name else "",
        "python": platform.python_version(),
        "commit": said.stdout.strip(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def resident_kb(pid: int) -> int:
    """Memory that a process holds (VmRSS), in kB; 0 if it is gone."""
    try:
        found = re.search(r"^VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Used:
    """Processor time in seconds, from a moment on."""

    asterisk: float
    controller: float
    recordings: float
    """Of what the controller started: it seals recordings."""
    agi: float
    """Of the server that looks callers up."""
    others: float
    """Of whatever does not belong to the benchmark."""
    seconds: float
    """By the clock."""

    @property
    def flow(self) -> float:
        """Of all parts of the flow that are metered."""
        return self.asterisk + self.controller + self.recordings + self.agi

    @property
    def valid(self) -> bool:
        """Whether the machine was the benchmark's own."""
        return self.others <= OTHERS_AT_MOST * self.seconds * (os.cpu_count() or 1)

    def less_idle(self, idle: Used) -> Used:
        """What was used beyond what the same processes use in that time when nobody calls."""
        share = self.seconds / idle.seconds if idle.seconds else 0.0
        return Used(
            max(self.asterisk - idle.asterisk * share, 0.0),
            max(self.controller - idle.controller * share, 0.0),
            max(self.recordings - idle.recordings * share, 0.0),
            max(self.agi - idle.agi * share, 0.0),
            self.others,
            self.seconds,
        )


class Meter:
    """Reads what a flow's processes have used since it was made. Fields 14 to 17 of /proc/PID/stat: proc(5).

    What else was started below this process, spare controllers and phones too, is neither metered nor others'.
    """

    def __init__(self, asterisk: int, controller: int | None, agi: int | None) -> None:
        self._asterisk = asterisk
        self._controller = controller
        self._agi = agi
        self._before = self._now()

    def used(self) -> Used:
        asterisk, controller, recordings, agi, ours, machine, at = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        return Used(asterisk, controller, recordings, agi, max(machine - ours, 0.0), at)

    def _now(self) -> tuple[float, ...]:
        controller = cpu_s(self._controller) if self._controller else 0.0
        below = cpu_s(self._controller, below=True) - controller if self._controller else 0.0
        agi = cpu_s(self._agi, below=True) if self._agi else 0.0
        ours = cpu_s(os.getpid(), below=True)
        return cpu_s(self._asterisk), controller, below, agi, ours, machine_cpu_s(), time.monotonic()


def leaf(pid: int) -> int:
    """The process that `pid` was started for: what bubblewrap starts is its only child."""
    while found := children(pid):
        pid = found[0]
    return pid
