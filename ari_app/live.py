"""The commands that show or change the desk as it is at this moment: they ask the running hotline by its API.

``cli`` hangs them into ``sanling``. What can be shown from the database while the hotline is down is shown by ``cli``.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from ari_app import settings as house_rules
from ari_app import store
from ari_app.api import access
from ari_app.api.remote import Remote, connect
from ari_app.errors import SanlingError
from ari_app.settings import Settings
from ari_app.store.models import ApiToken

out = Console(highlight=False, soft_wrap=True)

token_app = typer.Typer(no_args_is_help=True, help="Tokens of the API: agent, leader, inspector, ops.")
Number = Annotated[str, typer.Argument(help="Agent number (工号).")]


@contextmanager
def hotline() -> Iterator[Remote]:
    """The API of the instance that is meant. Raises NoAnswer, Refused."""
    remote = connect(house_rules.load())
    try:
        yield remote
    finally:
        remote.close()


def hang_into(app: typer.Typer, agents: typer.Typer, callbacks: typer.Typer) -> None:
    """`app`: ``sanling``; the others: its groups of that name."""
    app.add_typer(token_app, name="token")
    for command in (queue, board, events, listening, pull):
        app.command()(command)
    for name, lead in (("listen", listen), ("whisper", whisper), ("join", join), ("take-over", take_over)):
        app.command(name)(lead)
    agents.command("move")(move)
    agents.command("call")(call_out)
    callbacks.command("add")(add_callback)
    callbacks.command("cancel")(cancel_callback)
    agents.command("pause")(pause)
    for name, order in (("resume", resume), ("sign-out", sign_out), ("end-wrap-up", end_wrap_up)):
        agents.command(name)(order)


# ---------------------------------------------------------------- looking


def agents_now() -> list[dict[str, Any]]:
    """Every agent as the desk has them. Raises NoAnswer, Refused."""
    with hotline() as remote:
        found: list[dict[str, Any]] = remote.get("/agents")
        return found


IDENTITY = {True: "verified", False: "unverified"}


def queue() -> None:
    """Who waits for an agent, in order."""
    settings = house_rules.load()
    table = Table(
        "", "line", "call", "who", "caller", "since", "waited", "expected", "need", "identity", "offered to", box=None
    )
    with hotline() as remote:
        for one in remote.get("/queue"):
            table.add_row(
                str(one["position"]), one["line_name"], one["call"], one["kind"], one["caller"] or "—",
                moment(one["since"], settings), f"{one['waited_s']:.0f} s", f"{one['expected_wait_s']:.0f} s",
                one["need"] or "—", "—" if one["kind"] == "callback" else IDENTITY[one["verified"]],
                one["offered_to"] or "—",
            )  # fmt: skip
    out.print(table if table.rows else "nobody waits")


def board() -> None:
    """The wallboard, live: who waits, what agents do, service level, today's figures. q ends it."""
    from ari_app.board import show  # the terminal's modules are not there on every system

    settings = house_rules.load()
    with hotline() as remote:
        show(remote, Console(), settings.zone)


def events() -> None:
    """What happens, as it happens, until Ctrl-C: agents' states, queue, calls' steps, offers, callbacks."""
    settings = house_rules.load()
    with hotline() as remote:
        for kind, data in remote.events():
            at = moment(data.pop("at"), settings) if "at" in data else ""
            said = "  ".join(f"{name} {value}" for name, value in data.items() if value is not None)
            out.print(f"{at}  {kind:<8} {said}".strip(), markup=False)


# ---------------------------------------------------------------- agents


def pause(number: Number, code: Annotated[str | None, typer.Option(help="A pause code of desk.toml.")] = None) -> None:
    """No more calls for this agent until resumed."""
    _agent(number, "pause", **({"code": code} if code else {}))


def resume(number: Number) -> None:
    """Ends a pause, one for a missed offer too."""
    _agent(number, "resume")


def sign_out(number: Number) -> None:
    """Signs the agent out, if on no call."""
    _agent(number, "sign-out")


def end_wrap_up(number: Number) -> None:
    """The agent is free again at once."""
    _agent(number, "end-wrap-up")


def call_out(
    number: Number,
    whom: Annotated[str, typer.Argument(help="party or lawyer.")],
    case: Annotated[int | None, typer.Option(help="A case's id; left out: the case of the agent's last talk.")] = None,
) -> None:
    """The agent's phone rings, then this side of the case is called."""
    with hotline() as remote:
        begun = remote.post(f"/agents/{number}/call", whom=whom, case=case)
    out.print(f"call {begun['call']} begins: the agent's phone rings")


def _agent(number: str, act: str, **body: Any) -> None:
    with hotline() as remote:
        after = remote.post(f"/agents/{number}/{act}", **body)
    out.print(f"agent {number} is {after['state']}")


# ---------------------------------------------------------------- callbacks


def callbacks_now() -> list[dict[str, Any]]:
    """Those that are open, as the desk has them. Raises NoAnswer, Refused."""
    with hotline() as remote:
        found: list[dict[str, Any]] = remote.get("/callbacks")
        return found


