"""Where data, training and evaluation meet: which strategy works best for these data, tried and scored.

Names are imported when they are first touched: a report of an experiment needs no Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxgap.experiment.comparison import Comparison
    from voxgap.experiment.conduct import compare
    from voxgap.experiment.local import Event, run_all
    from voxgap.experiment.plan import Experiment, Outcome, Run
    from voxgap.experiment.planning import plan_experiment
    from voxgap.experiment.proposal import Plan
    from voxgap.experiment.single import Result, fill_volumes, train_and_score
    from voxgap.experiment.store import Store, open_store

_HOMES = {
    "Comparison": "comparison",
    "Event": "local",
    "Experiment": "plan",
    "Outcome": "plan",
    "Plan": "proposal",
    "Result": "single",
    "Run": "plan",
    "Store": "store",
    "fill_volumes": "single",
    "compare": "conduct",
    "open_store": "store",
    "plan_experiment": "planning",
    "run_all": "local",
    "train_and_score": "single",
}

__all__ = [
    "Comparison",
    "Event",
    "Experiment",
    "Outcome",
    "Plan",
    "Result",
    "Run",
    "Store",
    "compare",
    "fill_volumes",
    "open_store",
    "plan_experiment",
    "run_all",
    "train_and_score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'voxgap.experiment' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"voxgap.experiment.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
