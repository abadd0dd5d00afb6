"""The server: a bundle behind HTTP, for programs and for people.

A request is admitted (`limits`), its body becomes volumes (`bodies`, and `parsers` for files), those of several
requests go through the network together (`batching`), and the answer says what it is about (`answers`).
"""

from voxgap.server.app import create_app
from voxgap.server.limits import Settings
from voxgap.server.serving import serve

__all__ = ["Settings", "create_app", "serve"]
