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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from ari_app.errors import SanlingError, SetUpFailed
from ari_app.instance import find_asterisk
from ari_app.settings import load
from tests.bench import machine, phones, report, selection
from tests.bench.figures import Climb, holds
from tests.bench.houses import FOR_LOAD, SAY_S, Flow, Native, Sanling, short_prompts
from tests.bench.phones import Phones
from tests.bench.runs import Floor

INSIDE = "BENCH_INSIDE"
NET = "127.0.40"


@dataclass(frozen=True)
class Form:
    """How much is measured."""

    rounds: int
    agents: int
    light_rate: float
    light_calls: int
    busy_agents: int
    busy_rate: float
    busy_calls: int
    first_rate: float
    most_rate: float
    steps: int
    step_s: float
    climbs: int
    waiting: int
    waiting_rate: float
    talking: int
    default_retry: bool
    """Also the twin with app_queue's own retry of 5 s."""
    callers: tuple[int, ...]
    on_duty: tuple[int, ...]
    selections: int


QUICK = Form(
    rounds=1, agents=100, light_rate=5.0, light_calls=40, busy_agents=8, busy_rate=6.0, busy_calls=48, first_rate=10.0,
    most_rate=40.0, steps=3, step_s=5.0, climbs=1, waiting=100, waiting_rate=25.0, talking=40, default_retry=False,
    callers=(10, 1_000, 10_000), on_duty=(10, 1_000), selections=500,
)  # fmt: skip
WHOLE = Form(
    rounds=3, agents=400, light_rate=8.0, light_calls=240, busy_agents=12, busy_rate=8.0, busy_calls=160,
    first_rate=20.0, most_rate=400.0, steps=9, step_s=15.0, climbs=2, waiting=500, waiting_rate=25.0, talking=100,
    default_retry=True, callers=selection.CALLERS, on_duty=selection.AGENTS, selections=selection.TIMES,
)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here, and the plots into a folder beside it")
    parser.add_argument("--quick", action="store_true", help="in under 5 minutes, with less of everything")
    parser.add_argument("--seed", type=int, default=None, help="of the order in which the flows take turns")
    parser.add_argument("--most-rate", type=float, help="calls a second that are not exceeded")
    parser.add_argument("--selection", action="store_true", help="only how long selection takes: no Asterisk, no calls")
    parser.add_argument("--keep", action="store_true", help="keep the run-time folder")
    chosen = parser.parse_args()
    if chosen.seed is None:
        chosen.seed = Random().randrange(1_000_000)
    return chosen


