"""The two flows, on the same build of Asterisk: Sanling as a user starts it, and its native twin.

The twin does by dialplan, app_queue and MixMonitor what the hotline does with the same call: recorded in stereo from
the first moment, answered, notice and opening said, one key, the queue, the agent who idles longest, a whisper, the
talk, the closing, hung up. Configuration, codecs, accounts, prompts and phones are the same; the twin has bridge_simple
besides, because Asterisk bridges cheapest by it (ADR 142). It keeps no ledger, knows no case and stores nothing twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
from sqlalchemy import func, select, update

from ari_app import prompts as wording
from ari_app import staff, store
from ari_app.errors import SetUpFailed
from ari_app.instance import AgentAccount, Instance
from ari_app.sample import AGENTS, FIRST_AGENT
from ari_app.settings import PROJECT, Settings, load
from ari_app.staff import Access
from ari_app.store.models import Agent, Call, Ending, Recording, Table
from tests.bench.capture import Places
from tests.faults.house import House
from tests.faults.lightphone import Line

SAY_S = 0.3
"""Every prompt is cut to this for the load, for both flows: words make calls longer, not other."""
REGISTERED_FOR_S = 600
REACHABLE_WITHIN_S = 40.0
"""A contact that was missed once is asked again after 30 s."""
STORED_WITHIN_S = 60.0
ADOPTED_WITHIN_S = 60.0
TAKEN_UP = re.compile(rb"(\d+) calls of an earlier controller are taken up")
HUNG_UP_AT_ONCE = 20
HUNG_UP_WITHIN_S = 10.0
WHISPER = "whisper-unknown-unverified-none"
RULES = """
[waiting]
full_at = 0
longest_wait_s = 36000
[survey]
share = 0.0
"""
"""Whoever calls gets a place, and nobody is asked how it was: the twin does neither."""
FOR_LOAD: dict[str, Any] = {
    "answering": {"after_rings": 0},
    "queue": {"announce_every_s": 3600.0, "wrap_up_s": 0.0},
    "ending": {"leave_within_s": 0.05},
    "rtp_ports": (10000, 59999),
}
"""No deliberate pauses: no ring before the answer, no wrap-up, no five seconds after the closing."""


def short_prompts(folder: Path) -> None:
    """The approved prompts, each cut to `SAY_S`, and sealed as such."""
    source = PROJECT / "dialplan" / "prompts"
    full = wording.Catalogue.inspect(source)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.alaw"))
    size = round(SAY_S * wording.BYTES_PER_SECOND)
    seals = {}
    for id, seal in full.seals.items():
        audio = full.audio(id).read_bytes()
        cut = audio if id == "hold-music" else audio[:size]
        (folder / "audio" / full.audio(id).name).write_bytes(cut)
        seconds = len(cut) / wording.BYTES_PER_SECOND
        seals[id] = msgspec.structs.replace(seal, audio=wording.sha256(cut), seconds=seconds)
    (folder / "seal.toml").write_text(wording.seal_text(seals), encoding="utf-8")


class Flow(Protocol):
    """One of the two, running or not."""

    @property
    def name(self) -> str: ...

    @property
    def places(self) -> Places: ...

    @property
    def access(self) -> Mapping[str, Access]:
        """Of the agents, by number."""

    async def open(self, on_duty: int) -> None:
        """(Re)starts it with so many agents who take calls."""

    async def close(self) -> None: ...

    @property
    def asterisk_pid(self) -> int: ...

    @property
    def controller_pid(self) -> int | None: ...

    @property
    def agi_pid(self) -> int | None: ...

    @property
    def instance(self) -> Instance: ...

    async def recordings(self, numbers: Sequence[str]) -> dict[str, Path]:
        """By number, of callers whose call was recorded, once they are stored."""

    def errors(self) -> list[str]:
        """What it logged as an error since this was asked last."""

    async def all_on_duty(self) -> bool:
        """Whether every agent who takes calls still does."""

    async def calls_left(self) -> int:
        """Channels that are there, and calls whose end is not written down."""

    async def callers(self) -> int:
        """Who has called and is still there; not who is in the fallback, which waits for no agent."""


def settings_for(name: str, address: str, callers: str, folder: Path) -> Settings:
    return load(
        Path(os.devnull), {}, instance=name, address=address, var_dir=str(folder),
        prompts_dir=str(folder / "prompts"), trunk={"addresses": [callers]}, **FOR_LOAD,
    )  # fmt: skip


class Log:
    """The errors in a log file, as it grows."""

    def __init__(self, file: Path, pattern: str) -> None:
        self._file = file
        self._pattern = re.compile(pattern)
        self._read = 0

    def errors(self) -> list[str]:
        """Those of whole lines that were written since this was asked last."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as opened:
            opened.seek(self._read if self._read <= self._file.stat().st_size else 0)
            whole, _, being_written = opened.read().rpartition(b"\n")
            self._read = opened.tell() - len(being_written)
        return [line for line in whole.decode("utf-8", "replace").splitlines() if self._pattern.search(line)]


