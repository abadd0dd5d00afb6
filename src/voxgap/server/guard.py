"""What holds for every request: an id, a bounded body, security headers, a count, and never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxgap.server.limits import MIB, RequestError
from voxgap.server.service import Service

log = logging.getLogger("voxgap.server")

CSP = (
    "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        "Content-Security-Policy": CSP,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }.items()
]
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DISCARDED = MIB
"""Bytes of a refused body that are read on, so that the client hears the answer and keeps its connection."""


class Guard:
    """Middleware around all routes.

    Args:
        app: The rest.
        service: For its limits and counters.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        limit = self._service.settings.max_upload
        received, complete, status = 0, False, 0

        async def bounded() -> Message:
            nonlocal received, complete
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if received > limit:
                    raise RequestError(413, f"the body is over {limit // MIB} MiB; send less at once")
            return message

        async def adorned(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out.raw.extend(_HEADERS)
                out["X-Request-ID"] = request_id
                if scope["path"].startswith("/v1/"):
                    out.setdefault("Cache-Control", "no-store")
                if self._service.draining:
                    out["Connection"] = "close"
                if status >= 400:
                    await _discard(receive, 0 if complete else _DISCARDED)
            await send(message)

        try:
            await self._app(scope, bounded, adorned)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise
            await _fail(adorned, request_id)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.requests.labels(route, status).inc()
            self._service.metrics.seconds.labels(route).observe(time.perf_counter() - started)


async def _discard(receive: Receive, at_most: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while at_most > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                at_most -= len(message.get("body", b""))


async def _fail(send: Send, request_id: str) -> None:
    body = json.dumps(
        {"detail": "the server failed; its log has this request's id", "request_id": request_id}
    )
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
