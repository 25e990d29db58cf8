"""The web page's files and the views behind it; the page itself in Chromium where there is one."""

from __future__ import annotations

import io
import re
import time

import httpx
import pytest
from PIL import Image

from tests.service.documents import pdf, png


def job(running, data: bytes) -> str:
    """A job that has ended well."""
    sent = httpx.post(f"{running.url}/v1/files", files={"file": ("a page.pdf", data)}).json()
    body = {"document": {"type": "file", "file_id": sent["id"]}}
    started = httpx.post(f"{running.url}/v1/ocr/jobs", json=body, timeout=60).json()
    deadline = time.monotonic() + 60
    while started["status"] not in ("success", "failure") and time.monotonic() < deadline:
        url = f"{running.url}/v1/ocr/jobs/{started['id']}"
        started = httpx.get(url, params={"wait": 5}, timeout=30).json()
    assert started["status"] == "success" and started["filename"] == "a page.pdf"
    return started["id"]


def test_the_page_needs_nothing_from_elsewhere(service):
    for path in ("/", "/web/app.js", "/web/style.css"):
        answer = httpx.get(service.url + path)
        assert answer.status_code == 200
        addresses = set(re.findall(r"https?://[\w.]+", answer.text))
        assert addresses <= {"http://www.w3.org"}  # the name of SVG
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert httpx.get(f"{service.url}/web/..%2fapp.py").status_code == 404
    about = httpx.get(f"{service.url}/web/settings/about.json").json()
    assert "markdown" in about["tasks"] and "base" in about["modes"] and not about["needs_key"]


def test_pages_pictures_and_formats_of_a_job(service):
    name = job(service, pdf(3, (160, 200)))
    url = f"{service.url}/v1/ocr/jobs/{name}"
    pages = httpx.get(f"{url}/pages", params={"numbers": [1, 3, 9]}).json()["data"]
    assert [page["number"] for page in pages] == [1, 3]
    assert "<h1>Page " in pages[0]["html"] and "data:image/png;base64," in pages[0]["html"]
    assert pages[0]["boxes"][0]["box"] == [10, 10, 900, 90]
    assert f'data-block="{pages[0]["boxes"][0]["block"]}"' in pages[0]["html"]
    picture = httpx.get(f"{url}/pages/2/image", timeout=60)
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"
    assert httpx.get(f"{url}/pages/7/image", timeout=60).status_code == 422
    for format_name in httpx.get(f"{service.url}/web/settings/about.json").json()["formats"]:
        answer = httpx.get(f"{url}/download/{format_name}", timeout=60)
        assert answer.status_code == 200, format_name
        assert "attachment" in answer.headers["content-disposition"]
    assert httpx.get(f"{url}/download/exe").status_code == 404


def test_what_a_job_shows_is_its_owners(start):
    running = start(api_keys=("one", "two"))
    mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    sent = httpx.post(f"{running.url}/v1/files", files={"file": ("a.png", png())}, headers=mine)
    body = {"document": {"type": "file", "file_id": sent.json()["id"]}}
    assert httpx.post(f"{running.url}/v1/ocr/jobs", json=body, headers=yours).status_code == 404
    created = httpx.post(f"{running.url}/v1/ocr/jobs", json=body, headers=mine, timeout=60)
    url = f"{running.url}/v1/ocr/jobs/{created.json()['id']}"
    for path in ("", "/result", "/pages?numbers=1", "/pages/1/image", "/download/md"):
        assert httpx.get(url + path, headers=yours, timeout=60).status_code == 404, path
    assert httpx.get(running.url).status_code == 200


@pytest.mark.parametrize("numbers", [[], [1] * 60])
def test_too_few_or_many_pages_are_refused(service, numbers):
    answer = httpx.get(f"{service.url}/v1/ocr/jobs/x/pages", params={"numbers": numbers})
    assert answer.status_code == 422
