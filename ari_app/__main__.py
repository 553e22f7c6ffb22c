"""The controller: ``python -m ari_app``. The only place that builds and joins the parts."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, cast

import uvloop
from prometheus_client import CollectorRegistry
from sqlalchemy import bindparam, exists, select

from ari_app import notify, opening, store
from ari_app import rules as desk_rules
from ari_app import settings as house_rules
from ari_app.api.server import serve
from ari_app.ari.client import Client
from ari_app.ari.errors import (
    ApplicationReplaced,
    AriError,
    NotFound,
    RequestFailed,
    RequestTimeout,
    Unreachable,
)
from ari_app.ari.websocket import WebSocketWire
from ari_app.audibility import Audibility
from ari_app.desk import Desk, Duty
from ari_app.doctor import second_store
from ari_app.drift import Drift
from ari_app.errors import SanlingError, SettingsInvalid, SetUpFailed, StoreUnavailable
from ari_app.flow.identity import initials
from ari_app.instance import Instance
from ari_app.ledger import Ledger
from ari_app.line import Hotline
from ari_app.prompts import Catalogue
from ari_app.reception import TAKES_UP_WITHIN_S, Reception
from ari_app.settings import Settings
from ari_app.store import models
from metrics.exporter import Exporter
from metrics.hotline import AgentState, DiskPlace, HotlineMetrics, MendedState, RecordingStage
from metrics.hotline import Store as StoreName
from recordings.capture import began_at
from recordings.stores import FolderStore
from recordings.vault import Stored, Unstored, Vault

log = logging.getLogger("sanling")

SWEEP_EVERY_S = 0.5
READY_WITHIN_S = 30.0
"""Asked of the supervisor, again and again, while Asterisk is away."""
ENDS_WITHIN_S = 10.0
"""Asked of it once, at the end: what waits is written first."""
STORED_WITHIN_S = 10.0
"""Recordings that are not stored by then when the hotline is drained wait in the spool for the next start."""
DATABASE_ANSWERS_WITHIN_S = 3.0
SALVAGE_EVERY_S = 10.0
CALLERS_FIRST_S = 3.0
"""So often Asterisk is asked which calls it still has, to salvage recordings whose end nobody declared."""

DUTIES: dict[Duty, AgentState] = {
    Duty.SIGNED_OUT: "signed_out", Duty.IDLE: "idle", Duty.RESERVED: "offered", Duty.RINGING: "offered",
    Duty.TALKING: "talking", Duty.CONSULTING: "talking", Duty.WRAP_UP: "wrap_up", Duty.PAUSED: "paused",
    Duty.NO_ANSWER: "paused",
}  # fmt: skip


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    failed = 0
    try:
        settings = house_rules.load()
        catalogue = load_everything(settings)
        if notify.stand_by():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(control(settings, catalogue))
    except* SanlingError as errors:
        failed = 1
        for error in errors.exceptions:
            log.critical("%s", error)
    except* ApplicationReplaced:
        failed = 1
        log.critical("Another controller took this hotline over; two cannot serve the same calls. Stopping.")
    return failed


def load_everything(settings: Settings) -> Catalogue:
    """What takes a second when it is first used: done before it is our turn, and before the first caller.

    The prompts that hold, that is: `sanling run` refuses to start without one, but here calls may be in progress.
    """
    catalogue = Catalogue.load_whatever_holds(settings.prompts)
    with suppress(SanlingError):  # it will be said when it is needed
        engine = store.open_engine(settings.database, answer_within_s=DATABASE_ANSWERS_WITHIN_S)
        store.check_version(engine)
        engine.dispose()
    initials("三铃")
    gc.collect()
    gc.freeze()  # else each full collection looks at all that is loaded: 100 ms in which nobody is served
    return catalogue


async def control(settings: Settings, catalogue: Catalogue) -> None:
    """Serves calls until SIGTERM or SIGINT, which leave them to the next controller, or to the last one's end after
    SIGUSR1. Raises SanlingError where something must be mended first.
    """
    stopping, draining = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, draining.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # rules are read when all is open
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    notify.send(notify.status("starting"), notify.patience(TAKES_UP_WITHIN_S))
    with only_controller(settings):
        async with hotline(settings, catalogue) as (house, vault, pending), asyncio.TaskGroup() as group:
            loop.add_signal_handler(signal.SIGHUP, reload, house.desk)
            drift = Drift(house.ledger, house.metrics, settings.call_records)
            audibility = Audibility(house.ledger, house.metrics, vault, house.clock, settings.instance)
            reception = Reception(house)
            await reception.open()
            tasks = [
                group.create_task(house.client.run(), name="client"),
                group.create_task(reception.run(), name="reception"),
                group.create_task(house.metrics.measure_loop_lag(), name="lag"),
                group.create_task(tell_supervisor(house, reception), name="supervisor"),
                group.create_task(drain(draining, reception, pending, stopping.set), name="drain"),
            ]
            beside: dict[str, Callable[[], Awaitable[None]]] = {
                "vault": lambda: keep_recordings(house, vault, pending),
                "drift": drift.run,
                "audibility": audibility.run,
                "api": lambda: serve(house, reception.calls.values, reception.leading, reception.case_calls),
            }
            tasks += [group.create_task(callers_first(reception, work), name=name) for name, work in beside.items()]
            await stopping.wait()
            notify.send(notify.STOPPING, notify.patience(ENDS_WITHIN_S))
            log.info("stopping")
            for task in tasks:
                task.cancel()


async def callers_first(reception: Reception, work: Callable[[], Awaitable[None]]) -> None:
    """Does `work`, which no caller waits for, once the calls of an earlier controller are taken up: in that second the
    processor is theirs. If Asterisk is away, soon all the same.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(CALLERS_FIRST_S):
            await reception.ready.wait()
    await work()


