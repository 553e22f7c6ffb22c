"""What real calls leave behind: recordings, callbacks, figures. Real Asterisk only."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sqlalchemy import select

from ari_app import founding, store
from ari_app.flow.measures import SHORT_ABANDON_S
from ari_app.flow.sop import State
from ari_app.instance import environment_of
from ari_app.processes import end_child, start_child
from ari_app.settings import load
from ari_app.store import models
from ari_app.testcall.hearing import Ear, PromptSounds
from ari_app.testcall.phone import Phones
from tests.calls.house import NUMBER, PARTY, STRANGER
from tests.calls.paths import reach
from tests.calls.real import RealHouse, Running, own_network
from tests.integration.prometheus import NOTHING_FAILED, Prometheus

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(240)]

STORED_WITHIN_S = 30.0


@pytest.fixture
def hotline():
    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), {}))


async def stored(hotline) -> list[models.Recording]:
    """Both copies of the last call, once they are in the ledger."""

    def read(session):
        last = session.scalar(select(models.Call.id).order_by(models.Call.at.desc(), models.Call.id.desc()).limit(1))
        return list(session.scalars(select(models.Recording).where(models.Recording.call_id == last)))

    for _ in range(round(STORED_WITHIN_S / 0.2)):
        rows = await hotline.ask(read)
        if len(rows) == 2:
            return rows
        await asyncio.sleep(0.2)
    raise AssertionError(f"stored {[row.store for row in rows]} only")


def judge(rows: list[models.Recording]) -> tuple[float, np.ndarray]:
    """Seconds and samples of a recording whose two copies must be the same, stereo, and as the ledger says."""
    copies = {hashlib.sha256(Path(row.path).read_bytes()).hexdigest() for row in rows}
    assert copies == {rows[0].sha256} == {rows[1].sha256}
    assert {row.store for row in rows} == {"local", "second"}
    samples, rate = soundfile.read(rows[0].path, dtype="float32", always_2d=True)
    assert samples.shape[1] == rows[0].channels == 2
    return len(samples) / rate, samples


async def test_a_whole_call_is_recorded_with_the_caller_on_the_left_and_what_was_heard_on_the_right(hotline):
    agent = await hotline.agent_signs_in("608")
    caller, offer = await reach(hotline, State.TALKING, agent)
    await caller.says(hotline.settings.prompts / "audio" / "wait-7.alaw")
    await offer.says(hotline.settings.prompts / "audio" / "position-7.alaw")
    caller.hang_up()
    await hotline.ending()
    seconds, samples = judge(await stored(hotline))
    assert abs(seconds - (caller.ended_at - caller.answered_at)) < 0.5
    ear = hotline.running.ear
    assert ear.judge(samples[:, 0], "wait-7").whole
    assert ear.judge(samples[:, 1], "position-7").whole
    heard, recorded = ear.judge(caller.heard.samples, "position-7"), ear.judge(samples[:, 1], "position-7")
    into_the_call = caller.heard.t0 + heard.at_s - caller.answered_at
    assert abs(into_the_call - recorded.at_s) < 0.4


async def test_what_is_said_after_the_agent_has_left_is_recorded_too(hotline):
    agent = await hotline.agent_signs_in("610")
    caller, offer = await reach(hotline, State.TALKING, agent)
    offer.hang_up()
    await caller.hears("closing")
    await caller.keys("0")
    await caller.hears("transferring")
    caller.hang_up()
    await hotline.ending()
    _, samples = judge(await stored(hotline))
    ear = hotline.running.ear
    assert ear.judge(samples[:, 1], "closing").whole
    assert ear.judge(samples[:, 1], "transferring", from_s=8.0).whole


async def test_a_caller_who_hangs_up_in_the_greeting_leaves_a_recording(hotline):
    caller = await hotline.rings(from_=STRANGER)
    await caller.answered()
    await asyncio.sleep(1.5)
    caller.hang_up()
    await hotline.ending()
    seconds, _ = judge(await stored(hotline))
    assert 1.0 < seconds < 3.0


async def test_a_call_of_one_second_leaves_a_recording(hotline):
    caller = await hotline.rings(from_=STRANGER)
    await caller.ringing()
    await asyncio.sleep(0.6)
    caller.hang_up()
    await hotline.ending()
    judge(await stored(hotline))


NOT_IN_THESE_CALLS = {
    "wall: 待回电 Callbacks left": "nobody leaves a number",
    "wall: 回电结果 Callbacks by result": "nobody is called back; test_outbound_real.py",
    "wall: 外呼 Calls placed": "nobody is called",
    "wall: 外呼用时 Time of calls placed, {{purpose}} 振铃 ringing": "nobody is called",
    "wall: 外呼用时 Time of calls placed, {{purpose}} 通话 talk": "nobody is called",
    "system: 已判通话 Talks judged": "the talk is too short; test_one_way_audio_real.py",
    "system: 待存录音 Recordings pending": "they are stored between two scrapes",
    "system: 最久未存 Oldest recording pending": "they are stored between two scrapes",
}
"""Panels that may show zero only, and why."""


async def is_proven(hotline) -> Any:
    """A party, who calls about something pressing."""
    caller = await hotline.rings(from_=PARTY)
    await caller.answered()
    await caller.keys("2112345#99#")
    await caller.hears("ask-need")
    await caller.keys("4")
    return caller


async def is_asked_and_let_go(caller: Any) -> None:
    await caller.hears("ask-rating")
    await caller.keys("5")
    await caller.ended()


async def keys_what_came_of_it(agent: Any, offer: Any) -> None:
    await offer.ended()
    keying = await agent.dials("*1741")
    await keying.hears("disposition-noted")
    await keying.ended()


async def test_every_panel_of_the_dashboards_shows_something_of_real_calls(hotline):
    """A caller is served, rates that, calls again about the same and, since the agent refuses, gives up."""
    target = f"{hotline.settings.address}:{hotline.settings.metrics_port}"
    async with Prometheus(target) as prometheus:
        await prometheus.scraped_again()
        agent = await hotline.agent_signs_in("609")
        caller = await is_proven(hotline)
        offer = await agent.rings()
        await offer.picks_up()
        await caller.hears("opening-agent-609", partly=True)
        await offer.keys("*5")
        await caller.hears("disclaimer")
        await offer.keys("*6")
        await asyncio.gather(is_asked_and_let_go(caller), keys_what_came_of_it(agent, offer))
        await stored(hotline)
        await hotline.duty_becomes("609", "idle", within_s=15)
        again = await is_proven(hotline)
        (await agent.rings()).refuses(603)
        await hotline.call_is(State.WAITING)
        await asyncio.sleep(SHORT_ABANDON_S + 1.0)
        again.hang_up()
        assert (await hotline.ending()).outcome == "abandoned"
        await prometheus.scraped_again()
        assert await prometheus.idle_panels(may_be_zero=NOTHING_FAILED | NOT_IN_THESE_CALLS) == []


async def test_while_the_controller_is_away_callers_hear_an_apology_and_leave_their_number(tmp_path):
    net = own_network(7)
    settings = load(
        Path(os.devnull), {}, instance="away", address=f"{net}.1", var_dir=str(tmp_path),
        trunk={"addresses": [f"{net}.0/24"]},
    )  # fmt: skip
    instance = founding.prepare(settings, say=lambda line: None)
    await instance.start_asterisk()
    engine = store.open_engine(settings.database)
    try:
        ear = Ear({**PromptSounds(settings.prompts / "audio")})
        async with Phones(f"{net}.2", ear=ear) as phones:
            caller = await phones.caller(STRANGER).dials(NUMBER, at=f"{settings.address}:5060")
            await caller.answered()
            await caller.hears("fallback-sorry")
            await caller.hears("fallback-leave-number")
            await caller.keys("15400008888#")
            await caller.hears("fallback-noted")
            await caller.ended()
        with (tmp_path / "controller.log").open("ab") as out:
            controller = await start_child([sys.executable, "-m", "ari_app"], environment_of(settings), out)
        try:
            await _until(lambda: _rows(engine, models.Callback) == ["15400008888"])
            await _until(lambda: sorted(_rows(engine, models.Recording)) == ["local", "second"])
            assert _rows(engine, models.Ending) == ["fallback"]
        finally:
            await end_child(controller)
        assert not list((settings.spool_dir / "callbacks").glob("*"))
    finally:
        engine.dispose()
        await instance.stop()


def _rows(engine, model) -> list[str]:
    column = {models.Callback: "number", models.Recording: "store", models.Ending: "outcome"}[model]
    with store.session(engine) as session:
        return [getattr(row, column) for row in session.scalars(select(model))]


async def _until(holds, within_s: float = 30.0) -> None:
    for _ in range(round(within_s / 0.2)):
        if holds():
            return
        await asyncio.sleep(0.2)
    assert holds()
