"""The OCR service under load, inside vLLM's server with the bundled reader.

    python -m benchmarks.service [--documents 32] [--pages 10] [--single 20] [--sheets 12]
    python -m benchmarks.service --without-model 0.5      the service alone, see stub_service.py

Many documents of several pages at once, while another client asks for one page after another: how
long those take, alone and beside the load; the memory of the front end (API server and processes
that draw) at its peak; whether every page is there and is its own. Then A4 pages one by one: the
front end's processor time for a page as PDF and as JPEG by `/v1/ocr`, and for the same JPEG by the
chat route. No page is sent twice; without a model every page has to be right to the pixel. Prints a
table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image, ImageDraw

from benchmarks.machine import headline, machine
from benchmarks.stub_service import digest
from examples.demo import READER, free_port, served
from examples.reader_training.pages import PAGE_SIDE, Page, load_font, render_page
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.pdf import PdfFile
from vllm_dsocr.page.source import open_image
from vllm_dsocr.render.pdf.pictures import Picture, picture_pdf

DPI = 144
SEED = 400_000  # of pages; no other benchmark renders these
MAX_CHARS = 120  # of a page: a third of what the reader takes, so that 320 pages take minutes
A4 = (1654, 2339)  # px at 200 dpi
A4_POINTS = (595, 842)
TIMEOUT = httpx.Timeout(1800.0)
WELL_READ = 0.1  # share of wrong characters up to which a page is taken for the one that was sent
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A document and the text of each page."""

    body: Body
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Got:
    """Texts and statuses of the pages, and how long they took, s."""

    texts: list[str]
    statuses: list[str]
    seconds: float


def printed(count: int, seed: int) -> Iterator[Page]:
    """Pages of the reader's kind, drawn when they are asked for."""
    for number in range(count):
        yield render_page(random.Random(seed + number), held_out=True, max_chars=MAX_CHARS)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def document(pages: Sequence[Page], by_pixels: bool) -> Sent:
    """A PDF with a picture a page, drawn again at its own resolution."""
    side = PAGE_SIDE * 72 / DPI
    pictures = (Picture(jpeg(page.image), *page.image.size, (side, side)) for page in pages)
    data = b"".join(picture_pdf(pictures))
    texts = digests(data) if by_pixels else [page.text for page in pages]
    return Sent(request(data, "pdf"), texts)


def digests(data: bytes) -> list[str]:
    """What the engine without a model has to say of each page of a PDF."""
    with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
        file.write(data)
        file.flush()
        pdf = PdfFile(Path(file.name))
        return [digest(pdf.image(number, DPI)) for number in range(1, pdf.num_pages + 1)]


def request(data: bytes, kind: str) -> Body:
    media_type = {"pdf": "application/pdf", "jpeg": "image/jpeg"}[kind]
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"document": {"type": "document_url", "document_url": url}, "task": "free"}


def a4_lines(number: int) -> list[str]:
    return [f"Invoice {7919 * number + 104729}", "for the work", "of the week"]


def a4_jpeg(number: int) -> bytes:
    """A scanned letter of few and large words, which the reader can read at 640 px."""
    image = Image.new("RGB", A4, "white")
    draw, font = ImageDraw.Draw(image), load_font("DejaVuSans", 84, True)
    for place, line in enumerate(a4_lines(number)):
        draw.text((150, 300 + 130 * place), line, fill="black", font=font)
    return jpeg(image)


def a4_pdf(number: int) -> bytes:
    """The same as text of a PDF."""
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, A4_POINTS)
    canvas.setFont("Helvetica", 30)
    for place, line in enumerate(a4_lines(number)):
        canvas.drawString(54, A4_POINTS[1] - 138 - 47 * place, line)
    canvas.save()
    return buffer.getvalue()


async def ocr(client: httpx.AsyncClient, body: Body) -> Got:
    started = time.perf_counter()
    answer = await client.post("/v1/ocr", json=body)
    answer.raise_for_status()
    pages = answer.json()["pages"]
    texts = [page["markdown"].replace("\\", "").strip() for page in pages]
    return Got(texts, [page["status"] for page in pages], time.perf_counter() - started)


