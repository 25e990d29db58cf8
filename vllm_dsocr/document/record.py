"""Page <-> JSON values. `docs/document.schema.json` describes them.

Pixel and point boxes are written for readers of the JSON and derived again when it is read. Knows
nothing of files; standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vllm_dsocr.document.blocks import (
    Attempt,
    Block,
    BlockConfidence,
    Box,
    Confidence,
    Page,
    Word,
)
from vllm_dsocr.page.frame import PdfFrame


def page_record(page: Page) -> dict[str, Any]:
    """The page as JSON values, keys always in the same order."""
    confidence = {"confidence": asdict(page.confidence)} if page.confidence else {}
    return {
        "page": page.number,
        "status": page.status,
        "reason": page.reason,
        "width": page.width,
        "height": page.height,
        "size_points": page.size_points,
        "rotation": page.rotation,
        "frame": asdict(page.frame) if page.frame else None,
        "mode": page.mode,
        "num_vision_tokens": page.num_vision_tokens,
        "num_text_tokens": page.num_text_tokens,
        **confidence,
        "attempts": [asdict(attempt) for attempt in page.attempts],
        "blocks": [_block_record(block, page) for block in page.blocks],
        "text": page.text,
    }


def page_from_record(record: Mapping[str, Any]) -> Page:
    """The page a record was made of. Raises KeyError, TypeError or ValueError for other JSON."""
    size_points = record["size_points"]
    return Page(
        number=record["page"],
        status=record["status"],
        width=record["width"],
        height=record["height"],
        size_points=tuple(size_points) if size_points else None,
        text=record["text"],
        blocks=tuple(_block(block) for block in record["blocks"]),
        mode=record["mode"],
        num_vision_tokens=record["num_vision_tokens"],
        num_text_tokens=record["num_text_tokens"],
        attempts=tuple(Attempt(**attempt) for attempt in record["attempts"]),
        reason=record["reason"],
        rotation=record.get("rotation", 0),
        frame=_frame(record.get("frame")),
        confidence=Confidence(**record["confidence"]) if "confidence" in record else None,
    )


def _block_record(block: Block, page: Page) -> dict[str, Any]:
    record: dict[str, Any] = {
        "label": block.label,
        "content": block.content,
        "boxes": [box.corners for box in block.boxes],
        "boxes_px": [box.pixels(page.width, page.height) for box in block.boxes],
    }
    if block.tag is not None:
        record |= {"tag": block.tag, "note": block.note}
    if page.size_points:
        points = (box.points(*page.size_points) for box in block.boxes)
        record["boxes_points"] = [[round(value, 2) for value in box] for box in points]
    if page.frame:
        places = (page.frame.user_space(*box.fractions) for box in block.boxes)
        record["boxes_user_space"] = [[round(value, 2) for value in box] for box in places]
    if block.confidence:
        record["confidence"] = asdict(block.confidence)
    return record


def _frame(record: Mapping[str, Any] | None) -> PdfFrame | None:
    return PdfFrame(tuple(record["crop_box"]), record["rotation"]) if record else None


def _block(record: Mapping[str, Any]) -> Block:
    boxes = tuple(Box(*corners) for corners in record["boxes"])
    about = (record.get("tag"), record.get("note"), _confidence(record.get("confidence")))
    return Block(record["content"], record["label"], boxes, *about)


def _confidence(record: Mapping[str, Any] | None) -> BlockConfidence | None:
    if record is None:
        return None
    words = tuple(Word(**word) for word in record["words"])
    return BlockConfidence(record["mean"], record["minimum"], record["label"], words)
