"""One process of an experiment: takes runs from the store until none is left, and says what it does.

`voxgap.experiment.local` starts it as `python -m voxgap.experiment.worker STORE EXPERIMENT DATA CACHE`. It writes one
JSON object a line to standard output, and ends when its standard input does: with the process that started it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from voxgap.errors import VoxgapError
from voxgap.experiment.dataset_files import open_dataset
from voxgap.experiment.store import LEASE_SECONDS, open_store, worker_name

Tell = Callable[..., None]


def main(store: Path, experiment_key: str, data: Path, cache: Path) -> int:
    """Do runs until none is left; return the exit code."""
    tell = _teller()
    threading.Thread(target=_end_with_parent, daemon=True).start()
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
        threading.Thread(target=_stay_alive, args=(store_path, worker), daemon=True).start()
        compiled = Compiled()
        tell(state="ready", worker=worker)
        while (run := store.claim(experiment, worker)) is not None:
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


def _teller() -> Tell:
    """Keep standard output for the messages; what libraries print goes to standard error."""
    out: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    return tell


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def _stay_alive(store_path: Path, worker: str) -> None:
    """Say every few seconds that this process is at work, on a connection of this thread's own."""
    with open_store(store_path, create=True) as store:
        while True:
            time.sleep(LEASE_SECONDS / 8)
            try:
                store.heartbeat(worker)
            except VoxgapError:
                continue  # the run itself will say what is wrong with the file


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
