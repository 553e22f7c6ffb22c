"""The tables. Two kinds: what is (agents, cases, people) and what happened (the ledger, append-only).

Times are Unix seconds (float, UTC) unless the name ends in ``_on`` (a date). A ledger row is never changed or
deleted: the migration installs triggers that refuse both.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map: ClassVar = {float: Float(53)}


# ---------------------------------------------------------------- what is


class Agent(Table):
    """An agent (工号 = number). State changes only through ``ari_app.desk``; each is a row of ``agent_states``."""

    __tablename__ = "agents"
    number: Mapped[str] = mapped_column(String(8), primary_key=True)
    name: Mapped[str]
    sip_ha1: Mapped[str] = mapped_column(String(32))
    """MD5 of ``number:sanling:password``; the 16-character password itself is not kept here. AGT-1."""
    pin_hash: Mapped[str]
    role: Mapped[str] = mapped_column(String(16), default="agent", server_default="agent")
    """agent, inspector, mentor or leader (``ari_app.leading.Role``): who may listen to whom. AGT-5."""
    state: Mapped[str] = mapped_column(String(16), default="signed_out")
    state_since: Mapped[float] = mapped_column(default=0.0)
    call_id: Mapped[str | None] = mapped_column(default=None)
    wrap_up_until: Mapped[float | None] = mapped_column(default=None)
    phone: Mapped[str | None] = mapped_column(String(8), default=None)
    """The registered phone (an agent's number) at which this agent signed in; None when signed out."""
    pause_code: Mapped[str | None] = mapped_column(String(4), default=None)
    wrong_pins: Mapped[int] = mapped_column(default=0, server_default="0")
    """PINs in a row that were wrong."""
    locked_until: Mapped[float | None] = mapped_column(default=None)

    __table_args__ = (
        Index("uq_agents_call", "call_id", unique=True, sqlite_where=text("call_id IS NOT NULL"),
              postgresql_where=text("call_id IS NOT NULL")),
        Index("uq_agents_phone", "phone", unique=True),
    )  # fmt: skip


class AgentSkill(Table):
    """How good an agent is at a line, a need or a language (``ari_app.rules``): level 1 to 5; 0: not at all."""

    __tablename__ = "agent_skills"
    agent: Mapped[str] = mapped_column(ForeignKey("agents.number"), primary_key=True)
    skill: Mapped[str] = mapped_column(String(16), primary_key=True)
    level: Mapped[int]


class ApiToken(Table):
    """Who may use the API, and as whom (``ari_app.api.tokens``). The token itself is shown once and not kept."""

    __tablename__ = "api_tokens"
    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    """Names the token in lists and in the audit; it opens nothing."""
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of the token, which is 256 random bits."""
    role: Mapped[str] = mapped_column(String(16))
    """agent, leader, inspector or ops."""
    agent: Mapped[str | None] = mapped_column(String(8))
    note: Mapped[str]
    at: Mapped[float]
    revoked_at: Mapped[float | None] = mapped_column(default=None)


class Journal(Table):
    """How far a local journal (``ari_app.journal``) was applied: set in the same transaction as its rows."""

    __tablename__ = "journals"
    id: Mapped[str] = mapped_column(primary_key=True)
    applied: Mapped[int]


class LawFirm(Table):
    __tablename__ = "law_firms"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    short_name: Mapped[str]
    """What people call it: 金衡 for 北京金衡律师事务所. Both are accepted on the keypad."""


class Lawyer(Table):
    __tablename__ = "lawyers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    licence: Mapped[str] = mapped_column(String(17), unique=True)
    mobile: Mapped[str] = mapped_column(String(11), index=True)
    firm_id: Mapped[int] = mapped_column(ForeignKey("law_firms.id"))


class Party(Table):
    __tablename__ = "parties"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    title: Mapped[str] = mapped_column(String(2))
    """How the opening addresses this person: 先生 or 女士. SOP-1."""
    mobile: Mapped[str] = mapped_column(String(11), index=True)


class Case(Table):
    """Keyed by case number, lawyer and party together (三码合一, CRM-1); all seven elements are there (CRM-2)."""

    __tablename__ = "cases"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    serial_last5: Mapped[str] = mapped_column(String(5), index=True)
    """Last five digits of the case number, as a party keys them. SOP-2."""
    court: Mapped[str]
    cause: Mapped[str]
    amount_fen: Mapped[int]
    party_id: Mapped[int] = mapped_column(ForeignKey("parties.id"), index=True)
    lawyer_id: Mapped[int] = mapped_column(ForeignKey("lawyers.id"), index=True)


class Milestone(Table):
    __tablename__ = "milestones"
    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id"), index=True)
    code: Mapped[str] = mapped_column(String(16))
    """filed, scheduled, served, heard or judged."""
    at: Mapped[float]
    """When it happened or, in the future, will happen."""


# ---------------------------------------------------------------- what happened (the ledger)


class Call(Table):
    __tablename__ = "calls"
    id: Mapped[str] = mapped_column(primary_key=True)
    caller_number: Mapped[str | None]
    called_number: Mapped[str]
    at: Mapped[float] = mapped_column(index=True)


class Transition(Table):
    """One step of the SOP. Rows of one call, in order of ``n``, replay through ``step()`` to the same end."""

    __tablename__ = "transitions"
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    state: Mapped[str]
    heard: Mapped[str]
    next: Mapped[str]
    actions: Mapped[str]
    """Names of the actions, in order, joined by spaces."""
    agent: Mapped[str | None]
    """The agent whom this step concerns, if any."""


class Identity(Table):
    """What an identity check found. ``missing``: element names joined by spaces, never their values. SOP-2."""

    __tablename__ = "identities"
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    role: Mapped[str]
    verified: Mapped[bool]
    missing: Mapped[str]
    party_id: Mapped[int | None]
    lawyer_id: Mapped[int | None]
    case_id: Mapped[int | None] = mapped_column(default=None)
    """The case that a verified caller asks about: the one keyed, or a lawyer's only one; None if there are several."""


class OfferEvent(Table):
    """What became of an offer: offered, ringing, answered, then its end (joined, refused, busy, …)."""

    __tablename__ = "offers"
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[float]
    agent: Mapped[str] = mapped_column(String(8), index=True)


class PromptHeard(Table):
    __tablename__ = "prompts_heard"
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    side: Mapped[str] = mapped_column(String(8))
    """caller, agent or both."""
    prompt: Mapped[str]
    seconds: Mapped[float]
    whole: Mapped[bool]
    """False: stopped by a key, by the next step or by the end of the call."""


class Ending(Table):
    """The canonical line of a call: written once, when it is over."""

    __tablename__ = "endings"
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), primary_key=True)
    at: Mapped[float]
    outcome: Mapped[str] = mapped_column(String(16))
    """handled, abandoned (in the queue), left_in_menu (before it), ceiling (still unserved at it), lost (Asterisk
    died), broken, or fallback (never reached us).
    """
    hung_up_by: Mapped[str] = mapped_column(String(8))
    """caller, hotline or, if Asterisk died, line."""
    agent: Mapped[str | None]
    answered_after_s: Mapped[float | None]
    wait_s: Mapped[float]
    talk_s: Mapped[float]
    after_closing_s: Mapped[float | None]


