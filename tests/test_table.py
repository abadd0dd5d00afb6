"""Tables as people have them: read as they were meant, or refused in one line; written so that nothing runs."""

from __future__ import annotations

import ast
import csv
import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import voxgap
from voxgap import table
from voxgap.errors import VoxgapError
from voxgap.runtime.tables import write_csv

CLEAN = [["path", "target"], ["a b.npy", "-3.5"], ["c.npy", "2"]]
# The same, as programs and people write it; the last item says what parts the cells.
AS_WRITTEN = {
    "comma": "path,target\na b.npy,-3.5\nc.npy,2\n",
    "semicolon": "path;target\na b.npy;-3.5\nc.npy;2\n",
    "tab": "path\ttarget\na b.npy\t-3.5\nc.npy\t2\n",
    "bar": "path|target\na b.npy|-3.5\nc.npy|2\n",
    "sep line": "sep=;\npath;target\na b.npy;-3.5\nc.npy;2\n",
    "quoted sep line": '"SEP=;"\r\npath;target\r\na b.npy;-3.5\r\nc.npy;2\r\n',
    "no last line end": "path,target\na b.npy,-3.5\nc.npy,2",
    "carriage returns": "path,target\ra b.npy,-3.5\rc.npy,2\r",
    "windows": "path,target\r\na b.npy,-3.5\r\nc.npy,2\r\n",
    "byte order mark": "\ufeffpath,target\na b.npy,-3.5\nc.npy,2\n",
    "two marks": "\ufeff\ufeffpath,target\na b.npy,-3.5\nc.npy,2\n",
    "quoted after a blank": 'path, target\n "a b.npy", -3.5\n"c.npy" , "2" \n',
    "header in capitals": " Path ,TARGET\n  a b.npy ,-3.5\nc.npy,2\n",
    "blank rows": "\n,\n \npath,target\n\n,,\na b.npy,-3.5\n  ,  \nc.npy,2\n\n",
    "trailing delimiters": "path,target,\na b.npy,-3.5,\nc.npy,2,\n",
    "delimiters behind rows only": "path,target\na b.npy,-3.5,,\nc.npy,2,\n",
    "excel's empty columns": "path;target;;\na b.npy;-3.5;;\nc.npy;2;;\n",
    "an empty column between": "path;;target\na b.npy;;-3.5\nc.npy;NA;2\n",
    "index": ",path,target\n0,a b.npy,-3.5\n1,c.npy,2\n",
    "filtered index": ",path,target\n17,a b.npy,-3.5\n4,c.npy,2\n",
    "index named by pandas": "Unnamed: 0,path,target\n0,a b.npy,-3.5\n1,c.npy,2\n",
    "unused columns": "group,path,split,target,label\n,a b.npy,NA,-3.5,\n,c.npy,-,2,\n",
    "a comma in a header": 'path;target;"age, years"\na b.npy;-3.5;\nc.npy;2;\n',
}


