"""Labels -> the colours they have wherever layout is drawn. Standard library only."""

from __future__ import annotations

import zlib

from vllm_dsocr.document.unicode import utf8

_COLORS = {
    "title": "#c0392b",
    "sub_title": "#d35400",
    "text": "#2471a3",
    "list": "#2e86c1",
    "equation": "#7d3c98",
    "table": "#1e8449",
    "table_caption": "#52a36f",
    "image": "#b9770e",
    "figure": "#9a7d0a",
    "image_caption": "#ca9a3c",
    "header": "#5d6d7e",
    "footer": "#34495e",
}
_OTHER_COLORS = ("#a93279", "#117a65", "#6e2c00", "#1a5276")


def label_color(label: str) -> str:
    """The colour ("#rrggbb") a label has wherever layout is drawn; the same in every run."""
    return _COLORS.get(label) or _OTHER_COLORS[zlib.crc32(utf8(label)) % len(_OTHER_COLORS)]
