"""What went over the wire, read from a packet capture: who was answered, offered, joined and let go when.

The same capture is read for both flows, so that no latency depends on what a program says of itself. A caller is known
by the number in its INVITE, which is in the agent's INVITE too; a key by its RFC 4733 event; a voice by its tone
(``tests.faults.lightphone``): callers and agents send one each, which no prompt and no music resembles.

Moments are Unix seconds, by the kernel's clock at the loopback interface. Voices have grains of one packet, 20 ms.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import dpkt

from tests.bench.tap import KEYS_AT, SIP_PORT
from tests.faults.lightphone import Message, repeats

RTP_HEADER = 12
CALLER_PERIOD, AGENT_PERIOD = 16, 8
"""Of the tones, in samples at 8 kHz."""


class Packet(NamedTuple):
    """One UDP datagram."""

    at: float
    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes


@dataclass(frozen=True)
class Places:
    """Addresses of one flow's three parties."""

    pbx: str
    callers: str
    agents: str


@dataclass
class AgentLeg:
    """A call that came to an agent's phone."""

    agent: str
    number: str
    """The caller's, as displayed."""
    invited_at: float
    answered_at: float | None = None
    ended_at: float | None = None
    hears_caller_at: float | None = None


@dataclass
class CallerLeg:
    """A call to the hotline."""

    number: str
    invited_at: float
    answered_at: float | None = None
    keyed_at: float | None = None
    """The end of the last key."""
    ended_at: float | None = None
    hears_agent_at: float | None = None
    offers: list[AgentLeg] = field(default_factory=list)

    @property
    def agent(self) -> AgentLeg | None:
        """Who took the call."""
        return next((leg for leg in self.offers if leg.answered_at is not None), None)


@dataclass
class Seen:
    """What a capture tells of one flow."""

    callers: dict[str, CallerLeg] = field(default_factory=dict)
    """By number."""
    agents: list[AgentLeg] = field(default_factory=list)
    """In the order in which they were called."""

    # Latencies, in seconds

    def answer_s(self) -> list[float]:
        """INVITE → 200."""
        return [leg.answered_at - leg.invited_at for leg in self.callers.values() if leg.answered_at is not None]

    def offer_s(self) -> list[float]:
        """The last key's end → the first agent's INVITE."""
        return [
            leg.offers[0].invited_at - leg.keyed_at
            for leg in self.callers.values()
            if leg.keyed_at is not None and leg.offers
        ]

    def join_s(self, whisper_s: float) -> list[float]:
        """The agent's 200 → both hear each other, less what was whispered to the agent in between."""
        found = []
        for leg in self.callers.values():
            agent = leg.agent
            if agent is None or agent.answered_at is None:
                continue
            if leg.hears_agent_at is not None and agent.hears_caller_at is not None:
                found.append(max(leg.hears_agent_at, agent.hears_caller_at) - agent.answered_at - whisper_s)
        return found

    def next_s(self) -> list[float]:
        """An agent's BYE → the INVITE of this agent's next call, where a caller was waiting at the BYE."""
        waits = [
            (leg.keyed_at, leg.offers[0].invited_at)
            for leg in self.callers.values()
            if leg.keyed_at is not None and leg.offers
        ]
        by_agent: dict[str, list[AgentLeg]] = {}
        for offer in self.agents:
            by_agent.setdefault(offer.agent, []).append(offer)
        found = []
        for legs in by_agent.values():
            for before, after in pairwise(legs):
                free_at = before.ended_at
                if free_at is None or after.invited_at < free_at:
                    continue
                if any(since <= free_at < until for since, until in waits):
                    found.append(after.invited_at - free_at)
        return found

    # Failures

    def failed(self, numbers: Iterable[str]) -> dict[str, str]:
        """Of the callers `numbers`, those who were not served, and what went wrong first."""
        return {number: why for number in numbers if (why := self._wrong(number)) is not None}

    def _wrong(self, number: str) -> str | None:
        leg = self.callers.get(number)
        if leg is None:
            return "no INVITE"
        if leg.answered_at is None:
            return "not answered"
        if leg.keyed_at is None:
            return "no key"
        if leg.agent is None:
            return "not joined to an agent"
        return "not hung up" if leg.ended_at is None else None


