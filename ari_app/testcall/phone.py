"""Real SIP phones that read like a script: they register, dial, ring, press keys, talk, and remember what they heard.

    async with Phones("127.0.20.2", ear=Ear(PromptSounds(folder))) as phones:
        agent = await phones.agent("601", password, registrar="127.0.20.1:5060")
        caller = await phones.caller("15400001234", address="127.0.20.3").dials("12368", at="127.0.20.1:5060")
        await caller.answered(11)
        await caller.hears("opening")
        await caller.keys("1")
        offer = await agent.rings()
        await offer.picks_up()

The phones live in processes of their own (see `ari_app.testcall.handset`), as many as their calls need: a script that
computes does not make them stutter, and they cannot make it crash. What a phone hears is read from its tape, a wav
that grows while the call goes on; the audio reaches a script up to a third of a second late, its times are true.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

import numpy as np

from ari_app.errors import SanlingError, SetUpFailed
from ari_app.testcall.hearing import LEAST_HEARD_S, RATE, Ear, Heard, Samples, read_sound

log = logging.getLogger("sanling.testcall")

SEATS = 3
"""Phones of one handset process that may talk at once; its fourth call is kept for turning one away as busy."""
KEY_TONE_S = 0.12
KEY_PAUSE_S = 0.10
"""Asterisk wants 80 ms of a keypad tone and 45 ms between two; a person needs more than twice that."""
FLUSH_S = 0.3
"""The newest audio may be this late in the tape: pjsua2 writes a wav in blocks of a quarter second."""
LISTEN_EVERY_S = 0.25
MAINLAND_RING_S = 5.0
"""Mainland ringback: 1 s on, 4 s off. SOP-1."""
WAV_HEADER_BYTES = 44
STARTS_WITHIN_S = 20.0
LEAVES_WITHIN_S = 4.0


class PhoneError(SanlingError):
    """A test phone did not see or hear what the script expected."""


class TooLate(PhoneError):
    """It did not happen in time; the text says what was waited for and what the call looked like."""


class NotHeard(PhoneError):
    """The prompt was not heard in time; the text says what was heard instead."""


class Refused(PhoneError):
    """The other side answered with a final SIP error."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} was refused with {code}.")
        self.code = code


@dataclass(frozen=True)
class Sound:
    """What a phone heard: mono floats within -1…1 at 8 kHz, and the `time.monotonic` moment of the first one."""

    samples: Samples
    t0: float

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE

    def at(self, moment: float) -> float:
        """Seconds into this sound at a monotonic moment."""
        return moment - self.t0


@dataclass(frozen=True)
class Signal:
    """One SIP response or request of a call as this phone saw it, with its monotonic moment."""

    code: int
    """Status code; 0 for a request such as BYE or CANCEL."""
    name: str
    at: float


class _Bell:
    """Rung whenever something about a phone or call has changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def until(self, holds: Callable[[], bool], within_s: float, what: Callable[[], str]) -> None:
        """Return once `holds`; raises TooLate with `what` after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiting.add(waiter)
                    await waiter
        except TimeoutError:
            raise TooLate(f"{what()} within {within_s:g} s") from None


class _Tape:
    """A wav that a handset is writing, read as it grows."""

    def __init__(self) -> None:
        self.path = Path()
        self.t0 = time.monotonic()
        self.whole = asyncio.Event()
        self._file = -1
        self._samples = np.zeros(60 * RATE, dtype=np.float32)
        self._length = self._read = self._put_in = 0

    @property
    def begun(self) -> bool:
        return self._file >= 0 or self.whole.is_set()

    def begins(self, path: str, t0: float) -> None:
        self.path, self.t0 = Path(path), t0
        self._file = os.open(path, os.O_RDONLY)

    def samples(self) -> Samples:
        """Everything on the tape so far."""
        if self._file >= 0:
            raw = os.pread(self._file, 1 << 24, WAV_HEADER_BYTES + 2 * self._read)
            fresh = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.float32) / np.float32(32768)
            self._read += len(fresh)
            self._append(fresh)
        return self._samples[: self._length]

    def _append(self, fresh: Samples) -> None:
        until = self._length + len(fresh)
        if until > len(self._samples):
            self._samples = np.concatenate([self._samples, np.zeros(until, dtype=np.float32)])
        self._samples[self._length : until] = fresh
        self._length = until

    def lost(self, from_s: float, seconds: float) -> None:
        """Put silence where the recording skipped time, so that what follows is in its place."""
        self.samples()
        place = min(int(from_s * RATE) + self._put_in, self._length)
        after = self._samples[place : self._length].copy()
        silence = np.zeros(int(seconds * RATE), dtype=np.float32)
        self._length = place
        self._append(np.concatenate([silence, after]))
        self._put_in += len(silence)

    def ends(self) -> None:
        if self._file >= 0:
            self.samples()
            os.close(self._file)
            self._file = -1
        self.whole.set()


