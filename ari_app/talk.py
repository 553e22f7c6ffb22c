"""The agents' legs of a call: offered, dialled, whispered to, joined with the caller, held, released.

Every leg and bridge is named after the call and the number of the offer, so that a later controller finds it. What
becomes of an offer is written down as it happens, and the desk is told what becomes of the agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal

from ari_app.ari.errors import AllocationFailed, Conflict, Invalid, NotFound, RequestTimeout
from ari_app.flow.keypad import AgentKeys
from ari_app.flow.sop import Heard
from ari_app.line import Line
from ari_app.store import models
from ari_app.voice import Voice

log = logging.getLogger("sanling.talk")

SETTLES_S = 0.6
"""From joining to the first word: a phone may lose half a second when its stream turns from music to talk."""

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

AGENT_CODES = {"5": Heard.DISCLAIMER_ASKED, "6": Heard.CLOSING_ASKED}
"""What an agent in talk keys after a star."""


def offer_channel(call_id: str, n: int) -> str:
    return f"{call_id}~offer-{n}"


def talk_bridge(call_id: str, n: int) -> str:
    """Of the talk that came of offer `n`."""
    return f"{call_id}~bridge-{n}"


@dataclass
class Offer:
    """An agent's phone that was offered this call. Moments are Unix seconds."""

    n: int
    agent: str
    channel: str
    at: float
    dialled: bool = False
    answered_at: float | None = None
    joined_at: float | None = None
    left: bool = False


