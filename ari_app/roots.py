"""Private roots: Debian packages unpacked in the user's cache, run under bubblewrap, all without sudo.

apt resolves the packages against an empty machine with a state of its own, from the mirror and with the keys that
this machine's apt already uses; signatures are checked. The packages are unpacked without their maintainer scripts,
so nothing here needs a privilege; the few things those scripts would have made are made in :func:`_finish`.

A root lies in ``$XDG_CACHE_HOME/sanling/roots/<name>-<version>-<key>`` and is never changed once it is there. The key
covers suite, packages and :data:`RECIPE`, so every clone on the machine shares it and none needs the network again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ari_app.errors import SetUpFailed

RECIPE = "1"
"""Goes into every key: raise it when an unpacked root must look different."""

ALWAYS = ("base-files", "base-passwd", "bubblewrap", "coreutils", "dash", "libc-bin", "mawk", "sed", "tzdata")
"""What programs expect of any Debian; dpkg's "essential" packages beyond these only serve installation."""

SANDBOX_UID = 1000
"""An ordinary user that every root knows (``sanling``), for programs that refuse to be root."""

NOT_UNPACKED = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*")
MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ALTERNATIVES = {"usr/bin/sh": "dash", "usr/bin/awk": "mawk", "usr/bin/which": "which.debianutils"}

Progress = Callable[[str], None]
Bind = Path | tuple[Path, str]
"""A path that is seen at the same place inside, or (path outside, place inside)."""


def cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sanling"


def key(suite: str, packages: Iterable[str]) -> str:
    machine = os.uname().machine
    text = "\n".join([RECIPE, machine, suite, *sorted({*packages, *ALWAYS})])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def present(name: str, suite: str, packages: Iterable[str]) -> Path | None:
    """The root, if it is in the cache already."""
    found = sorted((cache_dir() / "roots").glob(f"{name}-*-{key(suite, packages)}"))
    return found[-1] if found else None


def fetch(name: str, suite: str, packages: Iterable[str], *, progress: Progress) -> Path:
    """The root that holds `packages` of Debian's `suite`, fetched if the cache lacks it.

    The first package gives the folder its version. Safe for several processes at once; an interrupted fetch leaves
    only what it downloaded, and goes on from there. Raises SetUpFailed with what to do.
    """
    wanted = tuple(packages)
    if (ready := present(name, suite, wanted)) is not None:
        return ready
    folder = cache_dir() / "roots"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".{name}-{key(suite, wanted)}.lock"):
        if (ready := present(name, suite, wanted)) is not None:
            return ready
        work = folder / f".{name}-{key(suite, wanted)}.apt"
        apt = _PrivateApt(work, suite)
        progress(f"{name}: reading the package index of {suite}")
        apt.update()
        versions = apt.download(sorted({*wanted, *ALWAYS}), lambda text: progress(f"{name}: {text}"))
        debs = sorted((work / "cache/archives").glob("*.deb"))
        building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            progress(f"{name}: unpacking {len(debs)} packages")
            _unpack(debs, building)
            _finish(building, versions)
            building.chmod(0o755)
            target = folder / f"{name}-{_upstream(versions[wanted[0]])}-{key(suite, wanted)}"
            building.rename(target)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    progress(f"{name}: ready in {target}")
    return target


def bubblewrap(root: Path) -> list[str]:
    """The command that starts bubblewrap: the machine's, else the root's own through the root's own loader."""
    if system := shutil.which("bwrap"):
        return [system]
    loader = next(iter(sorted((root / "usr/lib64").glob("ld-linux*"))), None) or next(
        iter(sorted((root / "usr/lib").glob("ld-linux*"))), None
    )
    if loader is None:
        raise SetUpFailed("bubblewrap is missing: run `sudo apt-get install -y bubblewrap`.")
    libraries = sorted(str(p) for p in (root / "usr/lib").glob("*-linux-gnu*") if p.is_dir())
    return [str(loader), "--library-path", ":".join(libraries), str(root / "usr/bin/bwrap")]


