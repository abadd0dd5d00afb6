"""What stands for a class in label maps: the value it was learnt from, whatever the class is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import tiny
import voxgap as vg
from voxgap.bundle import saving
from voxgap.bundle.scoring import labelled
from voxgap.dataset import Dataset, load_data
from voxgap.errors import VoxgapError
from voxgap.runtime import MANIFEST, Bundle, Manifest, Predictor
from voxgap.training import adapt_model
from voxgap.volume import Volume

COUNT = 6


def label_maps(values: list[int]) -> np.ndarray:
    places = np.arange(8**3).reshape(8, 8, 8) % len(values)
    return np.stack([np.array(values, np.int16)[places]] * COUNT)


def nnunet(folder: Path, labels: dict[str, int], values: list[int]) -> Path:
    for index, drawn in enumerate(label_maps(values)):
        for kind, array in (
            (f"imagesTr/c{index}_0000", tiny.volumes(1, seed=index)[0]),
            (f"labelsTr/c{index}", drawn),
        ):
            (folder / kind).parent.mkdir(parents=True, exist_ok=True)
            vg.write(folder / f"{kind}.nii.gz", Volume(array.astype(np.float32)))
    about = {"channel_names": {"0": "t1"}, "file_ending": ".nii.gz", "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("labels", "held", "classes", "values"),
    [
        ({"0": 0, "3": 1, "4": 2}, [0, 1, 2], ("0", "3", "4"), (0, 1, 2)),
        ({"air": 0, "bone": 1, "water": 2}, [0, 1], ("air", "bone", "water"), (0, 1, 2)),
        ({"air": 0, "bone": 255}, [0, 255], ("0", "255"), (0, 255)),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_description_names_values(
    labels: dict[str, int], held: list[int], classes: tuple[str, ...], values: tuple[int, ...], tmp_path: Path
) -> None:
    data = load_data(nnunet(tmp_path, labels, held))
    assert (data.classes, data.label_values) == (classes, values)
    assert data.part("train").label_values == values


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_arrays_by_every_door(tmp_path: Path) -> None:
    x, maps = tiny.volumes(COUNT), label_maps([0, 7, 300])
    assert Dataset.from_arrays(x, label_maps=maps).label_values == (0, 7, 300)
    indices = label_maps([0, 1])
    assert Dataset.from_arrays(x, label_maps=indices, classes=("0", "255")).label_values == (0, 1)
    labelled = Dataset.from_arrays(x, np.arange(COUNT) % 2, label_maps=maps)
    assert labelled.label_values is None
    assert load_data(labelled, task="segmentation").label_values == (0, 7, 300)
    with pytest.raises(VoxgapError, match="label_values"):
        replace(labelled, label_values=(0, 1, 2))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_bundle_draws_the_values_it_learnt(tmp_path: Path) -> None:
    x, maps = tiny.volumes(COUNT), label_maps([0, 1, 2])
    data = Dataset.from_arrays(x, label_maps=maps, classes=("0", "3", "4"))
    model: Any = tiny.model("unet3d", "mean", task="segmentation", filters=(2, 2))
    adapt_model(model, data.part("train"))
    folder = saving.save_bundle(tmp_path / "b", model, data, strategy="mean")
    manifest = stand_in.written(folder)
    assert manifest["label_values"] == [0, 1, 2]
    # Maps of the values that it learnt, such as it draws itself, are scored as the classes that they stand for.
    np.savez(tmp_path / "new.npz", volumes=x, label_maps=maps)
    scored = labelled(folder, str(tmp_path / "new.npz")).data
    assert (scored.classes, (scored.targets == maps).all()) == (("0", "3", "4"), True)
    answer = np.eye(3, dtype=np.float32)

    def drawn(said: dict[str, Any]) -> list[int]:
        return Predictor(Manifest.from_json(said), lambda batch: batch).drawn(answer).tolist()

    assert drawn(manifest) == [0, 1, 2]
    assert drawn(manifest | {"label_values": [5, 0, 32767]}) == [5, 0, 32767]
    del manifest["label_values"]
    assert drawn(manifest) == [0, 3, 4], "bundles of earlier versions draw as they did"
    for wrong in (
        True,
        -1,
        "x",
        {},
        [],
        [0, 1],
        [0, 1, 1],
        [0, 1, True],
        [0, 1, 2.0],
        [0, 1, 2**15],
        [0, 1, [2]],
    ):
        (folder / MANIFEST).write_text(json.dumps(manifest | {"label_values": wrong}))
        with pytest.raises(VoxgapError, match="field label_values must hold 3 whole numbers") as refused:
            Bundle.open(folder)
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        (["0", "255"], (0, 255)),
        (["air", "3"], (0, 1)),
        (["0", "00"], (0, 1)),
        (["0", "40000"], (0, 1)),
        ([], ()),
    ],
)
def test_bundles_that_say_nothing_go_by_names(classes: list[str], values: tuple[int, ...]) -> None:
    assert stand_in.manifest(classes).label_values == values
