"""The hotline's figures: one formula for each, over plain facts of calls and of agents' time. Pure.

Theory of operation. ``ari_app.facts`` turns rows of the ledger into `Facts`. A `Measure` says what of them counts: its
``parts()`` are what each call, or each stretch of an agent's time, adds to a numerator and a denominator. The figure is
the sum of the numerators over the sum of the denominators; the calls behind it are the parts themselves. So figures of
several days, or agents, add up to the figure of the week, or of the hotline, and ``sanling report --why`` lists exactly
what was counted.

A call belongs to the day of its arrival in the hotline's time zone, with all that came of it later. An agent's time
belongs to the day it was spent on: it is split at midnight. Calls that are not over are not counted yet.

docs/measures.md is this table in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from enum import StrEnum

from ari_app.flow.duty import Duty
from ari_app.flow.identity import Role
from ari_app.flow.sop import CONSULTED, Do, Heard, State
from ari_app.flow.survey import is_low

THREE_RINGS_S = 11.0
"""Mainland ringback, 1 s on and 4 s off: the third burst ends. SOP-1."""
SERVICE_WITHIN_S = 15.0
"""The T of the service level. The national recommended standard for government hotlines (GB/T 33358-2016)."""
SHORT_ABANDON_S = 5.0
"""Who hangs up so soon after joining the queue is not counted against the service level."""

HANDLING = (Duty.TALKING, Duty.CONSULTING, Duty.WRAP_UP)
AVAILABLE = (*HANDLING, Duty.IDLE, Duty.RESERVED, Duty.RINGING)
"""Signed in and not paused, be it by choice or after a missed offer."""


# ---------------------------------------------------------------- facts


@dataclass(frozen=True)
class Talk:
    """One agent's part in one call, consultations included. Seconds."""

    agent: str
    talk_s: float
    """With the caller, or with another agent in this call."""
    hold_s: float = 0.0
    """In the call, hearing music."""
    wrap_up_s: float = 0.0
    with_caller: bool = True
    """False: was only consulted."""
    transferred: bool = False
    """Handed the caller on."""

    @property
    def handle_s(self) -> float:
        return self.talk_s + self.hold_s + self.wrap_up_s


@dataclass(frozen=True)
class Offer:
    """An agent's phone that was offered the call."""

    agent: str
    taken: bool | None
    """None: it ended for the caller's reasons, or nobody lived to write down how."""
    answered_after_s: float | None = None


@dataclass(frozen=True)
class CallRecord:
    """A call that is over. Moments are Unix seconds."""

    id: str
    at: float
    until: float
    day: date
    """Of its arrival, in the hotline's time zone."""
    number: str | None = None
    """The caller's: personal data."""
    placed: bool = False
    """By us: a callback, or an agent's call in a case."""
    outcome: str = "handled"
    """As in the ledger's ``endings``."""
    role: Role = Role.UNKNOWN
    answered_after_s: float | None = None
    """The hotline picked up; None: it did not."""
    wait_s: float | None = None
    """In the queue, until the first agent was joined or the caller left it; None: never was in it."""
    talks: tuple[Talk, ...] = ()
    offers: tuple[Offer, ...] = ()
    scores: tuple[tuple[str, int], ...] = ()
    """What the caller keyed after the talk: of which agent, 1 to 5."""
    one_way: tuple[str, ...] = ()
    """Agents of whose talk, by its recording, nothing was heard of one side."""
    disposition: tuple[str, bool] | None = None
    """The agent who keyed the last one, and whether the call was answered on the spot."""

    @property
    def answered(self) -> bool:
        """By an agent, out of the queue."""
        return self.wait_s is not None and any(talk.with_caller for talk in self.talks)

    @property
    def abandoned(self) -> bool:
        return self.wait_s is not None and self.outcome == "abandoned"

    @property
    def short(self) -> bool:
        """Abandoned, but so soon that it is not held against the hotline."""
        return self.abandoned and (self.wait_s or 0.0) < SHORT_ABANDON_S


