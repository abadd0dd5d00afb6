"""How a job of predictions ended, and what is kept of that beside its table: the same one again has nothing to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from voxgap import io, table
from voxgap.doubts import kind
from voxgap.files import canonical, digest, replacing, sha256, stamp
from voxgap.runtime import maps
from voxgap.runtime.inputs import Item
from voxgap.runtime.tables import Row

BETWEEN = " | "
"""Between the warnings of a row: a sentence may hold any other mark."""
LOOKS = "looks"
"""What a drift test watches of an input: in the journal, and in no table."""
STAMP = "stamp"
"""What changes when the files of an input do: in the journal, and in no table."""
_HEADERS = (".hdr", ".hdr.gz", ".nhdr", ".mhd")


class Doubt(NamedTuple):
    """A kind of warning: as it was said of the first input that has it, and how many have it."""

    said: str
    first: str
    inputs: int = 0


@dataclass
class Done:
    """How a job ended: rows in all, those with an error and the first of them, and how many had which warning.

    Warnings that differ in their numbers only are of one kind. `looks` are what a drift test watches, of one input of
    each group; `said` what was said while it ran.
    """

    rows: int = 0
    failed: int = 0
    error: str = ""
    warnings: dict[str, Doubt] = field(default_factory=dict)
    looks: list[dict[str, float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
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


class Ended(NamedTuple):
    """A job that has ended, and which of its inputs, or of what it wrote, is no longer as it was: "" where none is."""

    done: Done
    changed: str


def stamps(items: Sequence[Item], out: Path, key: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Return what changes when the files of an input do, by its name.

    Args:
        items, out, key: as for `voxgap.runtime.job.run`; what the job writes into a folder of inputs is none of them.
    """
    own = [out, *(out.with_name(f".{out.name}.{end}") for end in ("done", "journal", "lock"))]
    own += [Path(key["maps"])] if key.get("maps") else []
    return {item.name: [stamp(path, own) for path in _read_with(item)] for item in items}


def note(
    out: Path, items: Sequence[Item], key: Row, done: Done, inputs: Mapping[str, list[str | None]]
) -> None:
    """Keep how a job ended in `.NAME.done` beside its table.

    Args:
        out, items, key: as for `voxgap.runtime.job.run`.
        done: how.
        inputs: `stamps` from before it read them.
    """
    noted = {
        "of": _of(items, key),
        "inputs": {_name(item): inputs[item.name] for item in items},
        "table": sha256(out),
        "maps": {_within(file, key): stamp(file) for file in _drawn(items, key)},
        "warnings": [list(doubt) for doubt in done.warnings.values()],
        **{name: getattr(done, name) for name in ("rows", "failed", "error", "looks", "said")},
    }
    with replacing(_beside(out)) as temporary:
        temporary.write_text(json.dumps(noted), encoding="utf-8")


def finished(out: Path, items: Sequence[Item], key: Row) -> Ended | None:
    """Return how a job of the same files and options ended, wherever it was started from; None without one.

    Args:
        out, items, key: as for `voxgap.runtime.job.run`.
    """
    try:
        noted = json.loads(_beside(out).read_bytes())
        if noted["of"] != _of(items, key):
            return None
        doubts = [Doubt(*doubt) for doubt in noted["warnings"]]
        done = Done(
            int(noted["rows"]),
            int(noted["failed"]),
            str(noted["error"]),
            {kind(doubt.said): doubt for doubt in doubts},
            list(noted["looks"]),
            list(map(str, noted["said"])),
        )
        inputs, drawn, written = noted["inputs"], noted["maps"], noted["table"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    now = stamps(items, out, key)
    changed = [(item.name, any(now[item.name])) for item in items if inputs[_name(item)] != now[item.name]]
    maps_now = [(file, drawn.get(_within(file, key)) == stamp(file)) for file in _drawn(items, key)]
    changed += [(str(file), file.exists()) for file, same in maps_now if not same]
    if not out.is_file() or sha256(out) != written:
        changed.append((str(out), out.exists()))
    return Ended(done, said_of(changed, out))


def said_of(changed: Sequence[tuple[str, bool]], out: Path) -> str:
    """Say what has changed, or is no longer there, since a job wrote of it: "" where nothing has."""
    if not changed:
        return ""
    name, there = changed[0]
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{name} {'has changed' if there else 'is gone'}{more}, since {out} was written"


def resolved(key: Mapping[str, Any]) -> Row:
    """Return the key of a job as it is from whichever folder it is started."""
    return {**key, "maps": os.path.realpath(key["maps"])} if key.get("maps") else dict(key)


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.done")


def _of(items: Sequence[Item], key: Mapping[str, Any]) -> str:
    """Return a digest of what a job is of: its key and items, wherever they are named from."""
    asked = {name: value for name, value in resolved(key).items() if name != "overwrite"}
    each = sorted(
        canonical([_name(item), item.channels, item.label_map, item.group, item.case]) for item in items
    )
    return digest([asked, each])


def _name(item: Item) -> str:
    """Return one name of the files of an item, from whichever folder they are named."""
    return "|".join("" if file is None else _resolved(file) for file in item.files)


def _resolved(file: str) -> str:
    path, inner = io.split_item(Path(file))
    return os.path.realpath(path) + ("" if inner is None else f"{io.SEPARATOR}{inner}")


def _read_with(item: Item) -> Iterator[Path]:
    """Yield the files of an item; of a header without its values, all beside it that may be these."""
    for file in filter(None, item.files):
        path = io.split_item(Path(file))[0]
        yield path
        if path.name.lower().endswith(_HEADERS) and path.is_file():
            known = (*io.FORMATS, *table.SUFFIXES, ".json", ".jsonl")
            for other in sorted(path.parent.rglob("*")):
                hidden = other.name.startswith(".")
                if not hidden and not other.name.lower().endswith(known) and other.is_file():
                    yield other


def _within(file: Path, key: Mapping[str, Any]) -> str:
    return os.path.relpath(file, key["maps"])


def _drawn(items: Sequence[Item], key: Mapping[str, Any]) -> list[Path]:
    """Return where the label maps of a job go, and the segments beside them."""
    if not key.get("maps"):
        return []
    files = [Path(key["maps"]) / item.label_map for item in items]
    return [path for file in files for path in (file, maps.segments_of(file))]
