"""Sipp's totals, the capture's filter, the prompts for the load."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ari_app.prompts import Catalogue
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
