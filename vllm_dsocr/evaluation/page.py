"""The text of one page and its truth -> PageScore; many of those -> one line of a report."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from statistics import fmean

from vllm_dsocr.evaluation.omni_blocks import INLINE, Block, read_blocks
from vllm_dsocr.evaluation.omni_match import match_blocks, order_distance
from vllm_dsocr.evaluation.tables.form import mean_teds, tables_of
from vllm_dsocr.metrics import edit_distance, normalised_distance

DOCUMENT = "document.md"  # of a folder that `dsocr convert` wrote
TEXT_SUFFIXES = (".md", ".mmd", ".txt")
_PAGE_MARK = re.compile(r"<!-- page \d+ -->\n*")
_IMAGE = re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)\n*")


@dataclass(frozen=True, slots=True)
class PageScore:
    """edits, characters and word_edits, words: error rates are sums over sums.

    edit_distance: edits per character of the longer text.  teds: None without tables in the truth.
    order_distance: edits per block that put the blocks found into the order of the truth, those
    nobody found with them; None with fewer than two blocks in the truth.
    """

    name: str
    edits: int
    characters: int
    word_edits: int
    words: int
    edit_distance: float
    teds: float | None
    teds_structure: float | None
    order_distance: float | None


def score_page(name: str, text: str, truth: str) -> PageScore:
    """Texts are compared with tables and all, in one Unicode form, without outer white space."""
    text, truth = tidy(text), tidy(truth)
    words = truth.split()
    (tables, rest), (true_tables, true_rest) = tables_of(text), tables_of(truth)
    return PageScore(
        name=name,
        edits=edit_distance(text, truth),
        characters=len(truth),
        word_edits=edit_distance(text.split(), words),
        words=len(words),
        edit_distance=normalised_distance(text, truth),
        teds=mean_teds(tables, true_tables),
        teds_structure=mean_teds(tables, true_tables, structure_only=True),
        order_distance=_order(rest, true_rest),
    )


def _order(text: str, truth: str) -> float | None:
    blocks = _blocks(truth)
    return order_distance(match_blocks(_blocks(text), blocks)) if len(blocks) > 1 else None


def _blocks(text: str) -> list[Block]:
    return [block for block in read_blocks(text) if block.kind != INLINE]


def tidy(text: str) -> str:
    """One Unicode form, no marks of page breaks, no pictures, no white space at the ends."""
    return unicodedata.normalize("NFC", _IMAGE.sub("", _PAGE_MARK.sub("", text))).strip()


def summary(scores: Sequence[PageScore]) -> dict[str, float | int | None]:
    """Error rates over all pages, means of the rest over the pages that have them."""
    values = [asdict(score) for score in scores]
    rates = {
        "pages": len(scores),
        "cer": sum(s.edits for s in scores) / max(1, sum(s.characters for s in scores)),
        "wer": sum(s.word_edits for s in scores) / max(1, sum(s.words for s in scores)),
    }
    names = ("edit_distance", "teds", "teds_structure", "order_distance")
    return rates | {name: mean(value[name] for value in values) for name in names}


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None when none is."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def find_text(folder: Path, *names: str) -> str | None:
    """The text of a page in a folder of such, or of what `dsocr convert` wrote; None without.

    `convert` names the folder of a document after its file, suffix and all: for the name `a` that
    is `a.png` or `a.pdf`, as long as there is only one such.
    """
    for name in names:
        own = [folder / f"{name}{suffix}" for suffix in TEXT_SUFFIXES]
        for path in (*own, folder / name / DOCUMENT):
            if path.is_file():
                return path.read_text(encoding="utf-8")
        converted = list((folder / name).parent.glob(f"{escape(Path(name).name)}.*/{DOCUMENT}"))
        converted = [path for path in converted if path.parent.stem == Path(name).name]
        if len(converted) == 1:
            return converted[0].read_text(encoding="utf-8")
    return None


def score_folder(read: Path, truth: Path) -> list[PageScore]:
    """Every text of `truth`, one per page, against that of the same name; missing ones are empty.

    Raises ValueError when `truth` holds none.
    """
    files = [path for path in sorted(truth.rglob("*")) if path.suffix in TEXT_SUFFIXES]
    if not files:
        raise ValueError(f"no {', '.join(TEXT_SUFFIXES)} in {truth}")
    names = [str(path.relative_to(truth).with_suffix("")) for path in files]
    pairs = zip(names, files, strict=True)
    return [
        score_page(name, find_text(read, name) or "", file.read_text(encoding="utf-8"))
        for name, file in pairs
    ]
