"""When the hotline is served by people: weekly hours, public holidays, make-up working days (调休). Pure.

A day's hours are spans of its zone's clock, in minutes from midnight; one that ends past midnight (22:00-06:00)
belongs to the day it begins on. What a day is, is asked in this order: a day that the hotline says is closed, a public
holiday, a make-up working day, a weekday. Moments are Unix seconds; where a zone puts its clock forward or back, a
span over that is shorter or longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from enum import Enum

from ari_app.holidays import Calendar
from ari_app.rules import DAY_MIN, Span

LOOK_AHEAD_DAYS = 400
"""Who does not open within so many days never does: every weekday and every yearly holiday has come by then."""
ALL_DAY: Span = (0, DAY_MIN)


class Day(Enum):
    """What a date is."""

    CLOSED = "closed"
    HOLIDAY = "public holiday"
    MAKE_UP = "make-up working day"
    WEEKDAY = "weekday"


@dataclass(frozen=True)
class Hours:
    """When people answer; by default at all times. `week`: spans by weekday, Monday first."""

    week: tuple[tuple[Span, ...], ...] = ((ALL_DAY,),) * 7
    holiday: tuple[Span, ...] = (ALL_DAY,)
    make_up: tuple[Span, ...] = (ALL_DAY,)
    closed_on: frozenset[date] = frozenset()


def what_is(day: date, hours: Hours, calendar: Calendar) -> Day:
    if day in hours.closed_on:
        return Day.CLOSED
    if day in calendar.holidays:
        return Day.HOLIDAY
    return Day.MAKE_UP if day in calendar.make_up else Day.WEEKDAY


def spans_on(day: date, hours: Hours, calendar: Calendar) -> tuple[Span, ...]:
    """The spans that begin on `day`."""
    return {
        Day.CLOSED: (),
        Day.HOLIDAY: hours.holiday,
        Day.MAKE_UP: hours.make_up,
        Day.WEEKDAY: hours.week[day.weekday()],
    }[what_is(day, hours, calendar)]


def is_open(at: float, zone: tzinfo, hours: Hours, calendar: Calendar) -> bool:
    """Whether somebody answers at that moment."""
    return any(begin <= at < until for begin, until in _from(at, zone, hours, calendar, days=1))


def next_opening(at: float, zone: tzinfo, hours: Hours, calendar: Calendar) -> float | None:
    """That moment itself if it is open then, else when it opens next; None if it never does."""
    for begin, until in _from(at, zone, hours, calendar, days=LOOK_AHEAD_DAYS):
        if at < until:
            return max(at, begin)
    return None


def unknown_years(day: date, calendar: Calendar) -> tuple[int, ...]:
    """Years of which the calendar should tell by `day` and does not: its own, and from December on the next."""
    years = (day.year,) if day.month < 12 else (day.year, day.year + 1)
    return tuple(year for year in years if year not in calendar.years)


def _from(at: float, zone: tzinfo, hours: Hours, calendar: Calendar, *, days: int) -> Iterator[tuple[float, float]]:
    """The open stretches of the day before and of `days` days from then on, in order of their beginnings."""
    before = datetime.fromtimestamp(at, zone).date() - timedelta(days=1)
    for n in range(days + 1):
        day = before + timedelta(days=n)
        spans = (
            (_moment(day, begin, zone), _moment(day, until, zone)) for begin, until in spans_on(day, hours, calendar)
        )
        yield from sorted((begin, until) for begin, until in spans if begin < until)


def _moment(day: date, minutes: int, zone: tzinfo) -> float:
    over, minute = divmod(minutes, DAY_MIN)
    return datetime.combine(day + timedelta(days=over), time(minute // 60, minute % 60), zone).timestamp()
