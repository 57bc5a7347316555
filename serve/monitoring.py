"""What Prometheus is told: requests and their seconds, and what the scheduler did."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .scheduler import Scheduler

PATHS = (
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/models",
    "/health",
    "/metrics",
    "/admin/packs/reload",
)
PAGE = "page"  # all other paths


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
        """Requests to the endpoints that are not answered yet."""
        return self._under_way

    def begin(self, path: str) -> None:
        self._under_way += path != PAGE

    def end(self, path: str) -> None:
        self._under_way -= path != PAGE

    def count(self, path: str, status: int, seconds: float) -> None:
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _OfScheduler:
    """A collector: reads the scheduler when it is asked."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        tally = self.scheduler.tally
        yield GaugeMetricFamily(
            "dualasr_queue", "Requests waiting or under way", value=len(self.scheduler)
        )
        yield GaugeMetricFamily(
            "dualasr_packs", "Language packs loaded", value=len(self.scheduler.model.packs)
        )
        yield CounterMetricFamily(
            "dualasr_audio_seconds", "Seconds of sound decoded", value=tally.audio_s
        )
        yield CounterMetricFamily("dualasr_batches", "Batches decoded", value=tally.batches)
        windows = CounterMetricFamily(
            "dualasr_windows", "Windows decoded, by the route they took", labels=["route"]
        )
        for route, count in tally.routes.items():
            windows.add_metric([route], count)
        yield windows


class Measured:
    """ASGI middleware that counts and times what passes."""

    def __init__(self, app: ASGIApp, monitoring: Monitoring):
        self.app, self.monitoring = app, monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, counted = time.monotonic(), 500, False
        path = next((known for known in PATHS if scope["path"].startswith(known)), PAGE)

        def count() -> None:
            nonlocal counted
            if not counted:
                counted = True
                self.monitoring.count(path, status, time.monotonic() - began)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                count()  # before the client has it all: its next request may ask for the metrics
            await send(message)

        self.monitoring.begin(path)
        try:
            await self.app(scope, receive, noted)
        finally:
            count()
            self.monitoring.end(path)
