"""docling-serve's API as its clients use it: at once, as a task, over a WebSocket."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.fake_engine import FakeEngine
from tests.service.documents import pdf, png
from vllm_dsocr.engine import Completion, EngineError

ALL_FORMATS = ["md", "json", "html", "text", "doctags"]
# What docling-serve's own tests send; most of it means nothing here.
FOREIGN_OPTIONS = {
    "from_formats": ["docx", "pptx", "html", "image", "pdf"],
    "ocr": True,
    "force_ocr": False,
    "ocr_engine": "easyocr",
    "pdf_backend": "dlparse_v2",
    "table_mode": "fast",
    "abort_on_error": False,
}


def source(data: bytes, name: str = "a.png") -> dict:
    return {"kind": "file", "base64_string": base64.b64encode(data).decode(), "filename": name}


def wait_for(running, task: dict) -> dict:
    url = f"{running.url}/v1/status/poll/{task['task_id']}"
    deadline = time.monotonic() + 60
    while task["task_status"] not in ("success", "failure") and time.monotonic() < deadline:
        task = httpx.get(url, params={"wait": 5}, timeout=30).json()
    return task


@pytest.mark.parametrize("kind", ["presigned_url", "s3", "put", "x"])
def test_targets_that_are_storages_are_refused_in_words_its_client_knows(service, kind):
    """It asks for a presigned URL first, and for the document where that is not to be had."""
    files = {"files": ("a.png", png(text=f"target {kind}"), "image/png")}
    before = httpx.get(f"{service.url}/v1/files").json()["total"]
    form = {"target_type": kind, "page_range": [1, 9223372036854775807]}
    body = {"sources": [source(png(text=f"target {kind}"))], "target": {"kind": kind}}
    for route in ("/v1/convert/file", "/v1/convert/file/async"):
        answer = httpx.post(service.url + route, files=files, data=form, timeout=60)
        assert answer.status_code == 400
        assert "artifact storage to be configured" in answer.json()["detail"]
    for route in ("/v1/convert/source", "/v1/convert/source/async"):
        answer = httpx.post(service.url + route, json=body, timeout=60)
        assert answer.status_code == 400 and kind in answer.json()["detail"]
    assert httpx.get(f"{service.url}/v1/files").json()["total"] == before


def test_tasks_without_a_result_say_so_in_its_words(service):
    nothing = httpx.get(f"{service.url}/v1/result/{'0' * 32}")
    assert (nothing.status_code, nothing.json()["detail"]) == (404, "Task not found.")
    assert httpx.get(f"{service.url}/v1/status/poll/x").json()["detail"] == "Task not found."
    body = {"sources": [source(b"no picture")]}
    task = httpx.post(f"{service.url}/v1/convert/source/async", json=body, timeout=60).json()
    task = wait_for(service, task)
    assert task["task_status"] == "failure" and "image" in task["error_message"]
    result = httpx.get(f"{service.url}/v1/result/{task['task_id']}")
    assert result.status_code == 404
    assert result.json()["detail"].startswith("Task result not found: ")


def test_a_file_is_converted_into_every_format(service):
    data = {**FOREIGN_OPTIONS, "to_formats": ALL_FORMATS, "image_export_mode": "placeholder"}
    answer = httpx.post(
        f"{service.url}/v1/convert/file",
        files={"files": ("a.pdf", pdf(2), "application/pdf")},
        data=data,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    document = body["document"]
    assert body["status"] == "success" and body["errors"] == [] and body["processing_time"] > 0
    assert document["filename"] == "a.pdf"
    assert document["md_content"].count("# Page ") == 2
    assert "<!-- image -->" in document["md_content"] and "](" not in document["md_content"]
    assert document["json_content"]["schema_name"] == "DoclingDocument"
    assert len(document["json_content"]["pages"]) == 2
    assert document["html_content"].startswith("<!DOCTYPE html>\n<html>\n<head>")
    assert "Page " in document["text_content"]
    assert "<doctag>" in document["doctags_content"]


def test_only_what_was_asked_for_is_there(service):
    body = {"sources": [source(png())], "options": {"image_export_mode": "embedded"}}
    answer = httpx.post(f"{service.url}/v1/convert/source", json=body, timeout=60).json()
    assert "](data:image/png;base64," in answer["document"]["md_content"]
    assert answer["document"]["html_content"] is None


def test_a_page_range_is_kept(service):
    body = {
        "sources": [source(pdf(4), "a.pdf")],
        "options": {"to_formats": ["json"], "page_range": [2, 3]},
    }
    answer = httpx.post(f"{service.url}/v1/convert/source", json=body, timeout=60).json()
    assert sorted(answer["document"]["json_content"]["pages"]) == ["2", "3"]


def test_several_files_come_as_a_zip(service):
    files = [("files", ("a.png", png(text="one"))), ("files", ("a.png", png(text="two")))]
    answer = httpx.post(f"{service.url}/v1/convert/file", files=files, timeout=60)
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert sorted(archive.namelist()) == ["a.md", "a~2.md"]


def test_a_task_is_started_watched_and_cleared(service):
    body = {"sources": [source(pdf(3, (130, 170)), "a.pdf")], "options": {"to_formats": ["json"]}}
    task = httpx.post(f"{service.url}/v1/convert/source/async", json=body, timeout=60).json()
    assert task["task_type"] == "convert" and task["task_status"] in ("pending", "started")
    assert wait_for(service, task)["task_status"] == "success"
    for _ in range(2):
        result = httpx.get(f"{service.url}/v1/result/{task['task_id']}")
        assert result.json()["document"]["json_content"]["schema_name"] == "DoclingDocument"
    cleared = httpx.get(f"{service.url}/v1/clear/results", params={"older_then": 0})
    assert cleared.json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/v1/result/{task['task_id']}").status_code == 404


def test_a_task_is_followed_over_a_websocket(service):
    files = {"files": ("a.pdf", pdf(2, (140, 180)))}
    task = httpx.post(f"{service.url}/v1/convert/file/async", files=files, timeout=60).json()
    address = f"{service.url.replace('http', 'ws')}/v1/status/ws/{task['task_id']}?api_key="
    with connect(address) as socket:
        messages = [json.loads(message) for message in socket]
    assert messages[0]["message"] == "connection"
    assert {message["message"] for message in messages[1:]} == {"update"}
    assert messages[-1]["task"]["task_status"] == "success"


def test_a_websocket_of_no_task_says_so(service):
    with connect(f"{service.url.replace('http', 'ws')}/v1/status/ws/nothing") as socket:
        assert json.loads(socket.recv())["message"] == "error"
        with pytest.raises(ConnectionClosed):
            socket.recv()


def test_a_websocket_needs_the_key(start):
    running = start(api_keys=("secret",))
    address = f"{running.url.replace('http', 'ws')}/v1/status/ws/nothing"
    with pytest.raises(InvalidStatus):
        connect(address)
    with connect(f"{address}?api_key=secret") as socket:
        assert json.loads(socket.recv())["message"] == "error"


def test_a_failed_page_makes_a_partial_success(start):
    def answer(request):
        if request.seed == 2:
            raise EngineError("no")
        return Completion("text of a page", "stop", 4)

    body = {"sources": [source(pdf(3), "a.pdf")]}
    answered = httpx.post(
        f"{start(FakeEngine(answer)).url}/v1/convert/source", json=body, timeout=60
    ).json()
    assert answered["status"] == "partial_success"
    assert [error["error_message"] for error in answered["errors"]] == ["page 2: no"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sources": []}, 422),
        ({"sources": [{"kind": "http", "url": "http://127.0.0.1/a.pdf"}]}, 400),
        ({"sources": [source(b"nothing", "a.pdf")]}, 422),
        ({"sources": [source(png())], "options": {"page_range": [3, 1]}}, 422),
        ({"sources": [source(png())], "options": {"to_formats": ["latex"]}}, 422),
        ({"sources": [{"kind": "s3"}]}, 422),
    ],
)
def test_bad_requests(service, body, status):
    answer = httpx.post(f"{service.url}/v1/convert/source", json=body, timeout=60)
    assert answer.status_code == status, answer.text


def test_forms_without_files_are_refused(service):
    answer = httpx.post(f"{service.url}/v1/convert/file", data={"to_formats": "md"})
    assert answer.status_code == 422


@pytest.mark.parametrize("route", ["hybrid/source", "hybrid/file/async", "hierarchical/file"])
def test_chunking_is_refused_with_what_to_do_instead(service, route):
    answer = httpx.post(f"{service.url}/v1/chunk/{route}", json={"sources": []})
    assert answer.status_code == 404 and "download/chunks" in answer.json()["detail"]
