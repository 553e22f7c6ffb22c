"""What a caller says with nobody at the other end, such as a reason: when a voice begins, and when it has ended.

Asterisk listens (``TALK_DETECT``) and tells; nothing is recorded for it, because the whole call is (REC-1).
"""

from __future__ import annotations

import logging

from ari_app.ari.errors import RequestFailed
from ari_app.line import Line

log = logging.getLogger("sanling.spoken")

PAUSE_MS = 2500
"""Whoever says nothing for so long has finished."""
LOUDNESS = 256
"""Mean level of the samples (0 to 32767) from which on a sound is a voice; Asterisk's own."""
TIMERS = AT_MOST, NOTHING = "spoken", "unspoken"
"""Deadlines of the line: the time is up; nobody has begun to speak."""


class Spoken:
    """One call's."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._client = line.hotline.client
        self._spoken_s = 0.0
        self._since: float | None = None

    async def listen(self, *, begins_within_s: float, at_most_s: float) -> None:
        """From now on: `NOTHING` is due if no voice begins in time, `AT_MOST` whatever happens."""
        self._line.within(NOTHING, begins_within_s)
        self._line.within(AT_MOST, at_most_s)
        await self.attend(PAUSE_MS)

    async def attend(self, pause_ms: int) -> None:
        """From now on a voice is told of, and counted; without a deadline."""
        self._spoken_s, self._since = 0.0, None
        await self._tell_asterisk("set", f"{pause_ms},{LOUDNESS}")

    def begins(self) -> None:
        """A voice is heard."""
        self._line.clear(NOTHING)
        self._since = self._now()

    def pauses(self, duration_ms: int) -> None:
        """It has been quiet for PAUSE_MS, after a voice of `duration_ms`."""
        self._spoken_s += duration_ms / 1000
        self._since = None

    @property
    def spoken_s(self) -> float:
        """Seconds with a voice in them, as far as is known."""
        return self._spoken_s + (self._now() - self._since if self._since is not None else 0.0)

    async def stop(self) -> None:
        """No more events of this."""
        self._line.clear(AT_MOST, NOTHING)
        await self._tell_asterisk("remove", "")

    async def _tell_asterisk(self, action: str, value: str) -> None:
        variable = f"TALK_DETECT({action})"
        try:
            await self._client.channels.setChannelVar(channelId=self._line.id, variable=variable, value=value)
        except RequestFailed as error:  # hung up; if it is anything else, a key or the time ends it
            log.info("call %s: %s", self._line.id, error)

    def _now(self) -> float:
        return self._line.hotline.clock()
