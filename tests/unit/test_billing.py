"""Who talked with whom: nobody's time is billed twice, and nothing is billed before an agent was joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.billing import PART, TOGETHER, Company, Seat, Stretch, stretches, with_caller_s
from ari_app.flow.sop import SERVED, State

moments = st.floats(0, 1e6)


def test_every_state_in_which_an_agent_has_the_caller_says_who_sits_where():
    assert set(PART) == set(TOGETHER) == set(SERVED)


@pytest.mark.parametrize("state", SERVED, ids=lambda state: state.name)
def test_who_is_billed_for_company_hears_it(state):
    for seat, company in PART[state].items():
        others = TOGETHER[state] - {seat} if seat in TOGETHER[state] else frozenset()
        assert (
            others
            == {
                Company.CALLER: {Seat.CALLER},
                Company.AGENT: {Seat.AGENT, Seat.SECOND} - {seat},
                Company.BOTH: set(Seat) - {seat},
                Company.NOBODY: set(),
            }[company]
        )


@given(
    st.sampled_from(State),
    moments,
    moments,
    st.dictionaries(st.sampled_from([Seat.AGENT, Seat.SECOND]), moments),
)
def test_only_who_is_there_is_billed_and_only_since_then(state, since, until, joined):
    billed = stretches(state, since, until, joined)
    assert len({one.seat for one in billed}) == len(billed)
    for one in billed:
        assert one.seat in joined
        assert since <= one.begin
        assert joined[one.seat] <= one.begin < one.end == until
        assert one.seconds > 0
    assert with_caller_s(billed) <= max(until - since, 0)


def test_three_together_are_one_talk_for_the_caller():
    billed = stretches(State.THREE_WAY, 100.0, 130.0, {Seat.AGENT: 50.0, Seat.SECOND: 110.0})
    assert billed == [
        Stretch(Seat.AGENT, Company.BOTH, 100.0, 130.0), Stretch(Seat.SECOND, Company.BOTH, 110.0, 130.0),
    ]  # fmt: skip
    assert with_caller_s(billed) == 30.0


def test_while_the_agents_talk_the_caller_talks_with_nobody():
    assert with_caller_s(stretches(State.CONSULTING, 0.0, 9.0, {Seat.AGENT: 0.0, Seat.SECOND: 0.0})) == 0.0
