"""What each measurement makes of calls that fail, with flows and phones that are none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.bench import hearing, runs
from tests.bench.capture import AgentLeg, CallerLeg, Places, Seen
from tests.bench.houses import Sanling
from tests.bench.machine import Used
from tests.bench.phones import Called, Phones
from tests.bench.runs import Floor


class Hotline(Sanling):
    """Does nothing; what it logs, holds and takes up is set by the test."""

    def __init__(self, folder: Path) -> None:
        self.places, self.access = Places("", "", ""), {}
        self.log: list[str] = []
        self.logs_at_its_end: list[str] = []
        self.channels = 0
        self.in_the_fallback = 0
        self.takes_up = 0
        self.opened = self.closed = 0
        self.spool = folder / "monitor"
        self.spool.mkdir()
        self._set_up = SimpleNamespace(settings=SimpleNamespace(spool_dir=folder), channels=self._channels)

    @property
    def instance(self) -> Any:
        return self._set_up

    async def _channels(self) -> int:
        return self.channels

    async def open(self, on_duty: int) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1
        self.log += self.logs_at_its_end

    async def calls_left(self) -> int:
        return 0

    async def _calls_not_ended(self) -> int:
        return self.channels - self.in_the_fallback

    async def all_on_duty(self) -> bool:
        return True

    async def rows(self) -> dict[str, int]:
        return {}

    async def recordings(self, numbers: Sequence[str]) -> dict[str, Path]:
        return {number: Path(number) for number in numbers}

    async def restart(self, calls: int) -> tuple[float | None, int]:
        return (1.5 if self.takes_up >= calls else None), self.takes_up

    def errors(self) -> list[str]:
        log, self.log = self.log, []
        return log

    def _pid(self, name: str) -> int:
        return os.getpid()


class Sipp:
    """Makes no calls, and says that so many failed."""

    failed = 0

    async def call(self, *_: Any, **__: Any) -> Called:
        return Called(0, self.failed)

    @contextmanager
    def agents(self, address: str) -> Iterator[None]:
        yield

    @contextmanager
    def capture(self, *, audio: bool) -> Iterator[Path]:
        yield Path()


def served(number: str) -> CallerLeg:
    agent = AgentLeg("8001", number, 3.0, answered_at=3.1, ended_at=5.0)
    return CallerLeg(number, 1.0, answered_at=1.1, keyed_at=2.0, ended_at=5.1, offers=[agent])


@pytest.fixture
def hotline(tmp_path: Path) -> Hotline:
    return Hotline(tmp_path)


@pytest.fixture
def sipp() -> Sipp:
    return Sipp()


@pytest.fixture
def floor(hotline: Hotline, sipp: Sipp, monkeypatch: pytest.MonkeyPatch) -> Floor:
    """On which all calls are served and heard, unless a test takes some away."""

    async def done(*_: Any) -> None: ...

    for name in ("register", "reachable", "hang_up"):
        monkeypatch.setattr(runs, name, done)
    for name in ("SETTLED_S", "IDLE_S"):
        monkeypatch.setattr(runs, name, 0.01)
    monkeypatch.setattr(runs, "RESTS_WITHIN_S", 0.0)
    monkeypatch.setattr(hearing, "wrong_with", lambda file: None)
    floor = Floor(hotline, cast(Phones, sipp))
    came = (f"1549{n:07d}" for n in range(1, 1000))

    def watch(self: Floor, file: Any) -> Seen:
        return Seen({number: served(number) for number in [next(came) for _ in range(10)]})

    monkeypatch.setattr(Floor, "_watch", watch)
    return floor


@pytest.fixture
def only_seven(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten calls, seven are served."""
    monkeypatch.setattr(
        Floor, "_watch", lambda *_: Seen({number: served(number) for number in (f"1549{n:07d}" for n in range(1, 8))})
    )


def outcome(run: dict[str, Any]) -> tuple[int, int, dict[str, int]]:
    return run["calls"], run["failed"], run["failures"]


