"""Who gets which call. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wants:
    """What a call in the queue asks of an agent."""

    line: str = "party"
    """One of ``rules.LINES``."""
    need: str | None = None
    """One of ``rules.NEEDS``; None: it was not said, any agent of the line will do."""
    language: str = "mandarin"
    """One of ``rules.LANGUAGES``."""
    priority: int = 0
    """Higher comes first, whenever it joined."""
    last_agent: str | None = None
    """Who had this caller last: tried first, for a short time."""
    declined: frozenset[str] = frozenset()
    """Agents who did not take this call: not offered it again, unless nobody else could."""
