"""What a network learns from: one part of a data set, whole or in patches."""

from __future__ import annotations

import dataclasses
from typing import Any

from voxgap.patches import Patches, Size


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Volumes and what is to be said of them.

    Args:
        volumes: `(n, depth, height, width, channels)`, NaN = missing; an array, or anything that is indexed like one:
            it is read item by item, or by the patch. A `Ragged` where they are of several shapes.
        targets: class indices `(n,)`, numbers `(n,)` or `(n, outputs)`, or label maps `(n, depth, height, width)` with
            -1 where nobody said, which may be lazy too.
        task: `classification`, `regression` or `segmentation`.
        spacing: of a voxel in mm, for augmentation.
    """

    volumes: Any
    targets: Any
    task: str
    spacing: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, part: Any) -> Examples:
        """Return those of a part of a data set, or of anything else that has volumes, targets and a task."""
        return cls(part.volumes, part.targets, part.task, getattr(part, "spacing", None))

    def __len__(self) -> int:
        return len(self.volumes)

    def tiles(self, size: Size) -> Examples:
        """Return the patches that tile the volumes, each an example, read when they are asked for."""
        volumes = Patches(self.volumes, size)
        maps = self.task == "segmentation"
        targets = Patches(self.targets, size) if maps else self.targets[volumes.owners]
        return dataclasses.replace(self, volumes=volumes, targets=targets)
