"""One page image -> one Page: other settings are tried when the model loops, stops short, is mute.

Knows nothing of files; the host is any `Engine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from vllm_dsocr.config import MODES
from vllm_dsocr.document.blocks import Attempt, Page
from vllm_dsocr.document.confidence import with_confidence
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.loops import MIN_LOOP_CHARS, loop_start
from vllm_dsocr.engine import Completion, Engine, EngineError, Request, clean_text
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.prompt import task_prompt
from vllm_dsocr.pipeline.settings import DEFAULT_EFFORT, Effort, ReadSettings
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
_ROTATIONS = (
    90,
    270,
    180,
)  # degrees clockwise; sheets lie on their side more often than upside down
RUNGS = ("first", "guard", "mode", "temperature", "plain")  # of `ladder`; turned pages have more
# What says little about a page that got an empty answer: it may well be empty.
_WEAK_RUNGS = ("temperature", "plain")
# A page may well end in a row of dots; when the model stopped by itself a loop must be long.
_STOPPED_LOOP_CHARS = 5 * MIN_LOOP_CHARS

Outcome = Literal["ok", "truncated", "repeated", "empty"]
_WORTH: dict[Outcome, int] = {"ok": 3, "truncated": 2, "repeated": 1, "empty": 0}
BLANK = Attempt("pixels", "blank")


@dataclass(frozen=True, slots=True)
class Reading:
    """A completion judged: its text up to the loop, if it has one."""

    request: Request
    completion: Completion
    text: str
    outcome: Outcome
    rotation: int = 0

    @property
    def worth(self) -> tuple[int, int]:
        """Orders readings of one page: first by outcome, then by how much was read."""
        return _WORTH[self.outcome], len(self.text)


@dataclass(slots=True)
class _Tries:
    """What was tried at a page so far, and what came of it."""

    attempts: list[Attempt] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    @property
    def best(self) -> Reading:
        return max(self.readings, key=lambda reading: reading.worth)

    @property
    def num_empty(self) -> int:
        return sum(reading.outcome == "empty" for reading in self.readings)

    @property
    def is_done(self) -> bool:
        return bool(self.readings) and self.best.outcome == "ok"


def judge(request: Request, completion: Completion, rotation: int = 0) -> Reading:
    """What a completion is worth."""
    text = clean_text(completion.text)
    stopped = completion.finish == "stop"
    loop = loop_start(text, _STOPPED_LOOP_CHARS if stopped else MIN_LOOP_CHARS)
    if loop is not None or completion.finish == "repetition":
        return Reading(request, completion, text[:loop], "repeated", rotation)
    if not stopped:
        return Reading(request, completion, text, "truncated", rotation)
    return Reading(request, completion, text, "ok" if text.strip() else "empty", rotation)


def ladder(first: Request, settings: ReadSettings) -> Iterator[tuple[str, Request]]:
    """The requests to try in order, each with the name of its rung."""
    yield "first", first
    yield "guard", replace(first, guard=_STRICT_GUARD)
    if settings.mode is None or settings.mode in _OTHER_MODE:
        yield "mode", replace(first, mode=_OTHER_MODE.get(settings.mode or "", "base"))
    yield "temperature", replace(first, temperature=_TEMPERATURE)
    if settings.task_name in _LAYOUT_TASKS:
        yield "plain", replace(first, prompt=task_prompt(_PLAIN_TASK))


async def read_page(
    engine: Engine,
    first: Request,
    settings: ReadSettings,
    page: Page,
    effort: Effort = DEFAULT_EFFORT,
) -> Page:
    """`page` (number and sizes) with the best of what the model read within the time there is.

    A page whose first request is refused has failed: no other rung is asked. A rung that is
    refused later is recorded and passed over. Raises EngineLost.
    """
    tries = _Tries()
    try:
        async with asyncio.timeout(effort.timeout):
            await _climb(engine, first, settings, effort.retries, tries)
            if effort.auto_rotate and tries.readings:
                await _turn(engine, first, tries)
    except TimeoutError:
        tries.attempts.append(Attempt("timeout", f"no answer within {effort.timeout:g} s"))
    page = replace(page, attempts=tuple(tries.attempts))
    if not tries.readings:
        return replace(page, status="failed", reason=tries.attempts[0].outcome)
    return _filled(page, tries.best)


async def _climb(
    engine: Engine, first: Request, settings: ReadSettings, retries: int, tries: _Tries
) -> None:
    """The ladder. An empty answer is asked for once more, and only as the model was trained."""
    for rung, request in islice(ladder(first, settings), retries + 1):
        if tries.num_empty and rung in _WEAK_RUNGS:
            return
        await _try(engine, rung, request, tries)
        if not tries.readings or tries.is_done or tries.num_empty > 1:
            return


async def _turn(engine: Engine, first: Request, tries: _Tries) -> None:
    """The page on its sides and upside down, where upright it is empty or loops."""
    for degrees in _ROTATIONS:
        if tries.best.outcome in ("ok", "truncated"):
            return
        turned = replace(first, image=first.image.rotate(-degrees, expand=True))
        await _try(engine, f"rotate-{degrees}", turned, tries, degrees)


async def _try(
    engine: Engine, rung: str, request: Request, tries: _Tries, rotation: int = 0
) -> None:
    try:
        completion = await engine.complete(request)
    except EngineError as error:
        tries.attempts.append(Attempt(rung, " ".join(str(error).split())))
        return
    reading = judge(request, completion, rotation)
    tries.attempts.append(Attempt(rung, reading.outcome, completion.num_text_tokens))
    tries.readings.append(reading)


def failed_page(page: Page, error: Exception) -> Page:
    """The page that stands for one that could not be turned into an image."""
    return replace(page, status="failed", reason=" ".join(str(error).split()))


def blank_page(page: Page) -> Page:
    """The page that stands for one without a mark on it."""
    return replace(page, status="ok", attempts=(BLANK,))


def better(new: Page, known: Page | None) -> Page:
    """The page to keep where one was there already: of two that are not ok, the one that says more.

    A page that was read is never lost to a failure.
    """
    if known is None or new.status == "ok" or not known.text:
        return new
    worth = {"truncated": 2, "repeated": 1}
    if new.status == "failed" or known.status == "ok":
        return known if new.status == "failed" else new
    news, olds = ((worth.get(p.status, 0), len(p.text)) for p in (new, known))
    return known if olds > news else new


def _filled(page: Page, reading: Reading) -> Page:
    """An empty page that the model ended by itself is a blank page: ok."""
    image, completion = reading.request.image, reading.completion
    points, frame = page.size_points, page.frame
    if points and reading.rotation in (90, 270):
        points = points[::-1]
    if frame:
        frame = replace(frame, rotation=(frame.rotation + reading.rotation) % 360)
    filled = replace(
        page,
        status="ok" if reading.outcome == "empty" else reading.outcome,
        width=image.width,
        height=image.height,
        size_points=points,
        frame=frame,
        rotation=reading.rotation,
        text=reading.text,
        blocks=parse_blocks(reading.text),
        mode=reading.request.mode or _mode_of(image.size, completion.num_vision_tokens),
        num_vision_tokens=completion.num_vision_tokens or _vision_tokens(reading.request),
        num_text_tokens=completion.num_text_tokens,
    )
    return with_confidence(filled, completion.tokens) if completion.tokens else filled


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
