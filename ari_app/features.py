"""Feature codes that agents dial from their own phone.

``*11`` sign in, ``*12`` sign out, ``*13`` pause, ``*14`` resume: each with the agent's PIN, appended
(``*112468``) or keyed when asked. ``*15`` ends wrap-up and needs none.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from ari_app.ari import events
from ari_app.ari.client import Client
from ari_app.ari.errors import AriError, Conflict, NotFound
from ari_app.ari.mailboxes import Mailbox
from ari_app.desk import Desk, FeatureRefused
from ari_app.errors import PromptAltered, StoreUnavailable
from ari_app.flow.keypad import Entry, Keyed, Keypad
from ari_app.prompts import Catalogue
from ari_app.settings import Settings
from metrics.hotline import HotlineMetrics

log = logging.getLogger("sanling.features")

SIGN_IN, SIGN_OUT, PAUSE, RESUME, READY = "*11", "*12", "*13", "*14", "*15"
TRIES = 3
LONGEST_S = 120.0
LAST_WORD_S = 0.2
"""What Asterisk has sent is still on its way to the phone's ear."""


@dataclass(frozen=True)
class Feature:
    do: Callable[[Desk, str], Awaitable[None]]
    done: str
    """The prompt that confirms it."""
    needs_pin: bool = True


FEATURES = {
    SIGN_IN: Feature(Desk.sign_in, "agent-signed-in"),
    SIGN_OUT: Feature(Desk.sign_out, "agent-signed-out"),
    PAUSE: Feature(Desk.pause, "agent-paused"),
    RESUME: Feature(Desk.resume, "agent-resumed"),
    READY: Feature(Desk.ready, "agent-ready", needs_pin=False),
}

PIN = Entry(4, 12)


class PhoneGone(Exception):
    """The agent hung up."""


@dataclass
class FeatureCall:
    """An agent's phone that dialled a feature code. The phone is the agent's by its registration (AGT-1)."""

    settings: Settings
    client: Client
    desk: Desk
    catalogue: Catalogue
    metrics: HotlineMetrics
    id: str
    inbox: Mailbox
    agent: str
    dialled: str
    _plays: int = 0

    async def run(self) -> None:
        """Carries the code out, says what became of it, and hangs up."""
        code, pin = self.dialled[:3], self.dialled[3:]
        try:
            with self.desk.on_the_phone(self.agent):
                async with asyncio.timeout(LONGEST_S):
                    await self.client.channels.answer(channelId=self.id)
                    await self._play(await self._outcome(FEATURES.get(code), pin))
                    await asyncio.sleep(LAST_WORD_S)
                await self._hang_up()
        except (PhoneGone, NotFound, Conflict):
            pass
        except (AriError, TimeoutError) as error:
            log.error("agent %s's %s: %s", self.agent, code, error or type(error).__name__)
            await self._hang_up()
        finally:
            self.inbox.close()

    async def _hang_up(self) -> None:
        with suppress(AriError):
            await self.client.channels.hangup(channelId=self.id)

    async def _outcome(self, feature: Feature | None, pin: str) -> str:
        """Does what was dialled; the prompt that says how it went."""
        if feature is None:
            return "entry-invalid"
        try:
            if not await self.desk.knows(self.agent):
                return "entry-invalid"
            self.metrics.register_agents([self.agent])
            if feature.needs_pin and not await self._proves(pin):
                return "agent-pin-wrong"
            await feature.do(self.desk, self.agent)
        except FeatureRefused as refused:
            return refused.prompt
        except StoreUnavailable as error:
            log.error("agent %s: %s", self.agent, error)
            return "fallback-agent"
        return feature.done

    async def _proves(self, pin: str) -> bool:
        for attempt in range(TRIES):
            if pin or attempt == 0:
                if pin and await self.desk.check_pin(self.agent, pin):
                    return True
                if pin:
                    await self._play("agent-pin-wrong")
            pin = await self._keyed("agent-enter-pin")
        return bool(pin) and await self.desk.check_pin(self.agent, pin)

    async def _keyed(self, question: str) -> str:
        """What the agent keys until #; empty if nothing came in time."""
        playback = await self._start(question)
        pad = Keypad(entry=PIN)
        wait_s = self.catalogue[question].seconds + self.settings.keypad.first_digit_s
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    event = await self._next()
            except TimeoutError:
                keyed: Keyed | None = pad.quiet()
            else:
                if not isinstance(event, events.ChannelDtmfReceived):
                    continue
                await self._stop(playback)
                keyed = pad.press(event.digit)
                wait_s = self.settings.keypad.between_digits_s
            if keyed in (Keyed.NOTHING, Keyed.INVALID, Keyed.PERSON):
                return ""
            if keyed is Keyed.ENTERED:
                return pad.keys

    async def _play(self, prompt: str) -> None:
        playback = await self._start(prompt)
        if playback is None:
            return
        async with asyncio.timeout(self.catalogue[prompt].seconds + 3):
            while True:
                event = await self._next()
                if isinstance(event, events.PlaybackFinished) and event.playback.id == playback:
                    return

    async def _start(self, prompt: str) -> str | None:
        """None: its audio is missing, or is not what was approved, and the agent goes without."""
        try:
            media = self.catalogue.media(prompt)
        except PromptAltered as error:
            log.error("agent %s goes without %s: %s", self.agent, prompt, error)
            return None
        self._plays += 1
        playback = f"{self.id}~play-{self._plays}"
        await self.client.channels.play(channelId=self.id, playbackId=playback, media=media)
        return playback

    async def _stop(self, playback: str | None) -> None:
        if playback is not None:
            with suppress(NotFound):
                await self.client.playbacks.stop(playbackId=playback)

    async def _next(self) -> object:
        event = await self.inbox.get()
        if isinstance(event, events.StasisEnd | events.ChannelDestroyed):
            raise PhoneGone
        return event


def agent_of(channel_name: str) -> str | None:
    """The agent whose registered phone this channel is.

    >>> agent_of("PJSIP/601-0000001a")
    '601'
    """
    found = re.fullmatch(r"PJSIP/(\d+)-[0-9a-f]+", channel_name)
    return found[1] if found else None
