"""What of a score comes from what is missing alone: the section that every page of a network, or of several, has."""

from __future__ import annotations

from collections.abc import Mapping

from voxgap.report.page import Section, Table
from voxgap.trust.audit import Audit

AUDITED_HOW = (
    "Blanked: each observed value is its channel's mean, and the gaps stay. Gaps of another scan: values stay where "
    "both show them, what else is shown is their mean; the same values with the scan's own gaps stand beside it, "
    "since fewer values cost some of the score whatever the gaps say. The share is the mean of what the gaps add "
    "alone and of what they add to the values (Shapley, 1953)."
)


def audit_section(audit: Audit | None) -> list[Section]:
    """Return the section of an audit; none where all scans miss the same, so that nothing could be told from it."""
    if audit is None:
        return []
    lines = {
        "as recorded": audit.recorded,
        "observed values blanked, gaps as they are": audit.gaps_alone,
        "values that another scan shows too, gaps as they are": audit.both_show,
        "the same values, gaps of that other scan": audit.values_alone,
        "answers to other scans, blanked: chance": audit.neither,
    }
    unit = audit.metric.replace("_", " ")
    table = Table(["", unit], [[name, one.words()] for name, one in lines.items()])
    return [Section("Does it look at what is missing?", [audit.conclusion, AUDITED_HOW], table)]


def audits_section(audits: Mapping[str, Audit], conclusion: str) -> list[Section]:
    """Return the sections of the audits of several strategies, a row each; none where there are none."""
    if not audits:
        return []
    shares = [
        [name, one.share_words, *(score.words() for score in (one.recorded, one.gaps_alone, one.neither))]
        for name, one in audits.items()
    ]
    swaps = [[name, one.both_show.words(), one.values_alone.words()] for name, one in audits.items()]
    unit = next(iter(audits.values())).metric.replace("_", " ")
    words = [
        f"{conclusion} Scores are {unit}, over the test cases of all runs of a strategy.".strip(),
        AUDITED_HOW,
    ]
    header = ("strategy", "share of the gaps", "as recorded", "blanked", "chance")
    return [
        Section("Do they look at what is missing?", words, Table(header, shares)),
        Section(
            "The gaps of another scan",
            table=Table(("strategy", "what both show", "gaps of another"), swaps),
            folded=True,
        ),
    ]