def is_of_an_earlier_run(line: str, opened_at: float) -> bool:
    """Whether a line of the controller's log is drift's, about a call that came before `opened_at` (Unix seconds): what
    an overload did to it is told as often as drift looks back, and was counted then.
    """
    found = re.search(r"sanling\.drift: call sanling-(\d+)\.", line)
    return found is not None and int(found[1]) < int(opened_at)


class Sanling:
    """`sanling run`, whose agents' states are set in the database before each start."""

    name = "sanling"

    def __init__(self, folder: Path, net: str, agents: int) -> None:
        self.places = Places(f"{net}.11", f"{net}.21", f"{net}.31")
        settings = settings_for(self.name, self.places.pbx, self.places.callers, folder)
        self._house = House(settings, agents + len(AGENTS))
        (folder / "desk.toml").write_text(RULES)
        self.access = {
            number: one for number, one in self._house.access.items() if int(number) >= FIRST_AGENT + len(AGENTS)
        }
        self._log = Log(self._house.settings.run_dir / "log" / "controller.log", r" (ERROR|CRITICAL) |^Traceback")
        self._on_duty = 0
        self._opened_at = 0.0
        self._up = False

    @property
    def instance(self) -> Instance:
        return self._house.instance

    async def open(self, on_duty: int) -> None:
        await self.close()
        numbers = sorted(self.access)[:on_duty]
        with store.session(self._house.engine) as session:
            fresh = {"call_id": None, "wrap_up_until": None, "phone": None, "pause_code": None}
            session.execute(update(Agent).values(state="signed_out", **fresh))
            session.execute(update(Agent).where(Agent.number.in_(numbers)).values(state="idle"))
        self._on_duty, self._opened_at = on_duty, time.time()
        await asyncio.to_thread(self._house.start)
        self._up = True

    async def close(self) -> None:
        if self._up:
            await asyncio.to_thread(self._house.stop)
            self._up = False

    @property
    def asterisk_pid(self) -> int:
        return self._pid("asterisk")

    @property
    def controller_pid(self) -> int | None:
        return self._pid("controller")

    @property
    def agi_pid(self) -> int | None:
        return self._pid("agi")

    def _pid(self, name: str) -> int:
        pid = self._house.pid_of(name)
        if pid is None:
            raise SetUpFailed(f"{name} does not run.")
        return pid

    async def recordings(self, numbers: Sequence[str]) -> dict[str, Path]:
        stores = [self._house.settings.local_store, self._house.settings.second_store]

        def stored(session: Any) -> dict[str, list[str]]:
            rows = select(Call.caller_number, Recording.path).join(Recording, Recording.call_id == Call.id)
            found: dict[str, list[str]] = {}
            for number, path in session.execute(rows.where(Call.caller_number.in_(list(numbers)))):
                found.setdefault(number, []).append(path)
            return found

        until = asyncio.get_running_loop().time() + STORED_WITHIN_S
        while True:
            found = await self._house.ask(stored)
            twice = {number: paths[0] for number, paths in found.items() if len(paths) == len(stores)}
            if len(twice) >= len(numbers) or asyncio.get_running_loop().time() > until:
                return {number: stores[0] / path for number, path in twice.items()}
            await asyncio.sleep(0.5)

    def errors(self) -> list[str]:
        return [line for line in self._log.errors() if not is_of_an_earlier_run(line, self._opened_at)]

    async def all_on_duty(self) -> bool:
        idle = select(func.count()).select_from(Agent).where(Agent.state == "idle")
        return bool(await self._house.ask(lambda session: session.scalar(idle)) >= self._on_duty)

    async def calls_left(self) -> int:
        return max(await self.instance.channels(), await self._calls_not_ended())

    async def callers(self) -> int:
        return min(await self.instance.channels(), await self._calls_not_ended())

    async def _calls_not_ended(self) -> int:
        not_ended = select(func.count()).select_from(Call).where(Call.id.not_in(select(Ending.call_id)))
        return int(await self._house.ask(lambda session: session.scalar(not_ended)))

    async def rows(self) -> dict[str, int]:
        """How many rows each table has that calls write to."""
        tables = [mapper.class_ for mapper in Table.registry.mappers]

        def count(session: Any) -> dict[str, int]:
            return {one.__tablename__: session.scalar(select(func.count()).select_from(one)) for one in tables}

        return dict(await self._house.ask(count))

    async def restart(self, calls: int) -> tuple[float | None, int]:
        """Kills the controller. How many seconds later another had taken up all of its `calls`, None if it had not in
        time; and how many of them it took up.
        """
        killed, loop = self._pid("controller"), asyncio.get_running_loop()
        with (self._house.settings.run_dir / "log" / "controller.log").open("rb") as told:  # to scrape costs it time
            told.seek(0, os.SEEK_END)
            os.kill(killed, 9)
            began, said = loop.time(), b""
            while loop.time() - began < ADOPTED_WITHIN_S:
                said += told.read()
                if TAKEN_UP.search(said):
                    break
                await asyncio.sleep(0.02)
            back_s = loop.time() - began
        taken_up = max((int(found[1]) for found in TAKEN_UP.finditer(said)), default=0)
        return (back_s if taken_up >= calls else None), taken_up


