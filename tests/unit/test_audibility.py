"""Which parts of a talk are listened to, where they are in the recording, and what is made of what was heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.audibility import (
    AFTER_THE_JOIN_S,
    AGENT_FROM_S,
    BEFORE_THE_END_S,
    CALLER_FROM_S,
    LEAST_S,
    VOICE_FROM_DB,
    Unheard,
    held,
    in_the_recording,
    verdict,
    worth_hearing,
)

SPEECH_DB, COMFORT_NOISE_DB, NOTHING_DB = -22.0, -63.0, -90.3
SPANS = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 100)).map(lambda one: (one[0], one[0] + one[1])), max_size=6)


@pytest.mark.parametrize(
    ("seconds", "caller_db", "agent_db", "unheard"),
    [
        (60, SPEECH_DB, SPEECH_DB, Unheard.NOBODY),
        (60, NOTHING_DB, SPEECH_DB, Unheard.CALLER),
        (60, COMFORT_NOISE_DB, SPEECH_DB, Unheard.CALLER),
        (60, SPEECH_DB, NOTHING_DB, Unheard.AGENT),
        (60, COMFORT_NOISE_DB, NOTHING_DB, Unheard.BOTH),
        (CALLER_FROM_S - 0.1, NOTHING_DB, SPEECH_DB, Unheard.NOBODY),
        (CALLER_FROM_S, NOTHING_DB, SPEECH_DB, Unheard.CALLER),
        (AGENT_FROM_S, SPEECH_DB, NOTHING_DB, Unheard.AGENT),
        (AGENT_FROM_S, NOTHING_DB, NOTHING_DB, Unheard.AGENT),
        (AGENT_FROM_S - 0.1, SPEECH_DB, NOTHING_DB, Unheard.NOBODY),
        (60, VOICE_FROM_DB, VOICE_FROM_DB, Unheard.NOBODY),
        (0, NOTHING_DB, NOTHING_DB, Unheard.NOBODY),
    ],
)
def test_who_was_not_heard(seconds, caller_db, agent_db, unheard):
    found = verdict(seconds, caller_db, agent_db)
    assert found.unheard is unheard
    assert found.judged == (seconds >= AGENT_FROM_S)


def test_the_sides_that_are_counted():
    assert [one.sides for one in Unheard] == [(), ("caller",), ("agent",), ("caller", "agent")]


def test_a_talk_is_listened_to_but_for_its_edges():
    assert worth_hearing([(100.0, 160.0)], []) == [(101.0, 159.5)]
    assert worth_hearing([(100.0, 102.0)], []) == []
    assert worth_hearing([], [(100.0, 102.0)]) == []


def test_a_talk_whose_steps_follow_each_other_is_one():
    assert worth_hearing([(130.0, 160.0), (100.0, 130.0), (110.0, 120.0)], []) == [(101.0, 159.5)]


def test_a_consultation_between_is_not_listened_to():
    assert worth_hearing([(100.0, 130.0), (150.0, 160.0)], []) == [(101.0, 129.5), (151.0, 159.5)]


def test_nobody_is_expected_to_speak_on_hold_or_under_a_prompt():
    assert worth_hearing([(100.0, 160.0)], [(100.0, 103.0), (120.0, 140.0)]) == [(104.0, 119.5), (141.0, 159.5)]
    assert worth_hearing([(100.0, 160.0)], [(90.0, 170.0)]) == []
    assert worth_hearing([(100.0, 160.0)], [(20.0, 30.0), (200.0, 210.0)]) == [(101.0, 159.5)]


def test_holds_of_two_phones_and_one_that_is_never_ended():
    rows = [(10.0, "601", True), (12.0, "caller", True), (13.0, "601", True), (20.0, "601", False),
            (25.0, "602", False), (30.0, "caller", False), (40.0, "601", True)]  # fmt: skip
    assert held(rows, 50.0) == [(10.0, 20.0), (12.0, 30.0), (40.0, 50.0)]


def test_a_recording_of_the_whole_time_has_a_span_where_it_was():
    assert in_the_recording([(1010.0, 1030.0)], 1000.0, 1060.0, 60.0) == [(10.0, 30.0)]


def test_a_recording_that_goes_on_after_the_call_is_read_from_its_start():
    assert in_the_recording([(1010.0, 1030.0)], 1000.0, 1060.0, 75.0) == [(10.0, 30.0)]


def test_of_a_recording_in_which_time_is_missing_only_what_is_certain_is_listened_to():
    assert in_the_recording([(1010.0, 1030.0)], 1000.0, 1060.0, 55.0) == [(10.0, 25.0)]
    assert in_the_recording([(1010.0, 1030.0)], 1000.0, 1060.0, 40.5) == []
    assert in_the_recording([(1010.0, 1030.0)], 1020.0, 1060.0, 40.0) == []


@given(SPANS, SPANS)
def test_what_is_listened_to_lies_in_the_talk_and_beside_every_hold_and_prompt(together, nobody_speaks):
    for begin, end in worth_hearing(together, nobody_speaks):
        assert end - begin >= LEAST_S
        middle = (begin + end) / 2
        for moment in (begin, middle, end):
            assert any(since <= moment <= until for since, until in together)
        for since, until in nobody_speaks:
            assert end <= since - BEFORE_THE_END_S or begin >= until + AFTER_THE_JOIN_S


@given(st.floats(0, 50), st.floats(0, 20), st.floats(0, 60), st.floats(0, 5), st.floats(0, 60))
def test_whatever_is_missing_where_ever_a_span_is_only_of_its_own_time(before, quiet, talk, missing, after):
    """`missing` of the recording was lost in the quiet before the talk, in it, or after it."""
    begins, joined = 1000.0, 1000.0 + before + quiet
    ends = joined + talk + after
    seconds = ends - begins - missing
    for begin, end in in_the_recording([(joined, joined + talk)], begins, ends, seconds):
        for lost_before in (0.0, missing):
            assert begin + lost_before >= joined - begins - 1e-6
            assert end + lost_before <= joined + talk - begins + 1e-6
