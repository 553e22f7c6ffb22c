"""One-way audio on a real Asterisk: a phone that sends no packet, one that sends silence, one on hold, and an ordinary
call, all at once; judged from their recordings, counted, and told by the report.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from ari_app import report
from ari_app.audibility import unjudged
from ari_app.flow.audibility import AGENT_FROM_S, CALLER_FROM_S, VOICE_FROM_DB
from ari_app.flow.measures import week
from ari_app.rules import Assessment
from ari_app.store import models
from tests.calls.real import RealHouse, Running
from tests.faults.lightphone import AGENT_TONE, CALLER_TONE, SILENCE, Leg, Line

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(300)]

NO_PACKET = b""
TALK_S = CALLER_FROM_S + 8.0
"""The opening, which both hear, and the edges of a talk are not listened to."""
HELD_S = TALK_S - AGENT_FROM_S
"""Too little is left to judge by."""
JUDGED_WITHIN_S = 30.0


@pytest.fixture
def hotline() -> RealHouse:
    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), {}))


@asynccontextmanager
async def agent(hotline: RealHouse, number: str, nth: int, voice: bytes) -> AsyncIterator[asyncio.Queue[Leg]]:
    """Signed in at a phone that says `voice`, and where that is offered calls."""
    offers: asyncio.Queue[Leg] = asyncio.Queue()
    account = (number, hotline.access[number].password)
    async with phone(hotline, nth, voice, on_invite=lambda _, leg: offers.put_nowait(leg)) as line:
        assert await line.register(*account)
        signing = line.invite(f"*11{hotline.access[number].pin}", number, account)
        await signing.wait(20)
        await hotline.duty_becomes(number, "idle")
        try:
            yield offers
        finally:
            await hotline.duty_becomes(number, "idle", within_s=20)
            leaving = line.invite(f"*12{hotline.access[number].pin}", number, account)
            await leaving.wait(20)
            await line.register(*account, expires_s=0)


def phone(hotline: RealHouse, nth: int, voice: bytes, **how: Any) -> Line:
    net = hotline.settings.address.rpartition(".")[0]
    return Line(f"{net}.{nth}", (hotline.settings.address, hotline.settings.sip_port), voice=voice, **how)


async def talk(hotline: RealHouse, line: Line, from_: str, offers: asyncio.Queue[Leg], *, held: bool = False) -> str:
    """A caller asks for a person, is joined, talks and hangs up; the call's id."""
    caller = line.invite("12368", from_)
    assert await caller.wait(20, lambda: caller.answered_at is not None)
    await caller.wait(1.0)
    await caller.keys("0")
    offer = await asyncio.wait_for(offers.get(), 40)
    offer.rings()
    await offer.wait(1.0)
    offer.pick_up()
    joined = select(models.OfferEvent.call_id).join(models.Call, models.Call.id == models.OfferEvent.call_id)
    mine = joined.where(models.OfferEvent.event == "joined", models.Call.caller_number == from_,
                        models.Call.at >= hotline.since - 1)  # fmt: skip
    async with asyncio.timeout(20):
        while (call_id := await hotline.ask(lambda s: s.scalar(mine))) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    if held:
        await offer.wait(1.0)
        offer.hold(True)
        await offer.wait(HELD_S)
        offer.hold(False)
    await caller.wait(TALK_S - (HELD_S + 1.0 if held else 0.0))
    caller.hang_up()
    return call_id


def counted(hotline: RealHouse) -> dict[tuple[str, ...], float]:
    """The two counters by their labels, and `judged`: all talks."""
    url = f"http://{hotline.settings.control_address}:{hotline.settings.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {
        (sample.labels["side"], sample.labels["line"]): sample.value
        for family in families if family.name == "sanling_one_way_audio"
        for sample in family.samples if sample.name.endswith("_total")
    }  # fmt: skip
    judged = next(family for family in families if family.name == "sanling_talks_judged")
    return found | {("judged",): sum(one.value for one in judged.samples if one.name.endswith("_total"))}


