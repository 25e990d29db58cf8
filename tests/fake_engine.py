"""An engine without a model: what it answers depends on the request alone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace

from vllm_dsocr.engine import Completion, Request

Answer = Callable[[Request], Completion]


def grounded(request: Request) -> Completion:
    """A page with a title that names its pixels and a figure in its upper left quarter."""
    digest = hashlib.sha256(request.image.tobytes()).hexdigest()[:12]
    text = (
        f"<|ref|>title<|/ref|><|det|>[[10, 10, 900, 90]]<|/det|>\n# Page {digest}\n\n"
        "<|ref|>image<|/ref|><|det|>[[0, 0, 499, 499]]<|/det|>\n"
    )
    return Completion(text, "stop", 20, 111)


class FakeEngine:
    """Answers with `answer`; `requests` are those it got, without their images.

    An exception that `answer` raises is what the engine raises.
    """

    def __init__(self, answer: Answer = grounded, max_in_flight: int = 3) -> None:
        self.model = "fake"
        self.versions = {"fake": "1"}
        self.max_in_flight = max_in_flight
        self.requests: list[Request] = []
        self.most_at_a_time = 0
        self.times_entered = 0
        self._answer = answer
        self._running = 0

    async def __aenter__(self) -> FakeEngine:
        self.times_entered += 1
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._running = 0

    async def complete(self, request: Request) -> Completion:
        self.requests.append(replace(request, image=None))
        self._running += 1
        self.most_at_a_time = max(self.most_at_a_time, self._running)
        try:
            await asyncio.sleep(0.01)
            return self._answer(request)
        finally:
            self._running -= 1
