"""examine: no finding under MCAR beyond its level, findings where there is something, and SciPy's p-values."""

import json

import numpy as np
import pytest
from scipy import stats

from voxgap.dataset import load_data
from voxgap.errors import VoxgapError
from voxgap.metrics.metrics import area
from voxgap.metrics.significance import holm
from voxgap.missingness import simulate
from voxgap.missingness.mechanism import Evidence, examine
from voxgap.missingness.permutation import flip, permute


def volumes(rng: np.random.Generator, count: int, channels: int = 1, groups: np.ndarray | None = None):
    """Smooth, skewed volumes, each with a brightness of its own (and of its group)."""
    noise = rng.exponential(1, (count, 7, 7, 6, channels)) ** 2
    smooth = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2))[:, 1:, 1:]
    own = rng.normal(0, 0.7, count) if groups is None else rng.normal(0, 0.7, groups.max() + 1)[groups]
    return (smooth * np.exp(own)[:, None, None, None, None]).astype(np.float32)


def gapped(rng: np.random.Generator, values: np.ndarray, pattern: str, scale: np.ndarray | float = 1.0):
    """Gaps that know nothing of the values; very different rates, many volumes without any."""
    count = len(values)
    rates = np.clip(np.where(rng.random(count) < 0.5, rng.beta(1, 2, count), 0) * scale, 0, 0.9)
    out = values.copy()
    for volume, rate in zip(out, rates, strict=True):
        for channel in range(values.shape[-1]):
            if pattern == "channels":
                volume[..., channel][...] = np.nan if rng.random() < rate else volume[..., channel]
            elif pattern == "tail":
                volume[6 - int(6 * rate) :] = np.nan
            else:
                volume[rng.choice(6, int(6 * rate), replace=False), ..., channel] = np.nan
    return out


def under_mcar(seed: int, count: int, pattern: str, channels: int, members: int, classes: int) -> Evidence:
    rng = np.random.default_rng(seed)
    groups = np.arange(count) // members
    values = volumes(rng, count, channels, groups)
    labels = rng.choice(classes, len(groups), p=np.r_[np.full(classes - 1, 0.3), 1 - 0.3 * (classes - 1)])
    # In half of the repetitions a group has one label only, as patients have.
    labels = labels[groups] if seed % 2 else labels
    scale = rng.exponential(1, groups.max() + 1)[groups] if members > 1 else 1.0
    gaps = gapped(rng, values, pattern, scale)
    return examine(gaps, labels, groups=groups if members > 1 else None, max_draws=199, seed=seed)


SITUATIONS = [
    (12, "slices", 1, 1, 2),
    (40, "tail", 1, 1, 2),
    (40, "slices", 3, 1, 3),
    (40, "channels", 3, 1, 2),
    (60, "slices", 1, 5, 3),
    (60, "channels", 2, 3, 2),
]


def check_level(situation: tuple, repetitions: int) -> None:
    found = [under_mcar(seed, *situation) for seed in range(repetitions)]
    errors = sum(any(test.found for test in evidence.tests) for evidence in found)
    # At the 5 % level that is promised: more errors would be a 1 in 10,000 event.
    assert errors <= stats.binom.ppf(0.9999, repetitions, 0.05)
    by_question: dict[str, list[float]] = {}
    for evidence in found:
        for test in evidence.tests:
            by_question.setdefault(test.question, []).append(test.p_value)
    for question, p_values in by_question.items():
        small = sum(p <= 0.1 for p in p_values)
        assert small <= stats.binom.ppf(0.99999, len(p_values), 0.1), question


@pytest.mark.parametrize("situation", SITUATIONS[1:2])
def test_gaps_at_random_are_no_finding(situation: tuple) -> None:
    check_level(situation, 60)


@pytest.mark.full
@pytest.mark.parametrize("situation", SITUATIONS)
def test_gaps_at_random_are_found_no_more_often_than_the_level_says(situation: tuple) -> None:
    check_level(situation, 1000)


