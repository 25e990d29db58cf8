"""Answers and truths -> figures: errors in the text, boxes, labels, tables, order, form.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from vllm_dsocr.document.blocks import Block
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.evaluation.tables.form import mean_teds, tables_of
from vllm_dsocr.metrics import box_iou, edit_distance, normalised_distance

from .grammar import problem

SAME_BLOCK = 0.5  # edits per character beyond which two texts are not the same block's


@dataclass(frozen=True, slots=True)
class LayoutScore:
    """One page's Markdown against the truth.

    overlaps: of every true box with the best box said. labels: whether the block said there has the
    right label. in_order: whether the blocks found are said in the order of the truth. teds: mean
    over the page's tables, None without any.
    """

    edits: int
    characters: int
    overlaps: list[float]
    labels: list[bool]
    in_order: bool
    teds: float | None
    valid: bool


def score_layout(text: str, truth: str) -> LayoutScore:
    """Boxes of the truth are matched with the box said that overlaps most, each used once."""
    said, true = parse_blocks(text), parse_blocks(truth)
    found = _match(said, true)
    order = [found[i] for i in sorted(found)]
    everything = len(found) == len(true) == len(said)
    return LayoutScore(
        edits=edit_distance(text, truth),
        characters=len(truth),
        overlaps=[_overlap(said, found.get(i), block) for i, block in enumerate(true)],
        labels=[i in found and said[found[i]].label == b.label for i, b in enumerate(true)],
        in_order=everything and order == sorted(order),
        teds=mean_teds(tables_of(text)[0], tables_of(truth)[0]),
        valid=problem("markdown", text) is None,
    )


def _overlap(said: tuple[Block, ...], index: int | None, block: Block) -> float:
    if index is None or not said[index].boxes:
        return 0.0
    return box_iou(said[index].boxes[0].corners, block.boxes[0].corners)


def _match(said: tuple[Block, ...], true: tuple[Block, ...]) -> dict[int, int]:
    """Index in `true` -> index in `said`; best overlap first, then the likest text."""
    pairs = []
    for i, block in enumerate(true):
        for j, other in enumerate(said):
            overlap = _overlap(said, j, block)
            near = normalised_distance(other.content.strip(), block.content.strip())
            if overlap > 0.1 or (block.content.strip() and near < SAME_BLOCK):
                pairs.append((-overlap, near, i, j))
    found: dict[int, int] = {}
    for _, _, i, j in sorted(pairs):
        if i not in found and j not in found.values():
            found[i] = j
    return found


def layout_summary(scores: Iterable[LayoutScore]) -> dict[str, float | int]:
    """Rates over all pages, boxes and tables."""
    scores = list(scores)
    boxes = [overlap for score in scores for overlap in score.overlaps]
    labels = [right for score in scores for right in score.labels]
    tables = [score.teds for score in scores if score.teds is not None]
    figures = {
        "markup_cer": sum(s.edits for s in scores) / sum(s.characters for s in scores),
        "iou": fmean(boxes),
        "iou_above_half": fmean(overlap > 0.5 for overlap in boxes),
        "labels": fmean(labels),
        "in_order": fmean(score.in_order for score in scores),
        "valid": fmean(score.valid for score in scores),
        "teds": fmean(tables) if tables else 0.0,
    }
    return {**{name: round(value, 4) for name, value in figures.items()}, "boxes": len(boxes)}
