"""Feature codes that agents dial from a phone.

``*11`` signs in with the PIN, appended (``*112468``) or keyed when asked. At any other registered phone:
``*11602*2468``, or ``*11*`` and the rest when asked; the agent's calls ring there from then on. The codes below are
for whoever is signed in at the phone, so they ask for no PIN (one that is appended must be right): ``*12`` signs out,
``*13`` pauses, with the reason's code appended if there is one (``*131``), ``*14`` resumes, ``*15`` ends wrap-up and
``*16`` makes it longer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil

from ari_app.ari import events
from ari_app.ari.client import Client
from ari_app.ari.errors import AriError, Conflict, NotFound
from ari_app.ari.mailboxes import Mailbox
from ari_app.desk import Desk, FeatureRefused, PauseTaken
from ari_app.errors import PromptAltered, StoreUnavailable
from ari_app.flow.keypad import Entry, Keyed, Keypad
from ari_app.prompts import Catalogue
from ari_app.settings import Settings
from metrics.hotline import HotlineMetrics

log = logging.getLogger("sanling.features")

TRIES = 3
LONGEST_S = 120.0
LAST_WORD_S = 0.2
"""What Asterisk has sent is still on its way to the phone's ear."""
CODE_LENGTH = 3

PIN = Entry(4, 12)
AGENT_NUMBER = Entry(3, 8)

Said = tuple[str, ...]
"""Prompts that tell the agent what came of a code."""


class PhoneGone(Exception):
    """The agent hung up."""


