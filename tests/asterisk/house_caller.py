"""A caller made of bare UDP, for what a well-behaved phone cannot do: hostile headers, gaps in the audio, hang-ups at
any moment, wrong numbers. It knows just enough SIP, RTP and RFC 4733 for one call at a time."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

RATE = 8000
FRAME = 160
Samples = npt.NDArray[np.int16]


def tone(hz: float, seconds: float = 1.0, level: int = 8000) -> Samples:
    at = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hz * at)).astype(np.int16)


def to_alaw(samples: Samples) -> bytes:
    """ITU-T G.711."""
    x = samples.astype(np.int32)
    positive = x >= 0
    a = np.minimum(np.where(positive, x, -x - 1), 32635)
    exponent = np.maximum(np.floor(np.log2(np.maximum(a, 1))).astype(np.int32) - 7, 0)
    mantissa = (a >> np.where(exponent == 0, 4, exponent + 3)) & 0x0F
    return bytes(((np.where(positive, 0x80, 0) | (exponent << 4) | mantissa) ^ 0x55).astype(np.uint8))


def from_alaw(data: bytes) -> Samples:
    x = np.frombuffer(data, np.uint8).astype(np.int32) ^ 0x55
    exponent, mantissa = (x >> 4) & 7, x & 0x0F
    a = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(x & 0x80, a, -a).astype(np.int16)


def strength(samples: npt.NDArray[np.generic], hz: float) -> float:
    """The share (0 to 1) of the sound's energy that lies at `hz`."""
    x = samples.astype(np.float64)
    energy = float(x @ x)
    if energy < 1.0:
        return 0.0
    wave = np.exp(-2j * np.pi * hz * np.arange(len(x)) / RATE)
    return float(2 * abs(x @ wave) ** 2 / (len(x) * energy))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: str
    at: float
    """Loop time in seconds."""


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.received.put_nowait(data)


