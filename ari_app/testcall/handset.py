"""A process that holds a few SIP phones on pjsua2; `ari_app.testcall.phone` starts it and speaks to it.

Why a process of its own: the wheel of pjsua2 carries at most four calls, and answers a misstep (a call freed after the
endpoint, an operation on a call that has just gone) with an abort. So each handset has its own endpoint, several make
up any number of calls, and a script never dies of one.

It reads commands from standard input and writes events to standard output, one JSON object a line; the end of the
input is the end of the process. Moments are `time.monotonic`, one clock for all processes of a machine. pjsua2's
SIP runs on the one thread of this file, RTP and audio on native threads that never wait for Python.

Each call's tape begins with the call and is fed silence when no audio comes, so sample `n` was heard at
``t0 + n / 8000`` whatever the network did. A faint comfort noise always goes out: keypad events are timed against
the audio stream, and get lost without one.

Imports nothing of ours and no numpy: it starts in a quarter second.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import struct
import sys
import time
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pjsua2 as pj

RATE = 8000
TICK_MS = 10
HEADER_BYTES = 44
LOOKS_AT_TAPE_S = 0.1
LOOKS = 20
USUALLY_BEHIND_S = 0.13
LOST_TIME_S = 0.4
TAPE_SETTLES_S = 0.1
"""The audio thread closes a wav on one of its next ticks of 20 ms."""
LEAVES_WITHIN_S = 1.5
CODECS = {"PCMA/8000/1": 255, "PCMU/8000/1": 128}
JITTER_BUFFER_MS = 2000
"""Room for what comes at once after a busy machine stood still; what has no room is never heard."""
LOOPED, ONCE = 0, pj.PJMEDIA_FILE_NO_LOOP


class Leg(pj.Call):  # type: ignore[misc]
    """One call of this handset."""

    def __init__(self, handset: Handset, name: str, line: Any, call_id: int = pj.PJSUA_INVALID_ID) -> None:
        super().__init__(line, call_id)
        self.handset = handset
        self.name = name
        self.media: Any = None
        self.players: list[Any] = []
        self.over = False
        path = handset.folder / f"{name}.wav"
        self.recorder: Any = pj.AudioMediaRecorder()
        self.recorder.createRecorder(str(path))
        handset.silence.startTransmit(self.recorder)
        self.path = path
        self.t0 = time.monotonic()
        self.tape = {"tape": str(path), "t0": self.t0}
        self.looks: list[tuple[float, float]] = []
        """Seconds of the call, and by how many the tape was behind."""
        self.lost_s = 0.0
        handset.later(LOOKS_AT_TAPE_S, self.looks_at_tape)

    def looks_at_tape(self) -> None:
        """A machine that stands still for half a second makes pjsua2's clock skip: that time is not on the tape.

        The tape grows in steps of a quarter second: the least it was behind in ten looks counts, not the last.
        """
        if self.over:
            return
        since_s = time.monotonic() - self.t0 - self.lost_s
        on_tape_s = (self.path.stat().st_size - HEADER_BYTES) / 2 / RATE
        self.looks.append((since_s, since_s - on_tape_s))
        if len(self.looks) >= LOOKS:
            behind_s = min(lag for _, lag in self.looks[-LOOKS // 2 :])
            if behind_s > LOST_TIME_S:
                jumps = [after[1] - before[1] for before, after in pairwise(self.looks)]
                stood_still_s = self.looks[jumps.index(max(jumps))][0]
                lost_s = behind_s - USUALLY_BEHIND_S
                self.lost_s += lost_s
                self.looks.clear()
                self.handset.tells("lost", call=self.name, from_s=stood_still_s, seconds=lost_s)
            else:
                del self.looks[: -LOOKS // 2]
        self.handset.later(LOOKS_AT_TAPE_S, self.looks_at_tape)

    def onCallState(self, prm: Any) -> None:
        with self.handset.kept_alive():
            info = self.getInfo()  # keep it: what hangs off it dies with it
            over = info.state == pj.PJSIP_INV_STATE_DISCONNECTED
            through = info.state == pj.PJSIP_INV_STATE_CONFIRMED or (
                info.state == pj.PJSIP_INV_STATE_CONNECTING and info.role == pj.PJSIP_ROLE_UAC
            )
            state = "ended" if over else "talking" if through else "calling"
            self.handset.tells("state", call=self.name, state=state, code=info.lastStatusCode)
            if over:
                self.ends()

    def ends(self) -> None:
        """Let go of the audio; nothing may be asked of this call any more."""
        if not self.over:
            self.over = True
            self.media = self.recorder = None
            self.players.clear()
            self.handset.later(TAPE_SETTLES_S, lambda: self.handset.tells("taped", call=self.name))

    def onCallTsxState(self, prm: Any) -> None:
        with self.handset.kept_alive():
            state = prm.e.body.tsxState
            if state.type == pj.PJSIP_EVENT_RX_MSG:
                self.handset.tells("message", call=self.name, text=state.src.rdata.wholeMsg)

    def onCallMediaState(self, prm: Any) -> None:
        with self.handset.kept_alive():
            info = self.getInfo()
            if any(medium.status == pj.PJSUA_CALL_MEDIA_ACTIVE for medium in info.media) and not self.over:
                self.media = self.getAudioMedia(-1)
                self.handset.comfort.startTransmit(self.media)
                self.media.startTransmit(self.recorder)
                self.handset.tells("media", call=self.name)

    def onDtmfDigit(self, prm: Any) -> None:
        with self.handset.kept_alive():
            self.handset.tells("digit", call=self.name, digit=prm.digit)


class Line(pj.Account):  # type: ignore[misc]
    """An agent's registration, or what all callers from one address share: pjsua2 has room for few accounts."""

    def __init__(self, handset: Handset, name: str) -> None:
        super().__init__()
        self.handset = handset
        self.name = name
        self.registered = False

    def onRegState(self, prm: Any) -> None:
        with self.handset.kept_alive():
            self.registered = prm.code == 200 and prm.expiration > 0
            self.handset.tells("registration", line=self.name, code=prm.code, registered=self.registered)

    def onIncomingCall(self, prm: Any) -> None:
        with self.handset.kept_alive():
            self.handset.takes_in(self, prm.callId, prm.rdata.wholeMsg)


