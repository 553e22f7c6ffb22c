from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.dispatch import Idle, Waiting, expected_wait_s, minutes, pairs, position

moments = st.floats(0, 1e6)
queues = st.lists(st.builds(Waiting, moments, st.text("ab12", min_size=1)), unique_by=lambda w: w.call_id)
desks = st.lists(st.builds(Idle, moments, st.text("0123456789", min_size=3)), unique_by=lambda i: i.number)


@given(queues, desks)
def test_nobody_overtakes(waiting, idle):
    made = list(pairs(waiting, idle))
    assert len(made) == min(len(waiting), len(idle))
    served, rung = [caller for caller, _ in made], [agent for _, agent in made]
    assert len({caller.call_id for caller in served}) == len({agent.number for agent in rung}) == len(made)
    left_waiting = [caller for caller in waiting if caller not in served]
    left_idle = [agent for agent in idle if agent not in rung]
    assert all(caller.since <= other.since for caller in served for other in left_waiting)
    assert all(agent.since <= other.since for agent in rung for other in left_idle)
    assert served == sorted(served)
    assert rung == sorted(rung)


@given(queues)
def test_positions_count_from_one_in_order_of_arrival(waiting):
    places = {caller.call_id: position(waiting, caller.call_id) for caller in waiting}
    assert sorted(places.values()) == list(range(1, len(waiting) + 1))
    for one in waiting:
        for other in waiting:
            if one.since < other.since:
                assert places[one.call_id] < places[other.call_id]
    assert position(waiting, "not there") == 0


def test_the_expected_wait_is_the_place_times_the_time_an_agent_comes_free():
    assert expected_wait_s(1, 24, 180) == 7.5
    assert expected_wait_s(3, 2, 180) == 270
    assert expected_wait_s(2, 0, 180) == 360


def test_minutes_are_rounded_up_and_never_none():
    assert [minutes(s) for s in (0, 1, 59.9, 60, 60.1, 120, 3599)] == [1, 1, 1, 1, 2, 2, 60]
