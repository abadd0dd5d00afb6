"""`voxgap predict` asked for again: what is there, what has changed since, and what another job left."""

from __future__ import annotations

import csv
import importlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import server_cases
import tiny
import voxgap as vg
from voxgap.errors import VoxgapError
from voxgap.runtime import Bundle, job
from voxgap.runtime.ended import Done, finished, note, stamps
from voxgap.runtime.inputs import Item, list_items
from voxgap.runtime.predictor import Predictor

COMMAND = importlib.import_module("voxgap.cli.predict")
"""The module; the package has the function of that name."""


@pytest.fixture
def segmenting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[object]]:
    """Makes the arguments of `voxgap predict` with a bundle that names `fore` above a level, for three scans."""
    for index in range(3):
        vg.write(tmp_path / "in" / f"{index}.nii.gz", vg.Volume(tiny.volumes(1, seed=index)[0]))

    def made(level: float) -> list[object]:
        fields = {"schema_version": 1, "task": "segmentation", "classes": ["back", "fore"], "outputs": 2}
        fields |= {"input": {"shape": [8, 8, 8, 1], "channels": ["ct"]}, "strategy": {}}
        folder = server_cases.make_bundle(tmp_path / f"bundle{level}", **fields)
        network = Predictor(
            Bundle.open(folder).manifest,
            lambda batch: np.nan_to_num(np.concatenate([level - batch, batch - level], axis=-1)),
        )
        monkeypatch.setattr(COMMAND, "open_bundle", lambda *_: network)
        return ["predict", folder, tmp_path / "in", "--out", tmp_path / "maps"]

    return made


def test_nothing_that_is_there_is_replaced_unasked(segmenting, tmp_path: Path, voxgap) -> None:
    maps = tmp_path / "maps"
    assert voxgap(*segmenting(0)).code == 0
    written = {path: path.read_bytes() for path in maps.iterdir()}
    done = voxgap(*segmenting(1))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert (
        "predictions.csv and 3 more are there already: choose another place, or pass --overwrite" in done.err
    )
    # The same again has nothing to do.
    done = voxgap(*segmenting(0))
    assert (done.code, "0 predictions, 3 were there already (--overwrite replaces them)" in done.err) == (
        0,
        True,
    )
    assert {path: path.read_bytes() for path in maps.iterdir()} == written
    assert voxgap(*segmenting(1), "--overwrite").code == 0
    assert {path: path.read_bytes() for path in maps.iterdir()} != written
    assert voxgap(*segmenting(1)).code == 0
    # But with a map or a row that is no longer there.
    table_of = (maps / "predictions.csv").read_bytes()
    (maps / "predictions.csv").write_bytes(table_of[:-1])
    assert voxgap(*segmenting(1)).code == 2
    (maps / "predictions.csv").write_bytes(table_of)
    (maps / "1.nii.gz").rename(tmp_path / "1.nii.gz")
    assert voxgap(*segmenting(1)).code == 2
    (tmp_path / "1.nii.gz").rename(maps / "1.nii.gz")
    # A map that somebody drew is enough.
    (maps / "predictions.csv").unlink()
    for index in (0, 2):
        (maps / f"{index}.nii.gz").unlink()
    done = voxgap(*segmenting(1))
    assert (done.code, "1.nii.gz is there already" in done.err) == (2, True)
    assert {path.name for path in maps.iterdir()} == {"1.nii.gz", ".predictions.csv.done"}


