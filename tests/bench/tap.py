"""Writes what goes over loopback into a pcap file, in a process of its own: python -m tests.bench.tap FILE [audio]

Says ``listening`` once it does, ends when its input is closed, and says how many packets were lost to it. tcpdump would
do the same, but insists on changing its user, which the benchmark's own user namespace does not allow (ADR 141).

The kernel puts packets into a ring of memory that both see (packet(7), PACKET_RX_RING with TPACKET_V2): a socket's own
buffer is too small for bursts, and only the machine's root may make it larger.
"""

from __future__ import annotations

import ctypes
import mmap
import select
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import dpkt

SIP_PORT = 5060
KEYS_AT = 101
"""RTP payload type of keys, as in the phones' SDP."""

ETHERTYPE_IP = 0x0800
EVERY_TYPE = 3
"""A tap for one type alone is told of a packet after the one whom it is for, who may have answered by then."""
SLOT_BYTES, BLOCK_BYTES, BLOCKS = 2048, 1 << 16, 1024
"""Of the ring: 64 MB, several seconds of the heaviest traffic there is."""
LARGEST = SLOT_BYTES
SLOT = struct.Struct("=IIIHHII")
"""What a slot begins with: status, length, captured, where the frame begins, its IP part, seconds, nanoseconds."""
STATUS = struct.Struct("=I")
FULL, EMPTY = 1, 0
SO_ATTACH_FILTER = 26
SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V2 = 263, 5, 6, 10, 1
PACKET_OUTGOING = 4
PACKET_TYPE = 0xFFFFF000 + 4
"""Where a filter finds a packet's type: SKF_AD_OFF + SKF_AD_PKTTYPE of linux/filter.h."""

LOAD_WORD, LOAD_HALF, LOAD_BYTE, EQUALS, AND, RETURN = 0x20, 0x28, 0x30, 0x15, 0x54, 0x06
UDP = 17
TYPE_AT, IP_AT, UDP_AT = 12, 14, 34
"""Of a frame without IP options: the phones and Asterisk send none."""

Instruction = tuple[int, int, int, int]
"""Of classic BPF: code, so many to skip if true, if false, operand."""


def instructions(*, audio: bool) -> list[Instruction]:
    """A filter for SIP and keys; with `audio` for all UDP. On loopback each packet passes twice: out, then in."""
    begin = [
        (LOAD_WORD, 0, 0, PACKET_TYPE),
        (EQUALS, 5 if audio else 11, 0, PACKET_OUTGOING),
        (LOAD_HALF, 0, 0, TYPE_AT),
        (EQUALS, 0, 3 if audio else 9, ETHERTYPE_IP),
        (LOAD_BYTE, 0, 0, IP_AT + 9),
    ]
    if audio:
        return [*begin, (EQUALS, 0, 1, UDP), (RETURN, 0, 0, LARGEST), (RETURN, 0, 0, 0)]
    return [
        *begin,
        (EQUALS, 0, 7, UDP),
        (LOAD_HALF, 0, 0, UDP_AT),
        (EQUALS, 6, 0, SIP_PORT),
        (LOAD_HALF, 0, 0, UDP_AT + 2),
        (EQUALS, 4, 0, SIP_PORT),
        (LOAD_BYTE, 0, 0, UDP_AT + 9),
        (AND, 0, 0, 0x7F),
        (EQUALS, 1, 0, KEYS_AT),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, LARGEST),
    ]


class Tap:
    """A ring that fills from now on. Raises PermissionError without CAP_NET_RAW."""

    def __init__(self, *, audio: bool) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        program = b"".join(struct.pack("HBBI", *one) for one in instructions(audio=audio))
        kept = ctypes.create_string_buffer(program)
        self.socket.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(kept))
        )
        self.socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        slots = BLOCK_BYTES // SLOT_BYTES * BLOCKS
        self.socket.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", BLOCK_BYTES, BLOCKS, SLOT_BYTES, slots))
        self._ring = mmap.mmap(self.socket.fileno(), BLOCK_BYTES * BLOCKS)
        self._at = 0
        self.socket.bind(("lo", EVERY_TYPE))  # only now do packets come

    def take(self) -> Iterator[tuple[float, bytes]]:
        """The frames that are there, each with its moment in Unix seconds."""
        while True:
            status, _, captured, begin, _, seconds, nanoseconds = SLOT.unpack_from(self._ring, self._at)
            if not status & FULL:
                return
            begin += self._at
            yield seconds + nanoseconds / 1e9, self._ring[begin : begin + captured]
            STATUS.pack_into(self._ring, self._at, EMPTY)
            self._at = (self._at + SLOT_BYTES) % (BLOCK_BYTES * BLOCKS)

    def lost(self) -> int:
        """Packets for which there was no room."""
        return int(struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1])


def main() -> int:
    file, audio = Path(sys.argv[1]), "audio" in sys.argv[2:]
    tap = Tap(audio=audio)
    with file.open("wb") as opened:
        writer = dpkt.pcap.Writer(opened, snaplen=LARGEST, nano=True)
        print("listening", flush=True)
        goes_on = True
        while goes_on:
            ready, _, _ = select.select([tap.socket, sys.stdin], [], [])
            goes_on = sys.stdin not in ready
            for at, frame in tap.take():
                writer.writepkt(frame, ts=at)
        print(tap.lost(), "lost", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
