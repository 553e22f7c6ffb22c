"""An agent's duty as one table: what becomes of an agent when something happens to one.

Theory of operation. An agent is in one `Duty`. `News` comes (a code that was dialled, what became of an offer, time
that passed); ``step()`` looks the pair up in `TABLE` and gives the agent as he or she is then, or a `Refusal` that is
said to the agent. A pair without a row is heard late and changes nothing. News of a call is heard only by the agent who
holds that call, so a call that comes back after the agent has another one is heard late, too.

Nothing here waits, reads a clock or knows a database: ``ari_app.desk`` brings the news and is the only one who does.
What holds after every step, whatever the order of the news: an agent holds a call when and only when on one, and never
a second one; sits at a phone when and only when signed in; has an end of wrap-up, or a code of a pause, only in these;
and whoever is held for a call out of a pause or wrap-up is there again, as before, unless a talk comes of it.

Second half: how long agents were what, and how much of a pause's daily allowance is left, from rows of the ledger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta, tzinfo
from enum import Enum, StrEnum, auto


class Duty(StrEnum):
    """An agent's state."""

    SIGNED_OUT = "signed_out"
    IDLE = "idle"
    RESERVED = "reserved"
    """Taken for a call; the phone does not ring yet."""
    RINGING = "ringing"
    TALKING = "talking"
    CONSULTING = "consulting"
    """Talks with a second agent while the caller waits."""
    WRAP_UP = "wrap_up"
    PAUSED = "paused"
    NO_ANSWER = "no_answer"
    """Paused by the hotline because an offer was not taken (RONA)."""


ON_A_CALL = (Duty.RESERVED, Duty.RINGING, Duty.TALKING, Duty.CONSULTING)
OFFERED = (Duty.RESERVED, Duty.RINGING)
IN_TALK = (Duty.TALKING, Duty.CONSULTING)
SIGNED_IN = tuple(duty for duty in Duty if duty is not Duty.SIGNED_OUT)
AT_REST = (Duty.IDLE, Duty.PAUSED, Duty.NO_ANSWER, Duty.WRAP_UP)
"""Signed in and on no call."""


class What(StrEnum):
    """Something that happens to an agent. Its value is the reason that the ledger tells, unless the news has one."""

    SIGNS_IN = "signed in"
    SIGNS_OUT = "signed out"
    PHONE_TAKEN = "another signed in at the phone"
    PAUSES = "paused"
    RESUMES = "resumed"
    IS_OFFERED = "offer"
    RINGS = "phone rings"
    JOINS = "joined"
    CONSULTS = "consults"
    RETURNS = "back from consulting"
    TAKES_OVER = "took the call over"
    STEPS_IN = "stepped in for an agent"
    PULLS = "pulled a caller"
    PLACES = "places a call"
    OFFER_WITHDRAWN = "offer withdrawn"
    NOT_TAKEN = "not taken"
    TALK_ENDED = "talk ended"
    WRAP_UP_OVER = "wrap-up time over"
    READY = "wrap-up ended by code"
    EXTENDS = "wrap-up extended"
    STUCK = "held for nothing"
    RESTARTED = "hotline restarted"


@dataclass(frozen=True)
class News:
    """`what` happened at `at` (Unix seconds), with what it brings."""

    what: What
    at: float
    call_id: str | None = None
    """Of IS_OFFERED, PULLS and STEPS_IN: the call. Of what becomes of a call: the one that must be held for it to be
    heard.
    """
    to_call: str | None = None
    """Of TAKES_OVER: the call that is held from now on."""
    phone: str = ""
    """Of SIGNS_IN: at which phone."""
    code: str | None = None
    """Of PAUSES: the reason's code; None: paused without one."""
    until: float | None = None
    """Of TALK_ENDED and EXTENDS: when wrap-up ends, in Unix seconds."""
    reason: str = ""
    """For the ledger, in place of the usual one."""


@dataclass(frozen=True)
class AgentNow:
    """An agent at a moment. Times are Unix seconds."""

    number: str
    name: str
    duty: Duty
    since: float
    call_id: str | None = None
    wrap_up_until: float | None = None
    phone: str | None = None
    """The registered phone at which the agent sits; None when signed out."""
    pause_code: str | None = None
    rest: AgentNow | None = field(default=None, compare=False)
    """What goes on if no talk comes of the call, which was placed or pulled out of a pause or wrap-up."""


