"""Prometheus figures of one service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from orchestrator.serving.web.clips import Result
from orchestrator.serving.web.limits import Gate

PATHS = ("/", "/docs", "/health", "/metrics", "/model", "/openapi.json", "/score")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters in a registry of their own, so that two services in one process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "asd_requests", "HTTP requests by path and status.", ("path", "status"), registry=self.registry
        )
        clips = "Recordings by machine and decision (anomaly, normal, problem)."
        self.clips = Counter("asd_clips", clips, ("machine", "decision"), registry=self.registry)
        seconds = "From a request's headers to its answer."
        self.seconds = Histogram("asd_request_seconds", seconds, ("path",), registry=self.registry, buckets=SECONDS)
        gauges = {
            "asd_queue_requests": ("Score requests being received or scored.", lambda: gate.requests),
            "asd_queue_bytes": ("Uploaded bytes that they hold.", lambda: gate.bytes),
        }
        for name, (what, value) in gauges.items():
            Gauge(name, what, registry=self.registry).set_function(value)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request; paths that do not exist are counted together, or a client could make up millions."""
        known = path if path in PATHS else "other"
        self.requests.labels(known, str(status)).inc()
        self.seconds.labels(known).observe(seconds)

    def scored(self, machine: str, result: Result) -> None:
        """One recording; the machine is one that the model knows."""
        self.clips.labels(machine, result.decision or "problem").inc()

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
