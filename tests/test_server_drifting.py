"""The server's watch: what it counts, what it says, who shares it, and what is left of it after a restart."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import server_cases as cases
from voxgap.drift import looks, reference_of
from voxgap.server import drifting
from voxgap.server.drifting import Stream
from voxgap.server.live import Live
from voxgap.server.metrics import Metrics


def bundle(folder: Path, scans: int = 100) -> Path:
    """A bundle whose training scans were like `cases.volume`."""
    folder.mkdir(exist_ok=True)
    kept = reference_of(looks(cases.volume(1000 + seed), ("t1",)) for seed in range(scans))
    data = json.dumps(kept).encode()
    sha = hashlib.sha256(data).hexdigest()
    name = f"reference-{sha[:12]}.json"
    (folder / name).write_bytes(data)
    profile = {"channels": {"t1": {"missing_rate": [0, 1], "values": [0, 255], "deviation": [1, 100]}}}
    return cases.make_bundle(
        folder,
        data={"profile": profile},
        reference={"path": name, "sha256": sha, "bytes": len(data)},
    )


def stream(folder: Path) -> Stream:
    return Stream(Live(folder, cases.load, Metrics()), Metrics())


def send(server: TestClient, seeds: range, brighter: float = 0.0) -> None:
    for seed in seeds:
        cases.predictions(server.post("/v1/predict", **cases.raw(cases.volume(seed) + brighter)))


def test_a_drift_is_said_in_the_answer_the_card_the_metrics_and_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drifting, "_SECONDS", 0.01)
    folder = bundle(tmp_path / "lamp")
    with cases.client(folder) as server, caplog.at_level(logging.WARNING, "voxgap.server"):
        send(server, range(5))
        service = server.app.state.service
        service.stream.update()
        card = server.get("/v1/model").json()
        assert (card["drift"]["scans"], card["drift"]["alarmed"]) == (5, False)
        assert "reference" not in card["manifest"], "it is of single scans"
        assert "voxgap_drift_alarm 0.0" in server.get("/metrics").text
        send(server, range(50, 90), brighter=60)
        service.stream.update()
        answer = server.post("/v1/predict", **cases.raw(cases.volume(99) + 60)).json()
        assert "above all by values of t1" in answer["drift"]
        text = server.get("/metrics").text
        assert "voxgap_drift_alarm 1.0" in text
        assert "voxgap_drift_false_alarms 0.01" in text
    assert sum("not like those of the training" in record.message for record in caplog.records) == 1
    again = stream(folder)
    again.update()
    assert again.watch is not None
    assert again.watch.scans == 46, "what waited at the end was counted"
    assert again.warning == server.app.state.service.stream.warning


def test_servers_of_one_bundle_are_one_stream(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "lamp")
    servers = [stream(folder) for _ in range(3)]

    def work(number: int) -> None:
        for seed in range(number * 20, number * 20 + 20):
            servers[number].take([looks(cases.volume(seed), ("t1",))])
            servers[number].update()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in servers:
        one.update()
        assert one.watch is not None
        assert one.watch.scans == 60
    assert len({one.watch.evidence for one in servers if one.watch}) == 1
    (state,) = folder.glob("drift-*.json")
    state.unlink()
    servers[0].update()
    assert servers[0].watch is not None
    assert servers[0].watch.scans == 0, "who removes it begins anew"


def test_where_nothing_can_be_written_or_read_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bundle(tmp_path / "lamp")
    one = stream(folder)
    one.take([looks(cases.volume(0), ("t1",))])
    one.update()
    (state,) = folder.glob("drift-*.json")
    state.write_text("{")
    two = stream(folder)
    two.take([looks(cases.volume(1), ("t1",))])
    two.update()
    assert two.watch is not None
    assert two.watch.scans == 1
    assert "which begins anew" in caplog.text

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drifting, "write_bytes", full)
    for seed in (2, 3):
        two.take([looks(cases.volume(seed), ("t1",))])
        two.update()
    assert two.watch.scans == 3
    assert caplog.text.count("by it alone") == 1


def test_a_bundle_without_a_reference_watches_nothing(tmp_path: Path) -> None:
    with cases.client(cases.make_bundle(tmp_path / "lamp")) as server:
        send(server, range(2))
        server.app.state.service.stream.update()
        assert "drift" not in server.post("/v1/predict", **cases.raw(cases.volume())).json()
        assert server.get("/v1/model").json()["drift"] is None
        assert "voxgap_drift_evidence NaN" in server.get("/metrics").text
    assert np.all([not path.name.startswith("drift") for path in (tmp_path / "lamp").iterdir()])
