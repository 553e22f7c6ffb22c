"""What the ledger's rows say of the calls of a period, as the plain facts that figures are made of (``flow.measures``).

Reading is synchronous, with a session of ``ari_app.store``. Everything is asked for once a period, joined on the calls
that came in it, so that a week costs a few questions and not a few for each call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from math import inf
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from ari_app.desk import call_of
from ari_app.flow.audibility import Unheard
from ari_app.flow.billing import Company
from ari_app.flow.duty import Duty, What
from ari_app.flow.identity import Role
from ari_app.flow.measures import CallRecord, Facts, Offer, Period, Stretch, Talk, Verdict, hands_on
from ari_app.flow.sop import ROLES, Do, Heard, State
from ari_app.flow.story import Story
from ari_app.outcomes import Result, judged_between
from ari_app.store import models
from ari_app.talk import OFFER_ENDED

WRAP_UP_AT_MOST_S = 7200.0
"""Whatever the rules say, no wrap-up lasts longer."""
SAYS_ROLE = frozenset(heard.name for heard in ROLES)
NOT_TAKEN = frozenset(OFFER_ENDED.values())


@dataclass
class _Rows:
    """Of one call, in order."""

    steps: list[Any] = field(default_factory=list)
    offers: list[Any] = field(default_factory=list)
    stretches: list[Any] = field(default_factory=list)
    scores: list[tuple[str, int]] = field(default_factory=list)
    one_way: list[str] = field(default_factory=list)
    disposition: tuple[str, bool] | None = None
    wrapped_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def read(session: Session, period: Period, zone: tzinfo, now: float) -> Facts:
    """Of the calls that came in `period`, and of agents' time in it, as they stand at `now` (Unix seconds)."""
    came = (models.Call.at >= period.begin) & (models.Call.at < period.end)
    calls = session.execute(
        select(models.Call, models.Ending, models.OutboundCall.call_id)
        .outerjoin(models.Ending, models.Ending.call_id == models.Call.id)
        .outerjoin(models.OutboundCall, models.OutboundCall.call_id == models.Call.id)
        .where(came)
        .order_by(models.Call.at, models.Call.id)
    ).all()
    of: defaultdict[str, _Rows] = defaultdict(_Rows)

    def rows(model: Any, *columns: Any, where: Any = True, order: Iterable[Any]) -> Iterable[Any]:
        asked = select(model.call_id, *columns).join(models.Call, models.Call.id == model.call_id)
        return session.execute(asked.where(came, where).order_by(*order))

    step = models.Transition
    told = or_(
        step.actions.contains("QUEUE"), step.actions.contains("RELEASE_AGENT"),
        step.heard.in_(SAYS_ROLE),
    )  # fmt: skip
    columns: tuple[Any, ...] = (step.n, step.at, step.state, step.heard, step.next, step.actions)
    for row in rows(step, *columns, where=told, order=(step.call_id, step.n)):
        of[row.call_id].steps.append(row)
    offer = models.OfferEvent
    for row in rows(offer, offer.n, offer.event, offer.at, offer.agent, order=(offer.call_id, offer.n, offer.at)):
        of[row.call_id].offers.append(row)
    talk = models.TalkTime
    columns = (talk.n, talk.agent, talk.company, talk.at, talk.until)
    for row in rows(talk, *columns, order=(talk.call_id, talk.n)):
        of[row.call_id].stretches.append(row)
    rating = models.Rating
    for row in rows(rating, rating.agent, rating.score, order=(rating.call_id, rating.n)):
        of[row.call_id].scores.append((row.agent, row.score))
    sound = models.TalkSound
    for row in rows(sound, sound.agent, where=sound.unheard != Unheard.NOBODY.value, order=(sound.call_id, sound.at)):
        of[row.call_id].one_way.append(row.agent)
    said = models.Disposition
    for row in rows(said, said.agent, said.result, order=(said.at, said.id)):  # the last one counts
        of[row.call_id].disposition = (row.agent, row.result == Result.ON_THE_SPOT)
    until = max((ending.at for _, ending, _ in calls if ending is not None), default=period.begin)
    for call_id, agent, seconds in _wrap_ups(session, period.begin, until + WRAP_UP_AT_MOST_S, now):
        of[call_id].wrapped_s[agent] += seconds
    stretches = tuple(_within(period, now, _stretches(session, period.begin, period.end, now)))
    over = {call.id for call, ending, _ in calls if ending is not None}

    return Facts(
        calls=tuple(
            _record(call, ending, placed is not None, of[call.id], zone)
            for call, ending, placed in calls
            if ending is not None
        ),
        stretches=stretches,
        verdicts=tuple(_verdicts(session, period.begin, min(period.end, now))),
        in_progress=len(calls) - len(over),
        others=_came(session, {one.call_id for one in stretches if one.call_id is not None} - over),
    )


def _verdicts(session: Session, begin: float, end: float) -> Iterable[Verdict]:
    found = judged_between(session, begin, end)
    moments = [one.at for one, _ in found]
    asked = select(models.Call.id, models.Call.caller_number)
    if found:
        asked = asked.where(models.Call.at >= min(moments), models.Call.at <= max(moments))
    numbers = {call_id: number for call_id, number in session.execute(asked)} if found else {}
    for one, resolved in found:
        yield Verdict(one.call_id, one.at, one.agent or "", resolved, numbers.get(one.call_id))


def _came(session: Session, call_ids: Iterable[str]) -> dict[str, tuple[float, str | None]]:
    """When each of these calls came, and the caller's number."""
    call = models.Call
    asked = select(call.id, call.at, call.caller_number).where(call.id.in_(list(call_ids)))
    return {call_id: (at, number) for call_id, at, number in session.execute(asked)}


