"""A call that we place: a callback, or an agent's call to a case's party or lawyer.

Theory of operation. It is a `Call` whose line is dialled by us instead of coming in: the outside leg bears the call's
id, so that from the answer on everything is as in any call. Before that the agent's phone rings, the agent is told by a
whisper what it is for, and sits in the talk's bridge while the outside is dialled, so that ringback, announcements and
a busy tone are heard as the network plays them. Where it plays none, Asterisk does.

The outside leg is a Local channel into the dialplan's [outbound], where the recording begins before anything is
dialled (ADR 100); its second half is named ``<call>~line``, goes with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import cases
from ari_app.ari import events
from ari_app.ari.errors import AllocationFailed, AriError, Conflict, Invalid, NotFound
from ari_app.ari.mailboxes import Mailbox
from ari_app.call import ROLE_WORDS, Call, Outcome, Resync
from ari_app.desk import FeatureRefused, Reserved
from ari_app.errors import StoreUnavailable
from ari_app.features import Feature, FeatureCall, Said
from ari_app.flow.callbacks import Happened, Stage
from ari_app.flow.identity import Role
from ari_app.flow.sop import PLACING, Do, Heard, Need, Progress, State
from ari_app.line import Due, Hotline
from ari_app.store import models
from metrics.hotline import PlacedOutcome

log = logging.getLogger("sanling.outbound")

PHONE_FREE_AGAIN_S = 0.1
PHONE_SETTLES_S = 0.5
"""A phone that has just hung up can ring again after this."""
BUSY_TONE_S = 2.8
"""Four bursts of the mainland's busy tone."""
CAUSES = {17: Heard.OUTSIDE_BUSY, 18: Heard.OUTSIDE_NO_ANSWER, 19: Heard.OUTSIDE_NO_ANSWER, 21: Heard.OUTSIDE_REFUSED,
          480: Heard.OUTSIDE_NO_ANSWER}  # fmt: skip
"""Hang-up causes of the outside leg before the answer. Source: ITU-T Q.850."""
WHYS: dict[Heard, PlacedOutcome] = {
    Heard.OUTSIDE_BUSY: "busy",
    Heard.OUTSIDE_NO_ANSWER: "no_answer",
    Heard.OUTSIDE_REFUSED: "refused",
    Heard.OUTSIDE_UNREACHABLE: "unreachable",
}
PROMPTS = {
    Heard.OUTSIDE_BUSY: "outbound-busy",
    Heard.OUTSIDE_NO_ANSWER: "outbound-no-answer",
    Heard.OUTSIDE_REFUSED: "outbound-refused",
}
NEED_OF = {"milestone": Need.MILESTONE, "material": Need.MATERIAL, "time": Need.TIME, "pressing": Need.PRESSING}


def line_channel(call_id: str) -> str:
    """The second half of the outside leg, which dials and is recorded."""
    return f"{call_id}~line"


def ringback_name(call_id: str) -> str:
    return f"{call_id}~ringback"


