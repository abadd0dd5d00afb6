"""Warnings of many files are one line a kind."""

from __future__ import annotations

import threading
import warnings

import pytest

from voxgap.doubts import gathered, kind


def test_what_differs_in_files_and_numbers_is_of_one_kind() -> None:
    one = kind(
        "/a b/c1.nii.gz: 31% of the labelled voxels lie outside of the scan /a b/c1_t1.nii.gz and are not used"
    )
    assert one == kind(
        "x/d.mha: 4% of the labelled voxels lie outside of the scan y/d.mha and are not used"
    ).replace("scan #", "scan # #")
    assert kind("channel t1: values from 1 to 3, in the training data 0 to 1") == kind(
        "channel t1: values from -1.5e+03 to 0.2, in the training data 0 to 1"
    )
    assert kind("channel t1 is missing") != kind("channel t2 is missing")
    assert kind("data.csv: column `age` is read") != kind("data.csv: column `sex` is read")


def test_each_kind_is_said_once_with_a_count_and_the_first_names() -> None:
    def odd(index: int) -> None:
        warnings.warn(f"in/{index}.nii: {index} % lies outside", stacklevel=2)

    @gathered()
    def read(count: int) -> None:
        for index in range(count):
            odd(index)
        odd(0)
        thread = threading.Thread(target=odd, args=(count,))
        thread.start()
        thread.join()
        warnings.warn("another", stacklevel=2)
        warnings.warn("old", DeprecationWarning, stacklevel=2)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read(1000)
    assert [(one.category, str(one.message)) for one in said] == [
        (UserWarning, "in/0.nii: 0 % lies outside (and 1000 more like it of 1.nii, 2.nii, 3.nii, ...)"),
        (UserWarning, "another"),
        (DeprecationWarning, "old"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match=r"in/0\.nii"):
            read(1)