@dataclass(frozen=True)
class Verdict:
    """A served call whose seven days ended in the period: whether it resolved its matter (``flow.matters.judged``)."""

    call_id: str
    at: float
    """When the call came, in Unix seconds."""
    agent: str
    resolved: bool
    number: str | None = None
    """The caller's: personal data."""


@dataclass(frozen=True)
class Stretch:
    """What an agent was without a break. Moments are Unix seconds."""

    agent: str
    duty: Duty
    begin: float
    end: float
    call_id: str | None = None
    """The call that the agent is held for, or wraps up; None: of no call, or of one that nobody wrote down."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Facts:
    """Of one period."""

    calls: tuple[CallRecord, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    """Agents' time, cut at the borders of the period."""
    verdicts: tuple[Verdict, ...] = ()
    in_progress: int = 0
    """Calls that came and are not over."""
    others: Mapping[str, tuple[float, str | None]] = field(default_factory=dict)
    """Calls that only `stretches` name, since they came before the period or are not over: when each came, in Unix
    seconds, and the caller's number, which is personal data.
    """


def hands_on(heard: Heard, state: State, to: State, actions: Iterable[Do]) -> bool:
    """Whether in this step an agent hands the caller on: to a line, to the second line, to another agent. A leader who
    takes the call over is no transfer.
    """
    asked = state is State.TALKING and heard.name.startswith("TRANSFER_TO_")
    handed = state in (State.CONSULT_RINGING, *CONSULTED) and to in (State.TALKING, State.TRANSFERRING)
    return asked or (handed and Do.RELEASE_AGENT in actions)


# ---------------------------------------------------------------- periods


@dataclass(frozen=True)
class Period:
    """Whole days in a time zone; `begin` and `end` in Unix seconds."""

    first: date
    last: date
    begin: float
    end: float

    @property
    def days(self) -> tuple[date, ...]:
        return tuple(self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))


def day(on: date, zone: tzinfo) -> Period:
    return _period(on, on, zone)


def week(of: date, zone: tzinfo) -> Period:
    """Monday to Sunday, with `of` in it."""
    monday = of - timedelta(days=of.weekday())
    return _period(monday, monday + timedelta(days=6), zone)


def _period(first: date, last: date, zone: tzinfo) -> Period:
    begin, end = (datetime.combine(one, time(), zone).timestamp() for one in (first, last + timedelta(days=1)))
    return Period(first, last, begin, end)


# ---------------------------------------------------------------- figures


class Unit(StrEnum):
    CALLS = "calls"
    """A count: the sum of the numerators; there is no denominator."""
    SHARE = "share"
    """0 to 1."""
    SECONDS = "s"
    SCORE = "score 1–5"
    CALLS_A_DAY = "calls/day"


@dataclass(frozen=True)
class Part:
    """What one call, or one stretch of an agent's time, adds to a figure."""

    numerator: float
    denominator: float = 1.0
    call_id: str | None = None
    agent: str | None = None
    stretch: Stretch | None = None
    """None: the whole call counts."""


@dataclass(frozen=True)
class Measure:
    id: str
    name: str
    """In Chinese, as the report says it."""
    unit: Unit
    source: str
    """Tables of the ledger; empty: nothing tells it yet."""
    numerator: str
    denominator: str
    parts: Callable[[Facts], Iterable[Part]]
    of_agents: bool = False
    """Whether each part is somebody's own."""

    @property
    def has_source(self) -> bool:
        return bool(self.source)


@dataclass(frozen=True)
class Figure:
    """A measure of a period, of the hotline or of one agent."""

    measure: Measure
    parts: tuple[Part, ...]

    @property
    def numerator(self) -> float:
        return sum(part.numerator for part in self.parts)

    @property
    def denominator(self) -> float:
        return sum(part.denominator for part in self.parts)

    @property
    def value(self) -> float | None:
        """None: nothing to count, or nothing that tells it."""
        if not self.measure.has_source:
            return None
        if self.measure.unit is Unit.CALLS:
            return self.numerator
        return self.numerator / self.denominator if self.denominator else None


def figure(measure: Measure, facts: Facts) -> Figure:
    """Of the hotline."""
    return Figure(measure, tuple(measure.parts(facts)))


