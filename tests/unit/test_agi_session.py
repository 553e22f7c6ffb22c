"""The AGI conversation against a hostile or broken other side, over in-memory streams."""

from __future__ import annotations

import io
import shlex
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_scripts.session import (
    AGIAppError,
    AGIError,
    AGIHangup,
    AGIInvalidCommand,
    AGIResultHangup,
    AGIUnknownError,
    AGIUsageError,
    Session,
)

HEADERS = (
    b"agi_network: yes\nagi_network_script: case_context\nagi_uniqueid: demo-1763763200.3\n"
    b"agi_callerid: 15400001234\nagi_calleridname: unknown\nagi_arg_1: 15400001234\n\n"
)


def converse(replies: bytes = b"", headers: bytes = HEADERS) -> tuple[Session, io.BytesIO]:
    sent = io.BytesIO()
    return Session(io.BytesIO(headers + replies), sent), sent


def headers_with_name(name: bytes) -> bytes:
    return HEADERS.replace(b"agi_calleridname: unknown", b"agi_calleridname: " + name)


def words_as_asterisk_splits_them(line: str) -> list[str]:
    """res_agi.c's parse_args: blanks split, ``"`` quotes, ``\\`` escapes the next character."""
    words: list[str] = []
    current: list[str] | None = None
    quoted = escaped = False
    for c in line:
        if escaped:
            current = [*(current or []), c]
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == '"':
            quoted = not quoted
            current = current or []
        elif c in " \t" and not quoted:
            if current is not None:
                words.append("".join(current))
            current = None
        else:
            current = [*(current or []), c]
    return [*words, "".join(current)] if current is not None else words


def test_headers_and_arguments_are_read():
    session, _ = converse(headers=HEADERS[:-1] + b"agi_arg_2: \nagi_arg_3: 12345\n\n")
    assert session.script == "case_context"
    assert session.call_id == "demo-1763763200.3"
    assert session.arguments == ("15400001234", "", "12345")


def test_a_session_starts_in_any_thread_and_is_silent(capsys):
    sessions: list[Session] = []
    thread = threading.Thread(target=lambda: sessions.append(converse()[0]))
    thread.start()
    thread.join()
    sessions[0].env.clear()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    [b'"', b"\\", b'"; SET VARIABLE X "1"', b"\xff\xfe\x80", b"\0", b"x" * 65536, b"\xe5\xbc\xa0" * 30000, b"a: b: c"],
    ids=["quote", "backslash", "command", "not UTF-8", "NUL", "64 kB", "Chinese cut in a character", "colons"],
)
def test_a_hostile_name_changes_nothing_else(name):
    session, sent = converse(b"200 result=1\n", headers_with_name(name))
    assert session.arguments == ("15400001234",)
    session.set_variable("SANLING_ROLE", session.env["agi_calleridname"][:100])
    assert sent.getvalue().count(b"\n") == 1
    line = words_as_asterisk_splits_them(sent.getvalue().decode().rstrip("\n"))
    assert line[:3] == ["SET", "VARIABLE", "SANLING_ROLE"]
    assert len(line) == 4


@pytest.mark.parametrize(
    "name",
    [
        b"x\nagi_arg_1: 15400009999",
        b'x\n"\nSET VARIABLE SANLING_ROLE lawyer',
        b"x\nagi_network_script: other",
        b"x\n" + b"".join(b"h%d: 1\n" % n for n in range(300)) + b"y: z",
        b"x" * (2 << 20),
    ],
    ids=["argument of its own", "command", "script of its own", "300 headers", "2 MB"],
)
def test_headers_that_somebody_wrote_into_a_name_end_the_session(name):
    with pytest.raises(AGIError):
        converse(headers=headers_with_name(name))


def test_a_name_that_ends_the_headers_early_never_brings_an_answer():
    session, _ = converse(b"200 result=1\n", headers_with_name(b"x\n\n200 result=1 (forged)"))
    assert session.arguments == ()


@given(st.text())
def test_any_value_is_one_argument_on_one_line(value):
    session, sent = converse(b"200 result=1\n")
    try:
        session.set_variable("X", value)
    except AGIUsageError:
        assert len(value.encode("utf-8", "replace")) > 900
        return
    line = sent.getvalue().decode()
    assert line.index("\n") == len(line) - 1
    cleaned = "".join(" " if ord(c) < 32 or c == "\x7f" else c for c in value)
    cleaned = cleaned.encode("utf-8", "replace").decode()
    assert words_as_asterisk_splits_them(line[:-1]) == ["SET", "VARIABLE", "X", cleaned]


def test_arguments_that_pyst2_sends_bare_are_quoted_too():
    session, sent = converse(b"200 result=0\n" * 4)
    session.stream_file("a b\nHANGUP")
    session.exec_command("Set", 'X="1"\n')
    session.hangup()
    session.noop()
    lines = sent.getvalue().decode().splitlines()
    assert lines[0] == 'STREAM FILE "a b HANGUP" "" "0"'
    assert shlex.split(lines[1]) == ["EXEC", "Set", 'X="1" ']
    assert lines[2:] == ["HANGUP", "NOOP"]


