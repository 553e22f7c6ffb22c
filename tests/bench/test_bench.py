"""The order of turns, what is made once more, what is skipped, the confirmations, and how it all ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench import __main__ as bench
from tests.bench import plan, report, selection
from tests.bench.__main__ import Bench
from tests.bench.plan import QUICK, WHOLE, Budget, Form, planned_s, turn_s
from tests.bench.runs import Floor

Spoils = Callable[[str, str, dict[str, Any]], None]
"""Is told measurement and flow, and may change what came of it."""


class Played:
    """A flow on its floor that holds so many calls a second; `spoil` makes its runs worse."""

    def __init__(self, name: str, limit: float, done: list[str], spoil: Spoils) -> None:
        self.flow = self
        self.name = name
        self.at_length = limit
        self._limit = limit
        self._done = done
        self._spoil = spoil

    def _run(self, what: str, calls: int, **found: Any) -> dict[str, Any]:
        self._done.append(f"{what} {self.name}")
        run = {"calls": calls, "failed": 0, "failures": {}, "valid": True, **found}
        self._spoil(what, self.name, run)
        return run

    async def waiting(self, callers: int, rate: float) -> dict[str, Any]:
        return self._run("waiting", callers, up=callers, asterisk_kb=120.0)

    async def talking(self, callers: int, rate: float, on_duty: int) -> dict[str, Any]:
        return self._run("talking", callers, up=callers, asterisk_kb=300.0)

    async def light(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        seen = {"answer_s": [0.002], "offer_s": [0.002], "join_s": [0.002]}
        return self._run("light", calls, **seen, cpu_ms={"asterisk": 20.0})

    async def busy(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        return self._run("busy", calls, next_s=[0.004])

    async def step(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        held = rate <= (self.at_length if calls == WHOLE.confirming_calls else self._limit)
        found = {} if held else {"failed": 3, "failures": {"no recording": 3}}
        return self._run(f"{calls} at {rate:g}", calls, rate=rate, held=held, **found)

    async def close(self) -> None:
        self._done.append(f"close {self.name}")

    def afterwards(self) -> dict[str, Any]:
        return self._run("afterwards", 0)


class Show:
    """A benchmark of such flows."""

    def __init__(self, form: Form, *, limits: tuple[float, float] = (15.0, 16.0)) -> None:
        self.form = form
        self.done: list[str] = []
        self.said: list[str] = []
        self.budget = Budget()
        self.spoil: Spoils = lambda *_: None
        names = zip(("sanling", "native", "native, retry=5"), (*limits, limits[1]), strict=True)
        self.ours, self.native, self.lazy = (
            Played(name, limit, self.done, lambda *told: self.spoil(*told)) for name, limit in names
        )

    def play(self) -> dict[str, Any]:
        two, third = cast(list[Floor], [self.ours, self.native]), cast(list[Floor], [self.lazy])
        return asyncio.run(Bench(self.form, two, third, self.budget, self.said.append).all())

    def of(self, what: str) -> list[str]:
        return [one for one in self.done if one.startswith(what)]


def test_flows_take_turns_in_the_same_order_each_time() -> None:
    show = Show(WHOLE)
    show.play()
    for what, rounds in (("waiting", 2), ("talking", 2), ("light", 3)):
        assert show.of(what) == [f"{what} sanling", f"{what} native"] * rounds
    assert show.of("busy") == [*["busy sanling", "busy native"] * 3, "busy native, retry=5"]
    assert show.of("150 at")[:2] == ["150 at 15 sanling", "150 at 15 native"]
    assert show.done[-6:-3] == ["close sanling", "close native", "close native, retry=5"]
    assert show.budget.skipped == []


# The highest rate


def test_what_the_climb_found_is_confirmed_with_many_calls() -> None:
    show = Show(WHOLE, limits=(15.0, 20.0))
    rounds = show.play()
    assert rounds["rates"] == {
        "sanling": {"held": 15.0, "failed": 15.9, "converged": True, "confirmed": True},
        "native": {"held": 19.7, "failed": 20.6, "converged": True, "confirmed": True},
    }
    assert show.of("1000 at") == ["1000 at 15 sanling", "1000 at 19.7 native"]
    assert [(one["flow"], one["held"]) for one in rounds["confirmation"]] == [("sanling", True), ("native", True)]


def test_a_rate_that_fails_with_many_calls_is_followed_by_a_lower_one_three_times_at_most() -> None:
    show = Show(WHOLE, limits=(20.0, 20.0))
    show.ours.at_length, show.native.at_length = 15.0, 0.0
    rounds = show.play()
    assert show.of("1000 at") == [
        "1000 at 19.7 sanling", "1000 at 19.7 native", "1000 at 18.8 sanling", "1000 at 18.8 native",
        "1000 at 15 sanling", "1000 at 15 native",
    ]  # fmt: skip
    assert rounds["rates"]["sanling"] == {"held": 15.0, "failed": 18.8, "converged": False, "confirmed": True}
    assert rounds["rates"]["native"] == {"held": 0.0, "failed": 15.0, "converged": False, "confirmed": False}
    assert report.failed(report.failures(rounds))[0] == 0


def test_the_quick_form_confirms_nothing_and_says_that_its_search_was_cut_off() -> None:
    show = Show(QUICK, limits=(100.0, 20.0))
    rounds = show.play()
    assert rounds["confirmation"] == []
    assert rounds["rates"] == {
        "sanling": {"held": 22.5, "failed": None, "converged": False, "confirmed": None},
        "native": {"held": 15.0, "failed": 22.5, "converged": False, "confirmed": None},
    }


# Others on the machine


def spoiled_once(what: str, flow: str) -> Spoils:
    left = [True]

    def spoil(measured: str, of: str, run: dict[str, Any]) -> None:
        if (measured, of) == (what, flow) and left:
            left.pop()
            run |= {"valid": False, "failed": 1, "failures": {"not answered": 1}}

    return spoil


def test_a_run_beside_which_others_worked_is_made_once_more_and_does_not_count() -> None:
    show = Show(QUICK)
    show.spoil = spoiled_once("light", "native")
    rounds = show.play()
    assert show.of("light") == ["light sanling", "light native", "light native"]
    assert [run["valid"] for run in rounds["light"]["native"]] == [True]
    assert [(one["measurement"], one["flow"], one["failed"]) for one in rounds["repeated"]] == [("light", "native", 1)]
    assert report.invalid(rounds) == []
    assert report.failed(report.failures(rounds))[0] == 0


def test_a_step_of_the_climb_is_made_once_more_too() -> None:
    show = Show(QUICK)
    show.spoil = spoiled_once("50 at 10", "sanling")
    rounds = show.play()
    assert show.of("50 at 10") == ["50 at 10 sanling", "50 at 10 sanling", "50 at 10 native"]
    assert [one["rate"] for one in rounds["climb"] if one["flow"] == "sanling"] == [10.0, 15.0, 22.5]


def test_a_run_that_is_never_alone_is_kept_and_makes_the_result_not_valid() -> None:
    show = Show(QUICK)
    show.spoil = lambda what, flow, run: run.update(valid=what != "busy" or flow != "sanling")
    rounds = show.play()
    assert show.of("busy sanling") == ["busy sanling"] * 2
    assert len(rounds["busy"]["sanling"]) == 1
    assert report.invalid(rounds) == ["busy (sanling)"]


# The time there is


def late(show: Show, step_s: float) -> None:
    """Has each run take so long."""
    now = [0.0]
    show.budget = Budget(clock=lambda: now[0])

    def spoil(*_: Any) -> None:
        now[0] += step_s

    show.spoil = spoil


def test_what_there_is_no_time_for_is_skipped_and_named() -> None:
    show = Show(WHOLE)
    late(show, 200.0)
    rounds = show.play()
    assert show.budget.skipped == [
        "light, round 3", "busy, round 1", "busy, round 2", "busy, round 3", "busy (native, retry=5)",
        "the rest of the climb",
    ]  # fmt: skip
    assert len(rounds["light"]["sanling"]) == len(rounds["light"]["native"]) == 2
    assert rounds["busy"] == {}
    assert rounds["rates"]["sanling"] == {"held": 0.0, "failed": None, "converged": False, "confirmed": None}
    assert show.done[-6:-3] == ["close sanling", "close native", "close native, retry=5"]


def test_a_climb_that_runs_out_of_time_says_what_it_knows() -> None:
    show = Show(WHOLE, limits=(100.0, 20.0))
    late(show, 90.0)
    rounds = show.play()
    assert show.budget.skipped == ["the rest of the climb", "the rest of the confirmations"]
    assert rounds["rates"]["sanling"] == {"held": 22.5, "failed": None, "converged": False, "confirmed": None}


def test_a_run_is_not_made_once_more_when_the_time_is_over() -> None:
    show = Show(QUICK)
    show.spoil = lambda what, flow, run: run.update(valid=what != "light")
    show.budget.allows = lambda what, takes_s: not what.endswith("once more")  # type: ignore[method-assign]
    show.play()
    assert show.of("light") == ["light sanling", "light native"]


def test_what_would_be_over_too_late_is_not_begun() -> None:
    now = [100.0]
    budget = Budget(latest_s=60.0, clock=lambda: now[0])
    now[0] = 130.0
    assert budget.allows("one", 30.0)
    assert not budget.allows("another", 30.1)
    assert budget.skipped == ["another"]
    assert budget.minutes == 0.5


@pytest.mark.parametrize("limit", range(10, 21))
def test_the_whole_form_is_planned_for_36_minutes_at_most(limit: int) -> None:
    assert sum(planned_s(WHOLE, float(limit)).values()) <= 36 * 60


def test_the_plan_is_what_is_done() -> None:
    """Where each run takes as long as planned, all add up to what `planned_s` says, but for what starts a flow anew."""
    limit = 15.0
    show, now = Show(WHOLE, limits=(limit, limit)), [0.0]

    def spoil(what: str, flow: str, run: dict[str, Any]) -> None:
        kind = what.split()[0]
        if kind == "busy" and flow == show.lazy.name:
            kind = "default retry"
        if kind == "1000":
            now[0] += turn_s(WHOLE, "confirmation", run["rate"])
        elif kind != "afterwards":
            now[0] += turn_s(WHOLE, "step" if kind.isdigit() else kind)

    show.spoil, show.budget = spoil, Budget(clock=lambda: now[0])
    show.play()
    planned = planned_s(replace(WHOLE, confirmations=1), limit)
    starts = (7 + 4 * 2) * WHOLE.opens_s + 4 * 2 * (plan.FAILS_S + plan.CLEARED_S)
    assert now[0] == pytest.approx(sum(planned.values()) - planned["selection"] - starts)


# How it ends


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Show], tuple[int, dict[str, Any]]]:
    """Exit code and JSON of a benchmark whose calls are such a show."""

    def end(show: Show) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "bench.json"
        monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--json", str(file)])
        monkeypatch.setenv(bench.INSIDE, str(tmp_path))
        monkeypatch.setattr(selection, "measure", lambda *_: [])
        monkeypatch.setattr(report, "plot", lambda *_: [])

        def calls(form: Any, chosen: Any, about: Any, root: Any, budget: Budget, console: Any) -> dict[str, Any]:
            show.budget = budget
            return show.play()

        monkeypatch.setattr(bench, "calls", calls)
        return bench.main(), json.loads(file.read_text())

    return end


def test_all_went_well(ended: Callable[[Show], tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]) -> None:
    """Rates that do not hold are what the climb looks for."""
    code, result = ended(Show(QUICK))
    assert (code, result["valid"], result["skipped"]) == (0, True, [])
    assert result["failures"][report.DID_NOT_HOLD]["sanling"]["failed"] == 3
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize("what", ["waiting", "talking", "light", "busy", "afterwards", "50 at 10"])
def test_a_call_that_failed_is_told_at_the_end(
    ended: Callable[[Show], tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str], what: str
) -> None:
    show = Show(QUICK)

    def spoil(measured: str, flow: str, run: dict[str, Any]) -> None:
        if (measured, flow) == (what, "native"):
            run |= {"failed": 1, "failures": {"not answered": 1}}

    show.spoil = spoil
    code, result = ended(show)
    assert (code, result["valid"]) == (1, True)
    named = "climb" if what == "50 at 10" else what
    assert result["failures"][named]["native"]["failed"] == 1
    assert f"calls: {named} (native): 1 not answered\n" in capsys.readouterr().out


def test_a_result_that_is_not_valid_is_told_at_the_end(
    ended: Callable[[Show], tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    show = Show(QUICK)
    show.spoil = lambda what, flow, run: run.update(valid=what != "talking")
    code, result = ended(show)
    assert (code, result["valid"], result["invalid"]) == (1, False, ["talking (native)", "talking (sanling)"])
    out = capsys.readouterr().out
    assert ", NOT VALID" in out
    assert "NOT VALID: other programs used the machine beside talking (native), talking (sanling)\n" in out


def test_what_was_skipped_is_told_at_the_end(
    ended: Callable[[Show], tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(bench, "Budget", lambda: Budget(latest_s=90.0))
    monkeypatch.setattr(bench, "turn_s", lambda form, what, rate=0.0: 100.0 if what == "busy" else turn_s(form, what))
    code, result = ended(Show(QUICK))
    assert (code, result["skipped"]) == (0, ["busy, round 1"])
    assert "SKIPPED, there was no time left: busy, round 1\n" in capsys.readouterr().out
