"""The one rule that turns probabilities into the class that is named: in scores, predictions, server and page alike."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT = "0.5"
RULES = "a number between 0 and 1, youden, sensitivity=0.95 or specificity=0.9"
_EARLIER = "youden, as earlier versions of voxgap did unasked"
_REACHED = re.compile(r"(sensitivity|specificity)=(.+)")


def named(probabilities: Any, threshold: float | None = None) -> NDArray[np.intp]:
    """Return the class that probabilities name.

    Args:
        probabilities: `(..., classes)`, as the network gives them: calibration names no other class.
        threshold: of two classes, the second is named from this probability of it on. None names the most
            probable class, the earlier one of equals.

    Returns:
        Indices of classes, `(...)`.

    Raises:
        VoxgapError: a threshold for other than two classes.
    """
    import numpy as np  # a rule is known without it

    values = np.asarray(probabilities)
    if threshold is None:
        return np.asarray(values.argmax(axis=-1), np.intp)
    if values.shape[-1] != 2:
        raise VoxgapError(f"a threshold decides between two classes, and there are {values.shape[-1]}")
    # In float64, as the page compares: in float32 a threshold of 0.7 would be another number.
    return np.asarray(values[..., 1].astype(np.float64) >= threshold, np.intp)


def in_digits(threshold: float) -> str:
    """Write a threshold in as few digits, from four on, as decide like it: networks answer in float32.

    One below 1 is not written as 1, which can't be asked for.
    """
    for digits in range(4, 17):
        text = f"{threshold:.{digits}g}"
        if _least(float(text)) == _least(threshold) and (float(text) < 1 or threshold >= 1):
            return text
    return repr(threshold)


def _least(threshold: float) -> float:
    """Return the smallest float32 that reaches a threshold."""
    import numpy as np

    near = np.float32(threshold)
    return float(near if float(near) >= threshold else np.nextafter(near, np.float32(2)))


@dataclass(frozen=True)
class Decision:
    """How a network's classes are named, and where that comes from.

    Args:
        threshold: see `named`.
        rule: that it was chosen by: `0.5`, another number, `youden`, `sensitivity=...` or `specificity=...`.
        samples: of validation data that it was chosen on; 0 for a number.
        sensitivity, specificity: share of the second, and of the first class that it named rightly there.
    """

    threshold: float | None = None
    rule: str = DEFAULT
    samples: int = 0
    sensitivity: float | None = None
    specificity: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, for a manifest's field `decision`."""
        return asdict(self)

    def words(self, classes: tuple[str, ...]) -> str:
        """Return the rule in one line, for people."""
        if self.threshold is None:
            return "decision: the most probable class"
        said = in_digits(self.threshold)
        chosen = [] if self.rule == said else [self.rule]
        if self.samples:
            chosen += [
                f"on {self.samples} validation volumes: sensitivity {self.sensitivity:.3f} ({classes[1]})"
            ]
            chosen += [f"specificity {self.specificity:.3f} ({classes[0]})"]
        return f"decision: {classes[1]} from a probability of {said} on" + (
            f" ({', '.join(chosen)})" if chosen else ""
        )

    @classmethod
    def of(cls, manifest: dict[str, Any], where: str) -> Decision:
        """Return the decision of a bundle; an older one that kept a threshold with its calibration still decides by it.

        Raises:
            VoxgapError: the field holds something else, or a threshold for other than two classes.
        """
        data, rule = manifest.get("decision"), None
        if data is None and isinstance(manifest.get("calibration"), dict) and manifest["outputs"] == 2:
            data, rule = manifest["calibration"], _EARLIER
        if not data or (data_threshold := _threshold(data, where)) is None:
            return cls()
        if manifest["task"] == "regression" or manifest["outputs"] != 2:
            raise VoxgapError(f"{where}: field decision holds a threshold, but there are not two classes")
        facts = (data.get(name) for name in ("samples", "sensitivity", "specificity"))
        samples, *reached = (fact if _is_number(fact) else None for fact in facts)
        if rule is not None or None in reached or not samples:
            return cls(data_threshold, rule or str(data.get("rule", in_digits(data_threshold))))
        return cls(data_threshold, str(data.get("rule")), int(samples), *reached)


