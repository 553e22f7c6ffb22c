"""A call of an earlier controller, taken up where its rows end.

Theory of operation. What a call had come to is replayed from the ledger through ``step()``. What it had made in
Asterisk (the offer's channel, the bridge, the playback of its last words) has names that follow from those rows, so
each is looked for by name. What ended while nobody listened is heard now; what still goes on is waited for. Then the
table hears `Heard.RESUMED`: whoever was spoken to or keyed is asked again, whoever waits keeps place and music, and
people who talk notice nothing. All deadlines are counted from where they began.

What the caller has keyed so far lies on the caller's channel: personal data does not go into the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from pathlib import PurePath

from sqlalchemy.orm import Session

from ari_app import cases, outcomes
from ari_app.ari.client import Snapshot
from ari_app.ari.errors import AriError, NotFound, RequestFailed
from ari_app.ari.mailboxes import Mailbox, owner_of
from ari_app.call import KEYED_AS, Call, line_of, pad_of
from ari_app.callmeback import VARIABLE
from ari_app.errors import LedgerContradiction, StoreUnavailable
from ari_app.features import agent_of
from ari_app.flow.billing import Seat, stretches, with_caller_s
from ari_app.flow.identity import Element
from ari_app.flow.matters import Matter
from ari_app.flow.sop import (
    CONSULTED,
    ELEMENTS,
    IDENTIFYING,
    PLACING,
    QUEUED,
    ROLES,
    SEEKING,
    SERVED,
    Do,
    Heard,
    State,
    step,
)
from ari_app.flow.story import Story, talk_changes
from ari_app.ledger import Past
from ari_app.line import Hotline
from ari_app.outbound import Outbound, line_channel
from ari_app.store.models import Identity, OfferEvent
from ari_app.talk import Offer, offer_channel, second_name
from ari_app.voice import Speech, playback_name

log = logging.getLogger("sanling.adoption")

NEEDS_ANSWERS = (*IDENTIFYING, State.CHECKING, State.FETCHING_CONTEXT)
ASKED_FOR_A_NUMBER = [
    state.name for state in (State.LAWYER_NUMBER, State.LAWYER_MOBILE, State.PARTY_NUMBER, State.PARTY_MOBILE)
]
RINGS = (Do.RING_AGENT, Do.RING_SECOND)
MOST_SPEECHES = 2
"""How many things one step may say, one after another."""


async def take_up(house: Hotline, past: Past, inbox: Mailbox, now: Snapshot) -> Call:
    """The call of `past`, ready to run. Raises LedgerContradiction if its rows cannot be followed."""
    language = house.desk.language_of(past.call.called_number)
    call = (
        Call(house, past.call.id, inbox, past.call.caller_number, language=language)
        if past.outbound is None
        else Outbound.of(house, inbox, past.outbound)
    )
    call.adopted = True
    call.began = past.call.at
    if _since_unix(now.booted) > call.began:
        call.booted = ""  # not the Asterisk that it came in under
    legs = _remember(call, past, now)
    channel = next((channel for channel in now.channels if channel.id == call.id), None)
    await _settle_what_was_let_go(call, past, legs, now)
    if isinstance(call, Outbound):
        await call.load_person()
    await _recall_person(call, past)
    if call.story.messages or call.story.recording is not None:
        await call.settle_messages()
    if call.progress.state is State.ENDED:
        call.callmeback.open_one(call.person)
        last = past.transitions[-1]
        call.ended_at = last.at
        if Do.HANG_UP.name in last.actions.split():
            await call.hang_up()
        elif last.heard == Heard.LINE_LOST.name:
            call.hung_up_by = "line"
    elif isinstance(call, Outbound) and call.progress.state in (State.RINGING, *PLACING):
        await _placing_goes_on(call, now)
    elif channel is None:
        offer = call.talk.offer
        if call.talk.bridge is not None and offer is not None and offer.joined_at is None:
            await _they_had_met(call, offer)
        call.callmeback.take_up(call.person)
        await _recall_callback(call)
        call.inbox.put(Heard.HUNG_UP)
    else:
        call.remember_context(channel)
        call.pad = pad_of(call.progress.state)
        call.callmeback.take_up(call.person)
        await _recall_callback(call)
        call.watch_ceiling()
        await _go_on(call, now)
    log.info("call %s taken up in %s", call.id, call.progress.state.name)
    return call


async def _settle_what_was_let_go(call: Call, past: Past, legs: Legs, now: Snapshot) -> None:
    """Agents whom a step let go or gave the caller, and who were not told any more; a bridge of an earlier talk."""
    desk, client = call.hotline.desk, call.hotline.client
    for channel in now.channels:
        kept_ids = (call.id, line_channel(call.id), *call.talk.legs)
        if owner_of(channel.id) == call.id and channel.id not in kept_ids:
            with _not_worth_a_call():
                await client.channels.hangup(channelId=channel.id)
    for bridge in now.bridges:
        if owner_of(bridge.id) == call.id and bridge.id != call.talk.bridge:
            with _not_worth_a_call():
                await client.bridges.destroy(bridgeId=bridge.id)
    names = (call.id, second_name(call.id))
    for gone, until, line in legs.released:
        agent = desk.agent(gone.agent)
        if agent is not None and agent.call_id in names and agent.since <= until:
            await desk.wraps_up(
                agent.call_id or "", gone.agent, gone.talked_s, gone.waited_s, since=until,
                line=line or line_of(call.progress.role),
            )  # fmt: skip
    await _settle_a_refusal(call, past)
    offer, second = call.talk.offer, call.talk.second
    if offer is not None and owner_of(offer.channel) != call.id:  # a leader's phone: its events are the call's now
        client.mailboxes.alias(owner_of(offer.channel), call.inbox)
        await desk.steps_in(second_name(call.id), offer.agent)
    if offer is not None and offer.transferred:
        await desk.talks(second_name(call.id), offer.agent)
        await desk.takes_over(second_name(call.id), call.id, offer.agent)
    kept = {(one.agent, one.held_for) for one in (offer, second) if one is not None}
    for one in desk.agents():
        if one.call_id in names and (one.number, one.call_id) not in kept:
            await desk.withdraw(one.call_id or "", one.number)


async def _settle_a_refusal(call: Call, past: Past) -> None:
    """RONA: an agent who did not take the last offer, and was still to be paused."""
    of_offers = {do.name for do in (*RINGS, Do.PAUSE_AGENT, Do.PAUSE_SECOND)}
    offered = [row for row in past.transitions if of_offers & set(row.actions.split())]
    last = offered[-1] if offered else None
    if last is None or last.agent is None or not {"PAUSE_AGENT", "PAUSE_SECOND"} & set(last.actions.split()):
        return
    second = Do.PAUSE_SECOND.name in last.actions.split()
    agent = call.hotline.desk.agent(last.agent)
    if agent is not None and agent.call_id == (second_name(call.id) if second else call.id):
        n = call.talk.offers
        written = any(_ends(event) for event in past.offers if event.n == n)
        await call.talk.was_not_taken(n, last.agent, Heard[last.heard], written=written, second=second)


def _ends(event: OfferEvent) -> bool:
    return event.event not in ("offered", "answered", "joined")


@contextmanager
def _not_worth_a_call() -> Iterator[None]:
    """Tidying up must not keep a call from being taken up."""
    try:
        yield
    except RequestFailed as error:
        log.info("%s", error)


@dataclass
class Legs:
    """The agents' legs, as the rows tell."""

    call_id: str
    offers: dict[int, Offer]
    offer: Offer | None = None
    second: Offer | None = None
    served_by: str | None = None
    talked_s: float = 0.0
    released: list[tuple[Offer, float, str | None]] = field(default_factory=list)
    """With the moment, and the line if it was not the caller's."""

    def follow(self, actions: tuple[Do, ...], at: float, rung: Offer | None) -> None:
        for do in actions:
            match do:
                case Do.RING_AGENT:
                    self.offer = rung
                case Do.RING_SECOND:
                    self.second = rung
                    if rung is not None:
                        rung.held_for = second_name(self.call_id)
                case Do.CANCEL_OFFER:
                    self.offer = None
                case Do.CANCEL_SECOND:
                    self.second = None
                case Do.RELEASE_AGENT if self.offer is not None:
                    self.released.append((self.offer, at, None))
                    self.offer = None
                case Do.RELEASE_SECOND if self.second is not None:
                    self.released.append((self.second, at, "second_line"))
                    self.second = None
                case Do.HAND_OVER if self.second is not None:
                    self.offer, self.second = self.second, None
                    self.offer.held_for, self.offer.transferred = self.call_id, True

    def bill(self, state: State, since: float, until: float) -> None:
        """As ``Talk.bill``; its rows are written already."""
        seats = {Seat.AGENT: self.offer, Seat.SECOND: self.second}
        joined = {
            seat: one.joined_at
            for seat, one in seats.items()
            if one is not None and one.joined_at is not None and one.joined_at <= until
        }
        billed = stretches(state, since, until, joined)
        for stretch in billed:
            offer = seats[stretch.seat]
            if offer is not None:
                offer.add(stretch)
        self.talked_s += with_caller_s(billed)
        if Seat.AGENT in joined and self.offer is not None:
            self.served_by = self.offer.agent


