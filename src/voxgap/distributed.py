"""The runs of an experiment on a Ray cluster: the same `execute` and the same file, on any number of machines."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxgap.cluster import LOCAL, connected
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.local import Event, More, no_more
from voxgap.experiment.plan import Experiment, Outcome, Run
from voxgap.experiment.store import Store, stay_alive, worker_name

LOOK_SECONDS = 0.5
RETRIES = 5
"""How often a run is begun again elsewhere because its machine was lost."""


def run_all(
    experiment: Experiment,
    dataset: Dataset,
    store: Store,
    *,
    address: str = LOCAL,
    processes: int | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    progress: Callable[[Event], None] | None = None,
    more: More = no_more,
) -> None:
    """Do all runs of an experiment that are not done yet, on a Ray cluster.

    Each run is one task. A run whose machine is lost is begun again on another; one that raises is recorded as
    failed with its reason. The file of results stays here, and only this process writes to it, so a run that has
    ended is safe whatever happens to the cluster. See docs/cluster.md.

    Args:
        experiment, dataset, store: as for `voxgap.experiment.run_all`.
        address: of the cluster: `auto` on one of its machines, `HOST:6379`, `ray://HOST:10001`; `local` starts one
            on this machine.
        processes: at most so many runs at a time; by default as many as the cluster has room for.
        cpus_per_run, gpus_per_run: what a run is given; 0.25 GPUs puts four runs on one.
        progress: told what happens, in this thread.
        more: see `voxgap.experiment.run_all`.

    Raises:
        VoxgapError: Ray isn't installed, the cluster can't be reached or has no room, or the store can't be
            written to.
        KeyboardInterrupt: Ctrl-C. What was under way waits to be done again.
    """
    store.add(experiment)
    statuses = store.statuses(experiment)
    if not statuses.get("waiting", 0) + statuses.get("running", 0) and not more():
        return
    with connected(address) as ray:
        _check_room(ray, cpus_per_run, gpus_per_run)
        dispatch = _Dispatch(ray, experiment, dataset, store, processes, cpus_per_run, gpus_per_run, progress)
        dispatch.work(more)


def check(address: str, cpus_per_run: float, gpus_per_run: float) -> None:
    """Refuse what `run_all` would, before what is there makes room for it.

    Raises:
        VoxgapError: Ray isn't installed, the cluster can't be reached or has no room.
    """
    with connected(address) as ray:
        _check_room(ray, cpus_per_run, gpus_per_run)


def execute_remotely(run: Run, dataset: Dataset, folder: str, threads: int) -> Outcome:
    """Do one run in a process of the cluster; what Ray calls there."""
    # Before TensorFlow is imported, which happens once in the life of a process.
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Several runs share a GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    from voxgap.backend import keras
    from voxgap.experiment.execute import execute

    outcome = execute(run, dataset, cache=Path(tempfile.gettempdir(), folder))
    keras.utils.clear_session()
    return outcome


def _forget(folder: str) -> None:
    shutil.rmtree(Path(tempfile.gettempdir(), folder), ignore_errors=True)


def _check_room(ray: Any, cpus: float, gpus: float) -> None:
    room = ray.cluster_resources()
    if room.get("CPU", 0) < cpus or room.get("GPU", 0) < gpus:
        raise VoxgapError(
            f"the cluster has {room.get('CPU', 0):g} CPUs and {room.get('GPU', 0):g} GPUs, a run asks for "
            f"{cpus:g} and {gpus:g}; ask for less"
        )


class _Dispatch:
    """The runs of one experiment, and the tasks that do them."""

    def __init__(
        self,
        ray: Any,
        experiment: Experiment,
        dataset: Dataset,
        store: Store,
        processes: int | None,
        cpus: float,
        gpus: float,
        progress: Callable[[Event], None] | None,
    ) -> None:
        self.ray, self.experiment, self.store = ray, experiment, store
        self.processes, self.cpus, self.gpus = processes, cpus, gpus
        self.progress = progress or (lambda _: None)
        self.worker = worker_name()
        self.folder = f"voxgap-{experiment.key}-{self.worker.rsplit(':', 1)[1]}"
        drawn = dataset.drawn.in_memory() if dataset.drawn else None  # other machines may not have the files
        self.data = ray.put(replace(dataset, drawn=drawn))
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(execute_remotely)
        self.under_way: dict[Any, Run] = {}
        self.ended, self.started = 0, time.monotonic()

    def work(self, more: More) -> None:
        """Keep the cluster busy until every run has ended, here or elsewhere."""
        stop = threading.Event()
        threading.Thread(target=stay_alive, args=(self.store.path, self.worker, stop), daemon=True).start()
        try:
            while self._submit() or self.under_way or self._waits() or more():
                # Others on the same file may hold the last runs: then there is nothing to wait for but time.
                ready = self._ready()
                for reference in ready:
                    self._finish(self.under_way.pop(reference), reference)
        finally:
            stop.set()
            for reference in self.under_way:
                self.ray.cancel(reference, force=True)
            with contextlib.suppress(VoxgapError):
                self.store.release(self.worker)
            self._clean()

    def _ready(self) -> list[Any]:
        if not self.under_way:
            time.sleep(LOOK_SECONDS)
            return []
        ready, _ = self.ray.wait([*self.under_way], num_returns=1, timeout=LOOK_SECONDS)
        return list(ready)

    def _room(self) -> int:
        """Return how many runs the cluster has room for, now that machines may have come or gone."""
        room = self.ray.cluster_resources()
        shares = [room.get("CPU", 0) / self.cpus] if self.cpus else []
        shares += [room.get("GPU", 0) / self.gpus] if self.gpus else []
        fits = max(1, int(min(shares, default=1)))
        return min(fits, self.processes or fits)

    def _submit(self) -> int:
        """Begin as many runs as there is room for."""
        begun = 0
        for _ in range(self._room() - len(self.under_way)):
            run = self.store.claim(self.experiment, self.worker)
            if run is None:
                break
            reference = self.task.remote(run, self.data, self.folder, max(1, int(self.cpus)))
            self.under_way[reference] = run
            begun += 1
            self._tell(run, "started", None)
        return begun

    def _waits(self) -> int:
        statuses = self.store.statuses(self.experiment)
        return statuses.get("waiting", 0) + statuses.get("running", 0)

    def _finish(self, run: Run, reference: Any) -> None:
        try:
            outcome = self.ray.get(reference)
        except Exception as error:  # the machine was lost too often, or the process took too much memory
            said = (str(error).strip().splitlines() or [""])[0][:300]
            outcome = Outcome(run.key, "failed", f"{type(error).__name__}: {said}")
        if self.store.finish(outcome, self.worker):
            self.ended += 1
            self._tell(run, "ended", outcome)

    def _tell(self, run: Run, state: str, outcome: Outcome | None) -> None:
        total, waits = sum(self.store.statuses(self.experiment).values()), self._waits()
        pace = (time.monotonic() - self.started) / self.ended if self.ended else None
        eta = None if pace is None or self.experiment.racing else pace * waits
        self.progress(Event(run, state, total - waits, total, outcome, eta))

    def _clean(self) -> None:
        """Delete on each machine what the runs kept there."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with contextlib.suppress(Exception):  # a machine that is lost has nothing to delete
            forget = self.ray.remote(num_cpus=0, max_retries=0)(_forget)
            nodes = [node["NodeID"] for node in self.ray.nodes() if node["Alive"]]
            here = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
            references = [forget.options(scheduling_strategy=one).remote(self.folder) for one in here]
            self.ray.wait(references, num_returns=len(references), timeout=30)
