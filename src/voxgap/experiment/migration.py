"""Files of results that an earlier version wrote, brought to the layout of this one: recipes were JSON text then."""

from __future__ import annotations

import itertools
import json
import shlex
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from voxgap.experiment.plan import Experiment, Run
from voxgap.files import canonical
from voxgap.recipe import Architecture, Gaps, Recipe, Strategy, Training

_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("--crop", "--reference"), str),
    "--size": lambda text: [int(part) for part in text.split(",")],
    **dict.fromkeys(
        ("--spacing", "--missing-values"), lambda text: [float(part) for part in text.split(",")]
    ),
    "--axes": lambda text: [part.strip() for part in text.split(",")],
    "--at": lambda text: {name: int(i) for name, _, i in (part.partition("=") for part in text.split(","))},
}
"""Options of `voxgap compare` that say how data is read, and what their text means."""


def migrate(connection: sqlite3.Connection) -> None:
    """Rewrite layout 1 as layout 2, outcomes and all; what was done once stays done.

    Args:
        connection: in a transaction of the caller's.
    """
    runs = connection.execute("SELECT key, json FROM runs ORDER BY outcome IS NULL").fetchall()
    keys: dict[str, str] = {}
    for old, text in runs:
        run = _run(json.loads(text))
        known = run.key in keys.values()
        keys[old] = run.key
        # Two that said the same in other words are one now: that with an outcome stays.
        if known:
            connection.execute("DELETE FROM runs WHERE key = ?", (old,))
            continue
        connection.execute(
            "UPDATE runs SET key = ?, json = ?, outcome = json_set(outcome, '$.key', ?) WHERE key = ?",
            (run.key, canonical(run.to_json()), run.key, old),
        )
    members = connection.execute("SELECT experiment, position, run FROM members").fetchall()
    connection.execute("DELETE FROM members")
    connection.execute("ALTER TABLE experiments ADD COLUMN reading TEXT")
    experiments: dict[str, str] = {}
    for old, text, command in connection.execute(
        "SELECT key, json, command FROM experiments ORDER BY created, rowid"
    ).fetchall():
        experiment = _experiment(json.loads(text))
        known = experiment.key in experiments.values()
        experiments[old] = experiment.key
        if known:
            connection.execute("DELETE FROM experiments WHERE key = ?", (old,))
        else:
            connection.execute(
                "UPDATE experiments SET key = ?, json = ?, reading = ? WHERE key = ?",
                (
                    experiment.key,
                    canonical(experiment.to_json()),
                    canonical(_reading(command, experiment.data)),
                    old,
                ),
            )
    connection.executemany(
        "INSERT OR IGNORE INTO members VALUES (?, ?, ?)",
        [(experiments[experiment], position, keys[run]) for experiment, position, run in members],
    )
    connection.executemany(
        "UPDATE runs SET experiment = ? WHERE experiment = ?", [(b, a) for a, b in experiments.items()]
    )
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'predictions'").fetchone():
        connection.executemany(
            "UPDATE OR IGNORE predictions SET run = ? WHERE run = ?", [(b, a) for a, b in keys.items()]
        )


def _run(old: Mapping[str, Any]) -> Run:
    strategy = Strategy.of(old["settings"])
    gaps = (
        Gaps(old["pattern"], old["train_rate"], old["mechanism"], **old["gap_options"])
        if old["pattern"]
        else None
    )
    return Run(
        old["data"],
        old["data_key"],
        old["strategy"],
        Recipe(old["model"], strategy, *_trained(old)),
        gaps,
        tuple(map(float, old["test_rates"])),
        **{name: old[name] for name in ("repeat", "fold", "folds", "seed", "split_seed")},
    )


def _experiment(old: Mapping[str, Any]) -> Experiment:
    crossed = itertools.product(old["patterns"], old["mechanisms"], old["train_rates"])
    architecture, training, threshold = _trained(old)
    return Experiment(
        old["data"],
        old["data_key"],
        tuple((name, Strategy.of(settings)) for name, settings in old["strategies"]),
        old["models"],
        tuple(Gaps(pattern, rate, how, **old["gap_options"]) for pattern, how, rate in crossed),
        architecture=architecture,
        training=training,
        threshold=threshold,
        **{name: old[name] for name in ("test_rates", "folds", "repeats", "seeds", "split_seed")},
    )


def _trained(old: Mapping[str, Any]) -> tuple[Architecture, Training, str]:
    training = dict(old["training"])
    threshold = str(training.pop("threshold", Recipe.threshold))
    return Architecture.of(old["architecture"]), Training.of(training), threshold


def _reading(command: str, name: str) -> dict[str, Any]:
    """Return how the data was read, which only the command said."""
    words = shlex.split(command)
    if words[:2] != ["voxgap", "compare"]:
        return {"data": name}
    found: dict[str, Any] = {"data": words[2]}
    for word, after in itertools.pairwise([*words[3:], ""]):
        option, equals, value = word.partition("=")
        if option in _READ:
            found[option[2:].replace("-", "_")] = _READ[option](value if equals else after)
    return found
