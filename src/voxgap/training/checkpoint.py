"""The state of a training between epochs, on disk, so that a killed one goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from voxgap.errors import VoxgapError
from voxgap.files import held, replacing, write_bytes

Records = list[dict[str, float]]


@dataclasses.dataclass
class State:
    """What is known of a training after an epoch, beside the weights that the model holds.

    Attributes:
        records: one dictionary an epoch.
        named: classes that the network of each epoch named in validation; 0 where there are no classes.
        best_weights: of the epoch that is kept.
        never: classes that are in the validation data, and that the kept network never names.
        schedule: that the training went by.
    """

    records: Records = dataclasses.field(default_factory=list)
    named: list[int] = dataclasses.field(default_factory=list)
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    never: list[int] = dataclasses.field(default_factory=list)
    schedule: dict[str, Any] = dataclasses.field(default_factory=dict)


def fingerprint(settings: Any, *parts: Any) -> str:
    """Return a digest of everything that a training depends on: arrays by their bytes, the rest by what it prints."""
    digest = hashlib.sha256(repr(settings).encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape}{part.dtype}".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif hasattr(part, "__array__"):  # On disk: the same digest as in memory, without being there.
            digest.update(f"{part.shape}{part.dtype}".encode())
            for sample in part:
                digest.update(np.ascontiguousarray(sample).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


class ForeignError(VoxgapError):
    """A checkpoint is there, of a training with other data or settings."""


_SAID = ("records", "named", "never", "schedule")


class Checkpoint:
    """A folder with the last and the best weights; `state.json`, written last, says which they are.

    Args:
        folder: made when first written to.
        keep: whether the state stays when the training has ended, so that it can be given more epochs.

    Attributes:
        key: `fingerprint` of the training that it belongs to; set before saving or loading.
        settings: of that training, by their names and in words, for people.
        policy: dtype policy of that training, None where the folder holds no state. It goes on as it began,
            even if this process would have chosen otherwise.
    """

    def __init__(self, folder: Path, keep: bool = False) -> None:
        self.folder = folder
        self.keep = keep
        self.key = ""
        self.settings: dict[str, str] = {}
        self.policy = self._stored_policy()
        self._best = ""

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder for one training; a `VoxgapError` where another one has it."""
        # Beside it: a training that ends removes the folder, which nothing else may then be in.
        lock = self.folder.with_name(f".{self.folder.name}.lock")
        return held(lock, f"{self.folder}: a network is trained there")

    def _stored_policy(self) -> str | None:
        try:
            policy = json.loads((self.folder / "state.json").read_bytes())["policy"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # `load` says what is wrong with a damaged one
        return policy if policy in ("float32", "mixed_bfloat16") else None

    def save(self, model: keras.Model, state: State, best: bool) -> None:
        """Write the state after an epoch; the best weights only where they are new."""
        number = len(state.records)
        last = f"last-{number:05d}.npz"
        _save_arrays(self.folder / last, [keras.ops.convert_to_numpy(v) for v in _variables(model)])
        if best:
            self._best = f"best-{number:05d}.npz"
            _save_arrays(self.folder / self._best, state.best_weights)
        said = {name: getattr(state, name) for name in _SAID}
        said |= {"key": self.key, "policy": self.policy, "last": last, "best": self._best}
        said["settings"] = self.settings
        write_bytes(self.folder / "state.json", json.dumps(said).encode())
        for path in self._arrays():
            if path.name not in (last, self._best):
                path.unlink()

    def load(self, model: keras.Model) -> State | None:
        """Set the model and its optimizer to the state after the last epoch.

        Returns:
            The state, or None where the folder holds none.

        Raises:
            VoxgapError: the state is another training's, or damaged.
        """
        file = self.folder / "state.json"
        if not file.exists():
            return None
        try:
            said = json.loads(file.read_bytes())
            if said["key"] != self.key:
                raise self.foreign(said.get("settings"), self.settings)
            self._best = said["best"]
            best, last = (_load_arrays(self.folder / Path(said[k]).name) for k in ("best", "last"))
            state = State(best_weights=best, **{name: said[name] for name in _SAID})
            model.optimizer.build(model.trainable_variables)
            for variable, array in zip(_variables(model), last, strict=True):
                variable.assign(array)
        except VoxgapError:
            raise
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise VoxgapError(f"{file}: damaged checkpoint ({error}); {self._remedy}") from None
        return state

    def end(self) -> None:
        """Say in the state that its training has ended: who trains afresh then has no use for it."""
        said = json.loads((self.folder / "state.json").read_bytes())
        write_bytes(self.folder / "state.json", json.dumps(said | {"ended": True}).encode())

    def foreign(self, there: Any, asked: Mapping[str, Any]) -> ForeignError:
        """Return the error that says that the state is another training's.

        Args:
            there: settings by name that the state is of; nothing where it doesn't say.
            asked: those that are asked for: the ones that differ are named.
        """
        known = there if isinstance(there, dict) else {}
        changed = [
            f"{name} was {known[name]}, is {now}"
            for name, now in asked.items()
            if known.get(name, now) != now
        ]
        which = f"{'; '.join(changed)}: " if changed else ""
        return ForeignError(
            f"{self.folder / 'state.json'}: {which}the checkpoint of a training with other data or settings; "
            f"{self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        return f"remove the folder {self.folder} to start afresh"

    def clear(self) -> None:
        """Remove the state, and the folder where nothing else is in it."""
        # The state first: a kill in between leaves nothing that names files which are gone.
        for path in (self.folder / "state.json", *self._arrays()):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _arrays(self) -> list[Path]:
        return [p for name in ("last-", "best-", ".writing-") for p in self.folder.glob(f"{name}*.npz")]


def _variables(model: keras.Model) -> list[Any]:
    """Return all that changes in training: weights, random states and the optimizer's moments."""
    return [*model.variables, *model.optimizer.variables]


def _save_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    with replacing(path) as temporary:
        np.savez(temporary, *arrays)


def _load_arrays(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]