class Outbound(Call):
    """`errand` is what it is for."""

    errand: models.OutboundCall

    @classmethod
    def of(cls, hotline: Hotline, inbox: Mailbox, errand: models.OutboundCall) -> Outbound:
        call = cls(
            hotline, errand.call_id, inbox, errand.number,
            Progress(role=Role(errand.role), need=NEED_OF.get(errand.need or "")),
        )  # fmt: skip
        call.errand = errand
        call.talk.placed = True
        return call

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ringback: str | None = None
        self._early_media = False
        self.waits_for: Mailbox | None = None
        """What must be over before the agent's phone is rung."""
        self._lineless = False
        """There is no outside leg."""
        self._waits_here = False
        """The person waits in another call: nobody was dialled."""

    async def _begin(self) -> None:
        if self.waits_for is not None:  # the agent's phone is still busy with the code
            while not self.waits_for.closed:  # noqa: ASYNC110 - a moment, which the code's own end decides
                await asyncio.sleep(PHONE_FREE_AGAIN_S)
            await asyncio.sleep(PHONE_SETTLES_S)
        await self.load_person()
        self._reserved = Reserved(self.errand.agent)

        async def make() -> None:
            self._lineless = not await self._make_line()

        await self._through(make)
        await self.take(Heard.HUNG_UP if self._lineless else Heard.CALL_PLACED)

    async def load_person(self) -> None:
        """Whom it is for, by the errand; without a database the opening goes without the name."""
        errand = self.errand
        if errand.party_id is not None or errand.lawyer_id is not None:
            with suppress(StoreUnavailable):
                self.person = await self.hotline.ledger.look_up(
                    lambda s: cases.person(s, party_id=errand.party_id, lawyer_id=errand.lawyer_id)
                )

    # ================================================================ hearing

    async def _hear(self, event: object) -> Heard | None:
        calling = self.progress.state is State.CALLING_OUT
        match event:
            case Due("busy-tone"):
                if self.line.is_due(event):
                    await self._through(self._say_why)
                return None
            case Heard.HUNG_UP if calling:
                return Heard.OUTSIDE_UNREACHABLE
            case events.StasisStart(channel=channel) if channel.id == self.id:
                return None
            case events.Dial(dialstatus=status, peer=peer) if peer.id == self.id:
                await self._dialling(status)
                return None
            case events.ChannelStateChange(channel=channel) if channel.id == self.id:
                return Heard.OUTSIDE_ANSWERED if calling and channel.state == "Up" else None
            case events.StasisEnd(channel=channel) if channel.id == self.id and self.progress.state in PLACING:
                return None
            case events.ChannelDestroyed(channel=channel, cause=cause) if channel.id == self.id:
                if calling:
                    return CAUSES.get(cause, Heard.OUTSIDE_UNREACHABLE)
                return None if self.progress.state in PLACING else Heard.HUNG_UP
        return await super()._hear(event)

    async def _dialling(self, status: str) -> None:
        """How the outside is being reached: what the network plays is heard by itself."""
        if self.progress.state is not State.CALLING_OUT:
            return
        if status == "PROGRESS":
            self._early_media = True
            await self._through(self._stop_ringback)
        elif status == "RINGING" and not self._early_media and self._ringback is None:
            await self._through(self._start_ringback)

    def _resync(self, now: Resync) -> Heard | None:
        state = self.progress.state
        if state not in PLACING:
            return super()._resync(now)
        if self.began >= now.at:
            return None
        if self.booted != self.hotline.client.booted:  # nobody left: Asterisk did
            return self._gone()
        missed = self.talk.missed(
            now.channels, now.at, away=now.away_s > 0, offering=state is State.CALLING_AGENT, talking=False
        )
        if missed is not None:
            return Heard.AGENT_LEFT if missed is Heard.OFFER_LOST and state is not State.CALLING_AGENT else missed
        if state is State.CALLING_OUT and self.story.state_since < now.at:
            there = now.channels.get(self.id)
            if there is None:
                return Heard.OUTSIDE_UNREACHABLE
            if there == "Up":
                return Heard.OUTSIDE_ANSWERED
        if state in (State.BRIEFING, State.NOT_REACHED) and not self.line.awaited & {"whisper", "busy-tone"}:
            return None if len(self.inbox) else Heard.WHISPER_ENDED
        return None

    # ================================================================ doing

    def _doing(self, do: Do) -> Callable[[], Awaitable[None]]:
        mine: dict[Do, Callable[[], Awaitable[None]]] = {
            Do.CALL_OUT: self._call_out,
            Do.MEET: self._meet,
            Do.TELL_NOT_REACHED: self._tell_not_reached,
            Do.GIVE_UP_CALLING: self._give_up_calling,
        }
        return mine.get(do) or super()._doing(do)

    async def _make_line(self) -> bool:
        """The outside leg, undialled: before the agent's, because Asterisk takes no name that begins another's. False
        if there is none.
        """
        house = self.hotline
        if not house.settings.trunk.outbound or not cases.can_be_called(self.number):
            log.error("call %s cannot be placed: no trunk.outbound is set, or its number is not to be called", self.id)
            return False
        try:
            await house.client.channels.create(
                channelId=self.id,
                otherChannelId=line_channel(self.id),
                endpoint=f"Local/{self.number}@outbound/n",
                formats=house.settings.codecs[0],  # else it speaks a codec of its own, and nobody is compatible with it
                app=house.client.app,
                appArgs=f"outside,{self.id}",
                variables={"SANLING_RING_S": f"{house.desk.rules.now.callbacks.ring_s:.0f}"},
            )
        except Conflict:  # made before the link broke
            pass
        except (AllocationFailed, NotFound, Invalid) as error:
            log.error("call %s: no outside leg: %s", self.id, error)
            return False
        return True

    async def _call_out(self) -> None:
        """The agent goes into the bridge, the outside leg too, and is dialled."""
        wish_id = self.errand.callback_id
        if wish_id is not None and self.hotline.callbacks.is_on_the_line(wish_id):
            self._waits_here = True
            self.inbox.put(Heard.OUTSIDE_BUSY)
            return
        await self.talk.sit_down()
        await self._dial_out()

    async def _dial_out(self) -> None:
        client = self.hotline.client
        try:
            await self.talk.let_caller_in()
            await client.channels.dial(channelId=self.id)
        except Conflict:  # dialled already
            log.info("call %s is being dialled already", self.id)
        except (NotFound, Invalid, AllocationFailed) as error:
            log.info("call %s: the outside leg is gone: %s", self.id, error)
            self.inbox.put(Heard.OUTSIDE_UNREACHABLE)

    async def _start_ringback(self) -> None:
        if self.talk.bridge is not None:
            self._ringback = ringback_name(self.id)
            with self.line.gone_is_hung_up(None):
                await self.hotline.client.bridges.play(
                    bridgeId=self.talk.bridge, playbackId=self._ringback, media=["tone:ring"]
                )

    async def find_ringback(self) -> None:
        """One that an earlier controller began."""
        with suppress(AriError):
            self._ringback = (await self.hotline.client.playbacks.get(playbackId=ringback_name(self.id))).id

    async def _stop_ringback(self) -> None:
        playback, self._ringback = self._ringback, None
        if playback is not None:
            with self.line.gone_is_hung_up(None):
                await self.hotline.client.playbacks.stop(playbackId=playback)

    async def _meet(self) -> None:
        """The person has answered, and both hear each other already."""
        await self._stop_ringback()
        self.watch_ceiling()
        offer = self.talk.offer
        if offer is not None:
            await self.talk.let_caller_in()
            await self.talk.joined(offer, self.story.answered_at or self.hotline.clock(), 0.0)

    async def _tell_not_reached(self) -> None:
        """To the agent: a busy tone where the network played none, then in words why."""
        await self._stop_ringback()
        await self._drop_outside()
        offer = self.talk.offer
        if self.story.unreached is Heard.OUTSIDE_BUSY and not self._early_media and offer is not None:
            with self.line.gone_is_hung_up(None):
                await self.hotline.client.channels.play(
                    channelId=offer.channel, playbackId=f"{self.id}~busy-tone", media=["tone:busy"]
                )
            self.line.within("busy-tone", BUSY_TONE_S)
        else:
            await self._say_why()

    async def _say_why(self) -> None:
        with suppress(AriError):
            await self.hotline.client.playbacks.stop(playbackId=f"{self.id}~busy-tone")
        await self.talk.whisper(self.whisper_prompt())

    async def _give_up_calling(self) -> None:
        await self._stop_ringback()
        await self._drop_outside()

    async def _drop_outside(self) -> None:
        """The outside leg, if it is still there; nobody waits for its end."""
        with self.line.gone_is_hung_up(None):
            await self.hotline.client.channels.hangup(channelId=self.id)

    # ================================================================ saying

    def whisper_prompt(self) -> str:
        if self.story.unreached is not None:
            return PROMPTS.get(self.story.unreached, "outbound-unreachable")
        if self.errand.callback_id is not None:
            return f"whisper-callback-{self.errand.role}-{self.errand.need or 'none'}"
        return f"whisper-outbound-{self.errand.role}"

    def _display(self) -> str:
        words = ["回电" if self.errand.callback_id is not None else "外呼", ROLE_WORDS[Role(self.errand.role)]]
        if self.progress.need is not None:
            words.append(self.progress.need.value)
        return " ".join(words)

    # ================================================================ ending

    async def _apologise(self) -> None:
        """Broken in here: whoever is on the line is let go; a callback is tried again."""
        if self.story.answered_at is not None:
            await super()._apologise()
            return
        with suppress(AriError):
            await self._drop_outside()

    async def _close(self) -> None:
        if self.progress.state is State.ENDED and self.story.answered_at is None:
            with suppress(AriError):
                await self._drop_outside()
        await super()._close()

    def _outcome(self) -> Outcome:
        if self.talk.served_by is None and self.story.answered_at is None:
            return "lost" if self.story.lost else "unreached"
        return super()._outcome()

    def placed_outcome(self, outcome: Outcome) -> PlacedOutcome:
        """In the words of calls that we place."""
        story = self.story
        if outcome in ("lost", "broken"):
            return cast(PlacedOutcome, outcome)
        if story.answered_at is not None:
            return "handled"
        if story.unreached is not None:
            return WHYS[story.unreached]
        if self._lineless:
            return "unreachable"
        return "agent_left" if story.last_before_end is State.CALLING_OUT else "agent_missed"

    def _is_called_back(self) -> bool:
        """Who was not on the line has not lost it."""
        reached = self.errand.callback_id is not None or self.story.answered_at is not None
        return reached and super()._is_called_back()

    def _end_callback(self, outcome: Outcome) -> None:
        """Served, tried again later or, if nobody was dialled, offered to the next agent at once."""
        came_to, callbacks = self.placed_outcome(outcome), self.hotline.callbacks
        wish = callbacks.held_by(self.id)
        if wish is not None and wish.stage is Stage.CALLING:
            if came_to == "handled":
                callbacks.happens(wish, Happened.SERVED, call_id=self.id, agent=self.talk.served_by)
            elif self._waits_here or (came_to == "lost" and self.story.last_before_end is not State.CALLING_OUT):
                callbacks.happens(wish, Happened.DECLINED, call_id=self.id)
            elif came_to == "agent_missed":
                callbacks.happens(wish, Happened.DECLINED, call_id=self.id, agent=self.errand.agent)
            else:
                callbacks.was_missed(wish, came_to)
        super()._end_callback(outcome)
        callbacks.look()

    def _count(self, outcome: Outcome, waited_s: float, after_closing: float | None) -> None:
        rang_s = (self.story.answered_at or self.hotline.clock()) - self.began
        self.hotline.metrics.call_placed_ended(
            "callback" if self.errand.callback_id is not None else "case", self.placed_outcome(outcome),
            rang_s=rang_s, talk_s=self.talk.talked_s,
        )  # fmt: skip


