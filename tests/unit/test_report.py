"""The figures as the ledger tells them, by hand, also across midnight; and how they are told."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from ari_app import facts, report, report_page, sample, store
from ari_app.api import floor
from ari_app.cli import app
from ari_app.desk import changes_since
from ari_app.errors import SanlingError
from ari_app.flow.duty import Duty, times
from ari_app.flow.matters import WITHIN_S
from ari_app.flow.measures import MEASURES, Facts, Period, Unit, day, figure, week
from ari_app.flow.sop import Heard
from ari_app.outcomes import Result as Came
from ari_app.report import NO_SOURCE, Report
from ari_app.rules import Assessment
from ari_app.store import models
from tests.unit.core_database import in_file, in_memory
from tests.unit.ledger_of_calls import QUEUED, QUEUED_S, ZONE, Ledger, moment

MONDAY, TUESDAY, SUNDAY = date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 8)
NOW = moment(date(2026, 4, 1), "07:00:00")


@pytest.fixture
def session() -> Iterator[Session]:
    engine = in_memory()
    with store.session(engine) as session:
        sample.fill(session, NOW)
        session.flush()
        yield session
        session.rollback()
    engine.dispose()


@pytest.fixture
def ledger(session: Session) -> Ledger:
    return Ledger(session)


def reported(session: Session, period: Period | date, now: float = NOW, agent: str | None = None) -> Report:
    session.flush()
    whole = period if isinstance(period, Period) else day(period, ZONE)
    return report.make(session, whole, ZONE, Assessment(), now, agent)


def told(made: Report, *ids: str) -> list[tuple[float, float]]:
    return [(round(made.figure(id).numerator, 3), round(made.figure(id).denominator, 3)) for id in ids]


# ---------------------------------------------------------------- from rows to figures


def test_a_day_from_the_ledger(session, ledger):
    nine = moment(MONDAY, "09:00:00")
    ledger.served(nine, "601", wait_s=15.0, talk_s=100.0, wrap_up_s=20.0, score=5, lawyer=True, result=Came.ON_THE_SPOT)
    ledger.served(nine + 500, "602", wait_s=40.0, talk_s=60.0, wrap_up_s=10.0, score=3, answers_s=12.0)
    ledger.gives_up(nine + 600, wait_s=30.0)
    ledger.gives_up(nine + 700, wait_s=4.9)
    made = reported(session, MONDAY)
    assert told(made, "calls", "queued", "answered", "abandoned", "short_abandons") == [
        (4, 0), (4, 0), (2, 0), (2, 0), (1, 0)
    ]  # fmt: skip
    assert told(made, "service_level", "abandonment", "asa", "handle_time") == [(1, 3), (1, 3), (55, 2), (190, 2)]
    assert told(made, "satisfaction", "lawyer_satisfaction", "on_the_spot") == [(8, 2), (5, 1), (1, 1)]
    assert told(made, "answer_within_three_rings", "phones_within_three_rings") == [(4, 4), (1, 2)]
    assert told(reported(session, MONDAY, agent="602"), "handle_time", "satisfaction") == [(70, 1), (3, 1)]
    assert reported(session, TUESDAY).facts.calls == ()


def test_a_call_belongs_to_the_day_of_its_arrival_and_time_to_the_day_it_was_spent_on(session, ledger):
    at = moment(MONDAY, "23:59:00")
    ledger.state("601", moment(MONDAY, "23:00:00"), "signed_out", "idle")
    ledger.served(at, "601", wait_s=46.0, talk_s=250.0, wrap_up_s=30.0, score=5)  # joined 23:59:50, over at 00:04:00
    ledger.state("601", moment(TUESDAY, "00:30:00"), "idle", "signed_out")
    monday, tuesday = reported(session, MONDAY), reported(session, TUESDAY)
    assert told(monday, "calls", "asa", "handle_time", "satisfaction") == [(1, 0), (46, 1), (280, 1), (5, 1)]
    assert told(tuesday, "calls", "asa", "handle_time", "satisfaction") == [(0, 0), (0, 0), (0, 0), (0, 0)]
    assert told(monday, "occupancy") == [(10, 3600)]
    assert told(tuesday, "occupancy") == [(270, 1800)]


def test_occupancy_lists_the_stretches_of_agents_time_cut_at_midnight_each_with_its_call(session, ledger):
    ledger.state("601", moment(MONDAY, "23:00:00"), "signed_out", "idle")
    call = ledger.served(
        moment(MONDAY, "23:59:00"), "601", wait_s=46.0, talk_s=250.0, wrap_up_s=30.0, answers_s=5.0
    )  # joined 23:59:50, over at 00:04:00
    ledger.state("601", moment(TUESDAY, "00:30:00"), "idle", "signed_out")

    def listed(of: Report) -> list[tuple[object, ...]]:
        names = ("state", "begin", "end", "call", "at", "caller", "numerator", "denominator")
        return [tuple(row[name] for name in names) for row in of.why("occupancy")]

    def stretch(state: str, begin: str, end: str, seconds: float, of_call: bool = True) -> tuple[object, ...]:
        whose = (call, "2026-03-02 23:59:00", "*********01") if of_call else (None, None, None)
        handling = seconds if state in ("talking", "wrap_up") else 0.0
        return (state, f"2026-03-{begin}", f"2026-03-{end}", *whose, handling, seconds)

    assert listed(reported(session, MONDAY)) == [
        stretch("idle", "02 23:00:00", "02 23:59:45", 3585, of_call=False),
        stretch("reserved", "02 23:59:45", "02 23:59:50", 5),
        stretch("talking", "02 23:59:50", "03 00:00:00", 10),
    ]
    assert listed(reported(session, TUESDAY)) == [
        stretch("talking", "03 00:00:00", "03 00:04:00", 240),
        stretch("wrap_up", "03 00:04:00", "03 00:04:30", 30),
        stretch("idle", "03 00:04:30", "03 00:30:00", 1530, of_call=False),
    ]
    assert listed(reported(session, TUESDAY, agent="602")) == []


def test_wrap_up_at_midnight_and_a_talk_that_is_not_over_name_their_calls(session, ledger):
    wrapped = ledger.served(moment(MONDAY, "23:58:00"), "601", wait_s=0.0, talk_s=100.0, wrap_up_s=60.0)
    midnight = moment(TUESDAY, "00:00:00")
    goes_on = ledger.arrives(midnight + 100, "15400002002")
    ledger.state("601", midnight + 110, "idle", "talking", f"{goes_on}~second")
    rows = reported(session, TUESDAY, now=midnight + 200).why("occupancy")
    assert [(row["state"], row["call"], row["caller"], row["denominator"]) for row in rows] == [
        ("wrap_up", wrapped, "*********01", pytest.approx(44)),
        ("idle", None, None, pytest.approx(66)),
        ("talking", goes_on, "*********02", 90),
    ]


def test_the_stretches_add_up_to_the_seconds_that_agents_time_tells(session, ledger):
    ledger.a_day(MONDAY, ["601", "602", "603"], calls=40, seed=7)
    ledger.state("601", moment(MONDAY, "22:00:00"), "signed_out", "paused")
    ledger.state("601", moment(MONDAY, "22:10:00"), "paused", "paused")
    for period in (day(MONDAY, ZONE), day(TUESDAY, ZONE), week(MONDAY, ZONE)):
        made = reported(session, period)
        begin, end = period.begin, period.end
        expected: dict[tuple[str, Duty], float] = {}
        for (agent, duty, _), seconds in times(changes_since(session, begin, end=end), begin, end).items():
            expected[agent, duty] = expected.get((agent, duty), 0.0) + seconds
        found: dict[tuple[str, Duty], float] = {}
        for one in made.facts.stretches:
            found[one.agent, one.duty] = found.get((one.agent, one.duty), 0.0) + one.seconds
        assert found == pytest.approx(expected)
        assert all(begin <= one.begin < one.end <= end for one in made.facts.stretches)


def test_the_days_of_a_ledger_add_up_to_its_week(session, ledger):
    for n in range(8):  # and one day after it
        ledger.a_day(MONDAY + timedelta(days=n), ["601", "602"], calls=8, seed=n)
    ledger.served(moment(TUESDAY, "23:58:00"), "601", wait_s=60.0, talk_s=600.0, wrap_up_s=20.0, score=4)
    whole = reported(session, week(MONDAY, ZONE))
    days = [reported(session, one) for one in whole.period.days]
    for measure in MEASURES:
        found, each = whole.figure(measure.id), [one.figure(measure.id) for one in days]
        assert found.numerator == pytest.approx(sum(one.numerator for one in each)), measure.id
        assert found.denominator == pytest.approx(sum(one.denominator for one in each)), measure.id
    assert 56 <= whole.figure("calls").numerator <= 57
    by_day = whole.by_day("service_level")
    assert [one.denominator for one in by_day.values()] == [one.figure("service_level").denominator for one in days]
    assert sum(one.numerator for one in whole.by_hour("calls")) == whole.figure("calls").numerator


@pytest.mark.parametrize("measure", [one for one in MEASURES if one.has_source], ids=lambda one: one.id)
def test_the_calls_behind_a_figure_are_as_many_as_it_says(session, ledger, measure):
    ledger.a_day(MONDAY, ["601", "602", "603"], calls=20, seed=5)
    made = reported(session, MONDAY)
    found, rows = made.figure(measure.id), made.why(measure.id)
    assert sum(row["numerator"] for row in rows) == pytest.approx(found.numerator)
    assert sum(row["denominator"] or 0 for row in rows) == pytest.approx(found.denominator)
    if measure.id != "occupancy":
        assert len(rows) == (found.numerator if measure.unit is Unit.CALLS else max(found.denominator, len(rows)))
    assert rows or measure.id != "occupancy"
    for row in rows:
        if row["state"] == Duty.IDLE:
            assert (row["call"], row["at"], row["caller"]) == (None, None, None)
        else:
            assert (row["call"][:5], row["at"][:10], row["caller"]) == ("demo-", "2026-03-02", "*********01")
        assert (row["state"] is None) == (row["begin"] is None) == (measure.id != "occupancy")


def test_a_call_that_is_not_over_is_not_counted_yet(session, ledger):
    at = moment(MONDAY, "09:00:00")
    ledger.steps(ledger.arrives(at), [(at + s, heard) for s, heard in QUEUED])
    made = reported(session, MONDAY)
    assert (made.figure("calls").value, made.facts.in_progress) == (0, 1)


def test_wrap_up_that_goes_on_lasts_until_now(session, ledger):
    at = moment(MONDAY, "09:00:00")
    call_id = ledger.served(at, "601", wait_s=0.0, talk_s=100.0, wrap_up_s=1000.0)
    assert told(reported(session, MONDAY, now=at + 1e6), "wrap_up_time") == [(1000, 1)]
    session.flush()
    last = session.query(models.AgentState).order_by(models.AgentState.id.desc()).first()
    session.expunge(last)
    [(call, agent, seconds)] = facts._wrap_ups(session, at, last.at, at + QUEUED_S + 150)
    assert (call, agent, seconds) == (call_id, "601", pytest.approx(50))


def test_a_longer_wrap_up_is_one(session, ledger):
    at = moment(MONDAY, "09:00:00")
    call_id = ledger.arrives(at)
    ledger.state("601", at, "idle", "talking", f"{call_id}~second")
    ledger.state("601", at + 10, "talking", "wrap_up")
    ledger.state("601", at + 20, "wrap_up", "wrap_up")
    ledger.state("601", at + 50, "wrap_up", "idle")
    session.flush()
    assert list(facts._wrap_ups(session, at, at + 100, NOW)) == [(call_id, "601", 40)]


def test_a_placed_call_is_handled_and_answers_nobody(session, ledger):
    at = moment(MONDAY, "10:00:00")
    call_id = ledger.arrives(at)
    session.add(models.OutboundCall(call_id=call_id, at=at, agent="601", number="15400001001", role="party"))
    session.add(models.TalkTime(call_id=call_id, n=4, agent="601", company="caller", at=at + 20, until=at + 80))
    ledger.offer(call_id, 1, "601", (at, "offered"), (at + 3, "answered"), (at + 20, "joined"))
    ledger.ends(call_id, at + 80, "handled", "601", answered_after_s=20.0, talk_s=60.0)
    made = reported(session, MONDAY)
    assert told(made, "handle_time", "calls_a_day", "rona_rate") == [(60, 1), (1, 1), (0, 1)]
    assert told(made, "calls", "answered", "answer_within_three_rings", "asa") == [(0, 0), (0, 0), (0, 0), (0, 0)]


def test_a_transferred_call_waits_once_and_is_two_talks(session, ledger):
    """601 consults 602 for 30 s, then hands the caller over."""
    at = moment(MONDAY, "10:00:00")
    call_id, joined = ledger.arrives(at), at + 10
    heard = [(at + s, one) for s, one in QUEUED]
    heard += [(at + 8, Heard.AGENT_RESERVED), (joined, Heard.AGENT_ANSWERED), (joined, Heard.WHISPER_ENDED)]
    heard += [(joined + 50, Heard.CONSULT_ASKED), (joined + 50, Heard.AGENT_RESERVED)]
    heard += [(joined + 55, Heard.AGENT_ANSWERED), (joined + 60, Heard.WHISPER_ENDED)]
    heard += [(joined + 90, Heard.HAND_OVER_ASKED), (joined + 200, Heard.HUNG_UP)]
    ledger.steps(call_id, heard)
    ledger.offer(call_id, 1, "601", (at + 8, "offered"), (joined, "answered"), (joined, "joined"))
    ledger.offer(call_id, 2, "602", (joined + 50, "offered"), (joined + 55, "answered"), (joined + 60, "joined"))
    for n, agent, company, since, until in (
        (6, "601", "caller", 0, 50), (9, "601", "nobody", 50, 60), (10, "601", "agent", 60, 90),
        (10, "602", "agent", 60, 90), (11, "602", "caller", 90, 200),
    ):  # fmt: skip
        session.add(
            models.TalkTime(
                call_id=call_id, n=n, agent=agent, company=company, at=joined + since, until=joined + until
            )
        )  # fmt: skip
    ledger.ends(call_id, joined + 200, "handled", "602", wait_s=6.0, talk_s=160.0)
    made = reported(session, MONDAY)
    assert told(made, "asa", "transfer_rate", "talk_time", "hold_time") == [(6, 1), (1, 2), (220, 2), (10, 2)]
    assert told(reported(session, MONDAY, agent="601"), "transfer_rate", "hold_time") == [(1, 1), (10, 1)]
    assert told(reported(session, MONDAY, agent="602"), "transfer_rate", "talk_time") == [(0, 1), (140, 1)]


def test_offers_by_how_they_ended(session, ledger):
    at = moment(MONDAY, "10:00:00")
    call_id = ledger.arrives(at)
    for n, events in enumerate(
        (("no_answer",), ("answered", "refused"), ("caller_left",), (), ("answered", "joined")), start=1
    ):
        ledger.offer(call_id, n, "601", (at + 20 * n, "offered"), *((at + 20 * n + 5, event) for event in events))
    ledger.offer(call_id, 9, "612", (at + 300, "joined"))  # a leader took the call over
    ledger.ends(call_id, at + 400, "handled", "601")
    made = reported(session, MONDAY)
    assert told(made, "rona_rate", "phones_within_three_rings") == [(2, 3), (2, 3)]
    assert "612" in made.by_agent


def test_first_call_resolution_is_told_on_the_day_the_seven_days_are_over(session, ledger):
    at = moment(MONDAY, "10:00:00")
    first = ledger.served(at, "601", wait_s=0.0, talk_s=60.0, wrap_up_s=5.0)
    other = ledger.served(at + 100, "601", wait_s=0.0, talk_s=60.0, wrap_up_s=5.0)
    again = ledger.served(at + 86_400, "602", wait_s=0.0, talk_s=60.0, wrap_up_s=5.0)
    ledger.matter(first, at, at + 60, "601")
    ledger.matter(other, at + 100, at + 160, "601", case_id=2)
    ledger.matter(again, at + 86_400, at + 86_460, "602")
    assert told(reported(session, MONDAY), "first_call_resolution") == [(0, 0)]
    over = reported(session, MONDAY + timedelta(days=7))
    assert told(over, "first_call_resolution") == [(1, 2)]
    assert {row["call"] for row in over.why("first_call_resolution")} == {first, other}
    assert {row["at"][:10] for row in over.why("first_call_resolution")} == {"2026-03-02"}
    assert [mark.points for mark in over.marks["601"] if mark.points] == [0.5]
    too_soon = reported(session, MONDAY + timedelta(days=7), now=at + WITHIN_S)
    assert told(too_soon, "first_call_resolution") == [(0, 0)]


def test_the_wallboard_says_the_same(session, ledger):
    ledger.a_day(MONDAY, ["601", "602"], calls=40, seed=3)
    at = moment(MONDAY, "10:00:00")
    placed = ledger.arrives(at)
    session.add(models.OutboundCall(call_id=placed, at=at, agent="601", number="15400001001", role="party"))
    ledger.ends(placed, at + 80, "handled", "601", talk_s=60.0)
    made, board = reported(session, MONDAY), floor.figures(session, moment(MONDAY, "00:00:00"))
    assert board.over == made.figure("calls").value
    assert board.handled == made.figure("answered").value
    assert board.abandoned == made.figure("abandonment").numerator
    assert board.service_level == pytest.approx(made.figure("service_level").value)
    assert board.abandonment == pytest.approx(made.figure("abandonment").value)
    assert board.mean_wait_s == pytest.approx(made.figure("asa").value)


# ---------------------------------------------------------------- how it is told


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an instance whose ledger holds a Monday; the run-time folder."""
    for name in list(os.environ):
        if name.startswith("SANLING_"):
            monkeypatch.delenv(name)
    for name, value in {"CONFIG": os.devnull, "INSTANCE": "told", "VAR_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"SANLING_{name}", value)
    folder = tmp_path / "told"
    folder.mkdir()
    engine = in_file(folder / "sanling.db")
    with store.session(engine) as session:
        sample.fill(session, NOW)
        session.flush()
        ledger = Ledger(session, "told")
        ledger.a_day(MONDAY, ["601", "602", "603"], calls=40, seed=1)
        next_monday = moment(MONDAY + timedelta(days=7), "09:00:00")
        ledger.served(next_monday, "603", wait_s=5.0, talk_s=60.0, wrap_up_s=5.0, score=5)
        session.get(models.Agent, "602").name = "<b>何</b>"  # type: ignore[union-attr]
        at = moment(MONDAY, "12:00:00")
        ledger.steps(ledger.arrives(at), [(at + s, heard) for s, heard in QUEUED])
    engine.dispose()
    return folder


def sanling(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "200"})


