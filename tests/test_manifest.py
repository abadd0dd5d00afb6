"""Manifests: CSV and Parquet say the same, several targets, label maps, and what is checked before any work."""

from __future__ import annotations

import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap import grid as grids
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.manifest import read_manifest
from voxgap.dataset.targets import as_classes
from voxgap.errors import VoxgapError
from voxgap.grid import UNLABELLED
from voxgap.io import write
from voxgap.resample import inverse, resample
from voxgap.volume import Volume

SHAPE = (4, 5, 6)
SPLIT = ("train", "train", "validation", "test")


def values(index: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(index).normal(size=shape).astype(np.float32)


def save_all(folder: Path, count: int = 8) -> None:
    for index in range(count):
        write(folder / f"{index}.nii.gz", Volume(values(index), spacing=(2, 1, 1)))
        write(folder / f"{index}-map.nii.gz", Volume(values(index) > 0, spacing=(2, 1, 1)))


def save_csv(path: Path, columns: dict[str, list[object]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [
        ",".join(columns),
        *(",".join("" if cell is None else str(cell) for cell in row) for row in rows),
    ]
    path.write_text("\n".join(lines))
    return path


def save_parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def patients(count: int = 8) -> dict[str, list[object]]:
    return {
        "path": [f"{index}.nii.gz" for index in range(count)],
        "label": [index % 2 for index in range(count)],
        "label_map": [None if index == 2 else f"{index}-map.nii.gz" for index in range(count)],
        "group": [index // 2 for index in range(count)],
        "split": [SPLIT[index // 2 % 4] for index in range(count)],
    }


def assert_same(one: Dataset, other: Dataset) -> None:
    np.testing.assert_array_equal(one.volumes, other.volumes)
    np.testing.assert_array_equal(one.targets, other.targets)
    np.testing.assert_array_equal(one.split, other.split)
    np.testing.assert_array_equal(one.label_maps, other.label_maps)
    np.testing.assert_array_equal(one.groups, other.groups)
    assert (one.classes, one.channels, one.spacing) == (other.classes, other.channels, other.spacing)


def test_parquet_says_what_csv_says(tmp_path: Path) -> None:
    save_all(tmp_path)
    one = load_data(save_csv(tmp_path / "d.csv", patients()))
    # A column with a null holds floats in pandas: 1.0 is the label 1 all the same.
    columns = {**patients(), "label": [float(index % 2) for index in range(8)]}
    assert_same(one, load_data(save_parquet(tmp_path / "d.parquet", columns)))
    assert one.classes == ("0", "1")


def test_the_index_that_pandas_stores_is_no_channel(tmp_path: Path) -> None:
    save_all(tmp_path)
    names = [f"{index}.nii.gz" for index in range(8)]
    columns = {"t1": names, "t2": [*names[:7], None], "label": ["a", "b"] * 4, "__index_level_0__": range(8)}
    data = load_data(save_parquet(tmp_path / "d.parquet", columns))
    assert data.channels == ("t1", "t2")
    assert np.isnan(data.volumes[7, ..., 1]).all()


def test_problems_of_a_parquet_manifest_have_their_rows(tmp_path: Path) -> None:
    save_all(tmp_path, 2)
    columns = {
        "path": ["0.nii.gz", "none.nii", None],
        "target": [1.5, float("nan"), None],
        "split": ["train", "test", "train"],  # a row with nothing in it is no row
    }
    with pytest.raises(VoxgapError, match="4 problems") as caught:
        load_data(save_parquet(tmp_path / "d.parquet", columns))
    wheres = [line.split(":")[0].strip() for line in str(caught.value).split("\n")[1:]]
    assert wheres == ["row 2", "row 2", "row 3", "row 3"]


def test_a_damaged_or_too_large_parquet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_parquet(tmp_path / "d.parquet", {"path": ["a"] * 2000, "label": ["x"] * 2000})
    from voxgap import table

    with monkeypatch.context() as patch:
        patch.setattr(table, "MAX_ROWS", 1000)
        with pytest.raises(VoxgapError, match=r"2000 rows of .* are no manifest"):
            load_data(path)
    held = path.read_bytes()
    for damaged in (held[:-10], held[:100], b"PAR1" + bytes(50) + b"PAR1", b"x", held[::-1]):
        path.write_bytes(damaged)
        with pytest.raises(VoxgapError, match=r"d\.parquet: ") as caught:
            load_data(path)
        assert "\n" not in str(caught.value)


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(VoxgapError, match=r"needs pyarrow; run: pip install 'voxgap\[formats\]'"):
        load_data(tmp_path / "d.parquet")


def test_cells_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    np.save(tmp_path / "home/a.npy", np.zeros((2, 3, 4)))
    (tmp_path / "data.csv").write_text("path,label\n~/a.npy,x\n")
    assert read_manifest(tmp_path / "data.csv").rows[0].files == (tmp_path / "home/a.npy",)


def test_a_table_in_another_encoding_says_so(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("path,label\na.npy,x\n".encode("utf-16"))
    with pytest.raises(VoxgapError, match="is UTF-16 text; save it as CSV UTF-8"):
        read_manifest(tmp_path / "data.csv")


def test_several_targets(tmp_path: Path) -> None:
    save_all(tmp_path)
    columns: dict[str, list[object]] = {
        "path": [f"{index}.nii.gz" for index in range(8)],
        "Target": list(range(8)),
        "target_2": [index / 10 for index in range(8)],
        "target_age": [100 - index for index in range(8)],
    }
    data = load_data(save_csv(tmp_path / "d.csv", columns))
    assert data.task == "regression"
    assert np.allclose(data.targets[3], [3, 0.3, 97])
    assert data.targets.shape == (8, 3)
    columns["target_2"][4] = "tall"
    with pytest.raises(VoxgapError, match="row 6: target_2 'tall' is not a number"):
        load_data(save_csv(tmp_path / "d.csv", columns))


def test_label_maps(tmp_path: Path) -> None:
    save_all(tmp_path)
    data = load_data(save_csv(tmp_path / "d.csv", patients()))
    assert data.label_maps is not None
    assert data.label_maps.dtype == np.int16
    for index in range(8):
        expected = np.full(SHAPE, UNLABELLED) if index == 2 else values(index) > 0
        assert np.array_equal(data.label_maps[index], expected)
    assert np.array_equal(data.take([5, 2]).label_maps, data.label_maps[[5, 2]])
    assert data.records is None
    assert (
        load_data(
            save_csv(tmp_path / "e.csv", {k: v for k, v in patients().items() if k != "label_map"})
        ).label_maps
        is None
    )


def test_volumes_of_any_shape_on_one_grid(tmp_path: Path) -> None:
    shapes = [(4, 5, 6), (8, 5, 6), (4, 9, 3), (4, 5, 6)]
    for index in range(8):
        shape = shapes[index % 4]
        write(tmp_path / f"{index}.nii.gz", Volume(values(index, shape), spacing=(2, 1, 1)))
        write(tmp_path / f"{index}-map.nii.gz", Volume(values(index, shape) > 0, spacing=(2, 1, 1)))
    path = save_csv(tmp_path / "d.csv", patients())
    assert [volume.shape[:3] for volume in load_data(path).volumes] == [*shapes, *shapes]
    data = load_data(path, size=(6, 6, 6))
    assert data.spacing is None
    assert data.grid == grids.Grid(size=(6, 6, 6))
    assert data.records is not None
    assert data.label_maps is not None
    for index in range(8):
        original = Volume(values(index, shapes[index % 4]))
        expected, record = resample(original, size=(6, 6, 6))
        assert np.allclose(data.volumes[index], expected.values, atol=1e-6)
        assert data.records[index] == [record]
        drawn = Volume(np.asarray(data.label_maps[index], np.float32))
        assert inverse(drawn, data.records[index], method="nearest").shape == original.shape
    part = data.part("test")
    assert part.records == tuple(data.records[index] for index in np.flatnonzero(data.split == "test"))
    both = load_data(path, size=(8, 8, 8), spacing=(2, 1, 1))
    assert both.spacing == (2, 1, 1)
    assert np.isnan(both.volumes[0]).sum() == 8**3 - 4 * 5 * 6
    assert (both.label_maps == UNLABELLED)[0].sum() == 8**3 - 4 * 5 * 6


def test_what_the_labels_say_is_checked_before_any_volume_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(tmp_path)
    from voxgap.dataset import reading

    monkeypatch.setattr(reading, "read_sample", lambda *_: pytest.fail("a volume was read"))
    for column, cells, words in (
        ("label", [0] * 8, "all volumes are of class '0'"),
        ("label", [0] * 7 + [1], "class '1' has one sample only"),
        ("group", ["p"] * 8, "group 'p' is in two parts"),
        ("split", ["test"] * 8, "no sample in split 'train'"),
        ("label_map", ["0.nii.gz"] * 7 + ["none.nii"], r"row 9: .*none\.nii: no such file"),
    ):
        with pytest.raises(VoxgapError, match=words):
            load_data(save_csv(tmp_path / "d.csv", {**patients(), column: cells}))
    np.save(tmp_path / "odd.npy", np.zeros((4, 5, 7)))
    columns = patients()
    columns["path"][1], columns["label_map"][5] = "odd.npy", "odd.npy"
    with pytest.raises(
        VoxgapError, match=r"2 problems\n  row 3: .*label map needs 4×5×7.*\n  row 7: .*odd\.npy"
    ):
        load_data(save_csv(tmp_path / "d.csv", columns))


def test_a_label_map_that_is_none_is_named_with_its_row(tmp_path: Path) -> None:
    save_all(tmp_path)
    columns = patients()
    columns["label_map"][4] = "4.nii.gz"
    with pytest.raises(VoxgapError, match=r"row 6: .*4\.nii\.gz: a label map holds whole numbers"):
        load_data(save_csv(tmp_path / "d.csv", columns))


def test_arrays_on_a_grid_as_their_files(tmp_path: Path) -> None:
    save_all(tmp_path)
    options = {"size": (3, 7, 6), "missing_values": [float(values(0)[0, 0, 0])]}
    files = load_data(save_csv(tmp_path / "d.csv", patients()), **options)
    loaded = load_data(tmp_path / "d.csv")
    np.savez(
        tmp_path / "d.npz",
        **{name: getattr(loaded, name) for name in ("volumes", "split", "groups", "channels", "spacing")},
        labels=loaded.targets,
        label_maps=loaded.label_maps,
    )
    arrays = load_data(tmp_path / "d.npz", **options)
    assert np.isnan(arrays.volumes[0]).any()
    assert_same(files, arrays)
    assert (arrays.records, arrays.grid) == (files.records, files.grid)
    assert_same(files, load_data(loaded, **options))
    assert load_data(files, **options) is files
    with pytest.raises(VoxgapError, match="on a grid already"):
        load_data(files, size=(2, 2, 2))


def test_arrays_that_cannot_be_cropped_are_named() -> None:
    volumes = np.ones((6, *SHAPE), np.float32)
    volumes[2] = np.nan
    data = Dataset.from_arrays(volumes, [0, 1] * 3, name="mine")
    with pytest.raises(VoxgapError, match=r"mine: volume 2: .*no voxel is observed"):
        load_data(data, crop="observed")
    with pytest.raises(VoxgapError, match="mine: label maps of 6×4×5 for volumes of 6×4×5×6"):
        Dataset.from_arrays(volumes, [0, 1] * 3, name="mine", label_maps=volumes[..., 0] > 0)


# Tables as people have them: how they are read is in test_table.py and test_table_doors.py


def test_a_class_is_one_however_a_program_writes_it(tmp_path: Path) -> None:
    save_all(tmp_path)
    for cells, classes in (
        (["1", "0", "1.0", "0.0", "1.", "0", "1", "0"], ("0", "1")),
        (["10.0", "9.0"] * 4, ("9", "10")),
        (["-1", "+1.0", "-1.0", "+1"] * 2, ("-1", "+1")),
        (["01", "02"] * 4, ("01", "02")),
        (["v1.0", "1.0.0"] * 4, ("1.0.0", "v1.0")),
    ):
        path = save_csv(tmp_path / "d.csv", {**patients(), "label": list(cells)})
        assert sorted(load_data(path).classes) == sorted(classes)
        held = load_data(path)
        np.savez(tmp_path / "d.npz", volumes=held.volumes, labels=np.array(cells))
        assert load_data(tmp_path / "d.npz").classes == held.classes, "arrays of text as well"


@pytest.mark.parametrize("column", ["label", "group"])
def test_what_people_take_for_one_name_is_said(column: str, tmp_path: Path) -> None:
    save_all(tmp_path)
    path = save_csv(tmp_path / "d.csv", {**patients(), column: ["01", "2", "1.0", "2"] * 2})
    with pytest.raises(VoxgapError, match=rf"{column} '01' and '1' are one number; write it in one way"):
        load_data(path)
    columns = {**patients(), "split": ["train"] * 8, column: ["Sick", "well", "sick", "well"] * 2}
    path = save_csv(tmp_path / "d.csv", columns)
    with pytest.warns(UserWarning, match=rf"{column} 'Sick' and 'sick' are two, not one"):
        read_manifest(path)


def test_an_empty_label_says_how_a_class_of_that_name_is_written(tmp_path: Path) -> None:
    save_all(tmp_path)
    columns = {**patients(), "label": ["NA", "x"] * 4}
    with pytest.raises(VoxgapError, match=r"row 2: label is empty; .* what is really called so is 'NA"):
        load_data(save_csv(tmp_path / "d.csv", columns))
    columns["label"] = ["'NA", "'None"] * 4
    assert load_data(save_csv(tmp_path / "d.csv", columns)).classes == ("NA", "None")
    columns["label"] = ["#REF!", "x"] * 4
    with pytest.raises(VoxgapError, match="row 2: label '#REF!' is a fault in a formula"):
        load_data(save_csv(tmp_path / "d.csv", columns))


def test_a_column_with_nothing_in_it_is_none(tmp_path: Path) -> None:
    save_all(tmp_path)
    nothing: list[object] = ["", "NA", None, "-", "", "", "", ""]
    data = load_data(save_csv(tmp_path / "d.csv", {**patients(), "split": nothing, "label_map": nothing}))
    assert len(data.part("train")) == 4
    assert data.label_maps is None
    only = {name: cells for name, cells in patients().items() if name in ("path", "label_map")}
    assert load_data(save_csv(tmp_path / "d.csv", {**only, "label": nothing})).task == "segmentation"
    with pytest.raises(VoxgapError, match=r"needs either a `label` column .* with something in it"):
        load_data(save_csv(tmp_path / "d.csv", {"path": only["path"], "label": nothing}))


def test_decimal_commas(tmp_path: Path) -> None:
    save_all(tmp_path)
    path = tmp_path / "d.csv"

    def load(delimiter: str, cells: list[str]) -> list[float]:
        lines = [f"{i}.nii.gz{delimiter}{cells[i % len(cells)]}" for i in range(8)]
        path.write_text("\n".join([f"path{delimiter}target", *lines]))
        return load_data(path).targets[: len(cells)].tolist()

    for delimiter in ";\t|":
        assert load(delimiter, ["3,5", "-0,25", "7"]) == [3.5, -0.25, 7]
    assert load(",", ["3.5", "-0.25"]) == [3.5, -0.25]
    # A separator of thousands, or one that can't be told from one, is refused.
    for delimiter, cells in (
        (";", ["1.234,5", "2"]),
        (";", ["1,234.5", "2"]),
        (";", ["1,234,567", "2"]),
        (";", ["3,5", "1.5"]),
        (",", ['"3,5"', "1"]),
        (",", ["1_000", "1"]),
        (",", ["1 000", "1"]),
        (",", ["1e999", "1"]),
    ):
        with pytest.raises(VoxgapError, match=r"is not a number, such as -3\.2 or 1e-5"):
            load(delimiter, cells)


def test_label_maps_of_any_values_have_the_classes_that_occur(tmp_path: Path) -> None:
    save_all(tmp_path)
    rng = np.random.default_rng(5)
    for held, classes in (
        ([0, 255], "0, 255"),
        ([0, 1, 2, 4], "0, 1, 2, 4"),
        ([1, 2], "1, 2"),
        ([7, 9], "7, 9"),
    ):
        drawn = [rng.choice(held, SHAPE) for _ in range(8)]
        for index, labels in enumerate(drawn):
            write(tmp_path / f"{index}-map.nii.gz", Volume(labels.astype(np.float32), spacing=(2, 1, 1)))
        columns = {**patients(), "split": ["train", "test"] * 4, "group": list(range(8))}
        path = save_csv(tmp_path / "d.csv", columns)
        for options in ({}, {"cache": tmp_path / "cache"}):
            with pytest.warns(
                UserWarning, match=rf"{len(held)} values .* {len(held)} classes, called {classes}$"
            ):
                data = load_data(path, task="segmentation", **options)
            assert data.classes == tuple(map(str, held))
            assert data.label_maps is not None
            assert (np.asarray(data.label_maps[2]) == UNLABELLED).all(), "nobody said, for the third"
            for index in (0, 1, 3, 7):
                assert np.array_equal(np.asarray(held)[np.asarray(data.targets[index])], drawn[index])
            assert np.array_equal(np.asarray(data.take([3, 1]).targets), np.asarray(data.targets)[[3, 1]])
    with pytest.raises(VoxgapError, match="the label maps hold one class"):
        Dataset.from_arrays(np.ones((6, *SHAPE)), label_maps=np.ones((6, *SHAPE)))


def test_label_maps_count_among_the_classes_of_a_network() -> None:
    maps = np.array([[0, 1, -1, 1]], np.int16)
    assert as_classes(maps, ("0", "1"), ("0", "1")) is maps
    assert as_classes(maps, ("0", "4"), ("0", "1", "2", "4")).tolist() == [[0, 3, -1, 3]]
    # A bundle from before, with a class for every number below.
    assert as_classes(maps, ("0", "255"), tuple(map(str, range(256)))).tolist() == [[0, 255, -1, 255]]
    assert as_classes(np.array([1, 0]), ("0.0", "1"), ("0", "1.0")).tolist() == [1, 0]
    assert as_classes(maps, ("0", "3"), ("0", "1", "2")) is None


def listed(folder: Path, header: str, *cells: str, suffix: str = ".csv") -> Any:
    """A listing of one array file in every row, parted by semicolons."""
    np.save(folder / "a.npy", np.zeros((2, 2, 2)))
    rows = "".join(f"a.npy;{cell}\n" for cell in cells)
    (folder / f"table{suffix}").write_text(
        f"path;{header}\n{rows}".replace(";", "\t" if suffix == ".tsv" else ";")
    )
    return read_manifest(folder / f"table{suffix}")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("column", ["label", "group"])
def test_a_whole_number_with_a_decimal_comma_is_one_name(tmp_path: Path, suffix: str, column: str) -> None:
    other = "group" if column == "label" else "label"
    written = [f"{cell};x" for cell in ("1", "1,0", "1.0", "2,", "2", "-3,00", "a,0", "1,5")]
    found = listed(tmp_path, f"{column};{other}", *written, suffix=suffix)
    assert [getattr(row, column) for row in found.rows] == ["1", "1", "1", "2", "2", "-3", "a,0", "1,5"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_point_that_may_part_thousands_is_refused_where_a_comma_is_the_decimal_sign(
    tmp_path: Path, suffix: str
) -> None:
    for header, cells, named in [
        ("target;target_2", ("1;0,5", "-1.200;1,5"), "row 3: target '-1.200' may be -1200 or"),
        ("target;group", ("1.200;2,5", "2;1"), "row 2: target '1.200' may be 1200 or"),
        ("label;group", ("1.000;2,5", "2;1"), "row 2: label '1.000' may be 1000 or"),
    ]:
        with pytest.raises(VoxgapError) as error:
            listed(tmp_path, header, *cells, suffix=suffix)
        assert named in str(error.value)
        assert "\n" not in str(error.value)
    plain = listed(tmp_path, "target;target_2", "0.125;0,5", "1.2;1,5", "1.2345;2", suffix=suffix)
    assert plain.rows[0].targets == ("0.125", "0.5")
    assert listed(tmp_path, "target", "1.200", "2.5", suffix=suffix).rows[0].targets == ("1.200",)


def test_a_column_that_may_be_thousands_or_decimals_is_refused(tmp_path: Path) -> None:
    for cells in (
        ["1.000", "1.001"],
        ["1,000", "-12,500"],
        ["950", "1.050"],
        ["0", "1.050"],
        ["999,999", "7"],
    ):
        with pytest.raises(VoxgapError, match=r"target '.*' may be \S+ or \S+, .*; write thousands without"):
            listed(tmp_path, "target", *cells)
    for cells, read in {
        ("0.125", "1.125"): "1.125",
        ("2,5", "1,125"): "1.125",
        ("1.1250", "1.125"): "1.125",
        ("1000", "1.125"): "1.125",
        ("0.000", "1.125"): "1.125",
    }.items():
        assert listed(tmp_path, "target", *cells).rows[1].targets == (read,), cells
    assert listed(tmp_path, "target;target_2", "1,125;0,5", "2,250;1,5").rows[0].targets == ("1.125", "0.5")


def test_a_boolean_is_one_class_however_it_is_spelt(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = listed(tmp_path, "label", "True", "TRUE", "true", "FALSE", "False")
    assert [row.label for row in found.rows] == ["true"] * 3 + ["false"] * 2
    assert Dataset.from_arrays(np.ones((4, 2, 2, 2)), ["True", "false", "TRUE", "False"]).classes == (
        "false",
        "true",
    )


def test_one_name_in_two_forms_of_unicode_is_one(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))
    found = listed(tmp_path, "label;group", f"{one};{two}", f"{two};{one}")
    assert {(row.label, row.group) for row in found.rows} == {(one, one)}
    for name in (one, two, "Bern"):
        (tmp_path / "classes" / name).mkdir(parents=True, exist_ok=True)
        for index in range(2):
            rng = np.random.default_rng([index, len(name)])
            np.save(tmp_path / "classes" / name / f"{index}.npy", rng.normal(size=(2, 2, 2)))
    assert load_data(tmp_path / "classes").classes == ("Bern", one)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", ["1e39", "-3.5e38", "1e308"])
def test_a_target_beyond_float32_is_refused_with_its_row(tmp_path: Path, number: str) -> None:
    with pytest.raises(VoxgapError, match=f"row 3: target {number} is too large"):
        listed(tmp_path, "target;group", "3.4e38;a", f"{number};b")


def test_a_column_that_is_no_channel_is_named_once_with_the_name_that_is_known(tmp_path: Path) -> None:
    save_all(tmp_path)
    files = [f"{index}.nii.gz" for index in range(8)]
    names: list[object] = [f"P{index}" for index in range(8)]
    for column, words in {
        "patinet": "patient names go into `group`",
        "diagnosys": "classes go into `label`",
        "fold": "train, validation and test go into `split`",
        "age": "name a file in each cell, or remove the column",
    }.items():
        path = save_csv(tmp_path / "d.csv", {"t1": files, column: names, "label": [0, 1] * 4})
        with pytest.raises(VoxgapError) as error:
            load_data(path)
        said = f"d.csv: column `{column}` is read as a channel, and 'P0' is no file; {words}"
        assert str(error.value).endswith(said)
    only = {"patinet": names, "label": [0, 1] * 4}
    with pytest.raises(VoxgapError, match=r"d\.csv: column `patinet` is read as a channel.*`group`$"):
        load_data(save_csv(tmp_path / "d.csv", only))
    # A file that is not there is a matter of its row.
    lost: list[object] = ["none.nii.gz", *files[1:]]
    with pytest.raises(VoxgapError, match=r"row 2: .*none\.nii\.gz: no such file"):
        load_data(save_csv(tmp_path / "d.csv", {"t1": lost, "label": [0, 1] * 4}))


def test_columns_that_are_called_like_known_ones_are_said_once(tmp_path: Path) -> None:
    save_all(tmp_path)
    base: dict[str, list[object]] = {"path": patients()["path"], "label": [0, 1] * 4}
    maps: list[object] = [f"{index}-map.nii.gz" for index in range(8)]
    for columns, words in (
        (
            {**base, "patient": ["", *(f"P{i}" for i in range(7))]},
            "column `patient` is not used; patient names go into",
        ),
        (
            {"t1": base["path"], "mask": maps, "label": base["label"]},
            "column `mask` is read as a channel; files of",
        ),
    ):
        with pytest.warns(UserWarning, match=words) as said:
            read_manifest(save_csv(tmp_path / "d.csv", columns))
        assert len(said) == 1
    with pytest.raises(VoxgapError, match=r"is `diagnosis` it. Call it `label`"):
        read_manifest(save_csv(tmp_path / "d.csv", {"path": base["path"], "diagnosis": [0, 1] * 4}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_manifest(save_csv(tmp_path / "d.csv", {**base, "age": [60] * 8, "group": list(range(8))}))
        read_manifest(save_csv(tmp_path / "d.csv", {"image": base["path"], "label": base["label"]}))
