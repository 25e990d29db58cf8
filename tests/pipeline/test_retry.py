"""The retry ladder: what is tried, what is kept, what is recorded."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from PIL import Image

from tests.fake_engine import FakeEngine
from vllm_dsocr.document.blocks import Page
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request, Token
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.pipeline.retry import ladder, read_page
from vllm_dsocr.pipeline.settings import Effort, ReadSettings

IMAGE = Image.new("RGB", (640, 640))
LOOP = "Some words first. " + "and on and on " * 100
GOOD = Completion("# Fine", "stop", 3)
LOOPED = Completion(LOOP, "length", 400)
CUT = Completion("A long page that never", "length", 8)
EMPTY = Completion(" \n<｜end▁of▁sentence｜>", "stop", 1)


def _read(
    *answers: Completion | Exception,
    settings: ReadSettings | None = None,
    effort: Effort | None = None,
) -> tuple[Page, list[Request]]:
    """The page after these answers, in order; further requests would be an error."""
    left = list(answers)

    def answer(request: Request) -> Completion:
        next_answer = left.pop(0)
        if isinstance(next_answer, Exception):
            raise next_answer
        return next_answer

    settings = settings or ReadSettings("m")
    engine = FakeEngine(answer)
    first = Request(IMAGE, settings.prompt, settings.mode, seed=7)
    page = asyncio.run(
        read_page(engine, first, settings, Page(7, "failed", 640, 640), effort or Effort())
    )
    return page, engine.requests


def test_a_good_page_is_asked_for_once() -> None:
    page, requests = _read(GOOD)
    assert (page.status, page.text, page.number) == ("ok", "# Fine", 7)
    assert [attempt.rung for attempt in page.attempts] == ["first"]
    assert len(requests) == 1


def test_the_answer_that_is_kept_keeps_its_confidence() -> None:
    cut = replace(CUT, tokens=(Token("A long page that never", -1.0),))
    looped = replace(LOOPED, tokens=(Token(LOOP, -2.0),))
    good = replace(GOOD, tokens=(Token("# Fine", -0.25),))
    settings = ReadSettings("m", confidence=True)
    page, _ = _read(looped, cut, settings=settings, effort=Effort(retries=1))
    assert page.text == CUT.text and page.confidence.mean == pytest.approx(math.exp(-1), abs=1e-6)
    page, requests = _read(cut, good, settings=settings)
    assert page.text == "# Fine" and page.confidence.minimum == pytest.approx(
        math.exp(-0.25), abs=1e-6
    )
    assert settings.request(IMAGE, 7).logprobs and not ReadSettings("m").request(IMAGE, 7).logprobs


def test_every_rung_changes_one_thing() -> None:
    page, requests = _read(LOOPED, CUT, LOOPED, LOOPED, GOOD)
    first, guard, mode, temperature, plain = requests
    assert guard.guard is not None and first.guard is None
    assert mode.mode == "base" and first.mode is None
    assert temperature.temperature > 0 == first.temperature
    assert plain.prompt == TASKS["free"]
    assert [attempt.rung for attempt in page.attempts] == [
        "first",
        "guard",
        "mode",
        "temperature",
        "plain",
    ]
    outcomes = [attempt.outcome for attempt in page.attempts]
    assert outcomes == ["repeated", "truncated", "repeated", "repeated", "ok"]
    assert (page.status, page.text) == ("ok", "# Fine")


def test_a_page_that_always_loops_keeps_its_text_up_to_the_loop() -> None:
    page, _ = _read(*[LOOPED] * 5)
    assert page.status == "repeated"
    assert page.text.startswith("Some words first. and on")
    assert len(page.text) < 50


def test_the_engine_may_find_the_loop_itself() -> None:
    page, _ = _read(*[Completion("a a a", "repetition", 3)] * 5)
    assert (page.status, page.text) == ("repeated", "a a a")


def test_cut_off_is_better_than_looped() -> None:
    page, _ = _read(LOOPED, CUT, LOOPED, LOOPED, LOOPED)
    assert (page.status, page.text) == ("truncated", CUT.text)


def test_an_empty_answer_is_asked_for_once_more_and_then_believed() -> None:
    page, _ = _read(EMPTY, EMPTY)
    assert (page.status, page.text.strip(), page.blocks) == ("ok", "", ())
    assert [attempt.rung for attempt in page.attempts] == ["first", "guard"]


def test_no_hot_or_plain_answer_outranks_an_empty_one() -> None:
    page, requests = _read(EMPTY, LOOPED, LOOPED)
    assert [attempt.rung for attempt in page.attempts] == ["first", "guard", "mode"]
    assert all(request.temperature == 0 for request in requests)
    assert {request.prompt for request in requests} == {TASKS["markdown"]}


def test_what_looped_upright_is_turned_until_it_reads() -> None:
    effort = Effort(retries=0, auto_rotate=True)
    page, requests = _read(LOOPED, EMPTY, GOOD, effort=effort)
    assert (page.status, page.text, page.rotation) == ("ok", "# Fine", 270)
    assert [attempt.rung for attempt in page.attempts] == ["first", "rotate-90", "rotate-270"]
    assert len(requests) == 3


def test_all_tries_together_have_one_bound() -> None:
    class Hung(FakeEngine):
        async def complete(self, request: Request) -> Completion:
            if self.requests:
                await asyncio.sleep(60)
            return await super().complete(request)

    settings, effort = ReadSettings("m"), Effort(timeout=0.2)
    first = Request(IMAGE, settings.prompt)
    page = asyncio.run(
        read_page(Hung(lambda _: CUT), first, settings, Page(1, "failed", 640, 640), effort)
    )
    assert (page.status, page.text) == ("truncated", CUT.text)
    assert page.attempts[-1].outcome == "no answer within 0.2 s"


def test_a_long_row_of_dots_at_the_end_is_no_loop() -> None:
    page, _ = _read(Completion("Chapter one " + "." * 300, "stop", 90))
    assert page.status == "ok"


def test_a_refused_page_has_failed_and_says_why() -> None:
    page, _ = _read(EngineError("the prompt is too long"))
    assert (page.status, page.reason) == ("failed", "the prompt is too long")


def test_a_rung_that_is_refused_is_passed_over() -> None:
    page, _ = _read(LOOPED, EngineError("no xargs here"), GOOD)
    assert page.status == "ok"
    assert [attempt.outcome for attempt in page.attempts] == ["repeated", "no xargs here", "ok"]


def test_a_lost_engine_is_not_the_pages_fault() -> None:
    with pytest.raises(EngineLost):
        _read(EngineLost("gone"))


def test_fewer_retries_when_asked_for() -> None:
    page, _ = _read(CUT, effort=Effort(retries=0))
    assert (page.status, len(page.attempts)) == ("truncated", 1)


@pytest.mark.parametrize(
    ("task", "has_plain"), [("ocr", True), ("free", False), ("locate a stamp", False)]
)
def test_the_plain_prompt_only_stands_in_for_layout(task: str, has_plain: bool) -> None:
    settings = ReadSettings("m", task)
    rungs = [rung for rung, _ in ladder(Request(IMAGE, settings.prompt), settings)]
    assert ("plain" in rungs) == has_plain


def _mode_after(mode: str | None, completion: Completion) -> str | None:
    return _read(completion, settings=ReadSettings("m", mode=mode))[0].mode


def test_the_mode_is_told_from_the_number_of_tokens() -> None:
    assert _mode_after("tiny", GOOD) == "tiny"
    assert _mode_after(None, Completion("x", "stop", 1, num_vision_tokens=111)) == "small"
    assert _mode_after(None, Completion("x", "stop", 1, num_vision_tokens=112)) is None
    assert _mode_after(None, GOOD) is None
