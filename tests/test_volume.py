"""Volume: what is accepted, what is refused and in which words."""

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.volume import Volume, as_batch, as_values


def test_a_rank_3_array_gets_one_channel() -> None:
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    assert volume.shape == (2, 3, 4, 1)
    assert volume.values.dtype == np.float32
    assert volume.channels == ("channel_0",)
    assert volume.spacing is None


def test_observed_and_missing_rate_come_from_the_nans() -> None:
    values = np.zeros((2, 2, 2, 2), np.float32)
    values[0, 0, 0, 0] = values[1, 1, 1, 1] = np.nan
    volume = Volume(values)
    assert np.array_equal(volume.observed, ~np.isnan(values))
    assert volume.missing_rate == 2 / 16


def test_masked_entries_become_nan() -> None:
    hidden = np.ma.masked_equal(np.arange(8).reshape(2, 2, 2), 3)
    volume = Volume(hidden)
    assert np.flatnonzero(np.isnan(volume.values)).tolist() == [3]


def test_float32_is_not_copied() -> None:
    values = np.zeros((2, 2, 2, 1), np.float32)
    assert Volume(values).values is values
    batch = np.zeros((1, 2, 2, 2, 1), np.float32)
    assert as_batch(batch) is batch


def test_spacing_follows_the_affine() -> None:
    affine = np.array([[0, 0, 0.5, 1], [0, 0.7, 0, 2], [3, 0, 0, 4], [0, 0, 0, 1.0]])
    assert Volume(np.zeros((2, 2, 2)), affine=affine).spacing == (3.0, 0.7, 0.5)
    with pytest.raises(VoxgapError, match="contradicts"):
        Volume(np.zeros((2, 2, 2)), affine=affine, spacing=(1, 1, 1))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 4)), "4×4 has rank 2"),
        (np.zeros((1, 2, 2, 2, 1)), "has rank 5"),
        (np.float32(1), r"\(\) has rank 0"),
        (np.zeros((0, 4, 4)), "holds no voxel"),
        (np.zeros((2, 2, 2), complex), "complex128 is not a real number"),
        (np.array([[["a"]]]), "is not a real number"),
        (np.array([[[None]]]), "object is not a real number"),
        ([[[1, 2]], [[1]]], "give volumes of one shape"),
        (np.array([[[np.inf, -np.inf, 0]]]), "2 infinite values .* replace by NaN"),
        (np.array([[[1e39]]]), "1 infinite value "),
    ],
)
def test_bad_values_are_refused_in_one_line(values: object, words: str) -> None:
    with pytest.raises(VoxgapError, match=words) as error:
        as_values(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"affine": np.eye(3)}, "give 4×4"),
        ({"affine": np.full((4, 4), np.nan)}, "not finite"),
        ({"affine": np.diag([1, 1, 0, 1])}, "no size"),
        ({"affine": [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "coincide"),
        ({"spacing": (1, 2)}, "three positive sizes"),
        ({"spacing": (1, 0, 1)}, "three positive sizes"),
        ({"channels": ("t1", "t2")}, "2 channel names for 1 channels"),
    ],
)
def test_bad_geometry_and_names_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(VoxgapError, match=words):
        Volume(np.zeros((2, 2, 2)), **fields)  # type: ignore[arg-type]


def test_a_batch_has_rank_5() -> None:
    with pytest.raises(VoxgapError, match="rank 4; give"):
        as_batch(np.zeros((2, 2, 2, 2)))


def test_a_volume_is_printed_in_one_line() -> None:
    values = np.zeros((4, 5, 6, 12), np.float32)
    values[0] = np.nan
    names = [f"B{index:02}" for index in range(12)]
    text = repr(Volume(values, spacing=(86400, 0.01, 0.5), channels=names))
    assert text == str(Volume(values, spacing=(86400, 0.01, 0.5), channels=names))
    assert text == (
        "Volume(4×5×6×12 float32; spacing 8.64e+04 × 0.01 × 0.5; 25.0% missing; "
        "channels B00, B01, B02, B03, B04, B05, B06, B07, ...)"
    )
    assert repr(Volume(values[..., :1])) == "Volume(4×5×6×1 float32; 25.0% missing; channels channel_0)"
