"""`voxgap serve` on the sample network: how long one request takes, and how many clients share one network.

`python server_step.py runtime FOLDER ENGINE BATCH` predicts REQUESTS batches without a server;
`python server_step.py clients FOLDER ENGINE COUNT MAX_BATCH` sends REQUESTS from each of COUNT clients to a server of
its own, and answers with the seconds of all of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from protocol import serve

SHAPE = (16, 24, 24, 1)
REQUESTS = 32
VOXGAP = str(Path(sys.executable).parent / "voxgap")


def volume() -> np.ndarray:
    """A clip of which every fifth frame is missing."""
    values = np.random.default_rng(0).integers(0, 256, SHAPE).astype("<f4")
    values[::5] = np.nan
    return values


def make_bundle(folder: str | Path) -> None:
    """Save a small network for sample:motion as a bundle, exported to OpenVINO; weights change no time."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import voxgap as vg
    from voxgap.bundle import export
    from voxgap.training import adapt_model

    data = vg.load_data("sample:motion")
    model = vg.build_model("cnn3d", SHAPE, len(data.classes), strategy="mask_channel", filters=(8, 16))
    adapt_model(model, data.part("train"))
    vg.save_bundle(folder, model, data, strategy="mask_channel")
    export(folder, ["openvino"])


def runtime(folder: str, engine: str, batch: int) -> Callable[[], object]:
    import voxgap as vg

    predictor, values = vg.load(folder, engine=engine), np.repeat(volume()[None], batch, axis=0)
    return lambda: predictor.predict(values, batch_size=batch)


class Clients:
    """A server of its own, and what its clients send."""

    def __init__(self, folder: str, engine: str, count: int, max_batch: int) -> None:
        self._server = subprocess.Popen(
            [VOXGAP, "serve", folder, "--port", "0", "--engine", engine, "--max-batch", str(max_batch)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._server.stderr is not None
        port = next(
            found[1] for line in self._server.stderr if (found := re.search(r"http://[\d.]+:(\d+)", line))
        )
        body = volume().tobytes()
        self._request = (
            "POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
            f"X-Shape: {','.join(map(str, SHAPE))}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._port, self._count = int(port), count

    def all(self) -> None:
        """Every client connects, and sends its requests one after the other."""
        asyncio.run(self._together())

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()

    async def _together(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._count)))

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for _ in range(REQUESTS):
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                raise RuntimeError(head.decode())
            await reader.readexactly(int(length[1]))
        writer.close()


def main() -> None:
    what, folder, engine, *numbers = sys.argv[1:]
    if what == "runtime":
        predict = runtime(folder, engine, *map(int, numbers))
        serve(lambda: [predict() for _ in range(REQUESTS)])
        return
    clients = Clients(folder, engine, *map(int, numbers))
    try:
        serve(clients.all)
    finally:
        clients.close()


if __name__ == "__main__":
    main()
