"""Settings: a value that cannot work is refused at the start, and the message names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ari_app.errors import SettingsInvalid
from ari_app.instance import environment_of
from ari_app.settings import load

NOTHING = Path(os.devnull)


def test_no_file_and_no_environment_is_the_hotline_of_the_rules():
    settings = load(NOTHING, {})
    assert settings.answering.delay_s == 1.0
    assert settings.answering.deadline_s == 11.0
    assert settings.queue.offer_timeout_s <= 11.0
    assert settings.queue.announce_every_s == 30.0
    assert settings.ending.leave_within_s == 5.0
    assert settings.agi_deadline_s == 2.0
    assert settings.zone.key == "Asia/Shanghai"
    assert settings.database.startswith("sqlite:///")


@pytest.mark.parametrize(
    ("rings", "deadline_s", "delay_s"), [(0, 11.0, 0.0), (1, 11.0, 1.0), (2, 11.0, 6.0), (3, 11.0, 11.0), (3, 8.0, 8.0)]
)
def test_the_answer_comes_at_the_end_of_a_ring_and_never_past_the_deadline(rings, deadline_s, delay_s):
    answering = {"after_rings": rings, "deadline_s": deadline_s}
    assert load(NOTHING, {}, answering=answering).answering.delay_s == delay_s


BAD = [
    ("SANLING_INSTANCE", "../other", "instance"),
    ("SANLING_INSTANCE", "", "instance"),
    ("SANLING_INSTANCE", "热线", "instance"),
    ("SANLING_ADDRESS", "localhost", "address"),
    ("SANLING_ADDRESS", "127.0.0.300", "address"),
    ("SANLING_SIP_PORT", "0", "sip_port"),
    ("SANLING_ARI_PORT", "70000", "ari_port"),
    ("SANLING_AGI_PORT", "-1", "agi_port"),
    ("SANLING_METRICS_PORT", "http", "metrics_port"),
    ("SANLING_RTP_PORTS", "20999,20000", "rtp_ports"),
    ("SANLING_RTP_PORTS", "20000", "rtp_ports"),
    ("SANLING_RTP_PORTS", "80,90", "rtp_ports"),
    ("SANLING_HOTLINE_NUMBERS", "", "hotline_numbers"),
    ("SANLING_HOTLINE_NUMBERS", "12368,_X.", "hotline_numbers"),
    ("SANLING_CODECS", "opus", "codecs"),
    ("SANLING_TIME_ZONE", "Asia/Beijing", "time_zone"),
    ("SANLING_TIME_ZONE", "../etc", "time_zone"),
    ("SANLING_AGI_DEADLINE_S", "0", "agi_deadline_s"),
    ("SANLING_AGI_DEADLINE_S", "nan", "agi_deadline_s"),
    ("SANLING_ANSWERING__AFTER_RINGS", "-1", "answering.after_rings"),
    ("SANLING_ANSWERING__AFTER_RINGS", "4", "answering.after_rings"),
    ("SANLING_ANSWERING__AFTER_RINGS", "one", "answering.after_rings"),
    ("SANLING_ANSWERING__DEADLINE_S", "16", "answering.deadline_s"),
    ("SANLING_KEYPAD__FIRST_DIGIT_S", "-1", "keypad.first_digit_s"),
    ("SANLING_KEYPAD__BETWEEN_DIGITS_S", "0", "keypad.between_digits_s"),
    ("SANLING_QUEUE__ANNOUNCE_EVERY_S", "0", "queue.announce_every_s"),
    ("SANLING_QUEUE__OFFER_TIMEOUT_S", "60", "queue.offer_timeout_s"),
    ("SANLING_QUEUE__WRAP_UP_S", "-5", "queue.wrap_up_s"),
    ("SANLING_QUEUE__EXPECTED_HANDLE_S", "0", "queue.expected_handle_s"),
    ("SANLING_ENDING__LEAVE_WITHIN_S", "0", "ending.leave_within_s"),
    ("SANLING_ENDING__CALL_CEILING_S", "60", "ending.call_ceiling_s"),
    ("SANLING_ENDING__CALL_CEILING_S", "inf", "ending.call_ceiling_s"),
    ("SANLING_TRUNK__ADDRESSES", "carrier.example", "trunk.addresses"),
    ("SANLING_TRUNK__OUTBOUND", "sip:10.0.0.1", "trunk.outbound"),
    ("SANLING_TRUNK__OUTBOUND", "10.0.0.1\n[evil]", "trunk.outbound"),
    ("SANLING_TRUNK__CALLER_ID", "12368>", "trunk.caller_id"),
    ("SANLING_RECORDINGS__S3__ENDPOINT", "http://127.0.0.1:7480", "recordings.s3.bucket"),
    ("SANLING_RECORDINGS__MINIMUM_FREE_MB", "much", "recordings.minimum_free_mb"),
    ("SANLING_LEDGER__JOURNAL_MB", "0", "ledger.journal_mb"),
    ("SANLING_RECORDINGS__LISTENING_COPIES", "perhaps", "recordings.listening_copies"),
    ("SANLING_QUEUE", "5", "queue"),
    ("SANLING_ADRESS", "127.0.0.1", "adress"),
    ("SANLING_QUEUE__WRAPUP_S", "5", "wrapup_s"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_a_bad_value_is_refused_by_name(name, value, said):
    with pytest.raises(SettingsInvalid) as refused:
        load(NOTHING, {name: value})
    assert said in str(refused.value)


def test_a_group_given_as_a_value_and_as_a_group_is_refused():
    with pytest.raises(SettingsInvalid, match="queue"):
        load(NOTHING, {"SANLING_QUEUE": "5", "SANLING_QUEUE__WRAP_UP_S": "5"})


def test_the_environment_wins_over_the_file_and_leaves_the_rest_of_its_group(tmp_path: Path):
    file = tmp_path / "hotline.toml"
    file.write_text('instance = "court"\n[queue]\nwrap_up_s = 30\nannounce_every_s = 45\n', encoding="utf-8")
    settings = load(file, {"SANLING_QUEUE__WRAP_UP_S": "10", "SANLING_CODECS": "ulaw", "OTHER": "1"})
    assert settings.instance == "court"
    assert (settings.queue.wrap_up_s, settings.queue.announce_every_s) == (10.0, 45.0)
    assert settings.codecs == ("ulaw",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("instance = ", "not valid TOML"),
        ("\ninstance = “court”\n", "line 2: not valid TOML: Invalid value. There is “ ”: write ASCII quotes"),
        ("[queue]\nwrapup_s = 20\n", "hotline.toml, line 2: queue.wrapup_s: Object contains unknown field"),
        ("[queue]\nwrapup_s = 20\n", "Known here: announce_every_s, "),
        ("[trunk]\n\naddresses = '10.0.0.1'\n", "line 3: trunk.addresses: Expected `array`"),
        ('[answering]\nafter_rings = "many"\n', "answering.after_rings"),
        ("nonsense = 1\n", "nonsense"),
        ("queue = 5\n", "queue"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(tmp_path: Path, text, said):
    file = tmp_path / "hotline.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsInvalid) as refused:
        load(file, {})
    assert "hotline.toml" in str(refused.value)
    assert said in str(refused.value)


def test_what_the_environment_says_wrongly_is_not_looked_for_in_the_file(tmp_path: Path):
    file = tmp_path / "hotline.toml"
    file.write_text("[queue]\nwrap_up_s = 20\n", encoding="utf-8")
    with pytest.raises(SettingsInvalid, match=r"toml or the environment: queue\.annonce: .*Known here: announce"):
        load(file, {"SANLING_QUEUE__ANNONCE": "3"})
    with pytest.raises(SettingsInvalid, match=r"toml or the environment: queue\.wrap_up_s: Expected"):
        load(file, {"SANLING_QUEUE__WRAP_UP_S": "soon"})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "hotline.toml"
    file.write_bytes('instance = "法院"'.encode("gb18030"))
    with pytest.raises(SettingsInvalid, match=r"hotline\.toml"):
        load(file, {})


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_file_that_is_named_must_be_there(tmp_path: Path, by_environment):
    missing = tmp_path / "typo.toml"
    with pytest.raises(SettingsInvalid, match=r"typo\.toml"):
        load(None if by_environment else missing, {"SANLING_CONFIG": str(missing)} if by_environment else {})


def test_a_folder_is_no_settings_file(tmp_path: Path):
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load(tmp_path, {})


def test_children_get_these_very_settings(tmp_path: Path):
    settings = load(
        NOTHING, {}, instance="child-1", codecs=("ulaw",), rtp_ports=(30000, 30100), var_dir=str(tmp_path),
        queue={"wrap_up_s": 7.5}, recordings={"listening_copies": True},
    )  # fmt: skip
    assert load(None, environment_of(settings)) == settings


def test_settings_cannot_be_changed_in_flight():
    with pytest.raises(AttributeError):
        load(NOTHING, {}).queue.wrap_up_s = 1.0


def test_what_names_the_rules_is_no_setting():
    named = {"SANLING_DESK": "desk.toml", "SANLING_INSTANCE": "named"}
    assert load(Path(os.devnull), named).instance == "named"