def figures_by_agent(facts: Facts) -> dict[str, dict[str, Figure]]:
    """Every figure that agents have, of everybody of whom the period tells anything: by number, then by id."""
    found: dict[str, dict[str, list[Part]]] = {}
    own = [measure for measure in MEASURES if measure.of_agents]
    for measure in own:
        for part in measure.parts(facts):
            found.setdefault(part.agent or "", {}).setdefault(measure.id, []).append(part)
    return {
        agent: {measure.id: Figure(measure, tuple(found[agent].get(measure.id, ()))) for measure in own}
        for agent in sorted(found)
    }


# ---------------------------------------------------------------- what counts


def _calls(facts: Facts) -> Iterator[Part]:
    yield from (Part(1, 0, call.id) for call in facts.calls if not call.placed)


def _queued(facts: Facts) -> Iterator[Part]:
    yield from (Part(1, 0, call.id) for call in facts.calls if call.wait_s is not None)


def _answered(facts: Facts) -> Iterator[Part]:
    yield from (Part(1, 0, call.id) for call in facts.calls if call.answered)


def _abandoned(facts: Facts) -> Iterator[Part]:
    yield from (Part(1, 0, call.id) for call in facts.calls if call.abandoned)


def _short(facts: Facts) -> Iterator[Part]:
    yield from (Part(1, 0, call.id) for call in facts.calls if call.short)


def _within_three_rings(facts: Facts) -> Iterator[Part]:
    for call in facts.calls:
        after_s = call.answered_after_s
        late = after_s is None and (call.outcome == "fallback" or call.until - call.at >= THREE_RINGS_S)
        if not call.placed and (after_s is not None or late):
            yield Part(float(after_s is not None and after_s <= THREE_RINGS_S), 1, call.id)


def _phones_within_three_rings(facts: Facts) -> Iterator[Part]:
    for call in facts.calls:
        for offer in call.offers:
            if offer.taken is not None:
                in_time = offer.answered_after_s is not None and offer.answered_after_s <= THREE_RINGS_S
                yield Part(float(in_time), 1, call.id, offer.agent)


def _not_taken(facts: Facts) -> Iterator[Part]:
    for call in facts.calls:
        for offer in call.offers:
            if offer.taken is not None:
                yield Part(float(not offer.taken), 1, call.id, offer.agent)


def _taken(facts: Facts) -> Iterator[Part]:
    for part in _not_taken(facts):
        yield Part(1.0 - part.numerator, 1, part.call_id, part.agent)


def _wanted(facts: Facts) -> Iterator[CallRecord]:
    """Calls that the hotline is held to: answered, or abandoned and not at once."""
    yield from (call for call in facts.calls if call.answered or (call.abandoned and not call.short))


def _service_level(facts: Facts) -> Iterator[Part]:
    for call in _wanted(facts):
        yield Part(float(call.answered and (call.wait_s or 0.0) <= SERVICE_WITHIN_S), 1, call.id)


def _abandonment(facts: Facts) -> Iterator[Part]:
    yield from (Part(float(not call.answered), 1, call.id) for call in _wanted(facts))


def _answer_rate(facts: Facts) -> Iterator[Part]:
    yield from (Part(float(call.answered), 1, call.id) for call in facts.calls if call.wait_s is not None)


def _asa(facts: Facts) -> Iterator[Part]:
    yield from (Part(call.wait_s or 0.0, 1, call.id) for call in facts.calls if call.answered)


def _abandon_wait(facts: Facts) -> Iterator[Part]:
    yield from (Part(call.wait_s or 0.0, 1, call.id) for call in facts.calls if call.abandoned)


def _queue_wait(facts: Facts) -> Iterator[Part]:
    yield from (Part(call.wait_s, 1, call.id) for call in facts.calls if call.wait_s is not None)


def _of_talks(seconds: Callable[[Talk], float]) -> Callable[[Facts], Iterator[Part]]:
    def parts(facts: Facts) -> Iterator[Part]:
        for call in facts.calls:
            yield from (Part(seconds(talk), 1, call.id, talk.agent) for talk in call.talks)

    return parts


