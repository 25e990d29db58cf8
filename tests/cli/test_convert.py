"""`dsocr convert` as a person runs it: a process of its own against a server that answers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_server import Answer, FakeServer, fake_server, page_text
from tests.page.pdfs import image_pdf, page_image
from vllm_dsocr.page.prompt import TASKS

pytest.importorskip("openai", reason="pip install 'vllm-dsocr[client]'")
pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "vllm_dsocr.cli"]


def _process(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = _process(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timings.jsonl", ".dsocr.lock")
    }


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


def test_files_and_folders_become_documents(tmp_path: Path, server: FakeServer) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    image_pdf(tmp_path / "in" / "sub" / "a.pdf", 3)
    page_image(9).save(tmp_path / "in" / "b.png")
    out = tmp_path / "out"
    code, table, _ = _run("convert", tmp_path / "in", "-o", out, "--server", server.url, "--stats")
    assert code == 0
    assert [line.split() for line in table.splitlines()[:4]] == [
        ["document", "pages", "ok", "truncated", "repeated", "text-layer", "failed"],
        ["b.png", "1", "1", "0", "0", "0", "0"],
        ["sub/a.pdf", "3", "3", "0", "0", "0", "0"],
        ["all", "4", "4", "0", "0", "0", "0"],
    ]
    assert (out / "sub" / "a.pdf" / "document.md").read_text("utf-8").count("# Page") == 3
    about = json.loads((out / "b.png" / "document.json").read_text("utf-8"))
    assert about["settings"]["model"] == "fake-reader"
    assert about["versions"]["server"] == "vLLM 9.9"
    assert about["pages"][0]["mode"] == "small"
    assert ["1", "111", "100", "7", "0.07"] in [line.split() for line in table.splitlines()]


def test_json_lines_for_programs(tmp_path: Path, server: FakeServer) -> None:
    image_pdf(tmp_path / "a.pdf", 2)
    (tmp_path / "b.pdf").write_bytes(b"")
    code, lines, err = _run(
        "convert", tmp_path / "a.pdf", tmp_path / "b.pdf", "-o", tmp_path / "out",
        "--server", server.url, "--json", "--task", "locate  a   stamp", "--mode", "base",
    )  # fmt: skip
    events = [json.loads(line) for line in lines.splitlines()]
    assert (code, err) == (1, "")
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["counting", "start"]
    assert kinds[-1] == "summary"
    assert sorted(kinds[2:-1]) == ["document"] * 2 + ["loading"] + ["page"] * 2 + ["ready"]
    assert events[-1]["documents"][1]["reason"].endswith("the PDF is empty (0 bytes)")
    body = server.bodies[0]
    assert body["mm_processor_kwargs"] == {"mode": "base"}
    assert body["messages"][0]["content"][1]["text"] == TASKS["locate"].format(
        text="a stamp"
    ).removeprefix("<image>\n")


def _slow(body: dict[str, Any], image: Image.Image) -> Answer:
    time.sleep(0.05)
    return page_text(body, image)


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    source = image_pdf(tmp_path / "a.pdf", 40)
    formats = ["--format", "md,json,html,report,layout,layout-pdf", "--concurrency", "2"]
    with fake_server(_slow) as server:
        rest = ["--server", server.url, *formats]
        assert _run("convert", source, "-o", tmp_path / "straight", *rest)[0] == 0
        out, moments = tmp_path / "out", random.Random(4)
        asked: list[int] = []
        for _ in range(3):
            before = len(server.bodies)
            process = _process("convert", source, "-o", out, *rest)
            _wait_for(server, before + moments.randint(1, 10))
            process.kill()
            process.communicate()
            asked.append(len(server.bodies) - before)
        assert _run("convert", source, "-o", out, *rest)[0] == 0
        total = len(server.bodies) - 40
    assert all(asked)
    assert total <= 40 + 3 * 2 * 2  # the pages in flight, and those being written, were lost
    assert _tree(out) == _tree(tmp_path / "straight")


def _wait_for(server: FakeServer, num_requests: int) -> None:
    deadline = time.monotonic() + 60
    while len(server.bodies) < num_requests:
        assert time.monotonic() < deadline, "the run asked for nothing"
        time.sleep(0.005)


def test_two_runs_do_not_write_to_one_document(tmp_path: Path) -> None:
    release = threading.Event()

    def wait(body: dict[str, Any], image: Image.Image) -> Answer:
        release.wait(60)
        return page_text(body, image)

    page_image(1).save(tmp_path / "a.png")
    with fake_server(wait) as server:
        arguments = ["convert", tmp_path / "a.png", "-o", tmp_path / "out", "--server", server.url]
        first = _process(*arguments)
        _wait_for(server, 1)
        code, out, err = _run(*arguments)
        release.set()
        first.communicate(timeout=60)
    assert (code, first.returncode, len(server.bodies)) == (1, 0, 1)
    assert "a.png: another run is writing a.png; passed over for now" in err
    assert out.endswith("1 of 1 files were another run's to the end\n")


def test_a_server_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    page_image(1).save(tmp_path / "a.png")
    with fake_server() as server:
        url = server.url
    code, _, err = _run(
        "convert", tmp_path / "a.png", "-o", tmp_path / "out", "--server", url, "--model", "m",
        "--server-retries", "0",
    )  # fmt: skip
    assert code == 2
    assert "dsocr convert: the server cannot be used" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--task", "translate", "task must be one of markdown, ocr"),
        ("--task", "locate", "needs a text"),
        ("--pages", "3-1", "ends before it begins"),
        ("--dpi", "5", "greater than or equal to 10"),
        ("--format", "md,docx", "'docx' is not one of md"),
        ("--mode", "huge", "'huge' is not one of tiny"),
        ("--concurrency", "0", "greater than or equal to 1"),
        ("--shard", "3/2", "counts from 1 to N"),
        ("--shard", "0/2", "counts from 1 to N"),
        ("--shard", "half", "'half' is not I/N"),
        ("--server", "", "'' is no server's address"),
        ("--server", "http://localhost:99999", "is no server's address"),
        ("--server", "ftp://localhost", "is no server's address"),
        ("--output", "", "a PATH or OUT is empty"),
        ("--workers", "2", "are of --ray"),
        ("--table", "pages.csv", "does not end in .parquet or .jsonl"),
        ("--ray", "-", "not of a cluster"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, option: str, value: str, words: str) -> None:
    code, _, err = _run("convert", "a.png", "-o", tmp_path / "out", option, value)
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()
