"""Jobs of `/v1/ocr`: they go on without their client and after the server was killed."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from tests.service.documents import data_url, pdf, png

SLOW = pytest.mark.slow  # each starts two servers


def document(data: bytes, kind: str = "application/pdf") -> dict:
    return {"type": "document_url", "document_url": data_url(data, kind)}


def ended(url: str, job_id: str, seconds: float = 60) -> dict:
    deadline = time.monotonic() + seconds
    job = httpx.get(f"{url}/v1/ocr/jobs/{job_id}", params={"wait": 5}, timeout=30).json()
    while job["status"] in ("pending", "started") and time.monotonic() < deadline:
        job = httpx.get(f"{url}/v1/ocr/jobs/{job_id}", params={"wait": 5}, timeout=30).json()
    return job


def test_a_job_is_started_asked_after_and_forgotten(service):
    body = {"document": document(pdf(3, (150, 190)))}
    started = httpx.post(f"{service.url}/v1/ocr/jobs", json=body, timeout=60)
    assert started.status_code == 202
    job = ended(service.url, started.json()["id"])
    assert job["status"] == "success" and job["pages_done"] == job["pages_total"] == 3
    url = f"{service.url}/v1/ocr/jobs/{job['id']}"
    assert len(httpx.get(f"{url}/result").json()["pages"]) == 3
    assert job["id"] in [j["id"] for j in httpx.get(f"{service.url}/v1/ocr/jobs").json()["data"]]
    assert httpx.delete(url).status_code == 200
    assert httpx.get(url).status_code == 404


def test_a_job_that_cannot_be_done_says_why(service):
    body = {"document": document(b"no PDF at all")}
    job = httpx.post(f"{service.url}/v1/ocr/jobs", json=body, timeout=60).json()
    job = ended(service.url, job["id"])
    assert job["status"] == "failure" and "image" in job["error"]
    answer = httpx.get(f"{service.url}/v1/ocr/jobs/{job['id']}/result")
    assert answer.status_code == 422 and "image" in answer.json()["message"]


def test_webhooks_go_to_named_hosts_only(service):
    body = {"document": document(png(), "image/png"), "webhook": "http://127.0.0.1:9/x"}
    assert httpx.post(f"{service.url}/v1/ocr/jobs", json=body).status_code == 400


@pytest.mark.parametrize("after", [pytest.param(0, marks=SLOW), 2, pytest.param(6, marks=SLOW)])
def test_a_killed_server_goes_on_where_it_was(server, after):
    url = server()
    body = {"document": document(pdf(8))}
    job = httpx.post(f"{url}/v1/ocr/jobs", json=body, timeout=60).json()
    while after and (not server.log.exists() or len(server.log.read_text().split()) < after):
        time.sleep(0.02)
    server.kill()
    url = server()
    assert ended(url, job["id"])["status"] == "success"
    answer = httpx.get(f"{url}/v1/ocr/jobs/{job['id']}/result").json()
    assert [page["index"] for page in answer["pages"]] == list(range(8))
    assert {page["status"] for page in answer["pages"]} == {"ok"}
    # Pages that were in flight are read again, finished ones are not.
    assert len(server.log.read_text().split()) <= 8 + 2


@pytest.mark.parametrize("after", ["figures/", pytest.param("results/", marks=SLOW)])
def test_a_server_killed_between_two_writes_goes_on(server, after):
    """A page's figure is there and its record is not; the result is there and the end is not."""
    url = server(die_after=after)
    body = {"document": document(pdf(4))}
    job = httpx.post(f"{url}/v1/ocr/jobs", json=body, timeout=60).json()["id"]
    server.wait()
    url = server()
    assert ended(url, job)["status"] == "success"
    pages = httpx.get(f"{url}/v1/ocr/jobs/{job}/result").json()["pages"]
    assert [page["index"] for page in pages] == list(range(4))
    assert {page["status"] for page in pages} == {"ok"}
    read = server.log.read_text().split()
    assert set(read) == {"1", "2", "3", "4"} and len(read) <= 4 + 2
    assert not list(server.data.rglob("*.tmp"))


def test_a_server_that_is_stopped_leaves_its_jobs_to_the_next_at_once(server):
    url = server()
    job = httpx.post(f"{url}/v1/ocr/jobs", json={"document": document(pdf(8))}, timeout=60).json()
    server.kill(signal.SIGTERM)
    url = server()
    assert ended(url, job["id"])["status"] == "success"
