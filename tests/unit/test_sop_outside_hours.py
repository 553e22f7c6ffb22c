"""Outside hours, by the table: nobody is there and says so, the case is told to the proven only, a message is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.sop import (
    IDENTIFYING,
    MENUS,
    OUTSIDE_HOURS,
    SOP,
    TRIES,
    Do,
    Heard,
    Progress,
    State,
    step,
)
from ari_app.flow.story import Story

CLOSED = Progress(State.ADMITTING)
MENU = step(CLOSED, Heard.CLOSED_NOW)[0]
PROVEN = Progress(State.AFTER_HOURS, verified=True, closed=True)
OF_THE_CASE = {Do.SAY_PROVEN, Do.LOOK_UP_CASES, Do.SAY_CASES}


def along(call: Progress, *heard: Heard) -> tuple[Progress, list[Do]]:
    done: list[Do] = []
    for one in heard:
        call, actions = step(call, one)
        done += actions
    return call, done


def test_outside_hours_the_caller_is_told_and_offered_the_menu():
    call, actions = step(CLOSED, Heard.CLOSED_NOW)
    assert (call.state, call.closed, actions) == (State.AFTER_HOURS, True, (Do.SAY_CLOSED, Do.ASK))
    assert set(MENUS[State.AFTER_HOURS]) == {"1", "2", "3"}


@pytest.mark.parametrize("state", [State.AFTER_HOURS, State.SELF_SERVICE], ids=lambda state: state.name)
def test_zero_asks_the_clock_again_and_is_never_a_dead_end(state):
    call, actions = step(Progress(state, verified=True, closed=True), Heard.WANTS_A_PERSON)
    assert (call.state, call.closed, actions) == (State.ADMITTING, False, (Do.ADMIT,))
    assert step(call, Heard.ADMITTED)[0].state is State.WAITING
    assert step(call, Heard.CLOSED_NOW)[0].state is State.AFTER_HOURS


def test_whoever_is_not_proven_is_asked_who_calls_before_anything_of_the_case():
    call, actions = step(MENU, Heard.WANTS_CASE_STATUS)
    assert (call.state, actions) == (State.ASKING_ROLE, (Do.SAY_IDENTITY_FIRST, Do.ASK))
    call, done = along(
        call,
        Heard.SAID_PARTY,
        Heard.OWN_NUMBER,
        Heard.ENTERED,
        Heard.ENTERED,
        Heard.IDENTITY_PROVEN,
        Heard.CONTEXT_CAME,
    )
    assert call.state is State.SELF_SERVICE
    assert done[-2:] == [Do.FETCH_CONTEXT, Do.LOOK_UP_CASES]
    assert along(call, Heard.CASES_FOUND)[1] == [Do.SAY_CASES, Do.ASK]


def test_whoever_is_proven_hears_of_the_case_at_once():
    call, actions = step(PROVEN, Heard.WANTS_CASE_STATUS)
    assert (call.state, actions) == (State.SELF_SERVICE, (Do.LOOK_UP_CASES,))


@pytest.mark.parametrize(("state", "heard"), [one for one in OUTSIDE_HOURS if one[0] is not State.FETCHING_CONTEXT])
def test_identity_that_comes_to_nothing_comes_back_to_the_menu(state, heard):
    tries = TRIES - 1 if heard in (Heard.ENTRY_GIVEN_UP, Heard.IDENTITY_GIVEN_UP) else 0
    failure = {Heard.ENTRY_GIVEN_UP: Heard.NO_ENTRY, Heard.IDENTITY_GIVEN_UP: Heard.IDENTITY_NOT_PROVEN}.get(
        heard, heard
    )
    call, actions = step(Progress(state, tries=tries, rounds=tries, closed=True), failure)
    assert (call.state, actions) == (State.AFTER_HOURS, (Do.SAY_NO_STATUS, Do.ASK))


def test_after_three_rounds_no_more_identities_are_tried_on_this_call():
    """Else the menu would be a way around the limit of SOP-2."""
    call = Progress(State.AFTER_HOURS, rounds=TRIES, closed=True)
    after, actions = step(call, Heard.WANTS_CASE_STATUS)
    assert (after.state, actions) == (State.AFTER_HOURS, (Do.SAY_NO_STATUS, Do.ASK))


def test_within_hours_identity_leads_to_the_need_as_ever():
    for heard in (Heard.CONTEXT_CAME, Heard.CONTEXT_FAILED):
        assert step(Progress(State.FETCHING_CONTEXT, verified=True), heard)[0].state is State.ASKING_NEED
    assert step(Progress(State.CHECKING), Heard.IDENTITY_UNAVAILABLE)[0].state is State.ASKING_NEED
    for state in IDENTIFYING:
        assert step(Progress(state, tries=TRIES - 1), Heard.NO_ENTRY)[0].state is State.ASKING_NEED


def test_the_case_is_heard_again_or_left():
    told = Progress(State.SELF_SERVICE, verified=True, closed=True)
    assert step(told, Heard.HEAR_AGAIN) == (told, (Do.LOOK_UP_CASES,))
    assert step(told, Heard.GO_BACK)[0].state is State.AFTER_HOURS
    after, actions = step(told, Heard.CASES_UNAVAILABLE)
    assert (after.state, actions) == (State.AFTER_HOURS, (Do.SAY_CASES_UNAVAILABLE, Do.ASK))


# ---------------------------------------------------------------- messages


def test_a_message_is_recorded_after_the_tone_taken_and_confirmed():
    call, actions = step(MENU, Heard.WANTS_TO_LEAVE_MESSAGE)
    assert (call.state, actions) == (State.LEAVING_MESSAGE, (Do.SAY_LEAVE_MESSAGE,))
    call, done = along(call, Heard.PROMPT_ENDED, Heard.MESSAGE_LEFT)
    assert call.state is State.CLOSING
    assert done == [Do.RECORD_MESSAGE, Do.TAKE_MESSAGE, Do.SAY_MESSAGE_NOTED, Do.SAY_CLOSING, Do.LISTEN]


def test_an_empty_message_is_said_and_asked_for_again_the_third_time_the_menu():
    call = Progress(State.LEAVING_MESSAGE, closed=True)
    for _ in range(TRIES - 1):
        call, actions = step(call, Heard.MESSAGE_EMPTY)
        assert (call.state, actions) == (State.LEAVING_MESSAGE, (Do.SAY_MESSAGE_EMPTY,))
        call, _ = step(call, Heard.PROMPT_ENDED)
    call, actions = step(call, Heard.MESSAGE_EMPTY)
    assert (call.state, call.tries, actions) == (State.AFTER_HOURS, 0, (Do.SAY_MESSAGE_GIVEN_UP, Do.ASK))


@pytest.mark.parametrize("heard", [Heard.HUNG_UP, Heard.LINE_LOST, Heard.CEILING_REACHED])
def test_whatever_cuts_a_message_off_it_is_kept(heard):
    _, actions = step(Progress(State.LEAVING_MESSAGE, closed=True), heard)
    assert actions[0] is Do.TAKE_MESSAGE


def test_nothing_can_be_recorded_is_said():
    call, actions = step(Progress(State.LEAVING_MESSAGE, closed=True), Heard.MESSAGE_FAILED)
    assert (call.state, actions) == (State.AFTER_HOURS, (Do.SAY_MESSAGE_FAILED, Do.ASK))


def test_the_story_knows_which_message_is_being_left_and_which_were_taken():
    story = Story()

    def tell(at: float, *actions: Do) -> None:
        story.note(at, State.LEAVING_MESSAGE, Heard.PROMPT_ENDED, State.LEAVING_MESSAGE, actions)

    tell(1.0, Do.SAY_LEAVE_MESSAGE)
    tell(2.0, Do.RECORD_MESSAGE)
    assert story.recording == (1, 2.0)
    tell(8.0, Do.SAY_MESSAGE_EMPTY)
    assert story.recording is None
    tell(9.0, Do.TAKE_MESSAGE)
    assert story.messages == ()
    tell(10.0, Do.RECORD_MESSAGE)
    tell(20.0, Do.TAKE_MESSAGE)
    assert (story.recording, story.messages) == (None, ((4, 10.0, 20.0),))


# ---------------------------------------------------------------- every walk

HEARD_IN = {state: [heard for at, heard in SOP if at is state] for state in State}
HEARD_AROUND = [
    heard
    for state, heard in SOP
    if state in (State.LEAVING_MESSAGE, State.AFTER_HOURS) and heard is not Heard.ENTRY_GIVEN_UP
]
"""What may be heard around a message; that it is given up is for the table alone to say."""
THERE = [MENU, PROVEN, Progress(State.AFTER_HOURS, rounds=TRIES, closed=True), Progress(State.LEAVING_MESSAGE)]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(THERE), st.lists(st.integers(0, 10_000), max_size=80))
def test_nothing_of_the_case_is_told_before_identity_is_proven_and_three_rounds_are_all(call, turns):
    proven, tried = call.verified, call.rounds
    for turn in turns:
        choice = HEARD_IN[call.state] or list(Heard)
        heard = choice[turn % len(choice)] if turn % 5 else list(Heard)[turn % len(Heard)]
        checked = call.state is State.CHECKING
        proven |= checked and heard is Heard.IDENTITY_PROVEN
        call, actions = step(call, heard)
        tried += checked and heard is Heard.IDENTITY_NOT_PROVEN
        assert proven or not OF_THE_CASE & set(actions)
        assert proven or call.state is not State.SELF_SERVICE
        assert tried == call.rounds


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(HEARD_AROUND), max_size=40))
def test_whatever_was_recorded_is_taken_or_was_empty(path):
    call, story, at = MENU, Story(), 0.0
    for heard in [*path, Heard.HUNG_UP]:
        was = call
        call, actions = step(was, heard)
        at += 1.0
        story.note(at, was.state, heard, call.state, actions)
        if was.state is State.LEAVING_MESSAGE and call.state is not State.LEAVING_MESSAGE:
            assert Do.TAKE_MESSAGE in actions or heard in (Heard.MESSAGE_EMPTY, Heard.MESSAGE_FAILED)
            assert story.recording is None
    assert call.state is State.ENDED
