"""Segmentation: the loss and the scores against loops, data with label maps, and networks that learn tissues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tiny
from voxgap import metrics, patches
from voxgap.augment import Compose, Flip, Rotate90
from voxgap.dataset import Dataset, load_data
from voxgap.errors import VoxgapError
from voxgap.experiment import train_and_score
from voxgap.missingness import simulate
from voxgap.models import NETWORKS, build_model
from voxgap.recipe import PRESETS, Architecture, Recipe, Training
from voxgap.training import adapt_model, train
from voxgap.training.loader import Loader
from voxgap.training.metrics import Accuracy, Dice
from voxgap.training.segmentation import DeeplySupervised, DiceCrossEntropy

QUICK: dict[str, Any] = {"precision": "float32", "batch_size": 4, "learning_rate": 0.02}
SHAPE = (5, 7, 6, 1)


def labelled(count: int = 24, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Dataset:
    """Noisy volumes with missing slices, whose bright blobs are class 1 and dark ones class 2; some say nothing."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (count, *(-(-n // 3) for n in shape[:3])))
    maps = coarse.repeat(3, 1).repeat(3, 2).repeat(3, 3)[:, : shape[0], : shape[1], : shape[2]]
    volumes = (np.array([0.0, 3.0, -3.0])[maps] + rng.normal(0, 0.5, maps.shape))[..., None].astype("float32")
    volumes[rng.random((count, shape[0])) < 0.2] = np.nan
    volumes[:, 0, 0, 0] = 0
    maps = np.where(rng.random(maps.shape) < 0.1, -1, maps)
    split = np.where(np.arange(count) % 4 == 3, "validation", "train")
    return Dataset.from_arrays(
        volumes, label_maps=maps, split=split, classes=("none", "bright", "dark"), channels=("t1",)
    )


DATA = labelled()


def probabilities(shape: tuple[int, ...], classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), shape).astype("float32")


# --- the loss and the metrics ------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0, 2.0]])
def test_the_loss_equals_a_loop(weights: list[float] | None) -> None:
    rng = np.random.default_rng(1)
    maps = rng.integers(-1, 4, (3, 2, 3, 4)).astype(np.int16)
    maps[1][maps[1] == 2] = 0  # a class that one volume lacks
    answers = probabilities(maps.shape, 4)
    w = np.ones(4) if weights is None else np.array(weights)
    expected = []
    for truth, p in zip(maps, answers.astype(np.float64), strict=True):
        entropy = weight = 0.0
        for where in np.ndindex(truth.shape):
            kind = truth[where]
            if kind >= 0:
                entropy -= w[kind] * np.log(p[where][kind])
                weight += w[kind]
        losses = []
        for kind in set(truth[truth >= 0].tolist()):
            inside = truth == kind
            soft = 2 * p[inside, kind].sum() / (inside.sum() + p[truth >= 0, kind].sum())
            losses.append((w[kind], 1 - soft))
        expected.append(entropy / weight + sum(a * b for a, b in losses) / sum(a for a, _ in losses))
    loss = DiceCrossEntropy(weights)
    np.testing.assert_allclose(float(loss(maps, answers)), np.mean(expected), rtol=1e-5)
    again = DiceCrossEntropy.from_config(loss.get_config())
    assert float(again(maps, answers)) == float(loss(maps, answers))


def test_the_dice_of_a_batch_sums_over_its_volumes() -> None:
    rng = np.random.default_rng(1)
    maps = rng.integers(-1, 3, (3, 2, 3, 4)).astype(np.int16)
    maps[1][maps[1] == 2] = 0
    answers = probabilities(maps.shape, 3)
    one = maps.reshape(1, 2, 3, 12), answers.reshape(1, 2, 3, 12, 3)  # the same voxels as of one volume
    entropy = np.mean(
        [
            -np.log(p[t >= 0][np.arange((t >= 0).sum()), t[t >= 0]]).mean()
            for t, p in zip(maps, answers, strict=True)
        ]
    )
    of_all = -np.log(one[1][one[0] >= 0][np.arange((one[0] >= 0).sum()), one[0][one[0] >= 0]]).mean()
    expected = float(DiceCrossEntropy()(*one)) - of_all + entropy
    loss = DiceCrossEntropy(batch=True)
    assert float(loss(maps, answers)) == pytest.approx(expected, rel=1e-5)
    assert DiceCrossEntropy.from_config(loss.get_config()).batch


