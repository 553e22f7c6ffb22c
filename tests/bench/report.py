"""The result as a table in the terminal and a plot per figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import PERCENTILES, Spread, growth, percentiles_ms

SANLING, NATIVE = "sanling", "native"
LATENCIES = {
    "answer_s": "INVITE → 200",
    "offer_s": "last digit → agent's INVITE",
    "join_s": "agent's 200 → audio both ways",
    "next_s": "agent free → next caller's INVITE",
}
CPU = {
    "asterisk": "Asterisk",
    "controller": "controller",
    "recordings": "sealing the recording",
    "agi": "look-up server (AGI)",
}
SELECTION = {
    "select": "selection, router",
    "turn": "selection, all an offer costs the router",
    "desk": "selection, as the desk makes it",
}
JUDGED_SELECTION = ("select", "desk")
BY_FLOW = ("waiting", "talking", "light", "busy", "afterwards")
DID_NOT_HOLD = "rates that did not hold"


@dataclass(frozen=True)
class Line:
    """A row of the table. `goal` in words; `met` None: not judged, or not measured."""

    figure: str
    unit: str
    sanling: str
    native: str = ""
    goal: str = ""
    met: bool | None = None


def no_rounds() -> dict[str, Any]:
    """Nothing measured yet: runs by measurement and flow, steps and confirmations of the climb with their flow, what it
    found, and runs that do not count because they were made once more.
    """
    by_flow: dict[str, Any] = {what: {} for what in BY_FLOW}
    return by_flow | {"climb": [], "confirmation": [], "rates": {}, "repeated": []}


# ---------------------------------------------------------------- what went wrong


def failures(rounds: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """By measurement and flow: of how many calls how many failed, and of what. Rates that did not hold are a kind of
    their own: there it is what was looked for.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for what, flow, run in _runs(rounds):
        so_far = found.setdefault(what, {}).setdefault(flow, {"calls": 0, "failed": 0, "failures": {}})
        so_far["calls"] += run["calls"]
        so_far["failed"] += run["failed"]
        so_far["failures"] = dict(Counter(so_far["failures"]) + Counter(run["failures"]))
    return found


def invalid(rounds: Mapping[str, Any]) -> list[str]:
    """Measurements beside which other programs used the machine."""
    return sorted({f"{what} ({flow})" for what, flow, run in _runs(rounds) if not run.get("valid", True)})


