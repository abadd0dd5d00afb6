"""Pairs, verdicts and rankings: what is said must be what the numbers show."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from voxgap import metrics
from voxgap.errors import VoxgapError
from voxgap.metrics.comparison import LOWER_IS_BETTER, Paired, compare_pair, rank, verdict
from voxgap.metrics.pairs import judged, pairs_of
from voxgap.metrics.significance import bayesian_t_test, corrected_t_test, estimate, holm

NOISE = np.array([0.010, -0.008, 0.004, -0.012, 0.006])
BASE = np.array([0.80, 0.74, 0.83, 0.77, 0.81])


def pair(gain: float, scale: float = 1.0, **options: object) -> Paired:
    """masked_conv against mean over 5 folds, better by `gain` on average."""
    return compare_pair("masked_conv", BASE + gain + scale * NOISE, "mean", BASE, 80, 20, **options)


def test_a_pair_holds_what_the_tests_say() -> None:
    found = pair(0.02)
    differences = 0.02 + NOISE
    assert found.difference == pytest.approx(0.02)
    assert found.spread == pytest.approx(np.std(differences, ddof=1))
    assert (found.low, found.high) == pytest.approx(estimate(differences, 80, 20).interval())
    assert found.p_value == pytest.approx(corrected_t_test(differences, 80, 20).p_value)
    assert (found.worse, found.same, found.better) == pytest.approx(bayesian_t_test(differences, 80, 20))
    assert (found.splits, found.failed, found.ratio, found.comparisons) == (5, 0, 0.25, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.splits = 7  # type: ignore[misc]


def test_swapping_a_pair_mirrors_it() -> None:
    ours = pair(0.02)
    theirs = compare_pair("mean", BASE, "masked_conv", BASE + 0.02 + NOISE, 80, 20)
    assert (theirs.difference, theirs.low, theirs.high) == pytest.approx(
        (-ours.difference, -ours.high, -ours.low)
    )
    assert theirs.p_value == pytest.approx(ours.p_value)
    assert (theirs.worse, theirs.same, theirs.better) == pytest.approx((ours.better, ours.same, ours.worse))


def test_lower_may_be_better() -> None:
    errors = compare_pair("linear", BASE, "mean", BASE + 0.05 + NOISE, 80, 20, lower_is_better=True)
    assert errors.difference == pytest.approx(0.05)
    assert verdict(errors).decision == "better"


def test_pairs_are_made_of_runs_that_both_finished() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4, 3))
    first[0, 0] = first[2] = second[0, 1] = second[3, 2] = np.nan
    differences = [(first - second)[0, 2], (first - second)[1].mean(), (first - second)[3, :2].mean()]
    found = compare_pair("a", first, "b", second, 3, 1)
    assert (found.splits, found.failed) == (3, 6)
    assert found.difference == pytest.approx(np.mean(differences))
    assert found.p_value == pytest.approx(corrected_t_test(differences, 3, 1).p_value)


@pytest.mark.parametrize(
    ("found", "decision", "words"),
    [
        (pair(0.026), "better", "masked_conv is better than mean (P = 0.97)"),
        (pair(0.06), "better", "masked_conv is better than mean (P > 0.99)"),
        (pair(-0.026), "worse", "mean is better than masked_conv (P = 0.97)"),
        (pair(0.001, 0.5), "same", "masked_conv and mean are practically the same (P = 0.96)"),
        (
            pair(0.012),
            "undecided",
            "no difference between masked_conv and mean can be shown with these 5 folds; "
            "more than 100 more, or more samples, would be needed",
        ),
        (
            pair(0.016, rope=0.0),
            "undecided",
            "no difference between masked_conv and mean can be shown with these 5 folds; "
            "about 11 more would be needed",
        ),
        (
            pair(0.019, rope=0.006),
            "undecided",
            "no difference of more than 0.006 between masked_conv and mean can be shown with these 5 folds; "
            "about 22 more would be needed",
        ),
        (
            pair(0.004),
            "undecided",
            "no difference between masked_conv and mean can be shown with these 5 folds; "
            "the one seen, 0.004, is too small to matter",
        ),
        (pair(0.0, 0), "same", "masked_conv and mean score practically the same in all 5 folds"),
        (
            pair(0.1, 0),
            "undecided",
            "masked_conv and mean differ by 0.1 in all 5 folds, so chance can't be judged; "
            "more or larger folds are needed",
        ),
        (
            compare_pair("knn", [0.8, np.nan], "zero", [0.7, 0.9], 80, 20),
            "unknown",
            "knn and zero can't be compared: 1 fold with both, 2 needed (1 failed pair of runs is left out)",
        ),
        (
            compare_pair("knn", [np.nan, 0.7, np.nan], "zero", [0.7, np.nan, 0.9], 80, 20),
            "unknown",
            "knn and zero can't be compared: 0 folds with both, 2 needed (3 failed pairs of runs are left out)",
        ),
    ],
)
def test_verdicts_in_words(found: Paired, decision: str, words: str) -> None:
    said = verdict(found)
    assert (said.decision, said.words) == (decision, words)
    assert (said.further is not None) == ("about" in words)


def test_of_few_folds_the_advice_is_what_five_would_show() -> None:
    found = compare_pair("linear", [1.0, 1.0], "mean", [0.5, 0.428], 10, 10)
    said = verdict(found)
    # By a table of Student's distribution: t(0.975, 4) = 2.776.
    least = 2.776 * found.spread * math.sqrt(1 / 5 + 1 / 4)
    assert said.words == (
        "no difference between linear and mean can be shown with these 2 folds; so few show hardly any: give "
        f"--folds 5 or more, which would show one from {least:.2g} on (seen: 0.54)"
    )
    assert (said.decision, said.further) == ("undecided", None)
    unsteady = verdict(compare_pair("linear", [1.0, 0.5], "mean", [0.7, 0.6], 10, 10)).words
    assert "give --folds 5 or more, and more samples: even 5 would show one only from" in unsteady
    three = verdict(compare_pair("linear", [0.9, 0.7, 0.8], "mean", [0.7, 0.7, 0.7], 20, 10)).words
    assert "with these 3 folds; so few show hardly any: give --folds 5" in three


def test_a_verdict_weighs_all_comparisons() -> None:
    found = pair(0.026)
    assert verdict(found).decision == "better"
    assert verdict(dataclasses.replace(found, p_adjusted=0.2, comparisons=28)).decision == "undecided"
    assert verdict(found, alpha=0.001).decision == "undecided"


def test_more_comparisons_and_more_power_need_more_folds() -> None:
    counts = [
        verdict(dataclasses.replace(pair(0.024, rope=0.0), p_adjusted=1, comparisons=c), power=p).further
        for c, p in ((1, 0.8), (6, 0.8), (6, 0.95))
    ]
    assert all(counts)
    assert counts == sorted(counts)
    assert len(set(counts)) == 3


def test_identical_strategies_are_never_told_apart() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores = 0.8 + 0.03 * rng.normal(size=(5, 2))
        for rope in (0.0, 0.01):
            found = compare_pair("a", scores, "b", scores.copy(), 4, 1, rope=rope)
            assert found.p_value == 1
            assert verdict(found).decision == "same"


@pytest.mark.parametrize("repetitions", [60, pytest.param(1500, marks=pytest.mark.full)])
@pytest.mark.parametrize("reference", [None, "s0"])
def test_false_verdicts_of_a_whole_ranking_stay_at_the_level(reference: str | None, repetitions: int) -> None:
    rng = np.random.default_rng(6)
    false, careless = 0, 0
    for _ in range(repetitions):
        scores = 0.5 * rng.normal(size=(6, 1)) + rng.normal(size=(6, 10))
        places = rank({f"s{i}": row for i, row in enumerate(scores)}, 4, 1, rope=0, reference=reference)
        false += any(place.verdict and place.verdict.decision in ("better", "worse") for place in places)
        best = scores[scores.mean(axis=1).argmax()]
        gaps = [corrected_t_test(best - row, 4, 1).p_value for row in scores if row is not best]
        careless += (holm(gaps) <= 0.05).any()
    assert false / repetitions <= 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / repetitions)
    if repetitions > 1000:
        # Why all pairs count where the best was chosen by looking.
        assert careless / repetitions > 0.06


def planted(seed: int = 0) -> dict[str, np.ndarray]:
    """Three strategies over 5 folds and 2 seeds: `knn` 0.10 above `mean`, `linear` like `knn`."""
    rng = np.random.default_rng(seed)
    folds = 0.7 + 0.05 * rng.normal(size=(5, 1))
    gains = {"mean": 0.0, "knn": 0.10, "linear": 0.10}
    return {name: folds + gain + 0.005 * rng.normal(size=(5, 2)) for name, gain in gains.items()}


@pytest.mark.parametrize("seed", range(5))
def test_a_ranking_finds_what_was_planted(seed: int) -> None:
    scores = planted(seed)
    best, second, last = rank(scores, 80, 20)
    assert {best.strategy, second.strategy} == {"knn", "linear"}
    assert best.against is None
    assert best.verdict is None
    assert second.verdict is not None
    assert second.verdict.decision in ("same", "undecided")
    assert last.strategy == "mean"
    assert last.verdict is not None
    assert last.verdict.words == f"{best.strategy} is better than mean (P > 0.99)"
    for place in (best, second, last):
        whole = estimate(scores[place.strategy], 80, 20)
        assert (place.mean, place.low, place.high) == pytest.approx((whole.mean, *whole.interval()))
        assert (place.splits, place.failed) == (5, 0)


def test_a_ranking_corrects_for_its_pairs() -> None:
    scores = planted()
    names = list(scores)
    found = judged(np.stack([*scores.values()]), 20 / 80)
    keys = [frozenset((names[a], names[b])) for a, b in pairs_of(3)]
    adjusted = dict(zip(keys, holm(found.p_value), strict=True))
    for place in rank(scores, 80, 20)[1:]:
        assert place.against is not None
        assert place.against.first == place.strategy
        key = frozenset((place.against.first, place.against.second))
        assert place.against.p_adjusted == pytest.approx(adjusted[key])
        assert place.against.comparisons == 3
    against = {place.strategy: place.against for place in rank(scores, 80, 20, reference="mean")}
    assert against["mean"] is None
    # Its own pairs alone count, but the spreads of all three are known.
    alone = [p for p, key in zip(found.p_value, keys, strict=True) if "mean" in key]
    expected = dict(zip([key for key in keys if "mean" in key], holm(alone), strict=True))
    for name in ("knn", "linear"):
        assert against[name].p_adjusted == pytest.approx(expected[frozenset((name, "mean"))])
    assert against["knn"].comparisons == 2


def test_a_ranking_of_errors_begins_with_the_lowest() -> None:
    errors = {name: 1 - values for name, values in planted().items()}
    places = rank(errors, 80, 20, lower_is_better=True)
    assert [p.strategy for p in places] == [p.strategy for p in rank(planted(), 80, 20)]
    assert places[0].mean < places[-1].mean
    assert places[-1].verdict is not None
    assert places[-1].verdict.decision == "worse"


def test_failing_on_hard_folds_wins_nothing() -> None:
    difficulty = np.array([0.9, 0.9, 0.9, 0.5, 0.5])
    scores = {"good": difficulty + 0.03 + 0.1 * NOISE, "fails": difficulty.copy()}
    scores["fails"][3:] = np.nan
    first, second = rank(scores, 80, 20)
    assert np.nanmean(scores["fails"]) > scores["good"].mean()
    assert (first.strategy, second.strategy) == ("good", "fails")
    assert second.mean == pytest.approx(first.mean - np.mean(scores["good"][:3] - 0.9))
    assert (second.splits, second.failed) == (3, 2)
    assert second.verdict is not None
    assert second.verdict.words.endswith("(2 failed pairs of runs are left out)")


def test_a_strategy_that_always_failed_comes_last() -> None:
    for lower_is_better in (False, True):
        scores = {"broken": np.full((5, 2), np.nan), **planted()}
        *others, last = rank(scores, 80, 20, lower_is_better=lower_is_better)
        assert last.strategy == "broken"
        assert np.isnan([last.mean, last.low, last.high]).all()
        assert last.verdict is not None
        assert last.verdict.decision == "unknown"
        assert others[-1].against is not None
        assert others[-1].against.comparisons == 3
    places = rank({"a": [np.nan, np.nan], "b": [np.nan, np.nan]}, 80, 20)
    assert [p.strategy for p in places] == ["a", "b"]
    assert rank({"alone": BASE}, 80, 20)[0].verdict is None


def test_lower_is_better_names_the_metrics_that_fall_with_better_predictions() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(40) % 2
    numbers = rng.normal(size=40)
    good, bad = 0.1 + 0.8 * classes, rng.uniform(size=40)
    for task, targets, better, worse in (
        ("classification", classes, good, bad),
        ("regression", numbers, numbers + 0.1 * bad, bad),
    ):
        high, low = metrics.scores(task, targets, better), metrics.scores(task, targets, worse)
        for metric in high:
            assert (high[metric] < low[metric]) == (metric in LOWER_IS_BETTER), metric


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compare_pair("a", [1, 2], "b", [1, 2, 3], 4, 1), "of the same runs"),
        (lambda: compare_pair("a", [1, 2], "b", [1, 2], 4, 1, rope=-1), "is no width"),
        (lambda: rank({}, 4, 1), "scores of different runs"),
        (lambda: rank({"a": [1, 2], "b": [1, 2, 3]}, 4, 1), "scores of different runs"),
        (lambda: rank({"a": [1, 2], "b": [1, 2]}, 4, 1, reference="c"), "use one of a, b"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, words: str) -> None:
    with pytest.raises(VoxgapError, match=words):
        call()  # type: ignore[operator]
