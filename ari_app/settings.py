"""Every setting of a hotline, in one frozen tree.

The only reader of the environment and of ``hotline.toml``. A value in the environment wins:
``SANLING_ADDRESS=127.0.0.11``, ``SANLING_QUEUE__ANNOUNCE_EVERY_S=20`` (two underscores go one level down).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from ari_app import written
from ari_app.errors import SettingsInvalid

PROJECT = Path(__file__).resolve().parent.parent

MAINLAND_RING_S = 5.0
"""One ring of the mainland's ringback tone: 1 s on, 4 s off. SOP-1."""

MAINLAND_RING_ON_S = 1.0


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of settings; an unknown name in the file is an error, not a typo that goes unnoticed."""


class Answering(Part, frozen=True):
    after_rings: int = 1
    """The caller hears this many bursts of ringback before the hotline picks up (at most 3); 0: it picks up at once, in
    the dialplan. SOP-1.
    """
    deadline_s: float = 11.0
    """Three mainland rings: bursts start at 0, 5 and 10 s, the third ends at 11 s. SOP-1."""

    @property
    def delay_s(self) -> float:
        """From the INVITE to the answer: the end of the last burst, never past the deadline."""
        if not self.after_rings:
            return 0.0
        return min((self.after_rings - 1) * MAINLAND_RING_S + MAINLAND_RING_ON_S, self.deadline_s)


class Keypad(Part, frozen=True):
    first_digit_s: float = 8.0
    between_digits_s: float = 5.0


class Queue(Part, frozen=True):
    announce_every_s: float = 30.0
    offer_timeout_s: float = 11.0
    """An agent's phone rings at most three rings. SOP-1."""
    wrap_up_s: float = 20.0
    expected_handle_s: float = 180.0
    """Mean handle time used for the expected wait until enough calls were measured. KPI-1."""


class Ending(Part, frozen=True):
    leave_within_s: float = 5.0
    """After the closing question the caller has this long to hang up. SOP-6."""
    call_ceiling_s: float = 3600.0
    warn_before_ceiling_s: float = 60.0


class Trunk(Part, frozen=True):
    addresses: tuple[str, ...] = ("127.0.0.1",)
    """Addresses or networks whose calls are the trunk's."""
    username: str = ""
    """With a user name the trunk must also pass digest authentication; the password is in secrets.toml."""
    outbound: str = ""
    """Where calls that we place are sent: ``host`` or ``host:port``. Empty: none are placed."""
    caller_id: str = ""
    """The number that people see when we call them; empty: the first of `hotline_numbers`."""


class S3(Part, frozen=True):
    endpoint: str = ""
    """URL of the S3 service; empty: the second store is a folder."""
    bucket: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""


class Recordings(Part, frozen=True):
    local: str = ""
    """Folder of the first store; empty: ``recordings/local`` in the run-time folder."""
    second: str = ""
    """Folder of the second store, on another disk in production; empty: ``recordings/second``."""
    s3: S3 = S3()
    listening_copies: bool = False
    """Also make an MP3 of each call for listening."""
    minimum_free_mb: int = 500


class Ledger(Part, frozen=True):
    journal_mb: int = 64
    """Room for what waits for the database; at nine tenths of it no new calls are taken."""


