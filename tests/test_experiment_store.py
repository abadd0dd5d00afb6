"""The file of results: each run claimed once whoever asks, nothing lost, and one clear line when it can't be used."""

from __future__ import annotations

import collections
import functools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from voxgap.errors import VoxgapError
from voxgap.experiment import store as stores
from voxgap.experiment.plan import Experiment, Outcome
from voxgap.experiment.store import delete_store, open_store, worker_name
from voxgap.recipe import Strategy

SMALL = Experiment("d", "k", (("mean", Strategy("mean")), ("knn", Strategy("knn"))), folds=2)
LARGE = Experiment("d", "k", (("mean", Strategy("mean")), ("knn", Strategy("knn"))), folds=30, repeats=2)

# Claims and ends runs as fast as it can, and writes each that it ends on a line of its own.
WORKER = """
import sys, time
from voxgap.experiment.plan import Outcome
from voxgap.experiment.store import open_store, worker_name
with open_store(sys.argv[1], create=True) as store:
    experiment, me = store.experiments()[0], worker_name()
    while (run := store.claim(experiment, me)) is not None:
        time.sleep(float(sys.argv[2]))
        if store.finish(Outcome(run.key, "done", scores={0.5: {"accuracy": 0.5}}), me):
            print(run.key, flush=True)
"""


