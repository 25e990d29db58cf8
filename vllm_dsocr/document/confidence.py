"""The model's tokens and their probabilities -> how sure it was of a page, its blocks and words.

A word's confidence is e to the mean logprob of its tokens; of a page and a block there are mean and
minimum of e to the logprob of the tokens of its words. Tags are no words: neither the layout's nor
those of tables. Standard library only.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import chain
from statistics import fmean

from vllm_dsocr.document.blocks import BlockConfidence, Confidence, Page, Word
from vllm_dsocr.document.grounding import PlacedBlock, placed_blocks
from vllm_dsocr.document.labels import is_words

_UNKNOWN = "\ufffd"  # part of a character, which no text has
_DIGITS = 6  # that a probability is kept with
_SEARCHED = 16  # characters in which a token is looked for where the text has another one
_HTML = r"</?[A-Za-z][A-Za-z0-9]*(?:\s+[a-z]+=\"[^\"<>]*\")*\s*/?>"
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces
_WORD = re.compile(rf"(?P<tag>{_HTML})|[{_IDEOGRAPH}]|[^\s<{_IDEOGRAPH}]+|<")


def iter_words(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int]]:
    """Words between two places of a text and where they begin: what spaces and HTML tags set apart.

    Of scripts without spaces each character is one.
    """
    for match in _WORD.finditer(text, start, len(text) if end is None else end):
        if match["tag"] is None:
            yield match[0], match.start()


def with_confidence(page: Page, tokens: Iterable[tuple[str, float]]) -> Page:
    """The page with confidences, from the tokens (text, logprob) its text was written with.

    Unchanged where they are not those of its text.
    """
    spans = _Spans.of(page.text, tokens)
    known: list[int] = []
    blocks = []
    for placed in placed_blocks(page.text):
        confidence, of_words = _block_confidence(page.text, placed, spans)
        blocks.append(replace(placed.block, confidence=confidence))
        known += of_words
    if not known:
        return page
    mean, minimum = spans.mean_and_minimum(known)
    return replace(page, blocks=tuple(blocks), confidence=Confidence(mean, minimum))


def words_in(rendered: str, words: Sequence[Word]) -> list[Word]:
    """The words of a page where they stand in what was made of its text, such as Markdown.

    What stands there in place of others, a formula in other brackets, has their mean confidence;
    what was not in the text, the link of a figure, is left out.
    """
    there = list(iter_words(rendered))
    said, shown = [_letters(word.text) for word in words], [_letters(text) for text, _ in there]
    matcher = SequenceMatcher(None, said, shown, autojunk=False)
    found = []
    for _, first, last, begin, end in matcher.get_opcodes():
        known = [word.confidence for word in words[first:last]]
        if not known:
            continue
        if len(known) != end - begin:
            known = [fmean(known)] * (end - begin)
        pairs = zip(there[begin:end], known, strict=True)
        found += [Word(text, start, confidence) for (text, start), confidence in pairs]
    return found


def _letters(word: str) -> str:
    """What no escaping changes."""
    return re.sub(r"\W", "", word) or word


@dataclass(frozen=True, slots=True)
class _Spans:
    """Where tokens stand in a text, in order, and their logprobs."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, tokens: Iterable[tuple[str, float]]) -> _Spans:
        """Tokens that the text has not, such as its end, are passed over."""
        spans, place, parts = cls(), 0, list[float]()
        for token, logprob in tokens:
            if not token or _UNKNOWN in token:
                parts.append(logprob)  # what they write together comes with a later one
                continue
            start = text.find(token, place, place + len(token) + _SEARCHED)
            if start < 0:
                continue
            end = start + len(token)
            for part in parts:
                spans._add(place, start if start > place else end, part)
            spans._add(start, end, logprob)
            place, parts = end, []
        for part in parts:
            spans._add(place, len(text), part)
        return spans

    def _add(self, start: int, end: int, logprob: float) -> None:
        self.starts.append(start)
        self.ends.append(end)
        self.logprobs.append(logprob)

    def within(self, start: int, end: int) -> range:
        """Indices of the tokens that have a character there."""
        return range(bisect_right(self.ends, start), bisect_left(self.starts, end))

    def joint(self, indices: Sequence[int]) -> float:
        """The confidence of what several tokens write together."""
        return round(math.exp(fmean(self.logprobs[i] for i in indices)), _DIGITS)

    def mean_and_minimum(self, indices: Sequence[int]) -> tuple[float, float]:
        probabilities = [math.exp(self.logprobs[i]) for i in indices]
        return round(fmean(probabilities), _DIGITS), round(min(probabilities), _DIGITS)


def _block_confidence(
    text: str, placed: PlacedBlock, spans: _Spans
) -> tuple[BlockConfidence, list[int]]:
    """Of one block, and the tokens of its words."""
    block, label = placed.block, range(0)
    found = iter_words(text, *placed.content)
    if block.label is not None and placed.label is not None:
        if is_words(block.label, block.content):
            found = chain(iter_words(text, *placed.label), found)
        else:
            label = spans.within(*placed.label)
    words: list[Word] = []
    known: dict[int, None] = {}
    for word, start in found:
        indices = spans.within(start, start + len(word))
        if indices:
            words.append(Word(word, start, spans.joint(indices)))
            known.update(dict.fromkeys(indices))
    mean, minimum = spans.mean_and_minimum(list(known)) if known else (None, None)
    confidence = BlockConfidence(mean, minimum, spans.joint(label) if label else None, tuple(words))
    return confidence, list(known)
