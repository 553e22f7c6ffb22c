"""What every store of recordings must do. A suite subclasses it and gives the fixture `store`."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recordings.stores import Missing, NameTaken, Store, StoreError

KEY = "2025/11/22/demo-1763763200.3.flac"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class StoreContract:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "source"
        path.write_bytes(os.urandom(300_000))
        return path

    def test_gives_back_what_was_put(self, store: Store, file: Path, tmp_path: Path) -> None:
        content = file.read_bytes()
        store.put(KEY, file, sha256(content))
        assert store.digest(KEY) == sha256(content)
        store.fetch(KEY, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
        assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("size", [0, 1, 7_000_000])
    def test_takes_files_of_every_size(self, store: Store, tmp_path: Path, size: int) -> None:
        file = tmp_path / "sized"
        file.write_bytes(content := os.urandom(size))
        store.put(KEY, file, sha256(content))
        assert store.digest(KEY) == sha256(content)

    def test_the_same_content_again_is_fine(self, store: Store, file: Path) -> None:
        store.put(KEY, file, sha256(file.read_bytes()))
        store.put(KEY, file, sha256(file.read_bytes()))
        assert store.digest(KEY) == sha256(file.read_bytes())

    def test_other_content_never_replaces_what_is_there(self, store: Store, file: Path) -> None:
        store.put(KEY, file, first := sha256(file.read_bytes()))
        file.write_bytes(b"something else")
        with pytest.raises(NameTaken, match="was left as it is"):
            store.put(KEY, file, sha256(b"something else"))
        assert store.digest(KEY) == first

    def test_a_file_that_is_not_what_its_checksum_says_is_not_stored(self, store: Store, file: Path) -> None:
        with pytest.raises(StoreError):
            store.put(KEY, file, sha256(b"what it should have been"))
        with pytest.raises(Missing):
            store.digest(KEY)

    def test_what_nobody_put_is_missing(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(Missing):
            store.digest(KEY)
        with pytest.raises(Missing):
            store.fetch(KEY, tmp_path / "nothing")
        with pytest.raises(Missing):
            store.set_aside(KEY)

    def test_a_damaged_copy_set_aside_frees_its_name_and_is_kept(
        self, store: Store, file: Path, tmp_path: Path
    ) -> None:
        store.put(KEY, file, damaged := sha256(file.read_bytes()))
        aside = store.set_aside(KEY)
        assert "damaged" in aside
        folder = KEY.rpartition("/")[0]
        assert store.digest(f"{folder}/{aside.rpartition('/')[2]}") == damaged
        file.write_bytes(b"mended")
        store.put(KEY, file, sha256(b"mended"))
        assert store.digest(KEY) == sha256(b"mended")

    def test_of_several_writers_of_one_name_one_wins(self, store: Store, tmp_path: Path) -> None:
        files = []
        for number in range(6):
            files.append(tmp_path / f"writer-{number}")
            files[-1].write_bytes(bytes([number]) * 200_000)

        def write(file: Path) -> bool:
            try:
                store.put(KEY, file, sha256(file.read_bytes()))
            except NameTaken:
                return False
            return True

        with ThreadPoolExecutor(6) as threads:
            won = list(threads.map(write, files))
        assert won.count(True) == 1
        assert store.digest(KEY) == sha256(files[won.index(True)].read_bytes())

    @pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "", "a/../../b", ".hidden"])
    def test_no_name_leads_outside(self, store: Store, file: Path, key: str) -> None:
        with pytest.raises(ValueError, match="not a name"):
            store.put(key, file, sha256(file.read_bytes()))

    def test_says_where_a_copy_lies(self, store: Store) -> None:
        assert store.where(KEY).endswith(KEY)

    def test_a_store_that_fits_passes_its_check(self, store: Store) -> None:
        store.check()
