"""The boxes of an answer and of the truth -> how much they overlap. Knows nothing of texts."""

from __future__ import annotations

from itertools import zip_longest

from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.metrics import box_iou


def overlaps(text: str, truth: str) -> list[float]:
    """Overlap of every true box with the answer's box of the same number, 0 without one."""
    said, true = ([box for b in parse_blocks(t) for box in b.boxes] for t in (text, truth))
    pairs = zip_longest(said[: len(true)], true)
    return [0.0 if a is None or b is None else box_iou(a.corners, b.corners) for a, b in pairs]
