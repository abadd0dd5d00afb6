"""Real handwritten digits that move: which way, no single frame can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Each class is followed by its time reversal.
CLASSES = ("left", "right", "up", "down", "clockwise", "anticlockwise", "grow", "shrink")
PER_FRAME = (3.0, 3.0, 0.5, 1 / 6)  # mean rate of each pair: pixels, pixels, radians, octaves of size
DIGITS_PER_SPLIT = {"train": 600, "validation": 150, "test": 300}
FRAMES, SIZE, DOTS = 16, 24, 64
EXPOSURES = 4  # instants averaged in a frame: the shutter's blur shows the axis of a motion, never its sense
DARK, BRIGHT, NOISE = 20.0, 200.0, 8.0  # background, contrast and sensor noise, in intensities of 0 to 255
INK = 0.7  # brightness of one dot; where dots overlap the sensor saturates at 1
SEED = 8


def load(digits: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Load clips in each of which one digit moves; the same clip played backwards is the paired class.

    A frame is a torus (what leaves on one side comes back on the other), the start is uniform on it, and so
    are the first angle of a turn and the phase of a growth. So all frames of a clip are distributed alike:
    not even from every second frame can a class be told from its reverse, unless their order is used.
    """
    rng = np.random.default_rng(SEED)
    count = sum(DIGITS_PER_SPLIT.values())
    chosen = rng.permutation(len(digits))[:count]
    motion = np.arange(count) % 4
    clips = film(digits[chosen], motion, rng)
    split = np.repeat(list(DIGITS_PER_SPLIT), list(DIGITS_PER_SPLIT.values()))
    order = rng.permutation(2 * count)
    return {
        "volumes": np.concatenate([clips, clips[:, ::-1]])[order, ..., None].astype(np.float32),
        "targets": np.concatenate([2 * motion, 2 * motion + 1])[order],
        "task": "classification",
        "classes": CLASSES,
        "split": np.tile(split, 2)[order],
        "groups": np.tile([f"digit-{i:04d}" for i in chosen], 2)[order],
        "channels": ("intensity",),
        "spacing": None,
        "name": "motion",
    }


def film(
    digits: npt.NDArray[np.uint8], motion: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Film clips (n, FRAMES, SIZE, SIZE) of digits that go left, go up, turn clockwise or grow (motion 0 to 3)."""
    positions = trajectories(motion, rng)
    spread = brightness_table()
    clips = np.empty((len(digits), FRAMES, SIZE, SIZE), np.uint8)
    for clip, digit, steps in zip(clips, digits, positions, strict=True):
        ink = np.tile(digit.ravel() * np.float32(INK / 16 / EXPOSURES), EXPOSURES)
        inked = np.flatnonzero(ink)
        y, x = spread[steps[..., inked]]
        signal = np.minimum((y * ink[inked, None]).swapaxes(1, 2) @ x, 1)
        noise = NOISE * rng.standard_normal(signal.shape, np.float32)
        clip[:] = np.rint(DARK + BRIGHT * signal + noise).clip(0, 255)
    return clips


def trajectories(motion: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Return where the ink dots are at each instant: (n, [y, x], FRAMES, EXPOSURES * DOTS), in 1/16 pixel."""
    start_y, start_x, first_angle, first_size = rng.random((4, len(motion), 1))
    shutter = (np.arange(EXPOSURES) - (EXPOSURES - 1) / 2) / EXPOSURES
    progress = rng.uniform(0.7, 1.3, (len(motion), 1)) * (np.arange(FRAMES)[:, None] + shutter).ravel()
    moves = [motion[:, None] == kind for kind in range(4)]
    left, up, turn, growth = (on * rate * progress for on, rate in zip(moves, PER_FRAME, strict=True))
    angle = moves[2] * 2 * np.pi * first_angle + turn
    # Growth is a saw-tooth: an octave up, and again from the start.
    size = 2 ** (np.where(moves[3], first_size + growth, 0.5) % 1)
    cos, sin = (size * np.cos(angle))[..., None], (size * np.sin(angle))[..., None]
    dot_y, dot_x = np.indices((8, 8)).reshape(2, DOTS) - 3.5
    y = (SIZE * start_y - up)[..., None] + cos * dot_y + sin * dot_x
    x = (SIZE * start_x - left)[..., None] + cos * dot_x - sin * dot_y
    steps = np.rint(16 * np.stack([y, x], axis=1)).astype(np.int16) % (16 * SIZE)
    return steps.reshape(len(motion), 2, FRAMES, EXPOSURES * DOTS)


def brightness_table() -> Floats:
    """Return the profile (SIZE) of a dot along one axis of the torus, for each position in 1/16 pixel."""
    offset = np.arange(16 * SIZE)[:, None] / 16 - np.arange(SIZE)
    offset = (offset + SIZE / 2) % SIZE - SIZE / 2
    return np.exp(-0.5 * (offset / 0.8) ** 2).astype(np.float32)