class Bench:
    """One benchmark, in a folder of its own."""

    def __init__(self, form: Form, seed: int, folder: Path, root: Path, console: Console) -> None:
        self._form = form
        self._rng = Random(seed)
        self._console = console
        short_prompts(folder / "prompts")
        gear = Phones(root, folder)
        sanling = Sanling(folder, NET, form.agents)
        flows: list[Flow] = [sanling, Native(folder, NET, sanling.access.values())]
        self._two = [Floor(flow, gear, self._say) for flow in flows]
        self._third: list[Floor] = []
        if form.default_retry:
            lazy = Native(folder, NET, sanling.access.values(), retry_s=5)
            self._third = [Floor(lazy, gear, self._say)]
        self.asterisk = sanling.instance.asterisk_version

    async def all(self) -> dict[str, Any]:
        """Every measurement but selection, by kind and flow."""
        form = self._form
        rounds: dict[str, Any] = {"light": {}, "busy": {}, "rates": {}, "steps": [], "waiting": {}, "talking": {}}
        try:
            for one in self._two:
                self._say(f"{one.flow.name}: {form.waiting} callers wait")
                rounds["waiting"][one.flow.name] = await one.waiting(form.waiting, form.waiting_rate)
            for one in self._two:
                self._say(f"{one.flow.name}: {form.talking} callers talk")
                rounds["talking"][one.flow.name] = await one.talking(form.talking, 10.0, form.agents)
            for n in range(form.rounds):
                for one in self._shuffled(self._two):
                    self._say(f"round {n + 1}, {one.flow.name}: {form.light_calls} calls at {form.light_rate:g}/s")
                    run = await one.light(form.light_rate, form.light_calls, form.agents)
                    rounds["light"].setdefault(one.flow.name, []).append(run)
                    self._tell(run)
            for n in range(form.climbs):
                self._say(f"climb {n + 1}")
                await self._climb(rounds)
            for n in range(form.rounds):
                for one in self._shuffled([*self._two, *self._third]):
                    self._say(f"round {n + 1}, {one.flow.name}: {form.busy_calls} calls for {form.busy_agents} agents")
                    run = await one.busy(form.busy_rate, form.busy_calls, form.busy_agents)
                    rounds["busy"].setdefault(one.flow.name, []).append(run)
                    self._tell(run)
        finally:
            for one in (*self._two, *self._third):
                await one.close()
        return rounds

    async def _climb(self, rounds: dict[str, Any]) -> None:
        form = self._form
        climbs = {one.flow.name: Climb(form.first_rate, at_most=form.most_rate, steps=form.steps) for one in self._two}
        while any(climb.rate is not None for climb in climbs.values()):
            for one in self._shuffled(self._two):
                climb = climbs[one.flow.name]
                if (rate := climb.rate) is None:
                    continue
                step = await one.step(rate, max(round(rate * form.step_s), 1), form.agents)
                climb.tried(rate, held=holds(step["failed"], step["calls"]))
                rounds["steps"].append({"flow": one.flow.name, **step})
                self._say(f"  {one.flow.name} at {rate:g}/s: {step['failed']} of {step['calls']} calls failed")
                self._tell(step)
        for name, climb in climbs.items():
            rounds["rates"].setdefault(name, []).append(climb.held)

    def _shuffled(self, floors: Sequence[Floor]) -> list[Floor]:
        return self._rng.sample(list(floors), len(floors))

    def _tell(self, run: dict[str, Any]) -> None:
        if run["failures"]:
            self._say(f"    failed: {run['failures']}")
        if not run["valid"]:
            self._say("    INVALID: other programs used more than a fifth of this machine")

    def _say(self, line: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False)


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
        form = Form(**{**asdict(form), "most_rate": chosen.most_rate})
    began = time.monotonic()
    result: dict[str, Any] = {"form": "quick" if chosen.quick else "whole", "seed": chosen.seed}
    try:
        rounds: dict[str, Any] = {"light": {}, "busy": {}, "rates": {}, "steps": [], "waiting": {}, "talking": {}}
        if not chosen.selection:
            if INSIDE not in os.environ:
                find_asterisk(load(Path(os.devnull), {}), console.print)  # while there is a network to fetch it from
                enter_own_network(phones.fetch(console.print))
            rounds |= calls(form, chosen, result, Path(os.environ[INSIDE]), console)
        console.print("selection")
        chosen_sizes = selection.measure(form.callers, form.on_duty, form.selections)
    except SanlingError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    result |= {
        "machine": machine.describe(),
        "settings": {**FOR_LOAD, "every_prompt_s": SAY_S, "talk_ms": phones.TALK_MS, "form": asdict(form)},
        "figures": report.summary(rounds),
        "selection": chosen_sizes,
        "rounds": rounds,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    found = report.lines(result["figures"], chosen_sizes)
    result["table"] = [asdict(one) for one in found]
    shown = [one for one in found if one.sanling or one.native]
    report.show(
        shown, console, f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['minutes']} min"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files = report.plot(result, chosen.json.with_suffix(""))
        console.print(f"{chosen.json}; {len(files)} plots in {chosen.json.with_suffix('')}/")
    return 0


def calls(
    form: Form, chosen: argparse.Namespace, result: dict[str, Any], root: Path, console: Console
) -> dict[str, Any]:
    """All that needs calls, in the network of its own."""
    bring_loopback_up()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = Path(tempfile.mkdtemp(prefix="sanling-bench-"))
    try:
        bench = Bench(form, chosen.seed, folder, root, console)
        result |= {"asterisk": bench.asterisk, "sipp": phones.version(root)}
        return asyncio.run(bench.all())
    finally:
        if chosen.keep:
            console.print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
