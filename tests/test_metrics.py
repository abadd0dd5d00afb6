"""Scores against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from voxgap import metrics
from voxgap.errors import VoxgapError


def example(classes: int, seed: int, samples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Random classes and rounded probabilities, so that ties are common."""
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.dirichlet(np.ones(classes), samples), 1)
    probabilities[:, -1] += 1 - probabilities.sum(axis=1)
    probabilities = np.clip(probabilities, 0, 1)
    return rng.integers(0, classes, samples), probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_classification_scores_equal_scikit_learn(classes: int, seed: int) -> None:
    targets, probabilities = example(classes, seed)
    predicted = probabilities.argmax(axis=1)
    scored = probabilities[:, 1] if classes == 2 else probabilities
    one_hot = np.eye(classes)[targets]
    wanted = {
        "accuracy": sklearn_metrics.accuracy_score(targets, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(targets, predicted),
        "auc": sklearn_metrics.roc_auc_score(targets, scored, multi_class="ovr"),
        "macro_f1": sklearn_metrics.f1_score(targets, predicted, average="macro"),
        "log_loss": sklearn_metrics.log_loss(
            targets, np.clip(probabilities, 2**-23, 1), labels=range(classes)
        ),
        "brier": ((probabilities - one_hot) ** 2).sum() / 60 / (2 if classes == 2 else 1),
    }
    found = metrics.scores("classification", targets, probabilities)
    del found["calibration_error"]
    # scikit-learn renormalises the clipped rows.
    assert found == pytest.approx(wanted, rel=1e-5)
    table = sklearn_metrics.confusion_matrix(targets, predicted, labels=range(classes))
    assert np.array_equal(metrics.confusion_matrix(targets, probabilities), table)
    if classes == 2:
        assert found["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(targets, probabilities[:, 1]))


def test_one_column_of_probabilities_is_that_of_class_1() -> None:
    targets, probabilities = example(2, 1)
    both = metrics.scores("classification", targets, probabilities)
    assert metrics.scores("classification", targets, probabilities[:, 1]) == pytest.approx(both)
    assert metrics.scores("classification", targets, probabilities[:, 1:]) == pytest.approx(both)


def test_single_scores_equal_those_of_scores() -> None:
    targets, probabilities = example(4, 2)
    for name, value in metrics.scores("classification", targets, probabilities).items():
        assert getattr(metrics, name)(targets, probabilities) == value


def test_auc_counts_pairs_and_halves_ties() -> None:
    targets, probabilities = example(2, 3)
    positive, negative = probabilities[targets == 1, 1], probabilities[targets == 0, 1]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert any(pair == 0.5 for pair in pairs)
    assert metrics.auc(targets, probabilities) == pytest.approx(np.mean(pairs))


def test_auc_leaves_out_classes_without_samples() -> None:
    targets, probabilities = example(3, 4)
    kept = targets != 2
    areas = [sklearn_metrics.roc_auc_score(targets[kept] == c, probabilities[kept, c]) for c in (0, 1)]
    assert metrics.auc(targets[kept], probabilities[kept]) == pytest.approx(np.mean(areas))
    assert np.isnan(metrics.auc([0, 0], [[0.5, 0.5], [0.1, 0.9]]))


def test_calibration_error_equals_a_loop_over_bins() -> None:
    targets, probabilities = example(5, 5, samples=300)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    gap = 0.0
    for low in np.arange(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.calibration_error(targets, probabilities) == pytest.approx(gap)
    assert metrics.calibration_error([0, 1], [[1, 0], [0, 1]]) == 0


@pytest.mark.parametrize("shape", [(40,), (40, 3)])
def test_regression_scores_equal_scikit_learn(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=shape)
    predictions = targets + 0.3 * rng.normal(size=shape)
    wanted = {
        "r2": sklearn_metrics.r2_score(targets, predictions),
        "mae": sklearn_metrics.mean_absolute_error(targets, predictions),
        "rmse": sklearn_metrics.root_mean_squared_error(targets, predictions),
    }
    assert metrics.scores("regression", targets, predictions) == pytest.approx(wanted)
    if len(shape) == 1:
        assert metrics.scores("regression", targets, predictions[:, None]) == pytest.approx(wanted)


def test_r2_of_constant_targets() -> None:
    for predictions in ([2, 2, 2], [1, 2, 3]):
        assert metrics.r2([2, 2, 2], predictions) == sklearn_metrics.r2_score([2, 2, 2], predictions)
    assert np.isnan(metrics.r2([1], [1]))


@pytest.mark.parametrize(
    ("task", "targets", "predictions", "words"),
    [
        ("classification", [0, 1], [[0.5, 0.5]], "one row of probabilities for each"),
        ("classification", [], np.zeros((0, 2)), "one row of probabilities for each"),
        ("classification", [0], [[np.nan, 1]], "not probabilities"),
        ("classification", [0], [[-3.0, 4.0]], "not probabilities"),
        ("classification", [2], [[0.5, 0.5]], "class indices from 0 to 1"),
        ("classification", [0.5], [[0.5, 0.5]], "class indices from 0 to 1"),
        ("regression", [1, 2], [1], "one prediction for each"),
        ("regression", [1, 2], [1, np.nan], "hold NaN"),
        ("ranking", [1], [1], "is unknown"),
    ],
)
def test_what_does_not_match_is_refused(task: str, targets: object, predictions: object, words: str) -> None:
    with pytest.raises(VoxgapError, match=words):
        metrics.scores(task, targets, predictions)


def maps_and_answers(seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = rng.integers(-1, classes, (3, 4, 5, 6)).astype(np.int16)
    answers = rng.dirichlet(np.ones(classes), maps.shape).astype(np.float32)
    return maps, answers


@pytest.mark.parametrize("seed", range(4))
def test_segmentation_scores_equal_scikit_learn_and_a_loop(seed: int) -> None:
    maps, answers = maps_and_answers(seed)
    labelled = maps >= 0
    truth, found = maps[labelled], answers.argmax(-1)[labelled]
    scored = metrics.scores("segmentation", maps, answers)
    f1 = sklearn_metrics.f1_score(truth, found, average=None)
    jaccard = sklearn_metrics.jaccard_score(truth, found, average=None)
    assert scored["dice"] == pytest.approx(f1[1:].mean())
    assert scored["iou"] == pytest.approx(jaccard[1:].mean())
    assert scored["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, found))
    np.testing.assert_allclose([scored[f"dice_{i}"] for i in range(4)], f1)
    np.testing.assert_allclose(metrics.iou(maps, answers), jaccard)
    for kind in range(4):
        both = either = 0
        for t, f in zip(maps.ravel(), answers.reshape(-1, 4).argmax(1), strict=True):
            both += int(t == kind and f == kind)
            either += int(t == kind) + int(f == kind and t >= 0)
        assert metrics.dice(maps, answers)[kind] == pytest.approx(2 * both / either)


def test_a_class_that_nobody_has_is_left_out_and_one_that_is_invented_counts() -> None:
    maps = np.array([[[[0, 0, 1, 1, -1]]]], np.int16)
    answers = np.eye(4, dtype=np.float32)[[[[[0, 3, 1, 1, 2]]]]]
    scored = metrics.scores("segmentation", maps, answers)
    assert scored["dice_0"] == pytest.approx(2 / 3)
    assert scored["dice_1"] == 1
    assert np.isnan(scored["dice_2"]), "the unlabelled voxel counted"
    assert scored["dice_3"] == 0
    assert scored["dice"] == 0.5
    background = metrics.scores("segmentation", maps * 0, np.eye(2, dtype=np.float32)[maps * 0])
    assert np.isnan(background["dice"])
    assert background["accuracy"] == 1


def test_dice_of_the_missing_voxels() -> None:
    maps, answers = maps_and_answers(7)
    observed = np.random.default_rng(1).random((*maps.shape, 2)) < 0.6
    hidden = (maps >= 0) & ~observed.any(-1)
    expected = sklearn_metrics.f1_score(maps[hidden], answers.argmax(-1)[hidden], average=None)[1:].mean()
    scored = metrics.scores("segmentation", maps, answers, observed=observed)
    assert scored["dice_missing"] == pytest.approx(expected)
    assert np.isnan(metrics.scores("segmentation", maps, answers, observed=observed | True)["dice_missing"])


@pytest.mark.parametrize(
    ("maps", "answers", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 3, 3, 2)), "label maps of shape"),
        (np.full((1, 2, 2, 2), 2), np.zeros((1, 2, 2, 2, 2)), "from 0 to 1"),
        (np.full((1, 2, 2, 2), -1), np.zeros((1, 2, 2, 2, 2)), "no voxel of the label maps"),
        (np.zeros((1, 2, 2, 2), int), np.full((1, 2, 2, 2, 2), np.nan), "NaN"),
    ],
)
def test_segmentation_that_cannot_be_scored_is_one_line(
    maps: np.ndarray, answers: np.ndarray, message: str
) -> None:
    with pytest.raises(VoxgapError, match=message):
        metrics.scores("segmentation", maps, answers)