@dataclass(frozen=True)
class Refusal:
    """It cannot be done now; `prompt` says so to the agent."""

    prompt: str


class Back(Enum):
    """Not to one duty, but to the one before."""

    TO_REST = auto()
    """What the agent was at rest, with its code and its end; idle if that was out of being idle."""


BUSY = Refusal("agent-busy")
NOT_SIGNED_IN = Refusal("agent-not-signed-in")
NOT_WRAPPING_UP = Refusal("agent-not-wrapping-up")
PHONE_BUSY = Refusal("agent-phone-taken")

OF_A_CALL = (
    What.RINGS, What.JOINS, What.CONSULTS, What.RETURNS, What.TAKES_OVER, What.OFFER_WITHDRAWN, What.NOT_TAKEN,
    What.TALK_ENDED, What.STUCK,
)  # fmt: skip
"""Heard only by the agent who holds the call."""

GIVES_A_CALL = (What.IS_OFFERED, What.PULLS, What.STEPS_IN, What.PLACES)

TABLE: dict[tuple[Duty, What], Duty | Back | Refusal] = {
    # 1. Signing in, at whatever phone: also moves, comes back from a pause, and ends wrap-up. AGT-1
    **{(duty, What.SIGNS_IN): Duty.IDLE for duty in (Duty.SIGNED_OUT, *AT_REST)},
    **{(duty, What.SIGNS_IN): BUSY for duty in ON_A_CALL},
    **{(duty, What.SIGNS_OUT): Duty.SIGNED_OUT for duty in AT_REST},
    **{(duty, What.SIGNS_OUT): BUSY for duty in ON_A_CALL},
    # 2. Another agent signs in at this one's phone: whoever is on no call has left it
    **{(duty, What.PHONE_TAKEN): Duty.SIGNED_OUT for duty in AT_REST},
    **{(duty, What.PHONE_TAKEN): PHONE_BUSY for duty in ON_A_CALL},
    # 3. Pauses, by code or without; back from them, and from one that a missed offer brought
    **{(duty, What.PAUSES): Duty.PAUSED for duty in AT_REST},
    **{(duty, What.PAUSES): BUSY for duty in ON_A_CALL},
    (Duty.SIGNED_OUT, What.PAUSES): NOT_SIGNED_IN,
    **{(duty, What.RESUMES): Duty.IDLE for duty in AT_REST},
    **{(duty, What.RESUMES): BUSY for duty in ON_A_CALL},
    (Duty.SIGNED_OUT, What.RESUMES): NOT_SIGNED_IN,
    # 4. An offer: reserved, and only then rung; not taken in three rings, and nothing more is offered. SOP-1
    (Duty.IDLE, What.IS_OFFERED): Duty.RESERVED,
    (Duty.RESERVED, What.RINGS): Duty.RINGING,
    **{(duty, What.JOINS): Duty.TALKING for duty in OFFERED},
    **{(duty, What.OFFER_WITHDRAWN): Back.TO_REST for duty in ON_A_CALL},
    **{(duty, What.NOT_TAKEN): Duty.NO_ANSWER for duty in ON_A_CALL},
    # 5. In talk: with a second agent, back to the caller, and handing the caller over. SOP-4, AGT-6
    (Duty.TALKING, What.CONSULTS): Duty.CONSULTING,
    (Duty.CONSULTING, What.RETURNS): Duty.TALKING,
    **{(duty, What.TAKES_OVER): Duty.TALKING for duty in IN_TALK},
    # 6. A leader takes an agent's caller over, or one who waits, also out of a pause. AGT-5
    **{(duty, What.STEPS_IN): Duty.TALKING for duty in AT_REST},
    **{(duty, What.PULLS): Duty.RESERVED for duty in AT_REST},
    **{(duty, What.PULLS): BUSY for duty in ON_A_CALL},
    (Duty.SIGNED_OUT, What.PULLS): NOT_SIGNED_IN,
    # 6a. An agent places a call: reserved for it before the agent's own phone rings
    **{(duty, What.PLACES): Duty.RESERVED for duty in AT_REST},
    **{(duty, What.PLACES): BUSY for duty in ON_A_CALL},
    (Duty.SIGNED_OUT, What.PLACES): NOT_SIGNED_IN,
    # 7. Wrap-up: it ends by itself or by code, and a code makes it longer
    **{(duty, What.TALK_ENDED): Duty.WRAP_UP for duty in ON_A_CALL},
    (Duty.WRAP_UP, What.WRAP_UP_OVER): Duty.IDLE,
    (Duty.WRAP_UP, What.READY): Duty.IDLE,
    (Duty.WRAP_UP, What.EXTENDS): Duty.WRAP_UP,
    **{(duty, code): BUSY for code in (What.READY, What.EXTENDS) for duty in ON_A_CALL},
    **{(Duty.SIGNED_OUT, code): NOT_SIGNED_IN for code in (What.READY, What.EXTENDS)},
    **{(duty, What.EXTENDS): NOT_WRAPPING_UP for duty in (Duty.IDLE, Duty.PAUSED, Duty.NO_ANSWER)},
    # 8. What cannot last is mended: a call that nobody has, a hotline that came back
    **{(duty, What.STUCK): Back.TO_REST for duty in ON_A_CALL},
    **{(duty, What.RESTARTED): Back.TO_REST for duty in ON_A_CALL},
}


