"""What team leaders and mentors may do upon an agent's call, and how they say so. AGT-5.

Four acts last as long as the leader's phone is on the line and are changed by a single key: listen, whisper, join, and
taking over, which ends the listening and leaves the leader with the caller. The others are done at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What an agent is on the floor. AGT-3."""

    AGENT = "agent"
    INSPECTOR = "inspector"
    """Quality inspection: hears, and is never heard."""
    MENTOR = "mentor"
    LEADER = "leader"


class Act(StrEnum):
    LISTEN = "listen"
    WHISPER = "whisper"
    """The agent hears the leader, the caller does not."""
    JOIN = "join"
    """All hear all."""
    TAKE_OVER = "take_over"
    FORCE_PAUSE = "force_pause"
    FORCE_SIGN_OUT = "force_sign_out"
    PULL = "pull"
    """A waiting caller is brought to the leader's own phone."""
    MOVE = "move"
    """An agent serves another line from now on."""


IN_THE_CALL = (Act.LISTEN, Act.WHISPER, Act.JOIN)
"""What lasts, with the agent still in the call."""

RIGHTS: Mapping[Role, frozenset[Act]] = {
    Role.AGENT: frozenset(),
    Role.INSPECTOR: frozenset({Act.LISTEN}),
    Role.MENTOR: frozenset({*IN_THE_CALL, Act.TAKE_OVER}),
    Role.LEADER: frozenset(Act),
}

CODES: Mapping[str, Act] = {
    "*81": Act.LISTEN, "*82": Act.WHISPER, "*83": Act.JOIN, "*84": Act.TAKE_OVER, "*85": Act.FORCE_PAUSE,
    "*86": Act.FORCE_SIGN_OUT, "*87": Act.PULL, "*88": Act.MOVE,
}  # fmt: skip

KEYS: Mapping[str, Act] = {"1": Act.LISTEN, "2": Act.WHISPER, "3": Act.JOIN, "4": Act.TAKE_OVER}
"""Pressed while listening, whispering or joined."""

LINE_KEYS: Mapping[str, str] = {"1": "party", "2": "lawyer", "3": "second_line"}
"""The lines, as they are dialled after ``*88<agent>*``."""


@dataclass(frozen=True)
class Order:
    """What was dialled."""

    act: Act
    whom: str | None = None
    """An agent's number; None for `Act.PULL`."""
    line: str | None = None
    """Of `Act.MOVE`: one of `ari_app.rules.LINES`."""


def order_of(dialled: str) -> Order | None:
    """What ``*81601``, ``*87`` or ``*88601*2`` orders; None if it cannot be understood.

    >>> order_of("*88601*2")
    Order(act=<Act.MOVE: 'move'>, whom='601', line='lawyer')
    """
    act, rest = CODES.get(dialled[:3]), dialled[3:].rstrip("#")
    if act is None:
        return None
    if act is Act.PULL:
        return None if rest else Order(act)
    said = re.fullmatch(r"([1-9]\d{2,7})(?:\*(\d))?", rest)
    if said is None or (said[2] is not None) != (act is Act.MOVE):
        return None
    if act is Act.MOVE:
        return Order(act, said[1], LINE_KEYS[said[2]]) if said[2] in LINE_KEYS else None
    return Order(act, said[1])


def may(role: str, act: Act) -> bool:
    """Whether `role`, as it stands in the database, allows `act`; a word that is no role allows nothing."""
    return role in tuple(Role) and act in RIGHTS[Role(role)]
