"""What the service counts, under names that Prometheus scrapes beside vLLM's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vllm_dsocr import tracing
from vllm_dsocr.document.blocks import STATUSES, Page
from vllm_dsocr.pipeline.retry import RUNGS
from vllm_dsocr.server.storage.database import ENDED
from vllm_dsocr.server.work.gate import FairGate

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The service's counters, in one registry."""

    def __init__(
        self, registry: CollectorRegistry, gate: FairGate, num_ready: Callable[[], int]
    ) -> None:
        self.pages = Counter("dsocr_pages", "Pages read", ["status"], registry=registry)
        self.cached_pages = Counter(
            "dsocr_cached_pages", "Pages answered from what was read before", registry=registry
        )
        self.retries = Counter(
            "dsocr_page_retries", "Further readings of a page", ["rung"], registry=registry
        )
        self.loops = Counter(
            "dsocr_page_loops", "Readings that went round in circles", registry=registry
        )
        self.page_seconds = Histogram(
            "dsocr_page_seconds", "Seconds of a page", buckets=_SECONDS, registry=registry
        )
        self.stages = Histogram(
            "dsocr_stage_seconds",
            "Seconds of a stage",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.requests = Counter(
            "dsocr_requests", "Answers by route and status", ["route", "status"], registry=registry
        )
        self.jobs = Counter("dsocr_jobs", "Jobs ended", ["kind", "state"], registry=registry)
        self.queue = Gauge("dsocr_jobs_waiting", "Jobs that wait", registry=registry)
        running = Gauge("dsocr_pages_running", "Pages in the engine", registry=registry)
        waiting = Gauge("dsocr_pages_waiting", "Pages that wait for it", registry=registry)
        ready = Gauge("dsocr_replicas_ready", "Engines that answer", registry=registry)
        ready.set_function(num_ready)
        running.set_function(lambda: gate.num_running)
        waiting.set_function(lambda: gate.num_waiting)
        # A rate misses the first event of a series that was not there before it.
        for status in STATUSES:
            self.pages.labels(status)
        for rung in RUNGS[1:]:
            self.retries.labels(rung)

    def expect_jobs(self, kind: str) -> None:
        """Jobs of this kind are counted from nought on."""
        for state in ENDED:
            self.jobs.labels(kind, state)

    def count_page(self, page: Page, seconds: float) -> None:
        """A page was read, well or not."""
        self.pages.labels(page.status).inc()
        self.page_seconds.observe(seconds)
        for attempt in page.attempts[1:]:
            self.retries.labels(attempt.rung).inc()
        self.loops.inc(sum(attempt.outcome == "repeated" for attempt in page.attempts))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        started = time.monotonic()
        try:
            with tracing.span(f"ocr.{name}"):
                yield
        finally:
            self.stages.labels(name).observe(time.monotonic() - started)
