"""`make faults`: a whole hotline, random calls, random faults, and the laws afterwards. See docs/faults.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import func, select

from ari_app import callbacks, store
from ari_app.errors import SanlingError
from ari_app.store.models import Agent, Call, Ending
from tests.faults.harm import WEIGHTS, Harm, can_borrow_sockets, planned
from tests.faults.house import House, cpu_s, machine_cpu_s
from tests.faults.laws import HELD, LAWS, Evidence, longest_silence_s, percentiles, silence_by_fault, united
from tests.faults.lightphone import AGENT_TONE, CALLER_TONE, Line
from tests.faults.people import LONGEST_CALL_S, CalledBack, Caller, CallerPlan, Floor, Tape, plan_caller

QUIET_WITHIN_S = 90.0
"""A recording that Asterisk did not end is left alone for 15 s, looked for every 10 s, and a store retried after 16."""
TOLD_EVERY_S = 10.0
FIRST_FAULT_AFTER_S = 5.0
LATE_SHARE = 0.01
"""Phones that were late for more than this share of the run are no witnesses: the run is invalid."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="the same seed plans the same calls and faults")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--rate", type=float, default=5.0, help="calls a second, on average")
    parser.add_argument("--at-once", type=int, default=60, help="no more calls at once; the next one waits")
    parser.add_argument("--longest", type=float, default=LONGEST_CALL_S, help="seconds after which a caller gives up")
    parser.add_argument("--agents", type=int, default=40)
    parser.add_argument("--fault-every", type=float, default=20.0, help="seconds between faults, on average; 0: none")
    parser.add_argument("--kinds", help=f"only these faults, split by commas: {', '.join(WEIGHTS)}")
    parser.add_argument("--keep", action="store_true", help="keep the run-time folder even if every law held")
    chosen = parser.parse_args()
    if chosen.seed is None:
        chosen.seed = Random().randrange(1_000_000)
    return chosen


