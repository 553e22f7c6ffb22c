"""The figures of a day, a week or an agent (``sanling report``): read from the ledger, put beside the assessment, and
told as a table, JSON, CSV, or the list of the calls behind one of them, again as a table, JSON or CSV. The page for the
team leader is ``ari_app.report_page``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, tzinfo
from functools import cached_property
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import facts as ledger_facts
from ari_app.errors import SanlingError
from ari_app.flow.assessment import Mark, agent_of_the_day, marks
from ari_app.flow.measures import (
    BY_ID,
    MEASURES,
    CallRecord,
    Facts,
    Figure,
    Part,
    Period,
    Unit,
    figure,
    figures_by_agent,
)
from ari_app.privacy import mask
from ari_app.rules import Assessment
from ari_app.store.models import Agent

NO_SOURCE = "暂无数据"
"""Of a figure that no row of the ledger tells yet; one with nothing to count is a dash."""
WHY = ("at", "call", "caller", "agent", "state", "begin", "end", "numerator", "denominator")
"""What is told of each call, or stretch of time, behind a figure."""


@dataclass(frozen=True)
class Report:
    """Of the hotline, or of one `agent`. `now`: when it was made, in Unix seconds."""

    period: Period
    zone: tzinfo
    now: float
    facts: Facts
    rules: Assessment
    names: Mapping[str, str]
    """Of the agents, by number."""
    agent: str | None = None

    @cached_property
    def by_agent(self) -> dict[str, dict[str, Figure]]:
        found = figures_by_agent(self.facts)
        return found if self.agent is None else {number: of for number, of in found.items() if number == self.agent}

    @cached_property
    def figures(self) -> list[Figure]:
        if self.agent is None:
            return [figure(measure, self.facts) for measure in MEASURES]
        mine = self.by_agent.get(self.agent, {})
        return [mine.get(measure.id, Figure(measure, ())) for measure in MEASURES if measure.of_agents]

    def figure(self, id: str) -> Figure:
        """Raises SanlingError if there is none of that id in this report."""
        for one in self.figures:
            if one.measure.id == id:
                return one
        raise SanlingError(
            f"There is no figure {id!r} here; write one of {', '.join(one.measure.id for one in self.figures)}."
        )

    @cached_property
    def marks(self) -> dict[str, list[Mark]]:
        """The assessment of every agent, by number."""
        return {number: marks(self.rules, figures) for number, figures in self.by_agent.items()}

    @cached_property
    def best(self) -> str | None:
        """The agent of the day, or of these days. KPI-7."""
        return agent_of_the_day(self.rules, self.by_agent) if self.agent is None else None

    @property
    def praise(self) -> str:
        """What `best` is called."""
        return "今日之星" if self.period.first == self.period.last else "本周之星"

    def of(self, calls: Iterator[CallRecord]) -> Facts:
        """The same facts, of these calls only."""
        return replace(self.facts, calls=tuple(calls))

    def by_hour(self, id: str) -> list[Figure]:
        """That figure of the calls that came in each hour of the day, 0 to 23; of several days together."""
        at: list[list[CallRecord]] = [[] for _ in range(24)]
        for call in self.facts.calls:
            at[datetime.fromtimestamp(call.at, self.zone).hour].append(call)
        return [self._own(id, self.of(iter(calls))) for calls in at]

    def by_day(self, id: str) -> dict[date, Figure]:
        """That figure of the calls that came on each day."""
        return {
            day: self._own(id, self.of(call for call in self.facts.calls if call.day == day))
            for day in self.period.days
        }

    def _own(self, id: str, facts: Facts) -> Figure:
        found = figure(BY_ID[id], facts)
        return found if self.agent is None else replace(found, parts=tuple(_of(self.agent, found.parts)))

    def why(self, id: str) -> list[dict[str, Any]]:
        """The calls, or the stretches of agents' time, behind that figure, and what each adds to it, by the names of
        `WHY`. Callers' numbers are masked. Raises SanlingError if there is no such figure, or nothing that tells it.
        """
        measure = self.figure(id).measure
        if not measure.has_source:
            raise SanlingError(f"Nothing in the ledger tells {id} yet: docs/measures.md.")
        calls = {call.id: (call.at, call.number) for call in self.facts.calls}
        calls |= {one.call_id: (one.at, one.number) for one in self.facts.verdicts}
        calls |= self.facts.others
        rows = []
        for part in self.figure(id).parts:
            at, number = calls.get(part.call_id or "", (None, None))
            stretch = part.stretch
            told = (
                self.moment(at) if at is not None else None,
                part.call_id,
                mask(number) if part.call_id is not None else None,
                part.agent,
                stretch.duty.value if stretch is not None else None,
                self.moment(stretch.begin) if stretch is not None else None,
                self.moment(stretch.end) if stretch is not None else None,
                part.numerator,
                part.denominator if measure.unit is not Unit.CALLS else None,
            )
            rows.append(dict(zip(WHY, told, strict=True)))
        return rows

    def moment(self, at: float) -> str:
        return datetime.fromtimestamp(at, self.zone).strftime("%Y-%m-%d %H:%M:%S")

    @property
    def title(self) -> str:
        days = " – ".join(dict.fromkeys((str(self.period.first), str(self.period.last))))
        return days if self.agent is None else f"{days} · {self.agent} {self.names.get(self.agent, '')}".rstrip()


def make(
    session: Session, period: Period, zone: tzinfo, rules: Assessment, now: float, agent: str | None = None
) -> Report:
    """Raises SanlingError: there is no such agent."""
    names = {number: name for number, name in session.execute(select(Agent.number, Agent.name))}
    if agent is not None and agent not in names:
        raise SanlingError(f"There is no agent {agent}; `sanling agents list` shows who there is.")
    return Report(period, zone, now, ledger_facts.read(session, period, zone, now), rules, names, agent)


def _of(agent: str, parts: tuple[Part, ...]) -> Iterator[Part]:
    yield from (part for part in parts if part.agent == agent)


# ---------------------------------------------------------------- told


def shown(one: Figure) -> str:
    """A figure's value as people read it."""
    if not one.measure.has_source:
        return NO_SOURCE
    if one.value is None:
        return "—"
    match one.measure.unit:
        case Unit.SHARE:
            return f"{one.value:.1%}"
        case Unit.SECONDS:
            return f"{one.value:.1f} s"
        case Unit.SCORE:
            return f"{one.value:.2f}"
        case Unit.CALLS_A_DAY:
            return f"{one.value:.1f}"
        case Unit.CALLS:
            return f"{one.value:.0f}"