class Native:
    """Dialplan, app_queue and MixMonitor, in an Asterisk of its own."""

    def __init__(self, folder: Path, net: str, accounts: Iterable[Access], *, retry_s: int = 1) -> None:
        """`retry_s` is app_queue's: so often it looks again for a free agent; 5 unless it is set."""
        self.name = "native" if retry_s == 1 else f"native, retry={retry_s}"
        self._retry_s = retry_s
        part = "2" if retry_s == 1 else "3"
        self.places = Places(f"{net}.1{part}", f"{net}.2{part}", f"{net}.3{part}")
        self.access = {one.number: one for one in accounts}
        settings = settings_for(f"native{retry_s}", self.places.pbx, self.places.callers, folder)
        self.instance = Instance(settings)
        self._log = Log(settings.run_dir / "log" / "messages.log", r"\] (ERROR)\[")

    async def open(self, on_duty: int) -> None:
        await self.close()
        self.instance.prepare(
            AgentAccount(one.number, staff.sip_ha1(one.number, one.password), one.name) for one in self.access.values()
        )
        etc = self.instance.settings.run_dir / "etc"
        modules = etc / "modules.conf"
        text = modules.read_text()
        modules.write_text(text + "load = app_queue.so\nload = bridge_simple.so\n")
        (etc / "extensions.conf").write_text(self._dialplan())
        (etc / "queues.conf").write_text(self._queue(sorted(self.access)[:on_duty]))
        await self.instance.start_asterisk()

    def _dialplan(self) -> str:
        says, spool = self.instance.settings.prompts / "audio", self.instance.settings.spool_dir / "monitor"
        return f"""
[inbound]
exten => 12368,1,Set(NUMBER=${{FILTER(0-9,${{CALLERID(num)}})}})
 same => n,MixMonitor({spool}/${{NUMBER}}.raw,D,touch '{spool}/${{NUMBER}}.done')
 same => n,Answer()
 same => n,Read(KEY,{says}/recording-notice&{says}/opening,1,,1,8)
 same => n,Queue(bench,c)
 same => n,Playback({says}/closing)
 same => n,Hangup()
"""

    def _queue(self, members: Iterable[str]) -> str:
        says = self.instance.settings.prompts / "audio"
        return f"""
[general]
autofill = yes
persistentmembers = no

[bench]
strategy = leastrecent
ringinuse = no
timeout = 11
retry = {self._retry_s}
wrapuptime = 0
musicclass = sanling
announce = {says}/{WHISPER}
""" + "".join(f"member => PJSIP/{number}\n" for number in members)

    async def close(self) -> None:
        await self.instance.stop()

    @property
    def asterisk_pid(self) -> int:
        pid = self.instance.asterisk_pid
        if pid is None:
            raise SetUpFailed("asterisk does not run.")
        return pid

    @property
    def controller_pid(self) -> int | None:
        return None

    @property
    def agi_pid(self) -> int | None:
        return None

    async def recordings(self, numbers: Sequence[str]) -> dict[str, Path]:
        folder = self.instance.settings.spool_dir / "monitor"
        until = asyncio.get_running_loop().time() + STORED_WITHIN_S
        while True:
            done = {n: folder / f"{n}.raw" for n in numbers if (folder / f"{n}.done").exists()}
            if len(done) == len(numbers) or asyncio.get_running_loop().time() > until:
                return done
            await asyncio.sleep(0.5)

    def errors(self) -> list[str]:
        return self._log.errors()

    async def all_on_duty(self) -> bool:
        return True  # app_queue pauses nobody

    async def calls_left(self) -> int:
        return await self.instance.channels()

    async def callers(self) -> int:
        return await self.instance.channels()


