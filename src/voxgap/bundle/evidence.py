"""The folder beside a model that says how good it is: never read by what predicts, never part of what is exported."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.bundle.placing import workspace
from voxgap.dataset import Dataset
from voxgap.dataset.gaps import own_box
from voxgap.decision import named
from voxgap.evidence import Cases, Predict, sureness
from voxgap.grid import UNLABELLED
from voxgap.history import History
from voxgap.promises import pattern_of
from voxgap.ragged import differ
from voxgap.runtime import Bundle, Manifest
from voxgap.runtime.calibration import tempered
from voxgap.trust.audit import FEWEST, Audit, audited
from voxgap.volume import upright

EVIDENCE = "evidence"
PREDICTIONS, REPORT = "predictions.csv", "report.html"
WORST = 6


def remove_evidence(folder: Path) -> None:
    """Take away what was said of an earlier model, before another one takes its place."""
    shutil.rmtree(folder / EVIDENCE, ignore_errors=True)


def write_evidence(
    bundle: Bundle,
    data: Dataset,
    cases: Cases,
    predict: Predict,
    history: History | None = None,
    **how: Any,
) -> None:
    """Write the table of all cases, and the page of a training about them, as a folder that appears whole.

    Args:
        bundle: that was written.
        data: that `cases` were collected from.
        cases: what the network answered; nothing is written where there is none.
        predict: that they were collected with.
        history: of its training; without it there is no page.
        how: it was made; see `write_training_report`.
    """
    if not len(cases):
        return
    with workspace(bundle.folder) as temporary:
        made = temporary / EVIDENCE
        made.mkdir()
        cases.write(made / PREDICTIONS)
        if history is not None:
            _write_page(made / REPORT, bundle.manifest, data, cases, predict, history, how)
        remove_evidence(bundle.folder)
        made.rename(bundle.folder / EVIDENCE)


def _write_page(
    page: Path,
    manifest: Manifest,
    data: Dataset,
    cases: Cases,
    predict: Predict,
    history: History,
    how: Mapping[str, Any],
) -> None:
    from voxgap.report.training import Example, shown_part, write_training_report

    _, shown = shown_part(cases)
    worst = shown.worst(WORST)
    seen = data.take(worst.index)
    maps: list[dict[str, Any]] = [{} for _ in range(len(worst))]
    if data.task == "segmentation":
        answered = [named(answer, cases.threshold) for answer in predict(seen.volumes)]
        for index, drawn in enumerate(answered):
            scanned = np.zeros(drawn.shape, bool)
            scanned[own_box(seen, index)] = True
            drawn[~scanned] = UNLABELLED
        maps = [{"truth": t, "answer": a} for t, a in zip(seen.targets, answered, strict=True)]
    examples = [
        Example(
            upright(volume, data.rises), {title: upright(one, data.rises) for title, one in drawn.items()}
        )
        for volume, drawn in zip(seen.volumes, maps, strict=True)
    ]
    patterns = [pattern_of(data.volumes[int(index)]) for index in shown.index]
    calibration, calibrated = manifest.calibration, None
    if calibration is not None and shown.task == "classification":
        each = np.array([[calibration.of_gaps(pattern)] for pattern in patterns])
        calibrated = sureness(tempered(shown.answers, each), shown.targets)
    audit = _audited(data.take(shown.index), predict, cases.threshold)
    write_training_report(
        page,
        manifest,
        cases,
        worst,
        examples,
        history,
        calibrated=calibrated,
        patterns=patterns,
        audit=audit,
        **how,
    )


def _audited(data: Dataset, predict: Predict, threshold: float | None) -> Audit | None:
    """Audit what the page shows; None where it is too little, or of several shapes: no scan has another's gaps."""
    if len(data) < FEWEST or differ(data.volumes):
        return None
    return audited(data, predict, threshold=threshold)
