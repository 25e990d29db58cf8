"""Files of all kinds as rows of pages, page ranges, and URLs."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.pdfs import image_pdf, page_image, written_pdf
from vllm_dsocr.page.fetch import fetch, is_url
from vllm_dsocr.page.files import content_hash, count_pages, iter_pages
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
    page = next(pages := iter_pages(image_pdf(tmp_path / "a.pdf", 1), dpi=36))
    assert page.size_points == (120, 160)
    assert page.load().size == (60, 80)
    assert next(pages, None) is None


def test_a_pdf_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_bytes(written_pdf([(50, 50)]))
    assert _numbers(path) == [1]


def test_a_file_without_a_wanted_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="the file has no page in 7-9"):
        _numbers(image_pdf(tmp_path / "a.pdf", 2), "7-9")


def test_a_damaged_later_frame_is_one_page_that_fails(tmp_path: Path) -> None:
    path = _tiff(tmp_path / "a.tiff", 2)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 200])
    try:
        pages = list(iter_pages(path))
    except PageError:
        pytest.skip("this Pillow finds no first frame either")
    assert pages[0].load().size == (120, 160)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="No such file"):
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


def test_a_named_host_is_fetched_from(tmp_path: Path, site: str) -> None:
    path = fetch(f"{site}/page.png", tmp_path, ["127.0.0.1"])
    assert (path.name, path.read_bytes()) == ("page.png", b"page")
    path = fetch(f"{site}/to/{site}/page.png", tmp_path, ["127.0.0.1"])
    assert path.read_bytes() == b"page"


def test_no_other_host_is_reached(tmp_path: Path, site: str) -> None:
    with pytest.raises(PageError, match="not allowed"):
        fetch(f"{site}/page.png", tmp_path, ["example.org"])
    elsewhere = site.replace("127.0.0.1", "localhost")
    with pytest.raises(PageError, match="'localhost' was not allowed"):
        fetch(f"{site}/to/{elsewhere}/page.png", tmp_path, ["127.0.0.1"])
    with pytest.raises(PageError, match="not allowed"):
        fetch(f"{site}/to/file:///etc/hostname", tmp_path, ["127.0.0.1"])


def test_downloads_have_a_largest_size(tmp_path: Path, site: str) -> None:
    with pytest.raises(PageError, match="larger than 3 bytes"):
        fetch(f"{site}/page.png", tmp_path, ["127.0.0.1"], max_bytes=3)


def test_urls_are_told_from_paths() -> None:
    assert is_url("https://example.org/a.pdf")
    assert not is_url("scans/a.pdf")
    assert not is_url("C:/a.pdf")