def reload(desk: Desk) -> None:
    """SIGHUP: the rules of the desk anew, if they hold."""
    try:
        desk.reload()
    except SettingsInvalid as error:
        log.error("The desk's rules stay as they are. %s", error)
    else:
        log.info("the desk's rules were read anew")


async def tell_supervisor(house: Hotline, reception: Reception) -> None:
    """That this event loop lives, that calls are served, and how many; of an Asterisk that is away, that it is waited
    for. `READY` is repeated: a supervisor that was stopped meanwhile may have missed it.
    """
    while True:
        ready = reception.ready.is_set()
        if not house.linked.is_set():
            lines = [notify.patience(READY_WITHIN_S), notify.status("waiting for Asterisk")]
        else:
            calls = len(reception.calls)
            lines = [notify.status(f"{calls} call{'' if calls == 1 else 's'} in progress")]
        notify.send(notify.ALIVE, *lines, *([notify.READY] if ready else []))
        if ready:
            await asyncio.sleep(notify.ALIVE_EVERY_S)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(reception.ready.wait(), notify.ALIVE_EVERY_S)


async def drain(asked: asyncio.Event, reception: Reception, pending: Pending, stop: Callable[[], None]) -> None:
    """Once asked: no new calls; stops after the last one, when its recording is stored or was refused."""
    await asked.wait()
    await reception.ready.wait()  # what an earlier controller left is to be served to the end as well
    log.info("draining: no new calls, %d in progress", len(reception.calls))
    await reception.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(STORED_WITHIN_S):
            await asyncio.sleep(2 * SWEEP_EVERY_S)
            while pending.untried:  # noqa: ASYNC110 - kept for the metrics, which do not wait
                await asyncio.sleep(SWEEP_EVERY_S)
    log.info("drained")
    stop()


