"""A network that begins with a filler's encoder: which weights go over, for which channels, and what is refused."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import stand_in
import tiny
from voxgap.bundle import STATE, material, train_bundle
from voxgap.bundle.filler import save_filler
from voxgap.bundle.saving import Origin
from voxgap.bundle.training import _as_it_began
from voxgap.errors import VoxgapError
from voxgap.fill import Deviating, Learned
from voxgap.filling.filler import start_from
from voxgap.grid import AS_IT_IS
from voxgap.history import History
from voxgap.models import build_model
from voxgap.models.beginning import Taken, begin_with
from voxgap.recipe import Architecture, Recipe, Strategy, Training

FILTERS = (3, 5)
FULL = pytest.mark.full


def learnt(channels: int = 1) -> Learned:
    layer = Learned(filters=FILTERS, steps=0)
    layer.build((None, 8, 8, 8, channels))
    return layer


def kernels(model: Any) -> list[np.ndarray]:
    layers = model.layers if isinstance(model, keras.Model) else []
    return [np.asarray(layer.kernel) for layer in layers if isinstance(layer, keras.layers.Conv3D)]


def begun(network: str, filler: Learned, channels: int = 1, **how: Any) -> tuple[Any, Any]:
    how = {"filters": FILTERS, "strategy": Strategy(mask_channel=True)} | how
    task = "segmentation" if "unet" in network else "classification"
    model = build_model(network, (8, 8, 8, channels), 3, task, **how)
    return begin_with(model, filler), model.get_layer("network")


@pytest.mark.parametrize(
    "network", ["resnet3d", pytest.param("unet3d", marks=FULL), pytest.param("resunet3d", marks=FULL)]
)
def test_all_stages_whose_shapes_agree_are_taken_over(network: str) -> None:
    filler = learnt()
    taken, made = begun(network, filler)
    own = [np.asarray(made.get_layer(f"conv_{i}").kernel) for i in range(1, 5)]
    theirs = kernels(filler.network)[:4]
    assert_array_equal(own[0], theirs[0][..., :2, :])  # values and observed; deviations are not seen here
    for one, other in zip(own[1:], theirs[1:], strict=True):
        assert_array_equal(one, other)
    assert (taken.stages, taken.of, taken.weights) == (2, 2, sum(one.size for one in own))
    assert taken.words() == f"begins with 2 of 2 stages of the filler's encoder, {taken.weights:,} weights"


@FULL
def test_further_and_other_stages_begin_as_always() -> None:
    filler = learnt()
    taken, made = begun("resnet3d", filler, filters=(3, 4))
    fresh = build_model("resnet3d", (8, 8, 8, 1), 3, strategy=Strategy(mask_channel=True), filters=(3, 4))
    assert taken.stages == 1
    for number, same in ((2, False), (3, True), (4, True)):
        own, other = (
            np.asarray(one.get_layer(f"conv_{number}").kernel) for one in (made, fresh.get_layer("network"))
        )
        assert np.array_equal(own, other) is same
    assert begun("resnet3d", filler, filters=(*FILTERS, 7))[0].stages == 2


@pytest.mark.parametrize(
    ("before", "now"), [(2, 3), pytest.param(2, 1, marks=FULL), pytest.param(1, 2, marks=FULL)]
)
def test_other_channels_answer_alike_where_all_hold_the_same(before: int, now: int) -> None:
    filler = learnt(before)
    taken, made = begun("resnet3d", filler, now)
    own, theirs = np.asarray(made.get_layer("conv_1").kernel), kernels(filler.network)[0]
    for kind in range(2):
        one, other = (
            own[..., kind * now : (kind + 1) * now, :],
            theirs[..., kind * before : (kind + 1) * before, :],
        )
        assert_allclose(one.sum(axis=-2), other.sum(axis=-2), rtol=1e-5)
    assert f"means of {before} channels for {now}" in taken.words()


@FULL
def test_masked_convolutions_are_taken_over_like_plain_ones() -> None:
    filler = learnt()
    taken, made = begun("resnet3d", filler, strategy="masked_conv")
    assert taken.stages == 2
    assert_array_equal(made.get_layer("conv_4").convolution.kernel, kernels(filler.network)[3])


@FULL
def test_without_the_observed_map_the_values_are_taken_over() -> None:
    filler = learnt()
    _, made = begun("resnet3d", filler, strategy="mean")
    assert_array_equal(made.get_layer("conv_1").kernel, kernels(filler.network)[0][..., :1, :])


@pytest.mark.parametrize(
    ("network", "how"),
    [
        ("resnet3d", {"filters": (4, 5)}),
        pytest.param("cnn3d", {}, marks=FULL),
        pytest.param("resnet2d", {}, marks=FULL),
        pytest.param("resnet3d", {"strategy": "gated_conv"}, marks=FULL),
        pytest.param("resnet3d", {"kernel_size": 5}, marks=FULL),
    ],
)
def test_a_network_with_no_such_stage_is_refused(network: str, how: dict[str, Any]) -> None:
    with pytest.raises(
        VoxgapError, match=f"^{network} has no stage of two .* --filters 3,5 and --kernel-size 3"
    ):
        begun(network, learnt(), **how)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a filler that was never trained: it has an encoder all the same."""
    layer, volumes = Learned(filters=FILTERS, steps=0, name="fill"), tiny.volumes(6)
    layer.adapt(volumes)
    inputs = keras.Input(volumes.shape[1:], name="volumes")
    model = keras.Model(inputs, Deviating(layer, name="deviating")(inputs), name="learned")
    folder = tmp_path_factory.mktemp("fillers") / "sea"
    save_filler(
        folder,
        model,
        volumes,
        name="sea",
        channels=("t1",),
        spacing=None,
        grid=AS_IT_IS,
        history=History(({"loss": 1.0, "val_loss": 1.0, "seconds": 1.0},), "val_loss", 0, 1, "epochs"),
        scores={},
        arguments={},
        cases={},
    )
    return folder


