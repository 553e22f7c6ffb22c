"""The SOP's laws: what must hold for every caller, whatever is heard in whatever order."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ari_app.features import FEATURES
from ari_app.flow import leading
from ari_app.flow.identity import Role
from ari_app.flow.keypad import Keyed, Keypad
from ari_app.flow.manual import manual
from ari_app.flow.sop import (
    ANYWHERE,
    ASKING,
    CONSULTED,
    ELEMENTS,
    ENTRIES,
    MENUS,
    NEEDS,
    NOT_TAKEN,
    QUESTIONS,
    RATED,
    SEEKING,
    SERVED,
    SOP,
    TRANSFERRED_TO,
    TRIES,
    UNTIMED,
    Do,
    Heard,
    Need,
    Progress,
    State,
    step,
)
from ari_app.flow.story import SPEAKING
from ari_app.rules import Rules
from ari_app.settings import PROJECT

EVERY_PAIR = list(product(State, Heard))
CASE_WORDS = {Do.SAY_PROVEN, Do.FETCH_CONTEXT, Do.LOOK_UP_CASES, Do.SAY_CASES}
"""What may be done only for a caller whose identity is proven."""


HEARD_IN = {state: [heard for at, heard in SOP if at is state] for state in State}
"""What changes something in each state."""

LEADS_ON = {
    state: [h for h in heard if SOP[state, h][0] is not state and h not in (Heard.HUNG_UP, Heard.CEILING_REACHED)]
    for state, heard in HEARD_IN.items()
}


def walked(*heard: Heard) -> tuple[Progress, list[Do]]:
    call, done = Progress(), []
    for one in heard:
        call, actions = step(call, one)
        done += actions
    return call, done


# ---------------------------------------------------------------- the table as a whole


@pytest.mark.parametrize("tries", range(TRIES + 1))
@pytest.mark.parametrize("rounds", range(TRIES + 1))
def test_every_state_has_an_answer_to_everything(tries, rounds):
    for state, heard in EVERY_PAIR:
        after, actions = step(Progress(state, tries=tries, rounds=rounds), heard)
        assert isinstance(after.state, State)
        assert all(isinstance(do, Do) for do in actions)


def test_what_comes_late_changes_nothing():
    for state, heard in EVERY_PAIR:
        if (state, heard) not in SOP and heard is not Heard.ENTRY_GIVEN_UP:
            call = Progress(state, Role.PARTY, need=Need.TIME, tries=1, rounds=1)
            assert step(call, heard) == (call, ())


@pytest.mark.parametrize("heard", Heard)
def test_an_ended_call_does_nothing(heard):
    ended = Progress(State.ENDED, Role.LAWYER, verified=True)
    assert step(ended, heard) == (ended, ())


@pytest.mark.parametrize("state", ANYWHERE, ids=lambda state: state.name)
def test_a_hangup_ends_the_call_from_anywhere(state):
    after, actions = step(Progress(state), Heard.HUNG_UP)
    assert after.state is State.ENDED
    assert Do.HANG_UP not in actions


@pytest.mark.parametrize("state", ANYWHERE, ids=lambda state: state.name)
def test_no_call_outlasts_its_ceiling(state):
    after, actions = step(Progress(state), Heard.CEILING_REACHED)
    if state in UNTIMED:
        assert (after.state, actions) == (state, ())
    else:
        assert after.state is State.OVERTIME
        assert actions[-1] is Do.SAY_CLOSING


@pytest.mark.parametrize("state", UNTIMED, ids=lambda state: state.name)
def test_a_state_without_a_ceiling_is_left_by_itself(state):
    """By a prompt that ends, a ring, five seconds, the look-up: never only by a key of somebody's."""
    by_itself = {
        Heard.RANG_ENOUGH, Heard.PROMPT_ENDED, Heard.FIVE_SECONDS_PASSED, Heard.CONTEXT_CAME, Heard.CONTEXT_FAILED,
        Heard.AGENT_NO_ANSWER, Heard.WHISPER_ENDED, Heard.OUTSIDE_NO_ANSWER,
    }  # fmt: skip
    assert any(to is not state for (at, heard), (to, _) in SOP.items() if at is state and heard in by_itself)


