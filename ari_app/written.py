"""Where a TOML file says something, and what to write instead of what is wrong there."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import msgspec

WIDE = "“”‘’，：＝［］｛｝"
"""Punctuation of a Chinese keyboard, where TOML wants ASCII's."""
KINDS: dict[type, str] = {str: "str", int: "int", float: "float", bool: "bool", dict: "object", list: "array"}
"""As msgspec calls what it got."""


def not_toml(name: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    """What is wrong with file `name`, whose `text` is no TOML."""
    place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
    lines = text.splitlines()
    number = int(place[1]) if place else len(lines)
    said = f"{name}, line {number}: not valid TOML: {str(error).partition(' (at ')[0]}."
    return said + _ascii_wanted(lines[number - 1] if 0 < number <= len(lines) else "")


def fault(name: str, text: str, path: str, said: str) -> str:
    number, lines = line_of(text, path), text.splitlines()
    line = lines[number - 1] if number <= len(lines) else ""
    return f"{name}, line {number}: {path}: {said}{_ascii_wanted(line.partition('#')[0])}"


def _ascii_wanted(line: str) -> str:
    wide = [one for one in WIDE if one in line]
    return f' There is {" ".join(wide)}: write ASCII quotes and commas, " and , and :.' if wide else ""


def misfit(tree: dict[str, Any], defaults: dict[str, Any], error: msgspec.ValidationError) -> tuple[str, str]:
    """What of `tree` does not fit the `defaults`: the path to it, and what to write."""
    said, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    unknown, got = re.search(r"unknown field `(.*)`", said), re.search(r"got `(\w+)`", said)

    def wrong(there: Any) -> bool:
        if unknown:
            return isinstance(there, dict) and unknown[1] in there
        return got is None or KINDS.get(type(there)) == got[1]

    path = _named(tree, path, wrong)
    where = ".".join(filter(None, (path, unknown[1] if unknown else "")))
    return where, f"{said}. {_what_to_write(tree, defaults, path, said)}"


def _named(tree: Any, path: str, wrong: Callable[[Any], bool]) -> str:
    """`path` with the names where msgspec writes ``[...]``: of the first of them that is `wrong`."""

    def walk(there: Any, parts: list[str]) -> str | None:
        if not parts:
            return "" if wrong(there) else None
        for name, inner in _inner(there, parts[0]):
            rest = walk(inner, parts[1:])
            if rest is not None:
                return name + rest
        return None

    found = walk(tree, re.findall(r"\[\.\.\.\]|\[\d+\]|[^.\[\]]+", path))
    return path if found is None else found.lstrip(".")


def _inner(there: Any, part: str) -> list[tuple[str, Any]]:
    if isinstance(there, dict):
        return [(f".{name}", inner) for name, inner in there.items() if part in ("[...]", name)]
    if isinstance(there, list):
        return [(f"[{n}]", inner) for n, inner in enumerate(there) if part in ("[...]", f"[{n}]")]
    return []


def at(tree: Any, path: str) -> Any:
    """What `tree` has at `path`; None: nothing."""
    for key in keys(path):
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _what_to_write(tree: dict[str, Any], defaults: dict[str, Any], path: str, said: str) -> str:
    """An example from the defaults, or the names that are known there."""
    usual, there = at(defaults, path), at(tree, path)
    if isinstance(usual, list | tuple) and usual and isinstance(usual[0], dict) and isinstance(there, dict):
        return f"Write [[{path}]], with two brackets, once for each of them."
    if said.startswith("Expected `array`") and isinstance(there, str):
        return f"Write {keys(path)[-1]} = [{json.dumps(there, ensure_ascii=False)}]."
    if isinstance(usual, dict):
        return f"Known here: {', '.join(usual)}."
    return "See the example file." if usual is None else f"Write for example {json.dumps(usual, ensure_ascii=False)}."


def keys(path: str) -> list[str | int]:
    return [int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)(?!\])|\[(\d+)\]", path)]


def line_of(text: str, path: str) -> int:
    """The line of TOML `text`, from 1, that sets `path` (``lines.party.steps[1].level``), or what it is in."""
    return _nearest(text, path)[0]


def says(text: str, path: str) -> bool:
    """Whether TOML `text` sets `path`."""
    return _nearest(text, path)[1] == len(keys(path))


def _nearest(text: str, path: str) -> tuple[int, int]:
    """The line, from 1, and how much of `path` it sets."""
    where = keys(path)
    best, best_depth = 1, 0
    table: list[str | int] = []
    counted: dict[tuple[str | int, ...], int] = {}
    key: list[str | int] = []
    elements = 0
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if header := re.match(r"(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", bare):
            names: list[str | int] = []
            for one in _names(header[2]):
                names.append(one)
                if tuple(names) in counted:
                    names.append(counted[tuple(names)])
            if header[1] == "[[":
                if isinstance(names[-1], int):
                    names.pop()
                counted[tuple(names)] = counted.get(tuple(names), -1) + 1
                names.append(counted[tuple(names)])
            table, key = names, []
            here = table
        elif setting := re.match(r"([\w\"'.-]+)\s*=", bare):
            key, elements = [*table, *_names(setting[1])], 0
            here = key
            if (inline := bare.partition("=")[2]).lstrip().startswith("["):
                elements = inline.count("{")
        elif key and bare.startswith("{"):
            here = [*key, elements]
            elements += 1
        else:
            continue
        depth = len(here) if where[: len(here)] == here else 0
        if depth > best_depth:
            best, best_depth = number, depth
    return best, best_depth


def _names(dotted: str) -> list[str]:
    return [name.strip().strip("\"'") for name in dotted.split(".")]
