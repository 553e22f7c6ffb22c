"""How long a phone heard nothing, packet by packet.

A packet of 20 ms is loud if enough of its samples are; sound is three loud packets in a row, so that a click does not
break a silence. Pauses between words and sentences stay far under what is kept here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

LOUD_FROM = 128
"""Of 32768: -48 dBFS. Prompts, music and the phones' own tones are 20 dB above, comfort noise is below."""
LOUD_SAMPLES = 16
"""So many of a packet's 160 samples make it loud."""
SOUND_PACKETS = 3
KEPT_FROM_S = 1.5
"""Shorter pauses are speech."""


def _linear(code: int) -> int:
    """What an A-law code stands for. ITU-T G.711, table 1a."""
    code ^= 0x55
    segment, step = (code >> 4) & 7, code & 15
    size = (step << 4) + 8 if segment == 0 else ((step << 4) + 0x108) << (segment - 1)
    return size if code & 0x80 else -size


_LOUD = bytes(abs(_linear(code)) >= LOUD_FROM for code in range(256))


def loud(payload: bytes) -> bool:
    """Whether a packet of A-law holds sound."""
    return payload.translate(_LOUD).count(1) >= LOUD_SAMPLES


@dataclass
class SilenceMeter:
    """The silences of one call. Times are Unix seconds; the first silence begins at `began`."""

    began: float
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """From, to: every silence of `KEPT_FROM_S` or more."""
    packets: int = 0

    def __post_init__(self) -> None:
        self.last = self.began
        """When sound was heard last."""
        self.sounded_s = 0.0
        self._row = 0

    def packet(self, at: float, is_loud: bool) -> None:
        """One packet of 20 ms has arrived."""
        self.packets += 1
        if not is_loud:
            self._row = 0
            return
        self._row += 1
        self.sounded_s += 0.02
        if self._row >= SOUND_PACKETS:
            self._keep(at)
            self.last = at

    def ends(self, at: float) -> None:
        """The call is over: the silence it ended in counts too."""
        self._keep(at)
        self.last = max(at, self.last)

    def _keep(self, at: float) -> None:
        if at - self.last >= KEPT_FROM_S:
            self.gaps.append((self.last, at))


def judged(gap: tuple[float, float], unjudged: Iterable[tuple[float, float]]) -> float:
    """Seconds of `gap` outside all of `unjudged`: moments at which the phones themselves were late."""
    since, until = gap
    return (until - since) - sum(max(0.0, min(until, b) - max(since, a)) for a, b in unjudged)
