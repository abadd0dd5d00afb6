"""Which fill is best for given data, measured: observed voxels are hidden in the shapes of gaps, and filled."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.filling import FILLS, FIT_ON, SEEDS, STRATEGY
from voxgap.filling.field import Field, of_job, with_axes
from voxgap.filling.job import Job, Say, as_files_are, quiet
from voxgap.filling.learn import Chosen, Fill, Where, check
from voxgap.filling.learn import reading as read_as
from voxgap.grid import as_options
from voxgap.metrics.overlap import digests, overlap, too_good
from voxgap.progress import Progress, unseen
from voxgap.recipe import fill_name

_READ = ("missing_values", "axes", "at", "missing_slices")
WITHIN = (1.0, 1.959964)
"""Standard deviations that 68.3 and 95 % of a normal distribution lie within."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Errors at hidden voxels.

    Args:
        rmse, mae: Root mean square and mean absolute error.
        crps: Continuous ranked probability score of a normal distribution with the fill's deviation; None of a fill
            without one, whose score as a point is its `mae`.
        within_68, within_95: Shares of errors within 1 and 1.96 deviations; 0.683 and 0.95 are right.
    """

    rmse: float
    mae: float
    crps: float | None = None
    within_68: float | None = None
    within_95: float | None = None


def scores_of(error: Floats, deviation: Floats | None) -> Scores:
    """Score errors, and the standard deviations that a fill gives for them.

    Source: Gneiting and Raftery, Strictly proper scoring rules, JASA 2007, section 4.2.
    """
    found = Scores(float(np.sqrt(np.mean(error**2))), float(np.mean(np.abs(error))))
    if deviation is None:
        return found
    sure = np.maximum(deviation, np.finfo(np.float32).tiny)
    z = np.abs(error) / sure
    return dataclasses.replace(
        found,
        crps=float(np.mean(crps(error, sure))),
        within_68=float(np.mean(z <= WITHIN[0])),
        within_95=float(np.mean(z <= WITHIN[1])),
    )


def crps(error: Floats, deviation: Floats) -> Floats:
    """Return continuous ranked probability scores of normal distributions, in the units of the errors.

    Source: Gneiting and Raftery, Strictly proper scoring rules, JASA 2007, equation 21, of which this is the negative.
    """
    from scipy.special import ndtr

    z = error / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    found: Floats = deviation * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return found


@dataclass(frozen=True)
class Row:
    """How one fill did.

    Args:
        strategy: Its name; or those of each channel, by its number as text.
        options: Its arguments.
        scores: At all hidden voxels; of several channels in units of each one's standard deviation. None of a fill
            that is not possible.
        channels: Scores of each channel in its own units.
        spread: Standard deviation of the root mean square error between seeds.
        left: Hidden voxels that stayed missing, and are in no score.
        seconds: To learn and to fill once, on this machine.
        why: What makes it impossible.
    """

    strategy: Chosen
    options: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores | None = None
    channels: Mapping[str, Scores] = field(default_factory=dict)
    spread: float = 0.0
    left: int = 0
    seconds: float = 0.0
    why: str = ""

    @property
    def name(self) -> str:
        """The fill, and options it was given."""
        given = ", ".join(said_options(self.options))
        return f"{fill_name(self.strategy)} ({given})" if given else fill_name(self.strategy)


@dataclass(frozen=True)
class Check:
    """What was measured; printed, it is a table.

    Args:
        data: What was filled.
        shapes: What was hidden, in words.
        hidden: Voxels that were hidden, over all seeds.
        seeds: How many draws of them.
        unit: Of the scores.
        rows: Of each fill, the best first, and the impossible last.
        command: Fills the data with the best one.
        notes: What to know before the errors are believed.
    """

    data: str
    shapes: str
    hidden: int
    seeds: int
    unit: str
    rows: Sequence[Row]
    command: str
    notes: Sequence[str] = ()

    @property
    def best(self) -> Row:
        """The fill with the least root mean square error of those that leave nothing missing, if there is one."""
        return self.rows[0]

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dictionaries, lists and numbers."""
        return {**dataclasses.asdict(self), "rows": [dataclasses.asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        columns = ("fill", "RMSE", "+-", "MAE", "CRPS", "68 %", "95 %", "left", "s")
        lines = [columns, *(_cells(row) for row in self.rows if row.scores is not None)]
        if not any(row.left for row in self.rows):
            lines = [line[:7] + line[8:] for line in lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            f"{self.hidden} observed voxels hidden, {self.seeds} draw{'s' * (self.seeds != 1)}: {self.shapes}",
            f"errors in {self.unit}",
            *(
                "  ".join(
                    f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(line)
                ).rstrip()
                for line in lines
            ),
            *(f"{row.name}: {row.why}" for row in self.rows if row.why),
            f"best: {self.command}",
            *self.notes,
        ]
        return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    assert row.scores is not None
    found = row.scores
    shares = ("-" if one is None else f"{one:.2f}" for one in (found.within_68, found.within_95))
    sure = "-" if found.crps is None else f"{found.crps:.4g}"
    numbers = (f"{found.rmse:.4g}", f"{row.spread:.2g}", f"{found.mae:.4g}", sure)
    return row.name, *numbers, *shares, str(row.left), f"{row.seconds:.1f}"


def check_fills(
    data: str | os.PathLike[str],
    strategy: Chosen = STRATEGY,
    *,
    options: Mapping[str, Any] | None = None,
    fit_on: str = FIT_ON,
    mask: str | None = None,
    everywhere: bool = False,
    seeds: int = SEEDS,
    fills: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    say: Say = quiet,
    progress: Progress = unseen,
    **reading: Any,
) -> Check:
    """Measure every fill on observed voxels that are hidden in the shapes of the data's own gaps, and name the best.

    Hidden are gaps of other steps in time, or of other volumes, where they lie; else the data's own gaps, moved; else
    simulated ones, of the pattern that the gaps look like. What is hidden is not learnt from; a bundle has learnt
    before, and `notes` say so where it was from these data. Nothing is written.

    Args:
        data: As for `voxgap.load_data`, labelled or not; or one volume.
        strategy, options: A fill with arguments of its own, which is tried beside all others.
        fit_on: What statistics are learnt from: `train` (all, where there is no split) or `all`.
        mask: `VARIABLE` or `VARIABLE=VALUE,...` of the file: where gaps are filled; by default it is looked for.
        everywhere: Gaps are filled where nothing was ever observed, too.
        seeds: How many draws of what is hidden.
        fills: Those that are tried beside it; by default all but `learned`, which is trained for minutes.
        out: The folder in the command that is named.
        say: Called with each line that a user should read.
        progress: Wraps what is gone through one by one, with a title.
        **reading: `missing_values`, `missing_slices`, `axes` and `at`, see `voxgap.load_data`.

    Raises:
        VoxgapError: The data can't be read, or too little of it is observed.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> depth, height, width = np.indices((12, 12, 12))
        >>> values = np.sin(depth / 3) + np.cos(height / 4) + width / 12
        >>> vg.write("gaps.nii.gz", vg.Volume(vg.simulate(values[..., None], "voxels", 0.2)))
        >>> checked = vg.check_fills("gaps.nii.gz", seeds=1)
        >>> checked.best.name
        'kriging'
    """
    if seeds < 1:
        raise VoxgapError(f"seeds must be at least 1, got {seeds}")
    folder = Path("filled" if out is None else out)
    grid = read_as(strategy, as_files_are(**reading))
    how = (strategy, dict(options or {}), fit_on, mask, everywhere, grid)
    job = Job(str(data), folder, *how, say=say, progress=progress)
    # Before anything is read: a wrong option is a matter of a second.
    by_place = with_axes(job)
    check(job.strategy, by_place.options)
    known = of_job(job)
    tried_too = [name for name in FILLS if name != "learned"] if fills is None else fills
    asked: list[tuple[Chosen, Mapping[str, Any]]] = [(name, {}) for name in tried_too]
    own = job.strategy, job.options
    by_number = by_place.by_number(known.channels)
    if own not in asked:
        asked.insert(0, own)
    possible = [one for one in asked if not known.refuses(one[0])]
    draws = [known.hide(seed) for seed in range(seeds)]
    tried: dict[int, list[_Trial | VoxgapError]] = {}
    opened: dict[int, Fill] = {}  # a bundle learns nothing here: loaded, and compiled, once for all draws
    for index, draw in job.progress([(i, d) for d in range(seeds) for i in range(len(possible))], "checking"):
        chosen = by_number if possible[index] == own else possible[index]
        learnt = opened.get(index)
        if learnt is None and job.is_bundle and possible[index] == own:
            learnt = opened[index] = known.learn(chosen[0], chosen[1], {})
        trial = _trial(known, chosen[0], chosen[1], draws[draw][0], learnt)
        tried.setdefault(index, []).append(trial)
    rows = [_row(known, *possible[index], trials) for index, trials in tried.items()]
    # What leaves the hard ones missing has errors of its own.
    rows.sort(key=lambda row: (row.scores is None, row.left > 0, row.scores.rmse if row.scores else 0.0))
    rows += [Row(*one, why=f"not tried: {why}") for one in asked if (why := known.refuses(one[0]))]
    several = len(known.channels) > 1
    return Check(
        known.name,
        draws[0][1],
        sum(int(np.count_nonzero(one)) for hidden, _ in draws for one in hidden.values()),
        seeds,
        "standard deviations of each channel" if several else "the units of the data",
        rows,
        _command(job, rows[0]),
        _met(job, known),
    )


def _met(job: Job, known: Field) -> list[str]:
    """Say that a bundle was trained on what it is tried on, where it was."""
    if not job.is_bundle:
        return []
    from voxgap.bundle.scoring import known_to
    from voxgap.runtime import Bundle

    cases = known_to(Bundle.open(str(job.strategy)))
    return too_good(None if cases is None else overlap(digests(known.volumes), cases), len(known.volumes))


@dataclass(frozen=True)
class _Trial:
    """Errors of each channel at what was hidden of it, their deviations where a fill has them, NaN = left missing."""

    errors: Sequence[Floats]
    deviations: Sequence[Floats] | None
    seconds: float


def _trial(
    known: Field,
    strategy: Chosen,
    options: Mapping[str, Any],
    hidden: Mapping[int, Where],
    learnt: Fill | None = None,
) -> _Trial | VoxgapError:
    started = time.perf_counter()
    count = len(known.channels)
    errors: list[list[Floats]] = [[] for _ in range(count)]
    deviations: list[list[Floats]] = [[] for _ in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what means little: here its error says so
        try:
            fill = learnt or known.learn(strategy, options, hidden)
            for index, here in hidden.items():
                values = known.without(index, hidden)
                made = fill(values, known.wanted[index])
                for channel in range(count):
                    at = here[..., channel]
                    truth = known.volumes[index][..., channel][at]
                    errors[channel].append(values[..., channel][at].astype(float) - truth)
                    if made.deviation is not None:
                        deviations[channel].append(made.deviation[..., channel][at].astype(float))
        except VoxgapError as error:
            return error
    seconds = time.perf_counter() - started
    joined = [np.concatenate(parts) for parts in errors]
    sure = [np.concatenate(parts) for parts in deviations] if any(deviations) else None
    return _Trial(joined, sure, seconds)


def _row(known: Field, strategy: Chosen, options: Mapping[str, Any], trials: Sequence[Any]) -> Row:
    broken = next((trial for trial in trials if isinstance(trial, VoxgapError)), None)
    if broken is not None:
        return Row(strategy, options, why=f"not possible: {broken}")
    scale = known.scale()
    each = [_pooled([trial], scale) for trial in trials]
    error, deviation = _pooled(trials, scale)
    kept = ~np.isnan(error)
    if not kept.any():
        return Row(strategy, options, left=error.size, why="leaves all that was hidden missing")
    rmse = [float(np.sqrt(np.nanmean(one**2))) for one, _ in each if not np.isnan(one).all()]
    channels = {}
    for index, name in enumerate(known.channels):
        own, sure = _of_channel(trials, index)
        there = ~np.isnan(own)
        if there.any():
            channels[name] = scores_of(own[there], None if sure is None else sure[there])
    return Row(
        strategy,
        options,
        scores_of(error[kept], None if deviation is None else deviation[kept]),
        channels,
        float(np.std(rmse)),
        int(np.count_nonzero(~kept)),
        float(np.median([trial.seconds for trial in trials])),
    )


def _pooled(trials: Sequence[_Trial], scale: Floats) -> tuple[Floats, Floats | None]:
    found = [_of_channel(trials, index) for index in range(len(scale))]
    error = np.concatenate([own / unit for (own, _), unit in zip(found, scale, strict=True)])
    sures = [sure / unit for (_, sure), unit in zip(found, scale, strict=True) if sure is not None]
    return error, np.concatenate(sures) if sures else None


def _of_channel(trials: Sequence[_Trial], index: int) -> tuple[Floats, Floats | None]:
    error = np.concatenate([trial.errors[index] for trial in trials])
    sures = [trial.deviations[index] for trial in trials if trial.deviations is not None]
    return error, np.concatenate(sures) if sures else None


def said_options(options: Mapping[str, Any], of: str = "") -> list[str]:
    """Options of a fill as a command has them; those of a channel's fill as `channel.name=value`."""
    return [
        said
        for name, value in options.items()
        for said in (
            said_options(value, f"{name}.") if isinstance(value, Mapping) else [f"{of}{name}={value}"]
        )
    ]


def _command(job: Job, row: Row) -> str:
    """Return the command that fills the data with a fill."""
    words: list[str] = ["voxgap", "fill", job.data, "--strategy", fill_name(row.strategy)]
    words += [word for said in said_options(row.options) for word in ("--option", said)]
    words += ["--mask", job.mask] if job.mask else []
    words += ["--everywhere"] if job.everywhere else []
    words += ["--fit-on", job.fit_on] if job.fit_on != FIT_ON else []
    words += as_options({name: getattr(job.grid, name) for name in _READ})
    return shlex.join([*words, "--out", str(job.folder)])
