"""The measurements, each of one flow: light load, busy agents, waiting, talking, and one rate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from ari_app.errors import SetUpFailed
from tests.bench import capture, hearing
from tests.bench.capture import Seen
from tests.bench.figures import holds
from tests.bench.houses import REGISTERED_FOR_S, SAY_S, Flow, Sanling, hang_up, reachable, register
from tests.bench.machine import Meter, Used, resident_kb
from tests.bench.phones import LONG, Phones
from tests.bench.plan import SETTLED_S

IDLE_S = 4.0
"""So long what nobody's calls cost is measured."""
RESTS_BELOW = 0.1
"""Of a core: a flow that uses less has done with its start, or with the run before (it seals recordings afterwards)."""
RESTS_WITHIN_S = 30.0
REGISTERED_AGAIN_AFTER_S = 0.6 * REGISTERED_FOR_S
PATIENCE_S = 60.0
SHORT_PATIENCE_S = 15.0
"""Of callers who should be served at once: an overload that holds them longer has failed them."""
CALL_S = 5.0
"""A short call lasts about so long, from INVITE to BYE."""
KEPT_UP_S = 120.0
EMPTY_WITHIN_S = 20.0
LINES_TOLD = 5


def numbers(prefix: str = "1549") -> Iterator[str]:
    """Callers' numbers, all different."""
    return (f"{prefix}{n:07d}" for n in count(1))