def sandbox(
    root: Path,
    argv: Iterable[str],
    *,
    ro_binds: Iterable[Bind] = (),
    rw_binds: Iterable[Bind] = (),
    env: Mapping[str, str] | None = None,
    uid: int | None = None,
) -> list[str]:
    """The command line that runs `argv` inside `root`.

    Inside there are the root's ``/usr`` and ``/etc``, read-only, an empty ``/tmp``, ``/var`` and ``/run``, and the
    binds; nothing else of the machine but its network. The program dies with the process that started it. `env` is
    added to a clean environment. With `uid` (such as SANDBOX_UID) the program believes to be that user; files it
    makes are its starter's all the same.

    Raises FileNotFoundError if there is no root, and SetUpFailed if there is no bubblewrap.
    """
    root = root.resolve()
    parts = sorted((root / "usr").iterdir())  # first: whether there is a root at all matters more than what is missing
    command = [*bubblewrap(root), "--die-with-parent", "--clearenv"]
    if uid is not None:
        command += ["--unshare-user", "--uid", str(uid), "--gid", str(uid)]
    for part in parts:
        if part.name not in ("local", "src"):  # a clone may lie there
            command += ["--ro-bind", str(part), f"/usr/{part.name}"]
    for link, target in MERGED.items():
        if (root / target).is_dir():
            command += ["--symlink", target, f"/{link}"]
    if (root / "opt").is_dir():
        command += ["--ro-bind", str(root / "opt"), "/opt"]
    command += ["--ro-bind", str(root / "etc"), "/etc"]
    command += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]
    command += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--dir", "/var/tmp", "--dir", "/run"]  # noqa: S108
    for option, binds in (("--ro-bind", ro_binds), ("--bind", rw_binds)):
        for bind in binds:
            outside, inside = bind if isinstance(bind, tuple) else (bind, str(bind))
            command += [option, str(outside), inside]
    environment = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **(env or {})}  # noqa: S108
    for name, value in environment.items():
        command += ["--setenv", name, value]
    return [*command, "--", *argv]


def check_sandbox(root: Path) -> None:
    """Raises SetUpFailed, saying what to do, where this machine lets nobody make a sandbox."""
    result = subprocess.run(sandbox(root, ["true"]), capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetUpFailed(_what_forbids_sandboxes(result.stderr.strip()))


def _what_forbids_sandboxes(said: str) -> str:
    switches = {
        "kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1"),
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        "user/max_user_namespaces": ("0", "user.max_user_namespaces=15000"),
    }
    for path, (forbids, cure) in switches.items():
        file = Path("/proc/sys") / path
        if file.exists() and file.read_text().strip() == forbids:
            return f"This machine forbids user namespaces ({said}). Run `sudo sysctl -w {cure}` and try again."
    return (
        f"This machine does not let bubblewrap make a sandbox ({said}). In a container, start it with "
        "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined`; or install Asterisk 20 or later "
        "on the machine itself: `sudo apt-get install -y asterisk`."
    )