class Recording(Table):
    """One stored copy, verified by reading it back. REC-2."""

    __tablename__ = "recordings"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    store: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[float]
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    channels: Mapped[int]
    bytes: Mapped[int]


class Callback(Table):
    """Someone asked to be called back, or (reason ``lost``) was cut off by us: these come first.

    What became of it is in `callback_events`; both together tell how it stands (``ari_app.flow.callbacks``).
    """

    __tablename__ = "callbacks"
    id: Mapped[str] = mapped_column(primary_key=True)
    """The call in which it was asked for."""
    at: Mapped[float]
    number: Mapped[str]
    reason: Mapped[str] = mapped_column(String(16))
    """asked, lost, or fallback: left in the dialplan while no controller was there."""
    since: Mapped[float | None] = mapped_column(default=None)
    """When the caller joined the queue, whose place is kept; None: `at`."""
    window: Mapped[str | None] = mapped_column(String(16), default=None)
    """morning or afternoon; None or any: at any time."""
    role: Mapped[str | None] = mapped_column(String(16), default=None)
    need: Mapped[str | None] = mapped_column(String(16), default=None)
    party_id: Mapped[int | None] = mapped_column(default=None)
    lawyer_id: Mapped[int | None] = mapped_column(default=None)
    """The person who was proven when it was asked for: either or none of them."""


