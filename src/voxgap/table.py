"""Tables of samples and of results: one way to read them for every command, and one to write them.

A cell is text without blanks around it, and nothing where it says that there is nothing: `EMPTY` is what pandas
takes for missing, and the dashes that people write. A cell that begins with an apostrophe is the text behind it
as it stands, where that text would be read otherwise: `'NA` is a class of that name. So `write` keeps a
spreadsheet from running a text as a formula (OWASP, "CSV Injection"), and `read` takes that back.
"""

from __future__ import annotations

import csv
import io as streams
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from voxgap.errors import VoxgapError
from voxgap.files import replacing
from voxgap.io import check_file, one_line
from voxgap.io.optional import need

SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t|"

MAX_BYTES = 2**27
MAX_ROWS = 2_000_000
MAX_COLUMNS = 20_000
MAX_CELLS = 10_000_000
MAX_LETTERS = 2**17

_RESERVED = ("path", "label", "target", "label_map", "group", "split")
_EMPTY = {"", "None", "NaT", "-", "--", "–", "—", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"}
_EMPTY_IN_ANY_CASE = {"na", "n/a", "nan", "+nan", "-nan", "null", "<na>", "#n/a", "#na", "#n/a n/a"}
_LONGEST_EMPTY = max(map(len, _EMPTY | _EMPTY_IN_ANY_CASE))
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_FORMULA = tuple("=+-@＝＋－＠")
# Pandas names columns without a name so.
_UNNAMED = re.compile(r"(?:Unnamed: \d+(?:_level_\d+)?)?")
_EXCELS_FIRST_LINE = re.compile(r'"?sep=(.)"?[,;\t|]*(?=[\r\n]|\Z)', re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')
_QUOTED_CELL = re.compile(rf"((?:\A|(?<=[,;\t|\r\n])) *{_QUOTED.pattern}) *(?=[,;\t|\r\n]|\Z)")


class Row(NamedTuple):
    """A row: the line it ends on (in Parquet its number, from 1), its cells, or what is wrong with their number."""

    number: int
    cells: list[str]
    problem: str = ""


class Table(NamedTuple):
    """A table as it was meant: `header` has the names of the columns, each row a cell for each of them.

    `decimal_comma` is true where a comma may stand for the decimal point, since it parts no cells.
    """

    header: list[str]
    rows: list[Row]
    decimal_comma: bool = False


def read(path: Path) -> Table:
    """Read a table: CSV with comma, semicolon, tab or bar, or Parquet.

    Names that voxgap knows (`path`, `label`, `target` ...) come in lower case. Blank rows are left out, columns
    without a name that are empty or only count the rows, and known ones that are wholly empty.

    Args:
        path: A file with a suffix of `SUFFIXES`.

    Raises:
        VoxgapError: It is none, is damaged, too large or of another encoding, or a column has no name or that of
            another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise VoxgapError(f"{path}: is no table; give one of {', '.join(SUFFIXES)}")
    with one_line(path):
        check_file(path)
        if path.suffix.lower() == ".parquet":
            return _meant(path, *_parquet(path), True)
        text = _text(path)
        first = _EXCELS_FIRST_LINE.match(text)
        # What is cut off leaves its line end, so that lines keep their numbers.
        text = text[first.end() :] if first else text
        delimiter = (
            first[1] if first else _delimiter(text, DELIMITERS if path.suffix.lower() != ".tsv" else "\t,;|")
        )
        _bounded(path, text.count("\n") + text.count("\r"), 0, text.count(delimiter))
        return _meant(path, *_csv(path, text, delimiter), delimiter != ",")


def write(target: Path | TextIO, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file in UTF-8 that a spreadsheet opens without running anything, and `read` reads as it was.

    Args:
        target: A file, which appears whole, or a stream.
        columns: Names, in their order.
        rows: A value for each column; None, or a column left out, is an empty cell. Numbers are written as they
            are, whatever their sign.
    """
    if isinstance(target, Path):
        with (
            replacing(target) as beside,
            # A file name on Linux may be no text at all.
            beside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
        ):
            return write(stream, columns, rows)
    target.write(_line(columns))
    for row in rows:
        target.write(_line([row.get(name) for name in columns]))
    return None


def is_number(text: str) -> bool:
    """Tell a decimal number, `-3.2` or `1e-5`, from any other text; no thousands separators, no infinity."""
    return _NUMBER.fullmatch(text) is not None


def is_target(column: str) -> bool:
    """Tell whether a column holds numbers to predict."""
    return column == "target" or column.startswith("target_")


def is_reserved(column: str) -> bool:
    """Tell whether a column has a meaning of its own, and is no channel."""
    return column in _RESERVED or is_target(column)


def _line(values: Sequence[Any]) -> str:
    return ",".join(map(_written, values)) + "\n"


def _written(value: Any) -> str:
    text = "" if value is None else str(value).replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, str) and _is_read_otherwise(text):
        text = f"'{text}"
    if any(letter in text for letter in ',;\t|"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _is_read_otherwise(text: str) -> bool:
    """Tell whether a text would run in a spreadsheet, or not be read as it stands."""
    core = text.lstrip("'")
    if core != core.strip() or (core and _is_empty(core)):
        return True
    return core.startswith(_FORMULA) and not is_number(core)


def _is_empty(text: str) -> bool:
    return len(text) <= _LONGEST_EMPTY and (text in _EMPTY or text.lower() in _EMPTY_IN_ANY_CASE)


def _meant_cell(cell: str) -> str:
    stripped = cell.strip()
    if stripped.startswith("'"):
        # As it stands where `write` put the apostrophe; a person may have put blanks around it.
        for text in (cell, stripped):
            if text.startswith("'") and _is_read_otherwise(text[1:]):
                return text[1:]
    return "" if _is_empty(stripped) else stripped


def _name(cell: str) -> str:
    name = _meant_cell(cell) or cell.strip()
    return name.lower() if is_reserved(name.lower()) else name


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise VoxgapError(
            f"{path}: {size / 2**20:.0f} MiB, more than a table of samples takes ({MAX_BYTES // 2**20}); leave "
            "columns out, or make it several files"
        )
    held = path.read_bytes()
    if held[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise VoxgapError(f"{path}: is UTF-16 text; save it as CSV UTF-8")
    try:
        text = held.decode().lstrip("\N{ZERO WIDTH NO-BREAK SPACE}")  # Excel's byte order mark
    except UnicodeDecodeError as error:
        line = _line_at(held, error.start, b"\n", b"\r")
        raise VoxgapError(
            f"{path}: line {line} can't be read as UTF-8 (byte 0x{held[error.start]:02x}); save it as CSV UTF-8"
        ) from None
    if "\0" in text:
        line = _line_at(text, text.index("\0"), "\n", "\r")
        raise VoxgapError(f"{path}: line {line} holds a NUL, so it is no CSV; save it as CSV UTF-8")
    # A quoted cell may have blanks on both sides; `csv` knows only those before it.
    return _QUOTED_CELL.sub(r"\1", text) if '" ' in text else text


def _line_at(held: Any, position: int, *ends: Any) -> int:
    return 1 + max(held.count(end, 0, position) for end in ends)


def _delimiter(text: str, candidates: str) -> str:
    """Return what parts the header into most cells, and the next rows into as many."""
    lines = [line for line in _QUOTED.sub("", text[:MAX_LETTERS]).splitlines() if line.strip()]
    lines = lines[:20] if len(text) <= MAX_LETTERS else lines[: min(20, max(1, len(lines) - 1))]

    def fits(delimiter: str) -> tuple[int, int]:
        counts = [line.count(delimiter) for line in lines] or [0]
        return sum(count == counts[0] for count in counts) if counts[0] else 0, counts[0]

    return max(candidates, key=fits)


def _csv(path: Path, text: str, delimiter: str) -> tuple[list[str], Iterable[tuple[int, list[str]]]]:
    if delimiter not in DELIMITERS:
        raise VoxgapError(f"{path}: its first line says sep={delimiter}; use a comma, semicolon, tab or bar")
    reader = csv.reader(
        streams.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )

    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            for cells in reader:
                if any(cell and not cell.isspace() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise VoxgapError(
                f"{path}: line {reader.line_num} can't be read as CSV ({error}); check its quotes"
            ) from None

    rest = lines()
    return next(rest, (0, list[str]()))[1], rest


def _parquet(path: Path) -> tuple[list[str], Iterable[tuple[int, list[str]]]]:
    parquet, types = need("pyarrow.parquet", path), need("pyarrow.types", path)
    schema = parquet.read_schema(path)
    texts = [f.name for f in schema if types.is_string(f.type) or types.is_large_string(f.type)]
    # A text that stands in a million rows stays one text, so that what is read is as small as what is stored.
    file = parquet.ParquetFile(path, read_dictionary=texts)
    facts = file.metadata
    size = sum(facts.row_group(index).total_byte_size for index in range(facts.num_row_groups))
    # Pandas stores the index of its rows under such names.
    names = [name for name in schema.names if not name.startswith("__index_level_")]
    _bounded(path, facts.num_rows, size, facts.num_rows * len(names))
    _check_columns(path, names)
    table = file.read(columns=names)
    columns = [_column(table.column(name)) for name in names]
    rows = ([column[index] for column in columns] for index in range(facts.num_rows if columns else 0))
    return names, enumerate(rows, 1)


def _column(column: Any) -> list[str]:
    cells: list[str] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            known = [*map(_cell, chunk.dictionary.to_pylist()), ""]
            cells += [known[-1 if index is None else index] for index in chunk.indices.to_pylist()]
        else:
            cells += map(_cell, chunk.to_pylist())
    return cells


def _cell(value: Any) -> str:
    """Write a cell as a CSV file would: nothing for null, and no `.0` after a whole number."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode()
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _bounded(path: Path, rows: int, size: int, cells: int) -> None:
    """Refuse a table by what its header or a count of its delimiters says, before any cell of it is made."""
    if rows > MAX_ROWS or size > MAX_BYTES or cells > MAX_CELLS:
        what = f"{rows} rows of {size} bytes" if size else f"{rows} rows and {cells} cells"
        raise VoxgapError(f"{path}: {what} are no manifest; leave columns out, or make it several files")


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise VoxgapError(f"{path}: {len(names)} columns, more than {MAX_COLUMNS}; leave some out")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise VoxgapError(f"{path}: column {name!r} stands twice; rename one")
        seen.add(name)


def _meant(
    path: Path, header: list[str], lines: Iterable[tuple[int, list[str]]], decimal_comma: bool
) -> Table:
    """Return the table without what nobody meant: blank rows, columns that are empty or only count."""
    names = ["" if _UNNAMED.fullmatch(cell.strip()) else _name(cell) for cell in header]
    if not any(names):
        raise VoxgapError(f"{path}: holds no header; name the columns in its first row")
    if len(names) > MAX_COLUMNS:
        _check_columns(path, names)
    least = max(index for index, name in enumerate(names, 1) if name)
    rows = []
    for number, raw in lines:
        cells = [_meant_cell(cell) for cell in raw]
        if any(cells):
            rows.append(_row(number, cells, len(names), least))
    whole = [row.cells for row in rows if not row.problem]
    kept = [index for index, name in enumerate(names) if _is_kept(path, index, name, whole)]
    if len(kept) < len(names):
        rows = [row if row.problem else Row(row.number, [row.cells[i] for i in kept]) for row in rows]
    names = [names[index] for index in kept]
    _check_columns(path, names)
    return Table(names, rows, decimal_comma)


def _row(number: int, cells: list[str], width: int, least: int) -> Row:
    """Return a row of so many cells, or what is wrong: empty ones may stand behind the last, or lack there."""
    if len(cells) < least or any(cells[width:]):
        return Row(number, [], f"{len(cells)} cells for {width} columns; check what parts them")
    return Row(number, cells[:width] + [""] * (width - len(cells)))


def _is_kept(path: Path, index: int, name: str, rows: Sequence[Sequence[str]]) -> bool:
    if name == "path" or (name and not (is_reserved(name) and rows)):
        return True
    cells = [row[index] for row in rows]
    if not any(cells):
        return False
    if name:
        return True
    if all(_COUNT.fullmatch(cell) for cell in cells) and len(set(map(int, cells))) == len(cells):
        return False
    raise VoxgapError(
        f"{path}: a column has no name, number {index + 1}; name it in the first row, or remove it"
    )
