"""Output shapes, receptive fields, parameters, multiply-adds and memory: pure arithmetic, nothing is run."""

from voxgap.shapes.axis import output_shape
from voxgap.shapes.keras_model import from_keras
from voxgap.shapes.layer import Layer
from voxgap.shapes.network import Row, receptive_field, smallest_input, trace

__all__ = ["Layer", "Row", "from_keras", "output_shape", "receptive_field", "smallest_input", "trace"]
