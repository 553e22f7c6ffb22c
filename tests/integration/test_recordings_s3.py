"""The S3 store and the vault against a real Ceph RADOS gateway."""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recordings.stores import FolderStore, Missing, S3Store, Store, StoreAway, StoreError, StoreRefused
from recordings.vault import State, Stored, Unstored
from recordings.worker import Worker
from tests.integration.ceph import Ceph
from tests.unit.recordings_contract import KEY, StoreContract, sha256
from tests.unit.recordings_spool import Spool

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3"), pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    with Ceph(tmp_path_factory.mktemp("ceph"), address="127.0.55.1", progress=print) as running:
        yield running


@pytest.fixture
def bucket(ceph: Ceph) -> str:
    name = f"recordings-{secrets.token_hex(4)}"
    ceph.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3(ceph: Ceph, bucket: str) -> S3Store:
    return s3_store(ceph, bucket)


def s3_store(ceph: Ceph, bucket: str, answer_within_s: float = 10.0, **changes: str) -> S3Store:
    settings = {
        "endpoint": ceph.endpoint,
        "bucket": bucket,
        "access_key": ceph.access_key,
        "secret_key": ceph.secret_key,
        "prefix": "hotline/",
        **changes,
    }
    return S3Store(**settings, connect_within_s=2.0, answer_within_s=answer_within_s)


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3: S3Store) -> Store:
        return s3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"a segment" * 1000)
    return path


def test_the_service_itself_refuses_a_wrong_checksum(s3: S3Store, file: Path) -> None:
    with pytest.raises(StoreRefused, match="400"):
        s3.put(KEY, file, sha256(b"something else"))
    with pytest.raises(Missing):
        s3.digest(KEY)


def test_the_service_keeps_the_checksum(ceph: Ceph, bucket: str, s3: S3Store, file: Path) -> None:
    s3.put(KEY, file, sha256(file.read_bytes()))
    found = ceph.client().head_object(Bucket=bucket, Key=f"hotline/{KEY}", ChecksumMode="ENABLED")
    assert found["ChecksumSHA256"]


def test_an_object_without_a_checksum_is_not_accepted_as_a_copy(ceph: Ceph, bucket: str, s3: S3Store) -> None:
    ceph.client().put_object(Bucket=bucket, Key=f"hotline/{KEY}", Body=b"by another program")
    with pytest.raises(StoreRefused, match="keeps no SHA-256"):
        s3.digest(KEY)


def test_wrong_credentials_are_said_plainly(ceph: Ceph, bucket: str, file: Path) -> None:
    wrong = s3_store(ceph, bucket, secret_key="wrong")
    with pytest.raises(StoreRefused, match="403"):
        wrong.put(KEY, file, sha256(file.read_bytes()))
    with pytest.raises(StoreError):
        wrong.check()


def test_a_missing_bucket_is_said_plainly(ceph: Ceph, file: Path) -> None:
    with pytest.raises(StoreError, match="no-such-bucket"):
        s3_store(ceph, "no-such-bucket").check()
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        s3_store(ceph, "no-such-bucket").put(KEY, file, sha256(file.read_bytes()))


def test_nobody_there_is_away_soon(ceph: Ceph, bucket: str, file: Path) -> None:
    with socket.socket() as taken:
        taken.bind((ceph.address, 0))
        endpoint = f"http://{ceph.address}:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(StoreAway, match="cannot be reached"):
            s3_store(ceph, bucket, endpoint=endpoint).put(KEY, file, sha256(file.read_bytes()))
    assert time.monotonic() - began < 10


def test_a_service_that_never_answers_is_away_in_time(ceph: Ceph, bucket: str, file: Path) -> None:
    with socket.socket() as silent:
        silent.bind((ceph.address, 0))
        silent.listen()
        endpoint = f"http://{ceph.address}:{silent.getsockname()[1]}"
        with pytest.raises(StoreAway, match="ReadTimeout"):
            s3_store(ceph, bucket, endpoint=endpoint, answer_within_s=0.5).digest(KEY)


async def test_a_call_goes_into_a_folder_and_into_s3(tmp_path: Path, s3: S3Store) -> None:
    spool = Spool(tmp_path)
    call = spool.ended_call(seconds=3)
    async with Worker() as worker, spool.vault(worker, second=s3) as vault:
        told = await vault.store_all()
        assert [type(item) for item in told] == [Stored, Stored]
        assert isinstance(told[1], Stored)
        assert told[1].path == s3.where(f"2025/11/22/{call}.flac")
        assert (await vault.verify(call)).agreed
    assert spool.left() == []


@pytest.mark.parametrize("ending", [".flac", ".json"])
async def test_a_copy_damaged_in_s3_is_noticed_and_mended(
    ceph: Ceph, bucket: str, tmp_path: Path, s3: S3Store, ending: str
) -> None:
    spool = Spool(tmp_path)
    call = spool.ended_call(seconds=1)
    async with Worker() as worker, spool.vault(worker, second=s3) as vault:
        await vault.store_all()
        key = f"hotline/2025/11/22/{call}{ending}"
        content = bytearray(ceph.client().get_object(Bucket=bucket, Key=key)["Body"].read())
        content[len(content) // 2] ^= 1
        ceph.client().put_object(Bucket=bucket, Key=key, Body=bytes(content), ChecksumAlgorithm="SHA256")

        verdict = await vault.verify(call)
        assert [copy.state for copy in verdict.copies] == [State.WHOLE, State.DAMAGED]
        mended = await vault.verify(call, mend=True)
        assert mended.copies[1].mended
        assert (await vault.verify(call)).agreed
    kept = ceph.client().list_objects_v2(Bucket=bucket, Prefix=f"{key}.damaged")
    assert kept["KeyCount"] == 1


async def test_the_gateway_away_and_back(ceph: Ceph, bucket: str, tmp_path: Path, s3: S3Store) -> None:
    spool = Spool(tmp_path)
    call = spool.ended_call(seconds=1)
    async with Worker() as worker, spool.vault(worker, second=s3, first_retry_s=0.0) as vault:
        ceph.gateway_leaves()
        try:
            first, second = await vault.store_all()
            assert isinstance(first, Stored)
            assert isinstance(second, Unstored)
            assert second.store == "second"
            assert "cannot be reached" in second.reason
            assert (spool.folder / f"{call}.raw").exists()
        finally:
            ceph.gateway_comes_back()
        (told,) = await vault.store_all()
        assert isinstance(told, Stored)
        assert told.store == "second"
    assert spool.left() == []


async def test_what_s3_already_holds_under_the_name_is_reported_and_kept(
    ceph: Ceph, bucket: str, tmp_path: Path, s3: S3Store
) -> None:
    spool = Spool(tmp_path)
    call = spool.ended_call(seconds=1)
    key = f"hotline/2025/11/22/{call}.flac"
    ceph.client().put_object(Bucket=bucket, Key=key, Body=b"another recording", ChecksumAlgorithm="SHA256")
    async with Worker() as worker, spool.vault(worker, second=s3) as vault:
        told = await vault.store_all()
    assert isinstance(told[1], Unstored)
    assert "other content" in told[1].reason
    assert ceph.client().get_object(Bucket=bucket, Key=key)["Body"].read() == b"another recording"
    assert (spool.folder / f"{call}.raw").exists()


def test_the_folder_and_s3_hold_the_same_bytes(tmp_path: Path, s3: S3Store, file: Path) -> None:
    folder = FolderStore(tmp_path / "local", "local")
    folder.prepare()
    for store in (folder, s3):
        store.put(KEY, file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert folder.digest(KEY) == s3.digest(KEY)
