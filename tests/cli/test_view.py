"""Reports and `dsocr view`, looked at in a real browser."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.fake_engine import FakeEngine
from tests.page.pdfs import image_pdf
from vllm_dsocr.cli import main
from vllm_dsocr.cli.view import write_index
from vllm_dsocr.engine import Completion, Request
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import find_inputs
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.render.colors import label_color

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTH, HEIGHT = 1200, 900
TEXT = (
    "<|ref|>title<|/ref|><|det|>[[100, 100, 900, 300]]<|/det|>\n# Seen\n\n"
    "<|ref|>image<|/ref|><|det|>[[0, 400, 500, 900]]<|/det|>\n"
    "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
)


def _answer(request: Request) -> Completion:
    return Completion(TEXT, "stop", 10, 73)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """An output folder with one document of two pages, its source beside it."""
    source = image_pdf(tmp_path / "a b.pdf", 2, size=(400, 500))
    conversion = Conversion(
        FakeEngine(_answer), ReadSettings("fake", dpi=72), OutputSettings(), tmp_path / "out"
    )
    asyncio.run(conversion.run(find_inputs([source]).files))
    return tmp_path / "out"


def _browse(page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if BROWSER is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags = ["--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}"]
    return subprocess.run(
        [*command, *flags, f"--window-size={WIDTH},{HEIGHT}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def _console(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_the_index_names_every_document(converted: Path, capsys) -> None:
    assert main(["view", str(converted), "--no-open"]) == 0
    index = converted / "index.html"
    assert capsys.readouterr().out.strip() == str(index)
    html = index.read_text("utf-8")
    assert '<a href="a%20b.pdf/report.html">a b.pdf</a>' in html
    assert "2 ok" in html


def test_a_report_is_made_once(converted: Path) -> None:
    write_index(converted)
    report = converted / "a b.pdf" / "report.html"
    made = report.stat().st_mtime_ns
    write_index(converted)
    assert report.stat().st_mtime_ns == made


def test_without_the_source_the_report_has_the_text(converted: Path) -> None:
    (converted.parent / "a b.pdf").unlink()
    write_index(converted)
    html = (converted / "a b.pdf" / "report.html").read_text("utf-8")
    assert html.count("no picture of this page") == 2
    assert "<h1>Seen</h1>" in html


def test_nothing_to_view(tmp_path: Path, capsys) -> None:
    assert main(["view", str(tmp_path), "--no-open"]) == 2
    assert "no finished document" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["view", str(tmp_path / "typo"), "--no-open"]) == 2
    assert not (tmp_path / "typo").exists()


def test_a_browser_shows_boxes_beside_the_text(converted: Path, tmp_path: Path) -> None:
    write_index(converted)
    picture = tmp_path / "seen.png"
    result = _browse(converted / "a b.pdf" / "report.html", f"--screenshot={picture}")
    assert _console(result) == []
    image = Image.open(picture).convert("RGB")
    assert image.size == (WIDTH, HEIGHT)
    for side in ((0, 0, WIDTH // 2, HEIGHT), (WIDTH // 2, 0, WIDTH, HEIGHT)):
        colors = {color: count for count, color in image.crop(side).getcolors(WIDTH * HEIGHT)}
        for label in ("title", "image"):
            rgb = tuple(bytes.fromhex(label_color(label)[1:]))
            assert colors.get(rgb, 0) > 40, (side, label)


def test_a_browser_runs_nothing_the_model_wrote(converted: Path) -> None:
    write_index(converted)
    for name in ("report.html", "document.html"):
        dom = _browse(converted / "a b.pdf" / name, "--dump-dom")
        assert _console(dom) == []
        assert "<title>a b.pdf</title>" in dom.stdout
        assert "onerror=document.title" in dom.stdout
