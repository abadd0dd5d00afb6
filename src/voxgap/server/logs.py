"""What the server writes to stderr: one line an event, whatever bytes a client or a file brought into it."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def escaped(text: str) -> str:
    """Write control characters out, line ends too: a terminal obeys them, and a log takes a line end for an event.

    Args:
        text: Of whoever.

    Returns:
        The same text where all of it can be printed, and `\\x1b` for what can't.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


class OneLine(logging.Formatter):
    """An event is a line; the lines of a traceback that follows are set in, so that none passes for an event."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """The line of an event."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: _Raised) -> str:  # noqa: N802
        """The traceback of an event."""
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).split("\n"))


def configuration() -> dict[str, Any]:
    """One format on stderr for all, as `logging.config` takes it."""
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
