"""Telephones of the fake Asterisk, with the methods of the real ones (ari_app/testcall/phone.py).

One call script runs against both. What differs: moments are on the loop's clock instead of `time.monotonic`, and
`hears` looks at what the exchange let this side hear instead of judging audio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ari_app.testcall.hearing import LEAST_HEARD_S, MUSIC_LEAST_S, RATE, Heard
from ari_app.testcall.phone import KEY_PAUSE_S, KEY_TONE_S, MAINLAND_RING_S, NotHeard, Refused, TooLate
from tests.fake.ear import MUSIC, RINGBACK, Ear, Sound
from tests.fake.exchange import Channel

if TYPE_CHECKING:
    from tests.fake.asterisk import FakeAsterisk

INVITE_TO_RING_S = 0.006


class FakeCall:
    """One call as one phone has it: what it saw, what it heard, and what it can do."""

    def __init__(self, phone: FakePhone, *, incoming: bool, display: str = "", number: str = "") -> None:
        self.phone = phone
        self.incoming = incoming
        self.display = display
        self.number = number
        self.headers: dict[str, str] = {}
        self.began_at = _now()
        self.rang_at: float | None = None
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.code = 0
        self.hung_up_by: str | None = None
        self.ear = Ear()
        self.channel: Channel | None = None
        self.transfer_told: list[str] = []
        """What became of the transfers that were asked for."""
        self._exchange = phone.phones.asterisk
        self._heard_until_s = 0.0
        self.on_early_media: Callable[[], None] = lambda: None
        self._final: asyncio.Queue[int] = asyncio.Queue()
        """What a ringing phone does: SIP status codes, 0 for a call taken back by the exchange."""

    def __repr__(self) -> str:
        return f"<FakeCall {'to' if self.incoming else 'from'} {self.phone.number}: {self.state}, {self.code}>"

    # What it saw.

    @property
    def state(self) -> str:
        if self.ended_at is not None:
            return "ended"
        if self.answered_at is not None:
            return "talking"
        return "ringing" if self.rang_at is not None else "calling"

    @property
    def rings(self) -> int:
        if self.rang_at is None:
            return 0
        until = self.answered_at or self.ended_at or _now()
        return int((until - self.rang_at) // MAINLAND_RING_S) + 1

    @property
    def answered_after_s(self) -> float | None:
        return None if self.answered_at is None else self.answered_at - self.began_at

    @property
    def digits(self) -> str:
        return self.ear.digits

    async def answered(self, timeout_s: float = 15.0) -> FakeCall:
        await self._until(
            lambda: self.answered_at is not None or self.ended_at is not None, timeout_s, "was not answered"
        )
        if self.answered_at is None:
            raise Refused(repr(self), self.code)
        return self

    async def ringing(self, timeout_s: float = 5.0) -> FakeCall:
        await self._until(lambda: self.rang_at is not None or self.ended_at is not None, timeout_s, "did not ring")
        if self.rang_at is None:
            raise Refused(repr(self), self.code)
        return self

    async def ended(self, timeout_s: float = 15.0) -> FakeCall:
        await self._until(lambda: self.ended_at is not None, timeout_s, "did not end")
        return self

    async def _until(self, holds: Any, timeout_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.ear.until(lambda: True if holds() else None)
        except TimeoutError:
            raise TooLate(f"{self!r} {what} within {timeout_s:g} s") from None

    # What it does.

    async def picks_up(self) -> FakeCall:
        self._final.put_nowait(200)
        return await self.answered(5.0)

    async def announces(self, name: str, seconds: float) -> None:
        """Early media: heard by whoever called, before the answer."""
        self.on_early_media()
        if self.channel is not None:
            await self._exchange.say(self.channel, name, seconds)

    def refuses(self, code: int = 486) -> None:
        self._over("us", code)
        self._final.put_nowait(code)

    def hang_up(self) -> None:
        if self.ended_at is not None:
            return
        if self.incoming and self.answered_at is None:
            self.refuses(603)
            return
        self._over("us", 200 if self.answered_at is not None else 487)
        if self.channel is not None:
            self._exchange.far_end_hangs_up(self.channel)

    def transfers(self, to: str) -> None:
        """By the phone's own key: REFER to that number. What becomes of it is in `transfer_told`."""
        if self.answered_at is None or self.ended_at is not None or self.channel is None:
            raise TooLate(f"{self!r} is not up: it cannot be transferred")
        self._exchange.refers(self.channel, to)

    async def keys(self, digits: str, *, pause_s: float = KEY_PAUSE_S) -> None:
        for digit in digits:
            if self.ended_at is not None or self.answered_at is None:
                raise TooLate(f"{self!r} is not up: the rest of the keys was not pressed")
            await asyncio.sleep(KEY_TONE_S)
            if self.channel is not None:
                self._exchange.digit(self.channel, digit, int(KEY_TONE_S * 1000))
            await asyncio.sleep(pause_s)

    async def says(self, sound: Path | str | Any) -> None:
        """A file is heard as the prompt its name says; samples have their length and no name."""
        if self.answered_at is None or self.ended_at is not None:
            raise TooLate(f"{self!r} is not up: nobody to talk to")
        if isinstance(sound, Path | str):
            stem = Path(sound).with_suffix("")
            name, seconds = stem.name, self._exchange.lengths(f"sound:{stem}") or 1.0
        else:
            name, seconds = "speech", len(sound) / RATE
        if self.channel is None:
            await asyncio.sleep(seconds)
        else:
            await self._exchange.say(self.channel, name, seconds)

    # What it heard.

    async def hears(
        self, prompt: str, within_s: float = 12.0, *, from_s: float | None = None, partly: bool = False
    ) -> Heard:
        begin = self.began_at + (self._heard_until_s if from_s is None else from_s) - 1e-6
        deadline = _now() + within_s

        def found() -> Heard | None:
            for sound in self.ear.sounds:
                if sound.what == prompt and sound.at_s >= begin:
                    heard = self._as_heard(sound)
                    if heard.whole or (partly and heard.partly and not sound.lasts):
                        return heard
                if prompt == MUSIC and sound.what == MUSIC and sound.seconds(_now()) >= MUSIC_LEAST_S:
                    until = sound.until_s
                    if until is None or until - MUSIC_LEAST_S >= begin:
                        return self._as_heard(sound)
            if self.ended_at is not None:
                return _NEVER
            return None

        length = MUSIC_LEAST_S if prompt == MUSIC else self._exchange.lengths(f"sound:{prompt}") or 0.0
        heard: Heard | None = None
        try:
            async with asyncio.timeout_at(deadline + length + 0.3):
                if prompt == MUSIC:
                    heard = await self._hears_music(found)
                else:
                    heard = await self.ear.until(found)
        except TimeoutError:
            pass
        if heard is None or heard is _NEVER:
            raise NotHeard(f"{self!r} did not hear {prompt} within {within_s:g} s; heard: {self._story()}")
        self._heard_until_s = heard.until_s
        return heard

    async def _hears_music(self, found: Any) -> Heard:
        """Music is known after a while of it, with nothing happening at that moment."""
        while (heard := found()) is None:
            lasting = [s for s in self.ear.sounds if s.what == MUSIC and s.lasts]
            pause = MUSIC_LEAST_S - lasting[-1].seconds(_now()) + 1e-6 if lasting else MUSIC_LEAST_S
            await asyncio.sleep(max(pause, 1e-6))
        result: Heard = heard
        return result

    async def transcript(self, candidates: Collection[str] | None = None) -> list[Heard]:
        return [
            heard
            for sound in self.ear.sounds
            if sound.what != RINGBACK and (candidates is None or sound.what in candidates)
            if (heard := self._as_heard(sound)).partly
        ]

    def _as_heard(self, sound: Sound) -> Heard:
        """What the real ear would make of it."""
        at_s, seconds = sound.at_s - self.began_at, sound.seconds(_now())
        until_s = at_s + seconds
        if sound.what == MUSIC:
            enough = seconds >= MUSIC_LEAST_S - 1e-6
            return Heard(MUSIC, at_s, until_s, 1.0 if enough else 0.0, 1.0, None if enough else seconds)
        if sound.complete:
            return Heard(sound.what, at_s, until_s, 1.0, 1.0)
        length = self._exchange.lengths(f"sound:{sound.what}") or seconds
        score = 1.0 if seconds >= LEAST_HEARD_S else 0.0
        return Heard(sound.what, at_s, until_s, score, min(seconds / length, 1.0) if length else 0.0, seconds)

    def _story(self) -> str:
        return ", ".join(str(self._as_heard(sound)) for sound in self.ear.sounds) or "nothing"

    # Facts from the exchange.

    def _begins(self, channel: Channel) -> None:
        self.channel = channel
        channel.ear = self.ear
        channel.phone = self

    def progressed(self) -> None:
        if self.rang_at is None:
            self.rang_at = _now()
        self.ear.stir()

    def answered_by_far_end(self) -> None:
        if self.answered_at is None:
            self.answered_at = _now()
            self.code = 200
        self.ear.stir()

    def ended_by(self, by: str, sip_status: int) -> None:
        self._over("us" if by == "phone" else "them", sip_status)

    def left_alone(self) -> None:
        self.channel = None
        self.ear.close()

    def taken_back(self) -> None:
        """The exchange hangs up a call that rings here."""
        self._final.put_nowait(0)

    def _over(self, by: str, code: int) -> None:
        if self.ended_at is None:
            self.ended_at = _now()
            self.hung_up_by = by
            self.code = code
            self.ear.close()

    async def decides(self) -> int:
        """What the phone does with a call that rings: a final SIP status, 0 once the exchange took it back."""
        return await self._final.get()


