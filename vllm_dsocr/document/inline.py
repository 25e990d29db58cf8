"""The few HTML tags the model writes inside a line, among text that is only text.

Standard library only.
"""

from __future__ import annotations

import re
from html import escape, unescape

INLINE_TAGS = ("sup", "sub", "b", "i", "u", "em", "strong", "s", "del", "small", "mark", "code")
INLINE_TAG = re.compile(rf"<(?P<close>/?)(?P<name>{'|'.join(INLINE_TAGS)})>")


def without_inline_tags(text: str) -> str:
    """The text alone."""
    return INLINE_TAG.sub("", text)


def paired_tags(text: str) -> set[int]:
    """Where the tags stand that have their other half, properly nested."""
    pairs: set[int] = set()
    opened: list[re.Match[str]] = []
    for tag in INLINE_TAG.finditer(text):
        if not tag["close"]:
            opened.append(tag)
        elif opened and opened[-1]["name"] == tag["name"]:
            pairs |= {opened.pop().start(), tag.start()}
    return pairs


def inline_html(source: str) -> str:
    """Text with entities and those tags -> clean HTML; a tag without its half is text."""
    pairs = paired_tags(source)
    parts: list[str] = []
    start = 0
    for tag in INLINE_TAG.finditer(source):
        if tag.start() in pairs:
            parts += [_text(source[start : tag.start()]), tag[0]]
            start = tag.end()
    return "".join([*parts, _text(source[start:])])


def _text(source: str) -> str:
    return escape(unescape(source), quote=False).replace("\n", "<br>")
