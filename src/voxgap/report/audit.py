"""What of a score comes from what is missing alone: the section that every page of a network has."""

from __future__ import annotations

from voxgap.report.page import Section, Table
from voxgap.trust.audit import Audit

AUDITED_HOW = (
    "Blanked: each observed value is its channel's mean, and the gaps stay. Gaps of another scan: the values stay "
    "where they were observed, what else is now shown is the mean of what the scan has. The share is the mean of "
    "what the gaps add alone and of what they add to the values (Shapley, 1953)."
)


def audit_section(audit: Audit | None) -> list[Section]:
    """Return the section of an audit; none where all scans miss the same, so that nothing could be told from it."""
    if audit is None:
        return []
    lines = {
        "as recorded": audit.recorded,
        "observed values blanked, gaps as they are": audit.gaps_alone,
        "values as they are, gaps of another scan": audit.values_alone,
        "both: chance": audit.neither,
    }
    unit = audit.metric.replace("_", " ")
    table = Table(["", unit], [[name, one.words()] for name, one in lines.items()])
    return [Section("Does it look at what is missing?", [audit.conclusion, AUDITED_HOW], table)]
