"""What is said: to the caller, to both sides of a talk, or to an agent alone; and the music while nobody speaks.

Each playback is named after the step that began it, so that a later controller finds it; each prompt that was begun is
a row of the ledger. A playback that Asterisk loses has a deadline (``speech``, ``whisper``) of the call's line.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Literal

from ari_app.ari.errors import AllocationFailed, AriError, NotFound, ServerError
from ari_app.errors import PromptAltered
from ari_app.flow.sop import Heard
from ari_app.line import Line
from ari_app.store import models

log = logging.getLogger("sanling.voice")

PLAYBACK_GRACE_S = 3.0
"""A playback that has not ended this long after its audio is taken as ended: Asterisk lost it."""
BROKEN_S = 0.3
"""A playback that broke off comes before the hang-up that caused it: that is waited for before anything goes on."""
STOP_TRIES = 3
ANNOUNCER_TRIES = 5
ANNOUNCER_LEAVES_S = 0.1
TELLS_WHO = ("digits", "is-it")
"""Families of prompts whose members are personal data."""

Side = Literal["caller", "agent", "both"]


def playback_name(call_id: str, row: int, k: int) -> str:
    """Of the `k`-th thing that was said in step `row`."""
    return f"{call_id}~play-{row}-{k}"


def as_written(prompt: str) -> str:
    """What the ledger calls it: without the digits or the surname that some prompts are made of.

    >>> [as_written(prompt) for prompt in ("ask-case", "digits-54", "is-it-mr-5f20")]
    ['ask-case', 'digits', 'is-it']
    """
    return next((family for family in TELLS_WHO if prompt.startswith(f"{family}-")), prompt)


@dataclass(frozen=True)
class Speech:
    """Prompts being played, one after another, since `at` (Unix seconds)."""

    playback: str
    prompts: tuple[str, ...]
    side: Side
    at: float


class Voice:
    """One call's. At most one thing is said to the caller, and one whispered to an agent, at a time."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._house = line.hotline
        self._client = line.hotline.client
        self.speech: Speech | None = None
        """What the caller, or both, are hearing."""
        self.whispered: Speech | None = None
        """What the agent alone is hearing."""
        self.music = False
        self._heard = 0
        self.row = 0
        """Of the step that was begun last."""
        self._plays = 0
        self._unsure: str | None = None
        self._silence = False
        """Silence is being sent, and nothing was played since."""

    def take_up(self, *, heard: int) -> None:
        """Goes on where another controller stopped, after `heard` prompts that were begun."""
        self._heard = heard

    def go_on_saying(self, speech: Speech | None) -> None:
        self.speech = speech
        if speech is not None:
            self._line.within("speech", speech.at + self.seconds(speech.prompts) + PLAYBACK_GRACE_S - self._now())

    def go_on_whispering(self, speech: Speech) -> None:
        self.whispered = speech

    def music_may_play(self) -> None:
        """What another controller started, so that it is stopped."""
        self.music = True

    def begin_step(self, row: int) -> None:
        """What is said from now on belongs to step `row` of the call."""
        self.row, self._plays = row, 0

    # ---------------------------------------------------------------- saying

    async def say(
        self, prompts: tuple[str, ...], bridge: str | None = None, side: Side = "caller", *, row: int | None = None
    ) -> None:
        """To the caller; or into `bridge`, where `side` hears it. In place of what is being said. It belongs to step
        `row`, if not to the one that was begun last.
        """
        row = self.row if row is None else row
        await self.hush()
        await self.stop_music()
        self.speech = await self._play(prompts, side, self._line.id, bridge, row=row)
        if self.speech is not None:
            self._line.within("speech", self.seconds(self.speech.prompts) + PLAYBACK_GRACE_S)
        else:  # nothing to play: it goes on as if it had been said
            self._line.within("speech", 0.0)
        if "closing" in prompts:
            self._house.metrics.closing_asked()

    async def whisper(self, prompt: str, channel: str) -> None:
        """To the agent on `channel` alone."""
        await self.stop_whisper()
        self.whispered = await self._play((prompt,), "agent", channel)
        self._line.within("whisper", self.seconds((prompt,)) + PLAYBACK_GRACE_S)

    async def _play(
        self, prompts: tuple[str, ...], side: Side, channel: str, bridge: str | None = None, *, row: int | None = None
    ) -> Speech | None:
        playback = playback_name(self._line.id, self.row if row is None else row, self._plays)
        self._plays += 1
        media = self._media(prompts)
        speech: Speech | None = None
        if not media:
            return None
        if self._unsure is not None:  # the link broke while that was asked for: it may be playing
            await self._stop(self._unsure)
        self._unsure = playback
        self._silence = self._silence and side == "agent"
        with self._line.gone_is_hung_up(None if side == "agent" else Heard.HUNG_UP):
            if bridge is not None:
                await self._play_to_both(bridge, playback, media)
            else:
                await self._client.channels.play(channelId=channel, playbackId=playback, media=media)
            speech = Speech(playback, prompts, side, self._now())
        self._unsure = None
        return speech

    async def _play_to_both(self, bridge: str, playback: str, media: list[str]) -> None:
        for attempt in range(ANNOUNCER_TRIES):
            try:
                await self._client.bridges.play(bridgeId=bridge, playbackId=playback, media=media)
                return
            except AllocationFailed:  # the announcer of the speech before it is just leaving the bridge
                if attempt == ANNOUNCER_TRIES - 1:
                    raise
                await asyncio.sleep(ANNOUNCER_LEAVES_S)

    def _media(self, prompts: tuple[str, ...]) -> list[str]:
        """What to play; a prompt whose audio is missing or not the approved one is left out."""
        media = []
        for prompt in prompts:
            try:
                media.append(self._house.catalogue.media(prompt))
            except PromptAltered as error:
                log.error("call %s goes without %s: %s", self._line.id, prompt, error)
        return media

    def saying(self, prompt: str) -> bool:
        return self.speech is not None and prompt in self.speech.prompts

    def seconds(self, prompts: tuple[str, ...]) -> float:
        return sum(self._house.catalogue[prompt].seconds for prompt in prompts)

    # ---------------------------------------------------------------- the end of it

    def finished(self, playback: str, state: str) -> Heard | None:
        """What the end of `playback` in `state` means; the speech is still to be ended by ``speech_ended()``."""
        if self.whispered is not None and playback == self.whispered.playback:
            if state != "done":  # the agent is hanging up, or the playback broke
                self._line.within("whisper", BROKEN_S)
                return None
            self._line.clear("whisper")
            self._note_heard(self.whispered, whole=True)
            self.whispered = None
            return Heard.WHISPER_ENDED
        if self.speech is None or playback != self.speech.playback:
            return None
        if state != "done":
            self._line.within("speech", BROKEN_S)
            return None
        return Heard.PROMPT_ENDED

    def speech_ended(self, *, whole: bool) -> None:
        self._line.clear("speech")
        if self.speech is not None:
            self._note_heard(self.speech, whole)
            self.speech = None

    async def ended_unheard_at(self) -> float | None:
        """When what is being said ended, if Asterisk has it no more: Unix seconds, as it should have ended."""
        speech = self.speech
        if speech is not None:
            try:
                await self._client.playbacks.get(playbackId=speech.playback)
            except NotFound:
                return min(self._now(), speech.at + self.seconds(speech.prompts))
            except AriError as error:
                log.info("call %s: what is being said cannot be looked up: %s", self._line.id, error)
        return None

    async def hush(self) -> None:
        """Stops what is being said; what was heard of it is written down."""
        speech, self.speech = self.speech, None
        if speech is not None:
            self._line.clear("speech")
            self._note_heard(speech, whole=False)
            self._unsure = speech.playback  # until Asterisk has heard of it: the link may break in this moment
        if self._unsure is not None:
            await self._stop(self._unsure)
            self._unsure = None

    async def stop_whisper(self) -> None:
        speech, self.whispered = self.whispered, None
        if speech is not None:
            self._line.clear("whisper")
            await self._stop_playback(speech)

    async def _stop_playback(self, speech: Speech) -> None:
        self._note_heard(speech, whole=False)
        await self._stop(speech.playback)

    async def _stop(self, playback: str) -> None:
        for _ in range(STOP_TRIES):
            try:
                with self._line.gone_is_hung_up(None):
                    await self._client.playbacks.stop(playbackId=playback)
                return
            except ServerError:  # "could not stop": it has been taken, and has not begun
                await asyncio.sleep(0.1)

    def _note_heard(self, speech: Speech, whole: bool) -> None:
        """One row for each prompt that was begun."""
        at, now = speech.at, self._now()
        for prompt in speech.prompts:
            lasts = self.seconds((prompt,))
            played = lasts if whole else min(lasts, now - at)
            if played <= 0:
                break
            if prompt == "disclaimer" and played >= lasts:
                self._house.metrics.disclaimer_read()
            self._house.ledger.write(
                models.PromptHeard(
                    call_id=self._line.id, n=self._heard, at=at, side=speech.side, prompt=as_written(prompt),
                    seconds=played, whole=played >= lasts,
                )
            )  # fmt: skip
            self._heard += 1
            at += lasts

    # ---------------------------------------------------------------- while nobody speaks

    async def keep_silence(self) -> None:
        """Sends silence until something is played: a caller who keys digits sends no sound, and the recording's clock
        runs only while sound flows in some direction.
        """
        if not self._silence:
            with self._line.gone_is_hung_up():
                await self._client.channels.startSilence(channelId=self._line.id)
                self._silence = True

    async def end_silence(self) -> None:
        """Nothing of a bridge is heard as long as it lasts. A prompt ends it as well, but only one that was begun."""
        self._silence = False
        with self._line.gone_is_hung_up():
            await self._client.channels.stopSilence(channelId=self._line.id)

    async def start_music(self) -> None:
        if not self.music:
            self._silence = False
            with self._line.gone_is_hung_up():
                await self._client.channels.startMoh(channelId=self._line.id, mohClass="sanling")
                self.music = True

    async def stop_music(self) -> None:
        if self.music:
            self.music = False
            with self._line.gone_is_hung_up():
                await self._client.channels.stopMoh(channelId=self._line.id)

    def _now(self) -> float:
        return self._house.clock()