@pytest.mark.parametrize(
    "inner", [DiceCrossEntropy(), lambda t, p: keras.ops.mean(p[..., 0] * (t + 2), axis=(1, 2, 3))]
)
def test_coarser_answers_weigh_half_as_much_each(inner: Any) -> None:
    maps = np.random.default_rng(0).integers(0, 3, (2, 3, 4, 5)).astype("float32")
    parts = [probabilities(maps.shape, 3, seed) for seed in range(3)]
    each = [float(keras.ops.mean(inner(maps, part))) for part in parts]
    loss = DeeplySupervised(inner, 3)
    assert float(loss(maps, np.concatenate(parts, axis=-1))) == pytest.approx(
        np.average(each, weights=[4, 2, 1]), rel=1e-5
    )
    assert float(loss(maps, parts[0])) == pytest.approx(each[0], rel=1e-5)


def test_the_loss_of_a_perfect_answer_is_nothing_and_of_no_labels_too() -> None:
    maps = np.array([[[[0, 1, 2, -1]]]], np.int16)
    perfect = np.eye(3, dtype="float32")[maps]
    assert float(DiceCrossEntropy()(maps, perfect)) == pytest.approx(0, abs=1e-5)
    assert float(DiceCrossEntropy()(np.full_like(maps, -1), perfect)) == 0


def test_the_metrics_are_those_of_evaluate_over_several_batches() -> None:
    maps = np.random.default_rng(0).integers(-1, 4, (5, 3, 4, 5)).astype(np.int16)
    answers = probabilities(maps.shape, 4)
    expected = metrics.scores("segmentation", maps, answers)
    for metric, name in ((Dice(4), "dice"), (Accuracy(4), "accuracy")):
        for part in (slice(0, 2), slice(2, 5)):
            metric.update_state(maps[part], answers[part])
        assert float(metric.result()) == pytest.approx(expected[name], rel=1e-5)
        metric.reset_state()
        assert float(metric.result()) == 0


# --- the networks ------------------------------------------------------------------------------------------


def assert_segments(network: str, strategy: str, folder: Path, **arguments: Any) -> None:
    model = build_model(network, (7, 9, 6, 2), 3, "segmentation", strategy, filters=(3, 4, 5), **arguments)
    volumes = tiny.volumes(8, (7, 9, 6, 2))
    adapt_model(
        model, Dataset.from_arrays(volumes, label_maps=np.arange(8 * 7 * 9 * 6).reshape(8, 7, 9, 6) % 3)
    )
    volumes[0] = np.nan
    answer = keras.ops.convert_to_numpy(model(volumes[:2], training=False))
    assert answer.shape == (2, 7, 9, 6, 3)
    np.testing.assert_allclose(answer.sum(-1), 1, rtol=1e-5)
    model.save(folder / "m.keras")
    loaded = keras.saving.load_model(folder / "m.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(volumes[:2], training=False)), answer)


@pytest.mark.parametrize("strategy", ["linear", "attention", "gated_conv", "masked_conv"])
def test_unet3d_answers_for_each_voxel_of_odd_sizes(strategy: str, tmp_path: Path) -> None:
    assert_segments("unet3d", strategy, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("strides", [1, 2, 3, (1, 2, 2)])
@pytest.mark.parametrize("strategy", PRESETS)
def test_unet3d_with_every_strategy(strategy: str, strides: Any, tmp_path: Path) -> None:
    assert_segments("unet3d", strategy, tmp_path, strides=strides)


@pytest.mark.full
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_segments_with_strides_1(network: str, tmp_path: Path) -> None:
    assert_segments(network, "masked_conv", tmp_path, strides=1)


@pytest.mark.parametrize("network", [name for name in NETWORKS if "unet" not in name])
def test_a_network_that_loses_the_grid_is_refused(network: str) -> None:
    with pytest.raises(VoxgapError, match="use unet3d, or strides=1"):
        build_model(network, (16, 16, 16, 1), 3, "segmentation", filters=(2, 3))
    with pytest.raises(VoxgapError, match="padding must be same"):
        build_model("unet3d", (16, 16, 16, 1), 3, padding="valid")


@pytest.mark.parametrize("strategy", ["attention", "masked_conv", "gated_conv", "mean"])
def test_the_gradient_reaches_every_weight(strategy: str) -> None:
    import tensorflow as tf

    model = build_model("unet3d", SHAPE, 3, "segmentation", strategy, filters=(4, 5, 6), activation="gelu")
    part = DATA.part("train")
    adapt_model(model, part)
    with tf.GradientTape() as tape:
        loss = DiceCrossEntropy()(part.targets[:6], model(part.volumes[:6], training=True))
    for weight, gradient in zip(
        model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True
    ):
        assert gradient is not None, weight.path
        assert np.abs(gradient.numpy()).max() > 0, weight.path


@pytest.mark.full
def test_deep_supervision_trains_stages_that_nobody_asks_afterwards() -> None:
    model = build_model(
        "resunet3d", SHAPE, 3, "segmentation", filters=(3, 4, 5), norm="instance", deep_supervision=True
    )
    before = [w.copy() for w in model.get_layer("network").get_layer("deep_supervision").get_weights()]
    history = train(model, DATA, epochs=2, **QUICK)
    after = model.get_layer("network").get_layer("deep_supervision").get_weights()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))
    assert history.epochs[0].keys() >= {"val_dice", "val_accuracy"}
    assert model.predict(DATA.volumes[:1], verbose=0).shape == (1, *SHAPE[:3], 3)
    for task, filters in (("classification", (3, 4, 5)), ("segmentation", (3, 4))):
        with pytest.raises(VoxgapError, match="deep_supervision is of a segmentation by unet3d"):
            build_model("unet3d", SHAPE, 3, task, filters=filters, deep_supervision=True)
    with pytest.raises(VoxgapError, match="norm must be batch or instance, got 'layer'"):
        build_model("unet3d", SHAPE, 3, "segmentation", norm="layer")


