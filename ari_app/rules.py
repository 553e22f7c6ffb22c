"""The desk's rules: who is routed where, and all that the desk does by data instead of code, in one TOML file.

``desk.toml`` beside hotline.toml (``SANLING_DESK`` names another) is read at the start and at `sanling reload`; every
group has its defaults, so that no file is needed. Nothing wrong in it takes effect: an error names the file, the line
and what to write instead, and the rules in force stay (`RuleBook`).

A part may have ``faults()``: for what no type says, (name of the setting, sentence) pairs.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, time
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from ari_app import holidays, written
from ari_app.errors import SettingsInvalid
from ari_app.settings import PROJECT, Part

log = logging.getLogger("sanling.rules")

LINES = ("party", "lawyer", "second_line")
NEEDS = ("milestone", "material", "time", "pressing")
LANGUAGES = ("mandarin", "dialect", "english")
KINDS = (LINES, NEEDS, LANGUAGES)
SKILLS = (*LINES, *NEEDS, *LANGUAGES)
"""What an agent may be good at. Each is a row of agent_skills with a level."""
LEVELS = range(1, 6)
"""1 helps out, 3 is usual, 5 is the best."""


class Step(Part, frozen=True):
    """Who may take a call once its caller has waited `after_s`: agents with `level` or more in what is asked."""

    after_s: float
    level: int = 1
    need: bool = True
    """Whether the caller's need is asked of the agent."""
    language: bool = True
    """Whether the caller's language is."""
    lines: tuple[str, ...] = ()
    """Agents of these lines help as well."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.after_s < float("inf"):
            yield "after_s", "seconds, 0 or more"
        if self.level not in LEVELS:
            yield "level", "a level from 1 to 5"
        for line in self.lines:
            if line not in LINES:
                yield "lines", f"there is no line {line!r}; lines are {', '.join(LINES)}"


class Line(Part, frozen=True):
    name: str
    """As people call it."""
    steps: tuple[Step, ...] = (
        Step(after_s=0.0, level=3),
        Step(after_s=20.0, level=1),
        Step(after_s=60.0, level=1, need=False),
        Step(after_s=180.0, level=1, need=False, language=False),
    )
    """How the circle of agents widens while a caller waits."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not self.steps or self.steps[0].after_s != 0:
            yield "steps[0].after_s", "the first step is after_s = 0"
        for n, (before, after) in enumerate(pairwise(self.steps), start=1):
            if after.after_s <= before.after_s:
                yield f"steps[{n}].after_s", f"steps rise: more than {before.after_s:g}"
            for name, wider in (
                ("level", after.level <= before.level),
                ("need", after.need <= before.need),
                ("language", after.language <= before.language),
                ("lines", set(after.lines) >= set(before.lines)),
            ):
                if not wider:
                    yield f"steps[{n}].{name}", "a later step never asks for more than the one before it"


class Lines(Part, frozen=True):
    party: Line = Line(name="当事人")
    lawyer: Line = Line(name="律师")
    second_line: Line = Line(name="二线律师")


class Routing(Part, frozen=True):
    last_agent_s: float = 15.0
    """A caller waits so long for the agent of the last time, before any other is tried. 0: not at all."""
    usual_level: int = 3
    """Of an agent of whom agent_skills says nothing for a kind of skill (line, need, language), in these:"""
    usual_lines: tuple[str, ...] = ("party", "lawyer")
    usual_needs: tuple[str, ...] = NEEDS
    usual_languages: tuple[str, ...] = ("mandarin",)
    pressing_priority: int = 1
    """Of a caller whose need is 情绪; callers of a higher priority come first."""
    second_call_priority: int = 1
    """Added for a second call on the same matter. KPI-2."""
    language_by_number: dict[str, str] = msgspec.field(default_factory=dict)
    """In what language callers of a hotline number are served; of the others: Mandarin."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.last_agent_s <= 120:
            yield "last_agent_s", "seconds, 0 to 120"
        if self.usual_level not in LEVELS:
            yield "usual_level", "a level from 1 to 5"
        for name, known in (("usual_lines", LINES), ("usual_needs", NEEDS), ("usual_languages", LANGUAGES)):
            for one in getattr(self, name):
                if one not in known:
                    yield name, f"there is no {one!r}; write some of {', '.join(known)}"
        for number, language in self.language_by_number.items():
            if language not in LANGUAGES:
                yield f"language_by_number.{number}", f"there is no {language!r}; write one of {', '.join(LANGUAGES)}"
        for name in ("pressing_priority", "second_call_priority"):
            if not 0 <= getattr(self, name) <= 9:
                yield name, "0 to 9"


class Waiting(Part, frozen=True):
    full_at: int = 50
    """So many callers wait at most; who comes then is offered a callback. 0: no limit."""
    longest_wait_s: float = 600.0
    """Who has waited so long is offered a callback once more; the place stays."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.full_at < 0:
            yield "full_at", "callers, 0 or more"
        if not 0 < self.longest_wait_s < float("inf"):
            yield "longest_wait_s", "seconds, more than 0"


