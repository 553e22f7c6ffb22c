"""From the spool into both stores: what is told, what is kept, what is mended."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from recordings.stores import MARKER, FolderStore
from recordings.vault import Copy, State, Stored, Unstored, Vault, VaultBusy
from recordings.worker import Worker
from tests.unit.recordings_spool import Spool, speech_like

pytestmark = pytest.mark.real_time


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def vault(spool: Spool, worker: Worker) -> Vault:
    """Entered by the test; retries at once."""
    return spool.vault(worker, first_retry_s=0.0)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def states(copies: tuple[Copy, ...]) -> list[str]:
    return [copy.state.value for copy in copies]


async def test_a_call_ends_up_in_both_stores_and_leaves_the_spool(spool: Spool, worker: Worker, vault: Vault) -> None:
    call = spool.ended_call(seconds=1.0)
    local, second = await vault.store_all()
    assert isinstance(local, Stored)
    assert isinstance(second, Stored)
    assert (local.call_id, local.store, local.seconds, local.channels) == (call, "local", 1.0, 2)
    assert (second.store, second.sha256, second.bytes) == ("second", local.sha256, local.bytes)
    for told, store in ((local, spool.local), (second, spool.second)):
        assert Path(told.path) == spool.copy(store, call)
        assert len(read(told.path)) == told.bytes
        assert spool.samples(store, call) == speech_like(1.0, 1)
        beside = json.loads(spool.copy(store, call, ".json").read_text())
        assert beside["sha256"] == told.sha256
    assert spool.left() == []
    assert await vault.store_all() == []


async def test_many_calls_at_once(spool: Spool, worker: Worker, vault: Vault) -> None:
    calls = {spool.ended_call(seconds=0.2) for _ in range(12)}
    told = await vault.store_all()
    assert {item.call_id for item in told if isinstance(item, Stored)} == calls
    assert len(told) == 24
    assert spool.left() == []


async def test_a_call_of_one_second_and_one_never_answered_are_stored(
    spool: Spool, worker: Worker, vault: Vault
) -> None:
    short, unanswered = spool.ended_call(seconds=1.0), spool.ended_call(raw=b"", lasted_s=4.0)
    seconds = {item.call_id: item.seconds for item in await vault.store_all() if isinstance(item, Stored)}
    assert seconds == {short: 1.0, unanswered: 4.0}


async def test_a_call_still_being_recorded_is_left_alone(spool: Spool, worker: Worker, vault: Vault) -> None:
    call = spool.ended_call(done=False)
    spool.falls_quiet(call, for_s=3600)
    assert await vault.store_all(live=None) == []
    assert await vault.store_all(live={call}) == []
    assert spool.left() == [f"{call}.raw"]


async def test_a_call_that_nobody_declared_complete_is_salvaged_once_it_is_gone_and_quiet(
    spool: Spool, worker: Worker, vault: Vault
) -> None:
    call = spool.ended_call(done=False)
    assert await vault.store_all(live=set()) == [], "it was written to a moment ago"
    spool.falls_quiet(call, for_s=60)
    told = await vault.store_all(live={"demo-1763763200.77"})
    assert [type(item) for item in told] == [Stored, Stored]
    assert json.loads(spool.copy(spool.local, call, ".json").read_text())["salvaged"]


async def test_an_end_declared_after_the_salvage_stores_nothing_new(spool: Spool, worker: Worker, vault: Vault) -> None:
    call = spool.ended_call(done=False)
    spool.falls_quiet(call, for_s=60)
    first = await vault.store_all(live=set())
    spool.declares_complete(call, lasted_s=99.0)
    assert await vault.store_all() == first
    assert spool.left() == []
    assert spool.samples(spool.local, call) == speech_like(0.5, 1)


async def test_a_spool_file_that_grew_after_it_was_stored_is_kept_and_reported(
    spool: Spool, worker: Worker, vault: Vault
) -> None:
    call = spool.ended_call()
    told = []
    async for item in vault.sweep():
        with (spool.folder / f"{call}.raw").open("ab") as raw:
            raw.write(bytes(4))
        told.append(item)
    assert isinstance(told[-1], Unstored)
    assert told[-1].store == "capture"
    assert "something still writes to it" in told[-1].reason
    assert f"{call}.raw" in spool.left()


async def test_a_store_away_and_back(spool: Spool, worker: Worker, vault: Vault) -> None:
    call = spool.ended_call()
    spool.second.root.rename(spool.home / "unplugged")
    local, second = await vault.store_all()
    assert isinstance(local, Stored)
    assert isinstance(second, Unstored)
    assert (second.call_id, second.store) == (call, "second")
    assert "Is its disk mounted" in second.reason
    assert f"{call}.raw" in spool.left()
    assert (await vault.backlog()).failing == 1

    (told,) = await vault.store_all()
    assert isinstance(told, Unstored), "what is in the first store is told once"

    (spool.home / "unplugged").rename(spool.second.root)
    (told,) = await vault.store_all()
    assert isinstance(told, Stored)
    assert told.store == "second"
    assert spool.left() == []
    assert (await vault.backlog()).waiting == 0


async def test_a_failing_call_is_tried_less_and_less_often(spool: Spool, worker: Worker) -> None:
    spool.ended_call()
    (spool.second.root / MARKER).unlink()
    async with spool.vault(worker, first_retry_s=60.0, longest_retry_s=150.0) as vault:
        waits = []
        for _ in range(4):
            told = await vault.store_all(even_if_failing=True)
            waits += [item.retry_in_s for item in told if isinstance(item, Unstored)]
        assert waits == [60.0, 120.0, 150.0, 150.0]
        assert [item async for item in vault.sweep()] == [], "its time has not come"
        other = spool.ended_call()
        assert {item.call_id async for item in vault.sweep()} == {other}, "others do not wait for it"


async def test_other_content_under_the_name_is_reported_and_never_replaced(
    spool: Spool, worker: Worker, vault: Vault
) -> None:
    call = spool.ended_call()
    taken = spool.copy(spool.second, call)
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"another recording")
    _, second = await vault.store_all()
    assert isinstance(second, Unstored)
    assert "other content" in second.reason
    assert taken.read_bytes() == b"another recording"
    assert f"{call}.raw" in spool.left()


async def test_the_same_call_again_is_fine(spool: Spool, worker: Worker, vault: Vault) -> None:
    call = spool.ended_call()
    first = await vault.store_all()
    (spool.folder / f"{call}.raw").write_bytes(speech_like(0.5, 1))
    spool.declares_complete(call, 0.5)
    assert await vault.store_all() == first
    assert spool.left() == []


@pytest.mark.parametrize("ending", [".flac", ".json"])
async def test_a_copy_damaged_before_the_other_store_is_back_is_made_anew(
    spool: Spool, worker: Worker, vault: Vault, ending: str
) -> None:
    call = spool.ended_call()
    spool.second.root.rename(spool.home / "unplugged")
    await vault.store_all()
    damage(spool.copy(spool.local, call, ending))
    (spool.home / "unplugged").rename(spool.second.root)
    await vault.store_all()
    assert (await vault.verify(call)).agreed
    assert spool.samples(spool.local, call) == speech_like(0.5, 1)
    assert len(list(spool.copy(spool.local, call).parent.glob(f"{call}{ending}.damaged-*"))) == 1


def damage(file: Path) -> None:
    if file.suffix == ".json":
        file.write_bytes(file.read_bytes()[:100])
    else:
        flip_a_bit(file)


@pytest.mark.parametrize("harm", ["bit", "gone", "cut off", "sidecar gone", "sidecar cut off"])
@pytest.mark.parametrize("which", [0, 1])
async def test_harm_to_one_copy_is_noticed_and_mended_from_the_other(
    spool: Spool, worker: Worker, vault: Vault, harm: str, which: int
) -> None:
    call = spool.ended_call()
    await vault.store_all()
    store = (spool.local, spool.second)[which]
    flac, beside = spool.copy(store, call), spool.copy(store, call, ".json")
    match harm:
        case "bit":
            flip_a_bit(flac)
        case "gone":
            flac.unlink()
        case "cut off":
            os.truncate(flac, 1000)
        case "sidecar gone":
            beside.unlink()
        case "sidecar cut off":
            os.truncate(beside, 50)

    verdict = await vault.verify(call)
    assert not verdict.agreed
    assert verdict.copies[1 - which].state is State.WHOLE
    assert verdict.copies[which].state is (State.MISSING if harm == "gone" else State.DAMAGED)

    mended = await vault.verify(call, mend=True)
    assert mended.agreed
    assert [copy.mended for copy in mended.copies] == [which == 0, which == 1]
    assert (await vault.verify(call)).agreed
    assert spool.samples(store, call) == speech_like(0.5, 1)


async def test_the_ledgers_checksum_decides_where_both_stores_were_rewritten(
    spool: Spool, worker: Worker, vault: Vault
) -> None:
    call = spool.ended_call()
    await vault.store_all()
    verdict = await vault.verify(call, sha256="0" * 64, mend=True)
    assert states(verdict.copies) == ["damaged", "damaged"]
    assert not verdict.agreed


async def test_two_stores_that_contradict_each_other_are_not_mended(
    spool: Spool, worker: Worker, vault: Vault, tmp_path: Path
) -> None:
    call = spool.ended_call()
    other = Spool(tmp_path / "other")
    assert other.ended_call(raw=speech_like(1, 99)) == call
    await vault.store_all()
    async with other.vault(worker) as elsewhere:
        await elsewhere.store_all()
    for ending in (".flac", ".json"):
        spool.copy(spool.second, call, ending).write_bytes(other.copy(other.local, call, ending).read_bytes())
    verdict = await vault.verify(call, mend=True)
    assert verdict.sha256 is None
    assert states(verdict.copies) == ["damaged", "damaged"]
    assert "contradict" in verdict.copies[0].reason


async def test_verifying_tells_missing_from_unreachable(spool: Spool, worker: Worker, vault: Vault) -> None:
    spool.second.root.rename(spool.home / "unplugged")
    verdict = await vault.verify("demo-1763763200.99")
    assert states(verdict.copies) == ["missing", "unreachable"]


async def test_who_stops_listening_is_told_again(spool: Spool, worker: Worker, vault: Vault) -> None:
    call = spool.ended_call()
    sweep = vault.sweep()
    first = await anext(sweep)
    await sweep.aclose()  # type: ignore[attr-defined]
    assert f"{call}.raw" in spool.left()
    told = await vault.store_all()
    assert first in told
    assert len(told) == 2
    assert spool.left() == []


async def test_one_process_sweeps_a_spool(spool: Spool, worker: Worker, vault: Vault) -> None:
    with pytest.raises(VaultBusy, match="Another process"):
        async with spool.vault(worker):
            pass


async def test_the_event_loop_goes_on_meanwhile(spool: Spool, worker: Worker, vault: Vault) -> None:
    spool.ended_call(seconds=120)
    longest_s = 0.0

    async def beat() -> None:
        nonlocal longest_s
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, time.monotonic() - began)

    beating = asyncio.create_task(beat())
    told = await vault.store_all()
    beating.cancel()
    assert len(told) == 2
    assert longest_s < 0.25


async def test_little_space_is_told(spool: Spool, worker: Worker) -> None:
    async with spool.vault(worker, minimum_free_bytes=1) as content:
        assert [(space.place, space.enough) for space in await content.space()] == [
            ("spool", True),
            ("local", True),
            ("second", True),
        ]
    async with spool.vault(worker, minimum_free_bytes=1 << 60) as anxious:
        assert not any(space.enough for space in await anxious.space())


async def test_other_files_in_the_spool_are_left_alone(spool: Spool, worker: Worker, vault: Vault) -> None:
    for name in ("notes.txt", ".hidden.done", ".raw"):
        (spool.folder / name).touch()
    assert await vault.store_all(live=set()) == []
    assert spool.left() == [".hidden.done", ".raw", "notes.txt"]


async def test_a_call_that_cannot_be_stored_does_not_stop_the_others(
    spool: Spool, worker: Worker, vault: Vault
) -> None:
    (spool.folder / "demo-1763763200.50.raw").mkdir()
    (spool.folder / "demo-1763763200.50.done").touch()
    call = spool.ended_call()
    told = await vault.store_all()
    assert {item.call_id for item in told if isinstance(item, Stored)} == {call}
    (trouble,) = (item for item in told if isinstance(item, Unstored))
    assert (trouble.call_id, trouble.store) == ("demo-1763763200.50", "capture")


async def test_two_stores_need_two_names(spool: Spool) -> None:
    with pytest.raises(ValueError, match="two names"):
        Vault(spool.folder, spool.local, FolderStore(spool.home / "x", "local"))


async def test_a_listening_copy_is_made_by_the_way(spool: Spool, worker: Worker) -> None:
    call = spool.ended_call(seconds=1.0)
    async with spool.vault(worker, listening_copies=spool.home / "mp3") as vault:
        assert len(await vault.store_all()) == 2
    assert (spool.home / f"mp3/2025/11/22/{call}.mp3").stat().st_size > 1000


async def test_a_listening_copy_that_fails_keeps_nothing_from_being_stored(spool: Spool, worker: Worker) -> None:
    (spool.home / "mp3").write_text("in the way")
    spool.ended_call()
    async with spool.vault(worker, listening_copies=spool.home / "mp3") as vault:
        assert [type(item) for item in await vault.store_all()] == [Stored, Stored]
