"""The local journal: what is on its way to the database, in a file that outlives the process that wrote it.

A folder of append-only files, one for each process that had something to write, named by a number that says their
order and a random part; the name is the journal's id, under which the database keeps how far it was applied. A line is
one record: the CRC-32 of what follows in eight hexadecimal digits, a space, and ``[n, kind, values]`` in JSON, with n
rising. The page cache keeps it when the process is killed; after a power cut the last line may be torn, and is left
out. Nothing here knows of the database.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

log = logging.getLogger("sanling.journal")

ENDING = ".journal"
REFUSED = "refused.jsonl"
"""Beside the journals: rows that the database would not have, one JSON object a line, with the reason."""

_encode = msgspec.json.Encoder().encode
_PLAIN = (str, int, float, bool, type(None))


class Record(NamedTuple):
    n: int
    """Its place in its journal, from 1."""
    kind: str
    """The table it is for, or the kind of change it is."""
    values: dict[str, Any]


_decode = msgspec.json.Decoder(Record).decode


class Unfit(ValueError):
    """A value that no column can hold."""


def line_of(record: Record) -> bytes:
    """`record` as it stands in a journal. Raises Unfit."""
    for name, value in record.values.items():
        if not isinstance(value, _PLAIN) or (isinstance(value, float) and not math.isfinite(value)):
            raise Unfit(f"{name} is no value of a column")
    try:
        body = _encode(record)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unfit(f"it cannot be written as JSON: {type(error).__name__}") from error
    return b"%08x %b\n" % (zlib.crc32(body), body)


def record_of(line: bytes) -> Record | None:
    """The record that `line` holds, with its end of line; None if it is torn or damaged."""
    body = line[9:-1]
    if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(body):
        return None
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return None


class Journal:
    """The journal of this process in `folder`, made with its first line; `earlier` are those of processes before it.

    Used from one thread, but for `set_aside`, which has a file of its own.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._fd: int | None = None
        self.earlier: list[Path] = sorted(folder.glob(f"*{ENDING}"))
        number = int(self.earlier[-1].name.partition("-")[0]) + 1 if self.earlier else 1
        self.id = f"{number:08d}-{secrets.token_hex(8)}"
        self.size = 0
        """Bytes in the file."""

    @property
    def _file(self) -> Path:
        return self._folder / f"{self.id}{ENDING}"

    def append(self, lines: Iterable[bytes]) -> None:
        """Adds `lines`, all or none. Raises OSError."""
        if self._fd is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = _open(self._file)
        block = b"".join(lines)
        try:
            _write(self._fd, block)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(block)

    def keep_only(self, lines: Iterable[bytes]) -> None:
        """Puts `lines`, those still needed, in place of all there are. Raises OSError, having changed nothing."""
        if self._fd is None:
            return
        block = b"".join(lines)
        if not block:
            os.ftruncate(self._fd, 0)
        else:
            fresh = self._file.with_suffix(".new")
            fd = _open(fresh)
            try:
                _write(fd, block)
                fresh.rename(self._file)
            except OSError:
                os.close(fd)
                fresh.unlink(missing_ok=True)
                raise
            os.close(self._fd)
            self._fd = fd
        self.size = len(block)

    def set_aside(self, record: Record, reason: str) -> bool:
        """Keeps a refused row for a person to look at; False if there is no room for it."""
        file = self._folder / REFUSED
        told = {"journal": self.id, "n": record.n, "kind": record.kind, "reason": reason, "values": record.values}
        line = json.dumps(told, default=repr).encode() + b"\n"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = _open(file)
            try:
                before = os.fstat(fd).st_size
                if before + len(line) > self._limit_bytes:
                    return False
                try:
                    _write(fd, line)
                except OSError:
                    os.ftruncate(fd, before)
                    raise
            finally:
                os.close(fd)
        except OSError as error:
            log.error("A refused row could not be set aside: %s", error.strerror)
            return False
        return True

    def close(self, *, needed: bool) -> None:
        """Ends writing; the file goes unless it is `needed` at the next start."""
        if self._fd is None:
            return
        os.close(self._fd)
        self._fd = None
        if not needed:
            self._file.unlink(missing_ok=True)


def id_of(file: Path) -> str:
    return file.name.removesuffix(ENDING)


def read(file: Path) -> Iterator[tuple[bytes, Record | None]]:
    """The lines of a journal that nobody writes any more, each with its record; None for what cannot be read.

    A torn last line is left out. Raises OSError.
    """
    with file.open("rb") as opened:
        for line in opened:
            record = record_of(line)
            if record is None and not line.endswith(b"\n"):
                log.warning("The last line of journal %s is torn and left out", file.name)
                return
            yield line, record


def _open(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _write(fd: int, block: bytes | memoryview) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]
