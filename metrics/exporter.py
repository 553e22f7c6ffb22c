"""The figures over HTTP: ``/metrics`` for Prometheus, ``/health`` for whoever watches the process.

It runs in threads of its own, so that a scrape costs the event loop nothing, and a stuck event loop still shows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger("sanling.metrics")

AGAIN_EVERY_S = 10.0
"""So often `Exporter.run` tries a port that was taken."""


class Exporter:
    """Serves `registry` on `address`:`port` between `start` and `close`, or while `run` runs; also a context manager.

    `health` names each part and says whether it is ready: ``/health`` answers 200 if all are, else 503, with
    the parts as JSON either way. It is called in the exporter's threads. Port 0 picks a free one: see `port`.
    """

    def __init__(
        self, registry: CollectorRegistry, address: str, port: int, health: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._metrics: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] = make_wsgi_app(registry)
        self._address = address
        self._port = port
        self._health = health
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return self._server.server_port if self._server else self._port

    def start(self) -> None:
        """Raises OSError if the port is taken."""
        server = make_server(self._address, self._port, self._serve, _Server, _Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            server.server_close()
            raise OSError(f"no thread for the metrics: {error}") from error
        self._server, self._thread = server, thread
        log.info("Metrics on http://%s:%d/metrics", self._address, self.port)

    def close(self) -> None:
        """Stops answering and frees the port; waits for it. A second call does nothing."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    async def run(self) -> None:
        """Serves until cancelled. Figures are not worth a call: where they cannot be served, that is said on the log
        and tried again.
        """
        try:
            while True:
                if self._thread is None or not self._thread.is_alive():
                    self.close()
                    try:
                        self.start()
                    except OSError as error:
                        log.error("No metrics on %s:%d (%s); the next try is in %g s.",
                                  self._address, self._port, error, AGAIN_EVERY_S)  # fmt: skip
                await asyncio.sleep(AGAIN_EVERY_S)
        finally:
            self.close()

    def __enter__(self) -> Exporter:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
            case "GET" | "HEAD", "/metrics":
                return self._metrics(environ, start_response)
            case "GET" | "HEAD", "/health":
                return self._tell_health(start_response)
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
                return [b"/metrics or /health\n"]

    def _tell_health(self, start_response: StartResponse) -> Iterable[bytes]:
        try:
            parts = dict(self._health())
        except Exception:
            log.exception("The health could not be read.")
            parts = {"health": False}
        ready = all(parts.values())
        start_response(
            "200 OK" if ready else "503 Service Unavailable", [("Content-Type", "application/json; charset=utf-8")]
        )
        return [json.dumps({"ready": ready, "parts": parts}, ensure_ascii=False).encode() + b"\n"]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        # WSGIServer asks the resolver for the address's name, which can take seconds where there is none.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("A scrape broke off: %s", sys.exc_info()[1])


class _Handler(WSGIRequestHandler):
    timeout = 5.0

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: object) -> None:
        return None
