"""A call that another controller takes up: nothing is told twice, forgotten, begun anew or held against anybody.

One script for each way in which a kill, or a broken link, between two things that belong together could show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from ari_app import store
from ari_app.ari.errors import RequestTimeout, Unreachable
from ari_app.ari.websocket import NOTICED_WITHIN_S
from ari_app.flow.sop import State
from ari_app.reception import LOOK_EVERY_S
from ari_app.store import models
from tests.calls.house import LANDLINE, LAWYER, PARTY, STRANGER, FakeHouse
from tests.calls.paths import reach
from tests.calls.test_broken import soon
from tests.calls.test_killed import ANSWERS, MOMENTS, Killed, answers_whatever_is_asked
from tests.fake.asterisk import FakeWire


class KilledFor(Killed):
    """Killed `after_s` after the call enters `state` (None: before anything of it is done), and away for `gap_s`."""

    def __init__(self, hotline: FakeHouse, state: State, gap_s: float = 1.5, after_s: float | None = None) -> None:
        super().__init__(hotline, state, after_s)
        self.gap_s = gap_s

    async def _kill(self) -> None:
        await asyncio.sleep(self.after_s or 0.0)
        await restarts(self.hotline, self.gap_s)
        self.done.set()


async def restarts(hotline: FakeHouse, gap_s: float = 1.5) -> None:
    await hotline.controller_dies()
    await asyncio.sleep(gap_s)
    await hotline.controller_starts()


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def rows(hotline: FakeHouse, table: type[models.Table], **where: str) -> list[Any]:
    """Of one table, in the order in which they happened."""
    asked = select(table).filter_by(**where).order_by(table.at)  # type: ignore[attr-defined]
    return list(await hotline.ask(lambda session: session.scalars(asked).all()))


async def asked_of_asterisk(hotline: FakeHouse, ending: str, within_s: float = 5.0) -> None:
    """Until a request whose uri ends so is on its way."""
    seen = len(hotline.asterisk.requests)
    for _ in range(round(within_s / 0.0005)):
        if any(one.uri.endswith(ending) for one in hotline.asterisk.requests[seen:]):
            return
        await asyncio.sleep(0.0005)
    raise AssertionError(f"nothing was asked of {ending}")


def whole(call: Any, prompt: str) -> Iterator[Any]:
    return (sound for sound in call.ear.sounds if sound.what.startswith(prompt) and sound.complete)


# ---------------------------------------------------------------- offers

ARRIVES_S = range(0, 10, 2)
"""So long before or after the regular look, which comes every ten seconds."""


@pytest.mark.parametrize("arrives_s", ARRIVES_S)
async def test_a_phone_that_never_says_that_it_rings_is_given_its_time_and_then_paused(hotline, monkeypatch, arrives_s):
    await hotline.agent_signs_in("601")
    monkeypatch.setattr("tests.fake.asterisk.INVITE_TO_RING_S", 300.0)
    await asyncio.sleep(arrives_s)
    caller, _ = await reach(hotline, State.ASKING_ROLE)
    await caller.keys("0")
    await hotline.duty_becomes("601", "no_answer", within_s=15)
    offered, ended = await rows(hotline, models.OfferEvent)
    assert (offered.event, ended.event) == ("offered", "no_answer")
    assert ended.at - offered.at == pytest.approx(11.0, abs=0.2)
    assert hotline.registry.get_sample_value("sanling_agent_rona_total", {"agent": "601"}) == 1.0
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("arrives_s", ARRIVES_S)
async def test_a_phone_that_is_slow_to_say_that_it_rings_keeps_its_offer(hotline, monkeypatch, arrives_s):
    agent = await hotline.agent_signs_in("601")
    monkeypatch.setattr("tests.fake.asterisk.INVITE_TO_RING_S", 8.0)
    await asyncio.sleep(arrives_s)
    caller, _ = await reach(hotline, State.ASKING_ROLE)
    await caller.keys("0")
    offer = await agent.rings()
    await asyncio.sleep(9.0)
    await offer.picks_up()
    await caller.hears("opening-agent-601")
    assert [event for _, event in await hotline.offers()] == ["offered", "answered", "joined"]
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_an_answer_that_the_next_controller_did_not_live_to_act_on_is_acted_on_by_the_third(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    await hotline.controller_dies()
    await offer.picks_up()
    hotline.asterisk.delays_next("POST", r"/moh$", 0.5)  # what it does first
    await hotline.controller_starts()
    await asyncio.sleep(0.2)
    assert [event for _, event in await hotline.offers()] == ["offered", "answered"]
    await restarts(hotline, 1.0)
    await caller.hears("opening-agent-601")
    assert sum(call.incoming for call in agent.calls) == 1
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


@pytest.mark.parametrize("after_s", [None, 0.0])
@pytest.mark.parametrize(("code", "why"), [(603, "refused"), (486, "busy")])
async def test_an_agent_who_refused_is_paused_though_the_controller_was_killed_before(hotline, code, why, after_s):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    killed = KilledFor(hotline, State.WAITING, after_s=after_s)
    offer.refuses(code)
    await killed.done.wait()
    await asyncio.sleep(30)
    assert await hotline.duty("601") == "no_answer"
    assert sum(call.incoming for call in agent.calls) == 1
    assert [event for _, event in await hotline.offers()] == ["offered", why]
    assert hotline.registry.get_sample_value("sanling_agent_rona_total", {"agent": "601"}) == 1.0
    caller.hang_up()
    assert (await hotline.ending()).outcome == "abandoned"
    await hotline.nothing_is_left()


async def test_the_whisper_is_heard_whole_though_the_controller_was_killed_before_it_began(hotline):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.OFFERING, agent)
    killed = KilledFor(hotline, State.WHISPERING)
    await offer.picks_up()
    await killed.done.wait()
    opening = await caller.hears("opening-agent-601")
    [whisper] = whole(offer, "whisper-")
    assert whisper.until_s <= opening.at_s + caller.began_at
    caller.hang_up()
    assert (await hotline.ending()).outcome == "handled"
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- deadlines


@pytest.mark.parametrize("gap_s", [1.5, 9.0, 25.0])
@pytest.mark.parametrize("after_s", [None, 0.0])
async def test_wrap_up_is_counted_from_the_end_of_the_talk(hotline, after_s, gap_s):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    killed = KilledFor(hotline, State.RATING, gap_s, after_s)
    await offer.keys("*6")
    await killed.done.wait()
    await hotline.duty_becomes("601", "idle", within_s=30)
    [closing] = [row for row in await rows(hotline, models.Transition, state="TALKING") if row.next == "RATING"]
    [wrapped_up] = await rows(hotline, models.AgentState, was="wrap_up")
    wrap_up_s = hotline.settings.queue.wrap_up_s
    assert wrapped_up.at - closing.at == pytest.approx(max(wrap_up_s, gap_s), abs=0.3)
    await caller.ended(timeout_s=60)
    await hotline.nothing_is_left()


async def test_the_ring_deadline_is_counted_from_the_first_ring():
    async with FakeHouse(answering={"after_rings": 3}) as hotline:
        caller, _ = await reach(hotline, State.RINGING)
        await restarts(hotline, 4.0)
        await caller.answered()
        assert caller.answered_after_s == pytest.approx(11.0, abs=0.2)
        await caller.hears("opening", within_s=20)
        caller.hang_up()
        assert (await hotline.ending()).answered_after_s == pytest.approx(11.0, abs=0.2)


@pytest.mark.parametrize("state", [State.WAITING, State.TALKING], ids=lambda state: state.name)
async def test_the_ceiling_is_counted_from_the_answer(state):
    async with FakeHouse(ending={"call_ceiling_s": 60.0, "warn_before_ceiling_s": 20.0}) as hotline:
        agent = await hotline.agent_signs_in("601") if state is State.TALKING else None
        caller, _ = await reach(hotline, state, agent)
        await restarts(hotline, 4.0)
        await caller.ended(timeout_s=90)
        taken = await rows(hotline, models.Transition)
        answered = next(row.at for row in taken if "ANSWER" in row.actions.split())
        after_s = {row.heard: row.at - answered for row in taken}
        assert after_s["CEILING_NEAR"] == pytest.approx(40.0, abs=0.2)
        assert after_s["CEILING_REACHED"] == pytest.approx(60.0, abs=0.2)
        await hotline.nothing_is_left()


# ---------------------------------------------------------------- who the caller is


@pytest.mark.parametrize("killed", [False, True], ids=["as usual", "killed"])
async def test_what_was_keyed_as_a_lawyer_is_not_looked_up_for_the_party(hotline, killed):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.LAWYER_NAME)
    await caller.keys("954#9999#2")
    await caller.hears("ask-mobile", partly=True)
    await caller.keys("15400002999#")
    await caller.hears("identity-retry")
    await caller.keys("21")
    await hotline.call_is(State.PARTY_CASE)
    if killed:
        await restarts(hotline)
        await caller.hears("ask-case")
    await caller.keys("12345#99#")
    await caller.hears("ask-need")
    await caller.keys("1")
    assert (await agent.rings(20)).display == "当事人 已核身 节点 1案 最近:排期"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("moment", [*MOMENTS, "not at all"])
async def test_a_lawyer_who_calls_from_a_partys_phone_is_told_as_the_lawyer(hotline, moment):
    agent = await hotline.agent_signs_in("601")
    hotline.asterisk.agi_s = 1.0
    if moment in MOMENTS:
        Killed(hotline, State.FETCHING_CONTEXT, MOMENTS[moment])
    caller = await hotline.rings(from_=PARTY)
    answering = asyncio.create_task(answers_whatever_is_asked(caller, ANSWERS[LAWYER]))
    offer = await agent.rings(90)
    answering.cancel()
    assert offer.display == "律师 已核身 材料 2案 最近:排期"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_context_that_came_back_unheard_is_not_replaced_by_that_of_the_calling_number(hotline):
    agent = await hotline.agent_signs_in("601")
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    hotline.asterisk.agi_s = 1.0
    answering = asyncio.create_task(answers_whatever_is_asked(caller, ANSWERS[LAWYER]))
    await hotline.call_is(State.FETCHING_CONTEXT, within_s=60)
    hotline.asterisk.events_late_s = 0.3
    await asyncio.sleep(1.1)
    hotline.asterisk.drop_link()  # the channel is back with us, and nobody was told
    hotline.asterisk.events_late_s = 0.0
    await asyncio.sleep(0.3)
    hotline.asterisk.restore_link()
    offer = await agent.rings(90)
    answering.cancel()
    assert offer.display == "律师 已核身 材料 2案 最近:排期"
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


@pytest.mark.parametrize("so_late_s", [0.0005, 0.001, 0.0015])
async def test_a_link_lost_while_the_caller_is_sent_for_the_context_loses_no_call(hotline, so_late_s):
    hotline.asterisk.agi_s = 1.0
    caller, _ = await reach(hotline, State.PARTY_NAME)
    sent = asyncio.create_task(asked_of_asterisk(hotline, "/continue"))
    await caller.keys("99#", pause_s=0.0)
    await sent
    await asyncio.sleep(so_late_s)
    hotline.asterisk.drop_link()
    await asyncio.sleep(0.3)
    hotline.asterisk.restore_link()
    await caller.hears("identity-proven", within_s=20)
    await caller.hears("ask-need")
    await caller.keys("1")
    await caller.hears("nobody-signed-in")
    caller.hang_up()
    assert (await hotline.ending()).outcome == "abandoned"
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("gap_s", [4.0, 9.0])
async def test_the_closing_is_heard_whole_though_nobody_was_there_to_say_it(hotline, gap_s):
    agent = await hotline.agent_signs_in("601")
    caller, offer = await reach(hotline, State.TALKING, agent)
    KilledFor(hotline, State.CLOSING, gap_s)
    await offer.keys("*6")
    closing = await caller.hears("closing", within_s=20)
    await caller.ended()
    assert caller.ended_at - caller.began_at - closing.until_s == pytest.approx(5.0, abs=0.3)
    ending = await hotline.ending()
    assert (ending.outcome, ending.hung_up_by) == ("handled", "hotline")
    assert ending.after_closing_s == pytest.approx(5.0, abs=0.3)
    await hotline.nothing_is_left()


@pytest.mark.parametrize("after_s", [None, 0.0])
@pytest.mark.parametrize(("who", "after_closing_s"), [("hotline", 5.0), ("caller", 2.0)])
async def test_who_hung_up_and_when_is_told_though_the_controller_was_killed_in_it(
    hotline, who, after_closing_s, after_s
):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.LEAVING, agent)
    closing = await caller.hears("closing", from_s=0.0)
    killed = KilledFor(hotline, State.ENDED, 4.0, after_s)
    if who == "caller":
        await asyncio.sleep(caller.began_at + closing.until_s + after_closing_s - asyncio.get_running_loop().time())
        caller.hang_up()
    await killed.done.wait()
    await caller.ended()
    ending = await hotline.ending()
    assert (ending.outcome, ending.hung_up_by) == ("handled", who)
    assert ending.after_closing_s == pytest.approx(after_closing_s, abs=0.3)
    await hotline.nothing_is_left()


# ---------------------------------------------------------------- the neighbours


@pytest.mark.parametrize("late", [r"variable$", r"^playbacks/", r"^channels$"])
async def test_an_answer_of_asterisks_that_never_comes_holds_the_hotline_up_for_seconds_only(hotline, late):
    caller, _ = await reach(hotline, State.PARTY_NAME)
    waiting, _ = await reach(hotline, State.WAITING, from_=LAWYER)
    await hotline.controller_dies()
    hotline.asterisk.delays_next("GET", late, 5.5)
    async with asyncio.timeout(8):
        await hotline.controller_starts()
    assert hotline.house.linked.is_set()
    assert len(hotline.reception.calls) == 2
    await caller.hears("interrupted")
    await caller.hears("ask-name")
    await caller.keys("99#")
    await caller.hears("identity-proven")
    agent = await hotline.agent_signs_in("601")
    assert (await agent.rings()).number == LAWYER
    for one in (caller, waiting):
        one.hang_up()
        await one.ended()
    await hotline.nothing_is_left()


@pytest.fixture(params=["silence", "a broken link"])
def wedged(request, monkeypatch):
    """Ids of channels that are stuck in Asterisk: whatever is asked about one gets no answer within the time, or keeps
    Asterisk from reading on until the link is given up.
    """
    stuck: set[str] = set()
    asks = FakeWire.request

    async def ask(wire: FakeWire, method: str, uri: str, *about: Any, timeout_s: float, **how: Any) -> Any:
        if stuck.isdisjoint(uri.split("/")):
            return await asks(wire, method, uri, *about, timeout_s=timeout_s, **how)
        if request.param == "silence":
            await asyncio.sleep(timeout_s)
            raise RequestTimeout(f"no answer to {method} {uri} within {timeout_s} s")
        lane = wire._fast
        async with lane.lock:
            await asyncio.sleep(NOTICED_WITHIN_S)
            if wire._fast is lane:
                wire._asterisk.drop_link()
                asyncio.get_running_loop().call_later(0.1, wire._asterisk.restore_link)
        raise Unreachable(f"the link broke during {method} {uri}")

    monkeypatch.setattr(FakeWire, "request", ask)
    return stuck


async def test_a_call_about_which_asterisk_answers_nothing_is_given_up_and_the_others_go_on(hotline, wedged):
    agent = await hotline.agent_signs_in("601")
    caller, _ = await reach(hotline, State.PARTY_NAME)
    neighbour, offer = await reach(hotline, State.TALKING, agent, from_=LAWYER)
    waiting, _ = await reach(hotline, State.WAITING, from_=LANDLINE)
    id = caller.channel.id
    await hotline.controller_dies()
    wedged.add(id)
    starting = asyncio.create_task(hotline.controller_starts())
    await asyncio.sleep(0.5)
    late = await hotline.rings(from_=STRANGER)
    async with asyncio.timeout(11.5):  # three rings
        await starting
    await late.answered()
    await late.hears("opening", within_s=20)
    assert [row.outcome for row in await rows(hotline, models.Ending)] == ["broken"]
    assert hotline.registry.get_sample_value("sanling_calls_adopted_total") == 2.0

    await asyncio.sleep(20)
    reconnects = hotline.registry.get_sample_value("sanling_ari_reconnects_total")
    await asyncio.sleep(25)  # the reaper looks, and does not touch it
    assert hotline.registry.get_sample_value("sanling_ari_reconnects_total") == reconnects
    wedged.clear()
    await caller.hears("fallback-sorry", within_s=80)
    late.hang_up()
    await offer.keys("*6")
    await neighbour.hears("closing")
    await neighbour.ended()
    assert (await agent.rings(30)).number == LANDLINE
    for one in (caller, waiting):
        one.hang_up()
    await soon(lambda: not hotline.reception.calls)
    await hotline.nothing_is_left()


async def test_a_takeover_goes_on_though_asterisk_once_does_not_say_what_it_holds(hotline):
    caller, _ = await reach(hotline, State.PARTY_NAME)
    await hotline.controller_dies()
    hotline.asterisk.delays_next("GET", r"variable$", 5.2)
    hotline.asterisk.delays_next("GET", r"^bridges$", 0.0)  # of the link
    hotline.asterisk.delays_next("GET", r"^bridges$", 5.5)
    async with asyncio.timeout(15):
        await hotline.controller_starts()
    await caller.hears("ask-name")
    caller.hang_up()
    await hotline.ending()
    await hotline.nothing_is_left()


async def test_a_journal_that_takes_long_to_read_is_given_its_time_by_the_supervisor(tmp_path, monkeypatch):
    async with FakeHouse(var_dir=str(tmp_path)) as hotline:
        hotline.settings.journal_dir.mkdir(parents=True)
        (hotline.settings.journal_dir / "00000001-it.journal").write_bytes(b"x" * 2_000_000)
        said: list[str] = []
        monkeypatch.setattr("ari_app.notify.send", lambda *lines: said.extend(lines))
        await restarts(hotline)
        assert said == ["EXTEND_TIMEOUT_USEC=21000000", "EXTEND_TIMEOUT_USEC=15000000"]


async def test_a_takeover_of_many_calls_is_given_its_time_by_the_supervisor(hotline, monkeypatch):
    for n in range(3):
        await reach(hotline, State.PARTY_NAME, from_=f"1380000000{n}")
    said: list[str] = []
    monkeypatch.setattr("ari_app.notify.send", lambda *lines: said.extend(lines))
    await restarts(hotline)
    assert said[-1] == "EXTEND_TIMEOUT_USEC=15300000"


async def test_a_call_that_breaks_at_its_end_leaves_the_others_alone(hotline):
    agent = await hotline.agent_signs_in("601")
    neighbour, offer = await reach(hotline, State.TALKING, agent, from_=LAWYER)
    caller, _ = await reach(hotline, State.PARTY_CASE)
    await restarts(hotline)
    [breaking] = [call for call in hotline.reception.calls.values() if call.progress.state is State.PARTY_CASE]

    def breaks() -> None:
        raise ZeroDivisionError

    breaking._write_ending = breaks
    caller.hang_up()
    await soon(lambda: len(hotline.reception.calls) == 1)
    assert [call.progress.state for call in hotline.reception.calls.values()] == [State.TALKING]
    await offer.keys("*6")
    await neighbour.hears("closing")
    await neighbour.ended()
    await soon(lambda: not hotline.reception.calls)
    await asyncio.sleep(LOOK_EVERY_S + 1)
    assert {row.call_id: row.outcome for row in await rows(hotline, models.Ending)} == {
        neighbour.channel.id: "handled", caller.channel.id: "broken",
    }  # fmt: skip
    await hotline.nothing_is_left()


@pytest.mark.parametrize("heard", ["SAID_LAWYER", "A_WORD_OF_ANOTHER_VERSION"])
@pytest.mark.parametrize("state", [State.PARTY_CASE, State.WAITING, State.TALKING], ids=lambda state: state.name)
async def test_a_caller_whose_rows_cannot_be_followed_hears_the_fallback_and_the_others_go_on(hotline, state, heard):
    first, second = [await hotline.agent_signs_in(number) for number in ("601", "602")]
    neighbour, offer = await reach(hotline, State.TALKING, first, from_=LAWYER)
    if state is State.WAITING:
        await hotline.house.desk.pause("602")
    caller, other = await reach(hotline, state, second)
    id = caller.channel.id
    await hotline.controller_dies()
    with store.session(hotline._engine) as session:
        session.add(
            models.Transition(
                call_id=id, n=99, at=hotline._now(), state=state.name, heard=heard, next="LAWYER_FIRM", actions="",
                agent=None,
            )
        )  # fmt: skip
    await hotline.controller_starts()
    await caller.hears("fallback-sorry")
    assert [row.outcome for row in await rows(hotline, models.Ending, call_id=id)] == ["broken"]
    assert hotline.registry.get_sample_value("sanling_calls_adopted_total") == 1.0
    caller.hang_up()
    if other is not None:
        await other.ended(25)
        assert await hotline.duty("602") == "idle"
    await offer.keys("*6")
    await neighbour.hears("closing")
    await neighbour.ended()
    await soon(lambda: not hotline.reception.calls)
    assert [row.outcome for row in await rows(hotline, models.Ending)] == ["broken", "handled"]
    await hotline.nothing_is_left()