class Settings(Part, frozen=True):
    instance: str = "hotline"
    """Names the run-time folder and begins every call id: letters, digits and dashes."""
    address: str = "127.0.20.1"
    """The instance's own address: SIP and RTP listen here and nowhere else."""
    sip_port: int = 5060
    ari_port: int = 8088
    agi_port: int = 4573
    metrics_port: int = 9464
    api_port: int = 8090
    api_token: str = ""
    """With which the command line asks the API; empty: its own, in the run-time folder."""
    rtp_ports: tuple[int, int] = (20000, 20999)
    hotline_numbers: tuple[str, ...] = ("12368",)
    codecs: tuple[str, ...] = ("alaw", "ulaw")
    time_zone: str = "Asia/Shanghai"
    var_dir: str = ""
    """Where the run-time folders lie; empty: ``var`` in the project."""
    database_url: str = ""
    """SQLAlchemy URL; empty: SQLite in the run-time folder. PostgreSQL: ``postgresql+psycopg://…``"""
    prompts_dir: str = ""
    asterisk_root: str = ""
    """A private root to use instead of the one this project fetches."""
    agi_deadline_s: float = 2.0
    answering: Answering = Answering()
    keypad: Keypad = Keypad()
    queue: Queue = Queue()
    ending: Ending = Ending()
    trunk: Trunk = Trunk()
    recordings: Recordings = Recordings()
    ledger: Ledger = Ledger()

    @property
    def control_address(self) -> str:
        """Where ARI, FastAGI, metrics and the API listen: always on loopback, since none of them is for the network."""
        return self.address if ip_address(self.address).is_loopback else "127.0.0.1"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def run_dir(self) -> Path:
        return (Path(self.var_dir) if self.var_dir else PROJECT / "var") / self.instance

    @property
    def spool_dir(self) -> Path:
        return self.run_dir / "spool"

    @property
    def call_records(self) -> Path:
        """Asterisk's own records of its channels (CDR)."""
        return self.run_dir / "log" / "cdr-custom" / "calls.csv"

    @property
    def journal_dir(self) -> Path:
        """What waits for the database lies here (``ari_app.journal``)."""
        return self.run_dir / "journal"

    @property
    def secrets_file(self) -> Path:
        """Generated at set-up, mode 600: ``[ari] user, password``, ``[trunk] password``."""
        return self.run_dir / "secrets.toml"

    @property
    def prompts(self) -> Path:
        return Path(self.prompts_dir) if self.prompts_dir else PROJECT / "dialplan" / "prompts"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.run_dir / 'sanling.db'}"

    @property
    def local_store(self) -> Path:
        return Path(self.recordings.local) if self.recordings.local else self.run_dir / "recordings" / "local"

    @property
    def second_store(self) -> Path:
        return Path(self.recordings.second) if self.recordings.second else self.run_dir / "recordings" / "second"


NO_SETTINGS = ("SANLING_CONFIG", "SANLING_DESK")
"""Of the environment: where hotline.toml and desk.toml are."""


