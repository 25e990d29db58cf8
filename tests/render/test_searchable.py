"""The searchable PDF, read back with PDFium: every word on its page, within its block."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest

pikepdf = pytest.importorskip("pikepdf", reason="pip install 'vllm-dsocr[pdf]'")
pypdfium2 = pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")
from PIL import Image, ImageDraw  # noqa: E402

from vllm_dsocr.document.blocks import Page  # noqa: E402
from vllm_dsocr.document.grounding import parse_blocks  # noqa: E402
from vllm_dsocr.page.files import iter_pages  # noqa: E402
from vllm_dsocr.render.finished import FinishedDocument  # noqa: E402
from vllm_dsocr.render.formats import FORMATS  # noqa: E402

BOXES = [(60, 50, 940, 110), (60, 130, 480, 560), (520, 130, 940, 560), (60, 600, 940, 950)]
WORDS = "alpha Größe 12.5% naïve données 表格 日本語 한국어 עברית Ωmega 𝒳 🙂 fin".split()  # noqa: RUF001, SIM905


def _text(number: int, rng: random.Random) -> str:
    """Four blocks of words, each word found nowhere else."""
    blocks = []
    for index, box in enumerate(BOXES):
        num_words = 8 if index == 0 else 110
        words = [f"{rng.choice(WORDS)}x{number}y{index}z{i}" for i in range(num_words)]
        blocks.append(f"<|ref|>text<|/ref|><|det|>[{list(box)}]<|/det|>\n" + " ".join(words))
    return "\n\n".join(blocks)


def _scans(path: Path, num_pages: int) -> None:
    """Pages as a scanner makes them: JPEGs in a PDF, about 100 KB each."""
    rng = random.Random(0)
    pages = []
    for _ in range(num_pages):
        noise = Image.frombytes("L", (300, 400), rng.randbytes(120_000)).resize((600, 800))
        ImageDraw.Draw(noise).rectangle((60, 60, 300, 90), fill=0)
        pages.append(noise.convert("RGB"))
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:], resolution=72, quality=80)


def _document(path: Path, pages: list[Page]) -> FinishedDocument:
    return FinishedDocument("t", lambda: pages, lambda figure: b"", source=path)


def _pages(path: Path, seed: int = 0) -> list[Page]:
    rng = random.Random(seed)
    pages = []
    for source in iter_pages(path):
        text = _text(source.number, rng)
        facts = {"size_points": source.size_points, "frame": source.frame}
        pages.append(
            Page(source.number, "ok", 600, 800, text=text, blocks=parse_blocks(text), **facts)
        )
    return pages


def _assert_every_word_is_in_its_block(data: bytes, pages: list[Page]) -> None:
    pdf = pypdfium2.PdfDocument(data)
    for page in pages:
        text = pdf[page.number - 1].get_textpage()
        units = [pypdfium2.raw.FPDFText_GetUnicode(text, i) for i in range(text.count_chars())]
        found = "".join(map(chr, units))
        for block in page.blocks:
            place = page.frame.user_space(*block.boxes[0].fractions)
            for word in map(_units, block.content.split()):
                start = found.find(word)
                assert start >= 0, word
                for index in (start, start + len(word) - 1):
                    _assert_is_inside(text.get_charbox(index, loose=True), place)


def _units(word: str) -> str:
    """UTF-16 code units, which PDFium counts."""
    data = word.encode("utf-16-be")
    return "".join(chr(256 * high + low) for high, low in zip(data[::2], data[1::2], strict=True))


def _assert_is_inside(char: tuple[float, ...], place: tuple[float, ...]) -> None:
    x, y = (char[0] + char[2]) / 2, (char[1] + char[3]) / 2
    assert place[0] - 1 <= x <= place[2] + 1
    assert place[1] - 1 <= y <= place[3] + 1


def test_words_of_twenty_pages_are_in_their_blocks_and_cost_little(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    _scans(path, 20)
    pages = _pages(path)
    data = FORMATS["pdf"].data(_document(path, pages))
    _assert_every_word_is_in_its_block(data, pages)
    growth = len(data) - path.stat().st_size
    assert growth < 0.10 * path.stat().st_size
    assert growth < 20 * 2048
    assert data == FORMATS["pdf"].data(_document(path, pages)), "the same input, the same bytes"


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_turned_and_cropped_pages(tmp_path: Path, rotation: int) -> None:
    path = tmp_path / "a.pdf"
    _scans(path, 1)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.Root.Pages.Rotate = rotation  # inherited, as /Resources may be
        pdf.pages[0].obj.CropBox = [100, 50, 500, 650]
        pdf.pages[0].obj.UserUnit = 2
        pdf.Root.Pages.Resources = pdf.pages[0].obj.Resources
        del pdf.pages[0].obj.Resources
        pdf.save(path)
    pages = _pages(path)
    data = FORMATS["pdf"].data(_document(path, pages))
    _assert_every_word_is_in_its_block(data, pages)
    before, after = (pypdfium2.PdfDocument(file)[0].render().to_pil() for file in (path, data))
    assert before.size == after.size
    assert before.tobytes() == after.tobytes(), "it looks as before"


def test_content_of_the_source_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    _scans(path, 2)
    data = FORMATS["pdf"].data(_document(path, _pages(path)))
    with pikepdf.open(path) as before, pikepdf.open(io.BytesIO(data)) as after:
        for old, new in zip(before.pages, after.pages, strict=True):
            assert new.obj.Contents[-1].read_bytes() == old.obj.Contents.read_bytes()
            assert len(new.obj.Contents) == 2


def test_images_become_pages(tmp_path: Path) -> None:
    text = "<|ref|>OCR words<|/ref|><|det|>[[10, 10, 500, 60]]<|/det|>\n"
    page = Page(1, "ok", 600, 800, text=text, blocks=parse_blocks(text))

    class Pictures:
        def image(self, number: int) -> Image.Image:
            return Image.new("RGB", (600, 800), "white")

    document = FinishedDocument("t", lambda: [page], lambda figure: b"", pictures=Pictures)
    pdf = pypdfium2.PdfDocument(FORMATS["pdf"].data(document))
    assert pdf[0].get_size() == (300, 400)
    assert "OCR words" in pdf[0].get_textpage().get_text_range()


def test_text_without_boxes_and_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    _scans(path, 1)
    text = "free \ud800 text (with) \\ marks \x00\x07 and\ta tab"
    page = Page(1, "ok", 600, 800, None, text, parse_blocks(text))
    pages = [replace(page, frame=next(iter_pages(path)).frame)]
    pdf = pypdfium2.PdfDocument(FORMATS["pdf"].data(_document(path, pages)))
    found = pdf[0].get_textpage().get_text_range()
    assert "(with) \\" in found
    assert "\x00" not in found and "\x07" not in found
