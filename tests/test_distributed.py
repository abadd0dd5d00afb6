"""Runs on a Ray cluster: what one machine gives, and nothing lost with a machine."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny import dataset as tiny_dataset
from voxgap import distributed
from voxgap.errors import VoxgapError
from voxgap.experiment import Event, Experiment, open_store, plan_experiment
from voxgap.experiment.execute import execute

ray = pytest.importorskip("ray")

DATA = tiny_dataset()


def experiment(epochs: int = 1, **arguments: Any) -> Experiment:
    return plan_experiment(
        DATA,
        ("zero", "mean"),
        models="cnn3d",
        architecture={"filters": [2]},
        epochs=epochs,
        precision="float32",
        **{"folds": 2} | arguments,
    )


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.mark.full
def test_a_cluster_gives_what_this_machine_gives(tmp_path: Path) -> None:
    planned = dataclasses.replace(experiment(), strategies=experiment().strategies[:1])
    told: list[Event] = []
    with open_store(tmp_path / "results.db", create=True) as store:
        distributed.run_all(planned, DATA, store, progress=told.append)
        outcomes = store.outcomes(planned)
    assert [run for run, _ in outcomes] == list(planned.runs())
    for run, outcome in outcomes:
        here = execute(run, DATA)
        assert (outcome.status, outcome.epochs, outcome.n_train) == ("done", here.epochs, here.n_train)
        for rate, scores in here.scores.items():
            assert outcome.scores[rate] == pytest.approx(scores, abs=1e-4)
    assert [event.state for event in told].count("ended") == 2
    assert told[-1].done == told[-1].total == 2
    assert not ray.is_initialized()


@pytest.mark.full
def test_what_is_wrong_with_a_cluster_is_one_line(tmp_path: Path) -> None:
    with open_store(tmp_path / "results.db", create=True) as store:
        with pytest.raises(VoxgapError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
            distributed.run_all(experiment(), DATA, store, address="127.0.0.1:1")
        with pytest.raises(VoxgapError, match="a run asks for 999 and 0; ask for less"):
            distributed.run_all(experiment(), DATA, store, cpus_per_run=999)
        assert store.statuses(experiment()) == {"waiting": 4}


@pytest.mark.full
def test_a_machine_that_is_killed_costs_no_run(tmp_path: Path, cluster: Any) -> None:
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    planned = experiment(epochs=40, patience=40, folds=3)
    told: list[Event] = []
    # False: its processes are killed, not asked to end.
    kill = threading.Thread(target=cluster.remove_node, args=(lost, False))
    with open_store(tmp_path / "results.db", create=True) as store:

        def follow(event: Event) -> None:
            told.append(event)
            if event.state == "ended" and event.done == 1:
                kill.start()

        distributed.run_all(planned, DATA, store, address=cluster.address, progress=follow)
        outcomes = store.outcomes(planned)
    assert [outcome.status for _, outcome in outcomes] == ["done"] * 6
    assert sorted(event.run.key for event in told if event.state == "ended") == sorted(
        run.key for run in planned.runs()
    )
    kill.join()
    assert lost not in cluster.list_all_nodes()


@pytest.mark.full
def test_a_run_that_fails_on_the_cluster_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    planned = dataclasses.replace(experiment(), models=("cnn3d", "no such model"))
    with open_store(tmp_path / "results.db", create=True) as store:
        distributed.run_all(planned, DATA, store)
        found = {run.model: outcome for run, outcome in store.outcomes(planned)}
    assert found["cnn3d"].status == "done"
    assert found["no such model"].status == "failed"
    assert "no model" in found["no such model"].reason
