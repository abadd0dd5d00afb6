"""Inputs to try a network with: the golden ones of its bundle, where it has them."""

from __future__ import annotations

import asyncio

from voxgap.runtime.profile import drift
from voxgap.server.answers import Sample
from voxgap.server.limits import RequestError
from voxgap.server.live import Loaded
from voxgap.volume import Values

_NOTES = {
    "as_recorded": "as it was recorded",
    "complete": "nothing missing",
    "voxels": "single voxels missing",
    "slices": "slices missing",
    "blocks": "blocks missing",
    "channel": "one channel missing",
    "everything": "nothing observed",
}


def list_samples(loaded: Loaded) -> list[Sample]:
    """List the samples of a bundle, each with a note and its doubts; a bundle without golden inputs has none."""
    return [
        Sample(
            name=name,
            url=f"/v1/samples/{name}",
            shape=list(loaded.input.shape),
            note=_NOTES.get(name.rpartition("-")[0], ""),
            warnings=list(drift(values, loaded.predictor.manifest.profile)),
        )
        for name, values in _golden(loaded).items()
    ]


async def sample(loaded: Loaded, name: str) -> Values:
    """Return one sample, `(depth, height, width, channels)`.

    Raises:
        RequestError: 404, there is none of this name.
    """
    found = await asyncio.to_thread(_golden, loaded)
    if name not in found:
        raise RequestError(404, f"no such sample; there are {', '.join(found) or 'none'}")
    return found[name]


def _golden(loaded: Loaded) -> dict[str, Values]:
    golden = loaded.golden
    if golden is None:
        return {}
    gaps = golden.gaps.tolist()
    numbers = [gaps[: index + 1].count(gap) for index, gap in enumerate(gaps)]
    return {
        f"{gap}-{number}": volume for gap, number, volume in zip(gaps, numbers, golden.inputs, strict=True)
    }
