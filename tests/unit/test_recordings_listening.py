"""Listening copies: shorter, equally loud, really MP3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from recordings.listening import Uncopied, make_listening_copy


def tone(seconds: float, amplitude: float) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 8000)) / 8000)


def segment(path: Path, caller: np.ndarray, heard: np.ndarray) -> Path:
    soundfile.write(str(path), np.stack([caller, heard], axis=1).astype("int16"), 8000, subtype="PCM_16")
    return path


def decoded(mp3: Path) -> np.ndarray:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(mp3), "-f", "s16le", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, dtype="<i2").reshape(-1, 2)


def test_long_pauses_are_shortened_and_short_ones_kept(tmp_path: Path) -> None:
    parts = [(3, 0), (2, 5000), (1, 0), (2, 5000), (20, 0), (2, 5000), (5, 0)]
    sound = np.concatenate([tone(seconds, amplitude) for seconds, amplitude in parts])
    copy = make_listening_copy(segment(tmp_path / "a.flac", sound, sound), tmp_path / "deep/a.mp3")
    assert copy.original_seconds == 35.0
    assert copy.kept == ((2.5, 8.5), (27.5, 30.5))
    assert copy.seconds == 9.0
    assert copy.bytes == (tmp_path / "deep/a.mp3").stat().st_size
    assert len(decoded(tmp_path / "deep/a.mp3")) / 8000 == pytest.approx(9.0, abs=0.3)


def test_a_quiet_caller_becomes_as_loud_as_the_agent(tmp_path: Path) -> None:
    copy = make_listening_copy(segment(tmp_path / "a.flac", tone(2, 1500), tone(2, 16000)), tmp_path / "a.mp3")
    peaks = np.abs(decoded(Path(copy.path)).astype(int)).max(axis=0)
    assert peaks[0] == pytest.approx(32767 * 10 ** (-3 / 20), rel=0.1)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


def test_the_noise_of_a_silent_line_is_not_made_loud(tmp_path: Path) -> None:
    copy = make_listening_copy(segment(tmp_path / "a.flac", tone(2, 20), tone(2, 16000)), tmp_path / "a.mp3")
    assert np.abs(decoded(Path(copy.path)).astype(int)).max(axis=0)[0] < 20 * 10 ** (24 / 20) * 1.2


def test_a_call_without_a_sound_has_a_copy_too(tmp_path: Path) -> None:
    copy = make_listening_copy(segment(tmp_path / "a.flac", tone(9, 0), tone(9, 0)), tmp_path / "a.mp3")
    assert copy.seconds == 2.0
    tiny = make_listening_copy(segment(tmp_path / "b.flac", tone(0.02, 0), tone(0.02, 0)), tmp_path / "b.mp3")
    assert tiny.seconds == 0.02


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_text("no FLAC")
    with pytest.raises(Uncopied, match="cannot be read"):
        make_listening_copy(tmp_path / "a.flac", tmp_path / "a.mp3")
    assert not (tmp_path / "a.mp3").exists()


def test_a_full_disk_leaves_no_half_copy(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal(400_000) * 8000
    segment(tmp_path / "a.flac", noise, noise)
    script = """
import resource, sys
from pathlib import Path
from recordings.listening import Uncopied, make_listening_copy
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    make_listening_copy(Path(sys.argv[1]), Path(sys.argv[2]))
except Uncopied as error:
    print("uncopied")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.flac"), str(tmp_path / "a.mp3")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "uncopied\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.flac"]
