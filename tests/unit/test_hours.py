"""Opening hours: the days of the official calendar, spans across midnight, and the next opening, in any zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ari_app.errors import SettingsInvalid
from ari_app.flow.hours import (
    ALL_DAY,
    Day,
    Hours,
    is_open,
    next_opening,
    spans_on,
    unknown_years,
    what_is,
)
from ari_app.holidays import OFFICIAL, Calendar, calendar, official
from ari_app.opening import is_open as is_served
from ari_app.opening import next_opening as is_served_next
from ari_app.opening import unknown_years as not_told
from ari_app.rules import DAY_MIN, Rules, parse, spans_of

SHANGHAI = ZoneInfo("Asia/Shanghai")
ZONES = [SHANGHAI, UTC, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Pacific/Apia")]
OFFICE = spans_of(("08:30-12:00", "13:30-17:30"))
WEEK = Hours((*((OFFICE,) * 5), (), ()), holiday=(), make_up=OFFICE)
NIGHT = Hours((spans_of(("22:00-06:00",)),) + ((),) * 6, holiday=(), make_up=())
NEVER = Hours(((),) * 7, (), ())


def at(text: str, zone: ZoneInfo = SHANGHAI) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


# ---------------------------------------------------------------- spans


def test_spans_are_minutes_of_the_day_in_order_and_may_pass_midnight():
    assert spans_of(("13:30-17:30", "08:30-12:00")) == ((510, 720), (810, 1050))
    assert spans_of(("22:00-06:00",)) == ((1320, 1800),)
    assert spans_of(("00:00-24:00",)) == (ALL_DAY,)
    assert spans_of(("08:00-12:00", "12:00-13:00")) == ((480, 720), (720, 780))
    assert spans_of(()) == ()


@pytest.mark.parametrize("texts", [("8:30-12:00",), ("08:30–12:00",), ("24:00-06:00",), ("08:00-08:00",), ("x",)])
def test_what_is_no_span_is_refused(texts):
    with pytest.raises(ValueError, match="write hours"):
        spans_of(texts)


def test_hours_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        spans_of(("08:00-12:00", "11:00-13:00"))


# ---------------------------------------------------------------- the official calendar


@pytest.mark.parametrize(
    ("year", "off", "make_up"),
    [
        (2024, "0101 0210-0217 0404-0406 0501-0505 0610 0915-0917 1001-1007",
         "0204 0218 0407 0428 0511 0914 0929 1012"),
        (2025, "0101 0128-0204 0404-0406 0501-0505 0531-0602 1001-1008", "0126 0208 0427 0928 1011"),
        (2026, "0101-0103 0215-0223 0404-0406 0501-0505 0619-0621 0925-0927 1001-1007",
         "0104 0214 0228 0509 0920 1010"),
    ],
)  # fmt: skip
def test_the_calendar_is_the_state_councils_day_by_day(year, off, make_up):
    def day(text: str) -> date:
        return date(year, int(text[:2]), int(text[2:]))

    holidays: set[date] = set()
    for entry in off.split():
        first, _, last = entry.partition("-")
        one, until = day(first), day(last or first)
        while one <= until:
            holidays.add(one)
            one += timedelta(days=1)
    known = official()
    assert {one for one in known.holidays if one.year == year} == holidays
    assert {one for one in known.make_up if one.year == year} == {day(entry) for entry in make_up.split()}
    assert year in known.years


def test_make_up_days_are_weekends_and_as_many_as_the_weekdays_they_make_up_for():
    """Since 2025 the law gives 13 free days (11 before, when New Year's Eve was none): what is more is made up for."""
    known = official()
    assert all(day.weekday() >= 5 for day in known.make_up)
    for year, free in ((2024, 11), (2025, 13), (2026, 13)):
        weekdays_off = sum(day.weekday() < 5 for day in known.holidays if day.year == year)
        weekend_law_days = weekdays_off - sum(day.year == year for day in known.make_up)
        assert weekend_law_days <= free


def test_each_year_names_its_notice():
    text = OFFICIAL.read_text(encoding="utf-8")
    for notice in ("国办发明电〔2023〕7号", "国办发明电〔2024〕12号", "国办发明电〔2025〕7号"):
        assert notice in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[2027]\nholidays = [2027-01-01]\n", "notice"),
        ("[2027]\nnotice = ''\nholidays = [2026-12-31]\n", "no days of 2027"),
        ("[2027]\nnotice = ''\nholidays = [[2027-01-03, 2027-01-01]]\n", "no days of 2027"),
        ("[2027]\nnotice = ''\nholidays = ['2027-1-1']\n", "2027"),
        ("[next]\nnotice = ''\nholidays = [2027-01-01]\n", "no days of next"),
        ("[2027]\nnotice = ''\nholidays = [2027-01-01]\nmake_up = [2027-01-01]\n", "a holiday and a working day"),
        ("[2027\n", "calendar.toml"),
    ],
)
def test_a_calendar_that_is_wrong_is_a_sentence(tmp_path, text, said):
    file = tmp_path / "calendar.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsInvalid, match=said):
        calendar(file)
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        calendar(tmp_path / "none.toml")


