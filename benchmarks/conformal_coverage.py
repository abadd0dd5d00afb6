"""Whether guaranteed answers cover what they promise: marginally and for each pattern of gaps, over random splits.

Volumes of four channels with gaps, and a network that is a formula: no training, so that 200 splits take a minute. Each
split draws a calibration part and a test part anew. Two of the patterns are rare: they borrow, by taking channels away.

    python benchmarks/conformal_coverage.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxgap.dataset import Dataset
from voxgap.promises import Guarantee, Pattern, missing_of, pattern_of, promised
from voxgap.trust import conformal

SPLITS, CALIBRATION, TEST = 200, 600, 2000
CHANNELS = ("t1", "t2", "flair", "dwi")
SHAPE = (2, 4, 4)
KINDS: tuple[tuple[tuple[int, ...], float, float], ...] = (
    ((), 0.0, 0.38),
    ((), 0.4, 0.2),
    ((2,), 0.0, 0.2),
    ((0, 1), 0.0, 0.18),
    ((3,), 0.0, 0.02),
    ((1, 2), 0.0, 0.02),
)
"""Missing channels, share of the rest that is missing, and how often that occurs."""


def draw(task: Any, count: int, rng: np.random.Generator) -> Dataset:
    """Draw samples whose channels each say something of the target, with gaps that depend on nothing."""
    level = rng.normal(size=(count, 3)) if task == "regression" else rng.integers(0, 3, count)
    means = level[:, [0, 1, 2, 0]] if task == "regression" else np.eye(3)[level][:, [0, 1, 2, 0]] * 1.6
    each = means[:, None, None, None] + rng.normal(size=(count, *SHAPE, 4)) * 2.5
    volumes = (each + rng.normal(size=(count, 1, 1, 1, 4)) * 0.7).astype(np.float32)
    kinds = rng.choice(len(KINDS), count, p=[share for *_, share in KINDS])
    for kind, (missing, rate, _) in enumerate(KINDS):
        own = np.flatnonzero(kinds == kind)
        block = volumes[own]
        block[..., list(missing)] = np.nan
        hidden = rng.permuted(np.tile(np.arange(math.prod(SHAPE)), (len(own), 1)), axis=1)
        block[(hidden < rate * math.prod(SHAPE)).reshape(len(own), *SHAPE)] = np.nan
        volumes[own] = block
    targets = level.sum(axis=1) if task == "regression" else level
    if task == "segmentation":
        targets = (each[..., 0] + each[..., 1] > 2.5).astype(np.int64)
    classes = {"regression": (), "segmentation": ("none", "there")}.get(task, ("a", "b", "c"))
    return Dataset(volumes, targets, task, classes, np.full(count, "test"), channels=CHANNELS)


def calibrate(data: Dataset, predict: Any, coverage: float) -> Guarantee:
    """As `voxgap.trust.conformal.calibrated`, but for the test whether gaps depend on anything: here they don't."""
    counts, members = np.array([missing_of(volume) for volume in data.volumes]), np.arange(len(data))
    scores, kinds = conformal.scored(data, predict, range(len(data))), conformal.patterns_of(data, counts)
    claims = conformal.claimed(data.task, scores, kinds, members, coverage)
    claims |= conformal.borrowed(data, predict, counts, members, coverage, set(claims))
    return Guarantee(coverage, claims, CHANNELS)


def network(task: str) -> Callable[[Any], Any]:
    """What answers from the observed means of the channels, as a network that fills with the mean would."""

    def predict(volumes: Any) -> Any:
        there = ~np.isnan(volumes)
        values = np.where(there, volumes, 0)
        if task == "segmentation":
            second = 1 / (1 + np.exp(-(values[..., 0] + values[..., 1] - 2.5) / 2))
            return np.stack([1 - second, second], axis=-1).astype(np.float32)
        means = values.sum(axis=(1, 2, 3)) / np.maximum(there.sum(axis=(1, 2, 3)), 1)
        if task == "regression":
            return (0.7 * means[:, :3].sum(axis=1, keepdims=True) + 0.3 * means[:, 3:]).astype(np.float32)
        logits = 2 * means[:, :3] + np.array([1.0, 0, 0]) * means[:, 3:]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    return predict


