"""A file of requests is answered as a file, line by line."""

from __future__ import annotations

import json
import time

import httpx

from tests.service.documents import data_url, pdf, png


def line(name: str, **body) -> dict:
    return {"custom_id": name, "method": "POST", "url": "/v1/ocr", "body": body}


def image(text: str) -> dict:
    return {"type": "image_url", "image_url": data_url(png(text=text))}


def start(running, lines: list) -> httpx.Response:
    data = "\n".join(text if isinstance(text, str) else json.dumps(text) for text in lines)
    file = httpx.post(
        f"{running.url}/v1/files", data={"purpose": "batch"}, files={"file": ("b.jsonl", data)}
    ).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/ocr", "completion_window": "24h"}
    return httpx.post(f"{running.url}/v1/batches", json=body)


def test_every_line_has_its_answer_in_order(service):
    several = {"type": "document_url", "document_url": data_url(pdf(3), "application/pdf")}
    lines = [
        line("a", document=image("batch a")),
        line("b", document=several, pages="1-2"),
        line("c", document={"type": "file", "file_id": "nothing"}),
        line("d", document=image("batch d"), mode="enormous"),
    ]
    batch = start(service, lines).json()
    assert batch["object"] == "batch"
    deadline = time.monotonic() + 60
    while batch["status"] not in ("completed", "failed") and time.monotonic() < deadline:
        time.sleep(0.05)
        batch = httpx.get(f"{service.url}/v1/batches/{batch['id']}").json()
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    output = httpx.get(f"{service.url}/v1/files/{batch['output_file_id']}/content").text
    answers = [json.loads(text) for text in output.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["a", "b", "c", "d"]
    statuses = [answer["response"]["status_code"] for answer in answers]
    assert statuses == [200, 200, 404, 422]
    assert [page["index"] for page in answers[1]["response"]["body"]["pages"]] == [1, 2]


def test_files_that_are_no_batch_are_refused(service):
    for lines, word in [
        (["not json"], "JSON"),
        ([{"body": {}}], "custom_id"),
        (["  "], "lines"),
        ([line("a", document=image("x"))] * 2, "custom_id"),
    ]:
        answer = start(service, lines)
        assert answer.status_code == 400 and word in answer.json()["message"], answer.text
