"""Several front ends on one PostgreSQL: no job is done twice, also when one of them is killed.

The server is the system's own, started in a temporary folder by a user that is not root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.documents import data_url, pdf
from vllm_dsocr.server.storage.database import Database

pytest.importorskip("psycopg")

ROOT = Path(__file__).parents[2]
_FOLDERS = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
_PATH = os.pathsep.join([*_FOLDERS, os.environ.get("PATH", "")])
PROGRAMS = {name: shutil.which(name, path=_PATH) for name in ("initdb", "postgres")}
pytestmark = pytest.mark.skipif(
    None in PROGRAMS.values(), reason="there is no PostgreSQL here (package postgresql)"
)

# One front end whose engine needs a tenth of a second a page and keeps a list.
SERVER = """
import asyncio, sys
from pathlib import Path
import uvicorn
from tests.fake_engine import FakeEngine
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.settings import Settings

class Slow(FakeEngine):
    async def complete(self, request):
        await asyncio.sleep(0.1)
        with open(sys.argv[2], "a") as log:
            log.write(f"{request.image.size[0]}-{request.seed}\\n")
        return await super().complete(request)

settings = Settings(data=Path(sys.argv[1]), storage=sys.argv[4], database=sys.argv[3],
                    draw_processes=1, lease_seconds=2.0, jobs_at_once=2)
uvicorn.run(create_app(Slow(max_in_flight=2), settings), port=int(sys.argv[5]), log_level="warning")
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """SQLAlchemy's URL of an empty server."""
    as_user = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    folder = tempfile.mkdtemp(prefix="dsocr-pg-")
    if as_user:
        os.chown(folder, as_user["user"], as_user["group"])
    more = {"cwd": folder, "stdout": subprocess.DEVNULL, **as_user}
    initdb = [PROGRAMS["initdb"], "-D", f"{folder}/db", "-U", "dsocr", "--auth=trust", "-N"]
    subprocess.run(initdb, check=True, **more)
    port = free_port()
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
    process = subprocess.Popen(
        [PROGRAMS["postgres"], "-D", f"{folder}/db", *options], stderr=subprocess.DEVNULL, **more
    )
    url = f"postgresql+psycopg://dsocr@127.0.0.1:{port}/postgres"
    try:
        wait_for(lambda: answers(url), process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str) -> bool:
    from sqlalchemy.exc import OperationalError

    try:
        return Database(url).is_alive()
    except OperationalError:
        return False


def wait_for(true, process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.1)


def test_a_job_is_claimed_by_one_of_many(postgres):
    jobs = {Database(postgres).add_job("", "test", {}).id for _ in range(60)}
    claimed: list[str] = []

    def work(name: str) -> None:
        database = Database(postgres)
        while (job := database.claim_job(name, 60)) is not None:
            claimed.append(job.id)
            assert database.end_job(name, job.id, "success")

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(jobs)


def test_servers_that_start_at_once_make_the_tables_once(postgres):
    import psycopg

    plain = postgres.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE DATABASE fresh")
    fresh = postgres.rpartition("/")[0] + "/fresh"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Database(fresh), range(8)))
    assert all(database.num_waiting() == 0 for database in made)


def test_what_clients_send_is_kept_or_refused(postgres):
    database = Database(postgres)
    job = database.add_job("", "test", {"prompt": "a\x00b\ud800 é"})
    assert database.job("", job.id).body["prompt"] == "a\x00b\ud800 é"
    for name in ("\x00", "\ud800", "x" * 5000, ""):
        assert database.job("", name) is None and database.file("", name) is None
    assert database.add_file("", "0" * 64, "x" * 255, 3 << 30, "ocr").size == 3 << 30
    database.add_page("0" * 64, {"a": 1})
    database.add_page("0" * 64, {"a": 2})
    assert database.page("0" * 64) == {"a": 1}
    assert database.cancel_job(job.id)


@pytest.fixture
def gateways(postgres, tmp_path):
    """Two front ends over one database and one store: [(URL, process), ...], list of pages."""
    log, started = tmp_path / "read.txt", []
    for name in ("one", "two"):
        port = free_port()
        shared = [str(log), postgres, str(tmp_path / "blobs"), str(port)]
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path / name), *shared],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        started.append((f"http://127.0.0.1:{port}", process))
    try:
        for url, process in started:
            wait_for(lambda url=url: is_ready(url), process, 120)
        yield started, log
    finally:
        for _, process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def send(url: str, width: int, num_pages: int) -> str:
    data = data_url(pdf(num_pages, (width, 160)), "application/pdf")
    body = {"document": {"type": "document_url", "document_url": data}}
    return httpx.post(f"{url}/v1/ocr/jobs", json=body, timeout=60).json()["id"]


def result(url: str, job: str) -> dict:
    for _ in range(12):
        now = httpx.get(f"{url}/v1/ocr/jobs/{job}", params={"wait": 5}, timeout=30).json()
        if now["status"] not in ("pending", "started"):
            break
    assert now["status"] == "success", now
    return httpx.get(f"{url}/v1/ocr/jobs/{job}/result").json()


def test_two_front_ends_share_the_jobs_and_one_survives_the_other(gateways):
    ((one, first), (two, _)), log = gateways
    jobs = [send(one if n % 2 else two, 110 + 4 * n, 3) for n in range(6)]
    for job in jobs:
        assert len(result(two, job)["pages"]) == 3
    read = log.read_text().split()
    assert len(read) == len(set(read)) == 18  # each page once
    log.write_text("")
    jobs = [send(two, 200 + 4 * n, 8) for n in range(4)]
    while len(log.read_text().split()) < 6:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(30)
    for job in jobs:
        pages = result(two, job)["pages"]
        assert [page["index"] for page in pages] == list(range(8))
        assert {page["status"] for page in pages} == {"ok"}
    read = log.read_text().split()
    assert len(set(read)) == 32 and len(read) <= 32 + 4  # what was in flight is read again
