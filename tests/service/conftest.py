"""The service on a real port, over an engine without a model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from tests.fake_engine import FakeEngine
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.settings import Settings

ROOT = Path(__file__).parents[2]
# A service of its own process whose engine needs a tenth of a second a page and keeps a list. It
# kills itself, and the processes that draw for it, behind the call that DIE_AFTER names: what is
# stored under a key that begins so, or the page's record.
SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
import uvicorn
from tests.fake_engine import FakeEngine, grounded
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.settings import Settings
from vllm_dsocr.server.storage.blobs import Blobs

DIE_AFTER = os.environ.get("DIE_AFTER")
write = Blobs.write

def write_and_die(self, key, data):
    write(self, key, data)
    if DIE_AFTER and key.startswith(DIE_AFTER):
        os.killpg(0, signal.SIGKILL)

Blobs.write = write_and_die

class Slow(FakeEngine):
    async def complete(self, request):
        await asyncio.sleep(0.1)
        with open(sys.argv[2], "a") as log:
            log.write(f"{request.seed}\\n")
        return await super().complete(request)

settings = Settings(data=Path(sys.argv[1]), draw_processes=1, lease_seconds=1.0)
uvicorn.run(create_app(Slow(max_in_flight=2), settings), port=int(sys.argv[3]), log_level="warning")
"""


@dataclass
class Running:
    """A served application; `url` has no slash at its end."""

    url: str
    app: FastAPI
    engine: FakeEngine


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Serves on a free port of this machine until left."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the application did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services with settings of one's own; all are stopped at the end."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start_one(engine: FakeEngine | None = None, **settings: Any) -> Running:
            engine = engine or FakeEngine()
            settings = {"data": tmp_path / "data", "draw_processes": 1, **settings}
            app = create_app(engine, Settings(**settings), CollectorRegistry())
            return Running(stack.enter_context(serve(app)), app, engine)

        yield start_one


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests of a module that leave its settings alone."""
    engine = FakeEngine()
    settings = Settings(data=tmp_path_factory.mktemp("data"), draw_processes=1)
    app = create_app(engine, settings, CollectorRegistry())
    with serve(app) as url:
        yield Running(url, app, engine)


@pytest.fixture
def server(tmp_path):
    """Starts, kills and starts again one service on one port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "read.txt"
    running: list[subprocess.Popen] = []

    def start(die_after: str = "") -> str:
        command = [sys.executable, "-c", SERVER, str(start.data), str(log), str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DIE_AFTER": die_after}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/readyz").raise_for_status()
                return url
            except httpx.HTTPError:
                assert running[-1].poll() is None, "the service did not start"
                time.sleep(0.1)
        raise AssertionError("the service did not start in time")

    def kill(how: signal.Signals = signal.SIGKILL) -> None:
        if how == signal.SIGKILL:
            os.killpg(running[-1].pid, how)
        else:
            running[-1].send_signal(how)
        running[-1].wait(30)

    start.kill, start.log, start.data = kill, log, tmp_path / "data"
    start.pid, start.wait = lambda: running[-1].pid, lambda: running[-1].wait(60)
    yield start
    if running and running[-1].poll() is None:
        kill()
