"""A block's text (Markdown, LaTeX, HTML tables) -> HTML in which nothing the model wrote is active.

Understands what the model writes: headings, lists, tables, code fences, emphasis, LaTeX, <center>,
<sup> and the like; all else is escaped text. LaTeX stays as written, in elements of class "math".
Knows nothing of pages; standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from vllm_dsocr.document.tables import Table, split_tables, table_html

_MATH = re.compile(r"\\\(.+?\\\)|\\\[.+?\\\]|\$\$.+?\$\$", re.DOTALL)
_FENCE = re.compile(r"```[^\n]*\n(?P<code>.*?)(?:\n```[ \t]*(?=\n|\Z)|\Z)", re.DOTALL)
_HEADING = re.compile(r"(#{1,6})\s+(.*)")
_ITEM = re.compile(r"(?:[-*•]|(?P<number>[0-9]{1,4})[.)])\s+(?P<text>.*)")
_CENTER = re.compile(r"<center>(.*?)</center>", re.DOTALL)
_PLAIN_TAGS = re.compile(r"&lt;(sup|sub|b|i|u|em|strong)&gt;(.*?)&lt;/\1&gt;", re.DOTALL)
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_CODE = re.compile(r"`([^`\n]+)`")


def content_html(text: str) -> str:
    """HTML for the text of a block or of a page without layout."""
    parts = (
        table_html(part) if isinstance(part, Table) else "\n".join(_text_html(part))
        for part in split_tables(text)
    )
    return "\n".join(part for part in parts if part)


def _text_html(text: str) -> Iterator[str]:
    """Fenced code apart from the rest."""
    start = 0
    for fence in _FENCE.finditer(text):
        yield from _paragraphs(text[start : fence.start()])
        yield f"<pre>{escape(fence['code'])}</pre>"
        start = fence.end()
    yield from _paragraphs(text[start:])


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.strip():
            yield from _lines(paragraph.strip("\n"))


def _lines(paragraph: str) -> Iterator[str]:
    """Headings and list items line by line; the lines between them are one paragraph."""
    plain: list[str] = []
    for line in paragraph.split("\n"):
        special = _special_line(line.strip())
        if special is None:
            plain.append(line)
            continue
        yield from _plain_html(plain)
        plain = []
        yield special
    yield from _plain_html(plain)


def _special_line(line: str) -> str | None:
    if heading := _HEADING.fullmatch(line):
        level = len(heading[1])
        return f"<h{level}>{inline_html(heading[2])}</h{level}>"
    if item := _ITEM.fullmatch(line):
        kind = f'<ol start="{item["number"]}">' if item["number"] else "<ul>"
        return f"{kind}<li>{inline_html(item['text'])}</li></{kind[1:3]}>"
    return None


def _plain_html(lines: list[str]) -> Iterator[str]:
    text = "\n".join(lines)
    if not text.strip():
        return
    if center := _CENTER.fullmatch(text.strip()):
        yield f'<p class="center">{inline_html(center[1])}</p>'
    else:
        yield f"<p>{inline_html(text)}</p>"


def inline_html(text: str) -> str:
    """Escaped text with its emphasis; LaTeX untouched inside."""
    parts, start = [], 0
    for math in _MATH.finditer(text):
        parts.append(_emphasis(text[start : math.start()]))
        parts.append(f'<span class="math">{escape(math[0], quote=False)}</span>')
        start = math.end()
    parts.append(_emphasis(text[start:]))
    return "".join(parts)


def _emphasis(text: str) -> str:
    text = escape(text, quote=False)
    text = _CODE.sub(r"<code>\1</code>", text)
    text = _BOLD.sub(r"<strong>\1</strong>", text)
    text = _PLAIN_TAGS.sub(r"<\1>\2</\1>", text)
    return text.replace("\n", "<br>\n")
