"""Whether a recording is there and holds both voices. Pure but for reading the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.bench.capture import AGENT_PERIOD, CALLER_PERIOD

RATE_HZ = 8000
BLOCK = 160
ENOUGH_S = 0.2
"""A voice that is heard for less is not there."""

Samples = NDArray[np.int16]


def samples_of(file: Path) -> Samples:
    """Of a two-channel recording, frames x 2: FLAC as the hotline stores it, or MixMonitor's raw. Left is the caller.

    Raises OSError, or soundfile.LibsndfileError, if there is none.
    """
    if file.suffix == ".raw":
        audio = np.fromfile(file, dtype="<i2")
        return audio[: len(audio) // 2 * 2].reshape(-1, 2).astype(np.int16)
    samples, _ = soundfile.read(file, dtype="int16", always_2d=True)
    return np.asarray(samples, dtype=np.int16)


def tone_s(side: Samples, period: int) -> float:
    """For how many seconds one side holds the tone of that period and nothing else."""
    blocks = side[: len(side) // BLOCK * BLOCK].reshape(-1, BLOCK)
    repeats = (blocks[:, :-period] == blocks[:, period:]).all(axis=1)
    differs = (blocks[:, : period // 2] != blocks[:, period // 2 : period]).any(axis=1)
    return float((repeats & differs).sum()) * BLOCK / RATE_HZ


def wrong_with(file: Path | None) -> str | None:
    """What is wrong with a recording in which caller and agent spoke; None: nothing."""
    if file is None or not file.exists():
        return "no recording"
    try:
        samples = samples_of(file)
    except (OSError, soundfile.LibsndfileError):
        return "recording unreadable"
    if samples.shape[1] != 2:
        return "recording has one side"
    if tone_s(samples[:, 0], CALLER_PERIOD) < ENOUGH_S:
        return "caller not in the recording"
    if tone_s(samples[:, 1], AGENT_PERIOD) < ENOUGH_S:
        return "agent not in the recording"
    return None
