"""Processor time of a page in every stage before the engine: what a fleet's cores have to do.

    python -m benchmarks.stages [--dpi 144]

Two A4 pages in PDFs: text as letters, and a noisy scan. Processor time of one thread, median; it
does not count what waits, so a busy machine changes it little. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from reportlab.pdfgen.canvas import Canvas

from benchmarks.machine import headline, machine
from vllm_dsocr.config import PageOptions
from vllm_dsocr.engine import Request
from vllm_dsocr.fleet.chat_cost import num_vision_tokens
from vllm_dsocr.page.pdf import PdfFile
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.server_engine import _body

A4 = (595, 842)  # points
SCAN = (1654, 2339)  # px, 200 dpi
STAGES = ("draw", "encode", "route", "decode", "views")


def text_pdf(path: Path) -> Path:
    """60 lines of letters."""
    canvas = Canvas(str(path), pagesize=A4)
    for line in range(60):
        canvas.drawString(50, 800 - 12.5 * line, f"{line:02} " + "The quick brown fox jumps. " * 3)
    canvas.save()
    return path


def scan_pdf(path: Path) -> Path:
    """The picture of a page with the noise of a scanner."""
    noise = np.random.default_rng(0).normal(235, 8, (SCAN[1], SCAN[0], 3)).clip(0, 255)
    Image.fromarray(noise.astype(np.uint8)).save(path, "PDF", resolution=200, quality=85)
    return path


def stages(pdf: PdfFile, dpi: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each with what the one before gave."""
    image = pdf.image(1, dpi)
    yield "draw", lambda: pdf.image(1, dpi)
    body = json.dumps(_body(Request(image, TASKS["markdown"]), "m")).encode()
    yield "encode", lambda: json.dumps(_body(Request(image, TASKS["markdown"]), "m")).encode()
    yield "route", lambda: num_vision_tokens(body)
    yield "decode", lambda: decoded(body)
    arrived = decoded(body)
    yield "views", lambda: page_tensors(arrived, PageOptions())


def decoded(body: bytes) -> Image.Image:
    """The image of a chat request, as a server gets it."""
    url = json.loads(body)["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    image.load()
    return image


def milliseconds(work: Callable[[], Any], times: int) -> float:
    """Of processor time, median."""
    work()
    taken = []
    for _ in range(times):
        begin = time.thread_time()
        work()
        taken.append(1e3 * (time.thread_time() - begin))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dpi", type=float, default=144.0)
    parser.add_argument("--times", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(headline())
    result: dict[str, dict[str, float]] = {}
    print(f"{'':<6}", *(f"{name:>8}" for name in STAGES), "ms")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("text", text_pdf), ("scan", scan_pdf)):
            pdf = PdfFile(make(Path(folder) / f"{name}.pdf"))
            costs = {stage: milliseconds(work, args.times) for stage, work in stages(pdf, args.dpi)}
            pdf.close()
            result[name] = costs
            print(f"{name:<6}", *(f"{costs[stage]:8.1f}" for stage in STAGES))
    print(json.dumps({"milliseconds": result, "dpi": args.dpi, **machine(), "argv": sys.argv}))


if __name__ == "__main__":
    main()
