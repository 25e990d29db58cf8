"""Spans of OpenTelemetry around what this package does, where somebody in this process traces.

vLLM does with `--otlp-traces-endpoint`, `dsocr gateway` where OTEL_EXPORTER_OTLP_ENDPOINT is set.
Elsewhere opentelemetry is not even imported, and nothing here costs anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_NAME = "vllm_dsocr"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@contextmanager
def span(
    name: str, headers: Mapping[str, str] | None = None, **attributes: str | int | float
) -> Iterator[None]:
    """A span around what is done inside; `headers` of a request say whose child it is."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield
        return
    told: dict[str, Any] = {}
    if headers is not None:
        from opentelemetry.propagate import extract

        told = {"context": extract(headers), "kind": trace.SpanKind.SERVER}
    named = {f"dsocr.{key}": value for key, value in attributes.items()}
    with trace.get_tracer(_NAME).start_as_current_span(name, attributes=named, **told):
        yield


def headers() -> dict[str, str]:
    """What tells another server whose child its spans are; {} where nobody traces."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def export_if_asked(service: str) -> None:
    """Sends this process's spans where the environment says. Raises ImportError with a hint."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImportError(f"tracing needs: pip install 'vllm-dsocr[tracing]' ({error})") from error
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