def _headers(message: str) -> dict[str, str]:
    """The headers of a SIP message by lower-case name, the first of each; folded lines joined."""
    head = message.partition("\r\n\r\n")[0].replace("\r\n ", " ").replace("\r\n\t", " ")
    found: dict[str, str] = {}
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    return found


def _name_address(value: str) -> tuple[str, str]:
    """Display name and user of a From header such as ``"张律师" <sip:601@127.0.0.1>;tag=1``."""
    display, user = "", ""
    if value.startswith('"'):
        closing = re.match(r'"((?:[^"\\]|\\.)*)"', value)
        if closing:
            display = re.sub(r"\\(.)", r"\1", closing[1])
            value = value[closing.end() :]
    elif "<" in value:
        display = value.partition("<")[0].strip()
    address = re.search(r"sips?:([^@>;]*)@", value)
    if address:
        user = unquote(address[1])
    return display, user


class Call:
    """One call as one phone has it: what it saw, what it heard, and what it can do.

    Moments (`began_at`, `rang_at`, `answered_at`, `ended_at`) are `time.monotonic`, good to 10 ms; None: not yet.
    """

    def __init__(self, phone: Phone, handset: _Handset, name: str, invite: str = "") -> None:
        self.phone = phone
        self.incoming = bool(invite)
        self.headers = _headers(invite)
        """Headers of the INVITE that rang this phone, by lower-case name."""
        self.display, self.number = _name_address(self.headers.get("from", ""))
        """Who is calling, as the ringing phone shows it."""
        self.signals: list[Signal] = []
        """Provisional and final answers to our INVITE, and what the far end asked for (BYE, CANCEL)."""
        self.digits = ""
        """Keypad digits heard from the far end."""
        self.began_at = time.monotonic()
        self.rang_at: float | None = None
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.code = 0
        """The last SIP status; 486 on a busy phone, 200 on an answered call."""
        self.hung_up_by: str | None = None
        """``us`` or ``them`` once the call is over."""
        self._bell = _Bell()
        self._handset = handset
        self._name = name
        self._audio = False
        self._heard_until_s = 0.0
        self._hung_up_here = False
        self._tape = _Tape()
        handset.calls[name] = self

    def __repr__(self) -> str:
        return f"<Call {'to' if self.incoming else 'from'} {self.phone.number}: {self.state}, {self.code}>"

    # What it saw.

    @property
    def state(self) -> str:
        """``calling``, ``ringing``, ``talking`` or ``ended``."""
        if self.ended_at is not None:
            return "ended"
        if self.answered_at is not None:
            return "talking"
        return "ringing" if self.rang_at is not None else "calling"

    @property
    def rings(self) -> int:
        """Bursts of mainland ringback that had begun by the answer (SOP-1); 0 if it never rang."""
        if self.rang_at is None:
            return 0
        until = self.answered_at or self.ended_at or time.monotonic()
        return int((until - self.rang_at) // MAINLAND_RING_S) + 1

    @property
    def answered_after_s(self) -> float | None:
        """From the INVITE to the answer."""
        return None if self.answered_at is None else self.answered_at - self.began_at

    async def answered(self, timeout_s: float = 15.0) -> Call:
        """Wait until the call is through and its audio runs. Raises Refused or TooLate."""
        await self._bell.until(
            lambda: self.ended_at is not None or (self.answered_at is not None and self._audio),
            timeout_s,
            lambda: f"{self!r} was not answered",
        )
        if self.answered_at is None:
            raise Refused(repr(self), self.code)
        return self

    async def ringing(self, timeout_s: float = 5.0) -> Call:
        """Wait for ringback (180). Raises Refused or TooLate."""
        await self._bell.until(
            lambda: self.rang_at is not None or self.ended_at is not None,
            timeout_s,
            lambda: f"{self!r} did not ring",
        )
        if self.rang_at is None:
            raise Refused(repr(self), self.code)
        return self

    async def ended(self, timeout_s: float = 15.0) -> Call:
        """Wait until the call is over, whoever ended it, and its tape is whole. Raises TooLate."""
        await self._bell.until(lambda: self.ended_at is not None, timeout_s, lambda: f"{self!r} did not end")
        await self._tape.whole.wait()
        return self

    # What it does.

    async def picks_up(self) -> Call:
        """Answer a ringing call; returns when the audio runs."""
        self._do("answer", code=200)
        return await self.answered(5.0)

    def refuses(self, code: int = 486) -> None:
        """Turn a ringing call away: 486 busy, 603 declined, 480 unavailable."""
        self._hung_up_here = True
        self._do("answer", code=code)

    def hang_up(self) -> None:
        """End the call, or give up waiting for an answer. Harmless on a call that is over."""
        if self.ended_at is None and not self._hung_up_here:
            self._hung_up_here = True
            self._do("hang_up")

    def transfers(self, to: str) -> None:
        """By the phone's own transfer key (REFER), to `to` at its registrar. Raises TooLate if the call is not up."""
        if self.ended_at is not None or not self._audio:
            raise TooLate(f"{self!r} is not up: it cannot be transferred")
        self._do("transfer", uri=f"sip:{quote(to, safe=_USER_CHARACTERS)}@{self.phone.registrar}")

    async def keys(self, digits: str, *, pause_s: float = KEY_PAUSE_S) -> None:
        """Press keys (0-9 * # A-D) as RFC 4733 events, one after the other; returns after the last pause.

        Raises TooLate if the call is not, or no longer, up.
        """
        for digit in digits:
            if self.ended_at is not None or not self._audio:
                raise TooLate(f"{self!r} is not up: the rest of the keys was not pressed")
            self._do("key", digit=digit, tone_ms=int(KEY_TONE_S * 1000))
            await asyncio.sleep(KEY_TONE_S + pause_s)

    async def says(self, sound: Path | Samples) -> None:
        """Play a wav or raw A-law file, or samples at 8 kHz, to the far end; returns when it is over."""
        if not self._audio:
            raise TooLate(f"{self!r} is not up: nobody to talk to")
        samples = read_sound(sound) if isinstance(sound, Path) else sound
        self._do("play", path=str(self.phone.phones._wav(samples)))
        await asyncio.sleep(len(samples) / RATE)

    # What it heard.

    @property
    def heard(self) -> Sound:
        """Everything this phone received since the call began; also while the call goes on."""
        return Sound(self._tape.samples(), self._tape.t0)

    @property
    def tape(self) -> Path:
        """The wav with all of `heard`; whole once the call has ended."""
        return self._tape.path

    async def hears(
        self, prompt: str, within_s: float = 12.0, *, from_s: float | None = None, partly: bool = False
    ) -> Heard:
        """Listen until `prompt` has been heard whole, and to the letter.

        It must begin within `within_s` from now; what was heard since the last `hears` counts too (or since
        `from_s`, seconds into `heard`). With `partly` a prompt that was cut off passes: see `Heard.cut_at_s`.
        Raises NotHeard, naming what was heard instead.
        """
        ear = self.phone.phones.ear
        length_s = ear.seconds(prompt)
        begin_s = self._heard_until_s if from_s is None else from_s
        last_s = self.heard.at(time.monotonic()) + within_s + length_s + FLUSH_S
        best: Heard | None = None
        searched_s = begin_s
        judge_at_s = begin_s + (LEAST_HEARD_S if partly else length_s - LISTEN_EVERY_S)
        while True:
            over = self._tape.whole.is_set()
            sound = self.heard
            if sound.seconds >= judge_at_s or over:
                found = await asyncio.to_thread(ear.judge, sound.samples, prompt, from_s=searched_s, whole=not partly)
                if found.whole or (partly and found.partly and (over or found.over_by(sound.seconds))):
                    self._heard_until_s = found.until_s
                    return found
                if best is None or found.score * found.share > best.score * best.share:
                    best = found
                searched_s = max(begin_s, sound.seconds - length_s - 2.0)
                # It is being said, and not over before its end; or it has not begun.
                judge_at_s = found.at_s + length_s if found.partly and not partly else sound.seconds
                judge_at_s = max(judge_at_s, sound.seconds + LISTEN_EVERY_S)
            if over or sound.at(time.monotonic()) > last_s:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tape.whole.wait(), LISTEN_EVERY_S)
        raise NotHeard(await asyncio.to_thread(self._what_instead, prompt, begin_s, best))

    def _what_instead(self, prompt: str, begin_s: float, best: Heard | None) -> str:
        sound = self.heard
        ear = self.phone.phones.ear
        instead = ear.transcript(sound.samples, ear.everyday(), from_s=begin_s)  # all prompts take seconds
        story = ", ".join(str(heard) for heard in instead) or "nothing known"
        return (
            f"{self!r} did not hear {prompt} between {begin_s:.1f} s and {sound.seconds:.1f} s; "
            f"nearest: {best}; heard: {story}"
        )

    async def transcript(self, candidates: Collection[str] | None = None) -> list[Heard]:
        """All that was heard so far, in order, of `candidates` (all prompts of the ear by default)."""
        return await asyncio.to_thread(self.phone.phones.ear.transcript, self.heard.samples, candidates)

    # Between this call and its handset.

    def _do(self, what: str, **how: Any) -> None:
        self._handset.does(what, call=self._name, **how)

    def _on_dialled(self, at: float, tape: str, t0: float) -> None:
        self.began_at = at
        self._tape.begins(tape, t0)

    def _on_message(self, at: float, text: str) -> None:
        words = text.partition("\r\n")[0].split(" ", 2)
        if words[0] != "SIP/2.0":
            self.signals.append(Signal(0, words[0], at))
        elif "INVITE" in _headers(text).get("cseq", "") and not any(signal.code >= 200 for signal in self.signals):
            code = int(words[1])
            self.signals.append(Signal(code, words[2] if len(words) > 2 else "", at))
            if code == 180 and self.rang_at is None:
                self.rang_at = at

    def _on_state(self, at: float, state: str, code: int) -> None:
        if code:
            self.code = code
        if state == "talking" and self.answered_at is None:
            self.answered_at = at
        if state == "ended" and self.ended_at is None:
            self.ended_at = at
            self.hung_up_by = "us" if self._hung_up_here else "them"
            self._audio = False

    def _on_media(self, at: float) -> None:
        self._audio = True

    def _on_digit(self, at: float, digit: str) -> None:
        self.digits += digit

    def _on_lost(self, at: float, from_s: float, seconds: float) -> None:
        log.info("%r: %.2f s are not on the tape", self, seconds)
        self._tape.lost(from_s, seconds)

    def _on_taped(self, at: float) -> None:
        self._tape.ends()

    def _on_failed(self, at: float, why: str) -> None:
        """pjsua2 refused: the call was over when the command came, or never began."""
        log.info("%r: %s", self, why)