def test_the_day_as_a_table(instance):
    result = sanling("day", "--date", "2026-03-02")
    assert result.exit_code == 0, result.output
    assert "2026-03-02 Asia/Shanghai" in result.output
    assert re.search(r"来电量 +calls +4\d", result.output)
    assert re.search(rf"工单准确率 +ticket_accuracy +{NO_SOURCE}", result.output)
    assert "1 calls are not over" in result.output
    assert "今日之星 603" in sanling("day", "--date", "2026-03-09").output
    assert "本周之星 603" in sanling("week", "--date", "2026-03-09").output
    assert "之星" not in sanling("day", "--date", "2026-03-01").output


def test_the_day_as_json_and_csv_say_the_same(instance):
    tree = json.loads(sanling("day", "--date", "2026-03-02", "--json").output)
    rows = list(csv.DictReader(io.StringIO(sanling("day", "--date", "2026-03-02", "--csv").output)))
    assert (tree["first"], tree["last"], tree["zone"], tree["in_progress"]) == (
        "2026-03-02", "2026-03-02", "Asia/Shanghai", 1,
    )  # fmt: skip
    for row in rows:
        figures = tree["agents"][row["agent"]]["figures"] if row["agent"] else tree["figures"]
        told_there = figures[row["figure"]]
        assert row["value"] == ("" if told_there["value"] is None else str(told_there["value"]))
    assert tree["figures"]["calls"]["value"] >= 40
    assert tree["figures"]["complaint_rate"] == {
        "value": None, "numerator": None, "denominator": None, "unit": "share", "has_source": False,
    }  # fmt: skip
    assessment = {one["measure"]: one for one in tree["agents"]["601"]["assessment"]}
    assert assessment["calls_a_day"]["met"] is False
    assert assessment["ticket_accuracy"]["points_off"] is None


