"""Callers and agents in great number: sipp with audio, and a capture beside it.

sipp comes from Debian, unpacked in the user's cache like the private Asterisk (ADR 11), so that every machine calls
with the same version. It needs raw sockets, which the benchmark has in its own network (ADR 140).

sipp sends the voices of all its calls from one port, and a key from the same: Asterisk's ports tell calls apart. Keys
go through a raw socket each, which hears all that comes to its address. So voices do not: with hundreds of these open
the kernel would do nothing but copy.
"""

from __future__ import annotations

import asyncio
import csv
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dpkt

from ari_app import roots
from ari_app.errors import SetUpFailed
from ari_app.settings import PROJECT
from tests.bench.machine import leaf
from tests.bench.tap import KEYS_AT
from tests.faults.lightphone import AGENT_TONE, CALLER_TONE, SAMPLES

SUITE, PACKAGES = "bookworm", ("sip-tester", "ncurses-base")
SCENARIOS = Path(__file__).with_name("scenarios")
PACKET_S = 0.02
KEYS_AFTER_S = 0.7
"""From the answer to the key: both flows have said their first words or are saying them, and take it at any time."""
KEY_PACKETS = 5
ENDS = 3
"""How often the end of a key is sent. RFC 4733, 2.5.1.4."""
KEY_BEGUN, SSRC, VOLUME = 5600, 0x5AFE, 10
TALK_MS = (1000, 2600)
"""An agent hangs up so long after picking up, at random: fixed times would fall in step with what polls."""
LONG_MS = 40_000
LONG = "1548"
"""Callers whose number begins so have a long talk."""
STOPS_WITHIN_S = 5.0
UP_AFTER_S = 1.0


def fetch(progress: roots.Progress) -> Path:
    """The root with sipp, from the cache or from Debian. Raises SetUpFailed with what to do."""
    return roots.fetch("sipp", SUITE, PACKAGES, progress=progress)


def version(root: Path) -> str:
    said = subprocess.run(roots.sandbox(root, ["sipp", "-v"]), capture_output=True, text=True, check=False).stdout
    found = re.search(r"SIPp v([\w.]+)", said)
    return found[1] if found else ""


# ---------------------------------------------------------------- what a caller sends


def key_events(key: str) -> list[bytes]:
    """RTP packets that say `key` is pressed for 100 ms, one each 20 ms. RFC 4733."""
    event = "0123456789*#".index(key)
    found = []
    for n in range(KEY_PACKETS + ENDS - 1):
        end = 0x80 if n >= KEY_PACKETS - 1 else 0
        header = struct.pack("!BBHII", 0x80, KEYS_AT | (n == 0) << 7, n + 1, KEY_BEGUN, SSRC)
        found.append(header + struct.pack("!BBH", event, end | VOLUME, SAMPLES * min(n + 1, KEY_PACKETS)))
    return found


def write_pcap(file: Path, packets: Iterable[bytes]) -> None:
    """For sipp, which sends the datagrams' contents with these gaps."""
    with file.open("wb") as opened:
        writer = dpkt.pcap.Writer(opened)
        for n, payload in enumerate(packets):
            udp = dpkt.udp.UDP(sport=6000, dport=6000, data=payload)
            udp.ulen = len(udp)
            ip = dpkt.ip.IP(src=b"\x7f\0\0\1", dst=b"\x7f\0\0\1", p=dpkt.ip.IP_PROTO_UDP, ttl=64, data=udp)
            ip.len = len(ip)
            frame = dpkt.ethernet.Ethernet(src=b"\0" * 6, dst=b"\0" * 6, type=dpkt.ethernet.ETH_TYPE_IP, data=ip)
            writer.writepkt(bytes(frame), ts=n * PACKET_S)


# ---------------------------------------------------------------- sipp


@dataclass(frozen=True)
class Called:
    """What sipp says of a run."""

    calls: int
    failed: int


def counted(statistics: str) -> Called:
    """From sipp's statistics (CSV, semicolons): the last line has the totals."""
    rows = list(csv.DictReader(statistics.splitlines(), delimiter=";"))
    if not rows:
        return Called(0, 0)
    last = rows[-1]
    return Called(int(last["TotalCallCreated"]), int(last["FailedCall(C)"]))


