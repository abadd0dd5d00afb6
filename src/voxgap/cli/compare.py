"""`voxgap compare` and `voxgap report`: which strategy works best for these data."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import decimals, err, import_keras, numbers, one_or_three, out
from voxgap.cli.data import (
    At,
    Axes,
    Crop,
    MissingValues,
    Normalize,
    Reference,
    Size,
    Spacing,
    choose_normalization,
    grid_arguments,
    load,
)
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.experiment import Comparison, Experiment, Store
    from voxgap.volume import Values

GAPS, TRAINING, VERDICT, RUNNING = "Gaps", "Training", "Verdict", "Running"
DEFAULT_STRATEGIES = ("mean", "linear", "mask_channel", "masked_conv")
DEFAULT_RATE = 0.5
UNEVEN = 0.6
"""Ratio of the rarest to the commonest class below which accuracy says little."""

Metric = Annotated[
    str | None,
    typer.Option(
        help="Metric that decides; by default accuracy, mae or dice, by the task.", rich_help_panel=VERDICT
    ),
]
Rope = Annotated[
    float | None,
    typer.Option(help="Differences up to this one don't matter; by default 0.01.", rich_help_panel=VERDICT),
]
Against = Annotated[
    str | None,
    typer.Option(help="Compare all with this strategy, not with the best.", rich_help_panel=VERDICT),
]


@dataclasses.dataclass(frozen=True)
class Question:
    """What decides, and what it is compared with."""

    metric: str | None
    rope: float | None
    reference: str | None


def compare(
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME or medmnist:NAME.",
            metavar="DATA",
        ),
    ],
    strategies: Annotated[
        str | None,
        typer.Option(
            "--strategies",
            "--strategy",
            help="Names, and the yardsticks complete and drop; see docs/missing-data.md.",
            show_default=",".join(DEFAULT_STRATEGIES),
        ),
    ] = None,
    models: Annotated[
        str, typer.Option("--models", "--model", help="Networks: cnn3d, resnet3d, resnet2d ...")
    ] = "resnet3d",
    patterns: Annotated[
        str | None,
        typer.Option(
            "--pattern",
            "--patterns",
            help="Simulated gaps: voxels, slices, frames, blocks, channels; by default slices where the data is "
            "complete, none where it has gaps.",
            rich_help_panel=GAPS,
        ),
    ] = None,
    mechanisms: Annotated[
        str,
        typer.Option("--mechanism", "--mechanisms", help="mcar, mar, mnar (Rubin).", rich_help_panel=GAPS),
    ] = "mcar",
    rates: Annotated[
        str | None,
        typer.Option(
            help="Shares that go missing, in training: 0.1,0.5.",
            rich_help_panel=GAPS,
            show_default=str(DEFAULT_RATE),
        ),
    ] = None,
    test_rates: Annotated[
        str | None,
        typer.Option(
            help="The same in the test; each network is scored at each. By default as in its training.",
            rich_help_panel=GAPS,
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Parts, each the test part once; 1 takes the data's own split.")
    ] = 5,
    repeats: Annotated[
        int, typer.Option(help="How often the folds are dealt, and the gaps drawn, anew.")
    ] = 1,
    seeds: Annotated[int, typer.Option(help="Trainings of each run, with other weights and batches.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of splits and gaps.")] = 0,
    epochs: Annotated[int, typer.Option(help="At most so many.", rich_help_panel=TRAINING)] = 40,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before stopping.", rich_help_panel=TRAINING)
    ] = 8,
    batch_size: Annotated[int, typer.Option(help="Volumes a step.", rich_help_panel=TRAINING)] = 32,
    learning_rate: Annotated[float, typer.Option(help="At the start.", rich_help_panel=TRAINING)] = 1e-3,
    class_weight: Annotated[str, typer.Option(help="none or balanced.", rich_help_panel=TRAINING)] = "none",
    augment: Annotated[
        str, typer.Option(help="none, default, strong or a list.", rich_help_panel=TRAINING)
    ] = "none",
    augment_kind: Annotated[
        str, typer.Option(help="scan, video or grid.", rich_help_panel=TRAINING)
    ] = "scan",
    precision: Annotated[
        str, typer.Option(help="auto, float32 or bfloat16, the same for all.", rich_help_panel=TRAINING)
    ] = "auto",
    filters: Annotated[str, typer.Option(help="Per stage.", rich_help_panel=TRAINING)] = "32,64,128",
    kernel_size: Annotated[str, typer.Option(help="One or three numbers.", rich_help_panel=TRAINING)] = "3",
    metric: Metric = None,
    rope: Rope = None,
    against: Against = None,
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for compare.db, report.html, results.csv and results.json.")
    ] = Path("compare"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh", help="Go on with what is in --out, or delete it.", rich_help_panel=RUNNING
        ),
    ] = True,
    retry: Annotated[
        bool, typer.Option("--retry", help="Do runs that failed again.", rich_help_panel=RUNNING)
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(help="Runs at a time; by default one for each processor.", rich_help_panel=RUNNING),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on this Ray cluster: auto, local or HOST:PORT; see docs/cluster.md.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    cpus_per_run: Annotated[
        float, typer.Option(help="With --ray: processors of a run.", rich_help_panel=RUNNING)
    ] = 1.0,
    gpus_per_run: Annotated[
        float, typer.Option(help="With --ray: GPUs of a run; 0.25 puts four on one.", rich_help_panel=RUNNING)
    ] = 0.0,
    size: Size = None,
    spacing: Spacing = None,
    crop: Crop = None,
    missing_values: MissingValues = None,
    reference: Reference = None,
    axes: Axes = None,
    at: At = None,
    normalize: Normalize = "auto",
) -> None:
    """Find out which way of handling gaps works best: train with each, on the same splits with the same gaps.

    Says how long it will take, shows how far it is, and writes one page. Stop it at any time: the same command
    goes on where it was.

    [bold]Examples[/]

      voxgap compare patients.csv --strategies mean,mask_channel,masked_conv,drop

      voxgap compare sample:brain --pattern slices --rates 0.1,0.5 --strategies mean,knn,masked_conv,complete

      voxgap compare scans.npz --rates 0.3 --test-rates 0.1,0.3,0.5 --folds 5 --repeats 2 --against mean

      voxgap compare scans.csv --size 32,32,32 --models resnet3d,resnet2d --seeds 2 --out runs/2d-or-3d
    """
    dataset = load(data, **grid_arguments(size, spacing, crop, missing_values, reference, axes, at))
    err.print(dataset.summary(), soft_wrap=True, markup=False)
    question = Question(metric, rope, against)
    gaps = _gaps(dataset, patterns, rates)
    names = _names(strategies) if strategies else _default_strategies(gaps["train_rates"])
    _check_question(question, names, dataset)
    if class_weight not in ("none", "balanced"):
        raise VoxgapError(f"--class-weight must be none or balanced, got {class_weight!r}")
    import_keras()
    from voxgap.experiment import plan_experiment

    experiment = plan_experiment(
        dataset,
        names,
        models=_names(models),
        mechanism=_names(mechanisms),
        **gaps,
        test_rates=None if test_rates is None else decimals(test_rates, "--test-rates"),
        folds=folds,
        repeats=repeats,
        seeds=seeds,
        split_seed=seed,
        architecture={
            "normalize": choose_normalization(normalize, dataset),
            "filters": numbers(filters, "--filters"),
            "kernel_size": one_or_three(kernel_size, "--kernel-size"),
        },
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        class_weight=None if class_weight == "none" else class_weight,
        augment=augment,
        augment_kind=augment_kind,
        precision=precision,
    )
    database = out_folder / "compare.db"
    if not resume:
        _delete(database)
    command = _command(data)
    _run(
        experiment,
        dataset,
        database,
        question,
        command,
        retry=retry,
        runner=_runner(ray, cpus_per_run, gpus_per_run),
        processes=processes,
        where="this machine" if ray is None else "one machine like this; the cluster shares it",
    )


def report(
    database: Annotated[
        Path, typer.Argument(help="compare.db, or the folder that voxgap compare wrote.", metavar="DB")
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page; results.csv and results.json go beside it.", show_default="beside DB"
        ),
    ] = None,
    metric: Metric = None,
    rope: Rope = None,
    against: Against = None,
    key: Annotated[
        str | None, typer.Option("--experiment", help="Which one, where the file holds several.")
    ] = None,
) -> None:
    """Write the page of an experiment again, from its file of results alone; also while it still runs.

    Pictures of fills need the data; they are left out where it is not as it was.

    [bold]Examples[/]

      voxgap report compare

      voxgap report compare/compare.db --metric auc --against mean --out auc.html
    """
    from voxgap.experiment import open_store

    path = database / "compare.db" if database.is_dir() else database
    with open_store(path) as store:
        experiment = _chosen(store, key)
        written = _write(
            experiment, store, page or path.with_name("report.html"), Question(metric, rope, against)
        )
    out.print(written.summary(), soft_wrap=True, markup=False)


def _run(
    experiment: Experiment,
    dataset: Dataset,
    database: Path,
    question: Question,
    command: str,
    *,
    retry: bool,
    runner: Callable[..., None],
    processes: int | None,
    where: str,
) -> None:
    from voxgap.cli.board import watching
    from voxgap.experiment import open_store
    from voxgap.experiment.comparison import deciding_metric
    from voxgap.experiment.question import begun

    page = database.with_name("report.html")
    with open_store(database, create=True) as store:
        experiment = begun(experiment, dataset, store, command, retry=retry)
        before = store.outcomes(experiment)
        _say_what_is_ahead(experiment, dataset, len(before), where)
        metric = question.metric or deciding_metric(dataset.task)
        try:
            with watching(experiment, before, metric) as tell:
                runner(experiment, dataset, store, processes=processes, progress=tell)
        except KeyboardInterrupt:
            ended = len(store.outcomes(experiment))
            err.print(
                f"Interrupted. {ended} of {len(experiment.runs())} runs are kept. Go on with:", soft_wrap=True
            )
            err.print(f"  {command}", soft_wrap=True, markup=False)
            raise typer.Exit(130) from None
        comparison = _write(experiment, store, page, question, dataset)
    out.print(comparison.summary(), soft_wrap=True, markup=False)
    out.print(f"page: {page}", soft_wrap=True, markup=False)


def _runner(ray: str | None, cpus_per_run: float, gpus_per_run: float) -> Callable[..., None]:
    if ray is None:
        from voxgap.experiment import run_all

        return run_all
    from voxgap import distributed

    return functools.partial(
        distributed.run_all, address=ray, cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run
    )


def _write(
    experiment: Experiment, store: Store, page: Path, question: Question, dataset: Dataset | None = None
) -> Comparison:
    from voxgap.experiment import Comparison
    from voxgap.report import write_report

    comparison = Comparison.from_outcomes(
        experiment, store.outcomes(experiment), **dataclasses.asdict(question)
    )
    command = store.command(experiment)
    write_report(comparison, page, command=command, fills=_fills(experiment, command, dataset))
    return comparison


def _fills(experiment: Experiment, command: str, dataset: Dataset | None) -> dict[str, Values]:
    """One volume as each strategy fills it; nothing where the data is gone, or is not what it was."""
    from voxgap.experiment.data import content_key

    try:
        data = dataset or _read_again(command, experiment.data)
        if content_key(data) != experiment.data_key:
            raise VoxgapError(f"{experiment.data} is not what it was")
        import_keras()
        from voxgap.experiment.examples import fill_examples

        return fill_examples(experiment, data)
    except (VoxgapError, OSError) as error:
        err.print(f"No pictures of fills: {error}", soft_wrap=True, markup=False)
        return {}


def _gaps(dataset: Dataset, patterns: str | None, rates: str | None) -> dict[str, Any]:
    """Return which gaps are simulated: none by default where the data has gaps of its own."""
    import numpy as np

    native = float(np.mean([np.isnan(volume).mean() for volume in dataset.volumes]))
    if patterns is None and rates is None and native:
        err.print(f"{native:.0%} of the data is missing; it is compared as it is. --rates takes away more.")
        return {"pattern": ("slices",), "train_rates": (0.0,)}
    pattern = _names(patterns or "slices")
    chosen = (DEFAULT_RATE,) if rates is None else decimals(rates, "--rates")
    if patterns is None or rates is None:
        shares = ", ".join(f"{rate:.0%}" for rate in chosen)
        err.print(f"Simulated gaps: {shares} of the {', '.join(pattern)}. Choose with --pattern and --rates.")
    return {"pattern": pattern, "train_rates": chosen}


def _default_strategies(rates: Sequence[float]) -> tuple[str, ...]:
    """Return what is compared by default; without simulated gaps nothing is complete."""
    return (*DEFAULT_STRATEGIES, "complete") if any(rates) else DEFAULT_STRATEGIES


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_question(question: Question, names: Sequence[str], dataset: Dataset) -> None:
    """Refuse before hours of training what could only be refused after them."""
    import numpy as np

    from voxgap.experiment.comparison import metrics_of
    from voxgap.experiment.plan import YARDSTICKS

    known = metrics_of(dataset.task, len(dataset.classes))
    if question.metric is not None and question.metric not in known:
        raise VoxgapError(
            f"--metric {question.metric} is unknown for {dataset.task}: choose one of {', '.join(known)}"
        )
    ranked = [name for name in names if name not in YARDSTICKS]
    if question.reference is not None and question.reference not in ranked:
        raise VoxgapError(
            f"--against {question.reference} is not compared: choose one of {', '.join(ranked)}"
        )
    if question.rope is not None and not 0 <= question.rope < math.inf:
        raise VoxgapError(f"--rope {question.rope:g} is no width: give 0 or more, in the unit of the metric")
    if question.metric is None and dataset.task == "classification":
        counts = np.bincount(dataset.targets, minlength=len(dataset.classes))
        counts = counts[counts > 0]
        if counts.min() < UNEVEN * counts.max():
            share = counts.max() / counts.sum()
            err.print(
                f"The classes are uneven: guessing the commonest is right for {share:.0%}. Consider --metric "
                "balanced_accuracy or auc.",
                soft_wrap=True,
            )


def _say_what_is_ahead(experiment: Experiment, dataset: Dataset, ended: int, where: str) -> None:
    from voxgap.cli.board import duration
    from voxgap.experiment.cost import estimate

    total = len(experiment.runs())
    err.print(f"{total} networks to train" + (f", {ended} of them done before" if ended else "") + ".")
    if ended == total:
        return
    least, most = (seconds * (1 - ended / total) for seconds in estimate(experiment, dataset))
    short, long = duration(least), duration(most)
    span = f"About {short} on {where}."
    if short != long:
        span = f"About {short} to {long}, by how early they stop, on {where}."
    err.print(span, soft_wrap=True)


def _command(data: str) -> str:
    """Return what was typed, DATA first, as it goes on with what is there."""
    words = [word for word in sys.argv[2:] if word != "--fresh"]
    if data in words:
        words.remove(data)
    return shlex.join(["voxgap", "compare", data, *words])


def _read_again(command: str, name: str) -> Dataset:
    """Read the data as a command did; without one, by the name that the data went by."""
    words = shlex.split(command)
    if words[:2] != ["voxgap", "compare"]:
        return load(name)
    app = typer.Typer()
    app.command()(compare)
    asked = typer.main.get_command(app).make_context("compare", words[2:], resilient_parsing=True).params
    options = ("size", "spacing", "crop", "missing_values", "reference", "axes", "at")
    return load(asked["data"], **grid_arguments(*map(asked.get, options)))


def _in_use(database: Path) -> bool:
    from voxgap.experiment import open_store

    try:
        with open_store(database) as store:
            return any(store.living(experiment) for experiment in store.experiments())
    except VoxgapError:
        return False  # it isn't there, or what is there is of no use to anyone


def _delete(database: Path) -> None:
    if _in_use(database):
        raise VoxgapError(f"{database}: another process is at work on it; end it, or choose another --out")
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _chosen(store: Store, key: str | None) -> Experiment:
    known = store.experiments()
    if not known:
        raise VoxgapError(f"{store.path}: holds no experiment; `voxgap compare` writes one")
    if key is None:
        if len(known) > 1:
            keys = ", ".join(one.key for one in known)
            err.print(
                f"{len(known)} experiments; this is the latest. --experiment chooses: {keys}", soft_wrap=True
            )
        return known[-1]
    for one in known:
        if one.key.startswith(key):
            return one
    raise VoxgapError(
        f"{store.path}: no experiment {key}; choose one of {', '.join(one.key for one in known)}"
    )
