"""The ``sanling`` command."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ari_app import doctor as examination
from ari_app import ledger, live, orders, outcomes, prompts, report, staff, store, supervision
from ari_app import rules as desk_rules
from ari_app import settings as house_rules
from ari_app.api.remote import NoAnswer
from ari_app.ari.errors import AriError
from ari_app.callbacks import read as open_callbacks
from ari_app.desk import changes_since
from ari_app.errors import SanlingError
from ari_app.flow.duty import ON_A_CALL, Duty, day_of, times
from ari_app.flow.fairness import overtakings
from ari_app.flow.manual import manual
from ari_app.flow.measures import Period
from ari_app.flow.measures import day as one_day
from ari_app.flow.measures import week as one_week
from ari_app.flow.routing import usual_skills
from ari_app.founding import access_file, hand_out, prepare, shown, take_back
from ari_app.instance import Instance
from ari_app.processes import Notice
from ari_app.settings import PROJECT, Settings
from ari_app.store.models import Agent, Call, Ending
from ari_app.waiting import happened, read_skills, rules_in_force_since

app = typer.Typer(no_args_is_help=True, add_completion=False, help="三铃 Sanling: a legal-hotline contact centre.")
prompts_app = typer.Typer(no_args_is_help=True, help="The catalogue of approved wording and its audio.")
agents_app = typer.Typer(no_args_is_help=True, help="Agents: numbers, passwords, PINs.")
callbacks_app = typer.Typer(invoke_without_command=True, help="Who is to be called back.")
orders_app = typer.Typer(invoke_without_command=True, help="Work orders: what must be answered, by whom, by when.")
app.add_typer(prompts_app, name="prompts")
app.add_typer(agents_app, name="agents")
app.add_typer(orders_app, name="orders")
app.add_typer(callbacks_app, name="callbacks")
report_app = typer.Typer(no_args_is_help=True, help="The figures of a day, a week or an agent, from the ledger.")
app.add_typer(report_app, name="report")
live.hang_into(app, agents_app, callbacks_app)

RELOADED_WITHIN_S = 10.0
LONGEST_PLACE_S = 8 * 86_400.0
"""No call keeps its place in the queue for longer, callbacks included."""

out = Console(highlight=False, soft_wrap=True)
MANUAL = PROJECT / "docs" / "sop.zh.md"


def main() -> None:
    try:
        app()
    except SanlingError as error:
        Console(stderr=True, highlight=False).print(f"[red]sanling:[/red] {error}")
        sys.exit(1)


# ---------------------------------------------------------------- setting up and running


@app.command()
def setup() -> None:
    """Makes ready all that a hotline needs: Asterisk, secrets, database, sample data. Nothing is overwritten."""
    prepare(house_rules.load(), say=out.print, new_stores=True)


@app.command()
def run() -> None:
    """The hotline, in the foreground: Asterisk, AGI server, controller. Ctrl-C stops all three."""
    settings = house_rules.load()
    desk_rules.open_book()
    supervision.refuse_a_second(settings)
    instance = prepare(settings, say=out.print)
    number = settings.hotline_numbers[0]
    at = f"{settings.address}:{settings.sip_port}"
    out.print(
        f"""
