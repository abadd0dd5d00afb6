"""What is guaranteed for a pattern of gaps: patterns, the rule, what the manifest keeps of it, and every door alike."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
from voxgap.errors import VoxgapError
from voxgap.promises import TOLERANCE, Claim, Guarantee, Pattern, pattern_of, promised
from voxgap.runtime import Predictor
from voxgap.runtime.job import Wanted, columns_of, row_of
from voxgap.server.answers import Guaranteed
from voxgap.web import ASSETS

SHAPE = (2, 3, 4, 3)
CHANNELS = ("t1", "t2", "flair")


def scan(missing: tuple[int, ...] = (), voxels: int = 0) -> np.ndarray:
    """A volume without these channels, and without so many voxels of the others."""
    volume = np.ones(SHAPE, np.float32)
    volume.reshape(-1, 3)[:voxels] = np.nan
    volume[..., list(missing)] = np.nan
    return volume


def field(claims: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "coverage": 0.9,
        "tolerance": TOLERANCE,
        "rates": [0, 0.25, 0.5, 0.75],
        "samples": 80,
        "claims": claims,
    } | fields


def told(task: str, claims: list[dict[str, Any]], outputs: int = 3, **fields: Any) -> Any:
    """A manifest with a guarantee."""
    return stand_in.manifest(
        [] if task == "regression" else ["a", "b", "c"][:outputs],
        task=task,
        outputs=outputs,
        input={"shape": list(SHAPE), "channels": list(CHANNELS)},
        guarantee=field(claims, **fields),
    )


@pytest.mark.parametrize(
    ("missing", "voxels", "pattern", "words"),
    [
        ((), 0, Pattern((), 0), "nothing missing"),
        ((), 6, Pattern((), 1), "up to 25% missing"),
        ((), 7, Pattern((), 2), "25% to 50% missing"),
        ((), 23, Pattern((), 4), "75% to 100% missing"),
        ((1,), 0, Pattern((1,), 0), "t2 missing, and nothing of the rest"),
        ((0, 2), 12, Pattern((0, 2), 2), "t1, flair missing, and 25% to 50% of the rest"),
        ((0, 1, 2), 0, Pattern((0, 1, 2), 0), "everything missing"),
    ],
)
def test_a_pattern_is_which_channels_are_missing_and_how_much_of_the_others(
    missing: tuple[int, ...], voxels: int, pattern: Pattern, words: str
) -> None:
    found = pattern_of(scan(missing, voxels))
    assert found == pattern
    assert found.words(CHANNELS) == words


def test_the_rule_is_widened_by_what_runtimes_may_differ() -> None:
    answer = np.array([0.3, 0.3 - 1e-5, 0.3 - 3e-5], np.float64)
    assert promised("classification", answer, [0.3], 1.5e-5).tolist() == [True, True, False]
    bounds = promised("regression", [100.0, 0.5], [2.0, 0.1], 0.01)
    np.testing.assert_allclose(bounds, [[97.0, 103.0], [0.39, 0.61]])
    region = promised("segmentation", np.array([[[0.5, 0.2, 0.3]]]), [0.25, None], 0.0)
    assert region.tolist() == [[[False, False]]]
    assert promised("segmentation", np.array([[[0.5, 0.2, 0.3]]]), [None, 0.3], 0.0).tolist() == [
        [[False, True]]
    ]


def test_an_answer_says_what_is_guaranteed_for_its_gaps_in_python_and_in_the_table() -> None:
    claims = [
        {"missing": [], "rate": 0, "thresholds": [0.25], "samples": 60, "rests": "pattern"},
        {"missing": ["t2"], "rate": 0, "thresholds": [0.9], "samples": 51, "rests": "assumption"},
    ]
    predictor = Predictor(told("classification", claims), lambda x: np.tile([0.2, 0.3, 0.5], (len(x), 1)))
    full, less, unknown = predictor.answers([scan(), scan((1,)), scan((0,))])
    assert full.promise is not None
    assert full.promise.classes == ("b", "c")
    assert full.to_json()["guarantee"] == {
        "coverage": 0.9,
        "pattern": "nothing missing",
        "rests": "pattern",
        "classes": ["b", "c"],
    }
    assert less.promise is not None
    assert less.promise.classes == ()
    assert less.promise.words == "0.9 for t2 missing, and nothing of the rest, if gaps depend on nothing"
    assert unknown.promise is not None
    assert unknown.promise.classes is unknown.promise.rests is None
    assert Guaranteed(**less.promise.to_json()).model_dump(exclude_none=True) == less.promise.to_json()
    rows = [row_of(predictor, "x", answer, Wanted()) for answer in (full, less, unknown)]
    columns = columns_of(predictor, Wanted())
    assert [[row.get(name) for name in columns if name.startswith("set_")] for row in rows] == [
        [0, 1, 1],
        [0, 0, 0],
        [None] * 3,
    ]
    assert rows[2]["guarantee"].startswith("nothing is guaranteed for t1 missing")
    assert "promises  coverage 0.9 for 1 pattern of gaps, 1 more if gaps depend on nothing" in repr(predictor)


def test_intervals_and_regions_stand_in_the_table() -> None:
    claims = [{"missing": [], "rate": 0, "thresholds": [1.0, 2.0], "samples": 60, "rests": "pattern"}]
    predictor = Predictor(told("regression", claims, 2), lambda x: np.zeros((len(x), 2), np.float32))
    row = row_of(predictor, "x", predictor.answer(scan()), Wanted())
    assert [row[name] for name in ("low_0", "high_0", "low_1", "high_1")] == pytest.approx(
        [-1, 1, -2, 2], abs=2e-5
    )
    claims = [{"missing": [], "rate": 0, "thresholds": [None, 0.5], "samples": 60, "rests": "pattern"}]
    answers = np.broadcast_to(np.float32([0.1, 0.4, 0.5]), (*SHAPE[:3], 3))
    predictor = Predictor(told("segmentation", claims), lambda x: np.stack([answers] * len(x)))
    answer = predictor.answer(scan())
    assert answer.promise is not None
    assert answer.promise.region is not None
    assert answer.promise.region.shape == (*SHAPE[:3], 1)
    row = row_of(predictor, "x", answer, Wanted())
    assert row["region_c"] == math.prod(SHAPE[:3])
    assert "region_b" not in row, "too few scans had it"


def test_a_guarantee_survives_the_manifest_and_what_is_none_is_refused() -> None:
    made = Guarantee(0.8, {Pattern((0, 2), 3): Claim((0.125,), 70)}, CHANNELS, 90, informative="They do.")
    manifest = told("classification", [])
    written = json.loads(json.dumps({**manifest.written, "guarantee": made.to_json()}))
    found = Guarantee.of(written, "x")
    assert found is not None
    assert found.to_json() == made.to_json()
    assert found.claims == made.claims
    claim = {"missing": [], "rate": 0, "thresholds": [0.1], "samples": 60, "rests": "pattern"}
    for broken in (
        field([claim], rates=[0, 0.5]),
        field([claim], coverage=1.5),
        field([claim], tolerance=-1),
        field([claim | {"missing": ["pet"]}]),
        field([claim | {"thresholds": [None]}]),
        field([claim | {"thresholds": [0.1, 0.2]}]),
        field([claim | {"thresholds": ["0.1"]}]),
        field([claim | {"rate": 9}]),
        {"coverage": 0.9},
        [1],
    ):
        with pytest.raises(VoxgapError, match="field guarantee is not one of this network"):
            Guarantee.of({**manifest.written, "guarantee": broken}, "manifest.json")


def test_a_runtime_that_strays_further_widens_and_one_of_which_nobody_knows_claims_nothing() -> None:
    manifest = told("classification", [])
    assert manifest.guarantee is not None
    assert manifest.guarantee.within(0.02).tolerance == 0.02  # type: ignore[union-attr]
    assert manifest.guarantee.within(0.0).tolerance == TOLERANCE  # type: ignore[union-attr]
    assert manifest.guarantee.within(None) is None
    entry = {"path": "m", "parts": [{"path": "m", "sha256": "0"}]}
    files = {
        "keras": entry,
        "onnx": entry | {"parity": {"tolerance": 1e-3, "max_difference": 1e-6}},
        "litert": entry | {"precision": "float16", "parity": {"tolerance": 1e-2, "max_difference": 2e-3}},
        "openvino": entry | {"precision": "int8"},
    }
    strays = stand_in.manifest(files=files).strays
    assert [strays(kind) for kind in files] == [0.0, 1e-3, 2e-3, None]


def test_the_page_follows_the_same_rule(tmp_path: Path) -> None:
    """In Node, which runs the page's own file: the same promises of the same answers, threshold by threshold."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH: the page's rule is run by it")
    rng = np.random.default_rng(0)
    cases = []
    for task, thresholds in (
        ("classification", [0.3]),
        ("regression", [2.5, 0.125, 1e-7]),
        ("segmentation", [0.25, None]),
    ):
        claims = [
            {"missing": list(missing), "rate": rate, "thresholds": thresholds, "samples": 60, "rests": rests}
            for missing, rate, rests in (([], 0, "pattern"), ([], 1, "pattern"), (["t2"], 2, "assumption"))
        ]
        manifest = told(task, claims)
        grid = SHAPE[:3] if task == "segmentation" else ()
        for volume in (scan(), scan((), 6), scan((), 7), scan((1,), 7), scan((1,), 12), scan((0, 1, 2))):
            for edge in (0.3, 0.3 - 1e-5, 0.3 - 2e-5, 0.25, 0.25 - 9e-6):
                answer = (
                    rng.normal(size=(*grid, 3)) * 100
                    if task == "regression"
                    else rng.dirichlet([1, 1, 1], grid)
                )
                answer = answer.astype(np.float32)
                answer[..., 1] = edge
                assert manifest.guarantee is not None
                promise = manifest.guarantee.of_answer(volume, answer, task, manifest.classes)
                values = [None if math.isnan(v) else float(v) for v in volume.ravel()]
                cases.append((dict(manifest.written), values, answer.ravel().tolist(), promise.to_json()))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "run.mjs").write_text(f"""
        import {{ readFileSync }} from "node:fs";
        import {{ guaranteed }} from {json.dumps((ASSETS / "static" / "guarantee.js").as_uri())};
        const cases = JSON.parse(readFileSync(process.argv[2]));
        const floats = (values) => Float32Array.from(values, (value) => value ?? NaN);
        console.log(JSON.stringify(cases.map(([manifest, values, output]) =>
            guaranteed({{ values: floats(values), shape: manifest.input.shape }}, floats(output), manifest))));
    """)
    done = subprocess.run(
        [node, str(tmp_path / "run.mjs"), str(tmp_path / "cases.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found == json.loads(json.dumps([case[-1] for case in cases]))
    assert {said["rests"] for said in found} == {"pattern", "assumption", None}
