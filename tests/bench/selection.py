"""How long it takes to decide who gets which call: the router alone, and the desk's memory that holds it.

No Asterisk, no database. Callers are of every kind (line, need, language), agents have skills by chance; the seed makes
them the same each time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from random import Random
from time import perf_counter
from typing import cast

from ari_app.flow.duty import AgentNow, Duty
from ari_app.flow.routing import OnDuty, Router, Waiting, Wants, usual_skills
from ari_app.ledger import Ledger
from ari_app.rules import LANGUAGES, NEEDS, SKILLS, Rules
from ari_app.waiting import WaitingRoom, WhoWaits
from tests.bench.figures import PERCENTILES, percentile

CALLERS = (10, 100, 1_000, 10_000, 100_000)
AGENTS = (10, 100, 1_000, 10_000)
TIMES = 1_000
LATER_S = 1_000.0
"""Everybody has waited for so long that every step of every line is open."""


class NoLedger:
    """Writes nothing down."""

    def write(self, *rows: object) -> None: ...


def measure(
    callers: tuple[int, ...] = CALLERS, agents: tuple[int, ...] = AGENTS, times: int = TIMES
) -> list[dict[str, float]]:
    """Microseconds, p50, p95 and p99, for each size.

    ``select``: `Router.next` alone. ``turn``: all that one offer costs the router: selected, the caller taken out, the
    agent busy, free again, a new caller let in. ``desk``: a selection as the desk makes it, which
    is told before of one agent's becoming busy and free again.
    """
    return [_measure(waiting, free, times) for waiting in callers for free in agents]


def _measure(waiting: int, free: int, times: int) -> dict[str, float]:
    rng, rules = Random(1), Rules()
    router = Router(rules)
    room = WaitingRoom(
        rules, cast(Ledger, NoLedger()), lambda: LATER_S, iter(range(10**9)).__next__, desk="bench",
        expected_handle_s=180.0,
    )  # fmt: skip
    people = [_agent(rng, str(n), rules) for n in range(1000, 1000 + free)]
    skills = {one.number: dict(one.skills) for one in people}
    for one in people:
        router.on_duty(one)
    room.skills_are(skills)
    seen = [AgentNow(one.number, "", Duty.IDLE, one.idle_since or 0.0, phone=one.number) for one in people]
    for call in _calls(rng, waiting):
        router.join(call)
        room.join(call.call_id, call.since, _Deaf(), call.wants, offered=False, who=WhoWaits.CALLER)
    later = _calls(rng, times, first=waiting)
    by_number = {one.number: one for one in people}

    def select() -> None:
        router.next(LATER_S)

    def turn() -> None:
        pair = router.next(LATER_S)
        if pair is not None:
            call_id, number = pair
            router.leave(call_id)
            router.on_duty(OnDuty(number, by_number[number].skills, None))
            router.on_duty(by_number[number])
            router.join(next(later))

    def desk() -> None:
        one = seen[rng.randrange(len(seen))]
        room.sees(one, free=False)
        room.sees(one, free=True)
        room.next(LATER_S)

    for one in seen:
        room.sees(one, free=True)
    figures = {"waiting": float(waiting), "agents": float(free)}
    for name, work, count in (("select", select, times), ("turn", turn, times), ("desk", desk, times)):
        took = _timed(work, count)
        figures |= {f"{name}_p{p}_us": round(percentile(took, p) * 1e6, 2) for p in PERCENTILES}
    return figures


def _timed(work: Callable[[], None], times: int) -> list[float]:
    took = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(times):
            began = perf_counter()
            work()
            took.append(perf_counter() - began)
    finally:
        gc.enable()
    return took


class _Deaf:
    def put(self, event: object) -> None: ...


def _agent(rng: Random, number: str, rules: Rules) -> OnDuty:
    known = {skill: rng.randint(1, 5) for skill in rng.sample(SKILLS, 4)}
    return OnDuty(number, usual_skills(known, rules.routing), rng.uniform(0, 500))


def _calls(rng: Random, count: int, first: int = 0) -> Iterator[Waiting]:
    for n in range(first, first + count):
        wants = Wants(
            rng.choice(("party", "lawyer")), rng.choice((*NEEDS, None)), rng.choice(LANGUAGES), rng.choice((0, 0, 0, 1))
        )
        yield Waiting(f"c{n}", rng.uniform(0, 500), wants)
