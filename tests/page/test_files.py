"""Files of all kinds as rows of pages, page ranges, and URLs."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.pdfs import image_pdf, page_image, written_pdf
from vllm_dsocr.page.fetch import fetch, is_url
from vllm_dsocr.page.files import (
    ReadOptions,
    SourceError,
    content_hash,
    count_pages,
    holds_pages,
    iter_pages,
)
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.page.source import PageError

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")


def _tiff(path: Path, num_pages: int) -> Path:
    first, *others = [page_image(index) for index in range(num_pages)]
    first.save(path, "TIFF", save_all=True, append_images=others)
    return path


def _numbers(path: Path, ranges: str = "1-") -> list[int]:
    return [page.number for page in iter_pages(path, PageRanges.parse(ranges))]


def test_ranges_choose_pages_of_pdf_and_tiff(tmp_path: Path) -> None:
    for path in (image_pdf(tmp_path / "a.pdf", 6), _tiff(tmp_path / "a.tiff", 6)):
        assert _numbers(path) == [1, 2, 3, 4, 5, 6]
        assert _numbers(path, "2-3,5-") == [2, 3, 5, 6]
        assert _numbers(path, "6,1") == [1, 6]


def test_each_frame_of_a_tiff_is_its_own_page(tmp_path: Path) -> None:
    pages = [page.load() for page in iter_pages(_tiff(tmp_path / "a.tiff", 3))]
    assert [page.tobytes() for page in pages] == [page_image(i).tobytes() for i in range(3)]


def test_pages_of_a_pdf_know_their_points(tmp_path: Path) -> None:
    page = next(pages := iter_pages(image_pdf(tmp_path / "a.pdf", 1), options=ReadOptions(dpi=36)))
    assert page.size_points == (120, 160)
    assert page.load().size == (60, 80)
    assert next(pages, None) is None


def test_a_pdf_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_bytes(written_pdf([(50, 50)]))
    assert _numbers(path) == [1]


def test_pages_that_are_not_there_are_an_empty_selection(tmp_path: Path) -> None:
    assert _numbers(image_pdf(tmp_path / "a.pdf", 2), "7-9") == []
    page_image(1).save(tmp_path / "a.png")
    assert _numbers(tmp_path / "a.png", "2-3") == []


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    formats = {"PNG": "a", "JPEG": "b.jfif", "PPM": "c.dat", "JPEG2000": "d.pdf", "TIFF": "e.txt"}
    for format, name in formats.items():
        page_image(3).save(tmp_path / name, format)
        assert holds_pages(tmp_path / name)
        (page,) = iter_pages(tmp_path / name)
        assert page.load().size == (120, 160)
    (tmp_path / "notes.txt").write_text("Mail: %PDF-1.4 is attached")
    assert not holds_pages(tmp_path / "notes.txt")


def test_a_password_opens_a_pdf(tmp_path: Path) -> None:
    pikepdf = pytest.importorskip("pikepdf")
    path = tmp_path / "a.pdf"
    with pikepdf.open(image_pdf(tmp_path / "plain.pdf", 1)) as pdf:
        pdf.save(path, encryption=pikepdf.Encryption(owner="o", user="open"))
    page = next(pages := iter_pages(path, options=ReadOptions(password="open")))
    assert page.load().size == (240, 320)
    pages.close()
    with pytest.raises(PageError, match="needs a password, or another one"):
        list(iter_pages(path, options=ReadOptions(password="wrong")))


def test_a_damaged_later_frame_is_one_page_that_fails(tmp_path: Path) -> None:
    path = _tiff(tmp_path / "a.tiff", 2)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 200])
    pages = list(iter_pages(path))
    with pytest.raises(PageError):
        pages[-1].load()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        _numbers(tmp_path / "missing.png")


def test_counting_never_fails(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pdf"
    bad.write_text("no PDF")
    assert count_pages(bad) == 1
    assert count_pages(tmp_path / "missing.pdf") == 1
    assert count_pages(image_pdf(tmp_path / "a.pdf", 5), PageRanges.parse("2-3,9")) == 2


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    assert len(content_hash(tmp_path / "a")) == 64


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "1-2-3", "1,,2", "-3", "1 2"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="not a page range"):
        PageRanges.parse(text)


def test_ranges_are_written_as_they_were_read() -> None:
    assert str(PageRanges.parse("1-3, 7,9-")) == "1-3,7,9-"


class _Site(http.server.BaseHTTPRequestHandler):
    """Gives b"page" for /page.png and leads everything else to where the path says."""

    def do_GET(self) -> None:
        if self.path == "/page.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"page")
            return
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to/"))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_url_is_fetched_from_its_own_host(tmp_path: Path, site: str) -> None:
    path = fetch(f"{site}/page.png", tmp_path, typed=True)
    assert (path.name, path.read_bytes()) == ("page.png", b"page")
    assert fetch(f"{site}/to/{site}/page.png", tmp_path, typed=True).read_bytes() == b"page"


def test_redirects_elsewhere_need_a_name(tmp_path: Path, site: str) -> None:
    elsewhere = site.replace("127.0.0.1", "localhost")
    with pytest.raises(PageError, match="'localhost' was not allowed"):
        fetch(f"{site}/to/{elsewhere}/page.png", tmp_path, typed=True)
    path = fetch(f"{site}/to/{elsewhere}/page.png", tmp_path, ["localhost"], typed=True)
    assert path.read_bytes() == b"page"
    with pytest.raises(PageError, match="'127.0.0.1' was not allowed"):
        fetch(f"{site}/page.png", tmp_path, ["localhost"])
    for inside in ("file:///etc/hostname", "ftp://127.0.0.1/a"):
        with pytest.raises(PageError):
            fetch(f"{site}/to/{inside}", tmp_path, typed=True)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:1/a"])
def test_what_cannot_be_fetched_is_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(PageError, match="cannot fetch"):
        fetch(url, tmp_path, typed=True)


def test_downloads_have_a_largest_size(tmp_path: Path, site: str) -> None:
    with pytest.raises(PageError, match="larger than 3 bytes"):
        fetch(f"{site}/page.png", tmp_path, max_bytes=3, typed=True)


def test_urls_are_told_from_paths() -> None:
    assert is_url("https://example.org/a.pdf")
    assert not is_url("scans/a.pdf")
    assert not is_url("C:/a.pdf")
