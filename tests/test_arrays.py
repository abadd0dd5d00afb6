"""One way in for arrays: every kind of array, at every door, is what the plain float32 array is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import stand_in
import tiny
import voxgap as vg
from voxgap.arrays import as_array, as_real
from voxgap.errors import VoxgapError
from voxgap.missingness import sample_gaps
from voxgap.patches import read_patch
from voxgap.runtime import Predictor

SHAPE = (4, 4, 5, 6, 1)
WHOLE = np.random.default_rng(0).integers(1, 100, SHAPE).astype(np.float32)  # exact in bfloat16 as well
GAPPED = WHOLE.copy()
GAPPED[:, 1] = GAPPED[0, 0, 0, 0] = np.nan
JUNK = 99.0


def masked(x: np.ndarray, dtype: Any = np.float32) -> np.ma.MaskedArray:
    """Junk under each masked entry, which must never be seen."""
    return np.ma.array(np.where(np.isnan(x), JUNK, x).astype(dtype), mask=np.isnan(x))


def torch(x: np.ndarray, **options: Any) -> Any:
    return pytest.importorskip("torch").tensor(x, **options)


def torch_bfloat16(x: np.ndarray) -> Any:
    module = pytest.importorskip("torch")
    return module.tensor(x, dtype=module.bfloat16, requires_grad=True)


def tensorflow(x: np.ndarray, dtype: str = "float32") -> Any:
    return pytest.importorskip("tensorflow").constant(x, dtype)


def jax(x: np.ndarray, dtype: str = "float32") -> Any:
    return pytest.importorskip("jax.numpy").asarray(x, dtype)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 2, axis=-2)[..., ::2, :][::-1].copy()[::-1]


class LazilyMasked:
    """As a variable of netCDF4: NumPy is given a masked array, and would forget the mask."""

    def __init__(self, x: np.ndarray) -> None:
        self.held, self.shape, self.ndim = masked(x), x.shape, x.ndim

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, key: Any) -> Any:
        return self.held[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ma.MaskedArray:
        return self.held


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "big-endian": lambda x: x.astype(">f8"),
    "fortran": np.asfortranarray,
    "strided": strided,
    "read-only": read_only,
    "lists": lambda x: x.tolist(),
    "masked": masked,
    "masked int16": lambda x: masked(x, np.int16),
    "masked uint8": lambda x: masked(x, np.uint8),
    "masked big-endian": lambda x: masked(x, ">i4"),
    "list of masked": lambda x: list(masked(x, np.int16)),
    "lists of lists of masked": lambda x: [list(volume) for volume in masked(x)],
    "lazily masked": LazilyMasked,
    "torch": torch,
    "torch with a gradient": lambda x: torch(x, requires_grad=True),
    "torch bfloat16 with a gradient": torch_bfloat16,
    "list of torch": lambda x: list(torch(x, requires_grad=True)),
    "tensorflow": tensorflow,
    "tensorflow bfloat16": lambda x: tensorflow(x, "bfloat16"),
    "list of tensorflow": lambda x: list(tensorflow(x, "float16")),
    "jax": jax,
    "jax bfloat16": lambda x: jax(x, "bfloat16"),
    "xarray": lambda x: pytest.importorskip("xarray").DataArray(x),
}
WHOLE_KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "uint8": lambda x: x.astype(np.uint8),
    "int64": lambda x: x.astype(np.int64),
    "big-endian uint16": lambda x: x.astype(">u2"),
    "torch uint8": lambda x: torch(x.astype(np.uint8)),
}
FEW = (
    "masked int16",
    "list of masked",
    "torch bfloat16 with a gradient",
    "tensorflow bfloat16",
    "fortran",
    "big-endian",
)


def identity(batch: np.ndarray) -> np.ndarray:
    return batch.reshape(len(batch), -1)[:, :24]


PREDICTOR = Predictor(
    stand_in.manifest(
        classes=[],
        outputs=24,
        input={"shape": list(SHAPE[1:]), "channels": ["channel_0"]},
    ),
    lambda batch: np.nan_to_num(identity(batch), nan=-1.0),
)
BUILT = tiny.build_model(tiny.network, SHAPE[1:], 2, strategy="linear")
CLASSES = np.array([0, 1, 0, 1])
SPLIT = np.array(["train", "train", "validation", "validation"])


def filled(layer: Any) -> Callable[[Any], Any]:
    layer.adapt(GAPPED)
    return lambda x: np.asarray(layer(x))


def adapted(make: Callable[[], Any]) -> Callable[[Any], Any]:
    def door(x: Any) -> Any:
        layer = make()
        layer.adapt(x)
        return np.asarray(layer(GAPPED))

    return door


def normalised(x: Any) -> Any:
    layer = vg.layers.ObservedNormalization()
    layer.adapt(x)
    return np.asarray(layer(WHOLE))


def written(x: Any) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        vg.write(Path(folder) / "x.nii.gz", vg.Volume(x[0]))
        return vg.read(Path(folder) / "x.nii.gz").values


def trained(x: Any) -> Any:
    """Not a `Dataset`: what training is given by someone else."""
    model = tiny.build_model(tiny.network, SHAPE[1:], 2, strategy="mean", seed=1)

    class Part(SimpleNamespace):
        def part(self, split: str) -> Any:
            return self

    history = vg.train(
        model, Part(volumes=x, targets=CLASSES, task="classification"), epochs=2, precision="float32"
    )
    return [record["loss"] for record in history.epochs]


DOORS: dict[str, Callable[[Any], Any]] = {
    "Volume": lambda x: vg.Volume(x[0]).values,
    "Dataset.from_arrays": lambda x: vg.Dataset.from_arrays(x, CLASSES, split=SPLIT).volumes,
    "Dataset": lambda x: vg.Dataset(x, CLASSES, "classification", ("a", "b"), SPLIT).volumes,
    "describe": lambda x: [round(float(s), 6) for s in vg.describe(x).shares.values()],
    "simulate": lambda x: vg.simulate(x, "voxels", 0.3, seed=1),
    "Gaps.apply": lambda x: sample_gaps(WHOLE, "slices", 0.5, seed=1).apply(x),
    "augment": lambda x: vg.augment.from_text("flip,rotate:10", "scan")(x, 3),
    "fill.Mean": filled(vg.fill.Mean()),
    "fill.LinearInterpolation": filled(vg.fill.LinearInterpolation()),
    "Mean.adapt": adapted(vg.fill.Mean),
    "Median.adapt": adapted(vg.fill.Median),
    "KNN.adapt": adapted(lambda: vg.fill.KNN(n_neighbors=2)),
    "MatrixFactorization.adapt": adapted(lambda: vg.fill.MatrixFactorization(rank=2, seed=0)),
    "ObservedNormalization.adapt": normalised,
    "SplitMissing": lambda x: np.asarray(vg.layers.SplitMissing()(x)),
    "Predictor.predict": PREDICTOR.predict,
    "Predictor.answer": lambda x: PREDICTOR.answer(x[0]).values,
    "resample": lambda x: vg.resample.resample(vg.Volume(x[1], spacing=(1, 1, 1)), size=(3, 4, 5))[0].values,
    "read_patch": lambda x: read_patch(x, 0, (1, -1, 0), (2, 3, 4)),
    "write": written,
    "train": trained,
}
EXPECTED: dict[tuple[str, bool], Any] = {}


def check(door: str, make: Callable[[np.ndarray], Any], gaps: bool) -> None:
    plain = GAPPED if gaps else WHOLE
    if (door, gaps) not in EXPECTED:
        EXPECTED[door, gaps] = DOORS[door](plain.copy())
    given = make(plain)
    if door in ("read_patch", "train") and isinstance(given, list):
        pytest.skip("these take what has a shape")
    np.testing.assert_allclose(DOORS[door](given), EXPECTED[door, gaps], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [*KINDS, *WHOLE_KINDS])
def test_every_kind_of_array_is_read_alike(kind: str) -> None:
    plain = GAPPED if kind in KINDS else WHOLE
    make = (KINDS | WHOLE_KINDS)[kind]
    found = as_real(make(plain), "x").astype(np.float32)
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize(
    "door", [name for name in DOORS if name not in ("train", "MatrixFactorization.adapt")]
)
def test_every_door_reads_what_the_plain_array_says(door: str, kind: str) -> None:
    check(door, KINDS[kind], gaps=True)


@pytest.mark.full
@pytest.mark.parametrize("kind", [*KINDS, *WHOLE_KINDS])
@pytest.mark.parametrize("door", DOORS)
def test_every_kind_at_every_door(door: str, kind: str) -> None:
    check(door, (KINDS | WHOLE_KINDS)[kind], gaps=kind in KINDS)


def test_a_plain_array_is_not_copied() -> None:
    assert as_real(WHOLE, "x") is WHOLE


def test_the_mask_of_pandas_is_a_gap() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([1, None, 3], "Int64"), "b": [4.0, 5.0, float("nan")]})
    np.testing.assert_array_equal(as_real([frame, frame], "x")[1], [[1, 4], [np.nan, 5], [3, np.nan]])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([1, "a"], object), "dtype object is not a real number"),
        ([[1.0, None]], "dtype object is not a real number"),
        (np.ma.array([1 + 1j], mask=[True]), "dtype complex128|no NaN"),
        (np.array(["2020-01-01"], "datetime64[D]"), "is not a real number"),
        (np.zeros(3, [("a", "f4")]), "is not a real number"),
        (np.zeros(3, "V2"), "is not a real number"),
        ([np.zeros((2, 3)), np.zeros((3, 2))], r"not one array \(2×3 and 3×2\)"),
        ([[1, 2], [3]], "not one array"),
        (object(), "dtype object is not a real number"),
        ([], "holds no voxel"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(values: Any, said: str) -> None:
    with pytest.raises(VoxgapError, match=said) as caught:
        as_real(values, "scan")
    assert str(caught.value).startswith("scan: ")


def test_what_a_library_refuses_to_give_is_one_line() -> None:
    class Elsewhere:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            raise TypeError("implicit conversion\nis not allowed")

    with pytest.raises(
        VoxgapError, match=r"scan: a Elsewhere can't be read as an array \(implicit conversion is"
    ):
        as_real(Elsewhere(), "scan")


def test_masked_labels_and_targets_are_no_labels() -> None:
    hidden = np.ma.array([0, 1, 0, 1], mask=[0, 0, 1, 0])
    with pytest.raises(VoxgapError, match="label 2 is NaN"):
        vg.Dataset.from_arrays(WHOLE, hidden, split=SPLIT)
    with pytest.raises(VoxgapError, match="a target is NaN"):
        vg.Dataset.from_arrays(WHOLE, targets=hidden.astype(float), split=SPLIT)
    with pytest.raises(VoxgapError, match="labels: some are masked"):
        vg.Dataset.from_arrays(WHOLE, np.ma.array(["a", "b", "a", "b"], mask=[0, 0, 1, 0]), split=SPLIT)
    assert as_array(np.ma.array(["a", "b"]), "x").tolist() == ["a", "b"]


@pytest.mark.parametrize("kind", ["masked", "masked uint8", "list of masked", "lists of lists of masked"])
def test_what_is_masked_in_a_label_map_is_not_labelled(kind: str) -> None:
    drawn = np.where(np.isnan(GAPPED[..., 0]), np.nan, WHOLE[..., 0] % 2)
    maps = vg.Dataset.from_arrays(WHOLE, label_maps=KINDS[kind](drawn), classes=["0", "1"]).targets
    np.testing.assert_array_equal(maps, np.where(np.isnan(drawn), -1, drawn))


class Unreadable:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("on another device")


class UnreadableTensor(Unreadable):
    shape, dtype = SHAPE[1:], np.dtype("f4")


@pytest.mark.parametrize("kind", [Unreadable, UnreadableTensor])
@pytest.mark.parametrize("in_array", [False, True])
def test_a_list_of_what_cannot_be_read_is_refused_in_one_line(kind: type, in_array: bool) -> None:
    given: Any = [kind() for _ in CLASSES]
    if in_array:
        held = np.empty(len(given), object)
        for index, one in enumerate(given):
            held[index] = one
        given = held
    for arguments in (
        {"volumes": given, "labels": CLASSES},
        {"labels": given},
        {"targets": given},
        {"label_maps": given},
        {"labels": CLASSES, "groups": given},
        {"labels": CLASSES, "split": given},
    ):
        with pytest.raises(VoxgapError) as error:
            vg.Dataset.from_arrays(**{"volumes": WHOLE} | arguments)
        assert "\n" not in str(error.value)