class Run:
    """One run of the harness."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.tapes: list[Tape] = []
        self.called_back: list[Tape] = []
        self.asterisk_killed: list[float] = []
        self.house = House.temporary(chosen.agents)
        self._went = 0
        self._on_line = 0
        self._most = 0

    async def all(self) -> dict[str, Any]:
        """The whole run: what it found."""
        chosen, house = self.chosen, self.house
        self._say(f"seed {chosen.seed}: {chosen.calls} calls, {chosen.agents} agents, in {house.settings.run_dir}")
        house.start()
        go_first()
        try:
            net = house.settings.address.rpartition(".")[0]
            server = (house.settings.address, house.settings.sip_port)
            called = CalledBack(chosen.seed, self.called_back)
            self.callers = Line(f"{net}.2", server, voice=CALLER_TONE, far_period=8, on_invite=called.rung)
            self.agents = Line(f"{net}.3", server, voice=AGENT_TONE, far_period=16, on_invite=self._rung)
            self.floor = Floor(chosen.seed, house.access, self.agents)
            async with self.callers, self.agents:
                self._say(f"{await self.floor.open()} agents signed in")
                began = time.time()
                self.harm = Harm(house, self._asterisk_died, self.floor.register_again)
                watching = [asyncio.create_task(self.floor.watch_the_wall(self._states))]
                watching.append(asyncio.create_task(self._tell()))
                if chosen.fault_every:
                    watching.append(asyncio.create_task(self._harm()))
                own, tree, machine = self._cpu()
                await self._calls(began)
                seconds = time.time() - began
                self._say(f"all calls are over after {seconds:.0f} s")
                busy = [(now - then) / seconds for now, then in zip(self._cpu(), (own, tree, machine), strict=True)]
                for task in watching[2:]:
                    task.cancel()
                await self.harm.over()
                quiet_s = await self._quiet()
                for task in watching:
                    task.cancel()
                self.floor.close()
                evidence = self._evidence()
                result = await asyncio.to_thread(self._judge, evidence, began, quiet_s, busy)
        finally:
            house.stop()
        return result

    @staticmethod
    def _cpu() -> tuple[float, float, float]:
        """Processor time in seconds: of the phones, of them and the hotline, of the whole machine."""
        return cpu_s(os.getpid()), cpu_s(os.getpid(), below=True), machine_cpu_s()

    # The calls

    async def _calls(self, began: float) -> None:
        free = asyncio.Semaphore(self.chosen.at_once)
        async with asyncio.TaskGroup() as group:
            for plan in self._plans():
                await asyncio.sleep(max(0.0, began + plan.at_s - time.time()))
                await free.acquire()
                group.create_task(self._call(plan, free), name=f"caller {plan.n}")

    def _plans(self) -> Iterator[CallerPlan]:
        rng, at_s = Random(f"{self.chosen.seed} arrivals"), 0.0
        for n in range(self.chosen.calls):
            at_s += rng.expovariate(self.chosen.rate)
            yield plan_caller(self.chosen.seed, n, at_s)

    async def _call(self, plan: CallerPlan, free: asyncio.Semaphore) -> None:
        self._went += 1
        self._on_line += 1
        self._most = max(self._most, self._on_line)
        try:
            self.tapes.append(await Caller(plan, self.callers, self.chosen.longest).call())
        finally:
            self._on_line -= 1
            free.release()

    def _rung(self, user: str, leg: Any) -> None:
        self.floor.rung(user, leg)

    async def _states(self) -> dict[str, str]:
        try:
            rows = await self.house.ask(lambda s: s.execute(select(Agent.number, Agent.state)).all())
            return {number: state for number, state in rows}
        except SanlingError:  # the wall is dark while the database is away
            return {}

    # The faults

    async def _harm(self) -> None:
        await asyncio.sleep(FIRST_FAULT_AFTER_S)
        weights = {kind: WEIGHTS[kind] for kind in self.chosen.kinds.split(",")} if self.chosen.kinds else WEIGHTS
        for plan in planned(self.chosen.seed, self.chosen.fault_every, weights):
            strike = await self.harm.strike(plan)
            self._say(f"  {plan.kind}{f': {strike.missed}' if strike.missed else ''}")
            await asyncio.sleep(plan.after_s)

    def _asterisk_died(self, at: float) -> None:
        self.asterisk_killed.append(at)
        self.callers.cut(at)
        self.agents.cut(at)

    # Afterwards

    async def _quiet(self) -> float:
        """Waits until nothing moves any more; how long that took."""
        began, calm, told = time.monotonic(), 0, ""
        while time.monotonic() - began < QUIET_WITHIN_S and calm < 3:
            await asyncio.sleep(0.5)
            moving = await self._moving()
            calm = 0 if moving else calm + 1
            if moving and moving != told:
                told = moving
                self._say(f"  waiting for {moving}")
        self._say(f"quiet after {time.monotonic() - began:.0f} s{'' if calm else ': it did not become quiet'}")
        return time.monotonic() - began

    async def _moving(self) -> str:
        """What is not at its end yet; "" if all is."""
        channels, bridges = await asyncio.to_thread(self._left_in_asterisk)
        if channels or bridges:
            return f"{len(channels)} channels and {len(bridges)} bridges"
        if spool := self._spool():
            return f"{len(spool)} files in the spool, such as {spool[0]}"
        try:
            open_calls, held, wishes = await self.house.ask(
                lambda s: (
                    s.scalar(select(func.count()).select_from(Call).outerjoin(Ending, Ending.call_id == Call.id)
                             .where(Ending.call_id.is_(None))),
                    s.scalar(select(func.count()).select_from(Agent).where(Agent.state.in_((*HELD, "wrap_up")))),
                    len(callbacks.read(s)),
                )
            )  # fmt: skip
        except SanlingError:
            return "the database"
        moving = {"open calls": open_calls, "agents": held, "callbacks": wishes}
        return " and ".join(f"{count} {what}" for what, count in moving.items() if count)

    def _left_in_asterisk(self) -> tuple[list[str], list[str]]:
        try:
            return (
                [one["name"] for one in self.house.ari("channels")],
                [one["id"] for one in self.house.ari("bridges")],
            )
        except (OSError, HTTPException, ValueError):
            return (["(Asterisk does not answer)"], [])

    def _spool(self) -> list[str]:
        spool = self.house.settings.spool_dir
        return [
            str(file.relative_to(spool))
            for folder in ("monitor", "monitor/staged", "callbacks")
            for file in sorted((spool / folder).glob("*"))
            if file.is_file() and not file.name.startswith(".")
        ]

    def _evidence(self) -> dict[str, Any]:
        channels, bridges = self._left_in_asterisk()
        return {
            "tapes": self.tapes,
            "called_back": self.called_back,
            "rings": self.floor.rings,
            "at_once": [(at, phone.number, one, other)
                        for phone in self.floor.phones.values() for at, one, other in phone.at_once],
            "strikes": self.harm.strikes,
            "asterisk_killed": self.asterisk_killed,
            "late": united(self.callers.late.spans + self.agents.late.spans),
            "channels": channels,
            "bridges": bridges,
            "spool": self._spool(),
        }  # fmt: skip

    def _judge(self, found: dict[str, Any], began: float, quiet_s: float, busy: list[float]) -> dict[str, Any]:
        engine = store.open_engine(self.house.settings.database)
        with store.session(engine) as session:
            evidence = Evidence(session=session, **found)
            violations = {name: law(evidence) for name, law in LAWS.items()}
            outcomes = Counter(ending.outcome for ending in evidence.endings.values())
            longest, by_fault = longest_silence_s(evidence), silence_by_fault(evidence)
        engine.dispose()
        strikes = [strike for strike in self.harm.strikes if not strike.missed]
        late_s = sum(until - since for since, until in found["late"])
        seconds = time.time() - began
        return {
            "calls": len(self.tapes),
            "called_back": len(self.called_back),
            "faults": dict(sorted(Counter(strike.kind for strike in strikes).items())),
            "laws": {name: len(wrong) for name, wrong in violations.items()},
            "control_back_s": percentiles(s.back_s for s in strikes if s.back_s is not None),
            "control_back_from_start_s": percentiles(
                s.back_from_start_s for s in strikes if s.back_from_start_s is not None
            ),
            "control_back_by_fault_s": {
                kind: percentiles(s.back_s for s in strikes if s.kind == kind and s.back_s is not None)
                for kind in sorted({s.kind for s in strikes if s.back_s is not None})
            },
            "longest_silence_s": round(longest, 2),
            "silence_by_fault_s": by_fault,
            "seed": self.chosen.seed,
            "asterisk": self.house.instance.asterisk_version,
            "seconds": round(seconds, 1),
            "quiet_s": round(quiet_s, 1),
            "most_at_once": self._most,
            "talks": sum(tape.talked for tape in self.tapes),
            "outcomes": dict(sorted(outcomes.items())),
            "phones": {
                "valid": late_s <= LATE_SHARE * seconds,
                "late_s": round(late_s, 2),
                "late_times": len(found["late"]),
                "latest_s": round(max(self.callers.late.longest_s, self.agents.late.longest_s), 3),
            },
            "cpu_of_a_core": {
                "phones": round(busy[0], 2),
                "hotline": round(busy[1] - busy[0], 2),
                "others": round(busy[2] - busy[1], 2),
                "cores": os.cpu_count(),
            },
            "violations": violations,
            "strikes": [asdict(strike) for strike in self.harm.strikes],
            "run_dir": str(self.house.settings.run_dir),
        }

    async def _tell(self) -> None:
        names = ("asterisk", "controller", "agi")
        before: dict[int, float] = {}
        while True:
            pids = {name: self.house.pid_of(name) for name in names}
            used = {pid: cpu_s(pid) for pid in (*pids.values(), os.getpid()) if pid}
            shares = ", ".join(
                f"{name} {(used[pid] - before[pid]) / TOLD_EVERY_S:.0%}"
                for name, pid in {**pids, "phones": os.getpid()}.items()
                if pid in before and pid in used
            )
            before = used
            self._say(f"{len(self.tapes)} of {self.chosen.calls} calls over, {self._on_line} on the line; {shares}")
            await asyncio.sleep(TOLD_EVERY_S)

    def _say(self, line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def go_first() -> None:
    """Has the phones come before everybody else, if this user may: a witness that is late is none."""
    with contextlib.suppress(OSError):  # nice is not enough where Linux shares the processor between sessions first
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def summary(result: dict[str, Any]) -> str:
    lines = [f"\n{result['calls']} calls, {result['talks']} talks, {sum(result['faults'].values())} faults, "
             f"seed {result['seed']}, Asterisk {result['asterisk']}, {result['seconds']:.0f} s"]  # fmt: skip
    lines += [f"  {'✓' if not n else '✗'} {name}{f': {n}' if n else ''}" for name, n in result["laws"].items()]
    for name, wrong in result["violations"].items():
        lines += [f"    {name}: {one}" for one in wrong[:12]]
        lines += [f"    {name}: … and {len(wrong) - 12} more"] if len(wrong) > 12 else []
    lines.append(
        f"  control back {result['control_back_s']}, from the process's start {result['control_back_from_start_s']}"
    )
    lines.append(f"  longest silence {result['longest_silence_s']} s, by fault {result['silence_by_fault_s']}")
    lines.append(f"  outcomes {result['outcomes']}; phones {result['phones']}")
    lines.append(f"  processor, of one core: {result['cpu_of_a_core']}")
    if not result["phones"]["valid"]:
        lines.append("  INVALID: the phones were late for too long; run it with fewer calls at once")
    return "\n".join(lines)


def main() -> int:
    chosen = arguments()
    if not can_borrow_sockets():
        print("This machine does not let a process borrow another's sockets (pidfd_getfd): the link cannot be harmed.")
        return 2
    run = Run(chosen)
    result = asyncio.run(run.all())
    held = not any(result["laws"].values())
    print(summary(result))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if held and not chosen.keep:
        run.house.remove()
    else:
        print(f"  kept: {result['run_dir']} (log/, sanling.db, recordings/)")
    return 0 if held and result["phones"]["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
