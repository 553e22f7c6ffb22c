"""Light SIP phones: hundreds of calls in one process, no sound card, no codec library.

One `Line` is a SIP address (UDP) with one RTP socket beside it; its calls are told apart by Call-ID and by the port
that Asterisk sends their audio from. A call (`Leg`) sends a tone from its answer on, presses keys as RFC 4733 events,
and keeps when it heard sound (`SilenceMeter`), not the sound itself, unless a tape was asked for.

    line = Line(address="127.0.30.2", server=("127.0.30.1", 5060), tone=CALLER_TONE)
    async with line:
        leg = line.invite("12368", "15490000001")
        await leg.wait(15, lambda: leg.answered_at is not None)
        leg.press("0")

What a phone does late it measures itself: see `Line.late`. Times are Unix seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
import re
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from tests.faults.silence import SilenceMeter, loud

log = logging.getLogger("faults.phone")

PACKET_S = 0.02
SAMPLES = 160
PHASES = 4
"""The calls of a line send in so many groups, one after the other, so that no burst of a hundred packets goes out."""
LATE_FROM_S = 0.1
"""A line that comes so late to its packets is not a fair witness of that moment."""
ALAW, KEYS_AT = 8, 101
KEY_PACKETS, KEY_PAUSE_PACKETS = 5, 3
"""100 ms of a key, 60 ms of nothing: Asterisk wants 80 and 45."""
T1_S = 0.5
"""First retransmission of a request, then doubling. RFC 3261."""
TRIES = 5
LOOK_EVERY_S = 0.08
TONE_LEVEL = 0.12

EndedBy = Literal["us", "them", "cut"]


def _alaw(sample: float) -> int:
    """A sample within -1…1 as an A-law code. ITU-T G.711."""
    value = int(sample * 32767)
    sign, size = (0x80, value) if value >= 0 else (0, -value - 1)
    segment = max(0, size.bit_length() - 8)
    step = (size >> 4 if segment == 0 else size >> (segment + 3)) & 15
    return (sign | segment << 4 | step) ^ 0x55


def tone(period: int) -> bytes:
    """A packet of a tone that repeats every `period` samples (a divisor of 160)."""
    return bytes(_alaw(TONE_LEVEL * math.sin(2 * math.pi * n / period)) for n in range(SAMPLES))


CALLER_TONE, AGENT_TONE = tone(16), tone(8)
SILENCE = bytes([_alaw(0.0)]) * SAMPLES


def repeats(payload: bytes, period: int) -> bool:
    """Whether a packet holds nothing but one tone of this period: speech and music never do."""
    return payload[:-period] == payload[period:] and payload[: period // 2] != payload[period // 2 : period]


# ---------------------------------------------------------------- SIP messages


@dataclass
class Message:
    """A SIP request or response."""

    first: str
    headers: list[tuple[str, str]]
    body: str = ""

    @classmethod
    def read(cls, data: bytes) -> Message:
        head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return cls(first, headers, body)

    def __bytes__(self) -> bytes:
        body = self.body.encode()
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), f"Content-Length: {len(body)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def all(self, name: str) -> list[str]:
        short = {"via": "v", "from": "f", "to": "t", "call-id": "i", "contact": "m"}.get(name, name)
        return [value for key, value in self.headers if key.lower() in (name, short)]

    def one(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    @property
    def code(self) -> int:
        """Of a response; 0 for a request."""
        return int(self.first.split()[1]) if self.first.startswith("SIP/2.0") else 0

    @property
    def method(self) -> str:
        """Of a request, or of the request a response answers."""
        return self.one("cseq").split()[-1] if self.code else self.first.split()[0]

    @property
    def branch(self) -> str:
        found = re.search(r"branch=([^;\s]+)", self.one("via"))
        return found[1] if found else ""

    def answer(self, code: int, reason: str, to_tag: str, *more: tuple[str, str], body: str = "") -> Message:
        to = self.one("to")
        if "tag=" not in to and code != 100:
            to += f";tag={to_tag}"
        kept = [("Via", via) for via in self.all("via")] + [("From", self.one("from")), ("To", to)]
        kept += [("Call-ID", self.one("call-id")), ("CSeq", self.one("cseq")), *more]
        if body:
            kept.append(("Content-Type", "application/sdp"))
        return Message(f"SIP/2.0 {code} {reason}", kept, body)


def _uri(address: str) -> str:
    found = re.search(r"<([^>]+)>", address)
    return found[1] if found else address.partition(";")[0]


def _audio_of(sdp: str) -> tuple[int, int] | None:
    """Port and payload type of keys that an SDP names."""
    port = re.search(r"^m=audio (\d+)", sdp, re.M)
    keys = re.search(r"^a=rtpmap:(\d+) telephone-event/8000", sdp, re.M)
    return (int(port[1]), int(keys[1]) if keys else KEYS_AT) if port else None


def _digest(challenge: str, method: str, uri: str, user: str, password: str) -> str:
    """The Authorization header that a challenge asks for. RFC 2617."""
    asked = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge))

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    ha1, ha2 = md5(f"{user}:{asked['realm']}:{password}"), md5(f"{method}:{uri}")
    fields = {"username": user, "realm": asked["realm"], "nonce": asked["nonce"], "uri": uri}
    if "qop" in asked:
        cnonce = secrets.token_hex(4)
        fields["response"] = md5(f"{ha1}:{asked['nonce']}:00000001:{cnonce}:auth:{ha2}")
        tail = f', algorithm=MD5, qop=auth, nc=00000001, cnonce="{cnonce}"'
    else:
        fields["response"] = md5(f"{ha1}:{asked['nonce']}:{ha2}")
        tail = ", algorithm=MD5"
    if "opaque" in asked:
        fields["opaque"] = asked["opaque"]
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items()) + tail


# ---------------------------------------------------------------- audio


class Stream:
    """The audio of one call, both ways."""

    _numbers = itertools.count(1)

    def __init__(self, line: Line, began: float, keep: bool) -> None:
        self.meter = SilenceMeter(began)
        self.port = 0
        self.keys_as = KEYS_AT
        self.tape: bytearray | None = bytearray() if keep else None
        """All A-law that was received, in order of arrival."""
        self.tone_at = 0.0
        """When the other side's tone was heard last, and nothing else with it."""
        self.tones = 0
        """Packets of it so far."""
        self.phase = next(self._numbers) % PHASES
        self._line = line
        self._seq = self._stamp = secrets.randbelow(1 << 15)
        self._ssrc = secrets.randbits(32)
        self._keys: deque[tuple[int, int] | None] = deque()
        self._key_began = 0

    @property
    def keying(self) -> bool:
        return bool(self._keys)

    def press(self, keys: str) -> None:
        for key in keys:
            code = "0123456789*#ABCD".index(key)
            self._keys.extend((code, n * SAMPLES) for n in range(1, KEY_PACKETS + 1))
            self._keys.extend([None] * KEY_PAUSE_PACKETS)

    def receive(self, packet: bytes, at: float) -> None:
        if packet[1] & 0x7F != ALAW:
            return
        payload = packet[12:]
        is_loud = loud(payload)
        self.meter.packet(at, is_loud)
        if is_loud and repeats(payload, self._line.far_period):
            self.tone_at = at
            self.tones += 1
        if self.tape is not None:
            self.tape += payload

    def send(self, voice: bytes) -> None:
        """The packet of this moment."""
        self._stamp = (self._stamp + SAMPLES) & 0xFFFFFFFF
        key = self._keys.popleft() if self._keys else None
        if key is None:
            if voice:
                self._put(ALAW, self._stamp, voice)
            return
        code, lasted = key
        if lasted == SAMPLES:
            self._key_began = self._stamp
        over = lasted == SAMPLES * KEY_PACKETS
        for _ in range(3 if over else 1):
            event = struct.pack("!BBH", code, (0x80 if over else 0) | 10, lasted)
            self._put(self.keys_as | (0x80 if lasted == SAMPLES else 0), self._key_began, event)

    def _put(self, kind: int, stamp: int, payload: bytes) -> None:
        self._seq = (self._seq + 1) & 0xFFFF
        self._line.put(struct.pack("!BBHII", 0x80, kind, self._seq, stamp, self._ssrc) + payload, self.port)


