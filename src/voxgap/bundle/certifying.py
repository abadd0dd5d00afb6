"""Certifying a bundle: its scores for every pattern of gaps, and what they owe to the gaps, kept beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxgap import table
from voxgap.bundle.evidence import EVIDENCE
from voxgap.bundle.placing import current_of, write_manifest, writing
from voxgap.bundle.scoring import Split, labelled
from voxgap.dataset import Dataset
from voxgap.errors import VoxgapError
from voxgap.files import finite, write_bytes
from voxgap.names import CERTIFIED_PATTERNS, CERTIFIED_RATES, check_seed
from voxgap.progress import Progress, unseen
from voxgap.runtime import Predictor, load
from voxgap.trust.audit import Audit, audited
from voxgap.trust.certificate import (
    Certificate,
    Row,
    Subsets,
    certified,
    check_gaps,
    check_subsets,
)
from voxgap.trust.scoring import check_metric

PAGE, TABLE, PLAIN = "certificate.html", "certificate.csv", "certificate.json"
SOME = "subsets"
"""The folder in a bundle's evidence for the page of subsets that were asked for."""
_COLUMNS = ("what", "channels", "scans", "score", "low", "high", "loss", "loss_low", "loss_high")


@dataclass(frozen=True)
class Certified:
    """What a bundle is worth for each pattern of gaps.

    Attributes:
        name: of the data.
        split: the part of it that was scored.
        certificate: scores by subset of channels and by gaps, and what each further channel is worth.
        audit: what of the score comes from the gaps themselves; None where all scans miss the same.
        notes: what to know before the scores are believed.
        page: that was written.
    """

    name: str
    split: str
    certificate: Certificate
    audit: Audit | None
    notes: tuple[str, ...] = ()
    page: Path | None = None

    def __str__(self) -> str:
        rows = [
            (row.name, str(row.scans), row.score.words(), row.loss.words()) for row in self.certificate.rows
        ]
        rows = [
            (
                "what is there",
                "scans",
                self.certificate.metric.replace("_", " "),
                "worse than as recorded by",
            ),
            *rows,
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        audit = [] if self.audit is None else [self.audit.conclusion]
        return "\n".join(
            [*(line.rstrip() for line in lines), self.certificate.conclusion, *audit, *self.notes]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, for a manifest's field `certificate`."""
        audit = None if self.audit is None else self.audit.to_json()
        return {"data": self.name, "split": self.split, **self.certificate.to_json(), "audit": audit}


def certify(
    bundle: str | os.PathLike[str] | Predictor,
    data: str | os.PathLike[str] | Dataset,
    split: Split = None,
    *,
    metric: str | None = None,
    subsets: Subsets = None,
    patterns: Sequence[str] = CERTIFIED_PATTERNS,
    rates: Sequence[float] = CERTIFIED_RATES,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    axes: Sequence[str | int] = (),
    at: Mapping[str, int] | None = None,
    progress: Progress = unseen,
) -> Certified:
    """Score a bundle for every subset of its channels and for gaps of several patterns; write the page of it.

    Args:
        bundle: its folder, or a `Predictor` of it.
        data: labelled, see `voxgap.load_data`.
        split: the part to score, see `evaluate`.
        metric: that is shown: by default accuracy, mae or dice, by the task.
        subsets: of the channels that are there: `all`, `seen` (those that occur), or given ones, as in
            `[("t1", "flair"), ("t2",)]`. By default all of up to four channels, of more those that occur and each
            channel missing alone. Those that are asked for have a page of their own, in `evidence/subsets`, and the
            bundle's certificate stays.
        patterns, rates: of gaps that are made besides the data's own, see `voxgap.simulate`.
        out: folder for page, table and JSON: the bundle's certificate stays. By default the bundle's own evidence, and
            the manifest has the same certificate.
        seed: of those gaps, and of the intervals.
        axes, at: what is said of the axes of the files, where they are called otherwise; see `voxgap.load_data`.
        progress: wraps what is gone through one by one, with a title.

    Raises:
        VoxgapError: the data can't be read, is for another task or other classes, or is too little.

    Example:
        >>> import voxgap as vg
        >>> made = vg.certify("bundle", "sample:brain", patterns=("slices",), rates=(0.5,))
        >>> made.page.name, [row.name for row in made.certificate.rows]
        ('certificate.html', [...])
    """
    check_seed(seed)
    predictor = bundle if isinstance(bundle, Predictor) else load(bundle)
    if predictor.folder is None:
        raise VoxgapError(
            "a certificate is kept in a bundle: give its folder, or a predictor from voxgap.load"
        )
    check_gaps(patterns, rates)
    check_subsets(subsets, predictor.manifest.input.channels)
    check_metric(metric, predictor.task)
    given = labelled(predictor, data, split, axes=axes, at=at)
    how: dict[str, Any] = {"threshold": predictor.decision.threshold, "seed": seed}
    made_of: dict[str, Any] = {"subsets": subsets, "patterns": patterns, "rates": rates}
    certificate = certified(given.data, predictor.predict, metric, **made_of, **how, progress=progress)
    audit = audited(given.data, predictor.predict, metric, **how)
    made = Certified(predictor.manifest.dataset, given.split, certificate, audit, given.notes)
    made = replace(made, name=given.data.name.replace("\\", "/").rstrip("/").rpartition("/")[2])
    own = predictor.folder / EVIDENCE
    folder = Path(out) if out is not None else own if subsets is None else own / SOME
    made = replace(made, page=folder / PAGE)
    with writing(predictor.folder):
        current = current_of(predictor.folder, predictor.manifest, "certified")
        _write(folder, predictor, made)
        # The manifest holds what the page in the evidence shows, and no other.
        if folder.resolve() == own.resolve():
            write_manifest(predictor.folder, {**current.written, "certificate": made.to_json()})
    return made


def _write(folder: Path, predictor: Predictor, made: Certified) -> None:
    from voxgap.report.certificate import write_certificate

    folder.mkdir(parents=True, exist_ok=True)
    write_certificate(
        folder / PAGE, predictor.manifest.network, made.name, made.certificate, made.audit, made.notes
    )
    write_bytes(
        folder / PLAIN, json.dumps(finite(made.to_json()), indent=2, allow_nan=False).encode() + b"\n"
    )
    table.write(folder / TABLE, _COLUMNS, map(_cells, made.certificate.rows))


def _cells(row: Row) -> dict[str, Any]:
    bounds = [
        value
        for measure in (row.score, row.loss)
        for value in (measure.value, *(measure.interval or ("", "")))
    ]
    return dict(zip(_COLUMNS, [row.name, " ".join(row.kept or ()), row.scans, *bounds], strict=True))