class Handset:
    """The endpoint and everything on it."""

    def __init__(self, events: int, folder: Path, name: str) -> None:
        self.folder = folder
        self._events = events
        self._name = name
        self._lines: dict[str, Line] = {}
        self._legs: dict[str, Leg] = {}
        self._transports: dict[str, int] = {}
        self._timers: list[tuple[float, Any]] = []
        self._taken_in = 0
        self._endpoint = pj.Endpoint()
        self._endpoint.libCreate()
        config = pj.EpConfig()
        config.uaConfig.threadCnt = 0
        config.uaConfig.mainThreadOnly = True
        config.uaConfig.userAgent = "Sanling test phone"
        config.logConfig.level = config.logConfig.consoleLevel = 0
        config.medConfig.noVad = True
        config.medConfig.ecTailLen = 0
        config.medConfig.clockRate = RATE
        config.medConfig.audioFramePtime = 20
        config.medConfig.jbMax = JITTER_BUFFER_MS
        self._endpoint.libInit(config)
        self._endpoint.libStart()
        self._endpoint.audDevManager().setNullDev()  # the audio clock runs without a sound card
        for codec in self._endpoint.codecEnum2():
            self._endpoint.codecSetPriority(codec.codecId, CODECS.get(codec.codecId, 0))
        self.silence = self._player(self._one_second("silence", 0), LOOPED)
        self.comfort = self._player(self._one_second("comfort", 8), LOOPED)

    def tells(self, what: str, **facts: Any) -> None:
        line = json.dumps({"is": what, "at": time.monotonic(), **facts}).encode() + b"\n"
        while line:
            line = line[os.write(self._events, line) :]

    @contextlib.contextmanager
    def kept_alive(self, **who: str) -> Iterator[None]:
        """No exception may travel through pjsua2's native frames, nor end the process."""
        try:
            yield
        except pj.Error as error:
            self.tells("failed", why=error.info(), **who)
        except Exception as error:
            self.tells("failed", why=repr(error), **who)

    def later(self, after_s: float, do: Any) -> None:
        self._timers.append((time.monotonic() + after_s, do))

    def runs(self) -> None:
        """Until standard input ends."""
        self.tells("ready")
        unread = b""
        while True:
            if select.select([0], [], [], 0)[0]:
                came = os.read(0, 1 << 16)
                if not came:
                    break
                *lines, unread = (unread + came).split(b"\n")
                for line in lines:
                    self._obeys(json.loads(line))
            self._ticks()
        self._leaves()

    def _ticks(self) -> None:
        self._endpoint.libHandleEvents(TICK_MS)
        now = time.monotonic()
        due = [do for at, do in self._timers if at <= now]
        self._timers = [(at, do) for at, do in self._timers if at > now]
        for do in due:
            do()

    def _obeys(self, command: dict[str, Any]) -> None:
        do = command.pop("do")
        with self.kept_alive(**{kind: command[kind] for kind in ("call", "line") if kind in command}):
            getattr(self, f"do_{do}")(**command)

    def takes_in(self, line: Line, call_id: int, invite: str) -> None:
        self._taken_in += 1
        name = f"{self._name}-in-{self._taken_in}"
        leg = self._legs[name] = Leg(self, name, line, call_id)
        self.tells("invited", line=line.name, call=name, invite=invite, **leg.tape)

    def do_line(
        self, line: str, uri: str, address: str, rtp_ports: list[int], registrar: str, user: str, password: str
    ) -> None:
        """A line on `address`; with a registrar, it can register."""
        account = pj.AccountConfig()
        account.idUri = uri
        account.sipConfig.transportId = self._transport(address)
        account.mediaConfig.transportConfig.boundAddress = address
        account.mediaConfig.transportConfig.port = rtp_ports[0]
        account.mediaConfig.transportConfig.portRange = rtp_ports[1] - rtp_ports[0]
        nat = account.natConfig
        nat.contactRewriteUse = nat.viaRewriteUse = nat.sdpNatRewriteUse = nat.sipOutboundUse = 0
        account.callConfig.timerUse = pj.PJSUA_SIP_TIMER_INACTIVE
        if registrar:
            account.regConfig.registrarUri = f"sip:{registrar}"
            account.regConfig.timeoutSec = 600
            account.regConfig.retryIntervalSec = 0
            account.regConfig.registerOnAdd = False
        if user:
            account.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", user, 0, password))
        self._lines[line] = Line(self, line)
        self._lines[line].create(account)

    def do_register(self, line: str, on: bool) -> None:
        self._lines[line].setRegistration(on)

    def do_dial(self, call: str, line: str, uri: str, from_uri: str, headers: dict[str, str]) -> None:
        parameters = pj.CallOpParam(True)
        parameters.txOption.localUri = from_uri
        for name, value in headers.items():
            header = pj.SipHeader()
            header.hName, header.hValue = name, value
            parameters.txOption.headers.append(header)
        leg = self._legs[call] = Leg(self, call, self._lines[line])
        self.tells("dialled", call=call, **leg.tape)
        try:
            leg.makeCall(uri, parameters)
        except pj.Error:
            self.tells("state", call=call, state="ended", code=0)
            leg.ends()
            raise

    def do_answer(self, call: str, code: int) -> None:
        if not self._legs[call].over:
            parameters = pj.CallOpParam()
            parameters.statusCode = code
            self._legs[call].answer(parameters)

    def do_hang_up(self, call: str) -> None:
        if not self._legs[call].over:
            self._legs[call].hangup(pj.CallOpParam())

    def do_transfer(self, call: str, uri: str) -> None:
        if not self._legs[call].over:
            self._legs[call].xfer(uri, pj.CallOpParam())

    def do_key(self, call: str, digit: str, tone_ms: int) -> None:
        if not self._legs[call].over:
            event = pj.CallSendDtmfParam()
            event.method = pj.PJSUA_DTMF_METHOD_RFC2833
            event.digits, event.duration = digit, tone_ms
            self._legs[call].sendDtmf(event)

    def do_play(self, call: str, path: str) -> None:
        leg = self._legs[call]
        if leg.media is not None:
            player = self._player(Path(path), ONCE)
            leg.players.append(player)
            player.startTransmit(leg.media)

    def _transport(self, address: str) -> int:
        if address not in self._transports:
            transport = pj.TransportConfig()
            transport.boundAddress = address
            self._transports[address] = self._endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
        return self._transports[address]

    def _player(self, path: Path, how: int) -> Any:
        player = pj.AudioMediaPlayer()
        player.createPlayer(str(path), how)
        return player

    def _one_second(self, name: str, loudest: int) -> Path:
        path = self.folder / f"{self._name}-{name}.wav"
        noise = random.Random(0)  # noqa: S311
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            values = [noise.randint(-loudest, loudest) for _ in range(RATE)]
            file.writeframes(struct.pack(f"<{RATE}h", *values))
        return path

    def _leaves(self) -> None:
        """Hang up and sign off, so that the exchange keeps nothing of us, but never wait long for it."""
        with contextlib.suppress(pj.Error):
            self._endpoint.hangupAllCalls()
        for line in self._lines.values():
            if line.registered:
                with contextlib.suppress(pj.Error):
                    line.setRegistration(False)
        end = time.monotonic() + LEAVES_WITHIN_S
        while time.monotonic() < end and (
            any(not leg.over for leg in self._legs.values()) or any(line.registered for line in self._lines.values())
        ):
            self._ticks()
        with contextlib.suppress(pj.Error):
            self._endpoint.libDestroy()


def main() -> None:
    events = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pjsua2 prints its first lines before it can be told not to
    handset = Handset(events, Path(sys.argv[1]), sys.argv[2])
    with contextlib.suppress(BrokenPipeError):
        handset.runs()
    os._exit(0)  # not through Python's own end: it would free calls after their endpoint


if __name__ == "__main__":
    main()
