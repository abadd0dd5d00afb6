"""What the version before recipes were values has written is read by this one, with the same answers.

`tests/data/0.1.0` was made by `voxgap compare data.npz --strategies mean,linear,knn --model cnn3d --filters 4 --folds 3
--epochs 2 --rates 0.4 --test-rates 0.2,0.6 --threshold youden --precision float32 --batch-size 8` and `voxgap train
data.npz --model cnn3d --filters 4 --strategy linear --epochs 2 --threshold 0.4 --pattern slices --missing-rate 0.3
--export onnx`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stand_in
import voxgap as vg
from voxgap.experiment import Comparison, compare, open_store
from voxgap.experiment.data import content_key
from voxgap.experiment.migration import _reading
from voxgap.experiment.store import SCHEMA

MADE = Path(__file__).parent / "data" / "0.1.0"
ASKED: dict[str, Any] = {
    "strategies": ["mean", "linear", "knn"],
    "models": "cnn3d",
    "folds": 3,
    "train_rates": 0.4,
    "test_rates": (0.2, 0.6),
    "threshold": "youden",
    "architecture": {"filters": (4,)},
    "epochs": 2,
    "batch_size": 8,
    "precision": "float32",
}


def layout(path: Path) -> int:
    with open_store(path) as store:
        return int(store._read("PRAGMA user_version")[0][0])


PAIR = ("first", "second", "difference", "splits", "failed", "ratio", "rope", "comparisons")
_RENAMED = {"yardsticks": "baselines"}


def numbers(told: Any) -> Any:
    """What was found, without the words that say it, and without the analysis of pairs: both became better ones."""
    if isinstance(told, dict) and "p_value" in told:
        return {name: told[name] for name in PAIR}
    if isinstance(told, dict):
        return {
            _RENAMED.get(name, name): numbers(one)
            for name, one in told.items()
            if name
            not in ("words", "verdict", "rank")  # places had no rank then, and were told by their order
        }
    return [numbers(one) for one in told] if isinstance(told, list) else told


def about(told: Any) -> Any:
    """The same, where each number may be another one in its last digits: processors add up in different orders."""
    if isinstance(told, dict):
        return {name: about(one) for name, one in told.items()}
    if isinstance(told, list):
        return [about(one) for one in told]
    return pytest.approx(told, rel=1e-9, abs=1e-12) if isinstance(told, float) else told


def same_answers(comparison: Comparison) -> None:
    told, found = json.loads((MADE / "results.json").read_text()), comparison.to_json()
    for name in ("overall", "reconstruction", "conditions"):
        assert numbers(found[name]) == about(numbers(told[name])), name
    assert comparison.done == 9
    assert len(comparison.predictions) == 48 * 3 * 2


def test_results_are_told_from_the_file_as_it_is(tmp_path: Path) -> None:
    path = Path(shutil.copy(MADE / "compare.db", tmp_path))
    path.chmod(0o444)
    before = path.read_bytes()
    with open_store(path) as store:
        (experiment,) = store.experiments()
        assert store.command(experiment).startswith("voxgap compare data.npz")
        same_answers(Comparison.from_outcomes(experiment, store.outcomes(experiment)))
    assert path.read_bytes() == before


def test_the_data_of_an_experiment_is_read_as_its_command_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(MADE)
    path = Path(shutil.copy(MADE / "compare.db", tmp_path))
    with open_store(path) as store:
        (experiment,) = store.experiments()
        assert content_key(vg.load_data(**store.reading(experiment))) == experiment.data_key
    options = "--size=4,5,6 --missing-values -3024,0.5 --axes time,lat,lon --at lev=0,ens=2 --crop observed"
    assert _reading(f"voxgap compare 'a b.csv' --folds 2 {options} --spacing 1,2,3 --reference t1", "") == {
        "data": "a b.csv",
        "size": [4, 5, 6],
        "missing_values": [-3024, 0.5],
        "axes": ["time", "lat", "lon"],
        "at": {"lev": 0, "ens": 2},
        "crop": "observed",
        "spacing": [1, 2, 3],
        "reference": "t1",
    }
    assert _reading("", "brain") == {"data": "brain"}


def test_an_experiment_goes_on_and_what_was_done_stays_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(MADE)
    path = Path(shutil.copy(MADE / "compare.db", tmp_path))
    ran: list[Any] = []
    data = vg.load_data("data.npz")
    same_answers(compare(data, **ASKED, out=path, progress=ran.append))
    assert not ran
    assert layout(path) == SCHEMA


@pytest.mark.parametrize("engine", ["keras", "onnx"])
def test_a_bundle_answers_as_it_did(engine: str) -> None:
    manifest = stand_in.written(MADE / "bundle")
    with np.load(MADE / "bundle" / manifest["golden"]["path"]) as golden:
        volumes, answers = (golden[name] for name in ("inputs", "outputs"))
    predictor = vg.load(MADE / "bundle", engine=engine)
    np.testing.assert_allclose(predictor.predict(volumes), answers, atol=1e-5)
    named = [answer.label for answer in predictor.answers(volumes)]
    assert named == [predictor.classes[int(second >= 0.4)] for second in answers[:, 1]]
