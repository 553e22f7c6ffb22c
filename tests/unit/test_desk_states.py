"""Where agents sit, why they pause, whose PIN is believed, what cannot last; and two desks on one database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Engine, event, select, update

from ari_app import facts, store
from ari_app.desk import Desk, Duty, FeatureRefused, Reserved, changes_since
from ari_app.flow.duty import day_of, times
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.rules import RuleBook, parse
from ari_app.settings import Queue
from ari_app.store.models import Agent, AgentState, DutyNote
from tests.fake.virtual_time import VirtualTimeLoop
from tests.unit.core_database import Outage, in_file, in_memory
from tests.unit.test_desk import PIN, PIN_HASH, Inbox, settled

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 3, 2, 12, tzinfo=SHANGHAI).timestamp()
CALLER = "PJSIP/trunk-00000001"
"""The name of a caller's channel."""
PAUSES = "[[pauses]]\ncode = '1'\nname = '文书'"
SEQUENCES = int(os.environ.get("SANLING_SEQUENCES", "25"))
"""How many random sequences are tried; thousands take minutes."""


class House:
    """A desk whose day is Shanghai's, beginning at noon."""

    def __init__(self, engine: Engine, rules: str = "", instance: str = "") -> None:
        self.engine = engine
        self.ledger = Ledger(engine, executor=InlineExecutor())
        self.mended: list[Duty] = []
        self.desk = Desk(
            self.ledger, Queue(wrap_up_s=20.0), self.now, rules=RuleBook(parse(rules)), zone=SHANGHAI,
            instance=instance, on_mended=self.mended.append,
        )  # fmt: skip

    def now(self) -> float:
        return NOON + asyncio.get_event_loop().time()

    def duty(self, number: str) -> Duty:
        return self.desk.agent(number).duty

    def joins(self, call: str) -> Inbox:
        inbox = Inbox()
        self.desk.join(call, self.now(), inbox)
        return inbox

    def rows(self) -> dict[str, Agent]:
        with store.session(self.engine) as session:
            return {agent.number: agent for agent in session.scalars(select(Agent))}

    def statements(self) -> list[tuple[str, Any]]:
        """What the database is asked from now on."""
        asked: list[tuple[str, Any]] = []
        event.listen(self.engine, "before_cursor_execute", lambda _c, _k, sql, given, *_: asked.append((sql, given)))
        return asked

    def notes(self) -> list[tuple[str, str, str | None]]:
        with store.session(self.engine) as session:
            found = session.scalars(select(DutyNote).order_by(DutyNote.id))
            return [(note.agent, note.what, note.code) for note in found]


def staffed(*numbers: str, duty: Duty = Duty.SIGNED_OUT) -> Engine:
    engine = in_memory()
    with store.session(engine) as session:
        for number in numbers:
            session.add(
                Agent(number=number, name="", sip_ha1="0" * 32, pin_hash=PIN_HASH, state=duty.value, state_since=NOON)
            )
    return engine


@asynccontextmanager
async def opened(*numbers: str, duty: Duty = Duty.IDLE, rules: str = "") -> AsyncIterator[House]:
    house = House(staffed(*numbers, duty=duty), rules)
    await house.desk.open()
    yield house
    house.desk.close()
    await house.ledger.close()
    house.engine.dispose()


async def refused(work: Any) -> str:
    with pytest.raises(FeatureRefused) as told:
        await work
    return told.value.prompt


# ---------------------------------------------------------------- at which phone


async def test_the_phone_moves_with_the_agent_and_is_left_when_signing_out():
    async with opened("601", "602", duty=Duty.SIGNED_OUT) as house:
        desk = house.desk
        assert desk.phone_of("602") == "602"
        await desk.sign_in("602", "601")
        assert (desk.phone_of("602"), desk.agent_at("601"), desk.agent_at("602")) == ("601", "602", None)
        assert house.rows()["602"].phone == "601"
        await desk.sign_in("602", "602")
        assert (desk.phone_of("602"), desk.agent_at("601")) == ("602", None)
        await desk.sign_out("602")
        assert (desk.agent_at("602"), house.rows()["602"].phone) == (None, None)


