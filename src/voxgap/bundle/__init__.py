"""The bundle: a folder with manifest.json, the model in each format that was asked for, and the proof of each."""

from voxgap.bundle.capability import check_exportable
from voxgap.bundle.certifying import Certified, certify
from voxgap.bundle.continuing import STATE, forget, goes_on, outdated
from voxgap.bundle.exporting import export
from voxgap.bundle.guaranteeing import Guaranteed, guarantee, set_aside
from voxgap.bundle.own_model import export_model
from voxgap.bundle.saving import Origin, check_free, save_bundle
from voxgap.bundle.scoring import Evaluation, evaluate

__all__ = [
    "STATE",
    "Certified",
    "Evaluation",
    "Guaranteed",
    "Origin",
    "certify",
    "check_exportable",
    "check_free",
    "evaluate",
    "export",
    "export_model",
    "forget",
    "goes_on",
    "guarantee",
    "outdated",
    "save_bundle",
    "set_aside",
]