def test_a_week_and_an_agent(instance):
    week_told = json.loads(sanling("week", "--date", "2026-03-05", "--json").output)
    day_told = json.loads(sanling("day", "--date", "2026-03-02", "--json").output)
    assert (week_told["first"], week_told["last"]) == ("2026-03-02", "2026-03-08")
    assert week_told["figures"] == day_told["figures"]
    agent = json.loads(sanling("agent", "601", "--date", "2026-03-02", "--json").output)
    assert agent["figures"]["handle_time"] == day_told["agents"]["601"]["figures"]["handle_time"]
    assert "service_level" not in agent["figures"]
    assert json.loads(sanling("agent", "601", "--week", "--date", "2026-03-05", "--json").output)["agents"]
    said = sanling("agent", "601", "--date", "2026-03-02").output
    assert re.search(r"接听 +人均日接听量 +\d+\.0 +≥ 120 +未达标", said)
    assert re.search(r"投诉 +投诉率 +暂无数据 +≤ 0.3 % +暂无数据", said)


def test_why_lists_the_calls_with_masked_numbers(instance):
    tree = json.loads(sanling("day", "--date", "2026-03-02", "--json").output)
    result = sanling("day", "--date", "2026-03-02", "--why", "service_level")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "told-" in line]
    assert len(lines) == tree["figures"]["service_level"]["denominator"]
    assert sum(line.split()[-2] == "1" for line in lines) == tree["figures"]["service_level"]["numerator"]
    assert "15400001001" not in result.output
    assert "*********01" in result.output
    calls = sanling("day", "--date", "2026-03-02", "--why", "calls").output
    assert sum("told-" in line for line in calls.splitlines()) == tree["figures"]["calls"]["value"]
    time = sanling("agent", "601", "--date", "2026-03-02", "--why", "occupancy").output
    assert re.search(
        r"2026-03-02 \S+ +told-\S+ +\*{9}01 +601 +talking +2026-03-02 \S+ +2026-03-02 \S+ +(\S+) +\1$",
        time,
        re.MULTILINE,
    )
    assert re.search(r"^— +— +— +601 +idle +2026-03-02 08:00:00 +2026-03-02 ", time, re.MULTILINE)


