"""A fake Asterisk behind the ARI client's `Wire`: no socket, no process, in virtual time or real.

    async with FakeAsterisk(lengths=lengths_of(settings.prompts)) as asterisk:
        client = Client(asterisk.wire())               # each controller on a wire of its own
        caller = await asterisk.phones.caller("15400001234").dials("12368")

It answers as Asterisk 22.10.1 does, with its statuses, texts and event orders, including what hurts:

- some verbs wait for the playback on their channel to end, and stand in the way of the rest if asked as not blocking;
- events overtake responses; nothing is replayed after a broken link; no link, no Stasis: the dialplan's fallback;
- an inbound channel's ChannelDestroyed comes only if one is subscribed to it;
- a channel that was created enters Stasis in its own time: asked to dial at once, it is not there yet (409);
- when it dies, all it held is gone without a word, and the telephones notice nothing;
- after a duplicate name, a lane answers 409 instead of 500 to every creation that fails.

What is not modelled raises NotModelled, so that no test passes on a fiction.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from ari_app.ari.errors import ApplicationReplaced, RequestTimeout, Unreachable
from ari_app.ari.websocket import NOTICED_WITHIN_S
from ari_app.ari.wire import Link, Response
from tests.fake.exchange import (
    DIRECTIONS,
    NO_ANSWER,
    NORMAL_CLEARING,
    REFUSALS,
    SHUTDOWN,
    Bridge,
    Channel,
    Exchange,
    Playback,
    Snoop,
    prompt_of,
)
from tests.fake.phones import INVITE_TO_RING_S, FakePhone, FakePhones

CHANNELVARS = ("SANLING_CONTEXT", "SANLING_ROLE", "SANLING_CASES", "SANLING_MILESTONE", "SANLING_NEXT")
KEYED = ("SANLING_KEYED_NUMBER", "SANLING_KEYED_ROLE", "SANLING_KEYED_CASE", "SANLING_KEYED_LICENCE")

HANGUP_REASONS = {
    "normal": 16, "busy": 17, "congestion": 34, "no_answer": 19, "timeout": 102, "rejected": 21, "unallocated": 1,
    "normal_unspecified": 31, "number_incomplete": 28, "codec_mismatch": 58, "interworking": 127, "failure": 38,
    "answered_elsewhere": 26,
}  # fmt: skip
CAUSE_OF_DELETE = 32
RECORDED_IN_S = 0.1
"""What a recording hears is told in pieces of this length."""
ASTERISK_ID = "fa:ke:00:00:00:01"

NOT_BEFORE_THE_ANSWER = ("answer", "continue", "hold", "moh", "mute", "play", "ring", "silence")
"""Verbs that a channel refuses while it is created or rings at the far end."""

CONNECTED_LINE = {"CONNECTEDLINE(name)": "name", "CONNECTEDLINE(num)": "number"}
"""Functions of the dialplan that a created channel takes for variables: what the phone displays."""

Lengths = Callable[[str], float | None]
CaseContext = Callable[[str, str, str, str], Mapping[str, str]]
"""What the AGI script does: (number, role, case's last five, licence's last four) → channel variables.

Raising stands for an AGI server that is away: the context stays `unavailable`.
"""


class NotModelled(AssertionError):
    """The fake does not know this request; teach it, from the real one, before a test relies on it."""


@dataclass(frozen=True)
class Request:
    """One request as the wire saw it."""

    at_s: float
    method: str
    uri: str
    query: dict[str, str]
    body: Mapping[str, Any] | None


class Refusal(Exception):
    """An error status, raised by a route."""

    def __init__(self, status: int, message: str, *, key: str = "message") -> None:
        super().__init__(message)
        self.response = _json(status, {key: message})


LANES_KEPT = 4
"""As many as the real wire keeps open."""


class _Lane:
    """One connection: strictly one request after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asked = 0
        """Requests that are not answered."""
        self.name_was_taken = False
        """Asterisk keeps the error of its last failed allocation per thread and mistakes the next for it."""

    def is_answered(self) -> None:
        self.asked -= 1


def seconds_each(seconds: float, **exceptions: float | None) -> Lengths:
    """Every prompt lasts `seconds`, but for the exceptions (dashes as underscores; None: there is no such file)."""
    named = {name.replace("_", "-"): length for name, length in exceptions.items()}

    def length(media: str) -> float | None:
        if media.startswith("tone:"):
            return float("inf")
        return named.get(prompt_of(media), seconds) if media.startswith("sound:") else float("inf")

    return length


def lengths_of(folder: Path) -> Lengths:
    """The lengths of the sound files that media URIs name by absolute path, or by name in `folder`.

    Without a file there is no sound (`failed`); `recording:` and unknown schemes never end, as on the real one.
    """
    known: dict[str, float | None] = {}

    def length(media: str) -> float | None:
        if not media.startswith("sound:"):
            return float("inf")
        if media not in known:
            known[media] = _file_seconds(folder / media.removeprefix("sound:"))
        return known[media]

    return length


def _file_seconds(stem: Path) -> float | None:
    for ending, bytes_a_second, header in (
        (".alaw", 8000, 0),
        (".ulaw", 8000, 0),
        (".sln", 16000, 0),
        (".wav", 16000, 44),
    ):
        file = stem.with_name(stem.name + ending)
        if file.exists():
            return (file.stat().st_size - header) / bytes_a_second
    return None


