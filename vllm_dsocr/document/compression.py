"""Pages -> how many text tokens each vision token carried, as the official `infer()` reports it.

Knows nothing of how pages are read; standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vllm_dsocr.config import MODES
from vllm_dsocr.document.blocks import Page
from vllm_dsocr.page.geometry import TilePlan, grid_side, plan_tiles


@dataclass(frozen=True, slots=True)
class Compression:
    """One page's counts. valid: vision tokens that show page, not border, newline or separator."""

    page: int
    num_vision_tokens: int
    num_valid_vision_tokens: int
    num_text_tokens: int

    @property
    def ratio(self) -> float:
        """Text tokens for each valid vision token."""
        return self.num_text_tokens / max(self.num_valid_vision_tokens, 1)


def page_compression(page: Page) -> Compression | None:
    """Counts of a page, None when it was not read or its mode is not known."""
    if page.mode not in MODES or not page.width:
        return None
    plan = plan_tiles(page.width, page.height, MODES[page.mode])
    valid = num_valid_vision_tokens(plan)
    return Compression(page.number, plan.num_image_tokens, valid, page.num_text_tokens)


def num_valid_vision_tokens(plan: TilePlan) -> int:
    """Tokens of all tiles and of the global view less its border, as the official code counts."""
    _, _, width, height = plan.global_box
    squeezed = (width, height) == (plan.resolution.base_size,) * 2
    long, short = max(plan.size), min(plan.size)
    covered = 1.0 if squeezed else 1 - (long - short) / long
    tokens = int(grid_side(plan.resolution.base_size) ** 2 * covered)
    return tokens + plan.num_tiles * grid_side(plan.resolution.image_size) ** 2


def compression_table(pages: Iterable[Page]) -> Iterator[str]:
    """Lines of a table for people: one per page with known counts, then the sum."""
    yield f"{'page':>6} {'vision':>7} {'valid':>7} {'text':>7} {'text/valid':>10}"
    total = Compression(0, 0, 0, 0)
    for page in pages:
        if (row := page_compression(page)) is not None:
            yield f"{row.page:>6} {_counts(row)}"
            total = _sum(total, row)
    yield f"{'all':>6} {_counts(total)}"


def _counts(row: Compression) -> str:
    return (
        f"{row.num_vision_tokens:>7} {row.num_valid_vision_tokens:>7} "
        f"{row.num_text_tokens:>7} {row.ratio:>10.2f}"
    )


def _sum(a: Compression, b: Compression) -> Compression:
    return Compression(
        0,
        a.num_vision_tokens + b.num_vision_tokens,
        a.num_valid_vision_tokens + b.num_valid_vision_tokens,
        a.num_text_tokens + b.num_text_tokens,
    )