class Phone:
    """An agent's phone, or a caller's: made by `Phones.agent` and `Phones.caller`."""

    def __init__(self, phones: Phones, number: str, address: str, uri: str, *, lines: int = 1) -> None:
        self.phones = phones
        self.number = number
        self.address = address
        self.lines = lines
        """Calls it takes at once; one more is turned away as busy (486)."""
        self.calls: list[Call] = []
        """Every call it ever had, the oldest first."""
        self.registrar = ""
        """Where it registers; empty: a caller's phone, which does not."""
        self.registered = False
        self._uri = uri
        self._handset: _Handset | None = None
        self._line = ""
        self._account = ("", "")
        self._code = 0
        self._bell = _Bell()
        self._offers: asyncio.Queue[Call] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<Phone {self.number} at {self.address}>"

    @property
    def in_talk(self) -> list[Call]:
        """Its calls that are not over."""
        return [call for call in self.calls if call.ended_at is None]

    async def register(self) -> None:
        """Raises Refused (wrong password) or TooLate."""
        await self._registers(True)

    async def unregister(self) -> None:
        """Take the phone off the exchange; it can no longer be offered calls."""
        await self._registers(False)

    async def rings(self, timeout_s: float = 15.0) -> Call:
        """The next call that rings here; do with it `picks_up`, `refuses`, or nothing. Raises TooLate."""
        try:
            return await asyncio.wait_for(self._offers.get(), timeout_s)
        except TimeoutError:
            raise TooLate(f"{self!r} did not ring within {timeout_s:g} s") from None

    async def dials(self, number: str, at: str = "", *, headers: Mapping[str, str] | None = None) -> Call:
        """Call `number` at an exchange (``host:port``; an agent's own registrar by default)."""
        held = self._handset  # a caller's phone takes a seat for the time of the call
        seat = held or await self.phones._seat(1)
        line = self._line or self.phones._shared_line(seat, self.address, self._account)
        call = Call(self, seat, self.phones._name("call"))
        self.calls.append(call)
        if held is None:
            seat.taken += 1
        call._do(
            "dial",
            line=line,
            uri=f"sip:{quote(number, safe=_USER_CHARACTERS)}@{at or self.registrar}",
            from_uri=self._uri,
            headers=dict(headers or {}),
        )
        await call._bell.until(lambda: call._tape.begun, 5.0, lambda: f"{self!r} could not dial")
        return call

    async def _registers(self, on: bool) -> None:
        if self._handset is None:
            raise PhoneError(f"{self!r} is a caller's phone: it registers nowhere.")
        self._code = 0
        self._handset.does("register", line=self._line, on=on)
        await self._bell.until(lambda: self._code != 0, 5.0, lambda: f"{self!r} got no answer from its registrar")
        if self._code != 200:
            raise Refused(f"{self!r}'s registration", self._code)

    def _on_registration(self, at: float, code: int, registered: bool) -> None:
        self._code, self.registered = code, registered

    def _on_invited(self, at: float, call: str, invite: str, tape: str, t0: float) -> None:
        if self._handset is None:
            return
        busy = len(self.in_talk) >= self.lines
        offer = Call(self, self._handset, call, invite)
        offer._on_dialled(at, tape, t0)
        self.calls.append(offer)
        if busy:
            offer.refuses(486)
        else:
            offer._do("answer", code=180)
            offer.rang_at = at
            self._offers.put_nowait(offer)

    def _on_failed(self, at: float, why: str) -> None:
        log.warning("%r: %s", self, why)


