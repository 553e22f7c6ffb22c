"""What Asterisk holds against what we hold: pure comparisons of one snapshot with the calls there are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ari_app.ari.client import Snapshot
from ari_app.ari.mailboxes import owner_of
from ari_app.features import agent_of


@dataclass(frozen=True)
class Ghosts:
    """What is with our application and belongs to no call."""

    callers: frozenset[str]
    """Channels of people who called in: someone may be listening."""
    legs: frozenset[str]
    """Agents' phones that we rang, and whatever else is ours."""
    bridges: frozenset[str]

    def both(self, earlier: Ghosts) -> Ghosts:
        """What was one already `earlier`: things that come or go in this moment are none."""
        return Ghosts(
            self.callers & earlier.callers, self.legs & earlier.legs, self.bridges & earlier.bridges
        )  # fmt: skip


NO_GHOSTS = Ghosts(frozenset(), frozenset(), frozenset())


def ghosts(now: Snapshot, owners: Collection[str], instance: str = "") -> Ghosts:
    """`owners`: ids of the calls, feature calls among them, that somebody serves. Our names begin with `instance`."""
    names = {channel.id: channel.name for channel in now.channels}
    alone = [id for id in now.application.channel_ids if id in names and owner_of(id) not in owners]
    callers = frozenset(id for id in alone if owner_of(id) == id and agent_of(names[id]) is None)
    # An empty bridge is not among the application's: by name then.
    bridges = frozenset(
        bridge.id
        for bridge in now.bridges
        if bridge.id.startswith(instance) and owner_of(bridge.id) not in {bridge.id, *owners}
    )
    return Ghosts(callers, frozenset(alone) - callers, bridges)


def recordings_left(stored: Iterable[str], owners: Collection[str], instance: str = "") -> frozenset[str]:
    """Names of what was recorded on a channel of a call (not the recording of the call), and is still there when nobody
    serves it any more.
    """
    ours = (name for name in stored if name.startswith(instance) and owner_of(name) != name)
    return frozenset(name for name in ours if owner_of(name) not in owners)
