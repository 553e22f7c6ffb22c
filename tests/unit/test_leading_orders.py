"""Who may do what upon an agent's call, and what is dialled for it. AGT-5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.leading import CODES, IN_THE_CALL, KEYS, RIGHTS, Act, Order, Role, may, order_of
from ari_app.rules import LINES


def test_every_act_has_a_code_and_what_lasts_has_a_key():
    assert set(CODES.values()) == set(Act)
    assert set(KEYS.values()) == {*IN_THE_CALL, Act.TAKE_OVER}


@pytest.mark.parametrize(
    ("dialled", "order"),
    [
        ("*81601", Order(Act.LISTEN, "601")),
        ("*82601#", Order(Act.WHISPER, "601")),
        ("*8312345678", Order(Act.JOIN, "12345678")),
        ("*84601", Order(Act.TAKE_OVER, "601")),
        ("*85601", Order(Act.FORCE_PAUSE, "601")),
        ("*86601", Order(Act.FORCE_SIGN_OUT, "601")),
        ("*87", Order(Act.PULL)),
        ("*88601*1", Order(Act.MOVE, "601", "party")),
        ("*88601*3", Order(Act.MOVE, "601", "second_line")),
    ],
)
def test_what_is_dialled_is_understood(dialled, order):
    assert order_of(dialled) == order


@pytest.mark.parametrize(
    "dialled",
    ["", "*11601", "*81", "*81012", "*8160", "*81601*2", "*81123456789", "*87601", "*88601", "*88601*", "*88601*4",
     "*88601*12", "*88*2"],
)  # fmt: skip
def test_what_makes_no_sense_is_no_order(dialled):
    assert order_of(dialled) is None


@given(st.text("*#0123456789", max_size=14))
def test_whatever_is_dialled_an_order_is_whole_or_there_is_none(dialled):
    order = order_of(dialled)
    if order is not None:
        assert (order.whom is None) == (order.act is Act.PULL)
        assert (order.line in LINES) == (order.act is Act.MOVE)


def test_inspectors_only_hear_mentors_also_speak_leaders_may_do_everything():
    assert {act for act in Act if may("inspector", act)} == {Act.LISTEN}
    assert {act for act in Act if may("mentor", act)} == {Act.LISTEN, Act.WHISPER, Act.JOIN, Act.TAKE_OVER}
    assert all(may("leader", act) for act in Act)
    assert not any(may(role, act) for role in ("agent", "", "Leader") for act in Act)
    assert set(RIGHTS) == set(Role)
