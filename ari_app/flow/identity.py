"""Who is calling: which keyed answers prove which caller. Pure. SOP-2.

Names and firms are keyed as pinyin initials on the phone's letters: 张伟 → Z W → 9 9. A polyphone may be keyed by any
of its readings (单 is Shàn, Dān or Chán), so a name stands for a set of digit strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product

LETTERS = {
    letter: digit
    for digit, letters in {
        "2": "abc", "3": "def", "4": "ghi", "5": "jkl", "6": "mno", "7": "pqrs", "8": "tuv", "9": "wxyz",
    }.items()
    for letter in letters
}  # fmt: skip
"""The letters on a phone's keys. Source: ITU-T E.161."""

FIRM_ENDINGS = ("律师事务所", "事务所")


class Role(StrEnum):
    LAWYER = "lawyer"
    PARTY = "party"
    UNKNOWN = "unknown"


class Element(StrEnum):
    """What a caller proves. The first four are a lawyer's, NAME, MOBILE and CASE a party's."""

    FIRM = "firm"
    NAME = "name"
    LICENCE = "licence"
    MOBILE = "mobile"
    CASE = "case"


REQUIRED = {
    Role.LAWYER: (Element.FIRM, Element.NAME, Element.LICENCE, Element.MOBILE),
    Role.PARTY: (Element.MOBILE, Element.CASE, Element.NAME),
}


@cache
def initials(name: str) -> frozenset[str]:
    """All ways to key `name`: one digit a Chinese character, every reading of it.

    >>> sorted(initials("张伟"))
    ['99']
    >>> sorted(initials("单晓"))
    ['29', '39', '79']

    Latin letters count as themselves, digits too; anything else is passed over.
    """
    from pypinyin import Style, pinyin  # its dictionary takes a second to load, which only a controller needs to spend

    choices: list[set[str]] = []
    for character in name.lower():
        if character in LETTERS:
            choices.append({LETTERS[character]})
        elif character.isascii():
            if character.isdigit():
                choices.append({character})
        else:
            readings = pinyin(character, style=Style.NORMAL, heteronym=True, errors="ignore")
            keys = {LETTERS[reading[0]] for reading in (readings[0] if readings else ()) if reading[0] in LETTERS}
            if keys:
                choices.append(keys)
    return frozenset("".join(way) for way in product(*choices)) - {""}


def firm_initials(name: str, short_name: str) -> frozenset[str]:
    """All ways to key a law firm: its full name, that without 律师事务所, or its short name."""
    names = {name, short_name}
    names |= {name.removesuffix(ending) for ending in FIRM_ENDINGS} | {
        short_name.removesuffix(ending) for ending in FIRM_ENDINGS
    }
    return frozenset().union(*(initials(one) for one in names if one))


@dataclass(frozen=True)
class OnFile:
    """One person (and, for a party, one case) as the case file has them; None where it does not apply."""

    role: Role
    name: str
    mobile: str
    firm: str = ""
    firm_short: str = ""
    licence: str = ""
    case_last5: str = ""


@dataclass(frozen=True)
class Verdict:
    proven: OnFile | None
    missing: tuple[Element, ...]
    """Elements that remain to be shown, for the agent's side only: the caller is never told which."""


def prove(role: Role, answers: dict[Element, str], on_file: Iterable[OnFile]) -> Verdict:
    """Whether `answers` prove one of the people `on_file`: every element of that role must match the same person.

    If none does, `missing` is counted against the person who matches most, so that the agent need not ask everything.
    """
    required = REQUIRED[role]
    best: tuple[Element, ...] = required
    for person in on_file:
        if person.role is not role:
            continue
        missing = tuple(element for element in required if not _matches(element, answers.get(element), person))
        if not missing:
            return Verdict(person, ())
        if len(missing) < len(best):
            best = missing
    return Verdict(None, best)


def _matches(element: Element, answer: str | None, person: OnFile) -> bool:
    if not answer:
        return False
    match element:
        case Element.NAME:
            return answer in initials(person.name)
        case Element.FIRM:
            return answer in firm_initials(person.firm, person.firm_short)
        case Element.LICENCE:
            return answer == person.licence[-4:]
        case Element.MOBILE:
            return answer == person.mobile
        case Element.CASE | _:
            return answer == person.case_last5