class CallbackEvent(Table):
    """One thing that became of a callback (``flow.callbacks.Happened``); rows of one, by `n`, tell how it stands."""

    __tablename__ = "callback_events"
    callback_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    event: Mapped[str] = mapped_column(String(16))
    call_id: Mapped[str | None] = mapped_column(default=None, index=True)
    """The call that it came of: an attempt, or one that the person made."""
    agent: Mapped[str | None] = mapped_column(String(8), default=None)
    number: Mapped[str | None] = mapped_column(default=None)
    """The number to call from now on."""
    window: Mapped[str | None] = mapped_column(String(16), default=None)
    until: Mapped[float | None] = mapped_column(default=None)
    """Not before this moment is it tried again."""
    why: Mapped[str | None] = mapped_column(String(16), default=None)


class OutboundCall(Table):
    """What a call that we place is for; its other rows are those of any call, its outside leg is the caller's."""

    __tablename__ = "outbound"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[float]
    agent: Mapped[str] = mapped_column(String(8), index=True)
    """Whose phone rings first."""
    number: Mapped[str]
    callback_id: Mapped[str | None] = mapped_column(default=None, index=True)
    """The callback that it serves; None: an agent calls a case's party or lawyer."""
    case_id: Mapped[int | None] = mapped_column(default=None)
    role: Mapped[str] = mapped_column(String(16))
    need: Mapped[str | None] = mapped_column(String(16), default=None)
    party_id: Mapped[int | None] = mapped_column(default=None)
    lawyer_id: Mapped[int | None] = mapped_column(default=None)


class AgentState(Table):
    __tablename__ = "agent_states"
    __table_args__ = (Index("ix_agent_states_agent_now", "agent", "now", "id"),)
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    """Given by the desk, rising with its clock, so that a change entered twice is recognised."""
    agent: Mapped[str] = mapped_column(String(8))
    at: Mapped[float]
    was: Mapped[str] = mapped_column(String(16))
    now: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    call_id: Mapped[str | None]
    phone: Mapped[str | None] = mapped_column(String(8), default=None)
    code: Mapped[str | None] = mapped_column(String(4), default=None)
    """The pause's code, if it was paused by one."""


class DutyNote(Table):
    """What is said of an agent's state beside it: allowance_spent, wrong_pin, pin_locked, mended (by the watchdog)."""

    __tablename__ = "duty_notes"
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    """Given by the desk, like those of ``agent_states``."""
    agent: Mapped[str] = mapped_column(String(8), index=True)
    at: Mapped[float]
    what: Mapped[str] = mapped_column(String(16))
    code: Mapped[str | None] = mapped_column(String(4), default=None)
    call_id: Mapped[str | None] = mapped_column(default=None)


class QueueEvent(Table):
    """What happened in the queue, and what each decision rested on (``ari_app.waiting``)."""

    __tablename__ = "queue_events"
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    """Given by the desk, rising with its clock."""
    at: Mapped[float] = mapped_column(index=True)
    desk: Mapped[str] = mapped_column(String(64))
    """The hotline whose queue it is, as its calls' ids begin."""
    event: Mapped[str] = mapped_column(String(8))
    """opened, rules (in force from here), waits, offered, pulled (by a leader, out of turn), left."""
    call_id: Mapped[str | None] = mapped_column(index=True)
    agent: Mapped[str | None] = mapped_column(String(8))
    since: Mapped[float | None]
    """Of a call that waits: when it took its place."""
    detail: Mapped[str | None]
    """JSON: the rules; what the call wants; the agent's skills."""


