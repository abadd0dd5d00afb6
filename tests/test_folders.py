"""Folders as people have them: the same cases in each convention are the same samples."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap.dataset import Dataset, load_data
from voxgap.dataset.folders import list_folder
from voxgap.errors import VoxgapError
from voxgap.io import write
from voxgap.volume import Volume

COUNT, SHAPE = 8, (3, 4, 5)
LACKING = 2
"""The case without its second channel, where there are two."""


def image(case: int, channel: int = 0) -> np.ndarray:
    return np.random.default_rng([case, channel]).normal(size=SHAPE).astype(np.float32)


def label(case: int) -> np.ndarray:
    return np.digitize(image(case), (-0.3, 0.3)).astype(np.float32)


def save(path: Path, values: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Volume(values, spacing=(2, 1, 1)))
    return path.name


def lay(images: Callable[[int, int], str], labels: Callable[[int], str], channels: int = 1) -> Any:
    """Put the cases where their names say."""

    def make(folder: Path) -> None:
        for case in range(COUNT):
            for channel in range(channels):
                if (case, channel) != (LACKING, 1):
                    save(folder / images(case, channel), image(case, channel))
            save(folder / labels(case), label(case))

    return make


def described(**about: Any) -> Callable[[Path], None]:
    def write_json(folder: Path) -> None:
        (folder / "dataset.json").write_text(json.dumps(about))

    return write_json


def both(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for maker in makers:
            maker(folder)

    return make


def in_four_dimensions(folder: Path) -> None:
    for case in range(COUNT):
        second = np.full(SHAPE, np.nan) if case == LACKING else image(case, 1)
        save(folder / f"imagesTr/c{case}.nii.gz", np.stack([image(case), second], axis=-1))
        save(folder / f"labelsTr/c{case}.nii.gz", label(case))


PAIRS = [{"image": f"./imagesTr/c{i}.nii.gz", "label": f"./labelsTr/c{i}.nii.gz"} for i in range(COUNT)]
TWO = {"0": "T1", "1": "FLAIR"}
NAMED = {"background": 0, "low": 1, "high": 2}
NUMBERED = {"0": "background", "1": "low", "2": "high"}
NUMBERS, NAMES = ("0", "1", "2"), ("background", "low", "high")

LAYOUTS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "images and labels": (
        lay(lambda i, _: f"images/c{i}.nii.gz", lambda i: f"labels/c{i}.nii.gz"),
        ("channel_0",),
        NUMBERS,
    ),
    "words in names": (
        lay(lambda i, _: f"Imgs/img{i:02d}.nii", lambda i: f"Masks/mask{i:02d}.nrrd"),
        ("channel_0",),
        NUMBERS,
    ),
    "one folder has another name": (
        lay(lambda i, _: f"ct/c{i}.nii.gz", lambda i: f"seg/c{i}_seg.nii.gz"),
        ("channel_0",),
        NUMBERS,
    ),
    "imagesTr without a description": (
        lay(lambda i, c: f"imagesTr/c{i}_{c:04d}.nii.gz", lambda i: f"labelsTr/c{i}.nii.gz", 2),
        ("0000", "0001"),
        NUMBERS,
    ),
    "a folder for each patient": (
        lay(lambda i, c: f"P{i}/P{i}_{'ab'[c]}.nii.gz", lambda i: f"P{i}/P{i}_seg.nii.gz", 2),
        ("a", "b"),
        NUMBERS,
    ),
    "all in one folder": (
        lay(lambda i, _: f"c{i}.nii.gz", lambda i: f"c{i}-label.nii.gz"),
        ("channel_0",),
        NUMBERS,
    ),
    "nnU-Net": (
        both(
            lay(lambda i, c: f"imagesTr/c{i}_{c:04d}.nii.gz", lambda i: f"labelsTr/c{i}.nii.gz", 2),
            described(channel_names=TWO, labels=NAMED, file_ending=".nii.gz", numTraining=COUNT),
        ),
        ("T1", "FLAIR"),
        NAMES,
    ),
    "nnU-Net's first version": (
        both(
            lay(lambda i, c: f"imagesTr/c{i}_{c:04d}.nii.gz", lambda i: f"labelsTr/c{i}.nii.gz", 2),
            described(modality=TWO, labels=NUMBERED, training=PAIRS, test=[]),
        ),
        ("T1", "FLAIR"),
        NAMES,
    ),
    "Decathlon": (
        both(in_four_dimensions, described(modality=TWO, labels=NUMBERED, training=PAIRS, test=[])),
        ("T1", "FLAIR"),
        NAMES,
    ),
}


def assert_paired(data: Dataset) -> None:
    """Each volume is one case, with its own label map."""
    found = set()
    for volume, target in zip(data.volumes, data.targets, strict=True):
        case = next(i for i in range(COUNT) if np.allclose(volume[..., 0], image(i), atol=1e-6))
        found.add(case)
        assert np.array_equal(target, label(case))
        if volume.shape[-1] > 1:
            expected = np.full(SHAPE, np.nan) if case == LACKING else image(case, 1)
            np.testing.assert_allclose(volume[..., 1], expected, atol=1e-6)
    assert found == set(range(COUNT))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_convention_gives_the_same_samples(layout: str, tmp_path: Path) -> None:
    make, channels, classes = LAYOUTS[layout]
    make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(tmp_path)
    assert (data.task, data.classes, data.channels) == ("segmentation", classes, channels)
    assert_paired(data)


def test_a_description_is_data_by_itself_and_parts_are_parts(tmp_path: Path) -> None:
    LAYOUTS["nnU-Net"][0](tmp_path)
    for case in (6, 7):
        for folder, ending in (("images", "_0000"), ("labels", "")):
            file = tmp_path / f"{folder}Tr/c{case}{ending}.nii.gz"
            (tmp_path / f"{folder}Ts").mkdir(exist_ok=True)
            file.rename(tmp_path / f"{folder}Ts" / file.name)
    data = load_data(tmp_path / "dataset.json")
    assert [len(data.part(part)) for part in ("train", "validation", "test")] == [5, 1, 2]
    for parts in (("val/images", "val/labels"), ("images/val", "labels/val")):
        folder = tmp_path / parts[0].replace("/", "-")
        for case in range(COUNT):
            part = "train" if case < 5 else "val" if case < 7 else "test"
            for kind, values in zip(parts, (image(case), label(case)), strict=True):
                save(folder / kind.replace("val", part) / f"c{case}.nii.gz", values)
        data = load_data(folder)
        assert [len(data.part(part)) for part in ("train", "validation", "test")] == [5, 2, 1]
        assert_paired(data)


@pytest.mark.parametrize("name", ["P{}/ses-{}/{}.nii.gz", "labels/P{}/ses-{}/{}.nii.gz"])
def test_sessions_of_a_patient_stay_together(name: str, tmp_path: Path) -> None:
    images = name.replace("labels", "images")
    for case in range(COUNT):
        for session in range(2 if case else 1):
            save(tmp_path / images.format(case, session, "t1"), image(case, session))
            save(tmp_path / name.format(case, session, "seg" if images == name else "t1"), label(case))
    rows = list_folder(tmp_path).rows
    assert len(rows) == 2 * COUNT - 1
    assert all(row.label_map and row.group == row.label_map.parts[-3] for row in rows)
    # Sites of patients, or classes, are no patients.
    for case in range(COUNT):
        for kind in ("t1", "seg"):
            save(tmp_path / f"sites/s{case % 2}/P{case}/{kind}.nii.gz", label(case))
    assert {row.group for row in list_folder(tmp_path / "sites").rows} == {""}


@pytest.mark.parametrize("layout", ["images and labels", "nnU-Net", "Decathlon"])
def test_images_without_a_label_map_are_left_out_with_a_word(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout][0](tmp_path)
    folder = tmp_path / ("images" if layout == "images and labels" else "imagesTs")
    save(folder / "new_0000.nii.gz", image(99))
    if layout == "Decathlon":
        about = json.loads((tmp_path / "dataset.json").read_text())
        described(**{**about, "test": ["./imagesTs/new_0000.nii.gz"]})(tmp_path)
    with pytest.warns(UserWarning, match="left out 1 images without a label map: new"):
        assert len(load_data(tmp_path)) == COUNT


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ({"background": 0, "low": 1, "ignore": 2}, ("background", "low"), None),
        ({"background": 0, "all": [1, 2], "high": 2}, NUMBERS, "'all' stands for more than one value"),
        ({"background": 0, "low": 1, "high": 4}, NUMBERS, "the values are 0, 1, 4, not 0 to 2"),
        ({"background": 0, "low": 1}, None, "label maps go up to 2, with 2 class names"),
    ],
)
def test_names_of_values(labels: Any, classes: Any, said: str | None, tmp_path: Path) -> None:
    LAYOUTS["nnU-Net"][0](tmp_path)
    described(channel_names=TWO, labels=labels, file_ending=".nii.gz")(tmp_path)
    if classes is None:
        with pytest.raises(VoxgapError, match=said):
            load_data(tmp_path)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_data(tmp_path)
    assert [str(one.message) for one in caught if said is None or said not in str(one.message)] == []
    assert data.classes == classes
    # What is ignored is what nobody said, and counts in no score.
    expected = [
        np.where(label(i) == 2, -1, label(i)) if "ignore" in labels else label(i) for i in range(COUNT)
    ]
    assert np.array_equal(data.targets, expected)


def test_what_does_not_fit_is_one_line_that_names_it(tmp_path: Path) -> None:
    def broken(name: str, change: Callable[[Path], object]) -> str:
        folder = tmp_path / name
        LAYOUTS["Decathlon" if name.startswith("json") else "images and labels"][0](folder)
        change(folder)
        with pytest.raises(VoxgapError) as error:
            load_data(folder)
        return str(error.value)

    assert "no image in" in broken("a", lambda f: (f / "images/c3.nii.gz").unlink())
    assert "are label maps of one case" in broken("b", lambda f: save(f / "labels/c3_mask.nii.gz", label(3)))
    assert "has all of a case by its name" in broken("c", lambda f: save(f / "images/c3_t2.nii.gz", image(3)))
    assert "can't be read as JSON" in broken("json1", lambda f: (f / "dataset.json").write_text("{"))
    lost = broken("json2", lambda f: (f / "imagesTr/c3.nii.gz").unlink())
    assert "training 3" in lost
    assert "c3.nii.gz: no such file" in lost
    one = broken("json3", described(modality={"0": "MRI"}, labels=NUMBERED, training=PAIRS))
    assert "names 1 channels (MRI), and its files hold 2" in one


CHANNELS = 'channel_names must name each channel by its number, as {"0": "T1"}'
LISTED = 'dataset: x: is no {"images": ["FILE", ...], "label": "FILE"}'
PAIR = 'is no {"image": "FILE", "label": "FILE"}'


@pytest.mark.parametrize(
    ("about", "words"),
    [
        *(({"channel_names": names}, CHANNELS) for names in ("ab", 5, {"0": "", "1": " "}, ["", "b"], {})),
        *(
            ({"channel_names": TWO, "dataset": {"x": case}}, LISTED)
            for case in (
                *({"images": images, "label": "c0.nii.gz"} for images in (5, None, "c0.nii.gz", [], [3])),
                *({"images": ["c0.nii.gz"], "label": label} for label in (5, None, ["c0.nii.gz"])),
                "c0.nii.gz",
            )
        ),
        ({"channel_names": TWO, "dataset": [1]}, "dataset must name cases"),
        (
            {
                "channel_names": {"0": "a"},
                "dataset": {"x": {"images": ["c0.nii.gz"], "label": "./c0.nii.gz"}},
            },
            "x: its image and its label are one file, c0.nii.gz",
        ),
        *(({"training": [entry]}, f"training 0: {PAIR}") for entry in (1, None, {}, [5], [])),
        *(({"training": [{"image": "c0.nii.gz", "label": label}]}, PAIR) for label in ({"a": 1}, [1], " ")),
        *(({"training": [{"image": image, "label": "c0.nii.gz"}]}, PAIR) for image in (5, {}, "", [None])),
        ({"training": [], "validation": "c0.nii.gz"}, "validation must be a list of"),
        ({"training": [], "modality": "CT"}, "modality must name each channel by its number"),
        (
            {"training": [{"image": "../x/c0.nii.gz", "label": "c0.nii.gz"}]},
            "training 0: its image and its label are one file, c0.nii.gz; name both",
        ),
    ],
)
def test_a_description_of_wrong_types_is_one_line(about: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    save(folder / "c0.nii.gz", label(0))
    described(**({"file_ending": ".nii.gz"} if "channel_names" in about else {}), **about)(folder)
    with pytest.raises(VoxgapError) as error:
        list_folder(folder)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_bundle_of_named_classes_scores_data_without_names() -> None:
    from voxgap.dataset.targets import as_classes

    maps = np.array([[[[0, 2, -1]]]])
    assert as_classes(maps, NUMBERS, NAMES).tolist() == maps.tolist()
    assert as_classes(maps, ("0", "1", "4"), NAMES) is None
    assert as_classes(np.array([[[[0, 1, -1]]]]), ("0", "255"), NAMES, (0, 255), (0, 2, 255)).tolist() == [
        [[[0, 2, -1]]]
    ]
    assert as_classes(maps, ("a", "b", "c"), NAMES, (0, 1, 2), (0, 1, 2)) is None, "names are not values"
    assert as_classes(np.array([0, 2]), NUMBERS, NAMES) is None, "of whole volumes a number is a name"


# BIDS


def bids(folder: Path, table: str, sessions: tuple[str, ...] = ("",)) -> None:
    (folder / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text("{}")
    (folder / "participants.tsv").write_text(table.replace(",", "\t"))
    for case in range(COUNT):
        for session in sessions:
            place = folder / f"sub-{case:02d}" / session / "anat"
            name = "_".join(filter(None, (f"sub-{case:02d}", session)))
            save(place / f"{name}_T1w.nii.gz", image(case))
            if case != LACKING:
                save(place / f"{name}_acq-long_FLAIR.nii.gz", image(case, 1))


def rows(*columns: Callable[[int], object], header: str) -> str:
    lines = [",".join([f"sub-{i:02d}", *(str(column(i)) for column in columns)]) for i in range(COUNT)]
    return "\n".join([f"participant_id,{header}", *lines])


def test_bids(tmp_path: Path) -> None:
    table = rows(
        lambda i: 20 + i / 2, lambda i: "MF"[i // 4], lambda i: "pc"[i % 2], header="age,sex,diagnosis"
    )
    bids(tmp_path, table, ("ses-1", "ses-2"))
    with pytest.warns(UserWarning, match="diagnosis is taken for the label"):
        data = load_data(tmp_path)
    assert (data.channels, data.classes) == (("FLAIR", "T1w"), ("c", "p"))
    assert len(data) == 2 * COUNT
    assert data.groups is not None
    assert data.groups[:3].tolist() == ["sub-00", "sub-00", "sub-01"]
    assert data.targets[:4].tolist() == [1, 1, 0, 0]
    assert np.isnan(data.volumes[2 * LACKING, ..., 0]).all()
    np.testing.assert_allclose(data.volumes[2 * LACKING, ..., 1], image(LACKING), atol=1e-6)
    assert load_data(f"{tmp_path}::sex").classes == ("F", "M")
    assert load_data(f"{tmp_path}::age").targets[2] == 20.5
    with pytest.raises(VoxgapError, match="no column 'weight'; choose one of age, sex, diagnosis"):
        load_data(f"{tmp_path}::weight")


def test_bids_never_guesses(tmp_path: Path) -> None:
    bids(tmp_path / "two", rows(lambda i: "MF"[i % 2], lambda i: "LR"[i // 4], header="sex,hand"))
    with pytest.raises(
        VoxgapError, match=r"no column that must be the label; say which: .*two::sex or .*::hand"
    ):
        load_data(tmp_path / "two")
    assert len(list_folder(tmp_path / "two").rows) == COUNT, "what is there can be seen all the same"
    one = rows(lambda i: "n/a" if i == 1 else "ab"[i % 3 == 0], header="dx")
    bids(tmp_path / "one", one)
    save(tmp_path / "one/sub-00/anat/sub-00_run-2_T1w.nii.gz", image(50))
    with pytest.warns(UserWarning, match="left out") as said:
        data = load_data(tmp_path / "one")
    texts = " ".join(str(one.message) for one in said)
    assert "left out 1 subjects without dx: sub-01" in texts
    assert "of several runs the first is taken; left out sub-00_run-2_T1w.nii.gz" in texts
    assert len(data) == COUNT - 1
    for case in range(COUNT):
        save(tmp_path / f"two/derivatives/atlas/sub-{case:02d}/anat/sub-{case:02d}_dseg.nii.gz", label(case))
    data = load_data(tmp_path / "two")
    assert data.task == "segmentation"
    assert np.array_equal(data.targets[3], label(3))


def test_a_table_names_its_classes_by_the_description_beside_it(tmp_path: Path) -> None:
    rows = ["path,label_map"]
    for index in range(4):
        write(tmp_path / f"{index}.npy", Volume(np.full((2, 3, 4, 1), index, np.float32)))
        drawn = (np.arange(24).reshape(2, 3, 4, 1) % 2).astype(np.float32)
        write(tmp_path / f"{index}_labels.npy", Volume(drawn))
        rows.append(f"{index}.npy,{index}_labels.npy")
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    assert load_data(tmp_path / "data.csv").classes == ("0", "1")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"outside": 0, "liver": 1, "spleen": 2}}))
    assert load_data(tmp_path / "data.csv").classes == ("outside", "liver", "spleen")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(VoxgapError, match=r"dataset\.json: can't be read as JSON"):
        load_data(tmp_path / "data.csv")


def test_bids_rows_that_contradict_each_other_are_refused_by_the_subject(tmp_path: Path) -> None:
    table = rows(lambda i: "ab"[i % 2], lambda i: 1 + i % 2, header="dx,score")
    bids(tmp_path, f"{table}\nsub-00,a,1.0\nsub-01,n/a,2\nsub-99,a,1\nsub-99,b,2")
    with warnings.catch_warnings(record=True):
        assert len(list_folder(Path(f"{tmp_path}::dx")).rows) == COUNT
        assert list_folder(Path(f"{tmp_path}::score")).rows[0].label == "1"
    bids(tmp_path, f"{table}\nsub-00,b,1\n01,a,2")
    with pytest.raises(VoxgapError, match="2 problems") as error:
        load_data(f"{tmp_path}::dx")
    assert "sub-00 has dx a and b; keep one row of it" in "\n".join(map(str, error.value.args))


def test_bids_files_that_are_not_named_after_their_folders_are_left_out_with_a_word(tmp_path: Path) -> None:
    bids(tmp_path, rows(lambda i: "ab"[i % 2], header="dx"), ("ses-1",))
    anat = tmp_path / "sub-00/ses-1/anat"
    astray = [
        *("sub-01_ses-1_T1w", "sub-00_ses-2_T1w", "sub-00_ses-1_Miller_T1w", "sub-00_ses-1_"),
        *("Miller", "_", "sub-00", "sub-000_ses-1_T2w"),
    ]
    for name in astray:
        save(anat / f"{name}.nii.gz", image(50))
    (anat / "sub-00_ses-1_T1w.nii.gz").rename(anat / "sub-00_T1w.nii.gz")
    save(tmp_path / "derivatives/atlas/sub-00/ses-1/anat/sub-01_ses-1_dseg.nii.gz", label(1))
    with pytest.warns(
        UserWarning, match=f"left out {len(astray) + 1} files that are not named after"
    ) as said:
        data = load_data(f"{tmp_path}::dx")
    assert (data.channels, len(data)) == (("FLAIR", "T1w"), COUNT)
    np.testing.assert_allclose(data.volumes[:2, ..., 1], [image(0), image(1)], atol=1e-6)
    assert not any("of several runs" in str(one.message) for one in said)
    assert not any(row.label_map for row in list_folder(tmp_path).rows)
