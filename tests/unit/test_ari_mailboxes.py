"""Whose event is it: names, inboxes, overflow."""

from __future__ import annotations

import asyncio
import json
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.ari import Mailboxes, owner_of, read_event
from ari_app.ari.errors import MailboxClosed, MailboxOverflow
from ari_app.ari.events import (
    EVENTS,
    Bridge,
    Channel,
    ChannelDtmfReceived,
    ChannelEnteredBridge,
    Dial,
    LiveRecording,
    Playback,
    PlaybackFinished,
    RecordingFinished,
)
from ari_app.ari.model import UnknownEvent, instant


def digit(channel: str, key: str = "1") -> ChannelDtmfReceived:
    return ChannelDtmfReceived(channel=Channel(id=channel), digit=key)


@given(st.from_regex(r"[a-z]{1,8}-[0-9]{10}\.[0-9]{1,6}", fullmatch=True), st.text(max_size=12))
def test_whatever_a_call_creates_belongs_to_it(call: str, what: str) -> None:
    assert owner_of(call) == call
    assert owner_of(f"{call}~{what}") == call
    assert owner_of(f"{call}~{what};2") == call


@pytest.mark.parametrize(
    ("event", "concerned"),
    [
        (digit("a"), {"a"}),
        (PlaybackFinished(playback=Playback(id="a~play-1", target_uri="channel:a")), {"a"}),
        (PlaybackFinished(playback=Playback(id="5f3c", target_uri="bridge:a~bridge")), {"a"}),
        (RecordingFinished(recording=LiveRecording(name="free", target_uri="channel:b")), {"b"}),
        (Dial(peer=Channel(id="a~offer-2"), caller=Channel(id="b")), {"a", "b"}),
        (ChannelEnteredBridge(bridge=Bridge(id="b~bridge"), channel=Channel(id="a~offer-1")), {"a", "b"}),
        (UnknownEvent("ChannelSang", {"type": "ChannelSang", "channel": {"id": "a~offer-1"}}), {"a"}),
        (UnknownEvent("PlaybackSlowed", {"playback": {"id": "x", "target_uri": "channel:b"}}), {"b"}),
        (digit("nobody"), set()),
    ],
)
def test_an_event_goes_to_every_call_it_concerns_once(event: ChannelDtmfReceived, concerned: set[str]) -> None:
    mailboxes = Mailboxes()
    boxes = {owner: mailboxes.open(owner) for owner in ("a", "b", "c")}
    assert mailboxes.deliver(event) == len(concerned)
    assert {owner for owner, box in boxes.items() if len(box) == 1} == concerned


async def test_events_are_read_in_order_ours_among_them() -> None:
    mailboxes = Mailboxes()
    with mailboxes.open("a") as box:
        mailboxes.deliver(digit("a", "1"))
        box.put("the caller was identified")
        mailboxes.deliver(digit("a~offer-1", "2"))
        assert [(await box.get()).digit, await box.get(), (await box.get()).digit] == [
            "1",
            "the caller was identified",
            "2",
        ]


async def test_a_reader_is_woken_by_the_next_event() -> None:
    box = Mailboxes().open("a")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(box.get())
        await asyncio.sleep(1)
        box.put("ring")
    assert reading.result() == "ring"


async def test_an_overflow_is_heard_at_once_and_for_ever() -> None:
    mailboxes = Mailboxes(capacity=3)
    box = mailboxes.open("a")
    for _ in range(9):
        mailboxes.deliver(digit("a"))
    assert box.overflowed
    assert mailboxes.overflows == 1
    for _ in range(2):
        with pytest.raises(MailboxOverflow):
            await box.get()


async def test_a_closed_mailbox_gives_what_it_has_and_receives_no_more() -> None:
    mailboxes = Mailboxes()
    box = mailboxes.open("a")
    mailboxes.deliver(digit("a"))
    box.close()
    box.close()
    assert mailboxes.deliver(digit("a")) == 0
    assert (await box.get()).digit == "1"
    with pytest.raises(MailboxClosed):
        await box.get()
    assert mailboxes.find("a") is None
    assert not len(mailboxes)
    mailboxes.open("a")


async def test_closing_wakes_the_reader() -> None:
    box = Mailboxes().open("a")
    reading = asyncio.create_task(box.get())
    await asyncio.sleep(1)
    box.close()
    with pytest.raises(MailboxClosed):
        await reading


def test_one_call_may_answer_to_two_names_until_it_closes() -> None:
    mailboxes = Mailboxes()
    box = mailboxes.open("a")
    mailboxes.alias("successor", box)
    mailboxes.deliver(digit("successor"))
    assert len(box) == 1
    assert list(mailboxes) == [box]
    with pytest.raises(ValueError, match="open mailbox already"):
        mailboxes.alias("successor", mailboxes.open("b"))
    box.close()
    assert mailboxes.find("successor") is None


@pytest.mark.parametrize("owner", ["a~offer-1", "a;2"])
def test_a_part_of_a_call_has_no_inbox_of_its_own(owner: str) -> None:
    with pytest.raises(ValueError, match="neither ~ nor ;"):
        Mailboxes().open(owner)


def test_an_owner_has_one_inbox() -> None:
    mailboxes = Mailboxes()
    mailboxes.open("a")
    with pytest.raises(ValueError, match="open mailbox already"):
        mailboxes.open("a")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_known_event_is_read_as_itself_or_passed_on(event: type) -> None:
    """With everything it may carry, and with nothing: the latter is unknown where a resource is a must."""
    full = {**_example(event), "type": event.__name__, "new": {"id": "a"}}
    read = read_event(json.dumps(full).encode())
    assert type(read) is event
    assert isinstance(read.keys(), tuple)
    bare = read_event(json.dumps({"type": event.__name__}).encode())
    assert bare.type == event.__name__
    assert bare.keys() == ()


def _example(hint: Any) -> Any:
    """Some JSON of this type, every field filled in."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {field.encode_name: _example(field.type) for field in msgspec.structs.fields(hint)}
    plain: dict[Any, Any] = {str: "x", int: 16, bool: True, float: 0.5}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) is dict:
        return {"x": "y"}
    first = _example(get_args(hint)[0])
    return [first] if get_origin(hint) is tuple else first


def test_dates_are_read_as_asterisk_writes_them() -> None:
    assert instant("2025-11-21T22:25:00.123+0000").isoformat() == "2025-11-21T22:25:00.123000+00:00"
