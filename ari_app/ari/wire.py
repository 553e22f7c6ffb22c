"""What the client needs of a transport, and nothing about which one it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Response:
    """One answer of Asterisk: HTTP's status code, and the JSON body (empty after 204)."""

    status: int
    body: bytes


class Link(Enum):
    """What has become of the connection that carries the events."""

    UP = auto()
    DOWN = auto()
    REPLACED = auto()
    """Another client registered our application; events go there now, for good."""


class Wire(Protocol):
    """One Asterisk: requests to it and its event stream, whatever the transport."""

    async def request(
        self,
        method: str,
        uri: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        *,
        blocking: bool,
        timeout_s: float,
    ) -> Response:
        """Ask once; never repeats a request.

        `uri` has no leading slash and its segments are percent-encoded (`channels/demo-1.0/play`).
        `blocking` says that Asterisk may sit on this verb for as long as a playback lasts: it must not
        stand in the way of others. Requests that are not blocking arrive in the order they were made.
        Raises Unreachable, RequestTimeout, RequestTooLarge; a status of 400 and more is a Response.
        """
        ...

    def attach(self, on_event: Callable[[bytes], None], on_link: Callable[[Link], None]) -> None:
        """Before `run`: who gets each event as it was received, and who hears of the link."""
        ...

    async def run(self) -> None:
        """Connect, and reconnect for ever, until cancelled. Raises ApplicationReplaced, which is final."""
        ...
