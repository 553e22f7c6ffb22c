"""The worker process: it dies, it hangs, its controller dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recordings.worker import Worker, WorkerDied

pytestmark = pytest.mark.real_time
PROJECT = Path(__file__).resolve().parents[2]


async def test_a_job_runs_in_another_process(worker: Worker) -> None:
    assert await worker.run(os.getpid) == worker.pid != os.getpid()


@pytest.fixture
def worker() -> Worker:
    return Worker()


async def test_what_a_job_raises_arrives(worker: Worker) -> None:
    with pytest.raises(FileNotFoundError):
        await worker.run(os.stat, "/nowhere")
    assert await worker.run(abs, -1) == 1


async def test_a_dead_worker_is_replaced_and_the_job_done_again(worker: Worker) -> None:
    await worker.run(os.getpid)
    first = worker.pid
    assert first is not None
    job = asyncio.create_task(worker.run(time.sleep, 0.3))
    await asyncio.sleep(0.1)
    os.kill(first, signal.SIGKILL)
    await job
    assert worker.pid != first


async def test_a_job_that_kills_its_process_harms_no_other(worker: Worker) -> None:
    async with asyncio.TaskGroup() as group:
        deadly = group.create_task(expect_death(worker))
        others = [group.create_task(worker.run(abs, -number)) for number in range(5)]
    assert deadly.result()
    assert [job.result() for job in others] == list(range(5))


async def expect_death(worker: Worker) -> bool:
    with pytest.raises(WorkerDied, match="died twice"):
        await worker.run(os._exit, 9)
    return True


async def test_a_job_that_never_ends_is_given_up() -> None:
    async with Worker(job_within_s=0.3) as worker:
        with pytest.raises(WorkerDied, match="was not done in"):
            await worker.run(time.sleep, 60)
        assert await worker.run(abs, -1) == 1


async def test_a_cancelled_job_ends(worker: Worker) -> None:
    await worker.run(os.getpid)
    first = worker.pid
    job = asyncio.create_task(worker.run(time.sleep, 60))
    await asyncio.sleep(0.1)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    with pytest.raises(ProcessLookupError):
        os.kill(first or 0, 0)


async def test_a_worker_leaves_with_its_controller() -> None:
    script = """
import asyncio, os, time
from recordings.worker import Worker

async def main():
    worker = Worker()
    await worker.run(os.getpid)
    print(worker.pid, flush=True)
    await worker.run(time.sleep, 60)

if __name__ == "__main__":
    asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=PROJECT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    async with asyncio.timeout(10):
        await ended(pid)


async def ended(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, gone.set)
    await gone.wait()
    asyncio.get_running_loop().remove_reader(handle)
    os.close(handle)
