"""MP3 copies for people's ears: long pauses shortened, both sides equally loud. Never evidence."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydub import AudioSegment

BITRATE = "32k"
APART = ["-joint_stereo", "0"]
"""Each side is encoded by itself; in joint stereo the louder one is heard on the other side too."""
SILENCE_DBFS = -50.0
PAUSE_MS = 2000
"""A pause as long as this or longer is shortened to twice the margin."""
MARGIN_MS = 500
STEP_MS = 10
"""pydub looks at every millisecond otherwise: 5.4 s instead of 0.25 s for three minutes."""
HEADROOM_DB = 3.0
MOST_GAIN_DB = 24.0
"""Beyond this it is not a quiet voice but the line's noise."""


class Uncopied(Exception):
    """The listening copy could not be made."""


@dataclass(frozen=True)
class ListeningCopy:
    path: str
    seconds: float
    original_seconds: float
    kept: tuple[tuple[float, float], ...]
    """The stretches of the original that it consists of, in seconds."""
    bytes: int


def make_listening_copy(segment: Path, mp3: Path) -> ListeningCopy:
    """An MP3 of a stored segment, there whole or not at all. Takes processor time: for the worker.

    Raises Uncopied.
    """
    import soundfile

    sound_type = _pydub()
    try:
        samples, rate_hz = soundfile.read(str(segment), dtype="int16", always_2d=True)
    except soundfile.SoundFileError as error:
        raise Uncopied(f"{segment} cannot be read: {error}") from error
    sound = sound_type(data=samples.tobytes(), sample_width=2, frame_rate=rate_hz, channels=samples.shape[1])
    kept = _worth_hearing(sound)
    frame = sound.frame_width * rate_hz // 1000
    shortened = sound_type(
        data=b"".join(sound.raw_data[start * frame : end * frame] for start, end in kept),
        sample_width=2,
        frame_rate=rate_hz,
        channels=sound.channels,
    )
    levelled = sound_type.from_mono_audiosegments(*(_level(side) for side in shortened.split_to_mono()))
    mp3.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = mp3.with_name(f".{mp3.name}.part")
    try:
        levelled.export(str(part), format="mp3", bitrate=BITRATE, parameters=APART).close()
        part.chmod(0o600)
        os.replace(part, mp3)
    except Exception as error:  # pydub raises its own, ffmpeg's and the system's
        part.unlink(missing_ok=True)
        raise Uncopied(f"ffmpeg made no {mp3.name}: {error}") from error
    return ListeningCopy(
        path=str(mp3),
        seconds=len(levelled) / 1000,
        original_seconds=len(samples) / rate_hz,
        kept=tuple((start / 1000, end / 1000) for start, end in kept),
        bytes=mp3.stat().st_size,
    )


def _worth_hearing(sound: AudioSegment) -> list[tuple[int, int]]:
    """Milliseconds from and to, with a margin around every sound; the whole of it where there is no sound."""
    from pydub.silence import detect_nonsilent

    spoken = detect_nonsilent(sound, min_silence_len=PAUSE_MS, silence_thresh=SILENCE_DBFS, seek_step=STEP_MS)
    kept = [(max(0, start - MARGIN_MS), min(len(sound), end + MARGIN_MS)) for start, end in spoken]
    return kept or [(0, min(len(sound), PAUSE_MS))]


def _level(side: AudioSegment) -> AudioSegment:
    peak_db = side.max_dBFS
    if peak_db == float("-inf"):
        return side
    return side.apply_gain(min(-HEADROOM_DB - peak_db, MOST_GAIN_DB))


def _pydub() -> Any:
    """pydub's AudioSegment, with the ffmpeg that came along.

    Its import warns of things that do not concern us: that audioop leaves the standard library (audioop-lts stands in
    from 3.13 on), that there is no ffmpeg on the path, and of its own backslashes.
    """
    import imageio_ffmpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pydub import AudioSegment
    AudioSegment.converter = imageio_ffmpeg.get_ffmpeg_exe()
    return AudioSegment
