"""Keys that a caller presses, gathered into an answer. Pure: whoever holds the clock calls ``quiet()``.

``#`` ends an entry, ``*`` starts it over, a lone ``0`` is a person (SOP-2's "at any time"): at once where no answer
begins with 0, and otherwise by ``#`` or a short silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

DIGIT_KEYS = "0123456789"
LETTER_KEYS = "23456789"
LONGEST_KEPT = 40


@dataclass(frozen=True)
class Entry:
    """What one answer of several keys looks like."""

    shortest: int
    longest: int
    keys: str = DIGIT_KEYS
    first: str = ""
    """Keys that the answer may begin with; empty: any of `keys`."""

    def accepts(self, keys: str) -> bool:
        return self.shortest <= len(keys) <= self.longest and set(keys) <= set(self.keys) and self.begins_with(keys[0])

    def begins_with(self, key: str) -> bool:
        return key in (self.first or self.keys)


class Keyed(Enum):
    """What the keys amount to."""

    CHOICE = auto()
    ENTERED = auto()
    CLEARED = auto()
    INVALID = auto()
    NOTHING = auto()
    PERSON = auto()


@dataclass
class Keypad:
    """The keys of one question: a menu (`choices`: its keys) or an `entry`."""

    choices: frozenset[str] = frozenset()
    entry: Entry | None = None
    keys: str = ""

    def press(self, key: str) -> Keyed | None:
        """One key; what it completes, or None if more must come."""
        if self.entry is None:
            return self._choose(key)
        if key == "*":
            self.keys = ""
            return Keyed.CLEARED
        if key == "#":
            return self._finish()
        self.keys = (self.keys + key)[:LONGEST_KEPT]
        if self.keys == "0" and not self.entry.begins_with("0"):
            return Keyed.PERSON
        return None

    def quiet(self) -> Keyed:
        """No key came in time."""
        return self._finish()

    @property
    def lone_zero(self) -> bool:
        """Only 0 has been pressed: the caller probably wants a person, so the silence that decides may be short."""
        return self.keys == "0"

    def _choose(self, key: str) -> Keyed | None:
        self.keys = key
        if key in self.choices:
            return Keyed.CHOICE
        if key == "0":
            return Keyed.PERSON
        if key == "*":
            return Keyed.CLEARED
        return None if key == "#" else Keyed.INVALID  # the # that ended an entry already taken

    def _finish(self) -> Keyed:
        keys, self.keys = self.keys, ""
        if keys == "0":
            return Keyed.PERSON
        if not keys or self.entry is None:
            return Keyed.NOTHING
        self.keys = keys
        return Keyed.ENTERED if self.entry.accepts(keys) else Keyed.INVALID


@dataclass(frozen=True)
class TransferTo:
    """An agent wants to transfer the call: the number of a line or of an agent, as keyed."""

    keys: str


@dataclass
class AgentKeys:
    """Feature codes an agent presses in talk: a star and a key (``*5``); to transfer, ``*7``, a number and ``#``."""

    codes: Mapping[str, object] = field(default_factory=dict)
    transfer: str = ""
    """The key that begins a transfer; empty: there is none."""
    _star: bool = False
    _to: str | None = None

    def press(self, key: str) -> object | None:
        """The code that `key` completes, a `TransferTo`, or None."""
        if self._to is not None and key.isdigit():
            self._to = (self._to + key)[:LONGEST_KEPT]
            return None
        to, self._to = self._to, None
        if to and key == "#":
            return TransferTo(to)
        code = self.codes.get(key) if self._star else None
        if self._star and key == self.transfer:
            self._to = ""
        self._star = key == "*"
        return code
