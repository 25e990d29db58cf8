"""A read document -> the answer of Mistral's `/v1/ocr`. Knows nothing of requests or storage."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from vllm_dsocr.document.blocks import BlockConfidence, Box, Figure, Page, Word
from vllm_dsocr.document.confidence import words_in
from vllm_dsocr.document.parts import Kind, Part, page_parts
from vllm_dsocr.render.finished import RenderOptions
from vllm_dsocr.render.markdown import part_markdown, parts_markdown

TableFormat = Literal["markdown", "html"]
Granularity = Literal["page", "block", "word"]
HEADERS = frozenset({"header", "page_header"})  # what else is furniture stands at the foot

# What a part of a page is called there; the rest is text.
_TYPES: dict[Kind, str] = {
    "heading": "title",
    "formula": "equation",
    "list": "list",
    "table": "table",
    "figure": "image",
    "caption": "caption",
    "code": "code",
}
_TYPES_OF_LABELS = {"reference": "references", "aside_text": "aside_text", "signature": "signature"}


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a request wants to see of each page."""

    include_image_base64: bool = False
    image_limit: int | None = None
    image_min_size: int | None = None
    table_format: TableFormat | None = None
    extract_header: bool = False
    extract_footer: bool = False
    include_blocks: bool = False
    confidence: Granularity | None = None

    @property
    def rendering(self) -> RenderOptions:
        return RenderOptions(tables=self.table_format or "html")


def page_answer(
    page: Page, options: AnswerOptions, figure: Callable[[Figure], bytes], dpi: float
) -> dict[str, Any]:
    """One element of `pages`; `status` and `reason` are ours."""
    parts = page_parts(page)
    figures = shown_figures(page, options)
    names = {item: f"img-{place}.png" for place, item in enumerate(figures)}
    tables = _tables(parts, options)
    markdown = _markdown(parts, names, tables, options)
    answer: dict[str, Any] = {
        "index": page.number - 1,
        "markdown": markdown,
        "images": [_image(page, item, names, options, figure) for item in figures],
        "dimensions": {"dpi": round(dpi), "height": page.height, "width": page.width},
        "header": _furniture(parts, True) if options.extract_header else None,
        "footer": _furniture(parts, False) if options.extract_footer else None,
        "hyperlinks": [],
        "tables": list(tables.values()),
        "status": page.status,
        "reason": page.reason,
    }
    if options.confidence:
        apart = _blocks_apart(parts, tables)
        answer["confidence_scores"] = _page_scores(page, markdown, apart, options)
    if options.confidence == "word":
        _add_table_scores(page, parts, tables)
    if options.include_blocks:
        answer["blocks"] = list(_blocks(page, parts, names, tables, options))
    return answer


def _markdown(
    parts: Sequence[Part],
    names: dict[Figure, str],
    tables: dict[int, dict[str, Any]],
    options: AnswerOptions,
) -> str:
    """Without what was taken out: links where tables stood, figures that are shown only."""
    kept = []
    for place, part in enumerate(parts):
        if place in tables:
            name = tables[place]["id"]
            part = Part("text", part.block, f"[{name}]({name})", part.label, part.boxes)
        elif part.figures:
            part = replace(part, figures=tuple(f for f in part.figures if f in names))
        if not _is_taken_out(part, options):
            kept.append(part)
    return parts_markdown(kept, names.__getitem__, options.rendering)


def _is_taken_out(part: Part, options: AnswerOptions) -> bool:
    if part.kind != "furniture":
        return False
    return options.extract_header if part.label in HEADERS else options.extract_footer


def shown_figures(page: Page, options: AnswerOptions) -> Sequence[Figure]:
    """The page's figures that are large enough, as many as were asked for."""
    least = options.image_min_size or 0
    figures = []
    for figure in page.figures:
        left, top, right, bottom = figure.box.pixels(page.width, page.height)
        if min(right - left, bottom - top) >= least:
            figures.append(figure)
    return figures if options.image_limit is None else figures[: options.image_limit]


def _tables(parts: Sequence[Part], options: AnswerOptions) -> dict[int, dict[str, Any]]:
    """The tables that stand apart, by their place among the parts."""
    if options.table_format is None:
        return {}
    suffix = {"markdown": "md", "html": "html"}[options.table_format]
    tables: dict[int, dict[str, Any]] = {}
    for place, part in enumerate(parts):
        if part.table is not None:
            content = part_markdown(part, lambda _: "", options.rendering)
            name = f"tbl-{len(tables)}.{suffix}"
            tables[place] = {"id": name, "content": content, "format": options.table_format}
    return tables