class FakePhone:
    """An agent's phone, or a caller's."""

    def __init__(self, phones: FakePhones, number: str, *, display: str = "", lines: int = 1) -> None:
        self.phones = phones
        self.number = number
        self.own_display = display
        self.lines = lines
        self.calls: list[FakeCall] = []
        self.registered = False
        self._offers: asyncio.Queue[FakeCall] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<FakePhone {self.number}>"

    @property
    def in_talk(self) -> list[FakeCall]:
        return [call for call in self.calls if call.ended_at is None]

    async def register(self) -> None:
        self.registered = True

    async def unregister(self) -> None:
        self.registered = False

    async def rings(self, timeout_s: float = 15.0) -> FakeCall:
        try:
            return await asyncio.wait_for(self._offers.get(), timeout_s)
        except TimeoutError:
            raise TooLate(f"{self!r} did not ring within {timeout_s:g} s") from None

    async def dials(self, number: str, at: str = "", *, headers: Mapping[str, str] | None = None) -> FakeCall:
        call = FakeCall(self, incoming=False)
        self.calls.append(call)
        if not self.phones.asterisk.alive:
            return call
        channel = self.phones.asterisk.called(self, number, self.own_display)
        if channel is None:
            call._over("them", 404)
        else:
            call._begins(channel)
        return call

    def is_called(self, channel: Channel) -> FakeCall:
        busy = len(self.in_talk) >= self.lines
        shown = channel.connected
        call = FakeCall(self, incoming=True, display=shown["name"], number=shown["number"])
        call._begins(channel)
        self.calls.append(call)
        if busy:
            call.refuses(486)
        else:
            call.progressed()
            self._offers.put_nowait(call)
        return call


class FakePhones:
    """All telephones of one fake Asterisk."""

    def __init__(self, asterisk: FakeAsterisk) -> None:
        self.asterisk = asterisk
        self._agents: dict[str, FakePhone] = {}
        self.outside: dict[str, FakePhone] = {}
        """Who is reached at a number through the trunk."""

    async def agent(
        self, number: str, password: str = "", *, registrar: str = "", address: str = "", lines: int = 1
    ) -> FakePhone:
        phone = FakePhone(self, number, lines=lines)
        self._agents[number] = phone
        await phone.register()
        return phone

    def caller(self, from_: str, *, display: str = "", address: str = "", password: str = "") -> FakePhone:
        return FakePhone(self, from_, display=display)

    def person(self, number: str, *, lines: int = 1) -> FakePhone:
        """Somebody's telephone outside, to which calls are placed."""
        phone = self.outside[number] = FakePhone(self, number, lines=lines)
        return phone

    def find(self, number: str) -> FakePhone | None:
        """The agent's phone of this number."""
        return self._agents.get(number)


def _now() -> float:
    return asyncio.get_running_loop().time()


_NEVER = Heard("", 0.0, 0.0, 0.0, 0.0, 0.0)
