"""The house on a real Asterisk: it starts, it records, it survives what is away, it dials nowhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ari_app import processes, supervision
from ari_app.errors import SetUpFailed
from ari_app.instance import AgentAccount, Instance
from ari_app.processes import Notice
from ari_app.settings import load
from ari_app.supervision import supervise
from tests.asterisk.house_caller import Caller, Samples, strength, to_alaw, tone

pytestmark = pytest.mark.asterisk

TONES = {
    "fallback-sorry": 500,
    "fallback-leave-number": 600,
    "fallback-noted": 700,
    "fallback-goodbye": 800,
    "fallback-agent": 900,
    "hold-music": 440,
}
SPEAKS = 400
"""Hz of the caller's own voice."""

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
HOUSE = f"127.0.51.{100 + WORKER}"
CALLER = f"127.0.51.{150 + WORKER}"
STRANGER = f"127.0.61.{150 + WORKER}"
HOTLINE = (HOUSE, 5060)
PASSWORD = "an-agents-secret"


def account(number: str) -> AgentAccount:
    text = f"{number}:sanling:{PASSWORD}"
    return AgentAccount(number, hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())


def prepared(folder: Path, **overrides: Any) -> Instance:
    audio = folder / "prompts" / "audio"
    audio.mkdir(parents=True)
    for name, hz in TONES.items():
        (audio / f"{name}.alaw").write_bytes(to_alaw(tone(hz, 1.0)))
    settings = load(
        environment={}, instance="house", address=HOUSE, var_dir=str(folder), prompts_dir=str(folder / "prompts"),
        trunk={"addresses": ["127.0.51.0/24"]}, **overrides,
    )  # fmt: skip
    instance = Instance(settings)
    instance.prepare([account("601")])
    return instance


@pytest.fixture
def hotline(tmp_path: Path) -> AbstractAsyncContextManager[Instance]:
    """An Asterisk with nobody behind it: neither controller nor AGI server."""

    @asynccontextmanager
    async def running() -> AsyncIterator[Instance]:
        instance = prepared(tmp_path)
        await instance.start_asterisk()
        try:
            yield instance
        finally:
            await instance.stop()

    return running()


async def recording_of(hotline: Instance, within_s: float = 3.0) -> Samples:
    """The one recording there is, once complete: a row a sample, left and right."""
    folder = hotline.settings.spool_dir / "monitor"
    async with asyncio.timeout(within_s):
        while not (done := list(folder.glob("*.done"))):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)
    (complete,) = done
    assert complete.stem.startswith("house-")
    return np.frombuffer(complete.with_suffix(".raw").read_bytes(), "<i2").reshape(-1, 2)


def callbacks(hotline: Instance) -> list[str]:
    return [file.read_text() for file in (hotline.settings.spool_dir / "callbacks").iterdir()]


async def test_caller_hears_an_apology_and_leaves_a_number_while_the_controller_is_away(hotline: Instance) -> None:
    async with Caller(CALLER, HOTLINE, number="13800001111") as caller:
        await caller.dial("12368")
        await caller.reply(180)
        answer = await caller.answered()
        assert answer.at - caller.dialled_at < 1.0
        await asyncio.sleep(1.5)
        await caller.keys("02155550123#")
        await asyncio.wait_for(caller.hung_up_by_hotline.wait(), 5)
        heard = caller.heard()
    assert strength(heard[:4000], 500) > 0.8
    assert strength(heard[9000:11000], 600) > 0.8
    assert strength(heard[-4000:-800], 700) > 0.8
    (request,) = callbacks(hotline)
    epoch, keyed, own = request.split()
    assert int(epoch) > 1_700_000_000
    assert (keyed, own) == ("02155550123", "13800001111")
    assert request.endswith("\n")
    recording = await recording_of(hotline)
    assert abs(len(recording) - len(heard)) < 0.1 * 8000
    assert strength(recording[:8000, 0], SPEAKS) > 0.8
    assert strength(recording[:8000, 1], 500) > 0.8


async def test_caller_who_keys_nothing_is_called_back_at_the_own_number(hotline: Instance) -> None:
    async with Caller(CALLER, HOTLINE, number="13800001111") as caller:
        await caller.dial("12368")
        await caller.answered()
        await asyncio.wait_for(caller.hung_up_by_hotline.wait(), 15)
    assert callbacks(hotline)[0].split()[1:] == ["13800001111", "13800001111"]