def read(file: Path) -> Iterator[Packet]:
    """Every UDP datagram of a pcap file, in order."""
    with file.open("rb") as opened:
        for at, frame in dpkt.pcap.Reader(opened):
            packet = dpkt.ethernet.Ethernet(frame).data
            if isinstance(packet, dpkt.ip.IP) and isinstance(packet.data, dpkt.udp.UDP):
                udp = packet.data
                yield Packet(
                    float(at),
                    (socket.inet_ntoa(packet.src), udp.sport),
                    (socket.inet_ntoa(packet.dst), udp.dport),
                    bytes(udp.data),
                )


def watch(packets: Iterable[Packet], places: Places) -> Seen:
    """What `packets`, in order of time, tell of the flow at these `places`."""
    return _Watcher(places).watch(packets)


class _Watcher:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._seen = Seen()
        self._callers: dict[str, CallerLeg] = {}
        self._agents: dict[str, AgentLeg] = {}
        self._caller_at: dict[int, CallerLeg] = {}
        """By Asterisk's port for its audio: sipp's phones share theirs."""
        self._agent_at: dict[int, AgentLeg] = {}
        self._pressing: dict[int, bytes] = {}

    def watch(self, packets: Iterable[Packet]) -> Seen:
        pbx, callers, agents = self._places.pbx, self._places.callers, self._places.agents
        for packet in packets:
            ends = packet.source[0], packet.target[0]
            if SIP_PORT in (packet.source[1], packet.target[1]):
                if pbx in ends and (callers in ends or agents in ends):
                    self._sip(packet)
            elif ends == (callers, pbx):
                self._key(packet)
            elif ends == (pbx, callers):
                self._caller_hears(packet)
            elif ends == (pbx, agents):
                self._agent_hears(packet)
        return self._seen

    def _sip(self, packet: Packet) -> None:
        if len(packet.payload) < RTP_HEADER:  # a keep-alive
            return
        message = Message.read(packet.payload)
        call_id = message.one("call-id")
        caller, agent = self._callers.get(call_id), self._agents.get(call_id)
        leg = caller or agent
        if leg is None:
            if message.method == "INVITE" and not message.code:
                self._invited(packet, message, call_id)
        elif message.method == "INVITE" and 200 <= message.code < 300 and leg.answered_at is None:
            leg.answered_at = packet.at
            if caller is not None:
                port = _audio_port(message)
                self._caller_at[port] = caller
                self._pressing.pop(port, None)  # an earlier call's: sipp gives every call's key the same time
        elif message.method == "BYE" and not message.code and leg.ended_at is None:
            leg.ended_at = packet.at

    def _invited(self, packet: Packet, message: Message, call_id: str) -> None:
        number = _user(message.one("from"))
        if packet.source[0] == self._places.callers:
            self._callers[call_id] = self._seen.callers[number] = CallerLeg(number, packet.at)
        elif packet.target[0] == self._places.agents:
            agent = self._agents[call_id] = AgentLeg(_user(message.first), number, packet.at)
            self._agent_at[_audio_port(message)] = agent
            self._seen.agents.append(agent)
            if number in self._seen.callers:
                self._seen.callers[number].offers.append(agent)

    def _key(self, packet: Packet) -> None:
        payload, port = packet.payload, packet.target[1]
        if len(payload) < RTP_HEADER + 4 or payload[1] & 0x7F != KEYS_AT or not payload[13] & 0x80:
            return
        leg, begun = self._caller_at.get(port), payload[4:8]
        if leg is not None and self._pressing.get(port) != begun:  # the end is sent three times
            self._pressing[port] = begun
            leg.keyed_at = packet.at

    def _caller_hears(self, packet: Packet) -> None:
        leg = self._caller_at.get(packet.source[1])
        if leg is not None and leg.hears_agent_at is None and leg.agent is not None and _is(packet, AGENT_PERIOD):
            leg.hears_agent_at = packet.at

    def _agent_hears(self, packet: Packet) -> None:
        leg = self._agent_at.get(packet.source[1])
        if leg is not None and leg.hears_caller_at is None and _is(packet, CALLER_PERIOD):
            leg.hears_caller_at = packet.at


def _is(packet: Packet, period: int) -> bool:
    audio = packet.payload[RTP_HEADER:]
    return len(audio) >= 4 * period and repeats(audio, period)


def _user(text: str) -> str:
    """Of the first SIP URI in `text`."""
    found = re.search(r"sips?:([^@>;\s]+)@", text)
    return found[1] if found else ""


def _audio_port(message: Message) -> int:
    found = re.search(r"^m=audio (\d+)", message.body, re.M)
    return int(found[1]) if found else 0
