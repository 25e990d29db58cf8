"""A benchmark's folder -> the pages to read and the file that each one's text goes to.

Nothing is read here but lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vllm_dsocr.evaluation import fox, olmocr_bench, omnidocbench

IMAGES = ("images", "ori_images", "")  # where the pictures of OmniDocBench may lie


@dataclass(frozen=True, slots=True)
class BenchPage:
    """source: an image or a PDF.  number: of its page, from 1.  target: below the output folder."""

    source: Path
    number: int
    target: Path


def olmocr_pages(data: Path, repeats: int = 1) -> list[BenchPage]:
    """Every page that a fact is about. Raises ValueError, OSError."""
    facts = olmocr_bench.read_facts(data)
    if not facts:
        raise ValueError(f"no *.jsonl with facts in {data}")
    pages = sorted({olmocr_bench.page_of(fact) for _, fact in facts})
    return [
        BenchPage(data / olmocr_bench.PDFS / pdf, page, olmocr_bench.page_file(pdf, page, repeat))
        for repeat in range(1, repeats + 1)
        for pdf, page in pages
    ]


def omnidocbench_pages(data: Path, repeats: int = 1) -> list[BenchPage]:
    """Every page of the list of pages. Raises ValueError, OSError."""
    folder = data if data.is_dir() else data.parent
    names = [omnidocbench.image_name(p) for p in omnidocbench.read_pages(omnidocbench_file(data))]
    return [
        BenchPage(_find(folder, name), 1, Path(PurePosixPath(name).stem + ".md")) for name in names
    ]


def omnidocbench_file(data: Path) -> Path:
    """The list of pages in a folder, or the file itself. Raises ValueError without one."""
    if data.is_file():
        return data
    found = sorted(data.glob("OmniDocBench*.json"))
    if len(found) != 1:
        raise ValueError(f"{data} needs one OmniDocBench.json, it has {len(found)}; name the file")
    return found[0]


def _find(folder: Path, name: str) -> Path:
    places = [folder / part / name for part in IMAGES]
    return next((path for path in places if path.is_file()), places[0])


def fox_pages(data: Path, repeats: int = 1) -> list[BenchPage]:
    """Every page of English page OCR. Raises ValueError, OSError."""
    names = fox.read_truth(data)
    return [
        BenchPage(data / fox.IMAGES / name, 1, Path(PurePosixPath(name).stem + ".md"))
        for name in names
    ]


PAGES: dict[str, Callable[[Path, int], list[BenchPage]]] = {
    "olmocr-bench": olmocr_pages,
    "omnidocbench": omnidocbench_pages,
    "fox": fox_pages,
}
