"""Blank pages are told from their pixels, and nothing that a person could read is taken for one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vllm_dsocr.page.blank import is_blank

A4 = 8.27, 11.69  # inches
PAPER = (246, 244, 240)


def _sheet(dpi: int, ink: int = 0, words: str = "call Anna", points: float = 12) -> Image.Image:
    """A sheet under uneven light; `ink` is how much darker than the paper the words are."""
    size = tuple(round(side * dpi) for side in A4)
    sheet = Image.new("RGB", size, PAPER)
    if ink:
        font = ImageFont.load_default(size=round(dpi * points / 72))
        color = tuple(shade - ink for shade in PAPER)
        ImageDraw.Draw(sheet).text((size[0] * 0.3, size[1] * 0.4), words, fill=color, font=font)
        sheet = sheet.filter(ImageFilter.GaussianBlur(0.5))
    light = (
        np.linspace(0, -25, size[0])[None, :, None] + np.linspace(0, -10, size[1])[:, None, None]
    )
    return Image.fromarray(np.clip(np.asarray(sheet) + light, 0, 255).astype(np.uint8))


def _scanned(sheet: Image.Image, noise: float, quality: int = 75) -> Image.Image:
    """With noise of that standard deviation, and through JPEG."""
    values = np.asarray(sheet) + np.random.default_rng(1).normal(0, noise, (*sheet.size[::-1], 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize("noise", [0, 3, 6])
@pytest.mark.parametrize("dpi", [100, 200])
def test_an_empty_scan_is_blank(dpi: int, noise: float) -> None:
    assert is_blank(_scanned(_sheet(dpi), noise))


@pytest.mark.parametrize(("dpi", "noise", "ink"), [(144, 0, 15), (144, 3, 25), (200, 3, 20)])
def test_faint_pencil_is_not_blank(dpi: int, noise: float, ink: int) -> None:
    assert not is_blank(_scanned(_sheet(dpi, ink), noise))


@pytest.mark.parametrize("words", ["7", ".", "- 12 -"])
def test_a_page_number_alone_is_not_blank(words: str) -> None:
    assert not is_blank(_scanned(_sheet(144, 200, words, points=10), 3))


@pytest.mark.parametrize("shade", [255, 200, 0])
def test_one_color_is_blank(shade: int) -> None:
    assert is_blank(Image.new("RGB", (1191, 1684), (shade,) * 3))


def test_edges_of_the_scanner_do_not_count_and_dust_does_not() -> None:
    sheet = Image.new("RGB", (1191, 1684), "white")
    sheet.paste((30, 30, 30), (0, 0, 12, 1684))
    for x, y in ((300, 400), (800, 1200), (500, 90)):
        sheet.putpixel((x, y), (150, 150, 150))
    assert is_blank(sheet)


def test_white_on_black_and_pictures_are_not_blank() -> None:
    black = Image.new("RGB", (1191, 1684))
    ImageDraw.Draw(black).text((500, 500), "the end", fill=(60, 60, 60))
    assert not is_blank(black)
    noise = np.random.default_rng(2).integers(0, 256, (900, 700, 3), dtype=np.uint8)
    assert not is_blank(Image.fromarray(noise))
    assert not is_blank(Image.new("RGB", (5, 5)))
