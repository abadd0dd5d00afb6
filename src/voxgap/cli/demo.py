"""`voxgap demo`: the whole story on embedded real data."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import import_keras, out, table, training_progress
from voxgap.cli.data import Seed
from voxgap.errors import VoxgapError
from voxgap.files import held
from voxgap.recipe import COMPARED, Architecture, Gaps, Recipe, fill_name, name_of, strategy_of

if TYPE_CHECKING:
    import numpy as np

    from voxgap.dataset import Dataset
    from voxgap.experiment import Result

BUDGET, FEWEST_EPOCHS = 210.0, 3
"""Seconds that all networks of the demo train together, and how many epochs each has at least."""
UNSEEN = 2.5
"""As much longer as estimated a slow machine took in all: of few epochs, the first and the scores weigh more."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the demo does with one sample: which gaps, which runs, how long at most."""

    question: str
    strategies: tuple[str, ...]
    twin: str
    pattern: str | None = None
    missing_rate: float = 0.0
    filters: tuple[int, ...] = (16, 32, 64)
    epochs: int = 9
    patience: int = 7
    learning_rate: float = 1e-3


PLANS = {
    "brain": Plan(
        "Which tissue is at the centre of a patch of a brain scan, when half of its slices are missing?",
        ("zero", "mean", "linear", "masked_conv"),
        twin="linear",
        pattern="slices",
        missing_rate=0.5,
    ),
    "motion": Plan(
        "Which way does a digit move, when a third of the frames is dropped?",
        ("zero", "linear", "mask_channel", "masked_conv"),
        twin="linear",
        pattern="frames",
        missing_rate=0.33,
        epochs=8,
        learning_rate=3e-3,
    ),
    "nodules": Plan(
        "Is a lung nodule malignant, when not every radiologist outlined it?",
        ("zero", "mean", "mask_channel", "masked_conv"),
        twin="mask_channel",
    ),
}


def demo(
    sample: Annotated[str, typer.Option(help="brain, motion or nodules.")] = "brain",
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the page, pictures and bundle.")
    ] = Path("demo"),
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(help="At most so many a network.")] = None,
) -> None:
    """Train 3D networks on real volumes with gaps, see which way of handling them does best, keep that one.

    Takes a few minutes on two cores and writes one page, report.html, with everything in it.

    [bold]Examples[/]

      voxgap demo

      voxgap demo --sample motion --out motion-demo
    """
    from voxgap.dataset import load_data
    from voxgap.dataset.gaps import with_simulated

    if sample not in PLANS:
        raise VoxgapError(f"--sample must be one of {', '.join(PLANS)}, got {sample!r}")
    started = time.perf_counter()
    plan = PLANS[sample]
    complete = load_data(f"sample:{sample}")
    data = with_simulated(complete, plan.pattern, plan.missing_rate, "mcar", seed)
    with held(out_folder / ".demo.lock", f"{out_folder}: a demo writes there"):
        page = _tell(plan, sample, complete, data, out_folder, seed, epochs)
    out.print(f"\nDone in {time.perf_counter() - started:.0f} s. Open [bold]{page}[/]", markup=True)


def _tell(
    plan: Plan, sample: str, complete: Dataset, data: Dataset, out_folder: Path, seed: int, epochs: int | None
) -> Path:
    """Go through the story and write its page."""
    from voxgap.missingness.diagnosis import describe

    out.rule("[bold]1  The data", align="left")
    out.print(f"[bold]{plan.question}[/]", markup=True)
    out.print(data.summary())
    out.print(str(describe(data.volumes, data.targets)))

    out.rule("[bold]2  The networks", align="left")
    import_keras()
    plan = dataclasses.replace(plan, epochs=epochs) if epochs else fitting(plan, data)
    results = _train(plan, data, seed)

    out.rule("[bold]3  What did best", align="left")
    ranked = sorted(results.values(), key=lambda r: -r.scores["test"]["accuracy"])
    best = max(
        (r for r in results.values() if r.recipe.network == "resnet3d"),
        key=lambda r: (r.scores["validation"]["accuracy"], -r.history.best["val_loss"]),
    )
    _print_table(ranked, best)
    bundle = _save(best, data, plan, seed, out_folder)

    out.rule("[bold]4  A prediction", align="left")
    example = _predict(bundle, data, out_folder)

    return _write_page(plan, complete, data, results, ranked, best, example, out_folder, sample, seed)


