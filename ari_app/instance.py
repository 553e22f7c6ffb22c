"""One hotline on one machine: its run-time folder and its Asterisk.

Everything of an instance lies in ``settings.run_dir``. SIP and RTP listen on ``settings.address``, all else on
``settings.control_address``, so that several run side by side. Asterisk is the machine's own from version 20 on, else
one from Debian, unpacked in the user's cache and run under bubblewrap (see :mod:`ari_app.roots`); both see the project
and the run-time folder at the same absolute paths, so that one configuration serves both.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import logging
import os
import re
import secrets
import shutil
import socket
import string
import subprocess
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ari_app import roots
from ari_app.errors import SetUpFailed
from ari_app.processes import end_child, kill_group, start_child
from ari_app.settings import PROJECT, Settings

log = logging.getLogger("sanling.house")

OLDEST_ASTERISK = 20
SUITE, PACKAGES = "forky", ("asterisk",)

STARTS_WITHIN_S = 30.0
ANSWERS_WITHIN_S = 5.0

AGI_GUARD_S = 1.0
"""Asterisk itself gives a look-up up this long after the AGI server should have."""


@dataclass(frozen=True)
class AgentAccount:
    """An agent's SIP account: `number` is account and address, `sip_ha1` = md5("number:sanling:password"). AGT-1."""

    number: str
    sip_ha1: str
    name: str = ""


