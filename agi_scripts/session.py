"""One conversation with Asterisk's AGI: pyst2's commands, on a conversation that nothing can break.

pyst2 gives the commands (`set_variable`, `get_variable`, `stream_file`, …) and the exceptions; what it does not
give is safety, so everything below the commands is our own:

* No signal handler and nothing on stderr: a session runs in any thread.
* Every argument is quoted, also those that pyst2 sends bare. Asterisk splits a command at blanks, takes ``"`` and
  ``\\`` as its only special characters, and ends it at a line feed or at 2047 bytes: the rest of a longer line would
  be read as the next command. So both are escaped, control characters become blanks, and a longer line is refused.
* Caller's data comes back in the headers. A line is cut at 4 kB, headers are counted, and a header that comes twice
  means that somebody put a line feed into a name: the session ends rather than guess which one is Asterisk's.
* The end of the conversation (EOF, a lost socket, HANGUP, a dead channel) is always an ``AGIHangup``; a reply
  that is no reply is an ``AGIUnknownError``. Nothing raises ValueError.

Protocol: Asterisk's ``res_agi.c`` (``setup_env``, ``parse_args``, ``ast_agi_send``).
"""

from __future__ import annotations

import re
from typing import BinaryIO, Final

from asterisk.agi import (
    AGI,
    AGIAppError,
    AGIDBError,
    AGIError,
    AGIHangup,
    AGIInvalidCommand,
    AGIResultHangup,
    AGIUnknownError,
    AGIUsageError,
)

__all__ = [
    "AGIAppError", "AGIError", "AGIHangup", "AGIInvalidCommand", "AGIResultHangup", "AGIUnknownError", "AGIUsageError",
    "Session",
]  # fmt: skip

LINE_BYTES: Final = 4096
"""What is kept of one line; the rest of it is read and dropped."""
DROPPED_BYTES: Final = 1 << 20
"""How much is dropped, and how much one reply may say, before the session ends."""
HEADERS: Final = 200
REPLY_LINES: Final = 200
COMMAND_BYTES: Final = 2047
"""Asterisk reads a command into 2048 bytes (AGI_BUF_LEN)."""

_CONTROL = {code: " " for code in (*range(0x20), 0x7F)}
_REPLY = re.compile(r"([1-9]\d\d)(?:([ -])(.*))?", re.DOTALL)
_RESULT = re.compile(r"(\w+)=(\S*)")
_VARIABLE = re.compile(r"_{0,2}[A-Za-z][A-Za-z0-9_]{0,79}")

Result = dict[str, tuple[str, str]]


class _Quoted(str):
    __slots__ = ()


