"""The server's API: the same answer for every form of a volume, and one clear line for everything else."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import server_cases as cases
import stand_in
from voxgap.decision import Decision
from voxgap.io import read, write
from voxgap.runtime import Bundle, Predictor, job
from voxgap.runtime.inputs import list_items
from voxgap.runtime.predictor import Running
from voxgap.server import create_app
from voxgap.server.bodies import Read, by_curl
from voxgap.server.occlusion import blocks
from voxgap.server.routes import _said
from voxgap.volume import Volume


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with cases.client(cases.make_bundle(tmp_path_factory.mktemp("server") / "lamp")) as running:
        yield running


def test_a_class_that_a_threshold_names_comes_with_it() -> None:
    volume, output = np.zeros((8, 8, 8, 1), np.float32), np.array([0.75, 0.25], np.float32)
    for threshold, name in ((0.25, "sick"), (None, "well")):
        said_of_it = stand_in.manifest(("well", "sick"), decision=Decision(threshold).to_json())
        predictor = Predictor(said_of_it, lambda batch: np.stack([output] * len(batch)), Running("onnx"))
        said = _said(predictor, predictor.judged(volume, output), Read(volume[np.newaxis]), 0)
        assert (said["class_"], said["threshold"]) == (name, threshold)


# --- one volume, in every form --------------------------------------------------------------------------------


def test_raw_values_are_answered_in_full(server: TestClient) -> None:
    values = cases.volume()
    response = server.post("/v1/predict", **cases.raw(values, **{"X-Request-ID": "mine-1"}))
    (prediction,) = cases.predictions(response)
    assert list(prediction["probabilities"]) == list(cases.CLASSES)
    np.testing.assert_allclose(list(prediction["probabilities"].values()), cases.expected(values), rtol=1e-6)
    assert prediction["class"] == cases.CLASSES[int(cases.expected(values).argmax())]
    assert prediction["missing_rate"] == 0.25
    assert prediction["warnings"] == []
    answer = response.json()
    assert answer["request_id"] == response.headers["x-request-id"] == "mine-1"
    assert answer["model"] == {
        **{"name": "lamp", "network": "brightness", "task": "classification", "sha256": "1" * 64},
        **{"engine": "numpy", "precision": "float32", "difference": 0.0},
    }
    assert answer["timing"]["batch"] == 1
    assert answer["timing"]["total_ms"] >= answer["timing"]["predict_ms"] >= 0


def test_every_format_json_and_raw_get_the_same_answer(server: TestClient, tmp_path: Path) -> None:
    values = cases.volume()
    nested = np.where(np.isnan(values), None, values.astype(object)).tolist()
    answers = {
        "raw": server.post("/v1/predict", **cases.raw(values)),
        "json": server.post("/v1/predict", json={"volume": nested}),
    }
    for suffix, path in cases.files(tmp_path, values).items():
        answers[suffix] = server.post(
            "/v1/predict", files=[cases.upload(f"Scan One{suffix}", path.read_bytes())]
        )
    found = {name: cases.predictions(response)[0] for name, response in answers.items()}
    for name, prediction in found.items():
        assert prediction == found["raw"], name


def test_what_a_view_shows_is_what_was_sent(server: TestClient, tmp_path: Path) -> None:
    values = cases.volume()
    for path in cases.files(tmp_path, values).values():
        response = server.post("/v1/view", files=[cases.upload(path.name, path.read_bytes())])
        assert response.headers["x-shape"] == "4,6,8,1"
        shown = np.frombuffer(response.content, "<f4").reshape(cases.SHAPE)
        np.testing.assert_array_equal(shown, values, path.name)


def test_a_batch_in_each_form(server: TestClient, tmp_path: Path) -> None:
    two = np.stack([cases.volume(1), cases.volume(2) / 2])
    wanted = [cases.predictions(server.post("/v1/predict", **cases.raw(values)))[0] for values in two]
    assert wanted[0] != wanted[1]
    assert cases.predictions(server.post("/v1/predict", **cases.raw(two))) == wanted
    nested = [np.where(np.isnan(values), None, values.astype(object)).tolist() for values in two]
    assert cases.predictions(server.post("/v1/predict", json={"volumes": nested})) == wanted
    uploads = []
    for number, values in enumerate(two):
        write(tmp_path / "one.npy", Volume(values))
        uploads.append(cases.upload(f"{number}.npy", (tmp_path / "one.npy").read_bytes()))
    assert cases.predictions(server.post("/v1/predict", files=uploads)) == wanted


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder.parent)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_series_as_files_as_an_archive_and_a_zarr_store(server: TestClient, tmp_path: Path) -> None:
    values = cases.volume()
    write(tmp_path / "s.dicom", Volume(values, spacing=(2.0, 1.0, 1.0)))
    write(tmp_path / "z.zarr", Volume(values))
    slices = folder_bytes(tmp_path / "s.dicom")
    # Names as scanners give them: no suffix, folders, and a hidden file beside them.
    unnamed = {f"../study/IM{i}": data for i, data in enumerate(slices.values()) if data}
    wanted = cases.predictions(server.post("/v1/predict", **cases.raw(values)))
    for sent in (
        [cases.upload(name, data) for name, data in slices.items() if data],
        [cases.upload(name, data) for name, data in unnamed.items()],
        [cases.upload("series.zip", cases.zipped(slices))],
        [cases.upload("series.zip", cases.zipped(unnamed | {"__MACOSX/._IM1": b"x"}))],
        [cases.upload("store.zip", cases.zipped(folder_bytes(tmp_path / "z.zarr")))],
        [cases.upload("one.zip", cases.zipped({"any/scan.npy": cases.np_bytes(values)}))],
    ):
        assert cases.predictions(server.post("/v1/predict", files=sent)) == wanted


def test_one_file_per_channel_and_a_channel_that_is_missing(tmp_path: Path) -> None:
    shape = (*cases.SHAPE[:3], 2)
    inputs = {"shape": list(shape), "channels": ["t1", "flair"], "grid": {"missing_values": [-1.0]}}
    values = cases.volume(shape=shape)
    with cases.client(cases.make_bundle(tmp_path / "b", input=inputs)) as server:
        sent = [
            cases.upload(f"{name}.npy", cases.np_bytes(values[..., i]), name)
            for i, name in enumerate(inputs["channels"])
        ]
        wanted = cases.predictions(server.post("/v1/predict", **cases.raw(values)))
        assert cases.predictions(server.post("/v1/predict", files=sent)) == wanted
        assert (
            cases.predictions(
                server.post("/v1/predict", files=[cases.upload("both.npy", cases.np_bytes(values))])
            )
            == wanted
        )
        (alone,) = cases.predictions(server.post("/v1/predict", files=sent[:1]))
        assert alone["missing_rate"] == 1 - 0.5 * 0.75
        # What the training data called missing is missing here.
        with_sentinel = np.where(np.isnan(values), -1.0, values)
        sentinel = [cases.upload("both.npy", cases.np_bytes(with_sentinel))]
        assert cases.predictions(server.post("/v1/predict", files=sentinel)) == wanted
        cases.refused(server.post("/v1/predict", files=[sent[0], sent[0]]), 422, "t1", "one a channel")
        cases.refused(
            server.post("/v1/predict", files=[sent[0], cases.upload("a.npy", b"x")]), 422, "t1, flair"
        )
        # Whoever sends too few channels is shown how to send all, by their own names.
        call = "curl -F t1=@t1.nii.gz -F flair=@flair.nii.gz"
        single = np.ascontiguousarray(values[..., :1])
        for request in (
            {"files": [cases.upload("t1.npy", cases.np_bytes(single))]},
            {"files": [cases.upload("t1.npy", cases.np_bytes(single)) for _ in range(2)]},
            {"files": [cases.upload("t1.npy", cases.np_bytes(single), "t2")]},
            cases.raw(single),
        ):
            cases.refused(server.post("/v1/predict", **request), 422, call)
        assert call in server.get("/docs").text
    assert by_curl(["T1 post", "a;b"]) == "-F 'T1 post=@T1 post.nii.gz' -F 'a;b=@a;b.nii.gz'"
    assert by_curl(["t1"]) == "-F file=@scan.nii.gz"


def test_a_file_comes_to_the_networks_grid(tmp_path: Path) -> None:
    inputs = {"shape": [4, 6, 8, 1], "channels": ["t1"], "grid": {"size": [4, 6, 8]}}
    with cases.client(cases.make_bundle(tmp_path / "b", input=inputs)) as server:
        large = np.full((8, 12, 16, 1), 200, np.float32)
        response = server.post("/v1/view", files=[cases.upload("large.npy", cases.np_bytes(large))])
        assert response.headers["x-shape"] == "4,6,8,1"
        np.testing.assert_array_equal(np.frombuffer(response.content, "<f4"), 200)


def test_nothing_observed_is_said(server: TestClient) -> None:
    (prediction,) = cases.predictions(server.post("/v1/predict", **cases.raw(np.full(cases.SHAPE, np.nan))))
    assert prediction["missing_rate"] == 1
    assert "no observed voxel" in prediction["warnings"][0]


# --- what else it says ----------------------------------------------------------------------------------------


def test_occlusion_finds_the_block_that_the_answer_rests_on(server: TestClient) -> None:
    values = np.zeros(cases.SHAPE, np.float32)
    values[0:2, 2:4, 4:6] = 255
    values[:, :, 6:] = np.nan
    response = server.post("/v1/occlusion?block=2&class=bright", **cases.raw(values))
    found = np.frombuffer(response.content, "<f4").reshape(cases.SHAPE)
    reference = np.full(cases.SHAPE, np.nan)
    for d in range(0, 4, 2):
        for h in range(0, 6, 2):
            for w in range(0, 6, 2):
                without = values.copy()
                without[d : d + 2, h : h + 2, w : w + 2] = np.nan
                fall = cases.expected(values)[1] - cases.expected(without)[1]
                reference[d : d + 2, h : h + 2, w : w + 2] = fall
    np.testing.assert_allclose(found, reference, atol=1e-6)
    assert np.nanargmax(found) == np.argmax(values == 255)


def test_blocks_cover_a_volume_once_and_are_not_too_many() -> None:
    for shape, edge in (((4, 6, 8), 3), ((5, 1, 7), None), ((64, 64, 64), 1)):
        seen = np.zeros(shape, int)
        count = 0
        for box in blocks(shape, edge):
            seen[box] += 1
            count += 1
        assert (seen == 1).all()
        assert count <= 512


def test_the_model_describes_itself(server: TestClient) -> None:
    card = server.get("/v1/model").json()
    assert card["input_shape"] == list(cases.SHAPE)
    assert card["classes"] == list(cases.CLASSES)
    assert card["manifest"]["network"] == "brightness"
    assert ".nii.gz" in card["formats"]
    assert ".mhd" not in card["formats"]


def test_samples_are_the_golden_inputs(tmp_path: Path) -> None:
    inputs = np.stack([cases.volume(1), cases.volume(2), np.zeros(cases.SHAPE, np.float32)])
    stream = io.BytesIO()
    np.savez(stream, inputs=inputs, outputs=np.zeros((3, 2)), gaps=np.array(["slices", "slices", "complete"]))
    golden = {"path": "golden.npz", "sha256": hashlib.sha256(stream.getvalue()).hexdigest()}
    folder = cases.make_bundle(tmp_path / "b", golden=golden)
    (folder / "golden.npz").write_bytes(stream.getvalue())
    with cases.client(folder) as server:
        listed = server.get("/v1/samples").json()
        assert [sample["name"] for sample in listed] == ["slices-1", "slices-2", "complete-1"]
        assert listed[0]["note"] == "slices missing"
        response = server.get(listed[1]["url"])
        assert response.headers["x-shape"] == "4,6,8,1"
        np.testing.assert_array_equal(np.frombuffer(response.content, "<f4").reshape(cases.SHAPE), inputs[1])
        assert cases.predictions(server.post("/v1/predict", **cases.raw(inputs[1])))
    changed = cases.make_bundle(tmp_path / "changed", golden=golden)
    (changed / "golden.npz").write_bytes(b"changed")
    with cases.client(changed) as server:
        assert server.get("/v1/samples").json() == []


def test_an_archive_is_read_as_the_folder_that_it_was(server: TestClient, tmp_path: Path) -> None:
    from PIL import Image

    whole = np.nan_to_num(cases.volume())
    (tmp_path / "stack").mkdir()
    for number, plane in enumerate(whole[..., 0].astype(np.uint8), 8):  # 10 comes after 9
        Image.fromarray(plane).save(tmp_path / "stack" / f"plane{number}.png")
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 8 6 4\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    )
    pair = {"scan/a.mhd": header.encode(), "scan/a.raw": whole.astype(np.uint8).tobytes()}
    (tmp_path / "scan").mkdir()
    for name, data in pair.items():
        (tmp_path / name).write_bytes(data)
    stack = folder_bytes(tmp_path / "stack")
    for held, place in (
        (stack, "stack"),
        (pair, "scan/a.mhd"),
        (pair | {"__MACOSX/._a": b"x"}, "scan/a.mhd"),
    ):
        response = server.post("/v1/view", files=[cases.upload("one.zip", cases.zipped(held))])
        assert response.status_code == 200, response.text
        found = np.frombuffer(response.content, "<f4").reshape(cases.SHAPE)
        np.testing.assert_array_equal(found, read(tmp_path / place).values, place)


@pytest.fixture
def segmenting(tmp_path: Path) -> Iterator[TestClient]:
    folder, load = cases.segmenter(tmp_path / "b")
    with TestClient(create_app(folder, load=load), cases.HERE) as server:
        yield server


def test_a_segmentation_counts_voxels_and_maps_them(segmenting: TestClient) -> None:
    values = cases.volume()
    bright = int((np.nan_to_num(values) > 100).sum())
    (prediction,) = cases.predictions(segmenting.post("/v1/predict", **cases.raw(values)))
    assert prediction["voxels"] == {"dim": values.size - bright, "bright": bright}
    assert prediction["voxels_of"] == "network"
    assert "probabilities" not in prediction
    response = segmenting.post("/v1/label_map", **cases.raw(values))
    assert response.headers["x-shape"] == "4,6,8"
    found = np.frombuffer(response.content, "<i2").reshape(cases.SHAPE[:3])
    np.testing.assert_array_equal(found, np.nan_to_num(values[..., 0]) > 100)
    cases.refused(segmenting.post("/v1/occlusion", **cases.raw(values)), 404, "each voxel")
    cases.refused(segmenting.post("/v1/label_map?format=jpeg", **cases.raw(values)), 422, "format")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_label_map_lies_where_the_file_does(segmenting: TestClient, tmp_path: Path, suffix: str) -> None:
    values, expected = np.full((2, 9, 7, 12, 1), np.nan, np.float32)
    values[3:7, 1:7, 2:10] = cases.volume()
    expected[3:7, 1:7, 2:10] = np.nan_to_num(cases.volume()) > 100
    affine = np.array([[0, 0, -2, 40], [0, 3, 0, -7], [1.5, 0, 0, 5], [0, 0, 0, 1]])
    for name, content in ((f"scan{suffix}", values), ("expected.nii.gz", expected)):
        write(tmp_path / name, Volume(content, affine))
    with (tmp_path / f"scan{suffix}").open("rb") as stream:
        response = segmenting.post("/v1/label_map?format=nifti", files={"file": (f"scan{suffix}", stream)})
    assert response.status_code == 200, response.text
    (tmp_path / "labels.nii.gz").write_bytes(response.content)
    found, known = read(tmp_path / "labels.nii.gz"), read(tmp_path / "expected.nii.gz")
    np.testing.assert_allclose(found.affine, known.affine)
    np.testing.assert_array_equal(found.values, np.nan_to_num(known.values, nan=0))
    # Counted on the grid of the file, as `voxgap predict` counts them, and as anybody counts the map.
    path = tmp_path / f"scan{suffix}"
    (said,) = cases.predictions(
        segmenting.post("/v1/predict", files=[cases.upload(path.name, path.read_bytes())])
    )
    bright = int((found.values == 1).sum())
    assert said["voxels"] == {"dim": found.values.size - bright, "bright": bright}
    assert said["voxels_of"] == "file"
    predictor = segmenting.app.state.service.live.current.predictor
    (row,) = job.local(predictor, job.Wanted(maps=str(tmp_path / "maps")))(list_items([path], ["t1"]))
    assert {name: row[f"voxels_{name}"] for name in said["voxels"]} == said["voxels"]


def test_a_label_map_of_bare_values_is_a_file_too(segmenting: TestClient, tmp_path: Path) -> None:
    values = cases.volume()
    response = segmenting.post("/v1/label_map?format=nifti", **cases.raw(values))
    (tmp_path / "labels.nii.gz").write_bytes(response.content)
    found = read(tmp_path / "labels.nii.gz").values
    np.testing.assert_array_equal(found, np.nan_to_num(values) > 100)


def test_health_metrics_and_headers(server: TestClient) -> None:
    assert server.get("/healthz").json() == {"status": "alive"}
    assert server.get("/readyz").status_code == server.head("/readyz").status_code == 200
    cases.predictions(server.post("/v1/predict", **cases.raw(cases.volume())))
    text = server.get("/metrics").text
    assert 'voxgap_requests_total{route="/v1/predict",status="200"}' in text
    assert "voxgap_batch_volumes_count" in text
    assert f'voxgap_model_info{{name="lamp",sha256="{"1" * 64}"}} 1.0' in text
    for path in ("/healthz", "/nowhere", "/docs"):
        headers = server.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert server.get("/v1/model").headers["cache-control"] == "no-store"
    assert (
        "access-control-allow-origin" not in server.get("/v1/model", headers={"Origin": "http://a"}).headers
    )
    strange = server.get("/healthz", headers={"X-Request-ID": "a b<script>"}).headers["x-request-id"]
    assert strange.isalnum()


def test_the_docs_page_names_every_route_and_loads_nothing_from_elsewhere(server: TestClient) -> None:
    page = server.get("/docs").text
    schema = server.get("/openapi.json").json()
    for path in schema["paths"]:
        assert path.replace("{", "").split("}")[0] in page.replace("{", ""), path
    assert "<script" not in page
    assert "style=" not in page
    assert "//cdn" not in page
    assert server.get("/docs.css").headers["content-type"].startswith("text/css")
    assert {"multipart/form-data", "application/octet-stream", "application/json"} == set(
        schema["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    )
    assert schema["components"]["schemas"]["Answer"]["example"]["predictions"][0]["class"]


def test_a_failure_of_ours_is_a_500_with_an_id_and_no_traceback(tmp_path: Path) -> None:
    class Broken(cases.Brightness):
        def predict(self, volumes: np.ndarray, batch_size: int | None = None) -> np.ndarray:
            if volumes.any():
                raise RuntimeError("secret")
            return super().predict(volumes)

    folder = cases.make_bundle(tmp_path / "b")
    app = create_app(folder, load=lambda path: Broken(Bundle.open(path).manifest))
    with TestClient(app, cases.HERE, raise_server_exceptions=False) as server:
        response = server.post("/v1/predict", **cases.raw(cases.volume()))
        cases.refused(response, 500, "log")
        assert "secret" not in response.text
        assert server.get("/readyz").status_code == 200


def test_a_trained_bundle_answers_as_the_predictor_does(tmp_path: Path) -> None:
    import tiny
    from voxgap.bundle import save_bundle
    from voxgap.runtime import load
    from voxgap.training import adapt_model

    data = tiny.dataset()
    model = tiny.model(strategy="mean")
    adapt_model(model, data.part("train"))
    folder = save_bundle(tmp_path / "bundle", model, data, strategy="mean")
    predictor = load(folder)
    values = tiny.volumes(3, seed=5)
    with TestClient(create_app(folder), cases.HERE) as server:
        found = cases.predictions(server.post("/v1/predict", **cases.raw(values)))
        for prediction, answer in zip(found, map(predictor.answer, values), strict=True):
            np.testing.assert_allclose(list(prediction["probabilities"].values()), answer.values, atol=1e-6)
            assert prediction["class"] == answer.label
            assert prediction["missing_rate"] == pytest.approx(answer.missing_rate, abs=1e-6)
            assert prediction["warnings"] == list(answer.drift)
        filled = np.frombuffer(server.post("/v1/fill", **cases.raw(values[0])).content, "<f4").reshape(
            tiny.SHAPE
        )
        observed = ~np.isnan(values[0])
        np.testing.assert_array_equal(filled[observed], values[0][observed])
        train = data.part("train").volumes
        np.testing.assert_allclose(filled[~observed], np.nanmean(train, axis=0)[~observed], atol=1e-5)
        names = [sample["name"] for sample in server.get("/v1/samples").json()]
        assert "slices-1" in names
        sample = server.get("/v1/samples/slices-1")
        again = server.post(
            "/v1/predict", content=sample.content, headers=cases.RAW | {"X-Shape": sample.headers["x-shape"]}
        )
        assert cases.predictions(again)