@dataclass
class Caller:
    """One phone at `address`; `hotline` is (address, port)."""

    address: str
    hotline: tuple[str, int]
    number: str = "13800001111"
    from_header: str = ""
    """Instead of ``<sip:number@address>``, as it stands."""
    password: str = ""
    replies: list[Reply] = field(default_factory=list)
    heard_frames: list[tuple[float, bytes]] = field(default_factory=list)
    """(loop time, A-law of 20 ms), as received."""
    hung_up_by_hotline: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Caller:
        loop = asyncio.get_running_loop()
        self._sip_transport, self._sip = await loop.create_datagram_endpoint(_Datagrams, local_addr=(self.address, 0))
        self._rtp_transport, self._rtp = await loop.create_datagram_endpoint(_Datagrams, local_addr=(self.address, 0))
        self._sip_port = self._sip_transport.get_extra_info("sockname")[1]
        self._rtp_port = self._rtp_transport.get_extra_info("sockname")[1]
        self._call_id, self._tag, self._cseq = secrets.token_hex(8), secrets.token_hex(4), 0
        self._to_tag, self._far_rtp, self._authorization = "", ("", 0), ""
        self._sequence, self._stamp, self._ssrc = 0, 0, secrets.randbits(32)
        self._changed = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._listen_sip()), asyncio.create_task(self._listen_rtp())]
        self.up = False
        self.silent = False
        """True: sends no RTP at all, like a muted phone."""
        self.speech = tone(400)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.up:
            await self.hang_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sip_transport.close()
        self._rtp_transport.close()

    # Signalling

    async def request(self, method: str, number: str = "", body: str = "") -> None:
        target = f"sip:{number or self._dialled}@{self.hotline[0]}:{self.hotline[1]}"
        if method not in ("ACK", "CANCEL"):
            self._cseq += 1
            self._branch = f"z9hG4bK{secrets.token_hex(6)}"
        from_ = self.from_header or f"<sip:{self.number}@{self.address}>"
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.address}:{self._sip_port};branch={self._branch};rport",
            f"From: {from_};tag={self._tag}",
            f"To: <{target}>{self._to_tag if method != 'CANCEL' else ''}",
            f"Call-ID: {self._call_id}",
            f"CSeq: {self._cseq} {method}",
            f"Contact: <sip:{self.number}@{self.address}:{self._sip_port}>",
            "Max-Forwards: 70",
            *([self._authorization] if self._authorization else []),
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        packet = "\r\n".join(lines) + "\r\n\r\n" + body
        self._sip_transport.sendto(packet.encode("utf-8", "surrogateescape"), self.hotline)

    async def dial(self, number: str) -> None:
        self._dialled = number
        self.dialled_at = asyncio.get_running_loop().time()
        await self.request("INVITE", number, self._sdp())

    def _sdp(self) -> str:
        return (
            f"v=0\r\no=- 1 1 IN IP4 {self.address}\r\ns=-\r\nc=IN IP4 {self.address}\r\nt=0 0\r\n"
            f"m=audio {self._rtp_port} RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\n"
            "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
        )

    async def register(self) -> int:
        """Registers with the password; the final status."""
        self._dialled = self.number
        await self.request("REGISTER")
        reply = await self.final()
        if reply.status == 401:
            self.replies.clear()
            self._authorize(reply, "REGISTER")
            await self.request("REGISTER")
            reply = await self.final()
            self._authorization = ""
        return reply.status

    async def authorized_dial(self, number: str) -> int:
        """Dials as an agent does, answering the challenge; the final status."""
        await self.dial(number)
        reply = await self.final()
        if reply.status == 401:
            self.replies.clear()
            self._to_tag = ""
            self._authorize(reply, "INVITE")
            await self.dial(number)
            reply = await self.final()
        return reply.status

    def _authorize(self, reply: Reply, method: str) -> None:
        challenge = dict(re.findall(r'(\w+)="?([^",]+)"?', reply.headers["www-authenticate"]))
        uri = f"sip:{self._dialled}@{self.hotline[0]}:{self.hotline[1]}"

        def md5(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        ha1 = md5(f"{self.number}:{challenge['realm']}:{self.password}")
        answer = md5(f"{ha1}:{challenge['nonce']}:00000001:abcd:auth:{md5(f'{method}:{uri}')}")
        self._authorization = (
            f'Authorization: Digest username="{self.number}", realm="{challenge["realm"]}", '
            f'nonce="{challenge["nonce"]}", uri="{uri}", response="{answer}", algorithm=MD5, qop=auth, '
            f'nc=00000001, cnonce="abcd", opaque="{challenge.get("opaque", "")}"'
        )

    async def reply(self, wanted: int, within_s: float = 5.0) -> Reply:
        return await self._reply(lambda reply: reply.status == wanted, within_s)

    async def final(self, within_s: float = 10.0) -> Reply:
        return await self._reply(lambda reply: reply.status >= 200, within_s)

    async def _reply(self, fits: object, within_s: float) -> Reply:
        assert callable(fits)
        async with asyncio.timeout(within_s), self._changed:
            while not (found := [reply for reply in self.replies if fits(reply)]):
                await self._changed.wait()
            return found[0]

    async def answered(self, within_s: float = 10.0) -> Reply:
        return await self.reply(200, within_s)

    async def hang_up(self) -> None:
        """BYE, or CANCEL before the answer."""
        if self.up:
            self.up = False
            self._authorization = ""
            await self.request("BYE")
        else:
            await self.request("CANCEL")

    async def _listen_sip(self) -> None:
        while True:
            text = (await self._sip.received.get()).decode("utf-8", "replace")
            head, _, body = text.partition("\r\n\r\n")
            first, *rest = head.split("\r\n")
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
            if first.startswith("SIP/2.0"):
                await self._take_reply(int(first.split()[1]), headers, body)
            else:
                await self._take_request(first.split()[0], head)

    async def _take_reply(self, status: int, headers: dict[str, str], body: str) -> None:
        if headers["cseq"].endswith("INVITE") and status >= 200:
            tag = re.search(r";tag=[^;>]+", headers["to"])
            self._to_tag = tag[0] if tag else ""
            await self.request("ACK")
            if status == 200 and not self.up:
                port = re.search(r"^m=audio (\d+)", body, re.M)
                host = re.search(r"^c=IN IP4 (\S+)", body, re.M)
                assert port
                assert host
                self._far_rtp, self.up = (host[1], int(port[1])), True
                self._tasks.append(asyncio.create_task(self._speak()))
        async with self._changed:
            self.replies.append(Reply(status, headers, body, asyncio.get_running_loop().time()))
            self._changed.notify_all()

    async def _take_request(self, method: str, head: str) -> None:
        copied = [line for line in head.split("\r\n") if re.match(r"(via|from|to|call-id|cseq):", line, re.I)]
        answer = "\r\n".join(["SIP/2.0 200 OK", *copied, "Content-Length: 0"]) + "\r\n\r\n"
        self._sip_transport.sendto(answer.encode(), self.hotline)
        if method == "BYE":
            self.up = False
            self.hung_up_by_hotline.set()

    # Audio

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        due, position = loop.time(), 0
        while self.up:
            if not self.silent:
                frame = np.take(self.speech, range(position, position + FRAME), mode="wrap")
                self._send(8, to_alaw(frame.astype(np.int16)))
            position += FRAME
            self._stamp += FRAME
            due += FRAME / RATE
            await asyncio.sleep(max(due - loop.time(), 0))

    def _send(self, kind: int, payload: bytes, stamp: int | None = None, marker: int = 0) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        at = (self._stamp if stamp is None else stamp) & 0xFFFFFFFF
        header = struct.pack("!BBHII", 0x80, marker << 7 | kind, self._sequence, at, self._ssrc)
        self._rtp_transport.sendto(header + payload, self._far_rtp)

    async def keys(self, digits: str) -> None:
        """RFC 4733, 100 ms each with as long a pause."""
        for digit in digits:
            event, began = "0123456789*#".index(digit), self._stamp
            for step in range(1, 8):
                ending = step > 5
                duration = min(step, 6) * FRAME
                self._send(101, struct.pack("!BBH", event, ending << 7 | 10, duration), began, int(step == 1))
                await asyncio.sleep(0.02 if not ending else 0.001)
            await asyncio.sleep(0.1)

    async def _listen_rtp(self) -> None:
        while True:
            packet = await self._rtp.received.get()
            if packet[1] & 0x7F == 8:
                self.heard_frames.append((asyncio.get_running_loop().time(), packet[12:]))

    def heard(self) -> Samples:
        return from_alaw(b"".join(frame for _, frame in self.heard_frames))