def covered(guarantee: Guarantee, pattern: Pattern, answers: Any, targets: Any) -> tuple[float, float]:
    """Mean share that is covered, and mean size, of the answers for one pattern."""
    claim = guarantee.claims[pattern]
    found = promised(_task(targets, answers), answers, claim.thresholds, guarantee.tolerance)
    if answers.ndim == 5:
        held = [
            (f[..., 0] & (t == 1)).sum() / (t == 1).sum()
            for f, t in zip(found, targets, strict=True)
            if t.any()
        ]
        return float(np.mean(held)), float(found.mean())
    if targets.dtype.kind == "f":
        low, high = found[:, 0].T
        return float(((low <= targets) & (targets <= high)).mean()), float((high - low).mean())
    return float(found[np.arange(len(targets)), targets].mean()), float(found.sum(axis=1).mean())


def _task(targets: Any, answers: Any) -> str:
    if answers.ndim == 5:
        return "segmentation"
    return "regression" if targets.dtype.kind == "f" else "classification"


@dataclass
class Measured:
    """What 200 splits found of one pattern."""

    coverage: list[float]
    size: list[float]
    ideal: list[float]
    rests: str = ""
    samples: int = 0


def measure(task: str, coverage: float, splits: int = SPLITS, seed: int = 0) -> dict[str, Measured]:
    """Calibrate and test on random splits.

    Returns:
        By pattern, and for `all`: coverage and size of each split, and the size where the thresholds come from 20,000
        scores of that very pattern.
    """
    rng = np.random.default_rng(seed)
    predict = network(task)
    much = draw(task, 40_000 if task != "segmentation" else 4000, rng)
    kinds = [pattern_of(volume) for volume in much.volumes]
    scores = conformal.scored(much, predict, range(len(kinds)))
    ideal = Guarantee(
        coverage, conformal.claimed(task, scores, kinds, np.arange(len(kinds)), coverage), CHANNELS
    )
    found: dict[str, Measured] = {}
    for _ in range(splits):
        guarantee = calibrate(draw(task, CALIBRATION, rng), predict, coverage)
        test = draw(task, TEST if task != "segmentation" else 600, rng)
        answers, patterns = predict(test.volumes), np.array([hash(pattern_of(v)) for v in test.volumes])
        whole: list[tuple[float, float, float, int]] = []
        for pattern, claim in guarantee.claims.items():
            own = np.flatnonzero(patterns == hash(pattern))
            if len(own) < 5 or pattern not in ideal.claims:
                continue
            share, size = covered(guarantee, pattern, answers[own], test.targets[own])
            best = covered(ideal, pattern, answers[own], test.targets[own])[1]
            kept = found.setdefault(f"{pattern.words(CHANNELS)} ({claim.rests})", Measured([], [], []))
            kept.coverage.append(share)
            kept.size.append(size)
            kept.ideal.append(best)
            kept.samples = claim.samples
            whole.append((share, size, best, len(own)))
        weights = [count for *_, count in whole]
        all_of = found.setdefault("all", Measured([], [], []))
        for kept_in, values in zip(
            (all_of.coverage, all_of.size, all_of.ideal), zip(*whole, strict=True), strict=False
        ):
            kept_in.append(float(np.average(values, weights=weights)))
    return found


def main() -> None:
    """Print coverage with its Monte Carlo error, and sizes, of every task."""
    for task in ("classification", "regression", "segmentation"):
        print(f"{task}, coverage 0.9 asked for, {CALIBRATION} calibration samples, {SPLITS} splits")
        for pattern, found in measure(task, 0.9).items():
            values = np.array(found.coverage)
            error = values.std(ddof=1) / math.sqrt(len(values))
            ratio = np.mean(found.size) / np.mean(found.ideal)
            print(
                f"  {pattern:<62} {values.mean():.4f} ± {error:.4f}   size {np.mean(found.size):.3f}, "
                f"{ratio:.3f} x ideal   ({len(values)} splits)"
            )


if __name__ == "__main__":
    main()
