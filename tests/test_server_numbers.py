"""Numbers in and out of the server: nested lists as the JSON library reads them, and no answer that is not finite."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import server_cases as cases
from server_process import running
from voxgap.errors import VoxgapError
from voxgap.runtime import Bundle
from voxgap.server import create_app
from voxgap.server.limits import RequestError
from voxgap.server.nested import from_json

MIB = 2**20


def nested(values: np.ndarray) -> Any:
    return np.where(np.isnan(values), None, values.astype(object)).tolist()


@pytest.mark.parametrize(
    "form", [{}, {"indent": 1}, {"separators": (",", ":")}], ids=["usual", "lines", "dense"]
)
@pytest.mark.parametrize(("field", "axes"), [("volume", 4), ("volumes", 5)])
def test_nested_lists_are_read_as_the_json_library_reads_them(
    field: str, axes: int, form: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = tuple(rng.integers(1, 5, axes))
        values = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30)
        values[rng.random(shape) < 0.2] = np.nan
        text = json.dumps({field: nested(values)}, **form).encode()
        expected = np.array(json.loads(text)[field], np.float32)
        np.testing.assert_array_equal(from_json(text), expected if axes == 5 else expected[None])
    either = from_json(b'{"volume": null, "volumes": [[[[[1, -0.5e1]]]]]}')
    np.testing.assert_array_equal(either, [[[[[1, -5]]]]])


@pytest.mark.parametrize(
    "text",
    [
        *('{"volume":[[[[]]]]}', '{"volume":[[[[1,]]]]}', '{"volume":[[[[,1]]]]}', '{"volume":[[[[1],2]]]}'),
        *(
            '{"volume":[[[1]]]}',
            '{"volume":[[[[[1]]]]]}',
            '{"volumes":[[[[1]]]]}',
            '{"volume":[[[[1,2],[3]]]]}',
        ),
        *(
            '{"volume":[1[[[]]]]}',
            '{"volume":[[[[1]2]]]}',
            '{"volume":[[[[1]][[1]]]]}',
            '{"volume":[]]]][[[[]}',
        ),
        *('{"volume":[[[[01]]]]}', '{"volume":[[[[+1]]]]}', '{"volume":[[[[.5]]]]}', '{"volume":[[[[1.]]]]}'),
        *(
            '{"volume":[[[[1 2]]]]}',
            '{"volume":[[[[1\n2]]]]}',
            '{"volume":[[[[nu ll]]]]}',
            '{"volume":[[[[nulll]]]]}',
        ),
        *(
            '{"volume":[[[[NaN]]]]}',
            '{"volume":[[[[Infinity]]]]}',
            '{"volume":[[[[true]]]]}',
            '{"volume":[[[["1"]]]]}',
        ),
        *(
            '{"volume":[[[[1]]]],"volumes":[[[[[1]]]]]}',
            '{"volume":[[[[1]]]],"volume":[[[[1]]]]}',
            '{"volume":1}',
        ),
        *("", "{}", "[]", "null", '{"path":"/etc/passwd"}', '{"volume":[[[[1]]]]}x', '{"volume":[[[[1]]]'),
    ],
)
def test_what_is_no_volume_in_json_is_one_line(text: str) -> None:
    with pytest.raises(RequestError, match=r"^JSON: .{10,120}$") as caught:
        from_json(text.encode())
    assert caught.value.status == 422


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_comes_back_after_large_json(tmp_path: Path) -> None:
    def filled(start: str, item: str, end: str) -> bytes:
        return (start + item * ((8 * MIB - 100) // len(item)) + end).encode()

    bodies = [
        filled('{"volume":[[[[', "1.25,", "1]]]]}"),
        filled('{"volume":[[[[', "null,", "1]]]]}"),
        filled('{"volume":[[[', "[1],", "[1]]]]}"),
        filled('{"volume":[[[', "[],", "[]]]]}"),
        filled('{"volume":[', '"a",', "1]}"),
        filled("", "[", ""),
        filled("{", '"key":{},', '"":1}'),
    ]
    with running(cases.make_bundle(tmp_path / "b"), parsers=1) as server:
        url = f"{server.url}/v1/predict"
        assert httpx.post(url, **cases.raw(cases.volume())).status_code == 200
        before = server.memory(parsers=False, peak=False)
        for number in range(21):
            body = bodies[number % len(bodies)]
            sent = httpx.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=60)
            cases.refused(sent, 422, "JSON" if number % 7 > 2 else "")
        assert server.memory(parsers=False, peak=False) < 1.25 * before
        assert server.memory(parsers=False) < before + 512 * MIB


class Overflowing(cases.Brightness):
    """Computes in float32, so that what is far too large is NaN; as an engine does, or as one that tells."""

    tells = False

    def compute(self, volumes: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            found = super().compute(volumes)
        found[(np.nan_to_num(volumes) > 1e30).any(axis=(1, 2, 3, 4))] = np.nan
        if self.tells and np.isnan(found).any():
            raise VoxgapError(f"volume {np.isnan(found).any(axis=1).argmax()}: the answer is not finite")
        return found


@pytest.mark.parametrize("tells", [False, True], ids=["NaN", "error"])
def test_a_volume_without_a_finite_answer_is_422_and_costs_nobody_else_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    monkeypatch.setattr(Overflowing, "tells", tells)
    app = create_app(
        cases.make_bundle(tmp_path / "b"),
        load=lambda path: Overflowing(Bundle.open(path).manifest, 0.05),
    )
    huge = np.full(cases.SHAPE, 1e37, np.float32)

    two = np.stack([cases.volume(), huge])

    async def crowd() -> tuple[list[httpx.Response], list[httpx.Response]]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url=cases.HERE) as client,
        ):
            sent = [huge if number % 3 == 0 else cases.volume(number) for number in range(9)]
            together = await asyncio.gather(
                *(client.post("/v1/predict", **cases.raw(values)) for values in sent)
            )
            alone = [
                await client.post("/v1/predict", **cases.raw(two)),
                await client.post("/v1/occlusion", **cases.raw(huge)),
                await client.post("/v1/predict", json={"volume": nested(huge)}),
            ]
            return together, alone

    together, alone = asyncio.run(crowd())
    for response in (*together[::3], *alone):
        cases.refused(response, 422, "not finite")
    for number in (1, 2, 4, 5, 7, 8):
        (prediction,) = cases.predictions(together[number])
        said = list(prediction["probabilities"].values())
        np.testing.assert_allclose(said, cases.expected(cases.volume(number)), rtol=1e-5)
