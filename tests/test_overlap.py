"""Cases that were in training are found by content, and their digests tell no more than that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.metrics.overlap import digests, group_digests, in_part, known_cases, overlap, read_cases, too_good


def test_content_is_what_counts() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 1)).astype(np.float32)
    one[0], one[1, 0, 0, 0] = np.nan, 0.0
    same = one.copy()
    same[1, 0, 0, 0] = -0.0
    same.view(np.uint32)[0] = 0x7FC00001  # another NaN
    first, second, third, nothing, turned = digests(
        [one, same, other, np.full_like(one, np.nan), one.reshape(4, 2, 8, 1)]
    )
    assert first == second
    assert len({first, third, turned}) == 3
    assert nothing is None
    assert first is not None
    assert len(first) == 12
    assert digests([np.asfortranarray(one), one.astype(np.float64)]) == [first, first]


def test_those_in_training_are_counted() -> None:
    found = digests(np.random.default_rng(0).normal(size=(6, 3, 3, 3, 1)))
    known = known_cases([*found[:4], None], ["train", "train", "validation", "test", "train"])
    assert known == {"train": sorted(found[:2]), "validation": [found[2]]}
    assert overlap([*found[1:], None], known) == {"train": 1, "validation": 1}
    assert overlap(found, {}) == {"train": 0, "validation": 0}


@pytest.mark.parametrize(("met", "said"), [((3, 1), "hardly better for it"), ((9, 1), "too good")])
def test_a_few_known_volumes_hardly_better_a_score(met: tuple[int, int], said: str) -> None:
    (line,) = too_good(dict(zip(("train", "validation"), met, strict=True)), 495, "test")
    assert line.endswith(f"of this bundle: these scores are {said}")
    assert not too_good({"train": 0, "validation": 0}, 495)


@pytest.mark.parametrize("content", ["{}", "[", '{"train": 3, "validation": []}', '[["train"]]'])
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text(content)
    with pytest.raises(VoxgapError, match="not the cases of a training"):
        read_cases(file)
    file.write_text(json.dumps({"train": ["aa"], "validation": []}))
    assert read_cases(file) == {"train": ["aa"], "validation": []}


def test_groups_of_a_training_are_known_by_digests_of_their_names() -> None:
    parts = ["train", "validation", "test", "calibration"]
    known = known_cases(["aa", "bb", "cc", "dd"], parts, ["ann", "bob", "cid", "dan"])
    assert known["groups"] == sorted(group_digests(["ann", "bob"]))
    assert in_part([*known["groups"]], known, "test") == [True, True]
