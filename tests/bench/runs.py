"""The measurements, each of one flow: light load, busy agents, waiting, talking, and one rate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from tests.bench import capture, hearing
from tests.bench.capture import Seen
from tests.bench.houses import REGISTERED_FOR_S, SAY_S, Flow, Sanling, reachable, register
from tests.bench.machine import Meter, Used, resident_kb
from tests.bench.phones import LONG, Phones

IDLE_S = 4.0
"""So long what nobody's calls cost is measured."""
RESTS_BELOW = 0.1
"""Of a core: a flow that uses less has done with its start, or with the run before (it seals recordings afterwards)."""
RESTS_WITHIN_S = 30.0
REGISTERED_AGAIN_AFTER_S = 0.6 * REGISTERED_FOR_S
PATIENCE_S = 40.0
SHORT_PATIENCE_S = 15.0
"""Of callers who should be served at once: an overload that holds them longer has failed them."""
CALL_S = 5.0
"""A short call lasts about so long, from INVITE to BYE."""
SETTLES_S = 4.0
KEPT_UP_S = 120.0
EMPTY_WITHIN_S = 20.0

Say = Callable[[str], None]


def numbers(prefix: str = "1549") -> Iterator[str]:
    """Callers' numbers, all different."""
    return (f"{prefix}{n:07d}" for n in count(1))


@dataclass
class Judged:
    """What became of the calls of one run."""

    calls: int
    failures: Counter[str] = field(default_factory=Counter)
    """By what went wrong; a call counts once, an error in the log once."""

    @property
    def failed(self) -> int:
        return self.failures.total()


