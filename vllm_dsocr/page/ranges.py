"""`1-3,7` -> which pages of a document are wanted. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"([1-9][0-9]{0,8})(-([1-9][0-9]{0,8})?)?")


@dataclass(frozen=True, slots=True)
class PageRanges:
    """Pages counted from 1; (first, None) reaches to the end of the document."""

    ranges: tuple[tuple[int, int | None], ...] = ((1, None),)

    @classmethod
    def parse(cls, text: str) -> PageRanges:
        """From `1-3,7,9-`. Raises ValueError with the part that is no range."""
        return cls(tuple(_parse_part(part.strip()) for part in text.split(",")))

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= (last or number) for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(_format(first, last) for first, last in self.ranges)

    @property
    def last(self) -> int | None:
        """The last wanted page, None when the document's end is wanted."""
        lasts = [last for _, last in self.ranges]
        known = [last for last in lasts if last is not None]
        return max(known) if len(known) == len(lasts) else None


ALL_PAGES = PageRanges()


def _parse_part(part: str) -> tuple[int, int | None]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"not a page range: {part!r}; write for example 1-3,7 or 5-")
    first = int(match[1])
    last = first if match[2] is None else int(match[3]) if match[3] else None
    if last is not None and last < first:
        raise ValueError(f"not a page range: {part!r} ends before it begins")
    return first, last


def _format(first: int, last: int | None) -> str:
    if first == last:
        return str(first)
    return f"{first}-{'' if last is None else last}"
