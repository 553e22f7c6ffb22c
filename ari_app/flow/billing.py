"""Who talked with whom, and for how long: the agents' talk time, read off the states that a call was in. Pure.

Each state in which an agent has the caller says what each of the two agents does in it (`PART`). A stretch in one
state is billed when it is left, from when the agent was joined. SOP-4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ari_app.flow.sop import State


class Seat(StrEnum):
    """Of those who can be in a talk."""

    CALLER = "caller"
    AGENT = "agent"
    """Who has the caller."""
    SECOND = "second"
    """Who was consulted."""


class Company(StrEnum):
    """With whom an agent spends the time."""

    CALLER = "caller"
    AGENT = "agent"
    """The other agent, while the caller hears music."""
    BOTH = "both"
    NOBODY = "nobody"
    """Hears music while the others talk, or while another agent is sought."""


PART: dict[State, dict[Seat, Company]] = {
    State.TALKING: {Seat.AGENT: Company.CALLER},
    State.CONSULT_RINGING: {Seat.AGENT: Company.NOBODY},
    State.CONSULTING: {Seat.AGENT: Company.AGENT, Seat.SECOND: Company.AGENT},
    State.CONSULT_SWAPPED: {Seat.AGENT: Company.CALLER, Seat.SECOND: Company.NOBODY},
    State.THREE_WAY: {Seat.AGENT: Company.BOTH, Seat.SECOND: Company.BOTH},
}

TOGETHER: dict[State, frozenset[Seat]] = {
    State.TALKING: frozenset({Seat.CALLER, Seat.AGENT}),
    State.CONSULT_RINGING: frozenset(),
    State.CONSULTING: frozenset({Seat.AGENT, Seat.SECOND}),
    State.CONSULT_SWAPPED: frozenset({Seat.CALLER, Seat.AGENT}),
    State.THREE_WAY: frozenset(Seat),
}
"""Who hears whom in each state; whoever is not among them hears music."""


@dataclass(frozen=True)
class Stretch:
    """Of one agent in one state; moments are Unix seconds."""

    seat: Seat
    company: Company
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def stretches(state: State, since: float, until: float, joined: Mapping[Seat, float]) -> list[Stretch]:
    """What is to be billed of the time in `state`; `joined`: since when each agent who is there was joined."""
    return [
        Stretch(seat, company, max(since, joined[seat]), until)
        for seat, company in PART.get(state, {}).items()
        if seat in joined and until > max(since, joined[seat])
    ]


def with_caller_s(billed: Iterable[Stretch]) -> float:
    """For how long the caller talked with anybody, of what is billed for one state."""
    return max((one.seconds for one in billed if one.company in (Company.CALLER, Company.BOTH)), default=0.0)
