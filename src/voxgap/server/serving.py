"""Running the application under uvicorn: a port, a signal to stop, and nothing accepted lost."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from voxgap.server.service import Service

log = logging.getLogger("voxgap.server")

_HEAD = 2**16
"""Most bytes of a request's head, and of what else in it is no body."""


def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Then `/readyz` says no, and each answer asks its client to take another connection, for `drain` seconds;
    after them no connection is taken, and the process ends when everything accepted is answered. A second
    signal ends it at once.

    Args:
        app: From `create_app`.
        host: Address to listen at.
        port: 0 takes a free one.
    """
    service: Service = app.state.service
    _allow_many_files()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=_logging(),
        http=_Bounded,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(service.settings.timeout) + 5,
    )
    _Server(config, service).run()


class _Bounded(HttpToolsProtocol):
    """llhttp, which takes headers, trailers and chunk extensions without end, with an end."""

    _beside_body = 0

    def data_received(self, data: bytes) -> None:
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > _HEAD and not self.transport.is_closing():
            self.send_400_response(f"Headers over {_HEAD // 1024} KiB.")

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside_body = 0
        super().on_message_complete()


class _Server(uvicorn.Server):
    """uvicorn, that tells the load balancer before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        loaded = self._service.live.current
        log.info("serving %s at http://%s:%s, its API at /docs; Ctrl-C ends it", loaded.name, where, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._stop_at = time.monotonic() + self._service.settings.drain
        log.info("stopping: %g s for others to notice, then what is accepted", self._service.settings.drain)

    async def on_tick(self, counter: int) -> bool:
        if self._service.draining and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


def _allow_many_files() -> None:
    """A series in one upload is hundreds of open files."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit.
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _logging() -> dict[str, Any]:
    """One line an event on stderr, in one format for uvicorn and us."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "uvicorn": {"handlers": ["err"], "level": "WARNING", "propagate": False},
            "voxgap.server": {"handlers": ["err"], "level": "INFO", "propagate": False},
        },
    }
