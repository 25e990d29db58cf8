"""Pages, texts and exit codes of `dsocr convert` when things go wrong around it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_server import Answer, FakeServer, Raw, Trouble, fake_server, page_text
from tests.outside.conftest import Outcome, ended, start, tree
from tests.page.pdfs import image_pdf, page_image

Dsocr = Callable[..., Outcome]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.fixture
def to(tmp_path: Path, server: FakeServer) -> list[str]:
    """Where documents go, who reads, and how it is told."""
    return ["-o", str(tmp_path / "out"), "--server", server.url.removesuffix("/v1"), "--json"]


def test_missing_source(tmp_path: Path, dsocr: Dsocr, to: list[str]) -> None:
    source = image_pdf(tmp_path / "a.pdf", 2)
    assert dsocr("convert", source, *to).code == 0
    before = tree(tmp_path / "out")
    source.unlink()
    outcome = dsocr("convert", source, *to)
    assert (outcome.code, outcome.err) == (1, "")
    assert "No such file" in outcome.summaries["a.pdf"]["reason"]
    assert tree(tmp_path / "out") == before


def test_pages_out_of_range(tmp_path: Path, dsocr: Dsocr, to: list[str]) -> None:
    source = image_pdf(tmp_path / "a.pdf", 3)
    outcome = dsocr("convert", source, *to, "--pages", "7-9")
    assert (outcome.code, outcome.summaries["a.pdf"]["reason"]) == (0, "it has no page in 7-9")
    outcome = dsocr("convert", source, *to)
    assert (outcome.code, outcome.summaries["a.pdf"]["statuses"]) == (0, {"ok": 3})


def test_out_inside_the_input(tmp_path: Path, dsocr: Dsocr, to: list[str]) -> None:
    page_image(1).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no page")
    for _ in range(2):
        outcome = dsocr("convert", ".", *to, "--format", "md,layout", cwd=tmp_path)
        assert (outcome.code, list(outcome.summaries)) == (0, ["a.png"])
    counted = next(event for event in outcome.events if event["event"] == "start")
    assert counted["passed_over"] == {".txt": 1}
    refused = dsocr("convert", ".", "-o", ".", "--server", "http://127.0.0.1:1", cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_names_in_latin_1_and_with_control_characters(
    tmp_path: Path, dsocr: Dsocr, server: FakeServer
) -> None:
    try:
        for name in (b"r\xe9sum\xe9.png", b"red\x1b[31m\n.png"):
            page_image(1).save(tmp_path / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system has no such names")
    outcome = dsocr("convert", tmp_path, "-o", tmp_path / "out", "--server", server.url)
    assert outcome.code == 0
    assert "\x1b" not in outcome.out + outcome.err
    assert len(list((tmp_path / "out").rglob("document.md"))) == 2


def test_files_of_one_name(tmp_path: Path, dsocr: Dsocr, to: list[str]) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        page_image(ord(folder)).save(tmp_path / folder / "a.png")
        assert dsocr("convert", tmp_path / folder / "a.png", *to).code == 0
    texts = {path.read_text() for path in (tmp_path / "out").rglob("document.md")}
    assert len(texts) == 2


def _cannot_mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    return shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode


def test_a_full_disk(tmp_path: Path, dsocr: Dsocr, server: FakeServer) -> None:
    (out := tmp_path / "out").mkdir()
    if _cannot_mount(out):
        pytest.skip("a small file system cannot be mounted here")
    try:
        source = image_pdf(tmp_path / "a.pdf", 60)
        outcome = dsocr("convert", source, "-o", out, "--server", server.url)
        assert (outcome.code, outcome.err.count("No space left")) == (2, 1)
        assert all(path.stat().st_size for path in out.rglob("*.json"))
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_a_place_that_cannot_be_written(tmp_path: Path, dsocr: Dsocr, server: FakeServer) -> None:
    page_image(1).save(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file")
    outcome = dsocr("convert", tmp_path / "a.png", "-o", tmp_path / "out", "--server", server.url)
    assert outcome.code == 2
    assert outcome.err.startswith("dsocr convert: cannot write to")


@pytest.mark.parametrize(
    "answer", [Raw(b"<html>no</html>", "text/html"), Raw(b'{"choices": [{}]}'), Trouble(500)]
)
def test_a_server_that_answers_nonsense(
    tmp_path: Path, dsocr: Dsocr, answer: Raw | Trouble
) -> None:
    source = image_pdf(tmp_path / "a.pdf", 20)
    with fake_server(lambda *_: answer) as server:
        rest = ["--server", server.url, "--server-retries", "0", "--max-failures", "5"]
        outcome = dsocr("convert", source, "-o", tmp_path / "out", *rest)
    assert outcome.code == 2
    assert "5 pages in a row got no answer" in outcome.err
    assert len(server.bodies) <= 5 + 16


def test_a_server_that_hangs(tmp_path: Path, dsocr: Dsocr) -> None:
    release = threading.Event()

    def hang(body: dict[str, Any], image: Image.Image) -> Answer:
        release.wait(60)
        return page_text(body, image)

    page_image(1).save(tmp_path / "a.png")
    with fake_server(hang) as server:
        rest = ["--server", server.url, "--timeout", "1", "--json"]
        outcome = dsocr("convert", tmp_path / "a.png", "-o", tmp_path / "out", *rest)
        release.set()
    assert outcome.code == 1
    assert outcome.summaries["a.png"]["reason"].endswith("no answer within 1 s")


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["", "background"])
def test_sigterm_goes_the_way_of_ctrl_c(
    tmp_path: Path, dsocr: Dsocr, server: FakeServer, handler: signal.Handlers
) -> None:
    """Also where Ctrl-C is ignored, as in the background of a script."""
    source = image_pdf(tmp_path / "a.pdf", 30)

    def slow(body: dict[str, Any], image: Image.Image) -> Answer:
        time.sleep(0.2)
        return page_text(body, image)

    with fake_server(slow) as slow_server:
        arguments = ["convert", source, "-o", tmp_path / "out", "--concurrency", "1"]
        process = start(
            *arguments,
            "--server",
            slow_server.url,
            preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        )
        while len(slow_server.bodies) < 3:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        outcome = ended(process, timeout=20)
    assert outcome.code == 130
    assert "interrupted; the same command goes on from here" in outcome.err
    outcome = dsocr(*arguments, "--server", server.url, "--json")
    assert outcome.summaries["a.pdf"]["statuses"] == {"ok": 30}
    assert 25 <= len(server.bodies) <= 29


def test_strict_makes_cut_off_pages_count(tmp_path: Path, dsocr: Dsocr) -> None:
    page_image(1).save(tmp_path / "a.png")
    with fake_server(lambda *_: Answer("half", "length")) as server:
        rest = ["-o", tmp_path / "out", "--server", server.url, "--retries", "0"]
        assert dsocr("convert", tmp_path / "a.png", *rest).code == 0
        assert dsocr("convert", tmp_path / "a.png", *rest, "--strict").code == 1


def test_from_stdin_to_stdout(tmp_path: Path, dsocr: Dsocr, server: FakeServer) -> None:
    page_image(1).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as stdin:
        outcome = dsocr("convert", "-", "-o", "-", "--server", server.url, stdin=stdin)
    assert (outcome.code, outcome.out.count("# Page")) == (0, 1)


def test_a_url_is_a_source_of_its_own(tmp_path: Path, dsocr: Dsocr, to: list[str]) -> None:
    url = to[3] + "/version"
    outcome = dsocr("convert", url, *to)
    assert outcome.code == 1
    assert "not an image" in outcome.summaries["version"]["reason"]


def _engine_processes(marker: str) -> list[int]:
    """Processes that were started with this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_vllm_is_left(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("vllm")
    marker = f"DSOCR_TEST_MARK={tmp_path.name}"
    source = image_pdf(tmp_path / "a.pdf", 40)
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_dsocr.cli", "convert", source, "-o", tmp_path / "out",
         "--engine", "vllm", "--model", "tests/data/tiny-random", "--json",
         "--engine-arg", "enforce_eager=true", "--engine-arg", "max_model_len=4096"],
        env={**os.environ, "DSOCR_TEST_MARK": tmp_path.name, "VLLM_CPU_KVCACHE_SPACE": "1"},
        stdout=subprocess.PIPE, stderr=(tmp_path / "err").open("w"), text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        assert line.startswith('{"event": '), line
        if '"event": "ready"' in line:
            break
    assert len(_engine_processes(marker)) > 1, (tmp_path / "err").read_text()[-3000:]
    process.send_signal(number)
    process.wait(timeout=20)
    deadline = time.monotonic() + 10
    while left := _engine_processes(marker):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert process.returncode == (130 if number == signal.SIGTERM else -9)