def _runs(rounds: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each run with its measurement and its flow."""
    for what in BY_FLOW:
        for flow, runs in rounds[what].items():
            for run in runs:
                yield what, flow, run
                if "restart" in run:
                    yield "restart", flow, run["restart"]
    for what in ("climb", "confirmation"):
        for step in rounds[what]:
            yield what if step["held"] else DID_NOT_HOLD, step["flow"], step


def failed(found: Mapping[str, Mapping[str, Mapping[str, Any]]], flow: str | None = None) -> tuple[int, int]:
    """Of `failures`: how many failed, and of how many; of one flow, or of all."""
    counted = [
        one
        for what, flows in found.items()
        if what != DID_NOT_HOLD
        for name, one in flows.items()
        if flow in (None, name)
    ]
    return sum(one["failed"] for one in counted), sum(one["calls"] for one in counted)


def remarks(result: Mapping[str, Any]) -> list[str]:
    """A line for each thing that a reader of the table must know; none if all went well."""
    found = []
    wrong, calls = failed(result["failures"])
    if wrong:
        said = "; ".join(
            f"{what} ({flow}): " + ", ".join(f"{n} {why}" for why, n in one["failures"].items())
            for what, flows in result["failures"].items()
            if what != DID_NOT_HOLD
            for flow, one in flows.items()
            if one["failed"]
        )
        found.append(f"FAILED: {wrong:,} of {calls:,} calls: {said}")
    if result["invalid"]:
        found.append(f"NOT VALID: other programs used the machine beside {', '.join(result['invalid'])}")
    if result["skipped"]:
        found.append(f"SKIPPED, there was no time left: {', '.join(result['skipped'])}")
    return found


# ---------------------------------------------------------------- figures


def summary(rounds: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of each flow over all rounds: latencies pooled, the others as median, least and most."""
    figures: dict[str, Any] = {}
    for flow, runs in rounds["light"].items():
        mine = figures.setdefault(flow, {})
        for name in ("answer_s", "offer_s", "join_s"):
            mine[name.replace("_s", "_ms")] = _latency([run[name] for run in runs])
        for part in CPU:
            if found := _spread(run["cpu_ms"][part] for run in runs if part in run["cpu_ms"]):
                mine[f"cpu_{part}_ms"] = found
        if runs and "rows" in runs[0]:
            mine["rows"] = runs[-1]["rows"]
    for flow, runs in rounds["busy"].items():
        figures.setdefault(flow, {})["next_ms"] = _latency([run["next_s"] for run in runs])
    for flow, rate in rounds["rates"].items():
        figures.setdefault(flow, {})["rate"] = rate
    for what in ("waiting", "talking"):
        for flow, runs in rounds[what].items():
            parts = ("asterisk_kb", "controller_kb")
            memory = {part: _spread(run[part] for run in runs if part in run) for part in parts}
            figures.setdefault(flow, {})[what] = {part: found for part, found in memory.items() if found}
    for flow, runs in rounds["waiting"].items():
        restarts = [run["restart"] for run in runs if "restart" in run]
        if restarts and all(one["back_s"] is not None for one in restarts):
            found = _spread(one["back_s"] for one in restarts)
            figures[flow]["restart"] = {"calls": min(one["calls"] for one in restarts), "back_s": found}
    return figures


def _spread(values: Iterable[float]) -> dict[str, float]:
    found = list(values)
    return vars(Spread.of(found)) if found else {}


def _latency(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Percentiles of all rounds together, and between which values those of each round lie; empty if none."""
    pooled: dict[str, Any] = percentiles_ms(value for one in rounds for value in one)
    if pooled:
        each = [percentiles_ms(one) for one in rounds if one]
        ends = {p: Spread.of(one[p] for one in each) for p in ("p50", "p95")}
        pooled["spread"] = {p: {"least": one.least, "most": one.most} for p, one in ends.items()}
    return pooled


# ---------------------------------------------------------------- the table


def lines(
    figures: Mapping[str, Any],
    selection: list[dict[str, float]],
    failures: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[Line]:
    """The table: each figure beside native's, with the goal it is held against."""
    ours, native = figures.get(SANLING, {}), figures.get(NATIVE, {})
    found = _rate(ours, native)
    goals = {("answer_s", 95): 1.3, ("offer_s", 95): 1.2}
    for name, title in LATENCIES.items():
        key = name.replace("_s", "_ms")
        mine, theirs = ours.get(key, {}), native.get(key, {})
        for p in PERCENTILES:
            of, beside = mine.get(f"p{p}"), theirs.get(f"p{p}")
            goal, met = "", None
            if (name, p) in goals:
                goal = f"≤ {goals[name, p]} × native"
                met = of <= goals[name, p] * beside if of is not None and beside is not None else None
            elif (name, p) == ("next_s", 50):
                goal, met = "≤ 5 ms", of <= 5 if of is not None else None
            left, right = (
                _ranged(one.get(f"p{p}"), **one.get("spread", {}).get(f"p{p}", {})) for one in (mine, theirs)
            )
            found.append(Line(f"{title}, p{p}", "ms", left, right, goal, met))
    found += _cpu(ours, native)
    found += _memory(ours, native)
    found += _selection(selection)
    if rows := ours.get("rows"):
        found.append(Line("ledger: rows a call", "rows", _said(sum(rows.values()))))
    if restart := ours.get("restart"):
        title = f"controller killed → {restart['calls']:,} calls taken up"
        found.append(Line(title, "s", _ranged(**restart["back_s"])))
    counted = (failed(failures, flow) for flow in (SANLING, NATIVE))
    left, right = (f"{wrong:,} / {calls:,}" if calls or wrong else "" for wrong, calls in counted)
    return [*found, Line("calls that failed", "calls", left, right)]


def _rate(ours: Mapping[str, Any], native: Mapping[str, Any]) -> list[Line]:
    mine, theirs = ours.get("rate"), native.get("rate")
    met = None
    if mine and theirs:
        (low, high), (their_low, their_high) = _between(mine), _between(theirs)
        if low >= 1.2 * their_high:
            met = True
        elif high < 1.2 * their_low:
            met = False
    title, goal = "whole calls, highest rate", "≥ 1.2 × native"
    found = [Line(title, "calls/s", _said_rate(mine), _said_rate(theirs), goal, met)]
    left, right = ({None: "", True: "yes", False: "no"}[rate["confirmed"] if rate else None] for rate in (mine, theirs))
    if left or right:
        found.append(Line("that rate held at length", "", left, right))
    return found


def _between(rate: Mapping[str, Any]) -> tuple[float, float]:
    """Between which rates the highest lies: one, if the search converged and was not refuted at length."""
    if rate["confirmed"] is False:
        return 0.0, rate["failed"]
    return rate["held"], rate["held"] if rate["converged"] else inf if rate["failed"] is None else rate["failed"]


def _said_rate(rate: Mapping[str, Any] | None) -> str:
    if rate is None or (not rate["held"] and rate["failed"] is None):
        return ""
    if not rate["held"]:
        return f"< {_said(rate['failed'])}"
    return ("" if rate["converged"] else "≥ ") + _said(rate["held"])


def _cpu(ours: Mapping[str, Any], native: Mapping[str, Any]) -> list[Line]:
    asterisk = ours.get("cpu_asterisk_ms", {}).get("median")
    controller = ours.get("cpu_controller_ms", {}).get("median")
    judged = controller <= 0.1 * asterisk if controller is not None and asterisk else None
    found = []
    for part, title in CPU.items():
        goal, met = ("≤ 10 % of its Asterisk's", judged) if part == "controller" else ("", None)
        left, right = (_ranged(**one.get(f"cpu_{part}_ms", {})) for one in (ours, native))
        found.append(Line(f"CPU a call, {title}", "ms", left, right, goal, met))
    return found


def _memory(ours: Mapping[str, Any], native: Mapping[str, Any]) -> list[Line]:
    found = []
    for what in ("waiting", "talking"):
        for part in ("asterisk", "controller"):
            mine, theirs = (one.get(what, {}).get(f"{part}_kb", {}) for one in (ours, native))
            goal = "≤ 20 kB" if (what, part) == ("waiting", "controller") else ""
            met = mine["median"] <= 20 if goal and mine else None
            whose = part.capitalize() if part == "asterisk" else part
            found.append(Line(f"memory a {what} call, {whose}", "kB", _ranged(**mine), _ranged(**theirs), goal, met))
    return found


def _selection(selection: list[dict[str, float]]) -> list[Line]:
    found = []
    by_size = {(int(one["waiting"]), int(one["agents"])): one for one in selection}
    for name, title in SELECTION.items():
        goal = "≤ 50 µs" if name in JUDGED_SELECTION else ""
        one = by_size.get((10_000, 1_000))
        if one is not None:
            for p in PERCENTILES:
                of = one[f"{name}_p{p}_us"]
                judged = goal and p == 99
                figure = f"{title}, p{p}, 10,000 waiting x 1,000 agents"
                found.append(Line(figure, "µs", _said(of), "", goal if judged else "", of <= 50 if judged else None))
        ends = [by_size[size] for size in ((1_000, 1_000), (100_000, 1_000)) if size in by_size]
        if goal and len(ends) == 2:
            e = growth(*((row["waiting"], row[f"{name}_p50_us"]) for row in ends))
            found.append(Line(f"{title}, grows with waiting as n^e", "e", _said(e), "", "about log n", e < 0.2))
    return found


def _said(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _ranged(median: float | None = None, least: float | None = None, most: float | None = None) -> str:
    """A figure, and between which values it lay in the rounds, if these differ."""
    return _said(median) if least == most else f"{_said(median)} ({_said(least)}–{_said(most)})"


def show(found: Iterable[Line], console: Console, title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("figure", "unit", "Sanling", "native", "goal", ""):
        table.add_column(name, justify="right" if name in ("Sanling", "native") else "left")
    for one in found:
        mark = "" if one.met is None else "✓" if one.met else "✗"
        table.add_row(one.figure, one.unit, one.sanling, one.native, one.goal, mark)
    console.print(table)


# ---------------------------------------------------------------- plots


def plot(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """A PNG for each figure, into `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    figures = result["figures"]

    def save(name: str, title: str, unit: str) -> None:
        pyplot.title(title)
        pyplot.ylabel(unit)
        pyplot.tight_layout()
        files.append(folder / f"{name}.png")
        pyplot.savefig(files[-1], dpi=120)
        pyplot.close()

    for name, title in LATENCIES.items():
        key = name.replace("_s", "_ms")
        measured = {flow: one[key] for flow, one in figures.items() if one.get(key)}
        if measured:
            pyplot.figure(figsize=(7, 4))
            width = 0.8 / len(measured)
            for n, (flow, values) in enumerate(measured.items()):
                places = [p + n * width for p in range(len(PERCENTILES))]
                bars = pyplot.bar(places, [values[f"p{p}"] for p in PERCENTILES], width, label=flow)
                pyplot.bar_label(bars, fmt="%.3g")
            middle = 0.4 - width / 2
            pyplot.xticks([p + middle for p in range(len(PERCENTILES))], [f"p{p}" for p in PERCENTILES])
            pyplot.yscale("log")
            pyplot.legend()
            save(key, title, "ms")
    rates = {flow: one["rate"] for flow, one in figures.items() if one.get("rate", {}).get("held")}
    if rates:
        pyplot.figure(figsize=(5, 4))
        bars = pyplot.bar(list(rates), [one["held"] for one in rates.values()])
        pyplot.bar_label(bars, labels=[_said_rate(one) for one in rates.values()], label_type="center")
        save("rate", "Whole calls, highest rate", "calls/s")
    ranged = {f"cpu_{part}_ms": (f"CPU a call, {title}", "ms") for part, title in CPU.items()}
    for key, (title, unit) in {**ranged, "restart": ("Controller killed → calls taken up", "s")}.items():
        measured = {flow: one[key].get("back_s", one[key]) for flow, one in figures.items() if one.get(key)}
        if measured:
            pyplot.figure(figsize=(5, 4))
            _bars(measured)
            save(key, title, unit)
    for what in ("waiting", "talking"):
        measured = {
            f"{flow}\n{part.removesuffix('_kb')}": memory
            for flow, one in figures.items()
            for part, memory in one.get(what, {}).items()
        }
        if measured:
            pyplot.figure(figsize=(6, 4))
            _bars(measured)
            save(f"memory_{what}", f"Memory a {what} call", "kB")
    if rows := figures.get(SANLING, {}).get("rows"):
        pyplot.figure(figsize=(7, 4))
        tables = sorted(rows, key=lambda table: float(rows[table]))
        pyplot.bar_label(pyplot.barh(tables, [rows[table] for table in tables]), fmt="%.3g")
        pyplot.xlabel("rows")
        save("rows", "Ledger: rows a call, by table", "")
    if result["selection"]:
        pyplot.figure(figsize=(7, 4))
        for (name, title), style in zip(SELECTION.items(), ("-", ":", "--"), strict=True):
            for agents in sorted({one["agents"] for one in result["selection"]}):
                rows = [one for one in result["selection"] if one["agents"] == agents]
                pyplot.plot(
                    [one["waiting"] for one in rows], [one[f"{name}_p50_us"] for one in rows], style, marker="o",
                    label=f"{title.removeprefix('selection, ')}, {agents:,.0f} agents",
                )  # fmt: skip
        pyplot.xscale("log")
        pyplot.yscale("log")
        pyplot.xlabel("callers waiting")
        pyplot.legend(fontsize="small")
        save("selection", "Who gets which call, p50", "µs")
    return files


def _bars(measured: Mapping[str, Mapping[str, float]]) -> None:
    """A bar for each median, with least and most."""
    from matplotlib import pyplot

    spread = [
        [one["median"] - one["least"] for one in measured.values()],
        [one["most"] - one["median"] for one in measured.values()],
    ]
    bars = pyplot.bar(list(measured), [one["median"] for one in measured.values()], yerr=spread, capsize=6)
    pyplot.bar_label(bars, fmt="%.3g", label_type="center")