def _image(
    page: Page,
    item: Figure,
    names: dict[Figure, str],
    options: AnswerOptions,
    figure: Callable[[Figure], bytes],
) -> dict[str, Any]:
    encoded = None
    if options.include_image_base64:
        encoded = f"data:image/png;base64,{base64.b64encode(figure(item)).decode()}"
    return {"id": names[item], **_corners(page, item.box), "image_base64": encoded}


def _corners(page: Page, box: Box) -> dict[str, int]:
    left, top, right, bottom = box.pixels(page.width, page.height)
    return {
        "top_left_x": left,
        "top_left_y": top,
        "bottom_right_x": right,
        "bottom_right_y": bottom,
    }


def _furniture(parts: Sequence[Part], at_head: bool) -> str | None:
    texts = [
        part.text.strip()
        for part in parts
        if part.kind == "furniture" and (part.label in HEADERS) == at_head
    ]
    return "\n".join(texts) or None


def _blocks(
    page: Page,
    parts: Sequence[Part],
    names: dict[Figure, str],
    tables: dict[int, dict[str, Any]],
    options: AnswerOptions,
) -> list[dict[str, Any]]:
    """Every box of every part that has one, in reading order."""
    answers = []
    for place, part in enumerate(parts):
        content = part.caption or "" if part.figures else part_markdown(part, lambda _: "")
        figures = {figure.box: figure for figure in part.figures}
        for box in part.boxes:
            answer = {"type": _type(part), **_corners(page, box), "content": content}
            if part.figures:
                answer["image_id"] = names.get(figures[box], "") if box in figures else ""
            elif place in tables:
                answer["table_id"] = tables[place]["id"]
            if options.confidence == "block":
                answer["confidence_scores"] = _block_scores(page.blocks[part.block].confidence)
            answers.append(answer)
    return answers


def _type(part: Part) -> str:
    if part.kind == "furniture":
        return "header" if part.label in HEADERS else "footer"
    return _TYPES.get(part.kind) or _TYPES_OF_LABELS.get(part.label or "", "text")


def _blocks_apart(parts: Sequence[Part], tables: dict[int, dict[str, Any]]) -> set[int]:
    """Blocks of which the page's Markdown has nothing but links to tables."""
    inline = {part.block for place, part in enumerate(parts) if place not in tables}
    return {parts[place].block for place in tables} - inline


def _page_scores(
    page: Page, markdown: str, apart: set[int], options: AnswerOptions
) -> dict[str, Any] | None:
    """Over tokens; over words, which are listed then, where those were asked for."""
    if page.confidence is None:
        return None
    mean, minimum = page.confidence.mean, page.confidence.minimum
    listed = None
    if options.confidence == "word":
        scores = [word.confidence for word in _words(page)]
        mean, minimum = fmean(scores), min(scores)
        listed = _word_scores(markdown, _words(page, apart))
    return {
        "average_page_confidence_score": mean,
        "minimum_page_confidence_score": minimum,
        "word_confidence_scores": listed,
    }


def _add_table_scores(page: Page, parts: Sequence[Part], tables: dict[int, dict[str, Any]]) -> None:
    """To each table that stands apart, those of the words of its block."""
    for place, table in tables.items():
        confidence = page.blocks[parts[place].block].confidence
        words = confidence.words if confidence else ()
        table["word_confidence_scores"] = _word_scores(table["content"], words)


def _words(page: Page, without: Collection[int] = ()) -> list[Word]:
    blocks = (block for index, block in enumerate(page.blocks) if index not in without)
    return [word for block in blocks if block.confidence for word in block.confidence.words]


def _word_scores(text: str, words: Sequence[Word]) -> list[dict[str, Any]]:
    """Words of a text that is shown, by where they stand in it."""
    return [
        {"text": word.text, "confidence": word.confidence, "start_index": word.start}
        for word in words_in(text, words)
    ]


def _block_scores(confidence: BlockConfidence | None) -> dict[str, float | None] | None:
    if confidence is None:
        return None
    scores = [word.confidence for word in confidence.words]
    return {
        "average_content_confidence_score": confidence.mean,
        "minimum_content_confidence_score": min(scores, default=None),
        "block_type_confidence_score": confidence.label,
    }
