"""Page image -> whether nothing is written on it, before a model is asked. Needs NumPy and Pillow.

A model that is shown an empty page invents text, so empty backs of scanned sheets must be told from
their pixels. Wrong answers have different prices: a blank page that is asked for costs a request, a
faint note that is taken for blank is lost. So in doubt a page is not blank.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

WORK_SIDE = 1700  # px; larger pages are averaged down to it, which also averages their noise
CELL = 24  # px of that; paper is taken to be even within a cell, so shadows and tints are paper
MARGIN = 0.02  # of each side: edges of the sheet and of the scanner's lid
MIN_CONTRAST = 3.0  # of 255, after smoothing: less is paper, even without noise
NOISE_FACTOR = 5.0  # standard deviations: chance alone makes no group of such pixels
MAX_NOISE = 4.0  # of 255, after smoothing: more is no paper but a photograph
MIN_MARK = 10  # px that belong together; one speck of dust, smoothed, has 9
_NORMAL = 1.4826  # a normal distribution's standard deviation by its median absolute one


def is_blank(image: Image.Image) -> bool:
    """Whether an upright RGB page has no mark that stands out of its paper.

    A mark is a group of pixels, each darker or lighter than the paper around by more than
    MIN_CONTRAST and more than NOISE_FACTOR times the noise of this very page, of which at least
    MIN_MARK lie beside each other. The outermost MARGIN is not looked at.
    """
    grey = _inner(image.convert("L"))
    if _plainly_written(grey):
        return False
    values = np.asarray(_smooth(grey), dtype=np.float32)
    deviation = np.abs(values - _paper(values))
    noise = float(np.median(deviation)) * _NORMAL
    if noise > MAX_NOISE:
        return False
    marks = deviation > max(MIN_CONTRAST, NOISE_FACTOR * noise)
    return not _has_group(marks)


def _smooth(grey: Image.Image) -> Image.Image:
    """Neighbours averaged: into fewer pixels where there are many, else in place."""
    factor = -(-max(grey.size) // WORK_SIDE)
    return grey.reduce(factor) if factor > 1 else grey.filter(ImageFilter.BoxBlur(1))


def _inner(grey: Image.Image) -> Image.Image:
    x, y = (round(side * MARGIN) for side in grey.size)
    return grey.crop((x, y, grey.width - x, grey.height - y))


def _plainly_written(grey: Image.Image) -> bool:
    """Most pages, at little cost: strong contrast still there at a quarter of the size."""
    if min(grey.size) < 8:
        return True
    values = np.asarray(grey.reduce(4))
    return int(values.max()) - int(values.min()) > 100  # of 255


def _paper(values: np.ndarray) -> np.ndarray:
    """The paper behind every pixel: the median of its cell, smoothed between cells.

    values: (height, width) float32.
    """
    height, width = values.shape
    rows, cols = max(1, height // CELL), max(1, width // CELL)
    ys, xs = (
        np.linspace(0, side, n + 1).astype(int) for side, n in ((height, rows), (width, cols))
    )
    medians = np.array(
        [
            [np.median(values[y0:y1:2, x0:x1:2]) for x0, x1 in zip(xs, xs[1:], strict=False)]
            for y0, y1 in zip(ys, ys[1:], strict=False)
        ],
        dtype=np.float32,
    )
    smooth = Image.fromarray(medians).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(smooth)


def _has_group(marks: np.ndarray) -> bool:
    """Whether MIN_MARK marked pixels lie within one 6 x 6 window.

    marks: (height, width) bool.
    """
    if not marks.any():
        return False
    sums = np.pad(marks.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    side = min(6, *marks.shape)
    counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return bool(counts.max() >= MIN_MARK)