@pytest.mark.parametrize("id", ["service_level", "calls", "occupancy", "first_call_resolution"])
def test_why_as_json_and_csv_say_the_same(instance, id):
    asked = ("day", "--date", "2026-03-02", "--why", id)
    tree = json.loads(sanling(*asked, "--json").output)
    rows = list(csv.DictReader(io.StringIO(sanling(*asked, "--csv").output)))
    figures = json.loads(sanling("day", "--date", "2026-03-02", "--json").output)["figures"]
    assert {name: tree[name] for name in figures[id]} == figures[id]
    assert (tree["first"], tree["zone"], tree["agent"], tree["figure"]) == ("2026-03-02", "Asia/Shanghai", None, id)
    assert rows == [{name: "" if said is None else str(said) for name, said in part.items()} for part in tree["parts"]]
    assert sum(part["numerator"] for part in tree["parts"]) == pytest.approx(figures[id]["numerator"])
    assert bool(rows) == (id != "first_call_resolution")
    assert {row["caller"] for row in rows} <= {"*********01", ""}


def test_why_of_nothing_as_csv_is_its_heading(instance):
    said = sanling("day", "--date", "2026-03-01", "--why", "occupancy", "--csv").output
    assert said == "at,call,caller,agent,state,begin,end,numerator,denominator\n"