class Callbacks(Part, frozen=True):
    """Times of day are ``HH:MM``, in hotline.toml's time zone."""

    allowed: tuple[str, str] = ("08:00", "21:00")
    """Nobody is called by us outside these hours, neither back nor in a case."""
    morning: tuple[str, str] = ("09:00", "12:00")
    afternoon: tuple[str, str] = ("13:30", "18:00")
    """What callers may choose."""
    attempts: int = 3
    retry_after_s: tuple[float, ...] = (300.0, 1800.0, 7200.0)
    """After the first attempt in vain, the second, …; the last one counts for all that follow."""
    expires_after_s: float = 345600.0
    ring_s: float = 45.0
    """So long the person's telephone rings."""

    def faults(self) -> Iterator[tuple[str, str]]:
        spans: dict[str, tuple[time, time]] = {}
        for name in ("allowed", "morning", "afternoon"):
            begin, end = (time_of_day(one) for one in getattr(self, name))
            if begin is None or end is None or not begin < end:
                yield name, 'two times of day, the earlier first, as in ["09:00", "12:00"]'
                return
            spans[name] = (begin, end)
        allowed = spans["allowed"]
        for name in ("morning", "afternoon"):
            if max(spans[name][0], allowed[0]) >= min(spans[name][1], allowed[1]):
                yield name, "part of it must lie within callbacks.allowed"
        if not 1 <= self.attempts <= 10:
            yield "attempts", "1 to 10"
        if not self.retry_after_s or not all(60 <= one < float("inf") for one in self.retry_after_s):
            yield "retry_after_s", "seconds, one or more of them, 60 or more each"
        if not 3600 <= self.expires_after_s < float("inf"):
            yield "expires_after_s", "seconds, 3600 or more"
        if not 10 <= self.ring_s <= 120:
            yield "ring_s", "seconds, 10 to 120"


def time_of_day(text: str) -> time | None:
    """``"09:30"``; None if it is none. ``"24:00"``, of an end, is the day's last moment.

    >>> time_of_day("09:30"), time_of_day("9.30"), time_of_day("24:00")
    (datetime.time(9, 30), None, datetime.time(23, 59, 59, 999999))
    """
    if text == "24:00":
        return time.max
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", text)
    return time(int(found[1]), int(found[2])) if found else None


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY_MIN = 1440
SPAN = re.compile(r"([0-2]\d):([0-5]\d)-([0-2]\d):([0-5]\d)")

Span = tuple[int, int]
"""Minutes from midnight, from and until; until is the larger, past midnight more than 1440."""


def spans_of(texts: tuple[str, ...]) -> tuple[Span, ...]:
    """``("08:30-12:00", "22:00-06:00")`` as spans, in order of time.

    Raises ValueError, saying what to write, for anything else and for spans that overlap.
    """
    spans: list[Span] = []
    for text in texts:
        found = SPAN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r}: write hours as 08:30-17:30")
        begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if begin >= DAY_MIN or end > DAY_MIN or begin == end:
            raise ValueError(f"{text!r}: write hours from 00:00 to 24:00, the end other than the beginning")
        spans.append((begin, end if end > begin else end + DAY_MIN))
    spans.sort()
    for (_, until), (begin, _) in pairwise(spans):
        if begin < until:
            raise ValueError(f"{', '.join(texts)}: these hours overlap")
    return tuple(spans)