class Phones:
    """The sipp of one benchmark, and its captures; `folder` is for what they read and write."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self._runs = 0
        (folder / "agent.al").write_bytes(AGENT_TONE * 500)
        (folder / "caller.al").write_bytes(CALLER_TONE * 500)
        write_pcap(folder / "key.pcap", key_events("0"))

    def _command(self, *argv: str) -> list[str]:
        return roots.sandbox(self._root, argv, rw_binds=[self._folder], env={"TERM": "xterm"})

    def _scenario(self, name: str, **values: str | int) -> str:
        text = (SCENARIOS / f"{name}.xml").read_text()
        for word, value in values.items():
            text = text.replace(word, str(value))
        file = self._folder / f"{name}-{self._runs}.xml"
        file.write_text(text)
        return str(file)

    def _sipp(self, address: str, *argv: str) -> subprocess.Popen[bytes]:
        common = ["sipp", "-nostdin", "-i", address, "-p", "5060"]
        with (self._folder / f"sipp-{self._runs}.out").open("wb") as out:
            return subprocess.Popen(
                self._command(*common, *argv), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    @contextmanager
    def agents(self, address: str) -> Iterator[None]:
        """Every agent's phone, at `address`. Raises SetUpFailed if sipp does not stay up."""
        self._runs += 1
        scenario = self._scenario(
            "agent", TONE=str(self._folder / "agent.al"), TALK_MIN_MS=TALK_MS[0], TALK_MAX_MS=TALK_MS[1],
            LONG_MS=LONG_MS, LONG=LONG,
        )  # fmt: skip
        run = self._runs
        sipp = self._sipp(address, "-sf", scenario)
        try:
            with suppress(subprocess.TimeoutExpired):
                sipp.wait(UP_AFTER_S)
                said = (self._folder / f"sipp-{run}.out").read_text(errors="replace")
                raise SetUpFailed(f"sipp did not stay up:\n{said[-1500:]}")
            yield
        finally:
            _end(sipp)

    async def call(
        self,
        server: str,
        address: str,
        numbers: Sequence[str],
        rate: float,
        *,
        patience_s: float,
        waits: bool = False,
        within_s: float,
    ) -> Called:
        """One call from each of `numbers`, `rate` a second, until all are over or `within_s` have passed. Who `waits`
        says nothing after the key and hangs up after `patience_s`; the others give up then.
        """
        self._runs += 1
        listed, statistics = self._folder / f"numbers-{self._runs}.csv", self._folder / f"statistics-{self._runs}.csv"
        listed.write_text("SEQUENTIAL\n" + "".join(f"{number};\n" for number in numbers))
        scenario = self._scenario(
            "waiter" if waits else "caller",
            TONE=str(self._folder / "caller.al"), KEY_AFTER_MS=round(KEYS_AFTER_S * 1000),
            KEY_MS=round((KEY_PACKETS + ENDS) * PACKET_S * 1000), KEY=str(self._folder / "key.pcap"),
            PATIENCE_MS=round(patience_s * 1000),
        )  # fmt: skip
        sipp = self._sipp(
            address, server, "-s", "12368", "-sf", scenario, "-inf", str(listed), "-r", f"{rate:g}", "-m",
            str(len(numbers)), "-l", str(len(numbers)), "-trace_stat", "-stf", str(statistics), "-fd", "1",
        )  # fmt: skip
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while sipp.poll() is None:  # noqa: ASYNC110 - a process of subprocess's tells nobody
                        await asyncio.sleep(0.05)
        finally:
            _end(sipp)
        return counted(statistics.read_text()) if statistics.exists() else Called(0, 0)

    @contextmanager
    def capture(self, *, audio: bool) -> Iterator[Path]:
        """The pcap file of what goes over loopback meanwhile; without `audio` SIP and keys alone.

        Raises SetUpFailed if packets were lost to it.
        """
        self._runs += 1
        file = self._folder / f"capture-{self._runs}.pcap"
        command = [sys.executable, "-m", "tests.bench.tap", str(file), *(["audio"] if audio else [])]
        with subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as tap:
            assert tap.stdin is not None and tap.stdout is not None and tap.stderr is not None  # noqa: PT018
            if tap.stdout.readline().strip() != "listening":
                raise SetUpFailed(f"The capture does not begin: {tap.stderr.read()[-500:]}")
            try:
                yield file
            finally:
                tap.stdin.close()
                lost = tap.stdout.readline().split()
        if lost != ["0", "lost"]:
            raise SetUpFailed(f"Packets were lost to the capture: {lost[0] if lost else 'nobody knows how many'}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The sandbox passes no signals on."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(leaf(process.pid), signal.SIGKILL)
        try:
            process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
