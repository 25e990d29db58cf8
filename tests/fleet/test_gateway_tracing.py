"""One trace from the client through a gateway to the server: whose child the server's spans are."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.fake_server import fake_server
from tests.fleet.test_gateway_chat import TEXT, gateway, says
from tests.service.documents import data_url, png

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def test_spans_of_the_gateway_are_parents_of_those_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    chunk = {"type": "image_url", "image_url": data_url(png())}
    with fake_server(says("text")) as server, gateway(tmp_path, server.url) as url:
        exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
        ocr = httpx.post(f"{url}/v1/ocr", json={"document": chunk}, headers=CALLER, timeout=60)
        body = {"model": "fake-reader", "messages": TEXT}
        chat = httpx.post(f"{url}/v1/chat/completions", json=body, headers=CALLER, timeout=60)
        assert (ocr.status_code, chat.status_code) == (200, 200)
        told = [headers["traceparent"].split("-")[1:3] for headers in server.headers]
    spans = {span.name: span.context for span in exporter.get_finished_spans()}
    parents = [spans["ocr.read"], spans["POST /v1/chat/completions"]]
    assert told == [[TRACE, f"{context.span_id:016x}"] for context in parents]
