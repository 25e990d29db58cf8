"""Encoded images of all kinds, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from vllm_dsocr.page.source import (
    PageError,
    Source,
    converts_plainly,
    iter_frames,
    open_image,
    upright_rgb,
)

pytestmark = pytest.mark.filterwarnings("error")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
ORIENTATION = 0x0112


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _page(color: tuple[int, int, int] = RED, size: tuple[int, int] = (30, 20)) -> Image.Image:
    return Image.new("RGB", size, color)


def _noise(size: int = 200) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and brings almost no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_formats_are_read_from_bytes_and_files(format: str, tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(_encoded(_page(), format, quality=100))
    for source in (path, str(path), path.read_bytes()):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (30, 20))
        assert np.abs(np.asarray(image).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    """A page with a dark corner, stored as each orientation demands, comes back upright."""
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste((0, 0, 0), (0, 0, 16, 16))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    transpose = undo.get(orientation)
    stored = upright if transpose is None else upright.transpose(Image.Transpose(transpose))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = open_image(_encoded(stored, format, exif=exif, quality=95))
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).mean() < 2


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 70, (70, 70, 70)),
        ("LA", (70, 0), (70, 70, 70)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 0x8080, (128, 128, 128)),
        ("I;16B", 0x4040, (64, 64, 64)),
        ("I", 257 * 3, (3, 3, 3)),
        ("I", 100_000, (255, 255, 255)),
        ("I", -5, (0, 0, 0)),
    ],
)
def test_modes_become_rgb(mode: str, color: object, expected: tuple[int, int, int]) -> None:
    image = upright_rgb(Image.new(mode, (3, 2), color), alpha="drop")
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == expected


def test_palette_images_become_rgb() -> None:
    data = _encoded(_page(BLUE).quantize(4), "PNG", transparency=0)
    assert open_image(data, alpha="drop").getpixel((0, 0)) == BLUE
    assert open_image(data).getpixel((0, 0)) == (255, 255, 255)


def test_black_on_transparent_is_black_on_white() -> None:
    image = Image.new("RGBA", (4, 1))  # black under full transparency
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (200, 0, 0, 128))
    page = open_image(_encoded(image, "PNG"))
    assert [page.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
    assert page.getpixel((2, 0)) == (227, 127, 127)
    assert open_image(_encoded(image, "PNG"), alpha="drop").getpixel((0, 0)) == (0, 0, 0)
    kept = open_image(_encoded(image, "PNG"), alpha=None)
    assert upright_rgb(kept).tobytes() == page.tobytes()


def test_heic_is_read() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = _encoded(Image.new("RGB", (64, 48), RED), "HEIF", quality=100)
    assert open_image(data).size == (64, 48)


@pytest.mark.parametrize("format", ["PPM", "JPEG2000"])
def test_formats_of_scanners_are_read(format: str) -> None:
    assert open_image(_encoded(_page(), format)).size == (30, 20)


def test_16_bit_greys_keep_their_shades() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    image = open_image(_encoded(Image.fromarray(ramp), "PNG"))
    assert np.asarray(image)[0, :, 0].tolist() == list(range(256))


def test_8_bit_greys_in_wide_pixels_stay() -> None:
    image = upright_rgb(Image.fromarray(np.array([[0, 100, 255]], dtype=np.int32)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 100, 255]


def test_a_palette_that_is_not_there_is_a_sentence() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 8, 3, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\1\2\3\4"))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    for read in (open_image, converts_plainly):
        with pytest.raises(PageError, match="damaged or truncated: its parts do not fit"):
            read(data)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("1", "TIFF")],
)
def test_what_converts_plainly_is_pillows_own_rgb(mode: str, format: str) -> None:
    data = _encoded(_noise().convert(mode), format)
    assert converts_plainly(data)
    assert open_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "I;16"])
def test_transparency_and_deep_greys_do_not_convert_plainly(mode: str) -> None:
    assert not converts_plainly(_encoded(Image.new(mode, (9, 9)), "PNG"))


def test_a_transparent_color_does_not_convert_plainly() -> None:
    assert not converts_plainly(_encoded(Image.new("P", (9, 9)), "GIF", transparency=0))


def test_an_upright_rgb_image_is_not_copied() -> None:
    image = _page()
    assert upright_rgb(image) is image
    assert open_image(image) is image


def test_every_page_of_a_tiff_comes_once() -> None:
    data = _encoded(
        _page(RED), "TIFF", save_all=True, append_images=[_page(GREEN), _page(BLUE, (5, 7))]
    )
    pages = list(iter_frames(data))  # all at once: a page does not change when the next is read
    assert [page.getpixel((0, 0)) for page in pages] == [RED, GREEN, BLUE]
    assert [page.size for page in pages] == [(30, 20), (30, 20), (5, 7)]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "MPO"])
def test_other_formats_have_one_page(format: str) -> None:
    data = _encoded(_page(RED), format, save_all=True, append_images=[_page(BLUE)], quality=100)
    (page,) = iter_frames(data)
    assert page.getpixel((0, 0))[0] > 250


def test_a_broken_page_of_a_tiff_follows_the_good_ones() -> None:
    data = _encoded(_page(RED), "TIFF", save_all=True, append_images=[_noise()])
    pages = iter_frames(data[:20_000])
    assert next(pages).getpixel((0, 0)) == RED
    with pytest.raises(PageError, match="damaged or truncated"):
        next(pages)


def test_a_page_from_a_file_outlives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "page.webp"
    path.write_bytes(_encoded(_page(), "WEBP", save_all=True, append_images=[_page(BLUE)]))
    image = open_image(path)
    path.unlink()
    assert np.asarray(image.resize((3, 3))).shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"", "the image is empty"),
        (b"Dear Sir or Madam,", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (_encoded(_noise(), "PNG")[:5000], "damaged or truncated"),
        (_encoded(_noise(), "JPEG")[:5000], "damaged or truncated"),
        (_encoded(_noise(), "TIFF", compression="tiff_lzw")[:5000], "damaged"),
        (_png_header(30_000, 30_000), "too many pixels"),
        (_png_header(13_000, 13_000), "too many pixels: 13000x13000"),
        (_png_header(10_000, 10_000), "damaged or truncated"),  # read, though Pillow warns here
        (Image.new("RGB", (0, 5)), "no pixels .0x5"),
        ("no/such/page.png", "cannot open no/such/page.png: No such file"),
        (".", "cannot open .: Is a directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_sources_get_one_sentence(source: Source, sentence: str) -> None:
    with pytest.raises(PageError, match=sentence) as caught:
        open_image(source, max_pixels=150_000_000)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_named_empty(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.touch()
    with pytest.raises(PageError, match="empty"):
        open_image(path)


def test_pixels_are_counted_before_they_are_decoded() -> None:
    """The budget also holds for images handed over undecoded, and for every frame of a file."""
    lazy = Image.open(io.BytesIO(_encoded(_page(), "PNG")))
    with pytest.raises(PageError, match="30x20 is more than 599"):
        open_image(lazy, max_pixels=599)
    frames = iter_frames(
        _encoded(_page(size=(9, 9)), "TIFF", save_all=True, append_images=[_page()]), 599
    )
    next(frames)
    with pytest.raises(PageError, match="30x20"):
        next(frames)


def test_a_truncated_image_handed_over_undecoded_is_refused() -> None:
    lazy = Image.open(io.BytesIO(_encoded(_noise(), "PNG")[:5000]))
    with pytest.raises(PageError, match="damaged or truncated"):
        open_image(lazy)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF decoder")
def test_avif_is_read() -> None:
    assert open_image(_encoded(_page(), "AVIF")).size == (30, 20)
