"""PDF pages as images, and one sentence for each way a PDF can be bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.page.pdfs import encrypted_pdf, image_pdf, page_image, written_pdf
from vllm_dsocr.page.source import PageError

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

from vllm_dsocr.page.pdf import PdfFile  # noqa: E402


def _save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_pages_come_at_the_asked_resolution(tmp_path: Path) -> None:
    pdf = PdfFile(image_pdf(tmp_path / "a.pdf", 3))
    assert pdf.num_pages == 3
    assert pdf.size_points(2) == (120, 160)
    image = pdf.image(2, dpi=72)
    assert (image.mode, image.size) == ("RGB", (120, 160))
    expected = page_image(1).getpixel((30, 30))
    assert all(abs(a - b) < 8 for a, b in zip(image.getpixel((30, 30)), expected, strict=True))
    assert pdf.image(2, dpi=144).size == (240, 320)


@pytest.mark.parametrize("size", [(100, 100), (14400, 14400), (14400, 3), (1, 9000)])
def test_the_pixel_budget_holds_before_drawing(tmp_path: Path, size: tuple[int, int]) -> None:
    pdf = PdfFile(_save(tmp_path / "a.pdf", written_pdf([size])))
    width, height = pdf.image(1, dpi=1200, max_pixels=50_000).size
    assert width * height <= 50_000
    if min(size) > 50:
        assert width * height > 49_000
        assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the PDF is empty (0 bytes)"),
        (b"just some text\n" * 100, "the PDF is damaged or no PDF at all"),
        (written_pdf([(100, 100)])[:120], "the PDF is damaged or no PDF at all"),
        (encrypted_pdf(), "the PDF needs a password, or another one"),
        (written_pdf([]), "the PDF has no pages"),
    ],
    ids=["empty", "text", "truncated", "encrypted", "no pages"],
)
def test_each_bad_file_has_one_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(PageError) as caught:
        PdfFile(_save(tmp_path / "a.pdf", data))
    assert str(caught.value) == sentence


def test_a_damaged_page_leaves_the_others(tmp_path: Path) -> None:
    data = written_pdf([(100, 100), (200, 200), (300, 300)])
    broken = data.replace(b"4 0 obj\n<< /Type /Page ", b"4 0 obj\n<< /Type /Font ")
    pdf = PdfFile(_save(tmp_path / "a.pdf", broken))
    assert pdf.image(1, dpi=72).size == (100, 100)
    with pytest.raises(PageError, match="page 2 of the PDF is damaged"):
        pdf.image(2)
    assert pdf.image(3, dpi=72).size == (300, 300)
