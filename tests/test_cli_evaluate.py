"""What is scored is what is deployed: evaluate, predict and the server name the same class for each volume."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from starlette.testclient import TestClient

import server_cases as cases
import voxgap as vg
from voxgap.bundle.scoring import evaluate, labelled
from voxgap.cli.evaluate import print_scores
from voxgap.dataset import load_data
from voxgap.files import sha256
from voxgap.metrics import Scored
from voxgap.metrics.overlap import digests, known_cases
from voxgap.runtime import Bundle, job
from voxgap.runtime.inputs import list_items
from voxgap.runtime.loading import decided
from voxgap.runtime.predictor import Predictor
from voxgap.server import create_app

SHAPE = (3, 4, 5, 1)


def engine(task: str, outputs: int) -> Any:
    """Answers that depend on the mean, with many that are nearly even; for label maps on each voxel."""

    def run(batch: np.ndarray) -> np.ndarray:
        known = np.nan_to_num(
            batch[..., 0] if task == "segmentation" else np.nanmean(batch, axis=(1, 2, 3, 4))
        )
        logits = np.stack([known * (i - 0.7) for i in range(outputs)], axis=-1).astype(np.float32)
        if task == "regression":
            return logits
        odds = np.exp(logits)
        return (odds / odds.sum(axis=-1, keepdims=True)).astype(np.float32)

    return run


def written(folder: Path, task: str, outputs: int, count: int, split: bool = False) -> tuple[Path, Path]:
    """A bundle of that task, whose network is `engine`, and a table of labelled volumes."""
    entry = {"shape": list(SHAPE), "channels": ["channel_0"], "grid": vg.Dataset.grid.to_json()}
    classes = [] if task == "regression" else [str(i) for i in range(outputs)]
    bundle = cases.make_bundle(
        folder / "b", task=task, classes=classes, outputs=outputs, input=entry, schema_version=1, strategy={}
    )
    rng = np.random.default_rng(1)
    column = {"classification": "label", "regression": "target", "segmentation": "label_map"}[task]
    lines = [f"path,{column},group" + (",split" if split else "")]
    for i in range(count):
        values = rng.normal(rng.normal(), 1, SHAPE).astype(np.float32)
        values[rng.integers(SHAPE[0])] = np.nan
        np.save(folder / f"{i:03}.npy", values)
        wanted: Any = i % outputs if task == "classification" else i / 7
        if task == "segmentation":
            wanted = f"m{i:03}.npy"
            np.save(folder / wanted, rng.integers(0, outputs, SHAPE[:3]).astype(np.int16))
        part = "," + ("train", "validation", "test")[i % 3] if split else ""
        lines.append(f"{i:03}.npy,{wanted},p{i // 2}{part}")
    (folder / "data.csv").write_text("\n".join(lines))
    return bundle, folder / "data.csv"


def opened(bundle: Path, task: str, outputs: int, threshold: float | None = None) -> Predictor:
    manifest = decided(Bundle.open(bundle).manifest, threshold)
    return Predictor(manifest, engine(task, outputs), folder=bundle)


def full(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.full)


@pytest.mark.parametrize(
    ("task", "outputs", "threshold"),
    [
        ("classification", 2, 0.37),
        full("classification", 2, None),
        full("classification", 4, None),
        full("segmentation", 2, 0.37),
        full("segmentation", 2, None),
        full("segmentation", 3, None),
        full("regression", 1, None),
    ],
)
def test_predict_and_the_server_name_what_evaluate_scored(
    task: str, outputs: int, threshold: float | None, tmp_path: Path
) -> None:
    bundle, data = written(tmp_path, task, outputs, 300)
    predictor = opened(bundle, task, outputs, threshold)
    given = labelled(bundle, data)
    worth = evaluate(predictor, data)
    assert (worth.split, worth.scored.n, worth.scored.groups) == ("all", 300, 150)
    wanted = job.Wanted(maps=str(tmp_path / "maps") if task == "segmentation" else None)
    items = list_items(sorted(tmp_path.glob("[0-9]*.npy")), ["channel_0"])
    rows = sorted(job.local(predictor, wanted)(items), key=lambda row: str(row["path"]))
    assert [row["error"] for row in rows if row.get("error")] == []
    app = create_app(bundle, load=lambda _: predictor)
    with TestClient(app, base_url="http://localhost") as client:
        served: list[dict[str, Any]] = []
        for i in range(0, 300, 50):
            body = cases.raw(given.data.volumes[i : i + 50])
            served += cases.predictions(client.post("/v1/predict", **body))
    if task == "regression":
        values = [[row["value"]] for row in rows]
        np.testing.assert_allclose([one["values"] for one in served], values, rtol=1e-6)
        truth = given.data.targets
        assert worth.scored.scores["mae"] == pytest.approx(np.abs(np.ravel(values) - truth).mean(), rel=1e-5)
        return
    if task == "segmentation":
        maps = np.stack([vg.read(row["label_map"]).values[..., 0] for row in rows]).astype(int)
        counts = [[int((m == c).sum()) for c in range(outputs)] for m in maps]
        assert [[one["voxels"][c] for c in predictor.classes] for one in served] == counts
        found: Any = maps
    else:
        found = np.array([int(row["class"]) for row in rows])
        assert [one["class"] for one in served] == [row["class"] for row in rows]
    assert worth.scored.scores["accuracy"] == pytest.approx((found == given.data.targets).mean())
    if threshold is not None:
        plain = opened(bundle, task, outputs).predict(given.data.volumes).argmax(axis=-1)
        assert (plain != found).any(), "the threshold decided nothing"


def test_scores_of_classes_are_said_by_their_names() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    scores = {
        "dice": 0.5,
        "dice_missing": 0.4,
        "dice_0": 0.1,
        "dice_1": 0.2,
        "dice_2": 0.3,
        "dice_3": math.nan,
    }
    print_scores({"test": Scored(scores, {}, 9, None)}, ("0", "2", "[5]", "7"), console)
    said = dict(line.rsplit(maxsplit=1) for line in console.export_text().splitlines()[1:])
    assert {name.strip(): float(value) for name, value in said.items()} == {
        "dice": 0.5,
        "dice missing": 0.4,
        "dice of 0": 0.1,
        "dice of 2": 0.2,
        "dice of [5]": 0.3,
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A bundle of two classes that the command line opens without an engine's package, and 24 volumes."""

    def open_bundle(bundle: Path, *options: Any) -> Predictor:
        return opened(bundle, "classification", 2, options[-1])

    monkeypatch.setattr(sys.modules["voxgap.cli.evaluate"], "open_bundle", open_bundle)
    return written(tmp_path, "classification", 2, 24)


