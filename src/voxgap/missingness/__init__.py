"""Missing data in volumes: simulate it, describe it, and test how it came about (Rubin 1976)."""

from voxgap.missingness.diagnosis import Description, describe
from voxgap.missingness.simulation import MECHANISMS, PATTERNS, Gaps, sample_gaps, simulate

__all__ = ["MECHANISMS", "PATTERNS", "Description", "Gaps", "describe", "sample_gaps", "simulate"]
