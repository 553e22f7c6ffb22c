"""What can befall a running hotline, done to it from outside by an ordinary user.

The link between controller and Asterisk is harmed on the controller's own sockets: they are borrowed with
``pidfd_getfd(2)`` and shut down (dropped), or given a packet filter that lets nothing in (half-open: no end is told
that the other is gone). Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sqlite3
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random

from sqlalchemy import make_url

from recordings.stores import MARKER
from tests.faults.house import House, process

WEIGHTS = {
    "controller killed": 24,
    "controller upgraded": 12,
    "controller frozen": 8,
    "agi killed": 10,
    "asterisk killed": 7,
    "link dropped": 12,
    "link half-open": 5,
    "link stalled": 5,
    "database locked": 12,
    "store away": 5,
}
"""Kinds of faults and how often each comes."""

CONTROL = ("controller killed", "controller upgraded", "controller frozen", "asterisk killed", "link dropped",
           "link half-open")  # fmt: skip
"""After these the controller must come to control again."""

SILENT = ("controller frozen", "link half-open")
"""These tell nobody; the hotline must find out."""

NOTICED_WITHIN_S = 5.0
THAWED_AFTER_S = 12.0
"""A frozen controller that nobody noticed is let go on after this, so that the run comes to an end."""
BACK_WITHIN_S = 40.0
LEAST_APART_S = 2.0
LOOK_EVERY_S = 0.03


@dataclass(frozen=True)
class Planned:
    """A fault before it is one. Times in seconds."""

    kind: str
    after_s: float
    """From the fault before."""
    lasts_s: float
    """Where it is one that lasts."""


@dataclass
class Strike:
    """A fault as it was. Times are Unix seconds."""

    kind: str
    at: float
    until: float = 0.0
    """When it was over: what was locked is free again, what was killed serves again."""
    missed: str = ""
    """Why nothing was done, if so."""
    noticed_s: float | None = None
    """Until the hotline did something about a frozen controller or a half-open link."""
    back_s: float | None = None
    """From the fault to control."""
    back_from_start_s: float | None = None
    """From the start of the new controller to control; from the fault, if a spare one was there before."""


def planned(seed: int, mean_s: float, weights: dict[str, int] | None = None) -> Iterator[Planned]:
    """The faults of the run with this seed, without end."""
    rng = Random(f"{seed} faults")
    kinds = weights or WEIGHTS
    while True:
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        lasts = rng.uniform(3.0, 10.0) if kind == "store away" else rng.uniform(1.0, 8.0)
        if kind == "link stalled":
            lasts = rng.uniform(0.5, 4.0)
        yield Planned(kind, max(LEAST_APART_S, rng.expovariate(1 / mean_s)), lasts)


class Harm:
    """Does harm to `house`; `on_asterisk_killed` and `on_asterisk_back` are told at once, with Unix seconds."""

    def __init__(
        self,
        house: House,
        on_asterisk_killed: Callable[[float], None],
        on_asterisk_back: Callable[[], Awaitable[None]],
    ) -> None:
        self.strikes: list[Strike] = []
        self._house = house
        self._on_asterisk_killed = on_asterisk_killed
        self._on_asterisk_back = on_asterisk_back
        self._watching: set[asyncio.Task[None]] = set()

    async def strike(self, plan: Planned) -> Strike:
        """Does it. Returns once it is done; what becomes of it is watched beside."""
        doing = {
            "controller killed": self._kill_controller,
            "controller upgraded": self._upgrade_controller,
            "controller frozen": self._freeze_controller,
            "agi killed": self._kill_agi,
            "asterisk killed": self._kill_asterisk,
            "link dropped": self._drop_link,
            "link half-open": self._half_open_link,
            "link stalled": self._stall_link,
            "database locked": self._lock_database,
            "store away": self._take_store_away,
        }
        strike = Strike(plan.kind, time.time())
        self.strikes.append(strike)
        await doing[plan.kind](strike, plan.lasts_s)
        return strike

    async def over(self) -> None:
        """Waits until all is as before, as far as the hotline lets it."""
        while self._watching:
            await asyncio.gather(*self._watching, return_exceptions=True)

    # Processes

    async def _kill_controller(self, strike: Strike, _: float) -> None:
        if (pid := await self._pid(strike, "controller")) is not None:
            os.kill(pid, signal.SIGKILL)
            self._beside(self._until_control(strike, self._is_another("controller", pid)))

    async def _upgrade_controller(self, strike: Strike, _: float) -> None:
        """What `sanling restart` does after an upgrade: AGI server and controller start anew."""
        if (pid := await self._pid(strike, "controller")) is not None:
            os.kill(self._house.process.pid, signal.SIGHUP)
            self._beside(self._until_upgraded(strike, pid))

    async def _until_upgraded(self, strike: Strike, old: int) -> None:
        """The old controller serves until the new one has loaded: the fault begins with its end."""
        await _until(lambda: process(old) is None, BACK_WITHIN_S)
        strike.at = time.time()
        await self._until_control(strike, self._is_another("controller", old))

    async def _freeze_controller(self, strike: Strike, _: float) -> None:
        if (pid := await self._pid(strike, "controller")) is not None:
            os.kill(pid, signal.SIGSTOP)
            self._beside(self._thaw(strike, pid))
            self._beside(self._until_control(strike, self._is_another("controller", pid)))

    async def _thaw(self, strike: Strike, pid: int) -> None:
        if await _until(lambda: process(pid) is None, THAWED_AFTER_S):
            strike.noticed_s = time.time() - strike.at
        else:
            os.kill(pid, signal.SIGCONT)

    async def _kill_agi(self, strike: Strike, _: float) -> None:
        pid = await self._pid(strike, "agi")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self._beside(self._until_replaced(strike, "agi", pid))

    async def _until_replaced(self, strike: Strike, name: str, old: int) -> None:
        await _until(self._is_another(name, old), BACK_WITHIN_S)
        strike.until = time.time()

    def _is_another(self, name: str, old: int) -> Callable[[], bool]:
        return lambda: self._house.pid_of(name) not in (None, old)

    async def _kill_asterisk(self, strike: Strike, _: float) -> None:
        pid = await self._pid(strike, "asterisk")
        if pid is None:
            return
        links = await self._links(Strike(strike.kind, strike.at))
        held = _inodes(links)
        for link in links:
            link.close()
        strike.at = time.time()
        os.kill(pid, signal.SIGKILL)
        self._on_asterisk_killed(strike.at)
        self._beside(self._until_asterisk_serves(strike, pid, held))

    async def _until_asterisk_serves(self, strike: Strike, old: int, held: set[int]) -> None:
        """By a link that is none of those `held` before: a controller may believe in a dead one for a while."""
        another = self._is_another("asterisk", old)

        def linked_anew() -> bool:
            controller = self._house.pid_of("controller")
            return another() and controller is not None and not held & set(_sockets(controller).values())

        await self._until_control(strike, linked_anew)
        await self._on_asterisk_back()

    async def _pid(self, strike: Strike, name: str) -> int | None:
        """Of a process that may just be starting again; the fault begins when it is there."""
        for _ in range(400):
            pid = self._house.pid_of(name)
            if pid is not None:
                strike.at = time.time()
                return pid
            await asyncio.sleep(LOOK_EVERY_S)
        strike.missed = f"no {name} was running"
        return None

    # The link

    async def _drop_link(self, strike: Strike, _: float) -> None:
        def drop(link: socket.socket) -> None:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

        await self._break_links(strike, drop)

    async def _half_open_link(self, strike: Strike, _: float) -> None:
        await self._break_links(strike, _let_nothing_in)

    async def _break_links(self, strike: Strike, how: Callable[[socket.socket], None]) -> None:
        links = await self._links(strike)
        pid = self._house.pid_of("controller")
        held = _inodes(links)
        for link in links:
            how(link)
            link.close()
        if links and pid is not None:
            self._beside(self._until_let_go(strike, pid, held))

    async def _until_let_go(self, strike: Strike, pid: int, held: set[int]) -> None:
        if await _until(lambda: not held & set(_sockets(pid).values()), BACK_WITHIN_S):
            strike.noticed_s = time.time() - strike.at
        await self._until_control(strike, lambda: True)

    async def _stall_link(self, strike: Strike, lasts_s: float) -> None:
        links = await self._links(strike)
        for link in links:
            _let_nothing_in(link)

        async def mend() -> None:
            await asyncio.sleep(lasts_s)
            for link in links:
                with contextlib.suppress(OSError):
                    link.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
                link.close()
            strike.until = time.time()

        self._beside(mend())

    async def _links(self, strike: Strike) -> list[socket.socket]:
        """The controller's own sockets to Asterisk, borrowed; they must be closed here."""
        pid = await self._pid(strike, "controller")
        if pid is None:
            return []
        ari = (self._house.settings.control_address, self._house.settings.ari_port)
        links = []
        for number in _sockets(pid):
            borrowed = _borrow(pid, number)
            if borrowed is not None:
                with contextlib.suppress(OSError):
                    if borrowed.family == socket.AF_INET and borrowed.getpeername() == ari:
                        links.append(borrowed)
                        continue
                borrowed.close()
        if not links:
            strike.missed = "the controller had no link"
        return links

    # Disks

    async def _lock_database(self, strike: Strike, lasts_s: float) -> None:
        path = make_url(self._house.settings.database).database

        def lock() -> None:
            connection = sqlite3.connect(str(path), timeout=5.0, isolation_level=None)
            try:
                connection.execute("BEGIN EXCLUSIVE")
                strike.at = time.time()
                time.sleep(lasts_s)
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError as error:
                strike.missed = str(error)
            finally:
                connection.close()
                strike.until = time.time()

        self._beside(asyncio.to_thread(lock))

    async def _take_store_away(self, strike: Strike, lasts_s: float) -> None:
        store = self._house.settings.second_store
        marker, away = store / MARKER, store / f"{MARKER}.away"
        if not marker.exists():
            strike.missed = "it was away already"
            return
        marker.rename(away)

        async def bring_back() -> None:
            try:
                await asyncio.sleep(lasts_s)
            finally:
                away.rename(marker)
                strike.until = time.time()

        self._beside(bring_back())

    # What becomes of it

    async def _until_control(self, strike: Strike, gone: Callable[[], bool]) -> None:
        """Until what was harmed is `gone`, and the controller is linked to Asterisk (again)."""
        deaf = False
        while time.time() - strike.at < BACK_WITHIN_S:
            parts = await asyncio.to_thread(self._house.health, 0.3)
            deaf = deaf or not parts.get("ari", False)
            if parts.get("ari") and (gone() or (deaf and strike.kind == "controller frozen")):
                strike.back_s = time.time() - strike.at
                started = self._house.started_at("controller")
                if started is not None and strike.kind.startswith("controller"):
                    strike.back_from_start_s = time.time() - max(started, strike.at)
                break
            await asyncio.sleep(LOOK_EVERY_S)
        strike.until = time.time()

    def _beside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)


