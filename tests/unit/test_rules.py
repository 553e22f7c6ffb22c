"""The desk's rules: what is wrong in the file is refused, and the error names the line and what to write."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from ari_app.errors import SettingsInvalid
from ari_app.rules import RuleBook, Rules, file_of, load, open_book, parse, time_of_day
from ari_app.settings import PROJECT
from ari_app.written import line_of

EXAMPLE = PROJECT / "desk.example.toml"


def test_the_example_says_every_rule_with_its_default():
    said = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert said == msgspec.json.decode(msgspec.json.encode(Rules()))
    assert load(EXAMPLE) == Rules()


def test_what_the_file_does_not_say_is_the_default():
    rules = parse('[lines.lawyer]\nname = "律所"\n[routing]\nlast_agent_s = 5')
    assert (rules.lines.lawyer.name, rules.routing.last_agent_s) == ("律所", 5.0)
    assert rules.lines.lawyer.steps == Rules().lines.lawyer.steps
    assert rules.lines.party == Rules().lines.party


STEP = "[[lines.party.steps]]\nafter_s = 0\n"
TARGET = "[[assessment.targets]]\ndimension = '一次解决'\nmeasure = 'first_call_resolution'\n"
WRONG = [
    ("[routing]\n\nlast_agent_s = 'soon'\n", 3, "15.0"),
    ("[routing]\nlast_agent_s = -1\n", 2, "0 to 120"),
    ("[routing]\nlast_agent_s = nan\n", 2, "0 to 120"),
    ("# a comment\n[routing]\nlast_agents_s = 3\n", 3, "last_agent_s"),
    ("routing = 3\n", 1, "last_agent_s"),
    ("[routing]\nusual_level = 6\n", 2, "1 to 5"),
    ("[routing]\nusual_lines = [\n  'party',\n  'judge',\n]\n", 2, "second_line"),
    ("[routing]\npressing_priority = 10\n", 2, "0 to 9"),
    ("[routing.language_by_number]\n12369 = 'french'\n", 2, "english"),
    ("\n[rooting]\nx = 1\n", 2, "routing"),
    ("\n\nlines.party.nam = '当事人'\n", 3, "name"),
    ("[routing]\nusual_level = 3\nusual_level = 3\n", 3, "not valid TOML"),
    ("[routing]\nusual_level = [1,\n", 2, "not valid TOML"),
    ("[lines.party]\nsteps = []\n", 2, "after_s = 0"),
    ("[[lines.party.steps]]\nafter_s = 5\n", 2, "after_s = 0"),
    (f"{STEP}[[lines.party.steps]]\nafter_s = 0\n", 4, "more than 0"),
    (f"{STEP}level = 2\n[[lines.party.steps]]\nafter_s = 9\nlevel = 4\n", 6, "never asks for more"),
    (f"{STEP}need = false\n[[lines.party.steps]]\nafter_s = 9\n", 4, "never asks for more"),
    (f"{STEP}lines = ['lawyer']\n[[lines.party.steps]]\nafter_s = 9\n", 4, "never asks for more"),
    (f"{STEP}[[lines.party.steps]]\nafter_s = 9\nlines = ['judge']\n", 5, "judge"),
    (f"{STEP}level = 0\n", 3, "1 to 5"),
    (f"{STEP}[[lines.party.steps]]\nlevel = 1\n", 3, "after_s"),
    ("[lines.lawyer]\nsteps = [\n  { after_s = 0 },\n  # later\n  { after_s = 20, levl = 1 },\n]\n", 5, "level"),
    ("[waiting]\nfull_at = -1\n", 2, "0 or more"),
    ("[waiting]\nlongest_wait_s = 0\n", 2, "more than 0"),
    ("[callbacks]\nattempts = 3\nallowed = ['8:00', '21:00']\n", 3, "times of day"),
    ("[callbacks]\nmorning = ['12:00', '09:00']\n", 2, "the earlier first"),
    ("[callbacks]\nallowed = ['13:00', '20:00']\n", 1, "within callbacks.allowed"),
    ("[[pauses]]\ncode = '1'\nname = '小休'\n\n[[pauses]]\ncode = '1'\nname = '用餐'\n", 6, "already"),
    ("[[pauses]]\nname = '小休'\ncode = 'a'\n", 3, "three digits"),
    ("[[pauses]]\nname = '小休'\ncode = '1'\ndaily_minutes = -1\n", 4, "0 (no limit) to 1440"),
    ("[wrap_up]\nby_line = { judge = 20.0 }\n", 2, "no line 'judge'"),
    ("[wrap_up.by_line]\nlawyer = 301\n", 2, "0 to 300"),
    ("[wrap_up]\nextension_s = 0\n", 2, "more than 0"),
    ("[wrap_up]\nlongest_s = 3601\n", 2, "at most 3600"),
    ("[sign_in]\nwrong_pins = 0\n", 2, "1 to 10"),
    ("[sign_in]\nlocked_s = 86401\n", 2, "86400"),
    ("[watchdog]\nreserved_s = 15\n", 2, "more than 15"),
    ("[assessment]\ntargets = [\n  { dimension = '接听', measure = 'smiles' },\n]\n", 3, "calls_a_day"),
    ("[[assessment.targets]]\nmeasure = 'rona_rate'\n", 1, "dimension"),
    ("[[assessment.targets]]\ndimension = '接听'\nmeasure = 'rona_rate'\nat_most = -1\n", 4, "0 (none) or more"),
    (f"{TARGET}at_least = 0.8\nat_most = 0.9\n", 5, "either"),
    (f"{TARGET}points_each = 0.5\n", 4, "at_least or at_most"),
    (f"{TARGET}at_least = 0.8\nyuan_a_step = 10\n", 5, "write step"),
    (f"{TARGET.replace('first_call_resolution', 'handle_time')}at_most = 180\nyuan_each = 5\n", 5, "count cases"),
    ("[assessment]\nbest_score_at_least = 6\n", 2, "1 to 5"),
    ("[assessment]\nbest_ratings_at_least = 0\n", 2, "1 or more"),
    ("[callbacks]\nattempts = 0\n", 2, "1 to 10"),
    ("[hours.weekly]\nmonday = ['8:30-17:30']\n", 2, "08:30-17:30"),
    ("[hours.weekly]\n\nmondays = ['08:30-17:30']\n", 3, "monday"),
    ("[hours.weekly]\nmonday = ['24:00-08:00']\n", 2, "00:00 to 24:00"),
    ("[hours.weekly]\nmonday = ['08:00-24:01']\n", 2, "00:00 to 24:00"),
    ("[hours.weekly]\nmonday = ['08:00-08:00']\n", 2, "other than the beginning"),
    ("[hours.weekly]\nmonday = ['08:00-12:00', '11:59-17:00']\n", 2, "overlap"),
    ("[hours.weekly]\nmonday = ['22:00-06:00', '23:00-24:00']\n", 2, "overlap"),
    ("[hours]\nholiday = ['08:00-12:00']\n", 1, "write the weekly hours too"),
    ("[hours.lines.judge]\nweekly = { monday = ['08:00-12:00'] }\n", 1, "judge"),
    ("[hours.lines.lawyer]\nweekly = { monday = ['noon'] }\n", 2, "08:30-17:30"),
    ("[hours]\nclosed_on = ['2026-2-30']\n", 2, "2026-02-14"),
    ("[hours]\nmessage_longest_s = 3\n", 2, "5 to 600"),
    ("[hours]\nmessage_silence_s = 0\n", 2, "1 to 30"),
    ("[hours]\nanswer_within_h = 0\n", 2, "more than 0"),
    ("[callbacks]\nretry_after_s = [30]\n", 2, "60 or more"),
    ("[callbacks]\nexpires_after_s = 60\n", 2, "3600 or more"),
    ("[callbacks]\nring_s = 5\n", 2, "10 to 120"),
    ("[routing]\nusual_lines = [“party”]\n", 2, "write ASCII quotes and commas"),
    ("[routing]\nusual_lines = ['party'， 'lawyer']\n", 2, "There is ，: write ASCII"),
    ("[hours.weekly]\nmonday = ['08：30-17：30']\n", 2, "There is ：: write ASCII"),
    ("[pauses]\ncode = '1'\nname = '小休'\n", 1, "Write [[pauses]], with two brackets"),
    ("[lines.party.steps]\nafter_s = 0\n", 1, "Write [[lines.party.steps]], with two brackets"),
    ("[hours.weekly]\nmonday = ['08:30-17:30']\n\ntuesday = '08:30-17:30'\n", 4, 'Write tuesday = ["08:30-17:30"].'),
    ("[hours.lines.lawyer.weekly]\n\nsunday = '08:30-17:30'\n", 3, 'Write sunday = ["08:30-17:30"].'),
    ("[hours.lines.lawyer]\n\nweakly = {}\n", 3, "weakly"),
    ("[callbacks]\nallowed = ['24:00', '09:00']\n", 2, "the earlier first"),
    ("[callbacks]\nallowed = ['08:00', '24:01']\n", 2, "two times of day"),
    ("[hours]\n\ncalendar = 'none.toml'\n", 3, "hours.calendar: cannot be read (No such file or directory): write"),
    ("[hours]\ncalendar = 'ari_app'\n", 2, "Is a directory"),
    ("[hours]\ncalendar = 'pyproject.toml'\n", 2, "Write it as in ari_app/calendar.toml"),
    ("[lines.lawyer]\nsteps = [{ after_s = 0 },\n  { after_s = 20, level = 9 }]\n", 3, "1 to 5"),
]


@pytest.mark.parametrize(("text", "line", "what"), WRONG)
def test_a_mistake_is_told_with_its_line_and_what_to_write(text, line, what):
    with pytest.raises(SettingsInvalid) as told:
        parse(text)
    assert f"desk.toml, line {line}: " in str(told.value)
    assert what in str(told.value)


def test_a_setting_is_found_in_its_own_table():
    text = "[a]\nx = 1\n[b]\nx = 2\n[[b.c]]\nx = 3\n[[b.c]]\nx = 4\n[b.c.d]\nx = 5\n"
    assert [line_of(text, path) for path in ("a.x", "b.x", "b.c[0].x", "b.c[1].x", "b.c[1].d.x")] == [2, 4, 6, 8, 10]
    assert [line_of(text, path) for path in ("b.c[1].y", "b.y", "z")] == [7, 3, 1]


def test_a_bad_file_leaves_the_rules_in_force(tmp_path):
    file = tmp_path / "desk.toml"
    file.write_text("[routing]\nlast_agent_s = 7\n", encoding="utf-8")
    book = RuleBook(load(file), file)
    file.write_text("[routing]\nlast_agent_s = 700\n", encoding="utf-8")
    with pytest.raises(SettingsInvalid, match="line 2"):
        book.reload()
    assert book.now.routing.last_agent_s == 7.0
    file.write_text("[routing]\nlast_agent_s = 8\n", encoding="utf-8")
    book.reload()
    assert book.now.routing.last_agent_s == 8.0
    file.write_bytes("名".encode("gbk"))
    with pytest.raises(SettingsInvalid, match="UTF-8"):
        book.reload()
    file.unlink()
    with pytest.raises(SettingsInvalid, match="no file of rules"):
        book.reload()
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load(tmp_path)


def test_a_book_without_a_file_stays_as_it_is():
    book = RuleBook()
    book.reload()
    assert book.now == Rules()


def test_the_environment_names_the_file():
    assert file_of({"SANLING_DESK": "/etc/sanling/desk.toml"}) == Path("/etc/sanling/desk.toml")
    assert file_of({}) == PROJECT / "desk.toml"


def test_a_controller_that_finds_a_mistake_goes_on_with_the_rules_of_before(tmp_path, monkeypatch):
    file, kept = tmp_path / "desk.toml", tmp_path / "in-force.toml"
    monkeypatch.setenv("SANLING_DESK", str(file))
    file.write_text("[routing]\nlast_agent_s = 200\n", encoding="utf-8")
    with pytest.raises(SettingsInvalid, match="line 2"):
        open_book(kept)
    file.write_text("[routing]\nlast_agent_s = 7\n", encoding="utf-8")
    assert open_book(kept).now.routing.last_agent_s == 7.0
    file.write_text("[routing]\nlast_agent_s = 200\n", encoding="utf-8")
    assert open_book(kept).now.routing.last_agent_s == 7.0
    file.write_text("[routing]\nlast_agent_s = 8\n", encoding="utf-8")
    assert open_book(kept).now.routing.last_agent_s == 8.0
    assert open_book(tmp_path / "no-folder" / "kept.toml").now.routing.last_agent_s == 8.0, "though it cannot be kept"


CALENDAR = "[2027]\nnotice = 'own'\nholidays = [2027-01-01]\n"


def test_a_calendar_is_looked_for_beside_the_file_and_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    file, own = tmp_path / "desk.toml", tmp_path / "own.toml"
    file.write_text("[hours]\ncalendar = 'own.toml'\n", encoding="utf-8")
    own.write_text(CALENDAR, encoding="utf-8")
    book = RuleBook(load(file), file)
    own.unlink()
    assert book.now.hours.days.years == {2027}, "nothing is read any more"
    with pytest.raises(SettingsInvalid, match=r"desk.toml, line 2: hours.calendar: cannot be read"):
        book.reload()
    own.write_text(CALENDAR.replace("2027", "2028"), encoding="utf-8")
    assert book.now.hours.days.years == {2027}
    book.reload()
    assert book.now.hours.days.years == {2028}


def test_the_calendar_in_force_is_kept_with_the_rules(tmp_path, monkeypatch):
    (folder := tmp_path / "run").mkdir()
    file, own, kept = tmp_path / "desk.toml", tmp_path / "own.toml", folder / "desk.in-force.toml"
    monkeypatch.setenv("SANLING_DESK", str(file))
    file.write_text("[hours]\ncalendar = 'own.toml'\n", encoding="utf-8")
    own.write_text(CALENDAR, encoding="utf-8")
    assert open_book(kept).now.hours.days.years == {2027}
    own.write_text("[2027\n", encoding="utf-8")
    assert open_book(kept).now.hours.days.years == {2027}


def test_people_may_be_called_until_midnight():
    assert parse("[callbacks]\nallowed = ['00:00', '24:00']\n").callbacks.allowed == ("00:00", "24:00")
    assert time_of_day("24:00") > time_of_day("23:59")
