"""The bundle: a folder with manifest.json, the model in each format that was asked for, and the proof of each."""

from voxgap.bundle.capability import check_exportable
from voxgap.bundle.certifying import Certified, certify
from voxgap.bundle.continuing import LOCK, STATE, goes_on
from voxgap.bundle.exporting import export
from voxgap.bundle.guaranteeing import Guaranteed, guarantee
from voxgap.bundle.own_model import export_model
from voxgap.bundle.saving import Origin, check_free, save_bundle
from voxgap.bundle.scoring import Evaluation, evaluate
from voxgap.bundle.training import Trained, material, train_bundle

__all__ = [
    "LOCK",
    "STATE",
    "Certified",
    "Evaluation",
    "Guaranteed",
    "Origin",
    "Trained",
    "certify",
    "check_exportable",
    "check_free",
    "evaluate",
    "export",
    "export_model",
    "goes_on",
    "guarantee",
    "material",
    "save_bundle",
    "train_bundle",
]
