"""Overtakings are found in what the ledger tells, and only they."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ari_app.flow.fairness import Happened, Overtaking, overtakings
from ari_app.flow.routing import Waiting, Wants
from ari_app.rules import Line, Lines, Routing, Rules, Step

SKILLS = {"party": 3, "milestone": 3, "mandarin": 3}
FIRST = Waiting("a", 0.0, Wants(need="milestone"))
SECOND = Waiting("b", 5.0, Wants(need="milestone"))


def waits(call: Waiting, at: float = 10.0) -> Happened:
    return Happened(at, "demo", "waits", call.call_id, waiting=call)


def offered(call: Waiting, at: float = 30.0, event: str = "offered", **how: object) -> Happened:
    return Happened(at, "demo", event, call.call_id, "601", skills=SKILLS, **how)  # type: ignore[arg-type]


def told(*rows: Happened) -> list[Overtaking]:
    return list(overtakings(rows))


def test_who_came_first_and_is_served_second_was_overtaken():
    found = told(waits(FIRST), waits(SECOND), offered(SECOND), offered(FIRST, 40.0))
    assert found == [Overtaking(30.0, "601", SECOND, FIRST)]
    assert told(waits(FIRST), waits(SECOND), offered(FIRST), offered(SECOND)) == []


def test_a_callback_that_kept_its_place_is_an_equal():
    callback = replace(FIRST, call_id="callback-7", since=-600.0)
    assert told(waits(SECOND), waits(callback, 25.0), offered(SECOND)) == [Overtaking(30.0, "601", SECOND, callback)]


def test_the_lower_priority_never_comes_first():
    urgent = Waiting("c", 20.0, Wants(need="milestone", priority=1))
    assert told(waits(FIRST), waits(urgent, 20.0), offered(urgent)) == []
    assert told(waits(FIRST), waits(urgent, 20.0), offered(FIRST)) == [Overtaking(30.0, "601", FIRST, urgent)]


EXCUSES = {
    "it had an agent": [waits(FIRST), offered(FIRST, 11.0), waits(SECOND), offered(SECOND)],
    "it had left": [waits(FIRST), Happened(11.0, "demo", "left", "a"), waits(SECOND), offered(SECOND)],
    "a leader pulled the other": [waits(FIRST), waits(SECOND), offered(SECOND, event="pulled")],
    "the agent had declined it": [
        waits(replace(FIRST, wants=replace(FIRST.wants, declined=frozenset({"601"})))), waits(SECOND), offered(SECOND),
    ],
    "the agent cannot take it": [waits(replace(FIRST, wants=Wants("lawyer"))), waits(SECOND), offered(SECOND)],
    "it had not waited long enough for that agent": [
        waits(replace(FIRST, wants=Wants(need="material"))), waits(SECOND), offered(SECOND),
    ],
    "it was kept for the agent of the last time": [
        waits(replace(FIRST, wants=replace(FIRST.wants, last_agent="602"))), waits(SECOND), offered(SECOND, 14.0),
    ],
    "another desk's caller": [replace(waits(FIRST), desk="other"), waits(SECOND), offered(SECOND)],
    "it did not say so anew after the desk had begun": [
        waits(FIRST), Happened(11.0, "demo", "opened", rules=Rules()), waits(SECOND, 12.0), offered(SECOND),
    ],
}  # fmt: skip


@pytest.mark.parametrize("rows", EXCUSES.values(), ids=EXCUSES)
def test_nobody_is_overtaken_if(rows):
    assert told(*rows) == []


def test_who_is_no_longer_kept_or_has_waited_long_enough_is_overtaken():
    kept = replace(FIRST, wants=replace(FIRST.wants, last_agent="602"))
    assert len(told(waits(kept), waits(SECOND), offered(SECOND, 15.0))) == 1
    declined = replace(kept, wants=replace(kept.wants, declined=frozenset({"602"})))
    assert len(told(waits(declined), waits(SECOND), offered(SECOND, 14.0))) == 1
    own = replace(FIRST, wants=replace(FIRST.wants, last_agent="601"))
    assert len(told(waits(own), waits(SECOND), offered(SECOND, 14.0))) == 1
    other_need = replace(FIRST, wants=Wants(need="material"))
    assert len(told(waits(other_need), waits(SECOND), offered(SECOND, 60.0))) == 1


def test_the_rules_of_that_moment_count():
    rules = Rules(
        routing=Routing(last_agent_s=0.0), lines=Lines(party=Line(name="", steps=(Step(after_s=0, need=False),)))
    )
    other_need = replace(FIRST, wants=Wants(need="material", last_agent="602"))
    rows = [waits(other_need), waits(SECOND), Happened(11.0, "demo", "rules", rules=rules), offered(SECOND, 12.0)]
    assert told(*rows) == [Overtaking(12.0, "601", SECOND, other_need)]
