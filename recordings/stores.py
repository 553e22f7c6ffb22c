"""Where copies lie: a folder, or a bucket of an S3 service. Both keep one contract.

A name is given once: `put` never replaces what is there. What a store says it holds, it has read again, every byte.

StoreError
 ├── StoreAway         cannot be reached now, or is full: trying again later may help
 ├── StoreRefused      it answers, and says no: a person must act
 ├── Missing           nothing has that name
 └── NameTaken         something else has that name; it was left as it is

Blocking: call from a thread.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import os
import secrets
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from recordings.capture import digest, sync_folder

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CHUNK_BYTES = 1 << 20
SPARE_BYTES = 1 << 20
"""A folder store stops this far from a full disk."""
LEFT_BEHIND_S = 3600.0
"""A half-written file this old has nobody who writes it."""
MARKER = ".sanling-store"


class StoreError(Exception):
    """Its text is a full sentence for the person who looks after the store."""


class StoreAway(StoreError):
    pass


class StoreRefused(StoreError):
    pass


class Missing(StoreError):
    pass


class NameTaken(StoreError):
    pass


class Store(Protocol):
    """One place for copies. `name` is what logs, the ledger and metrics call it. Every method may raise StoreError."""

    @property
    def name(self) -> str: ...

    def where(self, key: str) -> str:
        """How a person finds the copy: a path or a URL."""

    def put(self, key: str, source: Path, sha256: str) -> None:
        """Store a file whole or not at all; the same content again is fine. Raises NameTaken."""

    def digest(self, key: str) -> str:
        """SHA-256 of the copy, every byte read from the store; of a copy known to be damaged, anything else.

        Raises Missing.
        """

    def fetch(self, key: str, target: Path) -> None:
        """Write the copy to `target`. Raises Missing."""

    def set_aside(self, key: str) -> str:
        """Free the name of a damaged copy; nothing is destroyed. Returns where it lies now. Raises Missing."""

    def check(self) -> None:
        """Write, read and take away a small object."""

    def free_bytes(self) -> int | None:
        """None where there is no telling."""


def checked(key: str) -> str:
    """`key`, if it stays inside its store. Raises ValueError."""
    path = PurePosixPath(key)
    if path.is_absolute() or not path.parts or any(part.startswith(".") for part in path.parts):
        raise ValueError(f"not a name in a store: {key!r}")
    return str(path)


class FolderStore:
    """A folder, best on a disk of its own. Files are mode 600, and each is there whole or not at all.

    The folder must carry the marker that `prepare` left: the empty mount point of a disk that is not there has none,
    and is not taken for the store.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name

    def prepare(self) -> None:
        """Make the folder a store. Once, at set-up."""
        with self._translated(any_folder=True):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), (self.root / MARKER).open("x") as marker:
                marker.write(f"{uuid.uuid4()}\n")

    def where(self, key: str) -> str:
        return str(self.root / checked(key))

    def put(self, key: str, source: Path, sha256: str) -> None:
        final = self.root / checked(key)
        with self._translated():
            if final.exists():
                self._expect_same(final, sha256)
                return
            size = source.stat().st_size
            if shutil.disk_usage(self.root).free < size + SPARE_BYTES:
                raise StoreAway(f"{self.root} is full: {size} bytes are to be stored.")
            incoming = self.root / ".incoming"
            incoming.mkdir(mode=0o700, exist_ok=True)
            _tidy(incoming)
            part = incoming / f"{final.name}.{secrets.token_hex(4)}"
            try:
                self._copy(source, part)
                if digest(part)[0] != sha256:
                    raise StoreAway(f"{source} changed while it was copied to {self.root}.")
                self._make_folder(final.parent)
                try:
                    os.link(part, final)  # unlike a rename, it never replaces
                except FileExistsError:
                    self._expect_same(final, sha256)
                sync_folder(final.parent)
            finally:
                part.unlink(missing_ok=True)

    def digest(self, key: str) -> str:
        path = self.root / checked(key)
        with self._translated(), path.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def fetch(self, key: str, target: Path) -> None:
        path = self.root / checked(key)
        with self._translated():
            self._copy(path, target)

    def set_aside(self, key: str) -> str:
        path = self.root / checked(key)
        with self._translated():
            aside = path.with_name(f"{path.name}.{_aside_ending()}")
            path.rename(aside)
            sync_folder(path.parent)
            return str(aside)

    def check(self) -> None:
        with self._translated():
            probe = self.root / f".check-{secrets.token_hex(4)}"
            linked = probe.with_suffix(".linked")
            try:
                probe.write_bytes(b"sanling")
                os.link(probe, linked)
            finally:
                probe.unlink(missing_ok=True)
                linked.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        with self._translated():
            return shutil.disk_usage(self.root).free

    def _expect_same(self, path: Path, sha256: str) -> None:
        if digest(path)[0] != sha256:
            raise NameTaken(f"{path} is there already, with other content. It was left as it is.")

    def _make_folder(self, folder: Path) -> None:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(mode=0o700, exist_ok=True)
            sync_folder(place.parent)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with source.open("rb") as old, open(target, "wb", opener=_private) as new:
            shutil.copyfileobj(old, new, CHUNK_BYTES)
            new.flush()
            os.fsync(new.fileno())

    @contextlib.contextmanager
    def _translated(self, *, any_folder: bool = False) -> Iterator[None]:
        try:
            if not any_folder and not (self.root / MARKER).exists():
                raise StoreAway(
                    f"{self.root} is not a store: it has no {MARKER}."
                    " Is its disk mounted? A new store needs set-up first."
                )
            yield
        except FileNotFoundError as error:
            raise Missing(f"{error.filename} is not there.") from error
        except OSError as error:
            what = f"{error.filename or self.root}: {error.strerror}."
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EOPNOTSUPP):
                raise StoreRefused(what) from error
            raise StoreAway(what) from error


