"""A real S3 service for tests: a Ceph monitor, an object daemon and a RADOS gateway, from nothing, in memory.

Everything lies in a folder of the caller's and in the user's cache; it runs as an ordinary user under bubblewrap. The
daemons die with the process that started them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ari_app import roots

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

SUITE = "forky"
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd")
INSIDE = "/srv/ceph"
"""Where the folder is seen inside the sandbox; short, because sockets lie in it."""
FSID = "7a3c1f6e-5d0b-4a53-9c0d-6d2f3b1f8a10"
UP_WITHIN_S = 60.0

CONF = """
[global]
fsid = {fsid}
mon_host = v2:{address}:{mon_port}/0
public_addr = {address}
cluster_addr = {address}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_bind_ipv6 = false
ms_bind_port_min = {low_port}
ms_bind_port_max = {high_port}
ms_mon_client_mode = crc
ms_client_mode = crc
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
run_dir = {inside}/run
admin_socket = {inside}/run/$name.asok
log_file = {inside}/$name.log
[mon.a]
mon_data = {inside}/mon
[osd.0]
osd_data = {inside}/osd
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_client_watch_timeout = 2
osd_class_dir = {classes}
[client.rgw]
rgw_frontends = beast endpoint={address}:{port}
"""


class CephDidNotStart(Exception):
    pass


class Ceph:
    """One throw-away cluster with one user. ``with Ceph(folder, address=...) as s3: s3.client()``"""

    access_key = "recorder"
    secret_key = "recorder-secret"  # guards nothing: it lives as long as the tests

    def __init__(self, folder: Path, *, address: str, progress: Callable[[str], None] = lambda text: None) -> None:
        self.address = address
        self._folder = folder
        self._progress = progress
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self._mon_port, low = _free_ports(address)
        self._osd_ports = (low, low + 50)

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self._port}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def client(self) -> S3Client:
        import boto3.session
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def gateway_leaves(self) -> None:
        """The S3 service goes away; the objects stay."""
        self._end("rgw", signal.SIGKILL)

    def gateway_comes_back(self) -> None:
        self._daemon("rgw", ["radosgw", "-n", "client.rgw", "-f"])
        self._wait(self._serves, "the gateway")

    def stop(self) -> None:
        for name in ("rgw", "osd", "mon"):
            self._end(name, signal.SIGKILL)

    def _start(self) -> None:
        self._root = roots.fetch("ceph", SUITE, PACKAGES, progress=self._progress)
        for part in ("mon", "osd", "run"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "ceph.conf").write_text(
            CONF.format(
                fsid=FSID,
                inside=INSIDE,
                classes=self._classes(),
                address=self.address,
                port=self._port,
                mon_port=self._mon_port,
                low_port=self._osd_ports[0],
                high_port=self._osd_ports[1],
            )
        )
        monmap, mon = f"{INSIDE}/monmap", f"[v2:{self.address}:{self._mon_port}]"
        self._run(["monmaptool", "--create", "--clobber", "--fsid", FSID, "--addv", "a", mon, monmap])
        self._run(["ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap])
        self._daemon("mon", ["ceph-mon", "-i", "a", "-f"])
        osd = str(uuid.uuid4())
        self._run(["ceph", "osd", "new", osd])
        self._run(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd])
        self._daemon("osd", ["ceph-osd", "-i", "0", "-f"])
        self._run(
            ["radosgw-admin", "user", "create", "--uid=recorder", "--display-name=recorder",
             f"--access-key={self.access_key}", f"--secret={self.secret_key}"],
        )  # fmt: skip
        self.gateway_comes_back()

    def _classes(self) -> str:
        """Debian's build looks for them below the current folder."""
        found = next((self._root / "usr/lib").glob("*/rados-classes"))
        return f"/{found.relative_to(self._root)}"

    def _inside(self, argv: list[str]) -> list[str]:
        command = [argv[0], "-c", f"{INSIDE}/ceph.conf", *argv[1:]] if argv[0] != "monmaptool" else argv
        return roots.sandbox(self._root, command, rw_binds=[(self._folder, INSIDE)])

    def _run(self, argv: list[str]) -> str:
        began = time.monotonic()
        try:
            done = subprocess.run(self._inside(argv), capture_output=True, text=True, timeout=UP_WITHIN_S, check=False)
        except subprocess.TimeoutExpired as late:
            raise CephDidNotStart(f"{argv[0]} took longer than {UP_WITHIN_S:g} s\n{self._logs()}") from late
        if done.returncode:
            raise CephDidNotStart(f"{' '.join(argv)}: {done.stderr[-2000:]}\n{self._logs()}")
        self._progress(f"ceph: {argv[0]} {argv[1]} took {time.monotonic() - began:.1f} s")
        return done.stdout

    def _daemon(self, name: str, argv: list[str]) -> None:
        with (self._folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(
                self._inside(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        for pid in _children(process.pid):  # bubblewrap follows, and leaves no zombie
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _serves(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, self._port), timeout=1):
            return True
        return False

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + UP_WITHIN_S
        while not ready():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise CephDidNotStart(f"{name} ended with {process.returncode}\n{self._logs()}")
            if time.monotonic() > until:
                raise CephDidNotStart(f"{what} did not come up in {UP_WITHIN_S:g} s\n{self._logs()}")
            time.sleep(0.05)

    def _logs(self) -> str:
        tails = []
        for file in sorted(self._folder.glob("*.out")):
            tails.append(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}")
        return "\n".join(tails)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [*_children(int(text)), int(text)]
    return found


def _free_ports(address: str) -> tuple[int, int, int]:
    """For the gateway and the monitor one each, and the first of fifty for the object daemon."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((address, 0))
        second.bind((address, 0))
        gateway, monitor = first.getsockname()[1], second.getsockname()[1]
    return gateway, monitor, 16800 + (os.getpid() * 50) % 14000
