"""Pages from many clients through `vllm serve`, beside transformers reading them one by one.

    python -m benchmarks.serving [--pages 128] [--concurrency 32] [--hf-pages 16]
    python -m benchmarks.serving --server http://localhost:8000/v1 --model PATH

Every page is rendered once and sent once, so no cache can answer for the model; the warm-up reads
other pages. Server and transformers take turns, slice by slice, and both are greedy under the same
repetition guard. Each client sends its next page when it has the answer to the last. Prints a table
and, as the last line, one JSON object; its error rates show that speed was not bought with text.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import openai
import psutil
from PIL import Image

from benchmarks.machine import headline, machine
from examples.demo import READER, served
from examples.reader_training.pages import held_out_pages
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.engine import Request, clean_text
from vllm_dsocr.hf.engine import HfEngine
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.render.figures import png_bytes

SEED, WARM_UP_SEED = 200_000, 900_000  # of pages; no other benchmark renders these
PERCENTILES = (50, 90, 99)
TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What came back for a page; `first` and `last` token in seconds after it was sent."""

    text: str
    num_tokens: int
    first: float
    last: float


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """A page as both sides take it, made before any clock runs: RGB image and PNG data URL."""

    text: str
    image: Image.Image
    url: str


def sheets(count: int, seed: int) -> list[Sheet]:
    """Pages of the reader's kind, no two the same."""
    pages = held_out_pages(count, seed=seed)
    made = [Sheet(page.text, page.image.convert("RGB"), data_url(page.image)) for page in pages]
    if len({sheet.url for sheet in made}) != count:
        raise SystemExit("two pages are the same, and a cache would answer for one of them")
    return made


def data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"


class Reader(Protocol):
    async def read(self, pages: Sequence[Sheet]) -> list[Reading]:
        """Answers in the order of the pages."""
        ...


class Clients:
    """So many clients of one server, each with one page under way at a time."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, concurrency: int) -> None:
        self._client = client
        self._model = model
        self._concurrency = concurrency

    async def read(self, pages: Sequence[Sheet]) -> list[Reading]:
        queue = enumerate(pages)
        readings: dict[int, Reading] = {}

        async def one_client() -> None:
            for number, page in queue:
                readings[number] = await self._ask(page)

        await asyncio.gather(*(one_client() for _ in range(self._concurrency)))
        return [readings[number] for number in range(len(pages))]

    async def _ask(self, page: Sheet) -> Reading:
        sent, arrivals, pieces, num_tokens = time.perf_counter(), [], [], 0
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=chat_messages(page),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                arrivals.append(time.perf_counter() - sent)
                pieces.append(piece)
            if chunk.usage:
                num_tokens = chunk.usage.completion_tokens
        last = time.perf_counter() - sent
        return Reading("".join(pieces).strip(), num_tokens, arrivals[0] if arrivals else last, last)


def chat_messages(page: Sheet) -> list[dict[str, Any]]:
    """What any client would send: no option of this model, no sampling parameter."""
    content = [
        {"type": "image_url", "image_url": {"url": page.url}},
        {"type": "text", "text": "Free OCR."},
    ]
    return [{"role": "user", "content": content}]


class OneByOne:
    """transformers, a page at a time."""

    def __init__(self, engine: HfEngine) -> None:
        self._engine = engine

    async def read(self, pages: Sequence[Sheet]) -> list[Reading]:
        return [await self._ask(page) for page in pages]

    async def _ask(self, page: Sheet) -> Reading:
        sent = time.perf_counter()
        answer = await self._engine.complete(Request(page.image, TASKS["free"]))
        seconds = time.perf_counter() - sent
        text = clean_text(answer.text).strip()
        return Reading(text, answer.num_text_tokens, seconds, seconds)


@dataclass
class Tally:
    """What one side has read so far."""

    seconds: float = 0.0
    pages: list[Sheet] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    async def take(self, reader: Reader, pages: Sequence[Sheet]) -> None:
        started = time.perf_counter()
        self.readings += await reader.read(pages)
        self.seconds += time.perf_counter() - started
        self.pages += pages

    def report(self) -> dict[str, float]:
        """Rates per second and the share of wrong characters."""
        pairs = zip(self.readings, self.pages, strict=True)
        edits = sum(edit_distance(reading.text, page.text) for reading, page in pairs)
        return {
            "pages": len(self.pages),
            "pages_per_s": len(self.pages) / self.seconds,
            "tokens_per_s": sum(reading.num_tokens for reading in self.readings) / self.seconds,
            "cer": edits / sum(len(page.text) for page in self.pages),
        }

    def latencies(self) -> dict[str, float]:
        """Percentiles of seconds to the first and to the last token."""
        firsts = [reading.first for reading in self.readings]
        lasts = [reading.last for reading in self.readings]
        return percentiles("ttft_s", firsts) | percentiles("latency_s", lasts)


def percentiles(
    name: str, values: Sequence[float], percents: Sequence[int] = PERCENTILES
) -> dict[str, float]:
    """The smallest value that so many per cent of the values do not exceed."""
    ranked = sorted(values)
    ranks = {percent: math.ceil(len(ranked) * percent / 100) for percent in percents}
    return {f"{name}_p{percent}": ranked[rank - 1] for percent, rank in ranks.items()}


def processor_seconds() -> Counter[str]:
    """By process: the clients, which are this process, and the server's that it has started."""
    own = psutil.Process()
    used = Counter({"clients": sum(own.cpu_times()[:2])})
    for process in own.children(recursive=True):
        used[process.name()] += sum(process.cpu_times()[:2])
    return used


