"""Whether guaranteed answers cover what they promise: marginally and for each pattern of gaps, over random splits.

Volumes of four channels with gaps, and a network that is a formula: no training, so that 200 splits take a few minutes.
Each split draws a calibration part and a test part anew. Two of the patterns are rare: they borrow, by taking channels
away. MAPIE, where `make bench` has installed it, calibrates on the same answers of the same splits; it knows no
patterns.

    python benchmarks/conformal_coverage.py [classification] [regression] [segmentation]

Ended and started again, it goes on: what each 20 splits found lies in bench-results/coverage, by what found it.
"""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol import FOLDER, PEERS
from voxgap import promises
from voxgap.dataset import Dataset
from voxgap.files import digest, write_bytes
from voxgap.promises import Guarantee, Pattern, missing_of, promised
from voxgap.trust import conformal

TASKS = ("classification", "regression", "segmentation")
SPLITS, AT_ONCE, CALIBRATION, TEST, TEST_MAPS = 200, 20, 600, 2000, 600
ASKED = 0.9
CHANNELS = ("t1", "t2", "flair", "dwi")
SHAPE = (2, 4, 4)
MADE_BY = (__file__, FOLDER / "conformal_peer.py", promises.__file__, conformal.__file__)
Floats = NDArray[np.float64]
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
            # Where a voxel is missing it goes by the others: as of any network, its probabilities do not tie.
            means = values.sum(axis=(1, 2, 3), keepdims=True) / there.sum(axis=(1, 2, 3), keepdims=True).clip(
                1
            )
            filled = np.where(there, values, means)
            nearby = filled.mean(axis=-1) + np.roll(filled.mean(axis=-1), 1, axis=3)
            second = 1 / (1 + np.exp(-(filled[..., 0] + filled[..., 1] + nearby - 2.5) / 2))
            return np.stack([1 - second, second], axis=-1).astype(np.float32)
        means = values.sum(axis=(1, 2, 3)) / np.maximum(there.sum(axis=(1, 2, 3)), 1)
        if task == "regression":
            return (0.7 * means[:, :3].sum(axis=1, keepdims=True) + 0.3 * means[:, 3:]).astype(np.float32)
        logits = 2 * means[:, :3] + np.array([1.0, 0, 0]) * means[:, 3:]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    return predict


def covered(guarantee: Guarantee, pattern: Pattern, answers: Any, targets: Any) -> tuple[Floats, Floats]:
    """How much of each sample is covered, and how large its set is, `(n,)` each.

    Of a segmentation the share of the volume that lies in the region, NaN where there is none, and its size as a share
    of all voxels.
    """
    task = _task(targets, answers)
    found = promised(task, answers, guarantee.claims[pattern].thresholds, guarantee.tolerance)
    if task == "segmentation":
        return of_regions(found[..., 0], targets)
    if task == "regression":
        low, high = found[:, 0].T
        return np.asarray((low <= targets) & (targets <= high), float), high - low
    return found[np.arange(len(targets)), targets].astype(float), found.sum(axis=1).astype(float)


def of_regions(found: Any, targets: Any) -> tuple[Floats, Floats]:
    """Which share of the volume lies in each region, NaN where there is none, and its share of all voxels."""
    found, there = found.reshape(len(found), -1), targets.reshape(len(found), -1) == 1
    with np.errstate(invalid="ignore"):
        return (found & there).sum(axis=1) / there.sum(axis=1), found.mean(axis=1)


def _task(targets: Any, answers: Any) -> str:
    if answers.ndim == 5:
        return "segmentation"
    return "regression" if targets.dtype.kind == "f" else "classification"


@dataclass
class Measured:
    """What the splits found of one pattern: means of each split.

    Attributes:
        coverage, size: of the guarantee.
        ideal: size where the thresholds come from 40,000 scores of that very pattern (4,000 of a segmentation).
        peer_coverage, peer_size: of the peer on the same samples; empty without one.
        samples: that the claim rests on, in the last split.
    """

    coverage: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    ideal: list[float] = field(default_factory=list)
    peer_coverage: list[float] = field(default_factory=list)
    peer_size: list[float] = field(default_factory=list)
    samples: int = CALIBRATION

    @property
    def mean(self) -> float:
        return float(np.mean(self.coverage))

    @property
    def peer_mean(self) -> float:
        return float(np.mean(self.peer_coverage))

    @property
    def error(self) -> float:
        """Monte Carlo error of that mean."""
        return float(np.std(self.coverage, ddof=1)) / math.sqrt(len(self.coverage))

    @property
    def ratio(self) -> float:
        """How much larger the sets are than ideal ones."""
        return float(np.mean(self.size) / np.mean(self.ideal))

    def holds(self, asked: float) -> bool:
        """Coverage as asked - 1 %, and at most + 1 % + 1/(n + 1), since sets may be empty; sets not too large."""
        within = asked - 0.01 <= self.mean <= asked + 0.01 + 1 / (self.samples + 1)
        return within and self.ratio <= 1.15


@dataclass
class Split:
    """One split: answers and targets of both parts, and the samples of the test part that each claim is for."""

    calibration: tuple[Any, Any]
    test: tuple[Any, Any]
    places: dict[str, NDArray[np.intp]]


