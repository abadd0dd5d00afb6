"""What is known by a name, and may come from outside: fills, file formats, exports and the engines that run them.

An installed package adds to a registry by an entry point of the group `voxgap.fills`, `voxgap.formats`,
`voxgap.exports` or `voxgap.engines`; see docs/design.md. So the command line and every child process know it too. No
bundle, table or configuration can name code: all that it can name is what somebody has installed on this machine.
"""

from __future__ import annotations

import functools
import importlib
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(UserDict[str, T]):
    """A dictionary to which installed packages add; what they add is imported when it is asked for.

    What voxgap has under a name stays its own. Installed packages are looked through only for a name that is not its
    own, or for all names; `data` holds those that are known without looking.

    Args:
        group: of the entry points, after `voxgap.`.
        own: names, and what voxgap has of each.
    """

    def __init__(self, group: str, own: Mapping[str, T]) -> None:
        super().__init__(own)
        self.group = group

    @functools.cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        metadata = importlib.import_module("importlib.metadata")  # it is slow, and most calls need none of it
        return {point.name: point for point in metadata.entry_points(group=f"voxgap.{self.group}")}

    def __contains__(self, name: object) -> bool:
        return name in self.data or name in self._installed

    def __missing__(self, name: str) -> T:
        point = self._installed[name]
        try:
            self.data[name] = point.load()
        except Exception as error:  # whatever a package of somebody else raises when it is imported
            package = point.dist.name if point.dist else point.value
            raise VoxgapError(
                f"{name}: can't be loaded from the package {package} ({error}); upgrade or uninstall it"
            ) from error
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.data, *self._installed]))

    def __len__(self) -> int:
        return len(self.data.keys() | self._installed.keys())

    def import_all(self) -> None:
        """Import what installed packages add: Keras only opens files whose layers it knows.

        Raises:
            VoxgapError: one can't be imported.
        """
        for name in self._installed:
            self[name]
