"""Who gets whom, told as calls: skills, widening, the agent of the last time, who declined, priority, changed rules."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import delete

from ari_app.errors import SettingsInvalid
from ari_app.flow.fairness import overtakings
from ari_app.rules import RuleBook, load
from ari_app.staff import set_skill
from ari_app.store.models import AgentSkill
from ari_app.waiting import happened
from tests.calls.house import PARTY, STRANGER, FakeHouse

LOOKED_AFTER_S = 11.0
"""Skills that were set in the database hold by then."""
OTHER = "15400009998"
VERIFIED = ("2", "1", "12345#", "99#")


@asynccontextmanager
async def skilled(hotline, **agents):
    """With levels, ``a601={"party": 1}``, which the desk knows; and as before afterwards."""
    for number, skills in agents.items():
        for skill, level in skills.items():
            await hotline.ask(lambda s, n=number[1:], k=skill, v=level: set_skill(s, n, k, v))
    await asyncio.sleep(LOOKED_AFTER_S)
    try:
        yield
    finally:
        await hotline.ask(lambda s: s.execute(delete(AgentSkill)).close())
        await asyncio.sleep(LOOKED_AFTER_S)


async def waits(hotline, from_=STRANGER, *keys):
    """A caller who has chosen, and waits for an agent; without keys, 0 is pressed."""
    caller = await hotline.rings(from_=from_)
    await caller.answered()
    for key in keys or ("0",):
        await asyncio.sleep(0.8)
        await caller.keys(key)
    return caller


async def talks(agent, caller):
    offer = await agent.rings()
    await offer.picks_up()
    await caller.hears(f"opening-agent-{agent.number}", partly=True)
    return offer


async def dials(hotline, agent, code, said):
    call = await agent.dials(code)
    await call.hears(said)
    await call.ended()


async def nobody_was_overtaken(hotline):
    told = await hotline.ask(lambda s: happened(s, 0.0, 1e12))
    assert any(one.event == "offered" for one in told)
    assert list(overtakings(told)) == []


async def test_a_caller_goes_to_an_agent_of_the_line_though_another_is_idle_longer(hotline):
    async with skilled(hotline, a601={"lawyer": 4}):
        await hotline.agent_signs_in("601")
        party_agent = await hotline.agent_signs_in("602")
        caller = await waits(hotline)
        await talks(party_agent, caller)
        caller.hang_up()
        await hotline.ending()
        assert [agent for agent, _ in await hotline.offers()] == ["602"] * 3
        await nobody_was_overtaken(hotline)


async def test_the_best_agent_is_rung_first(hotline):
    async with skilled(hotline, a602={"party": 5}):
        await hotline.agent_signs_in("601")
        best = await hotline.agent_signs_in("602")
        caller = await waits(hotline)
        await talks(best, caller)
        caller.hang_up()
        await hotline.ending()


async def test_an_agent_who_only_helps_out_is_rung_after_twenty_seconds(hotline):
    async with skilled(hotline, a603={"party": 1}):
        helper = await hotline.agent_signs_in("603")
        caller = await waits(hotline)
        await caller.hears("transferring")
        began = asyncio.get_running_loop().time()
        offer = await helper.rings(timeout_s=30)
        assert 16 < asyncio.get_running_loop().time() - began < 24
        await offer.picks_up()
        caller.hang_up()
        await hotline.ending()
        await nobody_was_overtaken(hotline)


@pytest.mark.fake_only
async def test_the_agent_of_the_last_time_is_rung_first(hotline):
    last = await hotline.agent_signs_in("605")
    caller = await waits(hotline, PARTY, *VERIFIED, "1")
    await talks(last, caller)
    await hotline.agent_signs_in("604")
    caller.hang_up()
    await hotline.ending()
    await dials(hotline, last, "*15", "agent-ready")
    await hotline.duty_becomes("605", "idle")
    again = await waits(hotline, PARTY, *VERIFIED, "3")
    await talks(last, again)
    again.hang_up()
    await hotline.ending()
    await nobody_was_overtaken(hotline)


@pytest.mark.fake_only
async def test_whoever_declined_is_not_offered_the_call_again_while_somebody_else_could_take_it(hotline):
    first, second = await hotline.agent_signs_in("606"), await hotline.agent_signs_in("607")
    talking = await waits(hotline)
    with_first = await talks(first, talking)
    caller = await waits(hotline, OTHER)
    (await second.rings()).refuses(603)
    await hotline.duty_becomes("607", "no_answer")
    await dials(hotline, second, f"*14{hotline.access['607'].pin}", "agent-resumed")
    await asyncio.sleep(8)
    assert await hotline.duty("607") == "idle", "though free"
    talking.hang_up()
    await with_first.ended()
    await dials(hotline, first, "*15", "agent-ready")
    await talks(first, caller)
    caller.hang_up()
    await hotline.ending()
    await nobody_was_overtaken(hotline)


@pytest.mark.fake_only
async def test_whoever_declined_is_offered_the_call_again_if_nobody_else_could_take_it(hotline):
    only = await hotline.agent_signs_in("608")
    caller = await waits(hotline)
    (await only.rings()).refuses(603)
    await hotline.duty_becomes("608", "no_answer")
    await dials(hotline, only, f"*14{hotline.access['608'].pin}", "agent-resumed")
    await talks(only, caller)
    caller.hang_up()
    await hotline.ending()


@pytest.mark.fake_only
async def test_something_pressing_comes_first(hotline):
    agent = await hotline.agent_signs_in("609")
    talking = await waits(hotline)
    with_agent = await talks(agent, talking)
    ordinary = await waits(hotline, OTHER)
    await ordinary.hears("transferring")
    pressing = await waits(hotline, PARTY, *VERIFIED, "4")
    await pressing.hears("transferring")
    talking.hang_up()
    await with_agent.ended()
    await dials(hotline, agent, "*15", "agent-ready")
    offer = await talks(agent, pressing)
    pressing.hang_up()
    await offer.ended()
    await dials(hotline, agent, "*15", "agent-ready")
    await talks(agent, ordinary)
    ordinary.hang_up()
    await hotline.ending()
    await nobody_was_overtaken(hotline)


# ---------------------------------------------------------------- over the fake only


@pytest.mark.parametrize("dies", [False, True], ids=["reloaded", "a controller later"])
async def test_changed_rules_hold_at_once_and_bad_ones_never_and_nobody_loses_the_place(tmp_path, dies):
    file = tmp_path / "desk.toml"
    file.write_text("", encoding="utf-8")
    house = FakeHouse()
    house.rules = RuleBook(load(file), file)
    async with house as hotline:
        await hotline.ask(lambda s: set_skill(s, "601", "party", 1))
        helper = await hotline.agent_signs_in("601")
        await asyncio.sleep(LOOKED_AFTER_S)
        first = await waits(hotline)
        second = await waits(hotline, OTHER)
        await asyncio.sleep(5)
        file.write_text("[lines.party]\nsteps = [{ after_s = 3 }]\n", encoding="utf-8")
        with pytest.raises(SettingsInvalid, match=r"line 2: .*after_s = 0"):
            hotline.house.desk.reload()
        assert hotline.house.desk.queue_length == 2
        file.write_text("[lines.party]\nsteps = [{ after_s = 0 }]\n", encoding="utf-8")
        hotline.house.desk.reload()
        if dies:
            await hotline.controller_dies()
            await hotline.controller_starts()
        offer = await talks(helper, first)
        assert hotline.house.desk.queue_length == 1
        first.hang_up()
        await offer.ended()
        await dials(hotline, helper, "*15", "agent-ready")
        await talks(helper, second)
        second.hang_up()
        await hotline.ending()
        await nobody_was_overtaken(hotline)


async def test_callers_of_another_number_are_served_in_its_language():
    async with FakeHouse(
        rules='[routing.language_by_number]\n12369 = "english"\n', hotline_numbers=("12368", "12369")
    ) as hotline:
        await hotline.ask(lambda s: set_skill(s, "602", "english", 3))
        await hotline.agent_signs_in("601")
        english = await hotline.agent_signs_in("602")
        await asyncio.sleep(LOOKED_AFTER_S)
        caller = await hotline.asterisk.phones.caller(STRANGER).dials("12369")
        await caller.answered()
        await caller.keys("0")
        await talks(english, caller)
        caller.hang_up()
        await hotline.ending()
