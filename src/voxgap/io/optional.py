"""Libraries of the extra `voxgap[formats]`, imported when a file of their format is first touched."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError


def need(module: str, path: Path | str, package: str = "", extra: str = "formats") -> Any:
    """Import a module, or say in one line what to install for this file.

    Args:
        module: What to import.
        path: The file that needs it.
        package: The package that brings it, where its name is another.
        extra: With which it is installed.

    Raises:
        VoxgapError: It isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = package or module.partition(".")[0]
        raise VoxgapError(
            f"{path}: reading and writing it needs {missing}; run: pip install 'voxgap[{extra}]'"
        ) from error