def slices(pages: Sequence[Sheet], count: int) -> Iterator[Sequence[Sheet]]:
    """`count` parts of the pages, as even as can be, in order."""
    edges = [len(pages) * i // count for i in range(count + 1)]
    return (pages[first:end] for first, end in itertools.pairwise(edges))


async def measure(args: argparse.Namespace, url: str) -> dict[str, Any]:
    """Both sides in turn over their slices; transformers reads the first of the server's pages."""
    pages = sheets(args.pages, SEED)
    server, hf, used = Tally(), Tally(), Counter[str]()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(url))
        engine = await stack.enter_async_context(HfEngine(str(args.model)))
        model = (await client.models.list()).data[0].id
        clients, one_by_one = Clients(client, model, args.concurrency), OneByOne(engine)
        warm_up = sheets(args.concurrency, WARM_UP_SEED)
        await clients.read(warm_up)
        await one_by_one.read(warm_up[:1])
        server_parts = slices(pages, args.slices)
        hf_parts = slices(pages[: args.hf_pages], args.slices)
        for server_pages, hf_pages in zip(server_parts, hf_parts, strict=True):
            before = processor_seconds()
            await server.take(clients, server_pages)
            used += processor_seconds() - before
            await hf.take(one_by_one, hf_pages)
    return summary(server, hf, used)


def connected(url: str) -> openai.AsyncOpenAI:
    """A client that waits rather than asks twice."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=TIMEOUT_SECONDS)


def summary(server: Tally, hf: Tally, used: Counter[str]) -> dict[str, Any]:
    """One flat dictionary, the ratio first."""
    ours, theirs = server.report(), hf.report()
    cpu = {name: 1e3 * seconds / len(server.pages) for name, seconds in used.items()}
    return {
        "speedup_vs_hf": ours["pages_per_s"] / theirs["pages_per_s"],
        **ours,
        **server.latencies(),
        **{f"hf_{name}": value for name, value in theirs.items()},
        "cpu_ms_per_page": {name: round(value, 1) for name, value in cpu.items()},
    }


def main() -> None:
    args = arguments()
    print(headline())
    with ExitStack() as stack:
        url = args.server or stack.enter_context(served(args.model, *args.serve_flags))
        result = asyncio.run(measure(args, url))
    for name, value in result.items():
        print(f"{name:<18} {value:.4g}" if isinstance(value, float) else f"{name:<18} {value}")
    print(json.dumps({**result, "concurrency": args.concurrency, **machine(), "argv": sys.argv}))


def arguments() -> argparse.Namespace:
    """What follows `--` goes to `vllm serve`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=READER, help="checkpoint, read by both sides")
    parser.add_argument("--server", metavar="URL", help="a running server of it, ending in /v1")
    parser.add_argument("--concurrency", type=positive, default=32, help="clients")
    parser.add_argument("--pages", type=positive, default=128, help="through the server")
    parser.add_argument("--hf-pages", type=positive, default=16, help="of them, through hf")
    parser.add_argument("--slices", type=positive, default=2, help="turns of each side")
    parser.add_argument("serve_flags", nargs="*", metavar="-- FLAG", help="of vllm serve")
    return parser.parse_args()


if __name__ == "__main__":
    main()
