"""A search among strategies, networks and hyperparameters: Optuna proposes settings, validation alone chooses.

Source: Akiba et al., Optuna: a next-generation hyperparameter optimization framework, KDD 2019; it proposes by Bergstra
et al., Algorithms for hyper-parameter optimization, NeurIPS 2011 (tree-structured Parzen estimator).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import DEFAULT_STRATEGIES, Asked, Design, check_count
from voxgap.experiment.comparison import Comparison
from voxgap.experiment.conduct import Results, conduct
from voxgap.experiment.local import default_processes, run_all
from voxgap.experiment.plan import BASELINES, Experiment, Outcome, Run, key_of
from voxgap.experiment.planning import planned
from voxgap.experiment.store import delete_store, open_store
from voxgap.recipe import strategy_of

if TYPE_CHECKING:
    from optuna import Study

RATES = (1e-4, 1e-2)
"""Learning rates that are tried, at least from the one to the other."""
WIDTHS = (0.5, 1.0, 2.0)
"""Times the filters of each stage."""
DECAYS = (0.0, 0.001, 0.01, 0.05)
GAP_DROPOUTS = (0.0, 0.1, 0.2, 0.4)
Setting = Mapping[str, Any]
"""`strategy` (its name), `model`, `learning_rate`, `filters`, `weight_decay` and `gap_dropout`."""


@dataclass(frozen=True)
class Tried:
    """A setting and what came of it.

    Attributes:
        number: which one, from 1.
        setting: what was tried.
        value: what was watched, in its best epoch, on the validation part; mean over seeds. None where a run failed.
    """

    number: int
    setting: Setting
    value: float | None


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        tried: all settings, in their order.
        best: the one that is best in validation; of several, the first.
        monitor: what was watched.
        found: its experiment, whose test part nothing was chosen by.
    """

    tried: tuple[Tried, ...]
    best: Tried
    monitor: str
    found: Comparison


