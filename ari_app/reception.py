"""Whoever arrives from Asterisk: callers, agents' feature codes, and what an earlier controller left behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import notify
from ari_app.adoption import take_up
from ari_app.ari.client import Arrival, LinkUp, Snapshot
from ari_app.ari.errors import AriError, Conflict, NotFound, RequestTimeout, Unreachable
from ari_app.ari.mailboxes import Mailbox, owner_of
from ari_app.call import APOLOGY, Call, Resync, case_vars, line_of
from ari_app.cases import can_be_called, normalise_number
from ari_app.dispositions import Dispositions
from ari_app.errors import StoreUnavailable
from ari_app.features import FeatureCall, agent_of
from ari_app.flow.callbacks import Happened
from ari_app.journal import ENDING
from ari_app.leading import Leading
from ari_app.ledger import AgentChange, Past, left_open
from ari_app.line import Hotline
from ari_app.outbound import CaseCalls, Outbound
from ari_app.privacy import mask
from ari_app.reconcile import NO_GHOSTS, Ghosts, ghosts, recordings_left
from ari_app.selfservice import enter, left_behind
from ari_app.store import models
from metrics.hotline import PlacedFor

log = logging.getLogger("sanling.reception")

CALLBACKS_EVERY_S = 10.0
ADOPT_AGAIN_S = 0.5
ADOPT_TRIES = 3
ADOPT_TRIED_S = 8.0
"""After so many tries, or two that took so long, a call is given up: new callers are not answered before."""
PARTED_AFTER_S = (0.0, 10.0, 60.0, 600.0)
"""Before the first, second … try to send its caller away; the last one goes on for ever."""
READS_A_MB_WITHIN_S = 3.0
"""Of the journal, all who read it at the start: four times 0.2 s on an idle machine."""
TAKES_UP_WITHIN_S, TAKES_UP_A_CALL_WITHIN_S = 15.0, 0.1
"""Asked of whoever started us. 500 calls with music, which left nothing of the machine's processor, took 12 s."""
NOT_UP = 412
"""What a channel answers that is not answered itself."""
LOOK_EVERY_S = 10.0
"""So often what Asterisk holds is compared with what we hold."""


@dataclass
class _Left:
    """A call of an earlier controller that is not taken up yet."""

    past: Past
    inbox: Mailbox
    tries: int = 0
    tried_s: float = 0.0

    @property
    def is_hopeless(self) -> bool:
        return self.tries >= ADOPT_TRIES or (self.tries > 1 and self.tried_s >= ADOPT_TRIED_S)


