"""The ARI client: begin at `Client` and `WebSocketWire`; `errors`, `events` and `verbs` are the vocabulary."""

from ari_app.ari.client import Arrival, Client, LinkDown, LinkUp, Snapshot
from ari_app.ari.mailboxes import Mailbox, Mailboxes, owner_of
from ari_app.ari.model import Event, UnknownEvent
from ari_app.ari.reading import read_event
from ari_app.ari.wire import Link, Response, Wire

__all__ = [
    "Arrival",
    "Client",
    "Event",
    "Link",
    "LinkDown",
    "LinkUp",
    "Mailbox",
    "Mailboxes",
    "Response",
    "Snapshot",
    "UnknownEvent",
    "Wire",
    "owner_of",
    "read_event",
]
