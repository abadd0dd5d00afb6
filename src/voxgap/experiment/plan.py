"""What an experiment consists of: frozen values that can be hashed, written as JSON and sent anywhere."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from voxgap.files import digest, finite
from voxgap.recipe import COMPARED, Architecture, Gaps, Recipe, Strategy, Training

BASELINES = ("complete", "drop")


def key_of(value: Any) -> str:
    """Return the 16 hexadecimal digits that a value is known by."""
    return digest(value)[:16]


@dataclass(frozen=True)
class Run:
    """One network, trained once on one split of one data set with one strategy, and scored at its test rates.

    Attributes:
        data: what people call the data set.
        data_key: digest of its content, see `voxgap.experiment.data.content_key`.
        strategy: its name; `complete` and `drop` are the baselines.
        recipe: the network, how it handles gaps and how it is trained.
        gaps: that are simulated in the training and validation volumes; None for `complete`.
        test_rates: share of the units that is taken from the test volumes; the network is scored at each.
        fold: which part of the data is the test part, from 0. folds: how many there are; with 1, the data's own
            split is used.
        repeat: which of several divisions into folds, from 0.
        seed: of the weights, dropout and the order of batches, drawn from it anew in each split. Gaps and splits don't
            depend on it.
        split_seed: of gaps and splits.
    """

    data: str
    data_key: str
    strategy: str
    recipe: Recipe
    gaps: Gaps | None
    test_rates: tuple[float, ...]
    repeat: int
    fold: int
    folds: int
    seed: int
    split_seed: int = 0

    @property
    def key(self) -> str:
        """What the run is known by: equal runs have equal keys, in every process."""
        return key_of(self.to_json())

    @property
    def model(self) -> str:
        """A name among `voxgap.models.NETWORKS`."""
        return str(self.recipe.network)

    @property
    def pattern(self) -> str:
        """Of the simulated gaps; empty where there are none."""
        return self.gaps.pattern if self.gaps else ""

    @property
    def mechanism(self) -> str:
        """Of the simulated gaps; empty where there are none."""
        return self.gaps.mechanism if self.gaps else ""

    @property
    def train_rate(self) -> float:
        """Share of the units that is taken from the training and validation volumes, in [0, 1]."""
        return self.gaps.missing_rate if self.gaps else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        gaps = None if self.gaps is None else self.gaps.unusual()
        return plain | {"recipe": self.recipe.unusual(), "gaps": gaps, "test_rates": [*self.test_rates]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        """Rebuild a run from `to_json`."""
        gaps = None if data["gaps"] is None else Gaps.of(data["gaps"])
        rates = tuple(map(float, data["test_rates"]))
        return cls(**{**data, "recipe": Recipe.of(data["recipe"]), "gaps": gaps, "test_rates": rates})


@dataclass(frozen=True)
class Experiment:
    """The paired set of runs that answers which strategy works best.

    Attributes:
        strategies: `(name, Strategy)` of each.
        models, gaps: each is crossed with each. A network is trained with the gaps and scored at all test rates; where
            there are none, at the rate that it was trained at.
        folds: parts of the data, each the test part once; 1 takes the data's own split.
        repeats: how often the data is divided into folds anew.
        seeds: of the weights; each run is done with each.
        architecture, training, threshold: of every recipe.
        data, data_key, split_seed: see `Run`.
        racing: whether strategies leave on the way and the rest is not done, see `voxgap.experiment.racing`.
    """

    data: str
    data_key: str
    strategies: tuple[tuple[str, Strategy], ...]
    models: tuple[str, ...] = ("resnet3d",)
    gaps: tuple[Gaps, ...] = (Gaps(),)
    test_rates: tuple[float, ...] = ()
    folds: int = 5
    repeats: int = 1
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    architecture: Architecture = Recipe.architecture
    training: Training = COMPARED
    threshold: str = Recipe.threshold
    racing: bool = False

    def __post_init__(self) -> None:
        # One value in one form: lists and whole numbers would give equal experiments different keys.
        for field in ("models", "gaps", "seeds", "strategies"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        object.__setattr__(self, "test_rates", tuple(map(float, self.test_rates)))

    @property
    def key(self) -> str:
        """What the experiment is known by."""
        return key_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as plain data."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        strategies = [[name, strategy.unusual()] for name, strategy in self.strategies]
        values = {name: getattr(self, name).unusual() for name in ("architecture", "training")}
        several = {name: [*plain[name]] for name in ("models", "test_rates", "seeds")}
        if not self.racing:
            del plain["racing"]  # as earlier versions wrote it, and know it by
        return (
            plain
            | several
            | values
            | {"strategies": strategies, "gaps": [one.unusual() for one in self.gaps]}
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Experiment:
        """Rebuild an experiment from `to_json`."""
        return cls(
            **{
                **data,
                "strategies": tuple((name, Strategy.of(value)) for name, value in data["strategies"]),
                "gaps": tuple(map(Gaps.of, data["gaps"])),
                "architecture": Architecture.of(data["architecture"]),
                "training": Training.of(data["training"]),
            }
        )

    def runs(self) -> tuple[Run, ...]:
        """Return all runs, each once, in the order in which they are done.

        Fold by fold, and all strategies of a fold together: whenever it is interrupted, nearly all strategies have
        been through the same folds.
        """
        return tuple(dict.fromkeys(self._runs()))

    def _runs(self) -> Iterator[Run]:
        divisions = itertools.product(self.seeds, range(self.repeats), range(self.folds))
        for (seed, repeat, fold), gaps in itertools.product(divisions, self.gaps):
            for (name, strategy), model in itertools.product(self.strategies, self.models):
                complete = name == "complete"
                yield Run(
                    self.data,
                    self.data_key,
                    name,
                    Recipe(model, strategy, self.architecture, self.training, self.threshold),
                    # Once a fold, whatever is taken from the others.
                    gaps=None if complete else gaps,
                    test_rates=(0.0,) if complete else (self.test_rates or (gaps.missing_rate,)),
                    repeat=repeat,
                    fold=fold,
                    folds=self.folds,
                    seed=seed,
                    split_seed=self.split_seed,
                )


CASES = ("predictions", "audit")
"""What an outcome has of each case: kept beside it, since few readers want it."""

Scores = dict[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        key: of the run.
        status: `done`, `failed` or `not possible`.
        reason: why it failed or is not possible, in one line; for a run that is done, why training ended.
        scores: test rate -> metric -> value, on the test part; NaN where a metric is not defined.
        reconstruction: test rate -> `mae` and `rmse` of the fill on the simulated gaps of the test part, in units
            of the standard deviation of the observed training values; None where there are no simulated gaps, and
            for the baselines.
        seconds_train: of training. Where the fill is computed once for several runs, it is not in it.
        seconds_inference: of one volume, filling included, in float32.
        epochs: that ran. best_epoch: whose weights were kept, from 1.
        history: one record an epoch, see `voxgap.history.History`.
        n_train, n_validation, n_test: how many volumes.
        precision: dtype policy of the training step.
        versions: of Python, voxgap, Keras, its backend and NumPy.
        threshold: from which probability on the second of two classes was named; None: the more probable one.
        predictions: test rate -> what the network said of each test case, see `voxgap.experiment.cases`; empty where
            an earlier version did the run.
        audit: the test rate nearest to that of the training -> what an audit of shortcuts counts of each test case, in
            the order of `predictions`, see `voxgap.trust.audit.audited_cases`.
    """

    key: str
    status: str
    reason: str = ""
    scores: dict[float, Scores] = dataclasses.field(default_factory=dict)
    reconstruction: dict[float, Scores | None] = dataclasses.field(default_factory=dict)
    seconds_train: float = 0.0
    seconds_inference: float = 0.0
    epochs: int = 0
    best_epoch: int = 0
    history: tuple[dict[str, float], ...] = ()
    n_train: int = 0
    n_validation: int = 0
    n_test: int = 0
    precision: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    threshold: float | None = None
    predictions: dict[float, tuple[Row, ...]] = dataclasses.field(default_factory=dict)
    audit: dict[float, tuple[Row, ...]] = dataclasses.field(default_factory=dict)

    @property
    def capped(self) -> bool:
        """Whether the best epoch was the last one that was allowed: the network may still have been learning."""
        return self.status == "done" and self.reason == "epochs" and self.best_epoch == self.epochs

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain data; NaN and infinity, which JSON lacks, as null."""
        plain: dict[str, Any] = finite(dataclasses.asdict(self))
        for name in CASES:
            plain[name] = {rate: _columns(rows) for rate, rows in plain[name].items()}
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Rebuild an outcome from `to_json`."""
        by_rate: dict[str, Any] = {
            name: {float(rate): values and _numbers(values) for rate, values in data[name].items()}
            for name in ("scores", "reconstruction")
        }
        for name in CASES:
            by_rate[name] = {float(rate): _rows(columns) for rate, columns in data.get(name, {}).items()}
        return cls(**{**data, **by_rate, "history": tuple(map(_numbers, data["history"]))})


def _numbers(values: Mapping[str, Any]) -> Scores:
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Return a table by columns, which says each name once."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _rows(columns: Mapping[str, list[Any]]) -> tuple[Row, ...]:
    return tuple(dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
