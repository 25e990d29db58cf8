"""What attackers, accidents and impatient clients do: each gets its answer, the service goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from tests.fake_engine import FakeEngine
from tests.page.pdfs import encrypted_pdf, written_pdf
from tests.service.documents import data_url, pdf, png
from vllm_dsocr.server.settings import Settings


class Held(FakeEngine):
    """Holds pages until it is told to let go, and counts those that were cancelled."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.go = threading.Event()
        self.num_running = self.num_cancelled = 0

    async def complete(self, request):
        self.num_running += 1
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.01)
            return await super().complete(request)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1


def ocr(running, data: bytes, kind: str = "application/pdf", **more) -> httpx.Response:
    body = {"document": {"type": "document_url", "document_url": data_url(data, kind)}, **more}
    return httpx.post(f"{running.url}/v1/ocr", json=body, timeout=60)


def soon(true, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def refused(answer: httpx.Response, *statuses: int) -> str:
    """The sentence of a refusal; nothing of the server's insides is in it."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    message = answer.json()["message"]
    assert message and "\n" not in message and len(message) < 300
    assert not any(word in answer.text for word in ("Traceback", "/tmp", "vllm_dsocr", ".py"))
    return message


def works(running) -> None:
    answer = ocr(running, png(text=os.urandom(4).hex()), "image/png")
    assert answer.status_code == 200 and answer.json()["pages"][0]["status"] == "ok"


# who hangs up


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_stops_what_runs_and_frees_its_place(start, stream):
    engine = Held(max_in_flight=2)
    running = start(engine, max_documents=1)
    body = {
        "document": {"type": "document_url", "document_url": data_url(pdf(5), "application/pdf")},
        "stream": stream,
    }
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream("POST", f"{running.url}/v1/ocr", json=body, timeout=3) as answer,
    ):
        soon(lambda: engine.num_running)
        assert ocr(running, png(), "image/png").status_code == 429  # the only place is taken
        answer.read()
    soon(lambda: engine.num_running == 0)
    assert engine.num_cancelled >= 1
    assert running.app.state.dsocr_service.gate.num_running == 0
    engine.go.set()
    works(running)


def test_a_stream_of_what_cannot_be_read_ends(service):
    body = {
        "document": {"type": "document_url", "document_url": data_url(b"no", "application/pdf")},
        "stream": True,
    }
    with httpx.stream("POST", f"{service.url}/v1/ocr", json=body, timeout=20) as answer:
        assert "event: error" in answer.read().decode()


def test_a_stream_whose_work_breaks_down_ends_with_an_error(start, monkeypatch):
    running = start()

    async def broken(*arguments, **more):
        raise RuntimeError("secret")

    monkeypatch.setattr(running.app.state.dsocr_service, "read", broken)
    body = {
        "document": {"type": "document_url", "document_url": data_url(png())},
        "stream": True,
    }
    with httpx.stream("POST", f"{running.url}/v1/ocr", json=body, timeout=20) as answer:
        text = answer.read().decode()
    assert "event: error" in text and "secret" not in text


def test_too_many_at_once_are_told_to_come_again(start):
    engine = Held(max_in_flight=4)
    running = start(engine, max_documents=8)
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(ocr, running, png(text=str(n)), "image/png") for n in range(200)]
        soon(lambda: sum(answer.done() for answer in answers) == 192, 60)
        engine.go.set()
        codes = [answer.result().status_code for answer in answers]
    assert codes.count(200) == 8 and codes.count(429) == 192
    late = next(answer.result() for answer in answers if answer.result().status_code == 429)
    assert int(late.headers["retry-after"]) > 0
    assert engine.most_at_a_time <= 4
    works(running)


def test_bodies_of_all_clients_together_are_bounded(start):
    engine = Held(max_in_flight=2)
    running = start(engine, max_incoming_bytes=100_000)
    large = {"id": "x" * 80_000}  # one alone gets in
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ocr, running, png(), "image/png", **large)
        soon(lambda: engine.num_running)
        late = ocr(running, png(), "image/png", **large)
        assert late.status_code == 429 and int(late.headers["retry-after"]) > 0
        engine.go.set()
        assert first.result().status_code == 200
    assert running.app.state.dsocr_service.incoming_bytes == 0
    assert ocr(running, png(), "image/png", id="x" * 200_000).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_body_that_does_not_say_how_long_it_is_is_bounded(start, kind):
    running = start(max_file_bytes=1000)

    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 65536

    route = "/v1/ocr" if kind == "application/json" else "/v1/files"
    headers = {"Content-Type": kind}
    answer = httpx.post(running.url + route, content=pieces(), headers=headers, timeout=30)
    refused(answer, 413)


# files


def bomb_png(width: int, height: int) -> bytes:
    """A picture of that size in very few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + tail

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def content_pdf(content: bytes, filters: str = "/FlateDecode") -> bytes:
    """A PDF of one page with that content, compressed as the filters say."""
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R >>",
        f"<< /Length {len(content)} /Filter [{filters}] >>\nstream\n".encode()
        + content
        + b"\nendstream",
    ]
    body = b"%PDF-1.4\n"
    for number, part in enumerate(parts, 1):
        body += f"{number} 0 obj\n".encode() + part + b"\nendobj\n"
    return body + b"trailer << /Size 5 /Root 1 0 R >>\n%%EOF\n"


