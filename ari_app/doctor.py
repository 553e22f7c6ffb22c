"""Each part of a hotline, checked: what is there, and what to do about what is not."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ari_app import callbacks, opening, store
from ari_app import rules as desk_rules
from ari_app.errors import SanlingError, StoreUnavailable
from ari_app.instance import Instance
from ari_app.prompts import Catalogue
from ari_app.settings import Settings
from recordings.stores import FolderStore, S3Store, Store, StoreError

WITHIN_S = 3.0
STRANGE = "Is this another program's address or folder? Compare `address`, the ports and the folders in hotline.toml."
CLOCK_TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Finding:
    part: str
    healthy: bool
    said: str
    remedy: str = ""


class Sick(Exception):
    """A part is not well; `remedy` says what to do."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.remedy = remedy


async def examine(settings: Settings) -> list[Finding]:
    """Every part, in the order in which a hotline needs them; never raises for what is broken."""
    instance = Instance(settings)
    parts: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("Asterisk", lambda: asyncio.to_thread(_asterisk, instance)),
        ("prompts", lambda: asyncio.to_thread(_prompts, settings)),
        ("database", lambda: asyncio.to_thread(_database, settings)),
        ("ARI", lambda: asyncio.to_thread(_ari, instance)),
        ("modules", lambda: asyncio.to_thread(_modules, instance)),
        ("AGI", lambda: _agi(settings)),
        ("controller", lambda: asyncio.to_thread(_controller, settings)),
        ("local store", lambda: asyncio.to_thread(_store, FolderStore(settings.local_store, "local"))),
        ("second store", lambda: asyncio.to_thread(_store, second_store(settings))),
        ("disk", lambda: asyncio.to_thread(_disk, settings)),
        ("callbacks", lambda: asyncio.to_thread(_callbacks, settings)),
        ("opening hours", lambda: asyncio.to_thread(_hours, settings)),
        ("clock", lambda: asyncio.to_thread(_clock, instance)),
    ]
    findings = []
    for part, look in parts:
        try:
            findings.append(Finding(part, True, await look()))
        except Sick as sick:
            findings.append(Finding(part, False, str(sick), sick.remedy))
        except SanlingError as error:
            findings.append(Finding(part, False, str(error)))
        except Exception as error:  # whoever answers there is not the part we know
            findings.append(Finding(part, False, f"strange: {type(error).__name__}: {error}", STRANGE))
    return findings


def second_store(settings: Settings) -> Store:
    """The second store that the settings name. REC-2."""
    s3 = settings.recordings.s3
    if not s3.endpoint:
        return FolderStore(settings.second_store, "second")
    return S3Store(
        endpoint=s3.endpoint, bucket=s3.bucket, access_key=s3.access_key, secret_key=s3.secret_key, region=s3.region
    )


def _asterisk(instance: Instance) -> str:
    try:
        major = instance.asterisk.major
    except OSError as error:
        raise Sick(f"none in {instance.settings.asterisk_root}", "Leave asterisk_root out of hotline.toml.") from error
    if major < 20:
        raise Sick(f"version {instance.asterisk_version}", "Sanling needs Asterisk 20 or newer.")
    return f"{instance.asterisk_version}, {'system' if instance.asterisk.root is None else 'private root'}"


def _prompts(settings: Settings) -> str:
    return f"{len(Catalogue.load(settings.prompts))} prompts, wording and audio as sealed"


def _database(settings: Settings) -> str:
    engine = store.open_engine(settings.database)
    try:
        store.check_version(engine)
        with store.session(engine) as session:
            session.connection().exec_driver_sql("SELECT 1")
    except StoreUnavailable as error:
        remedy = "Is the server of database_url up?" if settings.database_url else "Run `sanling setup`."
        raise Sick(str(error), remedy) from error
    finally:
        engine.dispose()
    return f"{engine.url.get_backend_name()}, tables of this version"


NOT_RUNNING = "Start the hotline: make run."


def _ask(instance: Instance, path: str) -> object:
    """GET of ARI; raises Sick if nobody answers."""
    request = urllib.request.Request(f"{instance.ari_url}/{path}")  # noqa: S310 (our own address)
    try:
        login = b64encode(f"{instance.ari_user}:{instance.ari_password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Sick(
            f"answered {error.code}", "Was secrets.toml changed while Asterisk ran? Restart the hotline."
        ) from error
    except (OSError, SanlingError) as error:
        raise Sick(f"does not answer at {instance.ari_url}", NOT_RUNNING) from error


def _ari(instance: Instance) -> str:
    info = _ask(instance, "asterisk/info")
    if not isinstance(info, dict):
        raise Sick("answered strangely", NOT_RUNNING)
    return f"answers at {instance.ari_url}, Asterisk {info['system']['version']}"