class Opening(Part, frozen=True):
    """Hours are ``HH:MM-HH:MM``, in hotline.toml's time zone; 22:00-06:00 belongs to the day it begins on."""

    weekly: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """By weekday; a weekday that is not named is closed. Nothing at all: open at all times, holidays included."""
    holiday: tuple[str, ...] = ()
    """On public holidays."""
    make_up: tuple[str, ...] = ()
    """On make-up working days (调休); nothing: as on Mondays."""

    def faults(self) -> Iterator[tuple[str, str]]:
        for day in self.weekly.keys() - set(WEEKDAYS):
            yield f"weekly.{day}", f"there is no weekday {day!r}; write some of {', '.join(WEEKDAYS)}"
        if not self.weekly and (self.holiday or self.make_up):
            yield "weekly", "write the weekly hours too: without them it is open at all times"
        given = {f"weekly.{day}": spans for day, spans in self.weekly.items()}
        for name, spans in (given | {"holiday": self.holiday, "make_up": self.make_up}).items():
            try:
                spans_of(spans)
            except ValueError as error:
                yield name, str(error)


class Hours(Opening, frozen=True, dict=True):
    lines: dict[str, Opening] = msgspec.field(default_factory=dict)
    """Of lines whose hours differ: party, lawyer."""
    closed_on: tuple[str, ...] = ()
    """Further days on which nobody is there, ``YYYY-MM-DD``."""
    calendar: str = ""
    """File of public holidays and make-up days, from desk.toml's folder; empty: ari_app/calendar.toml."""
    message_longest_s: float = 180.0
    message_silence_s: float = 4.0
    """A message ends after so much silence."""
    answer_within_h: float = 4.0
    """Hours after the next opening until which a message must be answered."""

    @cached_property
    def days(self) -> holidays.Calendar:
        """The calendar, which is read once: by ``load()``, so that no call ever waits for a disk.

        Raises SettingsInvalid.
        """
        return holidays.calendar(Path(self.calendar)) if self.calendar else holidays.official()

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from Opening.faults(self)
        for line in self.lines.keys() - set(LINES):
            yield f"lines.{line}", f"there is no line {line!r}; lines are {', '.join(LINES)}"
        for day in self.closed_on:
            try:
                date.fromisoformat(day)
            except ValueError:
                yield "closed_on", f"{day!r}: write a date as 2026-02-14"
        if not 5 <= self.message_longest_s <= 600:
            yield "message_longest_s", "seconds, 5 to 600"
        if not 1 <= self.message_silence_s <= 30:
            yield "message_silence_s", "seconds, 1 to 30"
        if not 0 < self.answer_within_h <= 240:
            yield "answer_within_h", "hours, more than 0"


class Pause(Part, frozen=True):
    """A reason to pause, dialled as ``*13`` and its code."""

    code: str
    name: str
    spoken: str = ""
    """Which prompt confirms it: ``agent-paused-`` and this; empty: none of its own."""
    daily_minutes: int = 0
    """Of one agent; 0: as long as it takes."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not re.fullmatch(r"\d{1,3}", self.code):
            yield "code", "one to three digits, as dialled after *13"
        if not 0 <= self.daily_minutes <= 1440:
            yield "daily_minutes", "minutes, 0 (no limit) to 1440"


class WrapUp(Part, frozen=True):
    by_line: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds, where it is not hotline.toml's queue.wrap_up_s."""
    extension_s: float = 60.0
    """``*16`` adds so much."""
    longest_s: float = 300.0
    """With all extensions."""

    def faults(self) -> Iterator[tuple[str, str]]:
        for line, seconds in self.by_line.items():
            if line not in LINES:
                yield f"by_line.{line}", f"there is no line {line!r}; lines are {', '.join(LINES)}"
            elif not 0 <= seconds <= self.longest_s:
                yield f"by_line.{line}", f"seconds, 0 to {self.longest_s:g} (wrap_up.longest_s)"
        if not 0 < self.extension_s < float("inf"):
            yield "extension_s", "seconds, more than 0"
        if not 0 < self.longest_s <= 3600:
            yield "longest_s", "seconds, more than 0, at most 3600"


