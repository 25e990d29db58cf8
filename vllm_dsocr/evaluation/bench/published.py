"""What others measured for DeepSeek-OCR, by benchmark and mode, and where they published it."""

from __future__ import annotations

from collections.abc import Mapping

PAPER = "arXiv 2510.18234"
_OVERALL = ("overall", "text", "formula", "table", "order")
_EN_ZH = tuple(f"{name} ({language})" for language in ("en", "zh") for name in _OVERALL)

# Edit distances, table 3: English, then Chinese, of the benchmark's first version.
_OMNIDOCBENCH = {
    "tiny": (0.386, 0.373, 0.469, 0.422, 0.283, 0.361, 0.307, 0.635, 0.266, 0.236),
    "small": (0.221, 0.142, 0.373, 0.242, 0.125, 0.284, 0.240, 0.530, 0.159, 0.205),
    "base": (0.137, 0.054, 0.267, 0.163, 0.064, 0.240, 0.205, 0.474, 0.100, 0.181),
    "large": (0.138, 0.054, 0.277, 0.152, 0.067, 0.208, 0.143, 0.461, 0.104, 0.123),
    "gundam": (0.127, 0.043, 0.269, 0.134, 0.062, 0.181, 0.097, 0.432, 0.089, 0.103),
    "gundam-m": (0.123, 0.049, 0.242, 0.147, 0.056, 0.157, 0.087, 0.377, 0.080, 0.085),
}
# Precision, table 2, pages of 600-700, 700-800 ... 1,200-1,300 tokens.
_FOX = {
    "tiny": (0.965, 0.938, 0.838, 0.859, 0.793, 0.764, 0.591),
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
        return _OLMOCR, "README of olmOCR-bench"
    if benchmark == "fox":
        numbers = _FOX.get(mode, ())
        names = (f"precision, {n}-{n + 100} tokens" for n in range(600, 1300, 100))
        return dict(zip(names, numbers, strict=False)), f"{PAPER}, table 2"
    return dict(zip(_EN_ZH, _OMNIDOCBENCH.get(mode, ()), strict=False)), f"{PAPER}, table 3"
