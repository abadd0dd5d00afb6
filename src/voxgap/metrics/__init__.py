"""How good an answer is (metrics), and whether one way is better than another (paired statistics)."""

from voxgap.metrics.intervals import Scored, scored, without_interval
from voxgap.metrics.metrics import (
    accuracy,
    auc,
    balanced_accuracy,
    brier,
    calibration_error,
    confusion_matrix,
    dice,
    iou,
    log_loss,
    macro_f1,
    mae,
    r2,
    rmse,
    scorer,
    scores,
    voxel_confusion,
)

__all__ = [
    "Scored",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "brier",
    "calibration_error",
    "confusion_matrix",
    "dice",
    "iou",
    "log_loss",
    "macro_f1",
    "mae",
    "r2",
    "rmse",
    "scored",
    "scorer",
    "scores",
    "voxel_confusion",
    "without_interval",
]