def zeros(num_bytes: int, times: int = 1) -> bytes:
    """So many spaces, compressed that many times over."""
    packer = zlib.compressobj(9)
    block = b" " * (1 << 20)
    data = b"".join(packer.compress(block) for _ in range(num_bytes >> 20)) + packer.flush()
    for _ in range(times - 1):
        data = zlib.compress(data, 9)
    return data


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\n", "application/pdf"),
        (pdf(3)[:-400], "application/pdf"),
        (pdf(2)[:300], "application/pdf"),
        (encrypted_pdf(), "application/pdf"),
        (written_pdf([(0, 0)]), "application/pdf"),
        (png()[:200], "image/png"),
        (b"PK\x03\x04" + b"\0" * 100, "application/zip"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "image/eps"),
        (b"\0" * 1000, "image/png"),
        (bomb_png(60_000, 60_000), "image/png"),
        (bomb_png(2_000_000_000, 2_000_000_000), "image/png"),
    ],
)
def test_bad_files_are_refused_or_failed_pages(service, data, kind):
    answer = ocr(service, data, kind)
    if answer.status_code != 200:
        refused(answer, 413, 415, 422)
    else:  # what is left of a damaged file may be read
        for page in answer.json()["pages"]:
            assert page["status"] == "ok" or page["reason"]
            assert "/tmp" not in (page.get("reason") or "")
    works(service)


def test_an_empty_file_is_refused(service):
    refused(ocr(service, b"", "image/png"), 422)
    answer = httpx.post(f"{service.url}/v1/files", files={"file": ("a.png", b"")})
    refused(answer, 422)


def test_a_file_of_two_kinds_is_read_as_one(service):
    answer = ocr(service, png(text="both") + pdf(3), "image/png")
    assert answer.status_code == 200 and len(answer.json()["pages"]) == 1
    works(service)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_no_image_has_more_pixels_than_the_operator_allows(start, kind):
    running = start(max_pixels=100_000)
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300)).save(buffer, kind)
    page = ocr(running, buffer.getvalue(), f"image/{kind}").json()["pages"][0]
    assert page["status"] == "failed" and "100,000" in page["reason"]
    works_size = png()  # 300x400
    assert "100,000" in ocr(running, works_size, "image/png").json()["pages"][0]["reason"]
    assert running.engine.requests == []


def test_a_large_page_of_a_pdf_is_drawn_coarser(start):
    running = start(max_pixels=50_000)
    page = ocr(running, written_pdf([(14_400, 14_400)])).json()["pages"][0]
    assert page["status"] == "ok"
    assert page["dimensions"]["width"] * page["dimensions"]["height"] <= 50_000


def test_a_pdf_that_expands_without_end_costs_a_page(start):
    running = start(draw_bytes=256 << 20, page_seconds=30.0)
    answer = ocr(running, content_pdf(zeros(1 << 29, 2), "/FlateDecode /FlateDecode"))
    if answer.status_code == 200:
        assert answer.json()["pages"][0]["status"] in ("ok", "failed")
    else:
        refused(answer, 422)
    works(running)


