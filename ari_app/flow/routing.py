"""Who gets which call, by the desk's rules. Pure.

Theory of operation. A call asks for a line, a need and a language; an agent has a level in each. A line's steps say
which agents may take a call after which wait: ``fit()`` is the first step that lets an agent take a call of a kind,
and the level there. ``may_take()`` is whether one agent may take one call at one moment, ``next_pair()`` who gets
which call next. These three are the specification, and what `sanling fairness` holds the ledger against.

`Router` answers as ``next_pair()`` does, for thousands of callers and agents, from sorted lists that are kept as
callers and agents come and go. It rests on two laws: a later step asks for no more than the one before it, so among
callers of one kind and one priority whoever waits longest is open to the most agents; and an agent whom an earlier
step admits comes before all whom a later one does. So one look at the head of each list is enough.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, TypeVar

from ari_app.rules import KINDS, Line, Routing, Rules, Step

Skills = Mapping[str, int]
"""Level by skill; what is not in it the agent cannot do."""


class Kind(NamedTuple):
    """What callers must have in common to be equals."""

    line: str
    need: str | None
    language: str


class Rank(NamedTuple):
    """Order in which callers are served."""

    after_priority: int
    """The priority, negative: the highest comes first."""
    since: float
    call_id: str


class Fit(NamedTuple):
    """How well an agent fits a kind of call; the least is the best."""

    opens: int
    """The first step of the line that lets the agent take such a call."""
    below: int
    """The agent's level there, negative."""


@dataclass(frozen=True)
class Wants:
    """What a call in the queue asks of an agent."""

    line: str = "party"
    """One of ``rules.LINES``."""
    need: str | None = None
    """One of ``rules.NEEDS``; None: it was not said, any agent of the line will do."""
    language: str = "mandarin"
    """One of ``rules.LANGUAGES``."""
    priority: int = 0
    """Higher comes first, whenever it joined."""
    last_agent: str | None = None
    """Who had this caller last: tried first, for a short time."""
    declined: frozenset[str] = frozenset()
    """Agents who did not take this call: not offered it again, unless nobody else could."""

    @property
    def kind(self) -> Kind:
        return Kind(self.line, self.need, self.language)


@dataclass(frozen=True)
class Waiting:
    """A call in the queue, which took its place at `since` (Unix seconds)."""

    call_id: str
    since: float
    wants: Wants = Wants()

    @property
    def rank(self) -> Rank:
        return Rank(-self.wants.priority, self.since, self.call_id)


@dataclass(frozen=True)
class OnDuty:
    """An agent who is signed in and not paused; `idle_since` is None while the agent cannot be rung."""

    number: str
    skills: Skills
    idle_since: float | None


# ---------------------------------------------------------------- the specification


def usual_skills(known: Skills, usual: Routing) -> dict[str, int]:
    """`known` skills of an agent; for a kind of skill (line, need, language) of which none is known, the usual ones."""
    skills = dict(known)
    usually = (usual.usual_lines, usual.usual_needs, usual.usual_languages)
    for kind, by_default in zip(KINDS, usually, strict=True):
        if not any(skill in known for skill in kind):
            skills |= dict.fromkeys(by_default, usual.usual_level)
    return {skill: level for skill, level in skills.items() if level > 0}


def levels_with(known: Skills, skill: str, level: int, usual: Routing) -> dict[str, int]:
    """The levels of the kind of `skill` once this one is set. Usual ones that held are among them: they would hold no
    more as soon as one of the kind is known, and adding a skill takes no other away.
    """
    kind = next(kind for kind in KINDS if skill in kind)
    held = usual_skills(known, usual)
    there = {one: held.get(one, known.get(one)) for one in kind}
    return {one: value for one, value in there.items() if value is not None} | {skill: level}


def steps_of(rules: Rules, line: str) -> tuple[Step, ...]:
    found: Line = getattr(rules.lines, line)
    return found.steps