def ways(backwards: bool) -> set[State]:
    """States reached from the first ring; or, backwards, states from which the end is reached."""
    found, news = set(), {State.ENDED if backwards else State.RINGING}
    while news:
        found |= news
        if backwards:
            news = {at for (at, _), (to, _) in SOP.items() if to in news} - found
        else:
            news = {to for (at, _), (to, _) in SOP.items() if at in news} - found
    return found


def test_every_state_is_reached():
    assert ways(backwards=False) == set(State)


def test_every_state_reaches_the_end():
    assert ways(backwards=True) == set(State)


def test_everything_that_can_be_heard_or_done_is_in_the_table():
    said_by_step = {Heard.ENTRY_GIVEN_UP, Heard.IDENTITY_GIVEN_UP}
    assert {heard for _, heard in SOP} | said_by_step == set(Heard)
    assert {do for _, actions in SOP.values() for do in actions} == set(Do)


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize("state", QUESTIONS, ids=lambda state: state.name)
def test_zero_is_a_person_at_every_question(state):
    pad = Keypad(entry=ENTRIES[state]) if state in ENTRIES else Keypad(frozenset(MENUS[state]))
    assert Keyed.PERSON in (pad.press("0"), pad.quiet())
    after, actions = step(Progress(state), Heard.WANTS_A_PERSON)
    assert after.state is State.ADMITTING
    assert actions == (Do.ADMIT,)


def test_who_is_admitted_waits():
    after, actions = step(Progress(State.ADMITTING), Heard.ADMITTED)
    assert after.state is State.WAITING
    assert actions == (Do.SAY_TRANSFERRING, Do.JOIN_QUEUE)


NEEDED = [state for state in QUESTIONS if state is not State.RATING]
"""Questions whose answer the call needs; how a talk was it does not."""


@pytest.mark.parametrize("state", NEEDED, ids=lambda state: state.name)
def test_every_question_is_a_menu_or_an_entry_and_asks_again(state):
    assert (state in MENUS) != (state in ENTRIES)
    for heard in (Heard.NO_ENTRY, Heard.ENTRY_INVALID):
        after, actions = step(Progress(state), heard)
        assert after.state is state
        assert actions[-1] is Do.ASK


GIVEN_UP = {
    State.ASKING_ROLE: State.ADMITTING,
    State.ASKING_NEED: State.ADMITTING,
    State.AFTER_HOURS: State.CLOSING,
    State.SELF_SERVICE: State.CLOSING,
    State.CALLBACK_OFFERED: State.CLOSING,
    State.CALLBACK_NUMBER: State.ADMITTING,
    State.CALLBACK_ENTRY: State.ADMITTING,
    State.CALLBACK_WINDOW: State.CLOSING,
}
"""Where the call goes on without an answer; from an element of identity, to the need."""


@pytest.mark.parametrize("state", NEEDED, ids=lambda state: state.name)
@pytest.mark.parametrize("failure", [Heard.NO_ENTRY, Heard.ENTRY_INVALID])
def test_the_third_failure_at_a_question_is_the_last(state, failure):
    call = Progress(state)
    for _ in range(TRIES - 1):
        call, _ = step(call, failure)
        assert call.state is state
    call, actions = step(call, failure)
    assert call.state is GIVEN_UP.get(state, State.ASKING_NEED)
    assert call.tries == 0
    assert not call.verified
    assert (Do.SAY_CANNOT_VERIFY in actions) == (call.state is State.ASKING_NEED)


@pytest.mark.parametrize("state", NEEDED, ids=lambda state: state.name)
def test_starting_over_by_star_is_not_a_failure(state):
    call = Progress(state, tries=TRIES - 1)
    for _ in range(10):
        call, actions = step(call, Heard.ENTRY_CLEARED)
        assert call.state is state
        assert actions


def test_failures_are_counted_for_each_question_anew():
    call, _ = walked(
        Heard.RANG_ENOUGH, Heard.SAID_LAWYER, Heard.NO_ENTRY, Heard.NO_ENTRY, Heard.ENTERED, Heard.NO_ENTRY
    )
    assert (call.state, call.tries) == (State.LAWYER_NAME, 1)


@pytest.mark.parametrize("state", [*MENUS], ids=lambda state: state.name)
def test_every_key_of_a_menu_leads_somewhere(state):
    for heard in MENUS[state].values():
        after, _ = step(Progress(state), heard)
        assert after.state is not state or heard is Heard.HEAR_AGAIN


