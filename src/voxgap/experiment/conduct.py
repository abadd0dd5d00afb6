"""`compare`: the question "which strategy works best for these data?" in one call."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from voxgap import decision
from voxgap.dataset import Dataset, load_data
from voxgap.experiment.asked import FOLDS, Asked, Strategies, Verdict, check_count, designed, in_seconds
from voxgap.experiment.comparison import Comparison
from voxgap.experiment.local import Event, no_more, run_all
from voxgap.experiment.plan import Experiment, Outcome, Run
from voxgap.experiment.planning import planned
from voxgap.experiment.racing import Race, check_budget, rounds
from voxgap.experiment.store import delete_store, experiments_in, open_store
from voxgap.intensity import Choice

Tell = Callable[[Event], None]
Ended = Sequence[tuple[Run, Outcome]]
Ahead = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Results:
    """Where results are, and how this call goes about them.

    Attributes:
        path: of the file of results.
        command: what a person types to do this again.
        source: what `load_data` reads the data from again; empty: its own name.
        retry: do those runs again that failed.
        fresh: delete what is there.
        budget: seconds for all rounds of a race, those of earlier calls included; None: as long as it takes.
        processes: how many runs are done at a time; None: as is usual for who does them.

    Raises:
        VoxgapError: that is no number of processes.
    """

    path: Path
    command: str = ""
    source: str = ""
    retry: bool = False
    fresh: bool = False
    budget: float | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.processes is not None:
            check_count("processes", self.processes)


@dataclass(frozen=True)
class Told:
    """Who is told what, as a comparison goes on; by default nobody.

    Attributes:
        planned: the experiment, before anything is written, and why volumes are normalised as they are.
        running: the experiment as it is done, what had ended before, and what finds out once how long it will take, as
            `voxgap.experiment.cost.estimate`; gives a context for the time of the runs, and with it what is told of
            each event.
        raced: how far a race is, before each round and after the last.
    """

    planned: Callable[[Experiment, Choice], None] = lambda *_: None
    running: Callable[[Experiment, Ended, Ahead], contextlib.AbstractContextManager[Tell]] = lambda *_: (
        contextlib.nullcontext(lambda event: None)
    )
    raced: Callable[[Race], None] = lambda _: None


def compare(
    dataset: str | os.PathLike[str] | Dataset,
    strategies: Strategies | None = None,
    *,
    models: str | Sequence[str] | None = None,
    pattern: str | Sequence[str] | None = None,
    mechanism: str | Sequence[str] = "mcar",
    train_rates: float | Sequence[float] | None = None,
    test_rates: float | Sequence[float] | None = None,
    folds: int = FOLDS,
    repeats: int = 1,
    seeds: int | Sequence[int] = 1,
    split_seed: int = 0,
    metric: str | None = None,
    rope: float | None = None,
    reference: str | None = None,
    threshold: str | float = decision.DEFAULT,
    out: str | os.PathLike[str] = "compare.db",
    retry: bool = False,
    budget: str | float | None = None,
    processes: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[Event], None] | None = None,
    command: str = "",
    architecture: Mapping[str, Any] | None = None,
    gap_options: Mapping[str, Any] | None = None,
    **training: Any,
) -> Comparison:
    """Train and score a network with each strategy, on the same splits with the same gaps, and say what is best.

    Called again with the same arguments, it goes on where it was stopped, or answers from the file.

    Args:
        dataset: see `load_data`. Gaps of its own stay; `train_rates` says what is taken away besides.
        strategies: names of presets and of the baselines `complete` and `drop`; or names of your own for
            `Strategy` values, as a mapping. By default mean, linear, mask_channel and masked_conv, and `complete`
            where only simulated gaps are missing.
        models: names of networks; by default see `voxgap.recipe.network_of`.
        pattern, mechanism: of the simulated gaps, one or several; see `simulate`. By default slices, mcar.
        train_rates: share of the units that is taken from training and validation volumes, in [0, 1]. By default
            half of them; where the data has gaps of its own and no pattern is named, none.
        test_rates: the same for test volumes; each trained network is scored at each. By default each is scored at
            the rate that it was trained at.
        folds: parts of the data, each of which is the test part once. 1 takes the data's own split.
        repeats: how often the data are divided into folds, and gaps drawn, anew.
        seeds: how many seeds of weights each run is done with, or which ones.
        split_seed: of splits and gaps.
        metric, rope, reference: how the verdict is found; see `Comparison.from_outcomes`.
        threshold: how classes are named, see `voxgap.decision.asked`; what is chosen is chosen on the validation part
            of each run.
        out: the file of results. It may hold other experiments; runs that they share are done once.
        retry: do those runs again that failed.
        budget: time for a race: `30m`, `2h`, or seconds. Splits come one after the other, strategies that can't win any
            more leave, and it ends as soon as the best is better than, or practically the same as, who is left; see
            `voxgap.experiment.racing`. The folds are dealt 3 times at most, if `repeats` doesn't say more.
        processes: see `run_all`. By default one for each processor.
        memory_limit: bytes that one run may take.
        progress: called as runs start and end.
        command: what a person types to do this again; kept in the file.
        architecture: further arguments of `build_model`; `normalize` is `auto` by default.
        gap_options: further arguments of `simulate`: axis, block_size, per_channel, strength.
        **training: further arguments of `train`: epochs (by default 40), patience (8), batch_size (32), precision,
            patch_size and others.

    Returns:
        The `Comparison`.

    Raises:
        VoxgapError: an argument is not possible, or the file can't be written to.

    Example:
        >>> import voxgap as vg
        >>> data = vg.load_data("sample:brain")
        >>> data = data.take(range(0, len(data), 12))  # a few will do here
        >>> small = {"architecture": {"filters": [4]}, "epochs": 1}
        >>> comparison = vg.compare(data, ["mean", "mask_channel"], models="cnn3d", folds=2, processes=1, **small)
        >>> sorted(place.strategy for place in comparison.overall.places)
        ['mask_channel', 'mean']
    """
    design = designed(
        strategies,
        models=models,
        pattern=pattern,
        mechanism=mechanism,
        train_rates=train_rates,
        test_rates=test_rates,
        folds=folds,
        repeats=repeats,
        seeds=seeds,
        split_seed=split_seed,
        gap_options=gap_options,
        racing=budget is not None,
    )
    asked = Asked.of(design, architecture or {}, training, threshold, Verdict(metric, rope, reference))
    runner = partial(run_all, memory_limit=memory_limit)
    told = Told() if progress is None else Told(running=lambda *_: contextlib.nullcontext(progress))
    limit = None if budget is None else in_seconds(budget)
    source = "" if isinstance(dataset, Dataset) else str(dataset)
    results = Results(Path(out), command, source, retry=retry, budget=limit, processes=processes)
    return conduct(load_data(dataset), asked, results, runner, told)


def conduct(
    dataset: Dataset,
    asked: Asked,
    results: Results,
    runner: Callable[..., None] = run_all,
    told: Told = Told(),
) -> Comparison:
    """Plan the experiment, do what is left of it, and say what it shows.

    Args:
        dataset: that it is about.
        asked: what is to be found out.
        results: where they are kept.
        runner: does the runs: `run_all`, or that of `voxgap.distributed`.
        told: who is told what.

    Raises:
        VoxgapError: something of it is not possible, or the file can't be written to.
        KeyboardInterrupt: Ctrl-C; what has ended is kept.
    """
    asked.verdict.check_metric(dataset.task, dataset.classes)
    experiment, chosen = planned(dataset, asked)
    told.planned(experiment, chosen)
    from voxgap.experiment.cost import Networks, estimate, with_precision  # Keras: only now

    networks = Networks(experiment, dataset)
    begun = {} if results.fresh else experiments_in(results.path)
    experiment = with_precision(experiment, networks, [*begun])
    ahead = cache(lambda: estimate(experiment, networks))
    # What can't be is refused before anything is written or deleted.
    if experiment.racing and results.budget is not None and not begun.get(experiment):
        check_budget(experiment, ahead()[0], results.budget)
    if results.fresh and networks.built:
        delete_store(results.path)
    with open_store(results.path, create=True) as store:
        store.add(experiment, results.command, dataset.reading(results.source))
        if results.retry:
            store.retry(experiment)
        before = store.outcomes(experiment)
        with told.running(experiment, before, ahead) as tell:
            # What came before, such as the estimate, is none of its rounds.
            since = time.monotonic() - store.seconds(experiment)
            race = rounds(experiment, store, asked.verdict, told.raced, since, results.budget)
            more = race if experiment.racing else no_more
            runner(experiment, dataset, store, processes=results.processes, progress=tell, more=more)
        return asked.verdict.on(experiment, store.outcomes(experiment))