def fit(steps: Sequence[Step], kind: Kind, skills: Skills) -> Fit | None:
    """None: no step ever lets an agent with these skills take such a call."""
    for opens, step in enumerate(steps):
        levels = [max(skills.get(line, 0) for line in (kind.line, *step.lines))]
        if step.need and kind.need is not None:
            levels.append(skills.get(kind.need, 0))
        if step.language:
            levels.append(skills.get(kind.language, 0))
        if min(levels) >= step.level:
            return Fit(opens, -min(levels))
    return None


def may_take(call: Waiting, agent: OnDuty, on_duty: Iterable[OnDuty], rules: Rules, now: float) -> bool:
    """Whether `agent`, who is free, may be offered `call` now. `on_duty`: all who are, to whom else it could go."""
    steps = steps_of(rules, call.wants.line)
    found = fit(steps, call.wants.kind, agent.skills)
    if found is None:
        return False
    fits = {one.number: fit(steps, call.wants.kind, one.skills) for one in on_duty}
    able = {number: fitting.opens for number, fitting in fits.items() if fitting is not None}
    if is_kept(call, able, rules, now):
        return agent.number == call.wants.last_agent
    if found.opens and call.since + steps[found.opens].after_s > now:
        return False
    return agent.number not in call.wants.declined or able.keys() <= call.wants.declined


def is_kept(call: Waiting, able: Mapping[str, int], rules: Rules, now: float) -> bool:
    """Whether `call` still waits for the agent of the last time: one who is on duty, and whom the first step admits.

    `able`: of those on duty who could take it, the first step that lets them.
    """
    last = call.wants.last_agent
    return (
        last is not None
        and now < call.since + rules.routing.last_agent_s
        and last not in call.wants.declined
        and able.get(last) == 0
    )


def next_pair(
    waiting: Iterable[Waiting], on_duty: Sequence[OnDuty], rules: Rules, now: float
) -> tuple[str, str] | None:
    """The call that is offered next, and the agent it is offered to; None while nobody can be served.

    The first in rank among the callers whom a free agent may take; to the agent whom the earliest step admits, of
    these to the best, of these to the one who has been idle longest.
    """
    for call in sorted(waiting, key=lambda one: one.rank):
        steps = steps_of(rules, call.wants.line)
        able = [
            (fit(steps, call.wants.kind, agent.skills), agent.idle_since, agent.number)
            for agent in on_duty
            if agent.idle_since is not None and may_take(call, agent, on_duty, rules, now)
        ]
        if able:
            return call.call_id, min(able)[2]
    return None


# ---------------------------------------------------------------- the index


class _Free(NamedTuple):
    """A free agent, as callers of one kind see them; the least is rung first."""

    opens: int
    below: int
    idle_since: float
    number: str


