"""Whether anybody was overtaken, told again from what the ledger says of the queue. Pure.

Somebody is overtaken when an agent is offered a call that comes after another one in rank (a lower priority, or the
same and a later place) although that agent could have been offered the other: by the rules and the agent's skills of
that moment, waited long enough for, not declined by that agent, not kept for the agent of the last time. Callbacks
keep their places and count as everybody. A call that a leader pulled out of turn overtakes by order: it is not told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ari_app.flow.routing import Skills, Waiting, fit, steps_of
from ari_app.rules import Rules


@dataclass(frozen=True)
class Happened:
    """Something that the ledger tells of a queue.

    `event` is opened (a desk began, with these rules; who waits says so anew), rules (came into force), waits (joined,
    came back from an offer, or wants something else), offered or pulled (has an agent), left.
    """

    at: float
    """Unix seconds."""
    desk: str
    event: str
    call_id: str = ""
    agent: str = ""
    waiting: Waiting | None = None
    skills: Skills = field(default_factory=dict)
    """Of the agent who was offered."""
    rules: Rules | None = None


@dataclass(frozen=True)
class Overtaking:
    """At `at`, `agent` was offered `served`, and `overtaken` waited for just such an agent."""

    at: float
    agent: str
    served: Waiting
    overtaken: Waiting


@dataclass
class _Floor:
    rules: Rules = field(default_factory=Rules)
    waiting: dict[str, Waiting] = field(default_factory=dict)


def overtakings(told: Iterable[Happened]) -> Iterator[Overtaking]:
    """`told` in order of time."""
    floors: defaultdict[str, _Floor] = defaultdict(_Floor)
    for one in told:
        floor = floors[one.desk]
        if one.rules is not None:
            floor.rules = one.rules
        if one.event == "opened":
            floor.waiting.clear()
        elif one.waiting is not None:
            floor.waiting[one.call_id] = one.waiting
        else:
            served = floor.waiting.pop(one.call_id, None)
            if served is not None and one.event == "offered":
                for other in sorted(floor.waiting.values(), key=lambda waits: waits.rank):
                    if other.rank < served.rank and was_open_to(other, one.agent, one.skills, floor.rules, one.at):
                        yield Overtaking(one.at, one.agent, served, other)


def was_open_to(call: Waiting, agent: str, skills: Skills, rules: Rules, at: float) -> bool:
    """Whether `call` could have been offered to `agent` then, whoever else was there."""
    last = call.wants.last_agent
    kept = last not in (None, agent, *call.wants.declined) and at < call.since + rules.routing.last_agent_s
    steps = steps_of(rules, call.wants.line)
    found = fit(steps, call.wants.kind, skills)
    return (
        found is not None
        and not kept
        and agent not in call.wants.declined
        and (not found.opens or call.since + steps[found.opens].after_s <= at)
    )
