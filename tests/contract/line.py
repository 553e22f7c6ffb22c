"""One Asterisk, fake or real, with telephones and an ARI client: what a contract test is given.

async with fake_line(spool) as line: …
async with real_line() as line: …
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ari_app.ari import Client, LinkUp
from ari_app.ari.client import NEEDED_EVENTS, Snapshot
from ari_app.ari.errors import RequestFailed
from ari_app.ari.websocket import WebSocketWire
from ari_app.ari.wire import Link, Response, Wire
from ari_app.instance import AgentAccount, Instance
from ari_app.settings import PROJECT, load
from ari_app.testcall.hearing import Ear, PromptSounds
from ari_app.testcall.phone import Phones
from tests.asterisk.kept import KeptAsterisk, kept
from tests.fake.asterisk import FakeAsterisk, lengths_of

PROMPTS = PROJECT / "dialplan" / "prompts"
AUDIO = PROMPTS / "audio"

HELLO, PAUSED, READY = "agent-busy", "agent-paused", "agent-ready"
"""Three short prompts."""

EVENTS = (
    *NEEDED_EVENTS, "PlaybackStarted", "PlaybackContinuing", "RecordingStarted", "BridgeCreated", "BridgeDestroyed",
    "ChannelEnteredBridge",
)  # fmt: skip


class Tapped:
    """A wire that keeps what comes along it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.events: list[dict[str, Any]] = []
        self._came = asyncio.Event()

    async def request(
        self,
        method: str,
        uri: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        *,
        blocking: bool,
        timeout_s: float,
    ) -> Response:
        return await self.wire.request(method, uri, query, body, blocking=blocking, timeout_s=timeout_s)

    def attach(self, on_event: Callable[[bytes], None], on_link: Callable[[Link], None]) -> None:
        def keep(frame: bytes) -> None:
            self.events.append(json.loads(frame))
            self._came.set()
            on_event(frame)

        self.wire.attach(keep, on_link)

    async def run(self) -> None:
        await self.wire.run()

    async def until(self, found: Callable[[], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not found():
                self._came.clear()
                await self._came.wait()


class RealAsterisk:
    """What can befall a real one."""

    def __init__(self, kept: KeptAsterisk) -> None:
        self._kept = kept

    async def dies(self) -> None:
        self._signal(signal.SIGKILL)
        await self._kept.ended()

    async def starts_again(self) -> None:
        await self._kept.start()

    def freezes(self) -> None:
        pid = self._signal(signal.SIGSTOP)
        stat = Path(f"/proc/{pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "T":  # all its threads have to hear of it
            time.sleep(0.005)

    def thaws(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> int:
        pid = self._kept.instance.asterisk_pid
        assert pid is not None
        os.kill(pid, number)
        return pid


class Line:
    """The exchange under test."""

    def __init__(
        self,
        asterisk: Any,
        phones: Any,
        new_wire: Callable[[], Wire],
        at: str,
        spool: Path,
        *,
        agents_at: str = "",
        people_at: str = "",
    ) -> None:
        self.people_at = people_at
        """Where the trunk sends calls that are placed; empty: to the fake's people."""
        self.asterisk = asterisk
        """`dies`, `starts_again`, `freezes`, `thaws`."""
        self.phones = phones
        self.at = at
        """Where callers dial: host:port."""
        self.spool = spool
        self._new_wire = new_wire
        self._agents_at = agents_at
        self._connection = AsyncExitStack()
        self.client: Client
        self.tap: Tapped

    async def connect(self) -> Client:
        """A controller joins; the snapshot is in `client.links`."""
        self.tap = Tapped(self._new_wire())
        self.client = await self._connection.enter_async_context(Client(self.tap, events=EVENTS))
        return self.client

    async def leave(self) -> None:
        """The controller is gone."""
        await self._connection.aclose()

    async def linked(self) -> Snapshot:
        """What Asterisk held when the link came up."""
        while not isinstance(change := await asyncio.wait_for(self.client.links.get(), 15), LinkUp):
            pass
        return change.snapshot

    async def another_controller(self) -> Snapshot:
        """This one goes and another comes; gives what it finds."""
        await self.leave()
        await asyncio.sleep(0.2)
        await self.connect()
        return await self.linked()

    def another_wire(self) -> Wire:
        return self._new_wire()

    async def is_replaced(self) -> None:
        """Wait until another client has taken the application. Raises ApplicationReplaced."""
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await self.leave()
            raise

    async def asks(self, uri: str, **query: str) -> tuple[int, Any]:
        """GET, as Asterisk words its answer: status and JSON."""
        response = await self.tap.request("GET", uri, query, None, blocking=False, timeout_s=5)
        return response.status, json.loads(response.body)

    # What happens on the phones

    async def arrives(self, from_: str = "15400001234") -> tuple[Any, str]:
        """A caller dials the hotline; gives the caller's call and its channel's id."""
        caller = await self.phones.caller(from_).dials("12368", self.at)
        while True:
            arrival = await asyncio.wait_for(self.client.arrivals.get(), 5)
            arrival.mailbox.close()
            if arrival.event.args == ("inbound",):  # and not an offer
                break
        return caller, arrival.event.channel.id

    async def is_through(self, from_: str = "15400001234") -> tuple[Any, str]:
        """The same, answered."""
        caller, id = await self.arrives(from_)
        await self.client.channels.answer(channelId=id)
        await caller.answered()
        return caller, id

    async def create(self, id: str, n: int = 1, *, number: str = "601") -> str:
        """A channel to the agent's phone, which does not ring yet; gives its id."""
        offer = f"{id}~offer-{n}"
        await self.client.channels.create(
            endpoint=f"PJSIP/{number}",
            channelId=offer,
            app="sanling",
            appArgs=f"offer,{id},{n}",
            variables={"CONNECTEDLINE(name)": "party, verified", "CONNECTEDLINE(num)": "15400001234"},
        )
        await self.until("StasisStart", offer)
        return offer

    async def offer(self, id: str, n: int = 1, *, ring_s: int = 10, number: str = "601") -> str:
        """Ring the agent's phone for a call; gives the new channel's id."""
        offer = await self.create(id, n, number=number)
        await self.client.channels.dial(channelId=offer, timeout=ring_s)
        return offer

    async def picked_up(self, id: str, agent: Any) -> tuple[Any, str]:
        """An offer that the agent took: the agent's call and the channel's id."""
        offer = await self.offer(id)
        call = await agent.rings()
        await call.picks_up()
        await self.until("Dial", offer, dialstatus="ANSWER")
        return call, offer

    async def talks(self) -> tuple[Any, Any, str, str, str]:
        """Caller and agent in a bridge: their calls, then the ids of caller, agent and bridge."""
        caller, id = await self.is_through()
        call, offer = await self.picked_up(id, await self.agent())
        bridge = f"{id}~bridge"
        await self.client.bridges.create(type="mixing,dtmf_events", bridgeId=bridge, name="talk")
        await self.client.bridges.addChannel(bridgeId=bridge, channel=[id, offer])
        return caller, call, id, offer, bridge

    async def agent(self, number: str = "601", *, lines: int = 1) -> Any:
        return await self.phones.agent(
            number, _password(number), registrar=self.at, address=self._agents_at, lines=lines
        )

    async def play(self, id: str, prompt: str, n: int = 1) -> str:
        name = f"{id}~play-{n}"
        await self.client.channels.play(channelId=id, media=media(prompt), playbackId=name)
        return name

    # What the controller was told

    async def until(self, type: str, id: str, times: int = 1, within_s: float = 8.0, **fields: Any) -> None:
        """Wait until an event of this type has come about this resource so many times."""
        try:
            await self.tap.until(lambda: len(self.told(type, id, **fields)) >= times, within_s)
        except TimeoutError:
            raise AssertionError(f"no {type} {fields} of {id} within {within_s} s; {self.story()}") from None

    def told(self, type: str, id: str, **fields: Any) -> list[dict[str, Any]]:
        return [
            event
            for event in self.tap.events
            if event["type"] == type and id in _resources(event) and fields.items() <= _flat(event).items()
        ]

    def story(self, *ids: str) -> list[str]:
        """The events, in order, as short lines: type and what matters in it."""
        return [
            _line(event)
            for event in self.tap.events
            if not ids or any(id in _resources(event) for id in ids)
            if event["type"] != "ChannelConnectedLine"
        ]


def media(prompt: str) -> str:
    return f"sound:{AUDIO / prompt}"


async def status(refused: Any) -> int:
    """The status with which Asterisk refuses a request; 0 if it does not."""
    try:
        await refused
    except RequestFailed as failure:
        return failure.status
    return 0


def _password(number: str) -> str:
    return f"secret-of-{number}"


def _resources(event: dict[str, Any]) -> set[str]:
    return {
        value["id"] for key in ("channel", "bridge", "playback", "peer") if isinstance(value := event.get(key), dict)
    }


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in event.items() if isinstance(value, str | int)}
    if "playback" in event:
        flat["state"] = event["playback"]["state"]
    elif event["type"] == "ChannelStateChange":
        flat["state"] = event["channel"]["state"]
    return flat


def _line(event: dict[str, Any]) -> str:
    flat = _flat(event)
    keys = ("state", "dialstatus", "digit", "cause", "tech_cause", "soft")
    if "playback" in event:
        who = event["playback"]["id"]
    else:
        who = (event.get("channel") or event.get("peer") or event["bridge"])["id"]
    what = who.partition("~")[2]
    words = [event["type"], *([what] if what else []), *(f"{k}={flat[k]}" for k in keys if k in flat)]
    return " ".join(words)


@asynccontextmanager
async def fake_line(spool: Path) -> AsyncIterator[Line]:
    async with FakeAsterisk(lengths_of(AUDIO), spool=spool) as asterisk:
        line = Line(asterisk, asterisk.phones, asterisk.wire, "", spool)
        try:
            await line.connect()
            await line.client.links.get()
            yield line
        finally:
            await line.leave()


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
OWN, CALLERS_AT, AGENTS_AT, PEOPLE_AT = (f"127.0.54.{10 * WORKER + n}" for n in (11, 12, 13, 14))
"""Addresses of this test process alone."""


def _prepared(folder: Path) -> Instance:
    settings = load(
        environment={},
        instance="contract",
        address=OWN,
        var_dir=str(folder),
        trunk={"addresses": [CALLERS_AT, PEOPLE_AT], "outbound": f"{PEOPLE_AT}:5060"},
    )
    instance = Instance(settings)
    instance.prepare(
        AgentAccount(number, hashlib.md5(f"{number}:sanling:{_password(number)}".encode()).hexdigest())  # noqa: S324
        for number in ("601", "602")
    )
    return instance


@functools.cache
def _ear() -> Ear:
    return Ear(PromptSounds(AUDIO))


@asynccontextmanager
async def real_line() -> AsyncIterator[Line]:
    async with kept("contract", _prepared) as asterisk, Phones(CALLERS_AT, ear=_ear()) as phones:
        instance = asterisk.instance
        url, user, password = instance.ari_url, instance.ari_user, instance.ari_password
        line = Line(
            RealAsterisk(asterisk),
            phones,
            lambda: WebSocketWire(url, user, password, "sanling"),
            f"{OWN}:5060",
            instance.settings.spool_dir,
            agents_at=AGENTS_AT,
            people_at=PEOPLE_AT,
        )
        try:
            await line.connect()
            await asyncio.wait_for(line.client.links.get(), 5)
            yield line
        finally:
            await line.leave()
