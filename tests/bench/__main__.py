"""`make bench`: Sanling and its native twin under the same load, in turn. See docs/performance.md.

Runs in a network of its own (user and network namespaces): so sipp and the capture have the raw sockets they need
without root, the capture holds nothing but this benchmark, and no address is taken. See ADR 140.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ari_app.errors import SanlingError, SetUpFailed
from ari_app.instance import find_asterisk
from ari_app.settings import load
from tests.bench import machine, phones, report, selection
from tests.bench.figures import Climb
from tests.bench.houses import FOR_LOAD, SAY_S, Flow, Native, Sanling, short_prompts
from tests.bench.phones import Phones
from tests.bench.plan import QUICK, WHOLE, Budget, Form, turn_s
from tests.bench.runs import Floor

INSIDE = "BENCH_INSIDE"
NET = "127.0.40"

Say = Callable[[str], None]
Run = dict[str, Any]
Measure = Callable[[Floor], Awaitable[Run]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here, and the plots into a folder beside it")
    parser.add_argument("--quick", action="store_true", help="in some 5 minutes, with less of everything")
    parser.add_argument("--most-rate", type=float, help="calls a second that are not exceeded")
    parser.add_argument("--selection", action="store_true", help="only how long selection takes: no Asterisk, no calls")
    parser.add_argument("--keep", action="store_true", help="keep the run-time folder")
    return parser.parse_args()


class Bench:
    """One benchmark: `two` flows that take turns, and perhaps a `third`, which has its turn with busy agents only."""

    def __init__(self, form: Form, two: Sequence[Floor], third: Sequence[Floor], budget: Budget, say: Say) -> None:
        self._form = form
        self._two = two
        self._third = third
        self._budget = budget
        self._say = say
        self._rounds = report.no_rounds()

    async def all(self) -> dict[str, Any]:
        """Every measurement but selection. The climb comes last: cut off, it still says something."""
        form = self._form
        try:
            await self._take_turns("waiting", form.memory_rounds, self._waiting)
            await self._take_turns("talking", form.memory_rounds, self._talking)
            await self._take_turns("light", form.rounds, self._light)
            await self._take_turns("busy", form.rounds, self._busy)
            for one in self._third:
                if self._budget.allows(f"busy ({one.flow.name})", form.opens_s + turn_s(form, "default retry")):
                    self._rounds["busy"][one.flow.name] = [await self._run("busy", one, self._busy)]
            await self._climb()
        finally:
            for one in (*self._two, *self._third):
                await one.close()
        self._rounds["afterwards"] = {one.flow.name: [one.afterwards()] for one in (*self._two, *self._third)}
        return self._rounds

    def _waiting(self, one: Floor) -> Awaitable[Run]:
        return one.waiting(self._form.waiting, self._form.waiting_rate)

    def _talking(self, one: Floor) -> Awaitable[Run]:
        return one.talking(self._form.talking, self._form.talking_rate, self._form.agents)

    def _light(self, one: Floor) -> Awaitable[Run]:
        return one.light(self._form.light_rate, self._form.light_calls, self._form.agents)

    def _busy(self, one: Floor) -> Awaitable[Run]:
        return one.busy(self._form.busy_rate, self._form.busy_calls, self._form.busy_agents)

    async def _take_turns(self, what: str, rounds: int, measure: Measure) -> None:
        """A B A B …: what changes while the benchmark runs changes for both."""
        for n in range(1, rounds + 1):
            if not self._budget.allows(f"{what}, round {n}", len(self._two) * turn_s(self._form, what)):
                continue
            for one in self._two:
                run = await self._run(what, one, measure, f", round {n}")
                self._rounds[what].setdefault(one.flow.name, []).append(run)

    async def _climb(self) -> None:
        """To the highest rate that holds, in short steps; what they found is then tried at length."""
        form = self._form
        climbs = [
            Climb(form.first_rate, at_most=form.most_rate, steps=form.steps, confirmations=form.confirmations)
            for _ in self._two
        ]
        both = list(zip(self._two, climbs, strict=True))
        while pending := [(one, climb, rate) for one, climb in both if (rate := climb.rate) is not None]:
            if not self._budget.allows("the rest of the climb", len(pending) * turn_s(form, "step")):
                break
            for one, climb, rate in pending:
                step = await self._step("climb", one, rate, max(round(rate * form.step_s), 1))
                climb.tried(rate, held=step["held"])
        while pending := [(one, climb, rate) for one, climb in both if (rate := climb.unconfirmed) is not None]:
            takes_s = sum(turn_s(form, "confirmation", rate) for _, _, rate in pending)
            if not self._budget.allows("the rest of the confirmations", takes_s):
                break
            for one, climb, rate in pending:
                step = await self._step("confirmation", one, rate, form.confirming_calls)
                climb.tried_at_length(rate, held=step["held"])
        self._rounds["rates"] = {
            one.flow.name: {
                "held": climb.held, "failed": climb.failed, "converged": climb.converged, "confirmed": climb.confirmed
            }
            for one, climb in both
        }  # fmt: skip

    async def _step(self, what: str, one: Floor, rate: float, calls: int) -> Run:
        on_duty = self._form.agents
        run = await self._run(what, one, lambda one: one.step(rate, calls, on_duty), f" at {rate:g}/s")
        self._rounds[what].append({"flow": one.flow.name, **run})
        return run

    async def _run(self, what: str, one: Floor, measure: Measure, which: str = "") -> Run:
        """One measurement of one flow; once more, if there is time, where others used the machine beside it."""
        name = f"{what}{which}, {one.flow.name}"
        self._say(name)
        began = time.monotonic()
        run = await measure(one)
        self._tell(run)
        if not run["valid"] and self._budget.allows(f"{name}: once more", time.monotonic() - began):
            self._say(f"{name}: once more")
            self._rounds["repeated"].append({"measurement": what, "flow": one.flow.name, **run})
            run = await measure(one)
            self._tell(run)
        return run

    def _tell(self, run: Run) -> None:
        for one in (run, run.get("restart", {})):
            if one.get("failed"):
                self._say(f"    {one['failed']} of {one['calls']} failed: {one['failures']}")
            for line in one.get("log", []):
                self._say(f"      {line}")
        if not run["valid"]:
            self._say("    NOT VALID: other programs used more than a fifth of this machine")


def enter_own_network(root: Path) -> None:
    """Begins anew in namespaces of its own; never returns. Raises SetUpFailed where none can be made."""
    unshare = ["unshare", "--user", "--map-root-user", "--net", "--"]
    if shutil.which("unshare") is None:
        raise SetUpFailed("unshare is missing: run `sudo apt-get install -y util-linux`.")
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SetUpFailed(f"This machine lets nobody make a network namespace: {tried.stderr.strip()}")
    os.environ[INSIDE] = str(root)
    os.execvp("unshare", [*unshare, sys.executable, "-m", "tests.bench", *sys.argv[1:]])  # noqa: S606


def bring_loopback_up() -> None:
    """Linux gives a new network namespace a loopback interface that is down. netdevice(7)."""
    get, put, up, name = 0x8913, 0x8914, 0x1, b"lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, get, struct.pack("16sH22x", name, 0))
        _, flags = struct.unpack("16sH22x", request)
        fcntl.ioctl(any_socket, put, struct.pack("16sH22x", name, flags | up))


def main() -> int:
    chosen, console = arguments(), Console()
    form = QUICK if chosen.quick else WHOLE
    if chosen.most_rate:
        form = replace(form, most_rate=chosen.most_rate)
    rounds = report.no_rounds()
    about: dict[str, Any] = {"form": "quick" if chosen.quick else "whole"}
    try:
        if not chosen.selection and INSIDE not in os.environ:
            find_asterisk(load(Path(os.devnull), {}), console.print)  # while there is a network to fetch it from
            enter_own_network(phones.fetch(console.print))
        budget = Budget()
        console.print("selection")
        sizes = selection.measure(form.callers, form.on_duty, form.selections)
        if not chosen.selection:
            rounds |= calls(form, chosen, about, Path(os.environ[INSIDE]), budget, console)
    except SanlingError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    result: dict[str, Any] = {
        **about,
        "machine": machine.describe(),
        "settings": {**FOR_LOAD, "every_prompt_s": SAY_S, "talk_ms": phones.TALK_MS, "form": asdict(form)},
        "valid": not report.invalid(rounds),
        "invalid": report.invalid(rounds),
        "skipped": budget.skipped,
        "failures": report.failures(rounds),
        "figures": report.summary(rounds),
        "selection": sizes,
        "rounds": rounds,
        "minutes": round(budget.minutes, 1),
    }
    found = report.lines(result["figures"], sizes, result["failures"])
    result["table"] = [asdict(one) for one in found]
    shown = [one for one in found if one.sanling or one.native]
    title = f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['minutes']} min"
    report.show(shown, console, title if result["valid"] else f"{title}, NOT VALID")
    for remark in report.remarks(result):
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files = report.plot(result, chosen.json.with_suffix(""))
        console.print(f"{chosen.json}; {len(files)} plots in {chosen.json.with_suffix('')}/")
    wrong, _ = report.failed(result["failures"])
    return 1 if wrong or not result["valid"] else 0


def calls(
    form: Form, chosen: argparse.Namespace, about: dict[str, Any], root: Path, budget: Budget, console: Console
) -> dict[str, Any]:
    """All that needs calls, in the network of its own."""
    bring_loopback_up()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="sanling-bench-"))

    def say(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False)

    try:
        short_prompts(folder / "prompts")
        gear, sanling = Phones(root, folder), Sanling(folder, NET, form.agents)
        two: list[Flow] = [sanling, Native(folder, NET, sanling.access.values())]
        third: list[Flow] = [Native(folder, NET, sanling.access.values(), retry_s=5)] if form.default_retry else []
        about |= {"asterisk": sanling.instance.asterisk_version, "sipp": phones.version(root)}
        floors, others = ([Floor(flow, gear) for flow in flows] for flows in (two, third))
        return asyncio.run(Bench(form, floors, others, budget, say).all())
    finally:
        if chosen.keep:
            console.print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
