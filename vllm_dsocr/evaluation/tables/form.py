"""A table, HTML or pipe -> the one form in which tables are compared, and the pairs of two lists.

The form is that of OmniDocBench: all cells are td, head and body are not told apart, no sub, sup,
span, div or p, one Unicode form, white space as one space.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Sequence

from lxml import etree, html
from lxml.html import HtmlElement

from vllm_dsocr.evaluation.assignment import closest_pairs
from vllm_dsocr.evaluation.tables.cells import html_parts, parse_html
from vllm_dsocr.evaluation.tables.teds import teds
from vllm_dsocr.metrics import normalised_distance

_PIPES = re.compile(r"(?:^[ \t]*\|.*\|[ \t]*(?:\n|\Z)){2,}", re.MULTILINE)
_RULE = re.compile(r"[\s|:-]*-[\s|:-]*")
_ESCAPED_PIPE = re.compile(r"(?<!\\)\|")
_UNWRAPPED = ("thead", "tbody", "span", "div", "p", "sup", "sub")


def normalised(table: HtmlElement) -> HtmlElement:
    """A copy in the form in which tables are compared."""
    table = copy.deepcopy(table)
    table.tail = None
    for formula in table.iter("math"):
        formula.tag, formula.text = "span", f"${formula.get('alttext', '')}$"
        for child in list(formula):
            formula.remove(child)
    etree.strip_elements(table, "colgroup", with_tail=False)
    etree.strip_tags(table, *_UNWRAPPED)
    for element in table.iter("*"):
        if element.tag == "th":
            element.tag = "td"
        element.text, element.tail = _text(element.text), _text(element.tail)
    return table


def _text(text: str | None) -> str:
    text = unicodedata.normalize("NFKC", (text or "").replace("\n", ""))
    return re.sub(r"\s+", " ", text)


def tables_of(text: str) -> tuple[list[HtmlElement], str]:
    """Every table in the form above, and the text without them."""
    found, rest = [], []
    start = 0
    for begin, end in html_parts(text):
        rest.append(text[start:begin])
        found.append((begin, parse_html(text[begin:end])))
        start = end
    left = "\n\n".join([*rest, text[start:]])
    found += [(len(text), parse_html(pipe_html(match[0]))) for match in _PIPES.finditer(left)]
    tables = [normalised(table) for _, table in found if table is not None]
    return tables, _PIPES.sub("\n\n", left)


def pipe_html(lines: str) -> str:
    """A pipe table as HTML, its line of dashes left out."""
    root = html.Element("table")
    for line in lines.strip().splitlines():
        if not _RULE.fullmatch(line):
            row = etree.SubElement(root, "tr")
            for text in _ESCAPED_PIPE.split(line.strip().strip("|")):
                etree.SubElement(row, "td").text = _printable(text.strip().replace("\\|", "|"))
    return str(html.tostring(root, encoding="unicode"))


def _printable(text: str) -> str:
    """XML has no place for control characters."""
    return "".join(char for char in text if char.isprintable() or char in "\t\n")


def source(table: HtmlElement) -> str:
    """The table as HTML."""
    return str(html.tostring(table, encoding="unicode"))


def mean_teds(
    read: Sequence[HtmlElement], truth: Sequence[HtmlElement], structure_only: bool = False
) -> float | None:
    """Mean over the tables of the truth, each paired with the one most like it; else it counts 0.

    None when the truth has none.
    """
    total = sum(teds(one, other, structure_only) for one, other in paired(read, truth))
    return total / len(truth) if truth else None


def paired(
    read: Sequence[HtmlElement], truth: Sequence[HtmlElement]
) -> list[tuple[HtmlElement, HtmlElement]]:
    """(read, truth) by what they say, whatever their order; what is left over is in no pair."""
    sources = [[source(table) for table in tables] for tables in (read, truth)]
    costs = [[normalised_distance(one, other) for other in sources[1]] for one in sources[0]]
    return [(read[i], truth[j]) for i, j in closest_pairs(costs)]
