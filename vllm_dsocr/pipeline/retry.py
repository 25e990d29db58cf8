"""One page image -> one Page: other settings are tried when the model loops, stops short, is mute.

Knows nothing of files; the host is any `Engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from vllm_dsocr.config import MODES
from vllm_dsocr.document.blocks import Attempt, Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.loops import MIN_LOOP_CHARS, loop_start
from vllm_dsocr.engine import Completion, Engine, EngineError, Request, clean_text
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.prompt import task_prompt
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.repetition import NGramRule

_STRICT_GUARD = NGramRule(size=20, window=1024)
_OTHER_MODE = {
    "tiny": "small",
    "small": "base",
    "base": "large",
    "large": "gundam",
    "gundam": "base",
    "gundam-m": "large",
}
_TEMPERATURE = 0.2
_PLAIN_TASK, _LAYOUT_TASKS = "free", ("markdown", "ocr")
# A page may well end in a row of dots; when the model stopped by itself a loop must be long.
_STOPPED_LOOP_CHARS = 5 * MIN_LOOP_CHARS

Outcome = Literal["ok", "truncated", "repeated", "empty"]
_WORTH: dict[Outcome, int] = {"ok": 3, "truncated": 2, "repeated": 1, "empty": 0}


@dataclass(frozen=True, slots=True)
class Reading:
    """A completion judged: its text up to the loop, if it has one."""

    request: Request
    completion: Completion
    text: str
    outcome: Outcome

    @property
    def worth(self) -> tuple[int, int]:
        """Orders readings of one page: first by outcome, then by how much was read."""
        return _WORTH[self.outcome], len(self.text)


def judge(request: Request, completion: Completion) -> Reading:
    """What a completion is worth."""
    text = clean_text(completion.text)
    stopped = completion.finish == "stop"
    loop = loop_start(text, _STOPPED_LOOP_CHARS if stopped else MIN_LOOP_CHARS)
    if loop is not None or completion.finish == "repetition":
        return Reading(request, completion, text[:loop], "repeated")
    if not stopped:
        return Reading(request, completion, text, "truncated")
    return Reading(request, completion, text, "ok" if text.strip() else "empty")


def ladder(first: Request, settings: ReadSettings) -> Iterator[tuple[str, Request]]:
    """The requests to try in order, each with the name of its rung."""
    yield "first", first
    yield "guard", replace(first, guard=_STRICT_GUARD)
    if settings.mode is None or settings.mode in _OTHER_MODE:
        yield "mode", replace(first, mode=_OTHER_MODE.get(settings.mode or "", "base"))
    yield "temperature", replace(first, temperature=_TEMPERATURE)
    if settings.task_name in _LAYOUT_TASKS:
        yield "plain", replace(first, prompt=task_prompt(_PLAIN_TASK))


async def read_page(engine: Engine, first: Request, settings: ReadSettings, page: Page) -> Page:
    """`page` (number and sizes) with the best of what the model read.

    A page whose first request is refused has failed: no other rung is asked. A rung that is
    refused later is recorded and passed over. Raises EngineLost.
    """
    attempts: list[Attempt] = []
    readings: list[Reading] = []
    for rung, request in islice(ladder(first, settings), settings.retries + 1):
        attempt, reading = await _try(engine, rung, request)
        attempts.append(attempt)
        if reading is not None:
            readings.append(reading)
        if not readings or attempt.outcome == "ok":
            break
    page = replace(page, attempts=tuple(attempts))
    if not readings:
        return replace(page, status="failed", reason=attempts[0].outcome)
    return _filled(page, max(readings, key=lambda reading: reading.worth))


async def _try(engine: Engine, rung: str, request: Request) -> tuple[Attempt, Reading | None]:
    try:
        reading = judge(request, await engine.complete(request))
    except EngineError as error:
        return Attempt(rung, str(error)), None
    return Attempt(rung, reading.outcome, reading.completion.num_text_tokens), reading


def failed_page(page: Page, error: PageError) -> Page:
    """The page that stands for one that could not be turned into an image."""
    return replace(page, status="failed", reason=" ".join(str(error).split()))


def _filled(page: Page, reading: Reading) -> Page:
    """An empty page that the model ended by itself is a blank page: ok."""
    image, completion = reading.request.image, reading.completion
    return replace(
        page,
        status="ok" if reading.outcome == "empty" else reading.outcome,
        text=reading.text,
        blocks=parse_blocks(reading.text),
        mode=reading.request.mode or _mode_of(image.size, completion.num_vision_tokens),
        num_vision_tokens=completion.num_vision_tokens or _vision_tokens(reading.request),
        num_text_tokens=completion.num_text_tokens,
    )


def _vision_tokens(request: Request) -> int | None:
    if request.mode is None:
        return None
    return plan_tiles(*request.image.size, MODES[request.mode]).num_image_tokens


def _mode_of(size: tuple[int, int], num_vision_tokens: int | None) -> str | None:
    """The first preset that gives a page of that size so many tokens."""
    for name, resolution in MODES.items():
        if plan_tiles(*size, resolution).num_image_tokens == num_vision_tokens:
            return name
    return None
