"""The API over HTTP, in a thread and on an event loop of its own: nothing that is asked of it can stall a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Collection
from typing import TypeVar

import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.api.app import create
from ari_app.api.floor import Floor
from ari_app.api.happenings import Happenings
from ari_app.call import Call
from ari_app.leading import Leading
from ari_app.line import Hotline
from ari_app.outbound import CaseCalls

log = logging.getLogger("sanling.api")
T = TypeVar("T")

AGAIN_EVERY_S = 10.0
"""So often a port that was taken is tried again."""
UNREAD_MS = 15_000
"""A reader that takes nothing for so long is cut off by the kernel."""
SEND_BUFFER_BYTES = 128 * 1024
ENDS_WITHIN_S = 2
CONNECTIONS = 256
DATABASE_ANSWERS_WITHIN_S = 3.0


async def serve(house: Hotline, calls: Callable[[], Collection[Call]], leading: Leading, case_calls: CaseCalls) -> None:
    """The API of `house`, with `calls` in progress, on the settings' ``api_port``; until cancelled."""
    engine = store.open_engine(house.settings.database, answer_within_s=DATABASE_ANSWERS_WITHIN_S)

    async def read(question: Callable[[Session], T]) -> T:
        def answer() -> T:
            with store.session(engine) as session:
                return question(session)

        return await asyncio.to_thread(answer)

    happenings = Happenings(house.clock())
    house.ledger.watch(happenings.written)
    house.desk.watch(lambda news: happenings.desk_changed(house.clock(), house.desk.queue_length, news))
    floor = Floor(house, calls, read, leading, case_calls, happenings, asyncio.get_running_loop())
    try:
        await Server(create(floor), happenings, house.settings.control_address, house.settings.api_port).run()
    finally:
        engine.dispose()


class Server:
    """Serves `app` on `address`:`port` while `run` runs. Port 0 picks a free one: see `port`."""

    def __init__(self, app: FastAPI, happenings: Happenings, address: str, port: int) -> None:
        self._app = app
        self._happenings = happenings
        self._address = address
        self.port = port
        self._serving: tuple[uvicorn.Server, threading.Thread] | None = None

    async def run(self) -> None:
        """Until cancelled. The API is not worth a call: where it cannot be served, that is said and tried again."""
        try:
            while True:
                if self._serving is None or not self._serving[1].is_alive():
                    try:
                        self._start()
                    except OSError as error:
                        log.error("No API on %s:%d (%s); the next try is in %g s.",
                                  self._address, self.port, error, AGAIN_EVERY_S)  # fmt: skip
                await asyncio.sleep(AGAIN_EVERY_S)
        finally:
            await asyncio.shield(asyncio.to_thread(self._stop))

    def _start(self) -> None:
        """Raises OSError if the port is taken."""
        listening = socket.create_server((self._address, self.port), backlog=64)
        with contextlib.suppress(
            OSError, AttributeError
        ):  # Linux has it; elsewhere a slow reader holds a socket longer
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.port = listening.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                self._app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=ENDS_WITHIN_S,
            )
        )  # fmt: skip
        thread = threading.Thread(target=self._serve, args=(server, listening), name="api", daemon=True)
        self._serving = (server, thread)
        thread.start()
        log.info("API on http://%s:%d/v1", self._address, self.port)

    def _serve(self, server: uvicorn.Server, listening: socket.socket) -> None:
        try:
            asyncio.run(server.serve(sockets=[listening]))
        except Exception:
            log.exception("the API broke; it is started again")
        finally:
            listening.close()

    def _stop(self) -> None:
        if self._serving is None:
            return
        server, thread = self._serving
        self._happenings.close()
        server.should_exit = True
        thread.join(ENDS_WITHIN_S + 3)
        self._serving = None