def test_a_pdf_that_never_gets_done_is_stopped(start):
    running = start(page_seconds=3.0)
    shape = b"0 0 m 90 90 l 0 90 l 90 0 l h f* " * 400_000
    started = time.monotonic()
    page = ocr(running, content_pdf(zlib.compress(shape))).json()["pages"][0]
    assert page["status"] == "failed" and "too long" in page["reason"] or "3 s" in page["reason"]
    assert time.monotonic() - started < 60
    works(running)


def test_more_pages_than_allowed_are_refused(start):
    refused(ocr(start(max_pages=3), pdf(4)), 413)


def test_a_process_that_cannot_be_started_costs_a_page(start, monkeypatch):
    running = start()

    def no_process(*_):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.context.SpawnProcess, "start", no_process)
        refused(ocr(running, png(text="first"), "image/png"), 422)
    works(running)


def test_processes_that_are_killed_cost_at_most_the_pages_they_were_at(start):
    """Again and again, at any moment: in the middle of an answer too, which holds up nobody."""
    running = start(draw_processes=2)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.02):
            for process in multiprocessing.active_children():
                if over.is_set() or process.pid in killed:
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.add(process.pid)
                    if len(killed) == 8:
                        over.set()

    works(running)
    killed: set[int] = set()
    killer = threading.Thread(target=kill)
    documents = [pdf(6, (1200 + n, 1600)) for n in range(2)]
    with ThreadPoolExecutor(len(documents)) as clients:
        killer.start()
        answers = list(clients.map(lambda data: ocr(running, data), documents))
    over.set()
    killer.join()
    assert killed
    for answer in answers:
        if answer.status_code != 200:
            refused(answer, 422)
            continue
        pages = answer.json()["pages"]
        assert [page["index"] for page in pages] == list(range(6))
        assert {page["status"] for page in pages} <= {"ok", "failed"}
        assert all("killed" in page["reason"] for page in pages if page["status"] != "ok")
    for data in documents:
        assert {page["status"] for page in ocr(running, data).json()["pages"]} == {"ok"}


# names, numbers, letters


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\boot.ini",
        "a\x1b[31mb\x00c.png",
        "x" * 5000,
        "..",
        "\u202egnp.exe",
    ],
)
def test_names_are_names_only(service, name):
    chunk = {"type": "document_url", "document_url": data_url(png()), "document_name": name}
    sent = httpx.post(f"{service.url}/v1/ocr/jobs", json={"document": chunk}, timeout=60).json()
    kept = sent["filename"]
    assert kept.isprintable() and len(kept) <= 255 and not set(kept) & set("/\\")
    assert kept.strip(".") == kept


@pytest.mark.parametrize(
    "body",
    [
        b'{"document": {"type": "file", "file_id": "\\ud800"}}',
        b'{"document": {"type": "file", "file_id": "\\u0000"}}',
        b'{"document": {"type": "\\ud800", "file_id": "x"}}',
        b'{"document": {"type": "file", "file_id": "a"}, "max_tokens": NaN}',
        b'{"document": {"type": "file", "file_id": "a"}, "max_tokens": 1e999}',
        b'{"document": {"type": "file", "file_id": "a"}, "image_limit": ' + b"9" * 400 + b"}",
        b'{"document": {"type": "file", "file_id": "a"}, "image_limit": ' + b"9" * 5000 + b"}",
        b'{"document": {"type": "file", "file_id": "a"}, "pages": [99999999999999999999]}',
        b'{"document": {"type": "file", "file_id": "a"}, "task": "\\ud800"}',
        b'{"\\ud800": 1}',
        b"[" * 200_000,
        b'{"document": ' + b'{"document": ' * 100_000,
        b'{"document": "\xff\xfe"}',
        b"\x00\x01",
        b"null",
    ],
)
@pytest.mark.parametrize("route", ["/v1/ocr", "/v1/ocr/jobs", "/v1/convert/source", "/v1/batches"])
def test_broken_bodies_are_refused(service, route, body):
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(service.url + route, content=body, headers=headers, timeout=30)
    refused(answer, 400, 404, 422)


