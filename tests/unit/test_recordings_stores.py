"""The folder store: the contract, and what only a folder can suffer."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recordings.stores import MARKER, FolderStore, Missing, Store, StoreAway, StoreRefused
from tests.unit.recordings_contract import KEY, StoreContract, sha256


class TestFolderStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        made = FolderStore(tmp_path / "store", "local")
        made.prepare()
        return made


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    made = FolderStore(tmp_path / "store", "local")
    made.prepare()
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"a segment" * 1000)
    return path


def test_copies_are_nobody_elses_to_read(folder: FolderStore, file: Path) -> None:
    folder.put(KEY, file, sha256(file.read_bytes()))
    assert (folder.root / KEY).stat().st_mode & 0o777 == 0o600
    assert (folder.root / "2025").stat().st_mode & 0o777 == 0o700


def test_preparing_twice_changes_nothing(folder: FolderStore) -> None:
    marker = (folder.root / MARKER).read_text()
    folder.prepare()
    assert (folder.root / MARKER).read_text() == marker


def test_an_empty_mount_point_is_not_taken_for_the_store(tmp_path: Path, file: Path) -> None:
    (tmp_path / "mount-point").mkdir()
    away = FolderStore(tmp_path / "mount-point", "second")
    with pytest.raises(StoreAway, match="Is its disk mounted"):
        away.put(KEY, file, sha256(file.read_bytes()))
    assert list((tmp_path / "mount-point").iterdir()) == []
    for ask in (lambda: away.digest(KEY), away.check, away.free_bytes):
        with pytest.raises(StoreAway):
            ask()


def test_one_flipped_bit_changes_the_digest(folder: FolderStore, file: Path) -> None:
    folder.put(KEY, file, good := sha256(file.read_bytes()))
    flip_a_bit(folder.root / KEY)
    assert folder.digest(KEY) != good


def test_what_a_crash_left_half_written_is_tidied_away_in_time(folder: FolderStore, file: Path) -> None:
    incoming = folder.root / ".incoming"
    incoming.mkdir()
    (incoming / "old.flac.ab12").write_bytes(b"half")
    os.utime(incoming / "old.flac.ab12", (0, 0))
    (incoming / "new.flac.ab12").write_bytes(b"another writer's")
    folder.put(KEY, file, sha256(file.read_bytes()))
    assert [left.name for left in incoming.iterdir()] == ["new.flac.ab12"]


def test_a_folder_where_a_file_should_be_is_refused(folder: FolderStore, file: Path) -> None:
    (folder.root / "2025").write_text("in the way")
    with pytest.raises((StoreRefused, Missing)):
        folder.put(KEY, file, sha256(file.read_bytes()))


FULL = """
import hashlib, sys
from pathlib import Path
from recordings.stores import FolderStore, StoreAway, Missing
store = FolderStore(Path(sys.argv[1]), "local")
store.prepare()
source = Path(sys.argv[2])
try:
    store.put("a/b.flac", source, hashlib.sha256(source.read_bytes()).hexdigest())
except StoreAway as error:
    print("away:", error)
try:
    store.digest("a/b.flac")
except Missing:
    print("nothing stored")
print("left over:", [str(p) for p in store.root.rglob("*") if p.is_file() and p.name[0] != "."])
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_a_full_disk_is_noticed_before_it_is_full(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(4_000_000))
    (tmp_path / "disk").mkdir()
    said = in_small_disk(tmp_path, FULL, str(tmp_path / "disk"), str(tmp_path / "source"))
    assert "is full: 4000000 bytes" in said
    assert "nothing stored" in said
    assert "left over: []" in said


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(4_000_000))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n" + FULL
    done = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path / "disk"), str(tmp_path / "source")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "away:" in done.stdout
    assert "File too large" in done.stdout
    assert "nothing stored" in done.stdout
    assert list((tmp_path / "disk/.incoming").iterdir()) == []


def in_small_disk(tmp_path: Path, script: str, *arguments: str) -> str:
    """Run `script` where ``disk`` is a file system of 3 MB."""
    command = ["bwrap", "--dev-bind", "/", "/", "--size", "3000000", "--tmpfs", str(tmp_path / "disk")]
    done = subprocess.run(
        [*command, sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert hashlib.sha256(content).digest()
