"""The figures: right, bounded, and never a reason for a call to break."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ari_app.settings import PROJECT, load
from metrics import dashboards, manual
from metrics import exporter as exporter_module
from metrics import hotline as hotline_module
from metrics.exporter import Exporter
from metrics.hotline import (
    AGENT_STATES,
    MEAN_HANDLE_S,
    NATIONAL_LIMIT_S,
    SECOND_LINE_WAIT_S,
    SERVICE_LEVEL_S,
    THREE_RINGS_S,
    HotlineMetrics,
)
from metrics.queries import DASHBOARDS

ADDRESS = "127.0.57.4"
SERIES_WITHOUT_AGENTS, SERIES_AN_AGENT = 520, 70


@pytest.fixture
def hotline() -> HotlineMetrics:
    made = HotlineMetrics(CollectorRegistry())
    made.register_agents(["601", "602"])
    return made


def value(hotline: HotlineMetrics, name: str, **labels: str) -> float | None:
    return hotline.registry.get_sample_value(f"sanling_{name}", labels)


def series(hotline: HotlineMetrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    text = generate_latest(hotline.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_handle_time_is_talk_hold_and_wrap_up(hotline):
    hotline.handled("601", talk_s=100.0, hold_s=30.0, wrap_up_s=20.0)
    assert value(hotline, "agent_handle_seconds_sum", agent="601") == 150.0
    assert value(hotline, "agent_handle_seconds_bucket", agent="601", le="120.0") == 0
    assert value(hotline, "agent_handle_seconds_bucket", agent="601", le="180.0") == 1
    assert value(hotline, "agent_handle_part_seconds_total", agent="601", part="hold") == 30.0


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("hotline_answer_seconds", (5.0, 10.0, THREE_RINGS_S, NATIONAL_LIMIT_S)),
        ("agent_answer_seconds", (5.0, 10.0, THREE_RINGS_S, NATIONAL_LIMIT_S)),
        ("agent_handle_seconds", (30.0, SECOND_LINE_WAIT_S, MEAN_HANDLE_S, 1800.0)),
        ("queue_wait_seconds", (SERVICE_LEVEL_S, SECOND_LINE_WAIT_S, MEAN_HANDLE_S)),
        ("after_closing_seconds", (4.7, 5.0, 5.3)),
    ],
)
def test_every_threshold_is_a_bucket_edge(hotline, name, edges):
    found = {float(dict(labels)["le"]) for metric, labels in series(hotline) if metric == f"sanling_{name}_bucket"}
    assert set(edges) <= found


def test_exactly_eleven_seconds_is_within_three_rings(hotline):
    hotline.hotline_answered(11.0)
    hotline.hotline_answered(math.nextafter(11.0, 12.0))
    assert value(hotline, "hotline_answer_seconds_bucket", le="11.0") == 1


def test_all_series_are_there_before_the_first_call(hotline):
    before = series(hotline)
    hotline.call_ended("broken")
    hotline.identity("party", "failed")
    hotline.offer_ended("602", "refused", answered_after_s=2.0)
    hotline.rona("602")
    hotline.hung_up("hotline", after_closing_s=5.0)
    hotline.queue_left("abandoned", 3.0)
    hotline.recording_failed("second")
    hotline.ari_request_failed("timeout")
    hotline.surveyed("silent")
    hotline.rated("602", 1)
    hotline.disposed("pressing", "work_order")
    hotline.second_call("time")
    hotline.drift("ledger_and_cdr", "ended", 2)
    hotline.drift("ledger_and_metrics", "talked", 2)
    hotline.talked("602")
    hotline.talk_judged("second_line")
    hotline.one_way_audio("agent", "lawyer")
    assert series(hotline) == before


def test_a_hostile_value_makes_one_series_at_most(hotline):
    for n in range(1000):
        hotline.offer_ended(f"1540000{n:04}", "answered", answered_after_s=1.0)
        hotline.talked(f"张伟{n}")
        hotline.handled(f"{n}", 1, 1, 1)
        hotline.call_ended(f"15400001{n:03}")  # type: ignore[arg-type]
        hotline.identity("张伟", f"{n}")  # type: ignore[arg-type]
    text = generate_latest(hotline.registry).decode()
    assert set(re.findall(r'agent="([^"]*)"', text)) == {"601", "602", "other"}
    assert "1540000" not in text
    assert "张" not in text
    assert value(hotline, "calls_ended_total", outcome="other") == 1000


def labels_of(hotline: HotlineMetrics) -> dict[str, set[str]]:
    """Each label and the values that it has anywhere; `le` aside, which holds edges."""
    found: dict[str, set[str]] = {}
    for _, labels in series(hotline):
        for label, told in labels:
            found.setdefault(label, set()).add(told)
    return {label: values for label, values in found.items() if label != "le"}


def test_the_house_of_28_seats_has_no_more_series_than_it_is_said_to():
    hotline = HotlineMetrics(CollectorRegistry())
    without_agents = len(series(hotline))
    hotline.register_agents([str(number) for number in range(601, 629)])
    one_agent = (len(series(hotline)) - without_agents) / 28
    assert without_agents <= SERIES_WITHOUT_AGENTS
    assert one_agent <= SERIES_AN_AGENT


def test_no_label_can_hold_what_a_caller_brings():
    """Every label is one of these, and every value is of a list in `metrics.hotline`, or a registered staff number."""
    hotline = HotlineMetrics(CollectorRegistry())
    hotline.register_agents(["601"])
    listed = {value for name, values in vars(hotline_module).items() if name.isupper() and isinstance(values, tuple)
              for value in values if isinstance(value, str)}  # fmt: skip
    for label, values in labels_of(hotline).items():
        assert label in {
            "agent", "between", "by", "kind", "lane", "line", "need", "of", "outcome", "part", "place", "purpose",
            "result", "role", "score", "side", "stage", "state", "status", "store",
        }, f"a new label: can a caller choose its value? {label}"  # fmt: skip
        assert values <= ({"601"} if label == "agent" else listed), label


def test_each_counter_says_that_it_begins_anew_with_the_controller():
    for family in HotlineMetrics(CollectorRegistry()).registry.collect():
        if family.name.startswith("sanling_process_"):
            continue
        assert family.documentation.endswith(hotline_module.RESETS) is (family.type in ("counter", "histogram")), family


def test_an_agent_has_one_state_and_a_strange_one_has_no_series(hotline):
    states = {"601": "talking", "602": "idle", "15400001001": "idle"}
    hotline.watch(agent_states=lambda: states)
    assert [value(hotline, "agent_state", agent="601", state=state) for state in AGENT_STATES] == [0, 0, 1, 0, 0, 0]
    assert value(hotline, "agent_state", agent="602", state="idle") == 1
    assert value(hotline, "agent_state", agent="15400001001", state="idle") is None


def test_agents_states_that_cannot_be_read_spoil_no_scrape(hotline, caplog):
    hotline.watch(agent_states=lambda: 1 / 0)
    assert value(hotline, "agent_state", agent="601", state="idle") == 0
    assert "could not be read" in caplog.text


def test_what_was_counted_of_calls_can_be_read_back(hotline):
    hotline.call_ended("handled")
    hotline.call_ended("handled")
    hotline.call_ended("lost")
    for agent, outcome in (("601", "busy"), ("602", "busy"), ("602", "answered")):
        hotline.offer_ended(agent, outcome)
    hotline.talked("602")
    assert hotline.calls_ended() == {"handled": 2, "lost": 1}
    assert hotline.offers_ended() == {"busy": 2, "answered": 1}
    assert hotline.talks() == {"602": 1}


@pytest.mark.parametrize(
    ("outcome", "unanswered_s", "counts"),
    [
        ("handled", None, False),
        ("left_in_menu", math.nextafter(11.0, 0.0), False),
        ("left_in_menu", 11.0, True),
        ("fallback", None, True),
        ("fallback", 60.0, True),
    ],
)
def test_who_rang_for_three_rings_in_vain_is_unanswered_once(hotline, outcome, unanswered_s, counts):
    hotline.call_ended(outcome, unanswered_s=unanswered_s)
    assert value(hotline, "calls_unanswered_total") == counts


def test_answer_times_are_of_the_offers_that_an_agent_is_held_to(hotline):
    hotline.offer_ended("601", "answered", answered_after_s=2.0)
    hotline.offer_ended("601", "refused", answered_after_s=3.0)
    hotline.offer_ended("601", "no_answer")
    hotline.offer_ended("601", "caller_left", answered_after_s=4.0)
    assert value(hotline, "agent_answer_seconds_count", agent="601") == 2
    assert value(hotline, "agent_answer_seconds_sum", agent="601") == 5.0


def test_every_figure_is_told_by_somebody():
    """Each begins at zero, so one that nobody ever counts looks like one of which there is none."""
    sources = "".join(file.read_text(encoding="utf-8") for file in (PROJECT / "ari_app").rglob("*.py"))
    sources += Path(hotline_module.__file__).read_text(encoding="utf-8").replace("self.", "metrics.")
    public = [name for name, what in vars(HotlineMetrics).items() if not name.startswith("_") and callable(what)]
    assert [name for name in public if not re.search(rf"metrics\.{name}\b", sources)] == []
    [watching] = re.findall(r"metrics\.watch\((.*?)\n    \)", sources, re.S)
    read = [name for name in inspect.signature(HotlineMetrics.watch).parameters if name != "self"]
    assert [name for name in read if f"{name}=" not in watching] == []


def test_ratings_are_counted_by_agent_and_score_only(hotline):
    for score in (5, 5, 1):
        hotline.rated("601", score)
    hotline.rated("15400001001", 3)
    hotline.rated("601", 9)
    assert value(hotline, "ratings_total", agent="601", score="5") == 2
    assert value(hotline, "ratings_total", agent="601", score="1") == 1
    assert value(hotline, "ratings_total", agent="other", score="3") == 1
    assert value(hotline, "ratings_total", agent="601", score="other") == 1


def test_a_value_outside_its_list_is_logged_without_saying_it(hotline, caplog):
    hotline.hung_up("13812345678")  # type: ignore[arg-type]
    assert "outside its list" in caplog.text
    assert "138" not in caplog.text


@pytest.mark.parametrize("number", ["15400001234", "张伟", "", "601;", "601\n", "٦٠١"])
def test_what_is_no_staff_number_is_not_registered(hotline, number):
    with pytest.raises(ValueError, match="one to eight digits"):
        hotline.register_agents([number])


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, -math.inf])
def test_a_duration_that_is_none_counts_as_zero(hotline, seconds):
    hotline.handled("601", seconds, seconds, seconds)
    hotline.loop_lag(seconds)
    assert value(hotline, "agent_handle_seconds_sum", agent="601") == 0.0
    assert value(hotline, "event_loop_lag_seconds_sum") == 0.0


def test_callback_gauges_are_read_at_each_scrape_and_a_broken_one_spoils_no_scrape(hotline, caplog):
    waiting = [1.0]
    hotline.watch(queue_length=lambda: waiting[0], oldest_wait_s=lambda: 1 / 0, agents_in=AGENT_STATES.index)
    waiting[0] = 7.0
    generate_latest(hotline.registry)
    assert value(hotline, "queue_length") == 7.0
    assert math.isnan(value(hotline, "queue_oldest_wait_seconds") or 0.0)
    assert value(hotline, "agents", state="talking") == AGENT_STATES.index("talking")
    assert "could not be read" in caplog.text


async def test_event_loop_lag_is_the_lateness_of_a_timer():
    hotline = HotlineMetrics(CollectorRegistry())
    task = asyncio.create_task(hotline.measure_loop_lag(0.5))
    await asyncio.sleep(5.2)
    task.cancel()
    assert value(hotline, "event_loop_lag_seconds_count") == 10


@pytest.mark.real_time
async def test_a_blocked_event_loop_shows_as_lag():
    hotline = HotlineMetrics(CollectorRegistry())
    task = asyncio.create_task(hotline.measure_loop_lag(0.01))
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251
    await asyncio.sleep(0.05)
    task.cancel()
    assert (value(hotline, "event_loop_lag_seconds_sum") or 0) > 0.15


def test_transactions_that_fail_are_not_timed(hotline):
    with hotline.database_writing():
        pass
    with pytest.raises(RuntimeError), hotline.database_writing():
        raise RuntimeError
    assert value(hotline, "database_seconds_count") == 1


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_the_committed_dashboard_is_fresh(board):
    committed = dashboards.file_of(board).read_text(encoding="utf-8")
    assert committed == dashboards.build(board), "run: python -m metrics.dashboards"


def test_the_manual_tells_of_every_figure_as_it_is():
    text = manual.FILE.read_text(encoding="utf-8")
    assert text == manual.fresh(text), "run: python -m metrics.manual"
    for family in HotlineMetrics(CollectorRegistry()).registry.collect():
        assert text.count(f"| `{family.name}`") == 1


def test_a_dashboards_day_is_the_hotlines_wherever_one_looks_from():
    assert load(environment={}).time_zone == dashboards.ZONE
    for board in DASHBOARDS:
        assert json.loads(dashboards.file_of(board).read_text(encoding="utf-8"))["timezone"] == dashboards.ZONE
    manual_says = manual.FILE.read_text(encoding="utf-8")
    assert f's|"timezone": "{dashboards.ZONE}"|' in manual_says, "how to change it"


def test_there_is_no_dashboard_but_these():
    assert set(dashboards.FOLDER.glob("*.json")) == {dashboards.file_of(board) for board in DASHBOARDS}


def test_the_colours_change_where_the_rules_have_their_figures():
    """11 s and 15 s to answer, 90 s and 180 s of waiting, 180 s of handling: SOP-1, SOP-4, KPI-1."""
    edges = {}
    for board in DASHBOARDS:
        for panel in json.loads(dashboards.build(board))["panels"]:
            steps = panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])
            edges[panel["title"].split(" ")[0]] = [step["value"] for step in steps]
    assert edges["接听用时"] == edges["座席接听用时"] == [None, 11.0, 15.0]
    assert edges["最长等待"] == edges["平均等待"] == edges["等待时长"] == [None, 90.0, 180.0]
    assert edges["平均处理时长"] == edges["处理时长"] == [None, 90.0, 180.0]


def test_grafana_finds_datasource_and_dashboards_where_it_is_provisioned():
    folder = dashboards.FOLDER / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "sanling.yml").read_text(encoding="utf-8"))["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards" / "sanling.yml").read_text(encoding="utf-8"))["providers"]
    for board in DASHBOARDS:
        drawn = json.loads(dashboards.build(board))
        assert [v["query"] for v in drawn["templating"]["list"] if v["type"] == "datasource"] == [source["type"]]
        assert all(panel["datasource"]["uid"] == "${datasource}" for panel in drawn["panels"] if "datasource" in panel)
    assert source["isDefault"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_the_dashboard_has_no_two_panels_in_one_place(board):
    panels = json.loads(dashboards.file_of(board).read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        pos = panel["gridPos"]
        cells = {(x, y) for x in range(pos["x"], pos["x"] + pos["w"]) for y in range(pos["y"], pos["y"] + pos["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def fetch(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_metrics_and_health_over_http(hotline):
    ready = {"ari": True, "database": False}
    with Exporter(hotline.registry, ADDRESS, 0, lambda: ready) as exporter:
        status, text = fetch(exporter.port, "/metrics")
        assert status == 200
        assert b'sanling_calls_ended_total{outcome="handled"} 0.0' in text
        status, health = fetch(exporter.port, "/health")
        assert (status, json.loads(health)) == (503, {"ready": False, "parts": ready})
        ready["database"] = True
        assert fetch(exporter.port, "/health")[0] == 200
        assert fetch(exporter.port, "/")[0] == 404
        assert fetch(exporter.port, "/../etc/passwd")[0] == 404


def test_a_health_that_cannot_be_read_is_not_ready(hotline):
    with Exporter(hotline.registry, ADDRESS, 0, lambda: {"x": bool(1 / 0)}) as exporter:
        assert fetch(exporter.port, "/health")[0] == 503


def test_the_port_is_free_again_after_closing_even_with_somebody_on_the_line(hotline):
    exporter = Exporter(hotline.registry, ADDRESS, 0, dict)
    exporter.start()
    port = exporter.port
    with socket.create_connection((ADDRESS, port)):
        exporter.close()
    exporter.close()
    with Exporter(hotline.registry, ADDRESS, port, dict):
        assert fetch(port, "/health")[0] == 200


def test_a_taken_port_is_an_error_at_the_start(hotline):
    with socket.create_server((ADDRESS, 0)) as taken, pytest.raises(OSError, match="in use"):
        Exporter(hotline.registry, ADDRESS, taken.getsockname()[1], dict).start()


@pytest.mark.real_time
async def test_a_taken_port_is_tried_again_until_it_is_free(hotline, monkeypatch, caplog):
    monkeypatch.setattr(exporter_module, "AGAIN_EVERY_S", 0.1)
    with socket.create_server((ADDRESS, 0)) as taken:
        port = taken.getsockname()[1]
        running = asyncio.create_task(Exporter(hotline.registry, ADDRESS, port, dict).run())
        await asyncio.sleep(0.25)
        assert not running.done()
        assert "the next try is in 0.1 s" in caplog.text
    await asyncio.sleep(0.25)
    assert (await asyncio.to_thread(fetch, port, "/health"))[0] == 200
    running.cancel()
    await asyncio.wait([running])
    with socket.create_server((ADDRESS, port)):
        pass


async def a_server_but(exporter: Exporter, earlier: object) -> object:
    async with asyncio.timeout(10):
        while exporter._server in (None, earlier):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    return exporter._server


@pytest.mark.real_time
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_server_that_broke_is_replaced(hotline, monkeypatch):
    monkeypatch.setattr(exporter_module, "AGAIN_EVERY_S", 0.1)
    exporter = Exporter(hotline.registry, ADDRESS, 0, dict)
    running = asyncio.create_task(exporter.run())
    broken = await a_server_but(exporter, None)
    monkeypatch.setattr(broken, "service_actions", lambda: 1 / 0)
    await a_server_but(exporter, broken)
    assert (await asyncio.to_thread(fetch, exporter.port, "/health"))[0] == 200
    running.cancel()
    await asyncio.wait([running])


def test_counting_from_many_threads_loses_nothing(hotline):
    def count() -> None:
        for _ in range(1000):
            hotline.offer_ended("601", "answered", answered_after_s=1.0)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(hotline, "agent_answer_seconds_count", agent="601") == 8000


def test_the_example_scrape_reads_the_default_address():
    example = (Path(dashboards.__file__).parent / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    assert "127.0.20.1:9464" in example
