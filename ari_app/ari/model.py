"""What the generated models and events are made of.

Lenient where Asterisk may change, strict where we depend on it: an unknown field is ignored, a missing one has a
default unless it is the resource's name, an unknown event becomes an `UnknownEvent` that still finds its call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Any

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Something Asterisk told us, as it was at that moment."""

    def keys(self) -> tuple[str, ...]:
        """Names of the resources this concerns; none for a mere description."""
        return ()


class Event(Model, frozen=True, kw_only=True, tag_field="type", tag=True):
    """What happened, when, to which resources. `type` in the JSON is the class's name."""

    application: str = ""
    timestamp: str = ""
    """As Asterisk writes it; `instant` reads it."""
    asterisk_id: str = ""

    @property
    def type(self) -> str:
        return type(self).__name__


class UnknownEvent(msgspec.Struct, frozen=True):
    """An event this version does not know, or could not read: passed through as it came."""

    type: str
    raw: dict[str, Any]

    def keys(self) -> tuple[str, ...]:
        """The `id` or `name` of every resource in it, as far as one can tell without knowing the event."""
        return tuple(dict.fromkeys(_names(self.raw.values())))


def _names(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, dict):
            for field in ("id", "name"):
                if isinstance(name := value.get(field), str) and name:
                    yield name
                    break
            if isinstance(target := value.get("target_uri"), str):
                yield target_id(target)


def target_id(uri: str) -> str:
    """The resource a `target_uri` names: `channel:demo-1.0` is played to `demo-1.0`."""
    return uri.partition(":")[2]


def keys_of(*resources: Model | None) -> tuple[str, ...]:
    """Names of all the resources that are there, each once."""
    each = (resource.keys() for resource in resources if resource is not None)
    return tuple(dict.fromkeys(chain.from_iterable(each)))


def instant(date: str) -> datetime:
    """The moment of an ARI `Date`, e.g. `2025-11-21T22:25:00.123+0000`. Raises ValueError."""
    return datetime.fromisoformat(date)