@pytest.mark.parametrize(
    "from_header",
    [
        '"x\\",${SHELL(id)};|&" <sip:anonymous@anonymous.invalid>',
        '"a,b$[1+1]" <sip:%22,$%7BEPOCH%7D)@127.0.0.1>',
        f'"{"n" * 2000}" <sip:{"a" * 2000}@127.0.0.1>',
        '"\udcff\udcfe" <sip:x@127.0.0.1>',
    ],
    ids=["shell", "expression", "long", "not UTF-8"],
)
async def test_an_odd_caller_is_answered_and_injects_nothing(hotline: Instance, from_header: str) -> None:
    async with Caller(CALLER, HOTLINE, from_header=from_header) as caller:
        await caller.dial("12368")
        await caller.answered()
        await asyncio.sleep(2.5)
        await caller.keys("#")
        await asyncio.wait_for(caller.hung_up_by_hotline.wait(), 10)
        assert strength(caller.heard()[-4000:-800], 700) < 0.5
    for request in callbacks(hotline):
        assert request.replace(" ", "").strip().isdigit()
    assert len(await recording_of(hotline)) > 8000


async def test_recording_of_a_second_and_of_a_call_never_answered(hotline: Instance) -> None:
    async with Caller(CALLER, HOTLINE) as caller:
        await caller.dial("12368")
        await caller.answered()
        await asyncio.sleep(1.0)
    recording = await recording_of(hotline)
    assert 0.9 < len(recording) / 8000 < 1.2
    for file in (hotline.settings.spool_dir / "monitor").iterdir():
        file.unlink()
    async with silent_agi_server(), Caller(CALLER, HOTLINE) as caller:
        await caller.dial("12368")
        await caller.reply(180)
        await asyncio.sleep(0.5)
        await caller.hang_up()
        await caller.reply(487)
        assert len(await recording_of(hotline)) == 0


async def test_a_caller_whose_phone_sends_nothing_is_recorded_whole(hotline: Instance) -> None:
    async with Caller(CALLER, HOTLINE) as caller:
        await caller.dial("12368")
        await caller.answered()
        await asyncio.sleep(1.0)
        caller.silent = True
        await asyncio.sleep(4.0)
        caller.silent = False
        await asyncio.sleep(1.0)
    recording = await recording_of(hotline)
    assert abs(len(recording) / 8000 - 6.0) < 0.4
    left = recording[:, 0]
    assert strength(left[: int(0.8 * 8000)], SPEAKS) > 0.8
    assert not left[int(1.3 * 8000) : int(4.7 * 8000)].any()
    assert strength(left[int(5.2 * 8000) : int(5.9 * 8000)], SPEAKS) > 0.8


