"""What to acquire next for one scan: read from the certificate in a manifest, said alike at every door."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
from voxgap.acquire import Worths
from voxgap.errors import VoxgapError
from voxgap.io import write
from voxgap.runtime import Manifest, Predictor
from voxgap.runtime.answer import Answer
from voxgap.server.answers import Advised
from voxgap.volume import Volume

CHANNELS = ["t1", "t2", "flair"]


def step(had: list[str], channel: str, value: float | None, interval: Any = None) -> dict[str, Any]:
    return {"had": had, "channel": channel, "scans": 40, "worth": {"value": value, "interval": interval}}


CERTIFICATE = {
    "metric": "balanced_accuracy",
    "steps": [
        step(["t1"], "t2", 0.02, [-0.01, 0.05]),
        step(["t1"], "flair", 0.125, [0.0625, 0.25]),
        step(["t1", "t2"], "flair", 0.5),
        step(["flair"], "t1", None),
    ],
}


def manifest(**fields: Any) -> Manifest:
    entry = {"shape": [2, 2, 2, 3], "channels": CHANNELS}
    return stand_in.manifest(("no", "yes"), input=entry, certificate=CERTIFICATE, schema_version=1, **fields)


def scan(*there: str) -> np.ndarray:
    volume = np.ones((2, 2, 2, 3), np.float32)
    volume[..., [name not in there for name in CHANNELS]] = np.nan
    return volume


def answered(*there: str) -> Answer:
    predictor = Predictor(manifest(), lambda x: np.tile([0.25, 0.75], (len(x), 1)).astype(np.float32))
    return predictor.answer(scan(*there))


def test_the_best_of_the_missing_channels_comes_first() -> None:
    advice = answered("t1").advice
    assert advice is not None
    assert [one.channel for one in advice.worths] == ["flair", "t2"]
    assert advice.words == (
        "beside t1, better balanced accuracy by: flair +0.125 (+0.062 to +0.250) (of 40 scans), "
        "t2 +0.020 (-0.010 to +0.050) (of 40 scans)"
    )
    assert advice.row() == {
        "acquire_next": "flair",
        "worth": 0.125,
        "worth_low": 0.0625,
        "worth_high": 0.25,
        "advice": advice.words,
    }
    said = answered("t1").to_json()["advice"]
    assert Advised(**said).model_dump(mode="json") == said
    assert said["worths"][1] == {"channel": "t2", "worth": 0.02, "interval": [-0.01, 0.05], "scans": 40}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (("t1", "t2", "flair"), "every channel is there"),
        (("flair",), "no certificate of scans with flair says what t1, t2 is worth"),
        ((), "no certificate of scans with nothing says what t1, t2, flair is worth"),
        (("t2", "t1"), "beside t1 + t2, better balanced accuracy by: flair +0.500 (of 40 scans)"),
    ],
)
def test_where_nothing_was_measured_nothing_is_advised(there: tuple[str, ...], words: str) -> None:
    advice = answered(*there).advice
    assert advice is not None
    assert advice.words == words
    assert advice.row()["advice"] == words
    assert bool(advice.worths) == ("acquire_next" in advice.row())


def test_a_few_gaps_make_no_channel_missing() -> None:
    volume = scan("t1", "t2")
    volume[0, ..., 0] = np.nan
    worths = manifest().worths
    assert worths is not None
    assert worths.of_volume(volume).missing == ("flair",)


@pytest.mark.parametrize(
    "broken",
    [
        {"metric": "accuracy"},
        {"metric": "accuracy", "steps": [step(["pet"], "t1", 0.1)]},
        {"metric": "accuracy", "steps": [step(["t1"], "t1", 0.1)]},
        {"metric": "accuracy", "steps": [step(["t1"], "t2", float("inf"))]},
        {"metric": "accuracy", "steps": [step(["t1"], "t2", 0.1, [0.1])]},
        {"metric": "accuracy", "steps": [3]},
        [1],
    ],
)
def test_what_is_no_certificate_is_refused(broken: Any) -> None:
    with pytest.raises(VoxgapError, match=r"field certificate is not one of this network; .* voxgap certify"):
        Worths.of({**manifest().written, "certificate": broken}, "manifest.json")


def test_the_command_line_says_it_too(voxgap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text(json.dumps(dict(manifest().written)))
    write(tmp_path / "scan.npy", Volume(scan("t1")))

    def open_bundle(*_: Any) -> Predictor:
        return Predictor(manifest(), lambda x: np.tile([0.25, 0.75], (len(x), 1)).astype(np.float32))

    # By its full name: the module has the same one as the command.
    monkeypatch.setattr(sys.modules["voxgap.cli.predict"], "open_bundle", open_bundle)
    out = tmp_path / "out.csv"
    done = voxgap("predict", bundle, tmp_path / "scan.npy", "--advise", "--out", out)
    assert done.code == 0, done.err
    with out.open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["acquire_next"], row["worth"], row["worth_low"]) == ("flair", "0.125", "0.0625")
    less = {name: value for name, value in manifest().written.items() if name != "certificate"}
    (bundle / "manifest.json").write_text(json.dumps(less))
    done = voxgap("predict", bundle, tmp_path / "scan.npy", "--advise")
    assert done.code == 2
    assert f"no certificate to advise by; voxgap certify {bundle} DATA makes one" in " ".join(
        done.err.split()
    )