# ---------------------------------------------------------------- one call


class Leg:
    """One call as one phone has it."""

    def __init__(self, line: Line, call_id: str, ours: str, theirs: str, *, incoming: Message | None = None) -> None:
        self.line = line
        self.call_id = call_id
        self.incoming = incoming
        self.began_at = time.time()
        self.rang_at: float | None = None
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.ended_by: EndedBy | None = None
        self.code = 0
        """The last SIP status."""
        self.stream: Stream | None = None
        self.keep_tape = False
        self.keyed: list[tuple[float, float]] = []
        """From, to: when keys were pressed. Unix seconds."""
        self.tag = secrets.token_hex(5)
        self._ours, self._theirs = ours, theirs
        self._target = _uri(incoming.one("contact")) if incoming else _uri(theirs)
        self._account: tuple[str, str] | None = None
        self._cseq = 1
        self._invite: Message | None = None
        self._reply: Message | None = None
        self._provisional = self._wants_cancel = self._authorised = False
        self._again: dict[str, asyncio.TimerHandle] = {}

    @property
    def over(self) -> bool:
        return self.ended_at is not None

    @property
    def talking(self) -> bool:
        """The other side's tone was heard within the last half second."""
        return self.stream is not None and time.time() - self.stream.tone_at < 0.5

    async def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Until `until` holds (True), or the call is over or `seconds` have passed (what `until` says then)."""
        last = time.monotonic() + seconds
        while not self.over and time.monotonic() < last:
            if until():
                return True
            await asyncio.sleep(min(LOOK_EVERY_S, max(0.0, last - time.monotonic())))
        return until()

    def press(self, keys: str) -> None:
        if self.stream is not None and not self.over:
            self.stream.press(keys)

    async def keys(self, keys: str) -> bool:
        """Presses `keys`; False if the call was over before the last one."""
        began = time.time()
        self.press(keys)
        stream = self.stream
        try:
            return stream is not None and await self.wait(60.0, lambda: not stream.keying) and not self.over
        finally:
            self.keyed.append((began, time.time()))

    # Calling

    def invite(self, account: tuple[str, str] | None) -> None:
        self._account = account
        self._invite = self._request("INVITE", body=self.line.sdp())
        self._send_patiently("INVITE", self._invite, self._nobody_there)

    def hang_up(self) -> None:
        """Ends the call in whatever way its state asks for. Harmless on one that is over."""
        if self.over:
            return
        if self.incoming is not None and self.answered_at is None:
            self.refuse(480)
            return
        if self.answered_at is not None:
            self._cseq += 1
            self._send_patiently("BYE", self._request("BYE"))
        elif self._provisional:
            self._cancel()
        else:
            self._wants_cancel = True
        self._end("us", time.time())

    def hold(self, on: bool) -> None:
        """The phone's hold key. RFC 3264, 8.4."""
        self._cseq += 1
        body = self.line.sdp("sendonly" if on else "sendrecv")
        self._send_patiently("INVITE", self._request("INVITE", body=body))

    def cut(self, at: float) -> None:
        """The other side died at `at`: no message will come."""
        if not self.over:
            self._stop_again()
            self._end("cut", at)

    def _request(self, method: str, *more: tuple[str, str], body: str = "", target: str = "") -> Message:
        to_us, to_them = f"{self._ours};tag={self.tag}", self._theirs
        headers = [
            ("Via", f"SIP/2.0/UDP {self.line.at};rport;branch=z9hG4bK{secrets.token_hex(8)}"),
            ("Max-Forwards", "70"), ("From", to_us), ("To", to_them), ("Call-ID", self.call_id),
            ("CSeq", f"{self._cseq} {method}"), ("Contact", f"<{_contact(self._ours, self.line.at)}>"), *more,
        ]  # fmt: skip
        if body:
            headers.append(("Content-Type", "application/sdp"))
        return Message(f"{method} {target or self._target} SIP/2.0", headers, body)

    def _cancel(self) -> None:
        invite = self._invite
        if invite is None:
            return
        cancel = Message(
            invite.first.replace("INVITE", "CANCEL", 1),
            [(n, v.replace("INVITE", "CANCEL") if n == "CSeq" else v) for n, v in invite.headers
             if n not in ("Contact", "Content-Type")],
        )  # fmt: skip
        self._send_patiently("CANCEL", cancel)

    def hears(self, answer: Message) -> None:
        """A response to a request of ours."""
        method, code = answer.method, answer.code
        if method != "INVITE":
            if code >= 200:
                self._stop_again(method)
            return
        self._stop_again("INVITE")
        self._provisional = True
        if code < 200:
            if self._wants_cancel:
                self._wants_cancel = False
                self._cancel()
            if code in (180, 183) and self.rang_at is None:
                self.rang_at = time.time()
            self.code = max(self.code, code)
        elif code < 300:
            self._answered(answer)
        else:
            self._refused(answer)

    def _answered(self, answer: Message) -> None:
        self._theirs = answer.one("to")
        self._target = _uri(answer.one("contact"))
        ack = self._request("ACK")
        ack.headers = [(n, f"{answer.one('cseq').split()[0]} ACK" if n == "CSeq" else v) for n, v in ack.headers]
        self.line.put_sip(ack)
        if self.answered_at is not None:
            return  # the same answer again: our ACK was late
        if self.over:  # it crossed our CANCEL
            self._cseq += 1
            self._send_patiently("BYE", self._request("BYE"))
            self.answered_at = time.time()
            return
        self.code = answer.code
        self._up(answer.body)

    def _refused(self, answer: Message) -> None:
        invite = self._invite
        if invite is not None:
            ack = Message(
                invite.first.replace("INVITE", "ACK", 1),
                [(n, {"To": answer.one("to"), "CSeq": v.replace("INVITE", "ACK")}.get(n, v)) for n, v in invite.headers
                 if n not in ("Contact", "Content-Type", "Authorization")],
            )  # fmt: skip
            self.line.put_sip(ack)
        if answer.code == 401 and self._account is not None and not self._authorised and not self.over:
            self._authorised = True
            self._cseq += 1
            proof = _digest(answer.one("www-authenticate"), "INVITE", self._target, *self._account)
            self._invite = self._request("INVITE", ("Authorization", proof), body=self.line.sdp())
            self._send_patiently("INVITE", self._invite, self._nobody_there)
            return
        self.code = answer.code
        self._end("them", time.time())

    def _nobody_there(self) -> None:
        self.code = 408
        self._end("them", time.time())

    # Being called

    def rings(self) -> None:
        self._respond(180, "Ringing")
        self.rang_at = time.time()

    def pick_up(self) -> None:
        if self.over or self.incoming is None:
            return
        self._respond(200, "OK", body=self.line.sdp())
        self._again["200"] = asyncio.get_running_loop().call_later(T1_S, self._answer_again, T1_S)
        self._up(self.incoming.body)

    def refuse(self, code: int) -> None:
        if not self.over:
            self._respond(code, {486: "Busy Here", 603: "Decline"}.get(code, "Unavailable"))
            self.code = code
            self._end("us", time.time())

    def _answer_again(self, after_s: float) -> None:
        if self._reply is not None and not self.over and after_s < T1_S * 2**TRIES:
            self.line.put_sip(self._reply)
            self._again["200"] = asyncio.get_running_loop().call_later(2 * after_s, self._answer_again, 2 * after_s)

    def _respond(self, code: int, reason: str, body: str = "") -> None:
        if self.incoming is None:
            return
        contact = ("Contact", f"<{_contact(self._ours, self.line.at)}>")
        self._reply = self.incoming.answer(code, reason, self.tag, contact, body=body)
        self.line.put_sip(self._reply)

    def asked(self, request: Message) -> None:
        """A request of theirs within this call."""
        match request.method:
            case "INVITE" if self.incoming is not None and request.branch == self.incoming.branch:
                if self._reply is not None:
                    self.line.put_sip(self._reply)
            case "INVITE":
                contact = ("Contact", f"<{_contact(self._ours, self.line.at)}>")
                self.line.put_sip(request.answer(200, "OK", self.tag, contact, body=self.line.sdp()))
            case "ACK":
                self._stop_again("200")
            case "CANCEL":
                self.line.put_sip(request.answer(200, "OK", self.tag))
                if self.answered_at is None and not self.over:
                    self._respond(487, "Request Terminated")
                    self.code = 487
                    self._end("them", time.time())
            case "BYE":
                self.line.put_sip(request.answer(200, "OK", self.tag))
                self._end("them", time.time())
            case _:
                self.line.put_sip(request.answer(200, "OK", self.tag))

    # Both

    def _up(self, sdp: str) -> None:
        self.answered_at = time.time()
        audio = _audio_of(sdp)
        self.stream = Stream(self.line, self.answered_at, self.keep_tape)
        if audio is not None:
            self.stream.port, self.stream.keys_as = audio
            self.line.streams[audio[0]] = self.stream

    def _end(self, by: EndedBy, at: float) -> None:
        if self.over:
            return
        self.ended_at, self.ended_by = at, by
        self._stop_again("200")
        if self.stream is not None:
            self.stream.meter.ends(at)
            if self.line.streams.get(self.stream.port) is self.stream:
                del self.line.streams[self.stream.port]
        self.line.done(self)

    def _send_patiently(self, name: str, request: Message, gave_up: Callable[[], None] = lambda: None) -> None:
        """Sends until something answers, as UDP needs."""

        def send(after_s: float) -> None:
            if after_s > T1_S * 2**TRIES:
                self._again.pop(name, None)
                gave_up()
                return
            self.line.put_sip(request)
            self._again[name] = asyncio.get_running_loop().call_later(after_s, send, 2 * after_s)

        self._stop_again(name)
        send(T1_S)

    def _stop_again(self, name: str | None = None) -> None:
        for each in [name] if name else list(self._again):
            timer = self._again.pop(each, None)
            if timer is not None:
                timer.cancel()


