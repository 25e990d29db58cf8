"""Pages per second of `dsocr convert`: PDFs of rendered pages -> documents on disk.

    python -m benchmarks.batch [--model PATH] [--pages 128]              vLLM in this process
    python -m benchmarks.batch --engine hf [--pages 16]                  transformers
    python -m benchmarks.batch --server http://localhost:8000/v1         a running server

Every page is another one, so no cache can answer for the model. The engine's start is timed apart
and not part of the rate; drawing the PDF pages and writing the documents are. Prints a table and,
as the last line, one JSON object with pages_per_s, startup_s and the share of wrong characters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.documents import read_texts, write_sources
from benchmarks.machine import headline, machine
from examples.demo import READER
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.engine import Completion, Engine, Request
from vllm_dsocr.hosts import ENGINES, EngineChoice, make_engine
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.pdf import POINTS_PER_INCH
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import find_inputs
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import ReadSettings

SEED = 300_000  # of pages; no other benchmark renders these


class TimedStart:
    """An Engine that knows how long it took to be ready, in seconds, and counts its tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model, self.max_in_flight = engine.model, engine.max_in_flight
        self.startup_s = 0.0
        self.num_text_tokens = 0

    @property
    def versions(self) -> Mapping[str, str]:
        return self._engine.versions

    async def __aenter__(self) -> TimedStart:
        started = time.perf_counter()
        await self._engine.__aenter__()
        self.max_in_flight = self._engine.max_in_flight
        self.startup_s = time.perf_counter() - started
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._engine.__aexit__(*exception)

    async def complete(self, request: Request) -> Completion:
        completion = await self._engine.complete(request)
        self.num_text_tokens += completion.num_text_tokens
        return completion


async def convert(args: argparse.Namespace, source: Path, out: Path) -> dict[str, Any]:
    """Reads every page of the folder; rates per second after the engine was ready."""
    choice = EngineChoice(args.server, args.engine, args.model, args.concurrency)
    engine = TimedStart(await make_engine(choice))
    settings = ReadSettings(engine.model, task="free", dpi=POINTS_PER_INCH)
    started = time.perf_counter()
    conversion = Conversion(engine, settings, OutputSettings(), out)
    summaries = await conversion.run(find_inputs([source]).files)
    seconds = time.perf_counter() - started - engine.startup_s
    num_pages = sum(sum(summary["statuses"].values()) for summary in summaries)
    return {
        "pages": num_pages,
        "pages_per_s": num_pages / seconds,
        "tokens_per_s": engine.num_text_tokens / seconds,
        "startup_s": engine.startup_s,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One conversion in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        truths = write_sources(source, args.pages, SEED)
        rates = asyncio.run(convert(args, source, out))
        texts = read_texts(out)
    edits = sum(edit_distance(text, truth) for text, truth in zip(texts, truths, strict=True))
    return {**rates, "cer": edits / sum(map(len, truths))}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pages", type=positive, default=128)
    parser.add_argument("--server", metavar="URL", help="an OpenAI-compatible server")
    parser.add_argument("--engine", choices=ENGINES, help="without a server: host in this process")
    parser.add_argument("--model", help="checkpoint, or the server's name for it")
    parser.add_argument("--concurrency", type=positive, help="pages in flight at a time")
    args = parser.parse_args()
    if not args.server:
        args.model = args.model or str(READER)
    return args


def main() -> None:
    args = arguments()
    print(headline())
    result = measure(args)
    for name, value in result.items():
        print(f"{name:<14} {value:.4g}" if isinstance(value, float) else f"{name:<14} {value}")
    print(json.dumps({**result, **machine(), "argv": sys.argv}))


if __name__ == "__main__":
    main()