@asynccontextmanager
async def hotline(settings: Settings, catalogue: Catalogue) -> AsyncIterator[tuple[Hotline, Vault, Pending]]:
    """All parts, open; closed in reverse."""
    catalogue.look_again()  # a spare may have read it long ago
    book = desk_rules.open_book(kept=settings.run_dir / "desk.in-force.toml")
    for year in opening.unknown_years(book.now, settings.zone, time.time()):
        log.warning("The calendar knows nothing of %d: its days go by their weekday; see `sanling doctor`.", year)
    engine = store.open_engine(settings.database, answer_within_s=DATABASE_ANSWERS_WITHIN_S)
    store.check_version(engine)
    instance = Instance(settings)
    registry = CollectorRegistry()
    metrics = HotlineMetrics(registry)
    ledger = Ledger(
        engine, timed=metrics.database_writing, journal=settings.journal_dir, journal_mb=settings.ledger.journal_mb
    )
    with ledger.patience():
        await ledger.open()
        agents = await ledger.look_up(lambda session: list(session.scalars(select(models.Agent.number))))
    desk = Desk(
        ledger, settings.queue, time.time, on_wrapped_up=metrics.handled, rules=book, zone=settings.zone,
        instance=settings.instance, on_mended=lambda duty: metrics.agent_mended(cast(MendedState, duty.value)),
    )  # fmt: skip
    client = Client(
        WebSocketWire(instance.ari_url, instance.ari_user, instance.ari_password, "sanling"),
        watch=lambda verb, blocking, seconds, error: watch(metrics, blocking, seconds, error),
    )
    house = Hotline(settings, client, desk, ledger, catalogue, metrics, time.time, asyncio.Event())
    metrics.register_agents(agents)
    pending = Pending()
    metrics.watch(
        calls_in_progress=lambda: len(client.mailboxes),
        queue_length=lambda: desk.queue_length,
        oldest_wait_s=lambda: desk.oldest_wait_s,
        agents_in=lambda state: sum(desk.agents_in(duty) for duty, name in DUTIES.items() if name == state),
        agent_states=lambda: {agent.number: DUTIES[agent.duty] for agent in desk.agents()},
        open_now=lambda: opening.is_open(book.now, settings.zone, time.time()),
        recordings_pending=lambda: pending.count,
        oldest_recording_s=lambda: time.monotonic() - pending.oldest_at if pending.count else 0.0,
        journal_rows=lambda: ledger.overdue_rows,
        refused_rows=lambda: ledger.refused_rows,
    )
    metrics.began(time.time(), disk_minimum_bytes=settings.recordings.minimum_free_mb * 1e6)

    def health() -> dict[str, bool]:
        return {
            "ari": house.linked.is_set(),
            "database": not ledger.away,
            "prompts": not catalogue.lacking,
        }

    vault = Vault(
        settings.spool_dir / "monitor",
        FolderStore(settings.local_store, "local"),
        second_store(settings),
        zone=settings.zone,
        minimum_free_bytes=settings.recordings.minimum_free_mb * 1_000_000,
        listening_copies=settings.run_dir / "listening" if settings.recordings.listening_copies else None,
    )
    exporter = Exporter(registry, settings.control_address, settings.metrics_port, health=health)
    exporting = asyncio.create_task(exporter.run(), name="metrics")
    try:
        async with vault:
            yield house, vault, pending
    finally:
        exporting.cancel()
        await asyncio.wait([exporting])
        desk.close()
        await ledger.close()
        engine.dispose()


class Pending:
    """How many recordings wait for a store, for the metrics' thread to read."""

    count = 0
    untried = 0
    """Those among them that have not failed yet."""
    oldest_at = 0.0
    """When the call of the oldest ended, on the monotonic clock; means nothing while none waits."""


async def keep_recordings(house: Hotline, vault: Vault, pending: Pending) -> None:
    """Every finished call into both stores, and a ledger row for each copy. REC-2."""
    salvage_at = 0.0
    while True:
        now = asyncio.get_running_loop().time()
        look_around = now >= salvage_at
        live = await live_calls(house) if look_around else None
        if live is not None:
            salvage_at = now + SALVAGE_EVERY_S
        try:
            async for told in vault.sweep(live):
                await enter_recording(house, told)
            if look_around:
                for disk in await vault.space():
                    house.metrics.disk(cast(DiskPlace, disk.place), disk.free_bytes)
            backlog = await vault.backlog(live)
            pending.oldest_at = time.monotonic() - backlog.oldest_s
            pending.count, pending.untried = backlog.waiting, backlog.waiting - backlog.failing
        except StoreUnavailable as error:  # the spool keeps what could not be entered; the next sweep tells it again
            log.error("recordings wait for the database: %s", error)
        except Exception:  # an odd file must not end the calls in progress
            log.exception("the recordings' sweep failed; it goes on")
            await asyncio.sleep(SALVAGE_EVERY_S)
        await asyncio.sleep(SWEEP_EVERY_S)