def cells(found: table.Table) -> list[list[str]]:
    return [found.header, *(row.cells for row in found.rows)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_one_table_in_many_hands(name: str, tmp_path: Path) -> None:
    found = table.read(write(tmp_path / "t.csv", AS_WRITTEN[name]))
    expected = CLEAN
    if name == "a comma in a header":
        expected = [[*row, extra] for row, extra in zip(CLEAN, ("age, years", "", ""), strict=True)]
    assert cells(found) == expected
    assert not any(row.problem for row in found.rows)


def test_a_tsv_is_a_table_and_rows_know_their_lines(tmp_path: Path) -> None:
    text = 'path\tlabel\n\n"a\nb"\tx\nc\ty\tz\nd\n'
    found = table.read(write(tmp_path / "t.TSV", text))
    assert [row.number for row in found.rows] == [4, 5, 6]
    assert found.rows[0].cells == ["a\nb", "x"]
    assert [row.problem.split(";")[0] for row in found.rows[1:]] == [
        "3 cells for 2 columns",
        "1 cells for 2 columns",
    ]


def test_what_is_empty_for_pandas_is_empty(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tokens = [
        "NA",
        "N/A",
        "n/a",
        "nan",
        "NaN",
        "-NaN",
        "-nan",
        "NULL",
        "null",
        "None",
        "<NA>",
        "#N/A",
        "#NA",
        "",
    ]
    tokens += ["#N/A N/A", "1.#IND", "-1.#QNAN", "none", "no", "0", "0.0", "False", "NAN1", "x", "N", "?"]
    path = tmp_path / "t.csv"
    path.write_text("row,cell\n" + "".join(f"{i},{token}\n" for i, token in enumerate(tokens)))
    expected = pandas.read_csv(path, dtype=str)["cell"].isna().tolist()
    assert [row.cells[1] == "" for row in table.read(path).rows] == expected
    # What people write by hand, and pandas takes for text.
    for token in ("-", "--", "–", "na", "Null", "NAN", "#n/a", " NA ", "' '"):
        path.write_text(f"row,cell\n0,{token}\n")
        assert (table.read(path).rows[0].cells[1] == "") is (token != "' '"), token


def test_parquet_is_read_as_csv(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {
            " Path": ["a.npy", "b.npy", " c.npy ", None],
            "label": [1.0, 0.0, float("nan"), None],
            "t2": ["NA", "-", "x", ""],
            "age": [3, 4, 5, 6],
            "kind": pandas.Categorical(["u", None, "u", "NULL"]),
            "well": [True, False, True, False],
        }
    )
    frame.to_csv(tmp_path / "t.csv")
    frame.to_parquet(tmp_path / "t.parquet")
    found = table.read(tmp_path / "t.parquet")
    assert found.header == ["path", "label", "t2", "age", "kind", "well"]
    assert [row.cells for row in found.rows] == [
        ["a.npy", "1", "", "3", "u", "True"],
        ["b.npy", "0", "", "4", "", "False"],
        ["c.npy", "", "x", "5", "u", "True"],
        ["", "", "", "6", "", "False"],
    ]
    written = table.read(tmp_path / "t.csv")
    assert written.header == found.header
    for one, other in zip(written.rows, found.rows, strict=True):
        assert [cell.removesuffix(".0") for cell in one.cells] == other.cells


@pytest.mark.full
def test_bytes_and_one_text_in_many_rows_of_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    long = "x" * 1_000_000
    columns = {"path": arrow.array([b"a.npy"] * 5000, arrow.binary()), "label": [long] * 5000}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    tracemalloc.start()
    found = table.read(tmp_path / "t.parquet")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rows[4999].cells == ["a.npy", long]
    assert peak < 50_000_000, "5 GB, where each row has a text of its own"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"path,label\na,b\xfc\n", r"line 2 can't be read as UTF-8 \(byte 0xfc\); save it as CSV UTF-8"),
        (b"path,label\r\ra,\xe9\r", "line 3 can't be read as UTF-8"),
        ("path,label\na,b\n".encode("utf-16"), "is UTF-16 text; save it as CSV UTF-8"),
        ("path,label\na,b\n".encode("utf-16-le"), "line 1 holds a NUL"),
        (b"path,label\na,b\0\n", "line 2 holds a NUL"),
        (b'path,label\n"a,b\n', "line 2 can't be read as CSV .*check its quotes"),
        (b'path,label\n"a"b,c\n', "line 2 can't be read as CSV"),
        (b"path,label\na," + b"x" * 200_000, "line 2 can't be read as CSV .field larger"),
        (b"sep=x\npathxlabel\n", "sep=x; use a comma, semicolon, tab or bar"),
        (b"\xef\xbb\xbf\n", "holds no header"),
        (b",,\n", "holds no header"),
        (b"path,Label,label \na,b,c\n", "column 'label' stands twice"),
        (b"path,,label\na,z,b\n", "a column has no name, number 2; name it in the first row, or remove it"),
        (b",path,label\n1,a,x\n1,b,y\n", "a column has no name, number 1"),
        (b"Patients of 2024,,\npath,label,group\na,b,c\n", "a column has no name, number 2"),
    ],
)
def test_what_cannot_be_read_is_one_line(held: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(held)
    with pytest.raises(VoxgapError, match=words) as error:
        table.read(tmp_path / "t.csv")
    assert str(error.value).startswith(str(tmp_path / "t.csv"))
    assert "\n" not in str(error.value)
    with pytest.raises(VoxgapError, match=r"t\.txt: is no table; give one of \.csv, \.tsv, \.parquet"):
        table.read(tmp_path / "t.txt")


def test_a_huge_table_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    with path.open("wb") as stream:
        stream.write(b"path,label\n")
        stream.truncate(2**30)
    tracemalloc.start()
    with pytest.raises(VoxgapError, match="1024 MiB, more than a table of samples takes"):
        table.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    write(path, ",".join(f"c{i}" for i in range(100_000)) + "\n")
    with pytest.raises(VoxgapError, match="100000 columns, more than 20000; leave some out"):
        table.read(path)
    write(path, "path,label\n" + "a,b\n" * 1000)
    monkeypatch.setattr(table, "MAX_ROWS", 999)
    monkeypatch.setattr(csv, "reader", lambda *_, **__: pytest.fail("cells were made"))
    with pytest.raises(VoxgapError, match="1001 rows and 1001 cells are no manifest"):
        table.read(path)


def test_a_comma_may_be_a_decimal_point_where_it_parts_no_cells(tmp_path: Path) -> None:
    for delimiter in table.DELIMITERS:
        found = table.read(write(tmp_path / "t.csv", f'path{delimiter}target\na{delimiter}"3,5"\n'))
        assert found.rows[0].cells == ["a", "3,5"]
        assert found.decimal_comma is (delimiter != ",")


def test_numbers_are_told_from_what_looks_like_them() -> None:
    for text in ("3", "-3.2", "+.5", "1e-5", "-1E+5", "007"):
        assert table.is_number(text), text
    for text in (
        "",
        "-",
        "1,5",
        "1_000",
        "1 000",
        "0x1f",
        "inf",
        "nan",
        "１",
        "1e",
        "=1",
        "-1+2",
        "1.2.3",
        "5%",
    ):
        assert not table.is_number(text), text


# Writing


RUNS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "－1+2"]