@dataclass
class Judged:
    """What became of the calls of one run."""

    calls: int
    failures: Counter[str]
    """By what went wrong; a call counts once, an error in the log once."""
    log: list[str]
    """The errors in it."""

    @property
    def failed(self) -> int:
        return self.failures.total()

    def told(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        failures = {"calls": self.calls, "failed": self.failed, "failures": dict(self.failures)}
        return failures | ({"log": self.log[:LINES_TOLD]} if self.log else {})


class Floor:
    """One flow with its agents at their phones."""

    def __init__(self, flow: Flow, phones: Phones) -> None:
        self.flow = flow
        self._phones = phones
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

    async def close(self) -> None:
        self._agents.close()
        await self.flow.close()

    def afterwards(self) -> dict[str, Any]:
        """What went wrong since the last measurement."""
        return self._judge(0, []).told() | {"valid": True}

    # The measurements. Each tells how many of its `calls` `failed`, of what, and whether it is `valid`.

    async def light(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        """Latencies, processor time and rows of each call, where nobody has to wait for anything."""
        await self.ready(on_duty)
        flow = self.flow
        idle = await self._idle()
        rows: dict[str, int] = await flow.rows() if isinstance(flow, Sanling) else {}
        meter = self._meter()
        seen, judged = await self._calls(rate, calls, audio=True)
        used = meter.used()
        each = used.less_idle(idle)
        parts = ("asterisk", "controller", "recordings", "agi") if flow.controller_pid else ("asterisk",)
        found: dict[str, Any] = {
            "answer_s": seen.answer_s(),
            "offer_s": seen.offer_s(),
            "join_s": seen.join_s(SAY_S),
            "cpu_ms": {name: round(getattr(each, name) * 1000 / calls, 3) for name in parts},
            **judged.told(),
            "valid": used.valid,
        }
        if isinstance(flow, Sanling):
            after = await flow.rows()
            found["rows"] = {name: round((after[name] - n) / calls, 2) for name, n in rows.items() if after[name] != n}
        return found

    async def _idle(self) -> Used:
        until = time.monotonic() + RESTS_WITHIN_S
        while time.monotonic() < until:
            meter = self._meter()
            await asyncio.sleep(1.0)
            used = meter.used()
            if used.flow < RESTS_BELOW * used.seconds:
                break
        meter = self._meter()
        await asyncio.sleep(IDLE_S)
        return meter.used()

    async def busy(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        """How soon a free agent has the next call, with too few agents for all who call."""
        await self.ready(on_duty)
        flow, callers = self.flow, list(islice(self._numbers, calls))
        meter = self._meter()
        with self._phones.capture(audio=False) as file:
            called = await self._phones.call(
                flow.places.pbx, flow.places.callers, callers, rate,
                patience_s=PATIENCE_S, within_s=calls / rate + PATIENCE_S,
            )  # fmt: skip
        seen = await asyncio.to_thread(self._watch, file)
        judged = self._judge(calls, seen.failed(callers).values(), called.failed)
        return {"next_s": seen.next_s(), **judged.told(), "valid": meter.used().valid}

    async def step(self, rate: float, calls: int, on_duty: int) -> dict[str, Any]:
        """Whether `rate` holds."""
        await self.ready(on_duty)
        meter = self._meter()
        _, judged = await self._calls(rate, calls, audio=False)
        used = meter.used()
        held = holds(judged.failed, calls)
        if held:
            await self._empty()
        else:  # nothing of it is left for the next one, which may hold
            await self._clear_away()
            late = self._judge(0, [])
            judged = Judged(calls, judged.failures + late.failures, judged.log + late.log)
        return {
            "rate": rate,
            "held": held,
            **judged.told(),
            "asterisk_cores": round(used.asterisk / used.seconds, 2),
            "controller_cores": round(used.controller / used.seconds, 2),
            "valid": used.valid,
        }

    async def waiting(self, callers: int, rate: float) -> dict[str, Any]:
        """Memory of callers who wait with music; then, of a hotline, how soon another controller has them all."""
        await self.ready(0, fresh=True)
        flow, meter, before = self.flow, self._meter(), self._memory()
        async with self._kept_up(list(islice(self._numbers, callers)), rate, waits=True):
            up, after = await flow.callers(), self._memory()
            judged = self._judge(callers, ["not waiting"] * (callers - up))
            found: dict[str, Any] = {"up": up, **self._each(before, after, up), **judged.told()}
            if isinstance(flow, Sanling) and up:
                back_s, taken_up = await flow.restart(up)
                # the killed one dies without a word: what stands in the log now is its successor's
                judged = self._judge(up, ["not taken up"] * (up - taken_up))
                found["restart"] = {"back_s": back_s, **judged.told()}
            found["valid"] = meter.used().valid
        return found

    async def talking(self, callers: int, rate: float, on_duty: int) -> dict[str, Any]:
        """Memory of callers in talk, recorded."""
        await self.ready(on_duty, fresh=True)
        flow, meter, before = self.flow, self._meter(), self._memory()
        async with self._kept_up(list(islice(self._long, callers)), rate):
            up, after = await flow.instance.channels() // 2, self._memory()
            judged = self._judge(callers, ["not talking"] * (callers - up))
            return {"up": up, **self._each(before, after, up), **judged.told(), "valid": meter.used().valid}

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
            await asyncio.sleep(len(callers) / rate + SETTLED_S)
            yield
        finally:
            calling.cancel()
            await asyncio.wait([calling])
            await self._clear_away()
            self.flow.errors()  # of all calls ended at once, which nobody measures

    def _meter(self) -> Meter:
        return Meter(self.flow.asterisk_pid, self.flow.controller_pid, self.flow.agi_pid)

    def _memory(self) -> dict[str, int]:
        flow = self.flow
        memory = {"asterisk_kb": resident_kb(flow.asterisk_pid)}
        return memory | ({"controller_kb": resident_kb(flow.controller_pid)} if flow.controller_pid else {})

    @staticmethod
    def _each(before: dict[str, int], after: dict[str, int], among: int) -> dict[str, float]:
        return {name: round((after[name] - kb) / among, 1) for name, kb in before.items()} if among else {}

    # Whole calls

    async def _calls(self, rate: float, calls: int, *, audio: bool) -> tuple[Seen, Judged]:
        flow, callers = self.flow, list(islice(self._numbers, calls))
        with self._phones.capture(audio=audio) as file:
            called = await self._phones.call(
                flow.places.pbx, flow.places.callers, callers, rate,
                patience_s=SHORT_PATIENCE_S, within_s=calls / rate + SHORT_PATIENCE_S + CALL_S,
            )  # fmt: skip
        seen = await asyncio.to_thread(self._watch, file)
        wrong = seen.failed(callers)
        served = [number for number in callers if number not in wrong]
        recordings = await flow.recordings(served)
        for number in served:
            if (why := hearing.wrong_with(recordings.get(number))) is not None:
                wrong[number] = why
        if flow.name != "sanling":
            for recording in recordings.values():
                recording.unlink()
        return seen, self._judge(calls, wrong.values(), called.failed)

    def _judge(self, calls: int, wrong: Iterable[str], sip_failed: int = 0) -> Judged:
        """`wrong`: what went wrong with each call that failed; sipp may have seen more fail. To these come the errors
        that the flow has logged since the last judgement, whenever that was.
        """
        failures, log = Counter(wrong), self.flow.errors()
        failures["SIP call failed"] = sip_failed - failures.total()
        failures["error in the log"] = len(log)
        return Judged(calls, +failures, log)

    def _watch(self, file: Any) -> Seen:
        seen = capture.watch(capture.read(file), self.flow.places)
        file.unlink()
        return seen

    async def _empty(self) -> None:
        until = time.monotonic() + EMPTY_WITHIN_S
        while time.monotonic() < until and await self.flow.calls_left():  # noqa: ASYNC110 - it does not tell
            await asyncio.sleep(0.2)

    async def _clear_away(self) -> None:
        """Ends all calls, then the flow, and drops what it recorded and has not stored: the next measurement, of
        either flow, is not to share the machine with the sealing of it.
        """
        self._on_duty = None
        with suppress(SetUpFailed):  # an Asterisk that was overloaded may not answer; its end comes all the same
            await hang_up(self.flow)
            await self._empty()
        await self.flow.close()
        for file in (self.flow.instance.settings.spool_dir / "monitor").rglob("*"):
            if file.is_file():
                file.unlink()
