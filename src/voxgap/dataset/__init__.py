"""Samples to learn from: arrays, a manifest, a folder or public sets, on one grid and split by group."""

from voxgap.dataset.dataset import Dataset
from voxgap.dataset.loading import load_data
from voxgap.dataset.splits import SPLITS, make_split

__all__ = ["SPLITS", "Dataset", "load_data", "make_split"]
