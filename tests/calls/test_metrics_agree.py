"""What a panel shows of some calls is what report and wallboard say of them. The panels' own queries are put to the
counters themselves, as if scraped from the first call on.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from ari_app.__main__ import enter_unattended
from ari_app.api.floor import figures
from ari_app.drift import OUTCOMES, Drift
from ari_app.facts import NOT_TAKEN
from ari_app.flow.sop import State
from metrics.hotline import JUDGED_OFFERS, THREE_RINGS_S
from metrics.queries import DASHBOARDS
from tests.calls.house import BEGAN, LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import reach
from tests.calls.test_leading import AGENT_SAYS, dials, says
from tests.calls.test_report import reported
from tests.calls.test_second_line import asks_the_lawyer

INCREASE = re.compile(r"sum(?: by \(\w+\))? \(increase\((\w+)(?:\{([^}]*)\})?\[[^]]+\]\)\)")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


def counted(registry: CollectorRegistry, name: str, matchers: str) -> float:
    """The sum of the samples that a selector of PromQL selects."""

    def fits(labels: dict[str, str]) -> bool:
        return all(
            bool(re.fullmatch(value, labels.get(label, ""))) if how == "=~" else labels.get(label, "") == value
            for label, how, value in MATCHER.findall(matchers)
        )

    samples = [sample for family in registry.collect() for sample in family.samples if sample.name == name]
    assert samples, name
    return sum(sample.value for sample in samples if fits(sample.labels))


def shown(hotline: FakeHouse, title: str, agent: str = "") -> float:
    """By the panel of this title, of that agent."""
    [panel] = [
        panel for board in DASHBOARDS for _, panels in board.rows for panel in panels if panel.title.startswith(title)
    ]
    [query] = panel.queries
    sums, left = INCREASE.subn(
        lambda term: str(counted(hotline.registry, term[1], term[2] or "")), query.expr.replace("$agent", agent)
    )
    assert left, query.expr
    return float(eval(sums, {"__builtins__": {}}))  # noqa: S307


async def test_the_shares_within_three_rings_are_the_reports(hotline, monkeypatch):
    first = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, first)
    await offer.keys("*6")
    await caller.ended(60)
    await hotline.duty_becomes("601", "idle", within_s=60)

    caller, offer = await reach(hotline, State.OFFERING, first)  # nobody picks up
    await offer.ended(timeout_s=30)
    second = await hotline.agent_signs_in("602")
    offer = await second.rings()  # the caller leaves before anybody does
    caller.hang_up()
    await hotline.ending()
    caller, offer = await reach(hotline, State.WHISPERING, second, from_=STRANGER)  # … and just after
    caller.hang_up()
    await hotline.ending()
    caller, offer = await reach(hotline, State.WHISPERING, second, from_=STRANGER)  # picked up, and not taken
    offer.hang_up()
    await hotline.duty_becomes("602", "no_answer")
    caller.hang_up()
    await hotline.ending()

    caller, _ = await reach(hotline, State.RINGING)  # too early to be held against the hotline
    caller.hang_up()
    await hotline.ending()
    caller, _ = await reach(hotline, State.RINGING)  # rings in vain
    await hotline.controller_dies()
    await asyncio.sleep(14)
    caller.hang_up()
    await hotline.controller_starts()
    await hotline.ending(within_s=30)
    monkeypatch.setattr("time.time", hotline._now)
    enter_unattended(hotline.house.ledger, hotline.house.metrics, f"demo-{BEGAN + 60:.0f}.9")

    made = await reported(hotline)
    hotlines = made.figure("answer_within_three_rings")
    assert (hotlines.numerator, hotlines.denominator) == (4, 6)
    assert shown(hotline, "三声内接听") == hotlines.value
    for number, part, whole in (("601", 1, 2), ("602", 1, 1)):
        own = made.by_agent[number]["phones_within_three_rings"]
        assert (own.numerator, own.denominator) == (part, whole)
        assert shown(hotline, "座席三声内接听", number) == own.value


@pytest.mark.parametrize("rings_s", [9, 14])
async def test_an_answer_that_never_reached_asterisk_is_none(hotline, rings_s):
    caller, _ = await reach(hotline, State.RINGING)
    hotline.asterisk.drop_link()
    await asyncio.sleep(rings_s)
    caller.hang_up()
    hotline.asterisk.restore_link()
    await hotline.ending(within_s=30)
    assert counted(hotline.registry, "sanling_hotline_answer_seconds_count", "") == 0
    assert counted(hotline.registry, "sanling_calls_unanswered_total", "") == (rings_s >= THREE_RINGS_S)


def test_the_offers_that_an_agent_is_held_to_are_the_reports():
    assert {*JUDGED_OFFERS} == {"answered", *NOT_TAKEN} == {*OUTCOMES.values()} - {"caller_left"}


async def test_who_was_consulted_has_handled_no_call_and_who_had_the_caller_has_one(hotline):
    caller, offer, asked, lawyer = await asks_the_lawyer(hotline)
    await asyncio.sleep(5)
    await offer.keys("*0")
    await hotline.call_is(State.TALKING)
    caller.hang_up()
    await hotline.ending()
    for number in ("601", "605"):
        await hotline.duty_becomes(number, "idle", within_s=60)
    assert (shown(hotline, "接话量", "601"), shown(hotline, "接话量", "605")) == (1, 0)

    caller, offer = await reach(hotline, State.TALKING, offer.phone)
    await offer.keys("*1")
    asked = await lawyer.rings()
    await asked.picks_up()
    await hotline.call_is(State.CONSULTING)
    await offer.keys("*3")
    await hotline.call_is(State.THREE_WAY)
    await asyncio.sleep(5)
    await offer.keys("*2")  # and all three once more: still one call
    await asyncio.sleep(5)
    await offer.keys("*3")
    await asyncio.sleep(5)
    caller.hang_up()
    await hotline.ending()
    made = await reported(hotline)
    for number, calls in (("601", 2), ("605", 1)):
        assert shown(hotline, "接话量", number) == made.by_agent[number]["calls_a_day"].numerator == calls


async def test_a_caller_who_is_handed_on_waited_once(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    other = await hotline.agent_signs_in("602")
    await offer.keys("*7602#")
    await (await other.rings()).picks_up()
    await caller.hears("opening-agent-602")
    caller.hang_up()
    await hotline.ending()
    made = await reported(hotline)
    wait = made.figure("asa")
    assert counted(hotline.registry, "sanling_queue_wait_seconds_count", 'result="answered"') == wait.denominator == 1
    assert shown(hotline, "平均等待") == pytest.approx(wait.value)
    for number in ("601", "602"):
        assert shown(hotline, "接话量", number) == made.by_agent[number]["calls_a_day"].numerator == 1


@pytest.mark.parametrize("outcome", ["lost", "broken"])
async def test_a_call_that_ends_in_mid_talk_was_answered_once_on_panel_report_and_wallboard(hotline, outcome):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await asyncio.sleep(20)
    if outcome == "lost":
        await hotline.asterisk.dies()
        await asyncio.sleep(3)
        await hotline.asterisk.starts_again()
    else:
        hotline.asterisk.refuses_next("POST", r"/play", 500)
        await offer.keys("*5")
    assert (await hotline.ending(within_s=30)).outcome == outcome
    caller.hang_up()

    made = await reported(hotline)
    assert counted(hotline.registry, "sanling_queue_wait_seconds_count", "") == made.figure("answered").value == 1
    assert shown(hotline, "服务水平") == made.figure("service_level").value == 1
    board = await hotline.ask(lambda session: figures(session, BEGAN))
    assert (board.over, board.handled, board.failed) == (1, 1, 1)
    assert (board.service_level, board.mean_wait_s) == (1, pytest.approx(made.figure("asa").value, abs=0.1))
    assert board.mean_talk_s == pytest.approx(made.figure("talk_time").value)


async def test_ledger_and_counters_tell_of_the_same_offers_and_talks(hotline, tmp_path: Path):
    """Also of a leader's, to whom a call that is taken over was not offered."""
    drift = Drift(hotline.house.ledger, hotline.house.metrics, tmp_path / "calls.csv")
    caller, offer, _, _ = await asks_the_lawyer(hotline)
    await asyncio.sleep(2)
    await offer.keys("*4")
    await asyncio.sleep(2)
    caller.hang_up()
    await hotline.ending()
    await hotline.duty_becomes("601", "idle", within_s=60)

    agent = offer.phone
    caller, _ = await reach(hotline, State.OFFERING, agent, from_=LAWYER)
    caller.hang_up()
    await hotline.ending()
    caller, offer = await reach(hotline, State.TALKING, agent, from_=PARTY)
    _, leader = await dials(hotline, "*81601", "leading-listen")
    await leader.keys("4")
    await says(leader, AGENT_SAYS)
    leader.hang_up()
    caller.hang_up()
    await hotline.ending()

    found = await drift.look()
    assert (found.offers_too_many, found.talks_too_many, found.counted_too_many) == ({}, {}, {})
    metrics: Any = hotline.house.metrics
    assert metrics.talks() == {"601": 2, "605": 1, "612": 1}
    assert metrics.offers_ended() == {"answered": 3, "caller_left": 1}
    metrics.offer_ended("601", "refused")
    metrics.talked("602")
    found = await drift.look()
    assert (found.offers_too_many, found.talks_too_many) == ({"refused": 1}, {"602": 1})
