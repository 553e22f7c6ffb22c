"""The process beside the event loop that does the arithmetic; a new one takes over when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

log = logging.getLogger("sanling.recordings")

P = ParamSpec("P")
T = TypeVar("T")

NICENESS = 10
"""Encoding gives way to Asterisk, whose callers would hear the delay."""


class WorkerDied(Exception):
    """The worker process died twice over the same job, or did not finish it in time."""


class _Late(Exception):
    pass


class Worker:
    """Runs one job at a time in a process of its own, which starts with the first job.

    One at a time, so that a job that kills the process takes no other job with it.
    """

    def __init__(self, *, job_within_s: float = 600.0) -> None:
        self.pid: int | None = None
        self._job_within_s = job_within_s
        self._pool: ProcessPoolExecutor | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `job`, a function at the top of a module. What it raises is raised here.

        A job whose process dies is tried once more in a new one. Raises WorkerDied.
        """
        async with self._turn:
            for attempt in (1, 2):
                try:
                    return await self._attempt(job, *args, **kwargs)
                except BrokenProcessPool:
                    log.warning("worker process died during %s, attempt %d", job.__name__, attempt)
                    await self._stop(at_once=True)
                except _Late as late:
                    await self._stop(at_once=True)
                    raise WorkerDied(f"{job.__name__} was not done in {self._job_within_s:g} s") from late
                except asyncio.CancelledError:
                    await asyncio.shield(self._stop(at_once=True))
                    raise
        raise WorkerDied(f"the worker process died twice during {job.__name__}")

    async def close(self) -> None:
        await self._stop(at_once=False)

    async def _attempt(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_settle_in)
            self.pid = await asyncio.wrap_future(await asyncio.to_thread(self._pool.submit, os.getpid))
        outcome = asyncio.wrap_future(self._pool.submit(job, *args, **kwargs))
        try:
            done, _ = await asyncio.wait([outcome], timeout=self._job_within_s)
            if not done:
                raise _Late
            return outcome.result()
        finally:
            outcome.cancel()

    async def _stop(self, *, at_once: bool) -> None:
        pool, self._pool = self._pool, None
        pid, self.pid = self.pid, None
        if pool is None:
            return
        if at_once and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)


def _settle_in() -> None:
    """Ctrl-C is the controller's business; and no worker outlives its controller, however that one ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    threading.Thread(target=_leave_with_parent, name="leave-with-parent", daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