def test_a_command_longer_than_asterisk_reads_is_refused_unsent():
    session, sent = converse()
    with pytest.raises(AGIUsageError):
        session.set_variable("X", "a" * 2048)
    assert sent.getvalue() == b""


@pytest.mark.parametrize("name", ["SHELL(reboot)", "X Y", "", "X\n", "__", "变量"])
def test_only_plain_variables_are_written(name):
    session, sent = converse()
    with pytest.raises(ValueError, match="letters, digits"):
        session.set_variable(name, "1")
    assert sent.getvalue() == b""


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b"200 result=1 (ok)\n", "ok"),
        (b"200 result=1 ((a)(b))\n", "(a)(b)"),
        (b"200 result=1 (two\nlines)\n", "two\nlines"),
        (b"200 result=1 (\xff)\n", "\N{REPLACEMENT CHARACTER}"),
        (b"200 result=0\n", ""),
        (b"left over\nof another value\n200 result=1 (ok)\r\n", "ok"),
        (b"200 result=1 (hangup)\n", "hangup"),
    ],
)
def test_values(reply, value):
    session, _ = converse(reply)
    assert session.get_variable("X") == value


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", AGIHangup),
        (b"200 resu", AGIHangup),
        (b"HANGUP\n200 result=0\n", AGIHangup),
        (b"200 result=1 (no end\n", AGIHangup),
        (b"200 result=1 (no end" + b"\nx" * 500, AGIUnknownError),
        (b"200 result=-1\n", AGIAppError),
        (b"200 result=0 (hangup)\n", AGIResultHangup),
        (b"510 Invalid or unknown command\n", AGIInvalidCommand),
        (b"511 Command Not Permitted on a dead channel or intercept routine\n", AGIResultHangup),
        (b"520-Invalid command syntax.  Proper usage follows:\nUsage: NOOP\n520 End of proper usage.\n", AGIUsageError),
        (b"520 Invalid command syntax.\n", AGIUsageError),
        (b"520-Invalid\nUsage: NOOP\n", AGIHangup),
        (b"520-Invalid" + b"\nx" * 500, AGIUnknownError),
        (b"999 what\n", AGIUnknownError),
        (b"nonsense\n" * 500, AGIUnknownError),
        (b"\n" * 500, AGIUnknownError),
        (b"x" * (2 << 20) + b"\n", AGIUnknownError),
    ],
)
def test_replies_that_are_no_answer(reply, error):
    session, _ = converse(reply)
    with pytest.raises(error):
        session.noop()


def test_a_multi_line_error_leaves_the_conversation_in_step():
    session, _ = converse(b"520-Invalid\nUsage: X\n520 End of proper usage.\n200 result=1 (after)\n")
    with pytest.raises(AGIUsageError, match="Usage: X"):
        session.noop()
    assert session.get_variable("X") == "after"


def test_the_other_side_may_end_at_any_byte():
    conversation = HEADERS + b"200 result=1\n200 result=1 (a\nb)\n"
    for end in range(len(conversation)):
        with pytest.raises(AGIHangup):
            _play(Session(io.BytesIO(conversation[:end]), io.BytesIO()))
    _play(Session(io.BytesIO(conversation), io.BytesIO()))


def _play(session: Session) -> None:
    session.set_variable("X", "1")
    if session.execute("GET VARIABLE", "X")["result"][1] != "a\nb":
        raise AssertionError


@given(st.binary(max_size=400))
def test_whatever_arrives_only_agi_errors_come_out(noise):
    try:
        session, _ = converse(noise, headers=b"")
        session.set_variable("X", "1")
        session.get_variable("X")
    except AGIError:
        pass


def test_a_lost_socket_is_a_hangup():
    class Lost(io.BytesIO):
        def write(self, _data: object) -> int:
            raise BrokenPipeError

    session = Session(io.BytesIO(HEADERS), Lost())
    with pytest.raises(AGIHangup):
        session.noop()


def test_asterisks_own_database_is_read_and_written_with_one_pair_of_quotes():
    session, sent = converse(b"200 result=1\n200 result=1 (v)\n200 result=1\n200 result=1\n200 result=0\n")
    session.database_put("fam", "key", "v")
    assert session.database_get("fam", "key") == "v"
    session.database_del("fam", "key")
    session.database_deltree("fam")
    with pytest.raises(AGIError):
        session.database_get("fam", "key")
    assert sent.getvalue().decode().splitlines()[0] == 'DATABASE PUT "fam" "key" "v"'


def test_a_call_id_that_holds_something_else_is_not_logged():
    assert converse(headers=b"agi_uniqueid: \xe5\xbc\xa0\xe4\xbc\x9f 154\n\n")[0].call_id == "?"
