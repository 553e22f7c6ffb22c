"""Team leaders and mentors: listening to an agent's call, speaking in it, taking it over; and what they order. AGT-5.

Theory of operation. Whoever listens has a bridge of their own, and in it a snoop on the agent's channel that brings
what the agent hears and says. Whispering and joining are the same snoop with a way back: to the agent's ear (`out`), or
to both sides (`both`). So the talk's own bridge is never touched, and neither side can hear anybody come or go; the
snoop follows the agent wherever the agent is, and ends with the agent's leg. Only taking over enters the talk's bridge:
the call (``ari_app.call``) does that itself, as a step of the SOP, and the leader's phone is the agent's leg from then.

All of a session is named after the leader's channel, not after the call: a session that nobody serves any more, after
a controller's death, is a ghost and is ended at once (``ari_app.reconcile``), while the call is taken up and its talk
never notices. The leader's keys are absorbed in the bridge: into a snoop that whispers they would go as tones.

Every act is written into `supervisions`, also one that was refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from math import ceil
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ari_app.ari import events
from ari_app.ari.errors import AriError, Conflict, Invalid, NotFound
from ari_app.ari.mailboxes import Mailbox
from ari_app.call import Call, Resync, TakeOver
from ari_app.desk import ON_A_CALL, SIGNED_IN, Duty, FeatureRefused
from ari_app.features import LAST_WORD_S, Feature, FeatureCall, PhoneGone, Said
from ari_app.flow.leading import CODES, IN_THE_CALL, KEYS, Act, Order, may, order_of
from ari_app.line import Hotline
from ari_app.rules import LINES
from ari_app.store import models

log = logging.getLogger("sanling.leading")

LONGEST_S = 4 * 3600.0
COMES_WITHIN_S = 3.0
"""A snoop that has not come by then has nobody to listen to."""
TAKEN_WITHIN_S = 10.0
NEWS_WITHIN_S = 5.0
"""What became of a leader's ring is heard so soon after it must have ended, or was missed."""
WHISPERS: Mapping[Act, Literal["none", "out", "both"]] = {
    Act.LISTEN: "none", Act.WHISPER: "out", Act.JOIN: "both",
}  # fmt: skip

ON_THE_PHONE = (*IN_THE_CALL, Act.TAKE_OVER, Act.PULL)
"""What needs the leader's phone."""
ACT_WORDS: Mapping[Act, str] = {
    Act.LISTEN: "监听", Act.WHISPER: "指导", Act.JOIN: "三方通话", Act.TAKE_OVER: "接管",
}  # fmt: skip
"""What the leader's phone shows as it is rung."""

REFUSED_OF_ANOTHER = {"agent-busy": "leading-agent-on-call", "agent-not-signed-in": "leading-agent-signed-out"}
"""What an agent is told of oneself, said of another."""

Event = Literal["began", "ended", "done", "refused"]


class _Gone(Enum):
    """Found missing, not heard going."""

    AGENT = auto()
    LEADER = auto()


@dataclass(frozen=True)
class Acting:
    """Who acts upon whom."""

    who: str
    role: str
    whom: str


class PhoneHandedOver(PhoneGone):
    """The leader's phone is the call's now: it is not to be hung up here."""


@dataclass(frozen=True)
class Listening:
    """A session as it is now."""

    session: str
    who: str
    whom: str
    act: Act
    since: float
    """Unix seconds since when it is this act."""
    call_id: str


