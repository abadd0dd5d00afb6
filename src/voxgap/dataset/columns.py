"""Columns of a manifest that are called otherwise than voxgap knows them: which known one each may be meant for."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxgap.subjects import CALLED, may_be_file, plain

_CALLED = {
    "label": "class classes labels diagnosis dx category outcome y",
    "group": CALLED,
    "split": "fold set subset partition part phase splits",
    "label_map": "mask masks mask_path seg segmentation labelmap gt ground_truth annotation label_maps",
    "path": "file files filename filepath file_path file_name image image_path images paths",
    "target": "value score targets y_true",
}
_GOES = {
    "label": "classes go into `label`",
    "group": "patient names go into `group`",
    "split": "train, validation and test go into `split`",
    "label_map": "files of label maps go into `label_map`",
    "path": "files with all channels go into `path`",
    "target": "numbers to predict go into `target`",
}
_KNOWN = {other: name for name, others in _CALLED.items() for other in (name, *others.split())}


def meant(column: str) -> str | None:
    """Return the known column that one may be meant for, by its name; None where no name is near."""
    called = plain(column)
    near = [called] if called in _KNOWN else difflib.get_close_matches(called, _KNOWN, 1, 0.8)
    return _KNOWN[near[0]] if near else None


def no_channels(path: Path, columns: Mapping[str, Sequence[str]], channels: Sequence[str]) -> dict[str, str]:
    """Find channel columns in which no cell is a file or is called as one; say for each what is wrong.

    Args:
        path: Of the table.
        columns: Its cells.
        channels: The columns that are read as channels.
    """
    found = {}
    for name in channels:
        cells = list(filter(None, columns[name]))
        if cells and not any(may_be_file(cell, path.parent) for cell in cells):
            known = meant(name)
            remedy = _GOES[known] if known else "name a file in each cell, or remove the column"
            found[name] = f"column `{name}` is read as a channel, and {cells[0]!r} is no file; {remedy}"
    return found


def say_others(path: Path, header: Sequence[str], channels: Sequence[str]) -> None:
    """Warn of columns that are read as channels, or not at all, and are called as known ones that are not there.

    Warns:
        UserWarning: One for each of them.
    """
    for name in header:
        known = meant(name)
        if known is None or known in header or name in _GOES or name.startswith("target_"):
            continue
        if name in channels and known in ("path", "target", "label"):
            continue  # its cells are files: a channel may be called so
        how = "is read as a channel" if name in channels else "is not used"
        warnings.warn(f"{path}: column `{name}` {how}; {_GOES[known]}", stacklevel=4)


def hint(header: Sequence[str], wanted: Sequence[str]) -> str:
    """Say which column may be one that is wanted, where one is called like it."""
    for name in header:
        if name not in wanted and (known := meant(name)) in wanted:
            return f"; is `{name}` it? Call it `{known}`"
    return ""
