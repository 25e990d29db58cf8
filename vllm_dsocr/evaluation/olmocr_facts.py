"""One fact of olmOCR-bench and the text of its page -> whether it holds.

The rules are those of the benchmark's own checker but for two: formulas are compared by spelling,
since nothing is drawn here; and a text shorter than what it should hold does not hold it, where
the checker would look for the text in the fact.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from fuzzysearch import find_near_matches
from rapidfuzz import fuzz

from vllm_dsocr.evaluation.latex import formulas, plain_formula
from vllm_dsocr.evaluation.tables.cells import Cell, html_tables, pipe_tables
from vllm_dsocr.evaluation.tables.neighbours import HEADINGS, SIDES, Neighbours

Fact = Mapping[str, Any]
MAX_REPEATS = 30  # of a group of characters at the end
MAX_GROUP = 5  # characters
WORST_CELL = 0.5  # two cells less alike are never the same, whatever `max_diffs`
# Chinese and Japanese characters and emoji; the benchmark's pages are in English.
_FOREIGN = re.compile("[\u4e00-\u9fff\u3040-\u30ff\U0001f600-\U0001f6ff\U0001f300-\U0001f5ff"
                      "\U0001f1e0-\U0001f1ff]")  # fmt: skip
_IMAGE = re.compile(r"!\[.*?\]\(.*?\)")
_EMPHASIS = (r"\*\*(.*?)\*\*", r"__(.*?)__", r"\*(.*?)\*", r"_(.*?)_")
_ASCII = str.maketrans("‘’‚“”„＿–—‑‒−µ", "'''\"\"\"_-----μ")


def plain(text: str) -> str:
    """Without emphasis, in ASCII punctuation, white space as single spaces."""
    text = re.sub(r"</?[bi]>", "", re.sub(r"<br/?>", " ", text))
    for pattern in _EMPHASIS:  # a pair within one line
        text = re.sub(pattern, r"\1", text)
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text)).translate(_ASCII)


def _alike(fact: Fact, part: str) -> float:
    """How much of `part` has to be there, 0 to 1."""
    return 1 - fact.get("max_diffs", 0) / max(1, len(part))


def _is_present(fact: Fact, text: str) -> bool:
    part, text = plain(fact["text"]), plain(text)
    if not fact.get("case_sensitive", True):
        part, text = part.lower(), text.lower()
    first, last = fact.get("first_n"), fact.get("last_n")
    if first or last:
        text = (text[:first] if first else "") + (text[-last:] if last else "")
    if len(text) < len(part) - fact.get("max_diffs", 0):
        return False
    return fuzz.partial_ratio(part, text) / 100 >= _alike(fact, part)


def _is_absent(fact: Fact, text: str) -> bool:
    return not _is_present(fact, text)


def _is_ordered(fact: Fact, text: str) -> bool:
    text, allowed = plain(text), fact.get("max_diffs", 0)
    before, after = (
        [match.start for match in find_near_matches(plain(fact[key]), text, max_l_dist=allowed)]
        for key in ("before", "after")
    )
    return bool(before and after) and min(before) < max(after)


def _is_in_table(fact: Fact, text: str) -> bool:
    tables = html_tables(text)
    if not fact.get("ignore_markdown_tables"):
        tables += pipe_tables(text)
    return any(_is_in(fact, Neighbours(rows)) for rows in tables)


def _is_in(fact: Fact, table: Neighbours) -> bool:
    looks = dict.fromkeys(SIDES, table.beside) | dict.fromkeys(HEADINGS, table.headings)
    wanted = {key: look for key, look in looks.items() if fact.get(key)}
    return any(
        all(_one_says(fact, key, look(cell, key)) for key, look in wanted.items())
        for cell in table.cells
        if _says(fact, "cell", cell)
    )


def _one_says(fact: Fact, key: str, cells: list[Cell]) -> bool:
    return any(_says(fact, key, cell) for cell in cells)


def _says(fact: Fact, key: str, cell: Cell) -> bool:
    part = plain(fact[key])
    alike = fuzz.ratio(part, plain(cell.text)) / 100
    return alike >= max(WORST_CELL, _alike(fact, part))


def _is_sound(fact: Fact, text: str) -> bool:
    """Something is there, it does not go round in circles, in the letters of the page.

    With `max_length`: the page is blank, and no more than that was read.
    """
    if fact.get("max_length") is not None:
        text = _IMAGE.sub("", text) if fact.get("max_length_skips_image_alt_tags") else text
        return _letters(text) <= fact["max_length"]
    repeats = fact.get("max_repeats", MAX_REPEATS)
    foreign = fact.get("check_disallowed_characters", True) and _FOREIGN.search(text)
    return bool(_letters(text)) and _repeats(text) <= repeats and not foreign


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _repeats(text: str) -> int:
    """How often, at most, the last 1 to MAX_GROUP characters follow each other at the end."""
    text = re.sub(r"\s+", " ", text)
    return max(_repeats_of(text, size) for size in range(1, MAX_GROUP + 1))


def _repeats_of(text: str, size: int) -> int:
    group, count = text[-size:], 0
    while len(group) == size and text.endswith(group, 0, len(text) - count * size):
        count += 1
    return count


def _has_formula(fact: Fact, text: str) -> bool:
    wanted = plain_formula(fact["math"])
    return any(wanted in plain_formula(found) for found in formulas(text))


CHECKS: dict[str, Callable[[Fact, str], bool]] = {
    "present": _is_present,
    "absent": _is_absent,
    "order": _is_ordered,
    "table": _is_in_table,
    "baseline": _is_sound,
    "math": _has_formula,
}