class Reception:
    """Opens a task for each arrival, takes up the calls of an earlier controller, and looks for ghosts."""

    def __init__(self, hotline: Hotline) -> None:
        self._hotline = hotline
        self.calls: dict[str, Call] = {}
        self.case_calls = CaseCalls(hotline, self.place)
        self.dispositions = Dispositions(hotline)
        self._taken_up = 0
        self.ready = asyncio.Event()
        """Set once every call of an earlier controller is taken up or closed."""
        self._left_open: dict[str, _Left] = {}
        self._one_by_one = False
        self._unanswering: set[str] = set()
        """Callers whose calls were given up because Asterisk answers nothing about them."""
        self._draining = False
        self._nobody_left = asyncio.Event()
        self._linked_before = False
        self._away_since: float | None = None
        self._ghosts = NO_GHOSTS
        self._recordings: dict[str, int] = {}
        """Those that belong to no call, and at how many looks they were there."""
        self._not_closed: set[str] = set()
        """Ids of the calls that have no ending."""
        hotline.ledger.watch(self._note_ending)
        self.leading = Leading(hotline, self.calls, self._beside)

    async def run(self) -> None:
        """Until cancelled; what is in progress then stays for the next controller. One call's task never takes another
        one down. ``open()`` comes first.
        """
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._watch_links(), name="links")
            self._group.create_task(self._look_around(), name="ghosts")
            self._group.create_task(self._take_up_callbacks(), name="callbacks")
            self._group.create_task(self._hotline.callbacks.run(), name="calling back")
            while True:
                self._receive(await self._hotline.client.arrivals.get())

    def _beside(self, work: Coroutine[object, object, None]) -> None:
        async def unharmed() -> None:
            try:
                await work
            except Exception:  # nobody else's affair
                log.exception("what went on beside: broken")

        self._group.create_task(unharmed())

    async def drain(self) -> None:
        """Takes no new calls; returns when none is left."""
        self._draining = True
        self._hotline.callbacks.stop()
        self._note_if_empty()
        await self._nobody_left.wait()

    def _note_if_empty(self) -> None:
        if self._draining and not self.calls:
            self._nobody_left.set()

    # ------------------------------------------------------------ arrivals

    def _receive(self, arrival: Arrival) -> None:
        id = arrival.event.channel.id
        self._group.create_task(self._welcome(id, [arrival]), name=f"call {id}")

    async def _welcome(self, id: str, arrived: list[Arrival]) -> None:
        """Of the one who `arrived`. A call's task does not hold the arrival, which takes a tenth of its memory."""
        try:
            await self._hotline.linked.wait()
            kind = (*arrived[0].event.args, "")[0]
            if kind == "inbound" and not self._draining and not self._hotline.ledger.full:
                await self._serve(self._call_of(arrived.pop()))
            else:
                await self._welcome_no_call(arrived.pop(), kind)
        except Exception:  # whatever it was, the neighbours' calls go on
            log.exception("channel %s: broken", id)

    async def _welcome_no_call(self, arrival: Arrival, kind: str) -> None:
        channel, house = arrival.event.channel, self._hotline
        agent = agent_of(channel.name)
        if kind == "feature" and agent is not None:
            await FeatureCall(
                house.settings, house.client, house.desk, house.catalogue, house.metrics,
                channel.id, arrival.mailbox, agent, (*arrival.event.args, "", "")[1],
                {**self.leading.features, **self.case_calls.features, **self.dispositions.features},
            ).run()  # fmt: skip
        else:
            arrival.mailbox.close()
            log.warning("channel %s (%s) is not taken: sent away", channel.id, kind or "no kind")
            await self._send_away(channel.id, a_caller=kind in ("inbound", "context"))

    def _call_of(self, arrival: Arrival) -> Call:
        channel = arrival.event.channel
        house = self._hotline
        number = normalise_number(channel.caller.number)
        log.info("call %s arrives from %s", channel.id, mask(number))
        called = channel.dialplan.exten or house.settings.hotline_numbers[0]
        call = Call(
            house, channel.id, arrival.mailbox, number, context=case_vars(channel),
            language=house.desk.language_of(called), picked_up=channel.state == "Up",
        )  # fmt: skip
        house.ledger.write(models.Call(id=channel.id, caller_number=number, called_number=called, at=call.began))
        return call

    async def _serve(self, call: Call) -> None:
        self.calls[call.id] = call
        try:
            await call.run()
        except Exception:  # the neighbours' calls go on
            log.exception("call %s: broken at its end", call.id)
        finally:
            del self.calls[call.id]
            self._note_if_empty()

    # ------------------------------------------------------------ calls that we place

    def place(self, errand: models.OutboundCall, after: Mailbox | None = None) -> None:
        """Begins a call, whose agent is reserved for it, once the mailbox `after` is closed."""
        house = self._hotline
        call = Outbound.of(house, house.client.mailboxes.open(errand.call_id), errand)
        call.waits_for = after
        house.ledger.write(
            models.Call(
                id=call.id,
                caller_number=errand.number,
                called_number=house.settings.trunk.caller_id or house.settings.hotline_numbers[0],
                at=call.began,
            ),
            errand,
        )
        self.calls[call.id] = call
        self._group.create_task(self._serve(call), name=f"call {call.id}")

    # ------------------------------------------------------------ an earlier controller's calls

    async def open(self) -> None:
        """Reads what an earlier controller left, and opens a mailbox for each call of it. To be called before the
        client runs: no event may come before. Raises StoreUnavailable.
        """
        house = self._hotline
        notify.send(notify.patience(TAKES_UP_WITHIN_S + READS_A_MB_WITHIN_S * megabytes(house.settings.journal_dir)))
        waiting = [row for row in house.ledger.waiting() if isinstance(row, models.Table)]
        with house.ledger.patience():
            found = await house.ledger.look_up(lambda session: left_open(session, house.settings.instance, waiting))
            notify.send(notify.patience(TAKES_UP_WITHIN_S + TAKES_UP_A_CALL_WITHIN_S * len(found)))
            self._left_open = {past.call.id: _Left(past, house.client.mailboxes.open(past.call.id)) for past in found}
            self._not_closed |= self._left_open.keys()
            await self.leading.end_what_was_left()
            await house.desk.open(self._left_open)
            await house.callbacks.open(set(self._left_open))

    async def _adopt(self, now: Snapshot) -> None:
        count = len(self._left_open)
        await self._adopt_all(now)
        while self._left_open:
            log.warning("%d calls could not be taken up yet", len(self._left_open))
            fresh = await self._fresh_snapshot()
            if fresh is None:
                return
            await self._adopt_all(fresh)
        self._hotline.desk.all_are_back()
        if count:
            log.info("%d calls of an earlier controller are taken up", self._taken_up)
        self.ready.set()
        if not self._draining and self._hotline.settings.trunk.outbound:
            self._hotline.callbacks.go(self.place)

    async def _fresh_snapshot(self) -> Snapshot | None:
        """After a while. None: out of reach again, and the next link goes on."""
        client = self._hotline.client
        await asyncio.sleep(ADOPT_AGAIN_S)
        while client.linked:
            try:
                return await client.snapshot()
            except AriError as error:
                log.warning("Asterisk does not say what it holds: %s", error)
                await asyncio.sleep(ADOPT_AGAIN_S)
        return None

    async def _adopt_all(self, now: Snapshot) -> None:
        """At once; once the link has broken in it one after another, to learn with which of them it breaks."""
        calls = list(self._left_open.values())
        if self._one_by_one:
            for left in calls:
                await self._adopt_one(left, now)
        else:
            await asyncio.gather(*(self._adopt_one(left, now) for left in calls))

    async def _adopt_one(self, left: _Left, now: Snapshot) -> None:
        call_id, loop = left.past.call.id, asyncio.get_running_loop()
        if not self._hotline.client.linked:
            return
        if left.is_hopeless:
            log.error("call %s cannot be taken up: Asterisk answers, but nothing about it", call_id)
            self._unanswering.add(call_id)
            await self._give_up(left)
            return
        began = loop.time()
        try:
            call = await take_up(self._hotline, left.past, left.inbox, now)
        except (Unreachable, RequestTimeout) as error:
            log.info("call %s is not taken up yet: %s", call_id, error)
            left.tries += 1
            left.tried_s += loop.time() - began
            self._one_by_one |= isinstance(error, Unreachable)
            self._left_open[call_id] = self._left_open.pop(call_id)  # the others first
        except Exception:  # this one cannot be followed; its caller is apologised to, the others go on
            log.exception("call %s cannot be taken up", call_id)
            await self._give_up(left)
        else:
            self.calls[call_id] = call
            self._hotline.metrics.call_adopted()
            self._taken_up += 1
            self._group.create_task(self._serve(call), name=f"call {call_id}")
            del self._left_open[call_id]

    async def _give_up(self, left: _Left) -> None:
        house, past = self._hotline, left.past
        left.inbox.close()
        if past.call.id in self._unanswering:
            self._beside(self._part_with(past.call.id))
        else:
            await self._send_away(past.call.id, a_caller=True)
        await house.desk.forget(past.call.id)
        self._close_as_broken(past)
        del self._left_open[past.call.id]

    def _close_as_broken(self, past: Past) -> None:
        """In the ledger."""
        house = self._hotline
        self._end_callback(past)
        house.ledger.write(
            models.Ending(
                call_id=past.call.id, at=house.clock(), outcome="broken", hung_up_by="hotline", agent=None,
                answered_after_s=None, wait_s=0.0, talk_s=0.0, after_closing_s=None,
            )
        )  # fmt: skip
        if past.outbound is None:
            house.metrics.call_ended("broken")
        else:
            purpose: PlacedFor = "case" if past.outbound.callback_id is None else "callback"
            house.metrics.call_placed_ended(purpose, "broken", rang_s=0.0, talk_s=0.0)

    def _end_callback(self, past: Past) -> None:
        """Whoever was called, or had called in before, is called again."""
        callbacks = self._hotline.callbacks
        wish = callbacks.held_by(past.call.id)
        if wish is not None and past.outbound is None:
            callbacks.hung_up(wish, past.call.id, served=False)
        elif wish is not None:
            callbacks.was_missed(wish, "broken")

    async def _part_with(self, caller: str) -> None:
        """Sends away a caller about whom Asterisk answers nothing, once it does. Each try may cost the link."""
        for tries in itertools.count():
            await asyncio.sleep(PARTED_AFTER_S[min(tries, len(PARTED_AFTER_S) - 1)])
            await self._hotline.linked.wait()
            if await self._send_away(caller, a_caller=True):
                self._unanswering.discard(caller)
                return

    # ------------------------------------------------------------ the link

    async def _watch_links(self) -> None:
        house = self._hotline
        while True:
            news = await house.client.links.get()
            if not isinstance(news, LinkUp):
                log.warning("Asterisk is out of reach")
                self._away_since = house.clock()
                house.linked.clear()
                house.metrics.ari_up(False)
                continue
            away_since, self._away_since = self._away_since, None
            owners = set(self._left_open)  # those of them that end at once are still in the snapshot
            if not self.ready.is_set():
                await self._adopt(news.snapshot)
                if not self.ready.is_set():
                    continue
            house.linked.set()
            house.metrics.ari_up(True)
            if self._linked_before:
                house.metrics.ari_reconnected()
            self._linked_before = True
            log.info("linked to Asterisk, %d channels there", len(news.snapshot.channels))
            if away_since is not None:
                self._tell(news.snapshot, at=away_since, away_s=house.clock() - away_since)
            await self._end(self._found(news.snapshot, owners | self._owners()))

    def _found(self, now: Snapshot, owners: set[str]) -> Ghosts:
        found = ghosts(now, owners, f"{self._hotline.settings.instance}-")
        bridges = frozenset(bridge for bridge in found.bridges if owner_of(bridge) not in self._unanswering)
        return replace(found, callers=found.callers - self._unanswering, bridges=bridges)

    def _owners(self) -> set[str]:
        return {owner for mailbox in self._hotline.client.mailboxes for owner in (mailbox.owner, *mailbox.aliases)}

    def _tell(self, now: Snapshot, *, at: float, away_s: float = 0.0) -> None:
        """Each call learns what Asterisk has of it; what was made after `at` (Unix seconds) is not judged."""
        channels = {channel.id: channel.state for channel in now.channels}
        ours = frozenset(now.application.channel_ids)
        bridges = {bridge.id: bridge.channels for bridge in now.bridges}
        resync = Resync(channels, ours, bridges, at, away_s)
        for call in list(self.calls.values()):
            call.inbox.put(resync)
        self.leading.tell(resync)

    async def _look_around(self) -> None:
        """The reaper: nobody is left in silence, nothing is held for a call that is over."""
        house = self._hotline
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not (house.linked.is_set() and self.ready.is_set()):
                continue
            try:
                await self._look()
            except (AriError, StoreUnavailable) as error:
                log.info("no look around: %s", error)

    async def _look(self) -> None:
        house = self._hotline
        at = house.clock()
        now = await house.client.snapshot()
        self._tell(now, at=at)
        found = self._found(now, self._owners())
        await self._end(found.both(self._ghosts))
        legs, self._ghosts = {owner_of(leg) for leg in found.legs}, found  # a leg is let go before its agent is free
        for agent in await house.desk.free_the_forgotten({*self.calls, *legs}):
            log.warning("agent %s was held for a call that is over: free", agent)
            house.metrics.ghost_found("agent")
        await house.desk.mend({channel.id: channel.name for channel in now.channels}, at)
        await self._close_the_forgotten(now)
        await self._settle_recordings()

    def _note_ending(self, row: models.Table | AgentChange) -> None:
        match row:
            case models.Call(id=call_id):
                self._not_closed.add(call_id)
            case models.Ending(call_id=call_id):
                self._not_closed.discard(call_id)

    async def _close_the_forgotten(self, now: Snapshot) -> None:
        """Calls whose line is gone, and whose task broke before they were closed."""
        there = {channel.id for channel in now.channels}
        for call_id in sorted(self._not_closed - there - self.calls.keys() - self._owners()):
            past = await self._hotline.ledger.ask(partial(_past, call_id))
            if past is None:  # its first row was refused
                self._not_closed.discard(call_id)
                continue
            log.error("call %s was never closed: closed as broken", call_id)
            self._close_as_broken(past)

    async def _settle_recordings(self) -> None:
        """What callers left on tape, and what is still there when nobody serves them any more."""
        house = self._hotline
        stored = [recording.name for recording in await house.client.recordings.listStored()]
        found = recordings_left(stored, self._owners(), f"{house.settings.instance}-")
        self._recordings = {name: self._recordings.get(name, 0) + 1 for name in found}
        for name, looks in sorted(self._recordings.items()):
            if looks == 2:
                log.warning("recording %s belongs to no call: kept until the call's own is in a store", name)
                house.metrics.ghost_found("recording")
            if looks >= 2:
                await self._settle_recording(name)

    async def _settle_recording(self, name: str) -> None:
        """A message that nobody was told of is entered; it goes once it is certain that nothing is lost with it."""
        house = self._hotline
        longest_s = house.desk.rules.now.hours.message_longest_s
        left = await house.ledger.ask(partial(left_behind, name=name, longest_s=longest_s))
        if left.message is not None:
            line = left.progress.line or line_of(left.progress.role)
            enter(house, left.message, line, left.person, left.progress.need)
            log.warning("call %s: a message that nobody was told of is entered", left.message.call_id)
        elif left.is_kept:
            with suppress(NotFound):
                await house.client.recordings.deleteStored(recordingName=name)

    async def _end(self, found: Ghosts) -> None:
        """A caller nobody serves hears the apology and may leave a number; an agent's phone is hung up."""
        metrics = self._hotline.metrics
        for caller in found.callers:
            log.warning("caller's channel %s belongs to no call: sent to the fallback", caller)
            metrics.ghost_found("caller")
            await self._send_away(caller, a_caller=True)
        for leg in found.legs:
            log.warning("channel %s belongs to no call: hung up", leg)
            metrics.ghost_found("leg")
            await self._send_away(leg, a_caller=False)
        for bridge in found.bridges:
            log.warning("bridge %s belongs to no call: taken down", bridge)
            metrics.ghost_found("bridge")
            try:
                await self._hotline.client.bridges.destroy(bridgeId=bridge)
            except AriError as error:
                log.info("bridge %s was gone: %s", bridge, error)

    async def _send_away(self, channel_id: str, *, a_caller: bool) -> bool:
        """False: Asterisk did not answer."""
        channels = self._hotline.client.channels
        context, extension, priority = APOLOGY
        try:
            if a_caller:
                await channels.continueInDialplan(
                    channelId=channel_id, context=context, extension=extension, priority=priority
                )
            else:
                await channels.hangup(channelId=channel_id)
        except Conflict as error:
            if error.status == NOT_UP:  # the line of a call that we placed, and nobody has answered
                with suppress(AriError):
                    await channels.hangup(channelId=channel_id)
        except (Unreachable, RequestTimeout) as error:
            log.warning("channel %s is not sent away: %s", channel_id, error)
            return False
        except AriError as error:
            log.info("channel %s was gone: %s", channel_id, error)
        return True

    # ------------------------------------------------------------ callbacks left in the dialplan

    async def _take_up_callbacks(self) -> None:
        """Numbers that callers left while nobody was there: one file each, a ledger row, then the file goes."""
        folder = self._hotline.settings.spool_dir / "callbacks"
        await self.ready.wait()  # whoever is still on the line comes first
        while True:
            for file in waiting_requests(folder):
                try:
                    await self._take_up(file)
                except StoreUnavailable as error:
                    log.error("callbacks wait for the database: %s", error)
                    break
                except OSError as error:
                    log.error("callback file %s cannot be read: %s", file.name, error)
            await asyncio.sleep(CALLBACKS_EVERY_S)

    async def _take_up(self, file: Path) -> None:
        call_id = file.stem
        request = read_request(file)
        if request is None:
            log.error("callback file %s holds no number that we call; it is kept as .bad", file.name)
            return
        at, number = request
        ledger = self._hotline.ledger
        known = partial(_is_entered, call_id)
        if not await ledger.ask(known):
            self._hotline.callbacks.asked(models.Callback(id=call_id, at=at, number=number, reason="fallback"))
            log.info("call %s asked to be called back at %s", call_id, mask(number))
        if await ledger.ask(known):
            remove(file)


