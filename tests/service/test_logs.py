"""What an operator sees of requests and jobs: lines of JSON, spans of OpenTelemetry."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fake_server import fake_server
from tests.service.documents import data_url, pdf, png
from vllm_dsocr.server.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"


def ocr(url: str, data: bytes, kind: str = "image/png", **headers: str) -> httpx.Response:
    body = {"document": {"type": "document_url", "document_url": data_url(data, kind)}}
    return httpx.post(f"{url}/v1/ocr", json=body, headers=headers, timeout=60)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """`dsocr gateway` as an operator starts it, and its log."""
    log = tmp_path / "log"
    program = Path(sys.executable).with_name("dsocr")
    with fake_server() as server, log.open("w") as output:
        place = ["--port", "0", "--data", tmp_path / "data", "--draw-processes", "1"]
        process = subprocess.Popen(
            [program, "gateway", "--server", server.url, *place, "--log-format", "json"],
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        try:
            yield _address(process, log), log
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=60)[0] == b""
            assert process.returncode in (0, -signal.SIGTERM)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            url = line.partition("running on ")[2].partition(" ")[0]
            if url:
                return url
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_every_line_is_json_and_says_which_request_it_is_about(gateway) -> None:
    url, log = gateway
    answer = ocr(url, png(), **{"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and answer.status_code == 200
    other = ocr(url, b"no picture").headers["x-request-id"]
    httpx.get(f"{url}/livez")
    body = {"document": {"type": "image_url", "image_url": data_url(png(text="job"))}}
    job = httpx.post(f"{url}/v1/ocr/jobs", json=body).json()["id"]
    httpx.get(f"{url}/v1/ocr/jobs/{job}", params={"wait": 30}, timeout=60)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    (mine,) = (line for line in lines if line.get("request_id") == "mine-1")
    assert mine["message"] == "POST /v1/ocr: 200"
    assert mine["status"] == 200 and mine["seconds"] > 0
    assert [line["status"] for line in lines if line.get("request_id") == other] == [422]
    assert not any("livez" in line["message"] for line in lines)
    assert [line["state"] for line in lines if line.get("job") == job and "state" in line]


def test_a_fault_is_logged_with_its_request_and_its_traceback(start, monkeypatch) -> None:
    from vllm_dsocr.server import logs

    running = start()

    async def broken(*arguments, **more):
        raise RuntimeError("secret")

    monkeypatch.setattr(running.app.state.dsocr_service, "read", broken)
    formatter, lines = logs.JsonLines(), []
    monkeypatch.setattr(
        logging.getLogger("vllm_dsocr.server.routes"),
        "handle",
        lambda record: lines.append(formatter.format(record)),
    )
    answer = ocr(running.url, png(text="fault"))
    assert answer.status_code == 500 and "secret" not in answer.text
    (line,) = map(json.loads, lines)
    assert line["request_id"] == answer.json()["request_id"]
    assert "RuntimeError: secret" in line["exception"] and line["level"] == "error"


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="log_format is one of text, json"):
        Settings(log_format="xml")


def test_spans_of_a_request_belong_together(start, monkeypatch) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    running = start()
    parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    assert ocr(running.url, pdf(2), "application/pdf", **parent).status_code == 200
    spans = exporter.get_finished_spans()
    names = [span.name for span in spans]
    assert sorted(names) == sorted(["ocr.draw", "ocr.read", "ocr.page"] * 2 + ["POST /v1/ocr"])
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    by_id = {span.context.span_id: span for span in spans}
    for span in spans:
        above = by_id.get(span.parent.span_id)
        expected = {"ocr.page": "POST /v1/ocr", "POST /v1/ocr": None}.get(span.name, "ocr.page")
        assert (above.name if above else None) == expected
    pages = [span for span in spans if span.name == "ocr.page"]
    assert {span.attributes["dsocr.page"] for span in pages} == {1, 2}


def test_the_next_server_is_told_whose_child_its_spans_are(monkeypatch) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from vllm_dsocr import tracing

    monkeypatch.setattr(trace, "get_tracer", sdk.TracerProvider().get_tracer)
    assert tracing.headers() == {}
    with tracing.span("here", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}):
        assert tracing.headers()["traceparent"].split("-")[1] == TRACE


def test_nothing_of_opentelemetry_is_imported_where_nobody_traces() -> None:
    code = (
        "import sys; from vllm_dsocr import tracing\n"
        "with tracing.span('a', {}): assert tracing.headers() == {}\n"
        "tracing.export_if_asked('x')\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