def step(agent: AgentNow, news: News) -> AgentNow | Refusal:
    """`agent` after `news`, or why not. Total: every pair has an answer; the same agent if nothing changes."""
    to = TABLE.get((agent.duty, news.what))
    if to is None or (news.what in OF_A_CALL and news.call_id != agent.call_id):
        return agent
    if isinstance(to, Refusal):
        return to
    if news.what is What.TALK_ENDED and news.until is not None and news.until <= news.at:
        to = Duty.IDLE  # there is no wrap-up: one change, so that the next caller does not wait for two
    if to is Back.TO_REST:
        return agent.rest or replace(agent, duty=Duty.IDLE, call_id=None, since=news.at)
    phone = news.phone if news.what is What.SIGNS_IN else agent.phone
    call = news.call_id if news.what in GIVES_A_CALL else news.to_call or agent.call_id
    after = replace(
        agent,
        duty=to,
        call_id=call if to in ON_A_CALL else None,
        phone=None if to is Duty.SIGNED_OUT else phone,
        pause_code=news.code if to is Duty.PAUSED else None,
        wrap_up_until=news.until if to is Duty.WRAP_UP else None,
        rest=_rest(agent) if to in OFFERED else None,
    )
    goes_on = to is agent.duty and after.pause_code == agent.pause_code
    return after if goes_on else replace(after, since=news.at)


def _rest(agent: AgentNow) -> AgentNow | None:
    """What `agent` goes back to, who is offered a call now or has been."""
    return agent if agent.duty in AT_REST and agent.duty is not Duty.IDLE else agent.rest


# ---------------------------------------------------------------- how long


@dataclass(frozen=True)
class Change:
    """A row of the ledger: since `at` (Unix seconds) this agent is `now`; `code` of a pause."""

    agent: str
    at: float
    now: Duty
    code: str | None = None


def times(changes: Iterable[Change], begin: float, end: float) -> dict[tuple[str, Duty, str | None], float]:
    """Seconds each agent was what between `begin` and `end`, by agent, duty and code of the pause.

    `changes` in order of time, those before `begin` too: what began then goes on, the last of each agent until `end`.
    """
    last: dict[str, Change] = {}
    spent: defaultdict[tuple[str, Duty, str | None], float] = defaultdict(float)

    def until(was: Change, at: float) -> None:
        seconds = min(at, end) - max(was.at, begin)
        if seconds > 0:
            spent[was.agent, was.now, was.code] += seconds

    for change in changes:
        if change.agent in last:
            until(last[change.agent], change.at)
        last[change.agent] = change
    for change in last.values():
        until(change, end)
    return dict(spent)


def day_of(at: float, zone: tzinfo) -> tuple[float, float]:
    """When the day in `zone` that holds `at` begins and ends; all in Unix seconds."""
    today = datetime.fromtimestamp(at, zone).date()
    begin, end = (datetime.combine(day, time(), zone).timestamp() for day in (today, today + timedelta(days=1)))
    return begin, end
