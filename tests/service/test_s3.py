"""Files and results in S3, and pages read from there, over HTTP against moto's server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import fsspec
import httpx
import pytest

from tests.service.documents import pdf, png
from tests.service.test_jobs import ended
from tests.service.test_postgres import free_port, wait_for

pytest.importorskip("s3fs", reason="make test-s3 installs it")
pytest.importorskip("moto", reason="make test-s3 installs it")

BUCKET = "s3://pages"


@pytest.fixture(scope="module")
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """An empty bucket; fsspec and its S3 know the server from the environment."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: answers(url), process)
            system, root = fsspec.core.url_to_fs(BUCKET)
            system.mkdir(root)
            yield system
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def test_files_and_results_lie_in_the_bucket_and_outlive_the_server(bucket, start, tmp_path):
    first = start(storage=f"{BUCKET}/store")
    upload = {"file": ("two.pdf", pdf(2), "application/pdf")}
    file = httpx.post(f"{first.url}/v1/files", data={"purpose": "ocr"}, files=upload).json()
    body = {"document": {"type": "file", "file_id": file["id"]}}
    job = httpx.post(f"{first.url}/v1/ocr/jobs", json=body, timeout=60).json()
    assert ended(first.url, job["id"])["status"] == "success"
    assert bucket.find(f"{BUCKET}/store")

    second = start(storage=f"{BUCKET}/store")  # on the same database
    bytes_again = httpx.get(f"{second.url}/v1/files/{file['id']}/content").content
    assert bytes_again == upload["file"][1]
    result = httpx.get(f"{second.url}/v1/ocr/jobs/{job['id']}/result").json()
    assert [page["status"] for page in result["pages"]] == ["ok", "ok"]
    assert httpx.delete(f"{second.url}/v1/files/{file['id']}").status_code == 200
    assert httpx.get(f"{first.url}/v1/files/{file['id']}/content").status_code == 404


def test_a_folder_of_the_bucket_is_listed_and_fetched_page_by_page(bucket, tmp_path):
    from vllm_dsocr.fleet.batch.sources import at_hand, find_sources

    bucket.pipe(f"{BUCKET}/in/a/one.png", png(text="one"))
    bucket.pipe(f"{BUCKET}/in/two.pdf", pdf(1))
    bucket.pipe(f"{BUCKET}/in/notes.md", b"no page")
    inputs = find_sources([f"{BUCKET}/in", f"{BUCKET}/nothing"], tmp_path / "out")
    assert {file.source for file in inputs.files if not file.error} == {
        f"{BUCKET}/in/a/one.png",
        f"{BUCKET}/in/two.pdf",
    }
    (missing,) = (file.error for file in inputs.files if file.error)
    assert f"cannot fetch {BUCKET}/nothing" in str(missing)
    for file in inputs.files:
        if not file.error:
            with at_hand(file) as local:
                assert local.path.read_bytes() == bucket.cat_file(file.source)
