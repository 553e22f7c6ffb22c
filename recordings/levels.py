"""How loud each side of a stored segment was, in chosen stretches of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FRAME = 160
"""20 ms at 8 kHz."""
KEPT_UP_FRAMES = 5
"""100 ms, the shortest of syllables. A click on the line is over sooner."""
BLOCK = FRAME * 1600
"""32 s at a time: a call may last for hours."""
LEAST_DB = -90.3
"""One step of 16 bit: nothing is fainter."""


class Unreadable(Exception):
    """The segment cannot be read."""


@dataclass(frozen=True)
class Loudness:
    """Of the stretches together: the highest level that each side kept up for 100 ms, in dB re full scale."""

    seconds: float
    said_db: float
    """The caller's."""
    heard_db: float
    """Of what the caller heard."""


def loudness(segment: Path, spans: Sequence[tuple[float, float]]) -> Loudness:
    """`spans` are seconds from the segment's start. Takes processor time (40 ms a minute): for the worker.

    Raises Unreadable.
    """
    import numpy as np
    import soundfile

    seconds = 0.0
    loudest = np.zeros(2)
    try:
        with soundfile.SoundFile(str(segment)) as opened:
            rate = opened.samplerate
            for begin, end in spans:
                first, last = (min(max(0, round(moment * rate)), opened.frames) for moment in (begin, end))
                opened.seek(first)
                while first < last:
                    sound = opened.read(min(BLOCK, last - first), dtype="int16", always_2d=True)
                    if not len(sound):
                        raise Unreadable(f"{segment} is cut off")
                    first += len(sound)
                    seconds += len(sound) / rate
                    frames = sound[: len(sound) // FRAME * FRAME].astype(np.float32).reshape(-1, FRAME, 2)
                    power = frames.var(axis=1)  # some gateways' silence is a constant, which nobody hears
                    if len(power) >= KEPT_UP_FRAMES:
                        kept_up = np.lib.stride_tricks.sliding_window_view(power, KEPT_UP_FRAMES, axis=0).min(axis=-1)
                        loudest = np.maximum(loudest, kept_up.max(axis=0))
    except (soundfile.SoundFileError, OSError) as error:
        raise Unreadable(f"{segment} cannot be read: {error}") from error
    said_db, heard_db = (_decibels(float(power)) for power in loudest)
    return Loudness(seconds, said_db, heard_db)


def _decibels(power: float) -> float:
    return max(LEAST_DB, 10 * math.log10(power / 32768**2)) if power else LEAST_DB
