"""Recordings that were made up: with both voices, with one, with none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.bench.hearing import Samples, tone_s, wrong_with
from tests.faults.lightphone import AGENT_TONE, CALLER_TONE, SILENCE

PROMPT = bytes(0x55 ^ (n * 37 % 128) for n in range(160))


def side(*packets: bytes) -> Samples:
    alaw = io.BytesIO(b"".join(packets))
    samples, _ = soundfile.read(alaw, dtype="int16", format="RAW", subtype="ALAW", samplerate=8000, channels=1)
    return np.asarray(samples, dtype=np.int16)


def recorded(file: Path, left: Samples, right: Samples) -> Path:
    both = np.column_stack([left, right])
    if file.suffix == ".raw":
        both.astype("<i2").tofile(file)
    else:
        soundfile.write(file, both, 8000)
    return file


def test_a_tone_is_measured_and_nothing_else_is_one() -> None:
    assert tone_s(side(*[CALLER_TONE] * 50), 16) == pytest.approx(1.0)
    assert tone_s(side(*[CALLER_TONE] * 50), 8) == 0
    assert tone_s(side(*[AGENT_TONE] * 50), 8) == pytest.approx(1.0)
    assert tone_s(side(*[AGENT_TONE] * 50), 16) == 0
    assert tone_s(side(*[SILENCE] * 50), 8) == 0
    assert tone_s(side(*[PROMPT] * 50), 16) == 0
    assert tone_s(side(*[PROMPT] * 50)[:0], 16) == 0


def test_a_tone_that_does_not_begin_with_a_block_is_heard_all_the_same() -> None:
    shifted = np.concatenate([side(PROMPT)[:71], side(*[AGENT_TONE] * 25)])
    assert tone_s(shifted, 8) == pytest.approx(0.48, abs=0.021)


@pytest.mark.parametrize("name", ["call.raw", "call.flac"])
def test_whether_both_are_in_the_recording(tmp_path: Path, name: str) -> None:
    caller, heard = side(*[CALLER_TONE] * 30), side(*[PROMPT] * 10, *[AGENT_TONE] * 20)
    nothing = side(*[SILENCE] * 30)
    assert wrong_with(recorded(tmp_path / name, caller, heard)) is None
    assert wrong_with(recorded(tmp_path / name, nothing, heard)) == "caller not in the recording"
    assert wrong_with(recorded(tmp_path / name, caller, nothing)) == "agent not in the recording"
    assert wrong_with(recorded(tmp_path / name, heard, caller)) == "caller not in the recording"


def test_a_recording_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    assert wrong_with(None) == "no recording"
    assert wrong_with(tmp_path / "call.flac") == "no recording"
    (tmp_path / "call.flac").write_bytes(b"")
    assert wrong_with(tmp_path / "call.flac") == "recording unreadable"
    soundfile.write(tmp_path / "mono.flac", side(*[CALLER_TONE] * 30), 8000)
    assert wrong_with(tmp_path / "mono.flac") == "recording has one side"