class Session(AGI):  # type: ignore[misc]
    """An AGI conversation over two binary streams: a socket's for FastAGI, stdin and stdout for a plain script.

    Reads the headers when made; they are in `env`, the arguments of the dialplan's AGI() in `arguments`.
    Raises AGIHangup if the other side ends, AGIUnknownError if it does not speak AGI.
    """

    def __init__(self, reads: BinaryIO, writes: BinaryIO) -> None:
        self._reads = reads
        self._writes = writes
        self._dropped = 0
        self.env: dict[str, str] = {}
        self._get_agi_env()

    @property
    def script(self) -> str:
        """The script that the dialplan named: ``case_context`` of ``agi://…/case_context``."""
        return self.env.get("agi_network_script", "").partition("?")[0].strip("/")

    @property
    def call_id(self) -> str:
        """The channel's unique id, or ``?`` if it does not look like one. No personal data."""
        unique = self.env.get("agi_uniqueid", "")
        return unique if re.fullmatch(r"[A-Za-z0-9.~-]{1,80}", unique) else "?"

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the dialplan gave to AGI(), in order."""
        found: list[str] = []
        while (name := f"agi_arg_{len(found) + 1}") in self.env:
            found.append(self.env[name])
        return tuple(found)

    def test_hangup(self) -> None:
        """Nothing to test: a hangup is heard where the next reply is read."""

    def execute(self, command: str, *args: object) -> Result:
        """Sends `command` with every argument quoted, and returns what Asterisk answered.

        Raises AGIHangup, AGIInvalidCommand, AGIUsageError, AGIAppError (result -1), AGIUnknownError.
        """
        try:
            self.send_command(command, *args)
            return self.get_result()
        except OSError as error:
            raise AGIHangup("The conversation was cut off.") from error

    def send_command(self, command: str, *args: object) -> None:
        words = [command.strip()]
        for arg in args:
            if isinstance(arg, _Quoted):
                words.append(arg)
            elif (text := str(arg)) != "":
                words.append(self._quote(text))
        line = (" ".join(words).translate(_CONTROL) + "\n").encode("utf-8", "replace")
        if len(line) > COMMAND_BYTES:
            raise AGIUsageError(f"A command of {len(line)} bytes; Asterisk reads {COMMAND_BYTES}.")
        while line:
            line = line[self._writes.write(line) :]
        self._writes.flush()

    def get_result(self, stdin: object = None) -> Result:
        for _ in range(REPLY_LINES):
            line = self._line()
            if line.startswith("HANGUP"):
                raise AGIHangup("The caller hung up.")
            if reply := _REPLY.fullmatch(line):
                break  # anything else is what is left of a value with line feeds in it
        else:
            raise AGIUnknownError("No reply among many lines.")
        code, more, text = reply.groups(default="")
        if code == "200":
            return _result(self._whole_value(text))
        if more == "-":
            text = self._multi_line(code, text)
        if code == "510":
            raise AGIInvalidCommand(text)
        if code == "511":
            raise AGIResultHangup("The channel is gone.")
        if code == "520":
            raise AGIUsageError(text)
        raise AGIUnknownError(f"Reply {code}.")

    def set_variable(self, name: str, value: object) -> None:
        """Raises ValueError for a name that is not a plain variable: dialplan functions are not written to."""
        if not _VARIABLE.fullmatch(name):
            raise ValueError("A channel variable's name has letters, digits and underscores.")
        self.execute("SET VARIABLE", name, self._quote(value))

    # pyst2 puts a second pair of quotes around these, which would become part of the key.

    def database_get(self, family: str, key: str) -> str:
        """Raises AGIDBError if there is no such key."""
        found, value = self.execute("DATABASE GET", self._quote(family), self._quote(key))["result"]
        if found != "1":
            raise AGIDBError("There is no such key.")
        return value

    def database_put(self, family: str, key: str, value: str) -> None:
        self._change("DATABASE PUT", family, key, value)

    def database_del(self, family: str, key: str) -> None:
        self._change("DATABASE DEL", family, key)

    def database_deltree(self, family: str, key: str = "") -> None:
        self._change("DATABASE DELTREE", family, *([key] if key else []))

    def _change(self, command: str, *args: str) -> None:
        if self.execute(command, *map(self._quote, args))["result"][0] != "1":
            raise AGIDBError("The database was not changed.")

    def _quote(self, string: object) -> str:
        escaped = str(string).translate(_CONTROL).replace("\\", "\\\\").replace('"', '\\"')
        return _Quoted(f'"{escaped}"')

    def _get_agi_env(self) -> None:
        for _ in range(HEADERS):
            try:
                line = self._line()
            except OSError as error:
                raise AGIHangup("The conversation was cut off.") from error
            if line == "":
                return
            if line.startswith("HANGUP"):
                raise AGIHangup("The caller hung up.")
            name, colon, value = line.partition(":")
            if not colon:
                raise AGIUnknownError("A line that is no header.")
            if name.strip() in self.env:
                raise AGIUnknownError("A header came twice.")
            self.env[name.strip()] = value.strip()
        raise AGIUnknownError("Too many headers.")

    def _line(self) -> str:
        """The next line without its end, cut at LINE_BYTES; what is not UTF-8 becomes U+FFFD."""
        line = part = self._reads.readline(LINE_BYTES)
        while part and not part.endswith(b"\n"):
            part = self._reads.readline(LINE_BYTES)
            self._dropped += len(part)
            if self._dropped > DROPPED_BYTES:
                raise AGIUnknownError("A line without end.")
        if not part:
            raise AGIHangup("The other side ended the conversation.")
        return line.decode("utf-8", "replace").rstrip("\r\n").replace("\0", " ")

    def _whole_value(self, text: str) -> str:
        """A variable's value may hold line feeds; the reply ends with the line that closes the bracket."""
        lines = [text]
        while "(" in lines[0] and not lines[-1].rstrip().endswith(")"):
            if len(lines) == REPLY_LINES:
                raise AGIUnknownError("A value without end.")
            lines.append(self._line())
        return "\n".join(lines)

    def _multi_line(self, code: str, text: str) -> str:
        lines = [text]
        while len(lines) < REPLY_LINES:
            line = self._line()
            if line.startswith(f"{code} ") or line == code:
                return "\n".join(lines)
            lines.append(line)
        raise AGIUnknownError("A reply without end.")


def _result(text: str) -> Result:
    head, bracket, tail = text.partition("(")
    value = tail[: tail.rindex(")")] if bracket and ")" in tail else ""
    result: Result = {"result": ("", "")}
    for key, given in _RESULT.findall(f"{head} {tail.rpartition(')')[2]}" if bracket else head):
        result[key] = (given, value if key == "result" else "")
    if value == "hangup":
        raise AGIResultHangup("The caller hung up.")
    if result["result"][0] == "-1":
        raise AGIAppError("The application failed, or the caller hung up.")
    return result
