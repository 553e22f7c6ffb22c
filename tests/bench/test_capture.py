"""Latencies and failures, read from packets that were planted with known gaps."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.bench.capture import Packet, Places, read, watch
from tests.bench.phones import key_events, write_pcap
from tests.bench.tap import KEYS_AT
from tests.faults.lightphone import AGENT_TONE, ALAW, CALLER_TONE

PLACES = Places("127.0.40.11", "127.0.40.21", "127.0.40.31")
PBX, CALLERS, AGENTS = (PLACES.pbx, 5060), (PLACES.callers, 5060), (PLACES.agents, 5060)
MUSIC = bytes(n * 7 % 251 for n in range(160))


def sip(
    at: float, source: tuple[str, int], target: tuple[str, int], first: str, call: str, number: str, port: int = 0
) -> Packet:
    method = "INVITE" if first.startswith(("INVITE", "SIP/2.0 1", "SIP/2.0 200 INVITE")) else first.split()[0]
    method = "BYE" if first == "SIP/2.0 200 BYE" else method
    body = f"v=0\r\nm=audio {port} RTP/AVP 8\r\n" if port else ""
    head = (
        first,
        f"From: <sip:{number}@x>;tag=1",
        "To: <sip:12368@x>",
        f"Call-ID: {call}",
        f"CSeq: 1 {method}",
        "",
        body,
    )
    return Packet(at, source, target, "\r\n".join(head).encode())


def audio(at: float, source: tuple[str, int], target: tuple[str, int], sound: bytes, kind: int = ALAW) -> Packet:
    return Packet(at, source, target, struct.pack("!BBHII", 0x80, kind, 0, 0, 1) + sound)


def key(at: float, port: int, *, ends: bool, begun: int = 800) -> Packet:
    event = struct.pack("!BBHII", 0x80, KEYS_AT, 0, begun, 1) + struct.pack("!BBH", 0, 0x80 * ends | 10, 160)
    return Packet(at, (PLACES.callers, 6000), (PLACES.pbx, port), event)


def served(
    number: str, at: float, agent: str = "701", *, offer_after: float = 0.003, talks_s: float = 2.0
) -> list[Packet]:
    """A whole call: answered after 2 ms, keyed to 800 ms, picked up 1 ms after the offer, both heard 330 ms later."""
    call, leg, ports = f"c{number}", f"a{number}", (int(number[-4:]) * 2 + 6000, int(number[-4:]) * 2 + 30000)
    offered = at + 0.8 + offer_after
    picked_up = offered + 0.001
    (caller, to_caller), (picked, to_agent) = (
        ((PLACES.pbx, port), (phone, 6000)) for port, phone in zip(ports, (PLACES.callers, PLACES.agents), strict=True)
    )
    return [
        sip(at, CALLERS, PBX, "INVITE sip:12368@x SIP/2.0", call, number, 6000),
        sip(at + 0.001, PBX, CALLERS, "SIP/2.0 100 Trying", call, number),
        sip(at + 0.002, PBX, CALLERS, "SIP/2.0 200 INVITE", call, number, ports[0]),
        key(at + 0.7, ports[0], ends=False),
        key(at + 0.8, ports[0], ends=True),
        key(at + 0.82, ports[0], ends=True),
        sip(offered, PBX, AGENTS, f"INVITE sip:{agent}@x SIP/2.0", leg, number, ports[1]),
        sip(offered + 0.0005, AGENTS, PBX, "SIP/2.0 180 INVITE", leg, number),
        sip(picked_up, AGENTS, PBX, "SIP/2.0 200 INVITE", leg, number, 6000),
        audio(picked_up + 0.1, picked, to_agent, MUSIC),
        audio(picked_up + 0.32, picked, to_agent, CALLER_TONE),
        audio(picked_up + 0.32, caller, to_caller, MUSIC),
        audio(picked_up + 0.33, caller, to_caller, AGENT_TONE),
        sip(picked_up + talks_s, AGENTS, PBX, "BYE sip:x SIP/2.0", leg, number),
        sip(picked_up + talks_s + 0.4, PBX, CALLERS, "BYE sip:x SIP/2.0", call, number),
    ]


def test_a_key_counts_though_an_earlier_call_at_the_same_port_of_asterisks_had_the_same_one() -> None:
    first, second = "15490000001", "15490010001"  # by their last four digits they share a port
    seen = watch([*served(first, 100.0), *served(second, 200.0)], PLACES)
    assert seen.failed([first, second]) == {}
    assert seen.callers[second].keyed_at == pytest.approx(200.8)


def test_each_latency_of_a_call_that_was_served() -> None:
    seen = watch(served("15490000001", 100.0), PLACES)
    assert seen.answer_s() == [pytest.approx(0.002)]
    assert seen.offer_s() == [pytest.approx(0.003)]
    assert seen.join_s(whisper_s=0.3) == [pytest.approx(0.03)]
    assert seen.failed(["15490000001"]) == {}


def test_the_end_of_a_key_counts_not_its_repetition() -> None:
    call = served("15490000001", 100.0)
    again = [key(100.9, 6002, ends=False, begun=9600), key(101.0, 6002, ends=True, begun=9600)]
    assert watch(call, PLACES).callers["15490000001"].keyed_at == pytest.approx(100.8)
    later = watch(sorted([*call, *again]), PLACES)
    assert later.callers["15490000001"].keyed_at == pytest.approx(101.0)


def test_the_next_call_of_an_agent_counts_only_where_somebody_waited() -> None:
    # 701 is free at 102.804. The second caller has keyed by then and is offered 4 ms later; the third comes much later.
    first = served("15490000001", 100.0)
    waited = served("15490000002", 101.0, offer_after=1.008)
    nobody = served("15490000003", 110.0)
    seen = watch(sorted(first + waited + nobody), PLACES)
    assert seen.next_s() == [pytest.approx(0.004, abs=1e-6)]


def test_another_agents_call_is_not_the_next_one() -> None:
    seen = watch(sorted(served("15490000001", 100.0) + served("15490000002", 101.0, "702", offer_after=1.008)), PLACES)
    assert seen.next_s() == []


@pytest.mark.parametrize(
    ("left_out", "why"),
    [
        (b"INVITE sip:12368", "no INVITE"),
        (
            b"SIP/2.0 200 INVITE\r\nFrom: <sip:15490000001@x>;tag=1\r\nTo: <sip:12368@x>\r\nCall-ID: c1549",
            "not answered",
        ),
        (b"INVITE sip:701", "not joined to an agent"),
        (b"BYE", "not hung up"),
    ],
)
def test_what_went_wrong_with_a_call(left_out: bytes, why: str) -> None:
    packets = [one for one in served("15490000001", 100.0) if left_out not in one.payload]
    assert watch(packets, PLACES).failed(["15490000001"]) == {"15490000001": why}


def test_a_caller_without_a_key_and_an_agent_who_did_not_pick_up() -> None:
    call = served("15490000001", 100.0)
    without_key = [one for one in call if one.source[1] == 5060 or one.target[1] == 5060]
    assert watch(without_key, PLACES).failed(["15490000001"]) == {"15490000001": "no key"}
    unanswered = [one for one in call if not (one.source == AGENTS and b"200" in one.payload[:12])]
    assert watch(unanswered, PLACES).failed(["15490000001"]) == {"15490000001": "not joined to an agent"}


def test_another_flow_on_the_same_loopback_is_not_seen() -> None:
    other = Places("127.0.40.12", "127.0.40.22", "127.0.40.32")
    seen = watch(served("15490000001", 100.0), other)
    assert seen.callers == {}
    assert seen.agents == []


def test_a_key_is_read_back_from_its_pcap(tmp_path: Path) -> None:
    write_pcap(tmp_path / "key.pcap", key_events("5"))
    keys = list(read(tmp_path / "key.pcap"))
    assert [one.at for one in keys] == [pytest.approx(0.02 * n) for n in range(7)]
    assert {one.payload[1] & 0x7F for one in keys} == {KEYS_AT}
    assert [one.payload[1] >> 7 for one in keys] == [1, 0, 0, 0, 0, 0, 0]
    assert {one.payload[12] for one in keys} == {5}
    assert [bool(one.payload[13] & 0x80) for one in keys] == [False] * 4 + [True] * 3
    assert [struct.unpack("!H", one.payload[14:16])[0] for one in keys] == [160, 320, 480, 640, 800, 800, 800]
    assert len({one.payload[4:8] for one in keys}) == 1
    assert [struct.unpack("!H", one.payload[2:4])[0] for one in keys] == [1, 2, 3, 4, 5, 6, 7]