@asynccontextmanager
async def silent_agi_server() -> AsyncIterator[None]:
    """Takes every call and never speaks."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), HOUSE, 4573)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_an_agi_server_that_hangs_holds_a_call_up_for_three_seconds_at_most(hotline: Instance) -> None:
    async with silent_agi_server(), Caller(CALLER, HOTLINE) as caller:
        await caller.dial("12368")
        ringing = await caller.reply(180)
        answer = await caller.answered()
        assert ringing.at - caller.dialled_at < 0.5
        assert 2.5 < answer.at - caller.dialled_at < 3.5
        await asyncio.sleep(0.5)
        assert strength(caller.heard()[1600:], 500) > 0.8


async def test_a_hotline_that_answers_at_once_waits_for_no_look_up(tmp_path: Path) -> None:
    instance = prepared(tmp_path, answering={"after_rings": 0})
    await instance.start_asterisk()
    try:
        async with silent_agi_server(), Caller(CALLER, HOTLINE) as caller:
            await caller.dial("12368")
            answer = await caller.answered()
            assert answer.at - caller.dialled_at < 0.5
            assert 180 not in {reply.status for reply in caller.replies}
            await asyncio.sleep(4.0)
            assert strength(caller.heard()[-4000:], 500) > 0.8 or strength(caller.heard()[-4000:], 600) > 0.8
    finally:
        await instance.stop()


async def test_the_trunk_dials_nothing_but_the_hotline(hotline: Instance) -> None:
    for number in ("13800000000", "601", "s", "h", "T", "*11", "*111234", "12368x", "hotline", "fallback"):
        async with Caller(CALLER, HOTLINE) as caller:
            await caller.dial(number)
            assert (await caller.final()).status == 404, number
    assert not list((hotline.settings.spool_dir / "monitor").iterdir())


async def test_a_stranger_reaches_nothing_and_is_in_the_security_log(hotline: Instance) -> None:
    async with Caller(STRANGER, HOTLINE, number="601") as caller:
        await caller.dial("12368")
        assert (await caller.final()).status == 401
    async with Caller(STRANGER, HOTLINE, number="601", password="wrong") as caller:
        assert await caller.register() == 401
    async with Caller(STRANGER, HOTLINE, number="trunk") as caller:
        await caller.dial("12368")
        assert (await caller.final()).status == 401
    log = hotline.settings.run_dir / "log" / "security.log"
    for _ in range(50):  # Asterisk writes its logs in a thread of their own
        if "ChallengeResponseFailed" in log.read_text():
            break
        await asyncio.sleep(0.1)
    assert "ChallengeResponseFailed" in log.read_text()


async def test_agents_register_from_the_database_and_dial_feature_codes_only(hotline: Instance) -> None:
    async with Caller(CALLER, HOTLINE, number="601", password=PASSWORD) as agent:
        assert await agent.register() == 200
        agent.replies.clear()
        assert await agent.authorized_dial("*111234") == 200
        await asyncio.wait_for(agent.hung_up_by_hotline.wait(), 5)
        assert strength(agent.heard()[800:6000], 900) > 0.8
    for number in ("13800000000", "12368", "601", "*18", "*1"):
        async with Caller(CALLER, HOTLINE, number="601", password=PASSWORD) as agent:
            assert await agent.authorized_dial(number) == 404, number


async def test_an_agent_who_joins_needs_no_restart(hotline: Instance) -> None:
    async with Caller(CALLER, HOTLINE, number="602", password=PASSWORD) as agent:
        assert await agent.register() == 403
    hotline.write_agents([account("601"), account("602")])
    await hotline.reload_agents()
    async with Caller(CALLER, HOTLINE, number="602", password=PASSWORD) as agent:
        assert await agent.register() == 200
    hotline.write_agents([account("601")])
    await hotline.reload_agents()
    async with Caller(CALLER, HOTLINE, number="602", password=PASSWORD) as agent:
        assert await agent.register() == 403


async def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    modules = instance.settings.run_dir / "etc" / "modules.conf"
    modules.write_text(modules.read_text() + "require = res_no_such_thing.so\n")
    with pytest.raises(SetUpFailed, match="res_no_such_thing"):
        await instance.start_asterisk()


async def test_what_dies_or_hangs_is_started_again_and_all_ends_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "CHILDREN", {"agi": ("sleep", "60"), "controller": ("sleep", "0.1")})
    monkeypatch.setattr(supervision, "ASTERISK_ASKED_EVERY_S", 0.5)
    monkeypatch.setattr(supervision, "ASTERISK_SILENT_FOR_S", 2.0)
    monkeypatch.setattr(processes, "RESTART_AFTER_S", (0.1,))
    instance = prepared(tmp_path)
    notices: asyncio.Queue[Notice] = asyncio.Queue()
    seen: list[Notice] = []

    async def until(process: str, what: str) -> Notice:
        async with asyncio.timeout(15):
            while True:
                notice = await notices.get()
                seen.append(notice)
                if (notice.process, notice.what) == (process, what):
                    return notice

    supervising = asyncio.create_task(supervise(instance, notices.put_nowait))
    started = await until("agi", "started")
    for sent, noticed in ((signal.SIGKILL, "ended"), (signal.SIGSTOP, "killed")):
        pid = int((instance.settings.run_dir / "run" / "asterisk.pid").read_text())
        assert instance.asterisk_pid == pid
        os.kill(pid, sent)
        await until("asterisk", noticed)
        await until("asterisk", "started")
    assert [n for n in seen if (n.process, n.what) == ("controller", "ended")]
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(supervising, 10)
    await until("all", "stopped")
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.detail.removeprefix("pid ")), 0)
