"""Serve the bundled reader with plain `vllm serve`, read one page, compare with the truth.

    make demo

The last line is one JSON object with `cer` (character error rate) and `seconds` (reading the page).
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
from pathlib import Path
from typing import IO

import openai

from vllm_dsocr.metrics import character_error_rate

HERE = Path(__file__).parent
READER = HERE / "reader"
PAGE, TRUTH = HERE / "page.png", HERE / "page.txt"
STARTUP_SECONDS = 300


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


def read(base_url: str, page: Path) -> str:
    """The page's text, printed as it arrives."""
    client = openai.OpenAI(base_url=base_url, api_key="none")
    image = base64.b64encode(page.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": "Free OCR."},
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


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave through the clean-up
    truth = TRUTH.read_text(encoding="utf-8").rstrip("\n")
    print(f"starting: vllm serve {READER}")
    begin = time.monotonic()
    with served(READER) as base_url:
        print(f"ready after {time.monotonic() - begin:.0f} s\n\n--- read by the model")
        begin = time.monotonic()
        text = read(base_url, PAGE)
        seconds = time.monotonic() - begin
    cer = character_error_rate(text, truth)
    print(f"\n--- printed on the page\n{truth}\n\ncharacter error rate {cer:.2%}, {seconds:.1f} s")
    print(json.dumps({"cer": round(cer, 5), "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