def test_ranges_of_pages_are_counted_before_they_are_written_out(service):
    pages = ",".join(["0-999999"] * 5000)
    with httpx.Client(timeout=20) as client:
        body = {"document": {"type": "file", "file_id": "a"}, "pages": pages}
        refused(client.post(f"{service.url}/v1/ocr", json=body), 400)


@pytest.mark.parametrize("query", ["wait=nan", "wait=inf", "wait=-1", "wait=1e400", "since=1e9"])
def test_numbers_of_a_query_are_numbers(service, query):
    refused(httpx.get(f"{service.url}/v1/ocr/jobs/x?{query}"), 422)


@pytest.mark.parametrize("name", ["%00", "%ff", "..%2f..%2fetc", "a" * 5000, "%ed%a0%80"])
@pytest.mark.parametrize("route", ["/v1/files/", "/v1/ocr/jobs/", "/v1/batches/"])
def test_ids_that_are_none_are_not_found(service, route, name):
    assert httpx.get(service.url + route + name).status_code == 404


def test_what_is_not_ones_own_is_not_there(start):
    running = start(api_keys=("one", "two"))
    mine, yours = ({"X-Api-Key": key} for key in ("one", "two"))
    line = {"custom_id": "a", "body": {"document": {"type": "file", "file_id": "x"}}}
    file = ("a.jsonl", json.dumps(line).encode())
    sent = httpx.post(f"{running.url}/v1/files", files={"file": file}, headers=mine).json()["id"]
    body = {"input_file_id": sent}
    assert httpx.post(f"{running.url}/v1/batches", json=body, headers=yours).status_code == 404
    batch = httpx.post(f"{running.url}/v1/batches", json=body, headers=mine).json()["id"]
    for path in (f"/v1/files/{sent}", f"/v1/files/{sent}/content", f"/v1/batches/{batch}"):
        assert httpx.get(running.url + path, headers=mine).status_code == 200
        refused(httpx.get(running.url + path, headers=yours), 404)
        refused(httpx.get(running.url + path), 401)
    refused(httpx.delete(f"{running.url}/v1/files/{sent}", headers=yours), 404)
    refused(httpx.post(f"{running.url}/v1/batches/{batch}/cancel", headers=yours), 404)
    assert sent not in httpx.get(f"{running.url}/v1/files", headers=yours).text


# the operator's side


def test_what_is_stored_stays_within_the_quota(start):
    running = start(quota_bytes=10_000, api_keys=("one", "two"))
    url, one = f"{running.url}/v1/files", {"X-Api-Key": "one"}
    file = {"file": ("a.bin", os.urandom(6000))}
    sent = httpx.post(url, files=file, headers=one)
    assert sent.status_code == 200
    assert "quota" in refused(httpx.post(url, files=file, headers=one), 413)
    assert httpx.post(url, files=file, headers={"X-Api-Key": "two"}).status_code == 200
    assert httpx.delete(f"{url}/{sent.json()['id']}", headers=one).status_code == 200
    assert httpx.post(url, files=file, headers=one).status_code == 200


class FullDisk(MemoryFileSystem):
    """A store with no room left."""

    protocol = "full"
    store: dict = {}

    def pipe_file(self, path, value, mode="overwrite", **more):
        raise OSError(errno.ENOSPC, "No space left on device", path)


def test_a_full_disk_is_said_in_one_sentence(start):
    fsspec.register_implementation("full", FullDisk, clobber=True)
    running = start(storage="full://store")
    assert "full" in refused(ocr(running, png(), "image/png"), 507)
    answer = httpx.post(f"{running.url}/v1/files", files={"file": ("a.png", png())})
    assert "full" in refused(answer, 507)
    assert httpx.get(f"{running.url}/v1/files").json()["data"] == []
    assert httpx.get(f"{running.url}/readyz").status_code == 200


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own with two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_bytes_that_could_not_be_recorded_are_gone(start, monkeypatch):
    from sqlalchemy.exc import OperationalError

    running = start()
    database, url = running.app.state.dsocr_service.database, f"{running.url}/v1/files"
    twice = {"file": ("a.bin", b"twice")}
    kept = httpx.post(url, files=twice).json()["id"]
    full = OperationalError("INSERT", {}, Exception("database or disk is full"))

    def add_file(*_):
        raise full

    monkeypatch.setattr(database, "add_file", add_file)
    refused(httpx.post(url, files={"file": ("a.bin", b"once")}), 507)
    refused(httpx.post(url, files=twice), 507)
    assert httpx.get(f"{url}/{kept}/content").content == b"twice"
    blobs = running.app.state.dsocr_service.settings.data / "blobs"
    assert len([path for path in blobs.rglob("*") if path.is_file()]) == 1