def start(path: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(path), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def done(key: str) -> Outcome:
    return Outcome(key, "done", scores={0.5: {"accuracy": 0.5}})


def test_what_was_written_is_read_in_the_order_of_the_runs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.db"
    with open_store(path, create=True) as store:
        store.add(SMALL, "voxgap compare ...")
        claimed = [store.claim(SMALL, "me:1:x") for _ in range(2)]
        for run in reversed(claimed):
            assert run is not None
            assert store.finish(done(run.key), "me:1:x")
    with open_store(path) as store:
        assert store.experiments() == [SMALL]
        assert store.command(SMALL) == "voxgap compare ..."
        found = store.outcomes(SMALL)
        assert [run for run, _ in found] == list(SMALL.runs()[:2])
        assert all(outcome.scores == {0.5: {"accuracy": 0.5}} for _, outcome in found)
        assert store.statuses(SMALL) == {"done": 2, "waiting": 2}


def test_what_is_counted_of_each_case_is_kept_beside_and_files_that_lack_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    rows = {0.5: ({"recorded": 1.0, "changed": 0.5}, {"recorded": 0.0, "changed": 0.0})}
    with open_store(path, create=True) as store:
        store.add(SMALL)
        run = store.claim(SMALL, "me:1:x")
        assert run is not None
        said = {0.5: ({"case": "a"}, {"case": "b"})}
        outcome = Outcome(run.key, "done", scores={0.5: {"accuracy": 0.5}}, predictions=said, audit=rows)
        assert store.finish(outcome, "me:1:x")
    with open_store(path) as store:
        ((_, found),) = store.outcomes(SMALL)
        assert (found.predictions, found.audit) == (said, rows)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE audit")  # as an earlier version wrote it
    connection.close()
    with open_store(path) as store:
        ((_, found),) = store.outcomes(SMALL)
        assert (found.predictions, found.audit) == (said, {})
    with open_store(path, create=True) as store:
        assert store.claim(SMALL, "me:1:x")


def test_a_larger_experiment_takes_over_what_it_shares(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db", create=True) as store:
        store.add(SMALL)
        run = store.claim(SMALL, "me:1:x")
        assert run is not None
        store.finish(done(run.key), "me:1:x")
        more = Experiment(
            "d",
            "k",
            (*SMALL.strategies, ("zero", Strategy("zero"))),
            folds=2,
        )
        store.add(more)
        store.add(more)
        assert store.statuses(more) == {"done": 1, "waiting": 5}
        assert store.statuses(SMALL) == {"done": 1, "waiting": 3}
        assert len(store.experiments()) == 2


def test_a_run_of_a_dead_process_is_free_and_of_a_living_one_is_not(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    alive, gone = worker_name(), worker_name().replace(f":{os.getpid()}:", f":{dead.stdout.strip()}:")
    with open_store(tmp_path / "r.db", create=True) as store:
        store.add(SMALL)
        first, second = store.claim(SMALL, alive), store.claim(SMALL, gone)
        assert first != second
        assert store.living(SMALL) == 1
        assert store.claim(SMALL, worker_name()) == second
        assert store.claim(SMALL, worker_name()) not in (first, second, None)


def test_a_lease_ends_when_nothing_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "r.db", create=True) as store:
        store.add(SMALL)
        elsewhere = "another-machine:17:abc"
        first = store.claim(SMALL, elsewhere)
        assert store.claim(SMALL, worker_name()) != first
        later = time.time() + stores.LEASE_SECONDS + 1
        monkeypatch.setattr(stores.time, "time", lambda: later)
        other = worker_name()
        assert store.claim(SMALL, other) == first
        # Who comes back after it was taken for dead changes nothing.
        assert first is not None
        assert not store.finish(done(first.key), elsewhere)
        assert store.finish(done(first.key), other)
        assert not store.finish(done(first.key), other)


def test_a_heartbeat_keeps_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "r.db", create=True) as store:
        store.add(SMALL)
        first = store.claim(SMALL, "another-machine:17:abc")
        later = time.time() + stores.LEASE_SECONDS + 1
        monkeypatch.setattr(stores.time, "time", lambda: later)
        store.heartbeat("another-machine:17:abc")
        assert store.claim(SMALL, worker_name()) != first


def test_what_is_released_or_failed_can_be_done_again(tmp_path: Path) -> None:
    with open_store(tmp_path / "r.db", create=True) as store:
        store.add(SMALL)
        first = store.claim(SMALL, "me:1:x")
        assert store.release("me:1:x") == [first]
        assert store.claim(SMALL, "me:1:y") == first
        assert first is not None
        store.finish(Outcome(first.key, "failed", "no memory"), "me:1:y")
        assert store.claim(SMALL, "me:1:z") != first
        assert store.retry(SMALL) == 1
        assert store.claim(SMALL, "me:1:w") == first


def test_four_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with open_store(path, create=True) as store:
        store.add(LARGE)
        processes = [start(path, 0) for _ in range(4)]
        said = [line for process in processes for line in process.communicate(timeout=120)[0].split()]
        assert sorted(said) == sorted(run.key for run in LARGE.runs())
        assert store.statuses(LARGE) == {"done": 120}


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "r.db"
    with open_store(path, create=True) as store:
        store.add(LARGE)
    said: collections.Counter[str] = collections.Counter()
    for _ in range(100):
        processes = [start(path, 0.03) for _ in range(2)]
        time.sleep(rng.uniform(0.1, 0.6))
        for process in processes:
            process.send_signal(signal.SIGKILL)
            said.update(process.communicate()[0].split())
        with open_store(path) as store:
            ended = {run.key for run, _ in store.outcomes(LARGE)}
        assert set(said) <= ended
        if len(ended) == 120:
            break
    assert len(ended) == 120
    assert max(said.values()) == 1


class TestUnusable:
    """One line that names the file and the remedy."""

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(VoxgapError, match=r"nothing.db: no such file of results"):
            open_store(tmp_path / "nothing.db")
        assert not (tmp_path / "nothing.db").exists()

    def test_not_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.db"
        path.write_text("dear diary, " * 500)
        for create in (False, True):
            with pytest.raises(VoxgapError, match=r"notes.db: not a file of results"):
                open_store(path, create=create)
        assert path.read_text().startswith("dear diary")

    def test_another_programs_database(self, tmp_path: Path) -> None:
        path = tmp_path / "photos.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE photos (id)")
        with pytest.raises(VoxgapError, match="not a file of voxgap's results"):
            open_store(path, create=True)
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("photos",)]

    @pytest.mark.parametrize("content", ["text", "a database of others", "another program's database"])
    def test_what_is_not_ours_is_not_deleted(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "compare.db"
        if content == "text":
            path.write_text("my thesis")
        else:
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE photos (id)")
                connection.execute(f"PRAGMA application_id = {7 if 'another' in content else 0}")
        before = path.read_bytes()
        for attempt in (delete_store, functools.partial(open_store, create=True)):
            with pytest.raises(VoxgapError, match=r"compare.db: not a file of .*results; give another name"):
                attempt(path)
            assert path.read_bytes() == before

    @pytest.mark.parametrize("damage", ["none", "pages", "cut", "newer", "empty"])
    def test_what_is_ours_is_deleted_damaged_or_not(self, damage: str, tmp_path: Path) -> None:
        path = tmp_path / "compare.db"
        with open_store(path, create=True) as store:
            store.add(LARGE)
        content = path.read_bytes()
        if damage == "newer":
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA user_version = 99")
        elif damage != "none":
            kept = {"pages": 100, "cut": 2000, "empty": 0}[damage]
            rest = b"\x55" * (len(content) - kept) if damage == "pages" else b""
            path.write_bytes(content[:kept] + rest)
        delete_store(path)
        assert not path.exists()

    def test_a_newer_layout(self, tmp_path: Path) -> None:
        path = tmp_path / "r.db"
        open_store(path, create=True).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        for create in (False, True):
            with pytest.raises(VoxgapError, match=r"newer voxgap .* upgrade"):
                open_store(path, create=create)

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "r.db"
        with open_store(path, create=True) as store:
            store.add(LARGE)
        content = bytearray(path.read_bytes())
        content[4096:] = b"\x55" * (len(content) - 4096)
        path.write_bytes(content)
        with open_store(path) as store, pytest.raises(VoxgapError, match="damaged"):
            store.outcomes(LARGE)

    def test_a_folder_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(VoxgapError, match="file that can be written to"):
            open_store(tmp_path / "file" / "r.db", create=True)

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(VoxgapError, match="can't be opened"):
            open_store(tmp_path, create=True)

    def test_a_full_disk_keeps_what_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "r.db"
        with open_store(path, create=True) as store:
            store.add(SMALL)
            first = store.claim(SMALL, "me:1:x")
            second = store.claim(SMALL, "me:1:x")
            assert first is not None
            assert second is not None
            store.finish(done(first.key), "me:1:x")
            pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
            store._connection.execute(f"PRAGMA max_page_count = {pages}")
            history = tuple({"loss": float(i)} for i in range(50_000))
            with pytest.raises(VoxgapError, match=r"r.db: the disk is full; make room"):
                store.finish(Outcome(second.key, "done", history=history), "me:1:x")
            # The transaction was taken back whole, and the connection goes on.
            assert store.statuses(SMALL) == {"done": 1, "running": 1, "waiting": 2}
            store._connection.execute("PRAGMA max_page_count = 100000")
            assert store.finish(Outcome(second.key, "done", history=history), "me:1:x")

    @pytest.mark.full
    def test_a_really_full_disk(self, tmp_path: Path) -> None:
        mounted = tmp_path / "small"
        mounted.mkdir()
        tool = shutil.which("mount")
        options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
        if tool is None or subprocess.run([tool, *options], capture_output=True).returncode:
            pytest.skip("a file system can't be mounted here")
        try:
            with open_store(mounted / "r.db", create=True) as store:
                store.add(SMALL)
                first = store.claim(SMALL, "me:1:x")
                assert first is not None
                history = tuple({"loss": float(i)} for i in range(50_000))
                with pytest.raises(VoxgapError, match="the disk is full"):
                    store.finish(Outcome(first.key, "done", history=history), "me:1:x")
                assert store.finish(done(first.key), "me:1:x")
        finally:
            subprocess.run(["umount", str(mounted)], check=False)


def test_a_file_that_can_only_be_read_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with open_store(path, create=True) as store:
        store.add(SMALL)
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with open_store(path) as store:
            assert store.experiments() == [SMALL]
        if os.geteuid():  # nothing is forbidden to root
            with pytest.raises(VoxgapError, match="write to"):
                open_store(path, create=True)
    finally:
        tmp_path.chmod(0o755)


def test_readers_are_not_in_the_way_of_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with open_store(path, create=True) as writer:
        writer.add(SMALL)
        with open_store(path) as reader:
            run = writer.claim(SMALL, "me:1:x")
            assert run is not None
            writer.finish(done(run.key), "me:1:x")
            assert json.dumps(reader.outcomes(SMALL)[0][1].to_json())


def test_what_was_said_of_each_case_is_kept_beside_the_outcome(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    rows = ({"case": "b/2.nii", "label": "=1+1", "p_x": 0.25}, {"case": "a", "label": "x", "p_x": None})
    with open_store(path, create=True) as store:
        store.add(SMALL)
        run = store.claim(SMALL, "me:1:x")
        assert run is not None
        assert store.finish(Outcome(run.key, "done", predictions={0.5: rows, 0.1: rows[:1]}), "me:1:x")
        assert not store.finish(Outcome(run.key, "done", predictions={0.5: rows[:1]}), "late:1:x")
    with open_store(path) as store:
        ((_, outcome),) = store.outcomes(SMALL)
    assert outcome.predictions == {0.5: rows, 0.1: rows[:1]}
    assert list(outcome.predictions[0.5][0]) == ["case", "label", "p_x"], "columns keep their order"


def test_a_file_of_an_earlier_version_is_read_and_gone_on_with(tmp_path: Path) -> None:
    """As version 0.1.0 made it: no table of predictions, no such field in its outcomes."""
    path = tmp_path / "r.db"
    with open_store(path, create=True) as store:
        store.add(SMALL)
        run = store.claim(SMALL, "me:1:x")
        assert run is not None
        assert store.finish(done(run.key), "me:1:x")
    connection = sqlite3.connect(path)
    assert '"predictions"' not in connection.execute("SELECT outcome FROM runs").fetchone()[0]
    connection.execute("DROP TABLE predictions")
    connection.commit()
    connection.close()
    with open_store(path) as store:
        assert store.outcomes(SMALL)[0][1].predictions == {}
    with open_store(path, create=True) as store:
        run = store.claim(SMALL, "me:1:x")
        assert run is not None
        assert store.finish(Outcome(run.key, "done", predictions={0.5: ({"case": "a"},)}), "me:1:x")
        assert [bool(outcome.predictions) for _, outcome in store.outcomes(SMALL)] == [False, True]
