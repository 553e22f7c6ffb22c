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
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Literal, cast

from sqlalchemy.orm import Session

from ari_app import cases, opening, orders, outcomes, spoken
from ari_app.ari import events
from ari_app.ari.errors import AriError, Conflict, RequestTimeout, ServerError, Unreachable
from ari_app.ari.mailboxes import Mailbox
from ari_app.callmeback import CallMeBack, ids_of
from ari_app.desk import Reserved
from ari_app.errors import StoreUnavailable
from ari_app.flow.billing import TOGETHER
from ari_app.flow.duty import Duty
from ari_app.flow.identity import REQUIRED, Element, Role
from ari_app.flow.keypad import Keyed, Keypad, TransferTo
from ari_app.flow.matters import Matter, last_agent, second_of
from ari_app.flow.measures import SHORT_ABANDON_S
from ari_app.flow.pace import minutes
from ari_app.flow.routing import Wants
from ari_app.flow.sop import (
    ASKING,
    ELEMENTS,
    ENTRIES,
    IDENTIFYING,
    MENUS,
    QUESTIONS,
    QUEUED,
    ROLES,
    SEEKING,
    SERVED,
    SOP,
    Do,
    Heard,
    Need,
    Progress,
    State,
    step,
)
from ari_app.flow.story import Story, talk_changes
from ari_app.line import Due, Hotline, Line
from ari_app.selfservice import SelfService
from ari_app.spoken import TIMERS as SPOKEN
from ari_app.store import models
from ari_app.survey import Survey
from ari_app.talk import TORN, Settled, Talk, second_name
from ari_app.voice import Voice
from metrics.hotline import CallOutcome, QueueResult

log = logging.getLogger("sanling.call")

CONTEXT_WITHIN_S = 4.0
"""The AGI server answers or gives up within 2 s; the rest is for the way there and back."""
ANSWER_SETTLES_S = 0.4
"""From the answer to the first word: a line that has just been put through may swallow the first syllables."""
GOES_S = 0.3
"""A channel that is hung up is gone after this."""
CONTEXT_TRIES = 5
"""After so many waits the call goes on without: its return from the dialplan was lost, or its AGI session hangs."""
CEILING_AGAIN_S = 3.0
LONGEST_AGAIN_S = 5.0
UNHEARD_S = 1.0
"""The link was down for longer than this: keys may have been missed, and the question is asked again."""
UNSTICKS = {"message", "ring", "first-key", "next-key", "speech", "whisper", "context", "five", "second", *SPOKEN}
"""Timers each of which gets a call on."""
SHUTDOWN = 4
"""The cause of a hang-up request by an Asterisk that is being stopped. Source: AST_SOFTHANGUP_SHUTDOWN in channel.h."""
SHUTDOWN_S = 20.0
"""It is gone after this: it waits 15 s at most for its channels."""
SENT_OUT = (State.FETCHING_CONTEXT, State.NOT_REACHED)
"""States in which we have sent the line out of whatever bridge it was in: to the dialplan, or away."""
RELINK_AGAIN_S = 0.2
BEGUN = object()
"""Tells a call that the words it asked for beside are being said, or cannot be."""
TIMEOUTS = 3
"""A request that is not answered so often, 5 s each, breaks its call."""
SECOND_AGAIN_S = 1.0
TRANSFER_LINES = {
    "1": Heard.TRANSFER_TO_PARTY_LINE, "2": Heard.TRANSFER_TO_LAWYER_LINE, "3": Heard.TRANSFER_TO_SECOND_LINE,
}  # fmt: skip
"""Lines, by the number that an agent keys to transfer."""
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

Outcome = Literal["handled", "abandoned", "left_in_menu", "ceiling", "lost", "broken", "callback", "unreached"]


@dataclass(frozen=True)
class Resync:
    """The link to Asterisk was down; these channels are there now. What was lost must be found out."""

    channels: Mapping[str, str]
    """Channel id → state."""
    ours: frozenset[str]
    """Ids of those that are with us, not in the dialplan."""
    bridges: Mapping[str, Collection[str]]
    """Bridge id → ids of the channels in it."""
    at: float = 0.0
    """Unix seconds; what was made since then may be missing."""
    away_s: float = 0.0
    """For how long the link was down; 0: it was not, this is the regular look."""


@dataclass(frozen=True)
class SecondReserved:
    """An agent of the second line is reserved for this call."""

    by: Reserved


@dataclass(frozen=True)
class SecondInbox:
    """Through it the desk tells a call whom it reserved of the second line."""

    inbox: Mailbox

    def put(self, event: object) -> None:
        self.inbox.put(SecondReserved(event) if isinstance(event, Reserved) else event)


