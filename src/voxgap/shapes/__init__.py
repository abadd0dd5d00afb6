"""Output shapes, receptive fields, parameters, multiply-adds and memory: pure arithmetic, nothing is run.

Example:
    >>> from voxgap.shapes import Layer, receptive_field, smallest_input, trace
    >>> convolution = {"filters": 16, "kernel_size": 3}
    >>> layers = [Layer("conv", **convolution), Layer("pool", kernel_size=2), Layer("conv", **convolution)]
    >>> receptive_field(layers, (32, 32, 32, 1)), smallest_input(layers)
    ((8, 8, 8), (8, 8, 8))
    >>> trace(layers, (32, 32, 32, 1))[-1].output_shape
    (13, 13, 13, 16)
"""

from voxgap.shapes.axis import output_shape
from voxgap.shapes.keras_model import from_keras
from voxgap.shapes.layer import Layer
from voxgap.shapes.network import Row, receptive_field, smallest_input, trace

__all__ = ["Layer", "Row", "from_keras", "output_shape", "receptive_field", "smallest_input", "trace"]
