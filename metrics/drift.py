"""Whether three accounts of the ended calls agree: the ledger's, the counters' and Asterisk's own records (CDR).

Figures on a dashboard are the counters', figures in a report are the ledger's; neither can notice a call that it never
heard of, so Asterisk, which had the channel, is asked as well. What is told later than something else is no drift yet:
records and rows have SETTLES_S to meet. What does not meet counts for REMEMBERED_S, then it is history. Of offers, and
of who talked with the caller, Asterisk's records say nothing: there are two accounts of them (``Tally``).

Asterisk's file has one line for each stretch of a channel, in the columns of ``cdr_custom.conf``, none of them a
person's: uniqueid, linkedid, the channel's name without digits, start, answer, end, disposition. A caller's channel
comes from the trunk and leads its own call; a channel that we dial is led by another.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final, TypeVar

K = TypeVar("K", bound=Hashable)

SETTLES_S: Final = 120.0
"""A recording of a call that never reached the controller is sealed first, then it is in the ledger."""
REMEMBERED_S: Final = 3600.0
READ_AT_FIRST_BYTES: Final = 1_000_000
"""Of the records from before: some ten thousand channels."""
TRUNK: Final = "PJSIP/trunk"
SAME_IN_THE_LEDGER: Final = {"short_abandon": "abandoned"}
"""Outcomes that only the counters tell apart."""


@dataclass(frozen=True)
class Record:
    """One line of Asterisk's: a channel that is gone, and whether it was a caller's."""

    call_id: str
    is_a_caller: bool


@dataclass(frozen=True)
class Disagreement:
    """What does not meet. Empty where the accounts agree."""

    counted_too_many: Mapping[str, int]
    """By outcome, calls counted that the ledger does not have; negative: calls of the ledger that were not counted."""
    not_in_ledger: tuple[str, ...]
    """Callers' channels that Asterisk had and the ledger does not know."""
    not_in_asterisk: tuple[str, ...]
    """Calls of the ledger of which Asterisk has no record."""
    offers_too_many: Mapping[str, int] = field(default_factory=dict)
    """By outcome, as `counted_too_many`."""
    talks_too_many: Mapping[str, int] = field(default_factory=dict)
    """By agent."""

    @property
    def ledger_and_metrics(self) -> int:
        return differing(self.counted_too_many)

    @property
    def ledger_and_cdr(self) -> int:
        return len(self.not_in_ledger) + len(self.not_in_asterisk)


def differing(too_many: Mapping[str, int]) -> int:
    """How many there are, at least: one that is counted as another is two differences, and one."""
    more = sum(n for n in too_many.values() if n > 0)
    fewer = -sum(n for n in too_many.values() if n < 0)
    return max(more, fewer)


class Tally:
    """Of one kind of event, what is counted beside what the ledger has, from `at` on."""

    def __init__(self, at: float) -> None:
        self._tallied: Counter[str] = Counter()
        self._apart: deque[tuple[float, Counter[str]]] = deque([(at, Counter())])
        self._ours: dict[Hashable, float] = {}

    def ledger_has(self, found: Mapping[K, str], at: float) -> set[K]:
        """Events, and as what each is to be counted. Told any number of times; returns those that are new."""
        new = {one for one in found if one not in self._ours}
        self._tallied.update(found[one] for one in new)
        for one in found:
            self._ours[one] = at
        return new

    def too_many(self, counted: Mapping[str, int], at: float) -> dict[str, int]:
        """What is counted and not in the ledger; negative: the other way round. `counted`: since the beginning, at a
        moment at which ``ledger_has`` knew of the same events.
        """
        apart = Counter(counted)
        apart.subtract(self._tallied)
        self._apart.append((at, apart))
        while len(self._apart) > 1 and self._apart[1][0] <= at - REMEMBERED_S:
            self._apart.popleft()
        _forget(self._ours, at - REMEMBERED_S - SETTLES_S)
        before = self._apart[0][1]
        return {kind: n - before[kind] for kind, n in sorted(apart.items()) if n != before[kind]}


