"""Whoever arrives from Asterisk: callers, agents' feature codes, and what an earlier run left behind."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from ari_app.ari.client import Arrival, LinkUp, Snapshot
from ari_app.ari.errors import AriError
from ari_app.ari.mailboxes import owner_of
from ari_app.call import APOLOGY, Call, Hotline, Resync, case_vars
from ari_app.cases import normalise_number
from ari_app.errors import StoreUnavailable
from ari_app.features import FeatureCall, agent_of
from ari_app.privacy import mask
from ari_app.store import models

log = logging.getLogger("sanling.reception")

CALLBACKS_EVERY_S = 10.0


class Reception:
    """Opens a task for each arrival, and keeps the calls informed of the link."""

    def __init__(self, hotline: Hotline) -> None:
        self._hotline = hotline
        self.calls: dict[str, Call] = {}
        self._linked_before = False

    async def run(self) -> None:
        """Until cancelled. One call's task never takes another one down."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_links(), name="links")
            group.create_task(self._take_up_callbacks(), name="callbacks")
            while True:
                arrival = await self._hotline.client.arrivals.get()
                group.create_task(self._receive(arrival), name=f"call {arrival.event.channel.id}")

    async def _receive(self, arrival: Arrival) -> None:
        try:
            await self._welcome(arrival)
        except Exception:  # whatever it was, the neighbours' calls go on
            log.exception("channel %s: broken", arrival.event.channel.id)

    async def _welcome(self, arrival: Arrival) -> None:
        channel, kind = arrival.event.channel, (*arrival.event.args, "")[0]
        house = self._hotline
        agent = agent_of(channel.name)
        if kind == "inbound":
            await self._take_call(arrival)
        elif kind == "feature" and agent is not None:
            await FeatureCall(
                house.settings, house.client, house.desk, house.catalogue, house.metrics,
                channel.id, arrival.mailbox, agent, (*arrival.event.args, "", "")[1],
            ).run()  # fmt: skip
        else:
            arrival.mailbox.close()
            await self._send_away(channel.id, channel.name)

    async def _take_call(self, arrival: Arrival) -> None:
        channel = arrival.event.channel
        house = self._hotline
        number = normalise_number(channel.caller.number)
        log.info("call %s arrives from %s", channel.id, mask(number))
        call = Call(house, channel.id, arrival.mailbox, number, context=case_vars(channel))
        house.ledger.write(
            models.Call(
                id=channel.id,
                caller_number=number,
                called_number=channel.dialplan.exten or house.settings.hotline_numbers[0],
                at=call.began,
            )
        )
        self.calls[channel.id] = call
        try:
            await call.run()
        finally:
            del self.calls[channel.id]

    # ------------------------------------------------------------ the link

    async def _watch_links(self) -> None:
        while True:
            news = await self._hotline.client.links.get()
            if not isinstance(news, LinkUp):
                log.warning("Asterisk is out of reach")
                self._hotline.linked.clear()
                self._hotline.metrics.ari_up(False)
                continue
            self._hotline.linked.set()
            self._hotline.metrics.ari_up(True)
            if self._linked_before:
                self._hotline.metrics.ari_reconnected()
            self._linked_before = True
            log.info("linked to Asterisk, %d channels there", len(news.snapshot.channels))
            await self._reconcile(news.snapshot)

    async def _reconcile(self, snapshot: Snapshot) -> None:
        """Calls learn what they missed; whoever belongs to no call of ours is not left in silence."""
        channels = {channel.id: channel.state for channel in snapshot.channels}
        for call in list(self.calls.values()):
            call.inbox.put(Resync(channels, frozenset(snapshot.application.channel_ids)))
        names = {channel.id: channel.name for channel in snapshot.channels}
        for channel_id in snapshot.application.channel_ids:
            if self._hotline.client.mailboxes.find(owner_of(channel_id)) is None:
                await self._send_away(channel_id, names.get(channel_id, ""))
        for bridge_id in snapshot.application.bridge_ids:
            if owner_of(bridge_id) not in self.calls:
                try:
                    await self._hotline.client.bridges.destroy(bridgeId=bridge_id)
                except AriError as error:
                    log.info("bridge %s was gone: %s", bridge_id, error)

    async def _send_away(self, channel_id: str, name: str) -> None:
        """A caller nobody serves hears the apology and may leave a number; an agent's phone is hung up."""
        channels = self._hotline.client.channels
        context, extension, priority = APOLOGY
        log.warning("channel %s belongs to no call: sent away", channel_id)
        try:
            if owner_of(channel_id) == channel_id and agent_of(name) is None:
                await channels.continueInDialplan(
                    channelId=channel_id, context=context, extension=extension, priority=priority
                )
            else:
                await channels.hangup(channelId=channel_id)
        except AriError as error:
            log.info("channel %s was gone: %s", channel_id, error)

    # ------------------------------------------------------------ callbacks left in the dialplan

    async def _take_up_callbacks(self) -> None:
        """Numbers that callers left while nobody was there: one file each, a ledger row, then the file goes."""
        folder = self._hotline.settings.spool_dir / "callbacks"
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
            log.error("callback file %s holds no number; it is kept as .bad", file.name)
            return
        at, number = request
        ledger = self._hotline.ledger
        if await ledger.ask(lambda session: session.get(models.Callback, call_id)) is None:
            ledger.write(models.Callback(id=call_id, at=at, number=number, reason="fallback"))
            await ledger.flush()
            self._hotline.metrics.callback_left()
            log.info("call %s asked to be called back at %s", call_id, mask(number))
        if not ledger.waiting_rows:
            remove(file)


def waiting_requests(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"))


def read_request(file: Path) -> tuple[float, str] | None:
    """When a callback was asked for, and the number to call: the keyed one, else the caller's. None: set aside."""
    epoch, _, rest = file.read_text(encoding="ascii", errors="replace").strip().partition(" ")
    keyed, _, calling = rest.partition(" ")
    number = normalise_number(keyed) or normalise_number(calling)
    if number is None or not epoch.isdigit():
        file.rename(file.with_suffix(".bad"))
        return None
    return float(epoch), number


def remove(file: Path) -> None:
    file.unlink(missing_ok=True)
