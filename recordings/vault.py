"""From the spool into two stores, whatever dies in between. REC-1, REC-2.

Theory of operation. All progress is on disk, in names; a sweep looks at the names and takes the next step::

    spool/<id>.raw (+ .done)      recorded
      └─ seal ──────────────────► staged/<id>.flac, .json        sealed; the bytes will never change again
           └─ put, read back ───► local  YYYY/MM/DD/<id>.json, .flac
           └─ put, read back ───► second YYYY/MM/DD/<id>.json, .flac
                └─ both agree ──► staged/<id>.stored             the sidecar, renamed
                     └─ told to whoever sweeps; then .raw, .done, .flac and at last .stored are removed

Every step may be taken twice. `Stored` is told at least once for each store, before the spool is emptied: who writes
it down may die too, and is told again. A store puts the sidecar first, so a segment without one is never ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import itertools
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import tzinfo
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, ParamSpec, Self, TypeVar

from recordings import capture, listening
from recordings.capture import Sidecar, Unsealable
from recordings.levels import Loudness, loudness
from recordings.stores import Missing, NameTaken, Store, StoreAway, StoreError
from recordings.worker import Worker, WorkerDied

log = logging.getLogger("sanling.recordings")

P = ParamSpec("P")
T = TypeVar("T")

CAPTURE = "capture"
"""Stands in `Unstored.store` where the segment could not be made, or its spool file not be released."""


@dataclass(frozen=True)
class Stored:
    """One store holds the whole call, and has given back every byte of it."""

    call_id: str
    store: str
    path: str
    sha256: str
    seconds: float
    channels: int
    bytes: int


@dataclass(frozen=True)
class Unstored:
    """One store does not hold the call yet. The spool file is kept, and it will be tried again."""

    call_id: str
    store: str
    """The store's name, or ``capture``."""
    reason: str
    retry_in_s: float


class State(StrEnum):
    WHOLE = "whole"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Copy:
    store: str
    path: str
    state: State
    sha256: str | None
    reason: str = ""
    mended: bool = False


@dataclass(frozen=True)
class Verdict:
    """What reading both copies again has shown."""

    call_id: str
    sha256: str | None
    """What the copies should have; None where it cannot be known."""
    copies: tuple[Copy, ...]

    @property
    def agreed(self) -> bool:
        return self.sha256 is not None and all(copy.state is State.WHOLE for copy in self.copies)


@dataclass(frozen=True)
class Backlog:
    waiting: int
    """Finished calls whose spool file is still there."""
    failing: int
    """Those among them that have failed at least once."""
    oldest_s: float
    """How long the oldest has been finished; 0 without any."""


@dataclass(frozen=True)
class Space:
    place: str
    """``spool``, or the store's name."""
    free_bytes: int
    enough: bool


class VaultBusy(Exception):
    """Another process sweeps this spool."""


class _Kept(NamedTuple):
    """What there is to tell of a call, and whether both stores hold it."""

    call_id: str
    told: list[Stored | Unstored]
    safe: bool


@dataclass
class _Failures:
    count: int = 0
    not_before: float = 0.0


