"""One kill -9 of the controller, on a real Asterisk with real phones, while callers are in every kind of state."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from sqlalchemy import func, select

from ari_app import ledger
from ari_app.flow.sop import State
from ari_app.store import models
from ari_app.supervision import look
from tests.calls.house import PARTY, Script
from tests.calls.paths import reach
from tests.calls.real import RealHouse, Running

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(240)]

SILENCE_S = 5.0


@pytest.fixture
def hotline() -> Script:
    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), {}))


def controller_of(hotline: RealHouse) -> int | None:
    """The process id of this hotline's controller."""
    standing = look(hotline.settings)
    assert standing is not None
    return standing.parts["controller"].pid


async def another_controller(hotline: RealHouse, than: int) -> None:
    for _ in range(100):
        if controller_of(hotline) not in (than, None):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the controller was not started again")


async def answers(caller: Any, prompt: str, keys: str, next_prompt: str, killed_at: float) -> None:
    """Hears the apology soon, then the same question; what is keyed counts, with all that was keyed before."""
    apology = await caller.hears("interrupted", within_s=8)
    assert caller.heard.t0 + apology.at_s - killed_at <= SILENCE_S
    await caller.hears(prompt)
    await caller.keys(keys)
    await caller.hears(next_prompt)
    caller.hang_up()


async def test_one_kill_and_callers_in_every_kind_of_state(hotline):
    talker = await hotline.agent_signs_in("601")
    talking, talk = await reach(hotline, State.TALKING, talker, from_="15400009001")
    licence, _ = await reach(hotline, State.LAWYER_LICENCE, from_="15400009004")
    need, _ = await reach(hotline, State.ASKING_NEED, from_=PARTY)
    case, _ = await reach(hotline, State.PARTY_CASE, from_="15400009005")
    ringer = await hotline.agent_signs_in("602")
    offered, offer = await reach(hotline, State.OFFERING, ringer, from_="15400009002")
    waiting, _ = await reach(hotline, State.WAITING, from_="15400009003")
    greeted, _ = await reach(hotline, State.GREETING, from_="15400009006")
    killed = controller_of(hotline)
    assert killed is not None
    await hotline.phones._seat(1)  # a handset takes longer to start than the gap lasts
    killed_at = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    in_gap, _ = await asyncio.gather(hotline.rings(from_="15400009007"), offer.picks_up())  # while nobody is there
    await asyncio.gather(
        answers(licence, "ask-licence", "0417#", "ask-own-number", killed_at),
        answers(need, "ask-need", "2", "transferring", killed_at),
        answers(case, "ask-case", "12345#", "ask-name", killed_at),
        answers(greeted, "opening", "*", "ask-role", killed_at),
        another_controller(hotline, killed),
        in_gap.hears("fallback-sorry"),
    )
    in_gap.hang_up()
    await offered.hears("opening-agent-602", partly=True)
    await waiting.hears("hold-music", from_s=killed_at - waiting.heard.t0 + 3)
    await talk.keys("*5")
    await talking.hears("disclaimer")
    await talk.keys("*6")
    await talking.hears("closing")
    again = await talker.rings(30)  # wrap-up goes by, then the caller who waited
    await again.picks_up()
    await waiting.hears("opening-agent-601", partly=True)
    heard = [one.prompt for call in (talking, offered, waiting) for one in await call.transcript()]
    assert "interrupted" not in heard
    await hotline.nobody_is_called_back()  # whoever heard the fallback would be, by the agents who are free now
    for call in (offered, waiting):
        call.hang_up()
    await talking.ended()
    assert talking.hung_up_by == "them"
    await hotline.nothing_is_left()
    for number in ("601", "602"):
        await hotline.duty_becomes(number, "idle", within_s=20)
    await asyncio.sleep(2)

    def judge(session: Any) -> tuple[int, dict[str, int], list[str]]:
        came = models.Call.at >= hotline.since  # this hotline has served other scripts before
        calls = list(session.scalars(select(models.Call).where(models.Call.caller_number.startswith("154000"), came)))
        stored = dict(
            session.execute(select(models.Recording.call_id, func.count()).group_by(models.Recording.call_id)).all()
        )
        outcomes = []
        for call in calls:
            ledger.replay(session, call.id)
            outcomes.append(session.get(models.Ending, call.id).outcome)
        return len(calls), {call.id: stored.get(call.id, 0) for call in calls}, outcomes

    count, stored, outcomes = await hotline.ask(judge)
    assert count >= 7
    assert set(stored.values()) == {2}
    assert outcomes.count("handled") >= 3


@pytest.mark.parametrize("ends_by", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_asterisk_ends_and_whoever_was_cut_off_is_called_back_first(hotline, ends_by):
    """Stopped in order, it hangs everybody up before it goes."""
    first, second, third = (f"15400009{ends_by.value:02d}{n}" for n in range(3))
    agent = await hotline.agent_signs_in("603")
    talking, talk = await reach(hotline, State.TALKING, agent, from_=first)
    waiting, _ = await reach(hotline, State.WAITING, from_=second)
    await asyncio.sleep(1)
    os.kill(asterisk_of(hotline), ends_by)
    await asyncio.sleep(2)
    for call in (talking, talk, waiting):  # nobody tells the phones: people hear that the line is dead
        call.hang_up()
    calls_back = await agent.rings(60)
    assert "回电" in calls_back.display
    calls_back.refuses(486)
    lost = {first, second}

    def closed(session: Any) -> tuple[set[str | None], set[str], set[str]]:
        """Who was lost, who will be called back, whose call is recorded twice."""
        calls = {c.id: c.caller_number for c in session.scalars(select(models.Call)) if c.caller_number in lost}
        ended = {calls[e.call_id] for e in session.scalars(select(models.Ending)) if e.call_id in calls}
        for call_id in calls:
            ledger.replay(session, call_id)
        asked = {b.number for b in session.scalars(select(models.Callback).where(models.Callback.reason == "lost"))}
        stored = [calls[r.call_id] for r in session.scalars(select(models.Recording)) if r.call_id in calls]
        return ended, asked & lost, {number for number in stored if stored.count(number) == 2}

    for _ in range(60):
        ended, asked, stored = await hotline.ask(closed)
        if (ended, asked, stored) == (lost, lost, lost):
            break
        await asyncio.sleep(1)
    assert (ended, asked, stored) == (lost, lost, lost)
    await hotline.nobody_is_called_back()
    await (await agent.dials("*14")).ended()
    await hotline.duty_becomes("603", "idle")
    await hotline.nothing_is_left()
    newcomer, again = await reach(hotline, State.TALKING, agent, from_=third)
    newcomer.hang_up()
    await again.ended()


def asterisk_of(hotline: RealHouse) -> int:
    return int((hotline.settings.run_dir / "run" / "asterisk.pid").read_text())