def asked(text: str | float, task: str, classes: int) -> Decision | None:
    """Return what a user asks for.

    Args:
        text: a number, `youden`, `sensitivity=0.95` or `specificity=0.9`.
        task: of the data.
        classes: how many there are.

    Returns:
        The decision, or None where it is to be chosen on validation data, by `chosen`. One half is the default: the
        more probable class, the earlier one of equals.

    Raises:
        VoxgapError: it is none of these, or there are not two classes.
    """
    rule = str(text).strip()
    value = _number(rule)
    if value == 0.5:
        return Decision()
    if value is None and rule != "youden" and _rate(rule) is None:
        raise VoxgapError(f"threshold must be {RULES}, got {rule!r}")
    if value is not None and not 0 < value < 1:
        raise VoxgapError(f"threshold {rule} is out of range: a number between 0 and 1")
    if task == "regression" or classes != 2:
        held = "a regression has none" if task == "regression" else f"this data has {classes}"
        raise VoxgapError(f"threshold {rule} decides between two classes, and {held}: leave it out")
    if value is not None:
        return Decision(value, in_digits(value))
    if task == "segmentation":
        raise VoxgapError(f"threshold {rule} is chosen on whole volumes; for label maps give a number")
    return None


def chosen(rule: str, scores: Any, targets: Any) -> Decision:
    """Choose the threshold on data that the network was not trained on.

    Args:
        rule: `youden` makes sensitivity plus specificity largest (Youden, Cancer 3, 1950); `sensitivity=0.95`
            reaches that share of the second class with the best specificity, `specificity=0.9` the other way round.
        scores: probability of the second class, `(n,)`.
        targets: 0 or 1, `(n,)`.

    Returns:
        A threshold between two scores, in as few digits as near the middle lie between them; of equally good ones the
        nearest to one half.

    Raises:
        VoxgapError: one of the classes is not there, a score is no number, no threshold reaches the rate, or the rule
            is none of these.
    """
    import numpy as np

    rule = rule.strip()
    values, positive = np.asarray(scores, np.float64), np.asarray(targets) == 1
    if positive.all() or not positive.any():
        raise VoxgapError(f"threshold {rule} is chosen on validation volumes of both classes; give a number")
    if lost := int((~np.isfinite(values)).sum()):
        raise VoxgapError(
            f"threshold {rule}: {lost} of {len(values)} validation volumes have no probability (NaN)"
        )
    levels = np.unique(values)
    cuts = np.concatenate([[levels[0] / 2], (levels[1:] + levels[:-1]) / 2, [(levels[-1] + 1) / 2]])
    sensitivity = 1 - np.searchsorted(np.sort(values[positive]), cuts) / positive.sum()
    specificity = np.searchsorted(np.sort(values[~positive]), cuts) / (~positive).sum()
    if rule == "youden":
        worth = sensitivity + specificity
    elif (rate := _rate(rule)) is not None:
        kept, other = (sensitivity, specificity) if rate[0] == "sensitivity" else (specificity, sensitivity)
        if kept.max() < rate[1] - 1e-12:
            # Down, so that what is named can be asked for.
            best_rate = math.floor(kept.max() * 1e4) / 1e4
            raise VoxgapError(
                f"threshold {rule} is out of reach on {len(values)} validation volumes, where {rate[0]} is at most "
                f"{best_rate:g}; ask for less, or give a number"
            )
        worth = np.where(kept >= rate[1] - 1e-12, other, -1.0)
    else:
        raise VoxgapError(f"threshold must be {RULES}, got {rule!r}")
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    at = best[np.abs(cuts[best] - 0.5).argmin()]
    bounds = np.concatenate([[0.0], levels, [1.0]])
    threshold = _shortest(float(cuts[at]), float(bounds[at]), float(bounds[at + 1]))
    return Decision(threshold, rule, len(values), float(sensitivity[at]), float(specificity[at]))


def _shortest(value: float, low: float, high: float) -> float:
    """Round a number as far as it stays strictly between two others; as it is where nothing lies between them."""
    rounded = (float(f"{value:.{digits}g}") for digits in range(1, 17))
    return next((short for short in rounded if low < short < high), value)


def _rate(rule: str) -> tuple[str, float] | None:
    found = _REACHED.fullmatch(rule)
    value = None if found is None else _number(found[2])
    return None if found is None or value is None or not 0 < value <= 1 else (found[1], value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _threshold(data: Any, where: str) -> float | None:
    value = data.get("threshold") if isinstance(data, dict) else False
    if value is not None and not (_is_number(value) and 0 <= value <= 1):
        raise VoxgapError(f"{where}: field decision must hold a threshold in [0, 1], or null")
    return None if value is None else float(value)


def _is_number(value: Any) -> bool:
    # Compared, not converted: an integer may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
