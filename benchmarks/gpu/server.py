"""`vllm serve` at full size with random weights, ours or vLLM's own, under 1, 16 and 64 clients.

    python -m benchmarks.gpu.server --side ours [--clients 1 16 64] [--seconds 8] [-- FLAG ...]

Pages are A4, no two the same; every answer has the same number of tokens, since random weights end
none. What follows `--` goes to `vllm serve`. Prints a table and, as the last line, one JSON object:
by clients pages per second, time to the first token and to the last, 50th and 95th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import openai

from benchmarks.machine import headline, machine
from benchmarks.prefill import write_published
from benchmarks.preprocess import MODEL, text_page
from examples.demo import served

SIDES = ("ours", "peer")
FLAGS = ("--load-format", "dummy", "--max-model-len", "8192", "--no-enable-prefix-caching")
SMALL = ("--max-model-len", "4096", "--enforce-eager", "--dtype", "float32")
TIMEOUT_SECONDS = 300.0
PERCENTILES = (50, 95)
Urls = Iterator[str]
PLUGIN = "[vllm.general_plugins]\ndsocr_peer = benchmarks.peer:register_peer\n"


def page_url(seed: int) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(text_page(seed)).decode()}"


@contextmanager
def plugins(side: str) -> Iterator[None]:
    """Which DeepSeek-OCR the server's processes find, by vLLM's own entry point."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        if side == "peer":
            info = Path(folder, "dsocr_peer-1.0.dist-info")
            info.mkdir()
            (info / "METADATA").write_text("Name: dsocr-peer\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(PLUGIN)
            paths = [folder, str(Path(__file__).parents[2]), before.get("PYTHONPATH", "")]
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            os.environ["VLLM_PLUGINS"] = "dsocr_peer"
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


async def ask(client: openai.AsyncOpenAI, model: str, url: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first and to the last token of one page."""
    image = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": "Free OCR."}
    sent = time.perf_counter()
    first = None
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": [image, text]}],
        stream=True,
        max_tokens=tokens,
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    async for chunk in stream:
        if chunk.choices and first is None:
            delta = chunk.choices[0]
            if delta.delta.content or getattr(delta, "token_ids", None):
                first = time.perf_counter() - sent
    last = time.perf_counter() - sent
    return first or last, last


async def level(
    client: openai.AsyncOpenAI, model: str, clients: int, args: argparse.Namespace, urls: Urls
) -> dict[str, float]:
    """So many clients, each with one page under way, until time or pages are up."""
    end = time.perf_counter() + args.seconds
    times: list[tuple[float, float]] = []

    async def one() -> None:
        for url in urls:
            times.append(await ask(client, model, url, args.tokens))
            if time.perf_counter() > end:
                return

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    took = time.perf_counter() - started
    first, last = (sorted(column) for column in zip(*times, strict=True))
    return {
        "pages": len(times),
        "pages_per_s": len(times) / took,
        **{f"ttft_s_p{share}": at_most(first, share) for share in PERCENTILES},
        **{f"latency_s_p{share}": at_most(last, share) for share in PERCENTILES},
    }


def at_most(ranked: Sequence[float], share: int) -> float:
    """The smallest value that `share` per cent of the values do not exceed."""
    return ranked[math.ceil(len(ranked) * share / 100) - 1]


async def measure(url: str, args: argparse.Namespace, urls: Urls) -> dict[str, Any]:
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS
    ) as client:
        model = (await client.models.list()).data[0].id
        await ask(client, model, next(urls), 4)  # a server's first page is not as the others
        found = {}
        for clients in args.clients:
            found[str(clients)] = await level(client, model, clients, args, urls)
            figures = " ".join(f"{k} {v:.3g}" for k, v in found[str(clients)].items())
            print(f"{args.side:<6}{clients:>4} clients  {figures}", flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each number of clients")
    parser.add_argument("--pages", type=int, default=640, help="at most, in all")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--small", action="store_true", help="the checkpoint of the tests")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of vllm serve")
    args = parser.parse_args()
    print(headline())
    with tempfile.TemporaryDirectory() as parent, plugins(args.side):
        folder = MODEL if args.small else Path(parent, "published")
        flags = SMALL if args.small else FLAGS
        if not args.small:
            write_published(folder)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as drawing:
            urls = drawing.map(page_url, range(args.pages))  # drawn while the server starts
            started = time.perf_counter()
            with served(folder, *flags, *args.flags) as url:
                ready = time.perf_counter() - started
                clients = asyncio.run(measure(url, args, iter(list(urls))))
    settings = {"side": args.side, "flags": [*flags, *args.flags], "tokens": args.tokens}
    print(json.dumps({**settings, "start_s": ready, "clients": clients, **machine()}))


if __name__ == "__main__":
    sys.exit(main())