class Leading:
    """All leaders' sessions and orders; `calls` are those in progress, by id."""

    def __init__(
        self, house: Hotline, calls: Mapping[str, Call], spawn: Callable[[Coroutine[object, object, None]], object]
    ) -> None:
        """`spawn` runs what goes on beside, until the controller ends."""
        self._house = house
        self._calls = calls
        self._spawn = spawn
        self._sessions: dict[str, _Session] = {}
        self._rung = 0
        self._ringing: dict[str, tuple[float, Mailbox]] = {}
        """By name, leaders' phones that are rung: since when (Unix seconds)."""
        self.features: dict[str, Feature] = {code: Feature(self._dialled, LONGEST_S) for code in CODES}
        """By code, for whoever takes what agents dial."""

    def sessions(self) -> list[Listening]:
        """Who listens to whom at this moment."""
        return [now for session in self._sessions.values() if (now := session.now) is not None]

    async def end_what_was_left(self) -> None:
        """Sessions of an earlier controller ended with it: their rows say so from now on. Raises StoreUnavailable."""
        house = self._house
        waiting = [row for row in house.ledger.waiting() if isinstance(row, models.Supervision)]
        found = await house.ledger.look_up(lambda session: left_open(session, f"{house.settings.instance}-"))
        ended = {(row.session, row.n) for row in waiting if row.event == "ended"}
        began = {(row.session, row.n): row for row in (*found, *waiting) if row.event == "began"}
        for key, row in began.items():
            if key not in ended:
                _write(house, row.session, row.n, "ended", row.who, Act(row.what), row.whom, row.call_id, "controller")

    def tell(self, now: Resync) -> None:
        """What Asterisk has, after a broken link and now and then: a session whose phone or agent is gone ends."""
        for session in list(self._sessions.values()):
            session.resync(now)
        for name, (since, inbox) in self._ringing.items():
            if since < now.at and name not in now.channels:
                inbox.put(_Gone.LEADER)

    # ------------------------------------------------------------ orders

    async def _dialled(self, phone: FeatureCall, rest: str) -> Said:
        """`rest` is part of what `phone` tells."""
        order = order_of(phone.dialled)
        who = await phone.whoever_is_here()
        if order is None:
            raise FeatureRefused("entry-invalid")
        if order.act in (*IN_THE_CALL, Act.TAKE_OVER):
            return await self._in_a_call(phone, who, order)
        if order.act is Act.PULL:
            await self._hang_up_first(phone, who, order)
        return await self.order(who, order, session=phone.id)

    async def order(self, who: str, order: Order, *, call_id: str | None = None, session: str = "") -> Said:
        """Carries out what is done at once for agent `who`; the prompts that say so. Raises FeatureRefused, with the
        prompt that says why, and StoreUnavailable. `call_id`: which caller to pull, if not the one who waits longest.
        `session` names the feature call in which it was dialled.
        """
        dialled, session = bool(session), session or self._new_name()
        try:
            await self._must_be_allowed(who, order)
            if order.act is Act.PULL:
                call_id = await self._pull(who, call_id, dialled=dialled)
                said: Said = ("leading-pulled",)
            else:
                said = await self._do(who, order.whom or "", order)
        except FeatureRefused as refused:
            self._refused(session, who, order, refused)
            raise
        _write(self._house, session, 0, "done", who, order.act, order.whom, call_id, order.line or "")
        return said

    async def _do(self, who: str, whom: str, order: Order) -> Said:
        desk = self._house.desk
        try:
            match order.act:
                case Act.FORCE_PAUSE:
                    await desk.pause(whom, why=f"paused by {who}")
                    return ("leading-paused",)
                case Act.FORCE_SIGN_OUT:
                    await desk.sign_out(whom, why=f"signed out by {who}")
                    return ("leading-signed-out",)
                case Act.MOVE if order.line is not None:
                    level = self._house.desk.rules.now.routing.usual_level
                    best = max(desk.skills_of(whom).get(line, 0) for line in LINES) or level
                    await desk.set_skills(whom, {line: best if line == order.line else 0 for line in LINES})
                    return (f"leading-moved-{order.line.replace('_', '-')}",)
        except FeatureRefused as refused:
            raise FeatureRefused(REFUSED_OF_ANOTHER.get(refused.prompt, refused.prompt)) from None
        raise FeatureRefused("entry-invalid")

    async def _pull(self, who: str, call_id: str | None, *, dialled: bool) -> str:
        """The call whose offer rings at the leader's phone now."""
        desk = self._house.desk
        call_id = call_id or desk.longest_waiting()
        if call_id is None or not await desk.pull(call_id, who, dialled=dialled):
            raise FeatureRefused("leading-nobody-waits")
        return call_id

    async def _hang_up_first(self, phone: FeatureCall, who: str, order: Order) -> None:
        """A phone that is off the hook cannot be rung. Raises FeatureRefused, PhoneGone."""
        try:
            await self._must_be_allowed(who, order)
            if self._house.desk.longest_waiting() is None:
                raise FeatureRefused("leading-nobody-waits")
        except FeatureRefused as refused:
            self._refused(phone.id, who, order, refused)
            raise
        with suppress(PhoneGone):  # the leader hangs up as soon as the first words are heard
            await phone.play("leading-pulled")
            await asyncio.sleep(LAST_WORD_S)
            await self._house.client.channels.hangup(channelId=phone.id)
            async with asyncio.timeout(COMES_WITHIN_S):
                while True:
                    await phone.next()

    async def _must_be_allowed(self, who: str, order: Order) -> str:
        """The role that allows it. Raises FeatureRefused, StoreUnavailable."""
        desk = self._house.desk
        asked = select(models.Agent.role).where(models.Agent.number == who)
        role = await self._house.ledger.look_up(lambda session: session.scalar(asked)) or ""
        if not may(role, order.act):
            raise FeatureRefused("leading-not-allowed")
        agent = desk.agent(who)
        if agent is None or agent.duty not in SIGNED_IN:
            raise FeatureRefused("agent-not-signed-in")
        if agent.duty in ON_A_CALL and order.act in ON_THE_PHONE:
            raise FeatureRefused("agent-busy")
        if order.whom is not None and not await desk.knows(order.whom):
            raise FeatureRefused("leading-no-such-agent")
        other = desk.agent(order.whom or "")
        if other is not None and other.duty is Duty.SIGNED_OUT and order.act is not Act.MOVE:
            raise FeatureRefused("leading-agent-signed-out")
        return role

    def _refused(self, session: str, who: str, order: Order, refused: FeatureRefused) -> None:
        _write(self._house, session, 0, "refused", who, order.act, order.whom, None, refused.prompt)

    def _new_name(self) -> str:
        self._rung += 1
        return f"{self._house.settings.instance}-{int(self._house.clock() * 1000)}.lead{self._rung}"

    # ------------------------------------------------------------ in an agent's call

    async def _in_a_call(self, phone: FeatureCall, who: str, order: Order) -> Said:
        whom = order.whom or ""
        try:
            role = await self._must_be_allowed(who, order)
            call, spied = self._talk_of(whom)
        except FeatureRefused as refused:
            self._refused(phone.id, who, order, refused)
            raise
        session = self._sessions[phone.id] = _Session(self._house, phone, Acting(who, role, whom), call, spied)
        try:
            return await session.run(order.act)
        finally:
            del self._sessions[phone.id]

    def _talk_of(self, whom: str) -> tuple[Call, str]:
        """The call in which agent `whom` talks, and the channel of the agent's phone. Raises FeatureRefused."""
        for call in self._calls.values():
            offer = call.talk.offer
            if offer is not None and offer.agent == whom and offer.joined_at is not None and not offer.left:
                return call, offer.channel
        raise FeatureRefused("leading-not-talking")

    async def ring(self, who: str, order: Order) -> str:
        """Rings the phone at which leader `who` sits and, once it is answered, does as if `order` had been dialled
        there; the session's name, at once. Raises FeatureRefused and StoreUnavailable if it cannot be.
        """
        name, house = self._new_name(), self._house
        try:
            await self._must_be_allowed(who, order)
            self._talk_of(order.whom or "")
        except FeatureRefused as refused:
            self._refused(name, who, order, refused)
            raise
        phone = house.desk.phone_of(who)
        inbox = house.client.mailboxes.open(name)
        self._spawn(self._ring(name, inbox, phone, who, order))
        return name

    async def _ring(self, name: str, inbox: Mailbox, phone: str, who: str, order: Order) -> None:
        house, client = self._house, self._house.client
        code = next(code for code, act in CODES.items() if act is order.act)
        answered = False
        try:
            with house.desk.on_the_phone(phone):
                async with asyncio.timeout(house.settings.queue.offer_timeout_s + NEWS_WITHIN_S):
                    await client.channels.create(
                        channelId=name, endpoint=f"PJSIP/{phone}", app=client.app, appArgs="lead",
                        variables={"CONNECTEDLINE(name)": f"{ACT_WORDS[order.act]} {order.whom}",
                                   "CONNECTEDLINE(num)": order.whom or ""},
                    )  # fmt: skip
                    self._ringing[name] = house.clock(), inbox
                    await self._until_answered(name, inbox)
                answered = True
        except (PhoneGone, AriError, TimeoutError) as error:
            log.info("leader %s was not reached at %s: %s", who, phone, error or "not answered")
            _write(house, name, 0, "refused", who, order.act, order.whom, None, "not answered")
        finally:
            self._ringing.pop(name, None)
            if not answered:
                inbox.close()
                with suppress(AriError, TimeoutError):
                    async with asyncio.timeout(COMES_WITHIN_S):
                        await client.channels.hangup(channelId=name)
        if not answered:
            return
        await FeatureCall(
            house.settings, client, house.desk, house.catalogue, house.metrics, name, inbox, phone,
            f"{code}{order.whom}", self.features,
        ).run()  # fmt: skip

    async def _until_answered(self, name: str, inbox: Mailbox) -> None:
        """Raises PhoneGone."""
        channels, rings_s = self._house.client.channels, ceil(self._house.settings.queue.offer_timeout_s)
        while True:
            match await inbox.get():
                case events.StasisStart():
                    await channels.dial(channelId=name, timeout=rings_s)
                case events.ChannelStateChange(channel=channel) if channel.state == "Up":
                    return
                case events.ChannelDestroyed() | _Gone.LEADER:
                    raise PhoneGone


