"""The journal's file: whole lines or none, whatever cut the writing off."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ari_app import journal
from ari_app.journal import Journal, Record, Unfit, line_of, read, record_of

VALUES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    max_size=5,
)


def records(count: int) -> list[Record]:
    return [Record(n, "calls", {"id": f"demo-{n}.1", "at": n + 0.1, "caller_number": "中\n文"}) for n in range(count)]


def begun(folder: Path, count: int) -> tuple[Journal, Path]:
    """A journal of `count` lines, and its file."""
    writing = Journal(folder, limit_bytes=1_000_000)
    writing.append([line_of(record) for record in records(count)])
    [file] = folder.glob("*.journal")
    return writing, file


def found(file: Path) -> list[Record | None]:
    return [record for _, record in read(file)]


class FullDisk:
    """`os.write` to files of `kind` takes `room` bytes, then no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = ".journal") -> None:
        self._write = os.write
        self._kind = kind
        self.room: int | None = None
        self.refused = 0
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: Any) -> int:
        if self.room is None or not os.readlink(f"/proc/self/fd/{fd}").endswith(self._kind):
            return self._write(fd, data)
        if not self.room:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._write(fd, data[: self.room])
        self.room -= taken
        return taken


@given(n=st.integers(1, 2**60), kind=st.text(st.characters(codec="utf-8")), values=VALUES)
def test_a_line_says_what_was_put_into_it(n: int, kind: str, values: dict[str, Any]):
    line = line_of(Record(n, kind, values))
    assert line.count(b"\n") == 1
    assert record_of(line) == (n, kind, values)


@given(values=VALUES, data=st.data())
def test_a_line_that_changed_in_any_byte_is_not_believed(values: dict[str, Any], data: st.DataObject):
    line = bytearray(line_of(Record(1, "calls", values)))
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= 1 << data.draw(st.integers(0, 7))
    assert record_of(bytes(line)) is None


@pytest.mark.parametrize("value", [object(), {"a": 1}, [1], float("nan"), float("inf"), "\ud800", b"x"], ids=type)
def test_what_no_column_holds_is_unfit(value: object):
    with pytest.raises(Unfit):
        line_of(Record(1, "calls", {"id": value}))


def test_whatever_the_length_at_which_a_power_cut_left_the_file_whole_lines_are_read(tmp_path: Path):
    _, file = begun(tmp_path, 3)
    whole = file.read_bytes()
    ends = [n for n, byte in enumerate(whole, 1) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        assert found(file) == records(3)[: sum(end <= length for end in ends)]


def test_a_damaged_line_costs_no_other(tmp_path: Path):
    _, file = begun(tmp_path, 5)
    content = bytearray(file.read_bytes())
    content[content.index(b"demo-2")] = ord("D")
    file.write_bytes(content)
    assert found(file) == [*records(2), None, *records(5)[3:]]


def test_journals_of_processes_before_are_kept_in_order_and_not_written_to(tmp_path: Path):
    files = []
    for _ in range(12):
        writing, _ = begun_another(tmp_path)
        files.append(writing.id)
        writing.close(needed=True)
    last = Journal(tmp_path, limit_bytes=1000)
    assert [journal.id_of(file) for file in last.earlier] == files
    assert last.id not in files
    assert last.id > files[-1]
    assert len(list(tmp_path.iterdir())) == 12  # nothing was written: nothing is there


def begun_another(folder: Path) -> tuple[Journal, Path]:
    writing = Journal(folder, limit_bytes=1_000_000)
    writing.append([line_of(records(1)[0])])
    return writing, folder / f"{writing.id}.journal"


def test_nobody_else_may_read_it(tmp_path: Path):
    writing, file = begun(tmp_path / "journal", 1)
    writing.set_aside(records(1)[0], "why")
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((file.parent / journal.REFUSED).stat().st_mode) == 0o600


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_disk_that_fills_up_in_the_middle_of_a_line_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch, room):
    writing, file = begun(tmp_path, 2)
    disk = FullDisk(monkeypatch)
    disk.room = room
    with pytest.raises(OSError, match="No space"):
        writing.append([line_of(record) for record in records(2)])
    assert found(file) == records(2)
    assert writing.size == file.stat().st_size
    disk.room = None
    writing.append([line_of(records(3)[2])])
    assert found(file) == records(3)


def test_what_is_applied_is_taken_out_and_the_rest_stays(tmp_path: Path):
    writing, file = begun(tmp_path, 5)
    writing.keep_only([line_of(record) for record in records(5)[3:]])
    assert found(file) == records(5)[3:]
    assert writing.size == file.stat().st_size
    writing.append([line_of(Record(9, "calls", {}))])
    assert found(file) == [*records(5)[3:], Record(9, "calls", {})]
    writing.keep_only([])
    assert file.stat().st_size == writing.size == 0
    writing.append([line_of(Record(10, "calls", {}))])
    assert found(file) == [Record(10, "calls", {})]


def test_a_disk_that_fills_up_while_lines_are_taken_out_costs_none(tmp_path: Path, monkeypatch):
    writing, file = begun(tmp_path, 5)
    disk = FullDisk(monkeypatch, ".new")
    disk.room = 10
    with pytest.raises(OSError, match="No space"):
        writing.keep_only([line_of(record) for record in records(5)[3:]])
    assert found(file) == records(5)
    assert list(tmp_path.iterdir()) == [file]
    writing.append([line_of(Record(9, "calls", {}))])
    assert found(file)[-1] == Record(9, "calls", {})


def test_a_journal_that_is_not_needed_goes_with_its_process(tmp_path: Path):
    writing, file = begun(tmp_path, 1)
    writing.close(needed=True)
    assert file.exists()
    writing = Journal(tmp_path, limit_bytes=1000)
    writing.append([line_of(records(1)[0])])
    writing.close(needed=False)
    assert list(tmp_path.iterdir()) == [file]


def test_rows_are_set_aside_while_there_is_room(tmp_path: Path):
    writing = Journal(tmp_path, limit_bytes=1000)
    kept = [writing.set_aside(record, "refused") for record in records(20)]
    assert kept == sorted(kept, reverse=True)
    assert 2 < sum(kept) < 20
    assert (tmp_path / journal.REFUSED).stat().st_size <= 1000
    assert (tmp_path / journal.REFUSED).read_text().count("\n") == sum(kept)
