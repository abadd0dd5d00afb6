"""Fair timing of several programs: each is its own process, and they take turns, one repetition at a time.

Only the standard library: the peers run in a virtual environment of their own, where voxgap is not installed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
OURS = sys.executable
PEERS = str(FOLDER.parent / ".venv-peers" / "bin" / "python")


def serve(step: Callable[[], object], warm_up: int = 2) -> None:
    """Run `step` once for each line on standard input and answer with its seconds."""
    # What libraries print must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for _ in range(warm_up):
        step()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(time.perf_counter() - started, file=answers, flush=True)


class Contender:
    """One program in a comparison.

    Args:
        name: how the table calls it.
        python: the interpreter to run it with.
        arguments: script beside this file and its arguments.
    """

    def __init__(self, name: str, python: str, *arguments: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(FOLDER / arguments[0]), *arguments[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}")
        return line.strip()

    def time(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(contenders: dict[str, tuple[str, ...]], repetitions: int) -> dict[str, float]:
    """Median seconds of each contender; they warm up one after the other, then take turns.

    Args:
        contenders: name -> (interpreter, script, arguments...).
        repetitions: of each.
    """
    running = []
    try:
        for name, (python, *arguments) in contenders.items():
            running.append(Contender(name, python, *arguments))
            running[-1].answer()
        times: dict[str, list[float]] = {c.name: [] for c in running}
        for _ in range(repetitions):
            for contender in running:
                times[contender.name].append(contender.time())
    finally:
        for contender in running:
            contender.close()
    return {name: statistics.median(values) for name, values in times.items()}
