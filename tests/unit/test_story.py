from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.sop import Do, Heard, Progress, State, step
from ari_app.flow.story import Story


def told(*steps: tuple[float, Heard]) -> Story:
    story, progress = Story(), Progress()
    for at, heard in steps:
        was = progress
        progress, actions = step(was, heard)
        story.note(at, was.state, heard, progress.state, actions)
    return story


TO_THE_QUEUE = ((1.0, Heard.RANG_ENOUGH), (8.0, Heard.WANTS_A_PERSON), (8.0, Heard.ADMITTED))
TO_THE_TALK = (
    *TO_THE_QUEUE, (10.0, Heard.AGENT_RESERVED), (13.0, Heard.AGENT_ANSWERED), (16.0, Heard.WHISPER_ENDED),
)  # fmt: skip


def test_the_answer_is_when_it_was_first_given():
    story = told((1.0, Heard.RANG_ENOUGH), (3.0, Heard.RESUMED))
    assert story.answered_at == 1.0
    assert story.rows == 2
    assert story.spoke is not None
    assert story.spoke[:2] == (1, 3.0)


def test_a_wait_runs_from_joining_to_the_talk():
    assert told(*TO_THE_QUEUE).waiting_since == 8.0
    story = told(*TO_THE_TALK)
    assert (story.waiting_since, story.waited_s) == (None, 8.0)
    assert story.whispered == (4, 13.0)
    assert story.state_since == 16.0


def test_whose_agent_was_gone_at_the_join_waits_on_from_the_old_place():
    story = told(*TO_THE_TALK, (17.0, Heard.AGENT_LOST))
    assert (story.waiting_since, story.waited_s) == (8.0, 0.0)
    story = told(*TO_THE_TALK, (17.0, Heard.AGENT_LOST), (18.0, Heard.RESUMED), (20.0, Heard.HUNG_UP))
    assert (story.waiting_since, story.waited_s) == (None, 12.0)
    assert story.last_before_end is State.WAITING


def test_whoever_is_handed_on_keeps_the_place_until_the_next_talk():
    handed_on = (*TO_THE_TALK, (60.0, Heard.TRANSFER_TO_PARTY_LINE))
    assert told(*handed_on).handed_on_place == 8.0
    waits = (*handed_on, (60.0, Heard.ADMITTED))
    assert (told(*waits).handed_on_place, told(*waits).waiting_since, told(*waits).waited_s) == (8.0, 60.0, 8.0)
    served = (*waits, (70.0, Heard.AGENT_RESERVED), (73.0, Heard.AGENT_ANSWERED), (76.0, Heard.WHISPER_ENDED))
    assert told(*served).handed_on_place is None
    assert told(*TO_THE_QUEUE).handed_on_place is None


def test_the_five_seconds_begin_when_they_are_given_and_are_void_once_the_caller_wants_a_person():
    to_the_end = (*TO_THE_TALK, (30.0, Heard.CLOSING_ASKED), (30.0, Heard.RATING_NOT_ASKED), (33.0, Heard.PROMPT_ENDED))
    story = told(*to_the_end)
    assert (story.released_at, story.closing_ended_at) == (30.0, 33.0)
    assert told(*to_the_end, (35.0, Heard.WANTS_A_PERSON), (35.0, Heard.ADMITTED)).closing_ended_at is None


def test_a_reason_is_heard_from_the_end_of_its_question_and_only_until_it_is_given():
    bad = (*TO_THE_TALK, (30.0, Heard.CLOSING_ASKED), (32.0, Heard.RATED_1))
    assert (told(*bad).rated, told(*bad).reason_since) == (True, None)
    listened_to = (*bad, (36.0, Heard.PROMPT_ENDED))
    assert told(*listened_to).reason_since == 36.0
    assert told(*listened_to, (40.0, Heard.RESUMED)).reason_since is None
    for ended in (Heard.REASON_GIVEN, Heard.WANTS_A_PERSON, Heard.HUNG_UP):
        assert told(*listened_to, (45.0, ended)).reason_since is None
    assert not told(*TO_THE_TALK, (30.0, Heard.CLOSING_ASKED)).rated


def test_a_callback_is_noted_when_it_is_agreed_with_what_was_said_of_the_time_of_day():
    asked = (*TO_THE_QUEUE, (20.0, Heard.WANTS_CALLBACK), (25.0, Heard.NUMBER_RIGHT))
    assert (told(*asked).callback_asked_at, told(*asked).callback_noted) == (20.0, None)
    assert told(*asked, (31.0, Heard.SAID_MORNING)).callback_noted == (31.0, Heard.SAID_MORNING)


def test_why_the_person_called_was_not_reached_outlives_a_restart():
    calling = (
        (0.0, Heard.CALL_PLACED), (4.0, Heard.AGENT_ANSWERED), (7.0, Heard.WHISPER_ENDED),
    )  # fmt: skip
    assert told(*calling).unreached is None
    story = told(*calling, (12.0, Heard.OUTSIDE_BUSY), (13.0, Heard.RESUMED))
    assert story.unreached is Heard.OUTSIDE_BUSY


def test_the_ceiling_and_a_lost_line_are_remembered():
    story = told(*TO_THE_QUEUE, (1800.0, Heard.CEILING_REACHED))
    assert story.at_ceiling
    assert story.last_before_end is State.WAITING
    assert not story.lost
    assert told(*TO_THE_QUEUE, (9.0, Heard.LINE_LOST)).lost


def test_a_place_that_was_never_left_cannot_be_gone_back_to():
    story = Story()
    story.note(5.0, State.TALKING, Heard.AGENT_LOST, State.WAITING, (Do.REJOIN_QUEUE,))
    assert (story.waiting_since, story.waited_s) == (5.0, 0.0)


@given(st.lists(st.sampled_from(list(Heard)), max_size=40))
def test_nobody_waits_and_talks_at_once_and_no_wait_is_negative(path):
    story, progress = Story(), Progress()
    for at, heard in enumerate((Heard.RANG_ENOUGH, *path)):
        was = progress
        progress, actions = step(was, heard)
        story.note(float(at), was.state, heard, progress.state, actions)
        assert story.waited_s >= 0
        assert (story.waiting_since is not None) == (
            progress.state in (State.WAITING, State.OFFERING, State.WHISPERING)
        )


def test_the_second_line_is_sought_since_the_first_time_until_somebody_is_there():
    asked = (*TO_THE_TALK, (30.0, Heard.CONSULT_ASKED))
    assert told(*asked).second_since == 30.0
    assert told(*asked, (40.0, Heard.AGENT_REFUSED), (50.0, Heard.AGENT_LEFT)).second_since == 30.0
    answered = (*asked, (60.0, Heard.AGENT_ANSWERED), (62.0, Heard.WHISPER_ENDED))
    story = told(*answered)
    assert story.second_since is None
    assert story.whispered == (story.rows - 2, 60.0)
    assert told(*answered, (70.0, Heard.BACK_ASKED)).released_at == 70.0


def test_a_talk_is_billed_anew_from_the_moment_a_leader_takes_it_over():
    assert told(*TO_THE_TALK, (20.0, Heard.DISCLAIMER_ASKED)).state_since == 16.0
    story = told(*TO_THE_TALK, (20.0, Heard.TAKEN_OVER))
    assert (story.state_since, story.released_at) == (20.0, 20.0)