@pytest.mark.full
@pytest.mark.parametrize("strategy", PRESETS)
@pytest.mark.parametrize("network", ["unet3d", "resunet3d"])
def test_instance_norm_and_deep_supervision_with_every_strategy(
    network: str, strategy: str, tmp_path: Path
) -> None:
    assert_segments(network, strategy, tmp_path, norm="instance", deep_supervision=True)


@pytest.mark.parametrize("strategy", ["masked_conv", "attention"])
def test_unet3d_sees_no_missing_value(strategy: str) -> None:
    """What lies under a gap must not matter: only that it is one."""
    # By instance the statistics are of what is observed alone.
    model = build_model("unet3d", SHAPE, 3, "segmentation", strategy, filters=(3, 4), norm="instance")
    adapt_model(model, DATA.part("train"))
    values = tiny.volumes(1, SHAPE, missing_rate=0.0)
    observed = np.ones_like(values)
    observed[:, 2:4] = 0
    network = model.get_layer("network")
    one, other = (
        network([np.where(observed > 0, values, filled).astype("float32"), observed], training=False)
        for filled in (0.0, 50.0)
    )
    if strategy == "masked_conv":
        np.testing.assert_array_equal(one, other)
    else:
        assert np.abs(one - other).max() > 0


def test_unet3d_classifies_and_regresses_too() -> None:
    for task, outputs in (("classification", 3), ("regression", 2)):
        model = build_model("unet3d", SHAPE, outputs, task, "mean", filters=(3, 4))
        assert model.output_shape == (None, outputs)


# --- the data ----------------------------------------------------------------------------------------------


