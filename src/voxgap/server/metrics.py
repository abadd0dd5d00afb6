"""What Prometheus reads: requests, batches, files, reloads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "voxgap_requests", "Answered requests.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "voxgap_request_seconds",
            "From first byte to answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "voxgap_batch_volumes",
            "Volumes that went together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.predict = Histogram(
            "voxgap_predict_seconds", "In the network.", buckets=_SECONDS, registry=self.registry
        )
        self.missing = Histogram(
            "voxgap_missing_rate",
            "Of the volumes.",
            buckets=[n / 10 for n in range(11)],
            registry=self.registry,
        )
        self.warnings = Counter(
            "voxgap_input_warnings", "Answers with a warning of their input.", registry=self.registry
        )
        self.parsers_lost = Counter(
            "voxgap_parsers_lost", "Parsing processes that died or were too slow.", registry=self.registry
        )
        self.reloads = Counter("voxgap_reloads", "New bundles.", ["result"], registry=self.registry)
        self.model = Gauge(
            "voxgap_model_info", "The bundle that answers.", ["name", "sha256"], registry=self.registry
        )

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Add a number that is asked for whenever Prometheus is."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all of it, in Prometheus's text format."""
        return generate_latest(self.registry)
