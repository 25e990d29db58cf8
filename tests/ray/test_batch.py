"""`dsocr convert --ray` from outside: what one process makes, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_server import Answer, FakeServer, fake_server, page_text
from tests.outside.conftest import ROOT, Outcome, ended, start
from tests.ray.nodes import QUIET, scans, two_nodes
from tests.ray.smallest import smallest_checkpoint

pytest.importorskip("ray.data", reason="pip install 'vllm-dsocr[ray]'")
pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_PAGES = 300


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timings.jsonl"
    }


def _run(*arguments: str | Path) -> Outcome:
    os.environ |= QUIET
    return ended(start("convert", *arguments), timeout=1500)


def _slow(body: dict[str, Any], image: Image.Image) -> Answer:
    time.sleep(0.05)
    return page_text(body, image)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server(_slow) as running:
        yield running


def _until(is_so: Callable[[], bool], process: Any, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _readers() -> list[int]:
    """Processes of actors that have read a page, by what Ray calls them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::MapWorker(MapBatches(PageReader))"):
                found.append(int(folder.name))
    return found


def test_every_page_once_with_a_worker_killed_in_the_middle(tmp_path: Path, cluster: str) -> None:
    source = scans(tmp_path / "in", 60, 20, 12)
    model = smallest_checkpoint(tmp_path / "model")
    rest = ["--engine", "hf", "--model", model, "--mode", "tiny", "--dpi", "72", "--json"]
    rest += ["--max-tokens", "6", "--retries", "0"]
    local = _run(source, "-o", tmp_path / "local", *rest)
    assert (local.code, len(local.summaries)) == (0, 80)

    out = tmp_path / "out"
    running = start("convert", source, "-o", out, *rest, "--ray", cluster)
    _until(lambda: len(list(out.rglob("pages/*.json"))) >= 60, running)
    readers = _readers()
    os.kill(readers[0], signal.SIGKILL)
    outcome = ended(running, timeout=1500)
    assert outcome.code == 0, outcome.err
    assert len(readers) == 2

    pages = Counter((e["document"], e["page"]) for e in outcome.events if e["event"] == "page")
    assert (len(pages), set(pages.values())) == (NUM_PAGES, {1})
    made = _tree(out)
    assert made == _tree(tmp_path / "local")
    texts = {data for name, data in made.items() if "/pages/" in name}
    assert len(texts) > NUM_PAGES * 0.9  # noise, but each page's own


def test_either_goes_on_where_the_other_was_stopped(
    tmp_path: Path, cluster: str, server: FakeServer
) -> None:
    source = scans(tmp_path / "in", 10, 2, 10)
    rest = ["--server", server.url, "--json"]
    straight = _run(source, "-o", tmp_path / "straight", *rest)
    assert straight.code == 0
    kinds = {"here": (), "there": ("--ray", cluster)}
    for first, second in (("here", "there"), ("there", "here")):
        out = tmp_path / first
        server.bodies.clear()
        process = start("convert", source, "-o", out, *rest, *kinds[first])
        _until(lambda: len(server.bodies) >= 6, process)
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130
        assert _run(source, "-o", out, *rest, *kinds[second]).code == 0
        assert _tree(out) == _tree(tmp_path / "straight")
        assert len(server.bodies) < 30 + 24, "what was recorded was read again"
        before = len(server.bodies)
        again = _run(source, "-o", out, *rest, *kinds[first])
        assert (again.code, len(server.bodies)) == (0, before)
        assert all(event["kept"] for event in again.events if event["event"] == "document")


def test_lists_urls_bad_files_and_tables(tmp_path: Path, cluster: str, server: FakeServer) -> None:
    import pyarrow.dataset

    source = scans(tmp_path / "in", 3, 1, 4)
    (source / "bad.pdf").write_text("no pdf")
    (source / "hidden").mkdir()
    (source / "hidden" / "notes.txt").write_text("no page")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{source / '000.png'}\n\n{source / 'bad.pdf'}\n{tmp_path / 'gone.png'}\n")
    table = tmp_path / "pages.parquet"
    arguments = [listed, f"file://{source}", "-o", tmp_path / "out", "--server", server.url]
    outcome = _run(*arguments, "--ray", cluster, "--json", "--table", table)
    assert outcome.code == 1
    ill = {name: s["reason"] for name, s in outcome.summaries.items() if s["failed"]}
    assert {name.partition("~")[0] for name in ill} == {"bad.pdf", "gone.png"}
    assert all("no PDF" in why or "No such file" in why for why in ill.values())
    rows = pyarrow.dataset.dataset(table).to_table().to_pylist()
    assert Counter(Path(row["source"]).name for row in rows) == {
        "000.png": 2, "001.png": 1, "002.png": 1, "00.pdf": 4,
    }  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}


def test_what_ends_a_run_is_one_sentence(tmp_path: Path, cluster: str) -> None:
    source = scans(tmp_path / "in", 2, 0, 0)
    (tmp_path / "file").write_text("a file")
    here = ["--ray", cluster]
    cases = {
        "no answer from http://127.0.0.1:1": ["--server", "127.0.0.1:1", *here],
        "cannot load /nowhere": ["--engine", "hf", "--model", "/nowhere", *here],
        "no Ray cluster at 127.0.0.1:1": ["--model", "m", "--ray", "127.0.0.1:1"],
    }
    for words, rest in cases.items():
        outcome = _run(source, "-o", tmp_path / "out", *rest)
        assert outcome.code == 2
        assert f"dsocr convert: {words}" in outcome.err
    outcome = _run(source, "-o", tmp_path / "file", "--model", "m", *here)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "cannot write to" in outcome.err


def test_the_example(tmp_path: Path, cluster: str, server: FakeServer) -> None:
    source = scans(tmp_path / "in", 2, 1, 3)
    done = subprocess.run(
        [sys.executable, ROOT / "examples/ray_batch.py", source, "-o", tmp_path / "out"]
        + ["--server", server.url, "--address", cluster],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"3 documents, 5 pages in {tmp_path / 'out'}\n")


def test_a_machine_that_is_gone(tmp_path: Path, server: FakeServer) -> None:
    """Its engine, its tasks and what it held in memory: the other one does the work again."""
    source = scans(tmp_path / "in", 4, 4, 12)
    with two_nodes(patience=4) as running:
        rest = ["--server", server.url, "--concurrency", "2", "--json", "--workers", "2"]
        process = start("convert", source, "-o", tmp_path / "out", *rest, "--ray", running.address)
        _until(lambda: len(server.bodies) >= 10, process)
        running.second.kill_raylet()
        outcome = ended(process, timeout=900)
    assert outcome.code == 0, outcome.err
    pages = Counter((e["document"], e["page"]) for e in outcome.events if e["event"] == "page")
    assert (len(pages), set(pages.values())) == (52, {1})
    assert all(event["status"] == "ok" for event in outcome.events if event["event"] == "page")