@pytest.mark.full
def test_a_table_without_a_split_is_scored_whole_with_a_word(here: tuple[Path, Path], voxgap: Any) -> None:
    bundle, data = here
    done = voxgap("evaluate", bundle, data)
    assert done.code == 0, done.err
    assert "no split, so that all 24 volumes are scored" in done.err
    assert "all (n = 24, 12 groups)" in done.out
    assert " to " in done.out
    assert "decision: the most probable class" in done.out
    done = voxgap("evaluate", bundle, data, "--threshold", 0.3, "--json")
    found = json.loads(done.out)
    worth = evaluate(opened(bundle, "classification", 2, 0.3), data)
    assert found["all"] == worth.scored.scores
    assert found["about"]["n"] == 24
    assert found["about"]["classes"] == ["0", "1"]
    assert found["about"]["decision"]["threshold"] == 0.3
    assert found["about"]["intervals"]["accuracy"] == list(worth.scored.intervals["accuracy"])
    for words in (("--split", "train"), ("--split", "half")):
        done = voxgap("evaluate", bundle, data, *words)
        assert (done.code, "Traceback" in done.err) == (2, False)
    assert voxgap("evaluate", bundle, data, "--threshold", 3).err.startswith("Error: threshold 3")


class Model:
    """What `evaluate` asks of a Keras model."""

    def __init__(self, task: str, outputs: int, shape: tuple[int, ...] = SHAPE) -> None:
        self.input_shape = (None, *shape)
        self.output_shape = (None, *((*shape[:3], outputs) if task == "segmentation" else (outputs,)))
        self.answer = engine(task, outputs)

    def predict_on_batch(self, volumes: np.ndarray) -> np.ndarray:
        return np.asarray(self.answer(volumes))


