"""From the bytes of a frame to an event."""

from __future__ import annotations

import logging
from typing import Any, Union

import msgspec

from ari_app.ari import events
from ari_app.ari.model import Event, UnknownEvent

log = logging.getLogger("sanling.ari")

_known: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Union[events.EVENTS])  # noqa: UP007 - a runtime tuple
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_names = {event.__name__ for event in events.EVENTS}


def read_event(frame: bytes) -> Event | UnknownEvent:
    """The event in a frame; one that is unknown, or known but of another shape, as an `UnknownEvent`.

    Raises ValueError where there is no JSON object with a `type`.
    """
    try:
        return _known.decode(frame)
    except msgspec.ValidationError as misfit:
        raw = _any.decode(frame)
        if not isinstance(raw, dict) or not isinstance(kind := raw.get("type"), str):
            raise ValueError("a frame that is no event") from misfit
        if kind in _names:
            # Another version of Asterisk; the text names a field's path, never its value.
            log.warning("event %s has an unexpected shape, passed on unread: %s", kind, misfit)
        return UnknownEvent(kind, raw)
