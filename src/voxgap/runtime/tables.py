"""Rows of answers as the tables that people ask for: CSV, JSON, JSON by the line, Parquet."""

from __future__ import annotations

import itertools
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from voxgap import acquire, table
from voxgap.errors import visible
from voxgap.io.optional import need

Row = dict[str, Any]
OF_TABLES = ("case", "group")
"""What a table that names the files may say of each."""
_ROWS_AT_ONCE = 10_000


def write_csv(stream: TextIO, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write rows as CSV, numbers to six digits, and what moves a terminal made visible."""
    cells = ({_shown(name): _cell(name, value) for name, value in row.items()} for row in rows)
    table.write(stream, [_shown(name) for name in columns], cells)


def _cell(name: str, value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4f}" if name == "missing_rate" else f"{value:.6g}"
    return _shown(value) if isinstance(value, str) else value


def _shown(text: str) -> str:
    """Make control bytes of a file's or a class's name visible, since such tables are looked at in a terminal."""
    if text.isprintable():
        return text
    return "".join(letter if unicodedata.category(letter) == "Zs" else visible(letter) for letter in text)


def _csv_file(file: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        write_csv(stream, rows, columns)


def _json_file(file: Path, rows: Iterable[Row], _: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for i, row in enumerate(rows):
            stream.write(("," if i else "") + "\n" + json.dumps(row))
        stream.write("\n]\n")


def _jsonl_file(file: Path, rows: Iterable[Row], _: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def _parquet_file(file: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    arrow, parquet = need("pyarrow", file), need("pyarrow.parquet", file)
    texts = {"path", *OF_TABLES, "class", "label_map", "guarantee", "warnings", "error", "precision"}
    texts |= acquire.TEXTS
    kinds = {
        name: arrow.string()
        if name in texts or name.startswith("top_")
        else arrow.int64()
        if name.startswith(("voxels_", "set_", "region_")) or name == "windows"
        else arrow.float64()
        for name in columns
    }
    schema = arrow.schema(list(kinds.items()))
    with parquet.ParquetWriter(file, schema) as writer:
        rest = iter(rows)
        while some := list(itertools.islice(rest, _ROWS_AT_ONCE)):
            writer.write_table(arrow.Table.from_pylist(some, schema))


WRITERS: dict[str, Callable[[Path, Iterable[Row], Sequence[str]], None]] = {
    ".csv": _csv_file,
    ".json": _json_file,
    ".jsonl": _jsonl_file,
    ".parquet": _parquet_file,
}
