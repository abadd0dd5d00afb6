"""The page of an experiment: the verdict first, then what it rests on, and how to do it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxgap.pictures import Figure
from voxgap.report.audit import audits_section
from voxgap.report.figures import fills as picture_of_fills
from voxgap.report.figures import heat_maps, intervals, learning_curves, number
from voxgap.report.page import Section, Table, write_page
from voxgap.report.pareto import Candidate, cost_section

if TYPE_CHECKING:
    from voxgap.experiment.comparison import Comparison
    from voxgap.experiment.examples import Example
    from voxgap.experiment.ranking import Condition, Ranking
    from voxgap.metrics.comparison import Place

MEANING = {
    "complete": "trained and tested on the data before the simulated gaps",
    "drop": "trained on complete samples only, gaps in the test get the mean",
}


def write_report(
    comparison: Comparison,
    path: str | Path,
    *,
    command: str = "",
    fills: Sequence[Example] = (),
) -> None:
    """Write the page, and `results.csv`, `results.json` and `predictions.csv` beside it; each appears whole.

    Args:
        comparison: what was found.
        path: of the page.
        command: what a person types to do the experiment again.
        fills: channels of volumes as they are, with gaps, and as each strategy fills them.
    """
    path = Path(path)
    sections = [
        _ranking(comparison),
        *_conditions(comparison),
        *_networks(comparison),
        *_reconstruction(comparison, fills),
        *audits_section(comparison.audits, comparison.shortcut),
        *_curves(comparison),
        _cost(comparison),
        *_against_cost(comparison),
        *_failures(comparison),
        _again(comparison, command),
    ]
    note = f" {comparison.unfinished}" if comparison.unfinished else ""
    title = f"What works best for {Path(comparison.experiment.data).name}"
    write_page(path, title, comparison.verdict + note, sections)
    comparison.to_csv(path.with_name("results.csv"))
    comparison.write_json(path.with_name("results.json"))
    if comparison.predictions:
        comparison.predictions_to_csv(path.with_name("predictions.csv"))


def _ranking(comparison: Comparison) -> Section:
    plan, overall = comparison.experiment, comparison.overall
    metric = comparison.words_of(overall.metric)
    splits = f"{plan.folds} folds" if plan.folds > 1 else "the data's own split"
    if comparison.race is not None:
        splits = f"{comparison.race.rounds} rounds of a race, each one of {plan.folds} folds"
    elif plan.repeats > 1:
        splits += f", dealt {plan.repeats} times"
    seeds = f"{len(plan.seeds)} seeds each" if len(plan.seeds) > 1 else "one seed each"
    ended = sum(outcome.status == "done" for _, outcome in comparison.outcomes)
    paragraphs = [
        f"{ended} networks were trained: {splits}, {seeds}, {comparison.cases}. All strategies had the same "
        "splits and the same gaps. "
        f"Differences of up to {overall.rope:.2g} in {metric} count as practically none. "
        "Lines are 95 % intervals that allow for training sets that overlap; what is grey is shown to be worse "
        f"than the best, or is a baseline. {comparison.decision}",
    ]
    if comparison.cap:
        paragraphs.append(comparison.cap)
    if len(overall.conditions) > 1:
        paragraphs.append(f"Scores are averaged over {len(overall.conditions)} conditions, listed below.")
    if overall.baselines:
        meanings = "; ".join(f"{place.strategy}, {MEANING[place.strategy]}" for place in overall.baselines)
        paragraphs.append(f"Baselines, which take no part in the ranking: {meanings}.")
    figures = [(intervals(overall, metric), f"{metric}: mean and 95 % interval.")] if overall.best else []
    return Section("Ranking", paragraphs, _table(overall, metric), figures)


def _table(ranking: Ranking, metric: str) -> Table:
    target = ranking.reference or ranking.best or "the best"
    places = (*ranking.places, *ranking.baselines)
    header = ["strategy", metric, "95 % interval", f"better than {target} by"]
    header.append("P worse / same / better")
    rows = [_row(place) for place in places]
    if any(place.failed for place in places):
        header.append("without a score")
        rows = [[*row, str(place.failed or "")] for row, place in zip(rows, places, strict=True)]
    return Table(header, rows, best=None if ranking.best is None else 0)


def _row(place: Place) -> list[str]:
    pair = place.against
    row = [place.strategy, number(place.mean), _range(place), "–", "–"]
    if pair and not math.isnan(pair.difference):
        row[3] = ("−" if pair.difference < 0 else "+") + number(abs(pair.difference))
    if pair and not math.isnan(pair.better):
        row[4] = f"{pair.worse:.2f} / {pair.same:.2f} / {pair.better:.2f}"
    return row


def _conditions(comparison: Comparison) -> list[Section]:
    if len(comparison.rankings) < 2:
        return []
    rows = [(str(one.conditions[0]), one.words) for one in comparison.rankings]
    words = [
        "Each condition corrects for its own comparisons only. Among many some will mislead: the verdict above is "
        "the one to go by, these say where to look."
    ]
    table = Table(("gaps", "what is shown"), rows, words=True)
    return [
        Section("By kind and rate of gaps", words, figures=_heat_maps(comparison)),
        Section(f"What is shown under each of these {len(rows)} conditions", table=table, folded=True),
    ]


def _heat_maps(comparison: Comparison) -> list[tuple[Figure, str]]:
    """Draw one figure for each network, pattern and mechanism that has more than one pair of rates."""
    overall = comparison.overall
    groups: dict[tuple[str, str, str], dict[Condition, Ranking]] = {}
    for one in comparison.rankings:
        condition = one.conditions[0]
        groups.setdefault(condition[:3], {})[condition] = one
    figures = []
    for (model, pattern, mechanism), members in groups.items():
        train_rates = sorted({condition.train_rate for condition in members})
        test_rates = sorted({condition.test_rate for condition in members})
        empty = np.full((len(train_rates), len(test_rates)), np.nan)
        panels = {place.strategy: empty.copy() for place in (*overall.places, *overall.baselines)}
        for condition, ranking in members.items():
            cell = train_rates.index(condition.train_rate), test_rates.index(condition.test_rate)
            for place in (*ranking.places, *ranking.baselines):
                panels[place.strategy][cell] = place.mean
        panels = {name: panel for name, panel in panels.items() if np.isfinite(panel).any()}
        if len(members) < 2 or not panels:
            continue
        figure = heat_maps(
            panels,
            train_rates,
            test_rates,
            comparison.words_of(overall.metric),
            lower_is_better=overall.lower_is_better,
        )
        caption = f"{model}, {pattern} missing ({mechanism.upper()}): the darker, the better."
        figures.append((figure, caption))
    return figures


def _networks(comparison: Comparison) -> list[Section]:
    models = comparison.models
    if models is None:
        return []
    words = [models.words, "Scores are averaged over all strategies."]
    return [Section("Networks", words, _table(models, comparison.words_of(models.metric)))]


def _reconstruction(comparison: Comparison, fills: Sequence[Example]) -> list[Section]:
    sections = []
    if fills:
        cases = dict.fromkeys(example.case for example in fills)
        which = "A test volume" if len(cases) == 1 else f"Channels of {len(cases)} test volumes"
        words = [
            f"{which} of the first fold, before and after: red is missing, numbers are those of slices. "
            "Strategies with the same fill share a row."
        ]
        figures = [(picture_of_fills(example.versions), _caption(example)) for example in fills]
        sections.append(Section("What the fills make of the same gap", words, figures=figures))
    if comparison.reconstruction is not None:
        words = [
            comparison.reconstruction.words,
            "How far filled values are from the true ones on the simulated gaps of the test volumes, in standard "
            "deviations of the training values. A good fill is not the same as a good network: the ranking above "
            "decides.",
        ]
        sections.append(
            Section(
                "Reconstruction", words, _table(comparison.reconstruction, comparison.reconstruction.metric)
            )
        )
    return sections


def _caption(example: Example) -> str:
    said = [f"channel {example.channel}"] if example.channel else []
    said += [f"volume {example.case}"] if example.case else []
    line = " of ".join(said)
    return f"{line[:1].upper()}{line[1:]}." if line else ""


def _curves(comparison: Comparison) -> list[Section]:
    histories = [(run.strategy, o) for run, o in comparison.outcomes if o.status == "done" and o.history]
    shown = next((m for m in ("val_loss", "loss") if histories and m in histories[0][1].history[0]), None)
    if shown is None:
        return []
    runs: dict[str, list[tuple[list[float], int]]] = {}
    for strategy, outcome in histories:
        values = [epoch.get(shown, math.nan) for epoch in outcome.history]
        runs.setdefault(strategy, []).append((values, outcome.best_epoch - 1))
    quantity = "validation loss" if shown == "val_loss" else "training loss"
    caption = f"The {quantity} of each run. Dots mark the epochs whose weights were kept."
    return [Section("Learning curves", figures=[(learning_curves(runs, quantity), caption)])]


def _cost(comparison: Comparison) -> Section:
    several = len({cost.model for cost in comparison.costs}) > 1
    rows = [
        (
            f"{cost.strategy}, {cost.model}" if several else cost.strategy,
            f"{cost.seconds_train:.1f} s",
            f"{cost.milliseconds_inference:.2f} ms",
            f"{cost.epochs:.1f}",
            f"{cost.best_epoch:.1f}",
            str(cost.capped or "–"),
            str(cost.runs),
        )
        for cost in comparison.costs
    ]
    header = ("strategy", "one training", "one prediction", "epochs", "best epoch", "best was last", "runs")
    words = ["Means over the runs, on the machine that did them; runs side by side slow each other down."]
    return Section("Cost", words, Table(header, rows))


def _against_cost(comparison: Comparison) -> list[Section]:
    """Draw the scores of strategies against the time of a prediction and of a training, means over networks."""
    overall, sections = comparison.overall, []
    metric = comparison.words_of(overall.metric)
    for quantity, unit, of in (
        ("time of one prediction", "ms", "milliseconds_inference"),
        ("time of one training", "s", "seconds_train"),
    ):
        candidates = [
            Candidate(
                place.strategy,
                place.mean,
                float(np.mean([getattr(c, of) for c in comparison.costs if c.strategy == place.strategy])),
                place.low,
                place.high,
            )
            for place in overall.places
            if any(cost.strategy == place.strategy for cost in comparison.costs)
        ]
        sections += cost_section(candidates, metric, quantity, unit, lower_is_better=overall.lower_is_better)
    return sections


def _failures(comparison: Comparison) -> list[Section]:
    if not comparison.failures:
        return []
    rows = [(f.strategy, f.status, str(f.runs), f.reason) for f in comparison.failures]
    words = ["Runs without a score. Where others have one on the same split, means are corrected for that."]
    table = Table(("strategy", "status", "runs", "reason"), rows, words=True)
    return [Section("What has no score", words, table)]


def _again(comparison: Comparison, command: str) -> Section:
    plan = comparison.experiment
    versions = next((o.versions for _, o in comparison.outcomes if o.versions), {})
    precision = sorted({o.precision for _, o in comparison.outcomes if o.precision})
    rows = [
        ("data", f"{plan.data} (content {plan.data_key})"),
        ("seed of splits and gaps", str(plan.split_seed)),
        ("seeds of weights and batches", ", ".join(map(str, plan.seeds))),
        ("precision of training", ", ".join(precision)),
        *sorted(versions.items()),
    ]
    words = [
        "results.csv, beside this page, has a row for each run and metric; results.json has the statistics"
        + ("; predictions.csv what each network said of each test case." if comparison.predictions else ".")
    ]
    return Section("Do it again", words, Table(("what", "value"), rows, words=True), code=command)


def _range(place: Place) -> str:
    if math.isnan(place.mean):
        return "–"
    return place.unsure or f"{number(place.low)} to {number(place.high)}"
