"""Child processes: started, watched, started again, ended.

A child that is kept says by systemd's notify protocol (:mod:`ari_app.notify`) that it serves and that it lives, on a
socket of its own. How long it has been silent is counted in checks of ours, not by the clock: a supervisor that was
itself stopped for a while must not take its children for dead. Nor is a child dead that got no processor: the time in
which it waited for one does not count.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ari_app import notify
from ari_app.errors import SetUpFailed
from ari_app.settings import PROJECT

log = logging.getLogger("sanling.house")

STOPS_WITHIN_S = 5.0
READY_WITHIN_S = 30.0
SILENT_FOR_S = 1.5
"""A child that serves and says nothing for so long is killed; it speaks every `notify.ALIVE_EVERY_S`."""
MAKES_WAY_WITHIN_S = 1.0
"""One that is restarted ends by itself in this time or is killed."""
TAKES_OVER_WITHIN_S = 10.0
"""A spare that had loaded is ready after this, or killed."""
SPARE_AFTER_S = 0.3
"""A spare is loaded so long after the one before it serves, which has more urgent things to do."""
ANOTHER_SPARE_AFTER_S = 2.0
"""The same, while another stands by: to load takes a second or two of a processor."""
CHECKED_EVERY_S = 0.1
RESTART_AFTER_S = (0.0, 0.0, 0.2, 1.0, 2.0, 5.0, 10.0)
"""Before the first, second … restart of a child in a row; the last one goes on for ever."""
STEADY_AFTER_S = 2.0
"""A child that served this long starts again at once: the pauses are for one that cannot serve."""


@dataclass(frozen=True)
class Notice:
    """What became of one process of the instance."""

    process: str
    what: str
    """started, ready, killed, ended, waiting, failed or stopped"""
    detail: str = ""


Tell = Callable[[Notice], None]


class _Child:
    """One process; what it tells goes to `hear` once it serves."""

    def __init__(self, hear: notify.Hear) -> None:
        self.process: asyncio.subprocess.Process
        self.spare = False
        self.standing_by = asyncio.Event()
        """It has loaded, or was told to serve before it had."""
        self.listening = AsyncExitStack()
        self._hear = hear
        self._serves = False

    def heard(self, message: notify.Message) -> None:
        if self._serves:
            self._hear(message)
        else:
            self.standing_by.set()

    def serve(self) -> None:
        self._serves = True
        self.standing_by.set()
        if self.spare and self.process.stdin is not None:
            self.process.stdin.write(notify.YOUR_TURN)

    async def discard(self) -> None:
        kill_group(self.process.pid)
        try:
            await self.process.wait()
        finally:
            await self.listening.aclose()


class Kept:
    """One child process, started again whenever it ends, killed when it falls silent.

    With spares, other processes of the same kind have loaded everything and wait: one takes over at once, and the next
    one if that dies too before another is loaded.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        notice: Tell,
        changed: Callable[[], None] = lambda: None,
        *,
        spares: int = 0,
        loads: Sequence[str] = (),
    ) -> None:
        """`folder` has ``log/`` for what it prints and ``run/`` for its socket; `changed` hears of every news. Without
        spares, the command `loads` ends with exit code 0 if the code that is there can be loaded.
        """
        self.name = name
        self.ready = False
        self.said = ""
        """Its last word on what it is doing."""
        self._command = command
        self._environment = environment
        self._folder = folder
        self._log = folder / "log" / f"{name}.log"
        self._notice = notice
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._spoke = False
        self._ready_at = 0.0
        self._served_s = 0.0
        self._patience_s = 0.0
        self._asked_to_end = False
        self._draining = False
        self._at_once = asyncio.Event()
        self._loads = loads
        self._spares_kept = spares
        self._spares: list[_Child] = []
        self._preparing: asyncio.Task[None] | None = None
        self._started = 0

    @property
    def ending(self) -> bool:
        """It was asked to end, and has not yet."""
        return self._asked_to_end

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def restart(self) -> None:
        """Ends it; the next one, of the code that is there now, starts at once. Raises SetUpFailed if that code does
        not load, and ends nothing then.
        """
        await self.load_anew()
        self.give_way()

    async def load_anew(self) -> None:
        """Has the code that is there now loaded, beside the one that serves; with spares, one of it stands by then in
        place of those of the old code. Raises SetUpFailed if it does not load within READY_WITHIN_S: all stays as it
        was.
        """
        if self._preparing is not None:
            self._preparing.cancel()
        try:
            if self._spares_kept:
                await self._renew_spares()
            elif self._loads:
                await self._try_to_load()
        except (OSError, SetUpFailed) as error:
            raise SetUpFailed(f"The new {self.name} does not load ({error}): see the end of {self._log}.") from error

    def give_way(self) -> None:
        """Ends it; the next one starts at once. Without spares it is asked first. With them it is killed: the next one
        takes up what a killed one left as well as what one left that ended by itself, only sooner.
        """
        self._at_once.set()
        if self._process is not None:
            self._asked_to_end = True
            self._patience_s = MAKES_WAY_WITHIN_S
            signal_to(self._process.pid, signal.SIGKILL if self._spares_kept else signal.SIGTERM)

    def drain(self) -> None:
        """Has it, and every successor, finish its work and end (SIGUSR1)."""
        self._draining = True
        if self._process is not None and self._spoke:
            signal_to(self._process.pid, signal.SIGUSR1)

    async def run(self) -> None:
        """Until cancelled, when it is ended; or until a draining one has ended with exit code 0."""
        for left in (self._folder / "run").glob(f"{self.name}-*.notify"):  # by one who kept it before, and was killed
            left.unlink(missing_ok=True)
        pauses = Pauses()
        while True:
            try:
                code = await self._live()
            except (OSError, SetUpFailed) as error:  # no process, no file, no disk: perhaps later
                self._notice(Notice(self.name, "ended", f"cannot be started: {error}"))
            else:
                self._notice(Notice(self.name, "ended", ending(code)))
                self._changed()
                if self._draining and code == 0 and not self._asked_to_end:
                    if self._preparing is not None:
                        self._preparing.cancel()
                    await self._discard_spares()
                    return
            self._changed()
            if not self._at_once.is_set():
                pause = pauses.after(self._served_s)
                if pause:
                    self._notice(Notice(self.name, "waiting", f"{pause:g} s"))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._at_once.wait(), pause or 0.01)
            if self._at_once.is_set():
                self._at_once.clear()
                pauses = Pauses()

    # the spares

    def _prepare(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        self._preparing = asyncio.get_running_loop().create_task(self._prepare_spares())

    async def _prepare_spares(self) -> None:
        """One after another: whoever serves has more urgent things to do."""
        await asyncio.sleep(ANOTHER_SPARE_AFTER_S if self._spares else SPARE_AFTER_S)
        while len(self._spares) < self._spares_kept:
            try:
                await self._prepare_spare()
            except (OSError, SetUpFailed) as error:
                log.warning("no spare %s: %s", self.name, error)
                return

    async def _prepare_spare(self, within_s: float | None = None) -> _Child:
        """One that stands by. Raises SetUpFailed or OSError: it may not start, end while it loads, or take too long."""
        spare = await self._start(spare=True)
        self._spares.append(spare)
        loading = asyncio.ensure_future(spare.standing_by.wait())
        ended = asyncio.ensure_future(spare.process.wait())
        try:
            await asyncio.wait([loading, ended], timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loading.cancel()
            ended.cancel()
        if spare.standing_by.is_set():
            return spare
        why = _not_loaded(spare.process.returncode)
        await self._discard_spares(but=lambda one: one is not spare)
        raise SetUpFailed(why)

    async def _renew_spares(self) -> None:
        try:
            new = await self._prepare_spare(READY_WITHIN_S)
            await self._discard_spares(but=lambda one: one is new)
        finally:
            if self.ready:
                self._prepare()

    async def _discard_spares(self, but: Callable[[_Child], bool] = lambda _: False) -> None:
        spares, self._spares = self._spares, [one for one in self._spares if but(one)]
        for spare in spares:
            if not but(spare):
                await spare.discard()

    async def _try_to_load(self) -> None:
        with self._log.open("ab") as out:
            trial = await start_child(self._loads, self._environment, out)
        code = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_WITHIN_S):
                    code = await trial.wait()
        finally:
            kill_group(trial.pid)
            await trial.wait()
        if code != 0:
            raise SetUpFailed(_not_loaded(code))

    async def _next(self) -> _Child:
        """A spare, even if it is still loading; else a new process."""
        if self._preparing is not None:
            self._preparing.cancel()
        alive = [spare for spare in self._spares if spare.process.returncode is None]
        for dead in [spare for spare in self._spares if spare not in alive]:
            await dead.discard()
        self._spares = sorted(alive, key=lambda spare: not spare.standing_by.is_set())
        if not self._spares:
            return await self._start(spare=False)
        spare = self._spares.pop(0)
        if spare.standing_by.is_set():
            self._patience_s = TAKES_OVER_WITHIN_S
        return spare

    async def _start(self, *, spare: bool) -> _Child:
        self._started += 1
        child = _Child(self._hear)
        socket = self._folder / "run" / f"{self.name}-{self._started}.notify"
        address = await child.listening.enter_async_context(notify.listen(socket, child.heard))
        environment = {**self._environment, notify.VARIABLE: address} | ({notify.STAND_BY: "1"} if spare else {})
        try:
            with self._log.open("ab") as out:
                child.process = await start_child(self._command, environment, out, waits=spare)
        except BaseException:
            await child.listening.aclose()
            raise
        child.spare = spare
        return child

    async def _live(self) -> int:
        """One process from its start to its end: its exit code, negative for a signal."""
        self.ready, self.said, self._spoke, self._asked_to_end = False, "", False, False
        self._served_s = 0.0
        self._patience_s = READY_WITHIN_S
        child = await self._next()
        process = self._process = child.process
        self._notice(Notice(self.name, "started", f"pid {process.pid}"))
        child.serve()
        self._changed()
        ended = asyncio.ensure_future(process.wait())
        attention = Attention(process.pid)
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=CHECKED_EVERY_S)
                self._patience_s -= attention.had_s(CHECKED_EVERY_S)
                if self._patience_s <= 0 and not ended.done():
                    self._kill(process)
        except asyncio.CancelledError:
            if self._preparing is not None:
                self._preparing.cancel()
            await asyncio.shield(self._discard_spares())
            await asyncio.shield(end_child(process))
            raise
        finally:
            ended.cancel()
            kill_group(process.pid)  # its own children are of no use without it
            await child.listening.aclose()
            self._served_s = asyncio.get_running_loop().time() - self._ready_at if self.ready else 0.0
            self._process, self.ready, self.said = None, False, ""
        return ended.result()

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        if self._asked_to_end:
            why = f"did not end within {MAKES_WAY_WITHIN_S:g} s"
        else:
            why = f"silent for {SILENT_FOR_S:g} s" if self.ready else f"not ready within {READY_WITHIN_S:g} s"
        self._notice(Notice(self.name, "killed", why))
        self._patience_s = STOPS_WITHIN_S
        kill_group(process.pid)

    def _hear(self, message: notify.Message) -> None:
        first, self._spoke = not self._spoke, True
        if first and self._draining and self._process is not None:  # not before: it would not know the signal yet
            signal_to(self._process.pid, signal.SIGUSR1)
        said, was_ready = message.get("STATUS", self.said), self.ready
        self.ready = was_ready or message.get("READY") == "1"
        news, self.said = said != self.said or self.ready != was_ready, said
        if self.ready and not was_ready:
            self._ready_at = asyncio.get_running_loop().time()
            self._notice(Notice(self.name, "ready"))
            if self._spares_kept:
                self._prepare()
        if not self._asked_to_end:
            self._patience_s = max(SILENT_FOR_S if self.ready else self._patience_s, _asked_for(message))
        if news:
            self._changed()


