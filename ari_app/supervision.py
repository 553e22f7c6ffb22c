"""`sanling run`: Asterisk, the AGI server and the controller, started, watched, started again, ended together.

Who runs is written into a locked file of the instance (`Post`), so that a second `sanling run` is refused, and so that
`sanling restart` and `sanling drain` find the first. They speak to it by signals: SIGHUP has controller and AGI server
started anew while Asterisk and its calls stay; SIGUSR1 has no new call taken and everything ended after the last one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ari_app import notify
from ari_app.errors import SanlingError, SetUpFailed
from ari_app.instance import Instance, environment_of
from ari_app.processes import Kept, Notice, Pauses, Tell, ending, signal_to
from ari_app.settings import Settings

CHILDREN = {
    "agi": (sys.executable, "-m", "agi_scripts"),
    "controller": (sys.executable, "-m", "ari_app"),
}
"""What is kept running beside Asterisk."""
LOADS = {"agi": (sys.executable, "-c", "import agi_scripts.__main__")}
"""Tells whether the code that is there can be loaded, of a process without spares."""
SPARES = {"controller": 2}
"""Loaded and waiting: a second one for a controller that dies just after it took over."""

ASTERISK_ASKED_EVERY_S = 2.0
ASTERISK_SILENT_FOR_S = 15.0
"""An Asterisk that lives and answers nothing for so long is killed."""
LAST_WORDS_WITHIN_S = 30.0
"""When the last call was served, callers who hear the dialplan's fallback have this long to leave their number."""
STOPS_WITHIN_S = 20.0
RESTARTS_WITHIN_S = 60.0
LOOKED_EVERY_S = 0.25


class Part(msgspec.Struct, frozen=True):
    """One of the three processes."""

    pid: int | None = None
    ready: bool = False
    said: str = ""
    """What it says that it is doing."""


class Standing(msgspec.Struct, frozen=True):
    """How `sanling run` stands."""

    pid: int
    status: str
    parts: dict[str, Part]
    failed_restarts: int = 0
    why: str = ""
    """What kept the last of them from being done."""


class Post:
    """The place of an instance's one `sanling run`: a locked file in which stands who holds it, and how it stands."""

    def __init__(self, settings: Settings) -> None:
        """Raises SetUpFailed if it is taken."""
        self._file = os.open(_file(settings), os.O_RDWR | os.O_CREAT, 0o600)
        for attempt in range(5):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:  # somebody who only looks holds it for a moment
                if attempt < 4:
                    time.sleep(0.02)
        os.close(self._file)
        refuse_a_second(settings)
        raise SetUpFailed(f"{_file(settings)} is held by another process.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, standing: Standing) -> None:
        text = msgspec.json.encode(standing) + b"\n"
        with suppress(OSError):  # a full disk: what stood there goes on standing
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))


