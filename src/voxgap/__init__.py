"""voxgap: 3D convolutional networks on volumes with missing data.

NaN is the one representation of missing. Heavy imports (Keras, SciPy) happen when a name is first touched,
so that `import voxgap` is instant.
"""

__version__ = "0.1.0"