def _past(call_id: str, session: Session) -> Past | None:
    """What it was, without what happened in it."""
    call = session.get(models.Call, call_id)
    return Past(call, outbound=session.get(models.OutboundCall, call_id)) if call is not None else None


def _is_entered(call_id: str, session: Session) -> bool:
    """As a callback, or as one more wish of somebody who has an open one."""
    wishes = (Happened.MOVED.value, Happened.HASTENED.value)
    told = select(models.CallbackEvent.n).where(
        models.CallbackEvent.call_id == call_id, models.CallbackEvent.event.in_(wishes)
    )
    return session.get(models.Callback, call_id) is not None or session.scalar(told.limit(1)) is not None


def megabytes(folder: Path) -> float:
    """Of the journals in it."""
    with suppress(FileNotFoundError):  # applied in this moment
        return sum(file.stat().st_size for file in folder.glob(f"*{ENDING}")) / 1e6
    return 0.0


def waiting_requests(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"))


def read_request(file: Path) -> tuple[float, str] | None:
    """When a callback was asked for, and the number to call: the keyed one if we call it, else the caller's. None: set
    aside.
    """
    epoch, _, rest = file.read_text(encoding="ascii", errors="replace").strip().partition(" ")
    keyed, _, calling = rest.partition(" ")
    left = (normalise_number(keyed), normalise_number(calling))
    number = next((one for one in left if can_be_called(one)), None)
    if number is None or not epoch.isdigit():
        file.rename(file.with_suffix(".bad"))
        return None
    return float(epoch), number


def remove(file: Path) -> None:
    file.unlink(missing_ok=True)