def test_there_is_no_page_of_why(instance, tmp_path):
    file = tmp_path / "report.html"
    result = sanling("day", "--why", "calls", "--html", str(file))
    assert isinstance(result.exception, SanlingError)
    assert "leave --html out, or write --json or --csv" in str(result.exception)
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("day", "--date", "monday"), "2026-03-02"),
        (("day", "--why", "smiles"), "service_level"),
        (("agent", "601", "--why", "service_level"), "handle_time"),
        (("day", "--why", "complaint_rate"), "docs/measures.md"),
        (("day", "--why", "complaint_rate", "--json"), "docs/measures.md"),
        (("day", "--why", "smiles", "--csv"), "service_level"),
        (("agent", "999"), "no agent 999"),
    ],
)
def test_mistakes_are_sentences(instance, arguments, said):
    result = sanling(*arguments)
    assert isinstance(result.exception, SanlingError)
    assert said in str(result.exception)


@pytest.mark.parametrize("what", [("day",), ("week",), ("agent", "602")], ids=lambda what: what[0])
def test_the_page_needs_nothing_else(instance, tmp_path, what):
    file = tmp_path / "report.html"
    result = sanling(*what, "--date", "2026-03-02", "--html", str(file))
    assert result.exit_code == 0, result.output
    html = file.read_text(encoding="utf-8")
    assert html.count("data:image/svg+xml;base64,") == (1 if what[0] == "agent" else 4)
    outside = re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|<script|<link|src=\"(?!\")", outside)
    assert "<b>何</b>" not in html
    assert "&lt;b&gt;何&lt;/b&gt;" in html
    assert html.count(f"{NO_SOURCE}</td>") >= 4
    if what[0] == "agent":
        assert (
            '<td>投诉</td><td class="words">投诉率</td><td>暂无数据</td><td>≤ 0.3 %</td><td>暂无数据</td><td>—</td>'
            in html
        )
    assert "15400001001" not in html


