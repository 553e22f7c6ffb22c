"""Every query of the committed dashboard, put to a real Prometheus that scraped a hotline's figures."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from metrics.exporter import Exporter
from metrics.hotline import (
    AGENT_STATES,
    ARI_FAILURES,
    CALL_OUTCOMES,
    CONTEXT_STATUSES,
    HUNG_UP_BY,
    IDENTITY_RESULTS,
    LANES,
    OFFER_OUTCOMES,
    QUEUE_RESULTS,
    RECORDING_STAGES,
    ROLES,
    STORES,
    HotlineMetrics,
)
from tests.integration.prometheus import Prometheus, queries

ADDRESS = "127.0.57.3"


def a_day_of_calls(hotline: HotlineMetrics) -> None:
    """Each figure once or more."""
    hotline.call_arrived()
    for seconds in (1.02, 6.01, 11.0, 14.0):
        hotline.hotline_answered(seconds)
    for context in CONTEXT_STATUSES:
        hotline.case_context(context)
    for role in ROLES:
        for result in IDENTITY_RESULTS:
            hotline.identity(role, result)
    for waiting in QUEUE_RESULTS:
        hotline.queue_left(waiting, 42.0)
    for agent in ("601", "602"):
        for outcome in OFFER_OUTCOMES:
            hotline.offer_ended(agent, outcome)
        hotline.agent_answered(agent, 3.0)
        hotline.handled(agent, 100.0, 20.0, 15.0)
        hotline.rona(agent)
    hotline.disclaimer_read()
    hotline.closing_asked()
    for side in HUNG_UP_BY:
        hotline.hung_up(side, after_closing_s=5.0)
    for ending in CALL_OUTCOMES:
        hotline.call_ended(ending)
    for store in STORES:
        hotline.recording_stored(store)
    for stage in RECORDING_STAGES:
        hotline.recording_failed(stage)
    hotline.callback_left()
    hotline.ari_up(True)
    hotline.ari_reconnected()
    for lane in LANES:
        hotline.ari_request(lane, 0.0004)
    for kind in ARI_FAILURES:
        hotline.ari_request_failed(kind)
    hotline.loop_lag(0.001)
    with hotline.database_writing():
        pass


@pytest.mark.real_time
async def test_no_panel_is_empty_after_calls_and_the_check_would_notice():
    hotline = HotlineMetrics(CollectorRegistry())
    hotline.register_agents(["601", "602"])
    hotline.watch(
        calls_in_progress=lambda: 1,
        queue_length=lambda: 2,
        oldest_wait_s=lambda: 33.0,
        agents_in=lambda state: AGENT_STATES.index(state),
        recordings_pending=lambda: 3,
    )
    with Exporter(hotline.registry, ADDRESS, 0, dict) as exporter:
        async with Prometheus(f"{ADDRESS}:{exporter.port}") as prometheus:
            await prometheus.scraped_again()
            before = await prometheus.empty_panels()
            a_day_of_calls(hotline)
            await prometheus.scraped_again()
            a_day_of_calls(hotline)
            await prometheus.scraped_again()
            assert await prometheus.empty_panels() == []
            assert any("三声内接听" in panel for panel in before), "a day without calls has no answer times"
            assert await prometheus.value('sanling_hotline_answer_seconds_bucket{le="11.0"}') == 6
            assert await prometheus.value("sum(sanling_hotline_answer_seconds_count)") == 8
            assert await prometheus.value('sanling_agents{state="talking"}') == AGENT_STATES.index("talking")


def test_every_metric_is_on_the_dashboard():
    hotline = HotlineMetrics(CollectorRegistry())
    shown = " ".join(expr for _, expr in queries())
    assert [family.name for family in hotline.registry.collect() if family.name not in shown] == []