def add_callback(
    number: Annotated[str, typer.Argument(help="A mobile number, or a landline's with its area code.")],
    window: Annotated[str, typer.Option(help="any, morning or afternoon.")] = "any",
) -> None:
    """Somebody is to be called back, from this moment's place in the queue."""
    with hotline() as remote:
        made = remote.post("/callbacks", number=number, window=window)
    out.print(f"callback {made['id']} waits")


def cancel_callback(id: Annotated[str, typer.Argument(help="Its id, from `sanling callbacks`.")]) -> None:
    """Nobody calls this person back any more."""
    with hotline() as remote:
        remote.delete(f"/callbacks/{id}")
    out.print(f"callback {id} is cancelled")


# ---------------------------------------------------------------- leading

Leader = Annotated[
    str | None, typer.Option("--as", help="The leader's agent number, whose phone rings; not for a token of one's own.")
]


def listen(number: Number, leader: Leader = None) -> None:
    """Rings the leader's phone, who then hears this agent's call, unheard by anybody."""
    _lead(number, "listen", leader)


def whisper(number: Number, leader: Leader = None) -> None:
    """The same, and the agent hears the leader; the caller does not."""
    _lead(number, "whisper", leader)


def join(number: Number, leader: Leader = None) -> None:
    """The same, and all hear each other."""
    _lead(number, "join", leader)


def take_over(number: Number, leader: Leader = None) -> None:
    """Rings the leader's phone, who then has this agent's caller; the agent is out."""
    _lead(number, "take-over", leader)


def _lead(number: str, act: str, leader: str | None) -> None:
    with hotline() as remote:
        _somebody_leads(remote, leader)
        remote.post(f"/agents/{number}/{act}", leader=leader)
    out.print("the leader's phone rings")


def _somebody_leads(remote: Remote, leader: str | None) -> None:
    """Raises SanlingError if neither the command line nor the token says who."""
    if leader is None and remote.get("/me")["agent"] is None:
        raise SanlingError("Say as which leader: --as 612")


def pull(call: Annotated[str, typer.Argument(help="From `sanling queue`.")], leader: Leader = None) -> None:
    """The leader's phone rings for this waiting caller, out of turn."""
    with hotline() as remote:
        _somebody_leads(remote, leader)
        remote.post(f"/queue/{call}/pull", leader=leader)
    out.print("the leader's phone rings")


def move(
    number: Number, line: Annotated[str, typer.Argument(help="party, lawyer or second_line.")], leader: Leader = None
) -> None:
    """The agent serves another line from now on."""
    with hotline() as remote:
        _somebody_leads(remote, leader)
        remote.post(f"/agents/{number}/move", line=line, leader=leader)
    out.print(f"agent {number} serves {line}")


def listening() -> None:
    """Who listens to whom at this moment."""
    settings = house_rules.load()
    table = Table("leader", "agent", "act", "since", "call", box=None)
    with hotline() as remote:
        for one in remote.get("/listening"):
            table.add_row(one["leader"], one["agent"], one["act"], moment(one["since"], settings), one["call"])
    out.print(table if table.rows else "nobody listens")


# ---------------------------------------------------------------- tokens


@token_app.command("new")
def new_token(
    role: Annotated[str, typer.Argument(help="agent, leader, inspector or ops; docs/desk.md says what each may do.")],
    agent: Annotated[str | None, typer.Option(help="Whose it is: an agent's number.")] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """A new token of the API. It is shown this once."""
    settings = house_rules.load()
    with writing(settings) as session:
        token, row = access.new_token(session, role, agent, note, time.time())
        id = row.id
    out.print(f"token {id}, {role}{f' of agent {agent}' if agent else ''}, not to be had again:\n{token}", markup=False)


@token_app.command("list")
def list_tokens() -> None:
    """Who may use the API. The tokens themselves are not kept."""
    settings = house_rules.load()
    table = Table("token", "role", "agent", "made at", "revoked at", "for", box=None)
    with writing(settings) as session:
        for row in session.scalars(select(ApiToken).order_by(ApiToken.at)):
            revoked = moment(row.revoked_at, settings) if row.revoked_at is not None else "—"
            table.add_row(row.id, row.role, row.agent or "—", moment(row.at, settings), revoked, row.note or "—")
    out.print(table)


@token_app.command("revoke")
def revoke_token(id: Annotated[str, typer.Argument(help="Its id, from `sanling token list`.")]) -> None:
    """The token opens nothing any more, 5 s later at most."""
    with writing(house_rules.load()) as session:
        access.revoke(session, id, time.time())
    out.print(f"token {id} is revoked")


@contextmanager
def writing(settings: Settings) -> Iterator[Any]:
    """The instance's database. Raises StoreUnavailable."""
    engine = store.open_engine(settings.database)
    try:
        store.check_version(engine)
        with store.session(engine) as session:
            yield session
    finally:
        engine.dispose()


def moment(at: float, settings: Settings) -> str:
    return dt.datetime.fromtimestamp(at, settings.zone).strftime("%Y-%m-%d %H:%M:%S")