class S3Store:
    """A bucket of an S3 service, which must exist. The service checks and keeps the SHA-256 of each object itself.

    The checksum's *algorithm* is named beside the checksum: Ceph's gateway silently ignores a wrong digest without it.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        prefix: str = "",
        name: str = "second",
        connect_within_s: float = 5.0,
        answer_within_s: float = 30.0,
    ) -> None:
        self.name = name
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._endpoint = endpoint
        self._credentials = (access_key, secret_key)
        self._region = region
        self._within_s = (connect_within_s, answer_within_s)
        self._lock = threading.Lock()
        self._made: S3Client | None = None

    def where(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{checked(key)}"

    def put(self, key: str, source: Path, sha256: str) -> None:
        with self._translated(key):
            try:
                self._head(key)
            except Missing:
                with source.open("rb") as body:
                    taken = self._put_new(key, body, sha256)
                if not taken:
                    return
        if self.digest(key) != sha256:
            raise NameTaken(f"{self.where(key)} is there already, with other content. It was left as it is.")

    def digest(self, key: str) -> str:
        with self._translated(key):
            claimed = self._head(key).get("ChecksumSHA256")
            read = hashlib.sha256()
            for chunk in self._chunks(key):
                read.update(chunk)
        if claimed is None:
            raise StoreRefused(f"{self._endpoint} keeps no SHA-256 of {self.where(key)}: it does not fit.")
        if base64.b64decode(claimed) != read.digest():
            return f"{read.hexdigest()}, but the service claims {base64.b64decode(claimed).hex()}"
        return read.hexdigest()

    def fetch(self, key: str, target: Path) -> None:
        with self._translated(key), open(target, "wb", opener=_private) as new:
            for chunk in self._chunks(key):
                new.write(chunk)
            new.flush()
            os.fsync(new.fileno())

    def set_aside(self, key: str) -> str:
        aside = f"{key}.{_aside_ending()}"
        with self._translated(key):
            self._client().copy_object(
                Bucket=self._bucket,
                Key=self._prefix + checked(aside),
                CopySource={"Bucket": self._bucket, "Key": self._prefix + checked(key)},
            )
            self._client().delete_object(Bucket=self._bucket, Key=self._prefix + checked(key))
        return self.where(aside)

    def check(self) -> None:
        key = f"check-{secrets.token_hex(4)}"
        content = b"sanling"
        with self._translated(key):
            wrong = hashlib.sha256(b"something else").digest()
            if self._accepts(key, content, wrong):
                self._client().delete_object(Bucket=self._bucket, Key=self._prefix + key)
                raise StoreRefused(f"{self._endpoint} accepts an object with a wrong SHA-256: it does not fit.")
            self._put_new(key, content, hashlib.sha256(content).hexdigest())
            try:
                if self.digest(key) != hashlib.sha256(content).hexdigest():
                    raise StoreRefused(f"{self._endpoint} does not give back what it was given.")
                if not self._put_new(key, content, hashlib.sha256(content).hexdigest()):
                    raise StoreRefused(f"{self._endpoint} overwrites in spite of If-None-Match: it does not fit.")
            finally:
                self._client().delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def free_bytes(self) -> int | None:
        return None

    def _put_new(self, key: str, body: Any, sha256: str) -> bool:
        """True where the name was taken already."""
        from botocore.exceptions import ClientError

        try:
            self._client().put_object(
                Bucket=self._bucket,
                Key=self._prefix + checked(key),
                Body=body,
                ContentType="application/json" if key.endswith(".json") else "audio/flac",
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                IfNoneMatch="*",
            )
        except ClientError as error:
            if _status(error) in (409, 412):
                return True
            raise
        return False

    def _accepts(self, key: str, content: bytes, sha256: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._put_new(key, content, sha256.hex())
        except ClientError as error:
            if _status(error) == 400:
                return False
            raise
        return True

    def _head(self, key: str) -> dict[str, Any]:
        with self._translated(key):
            found = self._client().head_object(
                Bucket=self._bucket, Key=self._prefix + checked(key), ChecksumMode="ENABLED"
            )
            return dict(found)

    def _chunks(self, key: str) -> Iterator[bytes]:
        body = self._client().get_object(Bucket=self._bucket, Key=self._prefix + checked(key))["Body"]
        with contextlib.closing(body):
            yield from body.iter_chunks(CHUNK_BYTES)

    def _client(self) -> S3Client:
        with self._lock:
            if self._made is None:
                self._made = self._connect()
            return self._made

    def _connect(self) -> S3Client:
        import boto3.session
        from botocore.config import Config

        connect_s, answer_s = self._within_s
        access_key, secret_key = self._credentials
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=self._region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                connect_timeout=connect_s,
                read_timeout=answer_s,
                retries={"total_max_attempts": 2, "mode": "standard"},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                tcp_keepalive=True,
            ),
        )

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            status, code = _status(error), error.response.get("Error", {}).get("Code", "?")
            if status == 404 and code != "NoSuchBucket":
                raise Missing(f"{self.where(key)} is not there.") from error
            if status >= 500 or code in ("SlowDown", "RequestTimeout", "QuotaExceeded"):
                raise StoreAway(f"{self._endpoint} cannot serve now: {status} {code}.") from error
            raise StoreRefused(f"{self._endpoint}, bucket {self._bucket}: {status} {code}.") from error
        except BotoCoreError as error:
            raise StoreAway(f"{self._endpoint} cannot be reached: {type(error).__name__}.") from error
        except OSError as error:
            raise StoreAway(f"{error.filename or self._endpoint}: {error.strerror or error}.") from error


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _tidy(incoming: Path) -> None:
    """Remove what crashes left behind."""
    for part in incoming.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > LEFT_BEHIND_S:
                part.unlink()


def _aside_ending() -> str:
    return f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


_private: Callable[[str, int], int] = functools.partial(os.open, mode=0o600)
