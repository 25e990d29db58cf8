"""A page of OmniDocBench, or a reader's Markdown of it -> blocks of text, formulas and tables.

Knows nothing of scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_dsocr.evaluation.latex import formula_key, text_key

TEXT, FORMULA, INLINE, TABLE = "text", "formula", "inline formula", "table"
# Categories that readers may leave out or not: what matches one counts for nothing.
OPTIONAL = (
    "figure_caption", "figure_footnote", "table_caption", "table_footnote", "code_algorithm",
    "code_algorithm_caption", "header", "footer", "page_footnote", "page_number",
    "equation_caption",
)  # fmt: skip
TEXTS = ("text_block", "title", "code_txt", "code_txt_caption", "reference")
_IMAGE = re.compile(r"!\[.*?\]\(.*?\)")
_FENCE = re.compile(r"^```(?:markdown|html|latex)\n?|```\n?\Z", re.MULTILINE)
_DOCUMENT_TAGS = re.compile(r"</?(?:html|body)>")
_LATEX_TABLE = re.compile(r"\\begin\{(tabular\*?)\}.*?\\end\{\1\}", re.DOTALL)
_DISPLAYED = re.compile(r"\$\$(.*?)\$\$|\\\[(.*?)\\\]|\$(.*?)\$|\\\((.*?)\\\)", re.DOTALL)
_CODE = re.compile(r"```\w+\n(.*?)```", re.DOTALL)
_SECTION = re.compile(r"\\(?:title|text|section\*?)\s*\{\s*(.*?)\s*\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """key: what is compared.  places: its number in the reading order, if it has one.

    is_optional: readers may leave it out.
    """

    kind: str
    key: str
    places: tuple[float, ...] = field(default=())
    is_optional: bool = False


def truth_blocks(page: Mapping[str, Any]) -> list[Block]:
    """Texts and formulas of a page in reading order, pieces of one paragraph put together."""
    blocks = [_truth(block) for block in _merged(page) if block["category_type"] != TABLE]
    return sorted((block for block in blocks if block and block.key), key=lambda b: b.places)


def truth_tables(page: Mapping[str, Any]) -> list[str]:
    """Its tables as HTML, in reading order."""
    tables = [block for block in page["layout_dets"] if block["category_type"] == TABLE]
    return [block.get("html") or "" for block in sorted(tables, key=_order)]


def _truth(block: Mapping[str, Any]) -> Block | None:
    kind = block["category_type"]
    # What stands outside the order has no place in it.
    places = tuple(filter(None, (_order(block),)))
    if kind == "equation_isolated":
        return Block(FORMULA, formula_key(block.get("latex") or ""), places)
    if kind in (*TEXTS, *OPTIONAL):
        return Block(TEXT, text_key(block.get("text") or ""), places, kind in OPTIONAL)
    return None


def _order(block: Mapping[str, Any]) -> float:
    return float(block.get("order") or 0)


def _merged(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Blocks; those that a relation `truncated` holds together are one, in their order."""
    groups: list[set[Any]] = []
    for relation in (page.get("extra") or {}).get("relation", []):
        if relation["relation_type"] == "truncated":
            pair = {relation["source_anno_id"], relation["target_anno_id"]}
            joined = [group for group in groups if group & pair]
            groups = [group for group in groups if not group & pair] + [pair.union(*joined)]
    in_group = set().union(*groups)
    blocks = page["layout_dets"]
    yield from (block for block in blocks if block.get("anno_id") not in in_group)
    for group in groups:
        pieces = sorted((b for b in blocks if b.get("anno_id") in group), key=_order)
        if pieces:
            text = "".join(piece.get("text") or "" for piece in pieces)
            yield {**pieces[0], "text": text}


def read_blocks(markdown: str) -> list[Block]:
    """Texts and formulas of what was read, tables taken out before; formulas in a text come last.

    Places are offsets, so they say the order only.
    """
    text = _DOCUMENT_TAGS.sub("", _FENCE.sub("", _IMAGE.sub("", markdown)))
    text = _LATEX_TABLE.sub(_blank, text)
    blocks = list(_formulas(text))
    text = _DISPLAYED.sub(lambda match: match[0] if _is_inline(match) else _blank(match), text)
    for code in _CODE.finditer(text):
        blocks.append(Block(TEXT, text_key(code[1]), (code.start(),)))
    text = _SECTION.sub(r"\1", _CODE.sub(_blank, text))
    blocks += _paragraphs(text)
    blocks = [block for block in blocks if block.key]
    return sorted(blocks, key=lambda block: (block.kind == INLINE, block.places))


def _is_inline(match: re.Match[str]) -> bool:
    return match[3] is not None or match[4] is not None


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _formulas(text: str) -> Iterator[Block]:
    for match in _DISPLAYED.finditer(text):
        latex = next((group for group in match.groups() if group), "")
        kind = INLINE if _is_inline(match) else FORMULA
        yield Block(kind, formula_key(latex.replace("\n", " ")), (match.start(),))


def _paragraphs(text: str) -> Iterator[Block]:
    """What empty lines separate; lines, where there are no empty ones."""
    separator = "\n\n" if "\n\n" in text else "\n"
    place = 0
    for part in text.split(separator):
        yield Block(TEXT, text_key(part), (place,))
        place += len(part) + len(separator)