# ---------------------------------------------------------------- agents' calls in a case


@dataclass(frozen=True)
class Whom:
    """Somebody of a case. `number` is personal data."""

    case_id: int
    role: Role
    number: str
    party_id: int | None = None
    lawyer_id: int | None = None


class CaseCalls:
    """Calls of agents to a case's party (``*91``) or lawyer (``*92``); the number comes from the case alone. `place`
    begins a call, once the mailbox that it is given is closed.
    """

    def __init__(self, hotline: Hotline, place: Callable[[models.OutboundCall, Mailbox | None], None]) -> None:
        self._hotline = hotline
        self._place = place

    @property
    def features(self) -> Mapping[str, Feature]:
        return {"*91": Feature(self._dialled(Role.PARTY)), "*92": Feature(self._dialled(Role.LAWYER))}

    def _dialled(self, role: Role) -> Callable[[FeatureCall, str], Awaitable[Said]]:
        async def do(feature: FeatureCall, _rest: str) -> Said:
            await self.order(feature.agent, role, after=feature.inbox)
            return ("outbound-hang-up",)

        return do

    async def order(self, agent: str, role: Role, *, case_id: int | None = None, after: Mailbox | None = None) -> str:
        """Has `agent` call this side of `case_id` (None: of the case of the agent's last talk); the id of the call.
        Raises FeatureRefused, StoreUnavailable.
        """
        house = self._hotline
        whom = await house.ledger.ask(lambda s: of_case(s, role, case_id) if case_id else of_last_talk(s, role, agent))
        if whom is None or not cases.can_be_called(whom.number):
            raise FeatureRefused("outbound-no-case")
        if not house.settings.trunk.outbound:
            raise FeatureRefused("outbound-unreachable")
        if house.callbacks.place is None:  # the hotline is being drained
            raise FeatureRefused("fallback-agent")
        if not house.callbacks.terms.allows(house.clock()):
            raise FeatureRefused("outbound-not-now")
        call_id = house.callbacks.ids.next()
        await house.desk.places(call_id, agent, dialled=after is not None)
        errand = models.OutboundCall(
            call_id=call_id, at=house.clock(), agent=agent, number=whom.number, callback_id=None, case_id=whom.case_id,
            role=whom.role.value, need=None, party_id=whom.party_id, lawyer_id=whom.lawyer_id,
        )  # fmt: skip
        self._place(errand, after)
        return call_id