async def test_another_who_signs_in_at_a_phone_signs_out_who_is_there():
    async with opened("601", "602") as house:
        await house.desk.pause("601")
        await house.desk.sign_in("602", "601")
        assert (house.duty("601"), house.duty("602")) == (Duty.SIGNED_OUT, Duty.IDLE)
        assert house.desk.agent_at("601") == "602"
        await house.desk.sign_in("601")
        assert (house.duty("601"), house.duty("602")) == (Duty.IDLE, Duty.SIGNED_OUT)


async def test_nobody_signs_in_at_the_phone_of_an_agent_on_a_call_nor_while_on_one():
    async with opened("601", "602", "603") as house:
        house.joins("demo-1.1")
        await settled()
        [held] = [number for number in ("601", "602", "603") if house.duty(number) is Duty.RESERVED]
        [free, _] = [number for number in ("601", "602", "603") if number != held]
        assert await refused(house.desk.sign_in(free, held)) == "agent-phone-taken"
        assert await refused(house.desk.sign_in(held, free)) == "agent-busy"
        assert house.duty(free) is Duty.IDLE
        assert house.desk.agent_at(free) == free


async def test_whoever_dials_at_a_borrowed_phone_is_not_rung_there():
    async with opened("601", "602", duty=Duty.SIGNED_OUT) as house:
        await house.desk.sign_in("602", "601")
        with house.desk.on_the_phone("601"):
            inbox = house.joins("demo-1.1")
            await settled()
            assert inbox.agents == []
        with house.desk.on_the_phone("602"):
            await settled()
            assert inbox.agents == ["602"]


async def test_a_phone_that_another_desk_gave_away_is_not_taken_silently():
    async with opened("601", "602") as house:
        with store.session(house.engine) as session:
            session.execute(
                update(Agent).where(Agent.number == "601").values(phone="605", state="talking", call_id="o-1")
            )
        assert await refused(house.desk.sign_in("602", "605")) == "agent-phone-taken"
        assert house.duty("601") is Duty.TALKING, "the desk has learnt of it"


