"""Opening hours as configured: the rules' group ``[hours]`` over the official calendar, asked by line and moment.

The calendar is data that the rules hold (``ari_app.holidays``). The pure part is ``ari_app.flow.hours``.
"""

from __future__ import annotations

from datetime import date, datetime, tzinfo

from ari_app.flow import hours as law
from ari_app.flow.hours import Hours
from ari_app.rules import WEEKDAYS, Opening, Rules, spans_of


def hours_of(opening: Opening, closed_on: tuple[str, ...]) -> Hours:
    """`opening` as spans. Raises ValueError, saying what to write, if one is none."""
    closed = frozenset(date.fromisoformat(day) for day in closed_on)
    if not opening.weekly:
        return Hours(closed_on=closed)
    week = tuple(spans_of(opening.weekly.get(day, ())) for day in WEEKDAYS)
    make_up = spans_of(opening.make_up) or week[0]
    return Hours(week, spans_of(opening.holiday), make_up, closed)


def is_open(rules: Rules, zone: tzinfo, at: float, line: str = "") -> bool:
    """Whether `line` is served by people at `at` (Unix seconds)."""
    return law.is_open(at, zone, _hours(rules, line), rules.hours.days)


def next_opening(rules: Rules, zone: tzinfo, at: float, line: str = "") -> float | None:
    """When `line` is served next, Unix seconds: `at` itself if it is open; None if it never is."""
    return law.next_opening(at, zone, _hours(rules, line), rules.hours.days)


def unknown_years(rules: Rules, zone: tzinfo, at: float) -> tuple[int, ...]:
    """Years that the calendar should tell by now and does not; none where the hours do not depend on it."""
    day = datetime.fromtimestamp(at, zone).date()
    return law.unknown_years(day, rules.hours.days) if depends_on_the_calendar(rules) else ()


def depends_on_the_calendar(rules: Rules) -> bool:
    """Not if it is open at all times."""
    return any(opening.weekly for opening in (rules.hours, *rules.hours.lines.values()))


def _hours(rules: Rules, line: str) -> Hours:
    said = rules.hours
    return hours_of(said.lines.get(line, said), said.closed_on)
