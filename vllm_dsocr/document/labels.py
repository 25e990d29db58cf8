"""What the labels of a layout mean. Standard library only.

The model was trained to write some of them; the others are their like in the data it learned from,
so that a tag which names one is known for a tag.
"""

from __future__ import annotations

import re

FIGURES = frozenset({"image", "figure", "chart"})
HEADINGS = ("title", "sub_title")  # by level, where the text has no `#` of its own
FURNITURE = frozenset({"header", "footer", "page_number", "page_header", "page_footer"})
CAPTIONS = frozenset(
    {"table_caption", "image_caption", "figure_caption", "chart_caption", "code_caption", "caption"}
)
FOOTNOTES = frozenset({"table_footnote", "image_footnote", "page_footnote", "footnote"})
FORMULAS = frozenset({"equation", "formula", "interline_equation", "isolate_formula"})
TABLES = frozenset({"table"})
LISTS = frozenset({"list", "list_item"})
CODE = frozenset({"code", "algorithm"})
_OTHERS = frozenset(
    {"text", "paragraph", "section_header", "reference", "abstract", "aside_text", "author"}
    | {"formula_caption", "equation_caption", "seal", "stamp", "signature", "index", "toc"}
)
LAYOUT_LABELS = frozenset(HEADINGS).union(
    FIGURES, FURNITURE, CAPTIONS, FOOTNOTES, FORMULAS, TABLES, LISTS, CODE, _OTHERS
)
_IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z]+)*")


def is_words(label: str, content: str) -> bool:
    """Whether a label is what stands on the page, not what kind of thing it is.

    So it is for the prompts that read lines and locate phrases, which put the text into the tag.
    Where a text follows, a label that looks like a kind is taken for one.
    """
    if label in LAYOUT_LABELS:
        return False
    return not content.strip() or not _IDENTIFIER.fullmatch(label)