@dataclass(frozen=True)
class Asterisk:
    """An Asterisk that can be started; `root` is None for the machine's own."""

    version: str
    root: Path | None

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find_asterisk(settings: Settings, progress: roots.Progress = log.info) -> Asterisk:
    """The machine's Asterisk from version 20 on, else a private one, fetched if the cache lacks it.

    Blocks for as long as a download takes. Raises SetUpFailed with what to do.
    """
    if settings.asterisk_root:
        root = Path(settings.asterisk_root)
        return Asterisk(_version(roots.sandbox(root, ["asterisk", "-V"])), root)
    if (system := shutil.which("asterisk", path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is not None:
        own = Asterisk(_version([system, "-V"]), None)
        if own.major >= OLDEST_ASTERISK:
            return own
        progress(f"this machine's Asterisk {own.version} is older than {OLDEST_ASTERISK}: using a private one")
    root = roots.fetch("asterisk", SUITE, PACKAGES, progress=progress)
    return Asterisk(_version(roots.sandbox(root, ["asterisk", "-V"])), root)


def _version(command: Sequence[str]) -> str:
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"Asterisk (?:certified/)?(\d+(?:\.\d+)*)", said.stdout)
    if match is None:
        raise SetUpFailed(f"`{command[-2]} -V` does not say its version: {(said.stderr or said.stdout).strip()[:300]}")
    return match[1]


class _Template(string.Template):
    """``@{name}``, because ``${name}`` is Asterisk's own."""

    delimiter = "@"


class Instance:
    """The run-time folder and the Asterisk of one hotline.

    ``prepare()``, then ``start_asterisk()`` … ``stop()``; all processes: :mod:`ari_app.supervision`. Not for use in
    threads other than the event loop's: children die with the thread that started them.
    """

    def __init__(self, settings: Settings, progress: roots.Progress = log.info) -> None:
        self.settings = settings
        self._progress = progress
        self._asterisk: Asterisk | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._said_before = 0
        """Bytes in messages.log that are from earlier starts."""

    @property
    def asterisk(self) -> Asterisk:
        if self._asterisk is None:
            self._asterisk = find_asterisk(self.settings, self._progress)
        return self._asterisk

    @property
    def asterisk_version(self) -> str:
        return self.asterisk.version

    @property
    def ari_url(self) -> str:
        return f"http://{self.settings.control_address}:{self.settings.ari_port}/ari"

    @property
    def ari_user(self) -> str:
        return str(self.secrets["ari"]["user"])

    @property
    def ari_password(self) -> str:
        return str(self.secrets["ari"]["password"])

    @property
    def trunk_password(self) -> str:
        return str(self.secrets["trunk"]["password"])

    @property
    def secrets(self) -> dict[str, Any]:
        """Raises SetUpFailed before ``prepare()``."""
        try:
            return tomllib.loads(self.settings.secrets_file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SetUpFailed(f"{self.settings.secrets_file} is missing: run `make demo` or `make run`.") from error

    # Preparing

    def prepare(self, agents: Iterable[AgentAccount]) -> None:
        """Makes the run-time folder, the secrets and Asterisk's configuration; keeps the secrets that are there."""
        run_dir = self.settings.run_dir
        for path in (run_dir, PROJECT, self.settings.prompts):
            if not re.fullmatch(r"[\w./+@~ -]+", str(path)):
                raise SetUpFailed(f"{path}: Asterisk cannot work with this folder's name; use letters, digits, . _ -")
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.chmod(0o700)
        parts = ("etc", "log/cdr-custom", "run", "lib/music", "spool/monitor", "spool/callbacks", "spool/recording")
        for part in parts:
            (run_dir / part).mkdir(parents=True, exist_ok=True)
        (run_dir / "etc").chmod(0o700)
        self._make_secrets()
        self._link_music()
        values = self._values()
        for template in sorted((PROJECT / "asterisk-conf").glob("*.conf")):
            text = _Template(template.read_text(encoding="utf-8")).substitute(values)
            _write(run_dir / "etc" / template.name, text)
        _write(run_dir / "etc" / "hosts", f"127.0.0.1 localhost\n{self.settings.address} {socket.gethostname()}\n")
        self.write_agents(agents)

    def write_agents(self, agents: Iterable[AgentAccount]) -> None:
        """Renders the agents' accounts; takes effect at the next start or ``reload_agents()``."""
        sections = [_account(agent) for agent in sorted(agents, key=lambda agent: agent.number)]
        _write(self.settings.run_dir / "etc" / "pjsip-agents.conf", "\n".join(sections))

    async def reload_agents(self) -> None:
        """Has the running Asterisk take the agents' accounts anew; registrations stay.

        Raises SetUpFailed if Asterisk does not answer or refuses.
        """
        status, body = await self._ari("PUT", "asterisk/modules/res_pjsip.so")
        if status != 204:
            raise SetUpFailed(f"Asterisk did not reload the agents: {status} {body[:200].decode(errors='replace')}")

    def _make_secrets(self) -> None:
        file = self.settings.secrets_file
        if file.exists():
            return
        text = (
            f'[ari]\nuser = "sanling"\npassword = "{secrets.token_urlsafe(24)}"\n\n'
            f'[trunk]\npassword = "{secrets.token_urlsafe(24)}"\n'
        )
        _write(file, text)

    def _link_music(self) -> None:
        link = self.settings.run_dir / "lib" / "music" / "hold-music.alaw"
        target = self.settings.prompts / "audio" / "hold-music.alaw"
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def _values(self) -> dict[str, str]:
        settings = self.settings
        trunk = settings.trunk
        options, sections = [], []
        login = f"type = auth\nauth_type = userpass\nusername = {trunk.username}\npassword = {self.trunk_password}"
        if trunk.username:
            options.append("auth = trunk-auth")
            sections.append(f"[trunk-auth]\n{login}\nrealm = sanling")
        if trunk.outbound:
            options.append("aors = trunk")
            sections.append(f"; Calls that we place go here.\n[trunk]\ntype = aor\ncontact = sip:{trunk.outbound}")
        if trunk.outbound and trunk.username:
            options.append("outbound_auth = trunk-outbound")
            sections.append(f"[trunk-outbound]\n{login}")
        return {
            "run_dir": str(settings.run_dir),
            "instance": settings.instance,
            "address": settings.address,
            "control_address": settings.control_address,
            "sip_port": str(settings.sip_port),
            "ari_port": str(settings.ari_port),
            "agi_port": str(settings.agi_port),
            "ari_user": self.ari_user,
            "ari_password": self.ari_password,
            "codecs": ",".join(settings.codecs),
            "trunk_options": "\n".join(options),
            "trunk_sections": "\n\n".join(sections),
            "trunk_caller_id": trunk.caller_id or settings.hotline_numbers[0],
            "trunk_matches": "\n".join(f"match = {address}" for address in trunk.addresses),
            "rtp_low": str(settings.rtp_ports[0]),
            "rtp_high": str(settings.rtp_ports[1]),
            "at_once": "yes" if not settings.answering.after_rings else "no",
            "agi_guard_s": f"{settings.agi_deadline_s + AGI_GUARD_S:g}",
            "prompts": str(settings.prompts / "audio"),
            "hotline_numbers": "\n".join(f"exten => {n},1,Goto(hotline,s,1)" for n in settings.hotline_numbers),
            "dialplan": str(PROJECT / "dialplan" / "extensions.conf"),
        }

    # Asterisk

    def asterisk_command(self) -> list[str]:
        run_dir = self.settings.run_dir
        command = ["asterisk", "-f", "-C", str(run_dir / "etc" / "asterisk.conf")]
        if self.asterisk.root is None:
            return command
        return roots.sandbox(
            self.asterisk.root,
            command,
            ro_binds=[PROJECT, self.settings.prompts, (run_dir / "etc" / "hosts", "/etc/hosts")],
            rw_binds=[run_dir],
            env={"TZ": self.settings.time_zone},
        )

    async def start_asterisk(self) -> None:
        """Starts Asterisk and returns once it serves calls. Raises SetUpFailed, saying what is in its way."""
        self._check_ports()
        messages = self.settings.run_dir / "log" / "messages.log"
        self._said_before = messages.stat().st_size if messages.exists() else 0
        with (self.settings.run_dir / "log" / "asterisk.out").open("wb") as out:
            self._process = await start_child(self.asterisk_command(), {"TZ": self.settings.time_zone}, out)
        try:
            async with asyncio.timeout(STARTS_WITHIN_S):
                while not await self._is_up():
                    if self._process.returncode is not None:
                        raise SetUpFailed(f"Asterisk ended while starting. Its last words:\n{self.last_words()}")
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            await self.stop()
            raise SetUpFailed(
                f"Asterisk did not come up within {STARTS_WITHIN_S:.0f} s. Its last words:\n{self.last_words()}"
            ) from error
        except BaseException:
            await self.stop()
            raise

    async def wait_asterisk(self) -> int:
        """Returns when Asterisk ends: its exit code, negative for a signal."""
        if self._process is None:
            raise SetUpFailed("Asterisk was not started.")
        return await self._process.wait()

    @property
    def asterisk_pid(self) -> int | None:
        return self._asterisk_pid(self._process) if self._process is not None else None

    def kill_asterisk(self) -> None:
        """At once; `wait_asterisk` returns then."""
        if self._process is not None:
            kill_group(self._process.pid)

    async def answers(self) -> bool:
        """Whether Asterisk says anything at all over HTTP, in `ANSWERS_WITHIN_S`."""
        try:
            await self._ari("GET", "asterisk/info")
        except SetUpFailed:
            return False
        return True

    async def channels(self) -> int:
        """How many channels Asterisk has. Raises SetUpFailed if it does not answer."""
        status, body = await self._ari("GET", "channels")
        if status != 200:
            raise SetUpFailed(f"Asterisk does not tell its channels: {status}")
        return len(json.loads(body))

    async def stop(self) -> None:
        """Ends Asterisk: asked first, killed after a while. Harmless if it does not run."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        await end_child(process, self._asterisk_pid(process))

    def last_words(self, lines: int = 12) -> str:
        """The end of what Asterisk logged and printed since it was started."""
        said: list[str] = []
        for name, skipped in (("messages.log", self._said_before), ("asterisk.out", 0)):
            file = self.settings.run_dir / "log" / name
            if file.exists():
                said += file.read_bytes()[skipped:].decode("utf-8", "replace").splitlines()[-lines:]
        return "\n".join(said) or "(it said nothing)"

    def _asterisk_pid(self, process: asyncio.subprocess.Process) -> int:
        """Asterisk's own: the child of bubblewrap, which passes no signals on."""
        if self.asterisk.root is None:
            return process.pid
        try:
            below = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:
            return process.pid
        return int(below[0]) if below else process.pid

    async def _is_up(self) -> bool:
        try:
            status, body = await self._ari("GET", "asterisk/modules")
        except SetUpFailed:
            return False
        if status != 200:
            return False
        running = {module["name"] for module in json.loads(body) if module["status"] == "Running"}
        return self.required_modules() <= running

    def required_modules(self) -> set[str]:
        text = (self.settings.run_dir / "etc" / "modules.conf").read_text(encoding="utf-8")
        return set(re.findall(r"^require = (\S+)", text, re.M))

    async def _ari(self, method: str, path: str) -> tuple[int, bytes]:
        try:
            return await asyncio.to_thread(self._ari_now, method, path)
        except (OSError, http.client.HTTPException) as error:
            raise SetUpFailed(f"Asterisk at {self.ari_url} does not answer: {error}") from error

    def _ari_now(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(
            self.settings.control_address, self.settings.ari_port, timeout=ANSWERS_WITHIN_S
        )
        try:
            who = base64.b64encode(f"{self.ari_user}:{self.ari_password}".encode()).decode()
            connection.request(method, f"/ari/{path}", headers={"Authorization": f"Basic {who}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _check_ports(self) -> None:
        settings = self.settings
        wanted = (
            (settings.address, socket.SOCK_DGRAM, settings.sip_port, "udp"),
            (settings.control_address, socket.SOCK_STREAM, settings.ari_port, "tcp"),
        )
        for address, kind, port, name in wanted:
            with socket.socket(socket.AF_INET, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as error:
                    raise SetUpFailed(
                        f"{address}:{port}/{name} is not free ({error.strerror}). Is this instance running "
                        "already? Another address: SANLING_ADDRESS=127.0.20.2"
                    ) from error


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which ``ari_app.settings.load()`` gives these very settings, whatever file lies around."""

    def flat(tree: dict[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name.upper()}__")
            elif isinstance(value, list | tuple):
                yield f"{prefix}{name.upper()}", ",".join(map(str, value))
            else:
                yield f"{prefix}{name.upper()}", str(value)

    return {**dict(flat(msgspec.to_builtins(settings), "SANLING_")), "SANLING_CONFIG": os.devnull}


def _account(agent: AgentAccount) -> str:
    """Name and wishes of people stay out of the configuration; numbers and digests cannot carry a line of their own."""
    if not re.fullmatch(r"\d{2,8}", agent.number) or not re.fullmatch(r"[0-9a-f]{32}", agent.sip_ha1):
        raise SetUpFailed(f"Agent {agent.number[:8]!r}: a number has 2 to 8 digits, its digest 32 hexadecimal ones.")
    n = agent.number
    return (
        f"[{n}](agent)\nauth = {n}\naors = {n}\ncallerid = <{n}>\n\n"
        f"[{n}](agent-auth)\nusername = {n}\nmd5_cred = {agent.sip_ha1}\n\n"
        f"[{n}](agent-aor)\n"
    )


def _write(file: Path, text: str) -> None:
    """Replaces the file at once, mode 600: a reader never sees half of it."""
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    new = file.with_name(f".{file.name}.{os.getpid()}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    new.replace(file)
