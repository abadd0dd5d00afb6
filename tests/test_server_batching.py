"""Batches across requests, the bounded queue, deadlines, and a new bundle under way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import server_cases as cases
import stand_in
from voxgap.errors import VoxgapError
from voxgap.server import Settings, create_app
from voxgap.server.batching import Batcher
from voxgap.server.limits import Admission, RequestError
from voxgap.server.live import Live, Loaded
from voxgap.server.metrics import Metrics


def loaded(seconds: float = 0.0) -> Loaded:
    entry = {"shape": list(cases.SHAPE), "channels": ["t1"], "grid": None}
    manifest = stand_in.manifest(classes=list(cases.CLASSES), input=entry)
    return Loaded(cases.Brightness(manifest, seconds), Path("lamp"), "1")


def batch(count: int, first: int = 0) -> np.ndarray:
    return np.stack([cases.volume(seed) for seed in range(first, first + count)])


def run(batcher: Batcher, work: Any) -> Any:
    async def main() -> Any:
        batcher.start()
        try:
            return await work()
        finally:
            await batcher.close()

    return asyncio.run(main())


def test_requests_that_come_while_the_network_computes_go_together() -> None:
    batcher, bundle = Batcher(16, 0.05, Metrics()), loaded(seconds=0.05)

    async def clients() -> list[Any]:
        return await asyncio.gather(*(batcher.predict(bundle, batch(1, i)) for i in range(16)))

    outcomes = run(batcher, clients)
    assert sum(bundle.predictor.batches) == 16
    assert len(bundle.predictor.batches) <= 2
    for seed, outcome in enumerate(outcomes):
        np.testing.assert_array_equal(
            outcome.outputs, bundle.predictor.predict(batch(1, seed)), f"volume {seed}"
        )


def test_a_lone_client_never_waits_for_others() -> None:
    batcher, bundle = Batcher(16, 10.0, Metrics()), loaded()

    async def one_after_another() -> float:
        started = time.perf_counter()
        for seed in range(5):
            await batcher.predict(bundle, batch(1, seed))
        return time.perf_counter() - started

    assert run(batcher, one_after_another) < 5
    assert bundle.predictor.batches == [1] * 5


def test_clients_that_come_back_are_waited_for_but_not_long() -> None:
    batcher, bundle = Batcher(4, 0.2, Metrics()), loaded(seconds=0.01)

    async def rounds() -> None:
        async def client() -> None:
            for _ in range(3):
                await batcher.predict(bundle, batch(1))
                await asyncio.sleep(0.005)

        await asyncio.gather(*(client() for _ in range(4)))
        # Now one is alone: it waits once, and then no more.
        for _ in range(2):
            await batcher.predict(bundle, batch(1))

    run(batcher, rounds)
    assert bundle.predictor.batches.count(4) >= 2
    assert max(bundle.predictor.batches) == 4


def test_a_large_request_is_cut_and_comes_back_in_order() -> None:
    batcher, bundle = Batcher(4, 0.0, Metrics()), loaded()

    async def large() -> Any:
        return await batcher.predict(bundle, batch(10))

    outcome = run(batcher, large)
    assert bundle.predictor.batches == [4, 4, 2]
    np.testing.assert_array_equal(outcome.outputs, bundle.predictor.predict(batch(10)))


def test_two_bundles_and_two_shapes_never_share_a_batch() -> None:
    batcher, one, other = Batcher(16, 0.05, Metrics()), loaded(0.02), loaded(0.02)

    async def mixed() -> None:
        deep = np.concatenate([batch(1), batch(1)], axis=1)
        await asyncio.gather(
            *(batcher.predict(bundle, batch(1)) for bundle in (one, one, other, one)),
            batcher.predict(one, deep),
        )

    run(batcher, mixed)
    assert sum(one.predictor.batches) == 4
    assert other.predictor.batches == [1]


def test_a_request_that_was_given_up_is_not_computed() -> None:
    batcher, bundle = Batcher(1, 0.0, Metrics()), loaded(seconds=0.1)

    async def impatient() -> None:
        first = asyncio.create_task(batcher.predict(bundle, batch(1)))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(batcher.predict(bundle, batch(1)))
        await asyncio.sleep(0.02)
        second.cancel()
        await first
        await batcher.predict(bundle, batch(1))

    run(batcher, impatient)
    assert bundle.predictor.batches == [1, 1]


def test_a_network_that_fails_fails_its_requests_only() -> None:
    batcher, bundle = Batcher(4, 0.0, Metrics()), loaded()

    async def broken_then_fine() -> Any:
        bundle.predictor.predict, kept = _raise, bundle.predictor.predict
        with pytest.raises(ValueError, match="broken"):
            await batcher.predict(bundle, batch(1))
        bundle.predictor.predict = kept
        return await batcher.predict(bundle, batch(1))

    assert len(run(batcher, broken_then_fine).outputs) == 1


def _raise(*_: Any, **__: Any) -> None:
    raise ValueError("broken")


def test_the_door_counts_requests_and_bytes() -> None:
    door = Admission(Settings(queue=2, max_pending=100))
    with door.admit(1000) as alone:  # is taken, whatever its size
        alone.grow(1000)
        alone.take()
        with pytest.raises(RequestError, match="busy"), door.admit(1):
            pass
    with door.admit(40) as one, door.admit(40) as two:
        one.take()
        two.take()
        with pytest.raises(RequestError) as caught, door.admit(1):
            pass
    assert caught.value.status == 503
    assert caught.value.headers == {"Retry-After": "1"}
    assert (door.requests, door.bytes) == (0, 0)


def test_a_body_on_its_way_holds_no_place_and_the_largest_gives_way() -> None:
    door = Admission(Settings(queue=1, max_pending=100))
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(door.admit(1000)) for _ in range(5)]
        for place in waiting:
            place.grow(15)
        waiting[2].grow(15)
        with door.admit(20) as late:
            late.grow(20)
            assert [place.pushed_out for place in waiting] == [False, False, True, False, False]
            assert door.bytes == 80
            late.take()
            with pytest.raises(RequestError, match="busy"):
                waiting[0].take()
        with pytest.raises(RequestError, match="busy"):
            waiting[0].grow(90)  # now it is the largest itself
        with pytest.raises(RequestError, match="busy"):
            waiting[2].grow(1)
        waiting[1].take()
    assert (door.requests, door.bytes) == (0, 0)


def served(folder: Path, seconds: float, work: Any, **settings: Any) -> Any:
    """Run `work(client, app)` against an application in this loop."""
    app = create_app(folder, Settings(**settings), load=lambda path: cases.load(path, seconds))

    async def main() -> Any:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url=cases.HERE) as c,
        ):
            return await work(c, app)

    return asyncio.run(main())


def test_a_full_server_says_when_to_come_back(tmp_path: Path) -> None:
    async def crowd(client: httpx.AsyncClient, _: Any) -> list[httpx.Response]:
        return await asyncio.gather(
            *(client.post("/v1/predict", **cases.raw(cases.volume(i))) for i in range(12))
        )

    responses = served(cases.make_bundle(tmp_path / "b"), 0.1, crowd, queue=4)
    statuses = [response.status_code for response in responses]
    assert sorted(set(statuses)) == [200, 503]
    assert statuses.count(200) == 4
    for response in responses:
        if response.status_code == 503:
            assert response.headers["retry-after"] == "1"
            assert "busy" in response.json()["detail"]


def test_a_slow_network_and_a_slow_body_run_into_the_deadline(tmp_path: Path) -> None:
    async def slow(client: httpx.AsyncClient, app: Any) -> tuple[httpx.Response, httpx.Response]:
        async def dripping() -> Any:
            yield b"x"
            await asyncio.sleep(5)

        headers = cases.raw(cases.volume())["headers"]
        late = await client.post("/v1/predict", **cases.raw(cases.volume()))
        body = await client.post("/v1/predict", content=dripping(), headers=headers)
        assert app.state.service.admission.requests == 0
        return late, body

    late, body = served(cases.make_bundle(tmp_path / "b"), 0.5, slow, timeout=0.2)
    assert (late.status_code, body.status_code) == (504, 408)


def test_a_new_bundle_takes_over_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    folder = cases.make_bundle(tmp_path / "b", "1")

    async def versions(client: httpx.AsyncClient, app: Any) -> list[str]:
        seen, failures = [], []
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                response = await client.post("/v1/predict", **cases.raw(cases.volume()))
                if response.status_code != 200:
                    failures.append(response.text)
                elif (version := response.json()["model"]["sha256"][0]) not in seen[-1:]:
                    seen.append(version)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        live = app.state.service.live
        assert not await live.refresh(), "nothing is new"
        for version, fields in (("2", {}), ("3", {"network": "broken"}), ("4", {})):
            cases.make_bundle(folder, version, **fields)
            assert await live.refresh() == (version != "3")
            await asyncio.sleep(0.1)
        (folder / "manifest.json").unlink()
        assert not await live.refresh()
        done.set()
        await asyncio.gather(*asking)
        assert not failures
        text = (await client.get("/metrics")).text
        assert 'voxgap_reloads_total{result="loaded"} 2.0' in text
        assert 'voxgap_reloads_total{result="failed"} 2.0' in text
        return seen

    assert served(folder, 0.01, versions) == ["1", "2", "4"]


def test_the_manifest_is_watched(tmp_path: Path) -> None:
    folder = cases.make_bundle(tmp_path / "b", "1")

    async def wait(client: httpx.AsyncClient, _: Any) -> str:
        cases.make_bundle(folder, "2")
        for _ in range(100):
            version = (await client.get("/v1/model")).json()["model"]["sha256"][0]
            if version == "2":
                break
            await asyncio.sleep(0.05)
        return version

    assert served(folder, 0.0, wait, reload=0.05) == "2"


def test_a_bundle_that_never_loaded_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match="damaged"):
        Live(cases.make_bundle(tmp_path / "b", network="broken"), cases.load, Metrics())


def test_requests_go_on_while_a_bundle_loads(tmp_path: Path) -> None:
    folder, gate = cases.make_bundle(tmp_path / "b"), threading.Event()
    gate.set()

    def load(path: Path) -> cases.Brightness:
        gate.wait(10)
        return cases.load(path)

    async def main() -> None:
        live = Live(folder, load, Metrics())
        gate.clear()
        cases.make_bundle(folder, "2")
        loading = asyncio.create_task(live.refresh())
        await asyncio.sleep(0.05)
        assert json.dumps(live.current.predictor.manifest.written["files"]).count("1") == 64
        gate.set()
        assert await loading
        assert live.current.sha256 == "2" * 64

    asyncio.run(main())


def test_a_volume_without_an_answer_fails_its_own_request_only() -> None:
    class Picky(cases.Brightness):
        def predict(self, volumes: np.ndarray, batch_size: int | None = None) -> np.ndarray:
            if np.nanmax(volumes) > 1e30:
                self.batches.append(len(volumes))
                raise VoxgapError("volume 0: the network's answer is not finite")
            return super().predict(volumes, batch_size)

    bundle = Loaded(Picky(loaded().predictor.manifest, 0.02), Path("lamp"), "1")
    batcher = Batcher(16, 0.05, Metrics())

    async def clients() -> list[Any]:
        volumes = [batch(1, i) for i in range(6)]
        volumes[4] = volumes[4] + np.float32(1e38)
        return await asyncio.gather(
            *(batcher.predict(bundle, volume) for volume in volumes), return_exceptions=True
        )

    outcomes = run(batcher, clients)
    assert [isinstance(outcome, VoxgapError) for outcome in outcomes] == [i == 4 for i in range(6)]
    assert max(bundle.predictor.batches) > 1, "they went together"
