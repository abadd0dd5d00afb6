"""One connection: how long it may be silent, and how much may come that is no body.

Bodies are the application's to bound and to give up; here is what happens before it, beside it and after it.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from voxgap.server.limits import RequestError, Settings
from voxgap.server.metrics import Metrics

HEAD = 2**16
"""Most bytes of a request's line, headers and trailers; and of what else in it is no body."""
KEEP_ALIVE = 30.0
"""Seconds for which an idle connection is kept, at most."""
_SLICE = 2**14
"""Bytes that are looked at together, so that what is counted lags behind by no more."""
_CHUNK = 16
"""Bytes around a chunk that it can't do without."""
_GRACE = 1.0
"""Seconds in which the application may say that a body came too late."""
_LINGER = 2.0
_DROPPED = 2**20
"""Seconds and bytes in which what still comes is dropped, so that the client hears the answer and no reset."""
_QUEUED = 32
"""Requests that a client may send ahead of their answers."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with an end to everything that could go on for ever.

    llhttp takes headers, trailers and chunk extensions without end, and uvicorn waits for them, and for readers of
    its answers, without end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        service = self.config.app.state.service  # type: ignore[union-attr]
        self._settings: Settings = service.settings
        self._metrics: Metrics = service.metrics
        self._due = math.inf
        self._began = 0.0
        self._unsent: float = math.inf
        # Of the request that arrives: whether there is one, whether its headers are here, and whether its connection
        # is of no more use.
        self._arriving = self._headed = self._deaf = False
        self._fed = self._head = self._body = self._chunks = self._dropped = 0

    @property
    def arriving(self) -> bool:
        """Whether a request has begun, and not ended."""
        return self._arriving

    def check(self, now: float) -> None:
        """Cut what has taken too long; called a few times a second.

        Args:
            now: The loop's time.
        """
        if now < self._due:
            return
        unsent = self.transport.get_write_buffer_size()
        if self.pipeline or 0 < unsent < self._unsent:
            # It waits for an earlier request; or it is a large answer, and somebody goes on reading it.
            self._unsent = unsent
            self._due = now + self._settings.timeout
        elif unsent or self.transport.is_closing() or self._headed:
            self.transport.abort()
        elif self._arriving:
            seconds = self._settings.timeout
            self._refuse(408, f"the headers did not arrive within {seconds:g} s; send the request again")
        else:
            self._due = now + _LINGER
            self.transport.close()

    def end(self, seconds: float) -> None:
        """Cut the connection after so many seconds."""
        self._due = self.loop.time() + seconds

    # --- asyncio's side -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the time within which a request has to arrive."""
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]
        self.end(self._settings.timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request that was arriving."""
        self._arriving = False
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, a slice at a time, and refuse it with one line once it is too much or no HTTP/1.1."""
        for start in range(0, len(data), _SLICE):
            if self._deaf or self.transport.is_closing():
                self._drop(len(data) - start)
                return
            part = data[start : start + _SLICE]
            try:
                self.parser.feed_data(part)
                self._fed += len(part)
                if self._fed - self._body - _CHUNK * self._chunks > HEAD + _SLICE:
                    raise _too_much()
            except httptools.HttpParserUpgrade:
                self._deaf = True  # What comes next is of a protocol that we don't speak.
            except (httptools.HttpParserError, RequestError) as error:
                said = error if isinstance(error, RequestError) else error.__context__
                if not isinstance(said, RequestError):
                    reason = "no path" if isinstance(error, httptools.HttpParserCallbackError) else error
                    said = RequestError(400, f"this is no request of HTTP/1.1 ({reason}); see /docs")
                self._refuse(said.status, said.detail)

    def pause_writing(self) -> None:
        """Begin the time within which the client has to read."""
        super().pause_writing()
        self.end(self._settings.timeout)

    def resume_writing(self) -> None:
        """End that time: the client reads again."""
        super().resume_writing()
        self._unsent = math.inf
        if not self._arriving:
            self._settle()

    # --- the parser's side ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Count from 0, and begin the time that this request may take."""
        super().on_message_begin()
        self._arriving, self._headed = True, False
        self._fed = self._head = self._body = self._chunks = 0
        self._unsent = math.inf
        self._began = self.loop.time()
        self.end(self._settings.timeout)

    def on_url(self, url: bytes) -> None:
        """Count the request line into its head."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header into the head, and keep it unless it is a trailer."""
        self._count(len(name) + len(value) + len(b": \r\n"))
        if not self._headed:  # A trailer must not pass for a header that was looked at.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head as a whole, before anything of the request is obeyed.

        Raises:
            RequestError: Its framing is ambiguous, or too many requests wait in this connection.
        """
        self._count(len(self.parser.get_method()) + len(b"  HTTP/1.1\r\n\r\n"))
        self._check_framing()
        if not self.url.startswith(b"/") and (target := httptools.parse_url(self.url)).host:
            # A whole address says who the request is for, whatever Host says (RFC 9112, 3.2.2).
            port = b":%d" % target.port if target.port else b""
            self.headers[:] = [one for one in self.headers if one[0] != b"host"]
            self.headers.append((b"host", target.host + port))
        if len(self.pipeline) >= _QUEUED:
            raise RequestError(400, "too many requests at once in one connection; wait for their answers")
        super().on_headers_complete()
        self._headed = True
        self._due += _GRACE
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """Count a chunk, whose own header is no part of the body."""
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        """Count the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has arrived, and see what the connection waits for now."""
        self._arriving = self._headed = False
        super().on_message_complete()
        self._settle()

    # --- the application's side -----------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.scope["state"]["deadline"] = self._began + self._settings.timeout
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Begin the time of the next request, or of waiting for one."""
        if self.pipeline:  # The next one's time begins when it is its turn.
            self._began = self.loop.time()
        super().on_response_complete()
        self._unset_keepalive_if_required()  # which the first byte of a next request would put off
        if not self._arriving and not self.transport.is_closing():
            self._settle()

    def _settle(self) -> None:
        """Wait for the application, which has a limit of its own, or else for the next request."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._due = math.inf
        else:
            self.end(min(KEEP_ALIVE, self._settings.timeout))

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > _DROPPED:
            self.transport.abort()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD:
            raise _too_much()

    def _check_framing(self) -> None:
        """Refuse what a proxy before us could take for another number of requests."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise RequestError(505, "this is not HTTP/1.1; send it as such")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise RequestError(501, "the only Transfer-Encoding that is known here is chunked, of HTTP/1.1")
        lengths = [value for name, value in self.headers if name == b"content-length"]
        if self.parser.should_upgrade() and (codings or lengths not in ([], [b"0"])):
            raise RequestError(400, "a body and Upgrade in one request; send it without Upgrade")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer a request that the application can't, and end the connection."""
        self._deaf = True
        self._metrics.requests.labels("other", status).inc()
        if self.cycle is not None and not self.cycle.response_complete:
            if not self._headed:  # The answers to earlier requests come first, and are the last.
                self.cycle.keep_alive = False
                self._due = math.inf
                return
            answerable = not self.cycle.response_started and not self.pipeline
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            answerable = not self._headed
        if answerable:
            self.transport.write(_answer(status, detail))
        self.pipeline.clear()
        self.transport.close()


class _Lingering:
    """A transport that, when it is closed while the client still sends, sends its part and drops the client's.

    Closed at once, it would answer with a reset, before which the client may not see why.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._closed:
            self._transport.write(data)

    def close(self) -> None:
        if self._closed or not self._connection.arriving or self._transport.is_closing():
            self._transport.close()
        else:
            self._transport.resume_reading()
            self._transport.write_eof()
        if not self._closed:
            self._connection.end(_LINGER)
        self._closed = True


def _too_much() -> RequestError:
    return RequestError(431, f"headers over {HEAD // 1024} KiB; send fewer")


def _answer(status: int, detail: str) -> bytes:
    request_id = secrets.token_hex(8)
    body = json.dumps({"detail": detail, "request_id": request_id}).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[status] + lines.encode() + b"\r\n" + body
