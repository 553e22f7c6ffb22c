"""The judge: which approved prompts can be heard in what a phone received, where, and how well.

Theory of operation. A telephone line adds noise, loses and repeats frames of 20 ms, and people talk over prompts, so
a prompt is never compared as one piece. It is cut into blocks of 0.4 s, with a last block at its very end so that a
prompt cut short is noticed. Each block is looked for within ±0.25 s of where it should be, or up to a second later
than the one before it, for a line may stand still. It is found by cross-correlation normalised by the energy on the
spot: 1 is the very same sound, wrong speech stays near 0.3. A prompt's score is the mean of its blocks, its share the
part of blocks above 0.5.

Where to look is found first at 2 kHz: its first two blocks and the strongest of every 0.8 s after them vote for
a start.

Prompts that differ in one word (``position-3``, ``position-4``) sound alike but for that word. They are told apart by
the blocks in which the two recordings differ, each block weighing as much as it differs; two recordings that do not
differ (surnames of one sound) are not told apart.

All times are seconds from the first sample judged; all sounds are mono floats within -1…1 at 8 kHz. numpy only.
"""

from __future__ import annotations

import functools
import wave
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]

RATE = 8000
"""Samples a second, everywhere in this module."""

SCORE_PASSES = 0.6
SHARE_PASSES = 0.9
GAP_PASSES = 0.25
BLOCK_HEARD = 0.5
"""Above this a block of 0.4 s was heard."""
FAINT_BLOCK_HEARD = 0.35
"""In noise a faint block, such as a fading last syllable, scores lower; wrong speech stays under this."""

BLOCK = int(0.4 * RATE)
SLACK = int(0.25 * RATE)
FAINTEST = 1e-3
"""Root mean square under which there is nothing to compare: -60 dB."""
LEAST_DIFFERENCE = 0.1
"""Recordings that differ less than this nowhere are the same to the ear."""
LEAST_HEARD_S = 0.8
"""A prompt cut off earlier than this cannot be named."""

# The coarse search.
_DOWN = 4
_COARSE_RATE = RATE // _DOWN
_COARSE_BLOCK = BLOCK // _DOWN
_FFT = 4096
_BIN = _COARSE_RATE // 10
_VOTER_EVERY_S = 0.8
_VOTE_PASSES = 0.5
_VOTE_OF_TWO = 0.15
"""What two voters alone must have more: the others may have been cut off."""
_MOST_HITS = 12

_SLIPS = (int(0.23 * RATE), int(0.70 * RATE), -int(0.23 * RATE), -int(0.70 * RATE), 0)
"""Blocks that were not in their place may have come later than the ones before, by up to 0.48 s, by up to 0.95 s; or
that much earlier than the ones after, where those told when it began; or as late as the ones before."""

# Music is heard in windows.
_WINDOW = _COARSE_RATE
_WINDOW_STEP_S = 0.5
_MUSIC_PASSES = 0.7
MUSIC_LEAST_S = 2.0


@dataclass(frozen=True)
class Heard:
    """A prompt in what was heard. `str()` gives it as one readable phrase."""

    prompt: str
    at_s: float
    """When it began."""
    until_s: float
    """When the last of it that was heard ended."""
    score: float
    """Mean of its blocks up to where it was cut, 0 to 1."""
    share: float
    """Part of all its blocks that was heard, 0 to 1."""
    cut_at_s: float | None = None
    """Seconds into the prompt at which it stopped; None: it was heard to its end."""
    gap: float = 1.0
    """Lead over the prompt most like it: 1 clear, 0 undecided, negative the other one."""
    rival: str = ""
    """The prompt most like it."""

    @property
    def whole(self) -> bool:
        """Heard from the first to the last word, and no other prompt than this one."""
        return (
            self.score >= SCORE_PASSES
            and self.share >= SHARE_PASSES
            and self.cut_at_s is None
            and self.gap >= GAP_PASSES
        )

    @property
    def partly(self) -> bool:
        """Heard from its beginning until it was cut off, perhaps before the word that tells it from another."""
        return self.whole or (
            self.score >= SCORE_PASSES
            and self.cut_at_s is not None
            and self.cut_at_s >= LEAST_HEARD_S
            and self.gap > -GAP_PASSES
        )

    def over_by(self, moment_s: float) -> bool:
        """Nothing more of it can have come by `moment_s`."""
        return self.cut_at_s is None or moment_s > self.until_s + (BLOCK + SLACK) / RATE

    def __str__(self) -> str:
        cut = "" if self.cut_at_s is None else f", cut after {self.cut_at_s:.1f} s"
        lead = f", {self.gap:+.2f} to {self.rival}" if self.rival and self.gap < GAP_PASSES else ""
        return f"{self.prompt} at {self.at_s:.2f} s (score {self.score:.2f}, {self.share:.0%}{cut}{lead})"