def test_label_maps_alone_make_a_segmentation() -> None:
    assert DATA.task == "segmentation"
    assert DATA.targets is DATA.label_maps
    assert DATA.targets.dtype == np.int16
    assert "3 classes of voxels" in DATA.summary()
    part = DATA.part("validation")
    assert part.targets is part.label_maps
    np.testing.assert_array_equal(part.targets, DATA.targets[DATA.split == "validation"])
    maps = np.zeros((20, 2, 2, 2))
    maps[:, 0] = 2
    # Each value that occurs is a class of that name, and it is said where there are values between them.
    with pytest.warns(UserWarning, match=r"2 values from 0 to 2, so there are 2 classes, called 0, 2"):
        numbered = Dataset.from_arrays(np.ones((20, 2, 2, 2)), label_maps=maps, groups=np.arange(20) // 2)
    assert numbered.classes == ("0", "2")
    assert set(np.unique(numbered.targets)) == {0, 1}
    assert set(numbered.split) == {"train", "validation", "test"}


def test_data_with_labels_can_be_segmented_too(tmp_path: Path) -> None:
    fields = {"volumes": DATA.volumes, "label_maps": DATA.targets}
    np.savez(tmp_path / "maps.npz", **fields)
    np.savez(tmp_path / "both.npz", **fields, labels=np.arange(24) % 2)
    assert load_data(tmp_path / "maps.npz").task == "segmentation"
    assert load_data(tmp_path / "both.npz").task == "classification"
    chosen = load_data(tmp_path / "both.npz", task="segmentation")
    assert chosen.task == load_data(load_data(tmp_path / "both.npz"), task="segmentation").task
    np.testing.assert_array_equal(chosen.targets, DATA.targets)
    with pytest.raises(VoxgapError, match="has no label maps"):
        load_data("sample:brain", task="segmentation")


def test_a_manifest_of_label_maps(tmp_path: Path) -> None:
    rows = ["path,label_map,split"]
    for index in range(6):
        np.save(tmp_path / f"v{index}.npy", DATA.volumes[index])
        np.save(tmp_path / f"m{index}.npy", DATA.targets[index].astype(np.float32))
        rows.append(f"v{index}.npy,m{index}.npy,{'train' if index < 4 else 'test'}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    data = load_data(tmp_path / "data.csv")
    assert data.task == "segmentation"
    np.testing.assert_array_equal(data.targets, DATA.targets[:6])
    assert sorted(data.split) == ["test", "test", "train", "train", "train", "validation"]
    (tmp_path / "data.csv").write_text("\n".join(rows).replace("label_map", "label"))
    with pytest.raises(VoxgapError, match="has no label maps"):
        load_data(tmp_path / "data.csv", task="segmentation")


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (np.zeros((24, *SHAPE[:3])), "one class"),
        (np.full((24, *SHAPE[:3]), -1), "hold nothing"),
        (np.arange(24 * 8).reshape(24, 2, 2, 2) % 2, "label maps of 24×2×2×2"),
        (np.full((24, *SHAPE[:3]), 0.5), "whole numbers"),
    ],
)
def test_label_maps_that_cannot_be_learnt_are_one_line(maps: np.ndarray, said: str) -> None:
    with pytest.raises(VoxgapError, match=said):
        Dataset.from_arrays(DATA.volumes, label_maps=maps)


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_planted_segmentation_is_learnt(precision: str) -> None:
    model = build_model("unet3d", SHAPE, 3, "segmentation", "masked_conv", filters=(8, 12))
    history = train(
        model,
        DATA,
        **QUICK | {"precision": precision},
        epochs=12,
        monitor="val_dice",
        class_weight="balanced",
    )
    assert history.best["val_dice"] == max(epoch["val_dice"] for epoch in history.epochs)
    part = DATA.part("validation")
    scores = metrics.scores("segmentation", part.targets, model.predict(part.volumes, verbose=0))
    assert scores["dice"] > 0.8
    assert scores["dice"] == pytest.approx(history.best["val_dice"], abs=0.02)
    assert history.policy == ("float32" if precision == "float32" else "mixed_bfloat16")


@pytest.mark.full
def test_label_maps_move_with_augmented_volumes_while_training() -> None:
    seen = []
    model = build_model("unet3d", (6, 6, 6, 1), 3, "segmentation", filters=(2,))
    flip = Compose((Flip(("depth", "width")), Rotate90()))

    def augment(volumes: np.ndarray, seed: Any, *, labels: np.ndarray, **more: Any) -> Any:
        moved = flip(volumes, seed, labels=labels, **more)
        seen.append(moved)
        return moved

    train(model, labelled(shape=(6, 6, 6, 1)), augment=augment, epochs=2, **QUICK)
    for volumes, maps in seen:
        bright = np.nanmean(volumes[..., 0][maps == 1]) - np.nanmean(volumes[..., 0][maps == 2])
        assert bright > 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"loss": "categorical_crossentropy"}, "for segmentation"),
        ({"monitor": "val_mae"}, "val_dice or val_accuracy"),
        ({"class_weight": {0: 1.0}}, r"missing: \[1, 2\]"),
        ({"patches_per_volume": 2}, "goes with a patch_size"),
        ({"patch_size": (2, 2, 2)}, "build it with the patch"),
        ({"patch_size": (2, 2)}, "patch_size must be"),
        ({"distribute": ["CPU:7"]}, "no device 'CPU:7'"),
    ],
)
def test_what_is_not_possible_is_one_line(arguments: dict[str, Any], said: str) -> None:
    model = build_model("unet3d", SHAPE, 3, "segmentation", filters=(2,))
    with pytest.raises(VoxgapError, match=said):
        train(model, DATA, epochs=1, **QUICK | arguments)