def _remember(call: Call, past: Past, now: Snapshot) -> Legs:
    """What the rows tell."""
    call.story = Story(state_since=call.began)
    legs = Legs(call.id, _offers(call.id, past))
    rings = [row.at for row in past.transitions if {do.name for do in RINGS} & set(row.actions.split())]
    to_come = [legs.offers[n] for n in sorted(legs.offers)]
    for row in past.transitions:
        if row.heard not in Heard.__members__:
            raise LedgerContradiction(f"Call {call.id}: this version's table does not know {row.heard}.")
        was, heard = call.progress, Heard[row.heard]
        call.progress, actions = step(was, heard)
        if call.progress.state.name != row.next:
            raise LedgerContradiction(f"Call {call.id}: row {row.n} leads elsewhere in this version's table.")
        if talk_changes(was.state, call.progress.state, actions):
            legs.bill(was.state, call.story.state_since, row.at)
        rung = None
        if {*RINGS}.intersection(actions):
            while to_come and to_come[0].at < row.at:  # a leader who came in, and whom no step heard
                del to_come[0]
            next_at = min((at for at in rings if at > row.at), default=inf)
            if to_come and row.at <= to_come[0].at < next_at:  # else nobody lived to ring
                rung = to_come.pop(0)
        if heard is Heard.TAKEN_OVER:
            legs.second = next((one for one in reversed(to_come) if one.at <= row.at), None)
            to_come = [one for one in to_come if one.at > row.at]
            if legs.second is not None:
                phone = call.hotline.desk.phone_of(legs.second.agent)
                legs.second.channel = _leaders_phone(call.id, phone, now) or legs.second.channel
        legs.follow(actions, row.at, rung)
        call.story.note(row.at, was.state, heard, call.progress.state, actions)
    offer = legs.offer
    if offer is not None and offer.joined_at is not None:
        legs.served_by = offer.agent
    call.talk.take_up(
        offers=max(legs.offers, default=0),
        offer=offer if offer is not None and not offer.left else None,
        second=legs.second if legs.second is not None and not legs.second.left else None,
        served_by=legs.served_by,
        talked_s=legs.talked_s,
        bridges={bridge.id: bridge.channels for bridge in now.bridges if owner_of(bridge.id) == call.id},
    )
    call.checks = len(past.identities)
    call.voice.take_up(heard=past.prompts_heard)
    if past.identities:
        call.missing = tuple(Element(name) for name in past.identities[-1].missing.split())
    return legs


