"""systemd's notify protocol, both ends: how a process says that it serves, lives, and what it is doing.

One datagram a message, lines of ``NAME=value``, to the unix socket that ``$NOTIFY_SOCKET`` names (an abstract one
begins with ``@``). `sanling run` speaks it to systemd, and listens to its own children with the same words:

    READY=1                  it serves
    WATCHDOG=1               it lives: a message from its event loop, so that one that hangs is silent
    EXTEND_TIMEOUT_USEC=…    it is not ready yet, through no fault of its own: be patient for so long
    STATUS=…                 for people
    STOPPING=1               it ends

Source: sd_notify(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

VARIABLE = "NOTIFY_SOCKET"
STAND_BY = "STAND_BY"
"""Set for a spare, which loads everything and then waits for its turn. Not of systemd's protocol."""
YOUR_TURN = b"serve\n"
OF_THE_PROTOCOL = (VARIABLE, "WATCHDOG_USEC", "WATCHDOG_PID", STAND_BY)
"""Variables that speak to one process; its children must not take them for their own."""

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"

ALIVE_EVERY_S = 0.25
"""How often a child of `sanling run` says that it lives."""

LONGEST_MESSAGE = 4096

Message = Mapping[str, str]
Hear = Callable[[Message], None]


def send(*lines: str) -> None:
    """Tells whoever started this process; without ``$NOTIFY_SOCKET`` nobody.

    Never waits and never raises: one who does not listen, or has stopped reading, must not hold up the one who speaks.
    """
    address = os.environ.get(VARIABLE, "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaking:
        speaking.setblocking(False)
        speaking.sendto(
            "\n".join(lines).encode()[:LONGEST_MESSAGE], f"\0{address[1:]}" if address[0] == "@" else address
        )


def stand_by() -> bool:
    """Waits for this process's turn if it was started as a spare: for a line on standard input. False: it will never
    come, whoever started us is gone.
    """
    if STAND_BY not in os.environ:
        return True
    send(status("standing by"))
    return sys.stdin.buffer.readline() == YOUR_TURN


def status(text: str) -> str:
    """The line that tells `text` to people."""
    return f"STATUS={' '.join(text.split())}"


def patience(seconds: float) -> str:
    """The line that asks for this long to get ready."""
    return f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}"


def watchdog_every_s() -> float | None:
    """How often whoever started us wants `ALIVE`: half of its patience (sd_watchdog_enabled(3)). None: never."""
    every_us, whose = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not every_us.isdigit() or int(every_us) == 0 or (whose and whose != str(os.getpid())):
        return None
    return int(every_us) / 2e6


@asynccontextmanager
async def listen(path: Path, hear: Hear) -> AsyncIterator[str]:
    """Hands every message that arrives at a new socket to `hear`; yields the address for ``$NOTIFY_SOCKET``.

    The socket is `path`, in a folder of ours alone, so that no other user can speak for a child. Where that cannot be
    (a path longer than the kernel allows, a full disk) it is an abstract one, which needs no file.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        address = _bind(listening, path)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Listener(hear), sock=listening)
    except BaseException:
        listening.close()
        raise
    try:
        yield address
    finally:
        transport.close()
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _bind(listening: socket.socket, path: Path) -> str:
    _remove(path)
    try:
        listening.bind(str(path))
    except OSError:
        listening.bind(b"")  # the kernel chooses a name that is free
        return f"@{listening.getsockname()[1:].decode()}"
    return str(path)


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, hear: Hear) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: object) -> None:
        lines = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
        self._hear({name: value for name, is_, value in lines if is_})
