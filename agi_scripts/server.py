"""FastAGI: Asterisk connects, one script answers, the call goes on.

A caller waits while a script runs, so nothing here may take longer than the deadline. It is kept by the accepting
thread, which shuts a conversation's socket when its time is up, whatever its worker is doing: Asterisk sees the end and
goes on in the dialplan with the variables as they are. A crash, an unknown script and a database that is away end
the same way, sooner. Workers are a fixed number of daemon threads; conversations that find none free wait for
one, within the same deadline, and past the longest queue they are closed at once.

The open port says that the server is ready; so does a word to whoever started it, and then two more a second
from the accepting thread (:mod:`ari_app.notify`). SIGTERM stops accepting, lets the conversations end, and then exits.
"""

from __future__ import annotations

import logging
import queue
import selectors
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import BinaryIO, Final, cast

from sqlalchemy import Engine

from agi_scripts import case_context
from agi_scripts.session import AGIError, AGIHangup, Session
from ari_app import notify
from ari_app.errors import StoreUnavailable

log = logging.getLogger("sanling.agi")

BACKLOG: Final = 256
"""Connections that the kernel holds until they are accepted, which takes microseconds."""

Script = Callable[[Session, Engine], None]

SCRIPTS: Mapping[str, Script] = {"case_context": case_context.answer}
"""What ``agi://ADDRESS/NAME`` may name."""


@dataclass(eq=False)
class _Conversation:
    socket: socket.socket
    began: float = field(default_factory=monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    cut: bool = False

    def cut_off(self) -> None:
        """Ends it for Asterisk now; its worker notices at its next read or write."""
        self.cut = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Server:
    """Answers AGI conversations on `address`:`port` from the moment it is made, once `run` runs.

    Raises OSError if the port is taken. Port 0 picks a free one: see `port`.
    """

    def __init__(
        self,
        address: str,
        port: int,
        engine: Engine,
        *,
        deadline_s: float,
        scripts: Mapping[str, Script] = SCRIPTS,
        workers: int = 12,
        longest_queue: int = 256,
    ) -> None:
        self._engine = engine
        self._deadline_s = deadline_s
        self._scripts = scripts
        self._workers = workers
        self._waiting: queue.Queue[_Conversation | None] = queue.Queue(longest_queue)
        self._open: deque[_Conversation] = deque()
        self._speaks_at = 0.0
        self._wake_in, self._wake_out = socket.socketpair()
        self._listener = socket.create_server((address, port), backlog=BACKLOG)
        self._listener.setblocking(False)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Serves until `stop`; returns when the last conversation has ended or was cut off at its deadline."""
        for n in range(self._workers):
            threading.Thread(target=self._work, name=f"agi-{n}", daemon=True).start()
        host, port = self._listener.getsockname()[:2]
        log.info("AGI scripts on agi://%s:%d/: %s", host, port, ", ".join(self._scripts))
        with selectors.DefaultSelector() as selector, self._wake_in, self._wake_out:
            selector.register(self._wake_in, selectors.EVENT_READ)
            with self._listener:
                selector.register(self._listener, selectors.EVENT_READ)
                notify.send(notify.READY, notify.status("serving"))
                while self._wake_in not in self._ready(selector):
                    pass
        for conversation in self._open:
            if not conversation.over.wait(max(0.0, conversation.began + self._deadline_s - monotonic())):
                conversation.cut_off()
        for _ in range(self._workers):
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
        log.info("The AGI server has stopped.")

    def stop(self) -> None:
        """From any thread or a signal handler."""
        with suppress(OSError):
            self._wake_out.send(b"!")

    def _ready(self, selector: selectors.BaseSelector) -> list[object]:
        if monotonic() >= self._speaks_at:
            self._speaks_at = monotonic() + notify.ALIVE_EVERY_S
            notify.send(notify.ALIVE)
        due = min(self._speaks_at, self._next_deadline() or self._speaks_at)
        ready = [key.fileobj for key, _ in selector.select(max(0.0, due - monotonic()))]
        if self._listener in ready:
            self._accept()
        self._cut_off_late()
        return list(ready)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return  # whoever connected has gone again
        except OSError as error:
            log.error("A call cannot be heard: %s", error)
            threading.Event().wait(0.05)  # out of files, most likely: the port stays readable, so do not spin
            return
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(connection)
        try:
            self._waiting.put_nowait(conversation)
        except queue.Full:
            log.warning("Too many calls wait for a script; one goes on without it.")
            connection.close()
        else:
            self._open.append(conversation)

    def _next_deadline(self) -> float | None:
        while self._open and self._open[0].over.is_set():
            self._open.popleft()
        return self._open[0].began + self._deadline_s if self._open else None

    def _cut_off_late(self) -> None:
        while (due := self._next_deadline()) is not None and due <= monotonic():
            late = self._open.popleft()
            log.warning("A script took longer than %.1f s; its call goes on without it.", self._deadline_s)
            late.cut_off()

    def _work(self) -> None:
        while (conversation := self._waiting.get()) is not None:
            with conversation.socket:
                if not conversation.cut:
                    self._converse(conversation)
            conversation.over.set()

    def _converse(self, conversation: _Conversation) -> None:
        call = name = "?"
        try:
            with conversation.socket.makefile("rb") as reads, conversation.socket.makefile("wb", buffering=0) as writes:
                session = Session(reads, cast(BinaryIO, writes))
                call, name = session.call_id, session.script
                script = self._scripts.get(name)
                if script is None:
                    log.warning("Call %s asked for a script that does not exist.", call)
                    return
                script(session, self._engine)
        except AGIHangup:
            log.info("Call %s ended during a script.", call)
        except (AGIError, StoreUnavailable) as error:
            log.warning("Call %s goes on without its script: %s", call, type(error).__name__)
        except Exception as error:
            # Without the message: SQLAlchemy's holds the parameters, which are the caller's.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("Script %s broke: %s\n%s", name, type(error).__name__, where)
        else:
            log.debug("Call %s: %s took %.1f ms", call, name, (monotonic() - conversation.began) * 1000)
