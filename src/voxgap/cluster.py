"""A connection to a Ray cluster, for experiments and for predictions."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from voxgap.errors import VoxgapError

LOCAL = "local"


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, or start one, and leave it afterwards; a connection that is there already stays.

    Args:
        address: `auto` on one of its machines, `HOST:6379`, `ray://HOST:10001`; `local` starts one on this machine.

    Yields:
        The module `ray`.

    Raises:
        VoxgapError: Ray isn't installed, or the cluster can't be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise VoxgapError("work on a cluster needs Ray; run: pip install 'voxgap[ray]'") from None
    own = not ray.is_initialized()
    if own:
        target = {"include_dashboard": False} if address == LOCAL else {"address": address}
        try:
            _knock(address)
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **target)
        except Exception as error:  # Ray raises many kinds, most of them RuntimeError
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise VoxgapError(
                f"no Ray cluster at {address} ({first}); start one with `ray start --head`, or use local"
            ) from None
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at `HOST:PORT`; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
