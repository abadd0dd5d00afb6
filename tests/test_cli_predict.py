"""`voxgap predict` as a user meets it: many files, tables, channels, a kill in the middle, label maps."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from starlette.testclient import TestClient

import server_cases
import stand_in
import tiny
import voxgap as vg
from voxgap import table as tables
from voxgap.errors import VoxgapError
from voxgap.runtime import job
from voxgap.runtime.inputs import Item, list_items
from voxgap.runtime.predictor import Predictor
from voxgap.server import create_app
from voxgap.training import adapt_model

COMMAND = importlib.import_module("voxgap.cli.predict")
"""The module; the package has the function of that name."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, model = tiny.dataset(count=144), tiny.model("cnn3d", "mean", filters=(4, 6))
    adapt_model(model, data.part("train"))
    return Path(vg.save_bundle(tmp_path_factory.mktemp("predict") / "b", model, data, strategy="mean"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight volumes in a folder and one below it, one of them damaged."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "ward").mkdir()
    for i, values in enumerate(tiny.volumes(8, seed=4)):
        vg.write((folder / "ward" if i > 5 else folder) / f"v{i}.nii.gz", vg.Volume(values))
    (folder / "damaged.nii.gz").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("not a volume")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_a_folder_becomes_a_table_and_what_fails_is_a_row(
    bundle: Path, scans: Path, tmp_path: Path, voxgap
) -> None:
    done = voxgap("predict", bundle, scans, "--out", tmp_path / "p.csv", "--top-k", 2, "--calibrated")
    assert done.code == 1, done.err
    assert "1 of 9 not predicted" in done.err
    rows = {Path(row["path"]).name: row for row in table(tmp_path / "p.csv")}
    assert sorted(rows) == ["damaged.nii.gz", *(f"v{i}.nii.gz" for i in range(8))]
    assert "not a NIfTI" in rows["damaged.nii.gz"]["error"]
    predictor = vg.load(bundle)
    for i, values in enumerate(tiny.volumes(8, seed=4)):
        row, answer = rows[f"v{i}.nii.gz"], predictor.answer(values)
        np.testing.assert_allclose([float(row[f"p_{c}"]) for c in tiny.CLASSES], answer.values, atol=1e-5)
        np.testing.assert_allclose(
            [float(row[f"calibrated_{c}"]) for c in tiny.CLASSES], answer.calibrated, atol=1e-5
        )
        assert row["class"] == row["top_1"] == answer.label
        assert float(row["p_top_1"]) >= float(row["p_top_2"])
        assert float(row["missing_rate"]) == pytest.approx(np.isnan(values).mean(), abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", ".p.csv.done"}, "no journal is left"
    written = (tmp_path / "p.csv").read_bytes()
    again = voxgap("predict", bundle, scans, "--out", tmp_path / "p.csv", "--top-k", 2, "--calibrated")
    assert again.code == 1
    assert "0 predictions, 8 were there already (--overwrite replaces them)" in again.err
    assert (tmp_path / "p.csv").read_bytes() == written
    other = voxgap("predict", bundle, scans, "--out", tmp_path / "p.csv", "--calibrated")
    assert (other.code, "is there already: choose another place" in other.err) == (2, True)


@pytest.mark.full
def test_tables_of_each_kind_say_the_same(bundle: Path, scans: Path, tmp_path: Path, voxgap) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("csv", "json", "jsonl", "parquet"):
        assert voxgap("predict", bundle, scans / "ward", "--out", tmp_path / f"p.{suffix}").code == 0
    expected = json.loads((tmp_path / "p.json").read_text())
    assert [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()] == expected
    assert parquet.read_table(tmp_path / "p.parquet").to_pylist() == expected
    for row, values in zip(table(tmp_path / "p.csv"), expected, strict=True):
        assert row["path"] == values["path"]
        assert float(row["p_dim"]) == pytest.approx(values["p_dim"], rel=1e-5)
    done = voxgap("predict", bundle, scans / "ward", "--out", tmp_path / "p.txt")
    assert done.code == 2
    assert ".csv, .json, .jsonl, .parquet" in done.err


def test_a_job_goes_on_where_it_was(
    bundle: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, wanted = vg.load(bundle), job.Wanted()
    items, columns, key = list_items([scans], ["t1"]), job.columns_of(predictor, job.Wanted()), {"model": "a"}
    seen: list[str] = []

    def dying(some):
        for count, row in enumerate(job.local(predictor, wanted)(some)):
            if count == 4:
                raise KeyboardInterrupt
            seen.append(row["path"])
            yield row

    with pytest.raises(KeyboardInterrupt):
        job.run(dying, items, tmp_path / "p.csv", columns, key)
    assert not (tmp_path / "p.csv").exists()
    journal = tmp_path / ".p.csv.journal"
    with journal.open("ab") as stream:
        stream.write(b'{"path": "half')  # as a kill in the middle of a write leaves it
    assert job.answered(tmp_path / "p.csv", key) == set(seen)
    asked: list[str] = []

    def rest(some):
        asked.extend(item.name for item in some)
        yield from job.local(predictor, wanted)(some)

    done = job.run(rest, items, tmp_path / "p.csv", columns, key)
    assert (done.rows, done.failed) == (9, 1)
    assert asked == [item.name for item in items if item.name not in seen]
    assert sorted(row["path"] for row in table(tmp_path / "p.csv")) == sorted(item.name for item in items)
    assert not journal.exists()
    # Of another model, it begins anew.
    with pytest.raises(KeyboardInterrupt):
        job.run(dying, items, tmp_path / "p.csv", columns, key)
    assert job.answered(tmp_path / "p.csv", {"model": "b"}) == set()


@pytest.mark.full
def test_a_killed_process_goes_on(bundle: Path, tmp_path: Path) -> None:
    for i, values in enumerate(tiny.volumes(400, seed=6)):
        np.save(tmp_path / f"{i:03}.npy", values)
    out = tmp_path / "out" / "p.csv"
    command = [Path(sys.executable).parent / "voxgap", "predict", bundle, tmp_path, "--out", out]
    journal = out.with_name(".p.csv.journal")
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while running.poll() is None and not (journal.exists() and journal.stat().st_size > 2000):
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "going on" in done.stderr
    assert len({row["path"] for row in table(out)}) == 400


def two_channels(folder: Path) -> Predictor:
    entry = {"shape": [8, 8, 8, 2], "channels": ["t1", "flair"]}
    manifest = stand_in.manifest([], input=entry)
    return Predictor(manifest, lambda batch: np.nan_to_num(batch).mean(axis=(1, 2, 3))[:, :1] * [[1]])


def test_a_file_for_each_channel(tmp_path: Path) -> None:
    for patient in ("a", "b"):
        (tmp_path / patient).mkdir()
        np.save(tmp_path / patient / "t1.npy", np.full((8, 8, 8), 3, np.float32))
    np.save(tmp_path / "a" / "flair.npy", np.zeros((8, 8, 8), np.float32))
    items = list_items([tmp_path], ["t1", "flair"], ["t1.npy", "flair.npy"])
    assert [Path(item.name).name for item in items] == ["a", "b"]
    assert items[1].files == (str(tmp_path / "b" / "t1.npy"), None)
    rows = list(job.local(two_channels(tmp_path), job.Wanted())(items))
    assert [row["value"] for row in rows] == [3, 3]
    assert [row["missing_rate"] for row in rows] == [0, 0.5]
    listed = tmp_path / "list.csv"
    listed.write_text("flair,t1,label\na/flair.npy,a/t1.npy,x\n,b/t1.npy,y\n")
    by_table = list_items([listed], ["t1", "flair"])
    assert [item.files for item in by_table] == [item.files for item in items]
    assert job.columns_of(two_channels(tmp_path), job.Wanted(), by_table)[:2] == ["path", "value"]
    # Whose they are goes with them, whether they are answered or not.
    listed.write_text("group,t1,flair\np7,a/t1.npy,a/flair.npy\n,b/t1.npy,\n9,none.npy,\n")
    owned = list_items([listed], ["t1", "flair"])
    columns = job.columns_of(two_channels(tmp_path), job.Wanted(), owned)
    for suffix in ("csv", "parquet"):
        out = tmp_path / f"owned.{suffix}"
        job.run(job.local(two_channels(tmp_path), job.Wanted()), owned, out, columns, {})
        header, rows, _ = tables.read(out)
        assert header[:3] == ["path", "group", "value"]
        assert [row.cells[1] for row in rows] == ["p7", "", "9"]
        assert "none.npy" in rows[2].cells[-1]
        place = header.index("case")
        assert [row.cells[place] for row in rows] == ["a/t1.npy", "b/t1.npy", "none.npy"]
    # By the rule of training, also where the column is called otherwise.
    listed.write_text("patient_id,t1,flair\np7,a/t1.npy,a/flair.npy\np8,b/t1.npy,\np9,none.npy,\n")
    with pytest.warns(UserWarning, match="column `patient_id` is read as `group`"):
        assert [item.group for item in list_items([listed], ["t1", "flair"])] == ["p7", "p8", "p9"]
    listed.write_text("case,t1,flair\nyes,a/t1.npy,a/flair.npy\nno,b/t1.npy,\nno,none.npy,\n")
    assert [item.group for item in list_items([listed], ["t1", "flair"])] == ["", "", ""]
    # One file is not all channels, and says how to give them.
    (row,) = job.local(two_channels(tmp_path), job.Wanted())(
        list_items([tmp_path / "a" / "t1.npy"], ["t1", "flair"])
    )
    assert "--channels t1.nii.gz,flair.nii.gz with the folder that holds them" in row["error"]
    alone = list_items([], ["t1", "flair"], [str(tmp_path / "a" / "t1.npy"), ""])
    assert alone[0].files == (str(tmp_path / "a" / "t1.npy"), None)


def test_what_names_no_volume_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.csv").write_text("file,label\nx,1\n")
    (tmp_path / "gap.csv").write_text("path,label\n,1\n")
    (tmp_path / "cells.csv").write_text("path,label\nx\n")
    for arguments, said in (
        (([], ["t1"]), "nothing to predict"),
        (([tmp_path / "empty"], ["t1"]), "holds no volume"),
        (([tmp_path / "odd.csv"], ["t1"]), "no column path, and none for channel t1"),
        (([tmp_path / "gap.csv"], ["t1"]), "names no file"),
        (([tmp_path / "cells.csv"], ["t1"]), "1 cells for 2 columns"),
        (([tmp_path], ["t1", "t2"], ["a.npy"]), "1 files for 2 channels"),
        (([tmp_path / "empty"], ["t1"], ["a.npy"]), "holds one of a.npy"),
    ):
        with pytest.raises(VoxgapError, match=said):
            list_items(*arguments)


@pytest.mark.parametrize("outside", [0, -1])
def test_label_maps_come_back_on_the_grid_of_the_file(outside: int, tmp_path: Path) -> None:
    manifest = stand_in.manifest(
        task="segmentation",
        classes=["back", "fore"],
        input={"shape": [8, 8, 8, 1], "channels": ["ct"], "grid": {"size": [8, 8, 8], "crop": "observed"}},
    )
    predictor = Predictor(manifest, lambda batch: np.concatenate([-batch, batch], axis=-1))
    values = np.full((12, 10, 9), np.nan, np.float32)
    values[2:10, 1:9, 1:9] = -1
    values[5:8, 3:6, 3:6] = 1
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    vg.write(tmp_path / "in" / "ct.nii.gz", vg.Volume(values, affine))
    items = list_items([tmp_path / "in"], ["ct"])
    wanted = job.Wanted(maps=str(tmp_path / "maps"), **({"outside": outside} if outside else {}))
    (row,) = job.local(predictor, wanted)(items)
    assert set(row) <= set(job.columns_of(predictor, wanted))
    assert row["label_map"] == str(tmp_path / "maps" / "ct.nii.gz")
    labels = vg.read(row["label_map"])
    made, image = (nibabel.load(file) for file in (row["label_map"], tmp_path / "in" / "ct.nii.gz"))
    assert made.get_data_dtype() == (np.int8 if outside else np.uint8)
    assert made.shape == image.shape
    for name in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "qoffset_z"):
        np.testing.assert_array_equal(made.header[name], image.header[name], name)
    scan = vg.read(tmp_path / "in" / "ct.nii.gz")
    np.testing.assert_allclose(labels.affine, scan.affine)
    np.testing.assert_array_equal(labels.values, np.where(np.isnan(scan.values), outside, scan.values > 0))
    assert (row["voxels_fore"], row["voxels_back"]) == (27, (512 if outside else scan.values.size) - 27)
    with pytest.raises(VoxgapError, match="outside 1: is the value of class fore"):
        predictor.check_outside(1)


def test_label_maps_are_called_as_their_scans_seen_from_the_folder(tmp_path: Path) -> None:
    for name in ("a/t1.nii", "a/t1.nii.gz", "b/T1.NII", "b/c/t1.mhd", "b/c/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def maps(given: list[str], **options: Any) -> list[str]:
        return [item.label_map for item in list_items([tmp_path / name for name in given], ["t1"], **options)]

    assert maps(["."]) == ["a/t1.nii", "a/t1.nii.gz", "b/T1.NII".replace("NII", "nii"), "b/c/t1.mha"]
    assert maps(["b"]) == ["T1.nii", "c/t1.mha"]
    assert maps(["a/t1.nii"]) == ["t1.nii"]
    # What would be one name in two folders has its folder.
    assert maps(["a", "b"]) == ["a/t1.nii", "a/t1.nii.gz", "b/T1.nii", "b/c/t1.mha"]
    assert maps(["a/t1.nii", "b/T1.NII"]) == ["a/t1.nii", "b/T1.nii"]
    assert maps(["a/t1.nii.gz", "b/c/t1.mhd"]) == ["a/t1.nii.gz", "b/c/t1.mha"]
    (tmp_path / "rows.csv").write_text("t1,t2\na/t1.nii,b/T1.NII\na/t1.nii,\n,b/c/t1.mhd\n")
    rows = list_items([tmp_path / "rows.csv"], ["t1", "t2"])
    assert [item.label_map for item in rows] == ["a/t1.nii", "a/t1-2.nii", "b/c/t1.mha"]
    rows = list_items([tmp_path / "rows.csv"], ["t1", "t2"], reference="t2")
    assert [item.label_map for item in rows] == ["b/T1.nii", "a/t1.nii", "b/c/t1.mha"]
    patients = list_items([tmp_path], ["t1", "t2"], ["t1.nii", "T1.NII"])
    assert [item.label_map for item in patients] == ["a/t1.nii", "b/T1.nii"]
    alone = list_items([tmp_path / "a", tmp_path / "b"], ["t1", "t2"], ["t1.nii", "T1.NII"])
    assert [item.label_map for item in alone] == ["a/t1.nii", "b/T1.nii"]
    # What is written is no input the next time, and replaces none.
    assert maps(["."], out=tmp_path / "b") == ["a/t1.nii", "a/t1.nii.gz"]
    for given, out in ((["a"], "a"), (["a/t1.nii"], "a"), (["a/t1.nii", "b"], ".")):
        with pytest.raises(VoxgapError, match="name another folder with --out"):
            maps(given, out=tmp_path / out)


def test_a_table_replaces_neither_another_nor_what_it_is_of(
    bundle: Path, scans: Path, tmp_path: Path, voxgap
) -> None:
    out, listed = tmp_path / "p.csv", tmp_path / "list.csv"
    listed.write_text(f"path\n{scans / 'v0.nii.gz'}\n")
    out.write_text("mine")
    done = voxgap("predict", bundle, listed, "--out", out)
    assert (done.code, out.read_text()) == (2, "mine")
    assert f"{out} is there already" in done.err.replace("\n", "")
    done = voxgap("predict", bundle, listed, "--out", listed, "--overwrite")
    assert (done.code, "names what is to be predicted" in done.err) == (2, True)
    assert voxgap("predict", bundle, listed, "--out", out, "--overwrite").code == 0
    assert len(table(out)) == 1


def test_scans_that_are_not_like_the_training_are_said_once(
    bundle: Path, scans: Path, tmp_path: Path, voxgap
) -> None:
    brighter = tmp_path / "brighter"
    for i, values in enumerate(tiny.volumes(40, seed=4)):
        # Far enough to be seen in 40 scans; and twelve of one person are one.
        vg.write(brighter / f"v{i}.nii.gz", vg.Volume(values + 1.5 * np.nanstd(values)))
    done = voxgap("predict", bundle, brighter)
    assert done.code == 0, done.err
    assert done.err.count("are not like those of the training any more") == 1
    assert "looks" not in done.out
    assert "any more" not in voxgap("predict", bundle, scans, "--out", tmp_path / "p.csv").err


def test_of_a_group_one_scan_is_watched() -> None:
    done = job.Done()
    for path, group in (("a", "p1"), ("b", "p1"), ("c", "p2"), ("d", ""), ("e", "")):
        done.count({"path": path, "group": group, "looks": {"values of t1": 1.0}})
    done.count({"path": "f", "error": "gone"})
    assert len(done.looks) == 4


def test_warnings_are_counted_by_kind() -> None:
    done = job.Done()
    for path, said in (
        ("a", "channel t1: values from 1 to 3, in the training data 0 to 1; check the units"),
        ("b", "channel t1: values from -1.5e+03 to 3, in the training data 0 to 1; check the units"),
        (
            "c",
            "channel t2 is missing | channel t1: values from 9 to 3, in the training data 0 to 1; check the units",
        ),
        ("d", ""),
    ):
        done.count({"path": path, "warnings": said})
    assert done.doubts() == [
        "3 of 4 inputs, such as a: channel t1: values from 1 to 3, in the training data 0 to 1; check the units "
        "(column warnings)",
        "c: channel t2 is missing (column warnings)",
    ]


@pytest.mark.full
def test_ray_answers_the_same(bundle: Path, scans: Path, tmp_path: Path, voxgap) -> None:
    pytest.importorskip("ray")
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert voxgap("predict", bundle, scans, "--out", here).code == 1
    assert voxgap("predict", bundle, scans, "--out", there, "--ray", "local").code == 1
    assert sorted(map(str, table(here))) == sorted(map(str, table(there)))


@pytest.mark.full
def test_label_maps_have_the_values_of_those_they_were_learnt_from(tmp_path: Path) -> None:
    def written(*classes: str) -> list[int]:
        manifest = {
            "task": "segmentation",
            "classes": list(classes),
            "outputs": 3,
            "files": {"numpy": {"path": "none", "sha256": "1" * 64}},
            "input": {
                "shape": [8, 8, 8, 1],
                "channels": ["ct"],
                "grid": {"size": [8, 8, 8], "crop": "observed"},
            },
        }
        levels = np.arange(3)
        predictor = Predictor(
            stand_in.manifest(**manifest), lambda batch: -np.abs(np.nan_to_num(batch) - levels)
        )
        values = np.full((10, 8, 8), np.nan, np.float32)
        values[1:9] = np.arange(8).reshape(8, 1, 1) % 3
        np.save(tmp_path / "ct.npy", values)
        (row,) = job.local(predictor, job.Wanted(maps=str(tmp_path / "maps"), overwrite=True))(
            list_items([tmp_path / "ct.npy"], ["ct"])
        )
        assert [row[f"voxels_{name}"] for name in classes] == [192 + 128, 192, 128]
        found = vg.read(row["label_map"]).values
        volume, records = predictor.read(tmp_path / "ct.npy")
        own = predictor.label_map(predictor.answer(volume).values, volume, records)
        np.testing.assert_array_equal(found, own.values)
        served = server_cases.make_bundle(tmp_path / "served", **manifest)
        file = {"file": ("ct.npy", (tmp_path / "ct.npy").read_bytes())}
        with TestClient(create_app(served, load=lambda _: predictor), server_cases.HERE) as server:
            whole = server.post("/v1/label_map?format=nifti", files=file)
            raw = server.post("/v1/label_map", files=file)
        assert (whole.status_code, raw.status_code) == (200, 200), whole.text
        (tmp_path / "served.nii.gz").write_bytes(whole.content)
        np.testing.assert_array_equal(found, vg.read(tmp_path / "served.nii.gz").values)
        np.testing.assert_array_equal(np.frombuffer(raw.content, "<i2").reshape(8, 8, 8), found[1:9, ..., 0])
        return found[..., 0][1:9, 0, 0].astype(int).tolist()

    assert written("0", "128", "255") == [0, 128, 255, 0, 128, 255, 0, 128]
    assert written("0", "1", "2") == written("air", "bone", "3") == [0, 1, 2, 0, 1, 2, 0, 1]
    assert written("0", "1", "40000") == written("0", "00", "1") == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_table_of_predictions_runs_nothing_and_is_read_as_it_was(
    bundle: Path, tmp_path: Path, voxgap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.npy", "@SUM(A1).npy", "-2.npy", "plain.npy"]
    for name, values in zip(names, tiny.volumes(4, seed=1), strict=True):
        np.save(tmp_path / name, values)
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{tmp_path / name}\n" for name in names))
    rows = [{"path": name, "class": "-", "p_=1": -3.2} for name in names]
    job.run(
        lambda _: iter(rows), [Item(name, (name,)) for name in names], tmp_path / "p.csv", list(rows[0]), {}
    )
    assert not any(row["path"].startswith(("=", "@", "-")) for row in table(tmp_path / "p.csv"))
    assert [row["p_=1"] for row in table(tmp_path / "p.csv")] == ["-3.2"] * 4
    assert [row.cells for row in tables.read(tmp_path / "p.csv").rows] == [
        [name, "-", "-3.2"] for name in names
    ]
    assert [Path(item.name).name for item in list_items([tmp_path / "p.csv"], ["t1"])] == names


@pytest.mark.parametrize("first", [pytest.param("0", marks=pytest.mark.full), "0.0"])
def test_scores_are_those_of_the_same_classes_whatever_wrote_them(first: str, tmp_path: Path, voxgap) -> None:
    data, model = tiny.dataset(), tiny.model("cnn3d", "mean", filters=(4, 6))
    adapt_model(model, data.part("train"))
    named = dataclasses.replace(data, classes=(first, "1", "2"))
    bundle = vg.save_bundle(tmp_path / "b", model, named, strategy="mean")
    lines = {"1": ["path,label,split"], "1.0": ["path,label,split"]}
    for i, (values, target) in enumerate(zip(data.volumes[:12], data.targets[:12], strict=True)):
        np.save(tmp_path / f"{i}.npy", values)
        for kind in lines:
            lines[kind].append(f"{i}.npy,{target}{kind[1:]},{'train' if i < 6 else 'test'}")
    found = []
    for kind, text in lines.items():
        (tmp_path / f"{kind}.csv").write_text("\n".join(text))
        done = voxgap("evaluate", bundle, tmp_path / f"{kind}.csv", "--json")
        found.append(json.loads(done.out))
    assert found[0] == found[1]
    # Two of the three classes are enough, and count as what they are.
    (tmp_path / "two.csv").write_text("\n".join(line for line in lines["1"] if ",1," not in line))
    scores = json.loads(voxgap("evaluate", bundle, tmp_path / "two.csv", "--split", "all", "--json").out)
    some = data.take(np.flatnonzero(data.targets[:12] != 1))
    answers = vg.load(bundle).predict(some.volumes)
    assert scores["all"]["accuracy"] == pytest.approx((answers.argmax(axis=1) == some.targets).mean())
    (tmp_path / "other.csv").write_text("\n".join(lines["1"]).replace(",1,", ",7,"))
    done = voxgap("evaluate", bundle, tmp_path / "other.csv")
    assert (done.code, "classes 0, 2, 7 are not the bundle's" in done.err) == (2, True)
