"""One call: hear, step, do.

Everything that happens to a call, from Asterisk, the clock or the desk, arrives in its mailbox; one task takes it out,
asks the SOP (``flow.sop.step``) and does what it says. There is no other state machine and no lock. Whatever this
task creates is named after the call, so its events find the way back and nothing outlives the call unnamed.

A caller who hangs up is `Heard.HUNG_UP` (normal). Anything that breaks in here hands the caller to the dialplan's
fallback (an apology and a callback), is counted and logged, and touches no other call. A call whose task is cancelled
is left as it is, for the next controller to take up (``ari_app.adoption``): the names of what it made in Asterisk
follow from its rows in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Literal, cast

from ari_app import cases
from ari_app.ari import events
from ari_app.ari.client import Client
from ari_app.ari.errors import (
    AllocationFailed,
    AriError,
    Conflict,
    Invalid,
    NotFound,
    RequestTimeout,
    ServerError,
    Unreachable,
)
from ari_app.ari.mailboxes import Mailbox
from ari_app.desk import Desk, Reserved
from ari_app.errors import PromptAltered, StoreUnavailable
from ari_app.flow.dispatch import minutes
from ari_app.flow.identity import REQUIRED, Element, Role
from ari_app.flow.keypad import AgentKeys, Keyed, Keypad
from ari_app.flow.sop import (
    ASKING,
    ELEMENTS,
    ENTRIES,
    IDENTIFYING,
    MENUS,
    QUESTIONS,
    QUEUED,
    ROLES,
    Do,
    Heard,
    Need,
    Progress,
    State,
    step,
)
from ari_app.flow.story import Story
from ari_app.ledger import Ledger
from ari_app.prompts import Catalogue
from ari_app.settings import Settings
from ari_app.store import models
from metrics.hotline import HotlineMetrics, QueueResult

log = logging.getLogger("sanling.call")

CONTEXT_WITHIN_S = 4.0
"""The AGI server answers or gives up within 2 s; the rest is for the way there and back."""
ANSWER_SETTLES_S = 0.4
"""From the answer to the first word: a line that has just been put through may swallow the first syllables."""
SETTLES_S = 0.6
"""From joining to the first word: a phone may lose half a second when its stream turns from music to talk."""
GOES_S = 0.3
"""A channel that is hung up is gone after this."""
STOP_TRIES = 3
ANNOUNCER_TRIES = 5
ANNOUNCER_LEAVES_S = 0.1
CONTEXT_TRIES = 5
"""After so many waits the call goes on without: its return from the dialplan was lost, or its AGI session hangs."""
PLAYBACK_GRACE_S = 3.0
"""A playback that has not ended this long after its audio is taken as ended: Asterisk lost it."""
CEILING_AGAIN_S = 3.0
UNHEARD_S = 1.0
"""The link was down for longer than this: keys may have been missed, and the question is asked again."""
UNSTICKS = {"ring", "first-key", "next-key", "speech", "whisper", "context", "five"}
"""Timers each of which gets a call on."""
NOT_IN_STASIS = (400, 422)
"""What addChannel answers when the channel has gone: 400 if it was destroyed, 422 if it is on its way out."""
RELINK_AGAIN_S = 0.2
TIMEOUTS = 3
"""A request that is not answered so often, 5 s each, breaks its call."""
APOLOGY = ("fallback", "s", 1)
CONTEXT = ("case-context", "s", 1)

KEYED = {
    Keyed.ENTERED: Heard.ENTERED,
    Keyed.CLEARED: Heard.ENTRY_CLEARED,
    Keyed.INVALID: Heard.ENTRY_INVALID,
    Keyed.NOTHING: Heard.NO_ENTRY,
    Keyed.PERSON: Heard.WANTS_A_PERSON,
}

ContextStatus = Literal["ok", "none", "unavailable"]
OfferOutcome = Literal["refused", "busy", "no_answer", "unreachable", "caller_left"]

OFFER_ENDED: dict[Heard, OfferOutcome] = {
    Heard.AGENT_REFUSED: "refused",
    Heard.AGENT_BUSY: "busy",
    Heard.AGENT_NO_ANSWER: "no_answer",
    Heard.AGENT_UNREACHABLE: "unreachable",
    Heard.AGENT_LEFT: "refused",
    Heard.AGENT_LOST: "refused",
}

CAUSES = {16: Heard.AGENT_LEFT, 17: Heard.AGENT_BUSY, 18: Heard.AGENT_NO_ANSWER, 19: Heard.AGENT_NO_ANSWER,
          21: Heard.AGENT_REFUSED}  # fmt: skip
"""Hang-up causes of a phone that was offered a call. Source: ITU-T Q.850; 486 → 17, 603 → 21, 480 and timeout → 19."""

ROLE_WORDS = {Role.LAWYER: "律师", Role.PARTY: "当事人", Role.UNKNOWN: "身份未知"}
ELEMENT_WORDS = {
    Element.FIRM: "律所", Element.NAME: "姓名", Element.LICENCE: "执业证号", Element.MOBILE: "手机号",
    Element.CASE: "案号",
}  # fmt: skip
KEYED_AS = {
    Element.FIRM: "SANLING_KEYED_FIRM", Element.NAME: "SANLING_KEYED_NAME", Element.LICENCE: "SANLING_KEYED_LICENCE",
    Element.MOBILE: "SANLING_KEYED_NUMBER", Element.CASE: "SANLING_KEYED_CASE",
}  # fmt: skip
"""The channel variable of each answer; those the look-up needs are read in dialplan/extensions.conf."""
MILESTONE_WORDS = {"filed": "立案", "scheduled": "排期", "served": "送达", "heard": "开庭", "judged": "判决"}


WhisperedNeed = Literal["milestone", "material", "time", "pressing", "none"]
WHISPERED_NEEDS: dict[Need | None, WhisperedNeed] = {
    Need.MILESTONE: "milestone", Need.MATERIAL: "material", Need.TIME: "time", Need.PRESSING: "pressing", None: "none",
}  # fmt: skip

Outcome = Literal["handled", "abandoned", "left_in_menu", "ceiling", "lost", "broken"]
SHORT_ABANDON_S = 5.0
"""Who hangs up so soon after joining the queue is not counted against the service level."""


def offer_channel(call_id: str, n: int) -> str:
    return f"{call_id}~offer-{n}"


def talk_bridge(call_id: str, n: int) -> str:
    """Of the talk that came of offer `n`."""
    return f"{call_id}~bridge-{n}"


def playback_name(call_id: str, row: int, k: int) -> str:
    """Of the `k`-th thing that was said in step `row`."""
    return f"{call_id}~play-{row}-{k}"


@dataclass(frozen=True)
class Hotline:
    """What a call needs of the house it comes to."""

    settings: Settings
    client: Client
    desk: Desk
    ledger: Ledger
    catalogue: Catalogue
    metrics: HotlineMetrics
    clock: Callable[[], float]
    """Unix seconds."""
    linked: asyncio.Event
    """Set while Asterisk is reachable."""


@dataclass(frozen=True)
class Due:
    """A deadline of this call has come; void if it was cleared or set anew since (`n`)."""

    name: str
    n: int


@dataclass(frozen=True)
class Resync:
    """The link to Asterisk was down; these channels are there now. What was lost must be found out."""

    channels: Mapping[str, str]
    """Channel id → state."""
    ours: frozenset[str]
    """Ids of those that are with us, not in the dialplan."""
    at: float = 0.0
    """Unix seconds; what was made since then may be missing."""
    away_s: float = 0.0
    """For how long the link was down; 0: it was not, this is the regular look."""


@dataclass
class Speech:
    """Prompts being played, one after another."""

    playback: str
    prompts: tuple[str, ...]
    side: str
    at: float


@dataclass
class Offer:
    """An agent's phone that was offered this call."""

    n: int
    agent: str
    channel: str
    at: float
    dialled: bool = False
    answered_at: float | None = None
    joined_at: float | None = None
    left: bool = False


