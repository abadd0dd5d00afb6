"""Dataset: splits, the four kinds of DATA, and what is refused."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from voxgap import dataset as module
from voxgap.dataset import Dataset, load_data, make_split
from voxgap.errors import VoxgapError
from voxgap.io import read, write
from voxgap.volume import Volume

SHAPE = (3, 4, 5)


def volumes(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *SHAPE, 1)).astype(np.float32)


def save(path: Path, value: float, spacing: tuple[float, float, float] = (3, 2, 1)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Volume(np.full(SHAPE, value, np.float32), spacing=spacing))
    return path


# Splits


@pytest.mark.parametrize("seed", range(5))
def test_a_split_is_stratified(seed: int) -> None:
    classes = np.repeat([0, 1, 2, 3], [50, 30, 10, 3])
    split = make_split(classes, seed=seed)
    for index, count in enumerate([50, 30, 10, 3]):
        for part, share in zip(module.SPLITS, (0.6, 0.2, 0.2), strict=True):
            assert abs((split[classes == index] == part).sum() - share * count) <= 1
    assert np.array_equal(split, make_split(classes, seed=seed))
    assert not np.array_equal(split, make_split(classes, seed=seed + 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_group_stays_in_one_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 60, 300).astype(str)
    classes = rng.integers(0, 2, 300)
    split = make_split(classes, groups, seed)
    for group in set(groups):
        assert len(set(split[groups == group])) == 1
    for index in (0, 1):
        for part, share in zip(module.SPLITS, (0.6, 0.2, 0.2), strict=True):
            assert np.mean(split[classes == index] == part) == pytest.approx(share, abs=0.05)


def test_numbers_are_stratified_by_size() -> None:
    targets = np.random.default_rng(0).lognormal(size=200)
    split = make_split(targets)
    means = [np.log(targets[split == part]).mean() for part in module.SPLITS]
    assert np.ptp(means) < 0.25


def test_two_of_a_class_are_trained_and_tested_on() -> None:
    classes = np.array([0] * 20 + [1, 1])
    split = make_split(classes)
    assert "train" in split[classes == 1]
    assert len(set(split[classes == 1])) == 2


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(VoxgapError, match="2 groups are too few for 3 parts"):
        make_split([0, 1] * 5, ["a", "b"] * 5)


def test_validation_is_taken_out_of_train_where_there_is_none() -> None:
    groups = np.repeat(np.arange(10), 2)
    given = np.where(groups < 7, "training", "test")
    data = Dataset.from_arrays(volumes(), [0, 1] * 10, split=given, groups=groups)
    assert ((data.split == "test") == (given == "test")).all()
    assert 2 <= (data.split == "validation").sum() <= 4
    for group in range(10):
        assert len(set(data.split[groups == group])) == 1


# Arrays


def test_from_arrays_names_and_numbers_classes() -> None:
    data = Dataset.from_arrays(volumes()[..., 0], ["b", "a"] * 10)
    assert data.classes == ("a", "b")
    assert data.targets[:2].tolist() == [1, 0]
    assert data.targets.dtype == np.int64
    assert data.volumes.shape == (20, *SHAPE, 1)
    numbers = Dataset.from_arrays(volumes(), ["10", "9"] * 10)
    assert numbers.classes == ("9", "10")
    named = Dataset.from_arrays(volumes(), np.array([[0], [2]] * 10), classes=["x", "y", "z"])
    assert named.classes == ("x", "y", "z")
    assert set(named.targets) == {0, 2}


def test_regression_targets_may_have_several_outputs() -> None:
    data = Dataset.from_arrays(volumes(), targets=np.arange(40).reshape(20, 2))
    assert (data.task, data.classes, data.targets.shape) == ("regression", (), (20, 2))
    assert Dataset.from_arrays(volumes(), targets=np.arange(20)[:, None]).targets.shape == (20,)


def test_parts_and_other_volumes() -> None:
    groups = [f"p{i}" for i in range(20)]
    split = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    data = Dataset.from_arrays(volumes(), [0, 1] * 10, split=split, groups=groups)
    part = data.part("val")
    assert len(part) == 5
    assert part.groups is not None
    assert part.groups.tolist() == groups[10:15]
    assert np.array_equal(part.volumes, data.volumes[10:15])
    assert len(part.part("test")) == 0
    gapped = data.with_volumes(np.full_like(data.volumes, np.nan))
    assert gapped.missing_rate == 1
    assert "20 volumes of 3×4×5×1, 2 classes, train 10, validation 5, test 5, 0.0% missing" in data.summary()
    rows = [line.split() for line in str(data).splitlines()]
    assert rows[1:3] == [["train", "validation", "test"], ["volumes", "10", "5", "5"]]
    assert [int(cell) for cell in rows[3][1:]] == [
        int(((data.split == part) & (data.targets == 0)).sum()) for part in ("train", "validation", "test")
    ]
    assert repr(data) == str(data)
    with pytest.raises(VoxgapError, match="split 'dev' is unknown; use train, validation, test"):
        data.part("dev")
    with pytest.raises(VoxgapError, match="20 targets for 19 volumes"):
        data.with_volumes(data.volumes[1:])


def test_tiles_are_samples_with_what_is_said_of_their_volume() -> None:
    data = Dataset.from_arrays(volumes(), [0, 1] * 10, groups=[f"p{i}" for i in range(20)])
    tiles = data.tiled((3, 2, 5), 100)
    assert tiles.volumes.shape == (40, 3, 2, 5, 1)
    np.testing.assert_array_equal(tiles.volumes[6:8], data.volumes[3].reshape(3, 2, 2, 5, 1).swapaxes(0, 1))
    assert tiles.targets.tolist() == np.repeat(data.targets, 2).tolist()
    assert tiles.groups is not None
    assert tiles.groups[6:8].tolist() == ["p3", "p3"]
    assert len(data.tiled((3, 2, 5), 7)) == 7
    maps = (data.volumes[..., 0] > 0).astype(np.int16)
    labelled = Dataset.from_arrays(data.volumes, label_maps=maps, classes=("low", "high"))
    cut = labelled.tiled((2, 4, 5), 4)
    np.testing.assert_array_equal(cut.targets, cut.volumes[..., 0] > 0)


LABELS = [0, 1] * 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"volumes": np.zeros((0, *SHAPE, 1)), "labels": []}, "holds no voxel"),
        ({"volumes": np.zeros((20, 5))}, "has rank 2"),
        ({"volumes": np.full((20, *SHAPE, 1), np.nan)}, "no observed voxel in the whole set"),
        ({"volumes": np.full((20, *SHAPE, 1), np.inf)}, "1200 infinite values"),
        ({"labels": LABELS[1:]}, "19 labels for 20 volumes"),
        ({"labels": None, "targets": [1.0]}, "1 targets for 20 volumes"),
        ({"labels": None, "targets": [np.nan] * 20}, "target is NaN"),
        ({"labels": None, "targets": ["x"] * 20}, "targets are not numbers"),
        ({"labels": None}, "either labels"),
        ({"labels": [0.0, np.nan] * 10}, "label 1 is NaN"),
        ({"labels": [0.5, 1] * 10}, "not whole numbers"),
        ({"labels": ["a", ""] * 10}, "label 1 is empty"),
        ({"labels": [0] * 20}, "all volumes are of class '0'"),
        ({"labels": [0] * 19 + [7]}, "class '7' has one sample only"),
        ({"labels": [0, 3] * 10, "classes": ["a", "b"]}, "labels go from 0 to 3, with 2 class names"),
        ({"labels": ["a", "c"] * 10, "classes": ["a", "b"]}, "label 'c' is not among the classes a, b"),
        ({"split": ["train"]}, "1 split names for 20"),
        ({"split": ["train", "holdout"] * 10}, "split 'holdout' is unknown"),
        ({"split": ["test"] * 20}, "no sample in split 'train'"),
        ({"split": ["train", "test"] * 10, "groups": ["p"] * 20}, "group 'p' is in two parts"),
        ({"groups": ["p"] * 3}, "3 groups for 20"),
        ({"channels": ["a", "b"]}, "2 channel names for 1 channels"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(VoxgapError, match=words) as error:
        Dataset.from_arrays(**{"volumes": volumes(), "labels": LABELS, "name": "mine", **arguments})
    assert str(error.value).startswith("mine")
    assert "\n" not in str(error.value)


# Files


def test_npz(tmp_path: Path) -> None:
    fields = {"classes": ["a", "b"], "groups": np.arange(20), "channels": ["t1"], "spacing": [3, 2, 1]}
    np.savez(tmp_path / "d.npz", volumes=volumes(), labels=LABELS, **fields)
    data = load_data(tmp_path / "d.npz")
    assert data.classes == ("a", "b")
    assert data.channels == ("t1",)
    assert data.spacing == (3, 2, 1)
    assert len(data.part("train")) == 12
    assert load_data(data) is data
    np.savez(tmp_path / "e.npz", x=volumes(), labels=LABELS)
    with pytest.raises(VoxgapError, match=r"holds x, labels; name the arrays `volumes`"):
        load_data(tmp_path / "e.npz")
    with pytest.raises(VoxgapError, match="raise max_bytes"):
        load_data(tmp_path / "d.npz", max_bytes=1000)


def test_a_folder_per_class(tmp_path: Path) -> None:
    for index in range(6):
        save(tmp_path / "cat" / f"{index}.nii.gz", index)
        save(tmp_path / "dog" / f"{index}.npy", 10 + index)
    (tmp_path / "dog" / "notes.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    data = load_data(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.volumes[:, 0, 0, 0, 0].tolist() == [*range(6), *range(10, 16)]
    assert data.spacing is None
    (tmp_path / "bird").mkdir()
    with pytest.raises(VoxgapError, match="bird: holds no volume"):
        load_data(tmp_path)


def test_a_folder_with_a_split_above_the_classes(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for label in ("a", "b"):
            for index in range(2):
                save(tmp_path / part / label / f"{index}.npy", index)
    data = load_data(tmp_path)
    assert data.classes == ("a", "b")
    assert [len(data.part(part)) for part in module.SPLITS] == [4, 4, 4]


def manifest(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_a_manifest_with_one_column_per_channel(tmp_path: Path) -> None:
    lines = ["t1,t2,label,group"]
    for index in range(8):
        save(tmp_path / "scans" / f"{index}-t1.nii", index)
        save(tmp_path / "scans" / f"{index}-t2.nii", 100 + index)
        second = "" if index == 3 else f"scans/{index}-t2.nii"
        first = "" if index == 4 else str(tmp_path / "scans" / f"{index}-t1.nii")
        lines.append(f"{first}, {second},{'ill' if index % 2 else 'well'},p{index}")
    data = load_data(manifest(tmp_path, "\n".join(lines)))
    assert data.channels == ("t1", "t2")
    assert data.classes == ("ill", "well")
    assert data.spacing == (3, 2, 1)
    assert data.groups is not None
    assert data.groups[2] == "p2"
    expected = np.array([[i, 100 + i] for i in range(8)], float)
    expected[3, 1] = expected[4, 0] = np.nan
    assert np.array_equal(data.volumes[:, 0, 0, 0], expected, equal_nan=True)
    assert data.volumes.shape == (8, *SHAPE, 2)


def test_a_manifest_of_numbers_with_semicolons_and_split(tmp_path: Path) -> None:
    lines = ["Path;Target;Split;age"]
    for index in range(6):
        save(tmp_path / f"{index}.npy", index)
        lines.append(f"{index}.npy;{index}.5;{('train', 'val', 'test')[index % 3]};63")
    data = load_data(manifest(tmp_path, "\n".join(lines)))
    assert data.task == "regression"
    assert data.targets.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert data.split[:3].tolist() == ["train", "validation", "test"]


def test_all_problems_of_a_manifest_at_once_with_their_rows(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", 1)
    text = "path,label,split\na.npy,x,train\nnone.npy,,train\n,y,test\na.npy,x\na.npy,x,maybe\n"
    with pytest.raises(VoxgapError) as error:
        load_data(manifest(tmp_path, text))
    first, *problems = str(error.value).split("\n")
    assert "data.csv: 5 problems" in first
    assert [problem.split(":")[0].strip() for problem in problems] == [f"row {n}" for n in (3, 3, 4, 5, 6)]
    for problem, words in zip(
        problems,
        ("no such file", "label is empty", "names no file", "2 cells for 3", "split 'maybe' is unknown"),
        strict=True,
    ):
        assert words in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no header"),
        ("path,label\n", "no row below the header"),
        ("path\na.npy\n", "needs either a `label`"),
        ("label\nx\n", "needs a `path` column"),
        ("path,label,label\na.npy,x,y\n", "'label' stands twice"),
        ("path,,label\na.npy,z,x\n", "a column has no name"),
        ("path,target\na.npy,tall\n", "target 'tall' is not a number"),
        ('path,label\n"a.npy,x\n', "can't be read"),
        ("path,label\nb.gif,x\n", "unknown format"),
    ],
)
def test_a_bad_manifest_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    save(tmp_path / "a.npy", 1)
    (tmp_path / "b.gif").write_text("x")
    with pytest.raises(VoxgapError, match=words) as error:
        load_data(manifest(tmp_path, text))
    assert "data.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_files_and_other_channels_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", 1)
    np.save(tmp_path / "b.npy", np.zeros((3, 4, 6)))
    (tmp_path / "c.npy").write_bytes(b"broken")
    (tmp_path / "d.nii").write_bytes(b"broken")
    text = "path,label\na.npy,x\na.npy,x\nb.npy,y\nb.npy,y\n"
    np.save(tmp_path / "two.npy", np.zeros((3, 4, 6, 2)))
    with pytest.raises(VoxgapError, match=r"1 \(row 2, row 3\); 2 \(row 4, row 5\); give the same channels"):
        load_data(manifest(tmp_path, text.replace("b.npy", "two.npy")))
    with pytest.raises(VoxgapError, match=r"2 problems\n  row 6: .*c.npy.*\n  row 7: .*d.nii"):
        load_data(manifest(tmp_path, text + "c.npy,x\nd.nii,y\n"))
    with pytest.raises(VoxgapError, match=r"row 2: .*each channel file needs 3×4×5×1"):
        load_data(manifest(tmp_path, "t1,t2,label\na.npy,b.npy,x\n" + "a.npy,,x\na.npy,,y\na.npy,,y\n"))


def test_data_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("x")
    (tmp_path / "bad.csv").write_bytes(b"\xff\x00path")
    (tmp_path / "empty").mkdir()
    for name, words in {
        "none.csv": "no such file",
        "data.txt": "not a data set; give a .csv manifest",
        "bad.csv": "can't be read",
        "empty": "has no sub-folder",
    }.items():
        with pytest.raises(VoxgapError, match=words):
            load_data(tmp_path / name)


@pytest.mark.parametrize(
    "suffix", [".npy", ".nii.gz", ".nrrd", ".tif", ".nc", pytest.param(".zarr", marks=pytest.mark.full)]
)
def test_one_volume_is_no_data_set_but_can_be_filled(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"sea{suffix}"
    write(file, Volume(np.zeros((3, 4, 5), np.float32)))
    with pytest.raises(
        VoxgapError, match=r"not a data set; give .*, which takes one file: voxgap train .* --task fill"
    ):
        load_data(file)


# The same volume twice


def twins(folder: Path, header: str, *rows: str) -> Path:
    for index in range(8):
        save(folder / f"{index}.npy", index)
    shutil.copy(folder / "3.npy", folder / "copy.npy")
    write(folder / "other.nii.gz", read(folder / "3.npy"))
    return manifest(folder, "\n".join([header, *rows]))


@pytest.mark.parametrize("twin", ["3.npy", "./../here/3.npy", "copy.npy", "other.nii.gz"])
@pytest.mark.parametrize("options", [{}, {"cache": "kept"}])
def test_the_same_volume_in_two_parts_is_said(twin: str, options: dict, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    rows = [f"{i}.npy,{'ab'[i % 2]},{'train' if i < 6 else 'test'}" for i in range(8)]
    path = twins(folder, "path,label,split", *rows, f"{twin},b,test")
    options = {name: tmp_path / value for name, value in options.items()}
    with pytest.warns(
        UserWarning, match=r"row 5 and row 10 hold the same volume, in train and test; leave one out"
    ):
        load_data(path, **options)
    path.write_text(path.read_text().replace("b,test", "b,train"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_data(path, **options)


def test_the_same_volume_without_a_split_is_said_unless_a_group_keeps_it_together(tmp_path: Path) -> None:
    rows = [f"{i}.npy,{'ab'[i % 2]},g{i}" for i in range(8)]
    for group, is_said in (("g8", True), ("g3", False)):
        path = twins(tmp_path, "path,label,group", *rows, f"copy.npy,b,{group}")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            load_data(path)
        assert any("nothing keeps them in one part of a split" in str(one.message) for one in said) is is_said
    held = volumes()
    held[7] = held[2]
    held[9] = held[11] = np.nan
    np.savez(tmp_path / "d.npz", volumes=held, labels=LABELS)
    with pytest.warns(
        UserWarning, match=r"d\.npz: volume 2 and volume 7 hold the same volume, and .* split; leave"
    ):
        load_data(tmp_path / "d.npz")
