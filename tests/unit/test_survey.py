from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.survey import HIGHEST, LOWEST, asks, is_low

CALLS = [f"demo-{1795000000 + n}.{n}" for n in range(4000)]


def test_everybody_is_asked_or_nobody():
    assert all(asks(call, 1.0) for call in CALLS)
    assert not any(asks(call, 0.0) for call in CALLS)


def test_the_share_is_kept():
    asked = sum(asks(call, 0.25) for call in CALLS)
    assert abs(asked / len(CALLS) - 0.25) < 0.03


@settings(deadline=None)
@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_who_is_asked_is_asked_by_every_controller_and_still_when_the_share_grows(call, one, other):
    assert asks(call, one) == asks(call, one)
    if asks(call, min(one, other)):
        assert asks(call, max(one, other))


def test_one_and_two_are_low():
    assert [score for score in range(LOWEST, HIGHEST + 1) if is_low(score)] == [1, 2]