class Talk:
    """One call's agents: at most one of them at a time is offered it, or talks with the caller."""

    def __init__(self, line: Line, voice: Voice) -> None:
        self._line = line
        self._house = line.hotline
        self._client = line.hotline.client
        self._voice = voice
        self.offer: Offer | None = None
        self.bridge: str | None = None
        self.offers = 0
        """How many of them there were: the last one's number."""
        self.served_by: str | None = None
        """The agent who talked with the caller last."""
        self.talked_s = 0.0
        self._keys = AgentKeys(AGENT_CODES)
        self._let_go: Offer | None = None
        self._parting: Offer | None = None
        self._held_since: float | None = None
        self._held_s = 0.0

    def take_up(self, *, offers: int, offer: Offer | None, served_by: str | None, talked_s: float) -> None:
        """Goes on where another controller stopped."""
        self.offers, self.offer, self.served_by, self.talked_s = offers, offer, served_by, talked_s

    def find_bridge(self, bridges: Collection[str]) -> None:
        """The last talk's, if it is one of `bridges`."""
        bridge = talk_bridge(self._line.id, self.offers)
        self.bridge = bridge if self.offers and bridge in bridges else None

    # ---------------------------------------------------------------- hearing

    def is_agent(self, channel: str) -> bool:
        return self.offer is not None and channel == self.offer.channel

    def key(self, channel: str, key: str) -> Heard | None:
        """A key of the agent's; None unless it completes a code."""
        if not self.is_agent(channel):
            return None
        code = self._keys.press(key)
        return code if isinstance(code, Heard) else None

    def answered(self, channel: str) -> Heard | None:
        offer = self.offer
        if offer is None or channel != offer.channel or offer.answered_at is not None:
            return None
        offer.answered_at = self._now()
        self._house.metrics.agent_answered(offer.agent, offer.answered_at - offer.at)
        self._write_event("answered", offer)
        return Heard.AGENT_ANSWERED

    def gone(self, channel: str, cause: int, *, talking: bool) -> Heard | None:
        """The leg `channel` ended with hang-up cause `cause`; `talking`: agent and caller were to be joined."""
        offer = self.offer
        if offer is None or channel != offer.channel:
            return None
        offer.left = True
        if offer.answered_at is not None:
            return Heard.AGENT_LOST if talking and offer.joined_at is None else Heard.AGENT_LEFT
        rang_out = self._now() - offer.at >= self._house.settings.queue.offer_timeout_s - 0.5
        return Heard.AGENT_NO_ANSWER if rang_out else CAUSES.get(cause, Heard.AGENT_UNREACHABLE)

    def missed(
        self, channels: Mapping[str, str], at: float, *, away: bool, offering: bool, talking: bool
    ) -> Heard | None:
        """What became of the leg unheard. `channels`: what is there now, with states; what was offered after `at` is
        not judged. `away`: the link was down. `offering`, `talking`: what the call is at.
        """
        offer = self.offer
        if offer is None or offer.left or offer.at >= at:
            return None
        if offer.channel not in channels:
            offer.left = True
            return Heard.OFFER_LOST if offer.answered_at is None else self.gone(offer.channel, 0, talking=talking)
        if away and not offer.dialled:  # its coming was missed
            return Heard.OFFER_LOST
        if channels[offer.channel] == "Up" and offering:
            return self.answered(offer.channel) or Heard.AGENT_ANSWERED
        return None

    def hold(self, channel: str) -> None:
        if self.is_agent(channel):
            self._held_since = self._now()

    def unhold(self, channel: str) -> None:
        if self.is_agent(channel):
            self._end_hold()

    def _end_hold(self) -> None:
        if self._held_since is not None:
            self._held_s += self._now() - self._held_since
            self._held_since = None

    # ---------------------------------------------------------------- the offer

    async def ring(self, agent: str, display: str, number: str) -> None:
        """Offers the call to `agent`, whose phone will show `display` and the caller's `number`."""
        self.offers += 1
        channel = offer_channel(self._line.id, self.offers)
        self.offer = Offer(self.offers, agent, channel, self._now())
        self._keys = AgentKeys(AGENT_CODES)
        self._write_event("offered", self.offer)
        try:
            # Not originate: what is originated, and answered while no controller is there, is hung up.
            await self._client.channels.create(
                channelId=channel,
                endpoint=f"PJSIP/{self._house.desk.phone_of(agent)}",
                app=self._client.app,
                appArgs=f"offer,{self._line.id},{self.offers}",
                variables={"CONNECTEDLINE(name)": display, "CONNECTEDLINE(num)": number},
            )
        except (AllocationFailed, NotFound, Conflict):
            self.offer.left = True
            self._line.inbox.put(Heard.AGENT_UNREACHABLE)

    async def dial(self, channel: str) -> None:
        """The offer's channel has come to us, and only now can it be dialled."""
        offer = self.offer
        if offer is not None and offer.channel == channel:
            timeout_s = ceil(self._house.settings.queue.offer_timeout_s)
            try:
                await self._client.channels.dial(channelId=channel, timeout=timeout_s)
                offer.dialled = True
            except (NotFound, Conflict) as error:
                log.info("call %s: agent %s cannot be dialled: %s", self._line.id, offer.agent, error)
                offer.left = isinstance(error, NotFound)
                self._line.inbox.put(Heard.AGENT_UNREACHABLE)

    def rings(self, channel: str) -> None:
        """The agent's phone says that it rings."""
        if self.offer is not None and channel == self.offer.channel:
            self._house.desk.rings(self._line.id, self.offer.agent)

    async def whisper(self, prompt: str) -> None:
        if self.offer is not None:
            await self._voice.whisper(prompt, self.offer.channel)

    async def cancel(self) -> None:
        """The agent's phone stops ringing, or is let go; what becomes of the agent: ``free()`` or ``pause()``."""
        if self.offer is not None:
            self._let_go, self.offer = self.offer, None
        if self._let_go is not None:
            await self._voice.stop_whisper()
            await self._hang_up(self._let_go)
            await self.take_down()

    async def free(self) -> None:
        """The offer ended for the caller's reasons."""
        offer, self._let_go = self._let_go, None
        if offer is not None:
            self._end_offer(offer, "caller_left")
            await self._house.desk.withdraw(self._line.id, offer.agent)

    async def pause(self, heard: Heard | None) -> None:
        """RONA: the agent did not take the offer, as `heard` tells."""
        offer, self._let_go = self._let_go, None
        if offer is not None:
            await self._not_taken(offer, heard, written=False)

    async def was_not_taken(self, n: int, agent: str, heard: Heard, *, written: bool) -> None:
        """Offer `n` ended so, and its agent was still to be paused; `written`: its end is in the ledger."""
        await self._not_taken(Offer(n, agent, offer_channel(self._line.id, n), self._now()), heard, written)

    async def _not_taken(self, offer: Offer, heard: Heard | None, written: bool) -> None:
        why = OFFER_ENDED.get(heard, "refused") if heard is not None else "refused"
        if not written:
            self._end_offer(offer, why)
            self._house.metrics.rona(offer.agent)
        await self._house.desk.did_not_answer(self._line.id, offer.agent, why)

    def _end_offer(self, offer: Offer, outcome: OfferOutcome) -> None:
        self._write_event(outcome, offer)
        self._house.metrics.offer_ended(offer.agent, outcome)

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
        await self._voice.stop_whisper()
        bridge = talk_bridge(self._line.id, offer.n)
        if self.bridge != bridge:
            await self.take_down()  # of an earlier talk
            with suppress(Conflict):  # made just before the link broke
                await self._client.bridges.create(bridgeId=bridge, type="mixing,dtmf_events", name=bridge)
            self.bridge = bridge
        try:
            await self._client.bridges.addChannel(bridgeId=bridge, channel=[offer.channel])
        except (NotFound, Conflict, Invalid) as error:  # hung up in this moment: the caller waits on, and never knew
            log.info("call %s: agent %s was gone at the join: %s", self._line.id, offer.agent, error)
            offer.left = True
            self._line.inbox.put(Heard.AGENT_LOST)
            return
        with self._line.gone_is_hung_up():
            await self._client.bridges.addChannel(bridgeId=bridge, channel=[self._line.id])
        await asyncio.sleep(SETTLES_S)
        await self.joined(offer, self._now(), waited_s)

    async def joined(self, offer: Offer, at: float, waited_s: float) -> None:
        """Caller and agent hear each other since `at` (Unix seconds)."""
        again, offer.joined_at = offer.joined_at is not None, offer.joined_at or at
        self.served_by = offer.agent
        await self._house.desk.talks(self._line.id, offer.agent)
        if again:
            return
        self._write_event("joined", offer)
        self._house.metrics.offer_ended(offer.agent, "answered")
        self._house.metrics.queue_left("answered", waited_s)

    async def release(self, until: float, line: str | None = None) -> None:
        """The agent goes to wrap-up, as long as is usual for `line`, having talked `until` then; the caller, if still
        there, is alone again.
        """
        if self.offer is not None:
            offer = self._parting = self.offer
            self.offer = None
            self._end_hold()
            held, self._held_s = self._held_s, 0.0
            talked = until - (offer.joined_at or until)
            self.talked_s += talked
            await self._house.desk.wraps_up(self._line.id, offer.agent, talked - held, held, since=until, line=line)
        if self._parting is not None:
            await self._voice.hush()
            await self._hang_up(self._parting)
            self._parting = None

    @property
    def is_joined(self) -> bool:
        """Whether an agent who talked with the caller is still to be released."""
        return self._parting is not None or (self.offer is not None and self.offer.joined_at is not None)

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

    async def _hang_up(self, offer: Offer) -> None:
        if not offer.left:
            try:
                with self._line.gone_is_hung_up(None):
                    await self._client.channels.hangup(channelId=offer.channel)
            except RequestTimeout:  # Asterisk is slow, and will do it: the caller's closing does not wait for that
                log.warning("call %s: no answer to the hang-up of agent %s", self._line.id, offer.agent)

    def _now(self) -> float:
        return self._house.clock()