def of_case(session: Session, role: Role, case_id: int) -> Whom | None:
    """The party or the lawyer of a case."""
    case = session.get(models.Case, case_id)
    if case is None:
        return None
    if role is Role.LAWYER:
        lawyer = session.get_one(models.Lawyer, case.lawyer_id)
        return Whom(case.id, role, lawyer.mobile, lawyer_id=lawyer.id)
    party = session.get_one(models.Party, case.party_id)
    return Whom(case.id, role, party.mobile, party_id=party.id)


def of_last_talk(session: Session, role: Role, agent: str) -> Whom | None:
    """The same of the case that `agent` talked about last; None if that is not known for certain."""
    call_id = session.scalar(
        select(models.OfferEvent.call_id)
        .where(models.OfferEvent.agent == agent, models.OfferEvent.event == "joined")
        .order_by(models.OfferEvent.at.desc())
        .limit(1)
    )
    if call_id is None:
        return None
    placed = session.get(models.OutboundCall, call_id)
    proven = session.scalars(
        select(models.Identity)
        .where(models.Identity.call_id == call_id, models.Identity.verified)
        .order_by(models.Identity.n.desc())
        .limit(1)
    ).first()
    known = (placed.case_id if placed else None) or (proven.case_id if proven else None)
    if known is None and (who := proven or placed) is not None:
        of_person = (
            models.Case.party_id == who.party_id if who.party_id is not None else models.Case.lawyer_id == who.lawyer_id
        )
        found = session.scalars(select(models.Case.id).where(of_person).limit(2)).all()
        known = found[0] if len(found) == 1 else None
    return of_case(session, role, known) if known is not None else None