def _leaders_phone(call_id: str, phone: str, now: Snapshot) -> str:
    """The channel of the leader who took this call over at `phone`, which is not named after the call: in its bridge,
    or hearing music beside it. "" if it is not there any more.
    """
    bridges = [bridge for bridge in now.bridges if owner_of(bridge.id) == call_id]
    inside = [one for bridge in bridges for one in bridge.channels if owner_of(one) != call_id]
    ours = set(now.application.channel_ids)
    beside = [one.id for one in now.channels if one.id in ours and agent_of(one.name) == phone]
    return next((one for one in (*inside, *beside) if owner_of(one) == one), "")


def _offers(call_id: str, past: Past) -> dict[int, Offer]:
    offers: dict[int, Offer] = {}
    for event in past.offers:
        offer = offers.setdefault(
            event.n, Offer(event.n, event.agent, offer_channel(call_id, event.n), event.at, call_id)
        )
        match event.event:
            case "offered":
                offer.at = event.at
            case "answered":
                offer.answered_at = event.at
            case "joined":
                offer.joined_at = event.at
                offer.answered_at = offer.answered_at or event.at
            case _:
                offer.left = True
    return offers


async def _recall_person(call: Call, past: Past) -> None:
    """Who was proven, and what was keyed towards it."""
    proven = next((one for one in reversed(past.identities) if one.verified), None)
    if proven is not None:
        try:
            call.person, call.earlier = await call.hotline.ledger.look_up(
                lambda session: _person_of(session, proven, call.began)
            )
        except StoreUnavailable as error:
            log.warning("call %s goes on without the caller's name: %s", call.id, error)
    if call.progress.state in NEEDS_ANSWERS:
        for element in _entered_since_the_role(past):
            variable = KEYED_AS[element]
            try:
                kept = await call.hotline.client.channels.getChannelVar(channelId=call.id, variable=variable)
            except NotFound:
                continue
            call.answers[element] = kept.value
        numbers = [row for row in past.transitions if row.state in ASKED_FOR_A_NUMBER]
        if numbers and numbers[-1].heard == Heard.OWN_NUMBER.name:
            call.answers[Element.MOBILE] = call.number or ""