@pytest.mark.parametrize(("task", "outputs"), [("classification", 2), ("segmentation", 3), ("regression", 1)])
def test_a_model_is_worth_what_its_bundle_is(task: str, outputs: int, tmp_path: Path) -> None:
    bundle, data = written(tmp_path, task, outputs, 12)
    gaps = {"pattern": "voxels", "missing_rate": 0.3, "seed": 4}
    found = vg.evaluate(Model(task, outputs), load_data(data, scoring=True), **gaps)
    again = vg.evaluate(opened(bundle, task, outputs), data, **gaps)
    assert found.to_json() == again.to_json()
    assert found.scored.scores != vg.evaluate(opened(bundle, task, outputs), data).scored.scores
    assert str(found).startswith("all (n = 12, 6 groups)\n")
    assert f"{next(iter(found.scored.scores.values())):.4f}" in str(found)
    assert "no split, so that all 12 volumes are scored" in str(found)
    for wrong, said in (
        (Model(task, 5), "5 outputs"),
        (Model(task, outputs, (9, *SHAPE[1:])), "takes 9×4×5×1"),
    ):
        if task != "regression" or "takes" in said:
            with pytest.raises(vg.VoxgapError, match=said):
                vg.evaluate(wrong, data)


def test_what_could_not_be_trained_on_is_scored(here: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = here
    header, first, *_ = data.read_text().splitlines()
    (tmp_path / "one.csv").write_text(f"{header}\n{first}\n")
    one = labelled(bundle, tmp_path / "one.csv")
    assert (len(one.data), one.whole, one.data.classes) == (1, True, ("0", "1"))
    assert evaluate(opened(bundle, "classification", 2), tmp_path / "one.csv").scored.intervals == {}
    (tmp_path / "split.csv").write_text(f"{header},split\n{first},test\n")
    assert len(labelled(bundle, tmp_path / "split.csv", "test").data) == 1
    with pytest.raises(vg.VoxgapError, match="one"):
        load_data(tmp_path / "one.csv")


def remember(bundle: Path, data: Path, part: list[str]) -> None:
    """Let a bundle know in what part of the data of its training each volume was."""
    trained = load_data(data, scoring=True)
    (bundle / "cases.json").write_text(json.dumps(known_cases(digests(trained.volumes), part)))
    entry = {"path": "cases.json", "sha256": sha256(bundle / "cases.json")}
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"cases": entry}))


def test_the_table_of_cases_says_which_ones_the_bundle_knows(tmp_path: Path) -> None:
    bundle, data = written(tmp_path, "segmentation", 2, 6, split=True)
    with_split = data.read_text().splitlines()
    remember(bundle, data, ["train", "validation", "test", "train", "test", "test"])
    (tmp_path / "bare.csv").write_text("\n".join(line.rpartition(",")[0] for line in with_split))
    predictor = opened(bundle, "segmentation", 2)
    # The fifth is said to be validation, and the bundle has never met it.
    for table, last in ((data, "test"), (tmp_path / "bare.csv", "new")):
        found = evaluate(predictor, table, "all", cases=True)
        told = {str(row["case"]): row["split"] for row in found.cases}
        assert [told[name] for name in sorted(told)] == ["train", "validation", last, "train", "new", last]


