"""A seed becomes a printed page: a grey image, its text, and where every character lies.

The domain is the one the bundled reader is made for: ASCII text at 24-36 px in five fonts, with
slight jitter of position, pitch, ink and paper and with noise on a third of the pages.
Line breaks are real lines, words are separated by single spaces, nothing leads or trails.
Knows nothing of models, tokens or training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .words import word_stream

PAGE_SIDE = 640  # px; the `small` mode of DeepSeek-OCR
FONT_SIZES = range(24, 37)  # px
FONTS = ("pillow", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")
MAX_CHARS = 340  # on a full page; a lower page gets its share
LINES = (3, 14)  # on a full page
HELD_OUT_SEED = 1_000_000_007  # keeps held-out seeds apart from the counters used in training


@dataclass(frozen=True, slots=True)
class Page:
    """One rendered page.

    image: mode L. text: lines joined by newlines.
    centers: (x, y) px for every character of `text`; a newline lies just behind its line.
    end: (x, y) px just behind the last character.
    """

    image: Image.Image
    text: str
    centers: list[tuple[float, float]]
    end: tuple[float, float]


@lru_cache(maxsize=1)
def _dejavu_folder() -> Path:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the pages use the DejaVu fonts: pip install matplotlib") from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=256)
def load_font(name: str, size: int, basic: bool) -> ImageFont.FreeTypeFont:
    """One of FONTS at `size` px; `basic` layout has no ligatures.

    Raises ImportError with the install hint when the DejaVu fonts are missing.
    """
    if name == "pillow":
        return ImageFont.load_default(size)
    engine = ImageFont.Layout.BASIC if basic else None
    return ImageFont.truetype(_dejavu_folder() / f"{name}.ttf", size, layout_engine=engine)


@lru_cache(maxsize=65536)
def advance(font: ImageFont.FreeTypeFont, char: str) -> float:
    return font.getlength(char)


def text_width(font: ImageFont.FreeTypeFont, text: str) -> float:
    return sum(advance(font, char) for char in text)


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(4 * PAGE_SIDE * PAGE_SIDE, np.float32)


def render_page(
    rng: Random,
    width: int = PAGE_SIDE,
    height: int = PAGE_SIDE,
    held_out: bool = False,
    max_chars: int = MAX_CHARS,
) -> Page:
    """A random page of `width` x `height` px; the same for the same state of `rng`.

    max_chars: most characters on a full page; smaller pages get their share by area.
    A page too small for one line of text comes out empty.
    """
    size = rng.choice(FONT_SIZES)
    fonts = [load_font(name, size, rng.random() < 0.4) for name in rng.sample(FONTS, 2)]
    if rng.random() < 0.75:
        fonts = fonts[:1]
    left, right = rng.uniform(6, 56), width - rng.uniform(6, 40)
    if rng.random() < 0.4:
        right = left + (right - left) * rng.uniform(0.4, 1.0)
    pitch = size * rng.uniform(1.12, 1.3 if rng.random() < 0.6 else 2.0)
    room = int((height - 12) // pitch)
    wanted = rng.randint(LINES[0], LINES[1]) if height > width / 2 else LINES[1]
    chars = int(max_chars * rng.uniform(0.35, 1.0) * max(0.3, width * height / PAGE_SIDE**2))
    lines = _break_lines(rng, held_out, fonts, right - left, min(room, wanted), chars)
    free = height - 12 - pitch * len(lines)
    top = 6 + free * rng.random() * (1.0 if rng.random() < 0.5 else 0.3)
    return _draw(rng, (width, height), lines, size, (left, top, pitch))


Line = tuple[str, ImageFont.FreeTypeFont]


def _break_lines(
    rng: Random,
    held_out: bool,
    fonts: list[ImageFont.FreeTypeFont],
    width: float,
    max_lines: int,
    max_chars: int,
) -> list[Line]:
    words = word_stream(rng, held_out)
    ragged = rng.random() < 0.4
    lines: list[Line] = []
    chars = 0
    while len(lines) < max_lines and chars < max_chars:
        font = rng.choice(fonts)
        share = rng.uniform(0.1, 1.0) if ragged or rng.random() < 0.1 else 1.0
        line = _fill_line(words, font, width, width * share)[: max_chars + 8 - chars].strip()
        if not line:
            break
        lines.append((line, font))
        chars += len(line) + 1
    return lines


def _fill_line(
    words: Iterator[str], font: ImageFont.FreeTypeFont, width: float, target: float
) -> str:
    """Words until the line is `target` px long; never longer than `width` px."""
    line = ""
    while True:
        word = next(words)
        longer = f"{line} {word}" if line else word
        if text_width(font, longer) > (target if line else width):
            return line or _cut(word, font, width)
        line = longer


def _cut(word: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while word and text_width(font, word) > width:
        word = word[:-1]
    return word


def _draw(
    rng: Random,
    size: tuple[int, int],
    lines: list[Line],
    font_size: int,
    place: tuple[float, float, float],
) -> Page:
    paper, ink = rng.randint(205, 255), rng.randint(0, 80)
    image = Image.new("L", size, paper)
    draw = ImageDraw.Draw(image)
    left, top, pitch = place
    centers: list[tuple[float, float]] = []
    for i, (line, font) in enumerate(lines):
        x = left + rng.uniform(-1.5, 1.5)
        base = top + pitch * i + font_size * 0.95 + rng.uniform(-1, 1)
        spacing = rng.uniform(-0.4, 1.6) if rng.random() < 0.12 else 0.0
        spans = draw_line(draw, (x, base), line, font, ink, spacing)
        middle = base - 0.33 * font_size
        centers += [((a + b) / 2, middle) for a, b in spans]
        centers.append((spans[-1][1] + 0.4 * font_size, middle))
    end = centers.pop() if centers else (0.0, 0.0)
    if rng.random() < 1 / 3:
        image = add_noise(rng, image)
    return Page(image, "\n".join(line for line, _ in lines), centers, end)


def draw_line(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    line: str,
    font: ImageFont.FreeTypeFont,
    ink: int,
    spacing: float,
) -> list[tuple[float, float]]:
    """Prints one line; returns each character's left and right edge, px."""
    x, base = start
    if not spacing:
        draw.text((x, base), line, fill=ink, font=font, anchor="ls")
    # Kerning and ligatures make the printed line a little shorter than its advances.
    scale = 1.0 if spacing else font.getlength(line) / text_width(font, line)
    spans = []
    for char in line:
        step = advance(font, char) * scale + spacing
        if spacing and char != " ":
            draw.text((x, base), char, fill=ink, font=font, anchor="ls")
        spans.append((x, x + step))
        x += step
    return spans


def add_noise(rng: Random, image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    start = rng.randrange(_noise_bank().size - pixels.size)
    noise = _noise_bank()[start : start + pixels.size].reshape(pixels.shape)
    noisy = pixels + noise * rng.uniform(2, 14)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def held_out_pages(n: int, seed: int = 0, side: int = PAGE_SIDE) -> list[Page]:
    """`n` square pages of words and seeds that training never uses."""
    return [render_page(Random(HELD_OUT_SEED + seed + i), side, side, True) for i in range(n)]
