"""Damaged image and PDF files: pages, or one sentence; no other error, crash or endless loop."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from PIL import Image

from tests.page.pdfs import encrypted_pdf, image_pdf, page_image, written_pdf
from vllm_dsocr.page.blank import is_blank
from vllm_dsocr.page.files import count_pages, iter_pages
from vllm_dsocr.page.source import PageError, open_image

KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F")
ODD_NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"99999999")


@contextmanager
def files() -> Iterator[Callable[[Random], None]]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda rng: check(rng, Path(folder))


def check(rng: Random, folder: Path) -> None:
    data = damaged(rng, whole(rng, folder))
    path = folder / f"page.{rng.choice(['pdf', 'png', 'jpg', 'tif', 'bin'])}"
    path.write_bytes(data)
    try:
        assert open_image(data, max_pixels=10**7).mode == "RGB"
    except PageError as error:
        assert str(error)
    try:
        count_pages(path)
        for number, page in enumerate(iter_pages(path), 1):
            try:
                is_blank(page.load())
            except PageError as error:
                assert str(error)
            if number >= 5:
                break
    except PageError as error:
        assert str(error)


def whole(rng: Random, folder: Path) -> bytes:
    """A file that can be read, or a PDF that needs a password."""
    if rng.random() < 0.4:
        return rng.choice(
            [
                lambda: image_pdf(folder / "whole.pdf", rng.randrange(1, 4)).read_bytes(),
                lambda: written_pdf([(rng.uniform(1, 9000), rng.uniform(1, 900))]),
                encrypted_pdf,
            ]
        )()
    size = (rng.randrange(1, 80), rng.randrange(1, 80))
    image = page_image(rng.randrange(99), size)
    kind, mode = rng.choice(KINDS), rng.choice(MODES)
    buffer = io.BytesIO()
    try:
        image.convert(mode).save(buffer, kind)
    except (OSError, ValueError):  # not every format has every mode
        image.save(buffer, "PNG", exif=Image.Exif())
    return buffer.getvalue()


def damaged(rng: Random, data: bytes) -> bytes:
    """The file with bytes changed, moved, cut off or put in; sometimes as it is."""
    body = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 5, 30])):
        at = rng.randrange(len(body) + 1)
        action = rng.randrange(5)
        if action == 0 and at < len(body):
            body[at] = rng.randrange(256)
        elif action == 1:
            number = rng.choice(ODD_NUMBERS)
            body[at : at + len(number)] = number
        elif action == 2:
            del body[at : at + rng.choice([1, 4, 1000])]
        elif action == 3:
            body[at:at] = rng.randbytes(rng.choice([1, 8, 300]))
        else:
            start = rng.randrange(len(body) + 1)
            body[at:at] = body[start : start + rng.randrange(200)]
    return bytes(body)