@dataclass
class FeatureCall:
    """A registered phone at which a feature code was dialled: known by its registration (AGT-1)."""

    settings: Settings
    client: Client
    desk: Desk
    catalogue: Catalogue
    metrics: HotlineMetrics
    id: str
    inbox: Mailbox
    phone: str
    dialled: str
    more: Mapping[str, Feature] = field(default_factory=dict)
    """Codes beyond `FEATURES`, which other parts of the hotline carry out."""
    _plays: int = 0

    @property
    def agent(self) -> str:
        """Who is signed in at this phone, else the one whose phone it is."""
        return self.desk.agent_at(self.phone) or self.phone

    async def run(self) -> None:
        """Carries the code out, says what became of it, and hangs up."""
        code, rest = self.dialled[:CODE_LENGTH], self.dialled[CODE_LENGTH:]
        feature = self.more.get(code) or FEATURES.get(code, UNKNOWN)
        try:
            with self.desk.on_the_phone(self.phone):
                async with asyncio.timeout(feature.longest_s):
                    await self.client.channels.answer(channelId=self.id)
                    await self.play(*await self._outcome(feature, rest))
                    await asyncio.sleep(LAST_WORD_S)
                await self._hang_up()
        except (PhoneGone, NotFound, Conflict):
            pass
        except (AriError, TimeoutError) as error:
            log.error("phone %s's %s: %s", self.phone, code, error or type(error).__name__)
            await self._hang_up()
        finally:
            self.inbox.close()

    async def _hang_up(self) -> None:
        with suppress(AriError):
            await self.client.channels.hangup(channelId=self.id)

    async def _outcome(self, feature: Feature, rest: str) -> Said:
        """Does what was dialled; the prompts that say how it went."""
        try:
            return await feature.do(self, rest)
        except FeatureRefused as refused:
            return (refused.prompt,)
        except StoreUnavailable as error:
            log.error("phone %s: %s", self.phone, error)
            return ("fallback-agent",)

    # ------------------------------------------------------------ the codes

    async def sign_in(self, rest: str) -> Said:
        number, borrowed, pin = rest.partition("*")
        if not borrowed:
            number, pin = self.phone, rest
        elif not number:
            number = await self.keyed("agent-enter-number", AGENT_NUMBER)
        await self._must_be_known(number)
        if not await self._proves(number, pin):
            return ("agent-pin-wrong",)
        await self.desk.sign_in(number, self.phone)
        return ("agent-signed-in",)

    async def sign_out(self, rest: str) -> Said:
        await self.desk.sign_out(await self.whoever_is_here(rest))
        return ("agent-signed-out",)

    async def pause(self, rest: str) -> Said:
        """`rest`: the reason's code, of one to three digits; a PIN; both, with ``*`` between; or nothing."""
        code, _, pin = rest.partition("*") if "*" in rest or len(rest) < PIN.shortest else ("", "", rest)
        taken = await self.desk.pause(await self.whoever_is_here(pin), code or None)
        return (*self._paused(taken), *self._allowance(taken, when_left=True))

    async def resume(self, rest: str) -> Said:
        taken = await self.desk.resume(await self.whoever_is_here(rest))
        return ("agent-resumed", *self._allowance(taken, when_left=False))

    async def ready(self, rest: str) -> Said:
        await self.desk.ready(await self.whoever_is_here(rest))
        return ("agent-ready",)

    async def extend(self, rest: str) -> Said:
        await self.desk.extend(await self.whoever_is_here(rest))
        return ("agent-wrap-up-extended",)

    async def unknown(self, rest: str) -> Said:
        return ("entry-invalid",)

    def _paused(self, taken: PauseTaken | None) -> Said:
        named = f"agent-paused-{taken.pause.spoken}" if taken is not None else ""
        return (named if named in self.catalogue else "agent-paused",)

    def _allowance(self, taken: PauseTaken | None, *, when_left: bool) -> Said:
        """That today's time for this pause is spent; or, if that is of use, how much is left."""
        if taken is None or taken.left_s is None:
            return ()
        if taken.left_s <= 0:
            return ("agent-pause-spent",)
        left = f"agent-pause-left-{ceil(taken.left_s / 60)}"
        return (left,) if when_left and left in self.catalogue else ()

    # ------------------------------------------------------------ who it is

    async def whoever_is_here(self, pin: str = "") -> str:
        """The agent at this phone. Raises FeatureRefused if there is none, or for an appended PIN that is wrong."""
        number = self.agent
        await self._must_be_known(number)
        if pin and not await self.desk.check_pin(number, pin):
            raise FeatureRefused("agent-pin-wrong")
        return number

    async def _must_be_known(self, number: str) -> None:
        if not number or not await self.desk.knows(number):
            raise FeatureRefused("entry-invalid")
        self.metrics.register_agents([number])

    async def _proves(self, number: str, pin: str) -> bool:
        for attempt in range(TRIES):
            if pin or attempt == 0:
                if pin and await self.desk.check_pin(number, pin):
                    return True
                if pin:
                    await self.play("agent-pin-wrong")
            pin = await self.keyed("agent-enter-pin", PIN)
        return bool(pin) and await self.desk.check_pin(number, pin)

    # ------------------------------------------------------------ speaking and hearing

    async def keyed(self, question: str, entry: Entry) -> str:
        """What the agent keys until #; empty if nothing fitting came in time. Raises PhoneGone."""
        playback = await self.start(question)
        pad = Keypad(entry=entry)
        wait_s = self.catalogue[question].seconds + self.settings.keypad.first_digit_s
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    event = await self.next()
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

    async def play(self, *prompts: str) -> None:
        """Says `prompts`, whole, one after the other. Raises PhoneGone."""
        playback = await self.start(*prompts)
        if playback is None:
            return
        async with asyncio.timeout(sum(self.catalogue[prompt].seconds for prompt in prompts) + 3):
            while True:
                event = await self.next()
                if isinstance(event, events.PlaybackFinished) and event.playback.id == playback:
                    return

    async def start(self, *prompts: str) -> str | None:
        """Begins to say `prompts`; the playback's id. None: there is nothing to play. A prompt whose audio is missing,
        or is not what was approved, is left out.
        """
        media = []
        for prompt in prompts:
            try:
                media.append(self.catalogue.media(prompt))
            except PromptAltered as error:
                log.error("phone %s goes without %s: %s", self.phone, prompt, error)
        if not media:
            return None
        self._plays += 1
        playback = f"{self.id}~play-{self._plays}"
        await self.client.channels.play(channelId=self.id, playbackId=playback, media=media)
        return playback

    async def _stop(self, playback: str | None) -> None:
        if playback is not None:
            with suppress(NotFound):
                await self.client.playbacks.stop(playbackId=playback)

    async def next(self) -> object:
        """What happens next to this phone's channel. Raises PhoneGone."""
        event = await self.inbox.get()
        if isinstance(event, events.StasisEnd | events.ChannelDestroyed) and event.channel.id == self.id:
            raise PhoneGone
        return event


@dataclass(frozen=True)
class Feature:
    do: Callable[[FeatureCall, str], Awaitable[Said]]
    """Given what was dialled after the code; it may raise FeatureRefused, StoreUnavailable and PhoneGone."""
    longest_s: float = LONGEST_S
    """The phone is hung up after this."""


UNKNOWN = Feature(FeatureCall.unknown)
FEATURES: dict[str, Feature] = {
    "*11": Feature(FeatureCall.sign_in),
    "*12": Feature(FeatureCall.sign_out),
    "*13": Feature(FeatureCall.pause),
    "*14": Feature(FeatureCall.resume),
    "*15": Feature(FeatureCall.ready),
    "*16": Feature(FeatureCall.extend),
}


def agent_of(channel_name: str) -> str | None:
    """The agent whose registered phone this channel is.

    >>> agent_of("PJSIP/601-0000001a")
    '601'
    """
    found = re.fullmatch(r"PJSIP/(\d+)-[0-9a-f]+", channel_name)
    return found[1] if found else None
