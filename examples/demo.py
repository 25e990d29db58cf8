"""Serve the bundled reader with plain `vllm serve`, read one page, compare with the truth.

    make demo

Writes the Markdown, a report, the page with its boxes and a searchable PDF into demo-output/. The
last line is one JSON object: `cer` (character error rate), `seconds` (reading the page) and, for a
page with layout, `iou` (mean overlap of the boxes).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO

import openai
from PIL import Image

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.metrics import box_iou, character_error_rate
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.pipeline.outputs import write_format
from vllm_dsocr.render.figures import crop_figures
from vllm_dsocr.render.finished import FinishedDocument, figure_path
from vllm_dsocr.render.formats import FORMATS

HERE = Path(__file__).parent
READER = HERE / "reader"
OUTPUT = Path("demo-output")
WRITTEN = ("md", "report", "layout", "pdf")
STARTUP_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Case:
    """A page, what to do with it, and what should come out."""

    task: str
    page: Path
    truth: Path


LINES = Case("free", HERE / "page.png", HERE / "page.txt")
LAYOUT = Case("markdown", HERE / "layout.png", HERE / "layout.txt")


def case_for(reader: Path) -> Case:
    """The page with layout, if the reader's own figures say that it was trained for such."""
    figures = json.loads((reader / "evaluation.json").read_text(encoding="utf-8"))
    return LAYOUT if "layout" in figures else LINES


@contextmanager
def served(model: Path, *flags: str) -> Iterator[str]:
    """The base URL of a running `vllm serve`; the server is gone afterwards, whatever happens."""
    port = free_port()
    vllm = Path(sys.executable).with_name("vllm")
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [vllm, "serve", model, "--host", "127.0.0.1", "--port", str(port), *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop the server in order
            env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, server, log)
            yield f"{url}/v1"
        finally:
            stop(server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(url: str, server: subprocess.Popen, log: IO[str]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    log.seek(0)
    sys.exit(f"{log.read()[-4000:]}\nvllm serve did not start; its last words are above")


def stop(server: subprocess.Popen) -> None:
    """Ask the server's process group to end, ever less politely."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, signum)
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def read(base_url: str, case: Case) -> str:
    """The answer, printed as it arrives."""
    client = openai.OpenAI(base_url=base_url, api_key="none")
    image = base64.b64encode(case.page.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": TASKS[case.task].removeprefix("<image>\n")},
    ]
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], stream=True
    )
    pieces = []
    for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        print(pieces[-1], end="", flush=True)
    print()
    return "".join(pieces)


@dataclass(frozen=True, slots=True)
class OnePicture:
    """The image of a document of one page, as the formats ask for it."""

    path: Path

    def image(self, number: int = 1) -> Image.Image:
        with Image.open(self.path) as image:
            return image.convert("RGB")


def finished(case: Case, text: str) -> FinishedDocument:
    """The answer as a document of one page."""
    picture = OnePicture(case.page)
    width, height = picture.image().size
    page = Page(1, "ok", width, height, text=text, blocks=parse_blocks(text))
    return FinishedDocument(
        title=case.page.stem,
        pages=lambda: [page],
        figure=lambda figure: dict(crop_figures(picture.image(), page))[figure],
        pictures=lambda: picture,
        source=case.page,
    )


def write(document: FinishedDocument, folder: Path) -> list[Path]:
    """Every format of WRITTEN, and the figures that the Markdown shows; returns what to look at."""
    for page in document.pages():
        for figure in page.figures:
            path = folder / figure_path(figure)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(document.figure(figure))
    for name in WRITTEN:
        write_format(FORMATS[name], document, folder)
    return [folder / FORMATS[name].file for name in WRITTEN]


def mean_overlap(text: str, truth: str) -> float:
    """Of the boxes of `truth` with those of `text`, in order; a missing one counts 0."""
    said, true = ([b for block in parse_blocks(t) for b in block.boxes] for t in (text, truth))
    pairs = zip_longest(said[: len(true)], true)
    return sum(box_iou(a.corners, b.corners) for a, b in pairs if a and b) / max(1, len(true))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave through the clean-up
    case = case_for(READER)
    truth = case.truth.read_text(encoding="utf-8").rstrip("\n")
    print(f"starting: vllm serve {READER}")
    begin = time.monotonic()
    with served(READER) as base_url:
        print(f"ready after {time.monotonic() - begin:.0f} s\n\n--- read by the model")
        begin = time.monotonic()
        text = read(base_url, case)
        seconds = time.monotonic() - begin
    document = finished(case, text)
    if case is LAYOUT:
        print(f"\n--- as Markdown\n{FORMATS['md'].text(document)}")
    print(f"\n--- printed on the page\n{truth}\n")
    for path in write(document, OUTPUT):
        print(f"written: {path}")
    figures = {"cer": round(character_error_rate(text, truth), 5)}
    if case is LAYOUT:
        figures["iou"] = round(mean_overlap(text, truth), 4)
    print(f"character error rate {figures['cer']:.2%}, {seconds:.1f} s")
    print(json.dumps({**figures, "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