async def _until(holds: Callable[[], bool], within_s: float) -> bool:
    """Whether `holds` became so in time; it is of other processes and rings no bell."""
    last = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > last:
            return False
        await asyncio.sleep(LOOK_EVERY_S)
    return True


# ---------------------------------------------------------------- another process's sockets

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)
_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
"""One instruction of a classic packet filter: return 0, that is, take no byte of any packet."""


def _sockets(pid: int) -> dict[int, int]:
    """Number and inode of each socket that a process has open."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found[int(name)] = int(target[8:-1])
    return found


def _inodes(links: list[socket.socket]) -> set[int]:
    return {os.fstat(link.fileno()).st_ino for link in links}


def _borrow(pid: int, number: int) -> socket.socket | None:
    """A socket of a process that was started by us; None if it is gone."""
    try:
        process_handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        handle = _libc.syscall(_PIDFD_GETFD, process_handle, number, 0)
    finally:
        os.close(process_handle)
    return socket.socket(fileno=handle) if handle >= 0 else None


def _let_nothing_in(link: socket.socket) -> None:
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(_NOTHING))
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def can_borrow_sockets() -> bool:
    """Whether this machine lets a process borrow the sockets of another one of the same user."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        borrowed = _borrow(os.getpid(), ours.fileno())
        if borrowed is None:
            return False
        borrowed.close()
        return True
