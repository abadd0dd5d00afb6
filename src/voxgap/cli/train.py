"""`voxgap train`."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli import plan
from voxgap.cli.config import NAME as RECIPE
from voxgap.cli.config import Config, changes, fields_of, settings, write_recipe
from voxgap.cli.console import err, import_keras, out, saying_what_is_kept, training_progress
from voxgap.cli.data import (
    At,
    Axes,
    Crop,
    Mechanism,
    MissingRate,
    MissingSlices,
    MissingValues,
    Normalize,
    PatchSize,
    Pattern,
    Reference,
    Seed,
    Size,
    Spacing,
    TestShare,
    ValidationShare,
    choose_normalization,
    grid_arguments,
    load,
)
from voxgap.cli.export import check_export, export_bundle
from voxgap.cli.network import (
    ACTIVATION,
    DROPOUT,
    KERNEL_SIZE,
    PADDING,
    Activation,
    Attention,
    Conv,
    Dropout,
    Fill,
    GapDropout,
    KernelSize,
    MaskChannel,
    Padding,
    architecture,
)
from voxgap.errors import VoxgapError
from voxgap.files import held, sweep
from voxgap.recipe import Architecture, Gaps, Recipe, Strategy, Training, network_of, strategy_of

if TYPE_CHECKING:
    from voxgap.bundle import Trained
    from voxgap.dataset import Dataset

# A training goes on whatever these are; by the schedule, if the epochs that ran would have been the same.
_MAY_CHANGE = {"data", "epochs", "threshold", "export", "devices", "refit"}
_SCHEDULE = {"patience", "min-delta", "lr-patience"}

Data = Annotated[
    str,
    typer.Argument(
        help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME or medmnist:NAME; with --task fill also "
        "one volume.",
        metavar="DATA",
    ),
]
Bundle = Annotated[Path, typer.Argument(help="Folder made by voxgap train.", metavar="BUNDLE")]
Task = Annotated[
    str | None,
    typer.Option(
        help="segmentation: predict the label maps of data that has labels too. fill: learn to fill from data with "
        "gaps, labelled or not.",
        rich_help_panel="Volumes",
    ),
]


def train(
    context: typer.Context,
    data: Data,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the bundle; runs/ and the name of DATA without it."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="cnn3d, resnet3d, resnet2d, resnet2plus1d, unet3d or resunet3d.",
            show_default="resnet3d; unet3d for label maps",
        ),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="How gaps are handled; see docs/missing-data.md. Or a bundle of --task fill, which fills them."
        ),
    ] = "mean",
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A bundle of --task fill: the encoder of resnet3d, unet3d or resunet3d begins with its own, which "
            "learnt without labels.",
            metavar="BUNDLE",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="At most so many.")] = Training.epochs,
    batch_size: plan.BatchSize = None,
    learning_rate: plan.LearningRate = None,
    optimizer: Annotated[
        str, typer.Option(help="Keras name: adam, adamw, sgd, rmsprop ...")
    ] = Training.optimizer,
    loss: Annotated[str | None, typer.Option(help="Keras name; by default chosen by task.")] = None,
    class_weight: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement before stopping.")
    ] = Training.patience,
    min_delta: Annotated[float, typer.Option(help="What counts as an improvement.")] = Training.min_delta,
    lr_patience: Annotated[
        int | None, typer.Option(help="Epochs without improvement before halving the learning rate.")
    ] = None,
    threshold: Annotated[
        str,
        typer.Option(
            help="Of two classes, name the second from this probability on: a number; youden, sensitivity=0.95 or "
            "specificity=0.9, for which it is chosen on validation data."
        ),
    ] = Recipe.threshold,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Guarantee answers for this share of scans, such as 0.9, for each pattern of gaps: calibrated on a "
            "fifth of the training part, which is set aside."
        ),
    ] = None,
    monitor: Annotated[
        str, typer.Option(help="val_loss, val_accuracy, val_mae or val_dice.")
    ] = Training.monitor,
    precision: Annotated[
        str, typer.Option(help="Of training: auto, float32 or bfloat16.")
    ] = Training.precision,
    ema: Annotated[
        float,
        typer.Option(help="Watch and keep an average of the weights over about so many epochs; 0: none."),
    ] = Training.ema,
    schedule: Annotated[
        str,
        typer.Option(
            help="How the learning rate falls: plateau, halved where nothing improves; cosine, over all epochs."
        ),
    ] = Training.schedule,
    warmup: Annotated[
        float, typer.Option(help="Epochs in which the learning rate rises first.")
    ] = Training.warmup,
    weight_decay: Annotated[
        float, typer.Option(help="Shrink the weights beside the gradient: adam becomes AdamW; such as 0.01.")
    ] = Training.weight_decay,
    label_smoothing: Annotated[
        float, typer.Option(help="Of classes: give this share of each label to all alike, such as 0.1.")
    ] = Training.label_smoothing,
    consistency: Annotated[
        float,
        typer.Option(
            help="Weight in the loss of answering the same with further gaps, such as 1; takes twice as long; 0: none."
        ),
    ] = Training.consistency,
    refit: Annotated[
        bool,
        typer.Option(
            help="Keep the network of all data, trained anew for as many epochs as were best; the scores stay those of "
            "the held-out parts."
        ),
    ] = False,
    validation_share: ValidationShare = None,
    test_share: TestShare = None,
    devices: Annotated[
        str | None, typer.Option(help="Share each batch among GPU:0,GPU:1, say; all: every GPU.")
    ] = None,
    seed: Seed = 0,
    augment: Annotated[
        str,
        typer.Option(
            help="none, default, strong, or a list such as flip,rotate:10; see docs/augmentation.md.",
            rich_help_panel="Augmentation",
        ),
    ] = "none",
    augment_kind: Annotated[
        str,
        typer.Option(
            help="What default and strong are for: scan, video, grid.", rich_help_panel="Augmentation"
        ),
    ] = Training.augment_kind,
    overwrite: Annotated[bool, typer.Option(help="Replace the bundle in --out.")] = False,
    export: Annotated[
        str | None,
        typer.Option(help="Formats as for voxgap export: tried before training, written after it."),
    ] = None,
    how: plan.How = None,
    filters: plan.Filters = None,
    kernel_size: KernelSize = KERNEL_SIZE,
    strides: plan.Strides = None,
    norm: plan.Norm = None,
    deep_supervision: plan.DeepSupervision = None,
    padding: Padding = PADDING,
    activation: Activation = ACTIVATION,
    dropout: Dropout = DROPOUT,
    fill: Fill = None,
    mask_channel: MaskChannel = None,
    conv: Conv = None,
    gap_dropout: GapDropout = None,
    attention: Attention = None,
    size: Size = None,
    spacing: Spacing = None,
    crop: Crop = None,
    missing_values: MissingValues = None,
    missing_slices: MissingSlices = None,
    reference: Reference = None,
    axes: Axes = None,
    at: At = None,
    normalize: Normalize = "auto",
    task: Task = None,
    patch_size: PatchSize = None,
    patches_per_volume: plan.PatchesPerVolume = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keep decoded volumes in this folder, for the next time.", rich_help_panel="Volumes"
        ),
    ] = None,
    pattern: Pattern = None,
    missing_rate: MissingRate = 0.5,
    mechanism: Mechanism = "mcar",
    config: Config = None,
) -> None:
    """Train a network on volumes with gaps and save it as a bundle.

    Stops early, keeps the best weights, and goes on where it was if it is killed and started again; with more
    --epochs, or more --patience, it goes on from the bundle that is there.

    [bold]Examples[/]

      voxgap train scans.csv

      voxgap train patients.csv --model resnet3d --strategy masked_conv --out runs/patients

      voxgap train scans.csv --size 32,32,32 --missing-values -3024 --out runs/scans

      voxgap train sample:brain --pattern slices --missing-rate 0.5 --strategy linear --out runs/brain

      voxgap train scans.csv --augment default --cache ~/.cache/voxgap --out runs/scans

      voxgap train data.npz --strategy knn --mask-channel --conv gated --filters 16,32 --out runs/mine

      voxgap train sample:brain-tissue --model unet3d --filters 8,16,32 --out runs/tissue

      voxgap train patients.csv --export onnx,litert --out runs/patients

      voxgap train sea.nc --task fill --out runs/sea
    """
    if out_folder is None:
        out_folder = Path("runs") / Path(data.partition(":")[2] or data).stem
    if task == "fill":
        from voxgap.cli.filler import train_fill

        train_fill(context, data, out_folder)
        return
    from voxgap import names
    from voxgap.bundle import (  # runtime only: no Keras yet
        LOCK,
        STATE,
        Origin,
        check_free,
        goes_on,
        material,
        train_bundle,
    )
    from voxgap.cli.filler import as_strategy
    from voxgap.decision import asked
    from voxgap.filling.filler import check
    from voxgap.trust.conformal import check_coverage

    named, filler = as_strategy(strategy)
    chosen = strategy_of(named, **fields_of(context, Strategy))
    if model is not None:
        names.check("model", model, names.NETWORKS)
    names.check("optimizer", optimizer, names.OPTIMIZERS)
    names.check("schedule", schedule, names.SCHEDULES)
    if coverage is not None:
        check_coverage(coverage)
    wanted = plan.given(context)
    network = Architecture.of(architecture(context))
    if loss is not None:
        names.check("loss", loss, names.LOSSES)

    check_free(out_folder, overwrite=True)  # nothing but a folder can be held
    with (
        held(out_folder / LOCK, f"{out_folder}: a network is trained there"),
        saying_what_is_kept(out_folder / STATE / "state.json"),
    ):
        sweep(out_folder)  # one that was killed as it ended leaves a bundle, and what it was made from
        state = out_folder / STATE
        there = (state / "state.json").is_file()
        changed = changes(context, state / RECIPE) if there and not overwrite else {}
        # A cosine falls to its end over all epochs.
        fixed = {"epochs"} if schedule == "cosine" and "schedule" not in changed else set()
        if hard := set(changed) - (_MAY_CHANGE - fixed) - _SCHEDULE:
            raise _other_settings(out_folder, changed, hard)
        check_free(out_folder, overwrite or goes_on(out_folder, epochs, patience))
        if class_weight not in ("none", "balanced"):
            raise VoxgapError(f"--class-weight must be none or balanced, got {class_weight!r}")
        if start_from is not None:
            check(str(start_from), {})
        grid = grid_arguments(size, spacing, crop, missing_values, reference, axes, at, missing_slices)
        shares = {"validation_share": validation_share, "test_share": test_share}
        raw = load(data, cache=cache, task=task, **shares, **grid)
        model = model or network_of(raw.task)
        asked(threshold, raw.task, len(raw.classes))
        gaps = None if pattern is None else Gaps(pattern, missing_rate, mechanism)
        given = material(raw, gaps, coverage=coverage, refit=refit, seed=seed)
        proposed = plan.made(how, given.learnt, model, wanted)
        planned = proposed.training if proposed else {}
        network = dataclasses.replace(network, **(proposed.architecture if proposed else {}))
        patch = (planned | wanted).get("patch_size") or given.learnt.patch_size
        normalize = choose_normalization(normalize, given.learnt, patch)
        shared = devices == "all" or (devices.split(",") if devices else False)
        trained = Training.of(
            planned | fields_of(context, Training) | {"patch_size": patch, "distribute": shared}
        )
        recipe = Recipe(model, chosen, dataclasses.replace(network, normalize=normalize), trained, threshold)
        err.print(given.learnt.summary())
        if given.aside is not None:
            err.print(
                f"{len(given.aside)} volumes of the training part are set aside to calibrate the guarantee"
            )
        if patch_size is None and proposed is None and patch is not None:
            err.print(f"volumes differ in shape: patches of {','.join(map(str, patch))} (--patch-size)")
        import_keras()
        from voxgap.training import ForeignError

        if export:
            check_export(export, recipe, given.learnt)
        if there and not overwrite:
            err.print(f"going on with the training that {out_folder} keeps")
        try:
            made = train_bundle(
                out_folder,
                given,
                recipe,
                Origin(
                    seed,
                    gaps,
                    shlex.join(["voxgap", *sys.argv[1:]]),
                    settings(context, out_folder),
                    plan=proposed.to_json() if proposed else {},
                ),
                lambda: training_progress(f"{model} {strategy}"),
                functools.partial(write_recipe, context),
                overwrite=overwrite,
                again=(export or "").split(","),
                refit=refit,
                filler=filler,
                begin=None if start_from is None else _Beginning(start_from, there and not overwrite),
            )
        except ForeignError:
            raise _other_settings(out_folder, changed, set(changed) & _SCHEDULE) from None
        _say(made, given.learnt, out_folder)
        if export:
            export_bundle(out_folder, export)


def _say(made: Trained, dataset: Dataset, folder: Path) -> None:
    """Print how a training went, what its network is worth and where its bundle is.

    Raises:
        typer.Exit: it was interrupted.
    """
    from voxgap.bundle.evidence import EVIDENCE, PREDICTIONS, REPORT
    from voxgap.cli.evaluate import print_scores, say_decision
    from voxgap.cli.guarantee import print_claims
    from voxgap.evidence import NO_TEST
    from voxgap.runtime.calibration import too_few

    result, history = made.result, made.result.history
    out.print(history.summary())
    print_scores(result.scored, dataset.classes)
    if "test" not in dataset.split:
        out.print(NO_TEST)
    say_decision(result.decision, dataset.task, dataset.classes)
    if result.refitted is not None:
        out.print(
            f"refitted: the network in the bundle learnt from all {len(dataset)} volumes, for "
            f"{history.best_epoch + 1} epochs; the scores are of the one before, on what it had not seen"
        )
    if made.promised is not None:
        print_claims(made.promised.rows())
        out.print(made.promised.guarantee.words())
    by_class = [name for name in ("val_accuracy", "val_dice") if name in history.best]
    if result.decision.threshold is not None and by_class:
        out.print(
            f"{by_class[0]} of the epochs is of the most probable class, the scores are of this decision"
        )
    if dataset.task == "classification" and (why := too_few(dataset.part("validation").targets)):
        out.print(why)
    out.print(f"bundle: {folder}   report: {folder / EVIDENCE / REPORT}")
    if dataset.task == "segmentation":
        out.print(f"dice of each case: {folder / EVIDENCE / PREDICTIONS}")
    for line in made.gone:
        err.print(line)
    if history.reason == "interrupted":
        err.print(
            f"Interrupted: the network of epoch {history.best_epoch + 1}, the best of {len(history.epochs)}, is kept; "
            "the same command goes on."
        )
        raise typer.Exit(130)


class _Beginning:
    """Lets networks of one training begin with a filler's encoder, and says once what they took.

    Args:
        bundle: of the filler.
        said: whether it was said already, as of a training that is gone on with.
    """

    def __init__(self, bundle: Path, said: bool) -> None:
        self.bundle, self.said = bundle, said

    def __call__(self, model: Any) -> Any:
        from voxgap.filling.filler import start_from

        taken = start_from(model, self.bundle)
        if not self.said:
            err.print(f"{self.bundle}: {model.name} {taken.words()}")
            self.said = True
        return taken


def _other_settings(folder: Path, changed: dict[str, str], which: set[str]) -> VoxgapError:
    """Return the error that says that a folder keeps another training, and by what it differs."""
    from voxgap.bundle import STATE

    if which:
        said = f"{', '.join(f'--{name} was {changed[name]}' for name in changed if name in which)}; give it as it was"
        said += ", for a cosine falls over all of its epochs," if "epochs" in which else ""
    else:
        said = "its data, as it was read, are not these; give the same"
    recipe = folder / STATE / RECIPE
    return VoxgapError(
        f"{folder} keeps a training by other settings: {said} to go on (all of it: --config {recipe}), or choose "
        "another folder, or pass --overwrite to train anew"
    )