_USER_CHARACTERS = "-_.!~*'()&=+$,;?/"
"""What may stand unescaped in the user part of a SIP URI: RFC 3261, section 25.1."""


class _Handset:
    """One process of phones, from this side."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.taken = 0
        """Seats held by agents' phones and by callers in a call."""
        self.calls: dict[str, Call] = {}
        self.phones: dict[str, Phone] = {}
        self.shared: dict[tuple[str, str, str], str] = {}
        """The line that all callers from one address share."""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._reads(), name="test phones")

    @classmethod
    async def starts(cls, folder: Path, name: str) -> _Handset:
        """Raises SetUpFailed if pjsua2 is not there or does not start."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("handset.py")),
            str(folder),
            name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # Linux shares the processor out by sessions: sound is not behind who computes here
        )
        handset = cls(process)
        try:
            async with asyncio.timeout(STARTS_WITHIN_S):
                await handset._ready
        except BaseException as error:
            await handset.leaves()
            if isinstance(error, TimeoutError):
                raise SetUpFailed("The test phones did not start in time; try again on a quieter machine.") from None
            raise
        return handset

    def does(self, what: str, **how: Any) -> None:
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps({"do": what, **how}).encode() + b"\n")

    async def _reads(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        try:
            async for line in self._process.stdout:
                self._hears_of(json.loads(line))
        finally:
            if not self._ready.done():
                self._ready.set_exception(
                    SetUpFailed("The test phones do not start. Is pjsua2 there? pip install 'sanling[phones]'")
                )
            for call in self.calls.values():  # the process is gone, and so are its calls
                call._on_state(time.monotonic(), "ended", 0)
                call._tape.ends()
                call._bell.ring()

    def _hears_of(self, event: dict[str, Any]) -> None:
        what = event.pop("is")
        if what == "ready":
            self._ready.set_result(None)
            return
        whose: Call | Phone | None
        whose = self.phones.get(event.pop("line")) if "line" in event else self.calls.get(event.pop("call", ""))
        if whose is None:
            log.warning("a test phone's handset: %s", event.get("why", what))
            return
        if isinstance(whose, Call) and whose.phone._handset is None and event.get("state") == "ended":
            self.taken -= 1
        getattr(whose, f"_on_{what}")(**event)
        whose._bell.ring()

    async def leaves(self) -> None:
        """Its phones hang up and sign off; what does not go in time is killed."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        try:
            async with asyncio.timeout(LEAVES_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader


class Phones:
    """The test phones of a script. Tapes are kept in `tapes` if given, else thrown away at the end."""

    def __init__(
        self,
        bind: str,
        *,
        ear: Ear | None = None,
        tapes: Path | None = None,
        rtp_ports: tuple[int, int] = (40000, 49998),
    ) -> None:
        self.bind = bind
        """The address of phones that name none of their own."""
        self._ear = ear
        self._rtp_ports = rtp_ports
        self._given_tapes = tapes
        self._handsets: list[_Handset] = []
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)

    @property
    def ear(self) -> Ear:
        if self._ear is None:
            raise PhoneError("These phones were given no ear: Phones(…, ear=Ear(prompts)).")
        return self._ear

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="sanling-phones-")
        self._tapes = self._given_tapes or Path(self._folder.name)
        self._tapes.mkdir(parents=True, exist_ok=True)
        try:
            await self._seat(1)
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(handset.leaves() for handset in self._handsets))
        self._handsets.clear()
        self._folder.cleanup()

    async def agent(self, number: str, password: str, *, registrar: str, address: str = "", lines: int = 1) -> Phone:
        """A phone registered as `number` at `registrar` (``host:port``). Raises Refused or TooLate."""
        uri = f"<sip:{number}@{registrar.partition(':')[0]}>"
        phone = Phone(self, number, address or self.bind, uri, lines=lines)
        phone.registrar = registrar
        handset = phone._handset = await self._seat(lines)
        handset.taken += lines
        phone._line = self._name("line")
        handset.phones[phone._line] = phone
        self._new_line(handset, phone._line, uri, phone.address, (registrar, number, password))
        await phone.register()
        return phone

    def caller(self, from_: str, *, display: str = "", address: str = "", account: tuple[str, str] = ("", "")) -> Phone:
        """A phone that calls in as number `from_` without registering: from a trunk, if `address` is the trunk's.

        `display` may hold any character that SIP can carry; `account` is the user and password of a trunk that asks
        for digest authentication.
        """
        name = '"' + re.sub(r'(["\\])', r"\\\1", display) + '" ' if display else ""
        uri = f"{name}<sip:{quote(from_, safe=_USER_CHARACTERS)}@{address or self.bind}>"
        phone = Phone(self, from_, address or self.bind, uri)
        phone._account = account
        return phone

    async def _seat(self, wanted: int) -> _Handset:
        """A handset with `wanted` seats left."""
        async with self._starting:
            for handset in self._handsets:
                if handset.taken + wanted <= SEATS:
                    return handset
            self._handsets.append(await _Handset.starts(self._tapes, self._name("handset")))
            return self._handsets[-1]

    def _shared_line(self, handset: _Handset, address: str, account: tuple[str, str]) -> str:
        key = (address, *account)
        if key not in handset.shared:
            handset.shared[key] = self._name("line")
            self._new_line(handset, handset.shared[key], f"<sip:{address}>", address, ("", *account))
        return handset.shared[key]

    def _new_line(self, handset: _Handset, line: str, uri: str, address: str, account: tuple[str, str, str]) -> None:
        registrar, user, password = account
        handset.does(
            "line",
            line=line,
            uri=uri,
            address=address,
            rtp_ports=self._rtp_ports,
            registrar=registrar,
            user=user,
            password=password,
        )

    def _name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    def _wav(self, samples: Samples) -> Path:
        path = Path(self._folder.name) / f"{self._name('sound')}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2").tobytes())
        return path
