"""How much each form measures, how long that should take, and what is left out when the time is over. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench import selection
from tests.bench.figures import Climb

LATEST_S = 38 * 60.0
"""Nothing is begun that is not planned to be over by then."""

STARTS_S, A_PHONE_S = 4.0, 0.02
"""A flow starts, and its phones are registered: with 100 of them in 3 s (native) to 8 s (Sanling)."""
CLEARED_S = 8.0
"""Hundreds of calls are ended, and the flow after them."""
LAST_CALL_S = 7.0
"""From the last INVITE of a run until its call is over, recorded and judged."""
RESTS_S = 10.0
"""What a flow uses when nobody calls is measured for 4 s, once it rests."""
FAILS_S = 10.0
"""A run in which calls failed takes so much longer: callers' patience ends, and recordings are waited for."""
SETTLED_S = 4.0
"""After the last of many callers who stay."""
RESTARTED_S = 5.0
FREE_AGAIN_S = {"busy": 2.6, "default retry": 4.8}
"""From one call of an agent to the next where callers wait: 1.8 s of talk, the ends of a call, app_queue's retry."""
A_CALLER_S, AN_AGENT_S, A_CHOICE_S = 1e-4, 3.5e-4, 3e-4
"""What selection takes to be set up, for each caller and each agent, and for each time it is measured."""


@dataclass(frozen=True)
class Form:
    """How much is measured."""

    rounds: int
    """Of light load and of busy agents; each round is one run of either flow."""
    memory_rounds: int
    """Of callers waiting, with the restart, and of callers talking."""
    agents: int
    light_rate: float
    light_calls: int
    busy_agents: int
    busy_rate: float
    busy_calls: int
    first_rate: float
    most_rate: float
    steps: int
    step_s: float
    confirming_calls: int
    """So many must hold at the rate that the climb found; 0: it is believed."""
    confirmations: int
    waiting: int
    waiting_rate: float
    talking: int
    talking_rate: float
    default_retry: bool
    """Also the twin with app_queue's own retry of 5 s, for one run with busy agents."""
    callers: tuple[int, ...]
    on_duty: tuple[int, ...]
    selections: int

    @property
    def opens_s(self) -> float:
        """How long a flow's start should take."""
        return STARTS_S + A_PHONE_S * self.agents


QUICK = Form(
    rounds=1, memory_rounds=1, agents=100, light_rate=5.0, light_calls=40, busy_agents=8, busy_rate=6.0, busy_calls=48,
    first_rate=10.0, most_rate=40.0, steps=3, step_s=5.0, confirming_calls=0, confirmations=0, waiting=100,
    waiting_rate=25.0, talking=40, talking_rate=10.0, default_retry=False, callers=(10, 1_000, 10_000),
    on_duty=(10, 1_000), selections=500,
)  # fmt: skip
WHOLE = Form(
    rounds=3, memory_rounds=2, agents=400, light_rate=5.0, light_calls=100, busy_agents=12, busy_rate=8.0,
    busy_calls=120, first_rate=15.0, most_rate=400.0, steps=10, step_s=10.0, confirming_calls=1_000, confirmations=3,
    waiting=500, waiting_rate=25.0, talking=100, talking_rate=10.0, default_retry=True, callers=selection.CALLERS,
    on_duty=selection.AGENTS, selections=selection.TIMES,
)  # fmt: skip


def turn_s(form: Form, what: str, rate: float = 0.0) -> float:
    """How long one run of `what` should take, with one flow; a confirmation at `rate` calls a second."""
    match what:
        case "waiting":
            return form.opens_s + form.waiting / form.waiting_rate + SETTLED_S + RESTARTED_S + CLEARED_S
        case "talking":
            return form.opens_s + form.talking / form.talking_rate + SETTLED_S + CLEARED_S
        case "light":
            return RESTS_S + form.light_calls / form.light_rate + LAST_CALL_S
        case "busy" | "default retry":
            return form.busy_calls / form.busy_agents * FREE_AGAIN_S[what] + LAST_CALL_S
        case "step":
            return form.step_s + LAST_CALL_S
        case "confirmation":
            return form.confirming_calls / rate + LAST_CALL_S
        case "selection":
            sizes = [(callers, free) for callers in form.callers for free in form.on_duty]
            return sum(
                A_CALLER_S * callers + AN_AGENT_S * free + A_CHOICE_S * form.selections for callers, free in sizes
            )
    raise ValueError(what)


def planned_s(form: Form, limit: float) -> dict[str, float]:
    """How long each part should take where either flow holds `limit` calls a second, if every confirmation is used up.

    The whole form at 10, 15 and 20 calls a second, in minutes: selection 1.2; waiting 3.3 and talking 2.3 (2 rounds of
    2 flows); light load 4.1 and busy agents 3.7 (3 rounds of 2 flows), the other retry 1.1; the climb 7.2, 7.2 and 5.2
    (5, 5 and 5 steps of either flow, of which 4, 4 and 2 fail and start it anew); confirmations 12.7, 9.4 and 7.7 (3
    times 1,000 calls of either flow, of which 2 fail). Together 35.5, 32.2 and 28.5.
    """
    flows, anew = 2, FAILS_S + CLEARED_S + form.opens_s
    parts = {"selection": turn_s(form, "selection")}
    for what in ("waiting", "talking"):
        parts[what] = flows * form.memory_rounds * turn_s(form, what)
    for what in ("light", "busy"):
        parts[what] = flows * (form.opens_s + form.rounds * turn_s(form, what))
    parts["default retry"] = form.opens_s + turn_s(form, "default retry") if form.default_retry else 0.0
    climb, parts["climb"] = Climb(form.first_rate, at_most=form.most_rate, steps=form.steps), flows * form.opens_s
    while (rate := climb.rate) is not None:
        climb.tried(rate, held=rate <= limit)
        parts["climb"] += flows * (turn_s(form, "step") + (anew if rate > limit else 0.0))
    fails = max(form.confirmations - 1, 0)
    parts["confirmation"] = flows * (form.confirmations * turn_s(form, "confirmation", limit) + fails * anew)
    return parts


@dataclass
class Budget:
    """The time there is. What there was none for is in `skipped`.

    A run may take longer than planned by what it waits for at most, about a minute and a half (recordings 60 s, a flow
    that does not come to rest 30 s): with `LATEST_S` all is over within 40 minutes.
    """

    latest_s: float = LATEST_S
    clock: Callable[[], float] = time.monotonic
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def minutes(self) -> float:
        """Since it was made."""
        return (self.clock() - self._began) / 60

    def allows(self, what: str, takes_s: float) -> bool:
        """Whether `what` would be over in time; else it is skipped."""
        in_time = self.clock() - self._began + takes_s <= self.latest_s
        if not in_time:
            self.skipped.append(what)
        return in_time
