"""`make bench`: each headline number against its peers, measured side by side in one run.

Prints one table a question and writes bench-results/latest.json. Names on the command line choose questions:
`python benchmarks/run.py training masked_conv`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

import agreement
import augment_step
import conformal_coverage as coverage
import experiment_step
import fill_rivals
import predict_step
import server_step
from protocol import FOLDER, OURS, PEERS, compare

out = Console(highlight=False)
VOXGAP = str(Path(OURS).parent / "voxgap")


def training() -> dict[str, object]:
    """One step of the reference network: resnet3d 32/64/128 on 28³ x 1, batch 16."""
    torch = {
        f"PyTorch {dtype} {mode}": (PEERS, "torch_step.py", dtype, mode)
        for dtype in ("float32", "bfloat16")
        for mode in ("eager", "compiled")
    }
    seconds = compare(
        {
            "voxgap": (OURS, "keras_step.py", "mean"),
            "stock Keras float32": (OURS, "keras_step.py", "stock"),
            **torch,
        },
        repetitions=9,
    )
    best_torch = min(seconds[name] for name in torch)
    return {
        "seconds": seconds,
        "ratios": {
            "voxgap / stock Keras": (seconds["voxgap"] / seconds["stock Keras float32"], 0.50),
            "voxgap / best PyTorch": (seconds["voxgap"] / best_torch, 1.0),
        },
    }


def masked_conv() -> dict[str, object]:
    """The same step with masked convolutions, against the plain network."""
    seconds = compare(
        {
            "plain": (OURS, "keras_step.py", "mean"),
            "masked_conv": (OURS, "keras_step.py", "masked_conv"),
        },
        repetitions=15,
    )
    return {
        "seconds": seconds,
        "ratios": {"masked_conv / plain": (seconds["masked_conv"] / seconds["plain"], 1.10)},
    }


def knn() -> dict[str, object]:
    """Filling 300 volumes of 28³ with 20 % missing voxels from themselves."""
    seconds = compare(
        {"voxgap": (OURS, "knn_step.py", "voxgap"), "scikit-learn": (PEERS, "knn_step.py", "scikit-learn")},
        repetitions=5,
    )
    return {
        "seconds": seconds,
        "ratios": {"voxgap / scikit-learn": (seconds["voxgap"] / seconds["scikit-learn"], 1 / 6)},
    }


def augmentation() -> dict[str, object]:
    """Rotate, scale and translate a volume with gaps; the target is set against three of the peers."""
    seconds, ratios = {}, {}
    for size in (64, 128):
        found = augment_step.measure(size, gaps=True, threads=1, repetitions=11, peers=PEERS)
        seconds |= {f"{size}³ {name}": ms / 1e3 for name, ms in found["milliseconds"].items()}
        ratios[f"{size}³ voxgap / fastest of {', '.join(augment_step.RIVALS)}"] = (1 / found["ratio"], 1 / 6)
    return {"seconds": seconds, "ratios": ratios}


def loader() -> dict[str, object]:
    """An epoch of the reference network with augmentation: the CPU makes the next batch beside the step."""
    seconds = compare(
        {
            "without": (OURS, "loader_step.py", "none"),
            "with augmentation": (OURS, "loader_step.py", "default"),
        },
        repetitions=5,
    )
    return {
        "seconds": seconds,
        "ratios": {"with / without": (seconds["with augmentation"] / seconds["without"], 1.10)},
    }


def predict() -> dict[str, object]:
    """A batch of 16 volumes of 28³ through the reference network, by voxgap.load; fast is bf16 or fp16."""
    torch = {
        f"PyTorch {dtype} {mode}": (PEERS, "torch_step.py", dtype, mode, "predict")
        for dtype in ("float32", "bfloat16")
        for mode in ("eager", "compiled")
    }
    with tempfile.TemporaryDirectory() as folder:
        predict_step.make_bundle(folder)
        seconds = compare(
            {
                "voxgap": (OURS, "predict_step.py", "voxgap", folder),
                "voxgap fast": (OURS, "predict_step.py", "fast", folder),
                "keras.predict": (OURS, "predict_step.py", "keras", folder),
                "ONNX Runtime": (OURS, "predict_step.py", "onnxruntime", folder),
                **torch,
            },
            repetitions=15,
        )
    single, half = (
        min(seconds[name] for name in torch if dtype in name) for dtype in ("float32", "bfloat16")
    )
    found = agreement.measure()
    return {
        "seconds": seconds,
        "agreement": found,
        "ratios": {
            "voxgap / keras.predict": (seconds["voxgap"] / seconds["keras.predict"], 0.8),
            "voxgap / ONNX Runtime": (seconds["voxgap"] / seconds["ONNX Runtime"], 0.6),
            "voxgap / best PyTorch float32": (seconds["voxgap"] / single, 0.9),
            "fast / keras.predict": (seconds["voxgap fast"] / seconds["keras.predict"], 0.4),
            "fast / best PyTorch bfloat16": (seconds["voxgap fast"] / half, 0.9),
            f"fast: other classes, of {found['samples']:.0f}": (1 - found["agreement"], 0.001),
        },
    }


def server() -> dict[str, object]:
    """`voxgap serve` on a small network for sample:motion, raw float32 bodies; each client sends 8 requests."""
    seconds: dict[str, float] = {}
    ratios: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        server_step.make_bundle(folder)
        for engine in ("openvino", "keras"):
            clients = (OURS, "server_step.py", "clients", folder, engine)
            found = compare(
                {
                    "no server": (OURS, "server_step.py", "runtime", folder, engine, "1"),
                    "no server, batches of 16": (OURS, "server_step.py", "runtime", folder, engine, "16"),
                    "1 client": (*clients, "1", "16"),
                    "16 clients": (*clients, "16", "16"),
                    "16 clients, batches of one": (*clients, "16", "1"),
                },
                repetitions=15,
            )
            seconds |= {f"{engine}: {name}": value for name, value in found.items()}
            extra = 1e3 * (found["1 client"] - found["no server"]) / server_step.REQUESTS
            ratios[f"{engine}: a request through the server, extra ms"] = (extra, 5.0)
            batching = found["16 clients"] / found["16 clients, batches of one"]
            ratios[f"{engine}: 16 clients, batches / batches of one"] = (batching, 0.5)
            # No server can gain more by batching than the network does alone.
            alone = found["no server, batches of 16"] / (16 * found["no server"])
            ratios[f"{engine}: the network alone, batches of 16 / batches of one"] = (alone, 0.5)
    return {"seconds": seconds, "ratios": ratios}


def start() -> dict[str, object]:
    """How long a person waits for help, and a program for the import."""
    seconds = compare(
        {
            "voxgap --help": (OURS, "start_step.py", VOXGAP, "--help"),
            "import voxgap": (OURS, "start_step.py", OURS, "-c", "import voxgap"),
            "python -c pass": (OURS, "start_step.py", OURS, "-c", "pass"),
        },
        repetitions=9,
    )
    return {"seconds": seconds, "ratios": {"voxgap --help, seconds": (seconds["voxgap --help"], 0.5)}}


def experiment() -> dict[str, object]:
    """Eight strategies on sample:brain, 3 folds: one experiment against eight scripts of Keras and scikit-learn."""
    found = experiment_step.measure()
    pairs = f"of {len(found['decided'])} pairs that the scripts tell apart, in another order"
    return {
        **found,
        "ratios": {"voxgap / stock scripts": (found["ratio"], 0.5), pairs: (len(found["against"]), 0)},
    }


def guarantees() -> dict[str, object]:
    """Coverage of 0.9 over 200 random splits, in the pattern of gaps that has least, and sizes; minutes, no timings."""
    ratios: dict[str, tuple[float, float]] = {}
    for task in coverage.TASKS:
        found = coverage.measure(task, peers=PEERS)
        coverage.show(task, found)
        least, theirs = (
            min(each) for each in zip(*((p.mean, p.peer_mean) for p in found.values()), strict=True)
        )
        ratios[f"{task}: below what was asked for, voxgap (MAPIE {coverage.ASKED - theirs:.3f})"] = (
            max(0.0, coverage.ASKED - least),
            0.01,
        )
        over = max(p.mean - coverage.ASKED - 1 / (p.samples + 1) for p in found.values())
        ratios[f"{task}: above it, but for 1/(n+1)"] = (max(0.0, over), 0.01)
        ratios[f"{task}: sets, voxgap / that know the pattern"] = (max(p.ratio for p in found.values()), 1.15)
    return {"seconds": {}, "ratios": ratios}


def fills() -> dict[str, object]:
    """Half of the frames of sample:motion, and with ALBORAN= points of a sea: errors beside those of peers."""
    found = fill_rivals.motion()
    errors = found["errors"]
    best = min((name for name in fill_rivals.RIVALS if name in errors), key=errors.__getitem__)
    ratios = {f"motion: {name} / {best}": (errors[name] / errors[best], 1.0) for name in fill_rivals.OWN}
    if file := os.environ.get("ALBORAN"):
        field = fill_rivals.alboran(file, os.environ.get("DINEOF"))
        own, (peer, theirs) = field["kriging"], list(field.items())[1]
        ratios |= {
            f"Alboran, {trial}: kriging / {peer}": (own[trial] / theirs[trial], 1.0) for trial in theirs
        }
        found |= field
    return {**found, "ratios": ratios}


QUESTIONS: dict[str, Callable[[], dict[str, object]]] = {
    "training": training,
    "masked_conv": masked_conv,
    "knn": knn,
    "fills": fills,
    "augmentation": augmentation,
    "loader": loader,
    "predict": predict,
    "experiment": experiment,
    "server": server,
    "start": start,
    "guarantees": guarantees,
}


def show(name: str, question: str, result: dict[str, object]) -> None:
    """Print one table: seconds, then ratios beside what they should be at most."""
    table = Table(title=f"{name}: {question}", title_justify="left", title_style="bold", box=None)
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("at most", justify="right")
    for label, value in result["seconds"].items():
        table.add_row(label, f"{value:.4f}")
    for label, (value, goal) in result["ratios"].items():
        table.add_row(
            f"[bold]{label}[/]", f"[{'green' if value <= goal else 'red'}]{value:.3f}[/]", f"{goal:.3f}"
        )
    out.print(table)
    out.print()


def main() -> None:
    chosen = sys.argv[1:] or list(QUESTIONS)
    unknown = set(chosen) - set(QUESTIONS)
    if unknown:
        sys.exit(f"no question {', '.join(unknown)}: choose from {', '.join(QUESTIONS)}")
    results = {}
    for name in chosen:
        results[name] = QUESTIONS[name]()
        show(name, str(QUESTIONS[name].__doc__), results[name])
    record = {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "results": results,
    }
    file = FOLDER.parent / "bench-results" / "latest.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(record, indent=2) + "\n")
    out.print(f"written: {file.relative_to(FOLDER.parent)}")


if __name__ == "__main__":
    main()