_CALLS: Any = models.Call.__table__
_COPIES: Any = models.Recording.__table__
_KNOWN = select(
    exists().where(_CALLS.c.id == bindparam("call")),
    exists().where(_COPIES.c.call_id == bindparam("call"), _COPIES.c.store == bindparam("store")),
)
"""Whether a call is known, and that copy of its recording. Made once."""


async def enter_recording(house: Hotline, told: Stored | Unstored) -> None:
    """A ledger row for one verified copy. Raises StoreUnavailable."""
    if isinstance(told, Unstored):
        log.error("recording of %s is not in %s yet: %s", told.call_id, told.store, told.reason)
        house.metrics.recording_failed(cast(RecordingStage, told.store))
        return
    asked = {"call": told.call_id, "store": told.store}
    call_known, known = await house.ledger.ask(lambda session: session.connection().execute(_KNOWN, asked).one())
    if not call_known:
        enter_unattended(house.ledger, house.metrics, told.call_id)
    row = models.Recording(
        call_id=told.call_id, store=told.store, at=house.clock(), path=told.path, sha256=told.sha256,
        seconds=told.seconds, channels=told.channels, bytes=told.bytes,
    )  # fmt: skip
    if not known:
        house.ledger.write(row)
        house.metrics.recording_stored(cast(StoreName, told.store))
    log.info("recording of %s is in %s: %.1f s, sha256 %s", told.call_id, told.store, told.seconds, told.sha256)


async def live_calls(house: Hotline) -> set[str] | None:
    """Ids of the channels that Asterisk has; None if it cannot be asked."""
    try:
        return {channel.id for channel in await house.client.channels.list()}
    except AriError:
        return None


def enter_unattended(ledger: Ledger, metrics: HotlineMetrics, call_id: str) -> None:
    """A call that never reached the controller is in the ledger all the same, by its recording."""
    known_start = began_at(call_id)
    began = known_start.timestamp() if known_start else time.time()
    metrics.call_ended("fallback")
    ledger.write(
        models.Call(id=call_id, caller_number=None, called_number="", at=began),
        models.Ending(
            call_id=call_id, at=time.time(), outcome="fallback", hung_up_by="caller", agent=None,
            answered_after_s=None, wait_s=0.0, talk_s=0.0, after_closing_s=None,
        ),
    )  # fmt: skip


def watch(metrics: HotlineMetrics, blocking: bool, seconds: float, error: AriError | None) -> None:
    metrics.ari_request("blocking" if blocking else "fast", seconds)
    match error:
        case None:
            return
        case NotFound():
            metrics.ari_request_failed("gone")
        case Unreachable():
            metrics.ari_request_failed("unreachable")
        case RequestTimeout():
            metrics.ari_request_failed("timeout")
        case RequestFailed() if error.status < 500:
            metrics.ari_request_failed("refused")
        case _:
            metrics.ari_request_failed("server_error")


@contextmanager
def only_controller(settings: Settings) -> Iterator[None]:
    """One controller an instance: a second one would take the calls' events away from the first."""
    file = settings.run_dir / "controller.lock"
    try:
        held = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        raise SetUpFailed(f"There is no instance in {settings.run_dir}: run `sanling setup`.") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SetUpFailed(f"Another controller serves the instance {settings.instance}; stop that one first.") from None
    try:
        yield
    finally:
        os.close(held)


if __name__ == "__main__":
    sys.exit(main())