@pytest.mark.parametrize("text", RUNS)
def test_no_cell_that_is_written_runs_in_a_spreadsheet(text: str) -> None:
    stream = io.StringIO()
    table.write(stream, ["path", text], [{"path": text, text: text}])
    for row in csv.reader(io.StringIO(stream.getvalue(), newline="")):
        assert all(cell == "path" or cell == f"'{text}" for cell in row)


def test_numbers_are_written_as_they_are() -> None:
    stream = io.StringIO()
    values = {"a": -3.2, "b": -1e-5, "c": None, "d": float("-inf"), "e": "-1e5", "f": float("nan"), "g": True}
    table.write(stream, list(values), [values, {"a": -1}])
    assert stream.getvalue().splitlines()[1:] == ["-3.2,-1e-05,,-inf,-1e5,nan,True", "-1,,,,,,"]


def test_what_moves_a_terminal_is_visible_in_a_table_of_answers() -> None:
    stream = io.StringIO()
    rows = [{"path": "a\x1b[31m\u202e\u202fé.npy", "p_\x9b1": 0.5}]
    write_csv(stream, rows, ["path", "p_\x9b1"])
    assert stream.getvalue() == "path,p_\\x9b1\na\\x1b[31m\\u202e\u202fé.npy,0.5\n"


# What UTF-8 has no letters for can't be in a file of it.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.text("=+-@'\"\t\r\n ,;|aN", max_size=6),
    st.sampled_from(
        [*RUNS, "NA", "'NA", "''NA", "None", "-", "--", "'", "''=1", "'s-Hertogenbosch", "-3.2", "01"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(TEXTS, min_size=n, max_size=n), max_size=6)))
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    names = ["first", "=second", " third;"][: len(rows[0]) if rows else 1]
    table.write(path, names, [dict(zip(names, row, strict=True)) for row in rows])
    found = table.read(path)
    assert found.header == names
    assert [row.cells for row in found.rows] == [row for row in rows if any(row)]


def test_an_apostrophe_of_its_own_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "path,label\n's-Hertogenbosch,'NA\n'a', 'None\n'',''-\n")
    assert [row.cells for row in table.read(path).rows] == [
        ["'s-Hertogenbosch", "NA"],
        ["'a'", "None"],
        ["''", "'-"],
    ]


def test_a_file_name_that_is_no_text_is_written(tmp_path: Path) -> None:
    table.write(tmp_path / "t.csv", ["path"], [{"path": "scan\udcff.npy"}, {"path": "nul\0.npy"}])
    assert cells(table.read(tmp_path / "t.csv")) == [["path"], ["scan\\udcff.npy"], ["nul�.npy"]]


def test_all_csv_goes_through_this_module() -> None:
    users = [
        str(file.relative_to(Path(voxgap.__file__).parent))
        for file in Path(voxgap.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import) and any(alias.name in ("csv", "pandas") for alias in node.names)
    ]
    assert users == ["table.py"]
