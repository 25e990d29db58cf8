"""The OCR service over an engine without a model: what the service itself can do, and costs.

    python -m benchmarks.stub_service PORT SECONDS DATA

The engine takes so many seconds for each page, 64 at a time, and answers with the digest of its
pixels, so that a page that is another's, or drawn otherwise, is known. `benchmarks.service
--without-model` starts it.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import uvicorn
from PIL import Image

from vllm_dsocr.engine import Completion, Request
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.settings import Settings


def digest(image: Image.Image) -> str:
    """What the engine reads on a page."""
    return hashlib.sha256(image.tobytes()).hexdigest()


class DigestEngine:
    """Takes its time, and no processor."""

    model = "digest"
    max_in_flight = 64

    def __init__(self, seconds: float) -> None:
        self.versions: dict[str, str] = {}
        self._seconds = seconds

    async def __aenter__(self) -> DigestEngine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    async def complete(self, request: Request) -> Completion:
        await asyncio.sleep(self._seconds)
        text = await asyncio.to_thread(digest, request.image)
        return Completion(text, "stop", 20)


def main() -> None:
    port, seconds, data = sys.argv[1:]
    app = create_app(DigestEngine(float(seconds)), Settings.from_environment(data=Path(data)))
    uvicorn.run(app, port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
