"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is ready.

A call of five minutes runs in milliseconds and always in the same order, so that no test sleeps or polls.
Two things that would hang a test on a real loop are errors here, each naming where the test stood:

- nothing is ready and nothing is scheduled, and the test still waits: `WaitsForever`;
- the clock has passed the test's horizon (a periodic task can keep a loop busy for ever): `PastTheHorizon`.

Work in threads (`asyncio.to_thread`, a database) is waited for in real time while the virtual clock stands still.
"""

from __future__ import annotations

import asyncio
import selectors
import types
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

HORIZON_S = 4 * 3600.0
"""Longer than any call: its ceiling is one hour."""

THREAD_DEADLINE_S = 30.0
"""Real seconds that a thread may work while the virtual clock stands still."""


class WaitsForever(AssertionError):
    """Nothing is ready, nothing is scheduled, and the test still waits."""


class PastTheHorizon(AssertionError):
    """The virtual clock passed the test's horizon and the test still waits."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.horizon_s = HORIZON_S
        self.threads_at_work = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads_at_work and (timeout is None or timeout > 0):
            ready = super().select(THREAD_DEADLINE_S)
            if not ready:
                raise WaitsForever(f"a thread has worked for {THREAD_DEADLINE_S:.0f} real seconds")
            return ready
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise WaitsForever(f"at {self.now:.3f} s nothing is scheduled any more")
        self.now += max(timeout, 0.0)
        if self.now > self.horizon_s:
            raise PastTheHorizon(f"at {self.now:.3f} s, past the horizon of {self.horizon_s:.0f} s")
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time, from 0 s."""

    def __init__(self, horizon_s: float = HORIZON_S) -> None:
        self._jumping = _JumpingSelector()
        self._jumping.horizon_s = horizon_s
        super().__init__(self._jumping)
        self.failures: list[BaseException] = []
        """What tasks and callbacks raised and nobody took: a test must not pass over it."""
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads_at_work += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._jumping.threads_at_work += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jumping.threads_at_work -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads_at_work -= 1

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or AssertionError(context["message"]))

    def move_horizon(self, horizon_s: float) -> None:
        self._jumping.horizon_s = horizon_s


def run_virtual(coro: Coroutine[Any, Any, T], *, horizon_s: float = HORIZON_S) -> T:
    """Like `asyncio.run`, in virtual time. Raises WaitsForever, PastTheHorizon."""
    loop = VirtualTimeLoop(horizon_s)
    try:
        asyncio.set_event_loop(loop)
        main = loop.create_task(coro, name="the test")
        try:
            result = loop.run_until_complete(main)
        except (WaitsForever, PastTheHorizon) as stuck:
            if main.done():
                raise
            where = "\n".join(f"  {line}" for task in asyncio.all_tasks(loop) for line in _whereabouts(task))
            stuck.add_note(f"Waiting:\n{where}")
            raise
        if loop.failures:
            raise BaseExceptionGroup("behind the test's back", loop.failures)
        return result
    finally:
        try:
            _cancel_the_rest(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_the_rest(loop: VirtualTimeLoop) -> None:
    loop.move_horizon(loop.time() + HORIZON_S)
    while rest := asyncio.all_tasks(loop):
        for task in rest:
            task.cancel()
        try:
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        except WaitsForever:
            stubborn = ", ".join(task.get_name() for task in asyncio.all_tasks(loop))
            raise WaitsForever(f"cancelled and never ended: {stubborn}") from None
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())


def _whereabouts(task: asyncio.Task[Any]) -> list[str]:
    """Where a task stands: file and line, from the outermost coroutine to the innermost."""
    lines = [task.get_name()]
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if isinstance(frame, types.FrameType):
            lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return lines
