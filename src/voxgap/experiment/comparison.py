"""What an experiment found: rankings, a verdict in words, failures and cost, from the outcomes of its runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from voxgap import table
from voxgap.experiment.asked import Verdict
from voxgap.experiment.plan import BASELINES, Experiment, Outcome, Row, Run
from voxgap.experiment.racing import Race, race_of, without_late
from voxgap.experiment.ranking import (
    Ranking,
    Score,
    classes_of,
    conditions_of,
    deciding,
    ranking,
    scores_of,
)
from voxgap.files import finite, write_bytes
from voxgap.metrics.comparison import Place
from voxgap.names import metric_words
from voxgap.recipe import Recipe
from voxgap.trust.audit import Audit, pooled

RECONSTRUCTION = "rmse"
COLUMNS = (
    *(
        "run",
        "model",
        "strategy",
        "pattern",
        "mechanism",
        "train_rate",
        "test_rate",
        "repeat",
        "fold",
        "seed",
    ),
    *("status", "reason", "metric", "value", "n_train", "n_test", "epochs", "best_epoch"),
    *("seconds_train", "seconds_inference", "threshold"),
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Runs of one strategy without a score, for one reason."""

    strategy: str
    status: str
    reason: str
    runs: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a strategy took, on average over the runs that ended well.

    Attributes:
        strategy, model: what was trained.
        runs: that ended well.
        seconds_train: one training, with adapting the fill.
        milliseconds_inference: one volume, through the whole network in float32.
        epochs: until training stopped.
        best_epoch: whose weights were kept, counted from 1.
        capped: how many of the runs had their best epoch at the cap: they may still have been learning.
    """

    strategy: str
    model: str
    runs: int
    seconds_train: float
    milliseconds_inference: float
    epochs: float
    best_epoch: float
    capped: int = 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What an experiment found. Made by `Comparison.from_outcomes`, or by `voxgap.compare`.

    Attributes:
        experiment: that was planned.
        outcomes: of its runs so far.
        overall: the ranking over all conditions; the one that the verdict is on.
        rankings: one for each condition (network, pattern, mechanism, rate in training, rate in the test). Each
            corrects for its own comparisons only: among many, read them as hints.
        models: networks ranked over all strategies; None where there is one.
        reconstruction: strategies by the error of their fill on the simulated gaps, in standard deviations of the
            training values; None where there are none.
            Strategies with the same fill share a place. A good fill is not the same as a good network.
        race: how far it is, where strategies race; the verdict rests on its whole rounds.
    """

    experiment: Experiment
    outcomes: tuple[tuple[Run, Outcome], ...]
    overall: Ranking
    rankings: tuple[Ranking, ...]
    models: Ranking | None = None
    reconstruction: Ranking | None = None
    race: Race | None = None

    @classmethod
    def from_outcomes(
        cls,
        experiment: Experiment,
        outcomes: Iterable[tuple[Run, Outcome]],
        *,
        metric: str | None = None,
        rope: float | None = None,
        reference: str | None = None,
    ) -> Comparison:
        """Compare strategies on the runs that ended well.

        Args:
            experiment: that the runs are part of.
            outcomes: runs with their outcomes, of all or of some of the experiment.
            metric: that decides; by default dice for segmentation, accuracy for classification, mae for regression.
                `dice_NAME` is that of the class of this name.
            rope: differences up to this one don't matter, in the metric's unit; by default 0.01, or 1 % of the mean
                for an error in the data's unit.
            reference: strategy to compare the others with, chosen beforehand; by default the best.

        Raises:
            VoxgapError: no run has that metric, or the reference is not compared.
        """
        pairs = tuple(outcomes)
        metric = deciding(pairs, metric)
        race = race_of(experiment, pairs, Verdict(metric, rope, reference)) if experiment.racing else None
        counted = without_late(pairs, race, experiment.folds)
        sizes = _sizes(counted)
        names = [name for name, _ in experiment.strategies]
        scores = list(scores_of(counted, metric))
        models = list(dict.fromkeys(run.model for run, _ in pairs))
        settings: dict[str, Any] = {"rope": rope, "reference": reference}
        if race is not None:
            settings |= {"left": race.left, "level": race.level}
        overall = ranking(scores, names, sizes, metric, **settings)
        # The same region of equivalence in each, so that their verdicts can be compared.
        settings["rope"] = overall.rope
        by_condition = (
            ranking([s for s in scores if s.condition == one], names, sizes, metric, **settings)
            for one in sorted({score.condition for score in scores})
        )
        return cls(
            experiment,
            pairs,
            overall,
            tuple(by_condition),
            _of_models(scores, models, sizes, metric, overall.rope) if len(models) > 1 else None,
            _of_fills(counted, names, sizes),
            race,
        )

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return self.overall.metric

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of label maps, in their order; nothing where there are none, or no case was kept."""
        return classes_of(self.outcomes)

    def words_of(self, metric: str) -> str:
        """Return a metric's name for people: `dice of tumour`."""
        return metric_words(metric, self.classes)

    @property
    def verdict(self) -> str:
        """What the experiment shows, and no more."""
        return self.overall.words

    @cached_property
    def planned(self) -> int:
        """How many runs the experiment has; of a race those that were done or are due."""
        if self.race is not None:
            return len(self.outcomes) + len(self.race.due)
        return len(self.experiment.runs())

    @property
    def done(self) -> int:
        """How many runs have an outcome, good or not."""
        return len(self.outcomes)

    @property
    def unfinished(self) -> str:
        """What is not done yet, in words; empty where nothing is."""
        if self.race is not None:
            return self.race.words
        if self.done == self.planned:
            return ""
        return f"Unfinished: {self.done} of {self.planned} runs have ended."

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Runs without a score, counted by strategy and reason."""
        counts: dict[tuple[str, str, str], int] = {}
        for run, outcome in self.outcomes:
            if outcome.status != "done":
                key = (run.strategy, outcome.status, outcome.reason or "no reason known")
                counts[key] = counts.get(key, 0) + 1
        return tuple(Failure(*key, count) for key, count in counts.items())

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """Time and epochs by strategy and network, the cheapest training first."""
        by_kind: dict[tuple[str, str], list[Outcome]] = {}
        for run, outcome in self.outcomes:
            if outcome.status == "done":
                by_kind.setdefault((run.strategy, run.model), []).append(outcome)
        costs = [
            Cost(
                *kind,
                len(ended),
                float(np.mean([o.seconds_train for o in ended])),
                float(np.mean([1e3 * o.seconds_inference for o in ended])),
                float(np.mean([o.epochs for o in ended])),
                float(np.mean([o.best_epoch for o in ended])),
                sum(o.capped for o in ended),
            )
            for kind, ended in by_kind.items()
        ]
        return tuple(sorted(costs, key=lambda cost: cost.seconds_train))

    @property
    def cap(self) -> str:
        """Return which strategies had their best epoch at the cap of epochs, and what to do; empty if none had."""
        counts: dict[str, list[bool]] = {}
        for run, outcome in self.outcomes:
            if outcome.status == "done":
                counts.setdefault(run.strategy, []).append(outcome.capped)
        hit = [f"{name} in {sum(runs)} of {len(runs)} runs" for name, runs in counts.items() if any(runs)]
        if not hit:
            return ""
        epochs = max(outcome.epochs for _, outcome in self.outcomes if outcome.capped)
        return (
            f"The best epoch was the last of {epochs} allowed: {', '.join(hit)}. They may still have been learning, "
            "some more than others: give more epochs before you trust the ranking."
        )

    @property
    def cases(self) -> str:
        """Return on how many test cases the scores rest, in words; those of several repeats are the same ones."""
        sizes = _sizes(self.outcomes)
        if not sizes:
            return "no test case yet"
        first = [n_test for (repeat, _), (_, n_test) in sizes.items() if repeat == min(sizes)[0]]
        return f"n = {sum(first)} test cases"

    @property
    def decision(self) -> str:
        """Return by which rule classes are named, in words; empty where there are none."""
        done = [outcome for _, outcome in self.outcomes if outcome.status == "done"]
        if not any("accuracy" in values for outcome in done for values in outcome.scores.values()):
            return ""
        rule = self.experiment.threshold
        if rule == Recipe.threshold:
            return "The most probable class is named."
        found = [outcome.threshold for outcome in done if outcome.threshold is not None]
        span = f"{min(found):.3g} to {max(found):.3g}" if found and min(found) < max(found) else rule
        chosen = "" if span == rule else f", chosen by {rule} on the validation part of each run"
        return f"{_second_class(self.outcomes)} is named from a probability of {span} on{chosen}."

    @cached_property
    def predictions(self) -> tuple[Row, ...]:
        """What each network said of each case of its test part, at each test rate: out-of-fold predictions.

        A row has what tells the run (run, model, strategy, pattern, mechanism, train_rate, test_rate, repeat, fold,
        seed) and what `voxgap.experiment.cases.case_rows` says of the case.
        """
        rows = []
        for run, outcome in self.outcomes:
            facts = {"run": run.key, "model": run.model, "strategy": run.strategy}
            split = {name: getattr(run, name) for name in ("repeat", "fold", "seed")}
            for rate, cases in outcome.predictions.items():
                of_rate = facts | _gaps_of(run, rate) | {"test_rate": rate} | split
                rows += [of_rate | case for case in cases]
        return tuple(rows)

    @cached_property
    def audits(self) -> dict[str, Audit]:
        """What of the score of each strategy comes from what is missing alone, the best first, over all of its runs.

        A strategy has none where all scans miss the same, or an earlier version did its runs.
        """
        metric = deciding(self.outcomes, None)
        found = {}
        for name in (place.strategy for place in self.overall.places):
            members: list[str] = []
            rows: list[Row] = []
            for outcome in (outcome for run, outcome in self.outcomes if run.strategy == name):
                for rate, counted in outcome.audit.items():
                    rows += counted
                    said = outcome.predictions[rate][: len(counted)]
                    members += [str(one.get("group", one["case"])) for one in said]
            if audit := pooled(metric, rows, members):
                found[name] = audit
        return found

    @property
    def shortcut(self) -> str:
        """How far the best strategy leans on what is missing, and who does besides, in words; empty without audits."""
        if self.overall.best not in self.audits:
            return ""
        others = [name for name, audit in self.audits.items() if audit.leans and name != self.overall.best]
        besides = f" It is shown of {', '.join(others)}, too." if others else ""
        return f"{self.overall.best}: {self.audits[self.overall.best].conclusion}{besides}"

    def summary(self) -> str:
        """Return the verdict, the ranking and what failed, as text for a terminal."""
        overall = self.overall
        direction = "lower is better" if overall.lower_is_better else "higher is better"
        lines = [self.verdict, ""]
        lines.append(f"{self.words_of(overall.metric)} ({direction}), mean and 95 % interval, {self.cases}:")
        width = max((len(p.strategy) for p in (*overall.places, *overall.baselines)), default=0)
        for rank, place in overall.ranked:
            lines.append(f"{rank or '-':>3}  {place.strategy:<{width}}  {interval(place)}")
        for place in overall.baselines:
            lines.append(f"  -  {place.strategy:<{width}}  {interval(place)}  baseline")
        if self.decision:
            lines += ["", self.decision]
        if self.shortcut:
            lines += ["", self.shortcut]
        if self.models:
            lines += ["", f"Networks: {self.models.words}"]
        if self.reconstruction:
            lines += ["", f"Reconstruction of the gaps ({RECONSTRUCTION}): {self.reconstruction.words}"]
        for failure in self.failures:
            runs = "1 run" if failure.runs == 1 else f"{failure.runs} runs"
            lines.append(f"{failure.strategy}: {runs} {failure.status}: {failure.reason}")
        if self.cap:
            lines += ["", self.cap]
        if self.unfinished:
            lines.append(self.unfinished)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain dictionaries, lists and numbers."""
        return {
            "verdict": self.verdict,
            "runs_planned": self.planned,
            "runs_ended": self.done,
            "experiment": finite(self.experiment.to_json()),
            "classes": list(self.classes),
            "overall": self.overall.to_json(),
            "conditions": [one.to_json() for one in self.rankings],
            "models": self.models.to_json() if self.models else None,
            "reconstruction": self.reconstruction.to_json() if self.reconstruction else None,
            "cases": self.cases,
            "decision": self.decision,
            "cap": self.cap,
            "audits": {name: audit.to_json() for name, audit in self.audits.items()},
            "costs": finite([dataclasses.asdict(cost) for cost in self.costs]),
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
        }

    def write_json(self, path: str | Path) -> None:
        """Write `to_json()`; the file appears whole."""
        write_bytes(path, json.dumps(self.to_json(), indent=1, allow_nan=False).encode())

    def to_csv(self, path: str | Path) -> None:
        """Write one row a run, test rate and metric; a run without a score has one row; the file appears whole."""
        table.write(Path(path), COLUMNS, (row for pair in self.outcomes for row in _rows(*pair)))

    def predictions_to_csv(self, path: str | Path) -> None:
        """Write `predictions`, a row a run, test rate and case; the file appears whole."""
        columns = dict.fromkeys(name for row in self.predictions for name in row)
        table.write(Path(path), [*columns] or ["run"], self.predictions)


