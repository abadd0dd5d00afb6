"""Results in one SQLite file: written as each run ends, shared by any number of processes, never half-written."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.experiment.migration import migrate
from voxgap.experiment.plan import CASES, Experiment, Outcome, Run
from voxgap.files import canonical
from voxgap.process import lives

SCHEMA = 2
# "voxg" in ASCII: how the file says whose it is.
APPLICATION = 0x766F7867
BUSY_SECONDS = 60.0
# A worker says every few seconds that it is alive; one that was not heard of for so long has lost its run.
LEASE_SECONDS = 120.0

_TABLES = """
CREATE TABLE experiments (key TEXT PRIMARY KEY, json TEXT NOT NULL, created REAL NOT NULL, command TEXT NOT NULL,
    reading TEXT);
CREATE TABLE runs (
    key TEXT PRIMARY KEY,
    experiment TEXT NOT NULL,
    json TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting',
    outcome TEXT,
    started REAL,
    finished REAL,
    worker TEXT,
    heard REAL
);
CREATE TABLE members (
    experiment TEXT NOT NULL REFERENCES experiments (key),
    position INTEGER NOT NULL,
    run TEXT NOT NULL REFERENCES runs (key),
    PRIMARY KEY (experiment, position)
);
"""
# Beside the outcomes, a table for each: few readers want them, and files of earlier versions lack them.
_BESIDE = "CREATE TABLE IF NOT EXISTS {} (run TEXT PRIMARY KEY, json TEXT NOT NULL)"


def worker_name() -> str:
    """Return a name for this process that no other has, from which others can tell whether it still lives."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def open_store(path: str | os.PathLike[str], *, create: bool = False) -> Store:
    """Open a file of results.

    Args:
        path: of the file.
        create: make it where there is none, and write to it; otherwise it is only read.

    Raises:
        VoxgapError: it isn't there, is no such file, is from a newer voxgap, or can't be written to.
    """
    return Store(Path(path), write=create)


def experiments_in(path: Path) -> dict[Experiment, int]:
    """Return the experiments of a file, the latest last, and how many runs of each have ended; none without a file."""
    if not path.is_file():
        return {}
    with open_store(path) as store:
        return {one: len(store.ended(one)) for one in store.experiments()}