class WorkOrder(Table):
    """Something that somebody must answer by a time (派单, CRM-7). What became of it is in `work_order_changes`."""

    __tablename__ = "work_orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    """From a call: ``<call>~order-<n>``, so that one opened anew after a kill is the same one."""
    at: Mapped[float]
    kind: Mapped[str] = mapped_column(String(16))
    """message, second_line, disposition, rating or exception (``ari_app.orders.Kind``)."""
    call_id: Mapped[str | None] = mapped_column(index=True)
    party_id: Mapped[int | None]
    lawyer_id: Mapped[int | None]
    """The proven person whom it concerns: either or none of them."""
    case_id: Mapped[int | None] = mapped_column(index=True)
    need: Mapped[str | None] = mapped_column(String(16))
    due_at: Mapped[float]
    must_answer: Mapped[str] = mapped_column(String(16))
    """A line (``party``, ``lawyer``, ``second_line``) or an agent's number."""
    opened_by: Mapped[str] = mapped_column(String(16))
    """An agent's number, or ``hotline``."""


class WorkOrderChange(Table):
    """One change of an order's state; the last by time counts."""

    __tablename__ = "work_order_changes"
    id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(index=True)
    at: Mapped[float]
    now: Mapped[str] = mapped_column(String(16))
    """taken, reassigned, closed or reopened."""
    by: Mapped[str] = mapped_column(String(16))
    must_answer: Mapped[str | None] = mapped_column(String(16))
    """Who must answer from now on, if that changed."""
    note: Mapped[str]


class Segment(Table):
    """A stretch of a call's recording with a meaning of its own: a message left, a reason spoken. REC-1, REC-2."""

    __tablename__ = "segments"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """message or reason."""
    at: Mapped[float]
    """Unix seconds at which it begins, after the beep."""
    seconds: Mapped[float]
    spoken_s: Mapped[float]
    """Of these with a voice in them."""


class Rating(Table):
    """How satisfied a caller was with the agent, keyed after the talk (KPI-7)."""

    __tablename__ = "ratings"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    """Of the call's step in which it was keyed."""
    at: Mapped[float] = mapped_column(index=True)
    agent: Mapped[str] = mapped_column(String(8), index=True)
    score: Mapped[int]
    """1 to 5. A low one's reason, if it was spoken, is a segment of kind ``reason``."""


class Disposition(Table):
    """What an agent keyed after a call: what it was about, and what came of it. The last row of a call counts."""

    __tablename__ = "dispositions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    call_id: Mapped[str] = mapped_column(index=True)
    at: Mapped[float]
    agent: Mapped[str] = mapped_column(String(8), index=True)
    need: Mapped[str] = mapped_column(String(16))
    """milestone, material, time or pressing."""
    result: Mapped[str] = mapped_column(String(16))
    """on_the_spot or work_order. CRM-7."""


class Matter(Table):
    """What a call was about, written at its end: from here second calls are recognised (KPI-2)."""

    __tablename__ = "matters"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    """When the call came."""
    until: Mapped[float]
    agent: Mapped[str | None] = mapped_column(String(8))
    """Who talked with the caller last; None: nobody."""
    party_id: Mapped[int | None] = mapped_column(index=True)
    lawyer_id: Mapped[int | None] = mapped_column(index=True)
    case_id: Mapped[int | None]
    need: Mapped[str | None] = mapped_column(String(16))
    """As the caller keyed it; an agent's disposition overrides it."""
    second_of: Mapped[str | None]
    """The served call on the same matter within the seven days before, as the caller was told apart in the queue."""


