"""What becomes of a spool file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from recordings import capture
from recordings.capture import Unsealable, key, seal
from tests.unit.recordings_spool import BEGAN, Spool, speech_like


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path)
    (made.folder / "staged").mkdir()
    return made


def staged_samples(spool: Spool, call_id: str) -> bytes:
    samples, _ = soundfile.read(str(spool.folder / f"staged/{call_id}.flac"), dtype="int16", always_2d=True)
    return bytes(samples.astype("<i2").tobytes())


def test_a_segment_has_the_very_samples(spool: Spool) -> None:
    call = spool.ended_call(seconds=2.5)
    sidecar = seal(spool.folder, spool.folder / "staged", call)
    raw = speech_like(2.5, 1)
    assert staged_samples(spool, call) == raw
    assert sidecar.seconds == 2.5
    assert sidecar.channels == 2
    assert sidecar.sides == ("caller", "heard")
    assert sidecar.audio_sha256 == hashlib.sha256(raw).hexdigest()
    assert sidecar.captured_bytes == len(raw)
    assert not sidecar.salvaged
    flac = (spool.folder / f"staged/{call}.flac").read_bytes()
    assert sidecar.sha256 == hashlib.sha256(flac).hexdigest()
    assert sidecar.size_bytes == len(flac)


def test_a_call_that_was_placed_has_its_sides_turned_like_any_other(spool: Spool) -> None:
    call = spool.ended_call(seconds=1.0, placed=True)
    sidecar = seal(spool.folder, spool.folder / "staged", call)
    raw = np.frombuffer(speech_like(1.0, 1), dtype="<i2").reshape(-1, 2)
    sealed = np.frombuffer(staged_samples(spool, call), dtype="<i2").reshape(-1, 2)
    assert (sealed[:, 0] == raw[:, 1]).all()
    assert (sealed[:, 1] == raw[:, 0]).all()
    assert sidecar.sides == ("caller", "heard")
    assert sidecar.audio_sha256 == hashlib.sha256(staged_samples(spool, call)).hexdigest()
    assert capture.began_at(call) == datetime.fromtimestamp(BEGAN, UTC)


def test_the_sidecar_is_plain_json_with_its_makers(spool: Spool) -> None:
    call = spool.ended_call()
    seal(spool.folder, spool.folder / "staged", call)
    beside = json.loads((spool.folder / f"staged/{call}.json").read_text())
    assert beside["call_id"] == call
    assert beside["rate_hz"] == 8000
    assert set(beside["software"]) == {"sanling", "soundfile", "libsndfile"}
    assert datetime.fromisoformat(beside["made_at"]).tzinfo is not None
    assert (spool.folder / f"staged/{call}.json").stat().st_mode & 0o777 == 0o600
    assert (spool.folder / f"staged/{call}.flac").stat().st_mode & 0o777 == 0o600


@settings(max_examples=40, deadline=None)
@given(length=st.integers(min_value=0, max_value=3000))
def test_nothing_is_lost_of_a_file_cut_off_anywhere(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    spool = Spool(tmp_path_factory.mktemp("cut"))
    (spool.folder / "staged").mkdir()
    raw = speech_like(0.1, 3)[:length]
    call = spool.ended_call(raw=raw, lasted_s=0.001)
    sidecar = seal(spool.folder, spool.folder / "staged", call)
    got = staged_samples(spool, call)
    assert got[: len(raw)] == raw
    assert not any(got[len(raw) :])
    assert len(got) == max(640, -(-len(raw) // 4) * 4)
    assert sidecar.padded_bytes == -len(raw) % 4
    assert sidecar.seconds == len(got) / 4 / 8000


def test_a_caller_who_hangs_up_before_the_answer_leaves_silence_as_long_as_it_rang(spool: Spool) -> None:
    call = spool.ended_call(raw=b"", lasted_s=6.25)
    sidecar = seal(spool.folder, spool.folder / "staged", call)
    assert sidecar.seconds == 6.25
    assert sidecar.captured_bytes == 0
    assert not any(staged_samples(spool, call))


def test_a_call_whose_spool_file_never_came_leaves_silence(spool: Spool) -> None:
    spool.declares_complete(call := f"demo-{BEGAN}.9", lasted_s=3.0)
    assert seal(spool.folder, spool.folder / "staged", call).seconds == 3.0


@pytest.mark.parametrize("ends_at", [BEGAN - 3600.0, float(BEGAN)])
def test_a_clock_set_back_leaves_the_shortest_segment(spool: Spool, ends_at: float) -> None:
    call = spool.ended_call(raw=b"")
    os.utime(spool.folder / f"{call}.done", (ends_at, ends_at))
    assert seal(spool.folder, spool.folder / "staged", call).seconds == 0.02


def test_a_clock_set_forward_invents_no_day_of_silence(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "LONGEST_SILENCE_S", 60.0)
    call = spool.ended_call(raw=b"", lasted_s=9e6)
    assert seal(spool.folder, spool.folder / "staged", call).seconds == 60.0


def test_a_call_id_that_says_no_time_leaves_the_shortest_segment(spool: Spool) -> None:
    (spool.folder / "odd.done").touch()
    assert seal(spool.folder, spool.folder / "staged", "odd").seconds == 0.02


def test_sealing_again_changes_nothing(spool: Spool) -> None:
    call = spool.ended_call()
    first = seal(spool.folder, spool.folder / "staged", call)
    assert seal(spool.folder, spool.folder / "staged", call) == first


def test_a_staged_segment_that_was_damaged_is_made_again(spool: Spool) -> None:
    call = spool.ended_call()
    first = seal(spool.folder, spool.folder / "staged", call)
    flac = spool.folder / f"staged/{call}.flac"
    content = bytearray(flac.read_bytes())
    content[100] ^= 1
    flac.write_bytes(content)
    assert seal(spool.folder, spool.folder / "staged", call).sha256 == first.sha256
    assert staged_samples(spool, call) == speech_like(0.5, 1)


def test_a_file_taken_without_its_end_is_called_salvaged(spool: Spool) -> None:
    call = spool.ended_call(done=False)
    assert seal(spool.folder, spool.folder / "staged", call).salvaged


def test_no_room_for_the_segment_is_said_before_it_is_written(spool: Spool, tmp_path: Path) -> None:
    call = spool.ended_call(seconds=200)
    said = seal_under("", spool, call, small_disk=True)
    assert "bytes free, the recording may need 6465536" in said
    assert spool.left() == [f"{call}.done", f"{call}.raw"]


def test_a_disk_that_fills_up_while_sealing_leaves_the_spool_file(spool: Spool) -> None:
    call = spool.ended_call(seconds=20)
    said = seal_under("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))", spool, call)
    assert "Unsealable" in said
    assert "could not be written" in said
    assert (spool.folder / f"{call}.raw").read_bytes() == speech_like(20, 1)
    assert seal(spool.folder, spool.folder / "staged", call).seconds == 20


def seal_under(condition: str, spool: Spool, call: str, *, small_disk: bool = False) -> str:
    script = f"""{condition}