@dataclass(frozen=True)
class Space:
    """The values that each part of a setting can have; the first are those that were asked for, and are tried first."""

    strategies: tuple[str, ...]
    models: tuple[str, ...]
    filters: tuple[str, ...]
    weight_decays: tuple[float, ...]
    gap_dropouts: tuple[float, ...]
    learning_rates: tuple[float, float]
    first_rate: float

    @classmethod
    def about(cls, experiment: Experiment) -> Space:
        """Return the space about what is asked for."""
        asked, rate = experiment.training, experiment.training.learning_rate
        names = tuple(name for name, _ in experiment.strategies)
        own = experiment.strategies[0][1].gap_dropout
        wider = (
            ",".join(str(max(1, round(width * n))) for n in experiment.architecture.filters)
            for width in (1.0, *WIDTHS)
        )
        return cls(
            names,
            experiment.models,
            tuple(dict.fromkeys(wider)),
            tuple(dict.fromkeys((asked.weight_decay, *DECAYS))),
            tuple(dict.fromkeys((own, *GAP_DROPOUTS))),
            (min(rate, RATES[0]), max(rate, RATES[1])),
            rate,
        )

    def distributions(self) -> dict[str, Any]:
        """Return the same as Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            "strategy": CategoricalDistribution(self.strategies),
            "model": CategoricalDistribution(self.models),
            "learning_rate": FloatDistribution(*self.learning_rates, log=True),
            "filters": CategoricalDistribution(self.filters),
            "weight_decay": CategoricalDistribution(self.weight_decays),
            "gap_dropout": CategoricalDistribution(self.gap_dropouts),
        }

    def ordered(self, setting: Setting) -> Setting:
        """Return a setting in the order of its parts here."""
        return {name: setting[name] for name in self.first()}

    def first(self) -> Setting:
        """Return the setting that was asked for."""
        return {
            "strategy": self.strategies[0],
            "model": self.models[0],
            "learning_rate": self.first_rate,
            "filters": self.filters[0],
            "weight_decay": self.weight_decays[0],
            "gap_dropout": self.gap_dropouts[0],
        }


def check_tunable(design: Design, trials: int) -> None:
    """Refuse what no setting can be chosen for.

    Raises:
        VoxgapError: more than one kind of gaps, folds, a baseline among the strategies, or no number of settings.
    """
    check_count("tune", trials)
    gaps: tuple[tuple[str, Sequence[Any] | None], ...] = (
        ("pattern", design.patterns),
        ("mechanism", design.mechanisms),
        ("rate", design.train_rates),
        ("test rate", design.test_rates),
    )
    for name, several in gaps:
        if len(several or ()) > 1:
            raise VoxgapError(f"tune: a setting is chosen for one kind of gaps; give one {name}")
    if design.folds != 1 or design.racing:
        raise VoxgapError("tune: settings are chosen on the data's own split; leave out folds and budget")
    if baselines := [name for name in design.strategies or () if name in BASELINES]:
        raise VoxgapError(f"tune: {baselines[0]} is a baseline, which nobody can choose; leave it out")


def tune(
    dataset: Dataset,
    asked: Asked,
    trials: int,
    results: Results,
    runner: Callable[..., None] = run_all,
    told: Callable[[Tried, int], None] | None = None,
) -> Tuned:
    """Try settings one after the other until there are so many, and return the best in validation.

    Each is trained on the train part of the data's own split and watched on its validation part, as any run; what it
    scores on the test part is looked at by nobody until one is chosen. The settings that were proposed stand in the
    file of results beside the runs: started again it goes on, by the same proposals, for they follow from the seed of
    the split, their number and what was found before.

    Args:
        dataset: with its own split.
        asked: what is searched about, see `Space`; one kind of gaps, one fold.
        trials: settings, those of earlier calls included.
        results: where they are kept.
        runner: does the runs.
        told: called with each setting as it ends, and how many there will be.

    Raises:
        VoxgapError: it can't be, or no setting could be trained.
        ModuleNotFoundError: Optuna is not installed.
    """
    from optuna.trial import TrialState

    from voxgap.training.objective import higher_is_better

    check_tunable(asked.design, trials)
    named = asked.design.strategies or dict(zip(DEFAULT_STRATEGIES, DEFAULT_STRATEGIES, strict=True))
    asked = dataclasses.replace(asked, design=dataclasses.replace(asked.design, strategies=named))
    whole, _ = planned(dataset, asked)
    if results.fresh:
        delete_store(results.path)
    # One run for each seed at a time, which share the processors.
    processes = results.processes or min(len(asked.design.seeds), default_processes())
    results = dataclasses.replace(results, fresh=False, processes=processes)
    space, monitor = Space.about(whole), whole.training.monitor
    sign = -1.0 if higher_is_better(monitor) else 1.0
    with _study(results.path, key_of([whole.to_json(), dataclasses.asdict(space)])) as study:
        if not study.trials:
            study.enqueue_trial(dict(space.first()))
        found: dict[int, Comparison] = {}
        while (number := _next(study, space, trials, whole.split_seed)) is not None:
            setting = space.ordered(study.trials[number].params)
            found[number] = conduct(dataset, of_setting(asked, setting), results, runner)
            value = validation_value(found[number].outcomes, monitor)
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            study.tell(number, None if value is None else sign * value, state, skip_if_finished=True)
            if told is not None:
                told(Tried(number + 1, setting, value), trials)
        tried = tuple(
            Tried(one.number + 1, space.ordered(one.params), None if one.value is None else sign * one.value)
            for one in study.trials[:trials]
            if one.state.is_finished() and len(one.params) == len(space.first())
        )
    trained = [(sign * one.value, one) for one in tried if one.value is not None]
    if not trained:
        raise VoxgapError(f"tune: none of {len(tried)} settings could be trained{_why(found)}")
    _, best = min(trained, key=lambda one: one[0])
    chosen = found.get(best.number - 1) or conduct(dataset, of_setting(asked, best.setting), results, runner)
    return Tuned(tried, best, monitor, chosen)


def of_setting(asked: Asked, setting: Setting) -> Asked:
    """Return what is asked, of one setting alone."""
    name = setting["strategy"]
    strategy = strategy_of((asked.design.strategies or {})[name], gap_dropout=setting["gap_dropout"])
    filters = tuple(int(n) for n in setting["filters"].split(","))
    training = {field: setting[field] for field in ("learning_rate", "weight_decay")}
    return dataclasses.replace(
        asked,
        design=dataclasses.replace(asked.design, strategies={name: strategy}, models=(setting["model"],)),
        architecture=dataclasses.replace(asked.architecture, filters=filters),
        training=dataclasses.replace(asked.training, **training),
    )


def validation_value(outcomes: Sequence[tuple[Run, Outcome]], monitor: str) -> float | None:
    """Return what was watched, in the best epoch of each run, on average; None where a run failed."""
    values = []
    for _, outcome in outcomes:
        if outcome.status != "done":
            return None
        values.append(outcome.history[outcome.best_epoch - 1].get(monitor, math.nan))
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _why(found: Mapping[int, Comparison]) -> str:
    reasons = [
        o.reason for comparison in found.values() for _, o in comparison.outcomes if o.status != "done"
    ]
    return f": {reasons[0]}" if reasons else ""


def _next(study: Study, space: Space, trials: int, seed: int) -> int | None:
    """Return the number of the next setting to be tried, first one that a killed process left; None at the end.

    What Optuna proposes follows from the seed, the number of the setting and those before, whoever asks.
    """
    import optuna
    from optuna.trial import TrialState

    for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if len(one.params) == len(space.first()):
            return one.number
        study.tell(one.number, state=TrialState.FAIL)  # killed while it was being written down
    there = study.get_trials(deepcopy=False)
    count = sum(one.state != TrialState.WAITING for one in there)
    if count >= trials:
        return None
    study.sampler = optuna.samplers.TPESampler(seed=int(key_of([seed, count])[:8], 16))
    return study.ask(space.distributions()).number


@contextlib.contextmanager
def _study(path: Path, name: str) -> Iterator[Study]:
    """Give the study of that name in a file of results."""
    import optuna
    from sqlalchemy.engine import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    open_store(path, create=True).close()  # first, so that the file says whose it is
    url = URL.create("sqlite", database=str(path.absolute())).render_as_string()
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    try:
        yield optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    finally:
        storage.remove_session()
        storage.engine.dispose()