class Audit(Table):
    """One act upon the floor, by feature code or by the API: who did what to whom, allowed or refused."""

    __tablename__ = "audit"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    by: Mapped[str] = mapped_column(String(16))
    """An agent's number, or ``token <id>`` of the API."""
    role: Mapped[str] = mapped_column(String(16))
    act: Mapped[str] = mapped_column(String(32))
    """listen, whisper, join, take_over, force_pause, …; of the API: the operation's name."""
    agent: Mapped[str | None] = mapped_column(String(8))
    """The agent whom it concerns."""
    call_id: Mapped[str | None]
    detail: Mapped[str]
    """No personal data."""
    result: Mapped[str]
    """done, or why not."""


class Supervision(Table):
    """One act of a leader's or mentor's upon an agent (AGT-5), as it begins and as it ends.

    What lasts (listen, whisper, join) has a row ``began`` and, with the same `session` and `n`, a row ``ended``: `at`
    of that one is until when. What does not last is ``done``, what is not allowed or not possible ``refused``.
    """

    __tablename__ = "supervisions"
    session: Mapped[str] = mapped_column(primary_key=True)
    """Names the leader's phone call, or the request by the API."""
    n: Mapped[int] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(String(8), primary_key=True)
    """began, ended, done or refused."""
    at: Mapped[float] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(String(8))
    whom: Mapped[str | None] = mapped_column(String(8), index=True)
    """None: a caller was pulled from the queue."""
    what: Mapped[str] = mapped_column(String(16))
    """listen, whisper, join, take_over, force_pause, force_sign_out, pull or move."""
    call_id: Mapped[str | None]
    detail: Mapped[str] = mapped_column(default="")
    """Where an agent was moved to, or why it was refused: no personal data."""


class TalkTime(Table):
    """Whom an agent was with between `at` and `until`: what is billed to who talked. SOP-4."""

    __tablename__ = "talk_times"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    """The step of the SOP that ended it."""
    agent: Mapped[str] = mapped_column(String(8), primary_key=True)
    company: Mapped[str] = mapped_column(String(8))
    """caller, agent (a second one, while the caller waits), both, or nobody: waited in music."""
    at: Mapped[float] = mapped_column(index=True)
    until: Mapped[float]


class Hold(Table):
    """A phone's hold key: from here on, or no longer, the two are not expected to hear each other."""

    __tablename__ = "holds"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    who: Mapped[str] = mapped_column(String(8), primary_key=True)
    """An agent's number, or ``caller``."""
    at: Mapped[float] = mapped_column(primary_key=True)
    began: Mapped[bool]


class TalkSound(Table):
    """What the recording tells of one agent's part in a call: whether both could be heard
    (``ari_app.flow.audibility``). Every talk has one, also one that cannot be judged.
    """

    __tablename__ = "talk_sounds"
    call_id: Mapped[str] = mapped_column(primary_key=True)
    agent: Mapped[str] = mapped_column(String(8), primary_key=True)
    at: Mapped[float]
    """When it was judged: a moment after the call."""
    line: Mapped[str] = mapped_column(String(16))
    """party, lawyer or second_line."""
    seconds: Mapped[float]
    """That were listened to."""
    caller_db: Mapped[float | None]
    agent_db: Mapped[float | None]
    """The highest level that each side kept up for 100 ms, in dB re full scale; None: too little to judge by."""
    unheard: Mapped[str] = mapped_column(String(8))
    """caller, agent or both; empty: nobody, or not judged."""


LEDGER: tuple[type[Table], ...] = (
    Call, Transition, Identity, OfferEvent, PromptHeard, Ending, Recording, Callback, AgentState, DutyNote,
    WorkOrder, WorkOrderChange, Segment, Audit, Supervision, Rating, Disposition, Matter,
    CallbackEvent, OutboundCall, QueueEvent, TalkTime, Hold, TalkSound,
)  # fmt: skip
