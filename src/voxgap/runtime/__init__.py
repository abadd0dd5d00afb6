"""Loading a bundle and predicting with it; nothing here knows how networks are trained."""

from voxgap.runtime.answer import Answer
from voxgap.runtime.bundle import MANIFEST, SCHEMA_VERSION, Bundle
from voxgap.runtime.calibration import calibrate, fit_temperature
from voxgap.runtime.loading import load
from voxgap.runtime.manifest import Manifest
from voxgap.runtime.predictor import Predictor
from voxgap.runtime.profile import profile

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Answer",
    "Bundle",
    "Manifest",
    "Predictor",
    "calibrate",
    "fit_temperature",
    "load",
    "profile",
]