def test_a_model_of_whole_volumes_or_too_few_classes_is_refused() -> None:
    with pytest.raises(VoxgapError, match="task='segmentation'"):
        train(build_model("cnn3d", SHAPE, 3, filters=(2,)), DATA, epochs=1, **QUICK)
    with pytest.raises(VoxgapError, match="reach class 2, the model has 2"):
        train(build_model("unet3d", SHAPE, 2, "segmentation", filters=(2,)), DATA, epochs=1, **QUICK)


@pytest.mark.full
def test_losses_of_keras_and_of_the_user() -> None:
    def own(maps: Any, answers: Any) -> Any:
        assert len(maps.shape) == 4
        return keras.ops.mean(answers[..., 0], axis=(1, 2, 3))

    for loss in ("sparse_categorical_crossentropy", own):
        model = build_model("unet3d", SHAPE, 3, "segmentation", filters=(2,))
        history = train(model, DATA, epochs=2, loss=loss, **QUICK)
        assert np.isfinite(history.best["val_loss"])
        assert history.epochs[1]["loss"] < history.epochs[0]["loss"]


# --- patches -----------------------------------------------------------------------------------------------


def test_random_patches_follow_from_seed_epoch_and_index() -> None:
    size = (3, 4, 3)
    loader = Loader(DATA.volumes, DATA.targets, 5, seed=3, patch_size=size)
    assert len(loader) == -(-24 * 2 * 2 * 2 // 5)
    loader.begin(2)
    batches = [loader[i] for i in (4, 0, 1)]
    again = Loader(DATA.volumes, DATA.targets, 5, seed=3, patch_size=size)
    again.begin(2)
    for index, (volumes, maps) in zip((4, 0, 1), batches, strict=True):
        assert volumes.shape == (5, *size, 1)
        assert maps.shape == (5, *size)
        np.testing.assert_array_equal(again[index][0], volumes)
        np.testing.assert_array_equal(again[index][1], maps)
        assert (~np.isnan(volumes)).any(axis=(1, 2, 3, 4)).all()
        bright, dark = (np.nanmean(volumes[..., 0][maps == kind]) for kind in (1, 2))
        assert bright > 2 > -2 > dark
    again.begin(1)
    assert not np.array_equal(again[0][0], batches[1][0])


def test_patches_of_nothing_are_drawn_again_and_only_patches_are_read() -> None:
    class Lazy:
        shape, dtype = (4, 40, 40, 40, 1), np.dtype("float32")

        def __init__(self) -> None:
            self.read = 0

        def __len__(self) -> int:
            return 4

        def __getitem__(self, key: Any) -> np.ndarray:
            assert isinstance(key, tuple)
            found = np.full((40, 40, 40, 1), np.nan, np.float32)
            found[:20] = 1
            found = found[key[1:]]
            self.read = max(self.read, found.size)
            return found

    lazy = Lazy()
    loader = Loader(lazy, np.array([0, 1, 0, 1]), 8, seed=0, patch_size=(8, 8, 8), per_volume=16)
    volumes, targets = (
        np.concatenate(part) for part in zip(*(loader[i] for i in range(len(loader))), strict=True)
    )
    assert len(volumes) == 64
    assert np.bincount(targets).tolist() == [32, 32]
    assert (~np.isnan(volumes)).any(axis=(1, 2, 3, 4)).mean() > 0.95
    assert lazy.read == 8**3


def test_a_third_of_the_patches_lies_about_foreground_that_can_be_seen() -> None:
    maps = np.zeros((2, 40, 40, 40), np.int16)
    maps[:, 3, 30, 8], maps[:, 20:24, 20, 20] = 1, 2  # rare, and a little less so
    volumes = np.ones((2, 40, 40, 40, 1), np.float32)
    volumes[1, 20:24] = np.nan  # the second class of the second volume is in a gap
    loader = Loader(volumes, maps, 50, seed=1, patch_size=(8, 8, 8), per_volume=300)
    seen = [(v, m) for i in range(len(loader)) for v, m in zip(*loader[i], strict=True)]
    has = np.array([[(m == kind).any() for kind in (1, 2)] for _, m in seen]).mean(axis=0)
    assert 0.12 < has[0] < 0.32
    assert 0.06 < has[1] < 0.25
    assert has.sum() > 0.28
    blind = [np.isnan(v[..., 0][m > 0]).all() for v, m in seen if (m > 0).any()]
    assert np.mean(blind) < 0.1
    corners = [loader._corner(0, True, np.random.default_rng(seed)) for seed in range(20)]
    assert set(corners) == {(0, 26, 4), *((at - 4, 16, 16) for at in range(20, 24))}


@pytest.mark.full
def test_training_on_patches_and_predicting_whole_volumes() -> None:
    data = labelled(16, (12, 13, 10, 1))
    model = build_model("unet3d", (6, 6, 5, 1), 3, "segmentation", "masked_conv", filters=(6, 8))
    history = train(model, data, patch_size=(6, 6, 5), patches_per_volume=6, epochs=8, **QUICK)
    assert history.patch_size == (6, 6, 5)
    part = data.part("validation")
    # The validation patches tile the volumes: the watched score is that of the tiles.
    tiles, maps = (patches.Patches(a, (6, 6, 5)) for a in (part.volumes, part.targets))
    tiled = metrics.scores("segmentation", maps[:], model.predict(tiles[:], verbose=0))
    assert tiled["dice"] == pytest.approx(history.best["val_dice"], abs=1e-4)
    whole = patches.predict_patches(lambda b: model.predict(b, verbose=0), part.volumes, (6, 6, 5))
    assert whole.shape == (4, 12, 13, 10, 3)
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-5)
    assert metrics.scores("segmentation", part.targets, whole)["dice"] > 0.75


