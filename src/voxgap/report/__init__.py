"""Pages for people: one self-contained HTML file each."""

from voxgap.report.experiment import write_report
from voxgap.report.page import Section, Table, write_page

__all__ = ["Section", "Table", "write_page", "write_report"]
