"""What breaks: inside a call, around it, under it. Nobody is left in silence, and the neighbours never notice."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ari_app.desk import Desk
from ari_app.flow.sop import State
from ari_app.prompts import Catalogue
from ari_app.store import models
from tests.calls.house import LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import reach
from tests.unit.core_database import Outage


class BreakableHouse(FakeHouse):
    """A fake house whose insides a test may take apart."""

    def __init__(self, spool: Path) -> None:
        super().__init__(var_dir=str(spool))

    @property
    def desk(self) -> Desk:
        return self.house.desk

    def outage(self) -> Outage:
        return Outage(self._engine)

    async def endings(self) -> dict[str, models.Ending]:
        return {one.call_id: one for one in await self.ask(lambda s: s.scalars(select(models.Ending)).all())}


@pytest.fixture
def hotline(tmp_path: Path) -> BreakableHouse:
    return BreakableHouse(tmp_path)


async def soon(holds: Callable[[], Any], within_s: float = 5.0) -> None:
    for _ in range(round(within_s / 0.05)):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to pass")


async def hears_the_fallback(caller: Any) -> None:
    """The dialplan apologises, takes a number and lets the caller go."""
    await caller.hears("fallback-sorry")
    await caller.hears("fallback-leave-number")
    await caller.keys("15400001001#")
    await caller.hears("fallback-noted")
    await caller.ended()


# ---------------------------------------------------------------- a call that breaks inside

BREAKS = [
    (State.GREETING, "POST", r"channels/[^/~]+/play"),
    (State.ASKING_ROLE, "POST", r"channels/[^/~]+/play"),
    (State.PARTY_NAME, "POST", r"continue$"),
    (State.WAITING, "POST", r"channels/[^/~]+/play"),
]


@pytest.mark.parametrize(("state", "method", "uri"), BREAKS, ids=lambda one: getattr(one, "name", None))
async def test_a_call_that_breaks_is_handed_to_the_fallback_and_its_neighbour_goes_on(hotline, state, method, uri):
    agent = await hotline.agent_signs_in("601")
    neighbour, offer = await reach(hotline, State.TALKING, agent, from_=LAWYER)
    caller, _ = await reach(hotline, state)
    hotline.asterisk.refuses_next(method, uri, 500)
    keys = {State.GREETING: "3", State.ASKING_ROLE: "3", State.PARTY_NAME: "99#"}.get(state)
    if keys:
        await caller.keys(keys)
    await caller.hears("fallback-sorry", within_s=40)
    await caller.hears("fallback-leave-number")
    caller.hang_up()
    await offer.keys("*5")
    await neighbour.hears("disclaimer")
    await offer.keys("*6")
    await neighbour.hears("closing")
    await neighbour.ended()
    await soon(lambda: not hotline.reception.calls)
    outcomes = sorted(ending.outcome for ending in (await hotline.endings()).values())
    assert outcomes == ["broken", "handled"]
    await hotline.nothing_is_left()


async def test_a_prompt_that_cannot_be_read_breaks_its_call_only(hotline, monkeypatch):
    agent = await hotline.agent_signs_in("601")
    neighbour, _ = await reach(hotline, State.TALKING, agent, from_=LAWYER)
    real = Catalogue.media

    def media(catalogue: Catalogue, prompt: str) -> str:
        if prompt == "ask-case":
            raise OSError("the disk is gone")
        return real(catalogue, prompt)

    monkeypatch.setattr(Catalogue, "media", media)
    caller, _ = await reach(hotline, State.PARTY_NUMBER)
    await caller.keys("1")
    await hears_the_fallback(caller)
    neighbour.hang_up()
    await soon(lambda: not hotline.reception.calls)
    assert {ending.outcome for ending in (await hotline.endings()).values()} == {"broken", "handled"}
    await hotline.nothing_is_left()


@pytest.mark.parametrize(
    "breaking",
    [("POST", r"^bridges$"), ("POST", r"addChannel")],
    ids=["bridge", "join"],
)
async def test_a_call_that_breaks_while_it_is_joined_frees_its_agent(hotline, breaking):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    hotline.asterisk.refuses_next(*breaking, 500)
    await offer.picks_up()
    await caller.hears("fallback-sorry")
    await offer.ended()
    await soon(lambda: hotline.desk.agent("601").call_id is None, within_s=30)
    caller.hang_up()
    await caller.ended()
    await hotline.nothing_is_left()


async def test_a_flood_of_keys_breaks_nobody(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    assert caller.channel is not None
    for _ in range(500):
        hotline.asterisk.digit(caller.channel, "7", 50)
    await hotline.call_is(State.PARTY_CASE)
    await caller.hears("entry-invalid", within_s=20)
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- AGI and database away


async def test_a_call_goes_on_without_its_context_when_agi_is_away(hotline):
    hotline.agi_away = True
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await caller.keys("2112345#99#")
    await caller.hears("identity-proven")
    await caller.keys("1")
    offer = await agent.rings()
    assert offer.display == "当事人 已核身 节点"
    await offer.picks_up()
    await caller.hears("opening-agent-601")
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"


async def test_a_look_up_that_takes_long_is_waited_for(hotline):
    hotline.asterisk.agi_s = 9.0
    caller = await hotline.rings(from_=PARTY)
    await caller.answered(timeout_s=20)
    await caller.keys("2112345#99#")
    await caller.hears("identity-proven", within_s=20)
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_calls_go_on_without_the_database_and_are_written_down_when_it_is_back(hotline):
    outage = hotline.outage()
    outage.away = True
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await caller.keys("2112345#99#")
    await caller.hears("check-unavailable")
    await caller.hears("ask-need")
    await caller.keys("0")
    await caller.hears("hold-music", within_s=20)
    caller.hang_up()
    await caller.ended()
    outage.away = False
    await asyncio.sleep(3)
    ending = await hotline.ending()
    assert ending.outcome == "abandoned"
    assert await hotline.identity() is None
    await hotline.nothing_is_left()


@pytest.mark.parametrize("state", [State.OFFERING, State.WHISPERING, State.TALKING], ids=lambda state: state.name)
async def test_an_agent_is_not_kept_by_a_call_that_ended_while_the_database_was_away(hotline, state):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, state, agent)
    outage = hotline.outage()
    outage.away = True
    caller.hang_up()
    await asyncio.sleep(5)
    outage.away = False
    await asyncio.sleep(30)
    assert await hotline.duty("601") == "idle"
    await hotline.nothing_is_left()


@pytest.mark.parametrize("state", [State.OFFERING, State.WHISPERING], ids=lambda state: state.name)
async def test_a_caller_is_joined_though_the_database_is_away(hotline, state):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, state, agent)
    outage = hotline.outage()
    outage.away = True
    if state is State.OFFERING:
        await offer.picks_up()
    await caller.hears("opening-agent-601")
    await asyncio.sleep(2)
    outage.away = False
    await offer.keys("*6")
    await caller.hears("closing")
    await caller.ended()
    assert (await hotline.ending()).outcome == "handled"


# ---------------------------------------------------------------- a reservation that crosses a hang-up


@pytest.mark.parametrize("steps", range(0, 30, 2))
async def test_an_agent_reserved_in_the_moment_of_the_hangup_is_free_again(hotline, steps):
    await hotline.agent_signs_in("601")
    await hotline.desk.pause("601")
    caller, _ = await reach(hotline, State.WAITING)
    caller.hang_up()
    for _ in range(steps):
        await asyncio.sleep(0)
    await hotline.desk.resume("601")
    await hotline.ending()
    await asyncio.sleep(20)
    assert await hotline.duty("601") in ("idle", "no_answer")
    assert hotline.desk.agent("601").call_id is None
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- the link


@pytest.mark.parametrize(
    "state",
    [State.PARTY_CASE, State.WAITING, State.TALKING],
    ids=lambda state: state.name,
)
async def test_a_call_outlives_a_broken_link(hotline, state):
    agent = await hotline.agent_signs_in("601") if state is State.TALKING else None
    caller, offer = await reach(hotline, state, agent)
    hotline.asterisk.drop_link()
    await asyncio.sleep(10)
    hotline.asterisk.restore_link()
    await asyncio.sleep(1)
    assert caller.ended_at is None
    if state is State.TALKING:
        await offer.keys("*6")
        await caller.hears("closing")
        await caller.ended()
        assert (await hotline.ending()).outcome == "handled"
    elif state is State.WAITING:
        agent = await hotline.agent_signs_in("602")
        again = await agent.rings()
        await again.picks_up()
        await caller.hears("opening-agent-602")
        caller.hang_up()
    else:
        await caller.keys("12")  # what is keyed into the apology belongs to an entry that was lost
        await caller.hears("interrupted")
        await caller.keys("12345#99#")
        await caller.hears("identity-proven", within_s=20)
        caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize(
    "state",
    [State.PARTY_CASE, State.WAITING, State.OFFERING, State.TALKING],
    ids=lambda state: state.name,
)
async def test_a_caller_who_hangs_up_while_the_link_is_broken_leaves_nothing_behind(hotline, state):
    agent = await hotline.agent_signs_in("601") if state in (State.OFFERING, State.TALKING) else None
    caller, _ = await reach(hotline, state, agent)
    hotline.asterisk.drop_link()
    await asyncio.sleep(1)
    caller.hang_up()
    await asyncio.sleep(5)
    hotline.asterisk.restore_link()
    ending = await hotline.ending(within_s=30)
    assert ending.hung_up_by == "caller"
    if agent is not None:
        await hotline.duty_becomes("601", "idle", within_s=30)
    await hotline.nothing_is_left()


async def test_an_agent_who_answers_while_the_link_is_broken_is_joined_when_it_is_back(hotline):
    first = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, first)
    hotline.asterisk.drop_link()
    await asyncio.sleep(1)
    await offer.picks_up()
    await asyncio.sleep(1)
    hotline.asterisk.restore_link()
    await caller.hears("opening-agent-601")
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


async def test_a_closing_that_ended_while_the_link_was_broken_ended_when_it_should(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.CLOSING, agent)
    await asyncio.sleep(1)
    hotline.asterisk.drop_link()
    closing = await caller.hears("closing")
    await asyncio.sleep(2)
    hotline.asterisk.restore_link()
    await caller.ended()
    assert 4.9 <= caller.ended_at - caller.began_at - closing.until_s <= 5.3
    assert (await hotline.ending()).outcome == "handled"


async def test_the_link_that_breaks_while_something_is_asked_of_asterisk_breaks_no_call(hotline):
    caller, _ = await reach(hotline, State.PARTY_CASE)
    hotline.asterisk.delays_next("POST", r"/play", 0.5)
    await caller.keys("1#")
    await asyncio.sleep(0.1)
    hotline.asterisk.drop_link()
    await asyncio.sleep(3)
    hotline.asterisk.restore_link()
    await caller.hears("entry-invalid", within_s=20)
    await caller.hears("interrupted", within_s=20)
    await caller.keys("12345#99#")
    await caller.hears("identity-proven", within_s=20)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "left_in_menu"


@pytest.mark.parametrize("delayed", [r"^bridges$", r"addChannel"], ids=["bridge", "join"])
async def test_the_link_that_breaks_while_two_are_joined_joins_them_when_it_is_back(hotline, delayed):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    hotline.asterisk.delays_next("POST", delayed, 1.0)
    await offer.picks_up()
    await soon(lambda: any(re.search(delayed, request.uri) for request in hotline.asterisk.requests), within_s=10)
    await asyncio.sleep(0.2)
    hotline.asterisk.drop_link()
    await asyncio.sleep(3)
    hotline.asterisk.restore_link()
    await caller.hears("opening-agent-601", within_s=20)
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- callbacks


def left(hotline: BreakableHouse, name: str, text: str) -> Path:
    folder = hotline.settings.spool_dir / "callbacks"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.txt"
    file.write_text(text, encoding="ascii")
    return file


async def callbacks(hotline: BreakableHouse) -> list[tuple[str, str, float]]:
    rows = await hotline.ask(lambda s: s.scalars(select(models.Callback).order_by(models.Callback.id)).all())
    return [(row.id, row.number, row.at) for row in rows]


async def test_a_number_left_in_the_dialplan_is_taken_up_once(hotline):
    keyed = left(hotline, "demo-1.1", "1795000000 02150001234 15400001001\n")
    calling = left(hotline, "demo-1.2", "1795000001  8615400001002\n")
    await asyncio.sleep(11)
    expected = [("demo-1.1", "02150001234", 1_795_000_000.0), ("demo-1.2", "15400001002", 1_795_000_001.0)]
    assert await callbacks(hotline) == expected
    assert not keyed.exists()
    assert not calling.exists()
    left(hotline, "demo-1.1", "1795000000 02150001234 15400001001\n")  # as after a crash between row and removal
    await asyncio.sleep(11)
    assert await callbacks(hotline) == expected
    assert not keyed.exists()
    assert hotline.registry.get_sample_value("sanling_callbacks_left_total") == 2.0


@pytest.mark.parametrize("text", ["", "garbage", "1795000000  anonymous", "x 15400001001 ", "1795000000 12"])
async def test_a_request_without_a_number_is_kept_aside_and_stops_nobody(hotline, text):
    bad = left(hotline, "demo-1.1", text)
    left(hotline, "demo-1.2", "1795000000 15400001001 \n")
    await asyncio.sleep(25)
    assert [one[0] for one in await callbacks(hotline)] == ["demo-1.2"]
    assert not bad.exists()
    assert bad.with_suffix(".bad").exists()


async def test_callbacks_wait_for_the_database_and_the_calls_go_on(hotline):
    outage = hotline.outage()
    outage.away = True
    file = left(hotline, "demo-1.1", "1795000000 15400001001 \n")
    await asyncio.sleep(15)
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await caller.hears("opening")
    assert file.exists()
    outage.away = False
    await asyncio.sleep(15)
    assert [one[0] for one in await callbacks(hotline)] == ["demo-1.1"]
    assert not file.exists()
    caller.hang_up()
    await hotline.ending()


async def test_a_caller_whom_nobody_served_is_called_back(hotline):
    hotline.asterisk.spool = hotline.settings.spool_dir
    hotline.asterisk.drop_link()
    await asyncio.sleep(0.1)
    caller = await hotline.rings(from_=STRANGER)
    await hears_the_fallback(caller)
    hotline.asterisk.restore_link()
    await asyncio.sleep(11)
    [(_, number, _)] = await callbacks(hotline)
    assert number == "15400001001"