def fitting(plan: Plan, data: Dataset, budget: float = BUDGET) -> Plan:
    """Return the plan, or a smaller one where this machine would train longer than the budget.

    Args:
        plan: of the demo.
        data: with its gaps.
        budget: seconds of training, all networks together.
    """
    smaller = dataclasses.replace(plan, filters=tuple(max(4, n // 2) for n in plan.filters))
    for tried in (plan, smaller):
        most = _seconds(tried, data)
        enough = tried is plan and most <= budget
        epochs = tried.epochs if enough else min(tried.epochs, int(tried.epochs * budget / (UNSEEN * most)))
        if epochs >= FEWEST_EPOCHS:
            break
    epochs = max(epochs, FEWEST_EPOCHS)
    if (tried, epochs) != (plan, plan.epochs):
        out.print(
            f"This machine is slow: filters {tried.filters} and at most {epochs} epochs instead of {plan.filters} and "
            f"{plan.epochs}, so that it takes minutes. --epochs {plan.epochs} takes longer."
        )
    return dataclasses.replace(tried, epochs=epochs)


def _seconds(plan: Plan, data: Dataset) -> float:
    """Return the seconds that the networks of a plan train if none stops early."""
    from voxgap.experiment import Experiment
    from voxgap.experiment.cost import Networks, estimate, with_precision

    asked = Experiment(
        data.name,
        "",
        tuple((name, strategy_of(name)) for name in (*plan.strategies, plan.twin)),
        folds=1,
        architecture=Architecture(plan.filters),
        training=dataclasses.replace(COMPARED, epochs=plan.epochs),
    )
    networks = Networks(asked, data)
    return estimate(with_precision(asked, networks), networks)[1]


def _train(plan: Plan, data: Dataset, seed: int) -> dict[str, Result]:
    from voxgap.experiment import train_and_score

    training = dataclasses.replace(
        COMPARED,
        epochs=plan.epochs,
        patience=plan.patience,
        learning_rate=plan.learning_rate,
    )
    runs = [("resnet3d", s) for s in plan.strategies] + [("resnet2d", plan.twin)]
    results = {}
    for network, strategy in runs:
        label = _label(network, strategy)
        recipe = Recipe(network, strategy_of(strategy), Architecture(plan.filters), training)
        with training_progress(f"{label:<24}") as progress:
            result = train_and_score(data, recipe, seed=seed, progress=progress)
        results[label] = result
        test = result.scores["test"]
        out.print(
            f"{label:<24} test accuracy {test['accuracy']:.3f}   {result.seconds:4.0f} s   {result.history.summary()}"
        )
    return results


def _label(network: str, strategy: str) -> str:
    return strategy if network == "resnet3d" else f"{strategy}, in 2D"


def _print_table(ranked: list[Result], best: Result) -> None:
    header, rows = _cells(ranked)
    shown = table(header[0], *(f">{name}" for name in header[1:]))
    for result, row in zip(ranked, rows, strict=True):
        shown.add_row(*row, style="bold green" if result is best else None)
    out.print(shown)
    out.print("Green: the one kept, chosen by its validation score; the test score played no part.")


def _cells(ranked: list[Result]) -> tuple[list[str], list[list[str]]]:
    header = [
        "strategy",
        "network",
        "test accuracy",
        "test AUC",
        "validation accuracy",
        "parameters",
        "epochs",
        "time",
    ]
    rows = [
        [
            name_of(r.recipe.strategy),
            r.recipe.network,
            f"{r.scores['test']['accuracy']:.3f}",
            f"{r.scores['test']['auc']:.3f}",
            f"{r.scores['validation']['accuracy']:.3f}",
            f"{r.model.count_params():,}",
            f"{len(r.history.epochs)} of {r.history.planned}",
            f"{r.seconds:.0f} s",
        ]
        for r in ranked
    ]
    return header, rows


def _save(best: Result, data: Dataset, plan: Plan, seed: int, folder: Path) -> Path:
    from voxgap.bundle import Origin, save_bundle

    gaps = None if plan.pattern is None else Gaps(plan.pattern, plan.missing_rate)
    bundle = save_bundle(
        folder / "bundle",
        best.model,
        data,
        recipe=best.recipe,
        origin=Origin(seed, gaps),
        history=best.history,
        scored=best.scored,
    )
    out.print(f"bundle: {bundle}")
    return bundle


def _predict(bundle: Path, data: Dataset, folder: Path) -> dict[str, Any]:
    """Write one test volume with its gaps to a file, and predict it as a user would."""
    from voxgap.io import write
    from voxgap.runtime import load
    from voxgap.volume import Volume

    test = data.part("test")
    index = len(test) // 2
    path = folder / "volume-with-gaps.npz"
    write(path, Volume(test.volumes[index], spacing=test.spacing, channels=test.channels))
    predictor = load(bundle)
    volume, _ = predictor.read(path)
    probabilities = predictor.predict(volume)[0]
    truth = test.classes[int(test.targets[index])]
    command = f"voxgap predict {bundle} {path}"
    out.print(f"[dim]$ {command}[/]", markup=True)
    for name, p in zip(predictor.classes, probabilities, strict=True):
        out.print(f"  {name:<16} {p:6.3f} {'█' * round(30 * float(p))}")
    out.print(
        f"{volume.missing_rate:.0%} of this volume is missing; it is in truth: [bold]{truth}[/]", markup=True
    )
    return {
        "volume": volume.values,
        "probabilities": dict(zip(predictor.classes, map(float, probabilities), strict=True)),
        "truth": truth,
        "command": command,
    }


def _write_page(
    plan: Plan,
    complete: Dataset,
    data: Dataset,
    results: dict[str, Result],
    ranked: list[Result],
    best: Result,
    example: dict[str, Any],
    folder: Path,
    sample: str,
    seed: int,
) -> Path:
    from voxgap import pictures
    from voxgap.files import write_bytes
    from voxgap.report import Section, Table, write_page

    header, rows = _cells(ranked)
    labels = [_label(r.recipe.network, name_of(r.recipe.strategy)) for r in ranked]
    errors = [100 * (1 - r.scores["test"]["accuracy"]) for r in ranked]
    guessing = 100 * (1 - 1 / len(data.classes))
    bars = pictures.bars(labels, errors, "test volumes classified wrong, %")
    fills = pictures.slices(_fills(complete, data, results))
    write_bytes(folder / "errors.png", pictures.png(bars))
    write_bytes(folder / "slices.png", pictures.png(fills))
    twin = results[_label("resnet2d", plan.twin)].scores["test"]["accuracy"]
    solid = results[_label("resnet3d", plan.twin)].scores["test"]["accuracy"]
    sections = [
        Section(
            "The data",
            [data.summary()],
            figures=[
                (
                    fills,
                    "One test volume: as it is, and as each way of filling hands it to the network. Gaps are red.",
                )
            ],
        ),
        Section(
            "What did best",
            [
                f"Highlighted: {name_of(best.recipe.strategy)}, the one kept. It was chosen by its validation score; "
                "the test score played no part.",
                "One split and one seed: a difference of a point or two may be chance.",
            ],
            Table(header, rows, best=ranked.index(best)),
            [(bars, f"Share of test volumes that are classified wrong; guessing gives {guessing:.0f} %.")],
        ),
        Section(
            "Why 3D",
            [
                f"The same network with the same way of filling ({plan.twin}), its kernels cut from 3 x 3 x 3 to "
                "1 x 3 x 3 so that it sees one slice at a time and averages in the end: test accuracy "
                f"{twin:.3f} instead of {solid:.3f}."
            ],
        ),
        Section(
            "Training",
            [
                "Each network stops when its validation loss no longer falls; the weights of the marked epoch are kept."
            ],
            figures=[
                (
                    pictures.curves({k: r.history for k, r in results.items()}),
                    "Validation loss, best epochs marked.",
                )
            ],
        ),
        Section(
            "A prediction",
            [
                ", ".join(f"{k} {p:.3f}" for k, p in example["probabilities"].items())
                + f"; in truth: {example['truth']}."
            ],
            figures=[
                (pictures.slices({"input": example["volume"]}), "The volume as it went in, gaps and all.")
            ],
            code=f"{example['command']}\nvoxgap demo --sample {sample} --seed {seed}",
        ),
    ]
    page = folder / "report.html"
    write_page(
        page, plan.question, f"voxgap demo on sample:{sample}: real data, trained on this machine.", sections
    )
    return page


def _fills(complete: Dataset, data: Dataset, results: dict[str, Result]) -> dict[str, np.ndarray]:
    """Return one test volume: complete where it was, with gaps, and filled by each distinct fill of the runs."""
    import numpy as np

    from voxgap.experiment import fill_volumes

    test = data.part("test").volumes
    # A volume with something in it and something missing.
    missing = np.isnan(test).mean(axis=(1, 2, 3, 4))
    spread = np.nanstd(test, axis=(1, 2, 3, 4))
    index = int(np.argmax(np.where(missing > 0, spread, -1)))
    rows = {} if complete is data else {"complete": complete.part("test").volumes[index]}
    rows["with gaps"] = test[index]
    for result in results.values():
        label = f"{fill_name(result.recipe.strategy.fill)} fill"
        if label not in rows:
            rows[label] = fill_volumes(result.model, test[index : index + 1])[0]
    return rows
