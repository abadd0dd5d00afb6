"""Which column of a table says whose each sample is, where none is called `group`: one rule for all who read tables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxgap import io, paths

CALLED = (
    "patient patients patient_id patientid patient_name subject subject_id participant participant_id case case_id "
    "id pid mrn recording groups"
)
_LEAST = 3
"""Names of patients, at least: fewer can't be dealt out to three parts, and may be classes (`case`: yes, no)."""


def group_column(path: Path, header: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column that is read as `group`, where none is called so: one called as patients are, full of names.

    Args:
        path: Of the table.
        header: Its columns; of several the first that `patient`, `subject` ... `id` lists.
        columns: Their cells.

    Warns:
        UserWarning: There is one.
    """
    called = {plain(name): name for name in reversed(header)}
    for other in CALLED.split():
        name = called.get(other)
        if name is None or "group" in header:
            continue
        cells = columns[name]
        if all(cells) and len(set(cells)) >= _LEAST and not any(may_be_file(c, path.parent) for c in cells):
            warnings.warn(
                f"{path}: column `{name}` is read as `group`: all samples of one stay in one part of the split",
                stacklevel=4,
            )
            return name
    return None


def plain(column: str) -> str:
    """Return a column's name as names are compared."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def may_be_file(cell: str, folder: Path) -> bool:
    """Tell whether a cell is a file, or is called as one."""
    if cell.lower().endswith(tuple(io.FORMATS)) or "::" in cell:
        return True
    try:
        return paths.resolve(cell, folder).exists()
    except (OSError, ValueError):
        return False