class _Session:
    """One leader's phone, from the code that was dialled to its end or until the caller is the leader's."""

    def __init__(self, house: Hotline, phone: FeatureCall, order: Acting, call: Call, spied: str) -> None:
        self._house = house
        self._client = house.client
        self._phone = phone
        self._order = order
        self._call = call
        self._spied = spied
        """The agent's channel."""
        self._bridge = f"{phone.id}~lead"
        self._snoop = ""
        self._snoops = 0
        self._acts = 0
        self._act: Act | None = None
        self._since = 0.0

    @property
    def now(self) -> Listening | None:
        if self._act is None:
            return None
        return Listening(self._phone.id, self._order.who, self._order.whom, self._act, self._since, self._call.id)

    def resync(self, now: Resync) -> None:
        """After a broken link, and now and then: whoever is gone was not heard going."""
        if self._act is not None and self._since < now.at and not {self._phone.id, self._snoop} <= now.channels.keys():
            self._phone.inbox.put(_Gone.AGENT if self._phone.id in now.channels else _Gone.LEADER)

    async def run(self, act: Act) -> Said:
        """Until the agent's leg ends, with what is said then, or the leader hangs up (PhoneGone). Raises FeatureRefused
        if the talk ended before it could be listened to, and PhoneHandedOver once the caller is the leader's.
        """
        named = f"leading-agent-{self._order.whom}"
        try:
            await self._phone.play(spoken(act), *((named,) if named in self._house.catalogue else ()))
            if act is Act.TAKE_OVER:
                await self._take_over()
                raise FeatureRefused("leading-not-now")
            await self._client.bridges.create(bridgeId=self._bridge, type="mixing,dtmf_events", name=self._bridge)
            await self._client.bridges.addChannel(
                bridgeId=self._bridge, channel=self._phone.id, absorbDTMF=True, inhibitConnectedLineUpdates=True
            )
            await self._turn_to(act)
            await self._follow_keys()
            return ("leading-over",)
        except FeatureRefused as refused:
            self._write("refused", act, refused.prompt)
            raise
        finally:
            self._end_act()
            await self._take_down()

    async def _follow_keys(self) -> None:
        """Until the agent's leg is over."""
        while True:
            match await self._phone.next():
                case events.ChannelDtmfReceived(digit=digit, channel=channel) if channel.id == self._phone.id:
                    await self._key(KEYS.get(digit))
                case events.StasisEnd(channel=channel) if channel.id == self._snoop:
                    return
                case _Gone.AGENT:
                    return
                case _Gone.LEADER:
                    raise PhoneGone

    async def _key(self, act: Act | None) -> None:
        if act is None or act is self._act:
            return
        if not may(self._order.role, act):
            self._write("refused", act, "leading-not-allowed")
            await self._phone.start("leading-not-allowed")
            return
        if act is Act.TAKE_OVER:
            await self._take_over()
            await self._phone.start("leading-not-now")
            return
        try:
            await self._turn_to(act)
        except FeatureRefused:  # the agent's leg ends in this moment: that comes next
            return
        await self._phone.start(spoken(act))

    async def _turn_to(self, act: Act) -> None:
        """Another snoop in place of the one there is, with another way back: that of a snoop cannot be changed.

        Raises FeatureRefused if there is nobody to listen to any more.
        """
        self._snoops += 1
        before, snoop = self._snoop, f"{self._phone.id}~snoop-{self._snoops}"
        try:
            await self._client.channels.snoopChannelWithId(
                channelId=self._spied, snoopId=snoop, app=self._client.app, spy="both", whisper=WHISPERS[act],
                appArgs="snoop",
            )  # fmt: skip
            async with asyncio.timeout(COMES_WITHIN_S):
                while True:
                    event = await self._phone.next()
                    if isinstance(event, events.StasisStart) and event.channel.id == snoop:
                        break
            await self._client.bridges.addChannel(bridgeId=self._bridge, channel=snoop)
        except (NotFound, Conflict, Invalid, TimeoutError):
            raise FeatureRefused("leading-not-talking") from None
        self._snoop = snoop
        self._end_act()
        self._act, self._since = act, self._house.clock()
        self._write("began", act)
        if before:
            await self._hang_up(before)

    async def _take_over(self) -> None:
        """Raises PhoneHandedOver; returns if it cannot be now."""
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._client.follow(self._phone.id)  # its end is the end of an agent's leg from then on
        self._call.inbox.put(TakeOver(self._order.who, self._phone.inbox, taken))
        with suppress(TimeoutError):
            if await asyncio.wait_for(taken, TAKEN_WITHIN_S):
                self._end_act()
                self._write("done", Act.TAKE_OVER)
                raise PhoneHandedOver
        self._write("refused", Act.TAKE_OVER, "leading-not-now")

    async def _take_down(self) -> None:
        """Of the session, whatever is there; the leader's phone is not ours to hang up."""
        await self._hang_up(self._snoop)
        with suppress(AriError):
            await self._client.bridges.destroy(bridgeId=self._bridge)

    async def _hang_up(self, snoop: str) -> None:
        if snoop:
            with suppress(AriError):
                await self._client.channels.hangup(channelId=snoop)

    def _end_act(self) -> None:
        if self._act is not None:
            self._write("ended", self._act)
            self._act = None

    def _write(self, event: Event, act: Act, detail: str = "") -> None:
        """A row: what begins has the number of its own that its end has, too."""
        order = self._order
        _write(self._house, self._phone.id, self._acts, event, order.who, act, order.whom, self._call.id, detail)
        if event != "began":
            self._acts += 1


def spoken(act: Act) -> str:
    """The prompt that says it."""
    return f"leading-{act.replace('_', '-')}"


def _write(
    house: Hotline,
    session: str,
    n: int,
    event: Event,
    who: str,
    act: Act,
    whom: str | None,
    call_id: str | None,
    detail: str = "",
) -> None:
    house.ledger.write(
        models.Supervision(
            session=session, n=n, event=event, at=house.clock(), who=who, whom=whom, what=act.value, call_id=call_id,
            detail=detail,
        )
    )  # fmt: skip
    log.info("%s: %s %s %s (%s)", session, who, event, act, whom or call_id)


def left_open(session: Session, prefix: str) -> list[models.Supervision]:
    """What began and has no end, of sessions whose name begins with `prefix`."""
    ended = aliased(models.Supervision)
    has_ended = select(ended.n).where(
        ended.session == models.Supervision.session, ended.n == models.Supervision.n, ended.event == "ended"
    )
    began = select(models.Supervision).where(
        models.Supervision.event == "began", models.Supervision.session.startswith(prefix), ~has_ended.exists()
    )
    return list(session.scalars(began))
