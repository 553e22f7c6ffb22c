"""Whatever becomes of a call, ledger, counters and Asterisk tell the same of it (``metrics.drift``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import select

from ari_app import reception
from ari_app.drift import ended
from ari_app.flow.sop import State
from ari_app.store import models
from metrics.drift import Accounts, Disagreement, Records
from tests.calls.house import PARTY, STRANGER, FakeHouse
from tests.calls.paths import KEYS, WITH_AGENT, reach
from tests.calls.real import RealHouse, Running
from tests.calls.test_outbound import RULES, TRUNK, asks_for_callback
from tests.integration.prometheus import Prometheus

AGREED = Disagreement({}, (), ())
STATES = [State.RINGING, *KEYS, *WITH_AGENT]
ONE_OF_EACH_KIND = (State.RINGING, State.ASKING_ROLE, State.WAITING, State.OFFERING, State.TALKING, State.CLOSING)


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def over(hotline: FakeHouse) -> dict[str, str]:
    """Outcomes of the calls that are over, by id."""
    ids = await hotline.ask(lambda session: list(session.scalars(select(models.Ending.call_id))))
    found = await hotline.ask(lambda session: ended(session, ids))
    return {call_id: end.outcome for call_id, end in found.items()}


async def counted_as_written(hotline: FakeHouse, calls: int) -> bool:
    accounts, written = Accounts(0.0), await over(hotline)
    assert len(written) == calls
    accounts.ledger_has(written, 0.0)
    return not accounts.disagreement(hotline.house.metrics.calls_ended(), 0.0).counted_too_many


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
async def test_a_caller_who_hangs_up_is_counted_as_is_written(hotline, state):
    agent = await hotline.agent_signs_in("601") if state in WITH_AGENT else None
    caller, _ = await reach(hotline, state, agent)
    caller.hang_up()
    await hotline.ending()
    assert await counted_as_written(hotline, 1)


@pytest.mark.parametrize("state", ONE_OF_EACH_KIND, ids=lambda state: state.name)
async def test_one_who_hangs_up_while_the_controller_is_away_is_counted_by_the_next(hotline, state):
    agent = await hotline.agent_signs_in("601") if state in WITH_AGENT else None
    caller, _ = await reach(hotline, state, agent)
    await hotline.controller_dies()
    caller.hang_up()
    await asyncio.sleep(1)
    await hotline.controller_starts()
    await hotline.ending()
    assert await counted_as_written(hotline, 1)


async def test_short_and_long_waits_that_were_given_up_are_both_abandoned_in_the_ledger(hotline):
    for waits_s in (1.0, 60.0):
        caller, _ = await reach(hotline, State.WAITING, from_=PARTY if waits_s > 5 else STRANGER)
        await asyncio.sleep(waits_s)
        caller.hang_up()
        await hotline.ending()
        await asyncio.sleep(1)
    assert hotline.house.metrics.calls_ended() == {"abandoned": 1, "short_abandon": 1}
    assert set((await over(hotline)).values()) == {"abandoned"}
    assert await counted_as_written(hotline, 2)


def cannot_take_up(*_: object) -> None:
    raise RuntimeError("rows that the table does not follow")


async def test_a_call_that_the_next_controller_cannot_take_up_is_broken_in_both(hotline, monkeypatch):
    await reach(hotline, State.WAITING)
    await hotline.controller_dies()
    monkeypatch.setattr(reception, "take_up", cannot_take_up)
    await hotline.controller_starts()
    assert hotline.house.metrics.calls_ended() == {"broken": 1}
    assert await counted_as_written(hotline, 1)


async def test_one_that_we_placed_is_counted_among_those(monkeypatch):
    async with FakeHouse(trunk=TRUNK, rules=RULES) as hotline:
        hotline.asterisk.phones.person(STRANGER)
        await asks_for_callback(hotline, STRANGER)
        agent = await hotline.agent_signs_in("601")
        await agent.rings()
        before = await over(hotline)
        await hotline.controller_dies()
        monkeypatch.setattr(reception, "take_up", cannot_take_up)
        await hotline.controller_starts()
        labels = {"purpose": "callback", "outcome": "broken"}
        assert hotline.registry.get_sample_value("sanling_calls_placed_total", labels) == 1
        assert await over(hotline) == before
        assert await counted_as_written(hotline, len(before))


@pytest.fixture
def real() -> RealHouse:
    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), {}))


@pytest.fixture
def records(real: RealHouse) -> Iterator[Records]:
    with closing(Records(real.settings.call_records)) as opened:
        yield opened


@pytest.mark.asterisk
@pytest.mark.timeout(240)
async def test_over_real_calls_prometheus_the_ledger_and_asterisks_own_records_agree(real, records):
    accounts = Accounts(0.0)
    async with Prometheus(f"{real.settings.control_address}:{real.settings.metrics_port}") as prometheus:
        await prometheus.scraped_again()
        accounts.asterisk_had(records.earlier(), 0.0)
        before, counted = await over(real), await prometheus.values("sanling_calls_ended_total", "outcome")
        agent = await real.agent_signs_in("611")
        for state in (State.RINGING, State.ASKING_ROLE, State.TALKING):
            caller, _ = await reach(real, state, agent)
            caller.hang_up()
            await real.ending()
        await prometheus.scraped_again(3)
        since = {
            outcome: int(n - counted[outcome])
            for outcome, n in (await prometheus.values("sanling_calls_ended_total", "outcome")).items()
        }
        assert sum(since.values()) == 3
        new = {call_id: outcome for call_id, outcome in (await over(real)).items() if call_id not in before}
        accounts.ledger_has(new, 0.0)
        told = records.new()
        accounts.asterisk_has(told, 0.0)
        assert accounts.disagreement(since, 0.0, settles_s=0.0) == AGREED
        assert {record.call_id for record in told if record.is_a_caller} == set(new)
        one = next(iter(new))
        silent = Accounts(0.0)
        silent.ledger_has(new, 0.0)
        silent.asterisk_has([record for record in told if record.call_id != one], 0.0)
        assert silent.disagreement(since, 0.0, settles_s=0.0) == Disagreement({}, (), (one,))