async def light(floor: Floor) -> dict[str, Any]:
    return await floor.light(1000.0, 10, 5)


async def busy(floor: Floor) -> dict[str, Any]:
    return await floor.busy(1000.0, 10, 5)


async def step(floor: Floor) -> dict[str, Any]:
    return await floor.step(1000.0, 10, 5)


WHOLE_CALLS = pytest.mark.parametrize("measure", [light, busy, step])


@WHOLE_CALLS
def test_calls_that_are_served_have_not_failed(floor: Floor, measure: Any) -> None:
    assert outcome(asyncio.run(measure(floor))) == (10, 0, {})


@WHOLE_CALLS
@pytest.mark.usefixtures("only_seven")
def test_each_call_that_was_not_served_has_failed(floor: Floor, measure: Any) -> None:
    assert outcome(asyncio.run(measure(floor))) == (10, 3, {"no INVITE": 3})


@WHOLE_CALLS
def test_what_sipp_alone_saw_fail_counts(floor: Floor, sipp: Sipp, measure: Any) -> None:
    sipp.failed = 2
    assert outcome(asyncio.run(measure(floor))) == (10, 2, {"SIP call failed": 2})


@WHOLE_CALLS
@pytest.mark.usefixtures("only_seven")
def test_what_sipp_saw_too_counts_once(floor: Floor, sipp: Sipp, measure: Any) -> None:
    sipp.failed = 4
    assert outcome(asyncio.run(measure(floor))) == (10, 4, {"no INVITE": 3, "SIP call failed": 1})


@WHOLE_CALLS
def test_an_error_that_was_logged_between_runs_counts_into_the_next(
    floor: Floor, hotline: Hotline, measure: Any
) -> None:
    hotline.log = ["12:00:00 ERROR first"]
    run = asyncio.run(measure(floor))
    assert outcome(run) == (10, 1, {"error in the log": 1})
    assert run["log"] == ["12:00:00 ERROR first"]
    assert outcome(asyncio.run(measure(floor))) == (10, 0, {})


def test_what_is_logged_after_the_last_run_counts(floor: Floor, hotline: Hotline) -> None:
    asyncio.run(floor.close())
    assert outcome(floor.afterwards()) == (0, 0, {})
    hotline.log = ["12:00:00 ERROR late"]
    assert outcome(floor.afterwards()) == (0, 1, {"error in the log": 1})


def test_a_recording_without_a_voice_is_a_failure(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "wrong_with", lambda file: "no recording" if str(file).endswith("4") else None)
    assert outcome(asyncio.run(light(floor))) == (10, 1, {"no recording": 1})


@pytest.mark.usefixtures("only_seven")
def test_a_rate_that_fails_leaves_nothing_for_the_next(floor: Floor, hotline: Hotline) -> None:
    """Neither calls, nor recordings to be sealed, nor errors of the overload's end."""
    (hotline.spool / "staged").mkdir()
    (hotline.spool / "staged" / "call.flac").touch()
    hotline.logs_at_its_end = ["12:00:00 ERROR overloaded"]
    run = asyncio.run(step(floor))
    assert not run["held"]
    assert outcome(run) == (10, 4, {"no INVITE": 3, "error in the log": 1})
    assert hotline.closed == 1
    assert not [file for file in hotline.spool.rglob("*") if file.is_file()]
    assert hotline.log == []


def test_a_rate_that_holds_goes_on_with_the_same_flow(floor: Floor, hotline: Hotline) -> None:
    run = asyncio.run(step(floor))
    assert run["held"]
    asyncio.run(step(floor))
    assert (hotline.opened, hotline.closed) == (1, 0)


def test_callers_who_do_not_wait_have_failed(floor: Floor, hotline: Hotline) -> None:
    hotline.channels, hotline.takes_up = 98, 98
    run = asyncio.run(floor.waiting(100, 100_000.0))
    assert outcome(run) == (100, 2, {"not waiting": 2})
    assert run["up"] == 98
    assert run["restart"]["back_s"] == 1.5
    assert outcome(run["restart"]) == (98, 0, {})
    hotline.channels = hotline.takes_up = 100
    assert asyncio.run(floor.waiting(100, 100_000.0))["failed"] == 0