class _PrivateApt:
    """apt with its state, cache and sources in `work`; the machine's own are read, never written."""

    def __init__(self, work: Path, suite: str) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise SetUpFailed("No apt here: install Asterisk 20 or later with this system's own packages.")
        mirror, keyring = mirror_of(suite)
        for part in ("state/lists/partial", "cache/archives/partial", "empty"):
            (work / part).mkdir(parents=True, exist_ok=True)
        (work / "status").write_text("")
        signed = f"[signed-by={keyring}] " if keyring else ""
        (work / "sources.list").write_text(f"deb {signed}{mirror} {suite} main\n")
        options = {
            "Dir::State": work / "state",
            "Dir::State::status": work / "status",
            "Dir::Cache": work / "cache",
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": work / "empty",
            "Dir::Etc::preferences": work / "no-preferences",
            "Dir::Etc::preferencesparts": work / "empty",
            "Dir::Log": work,
            "Acquire::Check-Valid-Until": "false",  # a mirror may be a snapshot; signatures are checked all the same
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Update::Post-Invoke-Success": "",
        }
        self._work = work
        (work / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))

    def _run(self, *arguments: str) -> str:
        result = subprocess.run(
            ["apt-get", "-q", *arguments],
            env={**os.environ, "APT_CONFIG": str(self._work / "apt.conf"), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            reasons = [line for line in result.stderr.splitlines() if line.startswith("E:")] or [result.stderr]
            hint = ""
            if "NO_PUBKEY" in result.stderr or "is not signed" in result.stderr:
                hint = " Its key is newer than this machine's: run `sudo apt-get install -y debian-archive-keyring`."
            raise SetUpFailed(f"apt could not {arguments[0]}: {' '.join(reasons)[:600]}{hint}")
        return result.stdout

    def update(self) -> None:
        self._run("update")

    def download(self, packages: list[str], progress: Progress) -> dict[str, str]:
        """Fetches the packages with all they depend on; gives each one's version."""
        plan = re.findall(r"^'[^']*' (\S+) (\d+) ", self._run("install", "-y", "--print-uris", *packages), re.M)
        if plan:  # else all is there from an interrupted fetch
            progress(f"downloading {len(plan)} packages, {sum(int(size) for _, size in plan) / 1e6:.0f} MB")
        self._run("install", "-y", "--download-only", *packages)
        simulated = self._run("install", "-y", "--simulate", *packages)
        return dict(re.findall(r"^Inst (\S+) \((\S+) ", simulated, re.M))


def mirror_of(suite: str) -> tuple[str, Path | None]:
    """Where this machine's apt gets Debian from, and the keyring that vouches for it.

    apt itself is asked, so that both formats of sources, mirror lists and drop-ins count as they do for apt.
    Raises SetUpFailed where the machine's apt does not get Debian.
    """
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    own = _codename()
    for line in listed.splitlines():
        uri, release, component = [*line.split(), "", "", ""][:3]
        plain = release in (own, suite, "stable", "testing", "unstable", "sid")
        if component == "main" and plain and _is_debian():
            keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
            return uri, keyring if keyring.exists() else None
    raise SetUpFailed(
        f"This machine's apt does not know Debian's {suite}. Install Asterisk 20 or later on the machine: "
        "`sudo apt-get install -y asterisk`."
    )


def _os_release() -> dict[str, str]:
    file = Path("/etc/os-release")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return {k: v.strip('"') for k, _, v in (line.partition("=") for line in text.splitlines())}


def _codename() -> str:
    return _os_release().get("VERSION_CODENAME", "")


def _is_debian() -> bool:
    return _os_release().get("ID") == "debian"


def _unpack(debs: list[Path], into: Path) -> None:
    for link, target in MERGED.items():  # before any package, or an old one makes a real folder there
        (into / target).mkdir(parents=True, exist_ok=True)
        (into / link).symlink_to(target)

    def one(deb: Path) -> None:
        # `dpkg-deb -x` would put a folder in place of the links above; tar can be told not to.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as archive:
            unpacked = subprocess.run(
                ["tar", "-x", "--no-same-owner", "--keep-directory-symlink", "-C", into,
                 *(f"--exclude={pattern}" for pattern in NOT_UNPACKED)],
                stdin=archive.stdout, capture_output=True, text=True, check=False,
            )  # fmt: skip
        if unpacked.returncode or archive.returncode:
            raise SetUpFailed(f"{deb.name} does not unpack: {unpacked.stderr.strip()[:300]}")

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(one, debs))


def _finish(root: Path, versions: Mapping[str, str]) -> None:
    """What maintainer scripts would have made."""
    for link, target in ALTERNATIVES.items():
        if not (root / link).exists() and (root / "usr/bin" / target).exists():
            (root / link).symlink_to(target)
    etc = root / "etc"
    for name in ("passwd", "group"):
        master = root / f"usr/share/base-passwd/{name}.master"
        own = "sanling:x:{0}:{0}::/tmp:/bin/sh\n" if name == "passwd" else "sanling:x:{0}:\n"
        (etc / name).write_text(master.read_text() + own.format(SANDBOX_UID))
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {os.uname().nodename}\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\nservices: files\n")
    (etc / "resolv.conf").write_text("")
    (etc / "sanling-root").write_text("".join(f"{name} {version}\n" for name, version in sorted(versions.items())))
    check_sandbox(root)
    linked = [*bubblewrap(root), "--bind", str(root), "/", "--dev", "/dev", "--clearenv", "--", "/usr/sbin/ldconfig"]
    result = subprocess.run(linked, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetUpFailed(f"ldconfig failed in the new root: {result.stderr.strip()[:300]}")


def _upstream(version: str) -> str:
    """``1:22.10.1+dfsg+~cs6.17-1`` → ``22.10.1``."""
    return re.split(r"[+~-]", version.partition(":")[2] or version)[0]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