class SecondLine(Part, frozen=True):
    target_wait_s: float = 90.0
    """Nobody of the second line free by then: a work order is opened, and the caller told. SOP-4."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 10 <= self.target_wait_s <= 600:
            yield "target_wait_s", "seconds, 10 to 600"


class SignIn(Part, frozen=True):
    wrong_pins: int = 3
    """After so many wrong PINs in a row none is taken from this agent for a while."""
    locked_s: float = 300.0

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 1 <= self.wrong_pins <= 10:
            yield "wrong_pins", "1 to 10"
        if not 0 <= self.locked_s <= 86400:
            yield "locked_s", "seconds, 0 to 86400"


class Watchdog(Part, frozen=True):
    reserved_s: float = 30.0
    """An agent who is reserved for longer, and whose phone does not ring, is free again."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 15 < self.reserved_s < float("inf"):
            yield "reserved_s", "seconds, more than 15: so long a phone may ring"


class Survey(Part, frozen=True):
    """After a talk the caller is asked how it was. KPI-7."""

    share: float = 1.0
    """Of the calls, drawn by lot: 1 asks everybody, 0 nobody."""
    answer_within_s: float = 4.0
    """After the question; whoever keys nothing goes on to the closing question."""
    reason_begins_within_s: float = 4.0
    """A low score is asked why; whoever says nothing goes on."""
    reason_at_most_s: float = 60.0
    low_due_h: float = 24.0
    """Until when the team leader must have looked after a low score."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.share <= 1:
            yield "share", "0 (nobody) to 1 (everybody)"
        for name in ("answer_within_s", "reason_begins_within_s"):
            if not 1 <= getattr(self, name) <= 10:
                yield name, "seconds, 1 to 10"
        if not 5 <= self.reason_at_most_s <= 60:
            yield "reason_at_most_s", "seconds, 5 to 60"
        if not 0 < self.low_due_h < float("inf"):
            yield "low_due_h", "hours, more than 0"


class Disposition(Part, frozen=True):
    due_h: float = 24.0
    """Hours until which a work order that an agent opens by ``*17`` must be answered. CRM-7."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 0 < self.due_h < float("inf"):
            yield "due_h", "hours, more than 0"


ASSESSED = (
    "calls_a_day", "handle_time", "phones_within_three_rings", "rona_rate", "offers_taken", "transfer_rate",
    "occupancy", "first_call_resolution", "satisfaction", "lawyer_satisfaction", "satisfied", "on_the_spot",
    "ticket_accuracy", "complaint_rate", "knowledge_base", "inspection",
)  # fmt: skip
"""Figures that agents may be assessed by: ids of ``flow.measures``."""
SHARES = (
    "phones_within_three_rings", "rona_rate", "offers_taken", "transfer_rate", "first_call_resolution", "satisfied",
    "on_the_spot", "ticket_accuracy", "complaint_rate",
)  # fmt: skip
"""Of these, those that count cases: each that misses may cost something."""


