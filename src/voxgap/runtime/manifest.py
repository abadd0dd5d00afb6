"""The manifest of a bundle: a value whose every field was checked when it was read, and the JSON that it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from voxgap.acquire import Worths
from voxgap.decision import Decision
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.patches import OVERLAP, Size, corners
from voxgap.promises import Guarantee
from voxgap.runtime.calibration import Calibration
from voxgap.runtime.profile import Profile
from voxgap.volume import AXES, times

TASKS = ("classification", "regression", "segmentation", "fill")
_MAX_PARTS = 1000
_MAX_VALUES = 2**36  # of a network's input, beyond what any machine holds
_MAX_OUTPUTS = 2**20
_MAX_SPACING = 1e12
_MAX_LABEL = 2**15 - 1  # of the 16 bits of a label map
_DIGITS = 5  # of the highest one

_FIELDS = {
    str: ("task", "network"),
    list: ("classes",),
    int: ("outputs",),
    dict: ("input", "strategy", "files"),
}
_OPTIONAL = ("units", "data", "training", "scores", "intervals", "arguments", "versions")
"""Objects that not every bundle has."""


@dataclass(frozen=True)
class Input:
    """What a network takes, and how files come there.

    Args:
        shape: `(depth, height, width, channels)` of a volume, or of the patches into which volumes are cut.
        channels: their names.
        grid: how files become volumes: the same way as those of the training data.
        spacing: size of a voxel of the training data along `(depth, height, width)`; None where it has none.
        patches: size and overlap of the patches into which volumes are cut; None for a network of whole volumes.
        mirrors: axes along which the training mirrored volumes, in order.
    """

    shape: tuple[int, int, int, int]
    channels: tuple[str, ...]
    grid: Grid
    spacing: tuple[float, float, float] | None = None
    patches: tuple[Size, float] | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def voxel(self) -> tuple[float, float, float] | None:
        """Size of a voxel that the network sees, where it is known."""
        return self.grid.spacing or self.spacing

    @property
    def step(self) -> float | None:
        """Seconds from frame to frame, where files are brought to a size; see `Grid.place`."""
        return float(self.voxel[0]) if self.voxel and self.patches is None else None

    @property
    def takes(self) -> str:
        """What the network takes, for messages."""
        whole = self.patches is None
        size = f"{times(self.shape)} or deeper" if whole else f"any size ×{self.shape[-1]}"
        return f"{size} (depth, height, width, channels: {', '.join(self.channels)})"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the network takes volumes of this shape: deeper ones in `windows`; in patches, any size."""
        if len(shape) != len(self.shape):
            return False
        if self.patches is None:
            return shape[0] >= self.shape[0] and shape[1:] == self.shape[1:]
        return shape[-1] == self.shape[-1]

    def windows(self, shape: tuple[int, ...]) -> int:
        """Count the windows along depth (time, in a clip) that a volume which fits is predicted in; 1 if no deeper.

        They overlap by half at least. An answer for the volume is the mean over the windows, as clips are judged
        since Wang et al., Non-local Neural Networks, CVPR 2018; one for each voxel is blended as that of patches is.
        """
        return 1 if self.patches else len(corners(shape[:3], self.shape[:3], OVERLAP))


@dataclass(frozen=True)
class Part:
    """One file of a bundle.

    Args:
        path: in the bundle.
        sha256: of its content.
        size: in bytes; None where the manifest does not say.
    """

    path: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class Entry:
    """A model of a bundle, or another file that its manifest vouches for.

    Args:
        path: of the file or folder, in the bundle.
        parts: all files that belong to it.
        precision: of a model's weights.
    """

    path: str
    parts: tuple[Part, ...]
    precision: str = "float32"

    @property
    def digest(self) -> str:
        """What tells its content from another's."""
        return "-".join(part.sha256 for part in self.parts)

    @classmethod
    def from_json(cls, data: Any, where: str) -> Entry:
        """Check an entry of a manifest: `path`, and `parts` with `path`, `sha256` and `bytes` each; or all of one file.

        Raises:
            VoxgapError: it is something else; `where` is what the message calls it.
        """
        known = isinstance(data, dict) and isinstance(data.get("path"), str)
        parts = data.get("parts", [data]) if known else None
        if not isinstance(parts, list) or not 0 < len(parts) <= _MAX_PARTS or not all(map(_is_part, parts)):
            raise VoxgapError(f"{where} must name a path, and its parts; train or export the bundle again")
        made = (Part(part["path"], str(part.get("sha256")), part.get("bytes")) for part in parts)
        return cls(data["path"], tuple(made), str(data.get("precision", "float32")))


