"""Pages of parts -> the same with what runs over a page's end put together.

A table goes on where the next page begins with one of as many columns; a paragraph where it does
not end and the next page begins in the middle of a sentence. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.parts import Part, page_parts
from vllm_dsocr.document.tables import Table

_BESIDE = ("furniture", "footnote")  # what may stand between the halves
_ENDED = re.compile(r"[.!?:;。！？：；…][\"'”’»)\]]*$")
_GOES_ON = re.compile(r"[a-zß-öø-ÿ]|[,;)]")
_HYPHEN = re.compile(r"(?<=\w)-$")


@dataclass(frozen=True, slots=True)
class PageParts:
    """A page and what is written of it."""

    page: Page
    parts: tuple[Part, ...]


def parts_of(pages: Iterable[Page], furniture: bool = True) -> Iterator[PageParts]:
    """Every page with its parts, in order."""
    for page in pages:
        parts = page_parts(page)
        yield PageParts(page, tuple(p for p in parts if furniture or p.kind != "furniture"))


def joined(pages: Iterable[PageParts]) -> Iterator[PageParts]:
    """The pages; the second half of what was cut is with the first, on the page it began on."""
    held: PageParts | None = None
    empty: list[PageParts] = []  # pages after it with nothing left: what it ends with may go on yet
    for page in pages:
        if held is not None:
            held, page = _join(held, page)
            if not page.parts and held.page.status == page.page.status == "ok":
                empty.append(page)
                continue
            yield held
            yield from empty
            empty = []
        held = page
    if held is not None:
        yield held
        yield from empty


def _join(first: PageParts, second: PageParts) -> tuple[PageParts, PageParts]:
    last = _edge(first.parts, from_end=True)
    next_ = _edge(second.parts, from_end=False)
    if last is None or next_ is None or {first.page.status, second.page.status} != {"ok"}:
        return first, second
    whole = _whole(first.parts[last], second.parts[next_])
    if whole is None:
        return first, second
    parts = (*first.parts[:last], whole, *first.parts[last + 1 :])
    rest = (*second.parts[:next_], *second.parts[next_ + 1 :])
    return replace(first, parts=parts), replace(second, parts=rest)


def _edge(parts: tuple[Part, ...], from_end: bool) -> int | None:
    """Place of the last or first part of the text itself."""
    places = range(len(parts) - 1, -1, -1) if from_end else range(len(parts))
    return next((place for place in places if parts[place].kind not in _BESIDE), None)


def _whole(first: Part, second: Part) -> Part | None:
    if first.table is not None and second.table is not None and second.caption is None:
        table = _whole_table(first.table, second.table)
        return replace(first, table=table) if table else None
    if first.kind == second.kind == "text" and not _ENDED.search(first.text):
        if _HYPHEN.search(first.text) and second.text[:1].islower():
            return replace(first, text=first.text[:-1] + second.text)
        if _GOES_ON.match(second.text):
            return replace(first, text=f"{first.text} {second.text}")
    return None


def _whole_table(first: Table, second: Table) -> Table | None:
    """Rows of both, a head that is repeated only once; None unless they have as many columns."""
    if not first.rows or not second.rows or len(first.grid()[0]) != len(second.grid()[0]):
        return None
    rows = second.rows[1:] if second.rows[0] == first.rows[0] else second.rows
    return Table((*first.rows, *rows), first.caption)