class Target(Part, frozen=True):
    """What is asked of one figure of an agent, and what it costs to miss it. 0 asks, and costs, nothing."""

    dimension: str
    """Of the assessment, as people call it; several targets may share one."""
    measure: str
    at_least: float = 0.0
    at_most: float = 0.0
    points_each: float = 0.0
    """Off for each case that misses: a second call, a wrong entry."""
    yuan_each: float = 0.0
    step: float = 0.0
    yuan_a_step: float = 0.0
    """Off for each whole `step` by which the figure misses its target."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.measure not in ASSESSED:
            yield "measure", f"there is no figure {self.measure!r} of an agent; write one of {', '.join(ASSESSED)}"
        if self.at_least and self.at_most:
            yield "at_most", "either at_least or at_most"
        for name in ("at_least", "at_most", "points_each", "yuan_each", "step", "yuan_a_step"):
            if not 0 <= getattr(self, name) < float("inf"):
                yield name, "0 (none) or more"
        for name in ("points_each", "yuan_each"):
            if getattr(self, name) and self.measure not in SHARES:
                yield name, f"only of figures that count cases: {', '.join(SHARES)}"
            elif getattr(self, name) and not (self.at_least or self.at_most):
                yield name, "write at_least or at_most too: it says which cases miss"
        if self.yuan_a_step and not (self.step and (self.at_least or self.at_most)):
            yield "yuan_a_step", "write step, and at_least or at_most, too"


class Assessment(Part, frozen=True):
    """Of agents: seven dimensions (KPI-1 to KPI-6), and the agent of the day (KPI-7)."""

    targets: tuple[Target, ...] = (
        Target(dimension="接听", measure="calls_a_day", at_least=120.0),
        Target(dimension="接听", measure="handle_time", at_most=180.0),
        Target(dimension="接听", measure="offers_taken"),
        Target(dimension="一次解决", measure="first_call_resolution", at_least=0.85, points_each=0.5),
        Target(dimension="工单", measure="ticket_accuracy", at_least=0.98, points_each=1.0),
        Target(dimension="满意度", measure="lawyer_satisfaction", at_least=4.7, step=0.1, yuan_a_step=100.0),
        Target(dimension="投诉", measure="complaint_rate", at_most=0.003, yuan_each=500.0),
        Target(dimension="知识库", measure="knowledge_base"),
        Target(dimension="质检", measure="inspection"),
    )
    best_score_at_least: float = 4.7
    """The agent of the day took the most calls among those with at least this mean score."""
    best_ratings_at_least: int = 1
    """From so many ratings or more."""

    def faults(self) -> Iterator[tuple[str, str]]:
        if not 1 <= self.best_score_at_least <= 5:
            yield "best_score_at_least", "a score, 1 to 5"
        if self.best_ratings_at_least < 1:
            yield "best_ratings_at_least", "ratings, 1 or more"


class Rules(Part, frozen=True):
    routing: Routing = Routing()
    lines: Lines = Lines()
    waiting: Waiting = Waiting()
    callbacks: Callbacks = Callbacks()
    hours: Hours = Hours()
    survey: Survey = Survey()
    disposition: Disposition = Disposition()
    pauses: tuple[Pause, ...] = (
        Pause(code="1", name="小休", spoken="break", daily_minutes=30),
        Pause(code="2", name="用餐", spoken="meal", daily_minutes=60),
        Pause(code="3", name="培训", spoken="training"),
        Pause(code="4", name="文书", spoken="paperwork", daily_minutes=60),
    )
    wrap_up: WrapUp = WrapUp()
    second_line: SecondLine = SecondLine()
    sign_in: SignIn = SignIn()
    watchdog: Watchdog = Watchdog()
    assessment: Assessment = Assessment()

    def pause(self, code: str | None) -> Pause | None:
        """The pause of that code; None if there is none."""
        return next((pause for pause in self.pauses if pause.code == code), None)

    def faults(self) -> Iterator[tuple[str, str]]:
        codes = [pause.code for pause in self.pauses]
        for n, code in enumerate(codes):
            if code in codes[:n]:
                yield f"pauses[{n}].code", f"there is a pause {code!r} already"


class RuleBook:
    """The rules in force. Without a `file` these are `rules` for ever.

    What was in force is kept as `kept`, for a controller that must take calls over while the file has a mistake.
    """

    def __init__(self, rules: Rules | None = None, file: Path | None = None, kept: Path | None = None) -> None:
        self.now = Rules() if rules is None else rules
        self._file = file
        self._kept = kept

    def reload(self) -> None:
        """Puts the file's rules in force. Raises SettingsInvalid, and leaves those that are."""
        if self._file is not None:
            self.now = load(self._file)
            self._keep()

    @property
    def _kept_calendar(self) -> Path | None:
        return None if self._kept is None else self._kept.with_name("calendar.in-force.toml")

    def open(self) -> None:
        """As ``reload()``; with a mistake in the file, the rules that were in force last. Raises SettingsInvalid if
        these are not known, either.
        """
        try:
            self.reload()
        except SettingsInvalid as error:
            if self._kept is None or not self._kept.exists():
                raise
            self.now = load(self._kept, self._kept_calendar)
            log.critical("%s The rules that were in force before hold.", error)

    def _keep(self) -> None:
        if self._kept is None:
            return
        try:
            _copy(self._file, self._kept)
            if self._kept_calendar is not None and self.now.hours.calendar:
                _copy(Path(self.now.hours.calendar), self._kept_calendar)
        except OSError as error:
            log.error("The rules in force cannot be kept: %s", error.strerror)


