"""False alarms and power of the verdicts of `voxgap compare`, by simulated experiments, with and without a race.

Scores are normal, and splits share what the correction supposes of overlapping training sets. Under the null all
strategies are equally good, with equal spreads, with spreads that scatter, or with one that is noisier than the rest:
how often is any named better or worse? With the effects of the measured table of docs/missing-data.md: how often is the
best shown to be better than the others, for how many runs, and how often by the tests pair by pair that came before?

    python benchmarks/verdicts.py --experiments 10000
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from voxgap.metrics.pairs import BETTER, WORSE, decided, judged, pairs_of
from voxgap.metrics.racing import look, looks, share
from voxgap.metrics.significance import ALPHA, holm

CHUNK = 1000
SPREAD = 0.03
"""Standard deviation between folds of the difference of two strategies: what 200 test cases give."""
# Of the measured table, beneath the best.
EFFECTS = {
    "brain": (0, 0.033, 0.044, 0.044, 0.062, 0.069, 0.071, 0.092, 0.096, 0.122, 0.130),
    "motion": (0, 0.055, 0.060, 0.068, 0.083, 0.084, 0.093),
    "nodules": (0, 0.001, 0.007, 0.015, 0.015, 0.016, 0.020, 0.027, 0.029),
}


class Found(NamedTuple):
    """Codes `(experiments, pairs)` of `voxgap.metrics.pairs`, and runs `(experiments,)`."""

    codes: Any
    runs: Any


def ratio_of(folds: int) -> float:
    """Test samples for each training sample: a fifth of the rest is for validation."""
    return 1 / (0.8 * (folds - 1))


def drawn(rng: np.random.Generator, means: Any, spreads: Any, splits: int, ratio: float) -> Any:
    """Draw scores `(experiments, strategies, splits)`.

    Args:
        rng: source of all of it.
        means: `(strategies,)`. spreads: `(experiments, strategies)`, each of one strategy.
        splits, ratio: see `voxgap.metrics.significance`.
    """
    shared = np.sqrt(ratio) * rng.normal(size=(*spreads.shape, 1))
    own = rng.normal(size=(*spreads.shape, splits))
    return np.asarray(means)[:, None] + spreads[..., None] * (shared + own)


def before(scores: Any, ratio: float, rope: float) -> Found:
    """Judge as before pairs borrowed from each other: corrected t-tests of each alone, Holm, and the region."""
    first, second = np.array(pairs_of(scores.shape[1])).T
    gains = scores[:, first] - scores[:, second]
    splits = gains.shape[-1]
    error = gains.std(axis=-1, ddof=1) * np.sqrt(1 / splits + ratio)
    mean = gains.mean(axis=-1)
    shown = holm(2 * stats.t.sf(np.abs(mean) / error, splits - 1)) <= ALPHA
    better, worse = (stats.t.sf((rope - way * mean) / error, splits - 1) >= 1 - ALPHA for way in (1, -1))
    codes = np.select([shown & better, shown & worse], [BETTER, WORSE], 0)
    return Found(codes, np.full(len(scores), scores.shape[1] * splits))


def now(scores: Any, ratio: float, rope: float) -> Found:
    """Judge as voxgap does, all splits at once."""
    codes = decided(judged(scores[..., None], ratio, rope=rope), rope)
    return Found(codes, np.full(len(scores), scores.shape[1] * scores.shape[2]))


def race(scores: Any, ratio: float, rope: float) -> Found:
    """Judge as voxgap does after a race over the splits."""
    experiments, strategies, splits = scores.shape
    folds = round(1 + 1 / (0.8 * ratio))
    at = looks(folds, splits // folds)
    level = share(at)
    seen = np.full(scores.shape, np.nan)
    inside, going = np.ones((experiments, strategies), bool), np.arange(experiments)
    until = 0
    for number in at:
        new = slice(until, number)
        seen[going, :, new] = np.where(inside[going, :, None], scores[going, :, new], np.nan)
        so_far = seen[going, :, :number, None]
        inside[going], over = look(so_far, inside[going], ratio, level=level, rope=rope)
        going, until = going[~over], number
    codes = decided(judged(seen[..., None], ratio, rope=rope, level=level), rope, level=level)
    return Found(codes, (~np.isnan(seen)).sum(axis=(1, 2)))


def spreads_of(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    """Return the spreads of strategies such that differences have `SPREAD` where all are equal."""
    spreads = np.full(shape, SPREAD / np.sqrt(2))
    if kind == "scattered":
        spreads *= np.exp(0.5 * rng.normal(size=shape))
    elif kind == "one noisy":
        spreads[:, 0] *= 3
    return spreads


def false_alarms(
    judge: Any, kind: str, strategies: int, splits: int, ratio: float, experiments: int, seed: int = 0
) -> float:
    """Return the share of experiments without any difference in which one is shown; without a region of equivalence."""
    rng = np.random.default_rng((seed, strategies, splits))
    alarms = 0
    for start in range(0, experiments, CHUNK):
        count = min(CHUNK, experiments - start)
        spreads = spreads_of(kind, rng, (count, strategies))
        codes = judge(drawn(rng, np.zeros(strategies), spreads, splits, ratio), ratio, 0.0).codes
        alarms += int(np.isin(codes, (BETTER, WORSE)).any(axis=1).sum())
    return alarms / experiments


def power(
    judge: Any, effects: tuple[float, ...], splits: int, ratio: float, experiments: int, seed: int = 0
) -> tuple[float, float]:
    """Return how many of the others the best is shown to be better than, as a share, and how many runs that took."""
    rng = np.random.default_rng((seed, len(effects)))
    shown, runs = 0.0, 0.0
    for start in range(0, experiments, CHUNK):
        count = min(CHUNK, experiments - start)
        spreads = spreads_of("equal", rng, (count, len(effects)))
        found = judge(drawn(rng, -np.array(effects), spreads, splits, ratio), ratio, 0.01)
        shown += float((found.codes[:, : len(effects) - 1] == BETTER).sum()) / (len(effects) - 1)
        runs += float(found.runs.sum())
    return shown / experiments, runs / experiments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=10_000)
    count = parser.parse_args().experiments
    print(f"False alarms in {count} experiments, at most 0.05; no region of equivalence")
    print(f"{'strategies':>10} {'splits':>6} {'spreads':>10} {'before':>7} {'now':>7} {'race':>7}")
    for strategies in (2, 3, 4, 8, 12):
        for folds, splits in ((3, 3), (5, 5), (5, 15)):
            for kind in ("equal", "scattered", "one noisy"):
                rates = [
                    false_alarms(judge, kind, strategies, splits, ratio_of(folds), count)
                    for judge in (before, now, race)
                ]
                line = " ".join(f"{rate:7.4f}" for rate in rates)
                print(f"{strategies:10} {splits:6} {kind:>10} {line}", flush=True)
    print(f"\nBest shown to be better, share of the others, and runs; spread {SPREAD}")
    for name, effects in EFFECTS.items():
        for folds in (3, 5):
            for title, judge, times in (
                *((f"before, {folds} folds x {n}", before, n) for n in (1, 2, 3, 4)),
                *((f"now, {folds} folds x {n}", now, n) for n in (1, 2, 3)),
                (f"race, {folds} folds x 3", race, 3),
            ):
                shown, runs = power(judge, effects, folds * times, ratio_of(folds), count // 5)
                print(f"{name:>8} {title:<22} {shown:6.3f} {runs:7.1f}", flush=True)


if __name__ == "__main__":
    main()
