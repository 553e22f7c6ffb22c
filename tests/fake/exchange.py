"""The telephony of the fake Asterisk: channels, bridges and playbacks, without a word of HTTP.

Each channel in Stasis serves its commands one after the other, and a playback is a command that lasts as long as
the sound: from this alone follow the real one's blocking verbs, its queue of playbacks, a `continue` that waits
for the prompt to end, and the order of events at a hangup. Orders, causes and texts are those of Asterisk 22.10.1;
tests/contract runs the same questions against both.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from tests.fake.ear import MUSIC, RINGBACK, Ear, Sound

EPOCH = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
"""What 0 s on the loop's clock is by the fake's calendar: a Monday, nine o'clock in Shanghai."""

NORMAL_CLEARING = 16
NO_ANSWER = 19
INTERWORKING = 127
SHUTDOWN = 4

CAUSE_TEXTS = {
    0: "Unknown",
    1: "Unallocated (unassigned) number",
    16: "Normal Clearing",
    17: "User busy",
    18: "No user responding",
    19: "User alerting, no answer",
    21: "Call Rejected",
    34: "Circuit/channel congestion",
    38: "Network out of order",
    127: "Interworking, unspecified",
}

REFUSALS = {404: 1, 408: 18, 480: 19, 486: 17, 500: 38, 503: 34, 603: 21}
"""SIP status of a refusal → hangup cause."""

DIRECTIONS = {"none": (), "in": ("in",), "out": ("out",), "both": ("in", "out")}
"""Of a snoop: what the spied-on channel says, what it hears."""

Command = Callable[[], Awaitable[None]]


class Phone(Protocol):
    """The far end of a channel: what a telephone is told by SIP."""

    def progressed(self) -> None:
        """180 or 183 came."""

    def answered_by_far_end(self) -> None:
        """200 came."""

    def ended_by(self, by: str, sip_status: int) -> None:
        """The call is over; `by` is `hotline` or `phone`."""

    def taken_back(self) -> None:
        """CANCEL came."""

    def left_alone(self) -> None:
        """Asterisk is dead: nothing comes any more, and nobody says so."""


@dataclass(eq=False)
class Playback:
    id: str
    media: list[str]
    target: str
    """`channel:<id>` or `bridge:<id>`"""
    state: str = "queued"
    item: int = 0
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self) -> dict[str, Any]:
        told = {"id": self.id, "media_uri": self.media[self.item]}
        if self.item + 1 < len(self.media):
            told["next_media_uri"] = self.media[self.item + 1]
        language = "zh" if self.target.startswith("channel:") else "en"
        return told | {"target_uri": self.target, "language": language, "state": self.state}


@dataclass(eq=False)
class Bridge:
    id: str
    type: str
    """As given: `mixing,dtmf_events`"""
    name: str
    created: str
    members: list[Channel] = field(default_factory=list)
    waiting: deque[Playback] = field(default_factory=deque)
    playing: Playback | None = None
    announcer: asyncio.Task[None] | None = None
    heard: dict[Channel, Sound] = field(default_factory=dict)
    gone: bool = False

    @property
    def loses_digits(self) -> bool:
        """Two SIP legs in a plain mixing bridge exchange RTP natively and Asterisk sees no DTMF."""
        return "dtmf_events" not in self.type and len(self.members) == 2 and self.playing is None

    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "technology": "softmix",
            "bridge_type": "mixing",
            "bridge_class": "stasis",
            "creator": "Stasis",
            "name": self.name,
            "channels": [channel.id for channel in self.members],
            "creationtime": self.created,
            "video_mode": "talker",
        }