def _transfers(facts: Facts) -> Iterator[Part]:
    for call in facts.calls:
        for talk in call.talks:
            if talk.with_caller:
                yield Part(float(talk.transferred), 1, call.id, talk.agent)


def _calls_a_day(facts: Facts) -> Iterator[Part]:
    days: set[tuple[str, date]] = set()
    for call in facts.calls:
        for talk in call.talks:
            if talk.with_caller:
                first = (talk.agent, call.day) not in days
                days.add((talk.agent, call.day))
                yield Part(1, float(first), call.id, talk.agent)


def _occupancy(facts: Facts) -> Iterator[Part]:
    for one in facts.stretches:
        if one.duty in AVAILABLE:
            yield Part(one.seconds if one.duty in HANDLING else 0.0, one.seconds, one.call_id, one.agent, one)


def _resolution(facts: Facts) -> Iterator[Part]:
    yield from (Part(float(one.resolved), 1, one.call_id, one.agent) for one in facts.verdicts)


def _scores(facts: Facts, role: Role | None = None) -> Iterator[tuple[str, str, int]]:
    for call in facts.calls:
        if role is None or call.role is role:
            yield from ((call.id, agent, score) for agent, score in call.scores)


def _satisfaction(facts: Facts) -> Iterator[Part]:
    yield from (Part(score, 1, call_id, agent) for call_id, agent, score in _scores(facts))


def _lawyers(facts: Facts) -> Iterator[Part]:
    yield from (Part(score, 1, call_id, agent) for call_id, agent, score in _scores(facts, Role.LAWYER))


def _satisfied(facts: Facts) -> Iterator[Part]:
    yield from (Part(float(not is_low(score)), 1, call_id, agent) for call_id, agent, score in _scores(facts))


def _on_the_spot(facts: Facts) -> Iterator[Part]:
    for call in facts.calls:
        if call.disposition is not None:
            agent, on_the_spot = call.disposition
            yield Part(float(on_the_spot), 1, call.id, agent)


def _one_way_audio(facts: Facts) -> Iterator[Part]:
    for call in facts.calls:
        yield from (Part(1, 0, call.id, agent) for agent in call.one_way)


def _nothing(_: Facts) -> Iterator[Part]:
    yield from ()


