"""`voxgap predict`: what a bundle says of volumes."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, import_keras
from voxgap.cli.data import At, Axes, grid_arguments
from voxgap.doubts import gathered
from voxgap.errors import VoxgapError
from voxgap.files import digest, held

if TYPE_CHECKING:
    from voxgap.runtime import Predictor
    from voxgap.runtime.inputs import Item
    from voxgap.runtime.job import Done, Row, Source, Tell

BundlePath = Annotated[Path, typer.Argument(help="Folder made by voxgap train.", metavar="BUNDLE")]
Precision = Annotated[
    str,
    typer.Option(help="float32; or fast, the half precision of this processor.", rich_help_panel="Engine"),
]
Engine = Annotated[
    str,
    typer.Option(
        help="auto, openvino, onnx, litert, savedmodel, keras, h5 or pt2.", rich_help_panel="Engine"
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Processor cores; all without it.", rich_help_panel="Engine")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Of two classes, name the second from this probability on.",
        show_default="as the bundle was trained to",
    ),
]


def predict(
    bundle: BundlePath,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Volumes, folders of them, or manifests (CSV, Parquet).", metavar="FILE..."),
    ] = None,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Table: .csv, .json, .jsonl or .parquet; for label maps a folder. Standard output without it.",
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="One file for each channel, as in t1.nii.gz,flair.nii.gz, in each folder FILE."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Name so many of the most probable classes.")] = 0,
    calibrated: Annotated[bool, typer.Option(help="Calibrated probabilities as well.")] = False,
    threshold: Threshold = None,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Pool the answers for so many draws of what the gaps may hide, and say what the fill leaves open: "
            "columns fill_sd_... For bundles that fill by kriging; 20 say enough."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    advise: Annotated[
        bool,
        typer.Option(
            "--advise",
            help="Which missing channel to acquire next, and what it is worth beside those that are there: columns "
            "acquire_next, worth, advice. For bundles with a certificate (voxgap certify).",
        ),
    ] = False,
    mirror: Annotated[
        bool,
        typer.Option(
            help="Answer with the mean over each volume and its mirror images, along the axes that the training "
            "mirrored along: twice as long with each of them."
        ),
    ] = False,
    outside: Annotated[
        int | None,
        typer.Option(help="In label maps: what stands outside of what the network saw; 0 without it."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace predictions and label maps that are there already.")
    ] = False,
    axes: Axes = None,
    at: At = None,
    precision: Precision = "float32",
    engine: Engine = "auto",
    threads: Threads = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, or local.", rich_help_panel="Engine", metavar="ADDRESS"),
    ] = None,
) -> None:
    """Predict volumes with a bundle: read and resampled as its training data was, NaN is missing.

    With --out, rows are kept as they come: killed and started again, it goes on where it was, and ended, it is left as
    it is. Where a file that it read or wrote has changed since, or is gone, it is refused. What was written before is
    replaced with --overwrite only. A file that can't be read is a row that says why.
    The exit code is 0 when all were predicted, 1 when some were not, 2 when none was.

    [bold]Examples[/]

      voxgap predict runs/patients scan1.nii.gz scan2.nii.gz --out preds.csv

      voxgap predict runs/patients scans/ --out preds.parquet --precision fast

      voxgap predict runs/patients ward/ --channels t1.nii.gz,flair.nii.gz --top-k 3

      voxgap predict runs/patients ward/ --channels t1.nii.gz,flair.nii.gz --advise
    """
    from voxgap.drift import drifted
    from voxgap.runtime import Bundle, job
    from voxgap.runtime.ended import finished
    from voxgap.runtime.inputs import list_items, same_file

    opened = Bundle.open(bundle)
    manifest, watch = opened.manifest, opened.watch()
    if manifest.task == "fill":
        raise VoxgapError(f"{bundle} fills files: voxgap fill {bundle} FILE --out FOLDER")
    taken = manifest.input
    names = [] if channels is None else [name.strip() for name in channels.split(",")]
    maps = manifest.task == "segmentation"
    folder = out_path if maps else None
    items = list_items(paths or [], taken.channels, names, reference=taken.grid.reference, out=folder)
    if maps and out_path is None:
        raise VoxgapError("a segmentation writes label maps: name a folder with --out")
    table = out_path / "predictions.csv" if maps and out_path is not None else out_path
    if table is not None and any(same_file(path, table) for path in paths or []):
        raise VoxgapError(f"{table}: names what is to be predicted; choose another --out")
    said = grid_arguments(axes=axes, at=at)
    wanted = job.Wanted(
        top_k,
        calibrated,
        overwrite=overwrite,
        axes=said["axes"],
        at=said["at"],
        draws=draws,
        seed=seed,
        advise=advise,
    )
    predictor = open_bundle(bundle, precision, engine, threads, threshold, mirror)
    if draws is not None:
        import_keras()
        predictor.check_draws(draws)
    if mirror:
        err.print(
            f"Means of each answer and those to mirror images along {', '.join(manifest.input.mirrors)}."
        )
    if predictor.decision.threshold is not None:
        err.print(predictor.decision.words(predictor.classes))
    if maps:
        wanted = dataclasses.replace(
            wanted, maps=str(out_path), outside=wanted.outside if outside is None else outside
        )
        predictor.check_outside(wanted.outside)
    elif outside is not None:
        raise VoxgapError(f"{bundle}: --outside is for label maps, and it is for {manifest.task}")
    if advise and manifest.worths is None:
        raise VoxgapError(f"{bundle}: no certificate to advise by; voxgap certify {bundle} DATA makes one")
    if calibrated and manifest.calibration is None:
        raise VoxgapError(
            f"{bundle}: no calibration; train with a validation part that is large enough, or leave out --calibrated"
        )
    key = {
        **dataclasses.asdict(predictor.running),
        **dataclasses.asdict(wanted),
        "bundle": str(bundle.resolve()),
        "created": manifest.written.get("created"),
        "threshold": predictor.decision.threshold,
        **({"mirror": True} if mirror else {}),
        "guarantee": digest(manifest.guarantee.to_json()) if manifest.guarantee else "",
        "certificate": digest(manifest.written["certificate"]) if advise else "",
    }
    source: Callable[[Tell], Source]
    if ray is None:
        source = partial(job.local, predictor, wanted)
    else:
        from voxgap.runtime.cluster import on_ray

        on_cluster = on_ray(
            bundle.resolve(),
            ray,
            wanted,
            precision=precision,  # type: ignore[arg-type]  # load has checked it
            engine=predictor.running.engine,
            threads=threads,
            threshold=threshold,
            mirror=mirror,
        )

        def source(_: Tell) -> Source:
            return on_cluster

    columns, again = job.columns_of(predictor, wanted, items), False
    if table is None:
        with gathered():
            done = _print_rows(source, items, columns)
    else:
        with held(table.with_name(f".{table.name}.lock"), f"{table}: predictions are written to it"):
            ended = None if overwrite else finished(table, items, key)
            again = ended is not None and not ended.changed
            if ended is not None and again:
                done = ended.done
            else:
                job.check_free(table, items, wanted, key, "" if ended is None else ended.changed)
                before = len(job.answered(table, key) & {item.name for item in items})
                done = job.run(_tracked(source, before, len(items)), items, table, columns, key)
    for text in done.said if again else ():
        warnings.warn(text, stacklevel=2)
    if watch is not None and (changed := drifted(watch, done.looks)) is not None:
        warnings.warn(changed, stacklevel=2)
    _conclude(done, table, again=again)


def open_bundle(
    bundle: Path,
    precision: str,
    engine: str,
    threads: int | None,
    threshold: float | None = None,
    mirror: bool = False,
) -> Predictor:
    """Load a bundle as `voxgap.load` does; where that takes Keras, without what TensorFlow prints."""
    from voxgap.runtime import load

    import_keras_for(bundle, precision, engine)
    return load(bundle, precision, engine, threads, threshold, mirror)  # type: ignore[arg-type]  # load says what is wrong with it


def import_keras_for(bundle: Path, precision: str, engine: str) -> None:
    """Import Keras where an engine of a bundle runs on it: what is light is not to wait for it."""
    from voxgap.runtime import Bundle
    from voxgap.runtime.engines import RUNTIMES
    from voxgap.runtime.loading import candidates

    chosen = candidates(Bundle.open(bundle), engine, precision)
    if {RUNTIMES[name].package for name in chosen} & {"keras", "tensorflow"}:
        import_keras()


def _tracked(source: Callable[[Tell], Source], before: int, total: int) -> Source:
    """Return the same source, with a bar on a terminal, and one for each label map that takes its time."""

    def rows(items: Sequence[Item]) -> Iterator[Row]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bars: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        ]
        with Progress(*bars, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("predicting", total=total, completed=before, visible=total > 1)
            maps: dict[str, Any] = {}

            def tell(item: str, done: int, planes: int) -> None:
                if item not in maps:
                    maps[item] = bar.add_task(f"planes of {Path(item).name}", total=planes)
                bar.update(maps[item], completed=done, visible=done < planes)

            for row in source(tell)(items):
                bar.advance(task)
                yield row

    if before:
        err.print(f"going on: {before} of {total} were predicted before")
    return rows


def _print_rows(source: Callable[[Tell], Source], items: Sequence[Item], columns: Sequence[str]) -> Done:
    from voxgap.runtime.job import Done, write_csv

    found = list(_tracked(source, 0, len(items))(items))
    done = Done()
    for row in found:
        done.count(row)
    if done.failed < done.rows:
        write_csv(sys.stdout, _in_columns(found, columns), columns)
    return done


def _in_columns(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[Row]:
    return ({name: row.get(name) for name in columns} for row in rows)


def _conclude(done: Done, table: Path | None, *, again: bool = False) -> None:
    """Say what was done, and end with the exit code that the help promises."""
    if done.failed == done.rows:
        raise VoxgapError(
            done.error if done.rows == 1 else f"none of {done.rows} was predicted: {done.error}"
        )
    for said in done.doubts():
        warnings.warn(said, stacklevel=2)
    if table is not None:
        count = done.rows - done.failed
        were, them = ("was", "it") if count == 1 else ("were", "them")
        there = f"0 predictions, {count} {were} there already (--overwrite replaces {them})"
        err.print(f"{there if again else f'{count} predictions'}: {table}")
    if done.failed:
        warnings.warn(f"{done.failed} of {done.rows} not predicted (column error)", stacklevel=2)
        raise typer.Exit(1)