class Channel:
    """One leg."""

    def __init__(self, exchange: Exchange, id: str, endpoint: str, phone: Phone | None, state: str) -> None:
        self.id = id
        self.endpoint = endpoint
        """`trunk`, or the agent's number."""
        self.name = f"PJSIP/{endpoint}-{exchange.next_name():08x}"
        self.phone = phone
        self.state = state
        self.created = exchange.timestamp()
        self.caller = {"name": "", "number": ""}
        self.connected = {"name": "", "number": ""}
        self.dialplan: dict[str, Any] = {}
        self.variables: dict[str, str] = {}
        self.in_dialplan = state == "Ring"
        """It came in through the dialplan; a created one has none to go back to."""
        self.in_stasis = False
        self.leaving: tuple[str, str] | None = None
        """Context and extension where `continue` sends it."""
        self.hung_up = False
        self.hung_up_there = False
        """By the far end."""
        self.gone = False
        self.cause = 0
        self.tech_cause: int | None = None
        self.bridge: Bridge | None = None
        self.ear = Ear()
        self.digits: asyncio.Queue[str] = asyncio.Queue()
        """What the dialplan reads with Read()."""
        self._commands: deque[Command] = deque()
        self._stirred = asyncio.Event()
        self.hangup = asyncio.Event()
        self.snoops: list[Snoop] = []
        """Which listen to this channel, or speak into it."""
        self.muted = False
        """In its bridge: not heard there."""
        self.absorbs_digits = False
        """In its bridge: the others do not hear its digits."""
        self.listens_for_pauses_of_s: float | None = None
        """TALK_DETECT: a voice is told of, and its end after a pause of so long."""
        self.voices = 0
        """Of the far end, at this moment."""
        self.voice_since_s: float | None = None
        """Since when there is one that was told of."""
        self._exchange = exchange
        self._music: Sound | None = None
        self._silenced = False
        self._ringback: Sound | None = None

    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "protocol_id": f"{self.id}@fake",
            "caller": dict(self.caller),
            "connected": dict(self.connected),
            "accountcode": "",
            "dialplan": dict(self.dialplan),
            "creationtime": self.created,
            "language": "zh",
            "channelvars": {name: self.variables.get(name, "") for name in self._exchange.channelvars},
        }

    def command(self, command: Command) -> None:
        """Let the channel do this once it has done everything before."""
        self._commands.append(command)
        self._stirred.set()

    def ask(self, command: Callable[[], None]) -> asyncio.Future[None]:
        """Like `command`; the future is done when it was: what Asterisk's blocking verbs wait for."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def do() -> None:
            command()
            if not done.done():
                done.set_result(None)

        self.command(do)
        return done

    async def serve(self) -> None:
        """Do commands until a hangup or `continue`; what was queued by then is still done."""
        while True:
            while self._commands:
                await self._commands.popleft()()
            if self.hung_up or self.leaving:
                return
            self._stirred.clear()
            await self._stirred.wait()

    def wake(self) -> None:
        self._stirred.set()

    # What the far end hears

    def listens_to_music(self, on: bool) -> None:
        """Music is heard over everything a bridge brings, until it is stopped or a playback ends it for good."""
        self._silenced = False
        if on and self._music is None:
            self._music = self.ear.begin(MUSIC)
        elif not on and self._music is not None:
            self.ear.end(self._music)
            self._music = None

    def listens_to_silence(self, on: bool) -> None:
        """As with music: nothing that a bridge brings is heard."""
        self.listens_to_music(False)
        self._silenced = on

    @property
    def hears_the_bridge(self) -> bool:
        return self._music is None and not self._silenced

    def rings_back(self, on: bool) -> None:
        if on and self._ringback is None:
            self._ringback = self.ear.begin(RINGBACK)
        elif not on and self._ringback is not None:
            self.ear.end(self._ringback)
            self._ringback = None


class Snoop(Channel):
    """A channel that hears what another one says (`in`) and hears (`out`), and is heard there.

    It goes when the other one does.
    """

    def __init__(self, exchange: Exchange, id: str, spied: Channel, spy: str, whisper: str) -> None:
        super().__init__(exchange, id, "", None, "Up")
        self.name = f"Snoop/{spied.id}-{exchange.next_name():08x}"
        self.spied = spied
        self.spies = DIRECTIONS[spy]
        self.whispers = DIRECTIONS[whisper]

    def attach(self) -> None:
        self.spied.snoops.append(self)

    def detach(self) -> None:
        if self in self.spied.snoops:
            self.spied.snoops.remove(self)


class Exchange:
    """All channels, bridges and playbacks of one Asterisk, and the events they cause."""

    channelvars: tuple[str, ...] = ()

    def __init__(self, lengths: Callable[[str], float | None]) -> None:
        self.lengths = lengths
        """Media URI → seconds; None: there is no such sound."""
        self.channels: dict[str, Channel] = {}
        self.bridges: dict[str, Bridge] = {}
        self.playbacks: dict[str, Playback] = {}
        self.interest: Counter[str] = Counter()
        """Resources whose events the application gets, each with the number of reasons why."""
        self.app_listens = False
        """Whether the application is registered: without it `Stasis()` fails."""
        self._names = 0
        self._speeches: list[tuple[Channel, dict[Channel, Sound]]] = []
        """Who speaks at this moment, and what each listener hears of it."""
        self._tasks: set[asyncio.Task[Any]] = set()

    # To be connected by who uses it

    def tell(self, event: dict[str, Any]) -> None:
        raise NotImplementedError

    # Bookkeeping

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def timestamp(self, at_s: float | None = None) -> str:
        moment = EPOCH + timedelta(seconds=self.now() if at_s is None else at_s)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}+0000"

    def next_name(self) -> int:
        self._names += 1
        return self._names - 1

    def spawn(self, life: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(life, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._buried)
        return task

    def _buried(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            context = {"message": f"the fake Asterisk failed in {task.get_name()}", "exception": error}
            task.get_loop().call_exception_handler(context)

    async def close(self) -> None:
        """End everything without an event: Asterisk is switched off."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _event(self, type: str, concerns: tuple[str, ...], fields: Mapping[str, Any]) -> None:
        if any(self.interest[resource] > 0 for resource in concerns):
            self.tell({"type": type, "timestamp": self.timestamp(), **fields})

    def channel_event(self, type: str, channel: Channel, **fields: Any) -> None:
        self._event(type, (channel.id,), {**fields, "channel": channel.told()})

    def bridge_event(self, type: str, bridge: Bridge, channel: Channel | None = None) -> None:
        concerns = (bridge.id,) if channel is None else (bridge.id, channel.id)
        who = {} if channel is None else {"channel": channel.told()}
        self._event(type, concerns, {"bridge": bridge.told(), **who})

    def playback_event(self, type: str, playback: Playback, state: str) -> None:
        playback.state = state
        self._event(type, (playback.target.partition(":")[2],), {"playback": playback.told()})

    def dial_event(self, channel: Channel, status: str) -> None:
        whom = "" if status else channel.endpoint
        fields = {"dialstatus": status, "forward": "", "dialstring": whom, "peer": channel.told()}
        self._event("Dial", (channel.id,), fields)

    def hangup_requested(self, channel: Channel, cause: int, *, soft: bool = False) -> None:
        fields: dict[str, Any] = {"cause": cause} if cause else {}
        if soft:
            fields["soft"] = True
        if channel.tech_cause is not None:
            fields["tech_cause"] = channel.tech_cause
        self.channel_event("ChannelHangupRequest", channel, **fields)

    # A channel's life

    async def stasis(self, channel: Channel, args: list[str]) -> bool:
        """The dialplan's `Stasis()`: until the channel hangs up or leaves. False: no application there."""
        if not self.app_listens:
            return False
        if channel.hung_up:
            return True
        channel.in_stasis = True
        channel.leaving = None
        channel.dialplan |= {"app_name": "Stasis", "app_data": ",".join(["sanling", *args])}
        self.interest[channel.id] += 1
        self._event("StasisStart", (channel.id,), {"args": args, "channel": channel.told()})
        await channel.serve()
        if channel.bridge:
            self.leave(channel.bridge, channel)
        channel.in_stasis = False
        self.channel_event("StasisEnd", channel)
        channel.listens_to_music(False)
        self.interest[channel.id] -= 1
        return True

    def destroy(self, channel: Channel, sip_status: int, by: str) -> None:
        """The channel is over: the last event, if anybody is subscribed."""
        if channel.in_dialplan:
            self.hangup_requested(channel, NORMAL_CLEARING, soft=True)
        fields: dict[str, Any] = {"cause": channel.cause, "cause_txt": CAUSE_TEXTS.get(channel.cause, "Unknown")}
        if channel.tech_cause is not None:
            fields["tech_cause"] = channel.tech_cause
        self.channel_event("ChannelDestroyed", channel, **fields)
        channel.hung_up = channel.gone = True
        channel.ear.close()
        channel.hangup.set()
        for snoop in list(channel.snoops):
            self.hang_up(snoop)
        self.channels.pop(channel.id, None)
        self.interest.pop(channel.id, None)
        if channel.phone:
            channel.phone.ended_by(by, sip_status)

    def hang_up(self, channel: Channel) -> None:
        """Whatever the channel does, it stops; its life then comes to its end by itself."""
        channel.hung_up = True
        channel.hangup.set()
        channel.wake()
        if channel.phone and channel.state != "Up" and not channel.in_dialplan:
            channel.phone.taken_back()

    def far_end_hangs_up(self, channel: Channel) -> None:
        """BYE, or CANCEL of a call that was not answered."""
        if channel.hung_up:
            return
        channel.hung_up_there = True
        if channel.state == "Ring":
            channel.cause, channel.tech_cause = INTERWORKING, 487
        self.hangup_requested(channel, channel.cause)
        self.hang_up(channel)

    def up(self, channel: Channel) -> None:
        if channel.state != "Up" and not channel.hung_up:
            channel.state = "Up"
            channel.rings_back(False)
            self.channel_event("ChannelStateChange", channel)
            if channel.phone:
                channel.phone.answered_by_far_end()

    def refers(self, channel: Channel, to: str) -> None:
        """REFER to a number, left to the application (`ari-only`)."""
        bridge = channel.bridge
        source: dict[str, Any] = {"source_channel": channel.told()}
        if bridge is not None:
            source["bridge"] = bridge.told()
            for other in bridge.members:
                if other is not channel:
                    source["connected_channel"] = other.told()
        destination = {"destination": to, "additional_protocol_params": []}
        fields = {
            "refer_to": {"requested_destination": destination},
            "referred_by": source,
            "state": "channel_progress",
        }
        self._event("ChannelTransfer", (channel.id,), fields)

    def digit(self, channel: Channel, digit: str, duration_ms: int = 100) -> None:
        """One key, pressed on the far end, at the moment it is let go."""
        if channel.gone or channel.state != "Up":
            return
        if not channel.in_stasis:
            channel.digits.put_nowait(digit)
            return
        bridge = channel.bridge
        if bridge is None or not bridge.loses_digits:
            self.channel_event("ChannelDtmfReceived", channel, digit=digit, duration_ms=duration_ms)
        for other in bridge.members if bridge and not channel.absorbs_digits else []:
            if isinstance(other, Snoop) and other.whispers:
                raise AssertionError("a digit becomes a tone in the spied-on channel: absorb it")
            if other is not channel:
                other.ear.digits += digit
                other.ear.stir()

    # Playbacks

    def play_on(self, channel: Channel, playback: Playback) -> None:
        self.playbacks[playback.id] = playback
        channel.command(lambda: self._play_out(channel, playback))

    async def _play_out(self, channel: Channel, playback: Playback) -> None:
        if not playback.stop_asked.is_set():
            channel.listens_to_music(False)
        if channel.state == "Ring" and channel.phone and not channel.hung_up:
            channel.rings_back(False)
            channel.phone.progressed()
        await self._run_through(playback, functools.partial(self._listen, channel, playback), lambda: channel.hung_up)

    async def _run_through(
        self,
        playback: Playback,
        sound: Callable[[str], Coroutine[Any, Any, str]],
        cut_off: Callable[[], bool],
    ) -> None:
        """All media of a playback with their events. `sound` plays one and gives done, failed or stopped."""
        result = "done"
        if not playback.stop_asked.is_set():
            for item in range(len(playback.media)):
                playback.item = item
                self.playback_event("PlaybackStarted", playback, "playing")
                result = "failed" if cut_off() else await sound(playback.media[playback.item])
                if result == "stopped" or cut_off():
                    break
                if playback.item + 1 < len(playback.media):
                    self.playback_event("PlaybackContinuing", playback, "continuing")
        if self.playbacks.get(playback.id) is playback:
            del self.playbacks[playback.id]
        self.playback_event("PlaybackFinished", playback, "done" if result == "stopped" else result)

    async def _listen(self, channel: Channel, playback: Playback, media: str) -> str:
        seconds = self.lengths(media)
        if seconds is None:
            return "failed"
        reached: list[Channel] = []
        self._told(channel, reached)
        heard = {one: one.ear.begin(prompt_of(media)) for one in reached}
        result = await self._lasts(seconds, playback.stop_asked, channel.hangup)
        for one, sound in heard.items():
            one.ear.end(sound, complete=result == "done")
        return result

    @staticmethod
    async def _lasts(seconds: float, *ends: asyncio.Event) -> str:
        """Wait so long, or until the first event (stopped), or the second (failed)."""
        waits = [asyncio.ensure_future(end.wait()) for end in ends]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=None if seconds == float("inf") else seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            return "done"
        return "failed" if len(ends) > 1 and ends[1].is_set() else "stopped"

    # Bridges

    def enter(self, bridge: Bridge, channel: Channel, *, muted: bool = False, absorbs: bool = False) -> None:
        if channel.bridge:
            self.leave(channel.bridge, channel)
        if bridge.gone or channel.gone:
            return
        channel.muted, channel.absorbs_digits = muted, absorbs
        if not channel.in_dialplan:  # it leaves the bridge of its own in which it was dialled
            channel.cause = channel.cause or NORMAL_CLEARING
        channel.bridge = bridge
        bridge.members.append(channel)
        self.interest[bridge.id] += 1
        self.bridge_event("ChannelEnteredBridge", bridge, channel)
        if bridge.heard and bridge.playing and channel.hears_the_bridge:
            bridge.heard[channel] = channel.ear.begin(prompt_of(bridge.playing.media[bridge.playing.item]))

    def leave(self, bridge: Bridge, channel: Channel) -> None:
        bridge.members.remove(channel)
        channel.bridge = None
        channel.cause = channel.cause or NORMAL_CLEARING
        self.bridge_event("ChannelLeftBridge", bridge, channel)
        self.interest[bridge.id] -= 1
        if (heard := bridge.heard.pop(channel, None)) is not None:
            channel.ear.end(heard)
        for member in (channel, *bridge.members):
            member.ear.end_of(None if member is channel else channel.id)
        self.paths_change()

    async def say(self, channel: Channel, what: str, seconds: float) -> None:
        """The far end speaks: heard by whomever it reaches from beginning to end."""
        spoken = {other: other.ear.begin(what, of=channel.id) for other in self.reached_by(channel)}
        speech = (channel, spoken)
        self._speeches.append(speech)
        self._voice(channel)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._speeches.remove(speech)
            channel.voices -= 1
            if channel.voice_since_s is not None:
                self.spawn(self._voice_pauses(channel, self.now()), f"pause of {channel.id}")
        for other, sound in spoken.items():
            other.ear.end(sound, complete=True)

    def _voice(self, channel: Channel) -> None:
        channel.voices += 1
        self.voice_may_begin(channel)

    def voice_may_begin(self, channel: Channel) -> None:
        """TALK_DETECT tells that somebody speaks, also of one who began before it listened."""
        if channel.listens_for_pauses_of_s is not None and channel.voices and channel.voice_since_s is None:
            channel.voice_since_s = self.now()
            self.channel_event("ChannelTalkingStarted", channel)

    async def _voice_pauses(self, channel: Channel, at_s: float) -> None:
        await asyncio.sleep(channel.listens_for_pauses_of_s or 0.0)
        since_s = channel.voice_since_s
        if channel.voices or since_s is None or channel.gone or channel.listens_for_pauses_of_s is None:
            return
        channel.voice_since_s = None
        self.channel_event("ChannelTalkingFinished", channel, duration=round((at_s - since_s) * 1000))

    def reached_by(self, speaker: Channel) -> list[Channel]:
        """Whose far ends hear what `speaker`'s says, through bridges and snoops."""
        reached: list[Channel] = []
        self._said(speaker, reached)
        return reached

    def _said(self, channel: Channel, reached: list[Channel]) -> None:
        for snoop in channel.snoops:
            if "in" in snoop.spies:
                self._said(snoop, reached)
        bridge = channel.bridge
        if bridge is not None and not channel.muted:
            for other in bridge.members:
                if other is not channel and other.hears_the_bridge:
                    self._told(other, reached)

    def _told(self, channel: Channel, reached: list[Channel]) -> None:
        if isinstance(channel, Snoop):
            self._whispered(channel, reached)
        elif channel not in reached:
            reached.append(channel)
            for snoop in channel.snoops:
                if "out" in snoop.spies:
                    self._said(snoop, reached)

    def _whispered(self, snoop: Snoop, reached: list[Channel]) -> None:
        """Mixed in after the spying: a snoop never hears itself, nor what others whisper."""
        spied = snoop.spied
        if "out" in snoop.whispers and spied not in reached:
            reached.append(spied)
        if "in" in snoop.whispers and spied.bridge is not None:
            for other in spied.bridge.members:
                if other is not spied and other.hears_the_bridge:
                    self._told(other, reached)

    def paths_change(self) -> None:
        """What is being said breaks off for those whom it reaches no more."""
        for speaker, spoken in self._speeches:
            reached = self.reached_by(speaker)
            for listener, sound in spoken.items():
                if listener not in reached:
                    listener.ear.end(sound)

    # Snoops

    def snoop(self, snoop: Snoop, args: list[str]) -> None:
        self.channels[snoop.id] = snoop
        snoop.attach()
        self.spawn(self._snoops(snoop, args), f"snoop {snoop.id}")

    async def _snoops(self, snoop: Snoop, args: list[str]) -> None:
        await asyncio.sleep(0)
        await self.stasis(snoop, args)
        snoop.detach()
        self.paths_change()
        snoop.cause = snoop.cause or NORMAL_CLEARING
        self.destroy(snoop, 200, "hotline")

    def destroy_bridge(self, bridge: Bridge) -> None:
        bridge.gone = True
        del self.bridges[bridge.id]
        if bridge.announcer:
            bridge.announcer.cancel()
        for playback in [bridge.playing, *bridge.waiting]:
            if playback:
                self.playbacks.pop(playback.id, None)
        bridge.playing = None
        for channel in list(bridge.members):
            self.leave(bridge, channel)
        self.bridge_event("BridgeDestroyed", bridge)  # the last to leave took the subscription along
        self.interest.pop(bridge.id, None)

    def play_in(self, bridge: Bridge, playback: Playback) -> None:
        self.playbacks[playback.id] = playback
        bridge.waiting.append(playback)
        if bridge.announcer is None or bridge.announcer.done():
            bridge.announcer = self.spawn(self._announce(bridge), f"announcer of {bridge.id}")

    async def _announce(self, bridge: Bridge) -> None:
        while bridge.waiting:
            playback = bridge.playing = bridge.waiting.popleft()
            await self._run_through(
                playback,
                functools.partial(self._all_listen, bridge, playback),
                lambda: bridge.gone,
            )
            bridge.playing = None
        bridge.announcer = None

    async def _all_listen(self, bridge: Bridge, playback: Playback, media: str) -> str:
        seconds = self.lengths(media)
        if seconds is None:
            return "failed"
        started = self.now()
        reached: list[Channel] = []
        for member in bridge.members:
            if member.hears_the_bridge:
                self._told(member, reached)
        bridge.heard = {one: one.ear.begin(prompt_of(media)) for one in reached}
        try:
            result = await self._lasts(seconds, playback.stop_asked)
        finally:
            heard, bridge.heard = bridge.heard, {}
        for channel, sound in heard.items():
            channel.ear.end(sound, complete=result == "done" and sound.at_s == started)
        return result


def prompt_of(media: str) -> str:
    """The prompt that a media URI names: `sound:/…/prompts/opening` is `opening`."""
    return media.partition(":")[2].rpartition("/")[2]
