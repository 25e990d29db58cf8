"""olmOCR-bench's folder and a candidate's Markdown -> share of its facts that hold, file by file.

    bench_data/*.jsonl                               one fact about one page a line
    bench_data/pdfs/**/*.pdf                         the pages
    bench_data/CANDIDATE/PDF_pgPAGE_repeatN.md       what was read; PDF may lie in folders

An estimate: formulas are compared by spelling here, where the benchmark draws them.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from vllm_dsocr.evaluation.olmocr_facts import CHECKS, Fact

PDFS = "pdfs"
BASELINE = "baseline"  # the group of the facts that every PDF has without being in a file
Texts = tuple[str, ...]


def score(bench: Path, candidate: str) -> dict[str, Any]:
    """`files`: share of facts that hold per JSONL and for the baseline; `overall`: their mean.

    `types`: shares per kind of fact; `missing`: pages nobody read, whose facts do not hold;
    `empty_reader`: the overall score of one that reads nothing on any page, to compare with;
    `skipped`: facts of kinds unknown here. Repeats of a page vote: a fact holds when more than half
    of them say so. Raises ValueError when there are no facts or no candidate, OSError.
    """
    facts = read_facts(bench)
    if not facts or not (bench / candidate).is_dir():
        raise ValueError(f"{bench} needs *.jsonl and a folder {candidate!r}")
    skipped = Counter(fact["type"] for _, fact in facts if fact["type"] not in CHECKS)
    known = [(group, fact) for group, fact in facts if fact["type"] in CHECKS]
    texts = _texts(bench / candidate, (fact for _, fact in known))
    held = [(group, fact["type"], holds(fact, texts[page_of(fact)])) for group, fact in known]
    empty = [(group, holds(fact, ("",))) for group, fact in known]
    files = _shares((group, held) for group, _, held in held)
    return {
        "overall": _mean(files),
        "files": files,
        "types": _shares((kind, held) for _, kind, held in held),
        "facts": len(known),
        "missing": sum(not found for found in texts.values()),
        "empty_reader": _mean(_shares(empty)),
        "skipped": dict(skipped),
    }


def holds(fact: Fact, texts: Texts) -> bool:
    """What more than half of the texts of its page say; False without any."""
    return sum(CHECKS[fact["type"]](fact, text) for text in texts) * 2 > len(texts)


def read_facts(bench: Path) -> list[tuple[str, Fact]]:
    """(file without its suffix, fact) in order, then a baseline for each PDF that has none."""
    facts = [
        (file.stem, json.loads(line))
        for file in sorted(bench.glob("*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
        if line.strip()
    ]
    for _, fact in facts:
        _check(fact)
    with_baseline = {fact["pdf"] for _, fact in facts if fact["type"] == BASELINE}
    there = {str(path.relative_to(bench / PDFS).as_posix()) for path in pdfs(bench)}
    for pdf in sorted((there or {fact["pdf"] for _, fact in facts}) - with_baseline):
        facts.append((BASELINE, {"pdf": pdf, "page": 1, "type": BASELINE}))
    return facts


def pdfs(bench: Path) -> list[Path]:
    """Every page of the benchmark is a page of one of these."""
    return sorted((bench / PDFS).rglob("*.pdf"))


def page_of(fact: Fact) -> tuple[str, int]:
    """(PDF, page from 1) a fact is about."""
    return fact["pdf"], fact["page"]


def page_file(pdf: str, page: int, repeat: int = 1) -> Path:
    """Where the text of a page lies in a candidate's folder."""
    path = PurePosixPath(pdf)
    return Path(path.parent) / f"{path.stem}_pg{page}_repeat{repeat}.md"


def _check(fact: Any) -> None:
    try:
        pdf = PurePosixPath(fact["pdf"])
        int(fact["page"])
        str(fact["type"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"no fact with pdf, page and type: {fact!r:.200}") from error
    if pdf.is_absolute() or ".." in pdf.parts:
        raise ValueError(f"{fact['pdf']} is no path inside the benchmark")


def _texts(folder: Path, facts: Iterable[Fact]) -> dict[tuple[str, int], Texts]:
    pages = {page_of(fact) for fact in facts}
    return {(pdf, page): tuple(_repeats(folder, pdf, page)) for pdf, page in sorted(pages)}


def _repeats(folder: Path, pdf: str, page: int) -> Iterator[str]:
    place = PurePosixPath(pdf)
    name = re.compile(re.escape(f"{place.stem}_pg{page}_repeat") + r"\d+\.md")
    for path in sorted((folder / place.parent).glob("*.md")):
        if name.fullmatch(path.name):
            yield path.read_text(encoding="utf-8")


def _shares(held: Iterable[tuple[str, bool]]) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for name, value in held:
        groups[name].append(value)
    return {name: fmean(values) for name, values in groups.items()}


def _mean(shares: Mapping[str, float]) -> float | None:
    return fmean(shares.values()) if shares else None