def _copy(file: Path | None, to: Path) -> None:
    new = to.with_suffix(".new")
    new.write_bytes(file.read_bytes() if file is not None and file.exists() else b"")
    new.replace(to)


def file_of(environment: Mapping[str, str] | None = None) -> Path:
    named = (os.environ if environment is None else environment).get("SANLING_DESK")
    return Path(named) if named else PROJECT / "desk.toml"


def open_book(kept: Path | None = None) -> RuleBook:
    """The rules of the file that the environment names, or of desk.toml; with a mistake there, those that were `kept`.
    Raises SettingsInvalid.
    """
    book = RuleBook(file=file_of(), kept=kept)
    book.open()
    return book


def load(file: Path, calendar: Path | None = None) -> Rules:
    """The rules in `file`; the defaults if there is no desk.toml. `calendar`: read instead of the one that is named.

    Raises SettingsInvalid: file, line, what to write.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if file == PROJECT / "desk.toml":
            return Rules()
        raise SettingsInvalid(f"There is no file of rules {file}: make it, or leave SANLING_DESK unset.") from None
    except UnicodeDecodeError as error:
        raise SettingsInvalid(f"{file} is not UTF-8 ({error.reason}): save it as UTF-8.") from None
    except OSError as error:
        raise SettingsInvalid(f"{file} cannot be read: {error.strerror}.") from error
    return parse(text, file.name, file.absolute().parent, calendar)


def parse(text: str, name: str = "desk.toml", folder: Path = PROJECT, calendar: Path | None = None) -> Rules:
    """The rules that `text` says, over the defaults; a calendar that it names is looked for from `folder`, unless it is
    `calendar`. Raises SettingsInvalid: `name`, line, what to write.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(written.not_toml(name, text, error)) from error
    defaults = msgspec.to_builtins(Rules())
    try:
        rules = msgspec.convert(_over(defaults, tree), Rules)
    except msgspec.ValidationError as error:
        raise SettingsInvalid(written.fault(name, text, *written.misfit(tree, defaults, error))) from error
    for path, fault in _faults(rules):
        raise SettingsInvalid(written.fault(name, text, path, f"{fault}."))
    return _with_days(rules, name, text, folder, calendar)


def _with_days(rules: Rules, name: str, text: str, folder: Path, calendar: Path | None) -> Rules:
    """`rules`, the calendar read."""
    if rules.hours.calendar:
        file = folder / rules.hours.calendar if calendar is None or not calendar.exists() else calendar
        rules = replace(rules, hours=replace(rules.hours, calendar=str(file)))
    try:
        _ = rules.hours.days
    except SettingsInvalid as error:
        raise SettingsInvalid(written.fault(name, text, "hours.calendar", str(error))) from error
    return rules


def _over(defaults: Any, said: Any) -> Any:
    """What the file says, over the defaults; a list that it says replaces the whole list."""
    if not isinstance(defaults, dict) or not isinstance(said, dict):
        return said
    return {
        **defaults,
        **{key: _over(defaults[key], value) if key in defaults else value for key, value in said.items()},
    }


def _faults(part: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(part, msgspec.Struct):
        for name in part.__struct_fields__:
            yield from _faults(getattr(part, name), f"{path}.{name}" if path else name)
        for name, fault in getattr(part, "faults", lambda: ())():
            yield f"{path}.{name}" if path else name, fault
    elif isinstance(part, Mapping):
        for name, inner in part.items():
            yield from _faults(inner, f"{path}.{name}")
    elif isinstance(part, list | tuple):
        for n, inner in enumerate(part):
            yield from _faults(inner, f"{path}[{n}]")