def look(settings: Settings) -> Standing | None:
    """How the instance's `sanling run` stands; None if there is none."""
    for _ in range(5):
        try:
            file = os.open(_file(settings), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            with suppress(msgspec.DecodeError, IndexError):  # it is being written
                return msgspec.json.decode(os.pread(file, 1 << 16, 0).splitlines()[0], type=Standing)
        finally:
            os.close(file)
        time.sleep(0.02)
    raise SetUpFailed(f"{_file(settings)} is held by another process, and does not say which.")


def refuse_a_second(settings: Settings) -> None:
    """Raises SetUpFailed if the instance runs."""
    if (first := look(settings)) is not None:
        raise SetUpFailed(
            f"The hotline {settings.instance} runs already (pid {first.pid}): stop that one first, or start another "
            "instance with SANLING_INSTANCE and SANLING_ADDRESS of its own."
        )


def _file(settings: Settings) -> Path:
    return settings.run_dir / "supervisor.lock"


async def supervise(instance: Instance, notice: Tell = lambda _: None) -> None:
    """Runs the three processes until SIGINT, SIGTERM, cancellation, or until drained; ends them all then.

    A process that dies or falls silent is started again, twice at once, then after pauses that grow while it
    keeps dying. Raises SetUpFailed if Asterisk does not come up the first time, or if the instance runs already.
    """
    with Post(instance.settings) as post:
        await _Supervisor(instance, post, notice).run()


class _Supervisor:
    def __init__(self, instance: Instance, post: Post, notice: Tell) -> None:
        self._instance = instance
        self._post = post
        self._told = notice
        self._stop = asyncio.Event()
        self._draining = False
        self._restarting: asyncio.Task[None] | None = None
        self._failed_restarts = 0
        self._why = ""
        self._asterisk = Part()
        self._asterisk_silent_s = 0.0
        self._asterisk_up_at = 0.0
        self._ready_once = False
        self._status = ""
        self._terminal = sys.stderr.isatty()
        settings = instance.settings
        self._children = {
            name: Kept(
                name,
                command,
                environment_of(settings),
                settings.run_dir,
                self._notice,
                self._show,
                spares=SPARES.get(name, 0),
                loads=LOADS.get(name, ()),
            )
            for name, command in CHILDREN.items()
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        signals: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGINT: self._stop.set,
            signal.SIGTERM: self._stop.set,
            signal.SIGHUP: self._restart,
            signal.SIGUSR1: self._drain,
        }
        for number, meaning in signals.items():
            loop.add_signal_handler(number, meaning)
        self._show()
        try:
            await self._start_asterisk()
            async with asyncio.TaskGroup() as group:
                keepers = [
                    group.create_task(self._keep_asterisk()),
                    group.create_task(self._listen_to_asterisk()),
                    group.create_task(self._tell_systemd()),
                    *(group.create_task(self._keep(child)) for child in self._children.values()),
                ]
                await self._stop.wait()
                notify.send(notify.STOPPING, notify.status("stopping"))
                for keeper in keepers:
                    keeper.cancel()
        finally:
            await asyncio.shield(self._instance.stop())
            for number in signals:
                loop.remove_signal_handler(number)
            self._notice(Notice("all", "stopped"))

    # what it is asked to do

    def _restart(self) -> None:
        """Or stops: a terminal that is closed sends the same signal."""
        if self._terminal and not sys.stderr.isatty():
            self._stop.set()
            return
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.get_running_loop().create_task(self._restart_children())

    async def _restart_children(self) -> None:
        """One after the other, so that they do not keep each other from starting. The one that serves callers goes on
        unless everything else is done.
        """
        try:
            await self._children["controller"].load_anew()
            await self._restart_agi()
        except SetUpFailed as error:
            self._failed_restarts += 1
            self._why = f"{error} The controller goes on as it was: mend that, then `sanling restart` again."
            self._notice(Notice("restart", "failed", str(error)))
            self._show()
        else:
            self._children["controller"].give_way()

    async def _restart_agi(self) -> None:
        """Raises SetUpFailed if it does not load, and ends nothing then; or if it is not ready in time."""
        agi = self._children["agi"]
        await agi.restart()
        try:
            async with asyncio.timeout(STOPS_WITHIN_S):
                while not (agi.ready and agi.pid is not None and not agi.ending):  # noqa: ASYNC110 - said by a signal
                    await asyncio.sleep(LOOKED_EVERY_S)
        except TimeoutError:
            raise SetUpFailed(
                f"The new AGI server is not ready after {STOPS_WITHIN_S:g} s: see the end of "
                f"{self._instance.settings.run_dir / 'log' / 'agi.log'}. It is started again and again."
            ) from None

    def _drain(self) -> None:
        self._draining = True
        self._children["controller"].drain()
        self._show()

    # the three processes

    async def _keep(self, child: Kept) -> None:
        await child.run()
        await self._last_words()  # it was drained
        self._stop.set()

    async def _last_words(self) -> None:
        with suppress(TimeoutError, SetUpFailed):
            async with asyncio.timeout(LAST_WORDS_WITHIN_S):
                while await self._instance.channels():  # noqa: ASYNC110 - Asterisk is asked, it does not tell
                    await asyncio.sleep(LOOKED_EVERY_S)

    async def _start_asterisk(self) -> None:
        await self._instance.start_asterisk()
        self._asterisk_silent_s = 0.0
        self._asterisk_up_at = asyncio.get_running_loop().time()
        self._asterisk = Part(self._instance.asterisk_pid, True)
        self._notice(Notice("asterisk", "started", self._instance.asterisk_version))
        self._show()

    async def _keep_asterisk(self) -> None:
        pauses = Pauses()
        while True:
            code = await self._watch_asterisk()
            served_s = asyncio.get_running_loop().time() - self._asterisk_up_at
            self._asterisk = Part()
            self._notice(Notice("asterisk", "ended", ending(code)))
            self._show()
            while not self._asterisk.ready:
                if pause := pauses.after(served_s):
                    self._notice(Notice("asterisk", "waiting", f"{pause:g} s"))
                    await asyncio.sleep(pause)
                served_s = 0.0
                try:
                    await self._start_asterisk()
                except (SetUpFailed, OSError) as error:
                    self._notice(Notice("asterisk", "ended", str(error)))

    async def _watch_asterisk(self) -> int:
        """Until it ends: its exit code. One that answers nothing any more is killed."""
        ended = asyncio.ensure_future(self._instance.wait_asterisk())
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=1.0)
                self._asterisk_silent_s += 1.0
                if self._asterisk_silent_s > ASTERISK_SILENT_FOR_S and not ended.done():
                    self._notice(Notice("asterisk", "killed", f"silent for {ASTERISK_SILENT_FOR_S:g} s"))
                    self._asterisk_silent_s = 0.0
                    self._instance.kill_asterisk()
            return ended.result()
        finally:
            ended.cancel()

    async def _listen_to_asterisk(self) -> None:
        while True:
            if await self._instance.answers():
                self._asterisk_silent_s = 0.0
            await asyncio.sleep(ASTERISK_ASKED_EVERY_S)

    # what it says

    def _notice(self, notice: Notice) -> None:
        with suppress(OSError):  # a terminal that was closed
            self._told(notice)

    async def _tell_systemd(self) -> None:
        every_s = notify.watchdog_every_s()
        while every_s is not None:
            notify.send(notify.ALIVE)
            await asyncio.sleep(every_s)

    def _show(self) -> None:
        """How it stands, for `look` and for systemd."""
        parts = {"asterisk": self._asterisk}
        parts |= {name: Part(kept.pid, kept.ready, kept.said) for name, kept in self._children.items()}
        away = [name for name, part in parts.items() if not part.ready]
        said = parts["controller"].said
        doing = "draining" if self._draining else f"not ready: {', '.join(away)}" if away else "serving"
        status = f"{doing}; {said}" if said else doing
        self._post.write(Standing(os.getpid(), status, parts, self._failed_restarts, self._why))
        news = []
        if not away and not self._ready_once:
            self._ready_once = True
            news.append(notify.READY)
        if status != self._status:
            self._status = status
            news.append(notify.status(status))
        if news:
            notify.send(*news)


