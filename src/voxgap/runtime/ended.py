"""How a job of predictions ended, and what is kept of that beside its table: the same one again has nothing to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from voxgap.doubts import kind
from voxgap.files import digest, replacing
from voxgap.runtime.inputs import Item
from voxgap.runtime.tables import Row

BETWEEN = " | "
"""Between the warnings of a row: a sentence may hold any other mark."""
LOOKS = "looks"
"""What a drift test watches of an input: in the journal, and in no table."""


class Doubt(NamedTuple):
    """A kind of warning: as it was said of the first input that has it, and how many have it."""

    said: str
    first: str
    inputs: int = 0


@dataclass
class Done:
    """How a job ended: rows in all, those with an error and the first of them, and how many had which warning.

    Warnings that differ in their numbers only are of one kind. `looks` are what a drift test watches, of one input of
    each group.
    """

    rows: int = 0
    failed: int = 0
    error: str = ""
    warnings: dict[str, Doubt] = field(default_factory=dict)
    looks: list[dict[str, float]] = field(default_factory=list)
    _groups: set[str] = field(default_factory=set)

    def count(self, row: Row) -> None:
        """Take one more row into account."""
        error = str(row.get("error") or "")
        self.rows += 1
        self.failed += bool(error)
        self.error = self.error or error
        group = str(row.get("group") or row["path"])
        if row.get(LOOKS) and group not in self._groups:
            self._groups.add(group)
            self.looks.append(row[LOOKS])
        for said in filter(None, str(row.get("warnings") or "").split(BETWEEN)):
            known = self.warnings.get(kind(said), Doubt(said, str(row["path"])))
            self.warnings[kind(said)] = known._replace(inputs=known.inputs + 1)

    def doubts(self) -> list[str]:
        """Say of each kind of warning how many inputs have it, and which the first one is."""
        return [
            f"{f'{doubt.inputs} of {self.rows} inputs, such as ' if doubt.inputs > 1 else ''}{doubt.first}: "
            f"{doubt.said} (column warnings)"
            for doubt in sorted(self.warnings.values(), key=lambda doubt: -doubt.inputs)
        ]


def note(out: Path, items: Sequence[Item], key: Row, done: Done) -> None:
    """Keep how a job ended in `.NAME.done` beside its table.

    Args:
        out, items, key: as for `voxgap.runtime.job.run`.
        done: how.
    """
    noted = {"of": _of(out, items, key), "rows": done.rows, "failed": done.failed, "error": done.error}
    with replacing(_beside(out)) as temporary:
        temporary.write_text(json.dumps(noted), encoding="utf-8")


def finished(out: Path, items: Sequence[Item], key: Row) -> Done | None:
    """Return how a job ended that is the same, whose table and label maps are there as it left them; None without one.

    Args:
        out, items, key: as for `voxgap.runtime.job.run`.
    """
    try:
        noted = json.loads(_beside(out).read_bytes())
        if noted["of"] != _of(out, items, key):
            return None
        return Done(int(noted["rows"]), int(noted["failed"]), str(noted["error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.done")


def _of(out: Path, items: Sequence[Item], key: Mapping[str, Any]) -> str:
    """Return a digest of what a job is of: its key and items, its table, and which label maps are there."""
    asked = {name: value for name, value in key.items() if name != "overwrite"}
    maps = [Path(key["maps"]) / item.label_map for item in items] if key.get("maps") else []
    with out.open("rb") as stream:
        table = hashlib.file_digest(stream, "sha256").hexdigest()
    drawn = sorted(path.name for path in maps if path.exists())
    return digest([asked, sorted(item.name for item in items), drawn, table])
