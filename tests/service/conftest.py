"""The service on a real port, over an engine without a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from tests.fake_engine import FakeEngine
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.settings import Settings


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
