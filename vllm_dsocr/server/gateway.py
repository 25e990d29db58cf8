"""`create_gateway(engine, settings)`: the service in front of servers, with their own API beside.

What the gateway counts of each server stands on `/metrics`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vllm_dsocr.fleet.forwarding import Forwarder
from vllm_dsocr.fleet.replicas import Replicas
from vllm_dsocr.fleet.routing import BalancedEngine
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.protocols import chat
from vllm_dsocr.server.settings import Settings


def create_gateway(
    engine: BalancedEngine, settings: Settings, registry: CollectorRegistry = REGISTRY
) -> FastAPI:
    """The application of `dsocr gateway`."""
    app = create_app(engine, settings, registry)
    app.include_router(chat.router)
    registry.register(ReplicaMetrics(engine.replicas))
    app.state.dsocr_forwarder = forwarder = Forwarder(engine.replicas, settings.page_seconds)
    serving = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[Any]:
        async with forwarder, serving(application) as state:
            yield state

    app.router.lifespan_context = lifespan
    return app


class ReplicaMetrics(Collector):
    """What is known of every server, at the moment of asking."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        yield self._gauge("dsocr_replica_ready", "It answers", lambda r: r.engine is not None)
        yield self._gauge("dsocr_replica_requests", "It is at", lambda r: r.num_running)
        yield self._gauge(
            "dsocr_replica_vision_tokens",
            "Vision tokens it has yet to encode",
            lambda r: r.num_outstanding_tokens,
        )
        failures = CounterMetricFamily(
            "dsocr_replica_failures", "Times it was gone or at fault", labels=["replica"]
        )
        for replica in self._replicas.all:
            failures.add_metric([replica.name], replica.failures)
        yield failures

    def _gauge(self, name: str, about: str, value: Any) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, about, labels=["replica"])
        for replica in self._replicas.all:
            family.add_metric([replica.name], value(replica))
        return family
