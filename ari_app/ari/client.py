"""The ARI client: ari-py's object model on asyncio, and one inbox per call.

    client = Client(WebSocketWire(url, user, password, app="sanling"), app="sanling")
    async with client:
        arrival = await client.arrivals.get()
        channel = await client.channels.get(channelId=arrival.event.channel.id)
        await channel.answer()
        event = await arrival.mailbox.get()

How an event travels: the wire's reader hands over the frame; `_on_frame` reads it, puts it into the mailboxes of the
calls that it concerns and returns. No callback runs and nothing is awaited in between, because Asterisk cuts off a
reader that stalls for 100 ms. A `StasisStart` for a call that has no mailbox becomes an `Arrival` whose mailbox is
open before the next frame is looked at, so that no event of a new call can miss it.

Nothing is replayed after a broken link. `links` tells of each break and, once it is mended, what Asterisk holds now;
whoever adopts a channel from that snapshot opens its mailbox first and asks for the channel again afterwards.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from ari_app.ari.errors import AriError, Invalid, NotFound, refusal
from ari_app.ari.events import Application, Bridge, Channel, ChannelDestroyed, StasisStart
from ari_app.ari.mailboxes import CAPACITY, Mailbox, Mailboxes, owner_of
from ari_app.ari.model import Event, UnknownEvent
from ari_app.ari.reading import read_event
from ari_app.ari.verbs import Verbs
from ari_app.ari.wire import Link, Response, Wire

log = logging.getLogger("sanling.ari")

T = TypeVar("T")

NEEDED_EVENTS = (
    "ApplicationReplaced",
    "ChannelDestroyed",
    "ChannelDtmfReceived",
    "ChannelHangupRequest",
    "ChannelHold",
    "ChannelLeftBridge",
    "ChannelStateChange",
    "ChannelTalkingFinished",
    "ChannelTalkingStarted",
    "ChannelTransfer",
    "ChannelUnhold",
    "Dial",
    "PlaybackFinished",
    "RecordingFailed",
    "RecordingFinished",
    "StasisEnd",
    "StasisStart",
)
"""What a hotline acts on; nothing else is sent. Of the 64 events of a call, 35 are `ChannelVarset`, and nine tell that
something has begun which was asked for.
"""

CARRIER_EVENTS = ("RESTResponse",)
"""Filtered like events although they are answers: without these in the list every request would time out."""

LISTENER_BACKLOG = 10_000

SETTLE_AGAIN_S = 0.5

UNKNOWN_EVENT_SOURCE = 422
"""What a subscription to a channel that is gone is refused with; everywhere else that is 404."""

Watch = Callable[[str, bool, float, AriError | None], None]
"""Told of each request when it is over: verb, whether it is one that may block, seconds, what went wrong."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A channel entered our application and no call knows it: a caller, an agent's feature code, or a ghost."""

    event: StasisStart
    mailbox: Mailbox
    """Open, and empty: `event` is not in it. Whoever takes the arrival closes it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Asterisk holds, asked for after the link came up."""

    application: Application
    """`channel_ids` and `bridge_ids` are those our application is subscribed to, also from before the break."""
    channels: tuple[Channel, ...]
    """Every channel of this Asterisk, ours or not."""
    bridges: tuple[Bridge, ...]
    booted: str = ""
    """When this Asterisk was started, in its own words."""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Requests and events flow again."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class LinkDown:
    """Events are being missed from now on; what happened meanwhile is in the next `LinkUp`."""