# ---------------------------------------------------------------- from outside


def restart(settings: Settings, say: Callable[[str], None]) -> None:
    """Has controller and AGI server started anew, from the code that is there now; returns when both serve.

    Raises SanlingError if there is nobody to restart, if that code does not load, or if they do not come back.
    """
    before = look(settings)
    if before is None:
        raise SetUpFailed(f"The hotline {settings.instance} does not run: start it with `make run`.")
    began = time.monotonic()
    signal_to(before.pid, signal.SIGHUP)
    while time.monotonic() - began < RESTARTS_WITHIN_S:
        time.sleep(LOOKED_EVERY_S)
        now = look(settings)
        if now is None:
            raise SanlingError("The hotline ended instead.")
        if now.failed_restarts != before.failed_restarts:
            raise SanlingError(now.why)
        if all(now.parts[name].ready and now.parts[name].pid != before.parts[name].pid for name in CHILDREN):
            say(f"controller and AGI server serve again, after {time.monotonic() - began:.1f} s")
            return
    raise SanlingError(
        f"Not back after {RESTARTS_WITHIN_S:.0f} s ({now.status if now else 'ended'}): see log/controller.log and "
        "log/agi.log in the run-time folder. It goes on trying."
    )


def reload(settings: Settings) -> bool:
    """Has the controller read the desk's rules and skills anew; False if the hotline does not run."""
    standing = look(settings)
    controller = standing.parts.get("controller") if standing is not None else None
    if controller is None or controller.pid is None or not controller.ready:
        return False
    signal_to(controller.pid, signal.SIGHUP)
    return True


def drain(settings: Settings, say: Callable[[str], None], within_s: float | None = None, now: bool = False) -> bool:
    """Has the hotline take no new call, and end after the last one; with `now`, end at once.

    Returns whether it ended `within_s` (None: whenever it does). If not, it goes on draining.
    """
    began, said = time.monotonic(), ""
    standing = look(settings)
    if standing is None:
        say(f"the hotline {settings.instance} does not run")
        return True
    signal_to(standing.pid, signal.SIGTERM if now else signal.SIGUSR1)
    if now:
        within_s = STOPS_WITHIN_S
    while (standing := look(settings)) is not None:
        if standing.status != said:
            said = standing.status
            say(said)
        if within_s is not None and time.monotonic() - began > within_s:
            return False
        time.sleep(LOOKED_EVERY_S)
    say("stopped")
    return True
