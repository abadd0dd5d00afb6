"""One process of an experiment: takes runs from the store until none is left, and says what it does.

`voxgap.experiment.local` starts it as `python -m voxgap.experiment.worker STORE EXPERIMENT DATA CACHE`.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path

from voxgap.errors import VoxgapError
from voxgap.experiment.dataset_files import open_dataset
from voxgap.experiment.plan import Experiment, Run
from voxgap.experiment.store import Store, open_store, stay_alive, worker_name
from voxgap.process import Tell, tell_parent

WAIT_SECONDS, IDLE_SECONDS = 0.5, 120.0


def main(store: Path, experiment_key: str, data: Path, cache: Path) -> int:
    """Do runs until none is left; return the exit code."""
    tell = tell_parent()
    try:
        _work(store, experiment_key, data, cache, tell)
    except VoxgapError as error:
        tell(state="error", reason=str(error))
        return 2
    return 0


def _work(store_path: Path, experiment_key: str, data: Path, cache: Path, tell: Tell) -> None:
    from voxgap.backend import keras
    from voxgap.experiment.execute import execute
    from voxgap.training import Compiled, Progress

    worker = worker_name()
    with open_store(store_path, create=True) as store:
        experiment = next(e for e in store.experiments() if e.key == experiment_key)
        dataset = open_dataset(data)
        threading.Thread(target=stay_alive, args=(store_path, worker, threading.Event()), daemon=True).start()
        compiled = Compiled()
        tell(state="ready", worker=worker)
        while (run := _next(store, experiment, worker)) is not None:
            key = run.key
            tell(state="started", key=key)

            def report(now: Progress, key: str = key) -> None:
                if now.record is not None:
                    tell(state="epoch", key=key, epoch=now.epoch + 1)

            outcome = execute(run, dataset, cache=cache, compiled=compiled, progress=report)
            # The graphs of a run are of no use to the next.
            keras.utils.clear_session()
            gc.collect()
            if store.finish(outcome, worker):
                tell(state="ended", key=key)


def _next(store: Store, experiment: Experiment, worker: str) -> Run | None:
    """Take a run; in a race wait a while for the next round, as long as the process that is in charge of it lives."""
    parent, until = os.getppid(), time.monotonic() + IDLE_SECONDS
    while (run := store.claim(experiment, worker)) is None and experiment.racing:
        if os.getppid() != parent or time.monotonic() > until:
            return None
        time.sleep(WAIT_SECONDS)
    return run


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
