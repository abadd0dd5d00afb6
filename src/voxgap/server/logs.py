"""What the server writes to stderr: one line an event, whatever bytes a client or a file brought into it."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from voxgap.errors import visible

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OneLine(logging.Formatter):
    """An event is a line; the lines of a traceback that follows are set in, so that none passes for an event."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """Return the line of an event."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: _Raised) -> str:  # noqa: N802
        """Return the traceback of an event."""
        return "\n".join(f"  {visible(line)}" for line in super().formatException(ei).split("\n"))


def configuration() -> dict[str, Any]:
    """Return one format on stderr for all, as `logging.config` takes it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": OneLine, "format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["err"], "level": "WARNING"},
        "loggers": {
            # Says of each bad upload what the answer to it says.
            "python_multipart": {"level": "CRITICAL"},
            "uvicorn": {"handlers": ["err"], "level": "WARNING", "propagate": False},
            "voxgap.server": {"handlers": ["err"], "level": "INFO", "propagate": False},
        },
    }