def load(file: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings from ``hotline.toml`` (or `file`), the environment, and `overrides`, the last one winning.

    Raises SettingsInvalid, naming the setting and the file.
    """
    source = os.environ if environment is None else environment
    named = file or (Path(source["SANLING_CONFIG"]) if source.get("SANLING_CONFIG") else None)
    path = named or PROJECT / "hotline.toml"
    tree: dict[str, Any] = {}
    text = ""
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsInvalid(written.not_toml(path.name, text, error)) from error
        except UnicodeDecodeError as error:
            raise SettingsInvalid(f"{path} is not UTF-8 ({error.reason}): save it as UTF-8.") from error
        except OSError as error:
            raise SettingsInvalid(f"{path} cannot be read: {error.strerror}.") from error
    elif named is not None:
        raise SettingsInvalid(f"There is no settings file {path}.")
    for name, value in source.items():
        if name.startswith("SANLING_") and name not in NO_SETTINGS:
            _place(tree, name.removeprefix("SANLING_").lower().split("__"), value)
    tree |= overrides
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        where, said = written.misfit(tree, msgspec.to_builtins(Settings()), error)
        if written.says(text, where) and written.at(tomllib.loads(text), where) == written.at(tree, where):
            raise SettingsInvalid(written.fault(path.name, text, where, said)) from error
        raise SettingsInvalid(f"{path.name} or the environment: {where}: {said}") from error
    _check(settings)
    return settings


def _place(tree: dict[str, Any], path: list[str], value: str) -> None:
    for name in path[:-1]:
        inner = tree.setdefault(name, {})
        if not isinstance(inner, dict):
            raise SettingsInvalid(f"{name}: a group of settings, not a value.")
        tree = inner
    tree[path[-1]] = value.split(",") if path[-1] in _LISTS else value


_LISTS = {"addresses", "hotline_numbers", "codecs", "rtp_ports"}
_DURATIONS = (
    ("", "agi_deadline_s"), ("keypad", "first_digit_s"), ("keypad", "between_digits_s"), ("queue", "announce_every_s"),
    ("queue", "expected_handle_s"), ("ending", "leave_within_s"), ("ending", "call_ceiling_s"),
    ("ending", "warn_before_ceiling_s"),
)  # fmt: skip


def _check(settings: Settings) -> None:
    if not settings.instance.replace("-", "").isalnum() or not settings.instance.isascii():
        raise SettingsInvalid("instance: use letters, digits and dashes only.")
    if not 0 <= settings.answering.after_rings <= 3:
        raise SettingsInvalid("answering.after_rings: 0 to 3; it answers within three rings (SOP-1).")
    if not 0 < settings.answering.deadline_s <= 15:
        raise SettingsInvalid("answering.deadline_s: at most 15 s (SOP-1).")
    if not 0 < settings.queue.offer_timeout_s <= 15:
        raise SettingsInvalid("queue.offer_timeout_s: at most 15 s; a phone rings three rings at most (SOP-1).")
    for group, name in _DURATIONS:
        if not 0 < getattr(getattr(settings, group) if group else settings, name) < float("inf"):
            raise SettingsInvalid(f"{group}{'.' if group else ''}{name}: seconds, more than 0.")
    if settings.ledger.journal_mb < 1:
        raise SettingsInvalid("ledger.journal_mb: megabytes, 1 or more.")
    if settings.queue.wrap_up_s < 0:
        raise SettingsInvalid("queue.wrap_up_s: seconds, 0 or more.")
    for name in ("sip_port", "ari_port", "agi_port", "metrics_port", "api_port"):
        if not 0 < getattr(settings, name) <= 65535:
            raise SettingsInvalid(f"{name}: a port, 1 to 65535.")
    if not settings.hotline_numbers or not all(re.fullmatch(r"\+?\d+", one) for one in settings.hotline_numbers):
        raise SettingsInvalid("hotline_numbers: one number or more, of digits only.")
    if not settings.codecs or not set(settings.codecs) <= {"alaw", "ulaw"}:
        raise SettingsInvalid("codecs: alaw, ulaw or both.")
    for one in settings.trunk.addresses:
        try:
            ip_network(one, strict=False)
        except ValueError as error:
            raise SettingsInvalid(f"trunk.addresses: {one!r} is neither an address nor a network.") from error
    if settings.trunk.outbound and not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?", settings.trunk.outbound):
        raise SettingsInvalid("trunk.outbound: a host or host:port, as in 10.0.0.1:5060.")
    if not re.fullmatch(r"\+?\d*", settings.trunk.caller_id):
        raise SettingsInvalid("trunk.caller_id: a number, of digits only.")
    if settings.recordings.s3.endpoint and not settings.recordings.s3.bucket:
        raise SettingsInvalid("recordings.s3.bucket: name the bucket of recordings.s3.endpoint.")
    if settings.ending.call_ceiling_s <= settings.ending.warn_before_ceiling_s:
        raise SettingsInvalid("ending.call_ceiling_s must be longer than ending.warn_before_ceiling_s.")
    try:
        ip_address(settings.address)
    except ValueError as error:
        raise SettingsInvalid(f"address: {settings.address!r} is not an IP address.") from error
    try:
        ZoneInfo(settings.time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SettingsInvalid(f"time_zone: there is no zone {settings.time_zone!r}.") from error
    low, high = settings.rtp_ports
    if not 1024 <= low < high <= 65535:
        raise SettingsInvalid("rtp_ports: two ports, the lower first, between 1024 and 65535.")
