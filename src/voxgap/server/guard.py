"""What holds for every request: who it is for, an id, a bounded body, security headers, a count, and no traceback."""

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

from voxgap.errors import visible
from voxgap.server.hosts import check
from voxgap.server.limits import MIB, RequestError, too_large
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
_DISCARDING = 0.5
"""Bytes, and seconds, of a refused body that are read on, so that the client keeps its connection."""


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
        """Pass a request on with an id of its own and a bound on its body; log and count what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        state = scope["state"]
        limit = self._service.settings.max_upload
        received, complete, status = 0, _is_bare(headers), 0

        async def bounded() -> Message:
            nonlocal received, complete
            message = await receive()
            if message["type"] == "http.request":
                count = len(message.get("body", b""))
                received += count
                complete = not message.get("more_body", False)
                if received > limit:
                    raise too_large(limit)
                if place := state.get("place"):
                    place.grow(count)
                    if complete:
                        place.take()
            return message

        async def adorned(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out.raw.extend(_HEADERS)
                out["X-Request-ID"] = request_id
                if scope["path"].startswith("/v1/"):
                    out.setdefault("Cache-Control", "no-store")
                if not complete and status >= 400 and status != 408:
                    complete = await _discard(receive)
                if self._service.draining or not complete:
                    out["Connection"] = "close"
            await send(message)

        try:
            check(scope, headers, self._service.settings.allow_hosts)
            await self._app(scope, bounded, adorned)
        except RequestError as error:
            if status:
                raise
            await _fail(adorned, request_id, error.status, error.detail)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise
            await _fail(adorned, request_id, 500, "the server failed; its log has this request's id")
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.requests.labels(route, status).inc()
            self._service.metrics.seconds.labels(route).observe(time.perf_counter() - started)


def _is_bare(headers: Headers) -> bool:
    """Return whether a request has no body."""
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


async def _discard(receive: Receive) -> bool:
    """Read what is left of a body, if it is not much; returns whether that was all."""
    left = _DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARDING):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return message["type"] == "http.request"
                left -= len(message.get("body", b""))
    return False


async def _fail(send: Send, request_id: str, status: int, detail: str) -> None:
    body = json.dumps({"detail": visible(detail), "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
