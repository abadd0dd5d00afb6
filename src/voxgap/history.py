"""What a training did, epoch by epoch: as a table, as a picture, and what stopping early saved."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voxgap import table
from voxgap.files import write_bytes

Reason = Literal["patience", "epochs", "interrupted", "diverged", "callback"]
# A loss that is lower than a guess's by less of it has hardly learnt anything.
_HARDLY = 0.02


ON_ITS_GRID = "on the network's grid"
"""Where Dice is counted while a network trains; scores are counted on that of each label map."""


@dataclasses.dataclass(frozen=True, repr=False)
class History:
    """The record of one training.

    Attributes:
        epochs: one dictionary an epoch: loss, metrics, their `val_` twins, learning_rate, seconds.
        monitor: name of the quantity that chose the best epoch.
        best_epoch: index of the epoch whose weights the model holds, from 0.
        planned: epochs that were asked for.
        reason: why training ended: `patience`, `epochs`, `interrupted` (Ctrl-C), `diverged` or `callback`.
        policy: dtype policy that the training step ran under.
        never: classes, as numbers, that are in the validation data and that the kept network never names.
        chance: validation loss of a guess that knows only how frequent the classes, or how large the targets, are.
        steps: training steps of an epoch.
        unbeaten: what does as well without a network, in words; empty where nothing does.
        patch_size: `(depth, height, width)` of the patches that it learnt from; None where it saw whole volumes.
        mirrors: axes along which its augmentation mirrored volumes, see `voxgap.augment.mirrors`.

    Example:
        >>> from voxgap import History
        >>> epochs = [{"loss": 1.1, "val_loss": loss, "seconds": 2.0} for loss in (0.9, 0.7, 0.8)]
        >>> History(tuple(epochs), "val_loss", best_epoch=1, planned=10, reason="patience").summary()
        'best epoch 2 (val_loss 0.7), patience ran out after epoch 3; 7 of 10 epochs (about 14 s) saved'
    """

    epochs: tuple[dict[str, float], ...]
    monitor: str
    best_epoch: int
    planned: int
    reason: Reason
    policy: str = "float32"
    never: tuple[int, ...] = ()
    chance: float | None = None
    steps: int | None = None
    unbeaten: str = ""
    patch_size: tuple[int, int, int] | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def best(self) -> dict[str, float]:
        """The record of the best epoch, and under `epoch` which it was, counted from 1."""
        return {"epoch": self.best_epoch + 1, **self.epochs[self.best_epoch]}

    @property
    def seconds(self) -> float:
        """Time spent in the epochs that ran."""
        return float(sum(epoch["seconds"] for epoch in self.epochs))

    @property
    def saved_epochs(self) -> int:
        """Epochs that were planned and did not have to run."""
        return self.planned - len(self.epochs)

    @property
    def saved_seconds(self) -> float:
        """Time that those epochs would have taken, at the median epoch's pace."""
        return self.saved_epochs * float(np.median([epoch["seconds"] for epoch in self.epochs]))

    def summary(self) -> str:
        """Return one sentence: where the best epoch was, why training ended, what that saved."""
        why = {
            "patience": f"patience ran out after epoch {len(self.epochs)}",
            "epochs": "all planned epochs ran"
            + (", and it was the last: train longer" if self.best_epoch == len(self.epochs) - 1 else ""),
            "interrupted": "interrupted",
            "diverged": "the loss became NaN, so it stopped",
            "callback": f"a callback stopped it after epoch {len(self.epochs)}",
        }[self.reason]
        saved = f"; {self.saved_epochs} of {self.planned} epochs (about {self.saved_seconds:.0f} s) saved"
        where = f" {ON_ITS_GRID}" if self.monitor == "val_dice" else ""
        return (
            f"best epoch {self.best_epoch + 1} ({self.monitor} {self.best[self.monitor]:.4g}{where}), {why}"
            f"{saved if self.reason == 'patience' else ''}"
        )

    def __repr__(self) -> str:
        return (
            f"History({len(self.epochs)} of {self.planned} epochs in {self.seconds:.0f} s: {self.summary()})"
        )

    def remarks(self, classes: Sequence[str] = ()) -> list[str]:
        """Return what a person should know before they use the network, a line each; none where all is well.

        Args:
            classes: their names; numbers without them.
        """
        said = [self.unbeaten] if self.unbeaten else []
        if self.never:
            names = [classes[c] if c < len(classes) else f"number {c}" for c in self.never]
            said.append(
                f"the network never names class {', '.join(names)} for any validation data, where it is: try "
                "balanced class weights, more epochs, or more data of that class"
            )
        least = min((e["val_loss"] for e in self.epochs if np.isfinite(e["val_loss"])), default=np.inf)
        if self.chance is not None and least > (1 - _HARDLY) * self.chance:
            said.append(
                f"val_loss stayed at chance: {least:.4g} at best, {self.chance:.4g} by a guess that never looks at a "
                "volume: try another learning rate, more epochs or another normalisation; `voxgap inspect` shows "
                "what the data is like"
            )
        if self.steps == 1:
            said.append(
                "an epoch was a single training step, since a batch holds all training data: a smaller batch size "
                "gives more steps"
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """Return the facts that a manifest keeps: all but the single epochs, which stand in the CSV."""
        return {
            "monitor": self.monitor,
            "best_epoch": self.best_epoch + 1,
            "epochs": len(self.epochs),
            "planned": self.planned,
            "reason": self.reason,
            "policy": self.policy,
            "seconds": round(self.seconds, 1),
            **({"unbeaten": self.unbeaten} if self.unbeaten else {}),
        }

    def to_csv(self, path: str | Path) -> None:
        """Write one row an epoch, epochs counted from 1; the file appears whole."""
        rows = ({"epoch": i, **epoch} for i, epoch in enumerate(self.epochs, start=1))
        table.write(Path(path), ["epoch", *self.epochs[0]], rows)

    def plot(self, path: str | Path) -> None:
        """Draw the curves as a PNG, the best epoch marked and what early stopping saved shaded."""
        from matplotlib.figure import Figure  # no pyplot: no global state, no display

        metric = next((name for name in ("dice", "accuracy", "mae") if name in self.epochs[0]), None)
        panels = ["loss", *([metric] if metric else [])]
        figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
        numbers = np.arange(1, len(self.epochs) + 1)
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            for key, label, colour in (
                (name, "training", "#7a8794"),
                (f"val_{name}", "validation", "#0b6e8f"),
            ):
                if key in self.epochs[0]:
                    axes.plot(numbers, [e[key] for e in self.epochs], color=colour, label=label, linewidth=2)
            axes.axvline(self.best_epoch + 1, color="#c8472f", linestyle="--", label="best epoch, kept")
            if self.saved_epochs and self.reason == "patience":
                axes.axvspan(
                    len(self.epochs) + 0.5,
                    self.planned + 0.5,
                    color="#dfe9dc",
                    label=f"not needed: {self.saved_epochs} epochs",
                )
            title = f"{name}, {ON_ITS_GRID}" if name == "dice" else name
            axes.set(xlabel="epoch", title=title, xlim=(0.5, max(self.planned, 2) + 0.5))
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        write_bytes(path, buffer.getvalue())