class Floor:
    """One flow with its agents at their phones."""

    def __init__(self, flow: Flow, phones: Phones, say: Say) -> None:
        self.flow = flow
        self._phones = phones
        self._say = say
        self._on_duty: int | None = None
        self._registered_at: float | None = None
        self._agents = ExitStack()
        self._numbers, self._long = numbers(), numbers(LONG)

    async def ready(self, on_duty: int, *, fresh: bool = False) -> None:
        """So many agents take calls, and can be reached; `fresh`: from a new start."""
        if fresh or on_duty != self._on_duty or not await self.flow.all_on_duty():
            await self.flow.open(on_duty)
            self._on_duty, self._registered_at = on_duty, None
        if self._registered_at is None or time.monotonic() - self._registered_at > REGISTERED_AGAIN_AFTER_S:
            self._agents.close()
            await register(self.flow)
            self._registered_at = time.monotonic()
            self._agents.enter_context(self._phones.agents(self.flow.places.agents))
        await reachable(self.flow)
        self.flow.errors()

    async def close(self) -> None:
        self._agents.close()
        await self.flow.close()

    # The measurements

    async def light(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        """Latencies, processor time and rows of each call, where nobody has to wait for anything."""
        await self.ready(on_duty)
        flow = self.flow
        idle = await self._idle()
        rows: dict[str, int] = await flow.rows() if isinstance(flow, Sanling) else {}
        meter = Meter(flow.asterisk_pid, flow.controller_pid)
        seen, judged = await self._calls(rate, calls, audio=True)
        used = meter.used()
        each = used.less_idle(idle)
        found: dict[str, Any] = {
            "answer_s": seen.answer_s(),
            "offer_s": seen.offer_s(),
            "join_s": seen.join_s(SAY_S),
            "cpu_ms": {
                name: round(getattr(each, name) * 1000 / calls, 3) for name in ("asterisk", "controller", "recordings")
            },
            "calls": calls,
            "failures": dict(judged.failures),
            "valid": used.valid,
        }
        if isinstance(flow, Sanling):
            after = await flow.rows()
            found["rows"] = {name: round((after[name] - n) / calls, 2) for name, n in rows.items() if after[name] != n}
        return found

    async def _idle(self) -> Used:
        until = time.monotonic() + RESTS_WITHIN_S
        while time.monotonic() < until:
            meter = Meter(self.flow.asterisk_pid, self.flow.controller_pid)
            await asyncio.sleep(1.0)
            used = meter.used()
            if used.asterisk + used.controller + used.recordings < RESTS_BELOW * used.seconds:
                break
        meter = Meter(self.flow.asterisk_pid, self.flow.controller_pid)
        await asyncio.sleep(IDLE_S)
        return meter.used()

    async def busy(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        """How soon a free agent has the next call, with too few agents for all who call."""
        await self.ready(on_duty)
        flow, callers = self.flow, list(islice(self._numbers, calls))
        meter = Meter(flow.asterisk_pid, flow.controller_pid)
        with self._phones.capture(audio=False) as file:
            called = await self._phones.call(
                flow.places.pbx, flow.places.callers, callers, rate,
                patience_s=PATIENCE_S, within_s=calls / rate + PATIENCE_S,
            )  # fmt: skip
        seen = await asyncio.to_thread(self._watch, file)
        return {
            "next_s": seen.next_s(),
            "calls": calls,
            "failures": dict(Counter(seen.failed(callers).values())),
            "sip_failures": called.failed,
            "valid": meter.used().valid,
        }

    async def step(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        """Whether `rate` holds."""
        await self.ready(on_duty)
        meter = Meter(self.flow.asterisk_pid, self.flow.controller_pid)
        _, judged = await self._calls(rate, calls, audio=False)
        used = meter.used()
        if judged.failed:  # nothing of it is left for the next one
            self._on_duty = None
        await self._empty()
        return {
            "rate": rate,
            "calls": calls,
            "failed": judged.failed,
            "failures": dict(judged.failures),
            "asterisk_cores": round(used.asterisk / used.seconds, 2),
            "controller_cores": round(used.controller / used.seconds, 2),
            "valid": used.valid,
        }

    async def waiting(self, callers: int, rate: float) -> dict[str, Any]:
        """Memory of callers who wait with music; then, of a hotline, how soon another controller has them all."""
        await self.ready(0, fresh=True)
        flow = self.flow
        before = self._memory()
        async with self._kept_up(list(islice(self._numbers, callers)), rate, waits=True):
            up, after = await flow.instance.channels(), self._memory()
            found: dict[str, Any] = {"callers": up, **{name: _each(after[name] - before[name], up) for name in after}}
            if isinstance(flow, Sanling):
                found["back_s"] = await flow.back_after_s(up)
        return found

    async def talking(self, callers: int, rate: float, on_duty: int) -> dict[str, Any]:
        """Memory of callers in talk, recorded."""
        await self.ready(on_duty, fresh=True)
        flow, before = self.flow, self._memory()
        async with self._kept_up(list(islice(self._long, callers)), rate):
            talks, after = await flow.instance.channels() // 2, self._memory()
        return {"talks": talks, **{name: _each(after[name] - before[name], talks) for name in after}}

    @asynccontextmanager
    async def _kept_up(self, callers: Sequence[str], rate: float, *, waits: bool = False) -> AsyncIterator[None]:
        """All of them have called by now; afterwards nothing of the flow is as it was."""
        calling = asyncio.create_task(
            self._phones.call(
                self.flow.places.pbx, self.flow.places.callers, callers, rate, patience_s=KEPT_UP_S, waits=waits,
                within_s=KEPT_UP_S,
            )
        )  # fmt: skip
        try:
            await asyncio.sleep(len(callers) / rate + SETTLES_S)
            yield
        finally:
            calling.cancel()
            await asyncio.wait([calling])
            self._on_duty = None

    def _memory(self) -> dict[str, int]:
        flow = self.flow
        memory = {"asterisk_kb": resident_kb(flow.asterisk_pid)}
        return memory | ({"controller_kb": resident_kb(flow.controller_pid)} if flow.controller_pid else {})

    # Whole calls

    async def _calls(self, rate: float, calls: int, *, audio: bool) -> tuple[Seen, Judged]:
        flow, callers = self.flow, list(islice(self._numbers, calls))
        with self._phones.capture(audio=audio) as file:
            called = await self._phones.call(
                flow.places.pbx, flow.places.callers, callers, rate,
                patience_s=SHORT_PATIENCE_S, within_s=calls / rate + SHORT_PATIENCE_S + CALL_S,
            )  # fmt: skip
        seen = await asyncio.to_thread(self._watch, file)
        recordings = await flow.recordings(callers)
        wrong = seen.failed(callers)
        for number in callers:
            if number not in wrong and (why := hearing.wrong_with(recordings.get(number))) is not None:
                wrong[number] = why
        judged = Judged(calls, Counter(wrong.values()))
        judged.failures["error in the log"] += len(flow.errors())
        judged.failures["SIP call failed"] += max(called.failed - len(wrong), 0)
        judged.failures = +judged.failures
        if flow.name != "sanling":
            for recording in recordings.values():
                recording.unlink()
        return seen, judged

    def _watch(self, file: Any) -> Seen:
        seen = capture.watch(capture.read(file), self.flow.places)
        file.unlink()
        return seen

    async def _empty(self) -> None:
        until = time.monotonic() + EMPTY_WITHIN_S
        while time.monotonic() < until and await self.flow.instance.channels():  # noqa: ASYNC110 - it does not tell
            await asyncio.sleep(0.2)


def _each(kb: int, among: int) -> float | None:
    return round(kb / among, 1) if among else None
