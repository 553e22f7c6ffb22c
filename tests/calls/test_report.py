"""The report of calls that really went through the controller: it agrees with what the callers and agents did, with
what Prometheus counted, and a controller that is killed in the middle changes none of it.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from ari_app import report
from ari_app.flow.measures import day
from ari_app.flow.sop import State
from ari_app.report import Report
from ari_app.rules import Assessment
from tests.calls.house import BEGAN, PARTY, STRANGER, FakeHouse
from tests.calls.paths import reach

TALK_S, WRAP_UP_S = 90.0, 20.0


async def reported(hotline: FakeHouse) -> Report:
    zone, now = hotline.settings.zone, hotline._now()
    today = day(datetime.fromtimestamp(BEGAN, zone).date(), zone)
    return await hotline.ask(lambda session: report.make(session, today, zone, Assessment(), now))


async def talks(hotline: FakeHouse, agent: object, *, killed: bool = False) -> None:
    """A whole call, until the agent is idle again; the caller gives five."""
    caller, offer = await reach(hotline, State.TALKING, agent)
    await asyncio.sleep(TALK_S / 2)
    if killed:
        await hotline.controller_dies()
        await asyncio.sleep(1.5)
        await hotline.controller_starts()
    await asyncio.sleep(TALK_S / 2)
    await offer.keys("*6")
    await hotline.call_is(State.RATING)
    await asyncio.sleep(0.5)
    await caller.keys("5")
    await caller.hears("closing")
    caller.hang_up()
    await hotline.ending()
    await hotline.duty_becomes(agent.number, "idle", within_s=60)  # type: ignore[attr-defined]


async def waits_in_vain(hotline: FakeHouse, seconds: float) -> None:
    """Nobody is free: the caller hangs up after so long in the queue."""
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys("0")
    await hotline.call_is(State.WAITING)
    await asyncio.sleep(seconds)
    caller.hang_up()
    await hotline.ending()


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "controller killed in the talk"])
async def test_the_report_of_some_calls_agrees_with_what_happened_and_with_prometheus(killed):
    async with FakeHouse() as hotline:
        first = await hotline.agent_signs_in("601")
        await talks(hotline, first, killed=killed)
        caller = await hotline.rings(from_=PARTY)  # 601 does not pick up, and the caller gives up
        await caller.answered()
        await asyncio.sleep(0.5)
        await caller.keys("0")
        await (await first.rings()).ended(timeout_s=30)
        await asyncio.sleep(5)
        caller.hang_up()
        await hotline.ending()
        await waits_in_vain(hotline, 2.0)
        await waits_in_vain(hotline, 8.0)
        made = await reported(hotline)

        def counted(name: str, **labels: str) -> float:
            return hotline.registry.get_sample_value(f"sanling_{name}", labels) or 0.0

        def told(id: str) -> tuple[float, float]:
            return made.figure(id).numerator, made.figure(id).denominator

        assert [made.figure(id).value for id in ("calls", "queued", "answered", "abandoned", "short_abandons")] == [
            4, 4, 1, 3, 1
        ]  # fmt: skip
        assert (told("service_level"), told("abandonment"), told("answer_rate")) == ((1, 3), (2, 3), (1, 4))
        assert (told("answer_within_three_rings"), told("rona_rate")) == ((4, 4), (1, 2))
        assert (told("satisfaction"), told("calls_a_day"), told("transfer_rate")) == ((5, 1), (1, 1), (0, 1))
        assert made.facts.in_progress == 0
        assert made.figure("talk_time").value == pytest.approx(TALK_S, abs=10)
        assert made.figure("wrap_up_time").value == pytest.approx(WRAP_UP_S, abs=1)

        assert counted("calls_ended_total", outcome="handled") == told("answered")[0]
        assert counted("calls_ended_total", outcome="abandoned") == told("abandonment")[0]
        assert counted("calls_ended_total", outcome="short_abandon") == told("short_abandons")[0]
        assert counted("queue_wait_seconds_count", result="answered") == told("asa")[1]
        assert counted("queue_wait_seconds_sum", result="answered") == pytest.approx(told("asa")[0])
        assert counted("agent_rona_total", agent="601") == told("rona_rate")[0]
        assert counted("ratings_total", agent="601", score="5") == told("satisfaction")[1]
        assert counted("agent_handle_seconds_count", agent="601") == told("handle_time")[1]
        assert counted("agent_handle_seconds_sum", agent="601") == pytest.approx(told("handle_time")[0], abs=0.1)
