"""Pages of a benchmark + an engine -> one text file per page, and the answer it was made from.

A page that has its file is not read again, so a run that was interrupted goes on where it stopped.
What was read with other settings or by another model is never mixed with this run's. A page that
cannot be read has no file: scorers count it as read wrong.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_dsocr.engine import Engine, EngineError, Request
from vllm_dsocr.evaluation.bench.pages import BenchPage
from vllm_dsocr.evaluation.bench.settings import BenchSettings, cleaned
from vllm_dsocr.page.files import ReadOptions, iter_pages
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image

RECORD = "dsocr-bench.json"  # what the texts of a folder were read with
ANSWER_SUFFIX = ".answer.txt"  # the answer as it came, beside the text


@dataclass(frozen=True, slots=True)
class Read:
    """How a run went: pages read now, found from before, and the troubles by file."""

    read: int
    kept: int
    troubles: dict[str, str]


async def read_pages(
    engine: Engine,
    pages: Sequence[BenchPage],
    out: Path,
    settings: BenchSettings,
    report: Callable[[str], None] = lambda line: None,
) -> Read:
    """Reads what is missing. Raises EngineLost, and ValueError when `out` is another run's."""
    _claim(out, engine.model, settings)
    wanted = [page for page in pages if not (out / page.target).is_file()]
    troubles: dict[str, str] = {}
    slots = asyncio.Semaphore(engine.max_in_flight)

    async def one(page: BenchPage, worker: ThreadPoolExecutor) -> None:
        async with slots:
            try:
                loop = asyncio.get_running_loop()
                image = await loop.run_in_executor(worker, _image, page, settings.dpi)
                request = Request(
                    image,
                    settings.prompt,
                    mode=settings.mode,
                    max_tokens=settings.max_tokens,
                    guard=settings.guard,
                )
                completion = await engine.complete(request)
            except (PageError, EngineError) as error:
                troubles[str(page.target)] = str(error)
                report(f"{page.target}: {error}")
                return
            _write(out / page.target, completion.text)
            report(str(page.target))

    if wanted:
        # PDFium is used by one thread at a time.
        with ThreadPoolExecutor(1, "dsocr-bench") as worker:
            async with engine:
                try:
                    async with asyncio.TaskGroup() as group:
                        for page in wanted:
                            group.create_task(one(page, worker))
                except ExceptionGroup as errors:
                    raise errors.exceptions[0] from errors
    return Read(len(wanted) - len(troubles), len(pages) - len(wanted), troubles)


def _image(page: BenchPage, dpi: float) -> Image.Image:
    wanted = PageRanges.parse(str(page.number))
    for found in iter_pages(page.source, wanted, ReadOptions(dpi=dpi)):
        return found.load()
    raise PageError(f"{page.source} has no page {page.number}")


def _write(target: Path, answer: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target.with_suffix(ANSWER_SUFFIX), [answer])
    write_atomic(target, [cleaned(answer)])


def _claim(out: Path, model: str, settings: BenchSettings) -> None:
    facts = {"model": model, "settings": json.loads(json.dumps(asdict(settings), default=sorted))}
    record = out / RECORD
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known != facts:
            raise ValueError(f"{out} was read with other settings: {_difference(known, facts)}")
        return
    if out.is_dir() and any(out.rglob("*.md")):
        raise ValueError(f"{out} has texts of another origin; take another --candidate")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(record, [json.dumps(facts, indent=1)])


def _difference(known: dict[str, object], facts: dict[str, object]) -> str:
    old, new = (
        {"model": one.get("model"), **dict(one.get("settings") or {})}  # type: ignore[call-overload]
        for one in (known, facts)
    )
    names = [name for name in new if old.get(name) != new[name]]
    return "; ".join(f"{name} {old.get(name)!r} then, {new[name]!r} now" for name in names)
