"""Child processes that are kept: tiny ones, which live, hang, die and drain on a shorter clock."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ari_app import processes
from ari_app.errors import SetUpFailed
from ari_app.processes import Kept, Notice

pytestmark = pytest.mark.real_time

SPEAKS = """
import os, signal, sys, time
from ari_app import notify
def live(*lines):
    while True:
        notify.send(notify.ALIVE, *lines)
        time.sleep(0.05)
"""
SERVES = SPEAKS + "live(notify.READY)"
DRAINS = SPEAKS + "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0)); live(notify.READY)"


@pytest.fixture(autouse=True)
def short_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("READY_WITHIN_S", 2.0), ("SILENT_FOR_S", 0.6), ("CHECKED_EVERY_S", 0.05)):
        monkeypatch.setattr(processes, name, seconds)
    for name in ("STOPS_WITHIN_S", "MAKES_WAY_WITHIN_S"):
        monkeypatch.setattr(processes, name, 0.4)
    monkeypatch.setattr(processes, "SPARE_AFTER_S", 0.05)
    monkeypatch.setattr(processes, "ANOTHER_SPARE_AFTER_S", 0.05)
    monkeypatch.setattr(processes, "STEADY_AFTER_S", 0.1)
    monkeypatch.setattr(processes, "RESTART_AFTER_S", (0.0, 0.3, 60.0))


class Keeping:
    """A child that is kept, and what became of it, with the time of each notice."""

    def __init__(self, folder: Path, program: str, *, spares: int = 0, loads: str = "") -> None:
        for part in ("log", "run"):
            (folder / part).mkdir(exist_ok=True)
        self.folder = folder
        self.notices: list[tuple[float, Notice]] = []
        self._news = asyncio.Event()
        self.kept = Kept(
            "child", (sys.executable, "-c", program), {}, folder, self._told, spares=spares,
            loads=(sys.executable, "-c", loads) if loads else (),
        )  # fmt: skip
        self.task = asyncio.create_task(self.kept.run())

    def _told(self, notice: Notice) -> None:
        self.notices.append((time.monotonic(), notice))
        self._news.set()

    def details(self, what: str) -> list[str]:
        return [notice.detail for _, notice in self.notices if notice.what == what]

    def count(self, what: str) -> int:
        return len(self.details(what))

    async def until(self, what: str, times: int = 1) -> tuple[float, str]:
        """When, and with what detail, it was told for the nth time."""
        async with asyncio.timeout(10):
            while self.count(what) < times:
                self._news.clear()
                await self._news.wait()
        return [(at, notice.detail) for at, notice in self.notices if notice.what == what][times - 1]

    def printed(self) -> list[str]:
        return (self.folder / "log" / "child.log").read_text().split()

    @property
    def pid(self) -> int:
        assert self.kept.pid is not None
        return self.kept.pid


@asynccontextmanager
async def keeping(folder: Path, program: str, **how: Any) -> AsyncIterator[Keeping]:
    one = Keeping(folder, program, **how)
    try:
        yield one
    finally:
        one.task.cancel()
        with suppress(asyncio.CancelledError):
            await one.task
        assert one.kept.pid is None


@pytest.fixture
def serving(tmp_path: Path) -> AbstractAsyncContextManager[Keeping]:
    return keeping(tmp_path, SERVES)


async def test_one_who_speaks_is_left_alone(serving: Keeping) -> None:
    await serving.until("ready")
    await asyncio.sleep(1.2)
    assert serving.kept.ready
    assert [notice.what for _, notice in serving.notices] == ["started", "ready"]


@asynccontextmanager
async def hog(core: int, many: int = 1) -> AsyncIterator[None]:
    """So many who want all of one processor."""
    spins = (sys.executable, "-c", "while True: pass")  # in sessions of their own: Linux shares out by sessions
    hogs = [await asyncio.create_subprocess_exec(*spins, start_new_session=True) for _ in range(many)]
    try:
        for one in hogs:
            os.sched_setaffinity(one.pid, {core})
        yield
    finally:
        for one in hogs:
            one.kill()
            await one.wait()


CORE = min(os.sched_getaffinity(0))


@pytest.mark.alone
async def test_one_who_gets_no_processor_is_not_taken_for_dead(tmp_path: Path) -> None:
    """As on a machine with more calls than it can serve: it works 0.2 s for a word, and gets a thirteenth of that."""
    said = tmp_path / "said"
    works = f"""