@pytest.mark.parametrize("said", NEEDS)
def test_each_need_is_kept_for_the_agent(said):
    call, _ = step(Progress(State.ASKING_NEED), said)
    assert call.need is NEEDS[said]
    assert set(NEEDS.values()) == set(Need)


# ---------------------------------------------------------------- identity

PARTY = (Heard.RANG_ENOUGH, Heard.SAID_PARTY, Heard.OWN_NUMBER, Heard.ENTERED, Heard.ENTERED)
PARTY_AGAIN = (Heard.SAID_PARTY, Heard.OTHER_NUMBER, Heard.ENTERED, Heard.ENTERED, Heard.ENTERED)
LAWYER = (
    Heard.RANG_ENOUGH, Heard.PROMPT_ENDED, Heard.SAID_LAWYER, Heard.ENTERED, Heard.ENTERED, Heard.ENTERED,
    Heard.NO_NUMBER_TO_OFFER, Heard.ENTERED,
)  # fmt: skip


PLACED = (Heard.CALL_PLACED, Heard.AGENT_ANSWERED, Heard.WHISPER_ENDED)


def asked_for(path: tuple[Heard, ...]) -> set[object]:
    """Elements that were asked for on the way."""
    call, elements = Progress(), set()
    for heard in path:
        if heard is Heard.OWN_NUMBER:
            elements.add("mobile")
        if heard is Heard.ENTERED:
            elements.add(ELEMENTS[call.state].value)
        call, _ = step(call, heard)
    assert call.state is State.CHECKING
    return elements


def test_a_check_comes_only_after_every_element_was_asked():
    assert asked_for(PARTY) == {"mobile", "case", "name"}
    assert asked_for(LAWYER) == {"firm", "name", "licence", "mobile"}
    assert {state for (state, _), (to, _) in SOP.items() if to is State.CHECKING is not state} == {
        State.LAWYER_NUMBER, State.LAWYER_MOBILE, State.PARTY_NAME,
    }  # fmt: skip


def test_the_third_round_of_identity_is_the_last_and_the_caller_may_go_on_unverified():
    call, _ = walked(*PARTY)
    for _ in range(TRIES - 1):
        call, actions = step(call, Heard.IDENTITY_NOT_PROVEN)
        assert call.state is State.ASKING_ROLE
        assert actions == (Do.SAY_RETRY, Do.ASK)
        for heard in PARTY_AGAIN:
            call, _ = step(call, heard)
    call, actions = step(call, Heard.IDENTITY_NOT_PROVEN)
    assert call.state is State.ASKING_NEED
    assert actions == (Do.SAY_CANNOT_VERIFY, Do.ASK)
    assert not call.verified
    assert step(call, Heard.SAID_MILESTONE)[0].state is State.ADMITTING


def test_the_same_is_said_whichever_element_was_wrong():
    """One word for a failed check: the table cannot tell a caller which element it was."""
    assert {actions for (_, heard), (_, actions) in SOP.items() if heard is Heard.IDENTITY_NOT_PROVEN} == {
        (Do.SAY_RETRY, Do.ASK)
    }
    assert len({row for (_, heard), row in SOP.items() if heard is Heard.IDENTITY_GIVEN_UP}) == 1


def test_another_role_may_be_chosen_in_the_second_round():
    call, _ = walked(*PARTY, Heard.IDENTITY_NOT_PROVEN, Heard.SAID_LAWYER)
    assert call.role is Role.LAWYER
    assert call.rounds == 1


# ---------------------------------------------------------------- every walk