class Vault:
    """Sweeps one spool into two stores. One process at a time may do it.

    ``async with Vault(...) as vault: async for told in vault.sweep(live=...): ...``
    """

    def __init__(
        self,
        spool: Path,
        local: Store,
        second: Store,
        *,
        worker: Worker | None = None,
        zone: tzinfo = capture.CHINA,
        listening_copies: Path | None = None,
        minimum_free_bytes: int = 500_000_000,
        at_once: int = 3,
        quiet_s: float = 15.0,
        first_retry_s: float = 2.0,
        longest_retry_s: float = 300.0,
    ) -> None:
        """`spool` is where Asterisk writes ``<call id>.raw``. `listening_copies`: also make an MP3 of each call there.

        `quiet_s`: a spool file that was never declared complete is salvaged when its call is gone and nothing has
        been written to it for this long.
        """
        if local.name == second.name:
            raise ValueError(f"two stores need two names, not {local.name!r} twice")
        self._spool = spool
        self._staged = spool / "staged"
        self._stores = (local, second)
        self._zone = zone
        self._listening = listening_copies
        self._minimum_free_bytes = minimum_free_bytes
        self._quiet_s = quiet_s
        self._retry_s = (first_retry_s, longest_retry_s)
        self._worker = worker or Worker()
        self._own_worker = worker is None
        self._listener = Worker()  # of its own: a listening copy takes ten times as long as a segment
        self._at_once = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(2 * at_once + 1, thread_name_prefix="vault")
        self._failures: dict[str, _Failures] = {}
        self._in_hand: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[_Kept]] = set()
        self._lock: int | None = None

    async def __aenter__(self) -> Self:
        """Raises VaultBusy."""
        await self._in_thread(self._take_lock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.close()
        if self._own_worker:
            await self._worker.close()
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def sweep(
        self, live: Collection[str] | None = None, *, even_if_failing: bool = False
    ) -> AsyncIterator[Stored | Unstored]:
        """Take every finished call as far as it will go, and tell what became of it.

        `live` are the ids of the calls that Asterisk still has: a spool file of any other call is salvaged even if
        nobody declared it complete. None: not known, nothing is salvaged. A call that failed is left alone until its
        time comes again, unless `even_if_failing`. The spool is emptied of a call when the next item is asked for;
        who stops asking loses nothing, the next sweep tells it again.
        """
        found = await self._in_thread(self._finished, live)
        now = time.monotonic()
        due = [
            call_id
            for call_id in found
            if call_id not in self._in_hand
            and (even_if_failing or now >= self._failures.get(call_id, _Failures()).not_before)
        ]
        self._in_hand.update(due)
        tasks = [asyncio.create_task(self._keep(call_id), name=f"keep {call_id}") for call_id in due]
        self._tasks.update(tasks)
        for task, call_id in zip(tasks, due, strict=True):
            task.add_done_callback(functools.partial(self._let_go, call_id))
        for finished in asyncio.as_completed(tasks):
            call_id, told, safe = await finished
            for item in told:
                if (call_id, item.store) not in self._told:
                    yield item
                if isinstance(item, Stored):
                    self._told.add((call_id, item.store))
            if safe and (trouble := await self._release(call_id)):
                yield trouble

    async def store_all(
        self, live: Collection[str] | None = None, *, even_if_failing: bool = True
    ) -> list[Stored | Unstored]:
        """One sweep, its news in a list."""
        return [item async for item in self.sweep(live, even_if_failing=even_if_failing)]

    async def verify(self, call_id: str, *, sha256: str | None = None, mend: bool = False) -> Verdict:
        """Read both copies of a call again, every byte.

        `sha256`: what the ledger says they have; without it, what their sidecars say. With `mend`, a damaged or
        missing copy is made anew from a whole one, and what was damaged is set aside, not destroyed.
        """
        return await self._in_thread(self._verify, call_id, sha256, mend)

    async def loudness(self, call_id: str, spans: Sequence[tuple[float, float]]) -> Loudness:
        """How loud each side of a stored call was in `spans`, in seconds from the segment's start.

        Raises StoreError, Unreadable, WorkerDied.
        """
        copy = self._staged / f".loudness-{call_id}.flac"
        try:
            await self._in_thread(self._stores[0].fetch, f"{self._key(call_id)}.flac", copy)
            return await self._worker.run(loudness, copy, spans)
        finally:
            copy.unlink(missing_ok=True)

    async def backlog(self, live: Collection[str] | None = None) -> Backlog:
        found = await self._in_thread(self._finished, live)
        oldest = await self._in_thread(self._oldest_s, found)
        return Backlog(len(found), sum(1 for call_id in found if call_id in self._failures), oldest)

    async def space(self) -> tuple[Space, ...]:
        """Free space of the spool and of every store that can tell."""
        return await self._in_thread(self._space)

    # one call

    async def _keep(self, call_id: str) -> _Kept:
        async with self._at_once:
            try:
                return await self._keep_it(call_id)
            except (Unsealable, WorkerDied, StoreError, OSError) as error:
                log.warning("call %s not sealed: %s", call_id, error)
                reason = str(error)
            except Exception as error:  # one call must not stop the others
                log.exception("call %s not sealed", call_id)
                reason = repr(error)
            return _Kept(call_id, [Unstored(call_id, CAPTURE, reason, self._failed(call_id))], False)

    async def _keep_it(self, call_id: str) -> _Kept:
        marker = await self._in_thread(self._read, self._marker(call_id))
        if marker is not None:
            return _Kept(call_id, [self._stored(store, marker) for store in self._stores], True)
        sidecar = await self._in_thread(self._stored_before, call_id)
        if sidecar is None:
            sidecar = await self._worker.run(capture.seal, self._spool, self._staged, call_id)
        reasons = await asyncio.gather(*(self._place(store, sidecar) for store in self._stores))
        retry_s = self._failed(call_id) if any(reasons) else 0.0
        told: list[Stored | Unstored] = []
        for store, reason in zip(self._stores, reasons, strict=True):
            if reason is None:
                told.append(self._stored(store, sidecar))
            else:
                log.warning("call %s not in store %s: %s", call_id, store.name, reason)
                told.append(Unstored(call_id, store.name, reason, retry_s))
        if any(reasons):
            return _Kept(call_id, told, False)
        await self._make_listening_copy(call_id)
        await self._in_thread(self._mark_stored, call_id)
        self._failures.pop(call_id, None)
        log.info("call %s stored twice: %.2f s, sha256 %s", call_id, sidecar.seconds, sidecar.sha256)
        return _Kept(call_id, told, True)

    def _let_go(self, call_id: str, task: asyncio.Task[_Kept]) -> None:
        self._in_hand.discard(call_id)
        self._tasks.discard(task)

    async def _place(self, store: Store, sidecar: Sidecar) -> str | None:
        """Why the call is not in the store; None: it is."""
        try:
            await self._in_thread(place, store, self._key(sidecar.call_id), self._staged, sidecar)
        except StoreError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self._staged}: {error.strerror or error}"
        return None

    async def _make_listening_copy(self, call_id: str) -> None:
        """A convenience: what fails here is logged, and keeps nothing from being stored."""
        if self._listening is None:
            return
        mp3 = self._listening / f"{self._key(call_id)}.mp3"
        try:
            await self._listener.run(listening.make_listening_copy, capture.staged_flac(self._staged, call_id), mp3)
        except (listening.Uncopied, WorkerDied, OSError) as error:
            log.warning("no listening copy of call %s: %s", call_id, error)

    async def _release(self, call_id: str) -> Unstored | None:
        """Empty the spool of a call that both stores hold."""
        try:
            grown = await self._in_thread(self._empty, call_id)
        except OSError as error:
            grown = f"{error.filename}: {error.strerror or error}"
        if grown is None:
            self._told -= {(call_id, store.name) for store in self._stores}
            return None
        log.error("spool file of call %s kept: %s", call_id, grown)
        return Unstored(call_id, CAPTURE, grown, self._failed(call_id))

    # on disk, in threads

    def _take_lock(self) -> None:
        self._staged.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._staged / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise VaultBusy(f"Another process sweeps {self._spool}.") from error
            raise
        self._lock = handle

    def _finished(self, live: Collection[str] | None) -> list[str]:
        """Calls with work to do, the oldest first."""
        self._staged.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: dict[str, float] = {}
        now = time.time()
        for file in itertools.chain(self._spool.iterdir(), self._staged.iterdir()):
            if file.name.startswith("."):
                continue
            try:
                changed = file.stat().st_mtime
            except FileNotFoundError:
                continue
            complete = file.suffix in (".done", ".stored", ".json")
            orphan = (
                file.suffix == ".raw" and live is not None and file.stem not in live and now - changed > self._quiet_s
            )
            if complete or orphan:
                found[file.stem] = min(changed, found.get(file.stem, changed))
        return sorted(found, key=lambda call_id: (found[call_id], call_id))

    def _oldest_s(self, call_ids: Iterable[str]) -> float:
        finished_at = []
        for call_id in call_ids:
            for file in (self._spool / f"{call_id}.done", self._spool / f"{call_id}.raw"):
                if file.exists():
                    finished_at.append(file.stat().st_mtime)
                    break
        return max(0.0, time.time() - min(finished_at)) if finished_at else 0.0

    def _mark_stored(self, call_id: str) -> None:
        capture.staged_sidecar(self._staged, call_id).rename(self._marker(call_id))
        capture.sync_folder(self._staged)

    def _empty(self, call_id: str) -> str | None:
        """Why the spool file was kept; None: it is gone, and the marker after it."""
        raw = self._spool / f"{call_id}.raw"
        marker = self._marker(call_id)
        if not marker.exists():
            return None  # another sweep was here first
        sidecar = self._read(marker)
        if sidecar is None:
            return f"{marker} cannot be read"
        if raw.exists() and (size := raw.stat().st_size) != sidecar.captured_bytes:
            return f"{raw} has {size} bytes, {sidecar.captured_bytes} were stored: something still writes to it"
        for file in (raw, raw.with_suffix(".done"), capture.staged_flac(self._staged, call_id)):
            file.unlink(missing_ok=True)
        capture.sync_folder(self._spool)
        capture.sync_folder(self._staged)
        marker.unlink(missing_ok=True)
        return None

    def _stored_before(self, call_id: str) -> Sidecar | None:
        """Stage again what a store holds of a call whose spool file is gone.

        So it is when Asterisk says "done" only after a salvaged call was stored and its spool file removed.
        Raises StoreAway where no store can say whether that is so.
        """
        if (self._spool / f"{call_id}.raw").exists() or capture.staged_sidecar(self._staged, call_id).exists():
            return None
        copies = self._verify(call_id, None, False).copies
        if all(copy.state is State.UNREACHABLE for copy in copies):
            raise StoreAway("No store can say whether the call was stored before.")
        for store, copy in zip(self._stores, copies, strict=True):
            if copy.state is State.WHOLE:
                self._take_back(call_id, store)
                return capture.made_before(self._staged, call_id)
        return None

    def _take_back(self, call_id: str, store: Store) -> None:
        for target in (
            capture.staged_flac(self._staged, call_id),
            capture.staged_sidecar(self._staged, call_id),
        ):
            part = target.with_name(f".{target.name}.part")
            store.fetch(f"{self._key(call_id)}{target.suffix}", part)
            capture.settle(part, target)

    def _verify(self, call_id: str, sha256: str | None, mend: bool) -> Verdict:
        name = self._key(call_id)
        scratch = self._staged / ".verify"
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = [_look(store, name, scratch) for store in self._stores]
        expected = sha256 or _agreed_on(held)
        copies = tuple(self._judge(store, name, look, expected) for store, look in zip(self._stores, held, strict=True))
        whole = next(
            (store for store, copy in zip(self._stores, copies, strict=True) if copy.state is State.WHOLE), None
        )
        if mend and whole is not None:
            copies = tuple(
                copy if copy.state in (State.WHOLE, State.UNREACHABLE) else _mend(store, whole, name, scratch, copy)
                for store, copy in zip(self._stores, copies, strict=True)
            )
        return Verdict(call_id, expected, copies)

    @staticmethod
    def _judge(store: Store, name: str, look: _Look, expected: str | None) -> Copy:
        path = store.where(f"{name}.flac")
        if look.trouble is not None:
            return Copy(store.name, path, State.UNREACHABLE, None, look.trouble)
        if look.sha256 is None:
            return Copy(store.name, path, State.MISSING, None)
        if expected is None:
            return Copy(store.name, path, State.DAMAGED, look.sha256, "the two stores contradict each other")
        if look.sha256 != expected:
            return Copy(store.name, path, State.DAMAGED, look.sha256, f"should be {expected}")
        if look.sidecar is None or look.sidecar.sha256 != expected:
            return Copy(store.name, path, State.DAMAGED, look.sha256, "its sidecar is missing or damaged")
        return Copy(store.name, path, State.WHOLE, look.sha256)

    def _space(self) -> tuple[Space, ...]:
        free = {"spool": shutil.disk_usage(self._spool).free}
        for store in self._stores:
            with contextlib.suppress(StoreError):
                if (left := store.free_bytes()) is not None:
                    free[store.name] = left
        return tuple(Space(place, left, left >= self._minimum_free_bytes) for place, left in free.items())

    # small things

    def _key(self, call_id: str) -> str:
        return capture.key(call_id, self._zone)

    def _marker(self, call_id: str) -> Path:
        return self._staged / f"{call_id}.stored"

    def _stored(self, store: Store, sidecar: Sidecar) -> Stored:
        return Stored(
            call_id=sidecar.call_id,
            store=store.name,
            path=store.where(f"{self._key(sidecar.call_id)}.flac"),
            sha256=sidecar.sha256,
            seconds=sidecar.seconds,
            channels=sidecar.channels,
            bytes=sidecar.size_bytes,
        )

    def _failed(self, call_id: str) -> float:
        """Seconds until the call is tried again: twice as long each time."""
        failures = self._failures.setdefault(call_id, _Failures())
        first, longest = self._retry_s
        wait_s = min(longest, first * 2.0 ** min(failures.count, 30))
        failures.count += 1
        failures.not_before = time.monotonic() + wait_s
        return wait_s

    @staticmethod
    def _read(file: Path) -> Sidecar | None:
        return Sidecar.from_json(file.read_bytes()) if file.exists() else None

    async def _in_thread(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(job, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def place(store: Store, name: str, staged: Path, sidecar: Sidecar) -> None:
    """Bring a sealed segment and its sidecar into a store, and read both back.

    What is there under that name decides::

        sidecar there   segment there
        none, or ours   none, or ours     put what is missing
        ours            another           our copy was damaged: set it aside, put it again
        unreadable      none, or ours     the sidecar was damaged: set it aside, put it again
        another         ours              the same
        anything else                     something else has the name: NameTaken, nothing is touched

    Raises StoreError.
    """
    flac, beside = capture.staged_flac(staged, sidecar.call_id), capture.staged_sidecar(staged, sidecar.call_id)
    held = _look(store, name, staged)
    if held.trouble is not None:
        raise StoreAway(held.trouble)
    ours = held.sidecar is not None and held.sidecar.sha256 == sidecar.sha256
    same = held.sha256 == sidecar.sha256
    if held.sha256 is not None and not same and not ours:
        raise NameTaken(f"{store.where(name)}.flac is there already, with other content. It was left as it is.")
    if held.sha256 is None and held.sidecar is not None and not ours:
        raise NameTaken(f"{store.where(name)}.json is there already, of another recording. It was left as it is.")
    if held.has_sidecar and not ours:
        log.error("sidecar set aside: %s", store.set_aside(f"{name}.json"))
    if held.sha256 is not None and not same:
        log.error("damaged copy set aside: %s", store.set_aside(f"{name}.flac"))
    if not ours:
        note = capture.digest(beside)[0]
        store.put(f"{name}.json", beside, note)
        _expect(store, f"{name}.json", note)
    if not same:
        store.put(f"{name}.flac", flac, sidecar.sha256)
        _expect(store, f"{name}.flac", sidecar.sha256)


def _expect(store: Store, name: str, sha256: str) -> None:
    if store.digest(name) != sha256:
        raise StoreAway(f"{store.where(name)} does not read back as it was written: {store.set_aside(name)}.")


@dataclass(frozen=True)
class _Look:
    """What a store holds of a call."""

    sha256: str | None = None
    has_sidecar: bool = False
    sidecar: Sidecar | None = None
    trouble: str | None = None


def _look(store: Store, name: str, scratch: Path) -> _Look:
    file = scratch / f".look-{store.name}-{Path(name).name}"
    try:
        try:
            store.fetch(f"{name}.json", file)
            has_sidecar, sidecar = True, Sidecar.from_json(file.read_bytes())
        except Missing:
            has_sidecar, sidecar = False, None
        try:
            return _Look(store.digest(f"{name}.flac"), has_sidecar, sidecar)
        except Missing:
            return _Look(None, has_sidecar, sidecar)
    except StoreError as error:
        return _Look(trouble=str(error))
    finally:
        file.unlink(missing_ok=True)


def _agreed_on(held: Iterable[_Look]) -> str | None:
    """The checksum that a sidecar names and a copy has. None where there is none, or more than one."""
    looks = list(held)
    named = {look.sidecar.sha256 for look in looks if look.sidecar is not None}
    backed = named & {look.sha256 for look in looks if look.sha256 is not None}
    return backed.pop() if len(backed) == 1 else None


def _mend(store: Store, whole: Store, name: str, scratch: Path, copy: Copy) -> Copy:
    """Make a copy anew from a whole one."""
    try:
        for ending in (".json", ".flac"):
            good = scratch / f"{store.name}-{Path(name).name}{ending}"
            try:
                whole.fetch(name + ending, good)
                sha256, _ = capture.digest(good)
                with contextlib.suppress(Missing):
                    if store.digest(name + ending) == sha256:
                        continue
                    log.error("damaged copy set aside: %s", store.set_aside(name + ending))
                store.put(name + ending, good, sha256)
                _expect(store, name + ending, sha256)
            finally:
                good.unlink(missing_ok=True)
    except StoreError as error:
        return Copy(copy.store, copy.path, copy.state, copy.sha256, f"{copy.reason}; not mended: {error}")
    return Copy(copy.store, copy.path, State.WHOLE, store.digest(f"{name}.flac"), copy.reason, mended=True)
