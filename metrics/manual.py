"""Writes the tables of ``docs/metrics.md`` from the figures themselves: ``python -m metrics.manual``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric

from metrics.hotline import DISK_PLACES, RESETS, HotlineMetrics

FILE: Final = Path(__file__).parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- written by python -m metrics.manual -->", "<!-- until here -->"
ENDINGS: Final = {"counter": "_total", "histogram": "_bucket, _sum, _count", "gauge": ""}


def tables() -> str:
    """Every metric with type, unit, labels and meaning; then every label with its values."""
    hotline = HotlineMetrics(CollectorRegistry())
    hotline.register_agents(["601"])
    for place in DISK_PLACES:
        hotline.disk(place, 0.0)
    lines = ["| metric | type | unit | labels | meaning | after a restart |", "|---|---|---|---|---|---|"]
    values: dict[str, set[str]] = {}
    for family in sorted(hotline.registry.collect(), key=lambda family: family.name):
        labels = _labels(family)
        for label, found in labels.items():
            values.setdefault(label, set()).update(found)
        meaning = family.documentation.removesuffix(RESETS).strip().replace("|", "\\|")
        after = "begins at zero" if family.type in ("counter", "histogram") else "read anew"
        name = f"`{family.name}`" + (f" {ENDINGS[family.type]}" if ENDINGS[family.type] else "")
        lines.append(f"| {name} | {family.type} | {_unit(family)} | {', '.join(labels)} | {meaning} | {after} |")
    lines += ["", "| label | values |", "|---|---|"]
    for label, found in sorted(values.items()):
        told = "registered staff numbers, `other`" if label == "agent" else ", ".join(f"`{v}`" for v in sorted(found))
        lines.append(f"| {label} | {told} |")
    return "\n".join(lines)


def _labels(family: Metric) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                found.setdefault(label, set()).add(value)
    return dict(sorted(found.items()))


def _unit(family: Metric) -> str:
    for ending, unit in (("_seconds", "s"), ("_bytes", "bytes"), ("_rows", "rows")):
        if family.name.endswith(ending):
            return unit
    return "1"


def fresh(text: str) -> str:
    """`text` of the manual, its tables written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(fresh(FILE.read_text(encoding="utf-8")), encoding="utf-8")
