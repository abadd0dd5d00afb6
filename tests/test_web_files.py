"""What the page reads, in a real browser, is what Python reads; what is damaged or hostile ends in one line."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import web_cases as cases
from voxgap.errors import VoxgapError
from voxgap.io import RULES, read, scan
from voxgap.volume import Volume

READ = """async ([name, data, shape, grid]) => {
    const { readVolume } = await import("./static/readers/read.js");
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    try {
        const volume = await readVolume(new File([bytes], name), { shape, channels: [], grid });
        const text = Array.from(new Uint8Array(volume.values.buffer), (byte) => String.fromCharCode(byte)).join("");
        return { values: btoa(text), spacing: volume.spacing && Array.from(volume.spacing), affine: volume.affine };
    } catch (error) {
        return { error: error.message, command: error.command, kind: error.constructor.name };
    }
}"""


@pytest.fixture
def reader(page: Any, serve: Callable[[Path], str], labels: Path) -> Callable[..., dict[str, Any]]:
    """Reads a file as the page does: name, bytes and the wanted shape -> what came of it."""
    url = serve(labels)
    page.goto(url)

    def call(
        name: str, data: bytes, shape: tuple[int, ...], grid: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        found: dict[str, Any] = page.evaluate(
            READ, [name, base64.b64encode(data).decode(), list(shape), {"rules": RULES} | (grid or {})]
        )
        return found

    return call


def same_values(found: dict[str, Any], known: Volume, where: str) -> None:
    """To the last bit, but for the bits of a NaN."""
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4").reshape(known.shape)
    np.testing.assert_array_equal(values, known.values, err_msg=where)


# --- files ----------------------------------------------------------------------------------------------------


def test_files_are_read_as_python_reads_them(reader: Any, tmp_path: Path) -> None:
    cases.nifti_files(tmp_path)
    cases.numpy_files(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 30
    for file in files:
        known = read(file)
        found = reader(file.name, file.read_bytes(), known.shape)
        assert "error" not in found, found
        same_values(found, known, file.name)
        if known.affine is not None:
            np.testing.assert_allclose(found["affine"], known.affine, atol=1e-5, err_msg=file.name)
        if known.spacing is not None:
            np.testing.assert_allclose(found["spacing"], known.spacing, rtol=1e-5, err_msg=file.name)


def test_the_first_rules_took_every_length_for_millimetres(reader: Any, tmp_path: Path) -> None:
    cases.nifti_files(tmp_path)
    for name in ("microns.nii", "metres.nii"):
        data, known = (tmp_path / name).read_bytes(), scan(tmp_path / name, rules=1).read()
        found = reader(name, data, known.shape, {"rules": 1})
        np.testing.assert_allclose(found["spacing"], known.spacing, rtol=1e-6)
        assert not np.allclose(found["spacing"], read(tmp_path / name).spacing)


def test_values_that_stand_for_missing_become_gaps(reader: Any, tmp_path: Path) -> None:
    stored = np.array([1.0, -3024.0, 9.96921e36, 0.1], np.float32).reshape(1, 1, 4, 1)
    np.save(tmp_path / "s.npy", stored)
    grid = {"missing_values": [-3024, 9.96921e36]}
    found = reader("s.npy", (tmp_path / "s.npy").read_bytes(), stored.shape, grid)
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4")
    np.testing.assert_array_equal(np.isnan(values), [False, True, True, False])


@pytest.mark.full
def test_what_is_not_on_the_grid_is_refused_with_the_command_that_brings_it_there(
    reader: Any, tmp_path: Path
) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.float32), np.eye(4)), tmp_path / "it's.nii")
    data = (tmp_path / "it's.nii").read_bytes()
    for name, found, said in (
        ("it's.nii", reader("it's.nii", data, (7, 6, 4, 1)), "shape 7×6×5×1, but this network takes 7×6×4×1"),
        ("it's.nii", reader("it's.nii", data, (7, 6, 5, 1), {"spacing": [2, 1, 1]}), "takes 2, 1, 1"),
        # Python brings a scan to the size, deeper or not.
        (
            "it's.nii",
            reader("it's.nii", data, (6, 6, 5, 1), {"size": [6, 6, 5]}),
            "shape 7×6×5×1, but this network takes 6×6×5×1 (depth",
        ),
        ("scan.dcm", reader("scan.dcm", b"", (7, 6, 5, 1)), "this page reads .npy, .npz, .nii, .nii.gz"),
    ):
        assert found["error"].startswith(f"{name}: ")
        assert said in found["error"]
        assert "\n" not in found["error"]
        compile(found["command"], "command", "exec")
        assert f'read("{name}")' in found["command"]


def npy(header: bytes) -> bytes:
    """A `.npy` file of a header alone."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


HOSTILE = {
    "empty.nii": b"",
    "short.nii": b"\x5c\x01\x00\x00" + bytes(20),
    "zeros.nii.gz": bytes(100),
    "empty.npz": b"PK\x05\x06" + bytes(18),
    "pickle.npy": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }"),
    "huge.npy": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 9999999, 9), }"),
    "short.npy": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }"),
    "no.npy": b"\x93NUMPY",
    "noise.npz": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_line(reader: Any, name: str) -> None:
    found = reader(name, HOSTILE[name], (1, 1, 1, 1))
    assert found["kind"] == "VoxgapError", found
    assert found["error"].startswith(f"{name}: ")
    assert "\n" not in found["error"]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, mostly in the header; or a piece cut out, doubled, or the end cut off."""
    changed = bytearray(data)
    kind = rng.integers(4)
    start = int(rng.integers(len(changed)))
    if kind == 0:
        del changed[start:]
    elif kind == 1:
        del changed[start : start + int(rng.integers(1, 64))]
    else:
        last = len(changed) if kind == 2 else min(400, len(changed))
        for _ in range(int(rng.integers(1, 6))):
            changed[int(rng.integers(last))] = int(rng.integers(256))
    return bytes(changed)


@pytest.mark.parametrize("count", [12, pytest.param(250, marks=pytest.mark.full)])
def test_mutated_files_are_refused_or_read_as_python_reads_them(
    reader: Any, tmp_path: Path, count: int
) -> None:
    cases.nifti_files(tmp_path)
    cases.numpy_files(tmp_path)
    rng = np.random.default_rng(count)
    read_by_both, differ = 0, []
    scans = ("oblique.nii", "packed.nii.gz", "qform.nii", "second.nii")
    for name in (*scans, "compressed.npz", "plain.npy", "written.npz"):
        data, shape = (tmp_path / name).read_bytes(), read(tmp_path / name).shape
        file = tmp_path / f"mutated-{name}"
        for _ in range(count):
            file.write_bytes(mutated(data, rng))
            found = reader(file.name, file.read_bytes(), shape)
            if "error" in found:
                assert found["kind"] == "VoxgapError"
                assert "\n" not in found["error"]
                continue
            try:
                same_values(found, read(file), name)
                read_by_both += 1
            except (VoxgapError, AssertionError) as error:
                differ.append(f"{name}: {error}")
    assert not differ, "the page reads what Python refuses, or reads otherwise"
    assert read_by_both