# Reading sounds.


def _alaw_values() -> Samples:
    """What each of the 256 A-law codes stands for. ITU-T G.711, table 1a."""
    code = np.arange(256) ^ 0x55
    segment, step = (code >> 4) & 7, code & 15
    size = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0))
    values: Samples = (np.where(code & 0x80, size, -size) / 32768).astype(np.float32)
    return values


_ALAW = _alaw_values()


def read_sound(path: Path) -> Samples:
    """A 16-bit mono wav at 8 kHz, or a raw A-law file, as samples. Raises ValueError for any other wav."""
    if path.suffix != ".wav":
        return _ALAW[np.frombuffer(path.read_bytes(), dtype=np.uint8)]
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
            raise ValueError(f"{path.name}: a test phone plays mono wav files of 16 bit at 8 kHz.")
        raw = file.readframes(file.getnframes())
    return np.frombuffer(raw, dtype="<i2").astype(np.float32) / np.float32(32768)


class PromptSounds(Mapping[str, Samples]):
    """The prompts in a folder and the folders in it, by id, each read when first asked for."""

    def __init__(self, folder: Path, suffix: str = ".alaw") -> None:
        self._files = {path.stem: path for path in sorted(folder.rglob(f"*{suffix}"))}
        self._read: dict[str, Samples] = {}

    def __getitem__(self, prompt: str) -> Samples:
        if prompt not in self._read:
            self._read[prompt] = read_sound(self._files[prompt])
        return self._read[prompt]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def silences(samples: Samples, longer_than_s: float, *, fainter_than: float = 0.003) -> list[tuple[float, float]]:
    """Stretches (from, until; in s) of at least `longer_than_s` with nothing louder than `fainter_than` rms."""
    frame = RATE // 50
    count = len(samples) // frame
    power = np.mean(samples[: count * frame].reshape(count, frame) ** 2, axis=1)
    quiet = np.concatenate([[False], power < fainter_than**2, [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]) / 50
    return [(float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= longer_than_s]


# Correlation.


def _low_pass() -> Samples:
    taps = np.arange(-48, 49)
    cut = 850 / (RATE / 2)
    low: Samples = (cut * np.sinc(cut * taps) * np.hamming(len(taps))).astype(np.float32)
    return low


_LOW_PASS = _low_pass()


def _coarse(samples: Samples) -> Samples:
    """The same sound at 2 kHz."""
    if not len(samples):
        return samples
    low: Samples = np.convolve(samples, _LOW_PASS, mode="same")[::_DOWN].astype(np.float32)
    return low


def _energies(samples: Samples, length: int) -> NDArray[np.float64]:
    """Energy of every stretch of `length` samples."""
    sums = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    energies: NDArray[np.float64] = np.maximum(sums[length:] - sums[:-length], 0.0)
    return energies


class _Spread:
    """A long sound at 2 kHz, ready to be searched for many short ones: overlap-save, transformed once."""

    def __init__(self, coarse: Samples, length: int) -> None:
        self.places = max(len(coarse) - length + 1, 0)
        """How many starts a sound of `length` can have in here."""
        self._step = _FFT - length + 1
        self._length = length
        chunks = -(-self.places // self._step)
        padded = np.zeros(max(chunks, 1) * self._step + length - 1, dtype=np.float32)
        fits = min(len(coarse), len(padded))
        padded[:fits] = coarse[:fits]
        windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[:: self._step]
        self._spectra = np.fft.rfft(windows, axis=1)
        energy = _energies(padded, length)[: self.places]
        self._scale = (1 / np.sqrt(energy + length * FAINTEST**2)).astype(np.float32)

    def find(self, spectrum: NDArray[np.complex64]) -> Samples:
        """Normalised correlation with a sound of unit energy, for every start; see `_unit_spectrum`."""
        product = np.fft.irfft(self._spectra * spectrum, _FFT, axis=1)[:, : self._step]
        found: Samples = product.astype(np.float32).reshape(-1)[: self.places] * self._scale
        return found


def _unit_spectrum(sound: Samples) -> NDArray[np.complex64]:
    """Conjugate spectrum of `sound` scaled to energy 1."""
    norm = np.sqrt(np.sum(sound.astype(np.float64) ** 2)) or 1.0
    spectrum: NDArray[np.complex64] = np.conj(np.fft.rfft((sound / norm).astype(np.float32), _FFT))
    return spectrum


class _Match(NamedTuple):
    """How well the blocks of a prompt fit."""

    scores: Samples
    late: NDArray[np.int64]
    """Samples by which each came later than it should."""
    heard: NDArray[np.bool_]


_NARROW = int(0.05 * RATE)
"""Slack between two recordings of nearly the same words, once one of them was found."""


class _Blocks:
    """Blocks of a prompt at 8 kHz, comparable with any place of a sound."""

    def __init__(self, samples: Samples, starts: Sequence[int], slack: int = SLACK) -> None:
        self._slack = slack
        self._fft = 8192 if slack > _NARROW else 4096  # holds a block and the slack on both sides
        self.starts = np.array(starts, dtype=np.int64)
        blocks = np.stack([samples[a : a + BLOCK] for a in starts]).astype(np.float32)
        self._norms = np.sqrt(np.sum(blocks.astype(np.float64) ** 2, axis=1)) + 1e-9
        unit = (blocks / self._norms[:, None]).astype(np.float32)
        self._spectra = np.conj(np.fft.rfft(unit, self._fft, axis=1))

    def compare(self, sound: Samples, start: int) -> _Match:
        """How well each block fits if the prompt began at `start` of `sound`, following it where it slips."""
        match = self.at(sound, self.starts + start)
        for slip in _SLIPS:
            if match.heard.all() or not match.heard.any():
                break
            known = self._nearest_heard(match.heard, before=slip >= 0)
            shift = np.where(known >= 0, match.late[known] + slip, 0)
            again = self.at(sound, self.starts + start + shift)
            found = ~match.heard & (known >= 0) & (again.heard if slip == 0 else again.scores > SCORE_PASSES)
            match = _Match(
                np.where(found, again.scores, match.scores),
                np.where(found, again.late + shift, match.late),
                match.heard | found,
            )
        return match

    @staticmethod
    def _nearest_heard(heard: NDArray[np.bool_], *, before: bool) -> NDArray[np.int64]:
        """For each block the nearest one that was heard, of those before it or of those after it; -1: none."""
        places = np.where(heard, np.arange(len(heard)), -1)
        if before:
            return np.maximum.accumulate(places)
        after = np.minimum.accumulate(np.where(places < 0, len(heard), places)[::-1])[::-1]
        return np.where(after == len(heard), -1, after)

    def at(self, sound: Samples, places: NDArray[np.int64]) -> _Match:
        """How well each block fits near its place, one place a block."""
        width = BLOCK + 2 * self._slack
        first = places - self._slack
        low, high = min(int(first.min()), 0), max(int(first.max()) + width, len(sound))
        if low < 0 or high > len(sound):
            sound = np.pad(sound, (-low, high - len(sound))).astype(np.float32)
        windows = np.stack([sound[a : a + width] for a in first - low])
        product = np.fft.irfft(np.fft.rfft(windows, self._fft, axis=1) * self._spectra, self._fft, axis=1)
        sums = np.cumsum(np.pad(windows.astype(np.float64) ** 2, ((0, 0), (1, 0))), axis=1)
        energy = np.maximum(sums[:, BLOCK:] - sums[:, :-BLOCK], 0.0)
        found = product[:, : 2 * self._slack + 1] / np.sqrt(energy + BLOCK * FAINTEST**2)
        late = np.argmax(found, axis=1)
        rows = np.arange(len(late))
        scores = np.clip(found[rows, late], 0, 1).astype(np.float32)
        loudness = np.maximum(product[rows, late], 0.0)
        noise = np.maximum(energy[rows, late] - loudness**2, 0.0)
        return _Match(scores, late - self._slack, self._heard(scores, late, loudness / self._norms, noise))

    def _heard(
        self, scores: Samples, late: NDArray[np.int64], gains: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which blocks were heard: above BLOCK_HEARD, or as clear as so faint a block can be on so noisy a line."""
        clear = scores > BLOCK_HEARD
        if np.count_nonzero(clear) < 2:
            return clear
        loudness = float(np.median(gains[clear])) * self._norms
        expected = loudness / np.sqrt(loudness**2 + float(np.median(noise[clear])) + 1e-12)
        in_time = np.abs(late - np.interp(self.starts, self.starts[clear], late[clear])) < RATE / 25
        faint: NDArray[np.bool_] = (scores > np.maximum(0.75 * expected, FAINT_BLOCK_HEARD)) & in_time
        return clear | faint


class _Template:
    """A prompt, prepared."""

    def __init__(self, samples: Samples) -> None:
        loud = np.flatnonzero(np.abs(samples) > 4 * FAINTEST)
        begin, end = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(samples))
        samples = samples.astype(np.float32)
        if end - begin < BLOCK:
            begin = max(0, end - BLOCK)
            samples = np.pad(samples, (0, max(0, begin + BLOCK - len(samples))))
            end = max(end, begin + BLOCK)
        self.samples = samples
        self.begin, self.end = begin, end
        self.length = len(samples)
        last = end - BLOCK
        self.blocks = _Blocks(samples, self._worth_hearing([*range(begin, last - BLOCK // 4, BLOCK), last]))
        self.voters = self._voters(_coarse(samples))

    def _voters(self, coarse: Samples) -> list[tuple[int, NDArray[np.complex64]]]:
        """Its first two blocks, so that it is found though cut off early, and the strongest of each stretch after."""
        first, last = self.begin // _DOWN, max(self.end // _DOWN - _COARSE_BLOCK, self.begin // _DOWN)
        places = [place for place in (first, first + _COARSE_BLOCK) if place <= last]
        rest = range(first + 2 * _COARSE_BLOCK, last + 1, _COARSE_BLOCK // 4)
        stretches = max(1, round(len(rest) * 0.1 / _VOTER_EVERY_S))
        for stretch in np.array_split(np.array(rest), stretches) if len(rest) else []:
            places.append(max(stretch, key=lambda a: float(np.sum(coarse[a : a + _COARSE_BLOCK] ** 2))))
        return [(place, _unit_spectrum(coarse[place : place + _COARSE_BLOCK])) for place in places]

    def _worth_hearing(self, starts: Sequence[int]) -> list[int]:
        """Without the pauses: a block must have a twentieth of the usual energy."""
        energy = np.array([np.sum(self.samples[a : a + BLOCK].astype(np.float64) ** 2) for a in starts])
        floor = 0.05 * float(np.median(energy))
        return [a for a, e in zip(starts, energy, strict=True) if e > floor or a == starts[-1]]

    @functools.cached_property
    def fine_blocks(self) -> _Blocks:
        """Overlapping by half, so that one differing word fills at least one of them."""
        last = self.end - BLOCK
        return _Blocks(self.samples, self._worth_hearing([*range(self.begin, last, BLOCK // 2), last]), _NARROW)


class _Listening:
    """What was heard, prepared."""

    def __init__(self, samples: Samples) -> None:
        self.samples = np.ascontiguousarray(samples, dtype=np.float32)
        self.coarse = _coarse(self.samples)
        self.spread = _Spread(self.coarse, _COARSE_BLOCK)

    def starts(self, template: _Template) -> list[int]:
        """Where in the samples the prompt may begin, the likeliest first."""
        places = self.spread.places
        if places == 0:
            return []
        bins = -(-(places + template.length // _DOWN) // _BIN) + 2
        lead = bins * _BIN - places  # votes for a start before the first sample are kept too
        votes = np.zeros((len(template.voters), bins), dtype=np.float32)
        wheres = np.zeros_like(votes, dtype=np.int64)
        for row, (offset, spectrum) in enumerate(template.voters):
            curve = np.zeros(bins * _BIN, dtype=np.float32)
            shift = max(lead - _BIN - offset, 0)
            curve[shift : shift + places] = self.spread.find(spectrum)
            table = curve.reshape(bins, _BIN)
            peak = np.argmax(table, axis=1)
            votes[row] = table[np.arange(bins), peak]
            wheres[row] = np.arange(bins) * _BIN + peak - (lead - _BIN)
        near = np.pad(votes, ((0, 0), (1, 1)))
        near = np.maximum(np.maximum(near[:, :-2], near[:, 1:-1]), near[:, 2:])
        ranked = np.sort(near, axis=0)[::-1]
        tally = np.maximum(near.mean(axis=0), ranked[:2].mean(axis=0) - _VOTE_OF_TWO)
        hits: list[int] = []
        for place in np.argsort(-tally):
            if tally[place] < _VOTE_PASSES or len(hits) == _MOST_HITS:
                break
            around = slice(max(place - 1, 0), place + 2)
            row, column = divmod(int(np.argmax(votes[:, around])), votes[:, around].shape[1])
            start = int(wheres[:, around][row, column]) * _DOWN
            if all(abs(start - other) > SLACK for other in hits):
                hits.append(start)
        return hits


class Ear:
    """Knows the prompts by ear.

    `loops` are heard from any place and over and over, such as music on hold. Ids may map to anything that reads
    samples lazily (`PromptSounds`); each is prepared when first needed.
    """

    def __init__(self, prompts: Mapping[str, Samples], *, loops: Collection[str] = ("hold-music",)) -> None:
        self._prompts = prompts
        self._loops = frozenset(loops)
        self._templates: dict[str, _Template] = {}
        self._music: dict[str, _Spread] = {}
        self._weights: dict[tuple[str, str], Samples] = {}

    def __contains__(self, prompt: object) -> bool:
        return prompt in self._prompts

    def seconds(self, prompt: str) -> float:
        """How long one must listen to know the prompt: its length, or MUSIC_LEAST_S for a loop."""
        return MUSIC_LEAST_S if prompt in self._loops else len(self._prompts[prompt]) / RATE

    def judge(
        self,
        samples: Samples,
        prompt: str,
        *,
        against: Collection[str] = (),
        from_s: float = 0.0,
        whole: bool = False,
    ) -> Heard:
        """The best place of `prompt` in what was heard after `from_s`, heard or not: ask `whole` or `partly`.

        Prompts whose ids differ in one word, and those in `against`, must be clearly worse there; with `whole` they
        are compared only where the prompt was heard to its end, for they may be many. Of several whole ones the first
        is told. Raises KeyError for a prompt that this ear does not know.
        """
        skipped = int(from_s * RATE)
        listening = _Listening(samples[skipped:])
        found = self._loop_in(listening, prompt) if prompt in self._loops else self._in(listening, prompt)
        if not found:
            return Heard(prompt, from_s, from_s, 0.0, 0.0, 0.0)
        to_the_end = [heard for heard in found if heard.whole or prompt in self._loops]
        best = min(to_the_end, key=lambda h: h.at_s) if to_the_end else max(found, key=_weight)
        if prompt not in self._loops and (best.whole if whole else best.partly):
            rivals = {*self.one_word_apart(prompt), *against} - {prompt}
            best = self._against(listening, best, rivals)
        return _later(best, skipped / RATE)

    def transcript(
        self, samples: Samples, candidates: Collection[str] | None = None, *, from_s: float = 0.0
    ) -> list[Heard]:
        """All prompts in what was heard after `from_s`, in order, whole or cut off; of `candidates`, or of all."""
        skipped = int(from_s * RATE)
        listening = _Listening(samples[skipped:])
        known = self._prompts.keys() if candidates is None else candidates
        found: list[Heard] = []
        for prompt in known:
            if prompt not in self._loops:
                found += [heard for heard in self._in(listening, prompt) if heard.partly]
        found.sort(key=_weight, reverse=True)
        told: list[Heard] = []
        for heard in found:
            over = next((i for i, other in enumerate(told) if _overlap(heard, other) > 0.5), None)
            if over is None:
                told.append(heard)
            elif abs(heard.at_s - told[over].at_s) <= SLACK / RATE:
                told[over] = self._against(listening, told[over], {heard.prompt})
        for loop in self._loops & set(known):
            told += self._loop_in(listening, loop)
        return [_later(heard, skipped / RATE) for heard in sorted(told, key=lambda h: h.at_s)]

    def everyday(self) -> list[str]:
        """Without names, numbers and times of day: ids that differ in the last word alone, if there are twenty."""
        families = Counter(prompt.rpartition("-")[0] for prompt in self._prompts)
        return [prompt for prompt in self._prompts if families[prompt.rpartition("-")[0]] < 20]

    def _template(self, prompt: str) -> _Template:
        if prompt not in self._templates:
            self._templates[prompt] = _Template(self._prompts[prompt])
        return self._templates[prompt]

    def _in(self, listening: _Listening, prompt: str) -> list[Heard]:
        """Every place where `prompt` may have been heard."""
        template = self._template(prompt)
        return [
            heard for start in listening.starts(template) if (heard := self._heard(listening, prompt, template, start))
        ]

    def _heard(self, listening: _Listening, prompt: str, template: _Template, start: int) -> Heard | None:
        scores, late, heard = template.blocks.compare(listening.samples, start)
        if not heard.any():
            return None
        starts = template.blocks.starts
        last = int(np.flatnonzero(heard)[-1])
        first = int(np.flatnonzero(heard)[0])
        at = start + int(late[first])
        until = start + int(starts[last] + late[last]) + BLOCK
        cut = None if heard[-1] else (int(starts[last]) + BLOCK - template.begin) / RATE
        if cut is not None and np.mean(heard[: last + 1]) < SHARE_PASSES:
            cut = 0.0  # bits and pieces: not a prompt cut off
        counted = scores if not cut else scores[: last + 1]
        return Heard(prompt, at / RATE, until / RATE, float(np.mean(counted)), float(np.mean(heard)), cut)

    def one_word_apart(self, prompt: str) -> list[str]:
        """Prompts whose ids differ from this one in a single word: they may well sound alike."""
        words = prompt.split("-")
        return [
            other
            for other in self._prompts
            if other not in self._loops
            and len(theirs := other.split("-")) == len(words)
            and sum(a != b for a, b in zip(words, theirs, strict=True)) == 1
        ]

    def _against(self, listening: _Listening, heard: Heard, rivals: Collection[str]) -> Heard:
        """The same, with the lead over its closest rival."""
        start = round(heard.at_s * RATE)
        blocks = self._template(heard.prompt).blocks
        match = blocks.compare(listening.samples, start)
        if not match.heard.any():
            return heard

        def fine(prompt: str) -> Samples:
            """Scores of the fine blocks, each looked for as late as the prompt was there."""
            theirs = self._template(prompt).fine_blocks
            late = np.interp(theirs.starts, blocks.starts[match.heard], match.late[match.heard])
            return theirs.at(listening.samples, theirs.starts + start + late.astype(np.int64)).scores

        own = fine(heard.prompt)
        for rival in rivals:
            gap = self._gap(heard.prompt, own, rival, fine)
            if gap < heard.gap:
                heard = replace(heard, gap=gap, rival=rival)
        return heard

    def _gap(self, prompt: str, own: Samples, rival: str, fine: Callable[[str], Samples]) -> float:
        """1: it sounds like `prompt` where the two differ; -1: like `rival`. 1 if they do not differ at all."""
        ours, theirs = self._differences(prompt, rival), self._differences(rival, prompt)
        if float(ours.max()) < LEAST_DIFFERENCE or float(theirs.max()) < LEAST_DIFFERENCE:
            return 1.0
        lead = float(np.average(own, weights=ours)) - float(np.average(fine(rival), weights=theirs))
        most = (float(np.average(ours, weights=ours)) + float(np.average(theirs, weights=theirs))) / 2
        return float(np.clip(lead / most, -1, 1))

    def _differences(self, one: str, other: str) -> Samples:
        """How much each fine block of `one` differs from `other` at the same place, 0 to 1."""
        if (one, other) not in self._weights:
            blocks = self._template(one).fine_blocks
            scores = blocks.at(self._template(other).samples, blocks.starts).scores
            self._weights[one, other] = np.where(scores > 0.95, 0, 1 - scores).astype(np.float32)
        return self._weights[one, other]

    def _loop_in(self, listening: _Listening, loop: str) -> list[Heard]:
        """Stretches of a loop, wherever it was joined and however often it went round."""
        if loop not in self._music:
            once = _coarse(self._prompts[loop])
            self._music[loop] = _Spread(np.concatenate([once, once[:_WINDOW]]), _WINDOW)
        step = int(_WINDOW_STEP_S * _COARSE_RATE)
        stretches: list[list[tuple[int, float]]] = []
        for start in range(0, len(listening.coarse) - _WINDOW + 1, step):
            window = listening.coarse[start : start + _WINDOW]
            if float(np.sqrt(np.mean(window**2))) < FAINTEST:
                continue
            score = float(self._music[loop].find(_unit_spectrum(window)).max())
            if score < _MUSIC_PASSES:
                continue
            if stretches and start - stretches[-1][-1][0] <= 3 * step:  # a stutter
                stretches[-1].append((start, score))
            else:
                stretches.append([(start, score)])
        found: list[Heard] = []
        for stretch in stretches:
            at_s = stretch[0][0] / _COARSE_RATE
            until_s = (stretch[-1][0] + _WINDOW) / _COARSE_RATE
            if until_s - at_s >= MUSIC_LEAST_S:
                found.append(Heard(loop, at_s, until_s, float(np.mean([s for _, s in stretch])), 1.0))
        return found


def _weight(heard: Heard) -> float:
    """How much sound speaks for it."""
    return heard.score * (heard.until_s - heard.at_s)


def _overlap(heard: Heard, other: Heard) -> float:
    """Part of `heard` that lies within `other`."""
    both = min(heard.until_s, other.until_s) - max(heard.at_s, other.at_s)
    return max(both, 0.0) / max(heard.until_s - heard.at_s, 1e-6)


def _later(heard: Heard, by_s: float) -> Heard:
    return replace(heard, at_s=heard.at_s + by_s, until_s=heard.until_s + by_s)
