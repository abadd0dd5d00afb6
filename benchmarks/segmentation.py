"""Hippocampus in five folds: Dice of voxgap's own plan, complete and with gaps, and of MONAI for the same time.

`python benchmarks/segmentation.py results.jsonl hippocampus/ [--folds 0,1] [--only voxgap,monai] [--rates 0,0.5]
[--strategies linear,masked_conv] [--minutes 18]`: the folder holds `images` and `labels` of task 4 of the Medical
Segmentation Decathlon, taken as they are. Each fold is trained for so many minutes and scored on its fifth of the
cases, which it has not seen; a tenth of the others is watched. With a rate, that share of the slices is taken from
every volume, the test volumes too, and is never seen again. Each cell is a line of the results: what is there is not
done again, and a fold of voxgap's that was stopped midway goes on after its last epoch. `mirrored` are the means with
the answers to mirror images along the axis that the training mirrored along, as nnU-Net answers by default.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from protocol import PEERS

FOLDS = 5
WATCHED = 10
"""Of the cases that are not of the test, every tenth is watched."""


def cases(folder: Path) -> list[str]:
    """Names of the cases, in the order of the folds: case i is of fold i mod 5."""
    names = sorted(file.name for file in (folder / "images").glob("hippocampus_*.nii.gz"))
    return [names[i] for i in np.random.default_rng(0).permutation(len(names))]


def parts(count: int, fold: int) -> np.ndarray:
    """The part that each case is in."""
    split = np.full(count, "train", dtype="<U10")
    others = np.flatnonzero(np.arange(count) % FOLDS != fold)
    split[others[::WATCHED]] = "validation"
    split[np.arange(count) % FOLDS == fold] = "test"
    return split


def data_of(folder: Path, fold: int, rate: float) -> Any:
    """The data set of a fold, with its gaps."""
    import voxgap as vg
    from voxgap.ragged import Ragged

    names = cases(folder)
    volumes = [vg.read(folder / "images" / name).values for name in names]
    if rate:
        volumes = [vg.simulate(v[None], "slices", rate, seed=i)[0] for i, v in enumerate(volumes)]
    maps = [np.rint(vg.read(folder / "labels" / name).values[..., 0]).astype(np.int16) for name in names]
    return vg.Dataset.from_arrays(
        Ragged(volumes),
        label_maps=Ragged(maps),
        classes=("background", "anterior", "posterior"),
        split=parts(len(names), fold),
        spacing=(1.0, 1.0, 1.0),
        name="hippocampus",
    )


def dice(truth: np.ndarray, found: np.ndarray) -> list[float]:
    """Dice of each class but the background."""
    return [
        float(2 * np.sum((truth == c) & (found == c)) / max(1, np.sum(truth == c) + np.sum(found == c)))
        for c in (1, 2)
    ]


def train_ours(
    data: Any, strategy: str, minutes: float, state: Path, smaller: dict[str, Any]
) -> dict[str, Any]:
    """Train by the plan for so many minutes, and score the test cases."""
    import voxgap as vg
    from voxgap.backend import keras
    from voxgap.recipe import Architecture, Recipe, Training

    plan = vg.plan(data, **smaller)
    training = Training(
        **plan.training, epochs=10_000, patience=10_000, augment="default", monitor="val_dice"
    )
    recipe = Recipe(
        "unet3d", architecture=Architecture(**plan.architecture, normalize="volume"), training=training
    )
    model = vg.build_model(
        recipe.network,
        (*plan.patch_size, 1),
        3,
        "segmentation",
        strategy,
        **recipe.architecture.arguments(),
    )
    clock = _clock(keras, state / "seconds.json", 60 * minutes, training.learning_rate)
    history = vg.train(
        model,
        data,
        callbacks=[clock],
        checkpoint=state / "training",
        keep_checkpoint=True,
        verbose=True,
        **training.arguments(),
    )
    model.save(state / "model.keras")
    return {
        **scores(model, data.part("test"), plan.patch_size, history.mirrors),
        "curve": [[round(e["seconds"], 1), round(e["val_dice"], 4)] for e in history.epochs],
        "steps": history.steps,
        "plan": plan.to_json(),
        "policy": history.policy,
    }


def scores(model: Any, test: Any, size: Any, axes: tuple[str, ...]) -> dict[str, Any]:
    """Dice of each case, of single answers and of means with mirror images along axes that the training mirrored."""
    from voxgap.backend import answers
    from voxgap.patches import predict_patches
    from voxgap.runtime.mirroring import mirrored

    single = partial(answers, model)
    found = {}
    for name, engine in (("dice", single), ("mirrored", mirrored(single, axes, True))):
        said = predict_patches(engine, test.volumes, size)
        found[name] = [dice(t, np.argmax(a, axis=-1)) for t, a in zip(test.targets, said, strict=True)]
    return found


def _clock(keras: Any, file: Path, seconds: float, rate: float) -> Any:
    """A callback that ends a training when its time, over all sittings, is up; the rate falls towards that end."""
    before = json.loads(file.read_text()) if file.is_file() else 0.0

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        began = time.monotonic()

        @property
        def spent(self) -> float:
            return float(before + time.monotonic() - self.began)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            # Step by step: of ten epochs the last would still learn by an eighth of the rate.
            self.model.optimizer.learning_rate = rate * max(0.01, 1 - self.spent / seconds) ** 0.9

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            file.write_text(json.dumps(self.spent))
            if self.spent >= seconds:
                self.model.stop_training = True

    return Clock()


def train_monai(data: Any, minutes: float, state: Path) -> dict[str, Any]:
    """Train MONAI's stock recipe in the peers' environment, on the same cases with the same gaps."""
    given, answers = state / "data.npz", state / "answers.npz"
    arrays = {f"volume{i}": v[..., 0] for i, v in enumerate(data.volumes)}
    np.savez(given, split=data.split, **arrays, **{f"labels{i}": m for i, m in enumerate(data.targets)})
    script = str(Path(__file__).parent / "segmentation_monai.py")
    subprocess.run([PEERS, script, str(given), str(answers), str(minutes)], check=True)
    with np.load(answers, allow_pickle=False) as found:
        scores = [dice(m, found[str(i)]) for i, m in enumerate(data.targets) if data.split[i] == "test"]
        return {"dice": scores, "steps": int(found["steps"])}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Mean over the test cases of all folds that are there, with a 95 % bootstrap interval over cases."""
    print("trained by                    missing  folds  anterior              posterior             minutes")
    for key in dict.fromkeys((row["name"], row["rate"]) for row in rows):
        for field, said in (("dice", ""), ("mirrored", ", mirrored")):
            mine = [row for row in rows if (row["name"], row["rate"]) == key and field in row]
            if not mine:
                continue
            scored = np.array([one for row in mine for one in row[field]])
            draws = np.random.default_rng(0).integers(len(scored), size=(2000, len(scored)))
            low, high = np.percentile(scored[draws].mean(axis=1), [2.5, 97.5], axis=0)
            told = "  ".join(
                f"{mean:.3f} ({a:.3f}-{b:.3f})  "
                for mean, a, b in zip(scored.mean(axis=0), low, high, strict=True)
            )
            minutes = sum(row["seconds"] for row in mine) / 60
            print(f"{key[0] + said:28}  {key[1]:>7.0%}  {len(mine):5}  {told}{minutes:7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--only", default="voxgap,monai")
    parser.add_argument("--rates", default="0,0.5")
    parser.add_argument("--strategies", default="linear", help="of voxgap, where something is missing")
    parser.add_argument("--minutes", type=float, default=18.0, help="of training, for each fold")
    parser.add_argument("--filters", help="of voxgap, in place of the plan's")
    asked = parser.parse_args()
    smaller = {"filters": tuple(map(int, asked.filters.split(",")))} if asked.filters else {}
    for fold in range(FOLDS):
        named = [name[12:15] for name in cases(asked.folder)[fold::FOLDS]]
        print(f"fold {fold}: {' '.join(named)}")
    done = [json.loads(line) for line in asked.results.open()] if asked.results.exists() else []
    names = asked.only.split(",")
    for fold, rate in ((int(f), float(r)) for r in asked.rates.split(",") for f in asked.folds.split(",")):
        ours = [f"voxgap {strategy}" for strategy in (asked.strategies.split(",") if rate else ["mean"])]
        for name in [*(ours if "voxgap" in names else []), *(["MONAI"] if "monai" in names else [])]:
            cell = {"name": name, "rate": rate, "fold": fold, "asked_minutes": asked.minutes, **smaller}
            cell = json.loads(json.dumps(cell))
            if any(cell.items() <= row.items() for row in done):
                continue
            words = [
                name.replace(" ", "-"),
                f"{rate:g}",
                str(fold),
                f"{asked.minutes:g}",
                asked.filters or "",
            ]
            state = asked.results.with_suffix("") / "_".join(words)
            state.mkdir(parents=True, exist_ok=True)
            data = data_of(asked.folder, fold, rate)
            started, processor = time.monotonic(), time.process_time()
            if name == "MONAI":
                found = train_monai(data, asked.minutes, state)
            else:
                found = train_ours(data, name.removeprefix("voxgap "), asked.minutes, state, smaller)
            took = {"seconds": time.monotonic() - started, "processor": time.process_time() - processor}
            done.append(cell | found | took)
            with asked.results.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    if done:
        print_table(done)


if __name__ == "__main__":
    main()