def _person_of(session: Session, proven: Identity, at: float) -> tuple[cases.Person | None, tuple[Matter, ...]]:
    person = cases.person(session, party_id=proven.party_id, lawyer_id=proven.lawyer_id, case_id=proven.case_id)
    return person, outcomes.matters_of(session, person, at) if person is not None else ()


def _entered_since_the_role(past: Past) -> list[Element]:
    """What was keyed as another, before, lies on the channel too."""
    entered: list[Element] = []
    for row in past.transitions:
        if Heard[row.heard] in ROLES:
            entered.clear()
        elif row.heard == Heard.ENTERED.name and State[row.state] in ELEMENTS:
            entered.append(ELEMENTS[State[row.state]])
    return entered


async def _recall_callback(call: Call) -> None:
    """The number that was keyed for one; and one that was asked for, and perhaps not entered any more."""
    if call.story.callback_asked_at is not None:
        with suppress(NotFound):
            kept = await call.hotline.client.channels.getChannelVar(channelId=call.id, variable=VARIABLE)
            call.callmeback.recall(kept.value)
    if call.story.callback_noted is not None:
        await call.note_callback()


async def _go_on(call: Call, now: Snapshot) -> None:
    """What is still under way is waited for; what ended unheard is heard now."""
    house, state = call.hotline, call.progress.state
    settings = house.settings
    call.voice.go_on_saying(await _speech_under_way(call))
    match state:
        case State.RINGING:
            call.line.within("ring", call.began + settings.answering.delay_s - house.clock())
        case State.FETCHING_CONTEXT if call.id not in now.application.channel_ids:
            call.wait_for_context()
        case State.CLOSING:
            _closing_goes_on(call)
        case State.LEAVING_MESSAGE:
            await _message_goes_on(call)
        case State.RATING_REASON if call.story.reason_since is not None:
            await call.hear_reason()
        case State.RATING_REASON if call.voice.speech is not None:
            pass
        case State.OVERTIME if call.story.closing_ended_at is None:
            _closing_goes_on(call)
        case State.LEAVING | State.OVERTIME:
            await call.give_five_seconds()
        case State.TALKING:
            await _talk_goes_on(call, now)
        case _ if state in (*CONSULTED, *SEEKING):
            _second_line_goes_on(call, now)
        case _ if state in QUEUED:
            await _waiting_goes_on(call, now)
        case _:
            call.inbox.put(Heard.RESUMED)