@pytest.mark.full
def test_p_values_are_uniform_under_mcar() -> None:
    p_values: dict[str, list[float]] = {}
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        # Every volume has a rate of its own: ties would make large p-values larger.
        rates = rng.uniform(0.05, 0.8, (50, 1, 1, 1, 1))
        values = rng.normal(size=(50, 8, 8, 8, 1)) + rng.normal(size=(50, 1, 1, 1, 1))
        gaps = np.where(rng.random(values.shape) < rates, np.nan, values)
        for test in examine(gaps, rng.normal(size=50), max_draws=199, seed=seed).tests:
            p_values.setdefault(test.question, []).append(test.p_value)
    assert len(p_values) == 3
    for question, values in p_values.items():
        assert stats.kstest(values, "uniform").pvalue > 1e-4, question


def found(evidence: Evidence) -> set[str]:
    return {test.question for test in evidence.tests if test.found}


def test_dependence_on_the_class() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    values = simulate(volumes(rng, 80), "slices", 0.3, "mar", given=labels, strength=0.5, seed=1)
    evidence = examine(values, labels, classes=("well", "ill"))
    assert found(evidence) == {"Does the missing rate go with the class?"}
    assert evidence.depends_on("label")
    assert not evidence.depends_on("values")
    assert "class ill" in evidence.tests[0].answer or "class well" in evidence.tests[0].answer
    assert "depends on the label:" in evidence.conclusion
    assert evidence.auc > 0.6


def test_dependence_on_a_target() -> None:
    rng = np.random.default_rng(1)
    ages = rng.uniform(20, 80, 60)
    values = simulate(volumes(rng, 60), "voxels", 0.3, "mar", given=ages, strength=0.7, seed=1)
    evidence = examine(values, ages.astype(np.float32))
    assert found(evidence) == {"Does the missing rate go with the target?"}
    assert evidence.tests[0].effect > 0.5
    assert evidence.auc is None


def test_dependence_on_the_missing_values_themselves() -> None:
    rng = np.random.default_rng(2)
    values = simulate(volumes(rng, 60), "slices", 0.34, "mnar", strength=3, seed=1)
    assert "Are values beside the gaps unlike those elsewhere in the volume?" in found(examine(values))


def test_dependence_of_the_rate_on_brightness() -> None:
    rng = np.random.default_rng(3)
    bright = volumes(rng, 80)
    level = bright.mean(axis=(1, 2, 3, 4))
    values = simulate(bright, "voxels", 0.3, "mar", given=np.log(level), seed=1)
    assert "Does the missing rate go with the level of what is observed in the volume?" in found(
        examine(values)
    )


def test_dependence_on_another_channel() -> None:
    rng = np.random.default_rng(4)
    values = volumes(rng, 80, 2)
    values[..., 1] = rng.normal(size=values.shape[:-1])
    dark = np.log(values[..., 0].mean(axis=(1, 2, 3))) < 0.6
    gone = np.where((dark & (rng.random(80) < 0.8))[:, None, None, None], np.nan, values[..., 1])
    between = examine(np.stack([values[..., 0], gone], axis=-1), channels=("t1", "flair"))
    assert "Does the missing rate of flair go with the level of another channel?" in found(between)
    assert "level of t1" in next(t.answer for t in between.tests if "another channel" in t.question)
    local = np.where((values[..., 0] > 4) & (rng.random(values.shape[:-1]) < 0.5), np.nan, values[..., 1])
    within = examine(np.stack([values[..., 0], local], axis=-1), channels=("t1", "flair"))
    question = "Are other channels at the gaps of flair unlike elsewhere in the volume?"
    assert question in found(within)
    assert "t1 is" in next(test.answer for test in within.tests if test.question == question)