def test_a_disk_that_runs_full_costs_requests_and_not_the_server(start, small_disk):
    running = start(data=small_disk, quota_bytes=1 << 30)
    url = f"{running.url}/v1/files"
    kept, statuses = [], []
    for size in [400_000] * 8 + [5_000] * 8:
        answer = httpx.post(url, files={"file": ("a.bin", os.urandom(size))}, timeout=60)
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            kept.append(answer.json()["id"])
        else:
            assert "full" in refused(answer, 507) and int(answer.headers["retry-after"])
    assert statuses[0] == 200 and 507 in statuses
    assert {file["id"] for file in httpx.get(url).json()["data"]} == set(kept)
    for file in kept:  # what was taken is whole
        assert httpx.get(f"{url}/{file}/content").status_code == 200
    assert not list(small_disk.rglob("*.tmp"))
    assert httpx.get(f"{running.url}/livez").status_code == 200
    for file in kept:
        assert httpx.delete(f"{url}/{file}").status_code == 200
    works(running)


def test_a_file_that_was_half_written_is_gone(tmp_path, monkeypatch):
    from vllm_dsocr.server.storage.blobs import Blobs

    blobs = Blobs(str(tmp_path))
    write = Path.write_bytes

    def fill_up(path, data):
        write(path, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(OSError, match="No space"):
        blobs.write("files/a", b"abcdef")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_housekeeping_deletes_what_is_old_and_nothing_else(start):
    from vllm_dsocr.server.housekeeping import clean

    engine = Held(max_in_flight=1)
    running = start(engine)
    service, jobs = running.app.state.dsocr_service, running.app.state.dsocr_jobs

    def send(data: bytes) -> str:
        file = httpx.post(f"{running.url}/v1/files", files={"file": ("a.pdf", data)}).json()["id"]
        return file

    def begin(file: str) -> str:
        body = {"document": {"type": "file", "file_id": file}}
        return httpx.post(f"{running.url}/v1/ocr/jobs", json=body).json()["id"]

    def state(job: str, wait: float = 0) -> httpx.Response:
        return httpx.get(f"{running.url}/v1/ocr/jobs/{job}", params={"wait": wait}, timeout=60)

    engine.go.set()
    old_file = send(png(text="old"))
    old_job = begin(old_file)
    assert state(old_job, 20).json()["status"] == "success"
    engine.go.clear()
    used = send(pdf(2, (100, 140)))
    under_way = begin(used)
    soon(lambda: engine.num_running)
    time.sleep(0.05)
    moment = time.time()
    time.sleep(0.05)
    new_file = send(png(text="new"))
    asyncio.run(clean(service, jobs, moment))
    assert state(old_job).status_code == 404
    assert httpx.get(f"{running.url}/v1/files/{old_file}").status_code == 404
    assert httpx.get(f"{running.url}/v1/files/{new_file}/content").status_code == 200
    assert httpx.get(f"{running.url}/v1/files/{used}").status_code == 200  # a job reads it
    engine.go.set()
    ended = state(under_way, 30).json()
    assert ended["status"] == "success" and ended["pages_done"] == 2
    answer = httpx.get(f"{running.url}/v1/ocr/jobs/{under_way}/result").json()
    assert {page["status"] for page in answer["pages"]} == {"ok"}
    asyncio.run(clean(service, jobs, time.time() + 1))
    assert [p for p in service.settings.data.rglob("blobs/*/*/*") if p.is_file()] == []


def test_files_that_only_lines_of_a_batch_name_are_kept_while_it_goes_on(start):
    from vllm_dsocr.server.housekeeping import clean

    engine = Held(max_in_flight=1)
    running = start(engine)
    service, jobs = running.app.state.dsocr_service, running.app.state.dsocr_jobs
    url = f"{running.url}/v1/files"

    def send(name: str, data: bytes) -> str:
        return httpx.post(url, files={"file": (name, data)}, timeout=60).json()["id"]

    by_id, by_url, unused = (send("a.png", png(text=text)) for text in ("id", "url", "unused"))
    chunks = [
        {"type": "file", "file_id": by_id},
        {"type": "document_url", "document_url": f"{url}/{by_url}/content"},
    ]
    lines = [
        json.dumps({"custom_id": str(n), "body": {"document": chunk}})
        for n, chunk in enumerate(chunks)
    ]
    sent = send("b.jsonl", "\n".join(lines).encode())
    batch = httpx.post(f"{running.url}/v1/batches", json={"input_file_id": sent}).json()["id"]
    soon(lambda: engine.num_running)
    asyncio.run(clean(service, jobs, time.time() + 1))
    statuses = [httpx.get(f"{url}/{file}").status_code for file in (by_id, by_url, sent, unused)]
    assert statuses == [200, 200, 200, 404]
    engine.go.set()
    soon(lambda: httpx.get(f"{running.url}/v1/batches/{batch}").json()["status"] == "completed")
    done = httpx.get(f"{running.url}/v1/batches/{batch}").json()
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    asyncio.run(clean(service, jobs, time.time() + 1))
    assert httpx.get(f"{url}/{by_id}").status_code == 404


def test_settings_that_make_no_sense_stop_the_start():
    for wrong in ({"max_pages": 0}, {"page_seconds": float("nan")}, {"dpi": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)


def test_sigterm_lets_what_is_read_come_to_its_end(server):
    url = server()
    body = {"document": {"type": "document_url", "document_url": data_url(pdf(6), "x/pdf")}}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{url}/v1/ocr", json=body, timeout=60)
        soon(lambda: server.log.exists())
        server.kill(signal.SIGTERM)
        assert len(answer.result().json()["pages"]) == 6


def test_a_server_goes_down_in_order_with_jobs_under_way(caplog, tmp_path):
    from prometheus_client import CollectorRegistry

    from tests.service.conftest import serve
    from vllm_dsocr.server.app import create_app

    engine = Held(max_in_flight=2)
    app = create_app(engine, Settings(data=tmp_path, draw_processes=1), CollectorRegistry())
    with serve(app) as url:
        body = {"document": {"type": "image_url", "image_url": data_url(png(text="held"))}}
        job = httpx.post(f"{url}/v1/ocr/jobs", json=body).json()["id"]
        soon(lambda: engine.num_running)
    assert engine.num_cancelled == 1
    assert "Traceback" not in caplog.text and "shutdown failed" not in caplog.text
    assert app.state.dsocr_service.database.job("", job).state == "pending"


def test_results_are_there_after_a_restart(server):
    url = server()
    body = {"document": {"type": "document_url", "document_url": data_url(pdf(2), "x/pdf")}}
    job = httpx.post(f"{url}/v1/ocr/jobs", json=body, timeout=60).json()["id"]
    httpx.get(f"{url}/v1/ocr/jobs/{job}", params={"wait": 30}, timeout=60)
    before = httpx.get(f"{url}/v1/ocr/jobs/{job}/result").json()
    server.kill()
    after = httpx.get(f"{server()}/v1/ocr/jobs/{job}/result").json()
    assert before == after and len(after["pages"]) == 2


@pytest.mark.slow
def test_a_long_document_needs_no_more_memory_than_a_short_one(server):
    url = server()

    def read(num_pages: int) -> int:
        """Highest memory of the server process so far, in KiB."""
        data = data_url(written_pdf([(300, 424)] * num_pages), "application/pdf")
        body = {"document": {"type": "document_url", "document_url": data}}
        answer = httpx.post(f"{url}/v1/ocr", json=body, timeout=120)
        assert len(answer.json()["pages"]) == num_pages
        status = Path(f"/proc/{server.pid()}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    # A page is 1.5 MB of pixels: 300 of them at a time would be 450 MB.
    short = read(10)
    assert read(300) - short < 150_000