def _within(period: Period, now: float, stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """What of them is in the period and not after `now`."""
    for one in stretches:
        begin, end = max(one.begin, period.begin), min(one.end, period.end, now)
        if begin < end:
            yield replace(one, begin=begin, end=end)


def _wrap_ups(session: Session, begin: float, end: float, now: float) -> Iterator[tuple[str, str, float]]:
    """Call, agent and seconds of each wrap-up that began from `begin` on and before `end`; one that goes on lasts until
    `now`.
    """
    for one in _stretches(session, begin, end, now):
        if one.duty is Duty.WRAP_UP and one.call_id is not None and one.begin >= begin:
            yield one.call_id, one.agent, one.seconds


def _stretches(session: Session, begin: float, end: float, now: float) -> list[Stretch]:
    """What agents were at `begin` (Unix seconds) and became since, before `end`: not cut at either, in order of their
    beginnings. What goes on lasts until `now`.

    A row of wrap-up does not name its call: the agent's row before it does, unless that was for a call of which nothing
    came; the wrap-up that it was placed or pulled out of goes on then. So rows are read from a wrap-up before `begin`.
    """
    state = models.AgentState
    since = begin - WRAP_UP_AT_MOST_S
    before = select(func.max(state.id)).where(state.at < since).group_by(state.agent)
    asked = select(state.agent, state.at, state.now, state.reason, state.call_id).where(
        state.at < end, (state.at >= since) | state.id.in_(before)
    )
    goes_on: dict[str, Stretch] = {}
    wrapped: dict[str, str | None] = {}
    found: list[Stretch] = []
    for agent, at, now_is, reason, held_for in session.execute(asked.order_by(state.id)):
        duty, was = Duty(now_is), goes_on.get(agent)
        call_id = call_of(held_for) if held_for is not None else None
        if duty is Duty.WRAP_UP:
            if reason == What.TALK_ENDED:
                wrapped[agent] = was.call_id if was is not None else None
            call_id = wrapped.get(agent)
        if was is not None:
            if (was.duty, was.call_id) == (duty, call_id):
                continue  # longer wrap-up, another code of a pause
            found.append(replace(was, end=at))
        goes_on[agent] = Stretch(agent, duty, at, max(at, now), call_id)
    found += goes_on.values()
    return sorted((one for one in found if one.end > begin), key=lambda one: (one.begin, one.agent))


def _record(call: models.Call, ending: models.Ending, placed: bool, rows: _Rows, zone: tzinfo) -> CallRecord:
    joined = [row for row in rows.offers if row.event == "joined"]
    first_joined_at = min((row.at for row in joined), default=inf)
    roles = [ROLES[Heard[row.heard]] for row in rows.steps if row.heard in SAYS_ROLE]
    return CallRecord(
        id=call.id,
        at=call.at,
        until=ending.at,
        day=datetime.fromtimestamp(call.at, zone).date(),
        number=call.caller_number,
        placed=placed,
        outcome=ending.outcome,
        role=roles[-1] if roles else Role.UNKNOWN,
        answered_after_s=ending.answered_after_s,
        wait_s=None if placed else _waited_s(rows.steps, min(first_joined_at, ending.at)),
        talks=tuple(_talks(rows, [row.agent for row in joined])),
        offers=tuple(_offers(rows.offers)),
        scores=tuple(rows.scores),
        one_way=tuple(rows.one_way),
        disposition=rows.disposition,
    )


def _waited_s(steps: Iterable[Any], until: float) -> float | None:
    """In the queue until then; None if the call never was in it."""
    story = Story()
    was_in_it = False
    for row in steps:
        actions = _actions(row)
        if row.at <= until and "QUEUE" in row.actions:
            story.note(row.at, State[row.state], Heard[row.heard], State[row.next], actions)
            was_in_it = was_in_it or Do.JOIN_QUEUE in actions
    if not was_in_it:
        return None
    return story.waited_s + (until - story.waiting_since if story.waiting_since is not None else 0.0)


def _actions(row: Any) -> tuple[Do, ...]:
    return tuple(Do[name] for name in row.actions.split())


def _talks(rows: _Rows, joined: list[str]) -> Iterable[Talk]:
    """One for each agent who was in the call."""
    talked: defaultdict[str, float] = defaultdict(float)
    held: defaultdict[str, float] = defaultdict(float)
    with_caller: set[str] = set(joined[:1])
    has_caller: list[tuple[int, str]] = []
    for row in rows.stretches:
        seconds = row.until - row.at
        (held if row.company == Company.NOBODY else talked)[row.agent] += seconds
        if row.company in (Company.CALLER, Company.BOTH):
            with_caller.add(row.agent)
        if row.company == Company.CALLER:
            has_caller.append((row.n, row.agent))
    transferred = set()
    for row in rows.steps:
        if hands_on(Heard[row.heard], State[row.state], State[row.next], _actions(row)):
            transferred |= {agent for _, agent in [one for one in has_caller if one[0] <= row.n][-1:]}
    for agent in dict.fromkeys([*joined, *(row.agent for row in rows.stretches)]):
        yield Talk(agent, talked[agent], held[agent], rows.wrapped_s[agent], agent in with_caller, agent in transferred)


def _offers(events: Iterable[Any]) -> Iterable[Offer]:
    """A leader who takes a call over was not offered it."""
    by_number: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for row in events:
        by_number[row.n][row.event] = row
    for found in by_number.values():
        if "offered" in found:
            offered, answered = found["offered"], found.get("answered")
            refused = any(event in found for event in NOT_TAKEN)
            taken = True if "joined" in found else False if refused else None
            yield Offer(offered.agent, taken, answered.at - offered.at if answered is not None else None)
