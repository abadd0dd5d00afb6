"""What data hold, what is missing, what that depends on and what to try: found once, and shown in any way."""

from voxgap.inspection.found import Inspection
from voxgap.inspection.look import inspect

__all__ = ["Inspection", "inspect"]