async def register(flow: Flow) -> None:
    """Every agent's phone, at the address where sipp will be. Raises SetUpFailed if one is refused.

    Taken off first: a new contact is asked at once whether it can be reached, one that Asterisk remembers from before
    its start only after up to 30 s.
    """
    server = (flow.places.pbx, flow.instance.settings.sip_port)
    async with Line(flow.places.agents, server) as line:
        everybody = list(flow.access.values())
        for some in (everybody[n : n + 50] for n in range(0, len(everybody), 50)):
            for lasts_s in (0, REGISTERED_FOR_S):
                done = await asyncio.gather(*(line.register(a.number, a.password, lasts_s) for a in some))
                if not all(done):
                    raise SetUpFailed(f"{flow.name}: {done.count(False)} phones were not registered.")
        await reachable(flow)  # what Asterisk asks of a new contact at once is answered here


async def hang_up(flow: Flow) -> None:
    """Ends every call. Callers whose phones were killed do not: the next start would find them open."""
    instance = flow.instance
    login = (instance.ari_user, instance.ari_password)
    with suppress(httpx.HTTPError):  # an overload may last; the flow's end is the calls' end too
        async with httpx.AsyncClient(auth=login, timeout=HUNG_UP_WITHIN_S) as client:
            answer = (await client.get(f"{instance.ari_url}/channels")).raise_for_status()
            channels = [one["id"] for one in answer.json()]
            for some in (channels[n : n + HUNG_UP_AT_ONCE] for n in range(0, len(channels), HUNG_UP_AT_ONCE)):
                await asyncio.gather(*(client.delete(f"{instance.ari_url}/channels/{id}") for id in some))


async def reachable(flow: Flow) -> None:
    """Returns when Asterisk has every phone as reachable. Raises SetUpFailed."""
    instance, loop = flow.instance, asyncio.get_running_loop()
    async with httpx.AsyncClient(auth=(instance.ari_user, instance.ari_password)) as client:
        until = loop.time() + REACHABLE_WITHIN_S
        while True:
            answer = await client.get(f"{instance.ari_url}/endpoints/PJSIP")
            away = [one["resource"] for one in answer.json() if one["state"] != "online"]
            away = [number for number in away if number in flow.access]
            if not away:
                return
            if loop.time() > until:
                raise SetUpFailed(f"{flow.name}: {len(away)} phones cannot be reached, such as {away[0]}.")
            await asyncio.sleep(0.5)
