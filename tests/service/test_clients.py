"""Unmodified clients of others, pointed at the served reader; each gets the page's words."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow  # a server of its own; make test-clients

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "page.png"
WORDS = (ROOT / "examples" / "page.txt").read_text().split()
KEY = "sesame"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`dsocr serve examples/reader` with a key; the address without /v1."""
    folder = tmp_path_factory.mktemp("service")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("dsocr")
    flags = ["--host=127.0.0.1", f"--port={port}", "--served-model-name=reader"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "serve", ROOT / "examples" / "reader", *flags, f"--api-key={KEY}"],
            env={
                **os.environ,
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "DSOCR_DATA": str(folder / "data"),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 500
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log").read_text()[-4000:], pytrace=False)
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def data_url() -> str:
    return f"data:image/png;base64,{base64.b64encode(PAGE.read_bytes()).decode()}"


def assert_words(text: str) -> None:
    """The reader makes a mistake now and then: nine words of ten are enough to know the page."""
    found = set(text.split())
    assert sum(word in found for word in WORDS) >= 0.9 * len(WORDS), text


def test_mistralai(reader):
    client = pytest.importorskip("mistralai.client")
    with client.Mistral(api_key=KEY, server_url=reader) as mistral:
        answer = mistral.ocr.process(
            model="mistral-ocr-latest",
            document={"type": "image_url", "image_url": data_url()},
            include_image_base64=True,
            include_blocks=True,
        )
        assert_words(answer.pages[0].markdown)
        assert answer.usage_info.pages_processed == 1
        with PAGE.open("rb") as content:
            sent = mistral.files.upload(
                file={"file_name": "page.png", "content": content}, purpose="ocr"
            )
        signed = mistral.files.get_signed_url(file_id=sent.id)
        answer = mistral.ocr.process(
            model="reader", document={"type": "document_url", "document_url": signed.url}
        )
        assert_words(answer.pages[0].markdown)
        assert any(file.id == sent.id for file in mistral.files.list().data)
        assert mistral.files.delete(file_id=sent.id).deleted


def test_mistralai_with_confidence_and_a_model_that_is_not_there(reader):
    client = pytest.importorskip("mistralai.client")
    document = {"type": "image_url", "image_url": data_url()}
    with client.Mistral(api_key=KEY, server_url=reader) as mistral:

        def read(granularity):
            return mistral.ocr.process(
                model="reader",
                document=document,
                include_blocks=True,
                confidence_scores_granularity=granularity,
            ).pages[0]

        page = read("word")
        words = page.confidence_scores.word_confidence_scores
        assert_words(" ".join(word.text for word in words).replace("\\", ""))
        assert all(0 < word.confidence <= 1 for word in words)
        assert all(page.markdown[w.start_index :].startswith(w.text) for w in words)
        whole = read("page").confidence_scores
        assert 0.5 < whole.average_page_confidence_score <= 1
        with pytest.raises(client.errors.SDKError, match="there is no model"):
            mistral.ocr.process(model="gpt-4o", document=document)


def test_litellm(reader, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network first
    litellm = pytest.importorskip("litellm")
    answer = litellm.ocr(
        model="mistral/deepseek-ocr",
        document={"type": "image_url", "image_url": data_url()},
        api_key=KEY,
        api_base=f"{reader}/v1",
    )
    assert_words(answer.pages[0].markdown)
    assert answer.usage_info.pages_processed == 1


def test_openai_chat_beside_it(reader):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{reader}/v1", api_key=KEY)
    content = [
        {"type": "image_url", "image_url": {"url": data_url()}},
        {"type": "text", "text": "Free OCR."},
    ]
    answer = client.chat.completions.create(
        model="reader", messages=[{"role": "user", "content": content}]
    )
    assert_words(answer.choices[0].message.content)


def test_openai_files_and_batches(reader):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{reader}/v1", api_key=KEY)
    line = (
        '{"custom_id": "a", "method": "POST", "url": "/v1/ocr", "body": {"document": '
        f'{{"type": "image_url", "image_url": "{data_url()}"}}}}}}'
    )
    sent = client.files.create(file=("b.jsonl", line.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=sent.id, endpoint="/v1/ocr", completion_window="24h"
    )
    deadline = time.monotonic() + 100
    while batch.status not in ("completed", "failed") and time.monotonic() < deadline:
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    output = client.files.content(batch.output_file_id)
    assert_words(output.read().decode().replace("\\n", " "))


def test_docling_with_its_own_header(reader):
    body = {
        "sources": [
            {
                "kind": "file",
                "base64_string": base64.b64encode(PAGE.read_bytes()).decode(),
                "filename": "page.png",
            }
        ],
        "options": {"to_formats": ["md", "json"], "do_ocr": True},
    }
    answer = httpx.post(
        f"{reader}/v1/convert/source", json=body, headers={"X-Api-Key": KEY}, timeout=100
    )
    assert_words(answer.json()["document"]["md_content"])


def test_doclings_own_client_of_docling_serve(reader, tmp_path):
    service_client = pytest.importorskip("docling.service_client")
    options = {"url": reader, "api_key": KEY}
    for watcher in service_client.StatusWatcherKind:
        with service_client.DoclingServiceClient(status_watcher=watcher, **options) as client:
            assert client.health().status == "ok"
            converted = client.convert(source=PAGE)
            assert converted.status.value == "success"
            assert_words(converted.document.export_to_markdown().replace("\\", ""))
    with service_client.DoclingServiceClient(**options) as client:
        done = list(client.convert_all(source=[PAGE, PAGE], max_concurrency=2))
        assert [item.status.value for item in done] == ["success", "success"]
        (tmp_path / "bad.pdf").write_bytes(b"no PDF")
        with pytest.raises(service_client.TaskExecutionError, match="image"):
            client.convert(source=tmp_path / "bad.pdf")


def test_doclings_pipeline_with_a_remote_model(reader):
    pytest.importorskip("docling.pipeline.vlm_pipeline")
    from docling.datamodel.base_models import InputFormat
    from docling.datamodel.pipeline_options import VlmPipelineOptions
    from docling.datamodel.pipeline_options_vlm_model import ApiVlmOptions, ResponseFormat
    from docling.document_converter import DocumentConverter, ImageFormatOption
    from docling.pipeline.vlm_pipeline import VlmPipeline

    model = ApiVlmOptions(
        url=f"{reader}/v1/chat/completions",
        params={"model": "reader"},
        headers={"Authorization": f"Bearer {KEY}"},
        prompt="Free OCR.",
        timeout=100,
        response_format=ResponseFormat.DEEPSEEKOCR_MARKDOWN,
    )
    options = VlmPipelineOptions(enable_remote_services=True, vlm_options=model)
    image = ImageFormatOption(pipeline_cls=VlmPipeline, pipeline_options=options)
    converted = DocumentConverter(format_options={InputFormat.IMAGE: image}).convert(PAGE)
    assert_words(converted.document.export_to_markdown().replace("\\", ""))


def test_open_webui_loader(reader):
    headers = {
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "image/png",
        "X-Filename": "a%20page.png",
    }
    answer = httpx.put(
        f"{reader}/process", content=PAGE.read_bytes(), headers=headers, timeout=100
    ).json()
    assert_words(answer[0]["page_content"])
    assert answer[0]["metadata"]["source"] == "a page.png"


def test_nothing_but_health_metrics_and_the_page_is_open(reader):
    paths = httpx.get(f"{reader}/openapi.json", timeout=60).json()["paths"]
    assert {"/v1/ocr", "/v1/files", "/v1/convert/source", "/process"} <= set(paths)
    for path in ("/v1/ocr", "/process", "/v1/files", "/v1/ocr/jobs", "/v1/batches"):
        method = {"/v1/ocr": "POST", "/process": "PUT"}.get(path, "GET")
        assert httpx.request(method, reader + path, timeout=60).status_code == 401, path
    for path in ("/", "/readyz", "/livez", "/health"):
        assert httpx.get(reader + path, timeout=60).status_code == 200, path
    assert "dsocr_pages_total" in httpx.get(f"{reader}/metrics", timeout=60).text
