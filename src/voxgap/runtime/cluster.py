"""Predicting on many machines: the same rows, answered by Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from voxgap.cluster import connected
from voxgap.runtime.engines import Precision
from voxgap.runtime.inputs import Item
from voxgap.runtime.job import Row, Source, Wanted, local
from voxgap.runtime.loading import load
from voxgap.runtime.predictor import Predictor

_ITEMS_AT_ONCE = 64


class Answerer:
    """Loads a bundle once in each of Ray's workers, and answers blocks of items."""

    def __init__(self, loading: Callable[[], Predictor], wanted: Wanted) -> None:
        self._rows = local(loading(), wanted)

    def __call__(self, block: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer the items of one block, a row of the table each."""
        return {"row": list(self._rows([Item(*item) for item in block["item"]]))}


def on_ray(
    bundle: str | Path,
    address: str,
    wanted: Wanted,
    *,
    precision: Precision = "float32",
    engine: str = "auto",
    threads: int | None = None,
    threshold: float | None = None,
    mirror: bool = False,
) -> Source:
    """Return a source that answers on a Ray cluster, where the bundle and the files have the same paths as here.

    Args:
        bundle: its folder, as each machine of the cluster sees it.
        address: of the cluster; `local` starts one on this machine.
        wanted: what a row holds.
        precision, engine, threshold, mirror: as for `load`.
        threads: processor cores of one worker; 1 by default, so that each core has a worker.
    """

    def rows(items: Sequence[Item]) -> Iterator[Row]:
        if not items:
            return
        with connected(address) as ray:
            import ray.data as ray_data

            cores = threads or 1
            workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
            blocks = max(1, min(-(-len(items) // _ITEMS_AT_ONCE), 10_000))
            listed = ray_data.from_items(
                [{"item": tuple(item)} for item in items], override_num_blocks=blocks
            )
            answered = listed.map_batches(
                Answerer,
                batch_size=_ITEMS_AT_ONCE,
                fn_constructor_args=(
                    partial(load, str(bundle), precision, engine, cores, threshold, mirror),
                    wanted,
                ),
                concurrency=(1, workers),
                num_cpus=cores,
            )
            for found in answered.iter_rows():
                yield found["row"]

    return rows