@dataclass(frozen=True)
class TakeOver:
    """A leader, whose phone is with us, would go on with the caller in the agent's place. AGT-5."""

    agent: str
    """The leader's number."""
    inbox: Mailbox
    """Of the leader's phone, by whose channel it is named: the call's from then on."""
    taken: asyncio.Future[bool]
    """False: it cannot be now."""


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
    language: str = "mandarin"
    picked_up: bool = False
    """By the dialplan, because callers are to hear no ringback."""

    def __post_init__(self) -> None:
        self.began = self.hotline.clock()
        self.story = Story(state_since=self.began)
        self.booted = self.hotline.client.booted
        """Which start of Asterisk's the call came in under: if there has been another, its line is lost."""
        self.hung_up_by: Literal["caller", "hotline", "line"] = "caller"
        self.outcome: Outcome | None = None
        self.line = Line(self.hotline, self.id, self.inbox)
        self.voice = Voice(self.line)
        self.talk = Talk(self.line, self.voice)
        self.selfservice = SelfService(self.line)
        self.callmeback = CallMeBack(self.line, self.number)
        self.survey = Survey(self.line)
        self.pad: Keypad | None = None
        self.checks = 0
        """How many there were: the next one's number."""
        self.earlier: tuple[Matter, ...] = ()
        """What the proven caller called about in the seven days before."""
        self.adopted = False
        self._has_answered = False
        """The answer was not only decided on: Asterisk gave it, to this controller."""
        self.ended_at: float | None = None
        """When it was over, if not now."""
        self._reserved: Reserved | None = None
        """Of whom the step tells that is taken now."""
        self._shut_down_at: float | None = None
        """When Asterisk, which is being stopped, hung everybody up."""
        self._deaf_until = 0.0
        self._happened_at: float | None = None
        self._last_heard: Heard | None = None
        self._entered: tuple[Element, str] | None = None
        self._late = 0
        self._afterwards: list[Heard | TakeOver | TransferTo] = []
        self._beginning: asyncio.Task[None] | None = None
        """Asks Asterisk for words while an agent is sought."""
        self._overtaken: list[object] = []
        """What came meanwhile."""

    # ================================================================ the loop

    async def run(self) -> None:
        """Serves the caller until the end; never raises for what happened to the call.

        Cancelled, it leaves everything as it is.
        """
        try:
            if not self.adopted:
                await self._begin()
            while self.progress.state is not State.ENDED:
                event = await self._next()
                heard = await self._hear(event) if self._tells_of_the_caller(event) else None
                if heard is not None:
                    at, self._happened_at = self._happened_at, None
                    await self.take(heard, at)
        except asyncio.CancelledError:
            self._stop_beginning()
            self.line.clear_all()
            self.inbox.close()
            raise
        except Exception:
            log.exception("call %s: broken in %s", self.id, self.progress.state.name)
            self._stop_beginning()
            self.outcome = "broken"
            await self._apologise()
        await self._close()

    async def _begin(self) -> None:
        self.hotline.metrics.call_arrived()
        self.hotline.metrics.case_context(self.context.status)
        if self.picked_up:
            await self.take(Heard.RANG_ENOUGH)
        else:
            await self._through(self._ring)

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
        billed = self._bill(was.state, at) if talk_changes(was.state, self.progress.state, actions) else []
        self.hotline.ledger.write(
            *billed,
            *self.survey.rows(was, heard, self.progress, at, self.story, self.talk.served_by or ""),
            models.Transition(
                call_id=self.id,
                n=self.story.rows,
                at=at,
                state=was.state.name,
                heard=heard.name,
                next=self.progress.state.name,
                actions=names,
                agent=self._agent_concerned(),
            ),
        )
        self.survey.open_order(heard, at, self.story.rows, self.person, self.progress)
        self.voice.begin_step(self.story.rows)
        self.story.note(at, was.state, heard, self.progress.state, actions)
        log.info("call %s: %s, %s → %s [%s]", self.id, was.state.name, heard.name, self.progress.state.name, names)
        if self.progress.state is not was.state:
            self.pad = pad_of(self.progress.state)
            self.line.clear("first-key", "next-key", "five", *SPOKEN)
        if Do.SAY_INTERRUPTED in actions:  # keys that come now belong to what was half keyed when we went
            self._deaf_until = self.hotline.clock() + self.voice.seconds(WORDS[Do.SAY_INTERRUPTED])
        await self._do_all(actions)

    def _agent_concerned(self) -> str | None:
        """The one for whom this step is: reserved for the call, sought by it or talking in it."""
        there = self._reserved or self.talk.second or self.talk.offer
        return there.agent if there else None

    def _bill(self, state: State, until: float) -> list[models.TalkTime]:
        """What was talked in `state`, which is left now."""
        return self.talk.bill(state, self.story.state_since, until, self.story.rows)

    async def _do_all(self, actions: tuple[Do, ...]) -> None:
        words: list[str] = []
        for do in sorted(actions, key=lambda do: do is not Do.JOIN_QUEUE):  # an agent is sought while it is said
            if do in (Do.ASK, Do.LISTEN, Do.OFFER_OWN_NUMBER, Do.OFFER_RATING):
                self.pad = pad_of(self.progress.state)
            said = self.words(do)
            if said is not None:
                words += said
                continue
            if words:
                await self._through(self._saying(words))
                words = []
            await self._through(self._doing(do))
        if words and Do.JOIN_QUEUE in actions:
            self._beginning = asyncio.create_task(self._through(self._saying(words)), name=f"{self.id}: words")
            self._beginning.add_done_callback(lambda _: self.inbox.put(BEGUN))
        elif words:
            await self._through(self._saying(words))

    def _saying(self, words: Iterable[str]) -> Callable[[], Awaitable[None]]:
        return partial(self._say, tuple(words), self.voice.row)

    async def _next(self) -> object:
        """The next event. While the words with which the call waits are being asked for, an agent and the phone
        overtake what else comes, but for the caller's end: they neither wait for words to begin, nor stop them. Raises
        as the words do.
        """
        while True:
            if self._beginning is None and self._overtaken:
                return self._overtaken.pop(0)
            event = await self.inbox.get()
            if event is BEGUN:
                if self._beginning is not None and self._beginning.done():
                    beginning, self._beginning = self._beginning, None
                    await beginning
            elif self._beginning is None or (self._is_of_the_offer(event) and not self._has_ended()):
                return event
            else:
                self._overtaken.append(event)

    def _is_of_the_offer(self, event: object) -> bool:
        of_a_phone = isinstance(event, events.StasisStart) and event.channel.id != self.id
        return of_a_phone or isinstance(event, Reserved | Settled)

    def _has_ended(self) -> bool:
        ends = events.StasisEnd | events.ChannelDestroyed | events.ChannelHangupRequest
        return any(
            one is Heard.HUNG_UP or (isinstance(one, ends) and one.channel.id == self.id) for one in self._overtaken
        )

    def _stop_beginning(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None

    def _doing(self, do: Do) -> Callable[[], Awaitable[None]]:
        return partial(DOING[do], self)

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

    def _tells_of_the_caller(self, event: object) -> bool:
        """An Asterisk that is being stopped hangs up as a caller does: what that was, the link's return tells."""
        now = self.hotline.clock()
        if isinstance(event, events.ChannelHangupRequest) and event.soft and event.cause == SHUTDOWN:
            log.warning("call %s: Asterisk is being stopped", self.id)
            self._shut_down_at = now
        if self._shut_down_at is None:
            return True
        stayed = now - self._shut_down_at > SHUTDOWN_S
        return isinstance(event, Resync) and (stayed or self.booted != self.hotline.client.booted)

    async def _hear(self, event: object) -> Heard | None:
        """What `event` means to the SOP, or None."""
        match event:
            case Heard.HUNG_UP:
                await self.hotline.linked.wait()  # "not there" may be what an Asterisk says that has just been started
                return self._gone()
            case Heard():
                return event
            case Due(name) if name == TORN:
                return await self._torn() if self.line.is_due(event) else None
            case Due(name):
                return await self._due(name) if self.line.is_due(event) else None
            case SecondReserved(by):
                if self.progress.state in SEEKING and self.talk.second is None:
                    self._reserved = by
                    return Heard.AGENT_RESERVED
                await self.hotline.desk.withdraw(second_name(self.id), by.agent)
            case Reserved():
                if self.progress.state is State.WAITING:
                    self._reserved = event
                    return Heard.AGENT_RESERVED
                await self.hotline.desk.withdraw(self.id, event.agent)
            case TakeOver():
                return await self._taken_over(event)
            case TransferTo(to):
                return await self.transfer(to)
            case Resync():
                heard = self._resync(event)
                if heard is None and event.away_s:
                    return await self.selfservice.ended_unheard() or await self._speech_ended_unheard()
                return heard
            case events.ChannelDtmfReceived(digit=digit, channel=channel):
                return await (self._key(digit) if channel.id == self.id else self._agent_key(channel.id, digit))
            case events.RecordingFinished(recording=recording) | events.RecordingFailed(recording=recording):
                return self.selfservice.ended(recording)
            case events.PlaybackFinished(playback=playback):
                return await self._playback_finished(playback.id, playback.state)
            case events.StasisStart(channel=channel, args=args) if channel.id == self.id:
                return self._context_came(channel) if tuple(args[:1]) == ("context",) else None
            case events.StasisStart(channel=channel):
                await self._through(partial(self.talk.dial, channel.id))
            case Settled(channel):
                await self._through(partial(self.talk.dial, channel))
            case events.ChannelStateChange(channel=channel) if channel.id != self.id and channel.state == "Up":
                return self.talk.answered(channel.id)
            case events.ChannelStateChange(channel=channel) if channel.id != self.id and channel.state == "Ringing":
                self.talk.rings(channel.id)
            case events.StasisEnd(channel=channel) if channel.id == self.id:
                return None if self.progress.state is State.FETCHING_CONTEXT else Heard.HUNG_UP
            case events.ChannelDestroyed(channel=channel, cause=cause):
                if channel.id == self.id:
                    return Heard.HUNG_UP
                return self.talk.gone(channel.id, cause, talking=self.progress.state is State.TALKING)
            case events.ChannelTalkingStarted(channel=channel) if channel.id == self.id:
                self.survey.spoken.begins()
                self.selfservice.spoken.begins()
            case events.ChannelTalkingFinished(channel=channel, duration=duration) if channel.id == self.id:
                self.survey.spoken.pauses(duration)
                self.selfservice.spoken.pauses(duration)
                return Heard.REASON_GIVEN if self.story.reason_since is not None else None
            case events.ChannelTransfer() if event.referred_by.source_channel.id in self.talk.legs:
                return await self._referred(event)
            case events.ChannelHangupRequest(channel=channel):
                self.talk.hangs_up(channel.id)
            case events.ChannelLeftBridge(bridge=bridge, channel=channel):
                self.talk.left(channel.id, bridge.id)
            case events.ChannelHold(channel=channel):
                self.talk.hold(channel.id)
            case events.ChannelUnhold(channel=channel):
                self.talk.unhold(channel.id)
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
        state = self.progress.state
        missed = self.talk.missed(
            now.channels,
            now.at,
            away=now.away_s > 0,
            offering=state in (State.OFFERING, *SEEKING),
            talking=state is State.TALKING,
        )
        if missed is not None:
            return missed
        if self.talk.seems_torn(now.bridges):
            return None
        if now.away_s >= UNHEARD_S and self.progress.state in ASKING:
            return Heard.RESUMED
        return self._out_of_silence()

    async def _torn(self) -> Heard | None:
        """Whoever left the talk's bridge has not hung up: somebody else put them out, or the bridge is gone. Those who
        talk come together again, and a caller who was spoken to there is spoken to again.
        """
        state, said_there = self.progress.state, self.talk.hears_the_talk and self.voice.speech is not None
        try:
            if not await self.talk.is_torn():
                return None
        except AriError as error:  # the next look tells
            log.info("call %s: who is in its bridge cannot be told: %s", self.id, error)
            return None
        if state in SENT_OUT:
            return None
        log.error("call %s: its bridge is gone, or somebody was put out of it, in %s", self.id, state.name)
        if said_there and self.talk.bridge is None:
            self._speech_broke_off()
        return Heard.RESUMED if said_there or state in (*SERVED, State.CALLING_OUT) else None

    def _speech_broke_off(self) -> None:
        """With the bridge that it was said in; what waited for its end comes now."""
        self.voice.speech_ended(whole=False)
        while self._afterwards:
            self.inbox.put(self._afterwards.pop(0))

    async def _speech_ended_unheard(self) -> Heard | None:
        """What was being said when the link broke is over now: then it ended when it should have."""
        ended_at = await self.voice.ended_unheard_at()
        if ended_at is None:
            return None
        self._happened_at = ended_at
        return await self._speech_ended(whole=True)

    def _out_of_silence(self) -> Heard | None:
        """What goes on if nothing else would: every state but a talk waits for something that has an end."""
        if self.progress.state in SERVED or self.line.awaited & UNSTICKS or len(self.inbox):
            return None
        if self.progress.state in (*QUEUED, *SEEKING) and self.voice.music:
            return None
        log.error("call %s: nothing to wait for in %s; it goes on", self.id, self.progress.state.name)
        return STUCK.get(self.progress.state, Heard.PROMPT_ENDED)

    async def _key(self, key: str) -> Heard | None:
        """A key of the caller's: typing over a prompt stops it."""
        if self.pad is None or self.hotline.clock() < self._deaf_until:
            return None
        self.line.clear("first-key", "next-key")
        state = self.progress.state
        may_stop_it = state in QUESTIONS or key in self.pad.choices
        may_stop_it |= key == "0" and (state, Heard.WANTS_A_PERSON) in SOP
        keyed = self.pad.press(key)
        if may_stop_it and not self._goes_to_the_desk(keyed):
            await self._through(self.voice.hush)
            if self.talk.bridge is None:
                await self._through(self.voice.keep_silence)
        if keyed is None:
            if self.pad.keys:
                quick = min(2.0, self.hotline.settings.keypad.between_digits_s)
                self.line.within(
                    "next-key", quick if self.pad.lone_zero else self.hotline.settings.keypad.between_digits_s
                )
            return None
        return await self._keyed(keyed)

    def _goes_to_the_desk(self, keyed: Keyed | None) -> bool:
        """Then the next words, in the same moment, stop what is being said, and an agent is sought before them."""
        state = self.progress.state
        if self.pad is None or keyed not in (Keyed.CHOICE, Keyed.PERSON):
            return False
        heard = MENUS[state][self.pad.keys] if keyed is Keyed.CHOICE else KEYED[keyed]
        return step(self.progress, heard)[1] == (Do.ADMIT,)

    async def _keyed(self, keyed: Keyed) -> Heard:
        state = self.progress.state
        if self.pad is not None and keyed is Keyed.CHOICE:
            return MENUS[state][self.pad.keys]
        if self.pad is not None and keyed is Keyed.ENTERED and state is State.CALLBACK_ENTRY:
            taken = False

            async def enter(keys: str = self.pad.keys) -> None:
                nonlocal taken
                taken = await self.callmeback.enter(keys)

            await self._through(enter)
            return Heard.ENTERED if taken else Heard.ENTRY_INVALID
        if self.pad is not None and keyed is Keyed.ENTERED:
            self._entered = (ELEMENTS[state], self.pad.keys)
            await self._through(self._keep_answer)  # before the step: whoever takes the call up there finds it
        return KEYED[keyed]

    async def _agent_key(self, channel: str, key: str) -> Heard | None:
        code = self.talk.key(channel, key)
        if isinstance(code, TransferTo):
            return await self.transfer(code.keys)
        return self._unless_disclaiming(code) if code is not None else None

    async def _referred(self, asked: events.ChannelTransfer) -> Heard | None:
        """The phone's own transfer key (REFER): to a number, as if that had been keyed; declined if it is to another
        call of the phone's, which is none of ours.
        """
        channel, to = asked.referred_by.source_channel.id, asked.refer_to.requested_destination.destination
        heard = None
        if channel == (self.talk.offer.channel if self.talk.offer else None) and not self.voice.saying("disclaimer"):
            heard = await self.transfer(to)
        made = heard is not None and heard is not Heard.TRANSFER_NOT_POSSIBLE
        with suppress(AriError):  # news for a phone; the talk goes on without
            await self.hotline.client.channels.transfer_progress(
                channelId=channel, states="channel_answered" if made else "channel_declined"
            )
        return heard

    async def transfer(self, to: str) -> Heard | None:
        """Hands the caller on, without asking, to the line or the agent of that number."""
        if self.progress.state is not State.TALKING:
            return None
        if to in TRANSFER_LINES:
            return self._unless_disclaiming(TRANSFER_LINES[to])
        if self.voice.saying("disclaimer"):
            self._afterwards.append(TransferTo(to))
            return None
        if not await self.hotline.desk.take(to, second_name(self.id)):
            return Heard.TRANSFER_NOT_POSSIBLE
        self._reserved = Reserved(to)
        return Heard.TRANSFER_TO_AGENT

    def _unless_disclaiming(self, heard: Heard) -> Heard | None:
        """The disclaimer is read out whole (SOP-5): what would cut it off waits until it has ended."""
        if not self.voice.saying("disclaimer"):
            return heard
        if heard is not Heard.DISCLAIMER_ASKED:
            self._afterwards.append(heard)
        return None

    async def _playback_finished(self, playback: str, state: str) -> Heard | None:
        heard = self.voice.finished(playback, state)
        return await self._speech_ended(whole=True) if heard is Heard.PROMPT_ENDED else heard

    async def _speech_ended(self, whole: bool) -> Heard:
        self.voice.speech_ended(whole=whole)
        while self._afterwards:
            self.inbox.put(self._afterwards.pop(0))
        if self.progress.state in QUESTIONS and self.pad is not None and not self.pad.keys:
            rating = self.progress.state is State.RATING
            usual_s = self.hotline.settings.keypad.first_digit_s
            self.line.within("first-key", self.survey.answer_within_s if rating else usual_s)
        if self.talk.bridge is None and self.progress.state not in (*QUEUED, *SEEKING):
            await self._through(self.voice.keep_silence)
        return Heard.PROMPT_ENDED

    async def _due(self, name: str) -> Heard | None:
        match name:
            case "first-key" | "next-key" if self.pad is not None:
                return await self._keyed(self.pad.quiet())
            case "speech":
                return await self._speech_ended(whole=False)
            case "whisper":
                return Heard.WHISPER_ENDED
            case "longest" if self.progress.state is not State.WAITING:  # an agent's phone rings: said if that fails
                self.line.within("longest", LONGEST_AGAIN_S)
                return None
            case "announce":
                self.line.within("announce", self.hotline.settings.queue.announce_every_s)
                return Heard.ANNOUNCEMENT_DUE
            case "ceiling":
                self.line.within("ceiling", CEILING_AGAIN_S)
                return Heard.CEILING_REACHED
            case "context":
                await self._through(self._context_late)
                return None
            case "second":
                return self._second_due()
            case "ceiling-near":
                return self._unless_disclaiming(Heard.CEILING_NEAR)
        return DUE.get(name)

    def remember_context(self, channel: events.Channel) -> None:
        self.context = case_vars(channel)

    def _context_came(self, channel: events.Channel) -> Heard:
        self.line.clear("context")
        self.remember_context(channel)
        self.hotline.metrics.case_context(self.context.status)
        return Heard.CONTEXT_FAILED if self.context.status == "unavailable" else Heard.CONTEXT_CAME

    async def _context_late(self) -> None:
        """Gone to the dialplan and not come back: hung up there, or held up."""
        with self.line.gone_is_hung_up():
            await self.hotline.client.channels.get(channelId=self.id)
            self._late += 1
            if self._late < CONTEXT_TRIES:
                self.line.within("context", CONTEXT_WITHIN_S)
            else:
                self.inbox.put(Heard.CONTEXT_FAILED)

    # ================================================================ doing

    async def _ring(self) -> None:
        """The caller hears ringback; the answer is timed from here. SOP-1."""
        with self.line.gone_is_hung_up():
            await self.hotline.client.channels.ring(channelId=self.id)
        self.line.within("ring", self.hotline.settings.answering.delay_s)

    async def _answer(self) -> None:
        with self.line.gone_is_hung_up():
            await self.voice.hush()  # of an earlier greeting, which would keep the answer waiting
            try:
                if not self.picked_up:
                    await self.hotline.client.channels.answer(channelId=self.id)
            except ServerError:  # "failed to answer": a caller who hangs up in this moment, if not something worse
                await asyncio.sleep(GOES_S)
                await self.hotline.client.channels.get(channelId=self.id)
                raise
            self._has_answered = True
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
                self.line.within("ceiling-near", left_s - ending.warn_before_ceiling_s)
            self.line.within("ceiling", left_s)

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
        with self.line.gone_is_hung_up():
            await self.hotline.client.channels.setChannelVar(channelId=self.id, variable=KEYED_AS[element], value=keys)

    async def _check_identity(self) -> None:
        role, answers = self.progress.role, dict(self.answers)
        try:
            person, missing, earlier = await self.hotline.ledger.look_up(
                lambda session: identified(session, role, answers, self.began)
            )
        except StoreUnavailable:
            log.error("call %s: identity cannot be checked, the database is away", self.id)
            self.missing = REQUIRED[role]
            self.inbox.put(Heard.IDENTITY_UNAVAILABLE)
            return
        self.person, self.missing, self.earlier = person, missing, earlier
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
                case_id=person.case_id if person else None,
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
        with self.line.gone_is_hung_up(), suppress(Conflict):  # asked before the link broke, and gone there already
            await self.voice.hush()
            for variable, value in keyed.items():
                await channels.setChannelVar(channelId=self.id, variable=variable, value=value)
            await channels.continueInDialplan(
                channelId=self.id, context=context, extension=extension, priority=priority
            )
        self.wait_for_context()

    def wait_for_context(self) -> None:
        """The call is in the dialplan and will come back with its context."""
        self._late = 0
        self.line.within("context", CONTEXT_WITHIN_S)

    # ---------------------------------------------------------------- waiting

    async def _admit(self) -> None:
        """Whether the desk takes this caller now; the SOP hears it at once."""
        was_here = self.story.kept is not None or self.story.handed_on_place is not None
        if not was_here and not self.selfservice.is_open(self.wanted_line):
            self.inbox.put(Heard.CLOSED_NOW)
            return
        desk, full_at = self.hotline.desk, self.hotline.desk.rules.now.waiting.full_at
        keeps_place = was_here or self.callmeback.open_one(self.person) is not None
        if full_at and desk.queue_length >= full_at and not keeps_place:
            self.inbox.put(Heard.QUEUE_FULL)
        elif desk.agents() and desk.agents_in(Duty.SIGNED_OUT) == len(desk.agents()):
            self.inbox.put(Heard.NOBODY_SIGNED_IN)
        else:
            self.inbox.put(Heard.ADMITTED)

    async def _join_queue(self) -> None:
        """Takes a place, or the one that was left for an agent who was gone."""
        since = self.story.waiting_since
        if since is not None:
            if "announce" not in self.line.awaited:
                self._announce_in_turn(since)
            first = since if self.story.handed_on_place is None else min(since, self.story.handed_on_place)
            place_since = self.callmeback.keeps_place_since(first, self.person)
            longest_s = since + self.hotline.desk.rules.now.waiting.longest_wait_s - self.hotline.clock()
            if longest_s > 0:
                self.line.within("longest", longest_s)
            offered = self.talk.offer is not None
            self.hotline.desk.join(self.id, place_since, self.inbox, wants=self._wants(), offered=offered, early=True)

    def _wants(self) -> Wants:
        """Of the desk."""
        routing = self.hotline.desk.rules.now.routing
        pressing = routing.pressing_priority if self.progress.need is Need.PRESSING else 0
        again = routing.second_call_priority if self.second_of is not None else 0
        return Wants(self.wanted_line, self._need(), self.language, pressing + again, last_agent(self.earlier))

    def _announce_in_turn(self, since: float) -> None:
        """Every so many seconds of waiting, whatever came between."""
        every_s = self.hotline.settings.queue.announce_every_s
        self.line.within("announce", every_s - (self.hotline.clock() - since) % every_s)

    async def _leave_queue(self) -> None:
        self.hotline.desk.leave(self.id)
        self.line.clear("announce", "longest")

    async def _offer_callback_number(self) -> None:
        """Read back; a caller whom we cannot call there is asked for another."""
        words = self.callmeback.words(self.person)
        if words:
            await self._saying(words)()
        else:
            self.inbox.put(Heard.NO_NUMBER_TO_OFFER)

    async def note_callback(self) -> None:
        self.callmeback.note(self.story, self.progress, self.person)

    async def _take_callback_number(self) -> None:
        """Taken as it was keyed, before the step."""

    async def _play_music(self) -> None:
        await self.talk.take_down()
        await self.voice.start_music()

    # ---------------------------------------------------------------- outside hours

    @property
    def wanted_line(self) -> str:
        return self.progress.line or line_of(self.progress.role)

    async def _look_up_cases(self) -> None:
        await self.selfservice.look_up(self.person if self.progress.verified else None)

    async def _record_message(self) -> None:
        if self.story.recording is not None:
            await self.selfservice.record(self.story.recording[0])

    async def _take_message(self) -> None:
        message = self.story.messages[-1] if self.story.messages else None
        await self.selfservice.take(message, self.wanted_line, self.person, self.progress.need)

    async def settle_messages(self) -> None:
        """Enters what another controller took and did not live to enter."""
        try:
            await self.selfservice.settle(self.story.messages, self.wanted_line, self.person, self.progress.need)
        except StoreUnavailable as error:
            log.error("call %s: whether its message was entered cannot be told: %s", self.id, error)

    # ---------------------------------------------------------------- the agent

    async def _ring_agent(self) -> None:
        by, self._reserved = self._reserved, None
        if by is not None:
            await self.talk.ring(by, self._display(), self.number or "anonymous")

    async def _cancel_offer(self) -> None:
        await self.talk.cancel()

    async def _free_agent(self) -> None:
        await self.talk.free()

    async def _pause_agent(self) -> None:
        await self.talk.pause(self._last_heard)

    async def _whisper(self) -> None:
        await self.talk.whisper(self.whisper_prompt())

    def whisper_prompt(self) -> str:
        need = WHISPERED_NEEDS[self.progress.need]
        return self.hotline.catalogue.whisper(self.progress.role.value, self.progress.verified, need)

    async def _join_agent(self) -> None:
        await self.talk.join(self.story.waited_s)

    async def _release_agent(self) -> None:
        await self.talk.release(self.story.released_at or self.hotline.clock(), line_of(self.progress.role))

    async def _taken_over(self, by: TakeOver) -> Heard | None:
        """Before the step: a leader who is gone in this moment leaves the talk as it is."""
        if by.taken.done():
            return None
        if self.voice.saying("disclaimer"):  # read out whole (SOP-5)
            self._afterwards.append(by)
            return None
        taken = False
        if self.progress.state is State.TALKING:
            with suppress(AriError):
                taken = await self.talk.seat(by.agent, by.inbox.owner)
        if not by.taken.done():
            by.taken.set_result(taken)
        elif taken:  # the leader waited too long for it, and does something else now
            await self.talk.release_second(self.hotline.clock())
            return None
        if not taken:
            return None
        by.inbox.close()
        self.hotline.client.mailboxes.alias(by.inbox.owner, self.inbox)
        while len(by.inbox):
            self.inbox.put(await by.inbox.get())
        return Heard.TAKEN_OVER

    # ---------------------------------------------------------------- the second line

    async def _arrange(self) -> None:
        await self.talk.arrange(TOGETHER[self.progress.state])

    async def _seek_second(self) -> None:
        """Takes a place for an agent of the second line, or the one that it had; nobody there in time is heard of."""
        since = self.story.second_since
        if since is None:
            return
        rules = self.hotline.desk.rules.now
        if self.talk.second is None:
            wants = Wants(line="second_line", need=self._need())
            self.hotline.desk.join(second_name(self.id), since, SecondInbox(self.inbox), wants=wants, early=True)
        self.line.within("second", since + rules.second_line.target_wait_s - self.hotline.clock())

    def _need(self) -> str | None:
        return self.progress.need.name.lower() if self.progress.need else None

    def _second_due(self) -> Heard | None:
        """Nobody was free in time; a phone that rings by then is waited for."""
        if self.talk.second is not None:
            self.line.within("second", SECOND_AGAIN_S)
            return None
        return Heard.SECOND_LATE

    async def _leave_second_queue(self) -> None:
        self.hotline.desk.leave(second_name(self.id))
        self.line.clear("second")

    async def _ring_second(self) -> None:
        by, self._reserved = self._reserved, None
        if by is not None:
            await self.talk.ring_second(by, self._display(), self.number or "anonymous")

    async def _cancel_second(self) -> None:
        await self.talk.cancel_second()

    async def _release_second(self) -> None:
        await self.talk.release_second(self.story.released_at or self.hotline.clock())

    async def _hand_over(self) -> None:
        await self.talk.hand_over()

    def _second_due_at(self) -> float:
        """When the second line must have answered, by its hours, counted from now."""
        rules, at = self.hotline.desk.rules.now, self.story.state_since
        opens = opening.next_opening(rules, self.hotline.settings.zone, at, "second_line") or at
        return opens + rules.hours.answer_within_h * 3600

    def _second_answers_by(self) -> tuple[str, ...]:
        zone, catalogue = self.hotline.settings.zone, self.hotline.catalogue
        today, due = (datetime.fromtimestamp(at, zone) for at in (self.story.state_since, self._second_due_at()))
        year = "this" if due.year == today.year else "next"
        return f"second-line-answers-{year}", *catalogue.date(due.date()), *catalogue.time(due.hour, due.minute)

    async def _open_second_order(self) -> None:
        """The second line answers later."""
        orders.open_order(
            self.hotline.ledger, kind=orders.Kind.SECOND_LINE, at=self.story.state_since, due_at=self._second_due_at(),
            must_answer="second_line", call_id=self.id, name=f"second-{self.story.rows}", person=self.person,
            need=self.progress.need, opened_by=self.talk.served_by or orders.HOTLINE,
        )  # fmt: skip

    # ---------------------------------------------------------------- after the talk

    def _rating_offered(self) -> tuple[str, ...]:
        if not self.talk.placed and self.survey.asks(self.story):
            return QUESTIONS[State.RATING]
        self.inbox.put(Heard.RATING_NOT_ASKED)
        return ()

    async def hear_reason(self) -> None:
        await self.survey.hear_reason(self.story)

    async def _end_reason(self) -> None:
        await self.survey.spoken.stop()

    def _matter(self, until: float) -> Matter:
        """What this call is about, as far as is known by then."""
        person = self.person
        return Matter(
            self.id, self.began, until, self.talk.served_by,
            person.party_id if person else None, person.lawyer_id if person else None,
            person.case_id if person else None, self.progress.need,
        )  # fmt: skip

    @property
    def second_of(self) -> Matter | None:
        """The served call on the same matter of which this is the second one. KPI-2."""
        return second_of(self._matter(self.began), self.earlier)

    # ---------------------------------------------------------------- ending

    async def give_five_seconds(self) -> None:
        ended_at = self.story.closing_ended_at or self.hotline.clock()
        self.line.within("five", ended_at + self.hotline.settings.ending.leave_within_s - self.hotline.clock())

    async def hang_up(self) -> None:
        self.hung_up_by = "hotline"
        with self.line.gone_is_hung_up(None):
            await self.hotline.client.channels.hangup(channelId=self.id)

    async def _apologise(self) -> None:
        """Broken in here: the dialplan apologises and takes a number for a callback."""
        context, extension, priority = APOLOGY
        try:
            await self.hotline.client.channels.continueInDialplan(
                channelId=self.id, context=context, extension=extension, priority=priority
            )
        except Exception as error:  # its end is to be written down, whatever it was
            log.error("call %s: cannot be handed to the fallback: %s", self.id, error)

    async def _close(self) -> None:
        """The call is over: nothing of it stays in Asterisk, and its line is written."""
        self.line.clear_all()
        desk = self.hotline.desk
        desk.leave(self.id)
        desk.leave(second_name(self.id))
        self.inbox.close()
        if self.progress.state is not State.ENDED:  # broken in the midst of it
            self.hotline.ledger.write(*self._bill(self.progress.state, self.hotline.clock()))
        let_go: list[Callable[[], Awaitable[None]]] = [self.talk.cancel_second, self.talk.free]
        if self.talk.second is not None and self.talk.second.joined_at is not None:
            let_go = [self._release_second]
        let_go += [self._release_agent] if self.talk.is_joined else [self.talk.cancel, self.talk.free]
        let_go += [self.talk.take_down, partial(desk.forget, self.id)]
        for tidy in (self.voice.hush, self.selfservice.close, *let_go):
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
        if outcome == "lost" and self._is_called_back():  # before all others, in the same moment
            party_id, lawyer_id = ids_of(self.person)
            self.hotline.callbacks.asked(
                models.Callback(
                    id=self.id, at=now, number=self.number or "", reason="lost", role=self.progress.role.value,
                    need=self._need(), party_id=party_id, lawyer_id=lawyer_id,
                )
            )  # fmt: skip
        self._end_callback(outcome)
        self.hotline.ledger.write(
            models.Ending(
                call_id=self.id,
                at=now,
                outcome=outcome,
                hung_up_by=self.hung_up_by,
                agent=self.talk.served_by,
                answered_after_s=story.answered_at - self.began if story.answered_at is not None else None,
                wait_s=waited_s,
                talk_s=self.talk.talked_s,
                after_closing_s=after_closing,
            ),
            *([outcomes.row_of(self._matter(now), self.second_of)] if self.person is not None else []),
        )
        if self.second_of is not None and self.progress.need is not None:
            self.hotline.metrics.second_call(outcomes.label_of(self.progress.need))
        self._count(outcome, waited_s, after_closing)
        log.info(
            "call %s ended: %s, waited %.1f s, talked %.1f s, hung up by %s",
            self.id, outcome, waited_s, self.talk.talked_s, self.hung_up_by,
        )  # fmt: skip

    def _count(self, outcome: Outcome, waited_s: float, after_closing: float | None) -> None:
        metrics = self.hotline.metrics
        short = outcome == "abandoned" and waited_s < SHORT_ABANDON_S
        waited_in_vain = waited_s and self.talk.served_by is None  # else it was told at the join
        if waited_in_vain and outcome in ("abandoned", "ceiling", "lost", "broken", "callback"):
            metrics.queue_left("short_abandon" if short else cast(QueueResult, outcome), waited_s)
        metrics.identity(self.progress.role.value, self._identity_result())
        metrics.hung_up(self.hung_up_by, after_closing_s=after_closing)
        answered = self._has_answered or (self.adopted and self.story.answered_at is not None)
        rang_s = None if answered else (self.ended_at or self.hotline.clock()) - self.began
        metrics.call_ended("short_abandon" if short else cast(CallOutcome, outcome), unanswered_s=rang_s)

    def _is_called_back(self) -> bool:
        """If the line is lost."""
        return cases.can_be_called(self.number)

    def _end_callback(self, outcome: Outcome) -> None:
        """What the end of this call means for the person's callback."""
        self.callmeback.ended(served=outcome == "handled")

    def _outcome(self) -> Outcome:
        story = self.story
        if story.lost and story.last_before_end not in (State.CLOSING, State.LEAVING, State.OVERTIME):
            return "lost"
        if self.talk.served_by is not None:
            return "handled"
        if story.at_ceiling:
            return "ceiling"
        if story.callback_noted is not None:
            return "callback"
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
                asked = self.callmeback.words(self.person) if self.progress.state is State.CALLBACK_NUMBER else ()
                return asked or QUESTIONS.get(self.progress.state, ())
            case Do.SAY_TRANSFERRING | Do.SAY_NOBODY_SIGNED_IN:
                said = "transferring" if do is Do.SAY_TRANSFERRING else "nobody-signed-in"
                kept = self.callmeback.open_one(self.person) is not None
                return (said, "callback-returned") if kept else (said,)
            case Do.SAY_CALLBACK_NOTED:
                return ("callback-moved",) if self.callmeback.was_moved else ("callback-noted",)
            case Do.OFFER_OWN_NUMBER:
                return self._own_number_offered()
            case Do.OFFER_RATING:
                return self._rating_offered()
            case Do.SAY_SECOND_LATE:
                return self._second_answers_by()
            case Do.SAY_CLOSED:
                return self.selfservice.closed_words(self.wanted_line)
            case Do.SAY_CASES:
                return self.selfservice.cases_words(verified=self.progress.verified)
            case Do.SAY_POSITION:
                desk = self.hotline.desk
                place = desk.position(self.id)
                words: tuple[str, ...] = (catalogue.position(place),)
                if desk.may_be_served(self.id):  # else nobody can say when
                    words = (*words, catalogue.wait(minutes(desk.expected_wait_s(self.id))))
                return (*words, "callback-hint") if self.progress.state is State.WAITING else words
            case Do.SAY_AGENT_OPENING:
                offer = self.talk.offer
                if offer is None or offer.joined_at is None:
                    return ()
                opening = catalogue.agent_opening(offer.agent) or "opening"
                is_it = catalogue.is_it(self.person.title, self.person.surname) if self.person else None
                return (opening, is_it) if is_it else (opening,)
        return None

    async def _say(self, prompts: tuple[str, ...], row: int) -> None:
        """To the caller, or to both while they talk; of step `row`."""
        bridge = self.talk.bridge if self.talk.hears_the_talk else None  # also when the agent has left
        both = bridge is not None and self.talk.offer is not None
        await self.voice.say(prompts, bridge, "both" if both else "caller", row=row)

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
        if self.second_of is not None:
            words.append("二次来电")
        if self.progress.verified and self.context.status == "ok":
            words.append(f"{self.context.cases}案")
            if self.context.milestone in MILESTONE_WORDS:
                words.append(f"最近:{MILESTONE_WORDS[self.context.milestone]}")
        return " ".join(words)


def line_of(role: Role) -> str:
    """Which line of agents is for them."""
    return "lawyer" if role is Role.LAWYER else "party"


def pad_of(state: State) -> Keypad | None:
    """What the caller may key in `state`."""
    if state in ENTRIES:
        return Keypad(entry=ENTRIES[state])
    return Keypad(frozenset(MENUS[state])) if state in MENUS else None


def identified(
    session: Session, role: Role, answers: dict[Element, str], at: float
) -> tuple[cases.Person | None, tuple[Element, ...], tuple[Matter, ...]]:
    """Whom `answers` prove, or what remains; and what this person called about in the days before `at`."""
    person, missing = cases.check_identity(session, role, answers)
    return person, missing, outcomes.matters_of(session, person, at) if person is not None else ()


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
    Do.SAY_LONGEST_WAIT: ("longest-wait",),
    Do.SAY_DISCLAIMER: ("disclaimer",),
    Do.SAY_CLOSING: ("closing",),
    Do.SAY_CEILING_NEAR: ("ceiling-near",),
    Do.SAY_IDENTITY_FIRST: ("identity-first",),
    Do.SAY_NO_STATUS: ("no-status",),
    Do.SAY_CASES_UNAVAILABLE: ("status-unavailable",),
    Do.SAY_LEAVE_MESSAGE: ("leave-message", "beep"),
    Do.SAY_MESSAGE_EMPTY: ("message-empty", "beep"),
    Do.SAY_MESSAGE_GIVEN_UP: ("message-given-up",),
    Do.SAY_MESSAGE_FAILED: ("message-failed",),
    Do.SAY_MESSAGE_NOTED: ("message-noted",),
    Do.ASK_REASON: ("ask-rating-reason",),
    Do.SAY_REASON_NOTED: ("reason-noted",),
    Do.LISTEN: (),
    Do.SAY_TO_SECOND_LINE: ("transferring-second-line",),
    Do.SAY_NOT_POSSIBLE: ("transfer-not-possible",),
}
"""What is said in so many words, to the letter. SCR-1."""