def as_walk(turns: list[int], begun: tuple[Heard, ...] = ()) -> list[Heard]:
    """Mostly what leads on, at times what means something in its state, rarely anything at all."""
    call, path = walked(*begun)[0], [*begun]
    for turn in turns:
        choice = (LEADS_ON if turn % 8 > 1 else HEARD_IN if turn % 8 else {}).get(call.state) or list(Heard)
        path.append(choice[turn // 8 % len(choice)])
        call, _ = step(call, path[-1])
    return path


walks = st.builds(
    as_walk, st.lists(st.integers(0, 8 * len(Heard) - 1), max_size=60), st.sampled_from([(), PARTY, LAWYER, PLACED])
)


class Second(Enum):
    """How far the second line is."""

    NOBODY = auto()
    RUNG = auto()
    ANSWERED = auto()

    def may_be_heard(self, heard: Heard) -> bool:
        """Of what Asterisk and the desk tell while one is sought; who is gone, refuses or answers was rung before."""
        needed = {
            Heard.AGENT_RESERVED: Second.NOBODY, Heard.SECOND_LATE: Second.NOBODY,
            **dict.fromkeys((*NOT_TAKEN, Heard.AGENT_ANSWERED), Second.RUNG),
            Heard.WHISPER_ENDED: Second.ANSWERED, Heard.SECOND_LEFT: Second.ANSWERED,
        }  # fmt: skip
        return needed.get(heard, self) is self


@settings(max_examples=150, deadline=None)
@given(walks)
def test_agents_and_queue_are_never_left_behind(path):
    """Whatever happens: an agent is rung before the whisper and whispered to before the join; whoever was rung is
    joined or let go, once; whoever was joined is released, once; who joins the queue leaves it, once."""
    call = Progress()
    rung = whispered = joined = let_go = queued = sought = False
    second = Second.NOBODY
    for heard in [*path, Heard.HUNG_UP]:
        if call.state in SEEKING and not second.may_be_heard(heard):
            continue
        if call.state is State.TALKING and heard is Heard.TAKEN_OVER:
            second = Second.ANSWERED  # a leader, who sits there before the step
        call, actions = step(call, heard)
        for do in actions:
            match do:
                case Do.SEEK_SECOND:
                    assert second is Second.NOBODY or heard is Heard.RESUMED
                    sought = True
                case Do.LEAVE_SECOND_QUEUE:
                    sought = False
                case Do.RING_SECOND:
                    assert second is Second.NOBODY
                    second = Second.RUNG
                case Do.WHISPER_SECOND:
                    second = Second.ANSWERED
                case Do.CANCEL_SECOND:
                    let_go, second = let_go or second is not Second.NOBODY, Second.NOBODY
                case Do.FREE_SECOND | Do.PAUSE_SECOND:
                    let_go = False
                case Do.RELEASE_SECOND:
                    assert second is Second.ANSWERED
                    second = Second.NOBODY
                case Do.HAND_OVER:
                    assert second is Second.ANSWERED
                    assert not joined, "whoever had the caller is let go before"
                    rung = whispered = True
                    joined, second = heard is not Heard.WHISPER_ENDED, Second.NOBODY
                case Do.JOIN_QUEUE:
                    assert not queued
                    queued = True
                case Do.REJOIN_QUEUE:
                    assert queued or heard is Heard.AGENT_LOST
                    queued = True
                case Do.SAY_POSITION:
                    assert queued
                case Do.LEAVE_QUEUE:
                    assert queued
                    queued = False
                case Do.RING_AGENT:
                    assert queued or heard is Heard.CALL_PLACED
                    assert not rung
                    rung = True
                case Do.WHISPER:
                    assert rung
                    whispered = True
                case Do.CALL_OUT | Do.TELL_NOT_REACHED:
                    assert rung
                    assert whispered
                    assert not joined
                case Do.MEET:
                    assert whispered
                    assert not joined
                    joined = True
                case Do.JOIN_AGENT:
                    assert rung
                    assert whispered
                    assert not joined or heard is Heard.JOIN_CUT
                    assert not queued
                    joined = True
                case Do.SAY_AGENT_OPENING | Do.SAY_DISCLAIMER:
                    assert joined
                case Do.CANCEL_OFFER:
                    assert rung
                    assert not joined or heard is Heard.AGENT_LOST  # gone in the moment of the join
                    rung, whispered, joined, let_go = False, False, False, True
                case Do.FREE_AGENT | Do.PAUSE_AGENT:
                    assert let_go
                    let_go = False
                case Do.RELEASE_AGENT:
                    assert joined
                    rung = whispered = joined = False
        assert not let_go
        assert not sought or call.state in SEEKING
        if call.state in SERVED:
            assert joined
        if call.state in CONSULTED:
            assert second is Second.ANSWERED
    assert call.state is State.ENDED
    assert (queued, rung, joined, second) == (False, False, False, Second.NOBODY)


@settings(max_examples=150, deadline=None)
@given(walks)
def test_nothing_of_the_case_before_identity_is_proven(path):
    call, proven = Progress(), False
    for heard in path:
        proven |= heard is Heard.IDENTITY_PROVEN and call.state is State.CHECKING
        call, actions = step(call, heard)
        assert call.verified <= proven
        assert proven or not CASE_WORDS & set(actions)


@settings(max_examples=150, deadline=None)
@given(walks)
@example([Heard.RANG_ENOUGH, Heard.RESUMED])
def test_the_caller_is_answered_first_and_always_asked_the_closing_before_the_hotline_hangs_up(path):
    call, done, answers = Progress(), [], 0
    for heard in path:
        call, actions = step(call, heard)
        done += actions
        if heard is not Heard.RESUMED:  # then it is done again: an earlier controller may not have come to it
            answers += actions.count(Do.ANSWER)
    if done:
        placed = done[0] is Do.RING_AGENT
        assert placed or done[0] is Do.ANSWER
        assert answers == (0 if placed else 1)
        to_the_person = [do for do in done if do in SPEAKING or do is Do.MEET]
        assert not placed or not to_the_person or to_the_person[0] is Do.MEET, "nobody is spoken to before the answer"
    if Do.HANG_UP in done:
        assert done[-1] is Do.HANG_UP
        assert Do.SAY_CLOSING in done


@settings(max_examples=100, deadline=None)
@given(walks)
def test_failures_stay_below_the_limit(path):
    call = Progress()
    for heard in path:
        call, _ = step(call, heard)
        assert call.tries < TRIES
        assert call.rounds <= TRIES


def test_a_step_leaves_the_call_it_was_given_as_it_was():
    call = Progress(State.ASKING_ROLE)
    same = replace(call)
    step(call, Heard.SAID_PARTY)
    assert call == same


# ---------------------------------------------------------------- after the talk

OUT_OF_THE_SURVEY = (Heard.RATING_NOT_ASKED, Heard.NO_ENTRY, *(one for one, score in RATED.items() if score > 2))


@pytest.mark.parametrize("ended", [Heard.CLOSING_ASKED, Heard.AGENT_LEFT])
def test_whoever_was_served_is_asked_how_it_was_once_the_agent_has_left(ended):
    assert step(Progress(State.TALKING), ended) == (Progress(State.RATING), (Do.RELEASE_AGENT, Do.OFFER_RATING))


def test_whoever_was_not_served_is_not_asked():
    served = {State.TALKING, State.CONSULT_SWAPPED, State.THREE_WAY}
    assert {at for (at, _), (to, _) in SOP.items() if to is State.RATING and at is not State.RATING} == served


@pytest.mark.parametrize("heard", OUT_OF_THE_SURVEY)
def test_the_closing_question_comes_whatever_is_answered(heard):
    assert step(Progress(State.RATING), heard) == (Progress(State.CLOSING), (Do.SAY_CLOSING, Do.LISTEN))


@pytest.mark.parametrize("heard", [one for one, score in RATED.items() if score <= 2])
def test_a_low_score_is_asked_why_and_the_closing_question_follows(heard):
    call, actions = step(Progress(State.RATING), heard)
    assert (call.state, actions) == (State.RATING_REASON, (Do.ASK_REASON, Do.LISTEN))
    call, actions = step(call, Heard.PROMPT_ENDED)
    assert (call.state, actions) == (State.RATING_REASON, (Do.HEAR_REASON,))
    for said in (Heard.REASON_GIVEN, Heard.NO_ENTRY):
        after, actions = step(call, said)
        assert after.state is State.CLOSING
        assert actions[0] is Do.END_REASON
        assert actions[-2:] == (Do.SAY_CLOSING, Do.LISTEN)
        assert (Do.SAY_REASON_NOTED in actions) == (said is Heard.REASON_GIVEN)


@pytest.mark.parametrize("first", [Heard.ENTRY_INVALID, Heard.ENTRY_CLEARED])
@pytest.mark.parametrize("second", [Heard.ENTRY_INVALID, Heard.ENTRY_CLEARED, Heard.NO_ENTRY])
def test_how_it_was_is_asked_twice_at_most(first, second):
    call, actions = step(Progress(State.RATING), first)
    assert (call.state, actions[-1]) == (State.RATING, Do.ASK)
    call, actions = step(call, second)
    assert (call.state, actions) == (State.CLOSING, (Do.SAY_CLOSING, Do.LISTEN))


@pytest.mark.parametrize("state", [State.RATING, State.RATING_REASON], ids=lambda state: state.name)
def test_zero_is_a_person_in_the_survey_too(state):
    after, actions = step(Progress(state), Heard.WANTS_A_PERSON)
    assert (after.state, actions[-1]) == (State.ADMITTING, Do.ADMIT)


def test_why_it_was_bad_is_asked_again_if_the_controller_was_away():
    after, actions = step(Progress(State.RATING_REASON), Heard.RESUMED)
    assert (after.state, actions) == (State.RATING_REASON, (Do.SAY_INTERRUPTED, Do.ASK_REASON, Do.LISTEN))


# ---------------------------------------------------------------- the manual


def test_the_manual_is_what_the_table_says():
    assert (PROJECT / "docs" / "sop.zh.md").read_text(encoding="utf-8") == manual(), "run `sanling sop --write`"


def test_the_manual_has_a_line_for_each_row_and_each_question():
    lines = manual().splitlines()
    for (state, heard), (to, actions) in SOP.items():
        goes = "（不变）" if to is state else to.value
        done = "、".join(do.value for do in actions) or "—"
        assert f"| {state.value} | {heard.value} | {done} | {goes} |" in lines
    for state in QUESTIONS:
        assert any(line.startswith(f"| {state.value} | ") and "`0` 转人工" in line for line in lines)


def test_the_manual_names_every_code_that_can_be_dialled_and_every_pause():
    text = manual()
    for code in (*FEATURES, *leading.CODES, "*17", "*91", "*92"):
        assert f"`{code}" in text
    for pause in Rules().pauses:
        assert f"`*13{pause.code}` {pause.name}" in text
    for key, word in (("1", "监听"), ("2", "指导"), ("3", "三方"), ("4", "接管")):
        assert f"`{key}` {word}" in text
        assert key in leading.KEYS
    for role in leading.Role:
        assert role is leading.Role.AGENT or f"（`{role}`）" in text


@pytest.mark.parametrize("names", [State, Heard, Do], ids=lambda names: names.__name__)
def test_no_two_members_share_a_chinese_name(names):
    assert len(names.__members__) == len(list(names))


# ---------------------------------------------------------------- 15. the controller was away


@pytest.mark.parametrize("state", ASKING, ids=lambda state: state.name)
def test_whoever_was_being_asked_hears_an_apology_and_the_same_question(state):
    after, actions = step(Progress(state, tries=1), Heard.RESUMED)
    assert after == Progress(state, tries=1)
    assert actions[0] is Do.SAY_INTERRUPTED
    assert actions[1] in (Do.ASK, Do.OFFER_OWN_NUMBER, Do.OFFER_CALLBACK_NUMBER, Do.OFFER_RATING)


@pytest.mark.parametrize("state", [State.TALKING, *CONSULTED], ids=lambda state: state.name)
def test_people_who_talk_hear_nothing_of_it(state):
    assert step(Progress(state), Heard.RESUMED) == (Progress(state), (Do.ARRANGE,))


@pytest.mark.parametrize("state", SERVED, ids=lambda state: state.name)
def test_an_agent_who_hangs_up_leaves_no_caller_alone(state):
    after, actions = step(Progress(state), Heard.AGENT_LEFT)
    assert Do.RELEASE_AGENT in actions
    if state in CONSULTED:
        assert (after.state, actions[-2:]) == (State.TALKING, (Do.HAND_OVER, Do.ARRANGE))
    elif state is State.CONSULT_RINGING:
        assert after.state is State.TRANSFERRING


@pytest.mark.parametrize("heard", [Heard.TRANSFER_TO_PARTY_LINE, Heard.TRANSFER_TO_LAWYER_LINE])
def test_the_line_of_a_transfer_is_kept(heard):
    call, _ = step(Progress(State.TALKING), heard)
    assert call.line == TRANSFERRED_TO[heard]
    assert step(call, Heard.ADMITTED)[0].line == call.line


@pytest.mark.parametrize("state", ANYWHERE, ids=lambda state: state.name)
def test_a_lost_line_lets_go_of_whatever_a_hang_up_lets_go_of(state):
    assert step(Progress(state), Heard.LINE_LOST) == step(Progress(state), Heard.HUNG_UP)


def test_an_identity_that_could_not_be_checked_is_no_failed_round():
    after, actions = step(Progress(State.CHECKING, rounds=2), Heard.IDENTITY_UNAVAILABLE)
    assert (after.state, after.rounds, after.verified) == (State.ASKING_NEED, 2, False)
    assert actions == (Do.SAY_CHECK_UNAVAILABLE, Do.ASK)
