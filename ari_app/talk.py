"""The agents' legs of a call: offered, dialled, whispered to, joined with the caller, held, released.

At most two agents are there: one who has the caller, and one of the second line who is asked, or who is to have the
caller next. Who hears whom is a matter of who is in the talk's one bridge; whoever is not hears music. The desk holds
the first agent for the call's id and the second for a name of its own (`second_name`).

Every leg and bridge is named after the call and the number of the offer, so that a later controller finds it. What
becomes of an offer is written down as it happens, and the desk is told what becomes of the agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from typing import Literal

from ari_app.ari.errors import AllocationFailed, Conflict, Invalid, NotFound, RequestTimeout
from ari_app.desk import Reserved
from ari_app.flow.billing import Company, Seat, Stretch, stretches, with_caller_s
from ari_app.flow.keypad import AgentKeys, TransferTo
from ari_app.flow.sop import Heard, State
from ari_app.line import Line
from ari_app.store import models
from ari_app.voice import Voice

log = logging.getLogger("sanling.talk")

SETTLES_S = 0.6
"""From joining to the first word: a phone may lose half a second when its stream turns from music to talk."""

TORN = "torn"
"""Deadline of the line: somebody is not in the talk's bridge who should be."""
HANGS_UP_S = 1.0
"""Whoever leaves the bridge by hanging up is gone after this."""

OfferOutcome = Literal["refused", "busy", "no_answer", "unreachable", "caller_left"]

OFFER_ENDED: dict[Heard, OfferOutcome] = {
    Heard.AGENT_REFUSED: "refused",
    Heard.AGENT_BUSY: "busy",
    Heard.AGENT_NO_ANSWER: "no_answer",
    Heard.AGENT_UNREACHABLE: "unreachable",
    Heard.AGENT_LEFT: "refused",
    Heard.AGENT_LOST: "refused",
    Heard.SECOND_LEFT: "refused",
}

CAUSES = {16: Heard.AGENT_LEFT, 17: Heard.AGENT_BUSY, 18: Heard.AGENT_NO_ANSWER, 19: Heard.AGENT_NO_ANSWER,
          21: Heard.AGENT_REFUSED}  # fmt: skip
"""Hang-up causes of a phone that was offered a call. Source: ITU-T Q.850; 486 → 17, 603 → 21, 480 and timeout → 19."""

AGENT_CODES = {
    "0": Heard.BACK_ASKED,
    "1": Heard.CONSULT_ASKED,
    "2": Heard.SWAP_ASKED,
    "3": Heard.THREE_WAY_ASKED,
    "4": Heard.HAND_OVER_ASKED,
    "5": Heard.DISCLAIMER_ASKED,
    "6": Heard.CLOSING_ASKED,
}
"""What an agent in talk keys after a star."""
TRANSFER_KEY = "7"
SECOND_CODES = {"5": Heard.DISCLAIMER_ASKED}
"""What the second line may key, too."""


def offer_channel(call_id: str, n: int) -> str:
    return f"{call_id}~offer-{n}"


def talk_bridge(call_id: str, n: int) -> str:
    """Of the talk that came of offer `n`."""
    return f"{call_id}~bridge-{n}"


def second_name(call_id: str) -> str:
    """What the desk holds an agent of the second line for, and seeks one for."""
    return f"{call_id}~second"


@dataclass(frozen=True)
class Settled:
    """It is known whether the agent is reserved whose `channel` has come."""

    channel: str


