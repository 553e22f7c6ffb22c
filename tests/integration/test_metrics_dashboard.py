"""Every query of the committed dashboards, put to a real Prometheus that scraped a hotline's figures."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry

from metrics.exporter import Exporter
from metrics.hotline import AGENT_STATES, HotlineMetrics
from tests.integration.prometheus import Prometheus, queries

ADDRESS = "127.0.57.3"


def one_good_call(hotline: HotlineMetrics) -> None:
    """What a call in which nothing goes wrong tells; no panel may need a fault to show something."""
    hotline.ari_up(True)
    hotline.call_arrived()
    hotline.case_context("ok")
    hotline.hotline_answered(1.02)
    hotline.identity("party", "proven")
    hotline.offer_ended("601", "answered")
    hotline.agent_answered("601", 3.0)
    hotline.queue_left("answered", 4.2)
    hotline.disclaimer_read()
    hotline.closing_asked()
    hotline.surveyed("rated")
    hotline.rated("601", 5)
    hotline.disposed("milestone", "on_the_spot")
    hotline.hung_up("hotline", after_closing_s=5.0)
    hotline.call_ended("handled")
    hotline.talk_judged("party")
    hotline.recording_stored("local")
    hotline.recording_stored("second")
    hotline.handled("601", 100.0, 0.0, 15.0)
    hotline.ari_request("fast", 0.0004)
    hotline.ari_request("blocking", 0.0008)
    hotline.loop_lag(0.001)
    with hotline.database_writing():
        pass


@pytest.mark.real_time
async def test_no_panel_is_empty_after_good_calls_and_the_check_would_notice():
    hotline = HotlineMetrics(CollectorRegistry())
    hotline.register_agents(["601", "602"])
    hotline.watch(
        calls_in_progress=lambda: 1,
        queue_length=lambda: 2,
        oldest_wait_s=lambda: 33.0,
        agents_in=lambda state: AGENT_STATES.index(state),
        agent_states=lambda: {"601": "talking"},
        open_now=lambda: True,
        recordings_pending=lambda: 3,
        oldest_recording_s=lambda: 12.0,
        journal_rows=lambda: 0,
        refused_rows=lambda: 0,
    )
    hotline.began(time.time(), disk_minimum_bytes=5e8)
    hotline.disk("spool", 7e9)
    with Exporter(hotline.registry, ADDRESS, 0, dict) as exporter:
        async with Prometheus(f"{ADDRESS}:{exporter.port}") as prometheus:
            await prometheus.scraped_again()
            before = await prometheus.empty_panels()
            one_good_call(hotline)
            await prometheus.scraped_again()
            one_good_call(hotline)
            await prometheus.scraped_again()
            assert await prometheus.empty_panels() == []
            assert any("三声内接听" in panel for panel in before), "a day without calls has no answer times"
            assert await prometheus.value('sanling_hotline_answer_seconds_bucket{le="11.0"}') == 2
            assert await prometheus.value('sanling_agents{state="talking"}') == AGENT_STATES.index("talking")


def test_every_metric_is_on_a_dashboard():
    hotline = HotlineMetrics(CollectorRegistry())
    shown = " ".join(expr for _, expr in queries())
    assert [family.name for family in hotline.registry.collect() if family.name not in shown] == []
