"""Blocks that were read and blocks of the truth -> which belong together.

After OmniDocBench's `quick_match`: what optional blocks of the truth match is taken out; pieces of
one block that a reader separated are put together; the closest pairs are found; blocks that were
joined are found within what was read; what is left over is paired last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from vllm_dsocr.evaluation.assignment import closest_pairs
from vllm_dsocr.evaluation.omni_blocks import Block
from vllm_dsocr.metrics import edit_distance, normalised_distance

SAME = 0.25  # edits per character up to which two blocks are the same without a doubt
DIFFERENT = 0.7  # and beyond which they are two
PIECE = 0.6  # of a piece against the part of the truth most like it
CONTAINED = 0.4


@dataclass(frozen=True, slots=True)
class Match:
    """Blocks of the truth and what was read of them, in their order; either may be empty."""

    truth: tuple[Block, ...]
    read: tuple[Block, ...]

    @property
    def keys(self) -> tuple[str, str]:
        """What was read and the truth, as they are compared."""
        read, truth = ("".join(block.key for block in side) for side in (self.read, self.truth))
        return read, truth


def match_blocks(read: Sequence[Block], truth: Sequence[Block]) -> list[Match]:
    """Each block of the truth that must be read, in one match; what is left over, in none."""
    wanted = [block for block in truth if not block.is_optional]
    if len(read) == len(truth) == len(wanted) == 1:
        return [Match(tuple(truth), tuple(read))]
    optional = [block for block in truth if block.is_optional]
    read = [block for block in read if not any(_distance(block, o) < SAME for o in optional)]
    return _matches(_joined(read, wanted), wanted)


def order_distance(matches: Sequence[Match]) -> float | None:
    """Edits per place that put what was read into the order of the truth, 0 to 1.

    What nobody read is missing there, so an empty text has 1. None without places in the truth.
    """
    truth = sorted(place for match in matches for place in _places(match.truth))
    found = sorted((match for match in matches if match.read), key=lambda m: m.read[0].places)
    read = [place for match in found for place in _places(match.truth)]
    return normalised_distance(read, truth) if truth else None


def _places(blocks: Sequence[Block]) -> list[float]:
    return [place for block in blocks for place in block.places]


def _matches(read: list[tuple[Block, ...]], truth: list[Block]) -> list[Match]:
    keys = [_key(blocks) for blocks in read]
    costs = [[normalised_distance(key, block.key) for block in truth] for key in keys]
    found: dict[int, list[int]] = defaultdict(list)  # of `read` -> of `truth`
    for i, j in closest_pairs(costs, DIFFERENT):
        found[i].append(j)
    left = sorted(set(range(len(truth))) - {j for js in found.values() for j in js})
    for j in left:
        holder = next((i for i, group in enumerate(read) if _holds(group, truth[j])), None)
        if holder is not None:
            found[holder].append(j)
    left = [j for j in left if not any(j in js for js in found.values())]
    free = [i for i in range(len(read)) if i not in found]
    for row, column in closest_pairs([[costs[i][j] for j in left] for i in free]):
        found[free[row]].append(left[column])
    matched = {j for js in found.values() for j in js}
    matches = [Match(tuple(truth[j] for j in sorted(js)), read[i]) for i, js in found.items()]
    return matches + [Match((truth[j],), ()) for j in left if j not in matched]


def _holds(read: tuple[Block, ...], truth: Block) -> bool:
    """Whether a reader joined this block with another; one that was put together is whole."""
    return len(read) == 1 and _part_distance(truth, read[0]) < CONTAINED


def _joined(read: Sequence[Block], truth: Sequence[Block]) -> list[tuple[Block, ...]]:
    """The blocks that were read, neighbours put together where they are pieces of one block."""
    near = [[_distance(block, other) < SAME for other in truth] for block in read]
    settled = [any(row) for row in near]
    runs: list[tuple[float, int, int]] = []
    for j, block in enumerate(truth):
        if not any(row[j] for row in near):
            starts = [i for i, done in enumerate(settled) if not done]
            candidates = [_run(read, settled, i, block) for i in starts]
            runs += sorted(candidates)[:1]
    return _grouped(read, _without_overlap(runs))


def _run(
    read: Sequence[Block], settled: list[bool], start: int, truth: Block
) -> tuple[float, int, int]:
    """(distance, start, end) of the blocks from `start` that are pieces of `truth`."""
    key, end = read[start].key, start + 1
    distance = normalised_distance(key, truth.key)
    while end < len(read) and not settled[end] and len(key) <= len(truth.key):
        longer = key + read[end].key
        further = normalised_distance(longer, truth.key)
        pieces = (read[end - 1], read[end])
        if further > distance or not all(_is_piece(piece, truth) for piece in pieces):
            break
        key, distance, end = longer, further, end + 1
    return distance, start, end


def _is_piece(piece: Block, truth: Block) -> bool:
    fits = len(piece.key) <= len(truth.key)
    return fits and 1 - fuzz.partial_ratio(piece.key, truth.key) / 100 < PIECE


def _without_overlap(runs: list[tuple[float, int, int]]) -> list[tuple[int, int]]:
    """The closest runs, none of which shares a block with another."""
    kept: list[tuple[int, int]] = []
    for _, start, end in sorted(runs):
        if all(end <= a or b <= start for a, b in kept):
            kept.append((start, end))
    return kept


def _grouped(read: Sequence[Block], runs: list[tuple[int, int]]) -> list[tuple[Block, ...]]:
    ends = dict(runs)
    groups, i = [], 0
    while i < len(read):
        end = ends.get(i, i + 1)
        groups.append(tuple(read[i:end]))
        i = end
    return groups


def _part_distance(part: Block, whole: Block) -> float:
    """Edits per character of a part against the piece of the whole most like it; 1 if longer."""
    if not part.key or len(part.key) > len(whole.key):
        return 1.0
    place = fuzz.partial_ratio_alignment(part.key, whole.key)
    if place is None:
        return 1.0
    return edit_distance(part.key, whole.key[place.dest_start : place.dest_end]) / len(part.key)


def _distance(a: Block, b: Block) -> float:
    return normalised_distance(a.key, b.key)


def _key(blocks: Sequence[Block]) -> str:
    return "".join(block.key for block in blocks)