@dataclass
class Offer:
    """An agent's phone that was offered this call. Moments are Unix seconds."""

    n: int
    agent: str
    channel: str
    at: float
    held_for: str
    """The call's id, or its second name while the agent is of the second line."""
    made_at: float = 0.0
    """When Asterisk had answered to the making of the channel; infinite until then. 0: it was there before us."""
    stands: asyncio.Future[bool] | None = None
    """Whether the agent is reserved, if that was still being written down; the phone must not ring before."""
    dialled: bool = False
    answered_at: float | None = None
    joined_at: float | None = None
    left: bool = False
    transferred: bool = False
    """Another agent had the caller before."""
    talked_s: float = 0.0
    waited_s: float = 0.0
    """Spent in the talk, hearing music."""
    held_s: float = 0.0
    held_since: float | None = None
    keys: AgentKeys = field(default_factory=AgentKeys)

    def add(self, one: Stretch) -> None:
        """Bills `one` to this agent."""
        if one.company is Company.NOBODY:
            self.waited_s += one.seconds
        else:
            self.talked_s += one.seconds

    def end_hold(self, at: float) -> None:
        if self.held_since is not None:
            self.held_s += at - self.held_since
            self.held_since = None


class Talk:
    """One call's agents."""

    def __init__(self, line: Line, voice: Voice) -> None:
        self._line = line
        self._house = line.hotline
        self._client = line.hotline.client
        self._voice = voice
        self.offer: Offer | None = None
        """Who has the caller, or is offered the call."""
        self.second: Offer | None = None
        """Who is consulted, or is to have the caller next."""
        self.bridge: str | None = None
        self.offers = 0
        """How many of them there were: the last one's number."""
        self.placed = False
        """We call somebody: nobody left the queue for it."""
        self.served_by: str | None = None
        """The agent who talked with the caller last."""
        self.talked_s = 0.0
        """Of the caller, with anybody."""
        self._let_go: Offer | None = None
        self._parting: list[Offer] = []
        self._have_talked: set[str] = set()
        """Agents whose talk with the caller is counted."""
        self._inside: set[str] = set()
        """Channels in the bridge."""
        self._hanging_up: frozenset[str] = frozenset()
        """Of these, those that are on their way out of it."""
        self._hear_music: set[str] = set()
        """Agents' channels that do."""

    def take_up(
        self,
        *,
        offers: int,
        offer: Offer | None,
        second: Offer | None,
        served_by: str | None,
        talked_s: float,
        bridges: Mapping[str, Collection[str]],
    ) -> None:
        """Goes on where another controller stopped; `bridges`: what is there of this call, with its channels."""
        self.offers, self.offer, self.second = offers, offer, second
        self.served_by, self.talked_s = served_by, talked_s
        for one in self._legs():
            self._give_keys(one)
        names = (talk_bridge(self._line.id, n) for n in range(offers, 0, -1))
        self.bridge = next((name for name in names if name in bridges), None)
        # Of them, those who should be there: an agent who was let go is perhaps not yet out.
        self._inside = {self._line.id, *self.legs}.intersection(bridges[self.bridge] if self.bridge is not None else ())

    @property
    def legs(self) -> frozenset[str]:
        """Channels of the agents who are there."""
        return frozenset(one.channel for one in self._legs())

    def is_inside(self, *channels: str) -> bool:
        """Whether these are in the bridge."""
        return self._inside.issuperset(channels)

    def _legs(self) -> Iterator[Offer]:
        yield from (one for one in (self.offer, self.second) if one is not None)

    def _leg(self, channel: str) -> Offer | None:
        return next((one for one in self._legs() if one.channel == channel), None)

    def _give_keys(self, offer: Offer) -> None:
        offer.keys = AgentKeys(SECOND_CODES) if offer is self.second else AgentKeys(AGENT_CODES, transfer=TRANSFER_KEY)

    # ---------------------------------------------------------------- hearing

    def key(self, channel: str, key: str) -> Heard | TransferTo | None:
        """A key of an agent's; None unless it completes a code."""
        offer = self._leg(channel)
        code = offer.keys.press(key) if offer is not None else None
        return code if isinstance(code, Heard | TransferTo) else None

    def answered(self, channel: str) -> Heard | None:
        offer = self._leg(channel)
        if offer is None or offer.answered_at is not None:
            return None
        offer.answered_at = self._now()
        self._write_event("answered", offer)
        return Heard.AGENT_ANSWERED

    def gone(self, channel: str, cause: int, *, talking: bool) -> Heard | None:
        """The leg `channel` ended with hang-up cause `cause`; `talking`: agent and caller were to be joined."""
        offer = self._leg(channel)
        if offer is None:
            return None
        offer.left = True
        self._inside.discard(channel)
        self._line.clear(TORN)
        if offer.answered_at is None:
            rang_out = self._now() - offer.at >= self._house.settings.queue.offer_timeout_s - 0.5
            heard = Heard.AGENT_NO_ANSWER if rang_out else CAUSES.get(cause, Heard.AGENT_UNREACHABLE)
        else:
            heard = Heard.AGENT_LOST if talking and offer.joined_at is None else Heard.AGENT_LEFT
        return Heard.SECOND_LEFT if offer is self.second and heard is Heard.AGENT_LEFT else heard

    def missed(
        self, channels: Mapping[str, str], at: float, *, away: bool, offering: bool, talking: bool
    ) -> Heard | None:
        """What became of a leg unheard. `channels`: what is there now, with states; what was offered after `at` is
        not judged, nor what may have been made after it: requests overtake each other on their lanes. `away`: the link
        was down. `offering`, `talking`: what the call is at.
        """
        for offer in self._legs():
            if offer.left or (offer.at if away else max(offer.at, offer.made_at)) >= at:
                continue
            if offer.channel not in channels:
                offer.left = True
                return Heard.OFFER_LOST if offer.answered_at is None else self.gone(offer.channel, 0, talking=talking)
            if away and not offer.dialled:  # its coming was missed
                return Heard.OFFER_LOST
            if channels[offer.channel] == "Up" and offering and offer.joined_at is None and offer is self._offered:
                return self.answered(offer.channel) or self._answered_already(offer)
        return None

    @property
    def _offered(self) -> Offer | None:
        return self.second or self.offer

    def _answered_already(self, offer: Offer) -> Heard | None:
        """What was heard and not acted on; a whisper that is under way will end."""
        return None if self._voice.whispered is not None else Heard.AGENT_ANSWERED

    def hold(self, channel: str) -> None:
        """By the phone's own key, an agent's or the caller's."""
        offer = self._leg(channel)
        if offer is not None:
            offer.held_since = self._now()
        self._write_hold(channel, offer, began=True)

    def unhold(self, channel: str) -> None:
        offer = self._leg(channel)
        if offer is not None:
            offer.end_hold(self._now())
        self._write_hold(channel, offer, began=False)

    def _write_hold(self, channel: str, offer: Offer | None, *, began: bool) -> None:
        if offer is not None or channel == self._line.id:
            who = offer.agent if offer is not None else "caller"
            self._house.ledger.write(models.Hold(call_id=self._line.id, who=who, at=self._now(), began=began))

    # ---------------------------------------------------------------- the offer

    async def ring(self, by: Reserved, display: str, number: str) -> None:
        """Offers the call to the agent who is reserved, whose phone will show `display` and the caller's `number`."""
        self.offer = self._new_offer(by, self._line.id)
        await self._ring(self.offer, display, number)

    async def ring_second(self, by: Reserved, display: str, number: str) -> None:
        """The same for an agent of the second line."""
        self.second = self._new_offer(by, second_name(self._line.id))
        await self._ring(self.second, display, number)

    def _new_offer(self, by: Reserved, held_for: str) -> Offer:
        self.offers += 1
        channel = offer_channel(self._line.id, self.offers)
        return Offer(self.offers, by.agent, channel, self._now(), held_for, made_at=inf, stands=by.stands)

    async def _ring(self, offer: Offer, display: str, number: str) -> None:
        self._give_keys(offer)
        self._write_event("offered", offer)
        try:
            # Not originate: what is originated, and answered while no controller is there, is hung up.
            await self._client.channels.create(
                channelId=offer.channel,
                endpoint=f"PJSIP/{self._house.desk.phone_of(offer.agent)}",
                app=self._client.app,
                appArgs=f"offer,{self._line.id},{offer.n}",
                variables={"CONNECTEDLINE(name)": display, "CONNECTEDLINE(num)": number},
            )
        except (AllocationFailed, NotFound, Conflict):
            offer.left = True
            self._line.inbox.put(Heard.AGENT_UNREACHABLE)
        finally:  # without an answer, too: then the next look tells
            offer.made_at = self._now()

    async def dial(self, channel: str) -> None:
        """The offer's channel has come to us: only now can it be dialled. While it is not known whether the agent is
        reserved, a `Settled` will tell; if the agent is not, nobody is dialled.
        """
        offer = self._leg(channel)
        if offer is not None and offer.stands is not None and not offer.stands.done():
            offer.stands.add_done_callback(lambda _: self._line.inbox.put(Settled(channel)))
        elif offer is not None and offer.stands is not None and not offer.stands.result():
            log.info("call %s: agent %s is not to be had after all", self._line.id, offer.agent)
            self._line.inbox.put(Heard.OFFER_LOST)
        elif offer is not None:
            timeout_s = ceil(self._house.settings.queue.offer_timeout_s)
            try:
                await self._client.channels.dial(channelId=channel, timeout=timeout_s)
                offer.dialled = True
            except (NotFound, Conflict, AllocationFailed) as error:
                log.info("call %s: agent %s cannot be dialled: %s", self._line.id, offer.agent, error)
                offer.left = isinstance(error, NotFound)
                self._line.inbox.put(Heard.AGENT_UNREACHABLE)

    def rings(self, channel: str) -> None:
        """The agent's phone says that it rings."""
        offer = self._leg(channel)
        if offer is not None:
            self._house.desk.rings(offer.held_for, offer.agent)

    async def whisper(self, prompt: str) -> None:
        """To whoever has just answered."""
        offer = self._offered
        if offer is not None:
            await self._voice.whisper(prompt, offer.channel)

    async def cancel(self) -> None:
        """The agent's phone stops ringing, or is let go; what becomes of the agent: ``free()`` or ``pause()``."""
        if self.offer is not None:
            self._let_go, self.offer = self.offer, None
        if self._let_go is not None:
            await self._stop_offer(self._let_go)
            await self.take_down()

    async def cancel_second(self) -> None:
        """The same for the second line; the talk goes on."""
        if self.second is not None:
            self._let_go, self.second = self.second, None
        if self._let_go is not None:
            await self._stop_offer(self._let_go)

    async def _stop_offer(self, offer: Offer) -> None:
        await self._voice.stop_whisper()
        await self._hang_up(offer)

    async def free(self) -> None:
        """The offer ended for the caller's reasons."""
        offer, self._let_go = self._let_go, None
        if offer is not None:
            self._end_offer(offer, "caller_left")
            await self._house.desk.withdraw(offer.held_for, offer.agent)

    async def pause(self, heard: Heard | None) -> None:
        """RONA: the agent did not take the offer, as `heard` tells."""
        offer, self._let_go = self._let_go, None
        if offer is not None:
            await self._not_taken(offer, heard, written=False)

    async def was_not_taken(self, n: int, agent: str, heard: Heard, *, written: bool, second: bool) -> None:
        """Offer `n` ended so, and its agent was still to be paused; `written`: its end is in the ledger."""
        held_for = second_name(self._line.id) if second else self._line.id
        await self._not_taken(Offer(n, agent, offer_channel(self._line.id, n), self._now(), held_for), heard, written)

    async def _not_taken(self, offer: Offer, heard: Heard | None, written: bool) -> None:
        why = OFFER_ENDED.get(heard, "refused") if heard is not None else "refused"
        if offer.stands is not None and not await asyncio.shield(offer.stands):  # never reserved: no fault of theirs
            self._end_offer(offer, "caller_left")
            return
        if not written:
            self._end_offer(offer, why)
            self._house.metrics.rona(offer.agent)
        await self._house.desk.did_not_answer(offer.held_for, offer.agent, why)

    def _end_offer(self, offer: Offer, outcome: OfferOutcome) -> None:
        self._write_event(outcome, offer)
        self._count(offer, outcome)

    def _count(self, offer: Offer, outcome: OfferOutcome | Literal["answered"]) -> None:
        after_s = offer.answered_at - offer.at if offer.answered_at is not None else None
        self._house.metrics.offer_ended(offer.agent, outcome, answered_after_s=after_s)

    def _write_event(self, event: str, offer: Offer) -> None:
        self._house.ledger.write(
            models.OfferEvent(call_id=self._line.id, n=offer.n, event=event, at=self._now(), agent=offer.agent)
        )

    # ---------------------------------------------------------------- the talk

    async def join(self, waited_s: float) -> None:
        """Agent and caller, who waited `waited_s`, are brought together."""
        offer = self.offer
        if offer is None:
            return
        await self._voice.hush()
        await self._voice.stop_music()
        await self._voice.end_silence()
        await self._voice.stop_whisper()
        await self._meet_in(talk_bridge(self._line.id, offer.n))
        # Here and below, an agent's keys are for us: passed on, the end of a last key may be lost with the agent, and
        # the caller's leg, which goes on sending that key, sends nothing else any more.
        try:
            await self._client.bridges.addChannel(bridgeId=self.bridge or "", channel=[offer.channel], absorbDTMF=True)
        except (NotFound, Conflict, Invalid) as error:  # hung up in this moment: the caller waits on, and never knew
            log.info("call %s: agent %s was gone at the join: %s", self._line.id, offer.agent, error)
            offer.left = True
            self._line.inbox.put(Heard.AGENT_LOST)
            return
        with self._line.gone_is_hung_up():
            await self._client.bridges.addChannel(bridgeId=self.bridge or "", channel=[self._line.id])
        self._inside = {self._line.id, offer.channel}
        await asyncio.sleep(SETTLES_S)
        await self.joined(offer, self._now(), waited_s)

    async def joined(self, offer: Offer, at: float, waited_s: float) -> None:
        """Caller and agent hear each other since `at` (Unix seconds)."""
        again, offer.joined_at = offer.joined_at is not None, offer.joined_at or at
        was_served, self.served_by = self.served_by is not None, offer.agent
        await self._house.desk.talks(offer.held_for, offer.agent)
        if again:
            return
        self._write_event("joined", offer)
        self._count(offer, "answered")
        if not (was_served or self.placed):
            self._house.metrics.queue_left("answered", waited_s)

    async def sit_down(self) -> None:
        """The agent goes into the bridge first, and hears whoever comes."""
        offer = self.offer
        if offer is None:
            return
        await self._voice.stop_whisper()
        await self._meet_in(talk_bridge(self._line.id, offer.n))
        with self._line.gone_is_hung_up(None):  # the agent's end is heard as such
            await self._client.bridges.addChannel(bridgeId=self.bridge or "", channel=[offer.channel], absorbDTMF=True)
        self._inside.add(offer.channel)

    async def let_caller_in(self) -> None:
        """To the agent who sits there, also before the answer. Raises NotFound, Conflict, Invalid."""
        if self._line.id not in self._inside:
            await self._client.bridges.addChannel(bridgeId=self.bridge or "", channel=[self._line.id])
            self._inside.add(self._line.id)

    async def _meet_in(self, bridge: str) -> None:
        """The one bridge of the talk from now on."""
        if self.bridge != bridge:
            await self.take_down()  # of an earlier talk
            with suppress(Conflict):  # made just before the link broke
                await self._client.bridges.create(bridgeId=bridge, type="mixing,dtmf_events", name=bridge)
            self.bridge = bridge

    async def arrange(self, together: frozenset[Seat]) -> None:
        """Those who sit `together` hear each other from now on, the others music. What is so already stays."""
        offer, second = self.offer, self.second
        if offer is None:
            return
        seats = {Seat.CALLER: self._line.id, Seat.AGENT: offer.channel}
        if second is not None:
            seats[Seat.SECOND] = second.channel
        if self._voice.speech is not None and self._voice.speech.side == "caller":
            await self._voice.hush()
        await self._meet_in(self.bridge or talk_bridge(self._line.id, offer.n))
        for seat, channel in seats.items():
            if seat not in together:
                await self._put_aside(channel)
        for seat, channel in seats.items():
            if seat in together:
                await self._let_in(channel)
        if second is not None and Seat.SECOND in together and second.joined_at is None:
            second.joined_at = self._now()
            self._write_event("joined", second)
            self._count(second, "answered")
            await self._house.desk.talks(second.held_for, second.agent)
        if Seat.CALLER in together:
            await self._house.desk.returns(self._line.id, offer.agent)
        else:
            await self._house.desk.consults(self._line.id, offer.agent)

    async def _put_aside(self, channel: str) -> None:
        if channel in self._inside:
            with self._line.gone_is_hung_up(None):
                await self._client.bridges.removeChannel(bridgeId=self.bridge or "", channel=[channel])
            self._inside.discard(channel)
        if channel == self._line.id:
            await self._voice.start_music()
        elif channel not in self._hear_music:
            with self._line.gone_is_hung_up(None):
                await self._client.channels.startMoh(channelId=channel, mohClass="sanling")
            self._hear_music.add(channel)

    async def _let_in(self, channel: str) -> None:
        if channel not in self._inside:
            if channel == self._line.id:
                self._voice.music_may_play()
                await self._voice.stop_music()
            else:
                self._hear_music.discard(channel)
                with self._line.gone_is_hung_up(None):
                    await self._client.channels.stopMoh(channelId=channel)
            with self._line.gone_is_hung_up(None):  # whoever is gone, is heard of as such
                await self._client.bridges.addChannel(
                    bridgeId=self.bridge or "", channel=[channel], absorbDTMF=channel != self._line.id
                )
            self._inside.add(channel)

    def hangs_up(self, channel: str) -> None:
        """`channel` leaves the bridge for that, and is gone when Asterisk finds the time."""
        if channel in self._inside:
            self._hanging_up |= {channel}

    def left(self, channel: str, bridge: str) -> None:
        """`channel` is not in `bridge` any more. If it should be, and does not hang up, `TORN` is due."""
        if bridge == self.bridge and channel in self._staying:
            self._line.within(TORN, HANGS_UP_S)

    @property
    def _staying(self) -> set[str]:
        return self._inside - self._hanging_up

    def seems_torn(self, bridges: Mapping[str, Collection[str]]) -> bool:
        """Whether somebody who should be in the talk's bridge is not, by `bridges` with their channels; then `TORN` is
        due: whoever comes or goes in this moment is not there, either.
        """
        if self.bridge is None or (self.bridge in bridges and self._staying.issubset(bridges[self.bridge])):
            return False
        self._line.within(TORN, HANGS_UP_S)
        return True

    async def is_torn(self) -> bool:
        """The same, as Asterisk says now. Who is missing counts as outside from then on: ``arrange()`` brings them in.

        Raises AriError.
        """
        if self.bridge is None:
            return False
        try:
            there = set((await self._client.bridges.get(bridgeId=self.bridge)).channels)
        except NotFound:
            torn = bool(self._staying)
            self.bridge = None
            self._inside.clear()
            return torn
        torn = not self._staying <= there
        self._inside &= there
        return torn

    async def hand_over(self) -> None:
        """The second line's agent has the caller from now on; who had it before was released."""
        offer = self.second
        if offer is None:
            return
        await self._house.desk.talks(offer.held_for, offer.agent)
        await self._house.desk.takes_over(offer.held_for, self._line.id, offer.agent)
        offer.held_for, offer.transferred = self._line.id, True
        self.offer, self.second = offer, None
        self._give_keys(offer)
        if offer.joined_at is not None:
            self.served_by = offer.agent

    async def seat(self, agent: str, channel: str) -> bool:
        """A leader's phone comes into the talk, to have the caller next. False if it is gone, or nobody talks."""
        if self.bridge is None or self.offer is None or self.second is not None:
            return False
        try:
            await self._client.bridges.addChannel(
                bridgeId=self.bridge, channel=[channel], absorbDTMF=True, inhibitConnectedLineUpdates=True
            )
        except (NotFound, Conflict, Invalid):
            return False
        self.offers += 1
        now, name = self._now(), second_name(self._line.id)
        self.second = Offer(
            self.offers, agent, channel, now, name, dialled=True, answered_at=now, joined_at=now, transferred=True
        )
        self._inside.add(channel)
        self._write_event("joined", self.second)
        await self._house.desk.steps_in(name, agent)
        return True

    def bill(self, state: State, since: float, until: float, n: int) -> list[models.TalkTime]:
        """Rows of who talked with whom in `state`, which was left in step `n`; each agent's time is added up."""
        billed = stretches(state, since, until, self._joined())
        seats = {Seat.AGENT: self.offer, Seat.SECOND: self.second}
        rows = []
        for one in billed:
            offer = seats[one.seat]
            if offer is not None:
                offer.add(one)
                if one.company in (Company.CALLER, Company.BOTH) and offer.agent not in self._have_talked:
                    self._have_talked.add(offer.agent)
                    self._house.metrics.talked(offer.agent)
                rows.append(
                    models.TalkTime(
                        call_id=self._line.id, n=n, agent=offer.agent, company=one.company.value, at=one.begin,
                        until=one.end,
                    )
                )  # fmt: skip
        self.talked_s += with_caller_s(billed)
        return rows

    def _joined(self) -> dict[Seat, float]:
        legs = {Seat.AGENT: self.offer, Seat.SECOND: self.second}
        return {seat: one.joined_at for seat, one in legs.items() if one is not None and one.joined_at is not None}

    async def release(self, until: float, line: str | None = None) -> None:
        """The agent goes to wrap-up, as long as is usual for `line`, having talked `until` then; the caller, if still
        there, is alone again or with the second line.
        """
        if self.offer is not None:
            self._parting.append(self.offer)
            self.offer = None
        await self._part(until, line)

    async def release_second(self, until: float) -> None:
        """The same for the second line; the talk goes on."""
        if self.second is not None:
            self._parting.append(self.second)
            self.second = None
        await self._part(until, "second_line")

    async def _part(self, until: float, line: str | None) -> None:
        for offer in list(self._parting):
            offer.end_hold(self._now())
            held = offer.held_s + offer.waited_s
            await self._house.desk.wraps_up(
                offer.held_for, offer.agent, offer.talked_s - offer.held_s, held, since=until, line=line
            )
            if self.offer is None:  # else what both are hearing goes on
                await self._voice.hush()
            await self._hang_up(offer)
            self._inside.discard(offer.channel)
            self._parting.remove(offer)

    @property
    def is_joined(self) -> bool:
        """Whether an agent who talked with the caller is still to be released."""
        return bool(self._parting) or (self.offer is not None and self.offer.joined_at is not None)

    @property
    def hears_the_talk(self) -> bool:
        """Whether the caller is in the bridge."""
        return self.bridge is not None and self._line.id in self._inside

    async def take_down(self) -> None:
        """The bridge goes; whoever is in it stays."""
        if self.bridge is not None:
            # Taken out before the bridge goes: a caller who is put out by its end may hear nothing any more.
            for leave in (
                partial(self._client.bridges.removeChannel, bridgeId=self.bridge, channel=[self._line.id]),
                partial(self._client.bridges.destroy, bridgeId=self.bridge),
            ):
                with self._line.gone_is_hung_up(None):
                    await leave()
            self.bridge = None
            self._inside.clear()

    async def _hang_up(self, offer: Offer) -> None:
        if not offer.left:
            try:
                with self._line.gone_is_hung_up(None):
                    await self._client.channels.hangup(channelId=offer.channel)
            except RequestTimeout:  # Asterisk is slow, and will do it: the caller's closing does not wait for that
                log.warning("call %s: no answer to the hang-up of agent %s", self._line.id, offer.agent)

    def _now(self) -> float:
        return self._house.clock()