class _Pool:
    """Callers of one kind, and the free agents for them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.after_s = [-inf, *(step.after_s for step in steps[1:])]
        self.rows: dict[int, list[Rank]] = {}
        """By priority, the highest first, negative; in each, callers in order."""
        self.free: list[_Free] = []
        self.able: dict[str, int] = {}
        """Agents on duty who could take such a call, by the first step that lets them."""


class Router:
    """Answers as ``next_pair()`` does. Is told of callers and agents as they come, change and go."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._calls: dict[str, Waiting] = {}
        self._special: set[str] = set()
        """Calls with an agent of the last time, or that somebody declined: each is looked at for itself."""
        self._pools: dict[Kind, _Pool] = {}
        self._agents: dict[str, OnDuty] = {}
        self._fits: dict[str, dict[Kind, Fit | None]] = {}
        self.wake_at = inf
        """When `next()`, which has just answered None, may answer otherwise although nobody comes or goes."""

    def join(self, call: Waiting) -> None:
        """`call` waits; if it does already, for what it wants now."""
        self.leave(call.call_id)
        self._calls[call.call_id] = call
        if call.wants.last_agent is not None or call.wants.declined:
            self._special.add(call.call_id)
        rows = self._pool(call.wants.kind).rows
        if call.rank.after_priority not in rows:
            rows[call.rank.after_priority] = []
        insort(rows[call.rank.after_priority], call.rank)

    def leave(self, call_id: str) -> None:
        call = self._calls.pop(call_id, None)
        if call is not None:
            self._special.discard(call_id)
            rows = self._pools[call.wants.kind].rows
            _take_out(rows[call.rank.after_priority], call.rank)
            if not rows[call.rank.after_priority]:
                del rows[call.rank.after_priority]

    def on_duty(self, agent: OnDuty) -> None:
        """`agent` is on duty, or is still, as this says now."""
        before = self._agents.get(agent.number)
        if before == agent:
            return
        if before is not None:
            self._hide(before)
            if before.skills != agent.skills:
                self._fits.pop(agent.number, None)
        self._agents[agent.number] = agent
        for kind, pool in self._pools.items():
            self._show(agent, kind, pool)

    def off_duty(self, number: str) -> None:
        agent = self._agents.pop(number, None)
        if agent is not None:
            self._hide(agent)
            self._fits.pop(number, None)

    def next(self, now: float) -> tuple[str, str] | None:
        """The call that is offered next, and the agent it is offered to; None while nobody can be served."""
        best: tuple[Rank, str] | None = None
        self.wake_at = inf
        for pool in self._pools.values():
            free = pool.free
            if not free:
                continue
            opens_after_s = pool.after_s[free[0].opens]
            for row in pool.rows.values():
                for rank in row:
                    if best is not None and best[0] < rank:
                        break
                    if rank.since + opens_after_s > now:
                        self.wake_at = min(self.wake_at, rank.since + opens_after_s)
                        break
                    agent = self._for_special(rank, pool, now) if rank.call_id in self._special else free[0].number
                    if agent is not None:
                        best = rank, agent
                        break
        return None if best is None else (best[0].call_id, best[1])

    def _for_special(self, rank: Rank, pool: _Pool, now: float) -> str | None:
        """The agent for a call that is kept for one, or that some declined."""
        call = self._calls[rank.call_id]
        kept_until = call.since + self._rules.routing.last_agent_s
        if is_kept(call, pool.able, self._rules, now):
            self.wake_at = min(self.wake_at, kept_until)
            last = call.wants.last_agent or ""
            return last if self._agents[last].idle_since is not None else None
        declined = call.wants.declined
        nobody_else = sum(number in pool.able for number in declined) == len(pool.able)
        for one in pool.free:
            opens_at = call.since + pool.after_s[one.opens]
            if opens_at > now:
                self.wake_at = min(self.wake_at, opens_at)
                break
            if nobody_else or one.number not in declined:
                return one.number
        return None

    def _pool(self, kind: Kind) -> _Pool:
        pool = self._pools.get(kind)
        if pool is None:
            steps = steps_of(self._rules, kind.line)
            pool = self._pools[kind] = _Pool(steps)
            for agent in self._agents.values():
                self._show(agent, kind, pool)
        return pool

    def _show(self, agent: OnDuty, kind: Kind, pool: _Pool) -> None:
        fits = self._fits.setdefault(agent.number, {})
        if kind not in fits:
            fits[kind] = fit(pool.steps, kind, agent.skills)
        found = fits[kind]
        if found is not None:
            pool.able[agent.number] = found.opens
            if agent.idle_since is not None:
                insort(pool.free, _Free(*found, agent.idle_since, agent.number))

    def _hide(self, agent: OnDuty) -> None:
        for kind, pool in self._pools.items():
            found = self._fits[agent.number][kind]
            if found is not None:
                del pool.able[agent.number]
                if agent.idle_since is not None:
                    _take_out(pool.free, _Free(*found, agent.idle_since, agent.number))


T = TypeVar("T", bound=tuple[object, ...])


def _take_out(row: list[T], one: T) -> None:
    del row[bisect_left(row, one)]
