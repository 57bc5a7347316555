"""Metrics for Prometheus, and the log of requests: their seconds, and the work of the scheduler."""

import logging
import time
from collections.abc import Iterator
from urllib.parse import quote

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .scheduler import Scheduler

log = logging.getLogger("dualasr.access")

PATHS = (
    "/inference",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/models",
    "/health",
    "/metrics",
    "/admin/packs/reload",
)
PAGE = "page"  # all other paths
# What follows in a path names a session or a file of a visitor, so the log leaves it out.
_PRIVATE = ("/gradio_api/file=", "/gradio_api/heartbeat/")


class Monitoring:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, scheduler: Scheduler):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dualasr_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        buckets = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
        self.seconds = Histogram(
            "dualasr_request_seconds",
            "From request to answer",
            ["path"],
            registry=self.registry,
            buckets=buckets,
        )
        self.registry.register(_OfScheduler(scheduler))
        self._under_way = 0

    def under_way(self) -> int:
        """Return the number of requests to the endpoints that are not answered yet."""
        return self._under_way

    def begin(self, path: str) -> None:
        """Note that a request has begun."""
        self._under_way += path != PAGE

    def end(self, path: str) -> None:
        """Note that a request has ended."""
        self._under_way -= path != PAGE

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a response with its HTTP status and the seconds that it took."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _OfScheduler:
    """A collector that reads the scheduler whenever the metrics are requested."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        totals = self.scheduler.totals
        yield GaugeMetricFamily(
            "dualasr_queue", "Requests waiting or under way", value=len(self.scheduler)
        )
        yield GaugeMetricFamily(
            "dualasr_packs", "Language packs loaded", value=len(self.scheduler.model.packs)
        )
        yield CounterMetricFamily(
            "dualasr_audio_seconds", "Seconds of sound decoded", value=totals.audio_s
        )
        yield CounterMetricFamily("dualasr_batches", "Batches decoded", value=totals.batches)
        windows = CounterMetricFamily(
            "dualasr_windows", "Windows decoded, by the route they took", labels=["route"]
        )
        for route, count in totals.routes.items():
            windows.add_metric([route], count)
        yield windows


class Measured:
    """ASGI middleware that counts, times and logs what passes."""

    def __init__(self, app: ASGIApp, monitoring: Monitoring):
        self.app, self.monitoring = app, monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, counted = time.monotonic(), 500, False
        path = next((known for known in PATHS if scope["path"].startswith(known)), PAGE)
        logged = _logged(scope["path"])

        def count() -> None:
            nonlocal counted
            if not counted:
                counted = True
                seconds = time.monotonic() - began
                self.monitoring.count(path, status, seconds)
                log.info("%s %s %d %.3f s", scope["method"], logged, status, seconds)

        async def send_and_count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                count()  # before the last part is sent, as the client may read the metrics next
            await send(message)

        self.monitoring.begin(path)
        try:
            await self.app(scope, receive, send_and_count)
        finally:
            count()
            self.monitoring.end(path)


def _logged(path: str) -> str:
    """Return a path for the log: on one line, without a query, and without names of visitors."""
    private = next((start for start in _PRIVATE if path.startswith(start)), None)
    return f"{private}..." if private else quote(path[:500], errors="replace")