def delete_store(path: Path) -> None:
    """Delete a file of results, a damaged one too.

    Raises:
        VoxgapError: another process is at work on it, or it is none of voxgap's.
    """
    in_use = False
    try:
        with open_store(path) as store:
            in_use = any(store.living(experiment) for experiment in store.experiments())
    except VoxgapError as error:
        if path.is_file() and not _says_ours(path):
            raise VoxgapError(f"{path}: not a file of voxgap's results; give another name") from error
    if in_use:
        raise VoxgapError(f"{path}: another process is at work on it; end it, or choose another --out")
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class Store:
    """A file of experiments, their runs and outcomes; see `open_store`.

    One connection, for one thread. A run belongs to each experiment that plans it, and is done once.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        if not write and not path.is_file():
            raise VoxgapError(f"{path}: no such file of results; `voxgap compare` writes one")
        if write:
            with self._one_line():
                path.parent.mkdir(parents=True, exist_ok=True)
        with self._one_line():
            self._connection = self._connect(write)

    def _connect(self, write: bool) -> sqlite3.Connection:
        if write:
            connection = _connection(self.path, "rwc")
            if _holds_tables(connection):
                self._check(connection)  # before a foreign file is changed in any way
            connection.execute("PRAGMA journal_mode = WAL")
            # Nothing that was written is lost to a kill; a power cut may take the last run.
            connection.execute("PRAGMA synchronous = NORMAL")
            self._begin(connection)
            return connection
        connection = _connection(self.path, "ro")
        try:
            version = self._check(connection)
        except sqlite3.OperationalError:
            # In a folder that can't be written to, SQLite can't make the file that readers share.
            connection.close()
            connection = _connection(self.path, "ro&immutable=1")
            version = self._check(connection)
        return connection if version == SCHEMA else _migrated_copy(connection)

    def _begin(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection):
            if not _holds_tables(connection):
                for statement in _TABLES.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
        if self._check(connection) < SCHEMA:
            with _transaction(connection):
                if self._check(connection) < SCHEMA:  # nobody was faster
                    migrate(connection)
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
        for name in CASES:
            connection.execute(_BESIDE.format(name))

    def _check(self, connection: sqlite3.Connection) -> int:
        """Return the layout of a file of ours."""
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise VoxgapError(f"{self.path}: not a file of voxgap's results; give another name")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise VoxgapError(
                f"{self.path}: written by a newer voxgap (layout {version}, this one knows {SCHEMA}); upgrade voxgap"
            )
        return version

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """Say what the disk or SQLite complains about in one line that names the file."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise VoxgapError(f"{self.path}: {_remedy(error)}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._one_line(), _transaction(self._connection):
            yield self._connection

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._one_line():
            return self._connection.execute(query, values).fetchall()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last process to do so leaves one file behind."""
        self._connection.close()

    def add(
        self, experiment: Experiment, command: str = "", reading: Mapping[str, Any] | None = None
    ) -> None:
        """Write down an experiment, and all of its runs as due; of a race none, see `due`.

        Args:
            experiment: to be done.
            command: what a person types to do it again.
            reading: arguments of `load_data` that read its data again; by default what the data is called.
        """
        reading = reading or {"data": experiment.data}
        row = experiment.key, canonical(experiment.to_json()), time.time(), command, canonical(reading)
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO experiments VALUES (?, ?, ?, ?, ?)", row)
        self.due(experiment, () if experiment.racing else experiment.runs())

    def due(self, experiment: Experiment, runs: Collection[Run]) -> None:
        """Write down those of these runs of an experiment that are not there yet: they are to be done."""
        key, places = experiment.key, {run: place for place, run in enumerate(experiment.runs())}
        with self._writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO runs (key, experiment, json) VALUES (?, ?, ?)",
                [(run.key, key, canonical(run.to_json())) for run in runs],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO members VALUES (?, ?, ?)",
                [(key, places[run], run.key) for run in runs],
            )

    def experiments(self) -> list[Experiment]:
        """Return all experiments of the file, the latest last."""
        rows = self._read("SELECT json FROM experiments ORDER BY created, rowid")
        return [Experiment.from_json(json.loads(text)) for (text,) in rows]

    def command(self, experiment: Experiment) -> str:
        """Return what was typed to begin an experiment."""
        rows = self._read("SELECT command FROM experiments WHERE key = ?", experiment.key)
        return str(rows[0][0]) if rows else ""

    def reading(self, experiment: Experiment) -> dict[str, Any]:
        """Return the arguments of `load_data` that read the data of an experiment again."""
        rows = self._read("SELECT reading FROM experiments WHERE key = ?", experiment.key)
        found: dict[str, Any] = json.loads(rows[0][0])
        return found

    def outcomes(self, experiment: Experiment) -> list[tuple[Run, Outcome]]:
        """Return the runs of an experiment that have ended, with their outcomes, in the order of `runs()`."""
        rows = self._read(
            "SELECT runs.json, outcome FROM members JOIN runs ON run = runs.key "
            "WHERE members.experiment = ? AND outcome IS NOT NULL ORDER BY position",
            experiment.key,
        )
        beside = {name: self._beside(name, experiment) for name in CASES}
        pairs = [(Run.from_json(json.loads(run)), json.loads(outcome)) for run, outcome in rows]
        return [
            (run, Outcome.from_json(outcome | {name: held.get(run.key, {}) for name, held in beside.items()}))
            for run, outcome in pairs
        ]

    def _beside(self, name: str, experiment: Experiment) -> dict[str, Any]:
        if not self._read("SELECT 1 FROM sqlite_master WHERE name = ?", name):
            return {}
        rows = self._read(
            f"SELECT run, json FROM {name} WHERE run IN (SELECT run FROM members WHERE experiment = ?)",
            experiment.key,
        )
        return {run: json.loads(text) for run, text in rows}

    def outcome(self, run: Run) -> Outcome | None:
        """Return what came of one run; None before it has ended."""
        rows = self._read("SELECT outcome FROM runs WHERE key = ? AND outcome IS NOT NULL", run.key)
        return Outcome.from_json(json.loads(rows[0][0])) if rows else None

    def ended(self, experiment: Experiment) -> list[tuple[str, str]]:
        """Return `(key, worker)` of each run of an experiment that has ended: who it was done by."""
        return self._read(
            "SELECT runs.key, worker FROM members JOIN runs ON run = runs.key "
            "WHERE members.experiment = ? AND outcome IS NOT NULL",
            experiment.key,
        )

    def seconds(self, experiment: Experiment) -> float:
        """How long this experiment's own runs took, those done at the same time once."""
        rows = self._read(
            "SELECT started, finished FROM runs WHERE experiment = ? AND outcome IS NOT NULL ORDER BY started",
            experiment.key,
        )
        total, until = 0.0, 0.0
        for started, finished in rows:
            total += max(0.0, finished - max(started, until))
            until = max(until, finished)
        return total

    def statuses(self, experiment: Experiment) -> dict[str, int]:
        """Return how many runs wait, are running, are done, failed or are not possible."""
        rows = self._read(
            "SELECT status, COUNT(*) FROM members JOIN runs ON run = runs.key "
            "WHERE members.experiment = ? GROUP BY status",
            experiment.key,
        )
        return dict(rows)

    def claim(self, experiment: Experiment, worker: str) -> Run | None:
        """Take the next run that waits, or whose worker has died; no other process can have it then.

        Args:
            experiment: added before.
            worker: see `worker_name`.

        Returns:
            The run, or None where nothing is left to take; others may still be at work.
        """
        with self._writing() as connection:
            query = (
                "SELECT runs.key, runs.json, status, worker, heard FROM members JOIN runs ON run = runs.key "
                "WHERE members.experiment = ? AND status IN ('waiting', 'running') ORDER BY position"
            )
            for key, text, status, owner, heard in connection.execute(query, (experiment.key,)):
                if status == "waiting" or not _lives(owner, heard):
                    now = time.time()
                    connection.execute(
                        "UPDATE runs SET status = 'running', worker = ?, started = ?, heard = ? WHERE key = ?",
                        (worker, now, now, key),
                    )
                    return Run.from_json(json.loads(text))
        return None

    def heartbeat(self, worker: str) -> None:
        """Say that a worker is alive: its runs stay its own for another while."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE runs SET heard = ? WHERE worker = ? AND status = 'running'", (time.time(), worker)
            )

    def finish(self, outcome: Outcome, worker: str) -> bool:
        """Write down what came of a run.

        Returns:
            Whether it counts: not where the worker was taken for dead and another has the run.
        """
        plain = outcome.to_json()
        beside = {name: plain.pop(name) for name in CASES}
        with self._writing() as connection:
            done = connection.execute(
                "UPDATE runs SET status = ?, outcome = ?, finished = ? "
                "WHERE key = ? AND worker = ? AND status = 'running'",
                (outcome.status, canonical(plain), time.time(), outcome.key, worker),
            )
            for name, held in beside.items():
                if done.rowcount and held:
                    connection.execute(
                        f"INSERT OR REPLACE INTO {name} VALUES (?, ?)", (outcome.key, json.dumps(held))
                    )
            return done.rowcount == 1

    def held(self, worker: str) -> list[Run]:
        """Return the runs that a worker has taken and not ended."""
        rows = self._read("SELECT json FROM runs WHERE worker = ? AND status = 'running'", worker)
        return [Run.from_json(json.loads(text)) for (text,) in rows]

    def living(self, experiment: Experiment) -> int:
        """Return how many runs of an experiment are being done by processes that are alive."""
        rows = self._read(
            "SELECT worker, heard FROM members JOIN runs ON run = runs.key "
            "WHERE members.experiment = ? AND status = 'running'",
            experiment.key,
        )
        return sum(_lives(worker, heard) for worker, heard in rows)

    def release(self, worker: str) -> list[Run]:
        """Give back the runs that a worker has not ended, and say which they were."""
        with self._writing() as connection:
            rows = connection.execute(
                "UPDATE runs SET status = 'waiting', worker = NULL, started = NULL, heard = NULL "
                "WHERE worker = ? AND status = 'running' RETURNING json",
                (worker,),
            ).fetchall()
        return [Run.from_json(json.loads(text)) for (text,) in rows]

    def retry(self, experiment: Experiment) -> int:
        """Let the failed runs of an experiment be done again, and say how many they are."""
        with self._writing() as connection:
            done = connection.execute(
                "UPDATE runs SET status = 'waiting', outcome = NULL, worker = NULL, started = NULL, finished = NULL "
                "WHERE status = 'failed' AND key IN (SELECT run FROM members WHERE experiment = ?)",
                (experiment.key,),
            )
            return done.rowcount


def _holds_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _says_ours(path: Path) -> bool:
    """Return whether a file that can't be read as one of results still says that it is one, or is empty."""
    with path.open("rb") as file:
        header = file.read(72)
    # Its database header format: https://www.sqlite.org/fileformat.html#the_database_header
    return not header or (
        header.startswith(b"SQLite format 3\0") and header[68:] == APPLICATION.to_bytes(4, "big")
    )


