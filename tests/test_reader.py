"""`from vllm_dsocr import convert, read, Reader` against a server that really answers."""

from __future__ import annotations

import asyncio
import doctest
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fake_server import Answer, FakeServer, fake_server
from tests.page.pdfs import image_pdf, page_image
from vllm_dsocr import Document, Reader, aconvert, aread, convert, read
from vllm_dsocr.engine import Engine
from vllm_dsocr.hosts import EngineChoice, make_engine
from vllm_dsocr.page.source import PageError

pytest.importorskip("openai", reason="pip install '.[client]'")
pytest.importorskip("pypdfium2", reason="pip install '.[pdf]'")

ROOT = Path(__file__).parents[1]
# Programs in the background of a script ignore it, and so does what they start.
HEEDS_CTRL_C = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}


@pytest.fixture
def server():
    with fake_server() as running:
        yield running


def test_a_file_becomes_a_document(tmp_path: Path, server: FakeServer) -> None:
    document = convert(image_pdf(tmp_path / "a.pdf", 3), server=server.url, pages="2-")
    assert isinstance(document, Document)
    assert [page.number for page in document.pages] == [2, 3]
    assert document.markdown.count("# Page") == 2
    assert "<h1" in document.html
    assert document.json()["pages"][0]["status"] == "ok"
    assert document.pages[0].blocks[0].label == "title"
    folder = document.save(tmp_path / "saved", ["md"])
    assert (folder / "document.md").read_text("utf-8") == document.markdown
    assert (folder / "images" / "0002-0.png").exists()


def test_it_is_written_as_asked(tmp_path: Path, server: FakeServer) -> None:
    """By the document in hand and by one that is opened again later."""
    source = image_pdf(tmp_path / "a.pdf", 2)
    document = convert(source, tmp_path / "out", server=server.url, page_comments=False)
    written = (document.folder / "document.md").read_text("utf-8")
    assert document.markdown == Document(document.folder).markdown == written
    assert "<!--" not in written
    assert "<!--" in convert(source, server=server.url).markdown


def test_it_goes_to_docling(tmp_path: Path, server: FakeServer) -> None:
    pytest.importorskip("docling_core")
    document = convert(image_pdf(tmp_path / "a.pdf", 1), server=server.url)
    assert "Page" in document.to_docling().export_to_markdown()


def test_one_engine_for_many_files(tmp_path: Path, server: FakeServer) -> None:
    page_image(3).save(tmp_path / "b.png")
    with Reader(server=server.url, task="free", retries=0) as reader:
        first = reader.convert(image_pdf(tmp_path / "a.pdf", 2), tmp_path / "out")
        page = reader.read(tmp_path / "b.png")
        assert reader.read(tmp_path / "a.pdf", 2).text != page.text
    assert first.folder == tmp_path / "out" / "a.pdf"
    assert (page.status, page.width) == ("ok", 120)
    with pytest.raises(RuntimeError, match="with Reader"):
        reader.read(tmp_path / "b.png")


def test_async(tmp_path: Path, server: FakeServer) -> None:
    page_image(3).save(tmp_path / "b.png")

    async def both() -> tuple[Document, str]:
        document = await aconvert(tmp_path / "b.png", server=server.url)
        page = await aread((tmp_path / "b.png").read_bytes(), server=server.url)
        return document, page.text

    document, text = asyncio.run(both())
    assert document.pages[0].text == text


