"""Who a request says it is for, and which page it comes from: a browser must not be led here by somebody else's page.

A page can have its own name point to this machine (DNS rebinding); its requests then look like those of our own page,
but for `Host`. And any page can send a form here; but for `Origin`, it looks like one of ours (CSRF).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers

from voxgap.errors import VoxgapError
from voxgap.server.limits import RequestError

ANY = "*"
"""Allows every name."""
HEALTH = ("/healthz", "/readyz")
"""Asked by orchestrators, by whatever address they know; nothing can be learnt there."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_-][a-z0-9._-]{0,253})(?::(\d{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE)


def host_name(name: str) -> str:
    """Bring a name to the form in which names are compared.

    Args:
        name: `--allow-host`: `brain.example.org`, `192.168.1.5`, `[fd00::5]`, or `*` for any.

    Raises:
        VoxgapError: It is an address of a page, has a port, or is no name.
    """
    if name == ANY:
        return ANY
    given = name
    try:
        address = _address(name)
        if address is None:
            name = name.encode("idna").decode()
        host, port = _split(f"[{address}]" if address and address.version == 6 else name)
    except (ValueError, UnicodeError):
        host, port = "", None
    if not host or port is not None:
        raise VoxgapError(
            f"--allow-host {given!r}: give a name alone, without scheme or port, as in brain.example.org"
        )
    return host


def check(scope: Mapping[str, Any], headers: Headers, allowed: Iterable[str]) -> None:
    """See that a request is meant for this server, and that no foreign page sent it.

    Args:
        scope: Of ASGI.
        headers: Of the request.
        allowed: Names besides those of this machine, from `host_name`.

    Raises:
        RequestError: 400, `Host` is not there, not one or no name; 421, it is somebody else's; 403, the page is.
    """
    given = headers.getlist("host")
    health = scope["path"] in HEALTH
    if not given and health and scope.get("http_version") == "1.0":
        return  # a health check of HTTP/1.0, which has no Host
    if len(given) != 1:
        raise RequestError(400, f"the header Host came {len(given)} times; send it once")
    try:
        host, port = _split(given[0])
    except ValueError:
        raise RequestError(400, "the header Host holds no name; send it as in Host: localhost:8080") from None
    if not (ANY in allowed or host in allowed or _is_here(scope, host) or (health and _address(host))):
        raise RequestError(
            421, f"this server does not answer for {host}; start it with --allow-host {host} if it should"
        )
    if scope["method"] not in _SAFE:
        _check_page(scope, headers, (host, port), allowed)


def _check_page(
    scope: Mapping[str, Any], headers: Headers, ours: tuple[str, int | None], allowed: Iterable[str]
) -> None:
    given = headers.getlist("origin")
    # Programs send neither; a browser that leaves Origin out says at least this much.
    refused = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if given:
        refused = len(given) > 1 or not _is_ours(given[0], ours, allowed)
    if refused:
        raise RequestError(
            403,
            "a page from elsewhere sent this; use the server's own page, or allow the page's host by --allow-host",
        )


def _is_ours(origin: str, ours: tuple[str, int | None], allowed: Iterable[str]) -> bool:
    found = _ORIGIN.fullmatch(origin)
    if not found or found[1].lower() not in _PORTS:
        return False
    usual = _PORTS[found[1].lower()]
    try:
        host, port = _split(found[2])
    except ValueError:
        return False
    # Behind a proxy with TLS, only the page knows the scheme.
    return host in allowed or (host, port or usual) == (ours[0], ours[1] or usual)


def _split(text: str) -> tuple[str, int | None]:
    """Host and port as they are compared: in small letters, without a last dot, addresses in their shortest form."""
    found = _HOST.fullmatch(text.strip(" \t"))
    if not found:
        raise ValueError("no host")
    host = found[1].lower()
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
    return host.removesuffix("."), None if found[2] is None else int(found[2])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_here(scope: Mapping[str, Any], host: str) -> bool:
    """Return whether this is the machine itself, or the very address that the connection reached."""
    address = _address(host)
    if address is None:
        return host == "localhost"
    server = scope.get("server") or ("",)
    return address.is_loopback or address == _address(str(server[0]))
