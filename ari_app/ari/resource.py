"""What the generated verbs are made of: how one of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from ari_app.ari.verbs import Verbs

T = TypeVar("T")


class Ask(Protocol):
    """Sends one request and reads its answer as `returns`. Raises AriError."""

    async def __call__(
        self,
        verb: str,
        method: str,
        uri: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        *,
        blocking: bool,
        returns: type[T],
    ) -> T: ...


class Subscription(Protocol):
    """An `on_event` that can be taken back."""

    def close(self) -> None: ...


class Listen(Protocol):
    """Calls `heard` for every event of this type that concerns this resource, until closed."""

    def __call__(self, resource_id: str, event_type: str, heard: Callable[[Any], Any]) -> Subscription: ...


class Resource:
    """The verbs of one kind of resource."""

    def __init__(self, verbs: Verbs, ask: Ask) -> None:
        self._verbs = verbs
        self._ask = ask


def segment(value: str) -> str:
    """One segment of a path, such that an id with a slash stays one segment."""
    return quote(value, safe="~;:@")


def query(**values: str | int | bool | Sequence[str] | None) -> dict[str, str]:
    """Query strings as ARI reads them: absent ones left out, `true`/`false`, several values comma-joined.

    >>> query(media=["sound:a", "sound:b"], skipms=0, mute=False, lang=None)
    {'media': 'sound:a,sound:b', 'skipms': '0', 'mute': 'false'}
    """
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: str | int | bool | Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return ",".join(value)