async def _speech_under_way(call: Call) -> Speech | None:
    """What is being said to the caller at this moment, if anything."""
    if call.story.spoke is None:
        return None
    row, at, actions = call.story.spoke
    for k in range(MOST_SPEECHES):
        try:
            playback = await call.hotline.client.playbacks.get(playbackId=playback_name(call.id, row, k))
        except AriError:
            continue
        prompts = tuple(prompt for do in actions for prompt in call.words(do) or ())
        if not prompts or Do.SAY_POSITION in actions:
            prompts = (PurePath(playback.media_uri.partition(":")[2]).name,)
        return Speech(playback.id, prompts, "both" if call.talk.hears_the_talk and call.talk.offer else "caller", at)
    return None


def _closing_goes_on(call: Call) -> None:
    """Being said: waited for. Else it is said again: it may never have been begun, and must be asked. SOP-6."""
    if call.voice.speech is None:
        call.inbox.put(Heard.RESUMED)


async def _message_goes_on(call: Call) -> None:
    """Being recorded, or being asked for: waited for. Recorded to its end unheard: taken. Else it is asked for anew."""
    if call.story.recording is not None:
        heard = await call.selfservice.go_on_recording(call.story.recording)
        if heard is not None:
            call.inbox.put(heard)
    elif call.voice.speech is None:
        call.inbox.put(Heard.RESUMED)


async def _waiting_goes_on(call: Call, now: Snapshot) -> None:
    """The old place at once, before anybody else is served; then what became of the offer."""
    desk, offer = call.hotline.desk, call.talk.offer
    if call.story.waiting_since is not None:
        since = call.callmeback.keeps_place_since(call.story.waiting_since, call.person)
        desk.join(call.id, since, call.inbox, offered=offer is not None)
    call.inbox.put(Heard.RESUMED)
    if call.progress.state is State.WAITING:
        return
    state = next((channel.state for channel in now.channels if offer and channel.id == offer.channel), None)
    if offer is None or state in (None, "Down"):  # gone, or never dialled
        if offer is not None:
            offer.left = state is None
        call.inbox.put(Heard.OFFER_LOST if call.progress.state is State.OFFERING else Heard.AGENT_LEFT)
    elif call.progress.state is State.WHISPERING:
        row, at = call.story.whispered or (0, 0.0)
        call.voice.go_on_whispering(Speech(playback_name(call.id, row, 0), (call.whisper_prompt(),), "agent", at))
    elif state == "Up":
        call.talk.answered(offer.channel)
        call.inbox.put(Heard.AGENT_ANSWERED)


