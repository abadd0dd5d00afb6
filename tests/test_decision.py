"""The one rule that names a class: against scikit-learn and loops, and the same wherever a class is named."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from voxgap.decision import Decision, asked, chosen, in_digits, named
from voxgap.errors import VoxgapError


def ill_or_well(n: int = 500, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores of few positives among many, and who they are."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.2
    return np.clip(rng.normal(0.2 + 0.2 * y, 0.1), 0, 1), y


def test_the_most_probable_class_is_named_and_the_earlier_one_of_equals() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], (4, 5)).astype(np.float32)
    assert (named(p) == p.argmax(-1)).all()
    assert named([0.5, 0.5]) == 0
    assert named([0.2, 0.4, 0.4]) == 1


def test_from_the_threshold_on_the_second_of_two_is_named_by_numbers_as_the_page_has_them() -> None:
    p = np.random.default_rng(0).random(200).astype(np.float32)
    pairs = np.stack([1 - p, p], axis=1)
    for threshold in (0.3, 0.7, 0.1, float(p[3])):
        assert named(pairs, threshold).tolist() == [int(float(x) >= threshold) for x in p]
    # The float32 next to 0.7 is below it, and a comparison in float32 would not see that.
    assert named(np.array([[0.3, 0.7]], np.float32), 0.7).tolist() == [0]
    maps = np.random.default_rng(1).dirichlet([1, 1], (2, 3, 4))
    assert (named(maps, 0.2) == (maps[..., 1] >= 0.2)).all()
    with pytest.raises(VoxgapError, match="between two classes, and there are 3"):
        named(np.ones((4, 3)) / 3, 0.4)


def test_the_threshold_is_youdens() -> None:
    scores, y = ill_or_well()
    found = chosen("youden", scores, y.astype(int))
    assert found.threshold is not None
    index = (scores[y] >= found.threshold).mean() + (scores[~y] < found.threshold).mean()
    fpr, tpr, _ = roc_curve(y, scores)
    assert index == pytest.approx(1 + (tpr - fpr).max(), abs=1e-12)
    # Of equally good cuts the one nearest to a half.
    assert chosen("youden", [0.1, 0.9], [0, 1]).threshold == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        ([0.31, 0.52], 0.4),
        ([0.41330652, 0.41330664], 0.4133066),
        ([0.2, 0.21], 0.205),
        ([0.0, 1e-7], 5e-8),
        ([0.9999999, 1.0], 0.99999995),
    ],
)
def test_a_chosen_threshold_has_few_digits_and_decides_alike(scores: list[float], threshold: float) -> None:
    found = chosen("youden", scores, [0, 1])
    assert found.threshold == threshold
    assert named(np.stack([1 - np.array(scores), scores], 1), found.threshold).tolist() == [0, 1]


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("what", ["sensitivity", "specificity"])
def test_a_wanted_rate_is_reached_at_the_best_of_the_other(what: str, rate: float) -> None:
    scores, y = ill_or_well()
    found = chosen(f"{what}={rate}", scores, y.astype(int))
    cuts = np.concatenate([[-1.0], np.unique(scores), [2.0]])
    reached = {"sensitivity": [(scores[y] >= c).mean() for c in cuts]}
    reached["specificity"] = [(scores[~y] < c).mean() for c in cuts]
    other = "specificity" if what == "sensitivity" else "sensitivity"
    best = max(b for a, b in zip(reached[what], reached[other], strict=True) if a >= rate - 1e-12)
    table = named(np.stack([1 - scores, scores], 1), found.threshold)
    got = {"sensitivity": table[y].mean(), "specificity": 1 - table[~y].mean()}
    assert got[what] >= rate - 1e-12
    assert got[other] == pytest.approx(best)
    assert (found.sensitivity, found.specificity) == pytest.approx(tuple(got.values()))
    assert (found.samples, found.rule) == (500, f"{what}={rate}")


def test_what_is_asked_for() -> None:
    for half in ("0.5", "0.50", 0.5, " 0.5 "):
        assert asked(half, "classification", 3) == Decision()
        assert asked(half, "regression", 1) == Decision()
    assert asked("0.30", "classification", 2) == Decision(0.3, "0.3")
    assert asked(0.3, "segmentation", 2) == Decision(0.3, "0.3")
    for rule in ("youden", "sensitivity=0.95", "specificity=1"):
        assert asked(rule, "classification", 2) is None


@pytest.mark.parametrize(
    ("rule", "task", "classes", "words"),
    [
        ("yuden", "classification", 2, "must be a number between 0 and 1, youden"),
        ("sensitivity=95", "classification", 2, "must be a number"),
        ("sensitivity", "classification", 2, "must be a number"),
        ("nan", "classification", 2, "must be a number"),
        ("1.2", "classification", 2, "out of range"),
        ("0", "classification", 2, "out of range"),
        ("youden", "classification", 3, "this data has 3"),
        ("0.3", "classification", 3, "this data has 3"),
        ("0.3", "regression", 2, "a regression has none"),
        ("youden", "segmentation", 2, "for label maps give a number"),
    ],
)
def test_what_can_not_be_decided_by_is_one_line(rule: str, task: str, classes: int, words: str) -> None:
    with pytest.raises(VoxgapError, match=words):
        asked(rule, task, classes)


def test_both_classes_are_needed_to_choose() -> None:
    for targets in ([0, 0], [1, 1]):
        with pytest.raises(VoxgapError, match="of both classes"):
            chosen("youden", [0.1, 0.9], targets)


def test_a_rate_that_no_threshold_reaches_is_refused_with_the_best_there_is() -> None:
    saturated = [0.1, 0.2, 1.0, 0.9, 1.0], [0, 0, 0, 1, 1]
    with pytest.raises(VoxgapError, match=r"specificity=0\.9 is out of reach on 5 .* at most 0\.6666;"):
        chosen("specificity=0.9", *saturated)
    found = chosen("specificity=0.6666", *saturated)
    assert (found.sensitivity, found.specificity) == (1.0, pytest.approx(2 / 3))
    with pytest.raises(VoxgapError, match="specificity is at most 0;"):
        chosen("specificity=0.01", [1.0, 1.0], [0, 1])
    # Sensitivity is always to be had: at the price of the other.
    assert chosen("sensitivity=1", [1.0, 0.0], [0, 1]).sensitivity == 1


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.9", "specificity=0.9"])
@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_no_threshold_is_chosen_on_what_is_no_number(rule: str, score: float) -> None:
    with pytest.raises(VoxgapError, match="1 of 3 validation volumes have no probability"):
        chosen(rule, [0.1, score, 0.9], [0, 0, 1])


def manifest(**fields: object) -> dict[str, object]:
    return {"task": "classification", "outputs": 2, "classes": ["well", "ill"]} | fields


def test_a_decision_is_kept_and_said() -> None:
    found = chosen("sensitivity=0.9", *ill_or_well())
    kept = Decision.of(manifest(decision=found.to_json()), "m")
    assert kept == found
    written = in_digits(found.threshold)
    assert kept.words(("well", "ill")).startswith(
        f"decision: ill from a probability of {written} on (sensitivity=0.9, on 500 validation volumes: "
    )
    assert Decision.of(manifest(decision=Decision(0.3, "0.3").to_json()), "m") == Decision(0.3, "0.3")
    assert Decision(0.3, "0.3").words(("a", "b")) == "decision: b from a probability of 0.3 on"
    assert Decision.of(manifest(), "m").words(("a", "b")) == "decision: the most probable class"


def test_a_threshold_is_printed_in_digits_that_decide_alike() -> None:
    rng = np.random.default_rng(0)
    edges = [np.float32(1), np.nextafter(np.float32(1), np.float32(0)), np.float32(1e-30), np.float32(0)]
    for p in [*rng.random(200).astype(np.float32), *rng.random(50).astype(np.float32) ** 40, *edges]:
        low, high = float(np.nextafter(p, np.float32(-1))), float(np.nextafter(p, np.float32(2)))
        scores = np.array([low, float(p), high], np.float32)
        pairs = np.stack([1 - scores, scores], axis=1)
        for threshold in (float(p), (low + float(p)) / 2, (float(p) + high) / 2):
            if 0 < threshold < 1:
                said = Decision(threshold, "youden").words(("well", "ill"))
                printed = float(said.split("probability of ")[1].split()[0])
                np.testing.assert_array_equal(named(pairs, printed), named(pairs, threshold), said)
    assert [in_digits(value) for value in (0.5, 0.3, 0.12345, 1e-9)] == ["0.5", "0.3", "0.12345", "1e-09"]
    near = asked("0.99999999", "classification", 2)
    assert near is not None
    assert float(near.rule) == 0.99999999
    assert near.words(("well", "ill")) == f"decision: ill from a probability of {near.rule} on"


def test_an_older_bundle_decides_as_it_did_and_says_so() -> None:
    older = manifest(calibration={"temperature": 1.2, "threshold": 0.37})
    assert Decision.of(older, "m").threshold == 0.37
    assert "as earlier versions of voxgap did unasked" in Decision.of(older, "m").words(("a", "b"))
    newer = older | {"decision": Decision().to_json()}
    assert Decision.of(newer, "m") == Decision()
    assert Decision.of(older | {"outputs": 3}, "m") == Decision()
    assert Decision.of(manifest(calibration={"temperature": 1.2, "threshold": None}), "m") == Decision()


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": 3},
        {"decision": {"threshold": "0.5"}},
        {"decision": {"threshold": 2}},
        {"decision": {"threshold": True}},
        {"decision": {"threshold": 0.5}, "outputs": 3},
        {"decision": {"threshold": 0.5}, "task": "regression"},
    ],
)
def test_a_manifest_with_another_decision_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(VoxgapError, match="field decision"):
        Decision.of(manifest(**fields), "m")