@FULL
def test_the_manifest_of_a_training_says_what_it_began_with(bundle: Path, tmp_path: Path) -> None:
    def train(epochs: int, begin: Any) -> Any:
        recipe = Recipe("resnet3d", architecture=Architecture(FILTERS), training=Training(epochs=epochs))
        data = material(tiny.dataset(), None)
        return train_bundle(
            tmp_path / "made",
            data,
            recipe,
            Origin(0),
            contextlib.nullcontext,
            lambda folder: None,
            begin=begin,
        )

    begin = partial(start_from, bundle=bundle)
    trained = train(1, begin)
    said = stand_in.written(tmp_path / "made")["arguments"]["started_from"]
    file = stand_in.written(bundle)["files"]["keras"]["parts"][0]
    assert (said["filler"], said["sha256"], said["stages"]) == ("sea", file["sha256"], 2)
    assert trained.result.taken is not None
    assert trained.result.taken._asdict() | {"channels": [1, 1]} == said
    with pytest.raises(VoxgapError, match="keeps a training that began with another filler, sea of SHA-256"):
        train(2, lambda model: begin(model)._replace(sha256="0"))
    train(2, lambda model: begin(model)._replace(filler="moved"))
    made = stand_in.written(tmp_path / "made")
    assert (made["training"]["epochs"], made["arguments"]["started_from"]) == (2, said)


def test_a_bundle_that_does_not_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxgapError, match=r"no bundle here .* with voxgap train --task fill --out "):
        start_from(None, tmp_path / "none")
    (tmp_path / "cls.npz").write_bytes(b"")
    with pytest.raises(
        VoxgapError, match=r"cls\.npz: no bundle here, but a file; name the folder of a bundle$"
    ):
        start_from(None, tmp_path / "cls.npz")


def test_a_training_goes_on_with_the_filler_that_it_began_with(tmp_path: Path) -> None:
    (tmp_path / STATE).mkdir()

    def go_on(filler: str, sha256: str, refusal: type[VoxgapError] = VoxgapError) -> Taken:
        taken = Taken(2, 2, (1, 1), 5, filler, sha256)
        return _as_it_began(lambda model: taken, tmp_path, refusal)(None)

    assert go_on("sea", "a").sha256 == "a"
    assert go_on("sea", "b").sha256 == "b"  # killed before an epoch ended: nothing is gone on with
    (tmp_path / STATE / "state.json").write_text("{}")
    assert go_on("moved", "b") == go_on("sea", "b")
    assert go_on("moved", "b").filler == "sea"
    with pytest.raises(VoxgapError, match="began with another filler, sea of SHA-256 b, not sea of c: give"):
        go_on("sea", "c")