async def chat(client: httpx.AsyncClient, body: Body) -> None:
    """The page by the OpenAI route, as any client of vLLM sends it."""
    url = body["document"]["document_url"]
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Free OCR."},
    ]
    messages = [{"role": "user", "content": content}]
    answer = await client.post("/v1/chat/completions", json={"messages": messages})
    answer.raise_for_status()


class FrontEnd:
    """The processes that are neither the engine nor its workers."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self.peak_bytes = 0

    def processes(self) -> Iterator[psutil.Process]:
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                if not " ".join(process.cmdline()).startswith("VLLM::"):
                    yield process
            except psutil.Error:
                continue

    def cpu_seconds(self) -> float:
        total = 0.0
        for process in self.processes():
            times = process.cpu_times()
            total += times.user + times.system
        return total

    async def watch(self) -> None:
        """Keeps the highest memory of all of them together, until cancelled."""
        while True:
            self.peak_bytes = max(self.peak_bytes, self.resident())
            await asyncio.sleep(0.5)

    def resident(self) -> int:
        return sum(process.memory_info().rss for process in self.processes())


async def one_after_another(
    client: httpx.AsyncClient, pages: Iterable[Page], by_pixels: bool, until: Callable[[], bool]
) -> list[tuple[str, Got]]:
    """Single pages, the next one when the last is there."""
    done = []
    for page in pages:
        if until():
            break
        data = jpeg(page.image)
        text = digest(open_image(data)) if by_pixels else page.text
        done.append((text, await ocr(client, request(data, "jpeg"))))
    return done


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def wrong_characters(text: str, truth: str) -> float:
    return edit_distance(text, truth) / max(1, len(truth))


def rightness(sent: Sequence[Sent], got: Sequence[Got]) -> dict[str, Any]:
    """Whether every page is there, once, in its place."""
    truths = [text for document in sent for text in document.texts]
    texts = [text for answer in got for text in answer.texts]
    rates = [wrong_characters(*pair) for pair in zip(texts, truths, strict=True)]
    edits = sum(map(edit_distance, texts, truths))
    strangers = sum(
        min(range(len(truths)), key=lambda n: edit_distance(text, truths[n])) != place
        for place, text in enumerate(texts)
    )
    return {
        "pages": len(texts),
        "pages_not_ok": sum(status != "ok" for answer in got for status in answer.statuses),
        "pages_in_a_wrong_place": strangers,
        "pages_well_read": sum(rate <= WELL_READ for rate in rates),
        "cer": round(edits / sum(map(len, truths)), 4),
    }


async def load(client: httpx.AsyncClient, front: FrontEnd, args: argparse.Namespace) -> Body:
    """One-page requests alone, then beside all documents at once."""
    by_pixels = args.without_model is not None
    alone = await one_after_another(client, printed(args.single, SEED), by_pixels, lambda: False)
    pages = list(printed(args.documents * args.pages, SEED + 10_000))
    documents = [
        document(pages[n : n + args.pages], by_pixels) for n in range(0, len(pages), args.pages)
    ]
    before, used, started = front.resident(), front.cpu_seconds(), time.perf_counter()
    watch = asyncio.create_task(front.watch())
    running = asyncio.gather(*(ocr(client, sent.body) for sent in documents))
    singles = printed(1000, SEED + 100_000)
    beside = await one_after_another(client, singles, by_pixels, running.done)
    got = await running
    seconds = time.perf_counter() - started
    watch.cancel()
    latencies = {"alone": alone, "beside": beside}
    return {
        **rightness(documents, got),
        "singles_well_read": sum(
            wrong_characters(got.texts[0], text) <= WELL_READ for text, got in alone + beside
        ),
        "singles": {name: len(done) for name, done in latencies.items()},
        **{
            f"p{share}_{name}_s": round(percentile([g.seconds for _, g in done], share / 100), 2)
            for name, done in latencies.items()
            for share in (50, 95)
        },
        "load_s": round(seconds, 1),
        "pages_per_s": round((len(pages) + len(beside)) / seconds, 2),
        "front_end_ms_per_page": round(
            1000 * (front.cpu_seconds() - used) / (len(pages) + len(beside)), 1
        ),
        "front_end_mib_before": before >> 20,
        "front_end_mib_peak": front.peak_bytes >> 20,
    }


async def cost(client: httpx.AsyncClient, front: FrontEnd, num_sheets: int, chats: bool) -> Body:
    """Processor time of the front end for an A4 page, ms, by route and kind."""
    numbers = iter(range(1, 10 * num_sheets))
    found: Body = {}

    async def measure(name: str, make: Callable[[int], Body], send: Callable[..., Any]) -> None:
        bodies = [make(next(numbers)) for _ in range(num_sheets + 2)]
        for body in bodies[:2]:
            await send(client, body)
        used = front.cpu_seconds()
        for body in bodies[2:]:
            await send(client, body)
        found[f"{name}_ms"] = round(1000 * (front.cpu_seconds() - used) / num_sheets, 1)
        found[f"{name}_kib"] = len(json.dumps(bodies[0])) >> 10

    await measure("ocr_pdf", lambda n: request(a4_pdf(n), "pdf"), ocr)
    await measure("ocr_jpeg", lambda n: request(a4_jpeg(n), "jpeg"), ocr)
    if chats:
        await measure("chat_jpeg", lambda n: request(a4_jpeg(n), "jpeg"), chat)
    used = front.cpu_seconds()
    await asyncio.sleep(3)
    found["idle_ms_per_s"] = round(1000 * (front.cpu_seconds() - used) / 3, 1)
    return found


@contextmanager
def service(without_model: float | None) -> Iterator[tuple[str, FrontEnd]]:
    """Address of the reader's server with the service in it, and its front end."""
    with tempfile.TemporaryDirectory() as data:
        os.environ |= {
            "VLLM_PLUGINS": "dsocr,dsocr_api",
            "DSOCR_DATA": str(Path(data)),
            "DSOCR_DPI": str(DPI),
        }
        if without_model is not None:
            with stub(without_model, data) as found:
                yield found
            return
        with served(READER) as url:
            (server,) = psutil.Process().children()
            yield url.removesuffix("/v1"), FrontEnd(server)


