"""Which frames the tap takes, by running its filter as the kernel does."""

from __future__ import annotations

import struct

import pytest

from tests.bench.tap import (
    AND,
    EQUALS,
    ETHERTYPE_IP,
    KEYS_AT,
    LARGEST,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    PACKET_OUTGOING,
    PACKET_TYPE,
    RETURN,
    SIP_PORT,
    UDP,
    instructions,
)

INCOMING = 0
AUDIO_PORT, ALAW, TCP = 12000, 8, 6


def taken(frame: bytes, kind: int, *, audio: bool) -> int:
    """Bytes that the filter takes of a frame of that packet type. Source of what the instructions do: bpf(4)."""
    program, at, value = instructions(audio=audio), 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case code if code == LOAD_WORD and operand == PACKET_TYPE:
                value = kind
            case code if code == LOAD_HALF:
                (value,) = struct.unpack_from("!H", frame, operand)
            case code if code == LOAD_BYTE:
                value = frame[operand]
            case code if code == AND:
                value &= operand
            case code if code == EQUALS:
                at += if_true if value == operand else if_false
            case code if code == RETURN:
                return operand
            case _:
                raise AssertionError(f"no instruction of the tap's: {code:#x}")


def frame(source: int, target: int, payload: bytes, *, carries: int = UDP, ethertype: int = ETHERTYPE_IP) -> bytes:
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, carries, 0, bytes(4), bytes(4))
    udp = struct.pack("!HHHH", source, target, 8 + len(payload), 0)
    return bytes(12) + struct.pack("!H", ethertype) + ip + udp + payload


def rtp(kind: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 0x80 | kind, 0, 0, 1) + bytes(4)


SIP_OUT, SIP_IN = frame(SIP_PORT, 6000, b"INVITE"), frame(6000, SIP_PORT, b"SIP/2.0 200 OK")
KEY, SOUND = frame(AUDIO_PORT, 6000, rtp(KEYS_AT)), frame(AUDIO_PORT, 6000, rtp(ALAW))
NOT_UDP = frame(SIP_PORT, SIP_PORT, b"INVITE", carries=TCP)
NOT_IP = frame(SIP_PORT, SIP_PORT, b"INVITE", ethertype=0x86DD)


@pytest.mark.parametrize(
    ("one", "with_audio", "without"),
    [
        (SIP_OUT, True, True), (SIP_IN, True, True), (KEY, True, True), (SOUND, True, False), (NOT_UDP, False, False),
        (NOT_IP, False, False),
    ],
    ids=["SIP from", "SIP to", "key", "sound", "TCP", "IPv6"],
)  # fmt: skip
def test_sip_and_keys_are_taken_and_sound_if_it_is_asked_for(one: bytes, with_audio: bool, without: bool) -> None:
    assert taken(one, INCOMING, audio=True) == LARGEST * with_audio
    assert taken(one, INCOMING, audio=False) == LARGEST * without


@pytest.mark.parametrize("audio", [True, False])
def test_a_packet_is_taken_once_though_it_passes_twice(audio: bool) -> None:
    assert taken(SIP_OUT, PACKET_OUTGOING, audio=audio) == 0
