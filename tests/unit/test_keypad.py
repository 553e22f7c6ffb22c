from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app.flow.keypad import LONGEST_KEPT, AgentKeys, Entry, Keyed, Keypad, TransferTo
from ari_app.flow.sop import ENTRIES, State

CASE, MOBILE, NAME = ENTRIES[State.PARTY_CASE], ENTRIES[State.PARTY_MOBILE], ENTRIES[State.PARTY_NAME]
KEYS = st.text("0123456789*#", max_size=60)


def keyed(pad: Keypad, keys: str) -> Keyed | None:
    """What the last of `keys` completes."""
    what = None
    for key in keys:
        what = pad.press(key)
    return what


@pytest.mark.parametrize(
    ("entry", "keys", "what"),
    [
        (CASE, "12345#", Keyed.ENTERED),
        (CASE, "02345#", Keyed.ENTERED),
        (CASE, "1234#", Keyed.INVALID),
        (CASE, "123456#", Keyed.INVALID),
        (CASE, "#", Keyed.NOTHING),
        (CASE, "0#", Keyed.PERSON),
        (CASE, "0", None),
        (CASE, "99*12345#", Keyed.ENTERED),
        (CASE, "12*", Keyed.CLEARED),
        (CASE, "12*#", Keyed.NOTHING),
        (MOBILE, "15400001001#", Keyed.ENTERED),
        (MOBILE, "25400001001#", Keyed.INVALID),
        (MOBILE, "0", Keyed.PERSON),
        (NAME, "99#", Keyed.ENTERED),
        (NAME, "9#", Keyed.INVALID),
        (NAME, "91#", Keyed.INVALID),
        (NAME, "0", Keyed.PERSON),
        (NAME, "90#", Keyed.INVALID),
    ],
)
def test_entries(entry: Entry, keys: str, what: Keyed | None):
    pad = Keypad(entry=entry)
    assert keyed(pad, keys) is what
    if what is Keyed.ENTERED:
        assert pad.keys == keys.rpartition("*")[2].rstrip("#")


@pytest.mark.parametrize(("keys", "what"), [("", Keyed.NOTHING), ("0", Keyed.PERSON), ("12345", Keyed.ENTERED)])
def test_silence_ends_an_entry_like_a_hash(keys: str, what: Keyed):
    pad = Keypad(entry=CASE)
    keyed(pad, keys)
    assert pad.lone_zero == (keys == "0")
    assert pad.quiet() is what


def test_a_star_after_a_zero_is_no_person():
    pad = Keypad(entry=CASE)
    assert keyed(pad, "0*") is Keyed.CLEARED
    assert not pad.lone_zero
    assert pad.quiet() is Keyed.NOTHING


@pytest.mark.parametrize(
    ("key", "what"),
    [("1", Keyed.CHOICE), ("2", Keyed.CHOICE), ("3", Keyed.INVALID), ("0", Keyed.PERSON), ("*", Keyed.CLEARED)],
)
def test_menus(key: str, what: Keyed):
    pad = Keypad(frozenset("12"))
    assert pad.press(key) is what
    assert pad.keys == key


def test_the_hash_that_ended_the_entry_before_is_no_answer_to_a_menu():
    assert Keypad(frozenset("12")).press("#") is None


def test_a_menu_in_silence_has_no_answer():
    assert Keypad(frozenset("12")).quiet() is Keyed.NOTHING


@given(KEYS)
def test_what_is_entered_always_has_the_asked_form(keys: str):
    for entry in ENTRIES.values():
        pad = Keypad(entry=entry)
        for key in keys:
            if pad.press(key) is Keyed.ENTERED:
                assert entry.shortest <= len(pad.keys) <= entry.longest
                assert set(pad.keys) <= set(entry.keys)
                break
            assert len(pad.keys) <= LONGEST_KEPT


def test_a_flood_of_keys_is_an_invalid_entry_and_not_kept():
    pad = Keypad(entry=CASE)
    keyed(pad, "1" * 5000)
    assert len(pad.keys) == LONGEST_KEPT
    assert pad.press("#") is Keyed.INVALID


@pytest.mark.parametrize(
    ("keys", "found"),
    [("*5", ["five"]), ("5", []), ("**5", ["five"]), ("*15", []), ("*5*6", ["five", "six"]), ("*55", ["five"])],
)
def test_agents_codes_in_talk(keys: str, found: list[str]):
    pad = AgentKeys({"5": "five", "6": "six"})
    assert [code for key in keys if (code := pad.press(key))] == found


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("*73#", [TransferTo("3")]), ("*7602#", [TransferTo("602")]), ("*7#", []), ("*76*5", ["five"]), ("73#", []),
        ("*7602#*5", [TransferTo("602"), "five"]), ("*7*73#", [TransferTo("3")]), ("*75#", [TransferTo("5")]),
    ],
)  # fmt: skip
def test_agents_transfers_in_talk(keys: str, found: list[object]):
    pad = AgentKeys({"5": "five"}, transfer="7")
    assert [code for key in keys if (code := pad.press(key))] == found


def test_a_flood_of_keys_in_a_transfer_is_not_kept():
    pad = AgentKeys({}, transfer="7")
    for key in "*7" + "1" * 5000:
        pad.press(key)
    assert pad.press("#") == TransferTo("1" * LONGEST_KEPT)


def test_without_a_key_for_it_an_agent_transfers_nothing():
    pad = AgentKeys({"5": "five"})
    assert [pad.press(key) for key in "*73#"] == [None] * 4