async def test_who_sends_nothing_is_counted_and_who_is_held_or_heard_is_not(hotline):
    async with asyncio.timeout(JUDGED_WITHIN_S):  # of an earlier script's calls
        while await hotline.ask(lambda s: unjudged(s, hotline.settings.instance, 0.0)):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    before = await asyncio.to_thread(counted, hotline)
    callers = {"15400001001": CALLER_TONE, "15490007002": NO_PACKET, "15490007003": CALLER_TONE,
               "15490007004": CALLER_TONE}  # fmt: skip
    agents = {"601": AGENT_TONE, "602": AGENT_TONE, "603": SILENCE, "604": SILENCE}
    ids = {}
    async with asyncio.TaskGroup() as group:
        free = asyncio.Lock()

        async def one(from_: str, number: str, nth: int) -> None:
            async with agent_when_free(number, nth) as offers, phone(hotline, nth + 4, callers[from_]) as line:
                ids[from_] = await talk(hotline, line, from_, offers, held=number == "604")

        @asynccontextmanager
        async def agent_when_free(number: str, nth: int) -> AsyncIterator[asyncio.Queue[Leg]]:
            """One after the other, so that each caller meets this agent: nobody else is idle."""
            await free.acquire()
            async with agent(hotline, number, nth, agents[number]) as offers:
                taken = asyncio.get_running_loop().create_task(released_once_busy(number))
                yield offers
                await taken

        async def released_once_busy(number: str) -> None:
            await hotline.duty_becomes(number, "talking", within_s=60)
            free.release()

        for nth, (from_, number) in enumerate(zip(callers, agents, strict=True), start=10):
            group.create_task(one(from_, number, nth))
    sounds = await judged(hotline, set(ids.values()))
    assert {from_: (sounds[call_id].agent, sounds[call_id].unheard) for from_, call_id in ids.items()} == {
        "15400001001": ("601", ""), "15490007002": ("602", "caller"), "15490007003": ("603", "agent"),
        "15490007004": ("604", ""),
    }  # fmt: skip
    ordinary, held = sounds[ids["15400001001"]], sounds[ids["15490007004"]]
    assert CALLER_FROM_S <= ordinary.seconds < TALK_S
    assert min(ordinary.caller_db, ordinary.agent_db) > VOICE_FROM_DB + 20
    assert held.agent_db is None
    assert held.seconds < AGENT_FROM_S
    holds = await hotline.ask(lambda s: s.scalars(select(models.Hold).filter_by(call_id=held.call_id)).all())
    assert sorted((row.who, row.began) for row in holds) == [("604", False), ("604", True)]
    after = await asyncio.to_thread(counted, hotline)
    rise = {labels: value - before[labels] for labels, value in after.items() if value != before[labels]}
    assert rise == {("caller", "party"): 1, ("agent", "party"): 1, ("judged",): 3}
    named = {(call_id, number) for call_id, number in await why(hotline) if call_id in sounds}
    assert named == {(ids["15490007002"], "602"), (ids["15490007003"], "603")}
    await hotline.nothing_is_left()


async def judged(hotline: RealHouse, call_ids: set[str]) -> dict[str, Any]:
    asked = select(models.TalkSound).where(models.TalkSound.call_id.in_(call_ids))
    async with asyncio.timeout(JUDGED_WITHIN_S):
        while len(rows := await hotline.ask(lambda s: s.scalars(asked).all())) < len(call_ids):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return {row.call_id: row for row in rows}


async def why(hotline: RealHouse) -> set[tuple[str, str]]:
    """What the report names: call and agent of each talk in which one side was not heard."""
    zone = hotline.settings.zone
    today = week(datetime.now(zone).date(), zone)
    made = await hotline.ask(lambda s: report.make(s, today, zone, Assessment(), time.time()))
    return {(row["call"], row["agent"]) for row in made.why("one_way_audio")}
