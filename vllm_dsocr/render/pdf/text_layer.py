"""A page's parts -> the drawing commands of text that nobody sees, each block within its box.

The model says where a block is, not where its lines are: as many lines as fit the box's shape are
spread over it, the longest as wide as the box. Knows nothing of files; standard library only.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator
from itertools import groupby

from vllm_dsocr.document.blocks import BOX_MAX, Box, Page
from vllm_dsocr.document.parts import Part, page_parts
from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.page.frame import PdfFrame
from vllm_dsocr.render.txt import part_text

FONT = "/DsocrText"
_ADVANCE, _DESCENT = 0.5, 0.2  # of the font size, as the font has them
_LEADING = 1.2
_INVISIBLE = 3  # text rendering mode: neither filled nor stroked
_WHOLE_PAGE = Box(0, 0, BOX_MAX, BOX_MAX)


def text_layer(page: Page, frame: PdfFrame, encoded: Callable[[str], bytes]) -> bytes:
    """Commands for the beginning of a page's content; empty when there is no text.

    encoded: text -> codes of the font that goes by the name FONT.
    """
    blocks = [_block(lines, box, frame, encoded) for box, lines in _blocks(page)]
    if not blocks:
        return b""
    return b"q BT %d Tr\n%sET Q\n" % (_INVISIBLE, b"".join(blocks))


Lines = list[list[str]]  # words by line, where the text itself has lines; one of them else


def _blocks(page: Page) -> Iterator[tuple[Box, Lines]]:
    """The words of every block and where they stand."""
    for _, parts in groupby(page_parts(page), key=lambda part: (part.block, part.boxes[:1])):
        held = list(parts)
        lines = [words for part in held for words in _lines(part)]
        if lines:
            yield (held[0].boxes or (_WHOLE_PAGE,))[0], lines


def _lines(part: Part) -> Iterator[list[str]]:
    text = utf8(part_text(part)).decode()
    text = "".join(" " if char.isspace() and char != "\n" else char for char in text)
    text = "".join(char for char in text if char == "\n" or char.isprintable())
    for line in text.split("\n"):
        if words := line.split():
            yield words


def _block(lines: Lines, box: Box, frame: PdfFrame, encoded: Callable[[str], bytes]) -> bytes:
    """The block's lines from the top of its box down, the longest as wide as the box."""
    page_width, page_height = displayed_size(frame)
    left, top, right, bottom = box.fractions
    width = max((right - left) * page_width, 1.0)
    height = max((bottom - top) * page_height, 1.0)
    texts = _wrapped(lines, width / height)
    pitch = height / len(texts)
    size = pitch / _LEADING
    stretch = 100 * width / (_ADVANCE * size * max(map(len, texts)))
    x, y = frame.point(left, top - _DESCENT * size / page_height)  # each line begins with a step
    ax, ay = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[frame.rotation]
    head = b"%s %.5g Tf %.5g Tz %.5g TL %d %d %d %d %.2f %.2f Tm\n" % (
        FONT.encode(), size, stretch, pitch, ax, ay, -ay, ax, x, y,
    )  # fmt: skip
    codes = (_string(encoded(_in_order_of_sight(text))) for text in texts)
    return head + b"".join(code + b"'\n" for code in codes)


def _wrapped(lines: Lines, shape: float) -> list[str]:
    """The words in as many lines as make letters of usual proportions in a box of that shape."""
    num_chars = sum(len(word) + 1 for line in lines for word in line)
    num_lines = math.sqrt(num_chars * _ADVANCE / (_LEADING * shape))
    longest = max(1, math.ceil(num_chars / max(1, round(num_lines))))
    if len(lines) >= num_lines:
        return [" ".join(line) for line in lines]
    texts: list[str] = []
    for line in lines:
        start = len(texts)
        for word in line:
            if len(texts) > start and len(texts[-1]) + 1 + len(word) <= longest:
                texts[-1] += " " + word
            else:
                texts.append(word)
    return texts


def _in_order_of_sight(text: str) -> str:
    """Runs of letters that are written from the right, reversed: PDF text is in drawing order."""
    done, run = "", ""
    for char in text:
        kind = unicodedata.bidirectional(char)
        if kind in ("R", "AL") or (run and kind in ("NSM", "WS")):
            run += char
        else:
            done, run = f"{done}{_reversed(run)}{char}", ""
    return done + _reversed(run)


def _reversed(run: str) -> str:
    words = run.rstrip()
    return words[::-1] + run[len(words) :]


def _string(data: bytes) -> bytes:
    for mark in (b"\\", b"(", b")"):
        data = data.replace(mark, b"\\" + mark)
    return b"(" + data.replace(b"\r", b"\\r") + b")"


def displayed_size(frame: PdfFrame) -> tuple[float, float]:
    """(width, height) of what is displayed, in units of user space."""
    left, bottom, right, top = frame.crop_box
    size = max(right - left, 1e-3), max(top - bottom, 1e-3)
    return size if frame.rotation in (0, 180) else (size[1], size[0])
