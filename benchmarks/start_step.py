"""Start a program and wait for its end."""

from __future__ import annotations

import subprocess
import sys

from protocol import serve

if __name__ == "__main__":
    serve(lambda: subprocess.run(sys.argv[1:], check=True, capture_output=True))
