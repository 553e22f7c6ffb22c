"""Who may do what by the API: roles, the one table of what each may do, and tokens.

A token is 256 random bits, shown once. The database keeps its SHA-256 only, so that whoever reads the database has no
token; for so much chance a slow hash adds nothing. Tokens are made and revoked on the machine itself (``sanling
token``), never by the API.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app.errors import SanlingError
from ari_app.store.models import Agent, ApiToken

PREFIX = "sanling_"
"""Lets a token be recognised where it should not be, such as in a commit."""
NOTE_LENGTH = 80


class Role(StrEnum):
    AGENT = "agent"
    LEADER = "leader"
    INSPECTOR = "inspector"
    OPS = "ops"


class Reach(Enum):
    """How far a role's right goes."""

    NONE = auto()
    OWN = auto()
    """Only what is the token's own agent's."""
    MASKED = auto()
    """Everything, but of callers' numbers the last two digits only, and no names."""
    ALL = auto()


class Act(StrEnum):
    """What can be asked of the API. The value is the operation's id in OpenAPI and its name in the audit."""

    SEE_ITSELF = "see_itself"
    SEE_BOARD = "see_board"
    SEE_AGENTS = "see_agents"
    SEE_QUEUE = "see_queue"
    SEE_CALLS = "see_calls"
    SEE_CALLBACKS = "see_callbacks"
    SEE_ORDERS = "see_orders"
    SEE_LISTENING = "see_listening"
    SEE_EVENTS = "see_events"
    SEE_AUDIT = "see_audit"
    PAUSE = "pause"
    RESUME = "resume"
    END_WRAP_UP = "end_wrap_up"
    SIGN_OUT = "sign_out"
    CALL_OUT = "call_out"
    LISTEN = "listen"
    WHISPER = "whisper"
    JOIN = "join"
    TAKE_OVER = "take_over"
    PULL = "pull"
    MOVE = "move"
    ADD_CALLBACK = "add_callback"
    CANCEL_CALLBACK = "cancel_callback"
    CLOSE_ORDER = "close_order"
    RELOAD = "reload"
    DRAIN = "drain"


N, O, M, A = Reach.NONE, Reach.OWN, Reach.MASKED, Reach.ALL  # noqa: E741 - so that the table is one
MATRIX: dict[Act, tuple[Reach, Reach, Reach, Reach]] = {
    #                 agent leader inspector ops
    Act.SEE_ITSELF:    (O,    O,     O,      O),
    Act.SEE_BOARD:     (N,    A,     M,      M),
    Act.SEE_AGENTS:    (O,    A,     M,      M),
    Act.SEE_QUEUE:     (N,    A,     M,      M),
    Act.SEE_CALLS:     (O,    A,     M,      M),
    Act.SEE_CALLBACKS: (N,    A,     M,      M),
    Act.SEE_ORDERS:    (O,    A,     M,      N),
    Act.SEE_LISTENING: (N,    A,     A,      N),
    Act.SEE_EVENTS:    (O,    A,     M,      M),
    Act.SEE_AUDIT:     (N,    A,     M,      A),
    Act.PAUSE:         (O,    A,     N,      N),
    Act.RESUME:        (O,    A,     N,      N),
    Act.END_WRAP_UP:   (O,    A,     N,      N),
    Act.SIGN_OUT:      (O,    A,     N,      N),
    Act.CALL_OUT:      (O,    A,     N,      N),
    Act.LISTEN:        (N,    A,     A,      N),
    Act.WHISPER:       (N,    A,     N,      N),
    Act.JOIN:          (N,    A,     N,      N),
    Act.TAKE_OVER:     (N,    A,     N,      N),
    Act.PULL:          (N,    A,     N,      N),
    Act.MOVE:          (N,    A,     N,      N),
    Act.ADD_CALLBACK:  (N,    A,     N,      N),
    Act.CANCEL_CALLBACK: (N,  A,     N,      N),
    Act.CLOSE_ORDER:   (O,    A,     N,      N),
    Act.RELOAD:        (N,    N,     N,      A),
    Act.DRAIN:         (N,    N,     N,      A),
}  # fmt: skip
"""Every right there is. What is not here nobody may do."""


@dataclass(frozen=True)
class Holder:
    """Whom a token belongs to."""

    id: str
    role: Role
    agent: str | None
    """The agent's number; of an agent's token always, of a leader's the phone that rings."""

    @property
    def name(self) -> str:
        """As the audit names the holder."""
        return f"token {self.id}"

    def reach(self, act: Act) -> Reach:
        return MATRIX[act][list(Role).index(self.role)]


def new_token(session: Session, role: str, agent: str | None, note: str, now: float) -> tuple[str, ApiToken]:
    """A new token and its row; the token is not to be had again.

    Raises SanlingError if there is no such role or agent, or if an agent's token names no agent.
    """
    if role not in tuple(Role):
        raise SanlingError(f"There is no role {role}: write {', '.join(Role)}.")
    if role == Role.AGENT and agent is None:
        raise SanlingError("An agent's token is of one agent: add --agent NUMBER.")
    if agent is not None and session.get(Agent, agent) is None:
        raise SanlingError(f"There is no agent {agent}; `sanling agents list` shows them.")
    token = PREFIX + secrets.token_urlsafe(32)
    row = ApiToken(
        id=secrets.token_hex(4), hash=digest(token), role=role, agent=agent, note=note[:NOTE_LENGTH], at=now
    )  # fmt: skip
    session.add(row)
    return token, row


def revoke(session: Session, id: str, now: float) -> None:
    """Raises SanlingError if there is no such token or it is revoked already."""
    row = session.get(ApiToken, id)
    if row is None:
        raise SanlingError(f"There is no token {id}; `sanling token list` shows them.")
    if row.revoked_at is not None:
        raise SanlingError(f"Token {id} is revoked already.")
    row.revoked_at = now


def holder_of(session: Session, hash: str) -> Holder | None:
    """Whom the token with this hash belongs to, unless it is revoked."""
    row = session.scalar(select(ApiToken).where(ApiToken.hash == hash, ApiToken.revoked_at.is_(None)))
    return None if row is None else Holder(row.id, Role(row.role), row.agent)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