@pytest.mark.full
def test_how_many_radiologists_outlined_a_nodule_tells_about_it() -> None:
    data = load_data("sample:nodules")
    # A sixteenth of the voxels says as much about what is missing.
    evidence = examine(
        data.volumes[:, ::4, ::4],
        data.targets,
        classes=data.classes,
        groups=data.groups,
        channels=data.channels,
        max_draws=999,
    )
    assert evidence.auc == pytest.approx(0.70, abs=0.01)
    assert evidence.tests[0].question == "Does the missing rate go with the class?"
    assert evidence.tests[0].found
    assert evidence.tests[0].answer.startswith("more is missing in class benign")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All draws, as SciPy makes them."""
    monkeypatch.setattr("voxgap.missingness.permutation.ENOUGH", 10**9)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return abs(a.mean() - b.mean())


@pytest.mark.usefixtures("patient")
def test_permutation_equals_scipy() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=25), rng.integers(0, 2, 25).astype(float)
    x += 0.5 * y
    alone = np.arange(25)
    r, p = permute(x, y[:, None], alone, 4999, rng, studentise=False)
    reference = stats.permutation_test(
        (x[y == 1], x[y == 0]), distance, n_resamples=9999, alternative="greater", rng=1
    )
    assert r[0] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert p == pytest.approx(reference.pvalue, abs=0.03)
    z = rng.normal(size=25) + 0.4 * x
    assert permute(x, z[:, None], alone, 4999, rng, studentise=True)[1] == pytest.approx(
        stats.pearsonr(x, z).pvalue, abs=0.03
    )


@pytest.mark.usefixtures("patient")
def test_sign_flips_equal_scipy() -> None:
    scores = np.random.default_rng(6).normal(0.5, 1, 12)
    reference = stats.permutation_test(
        (scores, np.zeros(12)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=np.inf
    )
    mean, p = flip(scores, np.arange(12), 4999, np.random.default_rng(0))
    assert mean == pytest.approx(scores.mean())
    assert p == pytest.approx(reference.pvalue, abs=0.02)


@pytest.mark.usefixtures("patient")
def test_groups_change_places_as_a_whole() -> None:
    # Ten groups of one label each, alike within: 50 volumes are 10 pieces of evidence, not 50.
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(10), 5)
    x, y = rng.normal(size=10)[groups], np.repeat([0.0, 1.0], 25)
    reference = stats.permutation_test(
        (x[:25:5], x[25::5]), distance, n_resamples=np.inf, alternative="greater"
    )
    p = permute(x, y[:, None], groups, 4999, rng, studentise=False)[1]
    assert p == pytest.approx(reference.pvalue, abs=0.02)


def test_holm_and_auc_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert list(holm([])) == []
    assert area(np.array([False, False, True, True]), np.array([1, 2, 2, 3])) == pytest.approx(3.5 / 4)


def test_what_can_not_be_tested() -> None:
    rng = np.random.default_rng(8)
    values = volumes(rng, 20)
    assert examine(values, rng.integers(0, 2, 20)).tests == ()
    assert "Nothing could be tested" in examine(values[:1] * np.nan).conclusion
    few = simulate(values[:5], "slices", 0.3)
    assert examine(few, np.array([0, 1, 0, 1, 0])).tests == ()
    assert examine(np.full_like(values, np.nan), rng.integers(0, 2, 20)).tests == ()
    # The same slice in each: nothing to compare with.
    same = values.copy()
    same[:, 2] = np.nan
    assert not any(test.found for test in examine(same, rng.integers(0, 2, 20)).tests)
    with pytest.raises(VoxgapError, match="3 groups for 20 volumes"):
        examine(values, groups=["a", "b", "c"])


def test_smoothness_is_the_correlation_of_neighbours() -> None:
    rng = np.random.default_rng(9)
    flat = rng.normal(size=(60, 12, 12, 12, 1))
    along_depth = (flat + np.roll(flat, 1, axis=1))[:, 1:]
    smoothness = examine(simulate(along_depth, "voxels", 0.2)).smoothness
    assert smoothness["depth"] == pytest.approx(0.5, abs=0.03)
    assert smoothness["height"] == pytest.approx(0, abs=0.02)


def test_chunks_change_nothing_and_json_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    values = gapped(rng, volumes(rng, 30, 2), "slices")
    whole = examine(values, max_draws=199)
    monkeypatch.setattr("voxgap.observed.BLOCK_VOXELS", 2000)
    parts = examine(values, max_draws=199)
    assert [test.p_value for test in whole.tests] == pytest.approx([test.p_value for test in parts.tests])
    text = json.dumps(whole.to_json(), allow_nan=False)
    assert json.loads(text)["tests"][0]["found"] is whole.tests[0].found