def test_a_page_that_cannot_be_written_is_a_sentence(instance, tmp_path):
    result = sanling("day", "--html", str(tmp_path / "nowhere" / "report.html"))
    assert isinstance(result.exception, SanlingError)
    assert "cannot be written: No such file or directory" in str(result.exception)


def test_figures_as_json_are_all_that_is_printed_beside_a_page(instance, tmp_path):
    file = tmp_path / "report.html"
    assert json.loads(sanling("day", "--json", "--html", str(file)).output)["figures"]
    assert file.exists()


def test_the_plots_reach_as_high_as_what_they_show(session, ledger):
    nine = moment(MONDAY, "09:00:00")
    ledger.served(nine, "601", wait_s=30.0, talk_s=300.0, wrap_up_s=100.0)
    ledger.served(nine + 600, "601", wait_s=80.0, talk_s=300.0, wrap_up_s=100.0)
    html = report_page.page(reported(session, MONDAY))
    plots = [base64.b64decode(one).decode() for one in re.findall(r"svg\+xml;base64,([A-Za-z0-9+/=]+)", html)]
    tops = [max(float(tick) for tick in re.findall(r">(\d+(?:\.\d+)?)</text>", plot)) for plot in plots]
    waits, calls, service, handled = tops
    assert 60 <= waits <= 90
    assert 2 <= calls <= 23  # the hours are digits, too
    assert service == 100
    assert handled == 601  # the agent's number; the seconds:
    assert ">400<" in plots[3]
    assert ">50%<" not in plots[2]