def test_what_has_changed_since_a_job_ended_is_named(segmenting, tmp_path: Path, voxgap, monkeypatch) -> None:
    maps, scan = tmp_path / "maps", tmp_path / "in" / "1.nii.gz"
    command = segmenting(0)
    assert voxgap(*command).code == 0
    monkeypatch.chdir(tmp_path)
    near = [*command[:2], "in", "--out", "maps"]
    assert "3 were there already" in voxgap(*near).err, "the same files from another folder"

    def refused(said: str) -> None:
        done = voxgap(*command)
        assert (done.code, done.err.count("\n"), said in done.err) == (2, 1, True), done.err
        assert "are there already: choose another place, or pass --overwrite" in done.err

    before = scan.read_bytes(), scan.stat()
    vg.write(scan, vg.Volume(tiny.volumes(1, seed=9)[0]))
    refused(f"{scan} has changed, since {maps / 'predictions.csv'} was written; ")
    scan.write_bytes(before[0])
    os.utime(scan, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    drawn = maps / "2.nii.gz"
    kept, of = drawn.read_bytes(), drawn.stat()
    drawn.write_bytes(b"")
    refused(f"{drawn} has changed, since")
    drawn.unlink()
    refused(f"{drawn} is gone, since")
    drawn.write_bytes(kept)
    os.utime(drawn, ns=(of.st_atime_ns, of.st_mtime_ns))
    assert voxgap(*command).code == 0
    (maps / "predictions.csv").unlink()
    refused(f"{maps / 'predictions.csv'} is gone, since")


def test_the_same_again_says_its_warnings_again(segmenting, voxgap, monkeypatch: pytest.MonkeyPatch) -> None:
    command = segmenting(0)
    network = COMMAND.open_bundle()
    monkeypatch.setattr(network, "answers", _warning(network.answers))
    for there in ("3 predictions", "3 were there already"):
        monkeypatch.setattr("voxgap.cli._said", set())  # as in a process of its own
        done = voxgap(*command)
        assert (done.code, there in done.err, done.err.count("is odd")) == (0, True, 1), done.err
    told = Done()
    told.count({"path": "a.nii", "warnings": "1 of 2 is far", "error": ""})
    out = Path(str(command[-1])) / "p.csv"
    out.write_text("")
    note(out, [], {}, told, {})
    kept = finished(out, [], {})
    assert kept is not None
    assert kept.done.doubts() == told.doubts() == ["a.nii: 1 of 2 is far (column warnings)"]


def _warning(read: Callable[..., object]) -> Callable[..., object]:
    def warned(*args: object, **named: object) -> object:
        warnings.warn("odd.nii: is odd", stacklevel=2)
        return read(*args, **named)

    return warned


def test_a_stopped_job_refuses_inputs_that_have_changed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 4, 4, 1)))
    items, out, key = list_items([tmp_path], ["t1"]), tmp_path / "out" / "p.csv", {"model": "a"}

    def dying(some):
        yield {"path": some[0].name}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(dying, items, out, ["path"], key)
    job.check_free(out, items, job.Wanted(), key)
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 5, 1)))
    with pytest.raises(VoxgapError, match=r"a\.npy has changed, since .*journal was written: .* --overwrite"):
        job.check_free(out, items, job.Wanted(), key)
    job.check_free(out, items, job.Wanted(overwrite=True), key)
    assert job.answered(out, key) == set()


@pytest.mark.parametrize("form", ["file", "folder", "zarr", "header"])
def test_whatever_an_input_lies_in_is_known_by_all_of_its_files(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    named = folder / {"file": "a.nii", "folder": "dicom", "zarr": "a.zarr", "header": "a.mhd"}[form]
    held = {"file": named, "folder": named / "1.dcm", "zarr": named / "0" / ".zarray"}.get(
        form, folder / "a.raw"
    )
    held.parent.mkdir(parents=True, exist_ok=True)
    named.touch() if form == "header" else None
    held.write_bytes(b"one")
    items, out = [Item(str(named), (f"{named}::1",))], folder / "p.csv"
    before = stamps(items, out, {"maps": str(folder / "maps")})
    out.touch()
    (folder / "maps").mkdir()
    (folder / "maps" / "a.nii.gz").touch()
    assert stamps(items, out, {"maps": str(folder / "maps")}) == before
    held.write_bytes(b"other")
    assert stamps(items, out, {"maps": str(folder / "maps")}) != before


def test_a_stopped_job_keeps_what_others_wrote_meanwhile(segmenting, tmp_path: Path, voxgap) -> None:
    maps, command = tmp_path / "maps", segmenting(0)
    assert voxgap(*command).code == 0
    rows = list(csv.DictReader((maps / "predictions.csv").open()))
    drawn = (maps / "0.nii.gz").read_bytes()
    predictor = COMMAND.open_bundle()
    key = {"of": "this job"}
    items, wanted = list_items([tmp_path / "in"], ["ct"]), job.Wanted(maps=str(maps))
    (maps / "predictions.csv").unlink()
    (maps / ".predictions.csv.journal").write_text(json.dumps(key) + "\n")
    # Killed between the maps and their rows: they are written again, but for the one that is no longer the same.
    (maps / "1.nii.gz").write_bytes(drawn)
    job.check_free(maps / "predictions.csv", items, wanted, key)
    job.run(
        job.local(predictor, wanted), items, maps / "predictions.csv", job.columns_of(predictor, wanted), key
    )
    found = list(csv.DictReader((maps / "predictions.csv").open()))
    assert [row["voxels_fore"] for row in found] == [rows[0]["voxels_fore"], "", rows[2]["voxels_fore"]]
    assert "1.nii.gz is there already" in found[1]["error"]
    assert (maps / "1.nii.gz").read_bytes() == drawn
    (maps / "predictions.csv").unlink()
    (maps / ".predictions.csv.journal").write_text(json.dumps(key) + "\n")
    with pytest.raises(VoxgapError, match=r"0\.nii\.gz and 2 more are there already"):
        job.check_free(maps / "predictions.csv", items, wanted, {"of": "another"})
    for index in range(3):
        (maps / f"{index}.nii.gz").unlink()
    with pytest.raises(VoxgapError, match="was stopped there: finish it"):
        job.check_free(maps / "predictions.csv", items, wanted, {"of": "another"})
