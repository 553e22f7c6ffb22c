"""Sipp's totals, the capture's filter, the prompts for the load, selection's sizes, and the table."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ari_app.prompts import Catalogue
from tests.bench import report, selection
from tests.bench.houses import SAY_S, WHISPER, short_prompts
from tests.bench.phones import SCENARIOS, Called, counted
from tests.bench.tap import (
    AND,
    EQUALS,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    PACKET_OUTGOING,
    PACKET_TYPE,
    RETURN,
    instructions,
)

STATISTICS = """StartTime;CurrentTime;TotalCallCreated;SuccessfulCall(P);SuccessfulCall(C);FailedCall(P);FailedCall(C);
1;2;40;38;38;0;0;
1;3;60;20;58;2;2;
"""


def test_the_last_line_of_sipps_statistics_counts() -> None:
    assert counted(STATISTICS) == Called(60, 2)
    assert counted("") == Called(0, 0)


def frame(source: int, target: int, second: int, protocol: int = 17) -> bytes:
    udp = struct.pack("!HHHH", source, target, 12, 0) + bytes([0x80, second, 0, 0])
    return bytes(12) + b"\x08\x00" + bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(10) + udp


def passes(program: list[tuple[int, int, int, int]], frame: bytes, kind: int = 0) -> bool:
    """Runs classic BPF, as far as these filters use it. Source: linux/filter.h."""
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        match code:
            case _ if code == LOAD_WORD and k == PACKET_TYPE:
                accumulator = kind
            case _ if code == LOAD_HALF:
                accumulator = int.from_bytes(frame[k : k + 2], "big")
            case _ if code == LOAD_BYTE:
                accumulator = frame[k]
            case _ if code == AND:
                accumulator &= k
            case _ if code == EQUALS:
                at += if_true if accumulator == k else if_false
            case _ if code == RETURN:
                return k > 0
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize(
    ("packet", "alone", "with_audio"),
    [
        (frame(5060, 40000, 0), True, True),
        (frame(40000, 5060, 0), True, True),
        (frame(20000, 30000, 101), True, True),
        (frame(20000, 30000, 101 | 0x80), True, True),
        (frame(20000, 30000, 8), False, True),
        (frame(5060, 5060, 101, protocol=6), False, False),
    ],
)
def test_what_the_capture_lets_through(packet: bytes, alone: bool, with_audio: bool) -> None:
    assert passes(instructions(audio=False), packet) is alone
    assert passes(instructions(audio=True), packet) is with_audio
    assert not passes(instructions(audio=False), packet, PACKET_OUTGOING)
    assert not passes(instructions(audio=True), packet, PACKET_OUTGOING)


def test_the_prompts_for_the_load_are_short_and_hold(tmp_path: Path) -> None:
    short_prompts(tmp_path / "prompts")
    catalogue = Catalogue.load(tmp_path / "prompts")
    assert catalogue[WHISPER].seconds == catalogue["opening"].seconds == SAY_S
    assert catalogue["hold-music"].seconds > 10


def test_scenarios_name_what_is_filled_in() -> None:
    texts = {file.stem: file.read_text() for file in SCENARIOS.glob("*.xml")}
    assert set(texts) == {"agent", "caller", "waiter"}
    assert all(word in texts["agent"] for word in ("TONE", "TALK_MIN_MS", "TALK_MAX_MS", "LONG_MS", "sip:LONG"))
    assert all(word in texts[name] for name in ("caller", "waiter") for word in ("TONE", "KEY_AFTER_MS", "PATIENCE_MS"))


def test_selection_is_measured_at_each_size() -> None:
    found = selection.measure((10, 40), (5,), times=20)
    assert [(one["waiting"], one["agents"]) for one in found] == [(10, 5), (40, 5)]
    assert all(
        one[f"{name}_p99_us"] >= one[f"{name}_p50_us"] > 0 for one in found for name in ("select", "turn", "desk")
    )


def light(offer_s: list[float], controller_ms: float) -> dict[str, Any]:
    cpu = {"asterisk": 20.0, "controller": controller_ms, "recordings": 1.0}
    return {"answer_s": [0.002], "offer_s": offer_s, "join_s": [0.003], "cpu_ms": cpu, "rows": {"transitions": 9.0}}


ROUNDS: dict[str, Any] = {
    "light": {
        "sanling": [light([0.002, 0.003], 3.0), light([0.002], 1.0), light([], 2.0)],
        "native": [light([0.002], 0.0) | {"answer_s": [0.001]}],
    },
    "busy": {"sanling": [{"next_s": [0.004, 0.004, 0.009]}], "native": [{"next_s": [0.4]}]},
    "rates": {"sanling": [60.0, 50.0], "native": [50.0, 40.0]},
    "waiting": {"sanling": {"callers": 100, "asterisk_kb": 120.0, "controller_kb": 25.0, "back_s": 1.5}},
    "talking": {},
}


def test_rounds_become_figures() -> None:
    figures = report.summary(ROUNDS)
    assert figures["sanling"]["offer_ms"] == {"p50": 2.0, "p95": 3.0, "p99": 3.0, "n": 3}
    assert figures["sanling"]["cpu_controller_ms"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert figures["sanling"]["rate"] == {"median": 55.0, "least": 50.0, "most": 60.0}


def test_the_table_holds_each_figure_against_its_goal() -> None:
    sizes = [
        {
            "waiting": n,
            "agents": 1000.0,
            "select_p50_us": 5.0,
            "select_p99_us": 9.0,
            "desk_p50_us": n,
            "desk_p99_us": 70.0,
        }
        for n in (1_000.0, 10_000.0, 100_000.0)
    ]
    found = {one.figure: one for one in report.lines(report.summary(ROUNDS), sizes)}
    met = {figure: one.met for figure, one in found.items() if one.met is not None}
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
    assert found["agent free → next caller's INVITE, p50"].native == "400"
    assert found["controller killed → 100 calls taken up"].sanling == "1.5"


def test_a_plot_per_figure(tmp_path: Path) -> None:
    sizes = selection.measure((10, 20), (5,), times=10)
    files = report.plot({"figures": report.summary(ROUNDS), "selection": sizes}, tmp_path / "plots")
    assert {file.stem for file in files} == {
        "answer_ms", "offer_ms", "join_ms", "next_ms", "rate", "cpu_asterisk_ms", "cpu_controller_ms", "memory_waiting",
        "selection",
    }  # fmt: skip
    assert all(file.stat().st_size > 1000 for file in files)


def test_nothing_measured_is_an_empty_table_not_an_error() -> None:
    nothing: dict[str, Any] = {"light": {}, "busy": {}, "rates": {}, "waiting": {}, "talking": {}}
    assert all(not one.sanling and one.met is None for one in report.lines(report.summary(nothing), []))
