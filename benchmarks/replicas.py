"""Two `vllm serve` of the bundled reader behind one `dsocr gateway`; one is killed under load.

    python -m benchmarks.replicas [--requests 180] [--clients 8]

Clients send chat requests, whole and streamed, and `/v1/ocr`, every page once, and never try again:
what is lost is lost. After a third of the answers one server gets SIGKILL. Prints a table of
latencies of requests that ended before that, were under way, or began after, and as the last line
one JSON object. A stream that had begun cannot be repeated by the gateway: it must end with an
error that says so, and is counted as `broken_streams`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import openai

from benchmarks.machine import headline, machine
from benchmarks.serving import Sheet, chat_messages, percentiles, sheets
from examples.demo import READER, free_port, stop, wait_until_ready
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.metrics import edit_distance

SEED = 500_000  # of pages
KINDS = ("chat", "stream", "ocr")
PHASES = ("before", "during", "after")
TIMEOUT_SECONDS = 600.0
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; begun and ended in seconds of one clock, trouble empty for an answer."""

    kind: str
    begun: float
    ended: float
    edits: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """One that listens at `url` when it is ready."""

    url: str
    process: subprocess.Popen[bytes]
    log: IO[str]

    def wait(self) -> None:
        wait_until_ready(self.url, self.process, self.log)


@contextmanager
def program(url: str, *command: str | Path, **environment: str) -> Iterator[Program]:
    """Started; its whole group is gone afterwards."""
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**ENVIRONMENT, **environment, **os.environ},
        )
        try:
            yield Program(url, running, log)
        finally:
            stop(running)


@contextmanager
def replicas(count: int, *flags: str) -> Iterator[list[Program]]:
    """So many servers of the reader, which start side by side, each on a core of its own."""
    vllm = Path(sys.executable).with_name("vllm")
    with ExitStack() as stack:
        found = []
        cores = sorted(os.sched_getaffinity(0))
        for number in range(count):
            url = f"http://127.0.0.1:{(port := free_port())}"
            command = (vllm, "serve", READER, "--host", "127.0.0.1", "--port", str(port), *flags)
            core = str(cores[number % len(cores)])
            server = program(url, *command, VLLM_CPU_OMP_THREADS_BIND=core)
            found.append(stack.enter_context(server))
        for server in found:
            server.wait()
        yield found


@contextmanager
def gateway(servers: Sequence[str], *flags: str) -> Iterator[str]:
    """The URL of a `dsocr gateway` in front of the servers."""
    with tempfile.TemporaryDirectory() as data:
        url = f"http://127.0.0.1:{(port := free_port())}"
        named = itertools.chain.from_iterable(("--server", server) for server in servers)
        command = (sys.executable, "-m", "vllm_dsocr.cli", "gateway", *named, "--port", str(port))
        options = ("--data", data, "--draw-processes", "1", "--log-level", "warning")
        with program(url, *command, *options, *flags) as running:
            running.wait()
            yield url


class Load:
    """Clients that each send their next request when they have the answer to the last."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._openai = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS
        )
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS)
        self.outcomes: list[Outcome] = []

    async def run(self, pages: Sequence[Sheet], clients: int, kill: Any, kill_after: int) -> float:
        """Returns the moment of the kill, which comes after so many answers."""
        queue, killed = iter(zip(itertools.cycle(KINDS), pages, strict=False)), 0.0

        async def client() -> None:
            nonlocal killed
            for kind, page in queue:
                self.outcomes.append(await self._one(kind, page))
                if not killed and len(self.outcomes) >= kill_after:
                    killed = time.monotonic()
                    kill()

        await asyncio.gather(*(client() for _ in range(clients)))
        return killed

    async def _one(self, kind: str, page: Sheet) -> Outcome:
        begun = time.monotonic()
        try:
            text = await getattr(self, f"_{kind}")(page)
        except (openai.OpenAIError, httpx.HTTPError, KeyError) as error:
            trouble = str(error) or type(error).__name__
            return Outcome(kind, begun, time.monotonic(), 0, trouble)
        return Outcome(kind, begun, time.monotonic(), edit_distance(text.strip(), page.text))

    async def _chat(self, page: Sheet) -> str:
        answer = await self._openai.chat.completions.create(
            model=str(READER), messages=chat_messages(page)
        )
        return answer.choices[0].message.content or ""

    async def _stream(self, page: Sheet) -> str:
        stream = await self._openai.chat.completions.create(
            model=str(READER), messages=chat_messages(page), stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def _ocr(self, page: Sheet) -> str:
        body = {"document": {"type": "image_url", "image_url": page.url}, "task": "free"}
        answer = await self._http.post(f"{self._url}/v1/ocr", json=body)
        answer.raise_for_status()
        (read,) = answer.json()["pages"]
        if read["status"] == "failed":
            raise KeyError(read["reason"])
        return read["markdown"]


def phase(outcome: Outcome, killed: float) -> str:
    if outcome.ended <= killed:
        return "before"
    return "during" if outcome.begun <= killed else "after"


def summary(outcomes: Sequence[Outcome], killed: float, pages: Sequence[Sheet]) -> dict[str, Any]:
    """Counts, and latencies of whole answers by phase."""
    broken = [o for o in outcomes if o.kind == "stream" and "middle of its answer" in o.trouble]
    lost = [o for o in outcomes if o.trouble and o not in broken]
    good = [o for o in outcomes if not o.trouble]
    result: dict[str, Any] = {
        "requests": len(outcomes),
        "lost": len(lost),
        "broken_streams": len(broken),
        "answered": dict(Counter(o.kind for o in good)),
        "cer": sum(o.edits for o in good) / sum(len(page.text) for page in pages),
        "troubles": sorted({f"{o.kind}: {o.trouble}" for o in outcomes if o.trouble}),
    }
    for name in PHASES:
        times = [o.ended - o.begun for o in good if phase(o, killed) == name]
        result[name] = {"count": len(times), **(percentiles("s", times, (50, 95)) if times else {})}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=positive, default=180)
    parser.add_argument("--clients", type=positive, default=8)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave through the clean-up
    print(headline())
    pages = sheets(args.requests, SEED)
    with replicas(2) as servers, gateway([server.url for server in servers]) as url:
        load = Load(url)

        def kill() -> None:
            os.killpg(servers[0].process.pid, signal.SIGKILL)

        killed = asyncio.run(load.run(pages, args.clients, kill, args.requests // 3))
        metrics = httpx.get(f"{url}/metrics/").text
    result = summary(load.outcomes, killed, pages)
    result["replicas_ready"] = sum(
        line.startswith("dsocr_replica_ready{") and line.endswith(" 1.0")
        for line in metrics.splitlines()
    )
    for name in PHASES:
        row = result[name]
        print(f"{name:<8} {row['count']:>5}", *(f"{row[k]:8.2f}" for k in row if k != "count"))
    print(json.dumps({**result, "clients": args.clients, **machine(), "argv": sys.argv}))
    return int(result["lost"] > 0)


if __name__ == "__main__":
    sys.exit(main())