@pytest.mark.full
def test_classification_by_patches_through_an_experiment() -> None:
    data = tiny.dataset()
    result = train_and_score(
        data,
        Recipe(
            "cnn3d",
            PRESETS["mask_channel"],
            Architecture((4,)),
            Training(patch_size=4, epochs=6, patches_per_volume=3, **QUICK),
        ),
    )
    assert result.model.input_shape == (None, 4, 4, 4, 1)
    assert result.scores["validation"]["accuracy"] > 0.6


# --- one training on several devices -----------------------------------------------------------------------


@pytest.mark.full
def test_two_devices_train_as_one_does() -> None:
    tiny.run_alone(
        """
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras, tiny
        from voxgap.training import train

        def network(values, observed):
            first = keras.initializers.HeNormal(seed=1)
            return keras.layers.Conv3D(4, 3, activation="relu", kernel_initializer=first)(values)

        def fit(**more):
            model = tiny.model(network, "mask_channel")
            history = train(model, tiny.dataset(), precision="float32", batch_size=10, epochs=4, **more)
            return history, model

        one, alone = fit()
        two, shared = fit(distribute=["CPU:0", "CPU:1"])
        for name in ("loss", "val_loss", "accuracy"):
            np.testing.assert_allclose(
                [e[name] for e in two.epochs], [e[name] for e in one.epochs], rtol=1e-3, err_msg=name
            )
        for a, b in zip(alone.get_weights(), shared.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)
        """
    )


# --- real data ---------------------------------------------------------------------------------------------


@pytest.mark.full
def test_tissues_are_found_in_a_brain_with_half_its_slices_missing() -> None:
    data = load_data("sample:brain-tissue")
    data = data.with_volumes(simulate(data.volumes, "slices", 0.5, seed=0))
    result = train_and_score(
        data,
        Recipe(
            "unet3d",
            PRESETS["masked_conv"],
            Architecture((8, 16, 32)),
            Training(epochs=12, batch_size=8, learning_rate=3e-3, precision="float32"),
        ),
    )
    assert result.scores["test"]["dice"] > 0.65
    assert result.scores["test"]["dice_missing"] > 0.5
