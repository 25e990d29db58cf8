"""What others measured for DeepSeek-OCR, by benchmark and mode, and where they published it."""

from __future__ import annotations

from collections.abc import Mapping

PAPER = "arXiv 2510.18234"
# Of OmniDocBench only the mean of English and Chinese, as the paper's figure 1b shows it.
_MEAN = "overall, mean of en and zh (read off a figure, +-0.003)"
_OMNIDOCBENCH = {
    "tiny": 0.374,
    "small": 0.253,
    "base": 0.188,
    "large": 0.173,
    "gundam": 0.154,
    "gundam-m": 0.140,
}
# Precision as written in figure 1a, pages of 600-700, 700-800 ... 1,200-1,300 tokens.
_FOX = {
    "tiny": (0.965, 0.938, 0.838, 0.858, 0.793, 0.763, 0.591),
    "small": (0.985, 0.973, 0.968, 0.968, 0.915, 0.898, 0.871),
}
_OLMOCR = {
    "overall": 0.757,
    "arxiv_math": 0.772,
    "old_scans_math": 0.736,
    "table_tests": 0.802,
    "old_scans": 0.333,
    "headers_footers": 0.961,
    "multi_column": 0.664,
    "long_tiny_text": 0.794,
    "baseline": 0.998,
}


def published(benchmark: str, mode: str) -> tuple[Mapping[str, float], str]:
    """Names and numbers, and their source; no numbers for a mode that nobody published."""
    if benchmark == "olmocr-bench":
        return _OLMOCR, "README of github.com/allenai/olmocr"
    if benchmark == "fox":
        numbers = _FOX.get(mode, ())
        names = (f"precision, {n}-{n + 100} tokens" for n in range(600, 1300, 100))
        return dict(zip(names, numbers, strict=False)), f"{PAPER}, figure 1a"
    means = {_MEAN: _OMNIDOCBENCH[mode]} if mode in _OMNIDOCBENCH else {}
    return means, f"{PAPER}, figure 1b"