@dataclass(frozen=True)
class Trained:
    """How the training of a bundle's network ended.

    Args:
        epochs: that ran.
        reason: why no more did; see `voxgap.History`.
        patience: that it was given; None where nobody said.
        schedule: of its learning rate; empty where nobody said.
    """

    epochs: int = 0
    reason: str = ""
    patience: int | None = None
    schedule: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Args:
        task: `classification`, `regression`, `segmentation` or `fill`.
        classes: their names, in the order of the probabilities; empty for a regression or a fill.
        label_values: what stands for each class in a label map: the value it was learnt from.
        input: what the network takes.
        outputs: how many values it answers, for a volume or for each voxel.
        network: its name.
        strategy: how it handles gaps, the fields of a `Strategy`.
        dataset: name of the data that it was trained on, without its place.
        units: unit and meaning of a channel, by its name.
        profile: what that data is like; None where the bundle is too old to know.
        calibration: how to read the probabilities; None without one.
        decision: how classes are named.
        guarantee: what holds of its answers for each pattern of gaps; None without one.
        worths: of channels that may be missing, from its certificate; None without one.
        trained: how its training ended.
        arguments: of the network and its training, as people read them.
        scores, intervals: of the trained network by split, and what they rest on.
        versions: of the packages that made it.
        files: its models, by format.
        golden: the inputs that exports are proven with; None in a copy that holds none.
        cases: the file that knows the training's volumes again; None likewise.
        reference: the file that a drift test goes by, see `voxgap.drift`; None in older bundles.
        written: all of it as JSON, further fields too: what is written again begins here.
    """

    task: str
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    input: Input
    outputs: int
    network: str
    strategy: Mapping[str, Any]
    dataset: str
    units: Mapping[str, Any]
    profile: Profile | None
    calibration: Calibration | None
    decision: Decision
    guarantee: Guarantee | None
    worths: Worths | None
    trained: Trained
    arguments: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Any]]
    intervals: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, Any]
    files: Mapping[str, Entry]
    golden: Entry | None
    cases: Entry | None
    reference: Entry | None
    written: Mapping[str, Any]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "manifest.json") -> Manifest:
        """Check a manifest field by field.

        Args:
            data: its JSON.
            where: the file, for messages.

        Raises:
            VoxgapError: a field is missing, or holds something else than what is read from it.
        """
        known = dict(data)
        for kind, name in ((kind, name) for kind, names in _FIELDS.items() for name in names):
            if not isinstance(known.get(name), kind) or isinstance(known[name], bool):
                raise VoxgapError(f"{where}: field {name} is missing or not of type {kind.__name__}")
        objects = {name: known.get(name) or {} for name in _OPTIONAL}
        for name, value in objects.items():
            if not isinstance(value, dict):
                raise VoxgapError(
                    f"{where}: field {name} must be an object; train or export the bundle again"
                )
        task, outputs = known["task"], known["outputs"]
        if task not in TASKS:
            raise VoxgapError(f"{where}: field task must be {', '.join(TASKS[:-1])} or {TASKS[-1]}")
        taken = _input(known["input"], outputs, where)
        if task == "fill" and outputs != 2 * taken.shape[-1]:
            raise VoxgapError(
                f"{where}: field outputs of a fill must be a value and a deviation for each channel"
            )
        named = 0 if task in ("regression", "fill") else outputs
        classes = _names(known["classes"], named, f"{where}: field classes")
        # Where it was made with backslashes, another system takes the whole path for a name.
        place = str(objects.pop("data").get("name", "")).replace("\\", "/")
        return cls(
            task=task,
            classes=classes,
            label_values=_label_values(known.get("label_values"), classes, where),
            input=taken,
            outputs=outputs,
            network=known["network"],
            strategy=known["strategy"],
            dataset=place.rstrip("/").rpartition("/")[2],
            profile=Profile.of(known, where),
            calibration=Calibration.of(known, where),
            decision=Decision.of(known, where),
            guarantee=Guarantee.of(known, where),
            worths=Worths.of(known, where),
            trained=_trained(objects.pop("training"), objects["arguments"]),
            files={
                kind: Entry.from_json(e, f"{where}: field files.{kind}") for kind, e in known["files"].items()
            },
            golden=_proof(known, "golden", where),
            cases=_proof(known, "cases", where),
            reference=_proof(known, "reference", where),
            written=known,
            **objects,
        )

    def strays(self, kind: str) -> float | None:
        """How far answers of one of its models may lie from the trained network's; None where nobody knows.

        In float32 as far as it was proven for; in another precision as far as its golden inputs showed.
        """
        exact, parity = self.files[kind].precision == "float32", self.written["files"][kind].get("parity")
        if not isinstance(parity, dict):
            return 0.0 if exact else None
        found = parity.get("tolerance" if exact else "max_difference")
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
            return None
        return float(found)

    def published(self) -> dict[str, Any]:
        """Return what may leave the house of a manifest, in every package and from every server, as JSON.

        Its data has a name, but no place, and nothing is said of single cases: a bundle's evidence is no part of it.
        """
        data = self.written.get("data") or {}
        kept = {name: value for name, value in self.written.items() if name not in ("cases", "reference")}
        return kept | {"data": data | {"name": self.dataset}} if "name" in data else kept


def _input(data: Mapping[str, Any], outputs: int, where: str) -> Input:
    field = f"{where}: field input"
    shape, spacing = data.get("shape"), data.get("spacing")
    if not _holds(shape, 4, lambda n: type(n) is int and n > 0):
        raise VoxgapError(f"{field}.shape must be four positive integers")
    if math.prod(shape) > _MAX_VALUES or not 0 < outputs <= _MAX_OUTPUTS:
        raise VoxgapError(f"{field}.shape or outputs is larger than any network's")
    sizes = _holds(spacing, 3, lambda n: isinstance(n, int | float) and 0 < n < _MAX_SPACING)
    if spacing is not None and not sizes:
        raise VoxgapError(f"{field}.spacing must be three positive sizes, or null")
    channels = _names(data.get("channels"), shape[-1], f"{field}.channels")
    grid = Grid.from_json(data.get("grid"), f"{field}.grid")
    patches = _patches(data.get("patches"), shape, where)
    if patches is None and grid.size is not None and list(grid.size) != shape[:3]:
        raise VoxgapError(f"{field}.grid: size {times(grid.size)} is not that of input.shape")
    made: Any = None if spacing is None else tuple(spacing)
    mirrors = data.get("mirrors", [])
    if not isinstance(mirrors, list) or mirrors != [axis for axis in AXES if axis in mirrors]:
        raise VoxgapError(f"{field}.mirrors must be a list of {', '.join(AXES)}, in this order")
    return Input((shape[0], shape[1], shape[2], shape[3]), channels, grid, made, patches, tuple(mirrors))


def _patches(data: Any, shape: Sequence[int], where: str) -> tuple[Size, float] | None:
    if data is None:
        return None
    size, overlap = (data.get("size"), data.get("overlap")) if isinstance(data, dict) else (None, None)
    if size != shape[:3] or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
        raise VoxgapError(
            f"{where}: field input.patches must hold the size of input.shape, and an overlap in [0, 1)"
        )
    return (size[0], size[1], size[2]), float(overlap)


def _holds(values: Any, count: int, one: Callable[[Any], bool]) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and len(values) == count and all(map(one, values))


def _names(names: Any, count: int, field: str) -> tuple[str, ...]:
    if not _holds(names, count, lambda name: isinstance(name, str)):
        raise VoxgapError(f"{field} must be {count} names; train or export the bundle again")
    return tuple(names)


def _label_values(given: Any, classes: Sequence[str], where: str) -> tuple[int, ...]:
    # Bundles of earlier versions don't say them: there it is 255, say, where the class is called so, else its place.
    if given is None:
        return _called(classes)
    values = _holds(given, len(classes), lambda value: type(value) is int and 0 <= value <= _MAX_LABEL)
    if not values or len({*given}) < len(given):
        raise VoxgapError(
            f"{where}: field label_values must hold {len(classes)} whole numbers from 0 to {_MAX_LABEL}, each once; "
            "train or export the bundle again"
        )
    return tuple(given)


def _called(classes: Sequence[str]) -> tuple[int, ...]:
    if all(name.isascii() and name.isdecimal() and len(name) <= _DIGITS for name in classes):
        values = tuple(map(int, classes))
        if len({*values}) == len(values) and max(values, default=0) <= _MAX_LABEL:
            return values
    return tuple(range(len(classes)))


def _trained(training: Mapping[str, Any], arguments: Mapping[str, Any]) -> Trained:
    """Read what is for people: a count that is none is as good as nothing."""
    asked = arguments.get("training")
    asked = asked if isinstance(asked, dict) else {}
    epochs, patience = training.get("epochs"), asked.get("patience")
    return Trained(
        epochs if type(epochs) is int else 0,
        str(training.get("reason", "")),
        patience if type(patience) is int else None,
        str(asked.get("schedule", "")),
    )


def _proof(known: Mapping[str, Any], name: str, where: str) -> Entry | None:
    return Entry.from_json(known[name], f"{where}: field {name}") if known.get(name) else None


def _is_part(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("path"), str)
        and type(part.get("bytes")) in (int, type(None))
    )
