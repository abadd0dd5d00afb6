"""What an experiment is said to show, on outcomes whose truth is planted."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import planted
from voxgap.errors import VoxgapError
from voxgap.experiment.comparison import Comparison
from voxgap.experiment.plan import Outcome
from voxgap.metrics.comparison import compare_pair
from voxgap.report.audit import audits_section
from voxgap.report.experiment import _table

MEANS = {"mean": 0.70, "linear": 0.80, "masked_conv": 0.90, "complete": 0.95, "drop": 0.60}


def found(means: dict[str, float] = MEANS, noise: float = 0.01, seed: int = 0, **plan: object) -> Comparison:
    settings = {key: plan.pop(key) for key in ("metric", "reference", "rope") if key in plan}
    made = planted.experiment(list(means), **plan)
    return Comparison.from_outcomes(made, planted.outcomes(made, means, noise=noise, seed=seed), **settings)


def test_a_planted_winner_is_named() -> None:
    comparison = found(folds=10)
    assert comparison.verdict.startswith("masked_conv is better than linear (P")
    assert "and mean (P" in comparison.verdict
    assert [place.strategy for place in comparison.overall.places] == ["masked_conv", "linear", "mean"]
    assert comparison.summary().startswith(comparison.verdict)


def test_baselines_stand_beside_and_count_in_no_correction() -> None:
    with_them, without = found(), found({k: v for k, v in MEANS.items() if k not in ("complete", "drop")})
    baselines = {place.strategy: place for place in with_them.overall.baselines}
    assert set(baselines) == {"complete", "drop"}
    assert baselines["complete"].mean > with_them.overall.places[0].mean
    assert all(place.against is None for place in baselines.values())
    pairs = [place.against for place in with_them.overall.places if place.against]
    assert [pair.comparisons for pair in pairs] == [3, 3]
    assert not without.overall.baselines
    assert "complete" not in with_them.verdict


def test_complete_stands_beside_every_condition() -> None:
    comparison = found(train_rates=(0.1, 0.5), test_rates=(0.1, 0.5))
    assert len(comparison.rankings) == 4
    alone = comparison.overall.baselines[0].mean
    assert [one.baselines[0].mean for one in comparison.rankings] == pytest.approx([alone] * 4)


def test_no_difference_is_called_so_with_what_would_be_needed() -> None:
    comparison = found({"mean": 0.80, "linear": 0.83}, noise=0.02, folds=5)
    assert "no difference between" in comparison.verdict
    assert "can be shown with these 5 folds" in comparison.verdict
    assert "would be needed" in comparison.verdict


def test_alike_strategies_are_called_practically_the_same() -> None:
    comparison = found({"mean": 0.8, "linear": 0.8}, noise=0.001, folds=10)
    assert "practically the same" in comparison.verdict


def test_the_overall_ranking_equals_one_computed_by_hand() -> None:
    """Scores of a split are averaged over seeds and conditions by a loop; then one plain paired comparison."""
    made = planted.experiment(["mean", "linear"], seeds=(0, 1), repeats=2, folds=3, test_rates=(0.1, 0.4))
    pairs = planted.outcomes(made, MEANS)
    by_hand = {}
    for strategy in ("mean", "linear"):
        by_hand[strategy] = [
            np.mean(
                [
                    values["accuracy"]
                    for run, outcome in pairs
                    if (run.strategy, run.repeat, run.fold) == (strategy, repeat, fold)
                    for values in outcome.scores.values()
                ]
            )
            for repeat, fold in itertools.product(range(2), range(3))
        ]
    expected = compare_pair("mean", by_hand["mean"], "linear", by_hand["linear"], 64, 20)
    pair = Comparison.from_outcomes(made, pairs).overall.places[1].against
    assert pair is not None
    assert pair.splits == expected.splits == 6
    for field in ("difference", "low", "high", "p_value", "worse", "same", "better"):
        assert getattr(pair, field) == pytest.approx(getattr(expected, field), rel=1e-9)


def test_more_conditions_or_seeds_are_no_further_splits() -> None:
    one, many = found(folds=4), found(folds=4, seeds=(0, 1, 2), train_rates=(0.1, 0.3), test_rates=(0.1, 0.5))
    assert one.overall.places[0].splits == many.overall.places[0].splits == 4
    assert len(many.overall.conditions) == 4


def audited(pairs: list, share: dict[str, float]) -> list:
    """The same outcomes with what an audit counts of 20 cases: how much of 0.4 above chance the gaps give."""
    found = []
    for run, outcome in pairs:
        gaps = 0.4 * share[run.strategy]
        right = {
            "recorded": 0.9,
            "gaps_alone": 0.5 + gaps,
            "both_show": 0.9,
            "values_alone": 0.9 - gaps,
            "neither": 0.5,
        }
        off = 0.02 * np.random.default_rng(run.fold).normal(size=(20, 5))
        off -= off.mean(axis=0)
        rows = tuple(
            {name: value + more for (name, value), more in zip(right.items(), one, strict=True)}
            | {"changed": gaps}
            for one in off
        )
        said = tuple({"case": f"{run.fold}-{i}", "group": f"{run.fold}-{i // 2}"} for i in range(20))
        found.append((run, dataclasses.replace(outcome, predictions={0.5: said}, audit={0.5: rows})))
    return found


def test_who_leans_on_what_is_missing_is_named() -> None:
    means = {"mean": 0.7, "linear": 0.8, "mask_channel": 0.9}
    made = planted.experiment([*means])
    pairs = planted.outcomes(made, means)
    comparison = Comparison.from_outcomes(
        made, audited(pairs, {"mean": 0.0, "linear": 0.25, "mask_channel": 0.5})
    )
    assert [*comparison.audits] == ["mask_channel", "linear", "mean"]
    for name, share in {"mean": 0.0, "linear": 0.25, "mask_channel": 0.5}.items():
        assert comparison.audits[name].share.value == pytest.approx(share)
    assert re.fullmatch(
        r"mask_channel: Of its accuracy above chance, 0\.500 \(0\.4\d\d to 0\.5\d\d\) comes from what is missing "
        r"alone: a network that would not do so elsewhere\. It is shown of linear, too\.",
        comparison.shortcut,
    )
    assert comparison.shortcut in comparison.summary()
    assert comparison.to_json()["audits"]["linear"]["share"]["value"] == pytest.approx(0.25)
    section, folded = audits_section(comparison.audits, comparison.shortcut)
    assert section.paragraphs[0].startswith(comparison.shortcut)
    for table in (section.table, folded.table):
        assert table is not None
        assert [row[0] for row in table.rows] == [*comparison.audits]
        assert len(table.header) <= 5, "more than a page is wide"
    assert section.table is not None
    assert section.table.header[1] == "share of the gaps"
    assert [row[1] for row in section.table.rows] == [one.share_words for one in comparison.audits.values()]
    without = Comparison.from_outcomes(made, pairs)
    assert (without.audits, without.shortcut) == ({}, "")
    assert audits_section(without.audits, without.shortcut) == []


def test_failures_are_counted_and_win_nothing() -> None:
    made = planted.experiment(["mean", "linear"], folds=5)
    pairs = planted.outcomes(made, {"mean": 0.80, "linear": 0.90}, between_folds=0.1, noise=0.001)
    hardest = min((o.scores[0.5]["accuracy"], run.fold) for run, o in pairs if run.strategy == "mean")[1]
    failed = [
        (run, Outcome(run.key, "failed", "out of memory"))
        if (run.strategy, run.fold) == ("mean", hardest)
        else (run, outcome)
        for run, outcome in pairs
    ]
    comparison = Comparison.from_outcomes(made, failed)
    assert [dataclasses.astuple(f) for f in comparison.failures] == [("mean", "failed", "out of memory", 1)]
    mean = comparison.overall.places[1]
    assert (mean.strategy, mean.failed) == ("mean", 1)
    everything = Comparison.from_outcomes(made, pairs).overall.places[1].mean
    # Leaving out its hardest fold would have raised the plain mean by far more.
    assert mean.mean == pytest.approx(everything, abs=0.005)
    assert "mean: 1 run failed: out of memory" in comparison.summary()


def test_a_strategy_that_is_not_possible_comes_last() -> None:
    made = planted.experiment(["mean", "knn", "linear"])
    pairs = [
        (run, Outcome(run.key, "not possible", "no donor")) if run.strategy == "knn" else (run, outcome)
        for run, outcome in planted.outcomes(made, {"mean": 0.7, "knn": 0.9, "linear": 0.8})
    ]
    comparison = Comparison.from_outcomes(made, pairs)
    assert comparison.overall.places[-1].strategy == "knn"
    assert math.isnan(comparison.overall.places[-1].mean)
    *others, last = comparison.to_json()["overall"]["places"]
    assert [place["rank"] for place in others] == list(range(1, len(others) + 1))
    assert last["rank"] is None
    assert "knn" not in comparison.verdict


def test_nothing_has_a_score() -> None:
    made = planted.experiment(["mean", "linear"], folds=2)
    empty = Comparison.from_outcomes(made, [])
    assert empty.verdict == "No run has a score yet."
    assert "0 of 4 runs" in empty.summary()
    failed = [(run, Outcome(run.key, "failed", "disk full")) for run in made.runs()]
    comparison = Comparison.from_outcomes(made, failed)
    assert comparison.verdict == "No run has a score yet."
    assert comparison.failures[0].runs == 2
    for one in (empty, comparison):
        assert one.overall.best is None
        assert [place["rank"] for place in one.to_json()["overall"]["places"]] == [None, None]
        assert re.search(r"^ +- +mean ", one.summary(), re.MULTILINE)
        assert not re.search(r"^ +1 ", one.summary(), re.MULTILINE)
        table = _table(one.overall, "accuracy")
        assert table.best is None
        assert table.header[3] == "better than the best by"
    json.dumps(comparison.to_json(), allow_nan=False)


def test_one_fold_of_a_given_split_is_no_evidence() -> None:
    verdict = found({"mean": 0.7, "linear": 0.8}, folds=1).verdict
    assert "can't be compared: 1 fold with both, 2 needed" in verdict


def test_one_strategy_has_nothing_to_be_compared_with() -> None:
    assert "no other has a score" in found({"mean": 0.7}).verdict


def test_a_reference_is_what_others_are_compared_with() -> None:
    comparison = found(reference="linear", folds=10)
    assert comparison.verdict.startswith("masked_conv (P")
    assert "is better than linear." in comparison.verdict
    assert "mean (P" in comparison.verdict
    assert all(place.against.comparisons == 2 for place in comparison.overall.places if place.against)
    with pytest.raises(VoxgapError, match="reference 'complete' is none of the strategies"):
        found(reference="complete")


@pytest.mark.parametrize("metric", ["accuracy", "mae", "dice"])
def test_the_default_metric_is_that_of_the_task(metric: str) -> None:
    made = planted.experiment(["mean", "linear"])
    comparison = Comparison.from_outcomes(
        made, planted.outcomes(made, {"mean": 50.0, "linear": 40.0}, metric=metric)
    )
    assert comparison.metric == metric
    best = "linear" if metric == "mae" else "mean"
    assert comparison.overall.places[0].strategy == best
    # 0.01 of a share; 1 % of the best mean for an error in the data's own unit.
    assert comparison.overall.rope == pytest.approx(0.4 if metric == "mae" else 0.01, rel=0.01)


def test_a_metric_that_nobody_scored() -> None:
    assert found(metric="other").metric == "other"
    with pytest.raises(
        VoxgapError, match="metric 'f2' is not among the scores; choose one of accuracy, other"
    ):
        found(metric="f2")


def test_networks_are_ranked_over_all_strategies() -> None:
    made = planted.experiment(["mean", "linear", "complete"], models=("resnet3d", "resnet2d"), folds=8)
    pairs = planted.outcomes(made, MEANS)
    worse = [
        (
            run,
            dataclasses.replace(
                o, scores={r: {"accuracy": s["accuracy"] - 0.1} for r, s in o.scores.items()}
            ),
        )
        if run.model == "resnet2d"
        else (run, o)
        for run, o in pairs
    ]
    models = Comparison.from_outcomes(made, worse).models
    assert models is not None
    assert models.words.startswith("resnet3d is better than resnet2d")
    assert models.places[1].against is not None
    assert models.places[1].against.difference == pytest.approx(-0.1, abs=0.02)
    assert found().models is None


def test_fills_are_ranked_by_their_error_and_those_that_fill_alike_share_a_place() -> None:
    made = planted.experiment(["mean", "linear", "mask_channel", "complete"], folds=6)
    pairs = planted.outcomes(made, {**MEANS, "mask_channel": 0.9})
    errors = {(r.strategy, r.fold): o.reconstruction for r, o in pairs}
    alike = [
        (run, dataclasses.replace(o, reconstruction=errors["mean", run.fold]))
        if run.strategy == "mask_channel"
        else (run, o)
        for run, o in pairs
    ]
    ranking = Comparison.from_outcomes(made, alike).reconstruction
    assert ranking is not None
    assert ranking.lower_is_better
    assert [place.strategy for place in ranking.places] == ["linear", "mean, mask_channel"]


def test_no_simulated_gaps_no_reconstruction() -> None:
    made = planted.experiment(["mean", "linear"])
    pairs = [
        (run, dataclasses.replace(o, reconstruction=dict.fromkeys(run.test_rates)))
        for run, o in planted.outcomes(made, MEANS)
    ]
    assert Comparison.from_outcomes(made, pairs).reconstruction is None


def test_the_csv_has_a_row_for_each_run_rate_and_metric(tmp_path: Path) -> None:
    made = planted.experiment(["mean", "complete"], folds=2, test_rates=(0.1, 0.5))
    pairs = planted.outcomes(made, MEANS)
    pairs[0] = (pairs[0][0], Outcome(pairs[0][0].key, "failed", "a reason, with a comma"))
    Comparison.from_outcomes(made, pairs).to_csv(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    # One failed; one with two rates of two metrics and two errors; two of complete with one rate of two metrics.
    assert len(rows) == 1 + 2 * 4 + 2 * 2
    assert rows[0]["reason"] == "a reason, with a comma"
    assert rows[0]["value"] == ""
    run, outcome = pairs[2]
    mine = [row for row in rows if row["run"] == run.key and row["metric"] == "accuracy"]
    assert {float(row["test_rate"]): float(row["value"]) for row in mine} == {
        rate: values["accuracy"] for rate, values in outcome.scores.items()
    }


def test_json_has_no_nan_and_says_the_same(tmp_path: Path) -> None:
    comparison = found(folds=3)
    comparison.write_json(tmp_path / "results.json")
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["verdict"] == comparison.verdict
    assert told["overall"]["places"][0]["mean"] == comparison.overall.places[0].mean
    assert told["overall"]["places"][0]["against"] is None
    assert told["experiment"]["folds"] == 3


def test_costs_are_means_over_runs_that_ended_well() -> None:
    costs = {cost.strategy: cost for cost in found({"mean": 0.5, "linear": 0.9}, folds=4).costs}
    assert list(costs) == ["mean", "linear"]
    assert costs["linear"].runs == 4
    assert costs["linear"].milliseconds_inference == pytest.approx(4)
    assert (costs["linear"].epochs, costs["linear"].best_epoch) == (4, 3)


@pytest.mark.full
def test_under_the_null_a_winner_is_rarely_named() -> None:
    """Three strategies without a difference, 200 experiments: false alarms keep to their level of 5 %."""
    same = dict.fromkeys(("mean", "linear", "knn"), 0.8)
    alarms = sum("is better than" in found(same, noise=0.03, seed=seed).verdict for seed in range(200))
    assert alarms <= 17  # the 99 % quantile of Binomial(200, 0.05)


def test_caps_that_were_hit_are_said_by_strategy() -> None:
    made = planted.experiment(["mean", "linear", "complete"], folds=4)
    pairs = planted.outcomes(made, MEANS)
    assert Comparison.from_outcomes(made, pairs).cap == ""
    late = [
        (run, dataclasses.replace(o, best_epoch=4) if run.strategy == "linear" and run.fold else o)
        for run, o in pairs
    ]
    # Out of patience at the last epoch, or ended by another reason, is no cap.
    late[0] = (late[0][0], dataclasses.replace(late[0][1], best_epoch=4, reason="patience"))
    comparison = Comparison.from_outcomes(made, late)
    assert comparison.cap.startswith("The best epoch was the last of 4 allowed: linear in 3 of 4 runs.")
    assert comparison.cap in comparison.summary()
    assert comparison.to_json()["cap"] == comparison.cap
    assert {cost.strategy: cost.capped for cost in comparison.costs} == {
        "mean": 0,
        "linear": 3,
        "complete": 0,
    }


def test_predictions_of_all_runs_are_one_table(tmp_path: Path) -> None:
    made = planted.experiment(["mean", "linear"], folds=2, test_rates=(0.1, 0.5))
    pairs = [
        (
            run,
            dataclasses.replace(
                outcome,
                predictions={
                    rate: ({"case": f"{run.fold}.nii", "label": "a", "class": "b", "p_a": 0.25},)
                    for rate in run.test_rates
                },
            ),
        )
        for run, outcome in planted.outcomes(made, MEANS)
    ]
    comparison = Comparison.from_outcomes(made, pairs)
    assert len(comparison.predictions) == 2 * 2 * 2
    comparison.predictions_to_csv(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["strategy"], r["test_rate"], r["fold"], r["case"]) for r in rows[:3]] == [
        ("mean", "0.1", "0", "0.nii"),
        ("mean", "0.5", "0", "0.nii"),
        ("linear", "0.1", "0", "0.nii"),
    ]
    assert {"run", "model", "pattern", "mechanism", "train_rate", "repeat", "seed", "p_a"} <= set(rows[0])
    assert Comparison.from_outcomes(made, planted.outcomes(made, MEANS)).predictions == ()


def test_the_number_of_cases_and_the_decision_are_said() -> None:
    usual = found(folds=4, repeats=2)
    assert "accuracy (higher is better), mean and 95 % interval, n = 80 test cases:" in usual.summary()
    assert "The most probable class is named." in usual.summary()
    made = planted.experiment(["mean", "linear"], folds=4, threshold="youden")
    pairs = [
        (run, dataclasses.replace(outcome, threshold=0.25 + 0.1 * run.fold))
        for run, outcome in planted.outcomes(made, MEANS)
    ]
    said = "{} is named from a probability of 0.25 to 0.55 on, chosen by youden on the validation part"
    assert said.format("The second class") in Comparison.from_outcomes(made, pairs).summary()
    kept = {0.5: ({"case": "0.nii", "p_well": 0.75, "p_sick": 0.25},)}
    told = [(run, dataclasses.replace(outcome, predictions=kept)) for run, outcome in pairs]
    assert said.format("sick") in Comparison.from_outcomes(made, told).summary()
    fixed = dataclasses.replace(made, threshold="0.3")
    pairs = [(run, dataclasses.replace(outcome, threshold=0.3)) for run, outcome in pairs]
    assert "named from a probability of 0.3 on." in Comparison.from_outcomes(fixed, pairs).decision
    errors = planted.outcomes(made, MEANS, metric="mae")
    assert Comparison.from_outcomes(made, errors).decision == ""


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.0, 0.4), (0.4, 0.0)])
def test_tables_name_gaps_only_where_some_were_simulated(rates: tuple[float, float], tmp_path: Path) -> None:
    made = planted.experiment(["mean", "linear"], folds=2, train_rates=rates[:1], test_rates=rates[1:])
    kept = {rates[1]: ({"case": "0.nii"},)}
    pairs = [
        (run, dataclasses.replace(outcome, predictions=kept))
        for run, outcome in planted.outcomes(made, MEANS)
    ]
    comparison = Comparison.from_outcomes(made, pairs)
    comparison.to_csv(tmp_path / "results.csv")
    comparison.predictions_to_csv(tmp_path / "predictions.csv")
    for name in ("results.csv", "predictions.csv"):
        with (tmp_path / name).open() as file:
            rows = list(csv.DictReader(file))
        wanted = ("slices", "mcar") if any(rates) else ("", "")
        assert {(row["pattern"], row["mechanism"]) for row in rows} == {wanted}