# ---------------------------------------------------------------- what a day is, and when it opens


def test_closed_days_come_before_holidays_before_make_up_days_before_weekdays():
    monday = date(2026, 11, 23)
    hours = Hours(closed_on=frozenset({monday}))
    for calendar_, expected in (
        (Calendar(frozenset({monday}), frozenset({monday})), Day.HOLIDAY),
        (Calendar(frozenset(), frozenset({monday})), Day.MAKE_UP),
        (Calendar(), Day.WEEKDAY),
    ):
        assert what_is(monday, Hours(), calendar_) is expected
        assert what_is(monday, hours, calendar_) is Day.CLOSED
        assert spans_on(monday, hours, calendar_) == ()


@pytest.mark.parametrize(
    ("moment", "opens"),
    [
        ("2026-11-23 08:29:59", "2026-11-23 08:30"),  # a Monday
        ("2026-11-23 08:30:00", None),
        ("2026-11-23 11:59:59", None),
        ("2026-11-23 12:00:00", "2026-11-23 13:30"),
        ("2026-11-27 17:30:00", "2026-11-30 08:30"),  # Friday evening
        ("2026-09-30 17:30:00", "2026-10-08 08:30"),  # before the National Day
        ("2026-10-10 09:00:00", None),  # a Saturday that makes up for it
        ("2026-02-13 18:00:00", "2026-02-14 08:30"),  # before the Spring Festival, with a Saturday that is worked
        ("2026-02-14 18:00:00", "2026-02-24 08:30"),
        ("2025-12-31 18:00:00", "2026-01-04 08:30"),  # a Sunday, across the years
    ],
)
def test_the_office_is_open_when_the_calendar_says_so(moment, opens):
    assert is_open(at(moment), SHANGHAI, WEEK, official()) is (opens is None)
    assert next_opening(at(moment), SHANGHAI, WEEK, official()) == at(opens or moment)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-23 21:59:59", False), ("2026-11-23 22:00:00", True), ("2026-11-24 00:00:00", True),
        ("2026-11-24 05:59:59", True), ("2026-11-24 06:00:00", False), ("2026-11-24 23:00:00", False),
    ],
)  # fmt: skip
def test_a_night_belongs_to_the_day_it_begins_on(moment, expected):
    assert is_open(at(moment), SHANGHAI, NIGHT, official()) is expected


def test_a_night_runs_into_a_holiday_and_none_begins_on_one():
    nights = Hours((spans_of(("22:00-06:00",)),) * 7, holiday=(), make_up=())
    assert is_open(at("2026-10-01 05:00"), SHANGHAI, nights, official())
    assert not is_open(at("2026-10-01 23:00"), SHANGHAI, nights, official())
    assert next_opening(at("2026-10-01 06:00"), SHANGHAI, nights, official()) == at("2026-10-08 22:00")


