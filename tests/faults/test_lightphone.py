"""The light phones' ears, their plans, and what they write on the wire."""

from __future__ import annotations

import itertools
import math
from random import Random

import pytest

from ari_app.settings import PROJECT
from tests.faults.harm import WEIGHTS, planned
from tests.faults.lightphone import AGENT_TONE, CALLER_TONE, Late, Message, _alaw, repeats
from tests.faults.people import KINDS, plan_caller
from tests.faults.silence import SilenceMeter, judged, loud

SILENT = bytes([0xD5]) * 160
FAINT = bytes(0xD5 ^ (0x80 * (n % 2)) for n in range(160))
AUDIO = PROJECT / "dialplan" / "prompts" / "audio"


def packets(name: str) -> list[bytes]:
    audio = (AUDIO / f"{name}.alaw").read_bytes()
    return [audio[n : n + 160] for n in range(0, len(audio) - 160, 160)]


def test_what_is_loud() -> None:
    assert loud(CALLER_TONE)
    assert loud(AGENT_TONE)
    assert not loud(SILENT)
    assert not loud(FAINT)


def test_a_meter_keeps_silences_and_where_they_were() -> None:
    meter = SilenceMeter(100.0)
    for n in range(1000):  # 20 s: sound until 5 s, silence until 12 s, sound to the end
        at = 100 + n * 0.02
        meter.packet(at, not 105 <= at < 112)
    meter.ends(120.0)
    assert meter.gaps == [pytest.approx((105.0, 112.0), abs=0.1)]
    assert meter.sounded_s == pytest.approx(13.0, abs=0.1)


def test_silence_without_any_packet_counts_from_the_answer_to_the_end() -> None:
    meter = SilenceMeter(100.0)
    meter.ends(106.5)
    assert meter.gaps == [(100.0, 106.5)]


def test_a_click_breaks_no_silence() -> None:
    meter = SilenceMeter(100.0)
    for n in range(400):
        meter.packet(100 + n * 0.02, n % 100 in (50, 51))
    meter.ends(108.0)
    assert meter.gaps == [(100.0, 108.0)]


@pytest.mark.parametrize("prompt", ["opening", "ask-name", "closing", "hold-music", "fallback-leave-number"])
def test_prompts_and_music_hold_no_silence_that_would_be_kept(prompt: str) -> None:
    meter = SilenceMeter(0.0)
    heard = packets(prompt)
    for n, packet in enumerate(heard):
        meter.packet(n * 0.02, loud(packet))
    meter.ends(len(heard) * 0.02)
    assert meter.gaps == []


def test_tones_are_told_from_each_other_and_from_speech() -> None:
    assert repeats(AGENT_TONE, 8)
    assert not repeats(CALLER_TONE, 8)
    assert repeats(CALLER_TONE, 16)
    assert not repeats(SILENT, 8)
    assert not any(repeats(packet, 8) for packet in packets("opening") + packets("hold-music") if loud(packet))


def test_alaw_agrees_with_the_judges_table() -> None:
    from ari_app.testcall.hearing import _ALAW

    for n in range(-20, 21):
        assert _ALAW[_alaw(n / 21)] == pytest.approx(n / 21, abs=0.02 + abs(n) / 21 * 0.04)
    assert math.isclose(max(abs(_ALAW[code]) for code in AGENT_TONE), 0.12, abs_tol=0.01)


def test_lateness_is_kept_once() -> None:
    late = Late()
    late.note(10.0, 10.05)
    late.note(11.0, 11.3)
    late.note(11.005, 11.301)
    late.note(20.0, 20.2)
    assert late.spans == [(11.0, 11.301), (20.0, 20.2)]
    assert judged((10.9, 11.4), late.spans) == pytest.approx(0.199)


def test_a_seed_plans_the_same_calls_and_faults() -> None:
    assert [plan_caller(7, n, 0.0) for n in range(50)] == [plan_caller(7, n, 0.0) for n in range(50)]
    assert plan_caller(7, 1, 0.0) != plan_caller(8, 1, 0.0)
    once, again = (list(itertools.islice(planned(7, 20.0), 40)) for _ in range(2))
    assert once == again


def test_plans_hold_every_kind() -> None:
    plans = [plan_caller(1, n, 0.0) for n in range(500)]
    assert {plan.kind for plan in plans} == set(KINDS)
    assert len({plan.number for plan in plans}) == 500
    assert {fault.kind for fault in itertools.islice(planned(1, 20.0), 500)} == set(WEIGHTS)


def test_faults_come_as_often_as_asked() -> None:
    gaps = [fault.after_s for fault in itertools.islice(planned(3, 20.0), 2000)]
    assert sum(gaps) / len(gaps) == pytest.approx(20.0, rel=0.1)


def test_messages_read_as_they_are_written() -> None:
    message = Message(
        "INVITE sip:1@b SIP/2.0", [("Via", "x;branch=z9hG4bK1"), ("CSeq", "1 INVITE"), ("t", "<sip:1@b>")], "v=0"
    )
    read = Message.read(bytes(message))
    assert (read.method, read.branch, read.one("to"), read.body) == ("INVITE", "z9hG4bK1", "<sip:1@b>", "v=0")
    answer = Message.read(bytes(read.answer(180, "Ringing", "abc")))
    assert (answer.code, answer.method, answer.one("to")) == (180, "INVITE", "<sip:1@b>;tag=abc")


def test_noise_is_not_a_tone() -> None:
    rng = Random(1)
    assert not repeats(bytes(rng.randrange(256) for _ in range(160)), 8)