async def _placing_goes_on(call: Outbound, now: Snapshot) -> None:
    """What became of the agent's leg and, while the person is called, of the outside one."""
    channels = {channel.id: channel for channel in now.channels}
    offer, state = call.talk.offer, call.progress.state
    await call.find_ringback()
    leg = channels.get(offer.channel) if offer is not None else None
    if offer is None or leg is None or leg.state == "Down":  # never rung, or gone
        if offer is not None:
            offer.left = leg is None
        unrung = {State.RINGING: Heard.HUNG_UP, State.CALLING_AGENT: Heard.OFFER_LOST}
        call.inbox.put(unrung.get(state, Heard.AGENT_LEFT))
        return
    outside, line = channels.get(call.id), channels.get(line_channel(call.id))
    match state:
        case State.CALLING_AGENT if leg.state == "Up":
            call.talk.answered(offer.channel)
            call.inbox.put(Heard.AGENT_ANSWERED)
        case State.BRIEFING | State.NOT_REACHED:
            row, at = call.story.whispered or (0, 0.0)
            call.voice.go_on_whispering(Speech(playback_name(call.id, row, 0), (call.whisper_prompt(),), "agent", at))
            call.inbox.put(Heard.RESUMED)
        case State.CALLING_OUT if outside is None:
            call.inbox.put(Heard.OUTSIDE_UNREACHABLE)
        case State.CALLING_OUT if outside is not None and outside.state == "Up":
            call.inbox.put(Heard.OUTSIDE_ANSWERED)
        case State.CALLING_OUT if line is None or not line.dialplan.app_name:  # made, and not dialled any more
            call.inbox.put(Heard.RESUMED)


async def _talk_goes_on(call: Call, now: Snapshot) -> None:
    """Both there: they talk. Not joined to the end: joined now. The agent gone: as if we had seen it."""
    offer = call.talk.offer
    there = offer is not None and offer.channel in {channel.id for channel in now.channels}
    cut = offer is not None and offer.joined_at is None
    if offer is not None and cut and call.talk.hears_the_talk:  # the agent was in it before: they met
        await _they_had_met(call, offer)
    if offer is None or not there:
        if offer is not None:
            offer.left = True
        call.inbox.put(Heard.AGENT_LEFT if offer is not None and offer.joined_at is not None else Heard.AGENT_LOST)
    elif cut:
        call.voice.music_may_play()
        call.inbox.put(Heard.JOIN_CUT)
    elif not call.talk.is_inside(call.id, offer.channel):
        call.inbox.put(Heard.RESUMED)


def _second_line_goes_on(call: Call, now: Snapshot) -> None:
    """Everyone in their place; then what became of the legs: the second line's first, so that no caller is handed over
    to somebody who has left.
    """
    states = {channel.id: channel.state for channel in now.channels}
    offer, second, seeking = call.talk.offer, call.talk.second, call.progress.state in SEEKING
    call.inbox.put(Heard.RESUMED)
    if second is None:
        if call.progress.state is State.TRANSFERRING_TO_AGENT:
            call.inbox.put(Heard.OFFER_LOST)
        elif not seeking:
            call.inbox.put(Heard.SECOND_LEFT)
    elif states.get(second.channel) in (None, "Down"):  # gone, or never dialled
        second.left = second.channel not in states
        call.inbox.put(Heard.OFFER_LOST if second.answered_at is None else Heard.SECOND_LEFT)
    elif seeking and states[second.channel] == "Up":
        if call.story.whispered is not None:
            row, at = call.story.whispered
            call.voice.go_on_whispering(Speech(playback_name(call.id, row, 0), (call.whisper_prompt(),), "agent", at))
        call.talk.answered(second.channel)
        call.inbox.put(Heard.AGENT_ANSWERED)
    if call.progress.state in SERVED and (offer is None or offer.channel not in states):
        if offer is not None:
            offer.left = True
        call.inbox.put(Heard.AGENT_LEFT)


async def _they_had_met(call: Call, offer: Offer) -> None:
    """Agent and caller were joined, and nobody lived to write it down."""
    await call.talk.joined(offer, call.story.state_since, call.story.waited_s)


def _since_unix(moment: str) -> float:
    """Unix seconds of a moment as Asterisk writes it, ``2026-11-22T01:02:03.456+0000``; 0 if it told none."""
    return datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() if moment else 0.0
