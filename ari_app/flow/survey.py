"""Which callers are asked how satisfied they were, and which answers are low. KPI-7. Pure."""

from __future__ import annotations

from hashlib import sha256

from ari_app.flow.sop import LOW, RATED

LOWEST, HIGHEST = min(RATED.values()), max(RATED.values())
LOW_SCORES = frozenset(RATED[heard] for _, heard in LOW)


def asks(call_id: str, share: float) -> bool:
    """Whether this call is among the `share` (0 to 1) that is asked: drawn by lot, and always the same for one call,
    so that a controller that takes it up asks on, or does not begin.
    """
    drawn = int.from_bytes(sha256(call_id.encode()).digest()[:8]) / 2**64
    return drawn < share


def is_low(score: int) -> bool:
    return score in LOW_SCORES