def _contact(ours: str, at: str) -> str:
    user = re.search(r"sip:([^@>]*)@", ours)
    return f"sip:{user[1] if user else 'phone'}@{at}"


# ---------------------------------------------------------------- a line with many calls


@dataclass
class Late:
    """When the phones themselves were not in time."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    longest_s: float = 0.0

    def note(self, due: float, now: float) -> None:
        self.longest_s = max(self.longest_s, now - due)
        if now - due <= LATE_FROM_S:
            return
        if self.spans and due <= self.spans[-1][1]:
            self.spans[-1] = (self.spans[-1][0], now)
        else:
            self.spans.append((due, now))


class Line(asyncio.DatagramProtocol):
    """A SIP address with its RTP port, for any number of calls at once."""

    def __init__(
        self,
        address: str,
        server: tuple[str, int],
        *,
        voice: bytes = CALLER_TONE,
        far_period: int = 8,
        on_invite: Callable[[str, Leg], None] | None = None,
    ) -> None:
        """`voice` is what its calls send (empty: no packet but keys), `far_period` the period of the tone that the
        other people send.

        `on_invite` is told of a call to a user of this line; without it calls are turned away.
        """
        self.at = f"{address}:5060"
        self.server = server
        self.voice = voice
        self.far_period = far_period
        self.legs: dict[str, Leg] = {}
        self.streams: dict[int, Stream] = {}
        self.late = Late()
        self._address = address
        self._on_invite = on_invite
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._sip: asyncio.DatagramTransport | None = None
        self._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ticking: asyncio.Task[None] | None = None
        self._rtp_port = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._sip, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self._address, 5060))
        for wish in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._sip.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, wish, 1 << 22)
            self._rtp.setsockopt(socket.SOL_SOCKET, wish, 1 << 22)
        self._rtp.setblocking(False)
        self._rtp.bind((self._address, 0))
        self._rtp_port = self._rtp.getsockname()[1]
        loop.add_reader(self._rtp.fileno(), self._receive)
        self._ticking = loop.create_task(self._tick(), name=f"audio of {self.at}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        asyncio.get_running_loop().remove_reader(self._rtp.fileno())
        self._rtp.close()
        if self._sip is not None:
            self._sip.close()
            await asyncio.sleep(0.01)  # its socket is closed at the loop's next turn

    def invite(self, to: str, from_: str, account: tuple[str, str] | None = None, *, keep_tape: bool = False) -> Leg:
        """Calls `to` as `from_`; with an `account` (user, password) if the other side asks for one."""
        host = f"{self.server[0]}:{self.server[1]}"
        call_id = f"{secrets.token_hex(8)}@{self._address}"
        leg = Leg(self, call_id, f"<sip:{from_}@{self._address}>", f"<sip:{to}@{host}>")
        leg.keep_tape = keep_tape
        self.legs[call_id] = leg
        leg.invite(account)
        return leg

    async def register(self, user: str, password: str, expires_s: int = 120) -> bool:
        """Registers `user` here (0 s: no more); False if that was refused or nobody answered."""
        host = f"{self.server[0]}:{self.server[1]}"
        call_id, tag = f"{secrets.token_hex(8)}@{self._address}", secrets.token_hex(5)
        proof = ""
        for cseq in (1, 2):
            headers = [
                ("Via", f"SIP/2.0/UDP {self.at};rport;branch=z9hG4bK{secrets.token_hex(8)}"), ("Max-Forwards", "70"),
                ("From", f"<sip:{user}@{host}>;tag={tag}"), ("To", f"<sip:{user}@{host}>"), ("Call-ID", call_id),
                ("CSeq", f"{cseq} REGISTER"), ("Contact", f"<sip:{user}@{self.at}>"), ("Expires", str(expires_s)),
            ]  # fmt: skip
            if proof:
                headers.append(("Authorization", proof))
            answer = await self._ask(Message(f"REGISTER sip:{host} SIP/2.0", headers))
            if answer is None or answer.code == 200:
                return answer is not None
            if answer.code != 401:
                return False
            proof = _digest(answer.one("www-authenticate"), "REGISTER", f"sip:{host}", user, password)
        return False

    async def _ask(self, request: Message) -> Message | None:
        future = self._waiting[request.branch] = asyncio.get_running_loop().create_future()
        try:
            for attempt in range(4):
                self.put_sip(request)
                try:
                    return await asyncio.wait_for(asyncio.shield(future), T1_S * 2**attempt)
                except TimeoutError:
                    continue
            return None
        finally:
            del self._waiting[request.branch]

    def cut(self, at: float) -> list[Leg]:
        """The server died at `at`: every call is over. Those that had been taken up there."""
        gone = [leg for leg in self.legs.values() if not leg.over]
        for leg in gone:
            leg.cut(at)
        return gone

    def done(self, leg: Leg) -> None:
        """Keeps an ended call's address for what is still on its way."""
        asyncio.get_running_loop().call_later(34.0, self.legs.pop, leg.call_id, None)

    def sdp(self, direction: str = "sendrecv") -> str:
        return (
            f"v=0\r\no=- {secrets.randbelow(1 << 30)} 1 IN IP4 {self._address}\r\ns=-\r\nc=IN IP4 {self._address}\r\n"
            f"t=0 0\r\nm=audio {self._rtp_port} RTP/AVP {ALAW} {KEYS_AT}\r\na=rtpmap:{ALAW} PCMA/8000\r\n"
            f"a=rtpmap:{KEYS_AT} telephone-event/8000\r\na=fmtp:{KEYS_AT} 0-15\r\na=ptime:20\r\na={direction}\r\n"
        )

    # SIP

    def put_sip(self, message: Message) -> None:
        if self._sip is not None and not self._sip.is_closing():
            self._sip.sendto(bytes(message), self.server)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if len(data) < 12:
            return
        message = Message.read(data)
        leg = self.legs.get(message.one("call-id"))
        if message.code:
            waiting = self._waiting.get(message.branch)
            if waiting is not None and message.code >= 200 and not waiting.done():
                waiting.set_result(message)
            elif leg is not None:
                leg.hears(message)
        elif leg is not None:
            leg.asked(message)
        elif message.method == "INVITE" and self._on_invite is not None:
            self._called(message)
        elif message.method == "OPTIONS":
            self.put_sip(message.answer(200, "OK", secrets.token_hex(5)))
        elif message.method != "ACK":
            self.put_sip(message.answer(481, "No Such Call", secrets.token_hex(5)))

    def _called(self, invite: Message) -> None:
        user = re.search(r"sip:([^@]+)@", invite.first)
        leg = Leg(self, invite.one("call-id"), invite.one("to"), invite.one("from"), incoming=invite)
        self.legs[leg.call_id] = leg
        if self._on_invite is not None:
            self._on_invite(user[1] if user else "", leg)

    # RTP

    def put(self, packet: bytes, port: int) -> None:
        try:
            self._rtp.sendto(packet, (self.server[0], port))
        except OSError:
            return  # a full buffer loses packets, as a network does

    def _receive(self) -> None:
        at = time.time()
        take, streams = self._rtp.recvfrom, self.streams
        for _ in range(512):
            try:
                packet, source = take(2048)
            except (BlockingIOError, InterruptedError):
                return
            stream = streams.get(source[1])
            if stream is not None:
                stream.receive(packet, at)

    async def _tick(self) -> None:
        due, phase = time.time(), 0
        while True:
            due += PACKET_S / PHASES
            phase = (phase + 1) % PHASES
            now = time.time()
            if due > now:
                await asyncio.sleep(due - now)
                now = time.time()
            else:
                await asyncio.sleep(0)
            self.late.note(due, now)
            if now - due > 5 * LATE_FROM_S:
                due = now  # what was not sent in time is not sent any more
            for stream in list(self.streams.values()):
                if stream.phase == phase:
                    stream.send(self.voice)