class Attention:
    """How much of the time process `pid` could have spoken: time in which its main thread was ready to run, and had no
    processor, is not among it. Source: proc(5), /proc/PID/stat and schedstat.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._ran_s = self._look()[1]

    def had_s(self, seconds: float) -> float:
        """Of the last `seconds`, since this was asked before."""
        before, (ready, self._ran_s) = self._ran_s, self._look()
        return min(self._ran_s - before, seconds) if ready else seconds

    def _look(self) -> tuple[bool, float]:
        """Whether it runs or wants to, and how long it ran up to now."""
        try:
            state = (self._folder / "stat").read_text().rpartition(")")[2].split()[0]
            ran_ns = (self._folder / "schedstat").read_text().split()[0]
        except (OSError, IndexError):  # it has ended, or the kernel does not say
            return False, 0.0
        return state == "R", int(ran_ns) / 1e9


def _not_loaded(code: int | None) -> str:
    """Why; `code` None: it did not end."""
    return f"not within {READY_WITHIN_S:g} s" if code is None else ending(code)


def _asked_for(message: notify.Message) -> float:
    """Seconds of patience."""
    asked = message.get("EXTEND_TIMEOUT_USEC", "")
    return int(asked) / 1e6 if asked.isdigit() else 0.0


class Pauses:
    """Growing pauses between restarts; a child that served for a while begins anew."""

    def __init__(self) -> None:
        self._row = 0

    def after(self, served_s: float) -> float:
        """Seconds to wait before the restart that is due now."""
        self._row = 0 if served_s > STEADY_AFTER_S else self._row
        pause = RESTART_AFTER_S[min(self._row, len(RESTART_AFTER_S) - 1)]
        self._row += 1
        return pause


async def start_child(
    command: Sequence[str], environment: Mapping[str, str], out: Any, *, waits: bool = False
) -> asyncio.subprocess.Process:
    """Starts a process in a group of its own that dies with us. Its working folder is the project. One that `waits`
    is told something on its standard input.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in notify.OF_THE_PROTOCOL}
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE if waits else DEVNULL, stdout=out, stderr=asyncio.subprocess.STDOUT,
            env={**inherited, **environment}, cwd=PROJECT, start_new_session=True,
            preexec_fn=at_the_parents_death(signal.SIGKILL),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SetUpFailed(f"{command[0]} is missing.") from error


async def end_child(process: asyncio.subprocess.Process, asked: int | None = None) -> None:
    """SIGTERM to the process (or to `asked`, one below it), after a while SIGKILL to its whole group."""
    if process.returncode is None:
        signal_to(asked or process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOPS_WITHIN_S):
                await process.wait()
        except TimeoutError:
            log.warning("process %s did not end within %.0f s and is killed", process.pid, STOPS_WITHIN_S)
    kill_group(process.pid)
    await process.wait()


def signal_to(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """Kills a child with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def at_the_parents_death(number: signal.Signals) -> Callable[[], None]:
    """To be called in a new child: it is sent that signal when the thread that started it is gone (prctl(2))."""

    def be_told() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)

    return be_told