T = SERVICE_WITHIN_S
MEASURES: tuple[Measure, ...] = (
    Measure("calls", "来电量", Unit.CALLS, "calls, endings", "calls that came in and are over", "—", _calls),
    Measure("queued", "排队量", Unit.CALLS, "transitions", "of the calls, that joined the queue", "—", _queued),
    Measure("answered", "接通量", Unit.CALLS, "transitions, offers, talk_times",
            "of the queued, that an agent talked with", "—", _answered),
    Measure("abandoned", "放弃量", Unit.CALLS, "endings, transitions",
            "of the queued, whose callers hung up in the queue, served by nobody", "—", _abandoned),
    Measure("short_abandons", "短放弃量", Unit.CALLS, "endings, transitions",
            f"of the abandoned, those within {SHORT_ABANDON_S:.0f} s of joining the queue", "—", _short),
    Measure("answer_within_three_rings", "三声内接听率", Unit.SHARE, "endings",
            f"picked up within {THREE_RINGS_S:.0f} s of the call's arrival",
            f"calls that came in, without those hung up sooner than {THREE_RINGS_S:.0f} s unanswered",
            _within_three_rings),
    Measure("phones_within_three_rings", "座席三声内接听率", Unit.SHARE, "offers",
            f"answered within {THREE_RINGS_S:.0f} s of the offer",
            "offers to agents, without those that ended for the caller's reasons", _phones_within_three_rings, True),
    Measure("service_level", f"服务水平（{T:.0f}秒）", Unit.SHARE, "transitions, offers, endings",
            f"answered with a wait of {T:.0f} s or less", "answered + abandoned − short abandons", _service_level),
    Measure("answer_rate", "接通率", Unit.SHARE, "transitions, offers, talk_times", "answered", "queued",
            _answer_rate),
    Measure("abandonment", "放弃率", Unit.SHARE, "endings, transitions", "abandoned − short abandons",
            "answered + abandoned − short abandons", _abandonment),
    Measure("asa", "平均应答速度", Unit.SECONDS, "transitions, offers",
            "seconds in the queue until the first agent was joined", "answered", _asa),
    Measure("abandon_wait", "放弃者平均等待", Unit.SECONDS, "endings, transitions",
            "seconds in the queue until the caller hung up", "abandoned", _abandon_wait),
    Measure("queue_wait", "平均排队时长", Unit.SECONDS, "transitions, offers, endings",
            "seconds in the queue, however the caller left it", "queued", _queue_wait),
    Measure("handle_time", "平均处理时长", Unit.SECONDS, "talk_times, agent_states", "talk + hold + wrap-up",
            "handled: an agent's part in a call, placed calls and consultations included",
            _of_talks(lambda talk: talk.handle_s), True),
    Measure("talk_time", "平均通话时长", Unit.SECONDS, "talk_times",
            "seconds with the caller or another agent of the call", "handled",
            _of_talks(lambda talk: talk.talk_s), True),
    Measure("hold_time", "平均保持时长", Unit.SECONDS, "talk_times", "seconds in the call in music", "handled",
            _of_talks(lambda talk: talk.hold_s), True),
    Measure("wrap_up_time", "平均话后时长", Unit.SECONDS, "agent_states", "seconds of wrap-up", "handled",
            _of_talks(lambda talk: talk.wrap_up_s), True),
    Measure("occupancy", "占用率", Unit.SHARE, "agent_states", "seconds talking, consulting and in wrap-up",
            "seconds signed in and not paused", _occupancy, True),
    Measure("rona_rate", "未接率", Unit.SHARE, "offers", "offers not taken: no answer, refused, busy, unreachable",
            "offers to agents, without those that ended for the caller's reasons", _not_taken, True),
    Measure("offers_taken", "座席接通率", Unit.SHARE, "offers", "offers taken",
            "offers to agents, without those that ended for the caller's reasons", _taken, True),
    Measure("transfer_rate", "转接率", Unit.SHARE, "transitions, talk_times",
            "of these, that ended in handing the caller on", "agents' talks with a caller", _transfers, True),
    Measure("first_call_resolution", "一次解决率", Unit.SHARE, "matters, dispositions",
            "of these, with no second call on the same matter in the seven days",
            "served calls of known matter whose seven days ended in the period", _resolution, True),
    Measure("satisfaction", "满意度", Unit.SCORE, "ratings", "sum of the scores", "scores keyed", _satisfaction, True),
    Measure("lawyer_satisfaction", "律师满意度", Unit.SCORE, "ratings, transitions",
            "sum of the scores that lawyers keyed", "scores that lawyers keyed", _lawyers, True),
    Measure("satisfied", "满意率", Unit.SHARE, "ratings", "scores of 3 to 5", "scores keyed", _satisfied, True),
    Measure("on_the_spot", "当场答复率", Unit.SHARE, "dispositions", "of these, answered on the spot",
            "calls with a disposition", _on_the_spot, True),
    Measure("calls_a_day", "人均日接听量", Unit.CALLS_A_DAY, "talk_times", "agents' talks with a caller",
            "days of agents with such a talk", _calls_a_day, True),
    Measure("one_way_audio", "单通量", Unit.CALLS, "talk_sounds",
            "agents' talks in which, by the recording, nothing was heard of one side", "—", _one_way_audio, True),
    Measure("ticket_accuracy", "工单准确率", Unit.SHARE, "", "tickets without a wrong, missing or double entry",
            "tickets", _nothing, True),
    Measure("complaint_rate", "投诉率", Unit.SHARE, "", "upheld complaints", "agents' talks with a caller",
            _nothing, True),
    Measure("knowledge_base", "知识库贡献", Unit.CALLS, "", "entries added", "—", _nothing, True),
    Measure("inspection", "质检扣分", Unit.CALLS, "", "points taken off by quality inspection", "—", _nothing, True),
)  # fmt: skip

BY_ID = {measure.id: measure for measure in MEASURES}
