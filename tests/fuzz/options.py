"""Page options of any value: honoured, or one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from tests.fuzz.values import text, value
from vllm_dsocr.config import PAGE_OPTIONS, OptionError, PageOptions
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.page.source import PageError


@contextmanager
def options() -> Iterator[Callable[[Random], None]]:
    yield check


def check(rng: Random) -> None:
    names = rng.sample([*PAGE_OPTIONS, text(rng)], rng.randrange(1, 4))
    try:
        chosen = PageOptions().override({name: value(rng) for name in names})
        plan = plan_tiles(rng.randrange(1, 20000), rng.randrange(1, 20000), chosen.resolution)
        assert PageOptions().override(chosen.to_dict()) == chosen
        assert plan.num_image_tokens > 0
    except OptionError as error:
        assert str(error)
    try:
        PageRanges.parse(text(rng, 12))
    except (PageError, ValueError) as error:
        assert str(error)