def measure(
    task: str, coverage: float = ASKED, splits: int = SPLITS, seed: int = 0, peers: str | None = None
) -> dict[str, Measured]:
    """Calibrate and test on random splits, some at once; return what was found by pattern, and for `all`.

    Args:
        task: classification, regression or segmentation.
        coverage: that is asked for.
        splits: how many.
        seed: of the data.
        peers: interpreter that has MAPIE.
    """
    found: dict[str, Measured] = {}
    written = FOLDER.parent / "bench-results" / "coverage"
    written.mkdir(parents=True, exist_ok=True)
    made_by = [Path(file).read_text() for file in MADE_BY]
    for first in range(0, splits, AT_ONCE):
        wanted = (task, coverage, first, min(AT_ONCE, splits - first), seed, peers)
        kept = written / f"{digest([*map(str, wanted[:-1]), str(peers is not None), *made_by])}.json"
        if not kept.exists():
            made = {name: asdict(one) for name, one in some_splits(*wanted).items()}
            write_bytes(kept, json.dumps(made).encode())
        for name, one in json.loads(kept.read_text()).items():
            own = found.setdefault(name, Measured(samples=one.pop("samples")))
            for what, values in one.items():
                getattr(own, what).extend(values)
    return found


@functools.cache
def knowing(task: str, coverage: float, seed: int) -> Guarantee:
    """What is calibrated on very many scores of each pattern."""
    much = draw(task, 40_000 if task != "segmentation" else 4000, np.random.default_rng(seed))
    kinds = kinds_of(much)
    scores = conformal.scored(much, network(task), range(len(kinds)))
    claims = conformal.claimed(task, scores, kinds, np.arange(len(kinds)), coverage)
    return Guarantee(coverage, claims, CHANNELS)


def kinds_of(data: Dataset) -> list[Pattern]:
    """The pattern of each sample."""
    return conformal.patterns_of(data, np.isnan(data.volumes).sum(axis=(1, 2, 3)))


def some_splits(
    task: str, coverage: float, first: int, splits: int, seed: int, peers: str | None
) -> dict[str, Measured]:
    """The same of some of the splits, from one on."""
    ideal, predict, rng = knowing(task, coverage, seed), network(task), np.random.default_rng([seed, first])
    found = {"all": Measured()}
    drawn: list[Split] = []
    for _ in range(splits):
        known = draw(task, CALIBRATION, rng)
        guarantee = calibrate(known, predict, coverage)
        test = draw(task, TEST_MAPS if task == "segmentation" else TEST, rng)
        answers, patterns = predict(test.volumes), kinds_of(test)
        places: dict[str, NDArray[np.intp]] = {}
        each: list[tuple[Floats, Floats, Floats]] = []
        for pattern, claim in sorted(guarantee.claims.items()):
            own = np.flatnonzero([one == pattern for one in patterns])
            if len(own) < 5 or pattern not in ideal.claims:
                continue
            name = f"{pattern.words(CHANNELS)} ({claim.rests})"
            shares, sizes = covered(guarantee, pattern, answers[own], test.targets[own])
            each.append((shares, sizes, covered(ideal, pattern, answers[own], test.targets[own])[1]))
            places[name] = own
            _add(found.setdefault(name, Measured(samples=claim.samples)), *each[-1])
        _add(found["all"], *map(np.concatenate, zip(*each, strict=True)))
        drawn.append(Split((predict(known.volumes), known.targets), (answers, test.targets), places))
    if peers is not None:
        _beside(found, task, coverage, drawn, peers)
    return found


def _add(kept: Measured, shares: Floats, sizes: Floats, best: Floats) -> None:
    kept.coverage.append(float(np.nanmean(shares)))
    kept.size.append(float(sizes.mean()))
    kept.ideal.append(float(best.mean()))


def _beside(found: dict[str, Measured], task: str, coverage: float, drawn: list[Split], peers: str) -> None:
    """Let MAPIE calibrate on the same answers, and measure its sets on the same samples."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        parts: dict[str, Any] = {}
        for part in ("calibration", "test"):
            pairs = [getattr(split, part) for split in drawn]
            parts[f"{part}_answers"] = np.stack([answers for answers, _ in pairs])
            parts[f"{part}_targets"] = np.stack([targets for _, targets in pairs])
        np.savez(given, **parts)
        script = str(FOLDER / "conformal_peer.py")
        subprocess.run([peers, script, task, str(coverage), str(given), str(made)], check=True)
        with np.load(made) as sets:
            shares, sizes = sets["covered"], sets["sizes"]
    for split, share, size in zip(drawn, shares, sizes, strict=True):
        everyone = np.concatenate(list(split.places.values()))
        for name, own in {**split.places, "all": everyone}.items():
            found[name].peer_coverage.append(float(np.nanmean(share[own])))
            found[name].peer_size.append(float(size[own].mean()))


def show(task: str, found: dict[str, Measured], asked: float = ASKED) -> None:
    """Print a line a pattern."""
    print(
        f"{task}, coverage {asked:g} asked for, {CALIBRATION} calibration samples, "
        f"{len(found['all'].coverage)} splits"
    )
    for pattern, one in found.items():
        line = f"  {pattern:<62} {one.mean:.4f} ± {one.error:.4f}   size {np.mean(one.size):.3f}"
        line += f", {one.ratio:.3f} x ideal   {'holds' if one.holds(asked) else 'MISSES'}"
        if one.peer_coverage:
            line += f"   MAPIE {one.peer_mean:.4f}, size {np.mean(one.peer_size):.3f}"
        print(line, flush=True)


def main() -> None:
    """Print coverage with its Monte Carlo error, and sizes, of every task."""
    peers = PEERS if Path(PEERS).exists() else None
    for task in sys.argv[1:] or TASKS:
        show(task, measure(task, peers=peers))


if __name__ == "__main__":
    main()
