"""Pages of known text through the whole line: PDF -> `dsocr convert` -> text, errors and memory.

    python -m benchmarks.documents --model examples/reader --engine hf [--pages 500]
    python -m benchmarks.documents --server http://localhost:8000/v1

Renders held-out pages of the reader's generator into PDFs of 100, converts them, and compares. With
a server the memory is that of the converting process alone. Prints a table and, as the last line,
one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.reader_training.pages import PAGE_SIDE, held_out_pages
from vllm_dsocr.hosts import ENGINES, EngineChoice, make_engine
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.pdf import POINTS_PER_INCH
from vllm_dsocr.pipeline.files import write_atomic
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import find_inputs
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import Effort, ReadSettings
from vllm_dsocr.render.pdf.pictures import Picture, picture_pdf

PAGES_PER_FILE = 100
SETTLED = 100  # pages after which memory has to stay


def write_sources(folder: Path, num_pages: int, seed: int) -> list[str]:
    """PDFs of rendered pages; their texts in order."""
    texts: list[str] = []
    for first in range(0, num_pages, PAGES_PER_FILE):
        count = min(PAGES_PER_FILE, num_pages - first)
        path = folder / f"{first:06d}.pdf"
        write_atomic(path, picture_pdf(_pictures(seed + first, count, texts)))
    return texts


def _pictures(seed: int, count: int, texts: list[str]) -> Iterator[Picture]:
    """One page at a time; each page's text is added to `texts`."""
    for number in range(count):
        (page,) = held_out_pages(1, seed=seed + number)
        texts.append(page.text)
        buffer = io.BytesIO()
        page.image.convert("RGB").save(buffer, "JPEG", quality=95)
        yield Picture(buffer.getvalue(), *page.image.size, (PAGE_SIDE, PAGE_SIDE))


class Watch:
    """Resident memory (MiB) by number of pages done, and which statuses there were."""

    def __init__(self) -> None:
        self.resident: list[float] = []
        self.statuses: dict[str, int] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "page":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            status = event["status"]
            self.statuses[status] = self.statuses.get(status, 0) + 1


def read_texts(out: Path) -> list[str]:
    """Texts of all pages of all documents, in order."""
    documents = (
        json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*/document.json"))
    )
    return [page["text"] for document in documents for page in document["pages"]]


async def convert(args: argparse.Namespace, source: Path, out: Path) -> Watch:
    watch = Watch()
    engine = await make_engine(EngineChoice(args.server, args.engine, args.model, args.concurrency))
    settings = ReadSettings(engine.model, args.task, args.mode, POINTS_PER_INCH, args.max_tokens)
    effort = Effort(retries=args.retries)
    conversion = Conversion(engine, settings, OutputSettings(), out, watch, effort)
    await conversion.run(find_inputs([source]).files)
    return watch


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        truths = write_sources(source, args.pages, args.seed)
        started = time.perf_counter()
        watch = asyncio.run(convert(args, source, out))
        seconds = time.perf_counter() - started
        texts = read_texts(out)
    edits = sum(map(edit_distance, texts, truths))
    settled = watch.resident[min(SETTLED, len(watch.resident)) - 1]
    return {
        "pages": len(truths),
        "pages_present": len(texts),
        "statuses": watch.statuses,
        "cer": edits / sum(map(len, truths)),
        "seconds": seconds,
        "pages_per_second": len(truths) / seconds,
        "mib_at_page_100": settled,
        "mib_at_end": watch.resident[-1],
        "memory_growth": watch.resident[-1] / settled - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=50_000)
    parser.add_argument("--task", default="free")
    parser.add_argument("--mode")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--retries", type=int, default=4)
    parser.add_argument("--server", metavar="URL")
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--model")
    parser.add_argument("--concurrency", type=int)
    result = measure(parser.parse_args())
    for name, value in result.items():
        print(f"{name:<18} {value:.4g}" if isinstance(value, float) else f"{name:<18} {value}")
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "command": sys.argv}
    print(json.dumps({**result, **facts}))


if __name__ == "__main__":
    main()
