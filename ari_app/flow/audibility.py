"""Whether caller and agent could hear each other: one-way audio, judged from how loud each side of a talk was. Pure.

A talk is one agent's part in one call. Of the time that the agent had the caller, what is listened to (`worth_hearing`)
leaves out all in which nobody is expected to speak: a hold, a prompt that both or the caller hear, the moments after
the join and before the end. A side counts as unheard if in all that is left it never was as loud as a voice for as
long as a syllable: no packets, digital silence and comfort noise are the same to whoever listens. So one word in a
long talk is enough, and a microphone that was muted for a part of it counts for nothing; one that was muted from the
first to the last second is no better for the other side than a broken line, and cannot be told from it.

Moments are Unix seconds, levels are dB re full scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Span = tuple[float, float]
"""From and until."""

VOICE_FROM_DB = -50.0
"""Comfort noise lies 10 dB and more below it, and the vowels of a quiet voice as much above."""
AGENT_FROM_S = 10.0
"""Who answers for a living speaks within ten seconds of taking a call, or asks whether somebody is there."""
CALLER_FROM_S = 30.0
"""Whoever is told something may listen for a while. Of a conversation's time, somebody who does not speak is silent for
1.6 s at a stretch on average (ITU-T P.59); half a minute without so much as an 嗯 is a caller whom nobody hears.
"""
AFTER_THE_JOIN_S, BEFORE_THE_END_S = 1.0, 0.5
"""Music and prompts end, and receivers are put down, a little beside their moment."""
LEAST_S = 1.0
"""Shorter pieces are left out."""


class Unheard(StrEnum):
    """Who could not be heard in a talk."""

    NOBODY = ""
    CALLER = "caller"
    AGENT = "agent"
    BOTH = "both"

    @property
    def sides(self) -> tuple[str, ...]:
        return ("caller", "agent") if self is Unheard.BOTH else (self.value,) if self else ()


@dataclass(frozen=True)
class Verdict:
    """Of one talk. A level is None where there was too little to judge that side by."""

    seconds: float
    """That were listened to."""
    caller_db: float | None
    agent_db: float | None

    @property
    def judged(self) -> bool:
        return self.agent_db is not None

    @property
    def unheard(self) -> Unheard:
        caller, agent = (level is not None and level < VOICE_FROM_DB for level in (self.caller_db, self.agent_db))
        return Unheard(("", "caller", "agent", "both")[caller + 2 * agent])


def worth_hearing(together: Iterable[Span], nobody_speaks: Iterable[Span]) -> list[Span]:
    """What to listen to of the time that a caller and an agent spent `together`."""
    left = [(begin + AFTER_THE_JOIN_S, end - BEFORE_THE_END_S) for begin, end in _joined(together)]
    for begin, end in nobody_speaks:
        left = [
            piece
            for one in left
            for piece in (
                (one[0], min(one[1], begin - BEFORE_THE_END_S)), (max(one[0], end + AFTER_THE_JOIN_S), one[1])
            )
            if piece[0] < piece[1]
        ]  # fmt: skip
    return sorted({piece for piece in left if piece[1] - piece[0] >= LEAST_S})


def held(changes: Iterable[tuple[float, str, bool]], until: float) -> list[Span]:
    """Holds, from rows in order of time: moment, who pressed the key, whether it began. One without an end lasts
    `until` then.
    """
    since: dict[str, float] = {}
    found = []
    for at, who, began in changes:
        if began:
            since.setdefault(who, at)
        elif who in since:
            found.append((since.pop(who), at))
    return found + [(begin, until) for begin in since.values()]


def in_the_recording(spans: Iterable[Span], begins: float, ends: float, seconds: float) -> list[Span]:
    """The same in seconds of a recording that has `seconds` of the time between `begins` and `ends`.

    Time in which nothing sounded either way is not in it, nor known where it is missing: each span is cut by that
    much, so that what is left of it was certainly in it.
    """
    missing = max(0.0, ends - begins - seconds)
    moved = [(begin - begins, min(end - begins - missing, seconds)) for begin, end in spans]
    return [(begin, end) for begin, end in moved if begin >= 0 and end - begin >= LEAST_S]


def verdict(seconds: float, said_db: float, heard_db: float) -> Verdict:
    """Of `seconds` in which the caller was as loud as `said_db`, and what the caller heard as `heard_db`."""
    return Verdict(
        seconds, said_db if seconds >= CALLER_FROM_S else None, heard_db if seconds >= AGENT_FROM_S else None
    )


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Those that follow each other at once as one: the talk went on."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found
