"""What processes use, held against work that is known."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench import machine
from tests.bench.houses import Log
from tests.bench.machine import Meter, Used, describe, leaf, resident_kb
from tests.faults.house import cpu_s


def test_processor_time_is_that_of_the_work_done() -> None:
    meter, before = Meter(os.getpid(), os.getpid(), os.getpid()), time.process_time()
    while time.process_time() - before < 0.3:
        pass
    used = meter.used()
    assert used.asterisk == pytest.approx(0.3, abs=0.1)
    assert used.controller == pytest.approx(used.asterisk, abs=0.1)  # read a moment later
    assert used.agi == pytest.approx(used.asterisk, abs=0.1)
    assert used.flow == pytest.approx(3 * used.asterisk, abs=0.3)
    assert used.seconds >= 0.25


def test_what_a_process_uses_when_nobody_calls_is_taken_off() -> None:
    idle = Used(asterisk=0.4, controller=0.2, recordings=0.0, agi=0.1, others=0.0, seconds=4.0)
    used = Used(asterisk=5.0, controller=1.5, recordings=0.5, agi=0.75, others=1.0, seconds=10.0)
    each = used.less_idle(idle)
    assert [each.asterisk, each.controller, each.recordings, each.agi] == pytest.approx([4.0, 1.0, 0.5, 0.5])
    assert Used(0.1, 0.0, 0.0, 0.0, 0.0, 10.0).less_idle(idle).asterisk == 0.0


def test_a_measurement_beside_which_others_worked_is_not_valid() -> None:
    cores = os.cpu_count() or 1
    assert Used(1.0, 1.0, 0.0, 0.0, 0.19 * 10 * cores, 10.0).valid
    assert not Used(1.0, 1.0, 0.0, 0.0, 0.21 * 10 * cores, 10.0).valid


def test_what_was_started_here_and_is_not_metered_is_not_taken_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = [0.0]
    monkeypatch.setattr(machine, "machine_cpu_s", lambda: cpu_s(os.getpid(), below=True) + strangers[0])
    meter = Meter(1, None, None)
    spare = "import time; began = time.process_time()\nwhile time.process_time() - began < 0.5: pass"
    subprocess.run([sys.executable, "-c", spare], check=True)
    strangers[0] = 2.0
    assert meter.used().others == pytest.approx(2.0, abs=0.1)


def test_memory_grows_with_what_is_held() -> None:
    before = resident_kb(os.getpid())
    with mmap.mmap(-1, 24 << 20) as held:  # not the allocator's, which may give out what is resident already
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert resident_kb(os.getpid()) - before == pytest.approx(24 * 1024, rel=0.3)
    assert resident_kb(2**22 - 1) == 0


def test_the_process_below() -> None:
    inner = "import sys; print('up', flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert leaf(process.pid) != process.pid
        assert leaf(leaf(process.pid)) == leaf(process.pid)
        process.communicate()


def test_the_machine_without_its_name() -> None:
    found = describe()
    assert found["cores"] == os.cpu_count()
    assert found["commit"]
    assert os.uname().nodename not in map(str, found.values())


def test_errors_are_read_from_a_log_as_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "controller.log"
    log = Log(file, r" (ERROR|CRITICAL) |^Traceback")
    assert log.errors() == []
    file.write_text(
        "12:00:00 INFO all is well\n12:00:01 ERROR sanling.call broken\nTraceback (most recent call last)\n"
    )
    assert len(log.errors()) == 2
    with file.open("a") as opened:
        opened.write("12:00:02 WARNING slow\n12:00:03 CRITICAL sanling.ledger full\n")
    assert log.errors() == ["12:00:03 CRITICAL sanling.ledger full"]
    assert log.errors() == []


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "controller.log"
    log = Log(file, r" (ERROR|CRITICAL) |^Traceback")
    file.write_text("12:00:00 INFO all is well\n12:00:01 ERR")
    assert log.errors() == []
    with file.open("a") as opened:
        opened.write("OR sanling.call broken\n")
    assert log.errors() == ["12:00:01 ERROR sanling.call broken"]
    assert log.errors() == []
