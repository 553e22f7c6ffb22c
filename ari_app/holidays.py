"""The official calendar as data: public holidays and make-up working days (调休), by the State Council's notices.

``ari_app/calendar.toml``, or the file that desk.toml's ``hours.calendar`` names.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import msgspec

from ari_app.errors import SettingsInvalid

OFFICIAL = Path(__file__).with_name("calendar.toml")


@dataclass(frozen=True)
class Calendar:
    """What the State Council decided about days; of a year that is not among `years` it says nothing."""

    holidays: frozenset[date] = frozenset()
    make_up: frozenset[date] = frozenset()
    years: frozenset[int] = frozenset()


class Year(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    notice: str
    holidays: tuple[date | tuple[date, date], ...]
    make_up: tuple[date | tuple[date, date], ...] = ()


def calendar(file: Path) -> Calendar:
    """The calendar in `file`. Raises SettingsInvalid, naming the year and what to write."""
    try:
        years = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(
            f"cannot be read ({error.strerror}): write the path of a file like ari_app/calendar.toml, or leave it out."
        ) from error
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


@functools.cache
def official() -> Calendar:
    """What comes with the project."""
    return calendar(OFFICIAL)