STUCK = {
    State.RINGING: Heard.RANG_ENOUGH,
    State.OFFERING: Heard.OFFER_LOST,
    State.WHISPERING: Heard.WHISPER_ENDED,
    State.CHECKING: Heard.RESUMED,
    State.ADMITTING: Heard.RESUMED,
    State.FETCHING_CONTEXT: Heard.CONTEXT_FAILED,
    State.LEAVING: Heard.FIVE_SECONDS_PASSED,
    State.LEAVING_MESSAGE: Heard.MESSAGE_FAILED,
    State.RATING_REASON: Heard.REASON_GIVEN,
    **dict.fromkeys(SEEKING, Heard.RESUMED),
    **{state: Heard.NO_ENTRY for state in ASKING},
}
"""What gets a call on from each state in which it waits for nothing."""

DUE = {
    "ring": Heard.RANG_ENOUGH,
    "five": Heard.FIVE_SECONDS_PASSED,
    "longest": Heard.LONGEST_WAIT_REACHED,
    "message": Heard.MESSAGE_LEFT,
    spoken.AT_MOST: Heard.REASON_GIVEN,
    spoken.NOTHING: Heard.NO_ENTRY,
}

DOING: dict[Do, Callable[[Call], Awaitable[None]]] = {
    Do.ANSWER: Call._answer,
    Do.TAKE_ANSWER: Call._take_answer,
    Do.TAKE_OWN_NUMBER: Call._take_own_number,
    Do.CHECK_IDENTITY: Call._check_identity,
    Do.FETCH_CONTEXT: Call._fetch_context,
    Do.ADMIT: Call._admit,
    Do.LOOK_UP_CASES: Call._look_up_cases,
    Do.RECORD_MESSAGE: Call._record_message,
    Do.TAKE_MESSAGE: Call._take_message,
    Do.OFFER_CALLBACK_NUMBER: Call._offer_callback_number,
    Do.TAKE_CALLBACK_NUMBER: Call._take_callback_number,
    Do.NOTE_CALLBACK: Call.note_callback,
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
    Do.HEAR_REASON: Call.hear_reason,
    Do.END_REASON: Call._end_reason,
    Do.GIVE_FIVE_SECONDS: Call.give_five_seconds,
    Do.HANG_UP: Call.hang_up,
    Do.ARRANGE: Call._arrange,
    Do.SEEK_SECOND: Call._seek_second,
    Do.LEAVE_SECOND_QUEUE: Call._leave_second_queue,
    Do.RING_SECOND: Call._ring_second,
    Do.CANCEL_SECOND: Call._cancel_second,
    Do.FREE_SECOND: Call._free_agent,
    Do.PAUSE_SECOND: Call._pause_agent,
    Do.WHISPER_SECOND: Call._whisper,
    Do.RELEASE_SECOND: Call._release_second,
    Do.HAND_OVER: Call._hand_over,
    Do.OPEN_SECOND_ORDER: Call._open_second_order,
}
