"""What one side of a call hears, as a list of sounds with their beginnings and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

RINGBACK = "ringback"
MUSIC = "hold-music"


@dataclass(eq=False)
class Sound:
    """One thing heard without a break: a prompt's id, `hold-music`, `ringback`, or what the other side says."""

    what: str
    at_s: float
    """On the loop's clock."""
    of: str = ""
    """Who says it, the id of a channel; empty if the exchange plays it."""
    until_s: float | None = None
    """None while it lasts."""
    complete: bool = False
    """A prompt heard from its first moment to its last."""

    @property
    def lasts(self) -> bool:
        return self.until_s is None

    def seconds(self, now: float) -> float:
        return (now if self.until_s is None else self.until_s) - self.at_s


class Ear:
    """Everything one side has heard since the call began."""

    def __init__(self) -> None:
        self.sounds: list[Sound] = []
        self.digits = ""
        """Keypad digits that came through to this side."""
        self._watchers: set[asyncio.Future[None]] = set()

    def begin(self, what: str, of: str = "") -> Sound:
        sound = Sound(what, asyncio.get_running_loop().time(), of)
        self.sounds.append(sound)
        self.stir()
        return sound

    def end(self, sound: Sound, *, complete: bool = False) -> None:
        if sound.until_s is None:
            sound.until_s = asyncio.get_running_loop().time()
            sound.complete = complete
            self.stir()

    def end_of(self, speaker: str | None) -> None:
        """The path to `speaker` (None: to everybody) is cut: what they were saying breaks off here."""
        for sound in self.sounds:
            if sound.of and sound.lasts and speaker in (None, sound.of):
                self.end(sound)

    def close(self) -> None:
        """The call is over: nothing more is heard."""
        for sound in self.sounds:
            self.end(sound)
        self.stir()

    def stir(self) -> None:
        """Something changed: whoever waits looks again."""
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def until(self, found: Callable[[], T | None]) -> T:
        """What `found` gives as soon as that is not None; it is asked again after every change."""
        while (result := found()) is None:
            watcher = asyncio.get_running_loop().create_future()
            self._watchers.add(watcher)
            try:
                await watcher
            finally:
                self._watchers.discard(watcher)
        return result
