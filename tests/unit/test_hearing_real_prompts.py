"""The judge and the approved prompts themselves: each is known, none is taken for another."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ari_app.settings import PROJECT
from ari_app.testcall.hearing import RATE, Ear, PromptSounds, Samples

SOUNDS = PromptSounds(PROJECT / "dialplan" / "prompts" / "audio")
SENTENCES = [prompt for prompt in SOUNDS if prompt not in ("hold-music", "beep")]
FAMILIES = (
    "agent-pause-left-", "position-", "wait-", "opening-agent-", "is-it-", "whisper-", "digits-", "month-", "day-",
    "hour-", "minute-", "time-", "weekday-", "case-", "court-", "open-orders-",
)  # fmt: skip
EVERYDAY = [prompt for prompt in SENTENCES if not prompt.startswith(FAMILIES)]
SAMPLE = EVERYDAY + [prompt for prompt in SENTENCES if prompt.startswith(FAMILIES)][::9]


@cache
def ear() -> Ear:
    return Ear(SOUNDS)


def on_the_line(prompt: str) -> Samples:
    """At 20 dB above the noise, after a second of nothing else."""
    noise = np.random.default_rng(1).standard_normal(len(SOUNDS[prompt]) + 2 * RATE)
    sound = (noise * 0.1 * np.std(SOUNDS[prompt])).astype(np.float32)
    sound[RATE : RATE + len(SOUNDS[prompt])] += SOUNDS[prompt]
    return sound


@pytest.mark.parametrize("prompt", SAMPLE)
def test_each_prompt_is_known_and_its_neighbours_are_not(prompt: str) -> None:
    sound = on_the_line(prompt)
    heard = ear().judge(sound, prompt)
    assert heard.whole, str(heard)
    assert heard.at_s == pytest.approx(1.0, abs=0.02)
    for other in ear().one_word_apart(prompt)[::7]:
        if not np.array_equal(SOUNDS[other], SOUNDS[prompt]):
            wrong = ear().judge(sound, other)
            assert not wrong.whole, str(wrong)


def test_a_call_through_the_everyday_prompts_is_written_down() -> None:
    told = [prompt for prompt in EVERYDAY if prompt in ("opening", "ask-role", "ask-need", "transferring", "closing")]
    sound = np.concatenate([on_the_line(prompt) for prompt in told])
    assert [heard.prompt for heard in ear().transcript(sound, EVERYDAY)] == told


def test_what_was_heard_instead_is_sought_among_sentences() -> None:
    everyday = ear().everyday()
    assert {"opening", "ask-role", "fallback-sorry", "closing"} <= set(everyday)
    assert not [prompt for prompt in everyday if prompt.startswith(("position-", "wait-", "digits-", "minute-"))]
    assert len(everyday) < len(SOUNDS) / 4