from ari_app import notify
import time
while True:
    until = time.process_time() + 0.2
    while time.process_time() < until: pass
    notify.send(notify.ALIVE, notify.READY)
    open({str(said)!r}, "a").write(f"{{time.monotonic()}} ")
"""
    async with keeping(tmp_path, works) as serving:
        await serving.until("ready")
        async with hog(CORE, 12):
            os.sched_setaffinity(serving.pid, {CORE})
            await asyncio.sleep(3.0)
        await asyncio.sleep(0.5)
        assert serving.count("killed") == 0
        assert serving.kept.ready
    times = [float(at) for at in said.read_text().split()]
    assert max(later - at for at, later in pairwise(times)) > 1.2, "it was not starved"


@pytest.mark.alone
async def test_one_that_spins_is_killed_though_others_want_the_processor(tmp_path: Path) -> None:
    async with keeping(tmp_path, SPEAKS + "notify.send(notify.READY)\nwhile True: pass") as spinning, hog(CORE):
        await spinning.until("started")
        os.sched_setaffinity(spinning.pid, {CORE})
        await spinning.until("ready")
        _, why = await spinning.until("killed", 5)
        assert why == "silent for 0.6 s"


async def test_one_who_falls_silent_is_killed_and_follows_at_once(serving: Keeping) -> None:
    await serving.until("ready")
    frozen, at = serving.pid, time.monotonic()
    os.kill(frozen, signal.SIGSTOP)
    killed, why = await serving.until("killed")
    assert why == "silent for 0.6 s"
    assert 0.5 < killed - at < 0.9
    started, detail = await serving.until("started", 2)
    assert started - killed < 0.2
    assert detail != f"pid {frozen}"
    await serving.until("ready", 2)


async def test_a_supervisor_that_was_stopped_itself_takes_nobody_for_dead(serving: Keeping) -> None:
    await serving.until("ready")
    time.sleep(1.5)  # noqa: ASYNC251 - as SIGSTOP would
    await asyncio.sleep(0.7)
    assert serving.count("killed") == 0


async def test_one_who_is_never_ready_is_killed(tmp_path: Path) -> None:
    async with keeping(tmp_path, SPEAKS + "live()") as one:
        assert (await one.until("killed"))[1] == "not ready within 2 s"
        assert one.count("ready") == 0


async def test_one_who_asks_for_patience_gets_it(tmp_path: Path) -> None:
    async with keeping(tmp_path, SPEAKS + "live(notify.patience(2.0), notify.status('waiting'))") as one:
        await asyncio.sleep(3.0)
        assert (one.count("killed"), one.kept.ready, one.kept.said) == (0, False, "waiting")


async def test_one_who_says_that_it_ends_is_not_taken_for_frozen(tmp_path: Path) -> None:
    ends = "notify.send(notify.READY); notify.send(notify.STOPPING, notify.patience(3.0)); time.sleep(1.5); sys.exit(0)"
    async with keeping(tmp_path, SPEAKS + f"signal.signal(signal.SIGUSR1, lambda *_: None); {ends}") as one:
        await one.until("ready")
        _, why = await one.until("ended")
        assert why == "exit code 0"
        assert one.count("killed") == 0


async def test_one_who_dies_follows_at_once_then_after_pauses_that_grow(tmp_path: Path) -> None:
    async with keeping(tmp_path, "import sys; sys.exit(3)") as one:
        ended, why = await one.until("ended")
        assert why == "exit code 3"
        assert (await one.until("started", 2))[0] - ended < 0.2
        ended, _ = await one.until("ended", 2)
        assert 0.25 < (await one.until("started", 3))[0] - ended < 0.5
        assert (await one.until("waiting", 2))[1] == "60 s"
        await one.kept.restart()
        await one.until("started", 4)
        await one.until("started", 6)  # and begins with the shortest pauses again


async def test_one_who_served_for_a_while_follows_at_once_each_time(serving: Keeping) -> None:
    for nth in range(1, 4):
        await serving.until("ready", nth)
        await asyncio.sleep(0.15)
        os.kill(serving.pid, signal.SIGKILL)
        ended, _ = await serving.until("ended", nth)
        assert (await serving.until("started", nth + 1))[0] - ended < 0.2
    assert serving.count("waiting") == 0


async def test_its_own_children_go_with_it(tmp_path: Path) -> None:
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True);" + SERVES
    async with keeping(tmp_path, program) as one:
        await one.until("ready")
        child = int(one.printed()[0])
        os.kill(one.pid, signal.SIGKILL)
        await one.until("ready", 2)
        assert not lives(child)


def lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and " Z " not in stat.read_text()


async def test_a_restart_asks_first_and_kills_the_deaf(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True));" + SERVES
    async with keeping(tmp_path, deaf) as one:
        await one.until("ready")
        await one.kept.restart()
        assert (await one.until("killed"))[1] == "did not end within 0.4 s"
        await one.until("ready", 2)
        assert one.printed() == ["asked"]


async def test_one_who_is_drained_ends_and_is_not_followed(tmp_path: Path) -> None:
    async with keeping(tmp_path, DRAINS) as one:
        await one.until("ready")
        one.kept.drain()
        await asyncio.wait_for(one.task, 2)
        assert [notice.what for _, notice in one.notices] == ["started", "ready", "ended"]


async def test_one_who_dies_draining_is_followed_by_one_who_drains(tmp_path: Path) -> None:
    dies_once = SPEAKS + (
        "import pathlib; mark = pathlib.Path(os.environ['NOTIFY_SOCKET']).with_name('died')\n"
        "def drained(*_):\n"
        "    if mark.exists(): sys.exit(0)\n"
        "    mark.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "signal.signal(signal.SIGUSR1, drained); live(notify.READY)\n"
    )
    async with keeping(tmp_path, dies_once) as one:
        await one.until("ready")
        one.kept.drain()
        await asyncio.wait_for(one.task, 5)
        assert [detail.detail for _, detail in one.notices if detail.what == "ended"] == [
            "signal SIGKILL",
            "exit code 0",
        ]


async def test_one_who_is_only_starting_is_not_killed_by_being_drained(tmp_path: Path) -> None:
    async with keeping(tmp_path, "import time; time.sleep(0.3);" + DRAINS) as one:
        await one.until("started")
        one.kept.drain()
        await asyncio.wait_for(one.task, 5)
        assert one.details("ended") == ["exit code 0"]


async def test_where_nothing_can_be_started_it_is_tried_again(tmp_path: Path) -> None:
    one = Keeping(tmp_path, SERVES)
    (tmp_path / "log").rename(tmp_path / "away")
    try:
        assert "cannot be started" in (await one.until("ended"))[1]
        (tmp_path / "away").rename(tmp_path / "log")
        await one.until("ready")
    finally:
        one.task.cancel()
        with suppress(asyncio.CancelledError):
            await one.task


LOADS = SPEAKS + "time.sleep(0.5); print('loaded', flush=True); notify.stand_by() or sys.exit(5); live(notify.READY)"


async def loaded(one: Keeping, times: int) -> None:
    async with asyncio.timeout(10):
        while one.printed().count("loaded") < times:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)


async def test_a_spare_has_loaded_and_takes_over_at_once(tmp_path: Path) -> None:
    async with keeping(tmp_path, LOADS, spares=1) as one:
        for nth in range(1, 4):
            await one.until("ready", nth)
            await loaded(one, nth + 1)
            os.kill(one.pid, signal.SIGKILL)
            ended, _ = await one.until("ended", nth)
            ready, _ = await one.until("ready", nth + 1)
            assert ready - ended < 0.3, "less than it takes to load"
        assert one.count("killed") == 0


async def test_a_spare_that_has_died_or_is_not_there_yet_costs_the_loading_and_no_more(tmp_path: Path) -> None:
    async with keeping(tmp_path, LOADS, spares=1) as one:
        await one.until("ready")
        await loaded(one, 2)
        [spare] = [pid for pid in children_of(os.getpid()) if pid != one.pid]
        os.kill(spare, signal.SIGKILL)
        os.kill(one.pid, signal.SIGKILL)
        await one.until("ready", 2)
        os.kill(one.pid, signal.SIGKILL)  # before there is another one
        await one.until("ready", 3)


async def test_with_two_spares_a_second_death_just_after_the_first_costs_no_loading_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "RESTART_AFTER_S", (0.0, 0.0, 60.0))
    async with keeping(tmp_path, LOADS, spares=2) as one:
        await one.until("ready")
        await loaded(one, 3)
        for nth in (1, 2):
            os.kill(one.pid, signal.SIGKILL)
            ended, _ = await one.until("ended", nth)
            ready, _ = await one.until("ready", nth + 1)
            assert ready - ended < 0.3, "less than it takes to load"
        await loaded(one, 5)
        assert len(children_of(os.getpid())) == 3


async def test_a_restart_loads_the_new_code_before_the_old_one_ends(tmp_path: Path) -> None:
    async with keeping(tmp_path, LOADS, spares=1) as one:
        await one.until("ready")
        await loaded(one, 2)
        await one.kept.restart()
        ended, _ = await one.until("ended")
        ready, _ = await one.until("ready", 2)
        assert ready - ended < 0.3
        assert one.printed().count("loaded") == 3, "the spare of the old code was not used"


def once_there_is(mark: Path, then: str) -> str:
    """A program that stands by, and where `mark` is does `then` while it loads."""
    return f"import pathlib, sys, time\npathlib.Path({str(mark)!r}).exists() and {then}\n{LOADS}"


async def test_a_restart_to_code_that_does_not_load_ends_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    async with keeping(tmp_path, once_there_is(broken, "sys.exit(7)"), spares=1) as one:
        await one.until("ready")
        await loaded(one, 2)
        serving, there = one.pid, children_of(os.getpid())
        broken.touch()
        for _ in range(10):
            with pytest.raises(
                SetUpFailed, match=r"new child does not load \(exit code 7\): see the end of .*child\.log"
            ):
                await one.kept.restart()
        await asyncio.sleep(0.8)
        assert (one.pid, one.count("killed"), one.count("ended")) == (serving, 0, 0)
        assert children_of(os.getpid()) == there, "the spare of the old code stands by"
        os.kill(serving, signal.SIGKILL)
        ended, _ = await one.until("ended")
        ready, _ = await one.until("ready", 2)
        assert ready - ended < 0.3
        broken.unlink()
        await one.kept.restart()
        await one.until("ready", 3)


async def test_a_restart_to_code_that_takes_too_long_to_load_ends_nothing(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    async with keeping(tmp_path, once_there_is(slow, "time.sleep(60)"), spares=1) as one:
        await one.until("ready")
        await loaded(one, 2)
        serving, there = one.pid, children_of(os.getpid())
        slow.touch()
        with pytest.raises(SetUpFailed, match="not within 2 s"):
            await one.kept.restart()
        assert (one.pid, one.count("killed")) == (serving, 0)
        assert children_of(os.getpid()) == there


@pytest.mark.parametrize(("loads", "ended"), [("pass", 1), ("import ari_app.no_such_thing", 0), ("time.sleep(60)", 0)])
async def test_one_without_spares_is_asked_to_end_only_for_code_that_can_be_loaded(
    tmp_path: Path, loads: str, ended: int
) -> None:
    async with keeping(tmp_path, SERVES, loads=f"import time; {loads}") as one:
        await one.until("ready")
        if ended:
            await one.kept.restart()
            await one.until("ready", 2)
        else:
            with pytest.raises(SetUpFailed, match="does not load"):
                await one.kept.restart()
            await asyncio.sleep(0.5)
        assert one.count("ended") == ended


async def test_the_spare_ends_with_whoever_keeps_it(tmp_path: Path) -> None:
    async with keeping(tmp_path, LOADS, spares=1) as one:
        await one.until("ready")
        await loaded(one, 2)
        kept = children_of(os.getpid())
        assert len(kept) == 2
    assert not [pid for pid in kept if lives(pid)]


def children_of(pid: int) -> list[int]:
    listed = [Path(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task")]
    found = [int(child) for file in listed for child in file.read_text().split() if lives(int(child))]
    return [child for child in found if b"stand_by" in Path(f"/proc/{child}/cmdline").read_bytes()]