@asynccontextmanager
async def restarted_while_locked(
    folder: Path, before: Callable[[House], Awaitable[None]], meanwhile: Callable[[House], Awaitable[None]]
) -> AsyncIterator[House]:
    """A house whose desk did `before`, then `meanwhile` with its database locked, which it still is when the next desk
    opens: what was done meanwhile is in the journal alone.
    """
    engine = in_file(folder / "sanling.db")
    with store.session(engine) as session:
        session.add(Agent(number="601", name="", sip_ha1="", pin_hash="", state="idle", state_since=NOON))
    first, after = House(engine), House(engine)
    first.ledger = first.desk._ledger = Ledger(engine, executor=InlineExecutor(), journal=folder)
    await first.desk.open()
    await before(first)
    await first.ledger.flush()
    with closing(sqlite3.connect(folder / "sanling.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await meanwhile(first)
        first.desk.close()
        await first.ledger.close()
        after.ledger = after.desk._ledger = Ledger(engine, executor=InlineExecutor(), journal=folder)
        await after.ledger.open()
        await after.desk.open()
        other.execute("ROLLBACK")
    yield after
    after.desk.close()
    await after.ledger.close()
    engine.dispose()


async def test_an_extended_wrap_up_that_only_the_journal_tells_of_lasts_no_longer_for_a_restart(tmp_path):
    began = 0.0

    async def before(house: House) -> None:
        nonlocal began
        await wraps_up(house)
        began = house.now()

    async def meanwhile(house: House) -> None:
        await asyncio.sleep(10)
        await house.desk.extend("601")

    async with restarted_while_locked(tmp_path, before, meanwhile) as house:
        agent = house.desk.agent("601")
        assert (agent.duty, agent.since, agent.wrap_up_until) == (Duty.WRAP_UP, began, began + 80)


async def test_a_restart_gives_nobody_an_old_pause_back(tmp_path):
    """Yesterday's call out of a pause is in the database, the offer of now in the journal alone."""

    async def before(house: House) -> None:
        await house.desk.pause("601", "1")
        await house.desk.places("demo-out_1.001", "601")
        await house.desk.withdraw("demo-out_1.001", "601")
        assert house.duty("601") is Duty.PAUSED
        await house.desk.resume("601")

    async def meanwhile(house: House) -> None:
        inbox = house.joins("demo-2.1")
        await settled()
        assert inbox.agents == ["601"]

    async with restarted_while_locked(tmp_path, before, meanwhile) as house:
        assert house.duty("601") is Duty.IDLE


async def test_the_phone_outlives_the_desk_and_is_kept_in_the_journal(tmp_path):
    engine = staffed("601")
    first = House(engine)
    first.ledger = first.desk._ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    await first.desk.open()
    await first.desk.sign_in("601", "605")
    outage = Outage(engine)
    outage.away = True
    await first.desk.pause("601", "1")
    await first.desk.resume("601")
    await first.desk.pause("601", "2")
    first.desk.close()
    await first.ledger.close()
    outage.away = False
    after = House(engine)
    after.ledger = after.desk._ledger = Ledger(engine, executor=InlineExecutor(), journal=tmp_path)
    await after.ledger.open()
    await after.desk.open()
    agent = after.desk.agent("601")
    assert (agent.duty, agent.phone, agent.pause_code) == (Duty.PAUSED, "605", "2")
    with store.session(engine) as session:
        codes = session.execute(select(AgentState.now, AgentState.code).order_by(AgentState.id)).all()
    assert codes == [("idle", None), ("paused", "1"), ("idle", None), ("paused", "2")]
    after.desk.close()
    await after.ledger.close()
    engine.dispose()


# ---------------------------------------------------------------- pauses


async def test_a_pause_by_code_tells_what_is_left_of_today():
    async with opened("601") as house:
        taken = await house.desk.pause("601", "1")
        assert (taken.pause.name, taken.left_s) == ("小休", 1800.0)
        await asyncio.sleep(600)
        back = await house.desk.resume("601")
        assert back.left_s == pytest.approx(1200.0, abs=0.1)
        assert (await house.desk.pause("601", "2")).left_s == 3600.0, "another reason has an allowance of its own"
        assert (await house.desk.pause("601", "1")).left_s == pytest.approx(1200.0, abs=0.1)
        assert house.notes() == []


async def test_a_pause_without_an_allowance_or_a_code_has_nothing_left_to_tell():
    async with opened("601") as house:
        assert (await house.desk.pause("601", "3")).left_s is None
        assert await house.desk.pause("601") is None
        assert await house.desk.resume("601") is None
        assert await house.desk.resume("601") is None


async def test_a_code_that_is_not_in_the_rules_is_refused():
    async with opened("601") as house:
        assert await refused(house.desk.pause("601", "9")) == "agent-pause-unknown"
        assert house.duty("601") is Duty.IDLE


async def test_an_allowance_is_noted_in_the_moment_it_is_spent_and_once_a_pause():
    async with opened("601") as house:
        await house.desk.pause("601", "1")
        await asyncio.sleep(1799)
        assert house.notes() == []
        await asyncio.sleep(2)
        assert house.notes() == [("601", "allowance_spent", "1")]
        await asyncio.sleep(3600)
        assert house.duty("601") is Duty.PAUSED
        assert (await house.desk.resume("601")).left_s < 0
        assert (await house.desk.pause("601", "1")).left_s < 0
        await settled()
        await house.ledger.flush()
        assert house.notes() == [("601", "allowance_spent", "1")] * 2


@pytest.mark.horizon(86400)
async def test_an_allowance_is_anew_at_midnight_of_the_hotline():
    async with opened("601") as house:
        await house.desk.pause("601", "1")
        await asyncio.sleep(12 * 3600 + 600)  # it is ten past midnight
        assert (await house.desk.resume("601")).left_s == pytest.approx(1200.0, abs=0.1)
        assert house.notes() == [("601", "allowance_spent", "1")]


async def test_a_restart_notes_what_was_spent_meanwhile_and_nothing_twice():
    engine = staffed("601", duty=Duty.IDLE)
    first = House(engine)
    await first.desk.open()
    await first.desk.pause("601", "1")
    first.desk.close()
    await asyncio.sleep(3000)
    for _ in range(2):
        after = House(engine)
        await after.desk.open()
        await settled()
        await after.ledger.flush()
        assert after.notes() == [("601", "allowance_spent", "1")]
        after.desk.close()


async def test_pauses_go_on_and_are_noted_later_while_the_database_is_away():
    async with opened("601", "602") as house:
        outage = Outage(house.engine)
        outage.away = True
        assert (await house.desk.pause("601", "1")).left_s is None
        inbox = house.joins("demo-1.1")
        await asyncio.sleep(1900)
        assert inbox.agents == ["602"], "offers do not wait for that"
        outage.away = False
        await asyncio.sleep(60)
        assert house.notes() == [("601", "allowance_spent", "1")]


async def test_time_by_duty_and_code_adds_up_to_the_day():
    async with opened("601", duty=Duty.SIGNED_OUT) as house:
        await house.desk.sign_in("601")
        for code, seconds in (("1", 300), ("2", 600), ("1", 60)):
            await house.desk.pause("601", code)
            await asyncio.sleep(seconds)
        await house.desk.sign_out("601")
        await asyncio.sleep(1000)
        begin, end = day_of(NOON, SHANGHAI)
        with store.session(house.engine) as session:
            spent = times(changes_since(session, begin), begin, min(end, house.now()))
        assert {key: round(seconds) for key, seconds in spent.items()} == {
            ("601", Duty.PAUSED, "1"): 360, ("601", Duty.PAUSED, "2"): 600, ("601", Duty.SIGNED_OUT, None): 1000,
        }  # fmt: skip


# ---------------------------------------------------------------- wrap-up


async def wraps_up(house: House, line: str | None = None) -> None:
    house.joins("demo-1.1")
    await settled()
    house.desk.leave("demo-1.1")
    await house.desk.talks("demo-1.1", "601")
    await house.desk.wraps_up("demo-1.1", "601", 60.0, 0.0, line=line)


@pytest.mark.parametrize(("line", "seconds"), [("lawyer", 45), ("party", 20), (None, 20)])
async def test_wrap_up_is_as_long_as_the_line_has_it(line, seconds):
    async with opened("601", rules="[wrap_up.by_line]\nlawyer = 45") as house:
        await wraps_up(house, line)
        await asyncio.sleep(seconds - 0.1)
        assert house.duty("601") is Duty.WRAP_UP
        await asyncio.sleep(0.2)
        assert house.duty("601") is Duty.IDLE


async def test_the_report_counts_wrap_up_that_goes_on_after_a_call_of_which_nothing_came():
    async with opened("601") as house:
        began = house.now()
        await wraps_up(house)
        await asyncio.sleep(8)
        await house.desk.places("demo-out_2.001", "601")
        await asyncio.sleep(4)
        await house.desk.withdraw("demo-out_2.001", "601")
        assert house.duty("601") is Duty.WRAP_UP
        await asyncio.sleep(60)
        assert house.duty("601") is Duty.IDLE
        await house.ledger.flush()
        with store.session(house.engine) as session:
            found = list(facts._wrap_ups(session, began, began + 1000, house.now()))
    assert found == [("demo-1.1", "601", pytest.approx(8)), ("demo-1.1", "601", pytest.approx(8))]


async def test_wrap_up_is_extended_by_code_up_to_its_longest():
    async with opened("601", rules="[wrap_up]\nextension_s = 60\nlongest_s = 100") as house:
        await wraps_up(house)
        await house.desk.extend("601")
        await asyncio.sleep(79)
        assert house.duty("601") is Duty.WRAP_UP
        await house.desk.extend("601")
        assert await refused(house.desk.extend("601")) == "agent-wrap-up-longest"
        await asyncio.sleep(20)
        assert house.duty("601") is Duty.WRAP_UP
        await asyncio.sleep(2)
        assert house.duty("601") is Duty.IDLE
        assert await refused(house.desk.extend("601")) == "agent-not-wrapping-up"


# ---------------------------------------------------------------- PINs


async def test_three_wrong_pins_lock_for_a_while_even_the_right_one():
    async with opened("601", "602") as house:
        assert await house.desk.check_pin("601", PIN)
        assert not await house.desk.check_pin("601", "000000")
        assert not await house.desk.check_pin("601", "000000")
        assert await refused(house.desk.check_pin("601", "000000")) == "agent-locked"
        assert await refused(house.desk.check_pin("601", PIN)) == "agent-locked"
        assert await house.desk.check_pin("602", PIN), "only this agent"
        await asyncio.sleep(301)
        assert await house.desk.check_pin("601", PIN)
        assert [what for _, what, _ in house.notes()] == ["wrong_pin", "wrong_pin", "pin_locked"]


async def test_a_right_pin_begins_the_count_anew():
    async with opened("601") as house:
        for _ in range(3):
            assert not await house.desk.check_pin("601", "000000")
            assert not await house.desk.check_pin("601", "000000")
            assert await house.desk.check_pin("601", PIN)
        assert house.rows()["601"].wrong_pins == 0


async def test_a_lock_outlives_the_desk():
    async with opened("601") as house:
        for _ in range(2):
            await house.desk.check_pin("601", "000000")
        await refused(house.desk.check_pin("601", "000000"))
        again = House(house.engine)
        await again.desk.open()
        assert await refused(again.desk.check_pin("601", PIN)) == "agent-locked"
        again.desk.close()


async def test_wrong_pins_count_while_the_database_takes_no_rows(monkeypatch):
    async with opened("601") as house:
        outage = Outage(house.engine)

        def reads_only(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if not statement.startswith("SELECT"):
                raise outage.error(statement, parameters)

        event.listen(house.engine, "before_cursor_execute", reads_only)
        for _ in range(2):
            assert not await house.desk.check_pin("601", "000000")
        assert await refused(house.desk.check_pin("601", "000000")) == "agent-locked"
        assert await refused(house.desk.check_pin("601", PIN)) == "agent-locked"
        event.remove(house.engine, "before_cursor_execute", reads_only)


# ---------------------------------------------------------------- the watchdog


async def test_whoever_is_reserved_for_too_long_with_no_phone_ringing_is_free_and_it_is_counted():
    async with opened("601") as house:
        inbox = house.joins("demo-1.1")
        await settled()
        await asyncio.sleep(29)
        assert await house.desk.mend({"demo-1.1": CALLER}, house.now()) == []
        await asyncio.sleep(2)
        assert await house.desk.mend({"demo-1.1": CALLER}, house.now()) == [("601", Duty.RESERVED)]
        assert house.mended == [Duty.RESERVED]
        await settled()
        await house.ledger.flush()
        assert house.notes() == [("601", "mended", None)]
        assert inbox.agents == ["601", "601"], "the caller is offered again"


async def test_a_phone_that_rings_is_let_ring_and_one_that_does_not_is_not_waited_for():
    async with opened("601") as house:
        house.joins("demo-1.1")
        await settled()
        house.desk.rings("demo-1.1", "601")
        await settled()
        assert house.duty("601") is Duty.RINGING
        await asyncio.sleep(40)
        assert await house.desk.mend({"demo-1.1": CALLER, "demo-1.1~offer-1": "PJSIP/601-2"}, house.now()) == []
        assert await house.desk.mend({"demo-1.1": CALLER, "demo-2.1~offer-1": "PJSIP/601-2"}, house.now() - 36) == [], (
            "it was not seen yet"
        )
        assert await house.desk.mend({"demo-1.1": CALLER, "demo-2.1~offer-1": "PJSIP/601-2"}, house.now()) == [
            ("601", Duty.RINGING)
        ]


async def test_a_second_agent_is_held_as_long_as_the_own_phone_has_a_channel_whatever_others_have():
    async with opened("601", "602") as house:
        house.joins("demo-1.1")
        house.joins("demo-1.1~second")
        await settled()
        house.desk.rings("demo-1.1~second", "602")
        await house.desk.talks("demo-1.1", "601")
        await asyncio.sleep(6)
        others = {"demo-1.1": CALLER, "demo-1.1~offer-1": "PJSIP/601-3", "demo-1.1~line": "PJSIP/trunk-4",
                  "demo-1.10~offer-2": "PJSIP/602-5"}  # fmt: skip
        assert await house.desk.mend({**others, "demo-1.1~offer-2": "PJSIP/602-6"}, house.now()) == []
        assert await house.desk.mend(others, house.now()) == [("602", Duty.RINGING)]
        assert house.duty("601") is Duty.TALKING


# ---------------------------------------------------------------- back to a pause


async def test_whoever_calls_out_of_a_pause_and_reaches_nobody_is_paused_as_before():
    async with opened("601", rules=PAUSES) as house:
        await house.desk.pause("601", "1")
        await asyncio.sleep(60)
        waits = house.joins("demo-1.1")
        await house.desk.places("demo-2.1", "601")
        house.desk.rings("demo-2.1", "601")
        await house.desk.mend({"demo-2.1~offer-1": "PJSIP/601-1"}, house.now())
        await house.desk.forget("demo-2.1")
        await settled()
        agent, row = house.desk.agent("601"), house.rows()["601"]
        assert (agent.duty, agent.pause_code, agent.since) == (Duty.PAUSED, "1", NOON)
        assert (row.state, row.pause_code, row.call_id) == ("paused", "1", None)
        assert waits.agents == []
        await house.desk.resume("601")
        await settled()
        assert waits.agents == ["601"]


async def test_wrap_up_goes_on_after_a_call_that_reached_nobody_and_counts_once():
    async with opened("601") as house:
        handled: list[str] = []
        house.desk._on_wrapped_up = lambda number, *_: handled.append(number)
        await wraps_up(house)
        await asyncio.sleep(5)
        await house.desk.places("demo-9.1", "601")
        await asyncio.sleep(5)
        await house.desk.forget("demo-9.1")
        assert house.duty("601") is Duty.WRAP_UP
        await asyncio.sleep(9)
        assert house.duty("601") is Duty.WRAP_UP
        await asyncio.sleep(2)
        assert (house.duty("601"), handled) == (Duty.IDLE, ["601"])


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_pause_outlives_the_desk_in_the_middle_of_a_call_that_is_placed(goes_on):
    async with opened("601", rules=PAUSES) as house:
        await house.desk.pause("601", "1")
        await house.desk.places("demo-2.1", "601")
        again = House(house.engine, PAUSES)
        await again.desk.open(["demo-2.1"] if goes_on else [])
        await again.desk.forget("demo-2.1")
        assert (again.duty("601"), again.rows()["601"].pause_code) == (Duty.PAUSED, "1")
        again.desk.close()


async def test_a_wrap_up_that_nobody_ends_is_ended():
    async with opened("601") as house:
        await wraps_up(house)
        house.desk._timers["601"].cancel()
        await asyncio.sleep(24)
        assert await house.desk.mend({}, house.now()) == []
        await asyncio.sleep(2)
        assert await house.desk.mend({}, house.now()) == [("601", Duty.WRAP_UP)]
        assert house.duty("601") is Duty.IDLE


async def test_the_watchdog_meets_who_was_added_and_forgets_who_is_gone():
    async with opened("601", "602") as house:
        with store.session(house.engine) as session:
            session.delete(session.get(Agent, "602"))
            session.add(Agent(number="603", name="", sip_ha1="0" * 32, pin_hash="", state="idle"))
        await house.desk.mend({}, house.now())
        assert {agent.number for agent in house.desk.agents()} == {"601", "603"}


async def test_at_the_start_only_the_last_talk_of_those_in_wrap_up_is_read():
    async with opened("601", "602") as house:
        house.joins("demo-1.1")
        await settled()
        await house.desk.talks("demo-1.1", "601")
        await asyncio.sleep(60)
        await house.desk.wraps_up("demo-1.1", "601", 60.0, 0.0)
        asked = house.statements()
        again = House(house.engine)
        await again.desk.open()
        talks = [one for one in asked if "agent_states" in one[0]]
        with house.engine.connect() as connection:
            plans = [
                row.detail
                for statement, parameters in talks
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]
        assert any("ix_agent_states_agent_now (agent=? AND now=?)" in plan for plan in plans)
        assert not [plan for plan in plans if plan.startswith("SCAN agent_states") or "TEMP B-TREE" in plan]
        assert again.desk._talked == {"601": (pytest.approx(60.0), 0.0)}
        again.desk.close()


# ---------------------------------------------------------------- consulting and handing over


async def test_a_call_is_handed_over_to_the_agent_who_was_consulted():
    async with opened("601", "602") as house:
        house.joins("demo-1.1")
        await settled()
        await house.desk.talks("demo-1.1", "601")
        second = house.joins("demo-1.1~consult-1")
        await settled()
        assert second.agents == ["602"]
        await house.desk.talks("demo-1.1~consult-1", "602")
        await house.desk.consults("demo-1.1", "601")
        assert (house.duty("601"), house.duty("602")) == (Duty.CONSULTING, Duty.TALKING)
        assert await house.desk.free_the_forgotten(["demo-1.1"]) == []
        await house.desk.wraps_up("demo-1.1", "601", 60.0, 0.0)
        await house.desk.takes_over("demo-1.1~consult-1", "demo-1.1", "602")
        assert house.desk.agent("602").call_id == "demo-1.1"
        await house.desk.wraps_up("demo-1.1", "602", 60.0, 0.0)
        assert (house.duty("601"), house.duty("602")) == (Duty.WRAP_UP, Duty.WRAP_UP)


async def test_the_end_of_a_call_frees_all_who_are_held_for_it():
    async with opened("601", "602") as house:
        house.joins("demo-1.1")
        house.joins("demo-1.1~consult-1")
        await settled()
        await house.desk.forget("demo-1.1")
        assert (house.duty("601"), house.duty("602")) == (Duty.IDLE, Duty.IDLE)


# ---------------------------------------------------------------- two desks on one database

NUMBERS = ("601", "602", "603")


class TwoDesks(RuleBasedStateMachine):
    """Two hotlines share three agents, who sign in at whatever phone; each desk believes its own memory until the
    database says otherwise.
    """

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop(horizon_s=10 * 24 * 3600.0)
        asyncio.set_event_loop(self.loop)
        self.engine = self.database()
        self.houses = {name: House(self.engine, instance=name) for name in ("east", "west")}
        self.calls = count(1)
        self.waiting: dict[str, str] = {}
        self.held: dict[str, str] = {}
        """What each call is told: call → agent."""
        self.early: list[asyncio.Future[bool]] = []
        for house in self.houses.values():
            self.does(house.desk.open())

    def database(self) -> Engine:
        return staffed(*NUMBERS)

    def does(self, *coros: Any) -> list[Any]:
        async def work() -> list[Any]:
            results = await asyncio.gather(*coros, return_exceptions=True)
            await settled()
            while not all(stands.done() for stands in self.early):
                await asyncio.sleep(0.01)  # who was told early and cannot have the agent joins again soon
                await settled()
            self.early.clear()
            return results

        results = self.loop.run_until_complete(work())
        assert not self.loop.failures
        for result in results:
            assert result is None or not isinstance(result, Exception) or isinstance(result, FeatureRefused), result
        return results

    def teardown(self) -> None:
        for house in self.houses.values():
            house.desk.close()
            self.loop.run_until_complete(house.ledger.close())
        self.engine.dispose()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        asyncio.set_event_loop(None)

    def desk_of(self, call: str) -> Desk:
        return self.houses[call.partition("-")[0]].desk

    def joins(self, call: str) -> None:
        """Every second call hears of its agent while that is written down."""
        name, _, n = call.partition("-")
        inbox = Inbox(
            lambda reserved: self.told_early(call, reserved) if reserved.stands else self.told(call, reserved)
        )
        self.desk_of(call).join(call, self.houses[name].now(), inbox, early=int(n) % 2 == 1)

    def told_early(self, call: str, reserved: Reserved) -> None:
        def settled(stands: asyncio.Future[bool]) -> None:
            if stands.result():
                self.told(call, reserved)
            elif call in self.waiting:
                self.joins(call)

        assert reserved.stands is not None
        self.early.append(reserved.stands)
        reserved.stands.add_done_callback(settled)

    def told(self, call: str, reserved: Reserved) -> None:
        assert reserved.agent not in self.held.values(), f"{reserved.agent} is offered {call} and holds another"
        assert call not in self.held
        del self.waiting[call]
        self.held[call] = reserved.agent

    @initialize()
    def everybody_signs_in(self) -> None:
        self.does(*(self.houses["east"].desk.sign_in(number) for number in NUMBERS))

    @rule(at=st.lists(st.sampled_from(["east", "west"]), min_size=1, max_size=4))
    def callers_join_at_once(self, at: list[str]) -> None:
        async def join() -> None:
            for name in at:
                call = f"{name}-{next(self.calls)}"
                self.waiting[call] = name
                self.joins(call)

        self.does(join())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiting_caller_hangs_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.waiting)))

        async def leave() -> None:
            del self.waiting[call]
            self.desk_of(call).leave(call)

        self.does(leave())

    @precondition(lambda self: self.held)
    @rule(data=st.data(), what=st.sampled_from(["rings", "talks", "consults", "returns"]))
    def a_call_goes_on(self, data: st.DataObject, what: str) -> None:
        call = data.draw(st.sampled_from(sorted(self.held)))

        async def tell() -> None:
            told = getattr(self.desk_of(call), what)(call, self.held[call])
            if told is not None:
                await told

        self.does(tell())

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["withdraw", "did_not_answer", "wraps_up"]))
    def a_call_ends(self, data: st.DataObject, how: str) -> None:
        call = data.draw(st.sampled_from(sorted(self.held)))
        agent = self.held.pop(call)
        desk = self.desk_of(call)
        more = {"withdraw": (), "did_not_answer": ("refused",), "wraps_up": (60.0, 0.0)}[how]

        async def end() -> None:
            desk.leave(call)
            await getattr(desk, how)(call, agent, *more)

        self.does(end())

    @rule(
        dialled=st.lists(
            st.tuples(
                st.sampled_from(["east", "west"]),
                st.sampled_from(NUMBERS),
                st.sampled_from(["sign_out", "pause", "resume", "ready", "extend", *(f"sign_in {n}" for n in NUMBERS)]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def agents_dial_codes_at_once(self, dialled: list[tuple[str, str, str]]) -> None:
        def one(name: str, number: str, code: str) -> Any:
            verb, _, phone = code.partition(" ")
            return getattr(self.houses[name].desk, verb)(number, *([phone] if phone else []))

        self.does(*(one(*code) for code in dialled))

    @rule(name=st.sampled_from(["east", "west"]))
    def the_watchdog_looks(self, name: str) -> None:
        house = self.houses[name]
        channels = {f"{call}~offer-{phone}": f"PJSIP/{phone}-1" for call in self.held for phone in NUMBERS}
        [mended] = self.does(house.desk.mend(channels, NOON + self.loop.time()))
        assert all(duty is Duty.WRAP_UP for _, duty in mended)

    @rule(name=st.sampled_from(["east", "west"]))
    def a_desk_frees_the_forgotten(self, name: str) -> None:
        [freed] = self.does(self.houses[name].desk.free_the_forgotten([*self.held]))
        assert freed == []

    @rule(seconds=st.sampled_from([0.5, 19.9, 20.1, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.does(asyncio.sleep(seconds))

    @invariant()
    def the_database_has_each_agent_on_the_one_call_that_was_told_of_it(self) -> None:
        rows = self.houses["east"].rows()
        assert {row.call_id: row.number for row in rows.values() if row.call_id is not None} == self.held

    @invariant()
    def nobody_shares_a_phone(self) -> None:
        phones = [row.phone for row in self.houses["east"].rows().values() if row.phone is not None]
        assert len(set(phones)) == len(phones)

    @invariant()
    def each_change_begins_where_another_ended(self) -> None:
        """Two desks number their rows apart: those of one moment have no order, but they make a path in some order."""
        with store.session(self.engine) as session:
            rows = session.execute(select(AgentState.agent, AgentState.was, AgentState.now)).all()
        for number, agent in self.houses["east"].rows().items():
            entered = Counter(now for one, _, now in rows if one == number)
            left = Counter(was for one, was, _ in rows if one == number)
            entered.update(["signed_out"])
            left.update([agent.state])
            assert entered == left


TestTwoDesks = pytest.mark.timeout(600)(TwoDesks.TestCase)
TestTwoDesks.settings = settings(
    max_examples=SEQUENCES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
