"""`voxgap compare`: which strategy works best for these data."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxgap.cli.config import Config, fields_of, write_recipe
from voxgap.cli.console import decimals, err, out
from voxgap.cli.data import (
    At,
    Axes,
    Crop,
    MissingSlices,
    MissingValues,
    Normalize,
    PatchSize,
    Reference,
    Size,
    Spacing,
    grid_arguments,
    load,
    patch_argument,
    say_values,
)
from voxgap.cli.network import FILTERS, KERNEL_SIZE, Filters, KernelSize, architecture
from voxgap.cli.report import VERDICT, Against, Metric, Rope, write
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import DEFAULT_STRATEGIES, FOLDS
from voxgap.recipe import COMPARED, Gaps, Training

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.experiment import Experiment
    from voxgap.experiment.asked import Asked, Design
    from voxgap.experiment.conduct import Ahead, Ended, Results, Tell
    from voxgap.experiment.racing import Race
    from voxgap.intensity import Choice

GAPS, TRAINING, RUNNING = "Gaps", "Training", "Running"
UNEVEN = 0.6
"""Ratio of the rarest to the commonest class below which accuracy says little."""


def compare(
    context: typer.Context,
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
            help="Names, and the baselines complete and drop; see docs/missing-data.md.",
            show_default=",".join(DEFAULT_STRATEGIES),
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            "--model",
            help="Networks: cnn3d, resnet3d, resnet2d ...",
            show_default="resnet3d; unet3d for label maps",
        ),
    ] = None,
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
            show_default=str(Gaps.missing_rate),
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
        int | None,
        typer.Option(
            help="Parts, each the test part once; 1 takes the data's own split.",
            show_default=f"{FOLDS}; 1 with --tune",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="How often the folds are dealt, and the gaps drawn, anew.")
    ] = 1,
    seeds: Annotated[int, typer.Option(help="Trainings of each run, with other weights and batches.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits and gaps.")] = 0,
    epochs: Annotated[int, typer.Option(help="At most so many.", rich_help_panel=TRAINING)] = COMPARED.epochs,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before stopping.", rich_help_panel=TRAINING)
    ] = COMPARED.patience,
    batch_size: Annotated[
        int, typer.Option(help="Volumes a step.", rich_help_panel=TRAINING)
    ] = COMPARED.batch_size,
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
    consistency: Annotated[
        float,
        typer.Option(
            help="Weight in the loss of answering the same with further gaps, such as 1; takes twice as long; 0: none.",
            rich_help_panel=TRAINING,
        ),
    ] = COMPARED.consistency,
    filters: Filters = FILTERS,
    kernel_size: KernelSize = KERNEL_SIZE,
    metric: Metric = None,
    rope: Rope = None,
    against: Against = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="From which probability on the second of two classes is named: 0.5, another number, or chosen on "
            "the validation part of each run: youden, sensitivity=0.95, specificity=0.9.",
            rich_help_panel=VERDICT,
            show_default="0.5",
        ),
    ] = None,
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
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Race for 30m or 2h: fold by fold, who can't win any more leaves, until the best is known or the time "
            "is over.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Try N settings on the data's own split: strategies, networks, learning rates, filters, weight decay, "
            "gap dropout; the best in validation is scored on the test part. Needs Optuna, the extra tune.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
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
    missing_slices: MissingSlices = None,
    reference: Reference = None,
    axes: Axes = None,
    at: At = None,
    normalize: Normalize = "auto",
    patch_size: PatchSize = None,
    config: Config = None,
) -> None:
    """Find out which way of handling gaps works best: train with each, on the same splits with the same gaps.

    Says how long it will take, shows how far it is, and writes one page. Stop it at any time: the same command
    goes on where it was.

    [bold]Examples[/]

      voxgap compare patients.csv --strategies mean,mask_channel,masked_conv,drop

      voxgap compare sample:brain --pattern slices --rates 0.1,0.5 --strategies mean,knn,masked_conv,complete

      voxgap compare scans.npz --rates 0.3 --test-rates 0.1,0.3,0.5 --folds 5 --repeats 2 --against mean

      voxgap compare sample:brain --budget 30m

      voxgap compare sample:brain --strategies linear,mask_channel --tune 20 --out runs/tuned

      voxgap compare scans.csv --size 32,32,32 --models resnet3d,resnet2d --seeds 2 --out runs/2d-or-3d
    """
    from voxgap import decision
    from voxgap.experiment.asked import Asked, Verdict, designed, in_seconds
    from voxgap.experiment.conduct import Results, Told, conduct

    if tune is not None:
        if budget is not None:
            raise VoxgapError(
                "--tune tries so many settings, --budget races strategies: leave out one of them"
            )
        import optuna  # noqa: F401  (where it is missing, that is said before anything is read)
    usual = FOLDS if tune is None else 1
    design = designed(
        _names(strategies) if strategies else None,
        models=None if models is None else _names(models),
        pattern=None if patterns is None else _names(patterns),
        mechanism=_names(mechanisms),
        train_rates=None if rates is None else decimals(rates, "--rates"),
        test_rates=None if test_rates is None else decimals(test_rates, "--test-rates"),
        folds=usual if folds is None else folds,
        repeats=repeats,
        seeds=seeds,
        split_seed=seed,
        racing=budget is not None,
    )
    if tune is not None:
        from voxgap.experiment.tuning import check_tunable

        check_tunable(design, tune)
    if class_weight not in ("none", "balanced"):
        raise VoxgapError(f"--class-weight must be none or balanced, got {class_weight!r}")
    asked = Asked.of(
        design,
        architecture(context),
        fields_of(context, Training) | {"patch_size": patch_argument(patch_size)},
        threshold or decision.DEFAULT,
        Verdict(metric, rope, against, ("--metric", "--rope", "--against")),
    )
    limit = None if budget is None else in_seconds(budget)
    results = Results(out_folder / "compare.db", _command(data), data, retry, not resume, limit, processes)
    grid = grid_arguments(size, spacing, crop, missing_values, reference, axes, at, missing_slices)
    dataset = load(data, **grid)
    err.print(dataset.summary())
    runner = _runner(ray, cpus_per_run, gpus_per_run, not resume)
    if tune is not None:
        from voxgap.cli.tune import tune_and_say

        tune_and_say(context, dataset, asked, tune, results, runner)
        return
    where = "this machine" if ray is None else "one machine like this; the cluster shares it"
    teller = _Teller(asked, results, dataset, where, functools.partial(write_recipe, context, out_folder))
    found = conduct(
        dataset,
        asked,
        results,
        runner,
        Told(teller.planned, teller.running, teller.raced),
    )
    page = out_folder / "report.html"
    write(found, page, results.command, lambda: dataset)
    out.print(found.summary())
    out.print(f"page: {page}")
    if found.outcomes and all(outcome.status != "done" for _, outcome in found.outcomes):
        run, outcome = found.outcomes[0]
        err.print(f"Error: all {len(found.outcomes)} runs failed; that of {run.strategy}: {outcome.reason}")
        raise typer.Exit(1)


class _Teller:
    """What a person reads while an experiment is prepared and done."""

    def __init__(
        self, asked: Asked, results: Results, dataset: Dataset, where: str, begun: Callable[[], None]
    ) -> None:
        self.asked, self.results, self.dataset, self.where, self.begun = asked, results, dataset, where, begun
        self.left: Mapping[str, int] = {}

    def raced(self, race: Race) -> None:
        for name, rounds in race.left.items():
            if name not in self.left:
                err.print(f"{name} leaves the race after {rounds} rounds.")
        self.left = race.left

    def planned(self, experiment: Experiment, chosen: Choice) -> None:
        if self.asked.verdict.metric is None:
            _warn_of_uneven_classes(self.dataset)
        decided = self.asked.architecture.normalize == "auto"
        say_values(chosen, self.dataset.volumes, self.dataset, decided)
        _say_gaps(experiment, self.asked.design, self.dataset)

    @contextlib.contextmanager
    def running(self, experiment: Experiment, before: Ended, ahead: Ahead) -> Iterator[Tell]:
        from voxgap.cli.board import watching
        from voxgap.experiment import open_store
        from voxgap.experiment.racing import race_of
        from voxgap.experiment.ranking import deciding_metric
        from voxgap.names import metric_called

        self.begun()  # only now: what is refused changes nothing that was there
        classes = self.dataset.classes
        metric = metric_called(self.asked.verdict.metric or deciding_metric(self.dataset.task), classes)
        if not (experiment.racing and race_of(experiment, before, self.asked.verdict).over):
            _say_what_is_ahead(experiment, ahead, len(before), self.where)
        try:
            with watching(experiment, before, metric, classes) as tell:
                yield tell
        except KeyboardInterrupt:
            with open_store(self.results.path) as store:
                ended, total = len(store.ended(experiment)), len(experiment.runs())
            kept = f"{ended} runs" if experiment.racing else f"{ended} of {total} runs"
            err.print(f"Interrupted. {kept} are kept. Go on with:")
            err.print(f"  {self.results.command}")
            raise typer.Exit(130) from None


def _runner(ray: str | None, cpus_per_run: float, gpus_per_run: float, fresh: bool) -> Callable[..., None]:
    if ray is None:
        from voxgap.experiment import run_all

        return run_all
    from voxgap import distributed

    if fresh:
        distributed.check(ray, cpus_per_run, gpus_per_run)
    return functools.partial(
        distributed.run_all, address=ray, cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _warn_of_uneven_classes(dataset: Dataset) -> None:
    import numpy as np

    if dataset.task != "classification":
        return
    counts = np.bincount(dataset.targets, minlength=len(dataset.classes))
    counts = counts[counts > 0]
    if counts.min() < UNEVEN * counts.max():
        share = counts.max() / counts.sum()
        err.print(
            f"The classes are uneven: guessing the commonest is right for {share:.0%}. Consider --metric "
            "balanced_accuracy or auc."
        )


def _say_gaps(experiment: Experiment, design: Design, dataset: Dataset) -> None:
    """Say which gaps there will be, where not all of it was asked for."""
    if design.patterns is not None and design.train_rates is not None:
        return
    rates = dict.fromkeys(gaps.missing_rate for gaps in experiment.gaps)
    if not any(rates) and design.train_rates is None:
        err.print(
            f"{dataset.missing_rate:.0%} of the data is missing; it is compared as it is. --rates takes away more."
        )
        return
    shares = ", ".join(f"{rate:.0%}" for rate in rates)
    patterns = ", ".join(dict.fromkeys(gaps.pattern for gaps in experiment.gaps))
    err.print(f"Simulated gaps: {shares} of the {patterns}. Choose with --pattern and --rates.")


def _say_what_is_ahead(experiment: Experiment, ahead: Ahead, ended: int, where: str) -> None:
    from voxgap.cli.board import duration

    total = len(experiment.runs())
    if experiment.racing:
        rounds = experiment.repeats * experiment.folds
        before = f"; {ended} networks were trained before" if ended else ""
        err.print(f"A race of at most {rounds} rounds, {total} networks if nobody leaves{before}.")
    else:
        err.print(f"{total} networks to train" + (f", {ended} of them done before" if ended else "") + ".")
    if ended == total:
        return
    least, most = (seconds * (1 - ended / total) for seconds in ahead())
    short, long = duration(least), duration(most)
    span = f"About {short} on {where}."
    if short != long:
        span = f"About {short} to {long}, by how early they stop, on {where}."
    err.print(span)


def _command(data: str) -> str:
    """Return what was typed, DATA first, as it goes on with what is there."""
    words = [word for word in sys.argv[2:] if word != "--fresh"]
    if data in words:
        words.remove(data)
    return shlex.join(["voxgap", "compare", data, *words])