@dataclass
class CaseVars:
    """Codes and counts from AGI; no personal data."""

    status: ContextStatus = "unavailable"
    cases: str = "0"
    milestone: str = "none"


@dataclass
class Call:
    """A caller from the first ring to the end. `number` is personal data: masked in every log."""

    hotline: Hotline
    id: str
    inbox: Mailbox
    number: str | None
    progress: Progress = field(default_factory=Progress)
    context: CaseVars = field(default_factory=CaseVars)
    missing: tuple[Element, ...] = ()
    person: cases.Person | None = None
    answers: dict[Element, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.hotline.clock()
        self.story = Story(state_since=self.began)
        self.booted = self.hotline.client.booted
        """Which start of Asterisk's the call came in under: if there has been another, its line is lost."""
        self.talked_s = 0.0
        self.hung_up_by: Literal["caller", "hotline", "line"] = "caller"
        self.outcome: Outcome | None = None
        self.served_by: str | None = None
        self.offer: Offer | None = None
        self.speech: Speech | None = None
        self.whispered: Speech | None = None
        self.music = False
        self.bridge: str | None = None
        self.pad: Keypad | None = None
        self.agent_keys = AgentKeys({"5": Heard.DISCLAIMER_ASKED, "6": Heard.CLOSING_ASKED})
        self.offers = self.checks = self.prompts_heard = 0
        """How many of them there were: the next one's number."""
        self.adopted = False
        self.ended_at: float | None = None
        """When it was over, if not now."""
        self._reserved: str | None = None
        self._deaf_until = 0.0
        self._unsure: str | None = None
        self._happened_at: float | None = None
        self._held_since: float | None = None
        self._held_s = 0.0
        self._plays = 0
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self._dues = 0
        self._last_heard: Heard | None = None
        self._entered: tuple[Element, str] | None = None
        self._let_go: Offer | None = None
        self._parting: Offer | None = None
        self._late = 0
        self._afterwards: list[Heard] = []

    # ================================================================ the loop

    async def run(self) -> None:
        """Serves the caller until the end; never raises for what happened to the call.

        Cancelled, it leaves everything as it is.
        """
        house = self.hotline
        if not self.adopted:
            house.metrics.call_arrived()
            house.metrics.case_context(self.context.status)
        try:
            if not self.adopted:
                await self._through(self._ring)
            while self.progress.state is not State.ENDED:
                heard = await self._hear(await self.inbox.get())
                if heard is not None:
                    at, self._happened_at = self._happened_at, None
                    await self.take(heard, at)
        except asyncio.CancelledError:
            self._clear(*list(self._timers))
            self.inbox.close()
            raise
        except Exception:
            log.exception("call %s: broken in %s", self.id, self.progress.state.name)
            self.outcome = "broken"
            await self._apologise()
        await self._close()

    async def take(self, heard: Heard, at: float | None = None) -> None:
        """One step of the SOP: look up, write down, do. `at`: when it was, if not now."""
        at = self.hotline.clock() if at is None else at
        was = self.progress
        self.progress, actions = step(was, heard)
        if heard in ROLES:  # who the caller claims to be starts anew: what failed as another is not missing now
            self.answers.clear()
            self.missing = ()
        self._last_heard = heard
        if self.progress is was and not actions:
            return
        names = " ".join(do.name for do in actions)
        self.hotline.ledger.write(
            models.Transition(
                call_id=self.id,
                n=self.story.rows,
                at=at,
                state=was.state.name,
                heard=heard.name,
                next=self.progress.state.name,
                actions=names,
                agent=self.offer.agent if self.offer else self._reserved,
            )
        )
        self.story.note(at, was.state, heard, self.progress.state, actions)
        self._plays = 0
        log.info("call %s: %s, %s → %s [%s]", self.id, was.state.name, heard.name, self.progress.state.name, names)
        if self.progress.state is not was.state:
            self.pad = pad_of(self.progress.state)
            self._clear("first-key", "next-key", "five")
        if Do.SAY_INTERRUPTED in actions:  # keys that come now belong to what was half keyed when we went
            self._deaf_until = self.hotline.clock() + self.seconds(WORDS[Do.SAY_INTERRUPTED])
        await self._do_all(actions)

    async def _do_all(self, actions: tuple[Do, ...]) -> None:
        words: list[str] = []
        for do in actions:
            if do in (Do.ASK, Do.LISTEN, Do.OFFER_OWN_NUMBER):
                self.pad = pad_of(self.progress.state)
            said = self.words(do)
            if said is not None:
                words += said
                continue
            if words:
                await self._through(partial(self._say, tuple(words)))
                words = []
            await self._through(partial(DOING[do], self))
        if words:
            await self._through(partial(self._say, tuple(words)))

    async def _through(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work`; if the link to Asterisk is down, again when it is up: until then nobody knows of the call."""
        tries = 0
        while True:
            try:
                return await work()
            except Unreachable:
                log.info("call %s waits for Asterisk", self.id)
            except RequestTimeout:  # it stood still, or the link did: asked again, it does no harm
                tries += 1
                if tries == TIMEOUTS:
                    raise
                log.warning("call %s: Asterisk is slow to answer", self.id)
            await asyncio.sleep(RELINK_AGAIN_S)  # the news of a broken link comes after the request that it broke
            await self.hotline.linked.wait()

    # ================================================================ hearing

    async def _hear(self, event: object) -> Heard | None:
        """What `event` means to the SOP, or None."""
        match event:
            case Heard.HUNG_UP:
                return self._gone()
            case Heard():
                return event
            case Due(name, n):
                return await self._due(name) if self._timers.get(name, (0, None))[0] == n else None
            case Reserved(agent):
                self._reserved = agent
                if self.progress.state is State.WAITING:
                    return Heard.AGENT_RESERVED
                self._reserved = None
                await self.hotline.desk.withdraw(self.id, agent)
            case Resync():
                heard = self._resync(event)
                return await self._ended_unheard() if heard is None and event.away_s else heard
            case events.ChannelDtmfReceived(digit=digit, channel=channel):
                return await self._key(digit) if channel.id == self.id else self._agent_key(channel.id, digit)
            case events.PlaybackFinished(playback=playback):
                return await self._playback_finished(playback.id, playback.state)
            case events.StasisStart(channel=channel, args=args) if channel.id == self.id:
                return self._context_came(channel) if tuple(args[:1]) == ("context",) else None
            case events.StasisStart(channel=channel):
                await self._through(partial(self._dial, channel.id))
            case events.ChannelStateChange(channel=channel) if channel.id != self.id and channel.state == "Up":
                return self.agent_answered(channel.id)
            case events.StasisEnd(channel=channel) if channel.id == self.id:
                return None if self.progress.state is State.FETCHING_CONTEXT else Heard.HUNG_UP
            case events.ChannelDestroyed(channel=channel, cause=cause):
                return Heard.HUNG_UP if channel.id == self.id else self._agent_gone(channel.id, cause)
            case events.ChannelHold(channel=channel) if self.offer and channel.id == self.offer.channel:
                self._held_since = self.hotline.clock()
            case events.ChannelUnhold(channel=channel) if self.offer and channel.id == self.offer.channel:
                self._unhold()
        return None

    def _gone(self) -> Heard:
        """The caller's channel is not there any more: hung up, or lost with the Asterisk it was in."""
        if self.booted == self.hotline.client.booted:
            return Heard.HUNG_UP
        self.hung_up_by = "line"
        return Heard.LINE_LOST

    def _resync(self, now: Resync) -> Heard | None:
        if self.began >= now.at:
            return None
        if self.id not in now.channels:
            return self._gone()
        if self.progress.state is State.FETCHING_CONTEXT and self.id in now.ours and now.away_s:  # came back unheard
            return Heard.RESUMED
        offer = self.offer
        if offer is not None and not offer.left and offer.at < now.at:
            if offer.channel not in now.channels:
                offer.left = True
                return Heard.OFFER_LOST if offer.answered_at is None else self._agent_gone(offer.channel, 0)
            if now.away_s and not offer.dialled:  # its coming was missed
                return Heard.OFFER_LOST
            if now.channels[offer.channel] == "Up" and self.progress.state is State.OFFERING:
                return self.agent_answered(offer.channel) or Heard.AGENT_ANSWERED
        if now.away_s >= UNHEARD_S and self.progress.state in ASKING:
            return Heard.RESUMED
        return self._out_of_silence()

    async def _ended_unheard(self) -> Heard | None:
        """What was being said when the link broke is over now: then it ended when it should have."""
        speech = self.speech
        if speech is not None:
            try:
                await self.hotline.client.playbacks.get(playbackId=speech.playback)
            except NotFound:
                self._happened_at = min(self.hotline.clock(), speech.at + self.seconds(speech.prompts))
                return await self._speech_ended(whole=True)
            except AriError as error:
                log.info("call %s: what is being said cannot be looked up: %s", self.id, error)
        return None

    def _out_of_silence(self) -> Heard | None:
        """What goes on if nothing else would: every state but a talk waits for something that has an end."""
        if self.progress.state is State.TALKING or self._timers.keys() & UNSTICKS or len(self.inbox):
            return None
        if self.progress.state in QUEUED and self.music:
            return None
        log.error("call %s: nothing to wait for in %s; it goes on", self.id, self.progress.state.name)
        return STUCK.get(self.progress.state, Heard.PROMPT_ENDED)

    async def _key(self, key: str) -> Heard | None:
        """A key of the caller's: typing over a prompt stops it."""
        if self.pad is None or self.hotline.clock() < self._deaf_until:
            return None
        self._clear("first-key", "next-key")
        if self.progress.state in QUESTIONS or key in self.pad.choices or key == "0":
            await self._through(self._hush)
            if self.bridge is None:
                await self._through(self._keep_silence)
        keyed = self.pad.press(key)
        if keyed is None:
            if self.pad.keys:
                quick = min(2.0, self.hotline.settings.keypad.between_digits_s)
                self.within("next-key", quick if self.pad.lone_zero else self.hotline.settings.keypad.between_digits_s)
            return None
        return await self._keyed(keyed)

    async def _keyed(self, keyed: Keyed) -> Heard:
        state = self.progress.state
        if self.pad is not None and keyed is Keyed.CHOICE:
            return MENUS[state][self.pad.keys]
        if self.pad is not None and keyed is Keyed.ENTERED:
            self._entered = (ELEMENTS[state], self.pad.keys)
            await self._through(self._keep_answer)  # before the step: whoever takes the call up there finds it
        return KEYED[keyed]

    def _agent_key(self, channel: str, key: str) -> Heard | None:
        if self.offer is None or channel != self.offer.channel:
            return None
        code = self.agent_keys.press(key)
        return self._unless_disclaiming(code) if isinstance(code, Heard) else None

    def _unless_disclaiming(self, heard: Heard) -> Heard | None:
        """The disclaimer is read out whole (SOP-5): what would cut it off waits until it has ended."""
        if self.speech is None or "disclaimer" not in self.speech.prompts:
            return heard
        if heard is not Heard.DISCLAIMER_ASKED:
            self._afterwards.append(heard)
        return None

    async def _playback_finished(self, playback: str, state: str) -> Heard | None:
        if self.whispered is not None and playback == self.whispered.playback:
            if state != "done":  # the agent is hanging up, or the playback broke
                self.within("whisper", 0.3)
                return None
            self._clear("whisper")
            self._heard_prompts(self.whispered, whole=True)
            self.whispered = None
            return Heard.WHISPER_ENDED
        if self.speech is None or playback != self.speech.playback:
            return None
        if state != "done":  # comes before the hang-up that caused it: wait for that before going on
            self.within("speech", 0.3)
            return None
        return await self._speech_ended(whole=True)

    async def _speech_ended(self, whole: bool) -> Heard:
        self._clear("speech")
        if self.speech is not None:
            self._heard_prompts(self.speech, whole)
            self.speech = None
        while self._afterwards:
            self.inbox.put(self._afterwards.pop(0))
        if self.progress.state in QUESTIONS and self.pad is not None and not self.pad.keys:
            self.within("first-key", self.hotline.settings.keypad.first_digit_s)
        if self.bridge is None and self.progress.state not in QUEUED:
            await self._through(self._keep_silence)
        return Heard.PROMPT_ENDED

    async def _due(self, name: str) -> Heard | None:
        self._timers.pop(name, None)
        match name:
            case "first-key" | "next-key" if self.pad is not None:
                return await self._keyed(self.pad.quiet())
            case "speech":
                return await self._speech_ended(whole=False)
            case "whisper":
                return Heard.WHISPER_ENDED
            case "announce":
                self.within("announce", self.hotline.settings.queue.announce_every_s)
                return Heard.ANNOUNCEMENT_DUE
            case "ceiling":
                self.within("ceiling", CEILING_AGAIN_S)
                return Heard.CEILING_REACHED
            case "context":
                await self._through(self._context_late)
                return None
            case "ceiling-near":
                return self._unless_disclaiming(Heard.CEILING_NEAR)
        return DUE.get(name)

    def remember_context(self, channel: events.Channel) -> None:
        self.context = case_vars(channel)

    def _context_came(self, channel: events.Channel) -> Heard:
        self._clear("context")
        self.remember_context(channel)
        self.hotline.metrics.case_context(self.context.status)
        return Heard.CONTEXT_FAILED if self.context.status == "unavailable" else Heard.CONTEXT_CAME

    async def _context_late(self) -> None:
        """Gone to the dialplan and not come back: hung up there, or held up."""
        with self._gone_is_hung_up():
            await self.hotline.client.channels.get(channelId=self.id)
            self._late += 1
            if self._late < CONTEXT_TRIES:
                self.within("context", CONTEXT_WITHIN_S)
            else:
                self.inbox.put(Heard.CONTEXT_FAILED)

    def agent_answered(self, channel: str) -> Heard | None:
        if self.offer is None or channel != self.offer.channel or self.offer.answered_at is not None:
            return None
        self.offer.answered_at = self.hotline.clock()
        waited = self.offer.answered_at - self.offer.at
        self.hotline.metrics.agent_answered(self.offer.agent, waited)
        self._offer_event("answered")
        return Heard.AGENT_ANSWERED

    def _agent_gone(self, channel: str, cause: int) -> Heard | None:
        if self.offer is None or channel != self.offer.channel:
            return None
        self.offer.left = True
        if self.offer.answered_at is not None:
            not_joined = self.progress.state is State.TALKING and self.offer.joined_at is None
            return Heard.AGENT_LOST if not_joined else Heard.AGENT_LEFT
        rang_out = self.hotline.clock() - self.offer.at >= self.hotline.settings.queue.offer_timeout_s - 0.5
        return Heard.AGENT_NO_ANSWER if rang_out else CAUSES.get(cause, Heard.AGENT_UNREACHABLE)

    # ================================================================ doing

    async def _ring(self) -> None:
        """The caller hears ringback; the answer is timed from here. SOP-1."""
        with self._gone_is_hung_up():
            await self.hotline.client.channels.ring(channelId=self.id)
        self.within("ring", self.hotline.settings.answering.delay_s)

    async def _answer(self) -> None:
        with self._gone_is_hung_up():
            await self._hush()  # of an earlier greeting, which would keep the answer waiting
            try:
                await self.hotline.client.channels.answer(channelId=self.id)
            except ServerError:  # "failed to answer": a caller who hangs up in this moment, if not something worse
                await asyncio.sleep(GOES_S)
                await self.hotline.client.channels.get(channelId=self.id)
                raise
            if self._last_heard is Heard.RANG_ENOUGH:
                self.hotline.metrics.hotline_answered(self.hotline.clock() - self.began)
            self.watch_ceiling()
            await asyncio.sleep(ANSWER_SETTLES_S)

    def watch_ceiling(self) -> None:
        """The whole call has an end, counted from the answer."""
        if self.story.answered_at is not None:
            ending = self.hotline.settings.ending
            left_s = self.story.answered_at + ending.call_ceiling_s - self.hotline.clock()
            if left_s > ending.warn_before_ceiling_s:
                self.within("ceiling-near", left_s - ending.warn_before_ceiling_s)
            self.within("ceiling", left_s)

    def _own_number_offered(self) -> tuple[str, ...]:
        if cases.is_mobile(self.number):
            return QUESTIONS[self.progress.state]
        self.inbox.put(Heard.NO_NUMBER_TO_OFFER)
        return ()

    async def _take_answer(self) -> None:
        if self._entered is not None:
            element, keys = self._entered
            self.answers[element] = keys

    async def _take_own_number(self) -> None:
        self.answers[Element.MOBILE] = self.number or ""

    async def _keep_answer(self) -> None:
        """On the channel, for whoever takes the call up: what was keyed is not written into the ledger."""
        element, keys = self._entered or (Element.NAME, "")
        with self._gone_is_hung_up():
            await self.hotline.client.channels.setChannelVar(channelId=self.id, variable=KEYED_AS[element], value=keys)

    async def _check_identity(self) -> None:
        role, answers = self.progress.role, dict(self.answers)
        try:
            person, missing = await self.hotline.ledger.look_up(lambda s: cases.check_identity(s, role, answers))
        except StoreUnavailable:
            log.error("call %s: identity cannot be checked, the database is away", self.id)
            self.missing = REQUIRED[role]
            self.inbox.put(Heard.IDENTITY_UNAVAILABLE)
            return
        self.person, self.missing = person, missing
        self.hotline.ledger.write(
            models.Identity(
                call_id=self.id,
                n=self.checks,
                at=self.hotline.clock(),
                role=role.value,
                verified=person is not None,
                missing=" ".join(missing),
                party_id=person.party_id if person else None,
                lawyer_id=person.lawyer_id if person else None,
            )
        )
        self.checks += 1
        self.inbox.put(Heard.IDENTITY_PROVEN if person else Heard.IDENTITY_NOT_PROVEN)

    async def _fetch_context(self) -> None:
        """By AGI, with what was keyed: out to the dialplan and back. What the calling number told is forgotten: it need
        not be the proven person's.
        """
        self.context = CaseVars()
        channels = self.hotline.client.channels
        keyed = {"SANLING_KEYED_ROLE": self.progress.role.value} | {
            KEYED_AS[element]: self.answers.get(element, "")
            for element in (Element.MOBILE, Element.CASE, Element.LICENCE)
        }
        context, extension, priority = CONTEXT
        with self._gone_is_hung_up(), suppress(Conflict):  # asked before the link broke, and gone there already
            await self._hush()
            for variable, value in keyed.items():
                await channels.setChannelVar(channelId=self.id, variable=variable, value=value)
            await channels.continueInDialplan(
                channelId=self.id, context=context, extension=extension, priority=priority
            )
        self.wait_for_context()

    def wait_for_context(self) -> None:
        """The call is in the dialplan and will come back with its context."""
        self._late = 0
        self.within("context", CONTEXT_WITHIN_S)

    # ---------------------------------------------------------------- waiting

    async def _join_queue(self) -> None:
        """Takes a place, or the one that was left for an agent who was gone."""
        since = self.story.waiting_since
        if since is not None:
            if "announce" not in self._timers:
                self._announce_in_turn(since)
            self.hotline.desk.join(self.id, since, self.inbox, offered=self.offer is not None)

    def _announce_in_turn(self, since: float) -> None:
        """Every so many seconds of waiting, whatever came between."""
        every_s = self.hotline.settings.queue.announce_every_s
        self.within("announce", every_s - (self.hotline.clock() - since) % every_s)

    async def _leave_queue(self) -> None:
        self.hotline.desk.leave(self.id)
        self._clear("announce")

    async def _play_music(self) -> None:
        await self._destroy_bridge()
        if not self.music:
            with self._gone_is_hung_up():
                await self.hotline.client.channels.startMoh(channelId=self.id, mohClass="sanling")
                self.music = True

    async def _ring_agent(self) -> None:
        agent, self._reserved = self._reserved, None
        if agent is None:
            return
        self.offers += 1
        channel = offer_channel(self.id, self.offers)
        self.offer = Offer(self.offers, agent, channel, self.hotline.clock())
        self.agent_keys = AgentKeys(self.agent_keys.codes)
        self._offer_event("offered")
        channels = self.hotline.client.channels
        try:
            # Not originate: what is originated, and answered while no controller is there, is hung up.
            await channels.create(
                channelId=channel,
                endpoint=f"PJSIP/{agent}",
                app=self.hotline.client.app,
                appArgs=f"offer,{self.id},{self.offers}",
                variables={
                    "CONNECTEDLINE(name)": self._display(),
                    "CONNECTEDLINE(num)": self.number or "anonymous",
                },
            )
        except (AllocationFailed, NotFound, Conflict):
            self.offer.left = True
            self.inbox.put(Heard.AGENT_UNREACHABLE)

    async def _dial(self, channel: str) -> None:
        """The offer's channel has come to us, and only now can it be dialled."""
        offer = self.offer
        if offer is not None and offer.channel == channel:
            timeout_s = ceil(self.hotline.settings.queue.offer_timeout_s)
            try:
                await self.hotline.client.channels.dial(channelId=channel, timeout=timeout_s)
                offer.dialled = True
            except (NotFound, Conflict) as error:
                log.info("call %s: agent %s cannot be dialled: %s", self.id, offer.agent, error)
                offer.left = isinstance(error, NotFound)
                self.inbox.put(Heard.AGENT_UNREACHABLE)

    async def _cancel_offer(self) -> None:
        """The agent's phone stops ringing, or is let go; what becomes of the agent is the next action's."""
        if self.offer is not None:
            self._let_go, self.offer = self.offer, None
        if self._let_go is not None:
            await self._stop_whisper()
            await self._hang_up_agent(self._let_go)
            await self._destroy_bridge()

    async def _free_agent(self) -> None:
        """The offer ended for the caller's reasons."""
        offer, self._let_go = self._let_go, None
        if offer is not None:
            self._offer_ended(offer, "caller_left")
            await self.hotline.desk.withdraw(self.id, offer.agent)

    async def _pause_agent(self) -> None:
        """RONA: the agent did not take the offer."""
        offer, self._let_go = self._let_go, None
        if offer is not None:
            why = OFFER_ENDED.get(self._last_heard, "refused") if self._last_heard else "refused"
            self._offer_ended(offer, why)
            self.hotline.metrics.rona(offer.agent)
            await self.hotline.desk.did_not_answer(self.id, offer.agent, why)

    async def was_not_taken(self, n: int, agent: str, heard: Heard, written: bool) -> None:
        """Offer `n` ended so, and its agent was still to be paused; `written`: its end is in the ledger."""
        why = OFFER_ENDED.get(heard, "refused")
        if not written:
            self._offer_ended(Offer(n, agent, offer_channel(self.id, n), self.hotline.clock()), why)
            self.hotline.metrics.rona(agent)
        await self.hotline.desk.did_not_answer(self.id, agent, why)

    def _offer_ended(self, offer: Offer, outcome: OfferOutcome) -> None:
        self._offer_event(outcome, offer)
        self.hotline.metrics.offer_ended(offer.agent, outcome)

    async def _whisper(self) -> None:
        if self.offer is None:
            return
        prompt = self.whisper_prompt()
        await self._stop_whisper()
        self.whispered = await self._play((prompt,), "agent", self.offer.channel)
        self.within("whisper", self.seconds((prompt,)) + PLAYBACK_GRACE_S)

    def whisper_prompt(self) -> str:
        need = WHISPERED_NEEDS[self.progress.need]
        return self.hotline.catalogue.whisper(self.progress.role.value, self.progress.verified, need)

    async def _join_agent(self) -> None:
        offer = self.offer
        if offer is None:
            return
        client = self.hotline.client
        await self._hush()
        await self._stop_music()
        await self._end_silence()
        await self._stop_whisper()
        bridge = talk_bridge(self.id, offer.n)
        if self.bridge != bridge:
            await self._destroy_bridge()  # of an earlier talk
            with suppress(Conflict):  # made just before the link broke
                await client.bridges.create(bridgeId=bridge, type="mixing,dtmf_events", name=bridge)
            self.bridge = bridge
        try:
            # An agent's keys are for us: passed on, the end of a last key may be lost with the agent, and the caller's
            # leg, which goes on sending that key, sends nothing else any more.
            await client.bridges.addChannel(bridgeId=bridge, channel=[offer.channel], absorbDTMF=True)
        except (NotFound, Conflict, Invalid) as error:  # hung up in this moment: the caller waits on, and never knew
            log.info("call %s: agent %s was gone at the join: %s", self.id, offer.agent, error)
            offer.left = True
            self.inbox.put(Heard.AGENT_LOST)
            return
        with self._gone_is_hung_up():
            await client.bridges.addChannel(bridgeId=bridge, channel=[self.id])
        await asyncio.sleep(SETTLES_S)
        await self.joined(offer, self.hotline.clock())

    async def joined(self, offer: Offer, at: float) -> None:
        """Caller and agent hear each other since `at` (Unix seconds)."""
        again, offer.joined_at = offer.joined_at is not None, offer.joined_at or at
        self.served_by = offer.agent
        await self.hotline.desk.talks(self.id, offer.agent)
        if again:
            return
        self._offer_event("joined")
        self.hotline.metrics.offer_ended(offer.agent, "answered")
        self.hotline.metrics.queue_left("answered", self.story.waited_s)

    async def _release_agent(self) -> None:
        """The agent goes to wrap-up; the caller, if still there, is alone again."""
        if self.offer is not None:
            offer = self._parting = self.offer
            self.offer = None
            self._unhold()
            held, self._held_s = self._held_s, 0.0
            until = self.story.released_at or self.hotline.clock()
            talked = until - (offer.joined_at or until)
            self.talked_s += talked
            await self.hotline.desk.wraps_up(self.id, offer.agent, talked - held, held, since=until)
        if self._parting is not None:
            await self._hush()
            await self._hang_up_agent(self._parting)
            self._parting = None

    async def _destroy_bridge(self) -> None:
        if self.bridge is not None:
            # Taken out before the bridge goes: a caller who is put out by its end may hear nothing any more.
            for leave in (
                partial(self.hotline.client.bridges.removeChannel, bridgeId=self.bridge, channel=[self.id]),
                partial(self.hotline.client.bridges.destroy, bridgeId=self.bridge),
            ):
                with self._gone_is_hung_up(None):
                    await leave()
            self.bridge = None

    async def _hang_up_agent(self, offer: Offer) -> None:
        if not offer.left:
            try:
                with self._gone_is_hung_up(None):
                    await self.hotline.client.channels.hangup(channelId=offer.channel)
            except RequestTimeout:  # Asterisk is slow, and will do it: the caller's closing does not wait for that
                log.warning("call %s: no answer to the hang-up of agent %s", self.id, offer.agent)

    # ---------------------------------------------------------------- ending

    async def give_five_seconds(self) -> None:
        ended_at = self.story.closing_ended_at or self.hotline.clock()
        self.within("five", ended_at + self.hotline.settings.ending.leave_within_s - self.hotline.clock())

    async def hang_up(self) -> None:
        self.hung_up_by = "hotline"
        with self._gone_is_hung_up(None):
            await self.hotline.client.channels.hangup(channelId=self.id)

    async def _apologise(self) -> None:
        """Broken in here: the dialplan apologises and takes a number for a callback."""
        context, extension, priority = APOLOGY
        try:
            await self.hotline.client.channels.continueInDialplan(
                channelId=self.id, context=context, extension=extension, priority=priority
            )
        except AriError as error:
            log.error("call %s: cannot be handed to the fallback: %s", self.id, error)

    async def _close(self) -> None:
        """The call is over: nothing of it stays in Asterisk, and its line is written."""
        self._clear(*list(self._timers))
        desk = self.hotline.desk
        desk.leave(self.id)
        self.inbox.close()
        joined = self._parting is not None or (self.offer is not None and self.offer.joined_at is not None)
        agent = (self._release_agent,) if joined else (self._cancel_offer, self._free_agent)
        for tidy in (self._hush, *agent, self._destroy_bridge, partial(desk.forget, self.id)):
            try:
                await tidy()
            except Exception:  # one thing left behind is no reason to leave the rest
                log.exception("call %s: left something behind", self.id)
        self._write_ending()

    def _write_ending(self) -> None:
        now = self.ended_at or self.hotline.clock()
        story = self.story
        waited_s = story.waited_s + (now - story.waiting_since if story.waiting_since is not None else 0.0)
        outcome = self.outcome or self._outcome()
        after_closing = now - story.closing_ended_at if story.closing_ended_at is not None else None
        metrics = self.hotline.metrics
        called_back = []
        if outcome == "lost" and self.number is not None:  # before all others, in the same moment
            called_back.append(models.Callback(id=self.id, at=now, number=self.number, reason="lost"))
            metrics.callback_left()
        self.hotline.ledger.write(
            *called_back,
            models.Ending(
                call_id=self.id,
                at=now,
                outcome=outcome,
                hung_up_by=self.hung_up_by,
                agent=self.served_by,
                answered_after_s=story.answered_at - self.began if story.answered_at is not None else None,
                wait_s=waited_s,
                talk_s=self.talked_s,
                after_closing_s=after_closing,
            ),
        )
        short = outcome == "abandoned" and waited_s < SHORT_ABANDON_S
        if waited_s and outcome in ("abandoned", "ceiling", "lost", "broken"):
            metrics.queue_left("short_abandon" if short else cast(QueueResult, outcome), waited_s)
        metrics.identity(self.progress.role.value, self._identity_result())
        metrics.hung_up(self.hung_up_by, after_closing_s=after_closing)
        metrics.call_ended("short_abandon" if short else outcome)
        log.info(
            "call %s ended: %s, waited %.1f s, talked %.1f s, hung up by %s",
            self.id, outcome, waited_s, self.talked_s, self.hung_up_by,
        )  # fmt: skip

    def _outcome(self) -> Outcome:
        story = self.story
        if story.lost and story.last_before_end not in (State.CLOSING, State.LEAVING, State.OVERTIME):
            return "lost"
        if self.served_by is not None:
            return "handled"
        if story.at_ceiling:
            return "ceiling"
        return "abandoned" if story.waiting_since is not None or story.waited_s else "left_in_menu"

    def _identity_result(self) -> Literal["proven", "failed", "skipped", "left"]:
        if self.progress.verified:
            return "proven"
        if self.story.last_before_end in IDENTIFYING:
            return "left"
        return "failed" if self.checks else "skipped"

    # ================================================================ saying

    def words(self, do: Do) -> tuple[str, ...] | None:
        """The prompts that `do` says, or None if it is not a matter of saying something."""
        if do in WORDS:
            return WORDS[do]
        catalogue = self.hotline.catalogue
        match do:
            case Do.ASK:
                return QUESTIONS.get(self.progress.state, ())
            case Do.OFFER_OWN_NUMBER:
                return self._own_number_offered()
            case Do.SAY_POSITION:
                desk = self.hotline.desk
                place = desk.position(self.id)
                return catalogue.position(place), catalogue.wait(minutes(desk.expected_wait_s(self.id)))
            case Do.SAY_AGENT_OPENING:
                if self.offer is None or self.offer.joined_at is None:
                    return ()
                opening = catalogue.agent_opening(self.offer.agent) or "opening"
                asked = catalogue.is_it(self.person.title, self.person.surname) if self.person else None
                return (opening, asked) if asked else (opening,)
        return None

    async def _say(self, prompts: tuple[str, ...]) -> None:
        """To the caller, or to both while they talk."""
        await self._hush()
        await self._stop_music()
        if self.bridge is not None:  # also when the agent has left: what is said there is in the recording
            self.speech = await self._play(prompts, "both" if self.offer is not None else "caller", None)
        else:
            self.speech = await self._play(prompts, "caller", self.id)
        if self.speech is not None:
            self.within("speech", self.seconds(self.speech.prompts) + PLAYBACK_GRACE_S)
        else:  # nothing to play: it goes on as if it had been said
            self.within("speech", 0.0)
        if "closing" in prompts:
            self.hotline.metrics.closing_asked()

    async def _play(self, prompts: tuple[str, ...], side: str, channel: str | None) -> Speech | None:
        playback = playback_name(self.id, self.story.rows - 1, self._plays)
        self._plays += 1
        media = self._media(prompts)
        client = self.hotline.client
        speech: Speech | None = None
        if not media:
            return None
        if self._unsure is not None:  # the link broke while that was asked for: it may be playing
            await self._stop(self._unsure)
        self._unsure = playback
        with self._gone_is_hung_up(None if side == "agent" else Heard.HUNG_UP):
            if channel is None:
                await self._play_to_both(playback, media)
            else:
                await client.channels.play(channelId=channel, playbackId=playback, media=media)
            speech = Speech(playback, prompts, side, self.hotline.clock())
        self._unsure = None
        return speech

    async def _play_to_both(self, playback: str, media: list[str]) -> None:
        for attempt in range(ANNOUNCER_TRIES):
            try:
                await self.hotline.client.bridges.play(bridgeId=self.bridge or "", playbackId=playback, media=media)
                return
            except AllocationFailed:  # the announcer of the speech before it is just leaving the bridge
                if attempt == ANNOUNCER_TRIES - 1:
                    raise
                await asyncio.sleep(ANNOUNCER_LEAVES_S)

    def _media(self, prompts: tuple[str, ...]) -> list[str]:
        """What to play; a prompt whose audio is missing or not the approved one is left out."""
        media = []
        for prompt in prompts:
            try:
                media.append(self.hotline.catalogue.media(prompt))
            except PromptAltered as error:
                log.error("call %s goes without %s: %s", self.id, prompt, error)
        return media

    async def _hush(self) -> None:
        """Stops what is being said; what was heard of it is written down."""
        speech, self.speech = self.speech, None
        if speech is not None:
            self._clear("speech")
            self._heard_prompts(speech, whole=False)
            self._unsure = speech.playback  # until Asterisk has heard of it: the link may break in this moment
        if self._unsure is not None:
            await self._stop(self._unsure)
            self._unsure = None

    async def _keep_silence(self) -> None:
        """Sends silence until something is played: a caller who keys digits sends no sound, and the recording's clock
        runs only while sound flows in some direction.
        """
        with self._gone_is_hung_up():
            await self.hotline.client.channels.startSilence(channelId=self.id)

    async def _end_silence(self) -> None:
        """Nothing of a bridge is heard as long as it lasts. A prompt ends it as well, but only one that was begun."""
        with self._gone_is_hung_up():
            await self.hotline.client.channels.stopSilence(channelId=self.id)

    async def _stop_whisper(self) -> None:
        speech, self.whispered = self.whispered, None
        if speech is not None:
            self._clear("whisper")
            await self._stop_playback(speech)

    async def _stop_playback(self, speech: Speech) -> None:
        self._heard_prompts(speech, whole=False)
        await self._stop(speech.playback)

    async def _stop(self, playback: str) -> None:
        for _ in range(STOP_TRIES):
            try:
                with self._gone_is_hung_up(None):
                    await self.hotline.client.playbacks.stop(playbackId=playback)
                return
            except ServerError:  # "could not stop": it has been taken, and has not begun
                await asyncio.sleep(0.1)

    async def _stop_music(self) -> None:
        if self.music:
            self.music = False
            with self._gone_is_hung_up():
                await self.hotline.client.channels.stopMoh(channelId=self.id)

    def _heard_prompts(self, speech: Speech, whole: bool) -> None:
        """One row for each prompt that was begun."""
        at, now = speech.at, self.hotline.clock()
        for prompt in speech.prompts:
            lasts = self.seconds((prompt,))
            played = lasts if whole else min(lasts, now - at)
            if played <= 0:
                break
            if prompt == "disclaimer" and played >= lasts:
                self.hotline.metrics.disclaimer_read()
            self.hotline.ledger.write(
                models.PromptHeard(
                    call_id=self.id, n=self.prompts_heard, at=at, side=speech.side, prompt=prompt, seconds=played,
                    whole=played >= lasts,
                )
            )  # fmt: skip
            self.prompts_heard += 1
            at += lasts

    def seconds(self, prompts: tuple[str, ...]) -> float:
        return sum(self.hotline.catalogue[prompt].seconds for prompt in prompts)

    # ================================================================ small things

    def _display(self) -> str:
        """What the agent's phone shows: who, verified or what remains, need, and the cases of a verified caller."""
        words = [ROLE_WORDS[self.progress.role]]
        if self.progress.verified:
            words.append("已核身")
        else:
            remain = self.missing or REQUIRED.get(self.progress.role, ())
            words.append("未核身" + (" 缺" + "、".join(ELEMENT_WORDS[one] for one in remain) if remain else ""))
        if self.progress.need is not None:
            words.append(self.progress.need.value)
        if self.progress.verified and self.context.status == "ok":
            words.append(f"{self.context.cases}案")
            if self.context.milestone in MILESTONE_WORDS:
                words.append(f"最近:{MILESTONE_WORDS[self.context.milestone]}")
        return " ".join(words)

    def _offer_event(self, event: str, offer: Offer | None = None) -> None:
        offer = offer or self.offer
        if offer is not None:
            self.hotline.ledger.write(
                models.OfferEvent(call_id=self.id, n=offer.n, event=event, at=self.hotline.clock(), agent=offer.agent)
            )

    def _unhold(self) -> None:
        if self._held_since is not None:
            self._held_s += self.hotline.clock() - self._held_since
            self._held_since = None

    @contextmanager
    def _gone_is_hung_up(self, heard: Heard | None = Heard.HUNG_UP) -> Iterator[None]:
        """ "Not there" or "not with us" from Asterisk means that this side has hung up: normal, never an alarm."""
        try:
            yield
        except (NotFound, Conflict):
            if heard is not None:
                self.inbox.put(heard)
        except Invalid as error:
            if error.status not in NOT_IN_STASIS:
                raise
            if heard is not None:
                self.inbox.put(heard)

    def within(self, name: str, seconds: float) -> None:
        """`Due(name)` arrives after `seconds`, in place of an earlier one of that name."""
        self._clear(name)
        self._dues += 1
        due = asyncio.get_running_loop().call_later(max(seconds, 0.0), self.inbox.put, Due(name, self._dues))
        self._timers[name] = (self._dues, due)

    def _clear(self, *names: str) -> None:
        for name in names:
            _, timer = self._timers.pop(name, (0, None))
            if timer is not None:
                timer.cancel()


def pad_of(state: State) -> Keypad | None:
    """What the caller may key in `state`."""
    if state in ENTRIES:
        return Keypad(entry=ENTRIES[state])
    return Keypad(frozenset(MENUS[state])) if state in MENUS else None


def case_vars(channel: events.Channel) -> CaseVars:
    """The codes and counts that AGI left on a channel."""
    found = channel.channelvars or {}
    status = found.get("SANLING_CONTEXT")
    return CaseVars(
        cast(ContextStatus, status) if status in ("ok", "none") else "unavailable",
        found.get("SANLING_CASES") or "0",
        found.get("SANLING_MILESTONE") or "none",
    )


WORDS: dict[Do, tuple[str, ...]] = {
    Do.SAY_RECORDING_NOTICE: ("recording-notice",),
    Do.SAY_OPENING: ("opening",),
    Do.SAY_INVALID: ("entry-invalid",),
    Do.SAY_MISSING: ("entry-missing",),
    Do.SAY_CLEARED: ("entry-cleared",),
    Do.SAY_PROVEN: ("identity-proven",),
    Do.SAY_RETRY: ("identity-retry",),
    Do.SAY_CANNOT_VERIFY: ("cannot-verify",),
    Do.SAY_CHECK_UNAVAILABLE: ("check-unavailable",),
    Do.SAY_INTERRUPTED: ("interrupted",),
    Do.SAY_TRANSFERRING: ("transferring",),
    Do.SAY_DISCLAIMER: ("disclaimer",),
    Do.SAY_CLOSING: ("closing",),
    Do.SAY_CEILING_NEAR: ("ceiling-near",),
    Do.LISTEN: (),
}
"""What is said in so many words, to the letter. SCR-1."""

STUCK = {
    State.RINGING: Heard.RANG_ENOUGH,
    State.OFFERING: Heard.OFFER_LOST,
    State.WHISPERING: Heard.WHISPER_ENDED,
    State.CHECKING: Heard.RESUMED,
    State.FETCHING_CONTEXT: Heard.CONTEXT_FAILED,
    State.LEAVING: Heard.FIVE_SECONDS_PASSED,
    **{state: Heard.NO_ENTRY for state in ASKING},
}
"""What gets a call on from each state in which it waits for nothing."""

DUE = {
    "ring": Heard.RANG_ENOUGH,
    "five": Heard.FIVE_SECONDS_PASSED,
}

DOING: dict[Do, Callable[[Call], Awaitable[None]]] = {
    Do.ANSWER: Call._answer,
    Do.TAKE_ANSWER: Call._take_answer,
    Do.TAKE_OWN_NUMBER: Call._take_own_number,
    Do.CHECK_IDENTITY: Call._check_identity,
    Do.FETCH_CONTEXT: Call._fetch_context,
    Do.JOIN_QUEUE: Call._join_queue,
    Do.REJOIN_QUEUE: Call._join_queue,
    Do.LEAVE_QUEUE: Call._leave_queue,
    Do.PLAY_MUSIC: Call._play_music,
    Do.RING_AGENT: Call._ring_agent,
    Do.CANCEL_OFFER: Call._cancel_offer,
    Do.FREE_AGENT: Call._free_agent,
    Do.PAUSE_AGENT: Call._pause_agent,
    Do.WHISPER: Call._whisper,
    Do.JOIN_AGENT: Call._join_agent,
    Do.RELEASE_AGENT: Call._release_agent,
    Do.GIVE_FIVE_SECONDS: Call.give_five_seconds,
    Do.HANG_UP: Call.hang_up,
}