def test_callers_in_the_fallback_do_not_wait(floor: Floor, hotline: Hotline) -> None:
    hotline.channels, hotline.in_the_fallback, hotline.takes_up = 100, 3, 97
    run = asyncio.run(floor.waiting(100, 100_000.0))
    assert outcome(run) == (100, 3, {"not waiting": 3})
    assert outcome(run["restart"]) == (97, 0, {})


def test_a_restart_after_which_calls_are_missing_has_no_figure(floor: Floor, hotline: Hotline) -> None:
    hotline.channels, hotline.takes_up = 100, 99
    run = asyncio.run(floor.waiting(100, 100_000.0))
    assert run["failed"] == 0
    assert run["restart"]["back_s"] is None
    assert outcome(run["restart"]) == (100, 1, {"not taken up": 1})


def test_what_is_logged_when_all_who_wait_are_ended_at_once_is_nobody_s(floor: Floor, hotline: Hotline) -> None:
    hotline.channels = hotline.takes_up = 100
    hotline.logs_at_its_end = ["12:00:00 ERROR overloaded"]
    assert asyncio.run(floor.waiting(100, 100_000.0))["failed"] == 0
    assert hotline.log == []


def test_where_nobody_waits_nothing_is_restarted(floor: Floor) -> None:
    run = asyncio.run(floor.waiting(100, 100_000.0))
    assert outcome(run) == (100, 100, {"not waiting": 100})
    assert "restart" not in run
    assert "asterisk_kb" not in run


def test_what_the_successor_logs_counts_as_the_restarts(
    floor: Floor, hotline: Hotline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def restart(calls: int) -> tuple[float | None, int]:
        hotline.log.append("12:00:01 ERROR call cannot be taken up")
        return 1.5, calls

    monkeypatch.setattr(hotline, "restart", restart)
    hotline.channels, hotline.log = 100, ["12:00:00 ERROR before"]
    run = asyncio.run(floor.waiting(100, 100_000.0))
    assert run["log"] == ["12:00:00 ERROR before"]
    assert run["restart"]["log"] == ["12:00:01 ERROR call cannot be taken up"]
    assert (run["failed"], run["restart"]["failed"]) == (1, 1)


def test_talks_that_are_not_there_have_failed(floor: Floor, hotline: Hotline) -> None:
    hotline.channels = 2 * 38
    run = asyncio.run(floor.talking(40, 100_000.0, 100))
    assert outcome(run) == (40, 2, {"not talking": 2})
    hotline.channels = 2 * 40
    assert asyncio.run(floor.talking(40, 100_000.0, 100))["failed"] == 0


def test_memory_is_measured_from_a_new_start_each_time(floor: Floor, hotline: Hotline) -> None:
    hotline.channels = hotline.takes_up = 100
    asyncio.run(floor.waiting(100, 100_000.0))
    asyncio.run(floor.talking(40, 100_000.0, 100))
    assert (hotline.opened, hotline.closed) == (2, 2)


@pytest.mark.parametrize("valid", [True, False])
def test_a_run_says_whether_it_was_alone(floor: Floor, monkeypatch: pytest.MonkeyPatch, valid: bool) -> None:
    monkeypatch.setattr(Used, "valid", property(lambda _: valid))
    assert all(asyncio.run(measure(floor))["valid"] is valid for measure in (light, busy, step))
    assert asyncio.run(floor.waiting(10, 100_000.0))["valid"] is valid
    assert asyncio.run(floor.talking(10, 100_000.0, 10))["valid"] is valid


def test_each_part_of_a_hotline_is_metered(floor: Floor) -> None:
    assert set(asyncio.run(light(floor))["cpu_ms"]) == {"asterisk", "controller", "recordings", "agi"}
