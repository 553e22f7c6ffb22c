"""Callbacks: folded from their rows, tried only when allowed, given up or expired in the end, never two for one."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event as orm_event
from sqlalchemy import insert

from ari_app import store
from ari_app.callbacks import read
from ari_app.flow.callbacks import (
    OVER,
    Event,
    Happened,
    Stage,
    Terms,
    Window,
    Wish,
    after,
    expires_at,
    is_answered_by,
    missed,
    next_try,
    open_for,
)
from ari_app.reception import read_request
from ari_app.store import models
from tests.unit.core_database import in_memory

CHINA = timezone(timedelta(hours=8))
TERMS = Terms(
    CHINA, (time(8), time(21)), (time(9), time(12)), (time(13, 30), time(18)), 3, (300.0, 1800.0), 4 * 86400.0
)  # fmt: skip
NINE = datetime(2026, 3, 2, 9, tzinfo=CHINA).timestamp()
WISH = Wish("demo-1.1", "15400009999", since=NINE - 60, asked_at=NINE)
MOMENTS = st.floats(NINE - 30 * 86400, NINE + 30 * 86400)


def told(*events: Event) -> Wish:
    wish = WISH
    for event in events:
        wish = after(wish, event)
    return wish


def at(hour: float, day: int = 0) -> float:
    return NINE + (hour - 9) * 3600 + day * 86400


@given(MOMENTS, st.sampled_from(Window))
def test_the_next_opening_is_allowed_and_none_before_it_is(moment, window):
    opening = TERMS.opens_at(moment, window)
    assert moment <= opening < moment + 86400
    assert TERMS.allows(opening, window)
    if opening > moment:
        assert not TERMS.allows(moment, window)
        assert not TERMS.allows((moment + opening) / 2, window)


@pytest.mark.parametrize(
    ("window", "asked", "tried"),
    [
        (Window.ANY, at(10), at(10)),
        (Window.ANY, at(21), at(8, 1)),
        (Window.ANY, at(3), at(8)),
        (Window.MORNING, at(8), at(9)),
        (Window.MORNING, at(12), at(9, 1)),
        (Window.AFTERNOON, at(13), at(13.5)),
    ],
)
def test_a_window_and_the_allowed_hours_both_hold(window, asked, tried):
    assert TERMS.opens_at(asked, window) == tried


def test_a_window_reaches_no_further_than_the_allowed_hours():
    terms = Terms(UTC, (time(10), time(11)), (time(9), time(12)), (time(13), time(18)), 1, (60.0,), 3600.0)
    assert terms.opens_at(datetime(2026, 3, 2, 9, tzinfo=UTC).timestamp(), Window.MORNING) == (
        datetime(2026, 3, 2, 10, tzinfo=UTC).timestamp()
    )
    assert not terms.allows(datetime(2026, 3, 2, 11, 30, tzinfo=UTC).timestamp(), Window.MORNING)


def test_an_attempt_in_vain_is_made_again_later_and_at_last_given_up():
    wish, tries = WISH, []
    for n in range(3):
        wish = after(wish, Event(wish.rows + 1, NINE + n, Happened.CALLED, f"demo-out_{n}.001"))
        assert wish.stage is Stage.CALLING
        event = missed(wish, NINE + n, TERMS)
        wish = after(wish, event)
        tries.append((event.happened, event.until))
    assert tries == [
        (Happened.MISSED, NINE + 300), (Happened.MISSED, NINE + 1 + 1800), (Happened.GIVEN_UP, None),
    ]  # fmt: skip
    assert wish.stage is Stage.GIVEN_UP


def test_after_an_attempt_it_waits_for_its_moment_and_expires_if_that_is_too_late():
    wish = told(Event(1, NINE, Happened.CALLED), Event(2, NINE, Happened.MISSED, until=NINE + 300))
    assert next_try(wish, NINE + 10, TERMS) == NINE + 300
    assert next_try(wish, NINE + 400, TERMS) == NINE + 400
    assert next_try(wish, expires_at(wish, TERMS), TERMS) is None
    assert told(Event(1, NINE, Happened.MISSED)).not_before == NINE


def test_whoever_was_called_back_in_vain_and_then_lost_is_first_and_tried_at_once():
    wish = told(Event(1, NINE, Happened.MISSED, until=NINE + 300), Event(2, NINE + 5, Happened.HASTENED))
    assert wish.first
    assert next_try(wish, NINE + 6, TERMS) == NINE + 6


def test_asked_for_again_it_moves_and_keeps_the_place():
    wish = told(Event(1, NINE, Happened.MOVED, number="15400001111", window=Window.MORNING))
    assert (wish.number, wish.window, wish.since) == ("15400001111", Window.MORNING, WISH.since)
    assert told(Event(1, NINE, Happened.MOVED)) == after(WISH, Event(1, NINE, Happened.MOVED))
    assert told(Event(1, NINE, Happened.MOVED)).number == WISH.number


def test_who_declined_is_remembered():
    wish = told(Event(1, NINE, Happened.CALLED, "a"), Event(2, NINE, Happened.DECLINED, "a", agent="601"))
    assert (wish.stage, wish.declined) == (Stage.WAITING, frozenset({"601"}))
    assert told(Event(1, NINE, Happened.DECLINED)).declined == frozenset()


def test_who_calls_in_is_not_called_until_gone_again():
    wish = told(Event(1, NINE, Happened.RETURNED, "b"))
    assert (wish.stage, wish.call_id, wish.is_open) == (Stage.RETURNED, "b", True)
    assert after(wish, Event(2, NINE, Happened.LEFT)).stage is Stage.WAITING


EVENTS = st.builds(Event, st.just(1), MOMENTS, st.sampled_from(Happened), st.none(), st.sampled_from([None, "601"]))


@given(st.lists(EVENTS, max_size=20))
def test_what_is_over_stays_over(happened):
    wish, over = WISH, None
    for event in happened:
        wish = after(wish, event)
        if over is not None:
            assert (wish.stage, wish.number, wish.attempts) == over
        elif wish.stage in OVER:
            over = (wish.stage, wish.number, wish.attempts)
        assert wish.since == WISH.since


def test_one_person_is_known_by_number_or_by_proof():
    mine = Wish("1", "15400009999", NINE, NINE, party_id=7)
    hers = Wish("2", "15400008888", NINE, NINE, lawyer_id=9)
    over = after(Wish("3", "15400007777", NINE, NINE), Event(1, NINE, Happened.SERVED))
    wishes = [over, mine, hers]
    assert open_for(wishes, number="15400009999") is mine
    assert open_for(wishes, number="15400006666", party_id=7) is mine
    assert open_for(wishes, number=None, lawyer_id=9) is hers
    assert open_for(wishes, number="15400007777") is None
    assert open_for(wishes, number=None) is None


def test_of_several_at_a_shared_number_the_own_one_is_found_and_nobody_elses():
    zhang = Wish("1", "02150001234", NINE, NINE, party_id=7)
    wang = Wish("2", "02150001234", NINE, NINE, lawyer_id=7)
    assert open_for([zhang, wang], number="02150001234", lawyer_id=7) is wang
    assert open_for([zhang, wang], number="02150001234", party_id=8) is None
    assert open_for([zhang, wang], number="02150001234") is zhang


def test_whoever_asked_to_be_called_elsewhere_is_known_by_the_own_number_too():
    wish = Wish("1", "02150001234", NINE, NINE, asked_from="15400009999")
    assert open_for([wish], number="15400009999") is wish
    assert open_for([wish], number="02150001234") is wish
    assert open_for([wish], number="15400008888") is None


@pytest.mark.parametrize(
    ("asked", "speaks", "over"),
    [
        ({}, {}, True),
        ({"party_id": 7}, {"party_id": 7}, True),
        ({"party_id": 7}, {"party_id": 8}, False),
        ({"party_id": 7}, {"lawyer_id": 7}, False),
        ({"party_id": 7}, {}, False),
        ({}, {"party_id": 7}, True),
    ],
)
def test_whoever_speaks_at_a_shared_number_answers_for_nobody_else(asked, speaks, over):
    wish = Wish("1", "02150001234", NINE, NINE, **asked)
    assert is_answered_by(wish, number="02150001234", **speaks) is over
    assert not is_answered_by(WISH, number=None)


# ---------------------------------------------------------------- reading


def test_of_fifty_thousand_callbacks_only_the_open_ones_are_read():
    engine, rows = in_memory(), []
    with store.session(engine) as session:
        asked = [
            {"id": f"demo-{n}.1", "at": NINE + n, "number": f"154{n:08}", "reason": "asked"} for n in range(50_003)
        ]
        session.execute(insert(models.Callback), asked)
        ends = ["served", "given_up", "expired", "cancelled"]
        told = [(one["id"], 1, "called") for one in asked[2:]] + [
            (one["id"], 2, ends[n % 4]) for n, one in enumerate(asked[3:])
        ]
        session.execute(
            insert(models.CallbackEvent),
            [
                {"callback_id": id, "n": n, "at": NINE, "event": what, "call_id": "demo-out_1.001"}
                for id, n, what in told
            ],
        )
        session.add(models.Call(id="demo-1.1", caller_number="02150001234", called_number="12368", at=NINE))

    def loaded(row: object, _context: object) -> None:
        rows.append(row)

    orm_event.listen(models.Table, "load", loaded, propagate=True)
    try:
        with store.session(engine) as session:
            found = read(session)
    finally:
        orm_event.remove(models.Table, "load", loaded)
    assert {(one.id, one.stage, one.asked_from) for one in found} == {
        ("demo-0.1", Stage.WAITING, None), ("demo-1.1", Stage.WAITING, "02150001234"), ("demo-2.1", Stage.CALLING, None)
    }  # fmt: skip
    assert len(rows) == 4, "three callbacks and one event"


@pytest.mark.parametrize(
    ("left", "number"),
    [
        ("15400001111 15400009999", "15400001111"),
        (" 15400009999", "15400009999"),
        ("15400009999 15400009999", "15400009999"),
        ("1234 15400009999", "15400009999"),
        ("12345678901234 02150001234", "02150001234"),
    ],
)
def test_a_number_left_in_the_dialplan_is_the_keyed_one_if_it_can_be_called(tmp_path, left, number):
    file = tmp_path / "demo-1.1.txt"
    file.write_text(f"1772413200 {left}\n")
    assert read_request(file) == (1772413200.0, number)


@pytest.mark.parametrize("left", ["1234 12368", "1234 ", " ", "12368 008612345"])
def test_without_a_number_that_can_be_called_the_file_is_set_aside(tmp_path, left):
    file = tmp_path / "demo-1.1.txt"
    file.write_text(f"1772413200 {left}\n")
    assert read_request(file) is None
    assert [one.name for one in tmp_path.iterdir()] == ["demo-1.1.bad"]
