"""Every query of the committed dashboards, put to a real Prometheus that scraped a hotline's figures."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry

from metrics.exporter import Exporter
from metrics.hotline import AGENT_STATES, HotlineMetrics
from tests.integration.prometheus import NOTHING_FAILED, Prometheus, queries

ADDRESS = "127.0.57.3"


def good_calls(hotline: HotlineMetrics) -> None:
    """What calls in which nothing fails tell; no panel but those of NOTHING_FAILED may need more to show something."""
    hotline.ari_up(True)
    hotline.call_arrived()
    hotline.case_context("ok")
    hotline.hotline_answered(1.02)
    hotline.identity("party", "proven")
    hotline.offer_ended("602", "refused")
    hotline.rona("602")
    hotline.offer_ended("601", "answered", answered_after_s=3.0)
    hotline.talked("601")
    hotline.queue_left("answered", 4.2)
    hotline.queue_left("abandoned", 42.0)
    hotline.disclaimer_read()
    hotline.closing_asked()
    hotline.surveyed("rated")
    hotline.rated("601", 5)
    hotline.disposed("milestone", "on_the_spot")
    hotline.hung_up("hotline", after_closing_s=5.0)
    hotline.call_ended("handled")
    hotline.second_call("milestone")
    hotline.callback_left()
    hotline.callback_ended("served")
    hotline.call_placed_ended("callback", "handled", rang_s=5.0, talk_s=60.0)
    hotline.talk_judged("party")
    hotline.recording_stored("local")
    hotline.recording_stored("second")
    hotline.handled("601", 100.0, 0.0, 15.0)
    hotline.ari_request("fast", 0.0004)
    hotline.ari_request("blocking", 0.0008)
    hotline.loop_lag(0.001)
    with hotline.database_writing():
        pass


def everything_fails(hotline: HotlineMetrics) -> None:
    for answered_after_s in (6.0, 12.0, 16.0):
        hotline.hotline_answered(answered_after_s)
    hotline.agent_mended("ringing")
    hotline.drift("ledger_and_cdr", "ended", 1)
    hotline.ghost_found("leg")
    hotline.one_way_audio("agent", "party")
    hotline.recording_failed("second")
    hotline.ari_reconnected()
    hotline.ari_request_failed("gone")
    hotline.call_adopted()


@pytest.mark.real_time
async def test_every_panel_shows_what_is_counted_and_the_check_would_notice_what_is_not():
    hotline = HotlineMetrics(CollectorRegistry())
    rows = 0
    hotline.register_agents(["601", "602"])
    hotline.watch(
        calls_in_progress=lambda: 1,
        queue_length=lambda: 2,
        oldest_wait_s=lambda: 33.0,
        agents_in=lambda state: AGENT_STATES.index(state) + 1,
        agent_states=lambda: {"601": "talking"},
        open_now=lambda: True,
        recordings_pending=lambda: 3,
        oldest_recording_s=lambda: 12.0,
        journal_rows=lambda: rows,
        refused_rows=lambda: rows,
    )
    hotline.began(time.time(), disk_minimum_bytes=5e8)
    hotline.disk("spool", 7e9)
    with Exporter(hotline.registry, ADDRESS, 0, dict) as exporter:
        async with Prometheus(f"{ADDRESS}:{exporter.port}") as prometheus:
            await prometheus.scraped_again()
            before = await prometheus.idle_panels()
            good_calls(hotline)
            await prometheus.scraped_again()
            good_calls(hotline)
            await prometheus.scraped_again()
            assert await prometheus.idle_panels() == []
            for panel in ("三声内接听", "来电 Calls", "派话结果", "已存录音"):
                assert any(panel in one for one in before), "there is nothing to show on a day without calls"
            failing = await prometheus.idle_panels(may_be_zero={})
            assert {one.rpartition(": ")[0] for one in failing} == {*NOTHING_FAILED}, "no longer than it must be"
            assert await prometheus.value('sanling_hotline_answer_seconds_bucket{le="11.0"}') == 2
            assert await prometheus.value('sanling_agents{state="talking"}') == AGENT_STATES.index("talking") + 1
            assert await prometheus.idle_panels(may_be_zero={"wall: 没有 None": ""}) == [*failing, "wall: 没有 None"]
            everything_fails(hotline)
            rows = 2
            await prometheus.scraped_again()
            everything_fails(hotline)
            await prometheus.scraped_again(3)
            assert await prometheus.idle_panels(may_be_zero={}) == []


def test_every_metric_is_on_a_dashboard():
    hotline = HotlineMetrics(CollectorRegistry())
    shown = " ".join(expr for _, expr in queries())
    assert [family.name for family in hotline.registry.collect() if family.name not in shown] == []
