"""The judge names what was said, where, and how much of it, on bad lines too; and nothing that was not said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.testcall.hearing import RATE, Ear, PromptSounds, Samples, read_sound, silences

SYLLABLE_S = 0.25
SAID = {
    "opening": "ni hao huan ying zhi dian fa fu",
    "ask-role": "lü shi qing an yi dang shi ren qing an er",
    "closing": "qing wen hai you qi ta ke yi",
    "disclaimer": "shang shu nei rong jin gong can kao",
    "entry-invalid": "shu ru you wu qing chong xin shu ru",
    "entry-cleared": "qing chong xin shu ru",
    "position-3": "nin xian zai pai zai di san wei",
    "position-4": "nin xian zai pai zai di si wei",
    "is-it-lawyer-yu2": "qing wen shi yu lü shi ma",
    "is-it-lawyer-yu3": "qing wen shi yu lü shi ma",
    "is-it-lawyer-wang": "qing wen shi wang lü shi ma",
}


def _syllable(name: str, rate: int = RATE) -> Samples:
    """Something like a syllable, always the same for one name: a gliding pitch through two resonances, and a hiss."""
    random = np.random.default_rng(sum(ord(c) * 31**i for i, c in enumerate(name)))
    t = np.arange(int(SYLLABLE_S * rate)) / rate
    pitch = random.uniform(150, 260) * (1 + random.uniform(-0.25, 0.25) * t / SYLLABLE_S)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    first, second = random.uniform(300, 900), random.uniform(1000, 2600)
    sound = np.zeros_like(t)
    for n in range(1, 14):
        hz = n * pitch
        sound += np.sin(n * phase) * (
            np.exp(-(((hz - first) / 150) ** 2)) + 0.6 * np.exp(-(((hz - second) / 250) ** 2))
        )
    hiss = random.standard_normal(len(t)) * np.exp(-t / 0.03) * random.uniform(0.05, 0.4)
    shape = np.minimum(1, t / 0.02) * np.minimum(1, (SYLLABLE_S - t) / 0.06)
    syllable: Samples = (0.2 * (sound / np.max(np.abs(sound)) + hiss) * shape).astype(np.float32)
    return syllable


def _said(words: str) -> Samples:
    return np.concatenate([_syllable(word) for word in words.split()])


PROMPTS = {prompt: _said(words) for prompt, words in SAID.items()}


def _music() -> Samples:
    """Twelve seconds of chords."""
    t = np.arange(12 * RATE) / RATE
    random = np.random.default_rng(5)
    notes = 220 * 2 ** (random.integers(0, 20, 24) / 12)
    sound = sum(
        np.sin(2 * np.pi * hz * t * k) / k * ((t >= n * 0.5) * np.exp(-np.clip(t - n * 0.5, 0, None) / 0.8))
        for n, hz in enumerate(notes)
        for k in (1, 2)
    )
    return (0.1 * np.asarray(sound)).astype(np.float32)


PROMPTS["hold-music"] = _music()
EAR = Ear(PROMPTS)


def pause(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), dtype=np.float32)


def noisy(sound: Samples, snr_db: float) -> Samples:
    noise = np.convolve(np.random.default_rng(1).standard_normal(len(sound)), [1, 0.8, 0.5, 0.2], "same")
    loudness = np.mean(sound[np.abs(sound) > 1e-3] ** 2)
    noise *= np.sqrt(loudness / 10 ** (snr_db / 10)) / np.std(noise)
    return np.asarray(sound + noise, dtype=np.float32)


def lossy(sound: Samples, share: float) -> Samples:
    """Frames of 20 ms that got lost are filled by what came before, as a phone does."""
    frames = sound[: len(sound) // 160 * 160].reshape(-1, 160).copy()
    for n in np.flatnonzero(np.random.default_rng(2).random(len(frames)) < share):
        frames[n] = frames[n - 1] * 0.7 if n else 0
    return frames.reshape(-1)


def slipping(sound: Samples, share: float) -> Samples:
    """Now and then a frame dropped or repeated, as a jitter buffer does."""
    random, out = np.random.default_rng(3), []
    for frame in sound[: len(sound) // 160 * 160].reshape(-1, 160):
        dice = random.random()
        out += [] if dice < share / 2 else [frame, frame] if dice > 1 - share / 2 else [frame]
    return np.concatenate(out)


def on_the_line(prompt: str) -> Samples:
    return np.concatenate([pause(1.3), PROMPTS[prompt], pause(0.7)])


LINES: dict[str, Callable[[Samples], Samples]] = {
    "clean": lambda sound: sound,
    "10 dB": lambda sound: noisy(sound, 10),
    "10 % loss": lambda sound: lossy(sound, 0.1),
    "slips": lambda sound: slipping(sound, 0.02),
    "faint": lambda sound: sound * 0.05,
    "loud": lambda sound: np.clip(sound * 5, -1, 1),
    "talked over": lambda sound: sound + 0.5 * np.resize(_said("wei ni hao wo shi zhang"), len(sound)),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("prompt", SAID)
def test_a_prompt_is_heard_whole_on_a_bad_line_too(line: str, prompt: str) -> None:
    heard = EAR.judge(LINES[line](on_the_line(prompt)), prompt)
    assert heard.whole, str(heard)
    assert heard.at_s == pytest.approx(1.3, abs=0.1)


@pytest.mark.parametrize("still_s", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("prompt", SAID)
def test_a_line_may_stand_still_for_a_moment_wherever_it_likes(prompt: str, still_s: float) -> None:
    sound = on_the_line(prompt)
    for at in np.arange(1.3 + 0.4, len(sound) / RATE - 0.7 - 0.3, 0.4):
        before, after = np.split(sound, [int(at * RATE)])
        heard = EAR.judge(np.concatenate([before, pause(still_s), after]), prompt)
        assert heard.whole, f"still at {at:.1f} s: {heard}"
        assert heard.at_s == pytest.approx(1.3, abs=0.1)


def test_a_prompt_in_two_pieces_is_not_whole() -> None:
    before, after = np.split(on_the_line("ask-role"), [int(2.5 * RATE)])
    for between in (pause(1.5), PROMPTS["closing"]):
        assert not EAR.judge(np.concatenate([before, between, after]), "ask-role").whole


@pytest.mark.parametrize("prompt", SAID)
def test_at_0_db_it_is_still_named_and_placed(prompt: str) -> None:
    heard = EAR.judge(noisy(on_the_line(prompt), 0), prompt)
    assert heard.score > 0.5
    assert heard.share > 0.6
    assert heard.at_s == pytest.approx(1.3, abs=0.1)


@pytest.mark.parametrize("line", [*LINES, "0 dB"])
@pytest.mark.parametrize("said", SAID)
def test_no_other_prompt_passes(said: str, line: str) -> None:
    sound = noisy(on_the_line(said), 0) if line == "0 dB" else LINES[line](on_the_line(said))
    for other in SAID.keys() - {said}:
        if SAID[other] not in SAID[said]:  # entry-cleared is the second half of entry-invalid
            assert not EAR.judge(sound, other).whole, f"{other} in {said}"


def test_a_prompt_cut_at_80_percent_is_not_whole_but_partly_heard() -> None:
    length = len(PROMPTS["ask-role"])
    sound = np.concatenate([pause(1), PROMPTS["ask-role"][: length * 8 // 10], pause(2)])
    for line in (sound, noisy(sound, 10), np.concatenate([sound[: -2 * RATE], PROMPTS["closing"]])):
        heard = EAR.judge(line, "ask-role")
        assert not heard.whole
        assert heard.partly
        assert heard.cut_at_s == pytest.approx(0.8 * length / RATE, abs=0.4)


def test_a_prompt_whose_middle_is_missing_is_not_heard() -> None:
    sound = on_the_line("ask-role")
    sound[int(2.3 * RATE) : int(3.4 * RATE)] = 0
    heard = EAR.judge(sound, "ask-role")
    assert not heard.whole
    assert not heard.partly


@pytest.mark.parametrize(("said", "other"), [("position-3", "position-4"), ("position-4", "position-3")])
def test_near_duplicates_are_settled_by_the_word_in_which_they_differ(said: str, other: str) -> None:
    sound = on_the_line(said)
    assert EAR.judge(sound, said).gap > 0.9
    assert EAR.judge(sound, other).gap < -0.9
    assert not EAR.judge(sound, other, whole=True).whole
    assert [heard.prompt for heard in EAR.transcript(sound)] == [said]


def test_near_duplicates_cut_before_their_word_leave_it_open() -> None:
    sound = np.concatenate([pause(1), PROMPTS["position-3"][: int(1.4 * RATE)], pause(1)])
    for prompt in ("position-3", "position-4"):
        heard = EAR.judge(sound, prompt)
        assert heard.partly
        assert abs(heard.gap) < 0.25
        unasked = EAR.judge(sound, prompt, whole=True)
        assert (unasked.whole, unasked.rival) == (False, "")


def test_recordings_that_do_not_differ_are_not_told_apart() -> None:
    assert EAR.judge(on_the_line("is-it-lawyer-yu2"), "is-it-lawyer-yu3").whole
    assert not EAR.judge(on_the_line("is-it-lawyer-yu2"), "is-it-lawyer-wang").whole


def test_against_names_further_rivals() -> None:
    heard = EAR.judge(on_the_line("position-3"), "position-4", against={"closing", "position-3"})
    assert heard.rival == "position-3"


def test_of_two_the_first_is_told_and_the_second_from_there_on() -> None:
    sound = np.concatenate([on_the_line("entry-invalid"), on_the_line("entry-invalid")])
    first = EAR.judge(sound, "entry-invalid")
    second = EAR.judge(sound, "entry-invalid", from_s=first.until_s)
    assert (first.whole, second.whole) == (True, True)
    assert second.at_s - first.at_s == pytest.approx(len(sound) / 2 / RATE, abs=0.05)


def test_a_transcript_tells_a_whole_call_in_order() -> None:
    told = ["opening", "ask-role", "entry-invalid", "position-4", "closing"]
    music = PROMPTS["hold-music"][5 * RATE : 11 * RATE]
    sound = np.concatenate([*(part for prompt in told for part in (pause(0.3), PROMPTS[prompt])), pause(1), music])
    for line in ("clean", "10 dB", "10 % loss"):
        transcript = EAR.transcript(LINES[line](sound))
        assert [heard.prompt for heard in transcript] == [*told, "hold-music"]
        assert all(heard.whole for heard in transcript)
    assert [heard.prompt for heard in EAR.transcript(sound, ["closing", "opening"], from_s=1.0)] == ["closing"]


def test_a_prompt_cut_off_shows_in_the_transcript() -> None:
    sound = np.concatenate([pause(0.5), PROMPTS["ask-role"][: int(1.5 * RATE)], PROMPTS["closing"], pause(0.5)])
    cut, whole = EAR.transcript(sound)
    assert (cut.prompt, cut.whole, whole.prompt, whole.whole) == ("ask-role", False, "closing", True)
    assert "cut after" in str(cut)


def test_music_is_heard_from_any_place_and_over_its_end() -> None:
    music = PROMPTS["hold-music"]
    sound = np.concatenate([pause(1), music[10 * RATE :], music[: 4 * RATE], pause(1), PROMPTS["opening"]])
    heard = EAR.judge(sound, "hold-music")
    assert heard.at_s == pytest.approx(1, abs=0.6)
    assert heard.until_s == pytest.approx(7, abs=0.6)
    assert heard.whole
    assert not EAR.judge(on_the_line("ask-role"), "hold-music").whole


@pytest.mark.parametrize("sound", [pause(0), pause(0.1), pause(5), noisy(on_the_line("opening"), 30)[:1000]])
def test_nothing_is_heard_in_nothing(sound: Samples) -> None:
    assert EAR.transcript(sound) == []
    assert not EAR.judge(sound, "opening").whole
    assert not EAR.judge(sound, "hold-music").whole


def test_an_unknown_prompt_is_an_error() -> None:
    assert "opening" in EAR
    with pytest.raises(KeyError):
        EAR.judge(pause(1), "opneing")


@given(at=st.floats(0, 5), seed=st.integers(0, 2**16), prompt=st.sampled_from(["opening", "closing", "position-3"]))
@settings(max_examples=25, deadline=None)
def test_wherever_it_is_said_it_is_found_there(at: float, seed: int, prompt: str) -> None:
    hiss = np.random.default_rng(seed).standard_normal(int(12 * RATE)) * 0.005
    sound = hiss.astype(np.float32)
    start = int(at * RATE)
    sound[start : start + len(PROMPTS[prompt])] += PROMPTS[prompt]
    heard = EAR.judge(sound, prompt)
    assert heard.whole
    assert heard.at_s == pytest.approx(at, abs=0.01)


def test_silences_are_found() -> None:
    sound = np.concatenate([pause(1), PROMPTS["opening"], pause(2), PROMPTS["closing"], pause(0.4)])
    end_s = 1 + len(PROMPTS["opening"]) / RATE
    assert np.array(silences(sound, 0.9)) == pytest.approx(np.array([[0, 1], [end_s, end_s + 2]]), abs=0.05)


def test_a_law_is_read(tmp_path: Path) -> None:
    file = tmp_path / "loudest.alaw"
    file.write_bytes(bytes([0xAA, 0x2A, 0xD5, 0x55]))
    assert read_sound(file) * 32768 == pytest.approx([32256, -32256, 8, -8])
    sounds = PromptSounds(tmp_path)
    assert list(sounds) == ["loudest"]
    assert len(sounds) == 1


def test_a_minute_and_a_half_is_judged_in_well_under_real_time() -> None:
    sound = np.concatenate([part for prompt in SAID for _ in range(3) for part in (pause(0.7), PROMPTS[prompt])])
    EAR.transcript(sound[: 10 * RATE])
    began = time.process_time()
    EAR.transcript(sound)
    assert time.process_time() - began < len(sound) / RATE / 10