def quotient(one: Figure) -> str:
    """Numerator and denominator."""
    if not one.measure.has_source:
        return ""
    above = f"{one.numerator:.1f}".removesuffix(".0")
    below = f"{one.denominator:.1f}".removesuffix(".0")
    return above if one.measure.unit is Unit.CALLS else f"{above} / {below}"


def wanted(mark: Mark) -> str:
    """A mark's target."""
    least, most = mark.target.at_least, mark.target.at_most
    if not (least or most):
        return "—"
    share = mark.figure.measure.unit is Unit.SHARE
    return f"{'≥' if least else '≤'} {f'{(least or most) * 100:g} %' if share else f'{least or most:g}'}"


def verdict(mark: Mark) -> str:
    if not mark.figure.measure.has_source:
        return NO_SOURCE
    return {True: "达标", False: "未达标", None: "—"}[mark.met]


def as_json(report: Report) -> str:
    """Values are null where nothing was counted; ``has_source`` is false where nothing tells the figure yet."""

    def marked(mark: Mark) -> dict[str, Any]:
        counted = mark.figure.measure.has_source
        return {
            "dimension": mark.target.dimension,
            "measure": mark.target.measure,
            "value": mark.figure.value,
            "at_least": mark.target.at_least or None,
            "at_most": mark.target.at_most or None,
            "met": mark.met,
            "points_off": mark.points if counted else None,
            "yuan_off": mark.yuan if counted else None,
        }

    tree = _heading(report) | {
        "in_progress": report.facts.in_progress,
        "figures": {one.measure.id: _told(one) for one in report.figures},
        "agents": {
            number: {
                "name": report.names.get(number, ""),
                "figures": {id: _told(one) for id, one in figures.items()},
                "assessment": [marked(mark) for mark in report.marks[number]],
            }
            for number, figures in report.by_agent.items()
        },
        "agent_of_the_day": report.best,
    }
    return json.dumps(tree, ensure_ascii=False, indent=1)


def why_as_json(report: Report, id: str) -> str:
    """The figure, and in ``parts`` what `Report.why` lists."""
    tree = _heading(report) | {"figure": id} | _told(report.figure(id)) | {"parts": report.why(id)}
    return json.dumps(tree, ensure_ascii=False, indent=1)


def _heading(report: Report) -> dict[str, Any]:
    return {
        "first": str(report.period.first),
        "last": str(report.period.last),
        "zone": str(report.zone),
        "made_at": report.now,
        "agent": report.agent,
    }


def _told(one: Figure) -> dict[str, Any]:
    counted = one.measure.has_source
    return {
        "value": one.value,
        "numerator": one.numerator if counted else None,
        "denominator": one.denominator if counted and one.measure.unit is not Unit.CALLS else None,
        "unit": one.measure.unit.value,
        "has_source": counted,
    }


def as_csv(report: Report) -> str:
    """A line a figure, of the hotline (no agent) and of each agent; empty where nothing was counted."""
    rows = [("", one) for one in report.figures] if report.agent is None else []
    rows += [(number, one) for number, figures in report.by_agent.items() for one in figures.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("first", "last", "agent", "figure", "name", "unit", "value", "numerator", "denominator"))
    for number, one in rows:
        counted = one.measure.has_source
        writer.writerow(
            (report.period.first, report.period.last, number, one.measure.id, one.measure.name, one.measure.unit.value,
             "" if one.value is None else one.value, one.numerator if counted else "",
             one.denominator if counted and one.measure.unit is not Unit.CALLS else "")
        )  # fmt: skip
    return text.getvalue()


def why_as_csv(report: Report, id: str) -> str:
    """A line for each that `Report.why` lists; empty where there is nothing to say."""
    text = io.StringIO()
    writer = csv.DictWriter(text, WHY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.why(id))
    return text.getvalue()
