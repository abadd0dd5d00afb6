"""The runs of an experiment on this machine: in processes of their own, so that one that dies takes nothing along."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxgap import process
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.experiment.asked import check_count
from voxgap.experiment.dataset_files import write_dataset
from voxgap.experiment.plan import Experiment, Outcome, Run
from voxgap.experiment.store import Store, process_lives, worker_name

LOOK_SECONDS = 0.5
# What TensorFlow, a network and its batches take at least.
PROCESS_BYTES = 2 * 2**30
Message = dict[str, Any]
More = Callable[[], bool]


@dataclass(frozen=True)
class Event:
    """What is told while an experiment runs.

    Attributes:
        run: that it is about.
        state: `started`, `epoch` (one is over) or `ended`.
        done: runs of the experiment that have ended. total: all of them; in a race those of its rounds so far.
        outcome: of a run that has ended.
        eta_seconds: until the last run ends, at the pace so far; None before the first has ended, and in a race.
        epoch: that is over, from 1; 0 before.
    """

    run: Run
    state: str
    done: int
    total: int
    outcome: Outcome | None = None
    eta_seconds: float | None = None
    epoch: int = 0


def no_more() -> bool:
    """Return what an experiment that is no race does when all of its runs have ended: nothing."""
    return False


def default_processes() -> int:
    """Return one process for each processor, as long as the memory that is free gives each its share."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return process.cores()
    return max(1, min(process.cores(), free // PROCESS_BYTES))


def run_all(
    experiment: Experiment,
    dataset: Dataset,
    store: Store,
    *,
    processes: int | None = None,
    progress: Callable[[Event], None] | None = None,
    memory_limit: int | None = None,
    more: More = no_more,
) -> None:
    """Do all runs of an experiment that are not done yet.

    A run that raises, or whose process dies, is recorded as failed with its reason, and the others go on. Killed at
    any moment and started again, it goes on where it was. Others may work on the same file at the same time.

    Args:
        experiment: what to do.
        dataset: all of its data, with the gaps of their own.
        store: a file opened with `create=True`.
        processes: how many runs are done at a time; they share the processors. By default one for each: what is
            not a training step (building, compiling, filling) uses one processor only.
        progress: told what happens, in this thread.
        memory_limit: bytes that one process may take; a run that takes more is ended, and failed.
        more: asked when all runs have ended; adds further ones to the store and says so, where it is a race.

    Raises:
        VoxgapError: the store can't be written to, no process can be started, or less than one is asked for.
        KeyboardInterrupt: Ctrl-C. What was under way waits to be done again.
    """
    if processes is not None:
        check_count("processes", processes)
    store.add(experiment)
    folder = store.path.absolute().with_name(f".{store.path.name}-{experiment.key}")
    _sweep(folder)
    if not {"waiting", "running"} & set(store.statuses(experiment)) and not more():
        return
    team = _Team(experiment, store, processes or default_processes(), progress, memory_limit, more)
    data = folder / worker_name().replace(":", "@")
    try:
        with _disk(folder):
            write_dataset(dataset, data)
        team.work(data, folder / "kept")
    finally:
        team.stop()
        shutil.rmtree(data, ignore_errors=True)
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in the folder of an experiment, and the folder where nobody works in it."""
    for data in folder.glob("*@*@*"):
        if not process_lives(data.name.replace("@", ":")):
            shutil.rmtree(data, ignore_errors=True)
    if not any(folder.glob("*@*@*")):
        shutil.rmtree(folder / "kept", ignore_errors=True)
        with contextlib.suppress(OSError):  # it isn't there, or someone has just begun
            folder.rmdir()


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VoxgapError(
            f"{folder}: can't hold the volumes while the experiment runs ({error.strerror}); make room, or choose "
            "another place for the file of results"
        ) from error


class _Worker:
    """A process that does runs, and the thread that listens to it."""

    def __init__(self, arguments: list[Any], threads: int, log: Path, heard: queue.Queue[Any]) -> None:
        self.log = log
        self.name = ""
        self.busy = False
        self.excess = ""
        self.process = process.start(
            "voxgap.experiment.worker",
            *arguments,
            log=log,
            environment=_environment(threads),
            own_session=True,
        )
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def _listen(self, heard: queue.Queue[Any]) -> None:
        for message in process.lines(self.process):
            heard.put((self, message))
        heard.put((self, None))


def _environment(threads: int) -> dict[str, str]:
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {
        **dict.fromkeys(names, str(threads)),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }


class _Team:
    """The workers of one experiment, and what they have told."""

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        processes: int,
        progress: Callable[[Event], None] | None,
        memory_limit: int | None,
        more: More,
    ) -> None:
        self.experiment, self.store, self.processes = experiment, store, processes
        self.progress = progress or (lambda _: None)
        self.memory_limit, self.more = memory_limit, more
        self.runs = {run.key: run for run in experiment.runs()}
        self.heard: queue.Queue[tuple[_Worker, Message | None]] = queue.Queue()
        self.workers: list[_Worker] = []
        self.names: set[str] = set()
        self.ended: set[str] = set()
        self.own = 0
        self.started = time.monotonic()

    def work(self, data: Path, cache: Path) -> None:
        """Keep workers at it until every run has ended, here or elsewhere."""
        arguments = [self.store.path.absolute(), self.experiment.key, data, cache]
        while True:
            statuses = self.store.statuses(self.experiment)
            waiting, running = statuses.get("waiting", 0), statuses.get("running", 0)
            if not waiting and not running:
                if self.more():
                    continue
                if self.experiment.racing or not self.workers:
                    return
            # What others have ended; what is our own is told by our workers.
            self.ended |= {k for k, w in self.store.ended(self.experiment) if w not in self.names}
            free = waiting or int(not self.workers and self._orphans())
            wanted = min(self.processes, free + sum(worker.busy for worker in self.workers))
            for number in range(len(self.workers), wanted):
                log = data / f"worker-{number}-{uuid.uuid4().hex[:8]}.log"
                self.workers.append(
                    _Worker(arguments, max(1, process.cores() // self.processes), log, self.heard)
                )
            self._listen()

    def _orphans(self) -> bool:
        """Return whether a run is held by a process that has died."""
        return self.store.statuses(self.experiment).get("running", 0) > self.store.living(self.experiment)

    def _listen(self) -> None:
        """Handle what was said since, and whoever takes too much memory."""
        with contextlib.suppress(queue.Empty):
            worker, message = self.heard.get(timeout=LOOK_SECONDS)
            while True:
                if message is None:
                    self._ended(worker)
                else:
                    self._told(worker, message)
                worker, message = self.heard.get_nowait()
        for worker in self.workers:
            if self.memory_limit and worker.busy and process.memory(worker.process) > self.memory_limit:
                worker.excess = (
                    f"out of memory: it took more than the limit of {self.memory_limit / 1e6:.0f} MB"
                )
                process.end(worker.process)

    def _told(self, worker: _Worker, message: Message) -> None:
        state = message["state"]
        if state == "ready":
            worker.name = message["worker"]
            self.names.add(worker.name)
        elif state == "error":
            raise VoxgapError(message["reason"])
        else:
            worker.busy = state != "ended"
            self._tell(message["key"], state, message.get("epoch", 0))

    def _ended(self, worker: _Worker) -> None:
        """Take in that a worker has left: nothing was left to do, or it died with a run in hand."""
        self.workers.remove(worker)
        cause = worker.excess or process.cause(worker.process, worker.log)
        if not worker.name:
            raise VoxgapError(f"no process for the runs could be started: {cause}")
        for run in self.store.held(worker.name):
            if self.store.finish(Outcome(run.key, "failed", cause), worker.name):
                self._tell(run.key, "ended", 0)

    def _tell(self, key: str, state: str, epoch: int) -> None:
        run = self.runs[key]
        outcome = None
        if state == "ended":
            outcome = self.store.outcome(run)
            self.ended.add(key)
            self.own += 1
        racing = self.experiment.racing
        total = sum(self.store.statuses(self.experiment).values()) if racing else len(self.runs)
        pace = (time.monotonic() - self.started) / self.own if self.own else None
        eta = None if pace is None or racing else pace * (total - len(self.ended))
        self.progress(Event(run, state, len(self.ended), total, outcome, eta, epoch))

    def stop(self) -> None:
        """End all workers, and let what they were at be done again."""
        for worker in self.workers:
            process.end(worker.process)
        while not self.heard.empty():  # a worker's name may not have been read yet
            worker, message = self.heard.get_nowait()
            if message is not None and message["state"] == "ready":
                worker.name = message["worker"]
        for worker in self.workers:
            if worker.name:
                with contextlib.suppress(VoxgapError):
                    self.store.release(worker.name)
        self.workers = []
