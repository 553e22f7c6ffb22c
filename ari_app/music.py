"""The hold music, a minute composed by this script, so that it belongs to nobody else; and the beep of a message.

Soft plucked tones over slow chords in a pentatonic scale that moves to another key every six bars. The melody wanders
by a seeded choice and each string is a few cents off in its own way, so that a recording of any half second can be
told from any other; what rings on past the end rings on into the beginning.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float64]

BEAT_S = 0.625
BARS = 24
BEATS_A_BAR = 4
SECONDS = BARS * BEATS_A_BAR * BEAT_S
SEED = 12368

SCALE_HZ = [261.63 * 2 ** (step / 12) for octave in (0, 12) for step in (octave + s for s in (0, 2, 4, 7, 9))]
"""Gong mode on C, two octaves from C4: within the telephone's band, fundamentals and all."""

KEYS = (0, 5, 2, 7)
"""Semitones above C, six bars each."""

DETUNED_CENTS = 12.0
"""Each tone is off by up to so much: a shimmer to the ear, another waveform to a correlation."""

SWAY_CENTS = 25.0
"""How far the pitch of a tone sways, as under a finger on the string."""

BEEP_HZ = 1000.0
BEEP_S = 0.5
BEEP_FADE_S = 0.02

CHORDS = ((0, 2, 3), (4, 0, 2), (3, 1, 4), (0, 3, 2), (4, 2, 1), (3, 0, 1))
RHYTHMS = ((0, 1, 2, 3), (0, 1.5, 2, 3), (0, 1, 2.5), (0, 2, 3), (0, 0.5, 1, 2, 3.5), (0, 2), (0.5, 1, 2, 3))


def compose(rate: int) -> Samples:
    """One minute, mono, looping seamlessly; level is up to the caller."""
    choice = np.random.default_rng(SEED)
    music = np.zeros(int(SECONDS * rate))
    place = 4

    def pluck(at_beat: float, degree: int, loudness: float, ring_s: float, late_s: float) -> None:
        cents = 100 * KEYS[int(at_beat) * len(KEYS) // (BARS * BEATS_A_BAR)] + choice.uniform(-1, 1) * DETUNED_CENTS
        pitch_hz = SCALE_HZ[degree] * 2 ** (cents / 1200)
        _add(music, rate, at_beat * BEAT_S + late_s, pitch_hz, loudness, ring_s, choice.uniform(2.5, 5.5))

    for bar in range(BARS):
        start = bar * BEATS_A_BAR
        chord = CHORDS[choice.integers(len(CHORDS))]
        for voice, degree in enumerate(chord):
            pluck(start, degree, 0.32, 3.2, 0.03 * voice)
        for beat in RHYTHMS[choice.integers(len(RHYTHMS))]:
            place = int(np.clip(place + choice.integers(-3, 4), 1, len(SCALE_HZ) - 1))
            pluck(start + beat, place, 0.55 + 0.2 * choice.random(), 1.8, 0.03 * choice.random())
    return np.asarray(music / np.abs(music).max())


def beep(rate: int) -> Samples:
    """After it a message is recorded: half a second of 1 kHz, faded in and out; level is up to the caller."""
    time = np.arange(int(BEEP_S * rate)) / rate
    fade = np.clip(np.minimum(time, BEEP_S - time) / BEEP_FADE_S, 0.0, 1.0)
    return np.asarray(fade * np.sin(2 * np.pi * BEEP_HZ * time))


def _add(
    music: Samples, rate: int, at_s: float, pitch_hz: float, loudness: float, ring_s: float, sway_hz: float
) -> None:
    """Adds one tone: a soft attack, a swaying pitch, and partials that die away the sooner the higher they are."""
    time = np.arange(int(ring_s * rate)) / rate
    swayed = time + (2 ** (SWAY_CENTS / 1200) - 1) * np.sin(2 * np.pi * sway_hz * time) / (2 * np.pi * sway_hz)
    tone = np.zeros_like(time)
    for partial, share in enumerate((1.0, 0.35, 0.15, 0.05), 1):
        if pitch_hz * partial < 0.42 * rate:
            decay = np.exp(-time * (2.0 + 1.5 * partial) / ring_s * 1.6)
            tone += share * decay * np.sin(2 * np.pi * pitch_hz * partial * swayed)
    attack, release = int(0.012 * rate), int(0.2 * ring_s * rate)
    tone[:attack] *= np.sin(np.linspace(0, np.pi / 2, attack)) ** 2
    tone[-release:] *= np.cos(np.linspace(0, np.pi / 2, release)) ** 2
    places = (int(at_s * rate) + np.arange(tone.size)) % music.size
    np.add.at(music, places, loudness * tone)
