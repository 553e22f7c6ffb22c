from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ari_app import roots
from ari_app.errors import SetUpFailed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sanling"


def test_a_root_in_the_cache_needs_neither_apt_nor_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = cache / "roots" / f"asterisk-22.10.1-{roots.key('forky', ['asterisk'])}"
    there.mkdir(parents=True)
    monkeypatch.setenv("PATH", "")
    assert roots.fetch("asterisk", "forky", ["asterisk"], progress=print) == there


def test_the_key_covers_suite_packages_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    key = roots.key("forky", ["a", "b"])
    assert key == roots.key("forky", ["b", "a"])
    assert key != roots.key("sid", ["a", "b"])
    assert key != roots.key("forky", ["a"])
    monkeypatch.setattr(roots, "RECIPE", "other")
    assert key != roots.key("forky", ["a", "b"])


def test_without_apt_the_advice_is_one_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetUpFailed, match="install Asterisk 20"):
        roots.fetch("asterisk", "forky", ["asterisk"], progress=print)


def test_a_machine_that_is_not_debian_is_told_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "_os_release", lambda: {"ID": "ubuntu", "VERSION_CODENAME": "noble"})
    with pytest.raises(SetUpFailed, match="sudo apt-get install -y asterisk"):
        roots.mirror_of("forky")


@pytest.mark.parametrize(
    ("version", "upstream"),
    [("1:22.10.1+dfsg+~cs6.17.60671434-1", "22.10.1"), ("20.2.1-1", "20.2.1"), ("18~rc1", "18")],
)
def test_a_folder_is_named_by_the_upstream_version(version: str, upstream: str) -> None:
    assert roots._upstream(version) == upstream


def small_root(folder: Path) -> Path:
    for name in ("usr/bin", "usr/lib", "usr/sbin", "usr/share", "usr/src", "etc"):
        (folder / name).mkdir(parents=True)
    return folder


def test_the_sandbox_shows_the_root_read_only_and_the_binds_in_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "bubblewrap", lambda _: ["bwrap"])
    root = small_root(tmp_path / "r")
    command = " ".join(
        roots.sandbox(
            root,
            ["prog", "-x"],
            ro_binds=[Path("/a"), (Path("/h"), "/etc/hosts")],
            rw_binds=[Path("/v")],
            env={"TZ": "UTC"},
            uid=roots.SANDBOX_UID,
        )
    )
    assert command.startswith("bwrap --die-with-parent --clearenv --unshare-user --uid 1000")
    assert f"--ro-bind {root}/usr/bin /usr/bin" in command
    assert "/usr/src" not in command
    assert "--ro-bind /a /a --ro-bind /h /etc/hosts --bind /v /v" in command
    assert command.endswith("--setenv TZ UTC -- prog -x")


def test_without_bubblewrap_the_roots_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small_root(tmp_path / "r")
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir()
    loader.touch()
    (root / "usr/lib/x86_64-linux-gnu").mkdir()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    libraries = str(root / "usr/lib/x86_64-linux-gnu")
    assert roots.bubblewrap(root) == [str(loader), "--library-path", libraries, str(root / "usr/bin/bwrap")]


def test_forbidden_user_namespaces_come_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "sandbox", lambda *_: ["sh", "-c", "echo no permissions >&2; exit 1"])
    with pytest.raises(SetUpFailed, match=r"no permissions.*(sysctl|security-opt)"):
        roots.check_sandbox(tmp_path)


def test_an_old_package_does_not_undo_the_merged_folders(tmp_path: Path) -> None:
    """`dpkg-deb -x` would put a real folder in place of /bin -> usr/bin."""
    package = tmp_path / "old"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: old\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"
    )
    (package / "bin").mkdir()
    (package / "bin/tool").write_text("x")
    (package / "usr/share/doc/old").mkdir(parents=True)
    (package / "usr/share/doc/old/copyright").write_text("x")
    subprocess.run(["dpkg-deb", "-b", package, tmp_path / "old.deb"], check=True, capture_output=True)
    into = tmp_path / "root"
    into.mkdir()
    roots._unpack([tmp_path / "old.deb"], into)
    assert (into / "bin").is_symlink()
    assert (into / "usr/bin/tool").read_text() == "x"
    assert not (into / "usr/share/doc/old/copyright").exists()