class Accounts:
    """The three accounts from `at` on; all times are seconds of one clock.

    Told in any order, any number of times: ``ledger_has``, ``asterisk_has``; then ``disagreement`` with what was
    counted.
    """

    def __init__(self, at: float) -> None:
        self._ended = Tally(at)
        self._in_ledger: dict[str, float] = {}
        self._in_asterisk: dict[str, float] = {}
        self._unknown_to_ledger: dict[str, float] = {}
        self._unknown_to_asterisk: dict[str, float] = {}

    @property
    def unknown_to_ledger(self) -> tuple[str, ...]:
        """Callers' channels of Asterisk's of which the ledger was not told yet."""
        return tuple(self._unknown_to_ledger)

    def ledger_has(self, ended: Mapping[str, str], at: float, *, without_record: Collection[str] = ()) -> None:
        """Calls that ended since the beginning, with outcomes. `without_record`: those that Asterisk died under."""
        new = self._ended.ledger_has(ended, at)
        self.ledger_had(new, at)
        for call_id in new:
            if call_id not in self._in_asterisk and call_id not in without_record:
                self._unknown_to_asterisk.setdefault(call_id, at)

    def ledger_had(self, call_ids: Iterable[str], at: float) -> None:
        """Calls that the ledger has, whoever counted them."""
        for call_id in call_ids:
            self._in_ledger.setdefault(call_id, at)
            self._unknown_to_ledger.pop(call_id, None)

    def asterisk_has(self, records: Iterable[Record], at: float) -> None:
        for record in records:
            self._in_asterisk.setdefault(record.call_id, at)
            self._unknown_to_asterisk.pop(record.call_id, None)
            if record.is_a_caller and record.call_id not in self._in_ledger:
                self._unknown_to_ledger.setdefault(record.call_id, at)

    def asterisk_had(self, records: Iterable[Record], at: float) -> None:
        """Records from before the beginning that accuse nobody: calls that end from now on may need them."""
        for record in records:
            self._in_asterisk.setdefault(record.call_id, at)

    def disagreement(self, counted: Mapping[str, int], at: float, *, settles_s: float = SETTLES_S) -> Disagreement:
        """What does not meet at `at`. `counted`: calls counted since the beginning, by outcome, at a moment at which
        ``ledger_has`` knew of the same calls.
        """
        as_there: Counter[str] = Counter()
        for outcome, calls in counted.items():
            as_there[SAME_IN_THE_LEDGER.get(outcome, outcome)] += calls
        for known in (self._in_ledger, self._in_asterisk, self._unknown_to_ledger, self._unknown_to_asterisk):
            _forget(known, at - REMEMBERED_S - settles_s)
        return Disagreement(
            self._ended.too_many(as_there, at),
            _settled(self._unknown_to_ledger, at - settles_s),
            _settled(self._unknown_to_asterisk, at - settles_s),
        )


class Records:
    """Asterisk's file, read on from where it was read before; one that was rotated away is read to its end, and the new
    one begun.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open: FileIO | None = None

    def earlier(self) -> list[Record]:
        """What is there already, of a long file the end: about a day. No file is no records. Raises OSError."""
        self.close()
        try:
            self._open = self._file.open("rb", buffering=0)
        except FileNotFoundError:
            return []
        self._open.seek(max(0, _size(self._open) - READ_AT_FIRST_BYTES))
        return self.new()

    def new(self) -> list[Record]:
        """What came since. No file is no records. Raises OSError for what else is in the way."""
        found = _read_on(self._open) if self._open is not None else []
        try:
            now = self._file.open("rb", buffering=0)
        except FileNotFoundError:
            return found
        if self._open is not None and os.path.sameopenfile(now.fileno(), self._open.fileno()):
            now.close()
            return found
        self.close()
        self._open = now
        return found + _read_on(now)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read_on(file: FileIO) -> list[Record]:
    """The records of the lines that are whole by now; of a file that was cut short, from its beginning."""
    at = file.tell()
    if _size(file) < at:
        at = file.seek(0)
    whole, line_end, _ = file.read().rpartition(b"\n")
    file.seek(at + len(whole) + len(line_end))
    return records_of(whole.decode("utf-8", "replace"))


def records_of(text: str) -> list[Record]:
    """The records of whole lines; what is no record (the first line after a leap into the file) is left out."""
    found = []
    for line in csv.reader(text.splitlines()):
        match line:
            case [unique, linked, channel, _, _, _, _] if unique:
                found.append(Record(unique, channel.startswith(TRUNK) and linked == unique))
    return found


def _forget(known: dict[K, float], before: float) -> None:
    for one in [one for one, since in known.items() if since <= before]:
        del known[one]


def _settled(unknown: Mapping[str, float], before: float) -> tuple[str, ...]:
    return tuple(sorted(call_id for call_id, since in unknown.items() if since <= before))