@contextmanager
def stub(seconds: float, data: str) -> Iterator[tuple[str, FrontEnd]]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.stub_service", str(port), str(seconds), data]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        while not is_ready(url):
            if process.poll() is not None:
                raise SystemExit("the service did not start")
            time.sleep(0.5)
        yield url, FrontEnd(psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


async def measure(url: str, front: FrontEnd, args: argparse.Namespace) -> Body:
    limits = httpx.Limits(max_connections=args.documents + 8)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
        for page in printed(3, SEED + 900_000):  # the first pages warm everything up
            await ocr(client, document([page], False).body)
        sheets = await cost(client, front, args.sheets, args.without_model is None)
        loaded = await load(client, front, args)
        told = (await client.get("/metrics/")).text
    counters = [line.split() for line in told.splitlines() if line.startswith("dsocr_page_retries")]
    retries = sum(float(value) for name, value in counters if "_total" in name)
    return {**sheets, **loaded, "retries": int(retries)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=positive, default=32)
    parser.add_argument("--pages", type=positive, default=10)
    parser.add_argument("--single", type=positive, default=20)
    parser.add_argument("--sheets", type=positive, default=12)
    parser.add_argument("--without-model", type=float, metavar="SECONDS")
    args = parser.parse_args()
    print(headline())
    with service(args.without_model) as (url, front):
        found = asyncio.run(measure(url, front, args))
    for name, value in found.items():
        print(f"{name:<26} {value}")
    print(json.dumps({**vars(args), **found, **machine()}))


if __name__ == "__main__":
    main()
