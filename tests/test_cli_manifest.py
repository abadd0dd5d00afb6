"""`voxgap manifest` writes what a folder holds; `voxgap inspect` says what is there, whatever shapes; DICOM folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from voxgap.cli import app
from voxgap.dataset import load_data
from voxgap.dataset.folders import list_folder
from voxgap.errors import VoxgapError
from voxgap.io import read, write
from voxgap.runtime.inputs import list_items
from voxgap.volume import Volume


def voxgap(*arguments: object) -> str:
    result = CliRunner().invoke(
        app, list(map(str, arguments)), catch_exceptions=False, env={"COLUMNS": "160"}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def values(index: int, shape: tuple[int, int, int] = (3, 4, 5)) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 1000, shape).astype(np.float32)


def pairs(folder: Path) -> None:
    for index in range(6):
        for kind, held in (("images", values(index)), ("labels", values(index) > 500)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / kind / f"c{index}.npy", held.astype(np.float32))


@pytest.mark.full
def test_a_folder_as_a_manifest_is_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs(tmp_path / "data")
    (tmp_path / "tables").mkdir()
    voxgap("manifest", tmp_path / "data", "--out", tmp_path / "tables/a.csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.csv").write_text(voxgap("manifest", "data/images", "data/labels"))
    with pytest.raises(VoxgapError, match=r"tables/a\.csv is there already: .* pass --overwrite"):
        voxgap("manifest", "data", "--out", "tables/a.csv")
    whole = load_data("data")
    for table in ("tables/a.csv", "b.csv"):
        data = load_data(table)
        np.testing.assert_array_equal(data.volumes, whole.volumes)
        np.testing.assert_array_equal(data.targets, whole.targets)
    with pytest.raises(VoxgapError, match="none: no such folder"):
        voxgap("manifest", "none")


def test_a_channel_that_is_called_as_a_column_with_a_meaning_gets_another_name(tmp_path: Path) -> None:
    for index in range(6):
        for name in ("source", "target"):
            (tmp_path / f"data/P{index}").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / f"data/P{index}/{name}.npy", values(index))
    voxgap("manifest", tmp_path / "data", "--out", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().startswith("source,channel_target,group\ndata/P0/source.npy,")


NNUNET = {"channel_names": {"0": "MR"}, "file_ending": ".npy"}
LABELS = {"background": 0, "liver": 1, "ignore": 2}


@pytest.mark.parametrize(
    ("about", "labels", "channels"),
    [
        pytest.param(NNUNET, {"background": 0, "liver": 1}, ("MR",), marks=pytest.mark.full),
        (NNUNET, LABELS, ("MR",)),
        ({"modality": {"0": "MR", "1": "T2"}}, {"0": "background", "1": "liver"}, ("MR", "T2")),
    ],
)
def test_names_of_classes_and_channels_stay_with_the_table(
    about: dict[str, object],
    labels: dict[str, object],
    channels: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decathlon = "modality" in about
    for index in range(6):
        image = np.stack([values(index)] * len(channels), axis=-1)
        drawn = values(index) > 500 if len(labels) < 3 else np.digitize(values(index), (300, 700))
        for kind, held, end in (("images", image, "" if decathlon else "_0000"), ("labels", drawn, "")):
            (tmp_path / f"task/{kind}Tr").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / f"task/{kind}Tr/c{index}{end}.npy", held.astype(np.float32))
    files = [{"image": f"imagesTr/c{i}.npy", "label": f"labelsTr/c{i}.npy"} for i in range(6)]
    text = json.dumps({**about, "labels": labels} | ({"training": files} if decathlon else {}))
    (tmp_path / "task/dataset.json").write_text(text)
    whole = load_data(tmp_path / "task")
    (tmp_path / "tables").mkdir()
    for table in ("tables/a.csv", "task/b.csv", "tables/c.csv"):
        voxgap("manifest", tmp_path / "task", "--out", tmp_path / table)
        data = load_data(tmp_path / table)
        assert (data.classes, data.channels) == (("background", "liver"), channels)
        np.testing.assert_array_equal(data.targets, whole.targets)
    assert (tmp_path / "task/dataset.json").read_text() == text
    (tmp_path / "tables/dataset.json").write_text(json.dumps({"labels": {"sea": 0, "land": 1}}))
    with pytest.raises(VoxgapError, match=r"dataset\.json: says other names than these .*1 liver"):
        voxgap("manifest", tmp_path / "task", "--out", tmp_path / "tables/d.csv")
    assert not (tmp_path / "tables/d.csv").exists()
    monkeypatch.chdir(tmp_path)
    assert voxgap("manifest", "task").startswith("path," if decathlon else "MR,")


def test_inspect_needs_no_size_and_suggests_one(tmp_path: Path) -> None:
    lost = total = 0
    shapes = [(5, 20, 18), (6, 20, 18), (5, 20, 18), (5, 30, 18)]
    rows = ["path,label"]
    for index, shape in enumerate(shapes * 3):
        held = values(index, shape)
        held[index % 3] = np.nan
        lost, total = lost + int(np.isnan(held).sum()), total + held.size
        write(tmp_path / f"{index}.nii.gz", Volume(held, spacing=(3, 1, 1 + (index == 1))))
        rows.append(f"{index}.nii.gz,{index % 2}")
    (tmp_path / "d.csv").write_text("\n".join(rows))
    text = voxgap("inspect", tmp_path / "d.csv")
    assert "5×20×18×1 to 6×30×18×1; most often 5×20×18×1 (6 of 12)" in text
    assert "3 × 1 × 1 to 3 × 1 × 2; most often 3 × 1 × 1 (11 of 12)" in text
    assert "--size=8,32,32 --spacing=3,1,1" in text
    facts = json.loads(voxgap("inspect", tmp_path / "d.csv", "--json"))
    assert facts["description"]["missing_rate"] == pytest.approx(lost / total, rel=1e-12)
    assert facts["description"]["pattern"] == "slices along depth"
    assert load_data(tmp_path / "d.csv", **facts["suggested"]).volumes.shape == (12, 8, 32, 32, 1)
    (tmp_path / "d.csv").unlink()
    unlabelled = voxgap("inspect", tmp_path)
    assert "tests and pictures: resampled to 8×32×32" in " ".join(unlabelled.split()), "and no label, either"


# DICOM


def series(folder: Path, index: int, patient: str) -> None:
    write(folder.with_suffix(".dicom"), Volume(values(index), spacing=(2, 1, 1)))
    folder.with_suffix(".dicom").rename(folder)
    for file in folder.glob("*.dcm"):
        held = pydicom.dcmread(file)
        held.PatientID = patient
        held.save_as(file)


def flat(folder: Path) -> None:
    """All slices of all sub-folders beside each other."""
    for number, file in enumerate(sorted(folder.rglob("*.dcm"))):
        shutil.move(file, folder / f"IM{number:04d}")


@pytest.mark.parametrize("is_flat", [False, pytest.param(True, marks=pytest.mark.full)])
def test_patients_in_one_dicom_folder_are_volumes_each(is_flat: bool, tmp_path: Path) -> None:
    root = tmp_path / "ward"
    for index, name in enumerate(("p1/T1", "p1/T2", "p2/T1")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        series(root / name, index, name[:2])
    if is_flat:
        flat(root)
    rows = list_folder(root).rows
    assert sorted(row.group for row in rows) == ["p1", "p1", "p2"]
    found = [read(row.files[0]).values for row in rows if row.files[0] is not None]
    for index in range(3):
        assert sum(np.array_equal(one[..., 0], values(index)) for one in found) == 1
    assert json.loads(voxgap("inspect", root, "--json"))["description"]["volumes"] == 3
    assert len(list_items([root], ["t1"])) == 3
    table = voxgap("manifest", root)
    assert table.startswith("path,group\n")
    with pytest.raises(
        VoxgapError, match=r"holds 3 DICOM series and says no classes; .*voxgap manifest .*ward --out"
    ):
        load_data(root)


@pytest.mark.full
def test_classes_of_dicom_patients_stay_classes_and_slices_are_no_volumes(tmp_path: Path) -> None:
    for index in range(6):
        folder = tmp_path / "data" / ("sick", "well")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        series(folder / f"p{index}", index, f"p{index}")
    assert load_data(tmp_path / "data").classes == ("sick", "well")
    flat(tmp_path / "data/sick")
    with pytest.raises(
        VoxgapError, match=r"sick: holds slices of DICOM series beside each other; .*voxgap manifest"
    ):
        load_data(tmp_path / "data")
