"""What a file says of each value of a volume, in variables beside it (CF conventions 1.11, section 3.4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OWN = {"voxgap": "evidence"}
"""The attribute by which reading knows such a variable: on the grid of a volume, and yet no channel of it."""


@dataclass(frozen=True)
class Ancillary:
    """A number for each value of a volume.

    Args:
        name: Comes behind that of the variable, as in `sst_standard_deviation`.
        values: `(depth, height, width, channels)`, in the type in which it is stored.
        modifier: Behind the standard name of the variable: `standard_error` or `status_flag`.
        words: Said before the name of the variable, in its long name.
        attributes: Others.
        same_unit: Whether it has the unit of the variable.
    """

    name: str
    values: NDArray[Any]
    modifier: str
    words: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    same_unit: bool = False

    def attributes_for(self, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return all attributes of the variable that stands beside one of that name, with those attributes."""
        found: dict[str, Any] = {"long_name": f"{self.words} {about.get('long_name', name)}"}
        if "standard_name" in about:
            found["standard_name"] = f"{str(about['standard_name']).split()[0]} {self.modifier}"
        if self.same_unit and "units" in about:
            found["units"] = about["units"]
        if self.values.dtype.kind == "f":
            found["_FillValue"] = np.float32(np.nan)
        return {**found, **self.attributes, **OWN}


def is_own(attributes: Mapping[str, Any]) -> bool:
    """Tell whether a variable says something of another's values, and is no volume."""
    return all(str(attributes.get(key, "")) == value for key, value in OWN.items())


def named(about: Mapping[str, Any], names: list[str], gone: Collection[str] = ()) -> str:
    """Return the attribute `ancillary_variables` with further names in it, and without those that are gone."""
    given = [name for name in str(about.get("ancillary_variables", "")).split() if name not in gone]
    return " ".join(dict.fromkeys([*given, *names]))
