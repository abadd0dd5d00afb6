"""A stock recipe of MONAI on the cases of a fold; runs in the peers' environment, where voxgap is not installed.

`python segmentation_monai.py data.npz answers.npz MINUTES`: the arrays `volumeI`, `labelsI` and `split`; label maps of
the test cases are written. UNet with residual units and instance normalisation, DiceCE, Adam, flips and intensity
shifts, a patch of 40 x 56 x 40 about foreground or background, sliding windows with Gaussian weights: the parts that
MONAI's own segmentation tutorials are made of. It has no way of its own for missing values: they are 0 after
normalising.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from monai import transforms as mt
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.utils import set_determinism

PATCH = (40, 56, 40)


def normalised(volume: np.ndarray) -> np.ndarray:
    """In units of its own observed voxels; what is missing is 0."""
    return np.nan_to_num((volume - np.nanmean(volume)) / max(float(np.nanstd(volume)), 1e-6))[None].astype(
        "float32"
    )


def main(given: str, answers: str, minutes: float) -> None:
    set_determinism(0)
    with np.load(given, allow_pickle=False) as held:
        split = held["split"]
        volumes = [normalised(held[f"volume{i}"]) for i in range(len(split))]
        labels = [held[f"labels{i}"][None].astype("int64") for i in range(len(split))]
    keys = ["image", "label"]
    changed = mt.Compose(
        [
            mt.SpatialPadd(keys, PATCH),
            mt.RandCropByPosNegLabeld(keys, "label", PATCH, pos=2, neg=1),
            *(mt.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            mt.RandScaleIntensityd("image", 0.1, prob=0.5),
            mt.RandShiftIntensityd("image", 0.1, prob=0.5),
        ]
    )
    network = UNet(3, 1, 3, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2, norm="instance")
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    train = np.flatnonzero(split == "train")
    rng, steps, ends = np.random.default_rng(0), 0, time.monotonic() + 60 * minutes
    began = time.monotonic()
    while time.monotonic() < ends:
        left = max(0.01, 1 - (time.monotonic() - began) / (60 * minutes))
        optimizer.param_groups[0]["lr"] = 1e-3 * left**0.9
        some = [
            changed({"image": volumes[i], "label": labels[i]})[0] for i in rng.choice(train, 2, replace=False)
        ]
        optimizer.zero_grad()
        images, truths = (torch.stack([torch.as_tensor(one[key]) for one in some]) for key in keys)
        loss(network(images), truths).backward()
        optimizer.step()
        steps += 1
    network.eval()
    found = {}
    with torch.no_grad():
        for i in np.flatnonzero(split == "test"):
            image = torch.as_tensor(volumes[i])[None]
            logits = sliding_window_inference(image, PATCH, 4, network, overlap=0.5, mode="gaussian")
            found[str(i)] = logits.argmax(1)[0].numpy().astype("int16")
    np.savez(answers, steps=steps, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