def test_who_never_opens_has_no_next_opening():
    assert next_opening(at("2026-11-23 12:00"), SHANGHAI, NEVER, official()) is None


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_open_at_all_times_is_open_in_every_hour_of_a_year_in_every_zone(zone):
    began = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    assert all(is_open(began + n * 3600.0 + n % 60, zone, Hours(), official()) for n in range(24 * 365))


def test_a_clock_that_is_put_forward_or_back_moves_no_opening_that_it_does_not_touch():
    new_york = ZoneInfo("America/New_York")
    night = Hours((spans_of(("22:00-06:00",)),) * 7)
    none = Calendar()
    assert next_opening(at("2026-03-07 12:00", new_york), new_york, night, none) == at("2026-03-07 22:00", new_york)
    forward = at("2026-03-08 06:00", new_york) - at("2026-03-07 22:00", new_york)
    back = at("2026-11-01 06:00", new_york) - at("2026-10-31 22:00", new_york)
    assert (forward, back) == (7 * 3600.0, 9 * 3600.0)
    for begin, lasts in ((at("2026-03-07 22:00", new_york), forward), (at("2026-10-31 22:00", new_york), back)):
        assert all(is_open(begin + n * 60.0, new_york, night, none) for n in range(int(lasts // 60)))
        assert not is_open(begin + lasts, new_york, night, none)


def test_hours_within_the_hour_that_a_clock_skips_do_not_exist_that_day():
    new_york = ZoneInfo("America/New_York")
    hours = Hours((spans_of(("02:30-03:00",)),) * 7)
    assert next_opening(at("2026-03-08 00:00", new_york), new_york, hours, Calendar()) == at(
        "2026-03-09 02:30", new_york
    )


days = st.dates(date(2024, 1, 1), date(2026, 12, 31))
minutes = st.integers(0, DAY_MIN // 30 - 1).map(lambda half_hours: half_hours * 30)


@st.composite
def some_spans(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    cuts = sorted(draw(st.sets(minutes, max_size=4)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    if len(cuts) % 2 and draw(st.booleans()):
        spans.append((cuts[-1], DAY_MIN + draw(st.integers(0, 12)) * 30))
    return tuple(spans)


@st.composite
def some_hours(draw: st.DrawFn) -> Hours:
    return Hours(
        tuple(draw(some_spans()) for _ in range(7)), draw(some_spans()), draw(some_spans()),
        frozenset(draw(st.sets(days, max_size=3))),
    )  # fmt: skip


patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

moments = st.builds(
    lambda day, minute: datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=UTC),
    st.dates(date(2024, 2, 1), date(2026, 11, 30)), st.integers(0, DAY_MIN - 1),
)  # fmt: skip
"""On whatever clock the test puts them."""


@patiently
@given(moments, some_hours(), st.sampled_from(ZONES))
@example(datetime(2026, 9, 30, 23, 30, tzinfo=UTC), WEEK, SHANGHAI)
def test_the_next_opening_is_open_and_nothing_between_is(moment, hours, zone):
    now = moment.replace(tzinfo=zone).timestamp()
    opens = next_opening(now, zone, hours, official())
    if opens is None:
        assert not any(is_open(now + n * 1800.0, zone, hours, official()) for n in range(48 * 3))
        return
    assert opens >= now
    assert is_open(opens, zone, hours, official())
    assert (opens == now) is is_open(now, zone, hours, official())
    assert opens == now or not is_open(opens - 1.0, zone, hours, official())
    step = max((opens - now) / 50, 60.0)
    n = 0
    while now + n * step < opens:
        assert not is_open(now + n * step, zone, hours, official())
        n += 1


@patiently
@given(moments, some_hours())
def test_where_no_clock_is_put_forward_a_moment_is_open_as_its_wall_clock_says(moment, hours):
    """The same told in another way: by minutes of the day before and of the day."""
    minute = moment.hour * 60 + moment.minute
    today, before = moment.date(), moment.date() - timedelta(days=1)
    expected = any(begin <= minute < until for begin, until in spans_on(today, hours, official())) or any(
        begin <= minute + DAY_MIN < until for begin, until in spans_on(before, hours, official())
    )
    assert is_open(moment.replace(tzinfo=SHANGHAI).timestamp(), SHANGHAI, hours, official()) is expected


@patiently
@given(moments, moments, some_hours())
def test_openings_come_in_order(first, second, hours):
    ones = [
        next_opening(m.replace(tzinfo=SHANGHAI).timestamp(), SHANGHAI, hours, official())
        for m in sorted((first, second))
    ]
    if None not in ones:
        assert ones[0] <= ones[1]


# ---------------------------------------------------------------- years that are not known


def test_a_year_without_a_notice_is_missed_from_the_december_before():
    assert unknown_years(date(2026, 11, 30), official()) == ()
    assert unknown_years(date(2026, 12, 1), official()) == (2027,)
    assert unknown_years(date(2027, 1, 1), official()) == (2027,)
    assert unknown_years(date(2027, 12, 1), official()) == (2027, 2028)


def test_a_year_without_a_notice_goes_by_weekday():
    assert is_open(at("2027-10-01 09:00"), SHANGHAI, WEEK, official())  # a Friday
    assert not is_open(at("2027-10-02 09:00"), SHANGHAI, WEEK, official())


# ---------------------------------------------------------------- as configured

RULES = parse(
    """
[hours]
closed_on = ["2026-12-24"]
holiday = ["10:00-12:00"]
[hours.weekly]
monday = ["08:30-12:00", "13:30-17:30"]
tuesday = ["09:00-17:00"]
[hours.lines.lawyer.weekly]
monday = ["08:00-20:00"]
[hours.lines.party]
weekly = { sunday = ["08:00-09:00"] }
make_up = ["20:00-21:00"]
"""
)


@pytest.mark.parametrize(
    ("moment", "line", "expected"),
    [
        ("2026-11-23 12:30", "", False), ("2026-11-23 12:30", "lawyer", True), ("2026-11-24 10:00", "lawyer", False),
        ("2026-11-24 10:00", "second_line", True), ("2026-11-22 08:30", "party", True),
        ("2026-10-02 11:00", "", True), ("2026-10-02 11:00", "lawyer", False),
        ("2026-10-10 11:00", "", True), ("2026-10-10 12:30", "", False),  # a make-up day: as on Mondays
        ("2026-10-10 11:00", "party", False), ("2026-10-10 20:30", "party", True),
        ("2026-12-24 09:00", "lawyer", False), ("2026-11-25 10:00", "", False),
    ],
)  # fmt: skip
def test_each_line_has_its_hours_and_others_the_hotlines(moment, line, expected):
    assert is_served(RULES, SHANGHAI, at(moment), line) is expected
    opens = is_served_next(RULES, SHANGHAI, at(moment), line)
    assert (opens == at(moment)) is expected


def test_without_weekly_hours_it_is_open_at_all_times_and_no_year_is_missed():
    assert is_served(Rules(), SHANGHAI, at("2026-10-01 03:00"))
    assert not_told(Rules(), SHANGHAI, at("2031-01-01 00:00")) == ()
    assert not_told(RULES, SHANGHAI, at("2031-01-01 00:00")) == (2031,)


def test_a_calendar_of_ones_own_is_used(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("[2031]\nnotice = 'own'\nholidays = [2031-01-06]\n", encoding="utf-8")
    rules = parse(f"[hours]\ncalendar = '{own}'\nweekly = {{ monday = ['08:00-09:00'] }}\n")
    assert not is_served(rules, SHANGHAI, at("2031-01-06 08:30"))
    assert is_served(rules, SHANGHAI, at("2031-01-13 08:30"))
    assert not_told(rules, SHANGHAI, at("2031-01-13 08:30")) == ()