def test_trouble_is_an_exception_with_a_sentence(tmp_path: Path, server: FakeServer) -> None:
    with pytest.raises(PageError, match="No such file"):
        convert(tmp_path / "none.pdf", server=server.url)
    with pytest.raises(PageError, match="no page in 9"):
        convert(image_pdf(tmp_path / "a.pdf", 1), server=server.url, pages="9")
    with pytest.raises(TypeError, match="no option 'mood'"):
        read(page_image(1), server=server.url, mood="base")
    with pytest.raises(TypeError, match="a path or URL; read takes images"):
        convert(page_image(1), server=server.url)  # type: ignore[arg-type]
    document = convert(tmp_path / "a.pdf", server=server.url, pages=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'docx' is not one of md"):
        document.save(tmp_path / "saved", "md,docx")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mode", "huge", "mode is one of tiny"),
        ("tables", "pipes", "tables is one of html, markdown"),
        ("retries", -1, "retries is at least 0"),
        ("dpi", float("nan"), "dpi is at least 1"),
        ("server", "http://localhost:99999", "no server's address"),
        ("server", "", "no server's address"),
    ],
)
def test_a_value_that_cannot_be_is_told_at_once(name: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Reader(**{name: value})


def test_threads_share_a_reader(tmp_path: Path, server: FakeServer) -> None:
    """One engine for all; those that want the same document wait for each other."""
    names = [image_pdf(tmp_path / f"{name}.pdf", 2) for name in "ab"] * 6
    before = threading.active_count()
    with Reader(server=server.url) as reader, ThreadPoolExecutor(8) as threads:
        documents = list(threads.map(lambda name: reader.convert(name, tmp_path / "out"), names))
        pages = list(threads.map(lambda name: reader.read(name, 2), names))
    assert [len(document.pages) for document in documents] == [2] * 12
    assert {page.status for page in pages} == {"ok"}
    assert len(server.bodies) == 4 + 12  # each document was read once
    assert threading.active_count() <= before


def test_one_engine_for_tasks_that_come_at_once(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    async def counted(choice: EngineChoice) -> Engine:
        made.append(choice)
        await asyncio.sleep(0.01)
        return await make_engine(choice)

    monkeypatch.setattr("vllm_dsocr.reader.make_engine", counted)
    source = image_pdf(tmp_path / "a.pdf", 1)

    async def several() -> None:
        async with Reader(server=server.url) as reader:
            await asyncio.gather(*(reader.aconvert(source, tmp_path / "out") for _ in range(4)))
            await asyncio.gather(*(reader.aread(source) for _ in range(4)))

    asyncio.run(several())
    assert len(made) == 1


def test_it_works_where_a_loop_is_running(tmp_path: Path, server: FakeServer) -> None:
    """As in a notebook."""

    async def cell() -> tuple[int, str]:
        document = convert(image_pdf(tmp_path / "a.pdf", 2), server=server.url)
        with Reader(server=server.url) as reader:
            return len(document.pages), reader.read(page_image(1)).status

    assert asyncio.run(cell()) == (2, "ok")


def test_ctrl_c_ends_a_program_that_reads(tmp_path: Path) -> None:
    """And leaves no thread that keeps it from ending."""
    asked = threading.Event()

    def slow(body: object, image: object) -> Answer:
        asked.set()
        time.sleep(3)
        return Answer("late")

    page_image(1).save(tmp_path / "a.png")
    with fake_server(slow) as server:
        code = (
            "import sys; from vllm_dsocr import convert\n"
            "try: convert(sys.argv[1], server=sys.argv[2])\n"
            "except KeyboardInterrupt: print('stopped')"
        )
        words = [sys.executable, "-c", code, str(tmp_path / "a.png"), server.url]
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, text=True, **HEEDS_CTRL_C
        )
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("stopped\n", 0)


def test_importing_the_names_needs_no_framework() -> None:
    code = (
        "import sys; from vllm_dsocr import convert, read, Reader, Document; "
        "print({'torch', 'transformers', 'vllm', 'openai'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_the_examples_in_the_documentation_run(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_pdf(tmp_path / "a.pdf", 2)
    page_image(3).save(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(
        str(ROOT / "docs" / "python.md"),
        module_relative=False,
        globs={"server": server.url},
        optionflags=doctest.ELLIPSIS,
    )
    assert (failed, tried > 5) == (0, True)
