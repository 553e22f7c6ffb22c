"""The result as a table in the terminal and a plot per figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Line:
    """A row of the table. `goal` in words; `met` None: not judged, or not measured."""

    figure: str
    unit: str
    sanling: str
    native: str = ""
    goal: str = ""
    met: bool | None = None


def summary(rounds: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of each flow over all rounds: latencies pooled, the others as median, least and most."""
    figures: dict[str, Any] = {}
    for flow, runs in rounds["light"].items():
        mine = figures.setdefault(flow, {})
        for name in ("answer_s", "offer_s", "join_s"):
            mine[name.replace("_s", "_ms")] = percentiles_ms(value for run in runs for value in run[name])
        for part in ("asterisk", "controller", "recordings"):
            mine[f"cpu_{part}_ms"] = _spread(run["cpu_ms"][part] for run in runs)
        if runs and "rows" in runs[0]:
            mine["rows"] = runs[-1]["rows"]
    for flow, runs in rounds["busy"].items():
        figures.setdefault(flow, {})["next_ms"] = percentiles_ms(value for run in runs for value in run["next_s"])
    for flow, rates in rounds["rates"].items():
        figures.setdefault(flow, {})["rate"] = _spread(rates)
    for what in ("waiting", "talking"):
        for flow, run in rounds[what].items():
            figures.setdefault(flow, {})[what] = run
    return figures


def _spread(values: Iterable[float]) -> dict[str, float]:
    found = list(values)
    return vars(Spread.of(found)) if found else {}


def lines(figures: Mapping[str, Any], selection: list[dict[str, float]]) -> list[Line]:
    """The table: each figure beside native's, with the goal it is held against."""
    ours, native = figures.get(SANLING, {}), figures.get(NATIVE, {})
    found = [_rate(ours, native)]
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
            found.append(Line(f"{title}, p{p}", "ms", _said(of), _said(beside), goal, met))
    found += _cpu(ours, native)
    found += _memory(ours, native)
    found += _selection(selection)
    if rows := ours.get("rows"):
        found.append(Line("ledger: rows a call", "rows", _said(sum(rows.values()))))
    if (back := ours.get("waiting", {}).get("back_s")) is not None:
        calls = ours["waiting"]["callers"]
        found.append(Line(f"controller killed → {calls} calls taken up", "s", _said(back)))
    return found


def _rate(ours: Mapping[str, Any], native: Mapping[str, Any]) -> Line:
    mine, theirs = ours.get("rate", {}).get("median"), native.get("rate", {}).get("median")
    met = mine >= 1.2 * theirs if mine is not None and theirs else None
    return Line("whole calls, highest rate", "calls/s", _said(mine), _said(theirs), "≥ 1.2 × native", met)


def _cpu(ours: Mapping[str, Any], native: Mapping[str, Any]) -> list[Line]:
    asterisk = ours.get("cpu_asterisk_ms", {}).get("median")
    controller = ours.get("cpu_controller_ms", {}).get("median")
    beside = native.get("cpu_asterisk_ms", {}).get("median")
    met = controller <= 0.1 * asterisk if controller is not None and asterisk else None
    sealing = ours.get("cpu_recordings_ms", {}).get("median")
    return [
        Line("CPU a call, Asterisk", "ms", _said(asterisk), _said(beside)),
        Line("CPU a call, controller", "ms", _said(controller), "", "≤ 10 % of its Asterisk's", met),
        Line("CPU a call, sealing the recording", "ms", _said(sealing)),
    ]


def _memory(ours: Mapping[str, Any], native: Mapping[str, Any]) -> list[Line]:
    found = []
    for what, title in (("waiting", "memory a waiting call"), ("talking", "memory a talking call")):
        mine, theirs = ours.get(what, {}), native.get(what, {})
        found.append(Line(f"{title}, Asterisk", "kB", _said(mine.get("asterisk_kb")), _said(theirs.get("asterisk_kb"))))
        own = mine.get("controller_kb")
        goal = "≤ 20 kB" if what == "waiting" else ""
        met = own <= 20 if goal and own is not None else None
        found.append(Line(f"{title}, controller", "kB", _said(own), "", goal, met))
    return found


def _selection(selection: list[dict[str, float]]) -> list[Line]:
    found = []
    by_size = {(int(one["waiting"]), int(one["agents"])): one for one in selection}
    for name, title in (("select", "selection, router"), ("desk", "selection, as the desk makes it")):
        one = by_size.get((10_000, 1_000))
        if one is not None:
            p99 = one[f"{name}_p99_us"]
            size = "10,000 waiting x 1,000 agents"
            found.append(Line(f"{title}, p99, {size}", "µs", _said(p99), "", "≤ 50 µs", p99 <= 50))
        ends = [by_size[size] for size in ((1_000, 1_000), (100_000, 1_000)) if size in by_size]
        if len(ends) == 2:
            e = growth(*((row["waiting"], row[f"{name}_p50_us"]) for row in ends))
            found.append(Line(f"{title}, grows with waiting as n^e", "e", _said(e), "", "about log n", e < 0.2))
    return found


def _said(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


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
    for key, title, unit in (
        ("rate", "Whole calls, highest rate", "calls/s"),
        ("cpu_asterisk_ms", "CPU a call, Asterisk", "ms"),
        ("cpu_controller_ms", "CPU a call, controller", "ms"),
    ):
        measured = {flow: one[key] for flow, one in figures.items() if one.get(key)}
        if measured:
            pyplot.figure(figsize=(5, 4))
            middles = [one["median"] for one in measured.values()]
            spread = [
                [one["median"] - one["least"] for one in measured.values()],
                [one["most"] - one["median"] for one in measured.values()],
            ]
            bars = pyplot.bar(list(measured), middles, yerr=spread, capsize=6)
            pyplot.bar_label(bars, fmt="%.3g", label_type="center")
            save(key, title, unit)
    for what in ("waiting", "talking"):
        measured = {
            f"{flow}\n{part.removesuffix('_kb')}": one[what][part]
            for flow, one in figures.items()
            for part in ("asterisk_kb", "controller_kb")
            if one.get(what, {}).get(part) is not None
        }
        if measured:
            pyplot.figure(figsize=(6, 4))
            pyplot.bar_label(pyplot.bar(list(measured), list(measured.values())), fmt="%.3g")
            save(f"memory_{what}", f"Memory a {what} call", "kB")
    if result["selection"]:
        pyplot.figure(figsize=(7, 4))
        for name, style in (("select", "-"), ("desk", "--")):
            for agents in sorted({one["agents"] for one in result["selection"]}):
                rows = [one for one in result["selection"] if one["agents"] == agents]
                pyplot.plot(
                    [one["waiting"] for one in rows], [one[f"{name}_p50_us"] for one in rows], style, marker="o",
                    label=f"{'router' if name == 'select' else 'desk'}, {agents:,.0f} agents",
                )  # fmt: skip
        pyplot.xscale("log")
        pyplot.yscale("log")
        pyplot.xlabel("callers waiting")
        pyplot.legend(fontsize="small")
        save("selection", "Who gets which call, p50", "µs")
    return files