def interval(place: Place) -> str:
    """Return `0.912 (0.880 to 0.944)`, or the mean and why it has no interval."""
    if np.isnan(place.mean):
        return "no score"
    digits = ".3f" if abs(place.mean) < 10 else ".4g"
    if np.isnan(place.low):
        return f"{place.mean:{digits}} ({place.unsure})"
    return f"{place.mean:{digits}} ({place.low:{digits}} to {place.high:{digits}})"


def _second_class(pairs: Sequence[tuple[Run, Outcome]]) -> str:
    """Return the class that a threshold decides on: by its name, where the predictions are kept."""
    return ((classes_of(pairs, "p_") or classes_of(pairs))[1:] or ("The second class",))[0]


def _sizes(pairs: Sequence[tuple[Run, Outcome]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return samples in training and test by split; of runs that trained on fewer, as `drop` does, the most."""
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for run, outcome in pairs:
        if outcome.status == "done":
            split = (run.repeat, run.fold)
            sizes[split] = max(sizes.get(split, (0, 0)), (outcome.n_train, outcome.n_test))
    return sizes


def _of_models(scores: list[Score], models: list[str], sizes: Any, metric: str, rope: float) -> Ranking:
    """Rank networks: what is a strategy's name elsewhere is a network's, and the other way round."""
    swapped = [
        score._replace(name=score.condition.model, condition=score.condition._replace(model=score.name))
        for score in scores
        if score.name not in BASELINES
    ]
    return ranking(swapped, models, sizes, metric, rope=rope)


def _of_fills(pairs: Sequence[tuple[Run, Outcome]], names: Sequence[str], sizes: Any) -> Ranking | None:
    """Rank strategies by the error of their fill; those that fill alike share a place."""
    scores: dict[str, list[Score]] = {}
    for run, outcome in pairs:
        for rate, condition in conditions_of(run):
            errors = outcome.reconstruction.get(rate)
            if errors and run.strategy not in BASELINES:
                split = (run.repeat, run.fold)
                score = Score(run.strategy, condition, split, run.seed, errors[RECONSTRUCTION])
                scores.setdefault(run.strategy, []).append(score)
    alike: dict[tuple[Any, ...], list[str]] = {}
    for strategy in [one for one in names if one in scores]:
        alike.setdefault(tuple(sorted((s[1:] for s in scores[strategy]), key=repr)), []).append(strategy)
    shared = {strategy: ", ".join(same) for same in alike.values() for strategy in same}
    one_each = [s._replace(name=shared[same[0]]) for same in alike.values() for s in scores[same[0]]]
    return ranking(one_each, shared.values(), sizes, RECONSTRUCTION) if one_each else None


def _gaps_of(run: Run, *test_rates: float) -> Row:
    """Return what tells the gaps of a run at these test rates; their kind stays empty where none were simulated."""
    simulated = run.train_rate or any(test_rates)
    kind = {name: getattr(run, name) if simulated else "" for name in ("pattern", "mechanism")}
    return kind | {"train_rate": run.train_rate}


def _rows(run: Run, outcome: Outcome) -> Iterator[dict[str, Any]]:
    facts = {
        "run": outcome.key,
        "strategy": run.strategy,
        "model": run.model,
        **_gaps_of(run, *run.test_rates),
        **{field: getattr(run, field) for field in ("repeat", "fold", "seed")},
        **{field: getattr(outcome, field) for field in COLUMNS[10:] if field not in ("metric", "value")},
    }
    if outcome.status != "done":
        yield facts
        return
    for rate, values in outcome.scores.items():
        errors = outcome.reconstruction.get(rate) or {}
        named = values | {f"reconstruction_{metric}": value for metric, value in errors.items()}
        for metric, value in named.items():
            yield facts | _gaps_of(run, rate) | {"test_rate": rate, "metric": metric, "value": value}