@pytest.mark.parametrize(
    "gaps", [pytest.param({}, marks=pytest.mark.full), {"pattern": "slices", "missing_rate": 0.4, "seed": 7}]
)
def test_a_part_of_a_table_without_a_split_is_what_the_bundle_knows(
    gaps: dict[str, Any], here: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, data = here
    parts = ["validation", "train", "test", "train"] * 6
    remember(bundle, data, parts)
    lines = data.read_text().splitlines()
    dealt = tmp_path / "dealt.csv"
    dealt.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, ["split", *parts], strict=True)))
    predictor = opened(bundle, "classification", 2)
    for part, count in (("train", 12), ("validation", 6), ("test", 6)):
        found, wanted = (evaluate(predictor, table, part, **gaps) for table in (data, dealt))
        assert found.scored.to_json() == wanted.scored.to_json()
        assert found.known == wanted.known
        assert any(f"no split; {part} are the {count} of 24 volumes" in note for note in found.notes)
        assert not any("no split" in note for note in wanted.notes)
    halves = tmp_path / "halves.csv"
    halves.write_text(dealt.read_text().replace("validation", "train"))
    assert evaluate(predictor, halves, "validation").scored.n == 6
    assert evaluate(predictor, halves, "test").scored.n == 6


def test_a_part_that_nobody_knows_is_refused(here: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = here
    predictor = opened(bundle, "classification", 2)
    for part in ("train", "validation", "test"):
        for network in (predictor, Model("classification", 2)):
            with pytest.raises(vg.VoxgapError, match=f"no split, and nothing is known .* are {part};"):
                evaluate(network, data, part)
    said = tmp_path / "said.csv"
    lines = data.read_text().splitlines()
    said.write_text("\n".join([f"{lines[0]},split", *(f"{line},test" for line in lines[1:])]))
    remember(bundle, data, ["train"] * 12 + ["validation"] * 12)
    predictor = opened(bundle, "classification", 2)
    with pytest.raises(vg.VoxgapError, match="none of its 24 volumes"):
        evaluate(predictor, data, "test")
    for split in (None, "test"):
        found = evaluate(predictor, said, split)
        assert (found.split, found.scored.n) == ("test", 24)  # the table's word stands
        assert [note[:7] for note in found.notes] == ["Warning"]


@pytest.mark.full
def test_volumes_that_were_in_training_are_said_whatever_they_are_called(
    here: tuple[Path, Path], tmp_path: Path, voxgap: Any
) -> None:
    bundle, data = here
    remember(bundle, data, ["train"] * 7 + ["validation"] * 2 + ["test"] * 15)
    again = tmp_path / "again"
    again.mkdir()
    with data.open() as stream:
        rows = list(csv.DictReader(stream))[4:]
    for i, row in enumerate(rows):
        vg.write(again / f"other{i}.nii.gz", vg.Volume(np.load(tmp_path / row["path"])))
    lines = [f"other{i}.nii.gz,{row['label']}" for i, row in enumerate(rows)]
    (again / "new.csv").write_text("\n".join(["path,label", *lines]))
    done = voxgap("evaluate", bundle, again / "new.csv", "--pattern", "slices", "--missing-rate", 0.3)
    assert done.code == 0, done.err
    assert "3 of 20 volumes were in training and 2 of 20 volumes were in validation" in done.err
    assert "other" not in (bundle / "cases.json").read_text()


@pytest.mark.parametrize("name", ["c.png", "c", "c.parquet"])
def test_a_table_of_cases_that_would_be_none_is_refused_before_anything_is_scored(name: str, voxgap) -> None:
    done = voxgap("evaluate", "absent", "absent.csv", "--cases", name)
    assert (done.code, f"--cases {name}: the table is CSV; name it c.csv" in done.err) == (2, True), done.err