class Client(Verbs):
    """One application of one Asterisk.

    Inherits a verb table per resource: `applications`, `asterisk`, `bridges`, `channels`, `deviceStates`,
    `endpoints`, `events`, `playbacks`, `recordings`, `sounds`. Every verb is a coroutine and raises AriError.
    """

    def __init__(
        self,
        wire: Wire,
        app: str = "sanling",
        *,
        timeout_s: float = 5.0,
        events: Iterable[str] = NEEDED_EVENTS,
        mailbox_capacity: int = CAPACITY,
        watch: Watch | None = None,
    ) -> None:
        """`timeout_s` bounds each request; `events` are the types that Asterisk shall send; `watch` sees requests."""
        super().__init__(self._request, self._listen)
        self.app = app
        self.mailboxes = Mailboxes(mailbox_capacity)
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self.links: asyncio.Queue[LinkUp | LinkDown] = asyncio.Queue()
        self.booted = ""
        """When this Asterisk was started, in its words; "" until it was asked. Another value: all it held is gone."""
        self.linked = False
        """Whether the link carries events at this moment."""
        self.unread = 0
        """Frames that were no event at all; anything but 0 deserves a look."""
        self._wire = wire
        self._timeout_s = timeout_s
        self._watch = watch
        self._needed = (*events, *CARRIER_EVENTS)
        self._link_changes: asyncio.Queue[Link] = asyncio.Queue()
        self._listeners: dict[tuple[str, str], list[_Listener]] = {}
        self._heard: asyncio.Queue[tuple[_Listener, Event | UnknownEvent]] = asyncio.Queue(LISTENER_BACKLOG)
        self._running: asyncio.Task[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._body_cancelled = False
        wire.attach(self._on_frame, self._on_link)

    async def run(self) -> None:
        """Keep the link until cancelled. Raises ApplicationReplaced when another client took the application."""
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._follow_link()), group.create_task(self._call_listeners())]
                try:
                    await self._wire.run()
                finally:
                    for task in beside:
                        task.cancel()
        except* AriError as fatal:
            raise fatal.exceptions[0] from None
        finally:
            self.linked = False

    async def __aenter__(self) -> Self:
        """Run beside the body. When that fails, the body is cancelled and the failure raised in its place."""
        self._body = asyncio.current_task()
        self._running = asyncio.create_task(self.run())
        self._running.add_done_callback(self._cancel_body)
        return self

    def _cancel_body(self, running: asyncio.Task[None]) -> None:
        if self._body is not None and not running.cancelled():
            self._body_cancelled = self._body.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        if self._running is None or body is None:
            return
        self._running.cancel()
        try:
            await asyncio.wait([self._running])
        except asyncio.CancelledError:
            if not self._body_cancelled:
                raise
        failure = None if self._running.cancelled() else self._running.exception()
        if failure is not None and (not self._body_cancelled or body.uncancel() == 0):
            raise failure

    async def follow(self, channel_id: str) -> None:
        """Hear of this channel until it is destroyed, also after it left our application.

        A channel we did not originate falls silent at its `StasisEnd`: without this, nobody is told whether a
        caller who was sent into the dialplan hung up there. Raises NotFound if the channel is gone.
        """
        try:
            await self.applications.subscribe(applicationName=self.app, eventSource=f"channel:{channel_id}")
        except Invalid as refused:
            if refused.status != UNKNOWN_EVENT_SOURCE:
                raise
            raise NotFound(404, refused.verb, refused.reason) from None

    def on_event(self, event_type: str, heard: Callable[[Any], Any]) -> _Listener:
        """Call `heard(event)` (a function or a coroutine function) for every event of this type, until closed."""
        return self._listen("", event_type, heard)

    async def snapshot(self) -> Snapshot:
        """What Asterisk holds now."""
        application = await self.applications.get(applicationName=self.app)
        channels = await self.channels.list()
        bridges = await self.bridges.list()
        self.booted = (await self.asterisk.getInfo(only="status")).status.startup_time
        return Snapshot(application, channels, bridges, self.booted)

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _request(
        self,
        verb: str,
        method: str,
        uri: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        *,
        blocking: bool,
        returns: type[T],
    ) -> T:
        began, failure = time.perf_counter(), None
        try:
            response = await self._wire.request(method, uri, query, body, blocking=blocking, timeout_s=self._timeout_s)
            if response.status >= 400:
                raise refusal(response.status, verb, _reason(response))
        except AriError as error:
            failure = error
            raise
        finally:
            if self._watch is not None:
                self._watch(verb, blocking, time.perf_counter() - began, failure)
        if returns is type(None):
            return None
        try:
            return msgspec.json.decode(response.body, type=returns)
        except msgspec.MsgspecError as misfit:
            raise AriError(f"{verb} was answered in a shape this version does not know: {misfit}") from misfit

    # --- events -----------------------------------------------------------------------------------------------------

    def _on_frame(self, frame: bytes) -> None:
        try:
            event = read_event(frame)
        except ValueError:
            self.unread += 1
            log.warning("a frame of %s bytes was no event", len(frame))
            return
        if isinstance(event, StasisStart):
            self._on_stasis_start(event)
        else:
            self._deliver(event)
        if self._listeners:
            self._tell_listeners(event)

    def _on_stasis_start(self, event: StasisStart) -> None:
        owner = owner_of(event.channel.id)
        if self.mailboxes.find(owner) is None and event.replace_channel is not None:
            # An attended transfer put this channel in the place of one of ours: the call goes on with it.
            successor = self.mailboxes.find(owner_of(event.replace_channel.id))
            if successor is not None:
                self.mailboxes.alias(owner, successor)
        if self.mailboxes.find(owner) is not None:
            self._deliver(event)
        else:
            self.arrivals.put_nowait(Arrival(event, self.mailboxes.open(owner)))

    def _deliver(self, event: Event | UnknownEvent) -> None:
        overflows = self.mailboxes.overflows
        self.mailboxes.deliver(event)
        if self.mailboxes.overflows != overflows:
            log.error("a call's mailbox overflowed with %s; that call is given up", event.type)

    # --- ari-py's on_event ------------------------------------------------------------------------------------------

    def _listen(self, resource_id: str, event_type: str, heard: Callable[[Any], Any]) -> _Listener:
        listener = _Listener(self._listeners, (resource_id, event_type), heard)
        self._listeners.setdefault(listener.about, []).append(listener)
        return listener

    def _tell_listeners(self, event: Event | UnknownEvent) -> None:
        for key in ("", *event.keys()):
            for listener in self._listeners.get((key, event.type), ()):
                try:
                    self._heard.put_nowait((listener, event))
                except asyncio.QueueFull:
                    log.error("listeners are %s events behind; %s was not heard", LISTENER_BACKLOG, event.type)
        if isinstance(event, ChannelDestroyed):
            for about in [about for about in self._listeners if about[0] == event.channel.id]:
                del self._listeners[about]

    async def _call_listeners(self) -> None:
        while True:
            listener, event = await self._heard.get()
            try:
                outcome = listener.heard(event)
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception:
                log.exception("a listener of %s failed", event.type)

    # --- the link ---------------------------------------------------------------------------------------------------

    def _on_link(self, link: Link) -> None:
        self.linked = link is Link.UP
        self._link_changes.put_nowait(link)

    async def _follow_link(self) -> None:
        """Turns each change of the link into a LinkUp with its snapshot, or a LinkDown."""
        announced = False
        while True:
            link = await self._link_changes.get()
            if link is Link.UP:
                try:
                    snapshot = await self._settle()
                except AriError as error:
                    # The link broke again, and its DOWN is next in the queue; or Asterisk is still starting.
                    log.warning("the link came up but could not be used: %s", error)
                    if self.linked:
                        await asyncio.sleep(SETTLE_AGAIN_S)
                        if self.linked:
                            self._link_changes.put_nowait(Link.UP)
                    continue
                announced = True
                self.links.put_nowait(LinkUp(snapshot))
            elif announced:
                announced = False
                self.links.put_nowait(LinkDown())

    async def _settle(self) -> Snapshot:
        allowed = [{"type": name} for name in self._needed]
        await self.applications.filter(applicationName=self.app, filter={"allowed": allowed})
        return await self.snapshot()


class _Listener:
    """One `on_event`, until closed."""

    def __init__(
        self,
        registry: dict[tuple[str, str], list[_Listener]],
        about: tuple[str, str],
        heard: Callable[[Any], Any],
    ) -> None:
        self.about = about
        self.heard = heard
        self._registry = registry

    def close(self) -> None:
        with suppress(KeyError, ValueError):
            self._registry[self.about].remove(self)


def _reason(response: Response) -> str:
    """Asterisk's own words: under `message` mostly, under `error` when it ran out of something."""
    try:
        said = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return "no reason given"
    if isinstance(said, dict):
        return str(said.get("message") or said.get("error") or "no reason given")
    return "no reason given"
