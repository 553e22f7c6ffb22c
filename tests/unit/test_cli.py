"""The command line: what it prints, and that a mistake is a sentence and exit code 1, never a traceback."""

from __future__ import annotations

import csv
import datetime as dt
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner, Result

from ari_app import cli, sample, staff, store
from ari_app.api import access
from ari_app.cli import app
from ari_app.desk import pin_matches
from ari_app.errors import SanlingError
from ari_app.flow.sop import Heard, Progress, step
from ari_app.settings import PROJECT
from ari_app.store import models
from tests.unit.core_database import in_file

CALL = "cli-1795000000.3"
AT = 1_795_000_000.0


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run-time folder of an instance that is set up but does not run."""
    for name in list(os.environ):
        if name.startswith("SANLING_"):
            monkeypatch.delenv(name)
    for name, value in {
        "CONFIG": os.devnull, "INSTANCE": "cli", "VAR_DIR": str(tmp_path), "ADDRESS": "127.0.59.2",
        "ASTERISK_ROOT": str(tmp_path / "no-root"),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SANLING_{name}", value)
    folder = tmp_path / "cli"
    (folder / "etc").mkdir(parents=True)
    engine = in_file(folder / "sanling.db")
    with store.session(engine) as session:
        sample.fill(session, AT)
        session.add(models.Call(id=CALL, caller_number="15400001001", called_number="12368", at=AT))
        progress = Progress()
        for n, heard in enumerate((Heard.RANG_ENOUGH, Heard.WANTS_A_PERSON, Heard.HUNG_UP)):
            was = progress
            progress, actions = step(was, heard)
            session.add(
                models.Transition(
                    call_id=CALL, n=n, at=AT + n, state=was.state.name, heard=heard.name, next=progress.state.name,
                    actions=" ".join(do.name for do in actions), agent=None,
                )
            )  # fmt: skip
        session.add(
            models.Ending(
                call_id=CALL, at=AT + 3, outcome="abandoned", hung_up_by="caller", agent=None, answered_after_s=1.0,
                wait_s=1.5, talk_s=0.0, after_closing_s=None,
            )
        )  # fmt: skip
        session.add(models.Call(id="cli-1795000100.4", caller_number=None, called_number="12368", at=AT + 100))
        for at, number, reason in (
            (AT + 300, "15400001003", "fallback"),
            (AT + 200, "15400001002", "fallback"),
            (AT + 400, "15400001004", "lost"),
        ):
            session.add(models.Callback(id=f"cli-{at:.0f}.5", at=at, number=number, reason=reason))
    engine.dispose()
    return folder


def sanling(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_calls_newest_first(instance):
    result = sanling("calls")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "cli-" in line]
    assert "cli-1795000100.4" in lines[0]
    assert "in progress" in lines[0]
    assert CALL in lines[1]
    assert "abandoned" in lines[1]
    assert "1.5 s" in lines[1]
    assert "15400001001" not in result.output
    assert len([line for line in sanling("calls", "--last", "1").output.splitlines() if "cli-" in line]) == 1


def test_callbacks_are_shown_in_the_order_to_call_them_whom_we_cut_off_first(instance):
    result = sanling("callbacks")
    assert result.exit_code == 0, result.output
    assert re.findall(r"1540000\d{4}", result.output) == ["15400001004", "15400001002", "15400001003"]


def test_a_call_is_replayed_with_its_timeline(instance):
    result = sanling("replay", CALL)
    assert result.exit_code == 0, result.output
    assert "RINGING — RANG_ENOUGH → GREETING" in result.output
    assert "abandoned, hung up by caller" in result.output
    assert "replays to the same end: ENDED" in result.output


def test_outcomes_of_each_agent(instance):
    with store.session(store.open_engine(f"sqlite:///{instance / 'sanling.db'}")) as session:
        for n, score in enumerate((5, 4, 1)):
            session.add(models.Rating(call_id=CALL, n=n, at=time.time(), agent="601", score=score))
    result = sanling("outcomes")
    [row] = [line.split() for line in result.output.splitlines() if " 601 " in line]
    assert row == ["601", "3", "3.33", "1", "0", "0", "—", "0"]


def test_agents_are_listed(instance):
    result = sanling("agents", "list")
    assert result.exit_code == 0, result.output
    assert "601" in result.output
    assert "何静" in result.output
    assert result.output.count("signed_out") == len(sample.AGENTS)


def test_time_by_duty_and_code_of_a_day(instance):
    noon = dt.datetime(2026, 3, 2, 12, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
    with store.session(store.open_engine(f"sqlite:///{instance / 'sanling.db'}")) as session:
        for n, (minute, now, code) in enumerate(
            ((0, "idle", None), (60, "paused", "1"), (95, "ringing", None), (96, "talking", None),
             (100, "paused", None), (107, "paused", "77"), (110, "signed_out", None))
        ):  # fmt: skip
            at = noon + 60 * minute
            session.add(
                models.AgentState(id=n + 1, agent="601", at=at, was="", now=now, reason="", call_id=None, code=code)
            )
    result = sanling("agents", "time", "--day", "2026-03-02")
    [row] = [line.split() for line in result.output.splitlines() if " 601 " in line]
    assert row[2:] == ["60", "5", "—", "—", "35", "—", "—", "—", "10"]
    assert "小休 1" in result.output
    assert "601" not in sanling("agents", "time", "--day", "2026-03-01").output


def test_an_agent_is_added_and_told_once_how_to_sign_in(instance):
    result = sanling("agents", "add", "680", "新来")
    assert result.exit_code == 0, result.output
    assert "agent 680: password " in result.output
    assert "Asterisk is not running" in result.output
    handed_out = (instance / "agents.csv").read_text(encoding="utf-8")
    assert "680,新来," in handed_out
    assert (instance / "agents.csv").stat().st_mode & 0o777 == 0o600
    assert "680" in (instance / "etc" / "pjsip-agents.conf").read_text()
    assert "680" in sanling("agents", "list").output


def database(instance):
    return store.session(store.open_engine(f"sqlite:///{instance / 'sanling.db'}"))


def test_an_agent_gets_a_new_password_and_pin_and_is_not_locked_any_more(instance):
    sanling("agents", "add", "680", "新来")
    [before] = csv.reader(io.StringIO((instance / "agents.csv").read_text(encoding="utf-8").splitlines()[1]))
    with database(instance) as session:
        session.get(models.Agent, "680").locked_until = AT * 2
    told = sanling("agents", "access", "680")
    assert told.exit_code == 0, told.output
    rows = list(csv.reader(io.StringIO((instance / "agents.csv").read_text(encoding="utf-8"))))
    assert [row[:2] for row in rows] == [["number", "name"], ["680", "新来"]], "one row an agent"
    _, _, password, pin = rows[1]
    assert f"password {password}, PIN {pin}" in told.output
    assert (password, pin) != tuple(before[2:])
    with database(instance) as session:
        agent = session.get(models.Agent, "680")
        assert agent.locked_until is None
        assert agent.sip_ha1 == staff.sip_ha1("680", password)
        assert pin_matches(pin, agent.pin_hash)
    assert (instance / "agents.csv").stat().st_mode & 0o777 == 0o600


def test_an_agent_who_is_removed_neither_registers_nor_signs_in_and_stays_known(instance):
    sanling("agents", "add", "680", "新来")
    with database(instance) as session:
        token, _ = access.new_token(session, "agent", "680", "", AT)
    gone = sanling("agents", "remove", "680")
    assert gone.exit_code == 0, gone.output
    assert "[680](" not in (instance / "etc" / "pjsip-agents.conf").read_text()
    assert "680" not in (instance / "agents.csv").read_text()
    with database(instance) as session:
        agent = session.get(models.Agent, "680")
        assert agent.name == "新来"
        assert not pin_matches("", agent.pin_hash)
        assert access.holder_of(session, access.digest(token)) is None
    assert "is removed already" in str(sanling("agents", "remove", "680").exception)
    assert "680 is taken" in str(sanling("agents", "add", "680", "another").exception)
    assert sanling("agents", "access", "680").exit_code == 0
    assert "[680](" in (instance / "etc" / "pjsip-agents.conf").read_text()


def test_an_agent_in_work_is_not_removed_nor_one_at_whose_phone_a_colleague_is(instance):
    with database(instance) as session:
        agent = session.get(models.Agent, "602")
        agent.state, agent.phone = "idle", "603"
    assert "first `sanling agents sign-out 602`" in str(sanling("agents", "remove", "602").exception)
    assert "602 is signed in at phone 603" in str(sanling("agents", "remove", "603").exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("agents", "access", "999"), "There is no agent 999"),
        (("agents", "remove", "999"), "There is no agent 999"),
        (("replay", "cli-0.0"), "There is no call cli-0.0"),
        (("agents", "add", "601", "another"), "601 is taken"),
        (("agents", "time", "--day", "yesterday"), "2026-03-02"),
        (("agents", "add", "6", "short"), "3 to 8 digits"),
        (("restart",), "does not run: start it with `make run`"),
    ],
)
def test_mistakes_are_sentences(instance, arguments, said):
    result = sanling(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SanlingError)
    assert said in str(result.exception)


def test_what_does_not_run_is_drained(instance):
    result = sanling("drain", "--within", "5")
    assert result.exit_code == 0, result.output
    assert "the hotline cli does not run" in result.output


def test_the_manual_is_printed_and_its_file_is_up_to_date():
    assert "stateDiagram-v2" in sanling("sop").output
    result = sanling("sop", "--check")
    assert result.exit_code == 0, result.output
    assert "up to date" in result.output


def test_a_stale_manual_is_found_and_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "MANUAL", tmp_path / "sop.zh.md")
    assert "sanling sop --write" in str(sanling("sop", "--check").exception)
    assert sanling("sop", "--write").exit_code == 0
    assert sanling("sop", "--check").exit_code == 0
    (tmp_path / "sop.zh.md").write_text("old", encoding="utf-8")
    assert sanling("sop", "--check").exit_code == 1


def test_a_prompt_folder_that_is_not_sealed_fails_the_check(instance, tmp_path, monkeypatch):
    assert sanling("prompts", "verify").exit_code == 0
    monkeypatch.setenv("SANLING_PROMPTS_DIR", str(tmp_path))
    assert sanling("prompts", "verify").exit_code == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SANLING_ANSWERING__AFTER_RINGS": "7"}, "answering.after_rings"),
        ({"SANLING_CONFIG": "/nowhere/hotline.toml"}, "There is no settings file /nowhere/hotline.toml"),
        ({"SANLING_INSTANCE": "never-set-up"}, "never-set-up"),
        ({"SANLING_DATABASE_URL": "sqlite:////nowhere/sanling.db"}, "The database cannot be used"),
    ],
)
def test_what_is_wrong_is_said_on_stderr_without_a_traceback(instance, changed, said):
    done = subprocess.run(
        [sys.executable, "-c", "from ari_app.cli import main; main()", "calls"],
        env={**os.environ, **changed}, cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("sanling: ")
    assert said in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_database_of_an_earlier_version_says_what_to_run(instance):
    engine = store.open_engine(f"sqlite:///{instance / 'sanling.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    engine.dispose()
    assert "sanling setup" in str(sanling("calls").exception)


def test_an_agent_is_made_a_mentor_and_a_role_that_does_not_exist_is_told(instance):
    assert "agent 603 is mentor" in sanling("agents", "role", "603", "mentor").output
    with store.session(store.open_engine(f"sqlite:///{instance / 'sanling.db'}")) as session:
        assert session.get(models.Agent, "603").role == "mentor"
    refused = sanling("agents", "role", "603", "boss")
    assert isinstance(refused.exception, SanlingError)
    assert "agent, inspector, mentor, leader" in str(refused.exception)


# ---------------------------------------------------------------- the desk


def test_agents_skills_are_set_and_listed_and_what_cannot_be_is_a_sentence(instance):
    assert sanling("agents", "skill", "601", "lawyer", "5").output == "agent 601: party 3, lawyer 5, second_line —\n"
    assert sanling("agents", "skill", "601", "lawyer", "4").exit_code == 0
    assert sanling("agents", "skill", "603", "party", "0").output == "agent 603: party —, lawyer 3, second_line —\n"
    lines = {line.split()[0]: line.split()[1:4] for line in sanling("agents", "skills").output.splitlines()[1:]}
    assert lines["601"] == ["3", "4", "—"]
    assert lines["603"] == ["—", "3", "—"]
    assert lines["602"] == ["3", "3", "—"]
    for arguments, said in (
        (("601", "cooking", "3"), "second_line"),
        (("601", "party", "6"), "1 (helps out) to 5 (best)"),
        (("999", "party", "3"), "no agent 999"),
    ):
        refused = sanling("agents", "skill", *arguments)
        assert isinstance(refused.exception, SanlingError)
        assert said in str(refused.exception)


def test_fairness_of_a_day_lists_each_overtaking_and_fails(instance):
    day = dt.datetime.fromtimestamp(AT, ZoneInfo("Asia/Shanghai")).strftime("%Y-%m-%d")
    rows = [
        (1, AT, "waits", "cli-1.1", None, AT, '{"need": "time"}'),
        (2, AT + 1, "waits", "cli-1.2", None, AT + 1, '{"need": "time"}'),
        (3, AT + 9, "offered", "cli-1.1", "601", None, '{"party": 3, "time": 3, "mandarin": 3}'),
        (4, AT + 10, "waits", "cli-1.1", None, AT, '{"need": "time"}'),
    ]
    late = (5, AT + 11, "offered", "cli-1.2", "602", None, '{"party": 3, "time": 3, "mandarin": 3}')

    def told(*events):
        engine = store.open_engine(f"sqlite:///{instance / 'sanling.db'}")
        with store.session(engine) as session:
            for id, at, event, call_id, agent, since, detail in events:
                session.add(
                    models.QueueEvent(
                        id=id, at=at, desk="cli", event=event, call_id=call_id, agent=agent, since=since, detail=detail
                    )
                )
        engine.dispose()

    told(*rows)
    assert sanling("fairness", day).output == "nobody was overtaken in 1 offers\n"
    told(late)
    unfair = sanling("fairness", day)
    assert unfair.exit_code == 1
    assert re.search(r"cli-1\.1 \(since .*\) was overtaken by cli-1\.2 \(since .*\), offered to 602", unfair.output)
    assert "1 overtakings in 2 offers" in str(unfair.exception)
    assert sanling("fairness", "2020-01-01").output == "nobody was overtaken in 0 offers\n"


def test_rules_with_a_mistake_are_refused_before_anybody_is_told(instance, tmp_path, monkeypatch):
    file = tmp_path / "desk.toml"
    file.write_text("[routing]\nusual_level = 9\n", encoding="utf-8")
    monkeypatch.setenv("SANLING_DESK", str(file))
    for verb in ("reload", "restart", "run"):
        refused = sanling(verb)
        assert isinstance(refused.exception, SanlingError)
        assert "desk.toml, line 2: routing.usual_level: a level from 1 to 5" in str(refused.exception)
    file.write_text("[routing]\nusual_level = 4\n", encoding="utf-8")
    assert "does not run" in sanling("reload").output