@dataclass(eq=False)
class LiveRecording:
    """One that ARI began on a channel. Seconds."""

    name: str
    channel: Channel
    longest_s: float
    silence_s: float
    ends_on: str
    state: str = "queued"
    stopped: bool = False
    lasts_s: float = 0.0
    voice_s: float = 0.0
    silent_for_s: float = 0.0

    def goes_on(self, seconds: float, voice: bool) -> None:
        self.lasts_s += seconds
        self.voice_s += seconds if voice else 0.0
        self.silent_for_s = 0.0 if voice else self.silent_for_s + seconds

    @property
    def is_over(self) -> bool:
        return self.stopped or self.lasts_s >= self.longest_s - 1e-6 or self.silent_for_s >= self.silence_s - 1e-6

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "name": self.name, "format": "alaw", "target_uri": f"channel:{self.channel.id}", "state": self.state,
        }  # fmt: skip
        if self.state == "done":
            lasts, voice = int(self.lasts_s + 1e-6), int(self.voice_s + 1e-6)
            told |= {"duration": lasts, "talking_duration": voice, "silence_duration": lasts - voice}
        return told


class FakeAsterisk(Exchange):
    """One Asterisk with the hotline's dialplan and any number of telephones."""

    def __init__(
        self,
        lengths: Lengths | None = None,
        *,
        app: str = "sanling",
        instance: str = "demo",
        hotline_numbers: tuple[str, ...] = ("12368",),
        case_context: CaseContext | None = None,
        spool: Path | None = None,
        latency_s: float = 0.001,
        events_late_s: float = 0.0,
        agi_s: float = 0.002,
        at_once: bool = False,
    ) -> None:
        """`lengths`: media URI → seconds (one second each by default). `spool`: where recordings and callbacks go.

        `latency_s`: from a request to its answer; its events come in the middle of that, as they mostly do, or with
        `events_late_s` above half of it, after the answer, as they sometimes do. `at_once`: the dialplan answers.
        """
        self.phones = FakePhones(self)
        super().__init__(lengths or seconds_each(1.0))
        self.app = app
        self.instance = instance
        self.hotline_numbers = hotline_numbers
        self.case_context = case_context
        self.spool = spool
        self.latency_s = latency_s
        self.events_late_s = events_late_s
        self.agi_s = agi_s
        self.at_once = at_once
        self.channelvars = CHANNELVARS
        self.requests: list[Request] = []
        """Everything the controller asked."""
        self.events: list[dict[str, Any]] = []
        """Everything that was sent to the controller."""
        self.missed: list[dict[str, Any]] = []
        """Events that fell into a broken link."""
        self.fallbacks: list[str] = []
        """Calls that the dialplan's fallback took."""
        self.live_recordings: dict[str, LiveRecording] = {}
        self.stored_recordings: set[str] = set()
        """Names of those that ARI began and that are over."""
        self.recorded: dict[str, float] = {}
        """Inbound calls with the length of their recording in seconds, once complete."""
        self.allowed: set[str] | None = None
        """The event filter; None: everything."""
        self.alive = True
        self._calls = 0
        self._far_ends: dict[Channel, FakePhone] = {}
        """Which phone each created channel would ring."""
        self._lines: dict[Channel, Channel] = {}
        """The second half of each Local channel."""
        self._recording_since: dict[Channel, float] = {}
        self.placed: list[tuple[str, str]] = []
        """Calls that went out: the channel's id, the number."""
        self._started_s = 0.0
        self._controller: FakeWire | None = None
        """Whose events the application's are."""
        self._first_wire: FakeWire | None = None
        self._link_allowed = asyncio.Event()
        self._link_allowed.set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._unanswered_pings: asyncio.TimerHandle | None = None
        self._troubles: list[tuple[str, re.Pattern[str], Response | float]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Trouble to order

    def drop_link(self) -> None:
        """The controller's connection breaks and stays broken; channels, bridges, subscriptions stay."""
        self._link_allowed.clear()
        if self._controller:
            self._controller.breaks()

    def restore_link(self) -> None:
        self._link_allowed.set()

    def replace_application(self) -> None:
        """A client from elsewhere takes the application, and listens."""
        if self._controller:
            self._controller.breaks(Link.REPLACED)
            self.app_listens = True

    async def dies(self) -> None:
        """At once and without an event: every channel, bridge, playback and subscription is gone, and the link down.

        No BYE reaches anybody: a telephone in talk hears silence until it hangs up, one that rings goes on ringing.
        Recordings stay as they were, without `.done`. Registrations stay (the real one loses those of the last second).
        """
        self.alive = self.app_listens = False
        self.drop_link()
        for channel in self.channels.values():
            if channel.phone:
                channel.phone.left_alone()
        for held in (self.channels, self.bridges, self.playbacks, self.interest, self._far_ends, self.live_recordings):
            held.clear()
        await self.close()
        self.thaws()

    async def is_stopped(self) -> None:
        """`core stop now`, or SIGTERM: everybody is hung up, and a second later it is gone."""
        for channel in list(self.channels.values()):
            self.hangup_requested(channel, SHUTDOWN, soft=True)
            self.hang_up(channel)
        await asyncio.sleep(1.1)
        await self.dies()

    async def starts_again(self) -> None:
        """After `dies`: empty, and another start by its own account. The link may come up."""
        self.alive = True
        self._started_s = max(self.now(), self._started_s + 0.001)
        self.allowed = None
        self.restore_link()

    def freezes(self) -> None:
        """Requests get no answer and events are held back; after some seconds the link counts as broken.

        Sounds and timers of the calls that are there go on, unlike the real one's; new callers wait.
        """
        self._thawed.clear()
        self._link_allowed.clear()
        self._unanswered_pings = asyncio.get_running_loop().call_later(NOTICED_WITHIN_S, self.drop_link)

    def thaws(self) -> None:
        """What was asked meanwhile is done now, whether anybody still waits for it or not."""
        if self._unanswered_pings:
            self._unanswered_pings.cancel()
            self._unanswered_pings = None
            self._thawed.set()
            if self.alive:
                self._link_allowed.set()
            if self._controller:
                self._controller.deliver()

    def refuses_next(self, method: str, uri: str, status: int, message: str = "ordered by the test") -> None:
        """The next request of this method whose uri matches the pattern is answered so, and not done."""
        self._troubles.append((method, re.compile(uri), _json(status, {"message": message})))

    def refuses_nothing_more(self) -> None:
        """What was ordered and has not been asked for is forgotten."""
        self._troubles.clear()

    def delays_next(self, method: str, uri: str, seconds: float) -> None:
        """The next request of this method whose uri matches the pattern is done so much later."""
        self._troubles.append((method, re.compile(uri), seconds))

    def ghosts(self) -> list[str]:
        """Names of all channels, bridges and playbacks that are still there."""
        return sorted([*self.channels, *self.bridges, *self.playbacks])

    # Wires

    def wire(self) -> FakeWire:
        """A connection for one controller; its application is taken from whoever has it by then."""
        return FakeWire(self)

    def attach(self, on_event: Callable[[bytes], None], on_link: Callable[[Link], None]) -> None:
        """As a Wire itself, for the one controller of a test."""
        self._first_wire = self.wire()
        self._first_wire.attach(on_event, on_link)

    async def run(self) -> None:
        if self._first_wire is None:
            raise AssertionError("attach() comes before run()")
        await self._first_wire.run()

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
        if self._first_wire is None:
            raise AssertionError("attach() comes before request()")
        return await self._first_wire.request(method, uri, query, body, blocking=blocking, timeout_s=timeout_s)

    async def admits(self, wire: FakeWire) -> None:
        """Wait until a wire may connect; then the application is its own."""
        await self._link_allowed.wait()
        if self._controller:
            self._controller.breaks(Link.REPLACED)
        self._controller = wire
        self.allowed = None
        self.app_listens = True

    def lets_go(self, wire: FakeWire) -> None:
        if self._controller is wire:
            self._controller = None
            self.app_listens = False

    def tell(self, event: dict[str, Any]) -> None:
        event |= {"asterisk_id": ASTERISK_ID, "application": self.app}
        if self.allowed is not None and event["type"] not in self.allowed:
            return
        if self._controller is None:
            self.missed.append(event)
            return
        self.events.append(event)
        self._controller.sends(event, self.events_late_s)

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def asked(self, lane: _Lane, request: Request) -> asyncio.Task[Response]:
        """Begin to answer. Asterisk goes on with it also when nobody waits any more."""
        self.requests.append(request)
        lane.asked += 1
        answering = self._answer(lane, request.method, request.uri, request.query, request.body)
        reply = asyncio.get_running_loop().create_task(answering, name=f"{request.method} {request.uri}")
        self._tasks.add(reply)
        reply.add_done_callback(self._tasks.discard)
        reply.add_done_callback(lambda _: lane.is_answered())
        return reply

    async def _answer(
        self, lane: _Lane, method: str, uri: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> Response:
        async with lane.lock:
            await self._thawed.wait()
            await asyncio.sleep(self.latency_s / 2)
            for trouble in self._troubles:
                if trouble[0] == method and trouble[1].search(uri):
                    self._troubles.remove(trouble)
                    if isinstance(trouble[2], Response):
                        return trouble[2]
                    await asyncio.sleep(trouble[2])
                    break
            try:
                response = await self._route(lane, method, uri, dict(query), body)
            except Refusal as refusal:
                response = refusal.response
            await asyncio.sleep(self.latency_s / 2)
            return response

    # REST

    async def _route(
        self, lane: _Lane, method: str, uri: str, query: dict[str, str], body: Mapping[str, Any] | None
    ) -> Response:
        if uri.startswith("/"):
            return _json(405, {"message": "Invalid method"})
        parts = [unquote(part) for part in uri.split("/")]
        match method, parts:
            case "GET", ["channels"]:
                return _json(200, [channel.told() for channel in self.channels.values()])
            case "POST", ["channels", "create"]:
                return self._create(lane, query.get("channelId") or self._next_id(), query, body)
            case "POST", ["channels"] | ["channels", _]:
                raise NotModelled(f"{method} {uri}: the hotline creates channels and dials them")
            case "GET", ["channels", id]:
                return _json(200, self._channel(id).told())
            case "DELETE", ["channels", id]:
                return self._hang_up_channel(self._channel(id), query)
            case "GET", ["channels", id, ("variable" | "variables")] if id not in self.channels:
                raise Refusal(404, "Provided channel was not found")
            case "POST", ["channels", id, "snoop", *name]:
                return self._snoop(id, name[0] if name else query.get("snoopId") or self._next_id(), query)
            case _, ["channels", id, *verb]:
                return await self._channel_verb(method, self._channel(id), verb, query, body)
            case "GET", ["bridges"]:
                return _json(200, [bridge.told() for bridge in self.bridges.values()])
            case "POST", ["bridges"]:
                return self._create_bridge(query.get("bridgeId") or self._next_id(), query)
            case "POST", ["bridges", id]:
                return self._create_bridge(id, query)
            case "GET", ["bridges", id]:
                return _json(200, self._bridge(id).told())
            case "DELETE", ["bridges", id]:
                self.destroy_bridge(self._bridge(id))
                return _NOTHING
            case _, ["bridges", id, *verb]:
                return await self._bridge_verb(method, self._bridge(id), verb, query)
            case "GET", ["playbacks", id]:
                return _json(200, self._playback(id).told())
            case "DELETE", ["playbacks", id]:
                self._playback(id).stop_asked.set()
                return _NOTHING
            case "GET", ["recordings", "stored"]:
                found = {*self.stored_recordings, *self.live_recordings}  # its files
                return _json(200, [{"name": name, "format": "alaw"} for name in sorted(found)])
            case _, ["recordings", kind, name, *verb]:
                return self._recording_verb(method, kind, name, verb)
            case "GET", ["applications"]:
                return _json(200, [self._application()])
            case _, ["applications", name, *verb]:
                if name != self.app:
                    raise Refusal(404, "Application not found")
                return self._application_verb(method, verb, query, body)
            case "GET", ["asterisk", "ping"]:
                return _json(200, {"ping": "pong", "timestamp": self.timestamp(), "asterisk_id": ASTERISK_ID})
            case "GET", ["asterisk", "info"]:
                return _json(200, self._info(query.get("only")))
        raise NotModelled(f"{method} {uri}")

    def _transfer_progress(self, channel: Channel, state: str | None) -> Response:
        """What the phone that asked for a transfer is told of it, by NOTIFY."""
        if state is None:
            raise Refusal(400, "Missing state parameter")
        if channel.phone is not None:
            channel.phone.transfer_told.append(state)
        return _NOTHING

    def _info(self, only: str | None) -> dict[str, Any]:
        started = self.timestamp(self._started_s)
        info = {
            "build": {"os": "Linux", "kernel": "unknown", "machine": "unknown", "options": "", "date": "", "user": ""},
            "system": {"version": "22.10.1", "entity_id": ASTERISK_ID},
            "config": {"name": self.instance, "default_language": "en", "setid": {"user": "", "group": ""}},
            "status": {"startup_time": started, "last_reload_time": started},
        }
        return info if only is None else {part: info[part] for part in info if part in only.split(",")}

    def _channel(self, id: str) -> Channel:
        if (channel := self.channels.get(id)) is None:
            raise Refusal(404, "Channel not found")
        return channel

    def _bridge(self, id: str) -> Bridge:
        if (bridge := self.bridges.get(id)) is None:
            raise Refusal(404, "Bridge not found")
        return bridge

    def _playback(self, id: str) -> Playback:
        if (playback := self.playbacks.get(id)) is None:
            raise Refusal(404, "Playback not found")
        return playback

    def _application(self) -> dict[str, Any]:
        subscribed = {id for id, reasons in self.interest.items() if reasons > 0}
        return {
            "name": self.app,
            "channel_ids": [id for id in self.channels if id in subscribed],
            "bridge_ids": [id for id in self.bridges if id in subscribed],
            "endpoint_ids": [],
            "device_names": [],
            "events_allowed": [{"type": type} for type in sorted(self.allowed or ())],
            "events_disallowed": [],
        }

    def _application_verb(
        self, method: str, verb: list[str], query: dict[str, str], body: Mapping[str, Any] | None
    ) -> Response:
        match method, verb:
            case "GET", []:
                return _json(200, self._application())
            case "PUT", ["eventFilter"]:
                allowed = (body or {}).get("allowed")
                self.allowed = None if allowed is None else {rule["type"] for rule in allowed}
                if self.allowed is not None and "RESTResponse" not in self.allowed:
                    raise NotModelled("an event filter without RESTResponse: every reply would be swallowed")
                return _json(200, self._application())
            case (("POST" | "DELETE"), ["subscription"]):
                scheme, _, id = query.get("eventSource", "").partition(":")
                if scheme in ("endpoint", "deviceState"):
                    return _json(200, self._application())
                if id not in (self.channels if scheme == "channel" else self.bridges):
                    raise Refusal(422, "Event source does not exist")
                self.interest[id] += 1 if method == "POST" else -1
                return _json(200, self._application())
        raise NotModelled(f"{method} applications/…/{'/'.join(verb)}")

    async def _channel_verb(
        self,
        method: str,
        channel: Channel,
        verb: list[str],
        query: dict[str, str],
        body: Mapping[str, Any] | None,
    ) -> Response:
        if method == "GET" and verb in (["variable"], ["variables"]):
            return self._variables(channel, verb[0], query)
        if not channel.in_stasis:
            raise Refusal(409, "Channel not in Stasis application")
        if channel.state in ("Down", "Ringing") and verb[0] in NOT_BEFORE_THE_ANSWER:
            raise Refusal(412, "Channel in invalid state")
        match method, verb:
            case "POST", ["transfer_progress"]:
                return self._transfer_progress(channel, query.get("states"))
            case "POST", ["dial"]:
                if channel.state != "Down":
                    raise Refusal(409, "Channel is not in the 'Down' state")
                timeout_s = float(query.get("timeout", "0"))
                channel.command(lambda: _soon(lambda: self._dial(channel, timeout_s)))
            case "POST", ["answer"]:
                await channel.ask(lambda: self.up(channel))
            case (("POST" | "DELETE"), ["ring"]):
                on = method == "POST"
                channel.command(lambda: self._ring(channel, on))
            case "POST", ["progress"]:
                channel.command(lambda: self._ring(channel, False))
            case (("POST" | "DELETE"), ["moh"]):
                music = method == "POST"
                channel.command(lambda: _soon(lambda: channel.listens_to_music(music)))
            case "POST", ["play", *name]:
                return self._play(name[0] if name else query.get("playbackId", ""), channel, query)
            case "POST", ["record"]:
                return self._record(channel, query)
            case "POST", ["variable"]:
                if not query.get("variable"):
                    raise Refusal(400, "Variable name is required")
                await channel.ask(lambda: self._set(channel, {query["variable"]: query.get("value", "")}))
            case "POST", ["variables"]:
                values = dict((body or {}).get("variables", {}))
                await channel.ask(lambda: self._set(channel, values))
            case "POST", ["continue"]:
                context = query.get("context") or str(channel.dialplan.get("context", ""))
                exten = query.get("extension") or "s"

                def leave() -> None:
                    channel.leaving = (context, exten)

                channel.command(lambda: _soon(leave))
            case (("POST" | "DELETE"), ["silence"]):
                silence = method == "POST"
                channel.command(lambda: _soon(lambda: channel.listens_to_silence(silence)))
            case (("POST" | "DELETE"), ["mute" | "hold" | "dtmf" as other]):
                raise NotModelled(f"{method} channels/…/{other}")
            case _:
                raise NotModelled(f"{method} channels/…/{'/'.join(verb)}")
        return _NOTHING

    def _snoop(self, id: str, snoop_id: str, query: dict[str, str]) -> Response:
        spy, whisper = query.get("spy", "none"), query.get("whisper", "none")
        for direction, what in ((spy, "spy"), (whisper, "whisper")):
            if direction not in DIRECTIONS:
                raise Refusal(400, f"Invalid direction specified for {what}")
        if spy == whisper == "none":
            raise Refusal(400, "Direction must be specified for at least spy or whisper")
        if not query.get("app"):
            raise Refusal(400, "Application name is required")
        if id not in self.channels:
            raise Refusal(404, "Provided channel was not found")
        if snoop_id in self.channels:
            raise Refusal(500, "Snoop channel could not be created")
        snoop = Snoop(self, snoop_id, self.channels[id], spy, whisper)
        told = snoop.told()
        self.snoop(snoop, [arg for arg in query.get("appArgs", "").split(",") if arg])
        return _json(200, told)

    async def _ring(self, channel: Channel, on: bool) -> None:
        if not channel.hung_up:
            channel.rings_back(on)
            if channel.phone and on:
                channel.phone.progressed()

    def _variables(self, channel: Channel, verb: str, query: dict[str, str]) -> Response:
        names = query.get(verb, "").split(",")
        known = channel.variables | {
            "CALLERID(num)": channel.caller["number"],
            "CALLERID(name)": channel.caller["name"],
            "UNIQUEID": channel.id,
        }
        if names == [""]:
            raise Refusal(400, "Variable name is required")
        if any("(" in name and name not in known for name in names):
            raise NotModelled(f"the dialplan's function {query[verb]}")
        if not all(name in known for name in names):
            raise Refusal(404, "Provided variable was not found")
        if verb == "variable":
            return _json(200, {"value": known[names[0]]})
        return _json(200, {"variables": {name: known[name] for name in names}})

    def _set(self, channel: Channel, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            if name.startswith("TALK_DETECT("):
                pause_ms = float(value.partition(",")[0] or 2500) if name == "TALK_DETECT(set)" else None
                channel.listens_for_pauses_of_s = pause_ms / 1000 if pause_ms is not None else None
                channel.voice_since_s = None
                self.voice_may_begin(channel)
            else:
                channel.variables[name] = value
            self.channel_event("ChannelVarset", channel, variable=name, value=value)

    def _play(self, id: str, on: Channel | Bridge, query: dict[str, str]) -> Response:
        media = [item for item in query.get("media", "").split(",") if item]
        if not media:
            raise Refusal(500, "Allocation failed", key="error")
        kind = "channel" if isinstance(on, Channel) else "bridge"
        playback = Playback(id or self._next_id(), media, f"{kind}:{on.id}")
        told = playback.told()
        if isinstance(on, Channel):
            self.play_on(on, playback)
        else:
            self.play_in(on, playback)
        return _json(201, told)

    def _record(self, channel: Channel, query: dict[str, str]) -> Response:
        name = query["name"]
        if name in self.live_recordings or (name in self.stored_recordings and query.get("ifExists") != "overwrite"):
            raise Refusal(409, "Recording already exists")
        if query.get("beep") == "true":
            raise NotModelled("a recording that begins with Asterisk's own beep")
        recording = LiveRecording(
            name, channel, float(query.get("maxDurationSeconds", "0")) or float("inf"),
            float(query.get("maxSilenceSeconds", "0")) or float("inf"), query.get("terminateOn", "none"),
        )  # fmt: skip
        self.live_recordings[name] = recording
        told = recording.told()
        channel.command(lambda: self._record_on(channel, recording))
        return _json(201, told)

    async def _record_on(self, channel: Channel, recording: LiveRecording) -> None:
        """Until its key, its silence, its length, a hang-up, or somebody who stops it; in pieces of 0.1 s."""
        channel.listens_to_music(False)
        recording.state = "recording"
        self._event("RecordingStarted", (channel.id,), {"recording": recording.told()})
        while not (channel.hung_up or recording.is_over):
            await asyncio.sleep(RECORDED_IN_S)
            recording.goes_on(RECORDED_IN_S, any(speaker is channel for speaker, _ in self._speeches))
        recording.state = "done"
        del self.live_recordings[recording.name]
        self.stored_recordings.add(recording.name)
        self._event("RecordingFinished", (channel.id,), {"recording": recording.told()})

    def _recording_verb(self, method: str, kind: str, name: str, verb: list[str]) -> Response:
        if name not in (self.live_recordings if kind == "live" else self.stored_recordings):
            raise Refusal(404, "Recording not found")
        match method, kind, verb:
            case "GET", "live", []:
                return _json(200, self.live_recordings[name].told())
            case "POST", "live", ["stop"]:
                self.live_recordings[name].stopped = True
            case "GET", "stored", []:
                return _json(200, {"name": name, "format": "alaw"})
            case "DELETE", "stored", []:
                self.stored_recordings.remove(name)
            case _:
                raise NotModelled(f"{method} recordings/{kind}/…/{'/'.join(verb)}")
        return _NOTHING

    def digit(self, channel: Channel, digit: str, duration_ms: int = 100) -> None:
        super().digit(channel, digit, duration_ms)
        for recording in self.live_recordings.values():
            if recording.channel is channel and recording.ends_on in (digit, "any"):
                recording.stopped = True

    def _hang_up_channel(self, channel: Channel, query: dict[str, str]) -> Response:
        if "reason_code" in query:
            cause = int(query["reason_code"])
        elif (reason := query.get("reason", "normal")) in HANGUP_REASONS:
            cause = HANGUP_REASONS[reason]
        else:
            raise Refusal(400, "Invalid Reason")
        if not channel.hung_up:
            self.hangup_requested(channel, CAUSE_OF_DELETE, soft=True)
            channel.cause = cause
            if cause == 17:  # what PJSIP makes of it
                channel.tech_cause = 486
            self.hang_up(channel)
        return _NOTHING

    def _create_bridge(self, id: str, query: dict[str, str]) -> Response:
        if id in self.bridges:
            raise Refusal(409, f"Bridge with id '{id}' already exists")
        bridge = Bridge(id, query.get("type", "mixing"), query.get("name", ""), self.timestamp())
        self.bridges[id] = bridge
        return _json(200, bridge.told())

    async def _bridge_verb(self, method: str, bridge: Bridge, verb: list[str], query: dict[str, str]) -> Response:
        match method, verb:
            case "POST", ["addChannel" | "removeChannel" as which]:
                channels = [self._member(id) for id in query.get("channel", "").split(",")]
                for channel in channels:
                    if which == "removeChannel" and channel.bridge is not bridge:
                        raise Refusal(422, "Channel not in this bridge")
                    if not channel.in_stasis:
                        raise Refusal(422, "Channel not in Stasis application")
                muted, absorbs = (query.get(option) == "true" for option in ("mute", "absorbDTMF"))
                for channel in channels:
                    await channel.ask(functools.partial(self._move, which, bridge, channel, muted, absorbs))
                return _NOTHING
            case "POST", ["play", *name]:
                return self._play(name[0] if name else query.get("playbackId", ""), bridge, query)
        raise NotModelled(f"{method} bridges/…/{'/'.join(verb)}")

    def _member(self, id: str) -> Channel:
        if (channel := self.channels.get(id)) is None:
            raise Refusal(400, "Channel not found")
        return channel

    def _move(self, which: str, bridge: Bridge, channel: Channel, muted: bool, absorbs: bool) -> None:
        if which == "addChannel":
            self.enter(bridge, channel, muted=muted, absorbs=absorbs)
        elif channel.bridge is bridge:
            self.leave(bridge, channel)

    # Calls out

    def _create(self, lane: _Lane, id: str, query: dict[str, str], body: Mapping[str, Any] | None) -> Response:
        if query.get("app") != self.app:
            raise NotModelled("a channel for another application")
        if id in self.channels:
            lane.name_was_taken = True
            raise Refusal(409, "Channel with given unique ID already exists")
        if any(taken.startswith(id) for taken in self.channels):  # Asterisk compares as much as the new name has
            lane.name_was_taken = True
            raise Refusal(409, "Channel with given unique ID already exists")
        technology, _, number = query.get("endpoint", "").partition("/")
        if technology == "Local":
            return self._create_local(id, number, query, body)
        phone = self.phones.find(number) if technology == "PJSIP" else None
        if phone is None or not phone.registered:
            if lane.name_was_taken:
                raise Refusal(409, "Channel with given unique ID already exists")
            raise Refusal(500, "Allocation failed", key="error")
        channel = Channel(self, id, number, None, "Down")
        self.channels[id] = channel
        channel.caller = {"name": "", "number": number}
        channel.dialplan = {"context": "agents", "exten": "s", "priority": 1, "app_name": "", "app_data": ""}
        for name, value in dict((body or {}).get("variables", {})).items():
            if part := CONNECTED_LINE.get(name):
                channel.connected[part] = value
            else:
                channel.variables[name] = value
        self.interest[id] += 1
        args = [arg for arg in query.get("appArgs", "").split(",") if arg]
        told = channel.told()
        self.spawn(self._created(channel, phone, args), f"created {id}")
        return _json(200, told)

    def _create_local(self, id: str, where: str, query: dict[str, str], body: Mapping[str, Any] | None) -> Response:
        """A Local channel into the dialplan's [outbound]; its second half, which dials, is not with us."""
        number, _, rest = where.partition("@")
        if rest != "outbound/n":
            raise NotModelled(f"a Local channel to {where}")
        first, second = (
            Channel(self, id, number, None, "Down"),
            Channel(self, query["otherChannelId"], "", None, "Down"),
        )
        for n, half in enumerate((first, second), start=1):
            half.name = f"Local/{number}@outbound-{id[-3:]};{n}"
            half.dialplan = {"context": "outbound", "exten": number, "priority": 1, "app_name": "", "app_data": ""}
            half.variables |= dict((body or {}).get("variables", {}))
            self.channels[half.id] = half
        self.interest[id] += 1
        self._lines[first] = second
        told = first.told()
        self.spawn(self._local(first, [arg for arg in query.get("appArgs", "").split(",") if arg]), f"created {id}")
        return _json(200, told)

    async def _local(self, first: Channel, args: list[str]) -> None:
        await asyncio.sleep(1.5 * self.latency_s)
        await self.stasis(first, args)
        second = self._lines.pop(first)
        if second in self._recording_since:
            self._recording_complete(first, self._recording_since.pop(second))
        self.destroy(second, 200, "hotline")
        first.cause = first.cause or NORMAL_CLEARING
        self.destroy(first, 200 if first.state == "Up" else 487, "phone" if first.hung_up_there else "hotline")

    async def _calls_out(self, first: Channel, second: Channel) -> None:
        """The dialplan of [outbound]: recorded, dialled at the trunk, and what became of it."""
        self._recording_since[second] = self.now()
        second.dialplan |= {"app_name": "Dial"}
        trunk = {**first.told(), "id": self._next_id(), "name": f"PJSIP/trunk-{self.next_name():08x}"}

        def dialling(status: str) -> None:
            fields = {"dialstatus": status, "forward": "", "dialstring": first.endpoint}
            self._event("Dial", (second.id,), {**fields, "caller": second.told(), "peer": trunk})
            if status in ("RINGING", "PROGRESS", "ANSWER"):
                self.dial_event(first, status)

        dialling("")
        self.placed.append((first.id, first.endpoint))
        phone = self.phones.outside.get(first.endpoint)
        await asyncio.sleep(self.latency_s)
        if phone is None:
            self._not_through(first, 1, dialling, "CHANUNAVAIL")
            return
        first.connected = {"name": "", "number": self.hotline_numbers[0]}
        call = phone.is_called(first)
        call.on_early_media = lambda: dialling("PROGRESS")
        status = 480
        try:
            async with asyncio.timeout(float(first.variables["SANLING_RING_S"])):
                await asyncio.sleep(INVITE_TO_RING_S)
                if call.ended_at is None and not first.hung_up:
                    first.state = "Ringing"
                    self.channel_event("ChannelStateChange", first)
                    dialling("RINGING")
                status = await call.decides()
        except TimeoutError:
            call.ended_by("hotline", 487)
        if first.hung_up:
            return
        if status == 200:
            self.up(first)
            dialling("ANSWER")
        else:
            self._not_through(first, REFUSALS.get(status, NO_ANSWER), dialling, "BUSY" if status == 486 else "NOANSWER")

    def _not_through(self, first: Channel, cause: int, dialling: Callable[[str], None], status: str) -> None:
        dialling(status)
        first.hung_up_there = True
        first.cause = cause
        self.hangup_requested(first, cause)
        self.hang_up(first)

    async def _created(self, channel: Channel, phone: FakePhone, args: list[str]) -> None:
        """A created channel's life: Stasis, whether anybody dials or not, and the end."""
        self._far_ends[channel] = phone
        await asyncio.sleep(1.5 * self.latency_s)  # after the answer
        await self.stasis(channel, args)
        del self._far_ends[channel]
        channel.cause = channel.cause or NORMAL_CLEARING
        if channel.phone is None:  # nobody dialled
            channel.tech_cause = 603
            self.hangup_requested(channel, channel.cause)
        self.destroy(channel, 200 if channel.state == "Up" else 487, "phone" if channel.hung_up_there else "hotline")

    def _dial(self, channel: Channel, timeout_s: float) -> None:
        if not channel.hung_up:
            self.dial_event(channel, "")
            line = self._lines.get(channel)
            rings = self._rings(channel, timeout_s) if line is None else self._calls_out(channel, line)
            self.spawn(rings, f"dial {channel.id}")

    async def _rings(self, channel: Channel, timeout_s: float) -> None:
        """INVITE, and what the phone makes of it; `timeout_s` of 0: for ever."""
        await asyncio.sleep(self.latency_s)
        if channel.gone:
            return
        call = self._far_ends[channel].is_called(channel)
        try:
            async with asyncio.timeout(timeout_s or None):
                await asyncio.sleep(INVITE_TO_RING_S)
                if call.ended_at is None and not channel.hung_up:
                    channel.state = "Ringing"
                    self.channel_event("ChannelStateChange", channel)
                    self.dial_event(channel, "RINGING")
                status = await call.decides()
        except TimeoutError:
            status = 0
            if not channel.hung_up:
                self.hangup_requested(channel, CAUSE_OF_DELETE, soft=True)
                channel.cause, channel.tech_cause = NO_ANSWER, 480
                self.hang_up(channel)
        if channel.hung_up:
            return
        if status == 200:
            self.up(channel)
            self.dial_event(channel, "ANSWER")
        elif status:
            channel.hung_up_there = True
            channel.cause, channel.tech_cause = REFUSALS.get(status, NO_ANSWER), status
            self.hangup_requested(channel, channel.cause)
            self.hang_up(channel)

    # Calls in

    def _next_id(self) -> str:
        self._calls += 1
        return f"{self.instance}-{1772413200 + int(self.now())}.{self._calls}"

    def called(self, phone: FakePhone, number: str, display: str) -> Channel | None:
        """An INVITE from the trunk, or from an agent's phone. None: no such number (404)."""
        agent = self.phones.find(phone.number) is phone
        known = re.fullmatch(r"\*(1[1-7]|8[1-8]|9[12])[\d*]*", number) if agent else number in self.hotline_numbers
        if not known:
            return None
        channel = Channel(self, self._next_id(), phone.number if agent else "trunk", None, "Ring")
        self.channels[channel.id] = channel
        channel.caller = {"name": display, "number": phone.number}
        channel.dialplan = {"context": "agents" if agent else "inbound", "exten": number, "priority": 1}
        life = self._feature(channel, number) if agent else self._inbound(channel)
        self.spawn(life, f"call {channel.id}")
        return channel

    async def _inbound(self, channel: Channel) -> None:
        """The dialplan of the context `inbound`, and whatever follows."""
        await self._thawed.wait()
        started = self.now()
        await asyncio.sleep(self.latency_s)
        if self.at_once:
            self.up(channel)
        else:
            await self._ring(channel, True)
        await self._look_up(channel, channel.caller["number"], "", "", "")
        if not await self.stasis(channel, ["inbound"]):
            channel.leaving = ("fallback", "s")
        while channel.leaving and not channel.hung_up:
            context, channel.leaving = channel.leaving[0], None
            channel.dialplan |= {"context": context, "exten": "s"}
            if context == "case-context":
                await self._look_up(channel, *(channel.variables.get(name, "") for name in KEYED))
                for name in KEYED:
                    channel.variables.pop(name, None)
                for tries in range(9):
                    if tries:  # a controller that is being restarted is back soon
                        await self._lasts(0.5, channel.hangup)
                    if await self.stasis(channel, ["context"]):
                        break
                else:
                    channel.leaving = ("fallback", "s")
            elif context == "fallback":
                await self._fall_back(channel)
        self._recording_complete(channel, started)
        unanswered = channel.state != "Up"
        if not channel.hung_up:
            channel.cause = channel.cause if unanswered else NORMAL_CLEARING
        self.destroy(channel, 603 if unanswered else 200, "phone" if channel.hung_up_there else "hotline")

    async def _feature(self, channel: Channel, code: str) -> None:
        """The dialplan of the context `agents`."""
        await self._thawed.wait()
        await asyncio.sleep(self.latency_s)
        if not await self.stasis(channel, ["feature", code]):
            self.up(channel)
            await self._say_in_dialplan(channel, "fallback-agent")
        self.destroy(channel, 200, "phone" if channel.hung_up_there else "hotline")

    async def _look_up(self, channel: Channel, number: str, role: str, case: str, licence: str) -> None:
        """AGI(case_context)."""
        channel.variables["SANLING_CONTEXT"] = "unavailable"
        await asyncio.sleep(self.agi_s)
        if self.case_context is not None:
            try:
                channel.variables |= dict(self.case_context(number, role, case, licence))
            except Exception:
                channel.variables["SANLING_CONTEXT"] = "unavailable"

    async def _fall_back(self, channel: Channel) -> None:
        """The dialplan of the context `fallback`: an apology, and a number to call back."""
        self.fallbacks.append(channel.id)
        self.up(channel)
        await self._say_in_dialplan(channel, "fallback-sorry")
        number = ""
        for _ in range(2):  # asked again if nothing came
            first = await self._say_in_dialplan(channel, "fallback-leave-number", reads=True)
            if not channel.hung_up:
                number = await self._read_number(channel, first)
            if number or channel.hung_up:
                break
        number = number or re.sub(r"\D", "", channel.caller["number"])
        if number and self.spool:
            folder = self.spool / "callbacks"
            folder.mkdir(parents=True, exist_ok=True)
            caller = re.sub(r"\D", "", channel.caller["number"])
            note = f"{1772413200 + int(self.now())} {number} {caller}\n"
            (folder / f"{channel.id}.txt").write_text(note, encoding="ascii")
        await self._say_in_dialplan(channel, "fallback-noted" if number else "fallback-goodbye")

    async def _say_in_dialplan(self, channel: Channel, prompt: str, *, reads: bool = False) -> str:
        """Playback(), or with `reads` Read(): a first digit cuts the prompt off and is returned."""
        seconds = self.lengths(f"sound:{prompt}")
        if channel.hung_up or seconds is None:
            return ""
        heard = channel.ear.begin(prompt)
        waits = [asyncio.ensure_future(channel.hangup.wait())]
        if reads:
            channel.digits = asyncio.Queue()  # what was pressed before is lost
            waits.append(asyncio.ensure_future(channel.digits.get()))  # type: ignore[arg-type]
        done, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        channel.ear.end(heard, complete=not done)
        return str(waits[1].result()) if reads and waits[1] in done else ""

    async def _read_number(self, channel: Channel, first: str) -> str:
        digits = first
        while not digits.endswith("#") and len(digits) < 20 and not channel.hung_up:
            try:
                digits += await asyncio.wait_for(channel.digits.get(), 3.0)
            except TimeoutError:
                break
        return re.sub(r"\D", "", digits)

    def _recording_complete(self, channel: Channel, started: float) -> None:
        """MixMonitor closes its file: stereo, 8 kHz, 16 bit; here of silence."""
        seconds = self.now() - started
        self.recorded[channel.id] = seconds
        if self.spool:
            folder = self.spool / "monitor"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{channel.id}.raw").open("wb") as file:
                file.truncate(int(seconds * 8000) * 4)
            (folder / f"{channel.id}.done").touch()


class FakeWire:
    """One controller's connection to a fake Asterisk. A `Wire`."""

    def __init__(self, asterisk: FakeAsterisk) -> None:
        self._asterisk = asterisk
        self._fast = _Lane()
        self._idle_lanes = [_Lane() for _ in range(LANES_KEPT)]
        self._under_way: deque[bytes] = deque()
        self._on_event: Callable[[bytes], None] | None = None
        self._on_link: Callable[[Link], None] | None = None
        self._linked = False
        self._end: asyncio.Future[Link] | None = None
        """Of the present link: done when that breaks."""

    def attach(self, on_event: Callable[[bytes], None], on_link: Callable[[Link], None]) -> None:
        self._on_event, self._on_link = on_event, on_link

    async def run(self) -> None:
        if self._on_link is None:
            raise AssertionError("attach() comes before run()")
        while True:
            await self._asterisk.admits(self)
            self._end = asyncio.get_running_loop().create_future()
            self._linked = True
            try:
                self._on_link(Link.UP)
                end = await self._end
            finally:
                self.breaks()
            self._on_link(end)
            if end is Link.REPLACED:
                raise ApplicationReplaced("another client registered the application")

    def breaks(self, end: Link = Link.DOWN) -> None:
        """The link ends here and now: no event and no answer comes any more."""
        self._linked = False
        self._under_way.clear()
        self._fast, self._idle_lanes = _Lane(), [_Lane() for _ in range(LANES_KEPT)]
        self._asterisk.lets_go(self)
        if self._end and not self._end.done():
            self._end.set_result(end)

    def sends(self, event: dict[str, Any], late_s: float) -> None:
        self._under_way.append(json.dumps(event).encode())
        asyncio.get_running_loop().call_later(late_s, self._deliver_one)

    def _deliver_one(self) -> None:
        if self._under_way and not self._asterisk.frozen and self._on_event:
            self._on_event(self._under_way.popleft())

    def deliver(self) -> None:
        """Everything that was held back."""
        while self._under_way:
            self._deliver_one()

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
        if not self._linked or self._end is None:
            raise Unreachable("no link to Asterisk")
        asked = Request(self._asterisk.now(), method, uri, dict(query), body)
        takes_a_lane = blocking or (self._fast.asked > 0 and bool(self._idle_lanes))
        lane = self._fast if not takes_a_lane else self._idle_lanes.pop() if self._idle_lanes else _Lane()
        reply = self._asterisk.asked(lane, asked)
        end = self._end
        await asyncio.wait((reply, end), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            raise Unreachable(f"the link broke during {method} {uri}")
        if not reply.done():
            raise RequestTimeout(f"no answer to {method} {uri} within {timeout_s} s")
        if takes_a_lane:
            self._idle_lanes.append(lane)
        return reply.result()


async def _soon(do: Callable[[], None]) -> None:
    do()


def _json(status: int, body: Any) -> Response:
    return Response(status, json.dumps(body, ensure_ascii=False).encode())


_NOTHING = Response(204, b"")