def _modules(instance: Instance) -> str:
    loaded = _ask(instance, "asterisk/modules")
    running = (
        {module["name"] for module in loaded if module["status"] == "Running"} if isinstance(loaded, list) else set()
    )
    missing = instance.required_modules() - running
    if missing:
        raise Sick(f"not running: {', '.join(sorted(missing))}", "See log/messages.log in the run-time folder.")
    return f"{len(running)} running, none missing"


async def _agi(settings: Settings) -> str:
    """A whole AGI session, as Asterisk would hold it."""
    at = f"{settings.control_address}:{settings.agi_port}"
    began = time.perf_counter()
    try:
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection(settings.control_address, settings.agi_port)
            request = f"agi_network_script: case_context\nagi_request: agi://{at}/case_context\nagi_arg_1: \n\n"
            writer.write(request.encode())
            answers = 0
            with closing(writer):
                while (await reader.readline()).startswith(b"SET VARIABLE"):
                    answers += 1
                    writer.write(b"200 result=1\n")
    except (OSError, TimeoutError) as error:
        raise Sick(f"does not answer at {at}", NOT_RUNNING) from error
    if not answers:
        raise Sick(f"answers at {at}, but sets no variables", "See log/agi.log in the run-time folder.")
    return f"answers at {at}, {answers} variables in {(time.perf_counter() - began) * 1000:.1f} ms"


def _controller(settings: Settings) -> str:
    url = f"http://{settings.control_address}:{settings.metrics_port}/health"
    try:
        with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
            parts = json.load(answer)
    except urllib.error.HTTPError as error:
        parts = json.load(error)
        away = ", ".join(part for part, ready in parts["parts"].items() if not ready)
        raise Sick(f"runs, but is not ready: {away}", "See log/controller.log in the run-time folder.") from error
    except OSError as error:
        raise Sick(f"does not answer at {url}", NOT_RUNNING) from error
    return f"ready, metrics at {url.removesuffix('health')}metrics"


def _store(kept: Store) -> str:
    try:
        kept.check()
    except StoreError as error:
        raise Sick(str(error), "No recording is stored twice until this is mended; the spool keeps them.") from error
    return f"writable, {kept.root if isinstance(kept, FolderStore) else kept.where('…')}"


def _callbacks(settings: Settings) -> str:
    """Whether whoever is to be called back can be called."""
    engine = store.open_engine(settings.database)
    try:
        with store.session(engine) as session:
            count = len(callbacks.read(session))
    finally:
        engine.dispose()
    if count and not settings.trunk.outbound:
        raise Sick(
            f"{count} wait, and nothing is set to call them through",
            "Set trunk.outbound in hotline.toml, or call them yourself: sanling callbacks.",
        )
    return (
        f"{count} open" if settings.trunk.outbound else "none open; trunk.outbound is not set, so none will be called"
    )


def _hours(settings: Settings) -> str:
    """Whether the calendar tells of this year, and near its end of the next."""
    rules, now = desk_rules.load(desk_rules.file_of()), time.time()
    if not opening.depends_on_the_calendar(rules):
        return "open at all times"
    if years := opening.unknown_years(rules, settings.zone, now):
        raise Sick(
            f"the calendar knows nothing of {', '.join(map(str, years))}: days go by their weekday",
            "Add the State Council's notice to ari_app/calendar.toml, or name a file in desk.toml: hours.calendar.",
        )
    return "open now" if opening.is_open(rules, settings.zone, now) else "closed now"


def _disk(settings: Settings) -> str:
    folder: Path = settings.run_dir
    while not folder.exists():
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free // 1_000_000
    if free_mb < settings.recordings.minimum_free_mb:
        raise Sick(
            f"{free_mb} MB free, {settings.recordings.minimum_free_mb} MB wanted",
            "Make room; a call of one minute takes 2 MB while it lasts.",
        )
    return f"{free_mb / 1000:.0f} GB free"


def _clock(instance: Instance) -> str:
    """Asterisk's clock against ours, and ours against the year in which this was written."""
    if time.time() < 1_760_000_000:
        raise Sick(f"it says {time.strftime('%Y-%m-%d')}", "Set the clock: timedatectl set-ntp true.")
    pong = _ask(instance, "asterisk/ping")
    said = pong.get("timestamp", "") if isinstance(pong, dict) else ""
    apart = abs(dt.datetime.strptime(said, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() - time.time())
    if apart > CLOCK_TOLERANCE_S:
        raise Sick(f"Asterisk's clock is {apart:.1f} s off", "Set the clock: timedatectl set-ntp true.")
    return f"set, Asterisk within {apart:.2f} s"
