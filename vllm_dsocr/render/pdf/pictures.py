"""JPEG pictures -> a PDF with one on each page, in pieces, so that its length does not matter.

Knows nothing of what is in the pictures; standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_CATALOG, _PAGES = 1, 2  # object numbers, known before the pages are
_FIRST_FREE = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG (RGB) of width x height px, to fill a page of `points` (width, height)."""

    jpeg: bytes
    width: int
    height: int
    points: tuple[float, float]


def picture_pdf(pictures: Iterable[Picture]) -> Iterator[bytes]:
    """The file's bytes; the same pictures give the same ones."""
    writer = _Writer()
    yield writer.raw(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    pages: list[int] = []
    for index, picture in enumerate(pictures):
        page, content, image = (_FIRST_FREE + 3 * index + offset for offset in range(3))
        pages.append(page)
        for number, data in _page_objects(picture, page, content, image):
            yield writer.object(number, data)
    kids = " ".join(f"{page} 0 R" for page in pages)
    yield writer.object(_CATALOG, b"<< /Type /Catalog /Pages %d 0 R >>" % _PAGES)
    yield writer.object(_PAGES, f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode())
    yield writer.end()


def _page_objects(
    picture: Picture, page: int, content: int, image: int
) -> Iterator[tuple[int, bytes]]:
    width, height = picture.points
    yield (
        page,
        (
            f"<< /Type /Page /Parent {_PAGES} 0 R /MediaBox [0 0 {width:.3f} {height:.3f}] "
            f"/Contents {content} 0 R /Resources << /XObject << /I {image} 0 R >> >> >>"
        ).encode(),
    )
    yield content, _stream("", f"{width:.3f} 0 0 {height:.3f} 0 0 cm /I Do".encode())
    about = (
        f"/Type /XObject /Subtype /Image /Width {picture.width} /Height {picture.height} "
        "/ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode "
    )
    yield image, _stream(about, picture.jpeg)


def _stream(about: str, data: bytes) -> bytes:
    head = f"<< {about}/Length {len(data)} >>\nstream\n".encode()
    return head + data + b"\nendstream"


class _Writer:
    """Keeps track of where objects begin."""

    def __init__(self) -> None:
        self._size = 0
        self._offsets: dict[int, int] = {}

    def raw(self, data: bytes) -> bytes:
        self._size += len(data)
        return data

    def object(self, number: int, data: bytes) -> bytes:
        self._offsets[number] = self._size
        return self.raw(b"%d 0 obj\n%b\nendobj\n" % (number, data))

    def end(self) -> bytes:
        """Cross-reference table and trailer."""
        count = len(self._offsets) + 1
        table = "".join(f"{self._offsets[number]:010} 00000 n \n" for number in range(1, count))
        return (
            f"xref\n0 {count}\n0000000000 65535 f \n{table}"
            f"trailer\n<< /Size {count} /Root {_CATALOG} 0 R >>\n"
            f"startxref\n{self._size}\n%%EOF\n"
        ).encode()
