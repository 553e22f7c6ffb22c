"""From rounds to figures, to what went wrong, to the table and the plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import report, selection


def run(calls: int = 10, **failures: int) -> dict[str, Any]:
    return {"calls": calls, "failed": sum(failures.values()), "failures": failures, "valid": True}


def light(offer_s: list[float], controller_ms: float) -> dict[str, Any]:
    cpu = {"asterisk": 20.0, "controller": controller_ms, "recordings": 1.0, "agi": 0.5}
    rows = {"transitions": 9.0, "offers": 3.0}
    return run() | {"answer_s": [0.002], "offer_s": offer_s, "join_s": [0.003], "cpu_ms": cpu, "rows": rows}


def native(answer_s: float) -> dict[str, Any]:
    cpu = {"asterisk": 21.0}
    return run() | {"answer_s": [answer_s], "offer_s": [0.002], "join_s": [0.003], "cpu_ms": cpu}


def waiting(asterisk_kb: float, back_s: float | None) -> dict[str, Any]:
    memory = {"up": 100, "asterisk_kb": asterisk_kb, "controller_kb": 25.0}
    return run(100) | memory | {"restart": run(100) | {"back_s": back_s}}


def rate(held: float, failed: float | None, *, converged: bool = True, confirmed: bool | None = None) -> dict[str, Any]:
    return {"held": held, "failed": failed, "converged": converged, "confirmed": confirmed}


ROUNDS: dict[str, Any] = report.no_rounds() | {
    "light": {
        "sanling": [light([0.002, 0.003], 3.0), light([0.002], 1.0), light([], 2.0)],
        "native": [native(0.001)],
    },
    "busy": {
        "sanling": [run() | {"next_s": [0.004, 0.004, 0.009]}, run() | {"next_s": [0.003]}],
        "native": [run() | {"next_s": [0.4]}],
    },
    "rates": {"sanling": rate(60.0, 62.0), "native": rate(50.0, 52.0)},
    "waiting": {"sanling": [waiting(120.0, 1.5), waiting(124.0, 2.5)]},
}


def test_selection_is_measured_at_each_size() -> None:
    found = selection.measure((10, 40), (5,), times=20)
    assert [(one["waiting"], one["agents"]) for one in found] == [(10, 5), (40, 5)]
    for one in found:
        for name in report.SELECTION:
            assert one[f"{name}_p99_us"] >= one[f"{name}_p95_us"] >= one[f"{name}_p50_us"] > 0


def test_rounds_become_figures() -> None:
    figures = report.summary(ROUNDS)
    spread = {"p50": {"least": 2.0, "most": 2.0}, "p95": {"least": 2.0, "most": 3.0}}
    assert figures["sanling"]["offer_ms"] == {"p50": 2.0, "p95": 3.0, "p99": 3.0, "n": 3, "spread": spread}
    assert figures["sanling"]["cpu_controller_ms"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert figures["sanling"]["cpu_agi_ms"]["median"] == 0.5
    assert "cpu_agi_ms" not in figures["native"]
    assert figures["sanling"]["waiting"]["asterisk_kb"] == {"median": 122.0, "least": 120.0, "most": 124.0}
    assert figures["sanling"]["restart"] == {"calls": 100, "back_s": {"median": 2.0, "least": 1.5, "most": 2.5}}


def test_a_restart_that_left_calls_behind_gives_no_figure() -> None:
    rounds = ROUNDS | {"waiting": {"sanling": [waiting(120.0, 1.5), waiting(120.0, None)]}}
    figures = report.summary(rounds)
    assert "restart" not in figures["sanling"]
    assert not [one for one in report.lines(figures, [], {}) if "killed" in one.figure]


def found(rounds: dict[str, Any] = ROUNDS, sizes: list[dict[str, float]] | None = None) -> dict[str, report.Line]:
    made = report.lines(report.summary(rounds), sizes or [], report.failures(rounds))
    return {one.figure: one for one in made}


def test_the_table_holds_each_figure_against_its_goal() -> None:
    sizes = []
    for n in (1_000.0, 10_000.0, 100_000.0):
        one = {"waiting": n, "agents": 1000.0}
        for name, p99 in (("select", 9.0), ("turn", 90.0), ("desk", 70.0)):
            one |= {f"{name}_p50_us": n if name == "desk" else 5.0, f"{name}_p95_us": 8.0, f"{name}_p99_us": p99}
        sizes.append(one)
    table = found(ROUNDS, sizes)
    met = {figure: one.met for figure, one in table.items() if one.met is not None}
    assert met == {
        "whole calls, highest rate": True,
        "INVITE → 200, p95": False,
        "last digit → agent's INVITE, p95": False,
        "agent free → next caller's INVITE, p50": True,
        "CPU a call, controller": True,
        "memory a waiting call, controller": False,
        "selection, router, p99, 10,000 waiting x 1,000 agents": True,
        "selection, router, grows with waiting as n^e": True,
        "selection, as the desk makes it, p99, 10,000 waiting x 1,000 agents": False,
        "selection, as the desk makes it, grows with waiting as n^e": False,
    }
    assert table["agent free → next caller's INVITE, p50"].native == "400"
    assert table["selection, all an offer costs the router, p95, 10,000 waiting x 1,000 agents"].sanling == "8"
    assert table["selection, all an offer costs the router, p99, 10,000 waiting x 1,000 agents"].goal == ""


def test_the_table_tells_between_which_values_a_figure_lay() -> None:
    table = found()
    assert table["last digit → agent's INVITE, p95"].sanling == "3 (2–3)"
    assert table["last digit → agent's INVITE, p50"].sanling == "2"
    assert table["agent free → next caller's INVITE, p50"].sanling == "4 (3–4)"
    assert table["CPU a call, controller"].sanling == "2 (1–3)"
    assert table["memory a waiting call, Asterisk"].sanling == "122 (120–124)"
    assert table["controller killed → 100 calls taken up"].sanling == "2 (1.5–2.5)"
    assert table["CPU a call, look-up server (AGI)"].sanling == "0.5"
    assert table["CPU a call, look-up server (AGI)"].native == ""


# The highest rate


@pytest.mark.parametrize(
    ("ours", "native", "met"),
    [
        (rate(60.0, 62.0), rate(50.0, 52.0), True),
        (rate(59.0, 62.0), rate(50.0, 52.0), False),
        (rate(22.5, None, converged=False), rate(22.5, None, converged=False), None),
        (rate(15.0, 22.5, converged=False), rate(15.0, 22.5, converged=False), None),
        (rate(27.0, None, converged=False), rate(22.5, 23.0), True),
        (rate(26.0, None, converged=False), rate(22.5, 23.0), None),
        (rate(15.0, 17.0, converged=False), rate(15.0, 22.5, converged=False), False),
        (rate(15.0, 15.9), rate(22.5, None, converged=False), False),
        (rate(30.0, 31.0), rate(22.5, None, converged=False), None),
        (rate(30.0, 31.0, confirmed=False), rate(15.0, 15.5), None),
        (rate(30.0, 31.0, confirmed=True), rate(15.0, 15.5, confirmed=True), True),
        (rate(0.0, 10.0, converged=False), rate(15.0, 15.5), False),
    ],
)
def test_a_search_that_was_cut_off_decides_only_what_it_can(
    ours: dict[str, Any], native: dict[str, Any], met: bool | None
) -> None:
    line = found(ROUNDS | {"rates": {"sanling": ours, "native": native}})["whole calls, highest rate"]
    assert line.met is met


def test_the_highest_rate_is_said_as_it_is_known() -> None:
    rates = {"sanling": rate(22.5, None, converged=False), "native": rate(0.0, 10.0, converged=False)}
    line = found(ROUNDS | {"rates": rates})["whole calls, highest rate"]
    assert (line.sanling, line.native) == ("≥ 22.5", "< 10")
    assert found()["whole calls, highest rate"].sanling == "60"
    nothing = {"sanling": rate(0.0, None, converged=False), "native": rate(15.0, 15.5)}
    line = found(ROUNDS | {"rates": nothing})["whole calls, highest rate"]
    assert (line.sanling, line.met) == ("", None)


def test_whether_a_rate_held_at_length_is_said_where_it_was_tried() -> None:
    assert "that rate held at length" not in found()
    rates = {"sanling": rate(60.0, 62.0, confirmed=True), "native": rate(0.0, 52.0, converged=False, confirmed=False)}
    line = found(ROUNDS | {"rates": rates})["that rate held at length"]
    assert (line.sanling, line.native) == ("yes", "no")


# What went wrong


def step(held: bool, flow: str = "sanling", **failures: int) -> dict[str, Any]:
    return {"flow": flow, "held": held, "rate": 10.0, **run(100, **failures)}


def outcome(rounds: dict[str, Any], skipped: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"failures": report.failures(rounds), "invalid": report.invalid(rounds), "skipped": list(skipped)}


def test_each_failure_of_each_measurement_counts_but_those_that_the_climb_looked_for() -> None:
    failing = waiting(120.0, None)
    failing["restart"] |= run(100, missed=3)
    rounds = ROUNDS | {
        "waiting": {"sanling": [failing, waiting(120.0, 1.5)]},
        "talking": {"native": [run(40, talks=2)]},
        "busy": {"native, retry=5": [run(8, no_key=1) | {"next_s": []}]},
        "climb": [step(True), step(False, lost=7), step(True, "native")],
        "confirmation": [step(False, lost=4), step(True)],
        "afterwards": {"sanling": [run(0, error=1)]},
    }
    failures = report.failures(rounds)
    assert failures["waiting"]["sanling"] == {"calls": 200, "failed": 0, "failures": {}}
    assert failures["restart"]["sanling"] == {"calls": 200, "failed": 3, "failures": {"missed": 3}}
    assert failures["climb"]["sanling"]["calls"] == 100
    assert failures[report.DID_NOT_HOLD]["sanling"] == {"calls": 200, "failed": 11, "failures": {"lost": 11}}
    assert report.failed(failures, "sanling") == (3 + 1, 200 + 200 + 30 + 100 + 100)
    assert report.failed(failures, "native") == (2, 40 + 10 + 100)
    assert report.failed(failures)[0] == 3 + 1 + 2 + 1
    line = found(rounds)["calls that failed"]
    assert (line.sanling, line.native) == ("4 / 630", "2 / 150")


def test_what_went_wrong_is_said_in_one_line_each() -> None:
    assert report.remarks(outcome(ROUNDS)) == []
    rounds = ROUNDS | {
        "talking": {"native": [run(40, not_talking=2) | {"valid": False}]},
        "climb": [step(False, lost=7)],
    }
    assert report.remarks(outcome(rounds, ("busy, round 3", "the rest of the climb"))) == [
        "FAILED: 2 of 510 calls: talking (native): 2 not_talking",
        "NOT VALID: other programs used the machine beside talking (native)",
        "SKIPPED, there was no time left: busy, round 3, the rest of the climb",
    ]


def test_a_step_that_was_not_alone_makes_the_result_not_valid_even_if_it_failed() -> None:
    rounds = ROUNDS | {"climb": [step(False, lost=7) | {"valid": False}]}
    assert report.invalid(rounds) == [f"{report.DID_NOT_HOLD} (sanling)"]


# Plots


def test_a_plot_per_figure(tmp_path: Path) -> None:
    sizes = selection.measure((10, 20), (5,), times=10)
    files = report.plot({"figures": report.summary(ROUNDS), "selection": sizes}, tmp_path / "plots")
    assert {file.stem for file in files} == {
        "answer_ms", "offer_ms", "join_ms", "next_ms", "rate", "cpu_asterisk_ms", "cpu_controller_ms",
        "cpu_recordings_ms", "cpu_agi_ms", "memory_waiting", "restart", "rows", "selection",
    }  # fmt: skip
    assert all(file.stat().st_size > 1000 for file in files)


def test_nothing_measured_is_an_empty_table_not_an_error(tmp_path: Path) -> None:
    figures = report.summary(report.no_rounds())
    lines = report.lines(figures, [], report.failures(report.no_rounds()))
    assert all(not one.sanling and one.met is None for one in lines)
    assert report.plot({"figures": figures, "selection": []}, tmp_path) == []
