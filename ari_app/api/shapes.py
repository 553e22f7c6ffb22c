"""What the API answers and takes, as OpenAPI tells it: names, meanings, units."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ari_app import orders
from ari_app.store import models

Moment = Annotated[float, Field(description="Unix seconds.")]
Seconds = Annotated[float, Field(description="Seconds.", ge=0)]
Number = Annotated[str, Field(description="Agent number (工号): 3 to 8 digits.", pattern=r"^[1-9][0-9]{2,7}$")]
Masked = Annotated[
    str | None,
    Field(
        description="The caller's number; for every role but leader all but the last two digits are `*`. "
        "Null: none was shown."
    ),
]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Shape):
    """Why a request was not done (RFC 9457)."""

    type: str = Field(default="about:blank", description="Always about:blank: `status` says what kind it is.")
    title: str = Field(description="The kind of problem, in a few words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong and what to do, in a sentence for people.")
    errors: list[str] = Field(default_factory=list, description="Each thing that is wrong in the request.")


class Itself(Shape):
    """Whose token this is."""

    id: str = Field(description="Names the token in `sanling token list` and in the audit.")
    role: Literal["agent", "leader", "inspector", "ops"]
    agent: str | None = Field(description="Agent number; of a leader the phone that rings to listen.")
    rights: dict[str, Literal["own", "masked", "all"]] = Field(
        description="Operation → how far: `own` things only, everything with numbers `masked`, or `all`."
    )


class Agent(Shape):
    number: Number
    name: str | None = Field(description="Null for roles that see no names.")
    state: str = Field(
        description="signed_out, idle, reserved, ringing, talking, consulting, wrap_up, paused, or no_answer: paused "
        "because an offer was not taken."
    )
    since: Moment
    for_s: Seconds
    call: str | None = Field(description="The call that the agent is offered or on.")
    wrap_up_until: Moment | None = Field(description="Unix seconds at which wrap-up ends by itself.")
    phone: str | None = Field(description="The registered phone at which the agent sits; null when signed out.")
    pause_code: str | None = Field(description="Code of the pause, as dialled after *13.")
    pause_name: str | None = Field(
        description="The pause as desk.toml calls it; null: no pause, or one without a name."
    )


class Waiting(Shape):
    call: str = Field(
        description="Of a callback: the call that will be placed. Of second_line: the talk's, with ~second."
    )
    kind: Literal["caller", "callback", "second_line"] = Field(
        description="On the line; to be called back at a kept place; in talk, for an agent of the second line."
    )
    caller: Masked
    position: int = Field(description="1: next of its line.", ge=0)
    line: str = Field(description="party, lawyer or second_line.")
    line_name: str = Field(description="The line as desk.toml calls it.")
    priority: int = Field(description="Higher comes first, whenever it joined.")
    since: Moment
    waited_s: Seconds
    expected_wait_s: Seconds
    need: str | None = Field(description="milestone, material, time or pressing (SOP-3); null: not said.")
    verified: bool = Field(description="Whether the identity is proven (SOP-2).")
    offered_to: str | None = Field(description="Number of the agent whose phone rings for it.")


class LiveCall(Shape):
    id: str
    at: Moment
    caller: Masked
    state: str = Field(description="A state of the SOP, as in docs/sop.zh.md: GREETING, WAITING, TALKING, ….")
    state_zh: str = Field(description="The same in Chinese.")
    state_since: Moment
    agent: str | None = Field(description="Who talks with the caller, or is rung.")
    need: str | None = Field(description="milestone, material, time or pressing; null: not said.")
    verified: bool = Field(description="Whether the identity is proven (SOP-2).")


class Ending(Shape):
    at: Moment
    outcome: str = Field(description="handled, abandoned, left_in_menu, ceiling, lost, broken, fallback, ….")
    hung_up_by: str = Field(description="caller, agent, hotline or line.")
    agent: str | None
    answered_after_s: float | None = Field(description="Seconds from arrival to the hotline's answer.")
    wait_s: Seconds
    talk_s: Seconds

    @classmethod
    def of(cls, row: models.Ending) -> Ending:
        return cls(
            at=row.at, outcome=row.outcome, hung_up_by=row.hung_up_by, agent=row.agent,
            answered_after_s=row.answered_after_s, wait_s=max(row.wait_s, 0.0), talk_s=max(row.talk_s, 0.0),
        )  # fmt: skip


class Step(Shape):
    at: Moment
    kind: str = Field(description="step, caller, agent, both, identity, offer, end, recording, ….")
    text: str


class PastCall(Shape):
    id: str
    at: Moment
    caller: Masked
    called: str = Field(description="The hotline's number that was called.")
    in_progress: bool
    agents: list[str] = Field(description="Numbers of the agents who talked.")
    steps: list[Step] = Field(description="Everything the ledger holds of it, in order of time.")
    ending: Ending | None = Field(description="Null while it is in progress.")


Window = Literal["any", "morning", "afternoon"]


class Callback(Shape):
    """An open callback."""

    id: str = Field(description="The call in which it was asked for.")
    at: Moment
    since: float = Field(description="The place in the queue that is kept; Unix seconds.")
    number: str = Field(description="Whom to call; for every role but leader all but the last two digits are `*`.")
    first: bool = Field(description="We cut the caller off: before all others.")
    window: Window = Field(description="When in the day the person wants to be called.")
    stage: str = Field(description="waiting, calling, or returned: the person has called in.")
    need: str | None
    attempts: int = Field(description="How often the person was not reached.", ge=0)


class AskedFor(Shape):
    number: str = Field(
        description="Whom to call back: a mobile number, or a landline's with its area code.",
        pattern=r"^[+0-9 -]{5,25}$",
        examples=["13800001111"],
    )
    window: Window = Field(default="any", description="When in the day.")


class CallOut(Shape):
    whom: Literal["party", "lawyer"] = Field(description="Which side of the case; the number is the case's.")
    case: int | None = Field(
        default=None,
        description="A case's id in the database; null: that of the agent's last talk. An agent's token gives none.",
        ge=1,
        le=2**31 - 1,
    )


class Placed(Shape):
    call: str = Field(description="The call that begins now: the agent's phone rings first.")


class Led(Shape):
    leader: str | None = Field(
        default=None,
        description="Agent number of the leader who acts and whose phone rings; for a token that is nobody's own.",
        pattern=r"^[1-9][0-9]{2,7}$",
    )


class Moved(Led):
    line: Literal["party", "lawyer", "second_line"]


class Begun(Shape):
    session: str = Field(description="Names what was begun; /v1/listening shows it once the phone was answered.")


class Listening(Shape):
    session: str
    leader: str = Field(description="Agent number of who listens.")
    agent: str = Field(description="Agent number of who is listened to.")
    act: str = Field(description="listen, whisper or join: what the leader does now; by key it changes.")
    since: Moment
    call: str


class Order(Shape):
    id: str
    at: Moment
    kind: str = Field(description="message, second_line, disposition, rating or exception.")
    call: str | None
    caller: Masked
    case: int | None = Field(description="A case's id in the database.")
    need: str | None
    due_at: Moment
    overdue: bool
    must_answer: str = Field(description="A line's id, an agent's number, or leader.")
    opened_by: str = Field(description="An agent's number, or hotline.")
    standing: str = Field(description="open, taken, reassigned, closed or reopened.")

    @classmethod
    def of(cls, one: orders.Order, now: float, caller: str | None) -> Order:
        """`caller`: the number, masked for whom it must be."""
        return cls(
            id=one.id, at=one.at, kind=one.kind.value, call=one.call_id, caller=caller, case=one.case_id,
            need=one.need, due_at=one.due_at, overdue=one.overdue(now), must_answer=one.must_answer,
            opened_by=one.opened_by, standing=one.standing.value,
        )  # fmt: skip


class AuditRow(Shape):
    at: Moment
    by: str = Field(description="An agent's number, or `token <id>`.")
    role: str
    act: str
    agent: str | None = Field(description="The agent whom it concerned.")
    call: str | None
    detail: str
    result: str = Field(description="done, or why not; of a leader's ear in a talk: began, ended.")

    @classmethod
    def of(cls, row: models.Supervision, role: str | None) -> AuditRow:
        """What a leader did at the own phone."""
        refused = row.event == "refused"
        return cls(
            at=row.at, by=row.who, role=role or "", act=row.what, agent=row.whom, call=row.call_id,
            detail="" if refused else row.detail, result=f"refused: {row.detail}" if refused else row.event,
        )  # fmt: skip


class Figures(Shape):
    """Of calls that came today, in the hotline's time zone, and are over."""

    since: Moment
    over: int = Field(description="Calls that are over.", ge=0)
    handled: int = Field(description="An agent talked with the caller.", ge=0)
    abandoned: int = Field(description="Gave up waiting, after 5 s or more.", ge=0)
    failed: int = Field(description="Lost, broken, or apologised to by the fallback.", ge=0)
    service_level: float | None = Field(
        description="Share of handled and abandoned calls that were answered within `service_within_s`; 0 to 1.",
        ge=0,
        le=1,
    )
    service_within_s: Seconds
    abandonment: float | None = Field(description="Abandoned ÷ (handled + abandoned); 0 to 1.", ge=0, le=1)
    mean_wait_s: float | None = Field(description="Mean wait of handled calls, in seconds.")
    longest_wait_s: float | None = Field(description="Seconds.")
    mean_talk_s: float | None = Field(description="Mean talk of handled calls, in seconds.")


class Board(Shape):
    at: Moment
    last_event: str = Field(description="Send this as Last-Event-ID to /v1/events to hear all that comes after.")
    linked: bool = Field(description="Whether the controller is linked to Asterisk.")
    agents: list[Agent]
    agents_by_state: dict[str, int]
    waiting: list[Waiting]
    calls: list[LiveCall]
    today: Figures


class Pause(Shape):
    code: str | None = Field(
        default=None,
        description="A pause code of desk.toml, as dialled after *13; null: without one.",
        pattern=r"^[0-9]{1,4}$",
    )


class Closing(Shape):
    note: str = Field(default="", description="What was answered. No personal data.", max_length=500)
