"""The committed rules and alerts, put to the real promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from ari_app.settings import PROJECT
from metrics.hotline import HotlineMetrics
from tests.integration.prometheus import RULES, program

RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text(encoding="utf-8")
FILES = ("prometheus.yml", "recording.yml", "alerts.yml", "alerts.test.yml")


def rules(file: str) -> list[dict[str, object]]:
    groups = yaml.safe_load((RULES / file).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alert_tests() -> list[dict[str, object]]:
    tests = yaml.safe_load((RULES / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    return [one for test in tests for one in test.get("alert_rule_test", [])]


ALERTS = [str(rule["alert"]) for rule in rules("alerts.yml")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in FILES:
        shutil.copy(RULES / file, tmp_path)
    return tmp_path


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program("promtool", *arguments, folders=[folder]), capture_output=True, text=True, check=False, timeout=60
    )


def test_promtool_accepts_the_example_and_its_rules(folder):
    said = promtool(folder, "check", "config", "--lint-fatal", str(folder / "prometheus.yml"))
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_rules_do_what_their_tests_say(folder):
    said = promtool(folder, "test", "rules", str(folder / "alerts.test.yml"))
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("file", "right", "wrong", "noticed_by"),
    [
        ("alerts.yml", "oldest_wait_seconds > 180", "oldest_wait_seconds > 240", "a caller waits"),
        ("alerts.yml", "pending_seconds > 300", "pending_seconds > 200", "a recording that waits"),
        ("alerts.yml", "one_way_audio:increase30m >= 2", "one_way_audio:increase30m >= 3", "talks in which"),
        ("alerts.yml", ") >= 0.2", ") >= 0.1", "many talks"),
        ("alerts.yml", "one_way_audio:increase30m >= 5", "one_way_audio:increase30m >= 4", "many talks"),
        ("recording.yml", 'le="15.0"', 'le="20.0"', "service level"),
        ("recording.yml", "answered|abandoned", "answered|abandoned|short_abandon", "service level"),
        ("recording.yml", "+ sum by (job, instance) (increase(sanling_calls_unanswered_total[15m]))", "", "own answer"),
        ("alerts.yml", "answers_judged:increase15m >= 10", "answers_judged:increase15m >= 3", "own answer"),
    ],
)
def test_the_tests_would_notice_a_wrong_rule(folder, file, right, wrong, noticed_by):
    """`noticed_by`: in the names of the tests that are asked, since all of them take four seconds."""
    text = (folder / file).read_text(encoding="utf-8")
    assert right in text
    (folder / file).write_text(text.replace(right, wrong), encoding="utf-8")
    said = promtool(folder, "test", "rules", "--run", noticed_by, str(folder / "alerts.test.yml"))
    assert said.returncode != 0
    assert "FAILED" in said.stdout + said.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_shown_to_fire_and_says_where_to_look(alert):
    assert any(one["alertname"] == alert and one.get("exp_alerts") for one in alert_tests()), "never shown to fire"
    [rule] = [rule for rule in rules("alerts.yml") if rule["alert"] == alert]
    annotations = rule["annotations"]
    assert isinstance(annotations, dict)
    assert annotations["runbook"] == f"docs/runbook.md#{alert}"
    assert RUNBOOK.count(f'<a id="{alert}"></a>') == 1


def test_the_runbook_names_no_alert_that_is_not_there():
    assert set(re.findall(r'<a id="(Sanling\w+)"></a>', RUNBOOK)) == set(ALERTS)


def test_the_rules_ask_only_for_what_there_is():
    """A misspelt metric would never fire, and nobody would notice."""
    there = {family.name for family in HotlineMetrics(CollectorRegistry()).registry.collect()}
    recorded = {str(rule["record"]) for rule in rules("recording.yml")}
    for rule in [*rules("recording.yml"), *rules("alerts.yml")]:
        for name in re.findall(r"\b(?:instance:)?sanling_\w+(?::\w+)?", str(rule["expr"])):
            assert name in recorded or re.sub(r"_(total|bucket|count|sum)$", "", name) in there, name