def dots(plot: str) -> list[str]:
    """Their colours. Bars are no markers."""
    return re.findall(r'<use [^>]*style="fill: (#\w+); stroke: #ffffff', plot)


def test_the_waits_by_hour_tell_of_everybody_and_who_gave_up(session, ledger):
    at = moment(MONDAY, "09:00:00")
    ledger.served(at, "601", wait_s=30.0, talk_s=60.0, wrap_up_s=5.0)
    ledger.gives_up(at + 300, wait_s=1234.0)
    ledger.gives_up(at + 400, wait_s=2.0)
    ledger.served(at + 3600, "601", wait_s=45.0, talk_s=60.0, wrap_up_s=5.0)
    ledger.gives_up(at + 3700, wait_s=3.0)
    called_back = ledger.arrives(at + 7200)
    ledger.steps(called_back, [(at + 7200 + s, heard) for s, heard in QUEUED])
    ledger.ends(called_back, at + 7200 + QUEUED_S + 513, "callback", wait_s=513.0)
    made = reported(session, MONDAY)
    nine, ten, eleven = made.by_hour("abandon_wait")[9:12]
    assert (nine.value, ten.value, eleven.value) == (618, 3, None)
    waits = report_page._plots(made)[0]
    svg = base64.b64decode(waits.svg.partition(",")[2]).decode()
    colours = {word[:2]: colour for colour, word in waits.legend}
    assert set(colours) == {"接通", "放弃", "其他"}
    assert dots(svg) == [colours["放弃"], colours["接通"], colours["其他"]]
    assert [text for text in ("1234", "45", "513", "30") if f">{text}</text>" in svg] == ["1234", "45", "513"]
    assert "含短放弃" in waits.says


def test_a_page_of_a_day_on_which_nobody_called():
    empty = Report(day(MONDAY, ZONE), ZONE, NOW, Facts(), Assessment(), {})
    html = report_page.page(empty)
    assert "—" in html
    assert html == report_page.page(empty)


def test_figures_of_a_simulated_day_agree_with_the_ledger_counted_otherwise(session, ledger):
    ledger.a_day(MONDAY, ["601", "602", "603"], calls=60, seed=9)
    made = reported(session, MONDAY)
    endings = session.query(models.Ending).all()
    handled = [one for one in endings if one.outcome == "handled"]
    assert made.figure("answered").value == len(handled)
    assert made.figure("asa").value == pytest.approx(sum(one.wait_s for one in handled) / len(handled))
    assert made.figure("talk_time").value == pytest.approx(sum(one.talk_s for one in handled) / len(handled))
    assert figure(MEASURES[0], made.facts).value == len(endings)
