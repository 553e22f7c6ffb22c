"""Who gets which call: each rule by an example, then the laws; the index is held against the specification."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app.flow.routing import (
    Fit,
    Kind,
    OnDuty,
    Router,
    Waiting,
    Wants,
    fit,
    levels_with,
    may_take,
    next_pair,
    usual_skills,
)
from ari_app.rules import LANGUAGES, LEVELS, LINES, NEEDS, SKILLS, Line, Lines, Routing, Rules, Step

RULES = Rules()
USUAL = usual_skills({}, RULES.routing)
PARTY = Kind("party", "milestone", "mandarin")


def agent(number: str, idle_since: float | None = 0.0, **skills: int) -> OnDuty:
    return OnDuty(number, usual_skills(skills, RULES.routing), idle_since)


def call(call_id: str, since: float = 0.0, **wants: object) -> Waiting:
    return Waiting(call_id, since, Wants(**{"need": "milestone", **wants}))  # type: ignore[arg-type]


def routed(calls: list[Waiting], agents: list[OnDuty], now: float = 0.0, rules: Rules = RULES) -> list[tuple[str, str]]:
    """All pairs, in order, by the specification; the index must say the same."""
    router = Router(rules)
    for one in calls:
        router.join(one)
    for each in agents:
        router.on_duty(each)
    pairs = []
    waiting, on_duty = list(calls), list(agents)
    while True:
        pair = next_pair(waiting, on_duty, rules, now)
        assert router.next(now) == pair
        if pair is None:
            return pairs
        pairs.append(pair)
        router.leave(pair[0])
        waiting = [one for one in waiting if one.call_id != pair[0]]
        on_duty = [OnDuty(one.number, one.skills, None if one.number == pair[1] else one.idle_since) for one in on_duty]
        router.on_duty(next(one for one in on_duty if one.number == pair[1]))


# ---------------------------------------------------------------- each rule


def test_first_come_first_served_by_the_agent_idle_longest():
    assert routed([call("b", 2), call("a", 1), call("c", 3)], [agent("601", 20), agent("602", 10)], 30) == [
        ("a", "602"), ("b", "601"),
    ]  # fmt: skip


def test_the_best_level_first_and_of_these_the_one_idle_longest():
    agents = [agent("601", 1), agent("602", 9, party=5, milestone=5, mandarin=5)]
    agents += [agent("603", 5, party=5, milestone=5, mandarin=5), agent("604", 0, party=5, milestone=2, mandarin=5)]
    assert [number for _, number in routed([call(c) for c in "abcd"], agents)] == ["603", "602", "601"]


def test_an_agent_of_whom_nothing_is_known_has_the_usual_skills():
    assert {skill: 3 for skill in ("party", "lawyer", *NEEDS, "mandarin")} == USUAL
    assert usual_skills({"english": 4}, RULES.routing) == {skill: 3 for skill in ("party", "lawyer", *NEEDS)} | {
        "english": 4
    }
    assert "lawyer" not in usual_skills({"party": 3, "lawyer": 0}, RULES.routing)


def test_setting_one_level_takes_no_usual_one_of_the_kind_away():
    usual = RULES.routing
    assert levels_with({}, "second_line", 5, usual) == {"party": 3, "lawyer": 3, "second_line": 5}
    assert levels_with({}, "lawyer", 0, usual) == {"party": 3, "lawyer": 0}
    assert levels_with({"party": 2, "lawyer": 0}, "party", 4, usual) == {"party": 4, "lawyer": 0}
    assert levels_with({"party": 2}, "english", 4, usual) == {"mandarin": 3, "english": 4}


def test_the_circle_widens_with_the_wait():
    beginner = agent("601", party=1, lawyer=1)
    other_need = agent("602", material=4)
    foreign = agent("603", english=4)
    waited = {
        after: [a.number for a in (beginner, other_need, foreign) if may_take(call("a"), a, [], RULES, after)]
        for after in (0, 19.9, 20, 60, 180)
    }
    assert waited == {0: [], 19.9: [], 20: ["601"], 60: ["601", "602"], 180: ["601", "602", "603"]}
    router = Router(RULES)
    router.on_duty(beginner)
    router.join(call("a", 100.0))
    assert router.next(100.0) is None
    assert router.wake_at == 120.0
    assert router.next(119.9) is None
    assert router.next(120.0) == ("a", "601")


def test_agents_of_other_lines_help_where_a_step_says_so():
    steps = (Step(after_s=0), Step(after_s=30, lines=("second_line",)))
    rules = Rules(lines=Lines(party=Line(name="", steps=steps)))
    lawyer = agent("701", second_line=4)
    assert fit(steps, PARTY, lawyer.skills) == Fit(1, -3)
    assert routed([call("a")], [lawyer], 29, rules) == []
    assert routed([call("a")], [lawyer], 30, rules) == [("a", "701")]


def test_who_said_no_need_is_served_by_any_agent_of_the_line():
    assert routed([call("a", need=None)], [agent("601", material=5)]) == [("a", "601")]


def test_a_higher_priority_comes_first_whenever_it_joined():
    calls = [call("a", 1), call("b", 2, priority=1), call("c", 3, priority=2), call("d", 4, priority=1)]
    agents = [agent(str(600 + n), n) for n in range(4)]
    assert [who for who, _ in routed(calls, agents, 10)] == ["c", "b", "d", "a"]


def test_the_agent_of_the_last_time_is_tried_first_for_a_short_time():
    back = call("a", 100.0, last_agent="602")
    free, last = agent("601", 0), agent("602", 50)
    assert routed([back], [free, last], 100) == [("a", "602")]
    busy = agent("602", None)
    assert routed([back, call("b", 101)], [free, busy], 101) == [("b", "601")]
    assert routed([back], [free, busy], 114.9) == []
    assert routed([back], [free, busy], 115) == [("a", "601")]
    assert routed([back], [free], 100) == [("a", "601")], "one who is not on duty is not waited for"
    assert routed([call("a", 100, last_agent="602", declined=frozenset({"602"}))], [free, last], 100) == [("a", "601")]
    helper = agent("602", 50, party=1)
    assert routed([back], [free, helper], 100) == [("a", "601")], "nor one who only helps out"


def test_the_agent_of_the_last_time_does_not_let_a_caller_jump_the_queue():
    assert routed([call("a", 1), call("b", 2, last_agent="601")], [agent("601")], 3) == [("a", "601")]


def test_whoever_declined_is_not_offered_the_call_again_unless_nobody_else_could():
    refused = call("a", declined=frozenset({"601"}))
    assert routed([refused], [agent("601"), agent("602", None)]) == []
    assert routed([refused, call("b", 1)], [agent("601"), agent("602", None)], 2) == [("b", "601")]
    assert routed([refused], [agent("601", 0), agent("602", 5)], 6) == [("a", "602")]
    assert routed([refused], [agent("601")]) == [("a", "601")]
    assert routed([refused], [agent("601"), agent("701", None, second_line=5)]) == [("a", "601")]
    helper = agent("602", 0, party=1)
    assert routed([refused], [agent("601"), helper], 19) == [], "somebody who will be let in is waited for"
    assert routed([refused], [agent("601"), helper], 20) == [("a", "602")]


def test_the_desk_is_woken_when_a_circle_widens_or_a_caller_is_no_longer_kept():
    router = Router(RULES)
    router.on_duty(agent("601", 0))
    router.on_duty(agent("602", None))
    router.join(call("a", 100.0, last_agent="602"))
    assert router.next(101.0) is None
    assert router.wake_at == 115.0
    router.on_duty(agent("603", 0, party=1))
    router.join(call("a", 100.0, declined=frozenset({"601"})))
    assert router.next(101.0) is None
    assert router.wake_at == 120.0
    router.off_duty("603")
    assert router.next(101.0) is None
    assert router.wake_at == float("inf")


def test_an_agent_said_anew_with_other_skills_is_known_by_these():
    router = Router(RULES)
    router.join(call("a"))
    unable = OnDuty("601", {}, 0.0)
    for said in (unable, unable):
        router.on_duty(said)
        assert router.next(1000.0) is None
    router.on_duty(agent("601"))
    assert router.next(1000.0) == ("a", "601")
    router.on_duty(unable)
    assert router.next(1000.0) is None
    router.off_duty("601")
    assert not may_take(call("a"), unable, [unable], RULES, 1000.0)


def test_whoever_is_not_there_can_leave():
    router = Router(RULES)
    router.leave("a")
    router.off_duty("601")
    assert router.next(0.0) is None


# ---------------------------------------------------------------- the laws

steps = st.lists(
    st.builds(
        lambda level, need, language, lines: (level, need, language, lines),
        st.sampled_from(LEVELS), st.booleans(), st.booleans(), st.sets(st.sampled_from(LINES)),
    ),
    min_size=1, max_size=4,
).map(
    lambda rows: tuple(
        Step(
            after_s=10.0 * n,
            level=min(row[0] for row in rows[: n + 1]),
            need=all(row[1] for row in rows[: n + 1]),
            language=all(row[2] for row in rows[: n + 1]),
            lines=tuple(sorted(set().union(*(row[3] for row in rows[: n + 1])))),
        )
        for n in range(len(rows))
    )
)  # fmt: skip
lines = st.builds(lambda steps: Line(name="", steps=steps), steps)
rules = st.builds(
    lambda a, b, c, last: Rules(lines=Lines(party=a, lawyer=b, second_line=c), routing=Routing(last_agent_s=last)),
    lines, lines, lines, st.sampled_from([0.0, 5.0, 15.0]),
)  # fmt: skip
numbers = st.sampled_from(["601", "602", "603", "604"])
skills = st.dictionaries(st.sampled_from(SKILLS), st.sampled_from(LEVELS), max_size=10)
wants = st.builds(
    Wants,
    line=st.sampled_from(LINES[:2]), need=st.none() | st.sampled_from(NEEDS[:2]),
    language=st.sampled_from(LANGUAGES[:2]), priority=st.integers(0, 2), last_agent=st.none() | numbers,
    declined=st.frozensets(numbers, max_size=2),
)  # fmt: skip
events = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from("abcdefgh"), st.floats(0, 60), wants),
        st.tuples(st.just("leave"), st.sampled_from("abcdefgh")),
        st.tuples(st.just("agent"), numbers, skills, st.none() | st.floats(0, 40)),
        st.tuples(st.just("off"), numbers),
        st.tuples(st.just("wait"), st.floats(0, 25)),
        st.tuples(st.just("serve")),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(rules, events)
def test_the_index_answers_as_the_specification(rules, events):
    the_index_answers_as_the_specification(rules, events)


@pytest.mark.untraced
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**32))
def test_the_index_answers_as_the_specification_in_thousands_of_days(seed):
    """The same by plain chance, which is drawn sooner: longer days, more agents and more callers."""
    chance = random.Random(seed)
    happenings: list[Any] = []
    for _ in range(chance.randrange(80)):
        call_id, number = chance.choice("abcdefghijklmnop"), str(600 + chance.randrange(8))
        drawn = Wants(
            chance.choice(LINES[:2]), chance.choice((None, *NEEDS[:2])), chance.choice(LANGUAGES[:2]),
            chance.randrange(2), chance.choice((None, None, number)),
            frozenset(str(600 + chance.randrange(8)) for _ in range(chance.randrange(3))),
        )  # fmt: skip
        idle_since = chance.choice((None, chance.uniform(0, 40)))
        skills = {skill: chance.randrange(1, 6) for skill in chance.sample(SKILLS, chance.randrange(6, len(SKILLS)))}
        joins, is_there = ("join", call_id, chance.uniform(0, 60), drawn), ("agent", number, skills, idle_since)
        others = (("leave", call_id), ("off", number), ("wait", chance.uniform(0, 25)), ("serve",))
        happenings.append(chance.choice((joins, joins, is_there, is_there, *others)))
    the_index_answers_as_the_specification(RULES, happenings)


def the_index_answers_as_the_specification(rules: Rules, events: list[Any]) -> None:
    router = Router(rules)
    calls: dict[str, Waiting] = {}
    agents: dict[str, OnDuty] = {}
    now = 0.0
    woken_at = float("inf")
    for event in events:
        match event:
            case ("join", call_id, ago_s, wanted):
                calls[call_id] = Waiting(call_id, now - ago_s, wanted)
                router.join(calls[call_id])
            case ("leave", call_id):
                calls.pop(call_id, None)
                router.leave(call_id)
            case ("agent", number, skills, idle_since):
                agents[number] = OnDuty(number, skills, idle_since)
                router.on_duty(agents[number])
            case ("off", number):
                agents.pop(number, None)
                router.off_duty(number)
            case ("wait", seconds):
                now += seconds
                if now < woken_at < float("inf"):
                    assert next_pair(calls.values(), list(agents.values()), rules, now) is None, "nobody woke the desk"
            case ("serve",) if (pair := router.next(now)) is not None:
                calls.pop(pair[0])
                router.leave(pair[0])
                agents[pair[1]] = OnDuty(pair[1], agents[pair[1]].skills, None)
                router.on_duty(agents[pair[1]])
        pair = router.next(now)
        assert pair == next_pair(calls.values(), list(agents.values()), rules, now)
        woken_at = router.wake_at if pair is None else float("inf")
        if pair is None and woken_at < float("inf"):
            assert woken_at > now


@settings(max_examples=200, deadline=None)
@given(rules, st.lists(st.tuples(st.floats(0, 60), wants), max_size=12), st.lists(st.tuples(skills, st.floats(0, 40))))
def test_nobody_is_overtaken_by_an_equal_and_no_agent_is_given_twice(rules, callers, staff):
    calls = [Waiting(f"c{n}", since, wanted) for n, (since, wanted) in enumerate(callers)]
    agents = [OnDuty(str(600 + n), skill, since) for n, (skill, since) in enumerate(staff)]
    pairs = routed(calls, agents, 60.0, rules)
    assert len({who for who, _ in pairs}) == len({number for _, number in pairs}) == len(pairs)
    left = {one.call_id: one for one in calls}
    by_number = {one.number: one for one in agents}
    for who, number in pairs:
        served = left.pop(who)
        for other in left.values():
            if other.rank < served.rank:
                assert not may_take(other, by_number[number], agents, rules, 60.0)


@given(rules, st.sampled_from(LINES), wants, skills)
def test_what_a_step_lets_a_later_one_lets(rules, line, wanted, skills):
    allowed = [fit(row[n:], wanted.kind, skills) for row in [getattr(rules.lines, line).steps] for n in range(len(row))]
    first = next((n for n, found in enumerate(allowed) if found is not None and found.opens == 0), len(allowed))
    assert all(found is not None and found.opens == 0 for found in allowed[first:])


# ---------------------------------------------------------------- its cost


@pytest.mark.real_time
def test_selection_looks_at_the_heads_only():
    """10,000 waiting and 1,000 agents, one of whom comes free again and again; generous, since machines differ."""
    router = Router(RULES)
    kinds = [(line, need, lang) for line in LINES for need in (None, *NEEDS) for lang in LANGUAGES]
    for n in range(1000):
        router.on_duty(OnDuty(str(n), {skill: 1 + (n + k) % 5 for k, skill in enumerate(SKILLS)}, None))
    for n in range(10_000):
        line, need, language = kinds[n % len(kinds)]
        router.join(Waiting(f"c{n}", n / 10, Wants(line, need, language, priority=int(need == "pressing"))))
    took = []
    for n in range(1000):
        one = OnDuty(str(n), {skill: 1 + (n + k) % 5 for k, skill in enumerate(SKILLS)}, 1000.0 + n)
        router.on_duty(one)
        began = time.thread_time()
        pair = router.next(1000.0 + n)
        took.append(time.thread_time() - began)
        assert pair is not None
        router.leave(pair[0])
        router.on_duty(OnDuty(one.number, one.skills, None))
    assert sorted(took)[500] < 0.001
