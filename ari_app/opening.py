"""Opening hours as configured: the rules' group ``[hours]`` over the official calendar, asked by line and moment.

The calendar (``ari_app/calendar.toml``, or the file that ``hours.calendar`` names) is data: years of the State
Council's notices. The pure part is ``ari_app.flow.hours``.
"""

from __future__ import annotations

import functools
import tomllib
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path

import msgspec

from ari_app.errors import SettingsInvalid
from ari_app.flow import hours as law
from ari_app.flow.hours import Calendar, Hours
from ari_app.rules import WEEKDAYS, Opening, Rules, spans_of

OFFICIAL = Path(__file__).with_name("calendar.toml")


class Year(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    notice: str
    holidays: tuple[date | tuple[date, date], ...]
    make_up: tuple[date | tuple[date, date], ...] = ()


@functools.lru_cache(8)
def calendar(file: Path = OFFICIAL) -> Calendar:
    """The calendar in `file`. Raises SettingsInvalid, naming the year and what to write."""
    try:
        years = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"The calendar {file} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{file.name}: {error}. Write it as in ari_app/calendar.toml.") from error
    days: dict[str, set[date]] = {"holidays": set(), "make_up": set()}
    for name, table in years.items():
        try:
            year = msgspec.convert(table, Year)
        except msgspec.ValidationError as error:
            raise SettingsInvalid(f"{file.name}: {name}: {error}. Write it as in ari_app/calendar.toml.") from error
        for part, found in days.items():
            for entry in getattr(year, part):
                first, last = entry if isinstance(entry, tuple) else (entry, entry)
                if not name.isdecimal() or not date(int(name), 1, 1) <= first <= last <= date(int(name), 12, 31):
                    raise SettingsInvalid(f"{file.name}: {name}.{part}: {first} to {last} are no days of {name}.")
                found.update(first + timedelta(days=n) for n in range((last - first).days + 1))
    if both := days["holidays"] & days["make_up"]:
        raise SettingsInvalid(f"{file.name}: {min(both)} is a holiday and a working day: keep one of them.")
    return Calendar(
        frozenset(days["holidays"]), frozenset(days["make_up"]), frozenset(int(name) for name in years)
    )  # fmt: skip


def hours_of(opening: Opening, closed_on: tuple[str, ...]) -> Hours:
    """`opening` as spans. Raises ValueError, saying what to write, if one is none."""
    closed = frozenset(date.fromisoformat(day) for day in closed_on)
    if not opening.weekly:
        return Hours(closed_on=closed)
    week = tuple(spans_of(opening.weekly.get(day, ())) for day in WEEKDAYS)
    make_up = spans_of(opening.make_up) or week[0]
    return Hours(week, spans_of(opening.holiday), make_up, closed)


def calendar_of(rules: Rules) -> Calendar:
    return calendar(Path(rules.hours.calendar) if rules.hours.calendar else OFFICIAL)


def is_open(rules: Rules, zone: tzinfo, at: float, line: str = "") -> bool:
    """Whether `line` is served by people at `at` (Unix seconds)."""
    return law.is_open(at, zone, _hours(rules, line), calendar_of(rules))


def next_opening(rules: Rules, zone: tzinfo, at: float, line: str = "") -> float | None:
    """When `line` is served next, Unix seconds: `at` itself if it is open; None if it never is."""
    return law.next_opening(at, zone, _hours(rules, line), calendar_of(rules))


def unknown_years(rules: Rules, zone: tzinfo, at: float) -> tuple[int, ...]:
    """Years that the calendar should tell by now and does not; none where the hours do not depend on it."""
    day = datetime.fromtimestamp(at, zone).date()
    return law.unknown_years(day, calendar_of(rules)) if depends_on_the_calendar(rules) else ()


def depends_on_the_calendar(rules: Rules) -> bool:
    """Not if it is open at all times."""
    return any(opening.weekly for opening in (rules.hours, *rules.hours.lines.values()))


def _hours(rules: Rules, line: str) -> Hours:
    said = rules.hours
    return hours_of(said.lines.get(line, said), said.closed_on)
