"""Running the application under uvicorn: a port, a signal to stop, and nothing accepted lost."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from voxgap.server.connections import Connection
from voxgap.server.hosts import ANY
from voxgap.server.logs import configuration
from voxgap.server.service import Service

log = logging.getLogger("voxgap.server")

_LOOK = 0.1
"""Seconds between looks at connections that may have been silent for too long."""


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
        log_config=configuration(),
        http=Connection,
        # A request to speak WebSocket is one like any other: it would get past what holds for all.
        ws="none",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(service.settings.timeout) + 5,
    )
    _Server(config, service).run()


class _Server(uvicorn.Server):
    """uvicorn, that tells the load balancer before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._looking = asyncio.create_task(self._look())
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        loaded = self._service.live.current
        log.info("serving %s at http://%s:%s, its API at /docs; Ctrl-C ends it", loaded.name, where, port)
        allowed = self._service.settings.allow_hosts
        if ANY not in allowed and not ipaddress.ip_address(host).is_loopback:
            names = ", ".join(("localhost", *allowed))
            log.info("it answers for %s and its own addresses; --allow-host NAME adds a name", names)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK)
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(loop.time())

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
    """Allow as many open files as the system lets: a series in one upload is hundreds."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit.
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