def _connection(path: Path, mode: str) -> sqlite3.Connection:
    # Transactions are begun by hand: a claim must lock before it reads.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _migrated_copy(old: sqlite3.Connection) -> sqlite3.Connection:
    """Read a file of an earlier version as one of this, and leave it as it is."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    old.backup(copy)
    old.close()
    migrate(copy)
    return copy


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # A full disk has rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _lives(worker: str | None, heard: float | None) -> bool:
    """Return whether the worker that holds a run is still at it, as far as can be told from here."""
    if worker is None or heard is None or time.time() - heard > LEASE_SECONDS:
        return False
    return process_lives(worker)


def process_lives(worker: str) -> bool:
    """Return whether the process of a `worker_name` lives; of one on another machine nobody can say, so it does."""
    host, pid, _ = worker.rsplit(":", 2)
    if host != socket.gethostname() or os.name == "nt":  # there, to ask a process is to interrupt it
        return True
    return lives(int(pid))


def stay_alive(path: Path, worker: str, stop: threading.Event) -> None:
    """Say every few seconds that a worker is at its runs, on a connection of this thread's own, until told to stop."""
    with open_store(path, create=True) as store:
        while not stop.wait(LEASE_SECONDS / 8):
            with contextlib.suppress(VoxgapError):  # the run itself will say what is wrong with the file
                store.heartbeat(worker)


def _remedy(error: Exception) -> str:
    said = str(error)
    for part, remedy in (
        ("full", "the disk is full; make room and start again, what was written is safe"),
        ("readonly", "can't be written to; give a file and a folder that you may write to"),
        ("unable to open", "can't be opened; give a file and a folder that you may write to"),
        ("not a database", "not a file of results; give another name"),
        ("malformed", "damaged; give another name, or put a copy in its place"),
        ("locked", "held by another process for over a minute; end it, or give another name"),
    ):
        if part in said:
            return remedy
    return f"{said}; give a file that can be written to"