import sys
from pathlib import Path
from recordings.capture import seal
try:
    seal(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
except Exception as error:
    print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", script, str(spool.folder), str(spool.folder / "staged"), call]
    if small_disk:
        if shutil.which("bwrap") is None:
            pytest.skip("needs bubblewrap")
        tmpfs = ["--size", "3000000", "--tmpfs", str(spool.folder / "staged")]
        command = ["bwrap", "--dev-bind", "/", "/", *tmpfs, *command]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_folder_that_is_not_there_is_unsealable(tmp_path: Path) -> None:
    with pytest.raises(Unsealable, match="No such file"):
        seal(tmp_path, tmp_path / "nowhere", "demo-1763763200.1")


@pytest.mark.parametrize(
    ("call_id", "expected"),
    [
        ("demo-1763763200.3", "2025/11/22/demo-1763763200.3"),
        ("1763763200.3", "2025/11/22/1763763200.3"),
        ("my-hot-line-1763740800.12", "2025/11/22/my-hot-line-1763740800.12"),  # midnight in Shanghai
        ("demo-1763740799.12", "2025/11/21/demo-1763740799.12"),
        ("odd", "undated/odd"),
    ],
)
def test_a_copy_is_found_by_its_call_id_alone(call_id: str, expected: str) -> None:
    assert key(call_id) == expected


def test_the_zone_decides_the_day() -> None:
    assert key("demo-1763740800.1", UTC) == "2025/11/21/demo-1763740800.1"