[bold]The hotline is starting.[/bold]
  call in      sip:{number}@{at} from {", ".join(settings.trunk.addresses)}, no registration
  agents       register 601 … at {at} (UDP, alaw or ulaw) with the password in {shown(access_file(settings))},
               then dial *11 and key the PIN (*11* at another's phone: number and PIN); *12 out, *13 and a code pause,
               *14 resume, *15 ends wrap-up, *16 makes it longer
  in talk      *5 disclaimer, *6 closing
  metrics      http://{settings.control_address}:{settings.metrics_port}/metrics
  API          http://{settings.control_address}:{settings.api_port}/openapi.json; a token: sanling token new ROLE
  logs         {shown(settings.run_dir / "log")}
Ctrl-C stops everything.
"""
    )
    asyncio.run(supervision.supervise(instance, notice=tell))


def tell(notice: Notice) -> None:
    clock = dt.datetime.now().astimezone().strftime("%H:%M:%S")
    out.print(f"{clock} {notice.process}: {notice.what} {notice.detail}".rstrip())


@app.command()
def restart() -> None:
    """An upgrade: controller and AGI server anew, from the code that is there now. Asterisk and its calls stay."""
    desk_rules.open_book()
    supervision.restart(house_rules.load(), say=out.print)


@app.command()
def reload() -> None:
    """Puts a changed desk.toml, and changed skills, in force; no call is dropped. One with a mistake is refused."""
    settings = house_rules.load()
    rules = desk_rules.open_book().now
    began = time.time()
    if not supervision.reload(settings):
        out.print(f"{desk_rules.file_of().name} holds; the hotline does not run, it will read it when it starts")
        return
    while time.time() - began < RELOADED_WITHIN_S:
        time.sleep(0.2)
        with reading(settings) as session:
            if rules_in_force_since(session, settings.instance, began) == rules:
                out.print("the desk's rules are in force")
                return
    raise SanlingError(
        f"The controller did not say within {RELOADED_WITHIN_S:.0f} s that these rules are in force: see "
        f"{shown(settings.run_dir / 'log' / 'controller.log')}."
    )


@app.command()
def drain(
    within: Annotated[float | None, typer.Option(help="Wait this many seconds at most.")] = None,
    now: Annotated[bool, typer.Option(help="Do not wait for the calls: end them.")] = False,
) -> None:
    """No new calls; those in progress, and callers who wait, are served to the end; then everything stops."""
    settings = house_rules.load()
    if supervision.drain(settings, out.print, within, now):
        return
    standing = supervision.look(settings)
    raise SanlingError(
        f"Still running ({standing.status if standing else 'ended just now'}). "
        + (
            f"It did not end within {supervision.STOPS_WITHIN_S:.0f} s: see its output."
            if now
            else "It takes no new calls and ends after the last one: `sanling drain` waits for that again, "
            "`sanling drain --now` does not wait for the calls."
        )
    )


@app.command()
def demo(json: Annotated[Path | None, typer.Option(help="Also write the result here.")] = None) -> None:
    """One real call through the whole hotline, judged by ear on both sides."""
    from ari_app.testcall.demo import perform  # the SIP phones are an optional part of the installation

    sys.exit(0 if perform(json, out) else 1)


@app.command()
def doctor() -> None:
    """Checks each part of a hotline and says what to do about what is red."""
    findings = asyncio.run(examination.examine(house_rules.load()))
    for finding in findings:
        mark = "[green]✓[/green]" if finding.healthy else "[red]✗[/red]"
        out.print(f"{mark} {finding.part:<18} {finding.said}")
        if finding.remedy:
            out.print(f"  {'':<18} → {finding.remedy}")
    sys.exit(0 if all(finding.healthy for finding in findings) else 1)


# ---------------------------------------------------------------- the ledger


@contextmanager
def reading(settings: Settings) -> Iterator[Session]:
    if not settings.database_url and not settings.run_dir.is_dir():
        raise SanlingError(f"There is no instance {settings.instance} yet: run `make run` or `sanling setup` first.")
    engine: Engine = store.open_engine(settings.database)
    try:
        store.check_version(engine)
        with store.session(engine) as session:
            yield session
    finally:
        engine.dispose()


@callbacks_app.callback()
def list_callbacks(context: typer.Context) -> None:
    """Who is to be called back: first those whom we cut off (lost), then by the places that are kept."""
    if context.invoked_subcommand is not None:
        return
    settings = house_rules.load()
    table = Table("asked at", "number", "", "when", "state", "missed", "call", box=None)
    try:
        rows = [
            (o["at"], o["number"], o["first"], o["window"], o["stage"], o["attempts"], o["id"])
            for o in live.callbacks_now()
        ]
    except NoAnswer:
        with reading(settings) as session:
            found = sorted(open_callbacks(session), key=lambda wish: (not wish.first, wish.since))
        rows = [(w.asked_at, w.number, w.first, w.window.value, w.stage.value, w.attempts, w.id) for w in found]
    for at, number, first, window, stage, attempts, id in rows:
        table.add_row(moment(at, settings), number, "lost" if first else "", window, stage, str(attempts or "—"), id)
    out.print(table)


@app.command("outcomes")
def list_outcomes(days: Annotated[int, typer.Option(min=1, help="Of so many days.")] = 30) -> None:
    """Ratings, calls answered on the spot and first-call resolution of each agent."""
    settings = house_rules.load()
    table = Table("agent", "ratings", "mean", "low", "on the spot", "work orders", "resolved at once", "of", box=None)
    now = time.time()
    with reading(settings) as session:
        for one in outcomes.figures(session, now - days * 86_400.0, now):
            share = one.resolution.share
            table.add_row(
                one.agent, str(one.ratings), f"{one.mean:.2f}" if one.mean is not None else "—", str(one.low),
                str(one.on_the_spot), str(one.work_orders), f"{share:.0%}" if share is not None else "—",
                str(one.resolution.judged),
            )  # fmt: skip
    out.print(table)


@app.command()
def calls(last: Annotated[int, typer.Option(help="How many.")] = 20) -> None:
    """The last calls, newest first."""
    settings = house_rules.load()
    table = Table(
        Column("call", no_wrap=True),
        "at",
        Column("outcome", no_wrap=True),
        "agent",
        "answered",
        "wait",
        "talk",
        "hung up by",
        box=None,
    )
    with reading(settings) as session:
        query = select(Call, Ending).outerjoin(Ending, Ending.call_id == Call.id).order_by(Call.at.desc()).limit(last)
        for found in session.execute(query):
            call: Call = found[0]
            ending: Ending | None = found[1]
            row = [call.id, moment(call.at, settings)]
            if ending is None:
                row += ["in progress"]
            else:
                answered = "—" if ending.answered_after_s is None else f"{ending.answered_after_s:.1f} s"
                row += [ending.outcome, ending.agent or "—", answered, f"{ending.wait_s:.1f} s"]
                row += [f"{ending.talk_s:.1f} s", ending.hung_up_by]
            table.add_row(*row)
    out.print(table)


@app.command()
def fairness(
    day: Annotated[str | None, typer.Argument(help="YYYY-MM-DD in the hotline's time zone; left out: today.")] = None,
) -> None:
    """Whether anybody who waited was overtaken by an equal on a day, decided again from the ledger; fails if so."""
    settings = house_rules.load()
    begin, end = day_of(on_day(day, settings), settings.zone)
    with reading(settings) as session:
        told = happened(session, begin - LONGEST_PLACE_S, end)
    found = [one for one in overtakings(told) if one.at >= begin]
    offers = sum(one.event in ("offered", "pulled") and one.at >= begin for one in told)
    for one in found:
        out.print(
            f"{moment(one.at, settings)}  {one.overtaken.call_id} (since {moment(one.overtaken.since, settings)}) was "
            f"overtaken by {one.served.call_id} (since {moment(one.served.since, settings)}), offered to {one.agent}"
        )
    if found:
        raise SanlingError(f"{len(found)} overtakings in {offers} offers.")
    out.print(f"nobody was overtaken in {offers} offers")


@app.command()
def replay(call: Annotated[str, typer.Argument(help="A call's id, from `sanling calls`.")]) -> None:
    """A call's timeline, and whether its ledger replays through the SOP to the same end."""
    settings = house_rules.load()
    with reading(settings) as session:
        lines = ledger.timeline(session, call)
        progress = ledger.replay(session, call)
    began = lines[0].at if lines else 0.0
    for line in lines:
        out.print(f"{moment(line.at, settings)} {line.at - began:8.2f} s  {line.kind:<9} {line.text}", markup=False)
    out.print(f"replays to the same end: {progress.state.name}")


def moment(at: float, settings: Settings) -> str:
    return dt.datetime.fromtimestamp(at, settings.zone).strftime("%Y-%m-%d %H:%M:%S")


# ---------------------------------------------------------------- the report

DayOption = Annotated[
    str | None, typer.Option("--date", help="YYYY-MM-DD in the hotline's time zone; left out: today.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="As CSV.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="As one page with plots, into this file.")]
WhyOption = Annotated[
    str | None,
    typer.Option("--why", help="The calls, or stretches of agents' time, behind this figure; numbers are masked."),
]


def report_command(name: str, period_of: Callable[[dt.date, dt.tzinfo], Period], meaning: str) -> None:
    @report_app.command(name, help=meaning)
    def report_all(
        date: DayOption = None, json: JsonOption = False, csv: CsvOption = False, html: HtmlOption = None,
        why: WhyOption = None,
    ) -> None:  # fmt: skip
        settings = house_rules.load()
        tell_report(settings, period_of(date_of(date, settings), settings.zone), None, json, csv, html, why)


report_command("day", one_day, "Of a day. docs/measures.md says how each figure is made.")
report_command("week", one_week, "Of the week, Monday to Sunday, in which that day is.")


@report_app.command("agent")
def report_agent(
    number: str,
    week: Annotated[bool, typer.Option("--week", help="Of the whole week in which that day is.")] = False,
    date: DayOption = None, json: JsonOption = False, csv: CsvOption = False, html: HtmlOption = None,
    why: WhyOption = None,
) -> None:  # fmt: skip
    """Of one agent, with the assessment."""
    settings = house_rules.load()
    period_of = one_week if week else one_day
    tell_report(settings, period_of(date_of(date, settings), settings.zone), number, json, csv, html, why)


def tell_report(
    settings: Settings, period: Period, agent: str | None, json: bool, csv: bool, html: Path | None, why: str | None
) -> None:
    if why is not None and html is not None:
        raise SanlingError("There is no page of what --why lists: leave --html out, or write --json or --csv instead.")
    rules = desk_rules.open_book().now.assessment
    with reading(settings) as session:
        made = report.make(session, period, settings.zone, rules, time.time(), agent)
    if html is not None:
        from ari_app import report_page  # draws plots, which takes a second to load

        try:
            html.write_text(report_page.page(made), encoding="utf-8")
        except OSError as error:
            raise SanlingError(f"{html} cannot be written: {error.strerror}.") from error
        if not (json or csv):
            out.print(f"{html}: {made.title}")
    if json:
        typer.echo(report.as_json(made) if why is None else report.why_as_json(made, why))
    elif csv:
        typer.echo(report.as_csv(made) if why is None else report.why_as_csv(made, why), nl=False)
    elif why is not None:
        tell_why(made, why)
    elif html is None:
        tell_figures(made)


def tell_figures(made: report.Report) -> None:
    out.print(f"[bold]{made.title}[/bold] {made.zone}")
    table = Table("指标", "figure", Column("", justify="right"), Column("", justify="right"), box=None)
    for one in made.figures:
        table.add_row(one.measure.name, one.measure.id, report.shown(one), report.quotient(one))
    out.print(table)
    for number, marks in made.marks.items():
        points, yuan = sum(mark.points for mark in marks), sum(mark.yuan for mark in marks)
        name = escape(made.names.get(number, ""))
        out.print(f"\n[bold]考核 {number} {name}[/bold]  扣分 {points:g}  扣款 {yuan:g} 元")
        if made.agent is not None:
            table = Table("维度", "指标", Column("", justify="right"), Column("要求", justify="right"), "", box=None)
            for mark in marks:
                table.add_row(
                    mark.target.dimension, mark.figure.measure.name, report.shown(mark.figure), report.wanted(mark),
                    report.verdict(mark),
                )  # fmt: skip
            out.print(table)
    if made.best is not None:
        out.print(f"\n{made.praise} {made.best} {escape(made.names.get(made.best, ''))}".rstrip())
    if made.facts.in_progress:
        out.print(f"\n{made.facts.in_progress} calls are not over and are not counted yet")


def tell_why(made: report.Report, id: str) -> None:
    one, rows = made.figure(id), made.why(id)
    names = [name for name in report.WHY if any(row[name] is not None for row in rows)]
    numbers = ("numerator", "denominator")
    lines = [names, *([f"{row[it]:g}" if it in numbers else row[it] or "—" for it in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:  # no Table: it cuts what is wider than the window, and takes a minute for the time of a week
        cells = zip(names, line, widths, strict=True)
        typer.echo("  ".join(cell.rjust(wide) if it in numbers else cell.ljust(wide) for it, cell, wide in cells))
    out.print(f"{one.measure.name} {id}: {report.quotient(one)} = {report.shown(one)}")


def date_of(day: str | None, settings: Settings) -> dt.date:
    return dt.datetime.fromtimestamp(on_day(day, settings), settings.zone).date()


# ---------------------------------------------------------------- agents


@agents_app.command("list")
def list_agents() -> None:
    """Every agent and what they are doing; while the hotline is down, as it left them."""
    settings = house_rules.load()
    table = Table("工号 number", "name", "state", "since", "phone", "call", box=None)
    try:
        rows = [(a["number"], a["name"], a["state"], a["since"], a["phone"], a["call"]) for a in live.agents_now()]
    except NoAnswer:
        with reading(settings) as session:
            found = session.scalars(select(Agent).order_by(Agent.number))
            rows = [(a.number, a.name, a.state, a.state_since, a.phone, a.call_id) for a in found]
    for number, name, state, at, phone, call in rows:
        table.add_row(number, name or "", state, moment(at, settings) if at else "—", phone or "—", call or "—")
    out.print(table)


@agents_app.command("time")
def agents_time(
    day: Annotated[str | None, typer.Option(help="YYYY-MM-DD in the hotline's time zone; left out: today.")] = None,
) -> None:
    """Minutes that each agent was what on a day, by code of the pause; a spent allowance is red."""
    settings, pauses = house_rules.load(), desk_rules.open_book().now.pauses
    begin, end = day_of(on_day(day, settings), settings.zone)
    codes = [*pauses, *([desk_rules.Pause(code="", name="其他")])]
    table = Table(
        "工号 number", "name", *(Column(name, justify="right") for name in ("空闲 idle", "来电 calls", "话后 wrap-up",
        "未接 RONA", *(f"{pause.name} {pause.code}".strip() for pause in codes))), box=None,
    )  # fmt: skip
    with reading(settings) as session:
        spent = times(changes_since(session, begin), begin, min(end, time.time()))
        names = {agent.number: agent.name for agent in session.scalars(select(Agent))}

    def minutes(number: str, *duties: Duty, daily: int = 0, of: tuple[str | None, ...] = (None,)) -> str:
        found = sum(spent.get((number, duty, code), 0.0) for duty in duties for code in of) / 60
        return f"[red]{found:.0f}[/red]" if daily and found >= daily else f"{found:.0f}" if found else "—"

    known = {pause.code for pause in pauses}
    for number in sorted({number for number, _, _ in spent}):
        others = tuple({code for one, _, code in spent if one == number and code not in known} | {None})
        table.add_row(
            number, names.get(number, ""), minutes(number, Duty.IDLE), minutes(number, *ON_A_CALL),
            minutes(number, Duty.WRAP_UP), minutes(number, Duty.NO_ANSWER),
            *(minutes(number, Duty.PAUSED, daily=pause.daily_minutes, of=(pause.code,)) for pause in pauses),
            minutes(number, Duty.PAUSED, of=others),
        )  # fmt: skip
    out.print(table)


def on_day(day: str | None, settings: Settings) -> float:
    """A moment of that day. Raises SanlingError for what is no date."""
    if day is None:
        return time.time()
    try:
        return dt.datetime.combine(dt.date.fromisoformat(day), dt.time(12), settings.zone).timestamp()
    except ValueError:
        raise SanlingError(f"{day!r} is not a date: write it as 2026-03-02.") from None


@agents_app.command("add")
def add_agent(number: str, name: str) -> None:
    """A new agent, who can register and sign in at once."""
    settings = house_rules.load()
    instance = Instance(settings)
    with reading(settings) as session:
        access = staff.new_agent(session, number, name)
        session.flush()
        instance.write_agents(staff.accounts(session))
    hand_out(settings, [access])
    tell_access(settings, access)
    tell_asterisk(instance, "it will know the account when it starts")


@agents_app.command("access")
def new_access(number: str) -> None:
    """A new password and PIN: forgotten, locked, or no longer a secret. The old ones hold no more."""
    settings = house_rules.load()
    instance = Instance(settings)
    with reading(settings) as session:
        access = staff.new_access(session, number)
        session.flush()
        instance.write_agents(staff.accounts(session))
    hand_out(settings, [access])
    tell_access(settings, access)
    tell_asterisk(instance, "it will know the password when it starts")


@agents_app.command("remove")
def remove_agent(number: str) -> None:
    """Cannot register or sign in any more, and the agent's API tokens are revoked. All that was recorded stays."""
    settings = house_rules.load()
    instance = Instance(settings)
    with reading(settings) as session:
        staff.remove(session, number, time.time())
        session.flush()
        instance.write_agents(staff.accounts(session))
    take_back(settings, number)
    out.print(f"agent {number} is removed; `sanling agents access {number}` takes that back")
    tell_asterisk(instance, "it will not know the account when it starts")


def tell_access(settings: Settings, access: staff.Access) -> None:
    out.print(
        f"agent {access.number}: password {access.password}, PIN {access.pin} (also in {shown(access_file(settings))})"
    )


def tell_asterisk(instance: Instance, otherwise: str) -> None:
    """Of accounts that were written anew."""
    try:
        asyncio.run(instance.reload_agents())
    except (AriError, SanlingError, OSError):
        out.print(f"Asterisk is not running; {otherwise}.")


@agents_app.command("skill")
def set_skill(
    number: str,
    skill: Annotated[str, typer.Argument(help=", ".join(desk_rules.SKILLS))],
    level: Annotated[int, typer.Argument(help="1 helps out, 3 usual, 5 best; 0: not at all.")],
) -> None:
    """How good an agent is at a line, a need or a language. Holds within ten seconds, and after `sanling reload`."""
    settings, routing = house_rules.load(), desk_rules.open_book().now.routing
    with reading(settings) as session:
        levels = staff.add_skill(session, number, skill, level, routing)
    kind = next(kind for kind in desk_rules.KINDS if skill in kind)
    out.print(f"agent {number}: " + ", ".join(f"{one} {levels.get(one) or '—'}" for one in kind))


@agents_app.command("skills")
def list_skills() -> None:
    """Every agent's levels by line, need and language; the usual ones in grey."""
    settings, routing = house_rules.load(), desk_rules.open_book().now.routing
    table = Table("工号 number", *(Column(skill, justify="right") for skill in desk_rules.SKILLS), box=None)
    with reading(settings) as session:
        known = read_skills(session)
        numbers = list(session.scalars(select(Agent.number).order_by(Agent.number)))
    for number in numbers:
        mine = known.get(number, {})
        levels = usual_skills(mine, routing)
        cells = [f"{'' if skill in mine else '[dim]'}{levels.get(skill, '—')}" for skill in desk_rules.SKILLS]
        table.add_row(number, *cells)
    out.print(table)


@agents_app.command("role")
def agent_role(
    number: str,
    role: Annotated[str, typer.Argument(help="agent, inspector (listens), mentor (speaks, takes over) or leader.")],
) -> None:
    """Who may listen to agents' calls, speak in them, take them over. Holds from the next code that is dialled."""
    with reading(house_rules.load()) as session:
        staff.set_role(session, number, role)
    out.print(f"agent {number} is {role}")


# ---------------------------------------------------------------- work orders


@orders_app.callback()
def list_orders(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Closed ones too.")] = False,
    who: Annotated[str | None, typer.Option("--for", help="Of one line or agent only.")] = None,
) -> None:
    """Open work orders, the most urgent first; those past their time are marked."""
    if context.invoked_subcommand is not None:
        return
    settings = house_rules.load()
    names = ("due", "kind", "must answer", "state", "need", "message", "note")
    table = Table("", Column("order", no_wrap=True), *names, box=None)
    now = time.time()
    with reading(settings) as session:
        for order in orders.orders(session, open_only=not everything, must_answer=who):
            left = order.message
            table.add_row(
                "!" if order.overdue(now) else "", order.id, moment(order.due_at, settings), order.kind,
                order.must_answer, order.standing, order.need or "—",
                f"{moment(left.at, settings)}, {left.seconds:.0f} s" if left else "—", order.note or "—",
            )  # fmt: skip
    out.print(table)


@orders_app.command("show")
def show_order(order: Annotated[str, typer.Argument(help="Its id, from `sanling orders`.")]) -> None:
    """Everything there is to answer an order: who, what about, until when, and where it can be heard."""
    settings = house_rules.load()
    with reading(settings) as session:
        for name, said in told_of(orders.dossier(session, order), settings):
            out.print(f"{name:<12} {said}", markup=False)


def told_of(file: orders.Dossier, settings: Settings) -> Iterator[tuple[str, str]]:
    """What `sanling orders show` prints, line by line."""
    order = file.order
    late = "  !" if order.overdue(time.time()) else ""
    yield "order", order.id
    yield "kind", f"{order.kind} {orders.KINDS[order.kind]}"
    yield "caller", order.caller or "—"
    yield "proven", file.proven or "nobody"
    yield "case", f"{order.case_id}, {file.case_number}" if file.case_number else "—"
    yield "need", order.need or "—"
    yield "due", moment(order.due_at, settings) + late
    yield "must answer", order.must_answer
    yield "state", order.standing
    yield "opened", f"{moment(order.at, settings)} by {order.opened_by}"
    for change in file.changes:
        to = f" to {change.must_answer}" if change.must_answer else ""
        yield "then", f"{moment(change.at, settings)} {change.now}{to} by {change.by} {change.note}".rstrip()
    yield "call", order.call_id or "—"
    part = file.part
    where = f", from {dt.timedelta(seconds=round(part.from_s))} for {part.seconds:.0f} s" if part else ""
    for copy in file.copies:
        yield "recording", f"{copy.store}: {copy.path}{where}"
    if order.call_id is not None and not file.copies:
        yield "recording", f"not in a store yet{where}"
    if order.is_open:
        yield "next", f'sanling orders close {order.id} --by NUMBER --note "…"'


@orders_app.command("close")
def close_order(
    order: Annotated[str, typer.Argument(help="Its id, from `sanling orders`.")],
    by: Annotated[str, typer.Option(help="Who answered: an agent's number.")],
    note: Annotated[str, typer.Option(help="What was answered.")] = "",
) -> None:
    """The order is answered. The row stays; that it is closed is a row more."""
    with reading(house_rules.load()) as session:
        orders.change(session, order, orders.Standing.CLOSED, by=by, at=time.time(), note=note)
    out.print(f"order {order} is closed")


@orders_app.command("reassign")
def reassign_order(
    order: Annotated[str, typer.Argument(help="Its id, from `sanling orders`.")],
    to: Annotated[str, typer.Option(help="A line, an agent's number, or leader.")],
    by: Annotated[str, typer.Option(help="Who says so: an agent's number.")],
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Somebody else must answer."""
    with reading(house_rules.load()) as session:
        orders.change(session, order, orders.Standing.REASSIGNED, by=by, at=time.time(), note=note, must_answer=to)
    out.print(f"order {order}: {to} must answer")


# ---------------------------------------------------------------- prompts and manual


@prompts_app.command("list")
def list_prompts() -> None:
    """Every sentence, its section, length and state."""
    table = Table("id", "section", "text", "seconds", "source", "state", box=None)
    for row in prompts.rows(house_rules.load().prompts):
        table.add_row(row.id, row.section, row.text, f"{row.seconds:.1f}", row.source, row.state)
    out.print(table)


@prompts_app.command("verify")
def verify_prompts() -> None:
    """Wording and audio against their seals."""
    findings = prompts.verify(house_rules.load().prompts)
    for finding in findings:
        out.print(f"[red]✗[/red] {finding}")
    if findings:
        sys.exit(1)
    out.print("all prompts are as they were approved and sealed")


@prompts_app.command("render")
def render_prompts(
    ids: Annotated[list[str] | None, typer.Argument(help="Which; none: whatever is new or changed.")] = None,
    again: Annotated[bool, typer.Option(help="Even if nothing changed.")] = False,
) -> None:
    """Speaks the catalogue anew. Needs the optional extra: `make render`."""
    from ari_app import speech  # needs the optional extra

    def progress(prompt: str, done: int, of: int) -> None:
        out.print(f"{done}/{of} {prompt}")

    rendered = speech.render(house_rules.load().prompts, ids, progress=progress, again=again)
    out.print(f"{len(rendered)} prompts rendered and sealed")


@app.command()
def sop(
    check: Annotated[bool, typer.Option(help="Only compare docs/sop.zh.md.")] = False,
    write: Annotated[bool, typer.Option(help="Write docs/sop.zh.md.")] = False,
) -> None:
    """The manual in Chinese, from the table that the hotline follows."""
    text = manual()
    if write:
        MANUAL.write_text(text, encoding="utf-8")
    elif check:
        if not MANUAL.exists() or MANUAL.read_text(encoding="utf-8") != text:
            raise SanlingError("docs/sop.zh.md is not what the table says: run `sanling sop --write`.")
        out.print("docs/sop.zh.md is up to date")
    else:
        out.print(text, markup=False)
