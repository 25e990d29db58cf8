"""Rows of token ids -> one batch, as `padding`, `truncation` and `return_tensors` ask for.

The words are those of transformers' tokenizers. Knows nothing of prompts or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from vllm_dsocr.config import OptionError
from vllm_dsocr.page.prompt import PromptError

PADDINGS: dict[Any, str] = {True: "longest", False: "do_not_pad", None: "do_not_pad"}
TRUNCATIONS = (True, False, None, "longest_first", "only_first", "do_not_truncate")
SIDES = ("left", "right")
TENSORS = (None, "pt", "np")


@dataclass(frozen=True, slots=True)
class PaddingSettings:
    """padding: 'longest' (True), 'max_length' or 'do_not_pad' (False).

    Raises OptionError naming the one that cannot be.
    """

    padding: bool | str | None = True
    truncation: bool | str | None = False
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = "left"
    return_tensors: str | None = "pt"

    def __post_init__(self) -> None:
        chosen = PADDINGS.get(self.padding, self.padding)
        _one_of("padding", chosen, ("longest", "max_length", "do_not_pad"))
        _one_of("truncation", self.truncation, TRUNCATIONS)
        _one_of("padding_side", self.padding_side or "left", SIDES)
        _one_of(
            "return_tensors", getattr(self.return_tensors, "value", self.return_tensors), TENSORS
        )
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) < 1):
                raise OptionError(f"{name} must be at least 1, got {value!r}")
        if chosen == "max_length" and self.max_length is None:
            raise OptionError("padding='max_length' needs a max_length")
        object.__setattr__(self, "padding", chosen)

    @property
    def truncates(self) -> bool:
        return self.truncation not in (False, None, "do_not_truncate")

    @classmethod
    def take(cls, options: dict[str, Any], longest: int) -> PaddingSettings:
        """Takes these settings out of `options`; `longest` is where truncation cuts by default."""
        own = {f.name: options.pop(f.name) for f in fields(cls) if f.name in options}
        needs_length = own.get("truncation") or own.get("padding") == "max_length"
        if needs_length and own.get("max_length") is None:
            own["max_length"] = longest
        return cls(**own)


def _one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")


def shortened(row: list[int], settings: PaddingSettings, image_token_id: int) -> list[int]:
    """The row cut to max_length at its end. Raises PromptError where an image would be cut."""
    most = settings.max_length
    if not settings.truncates or most is None or len(row) <= most:
        return row
    if image_token_id in row[most:]:
        raise PromptError(
            f"the prompt has {len(row)} tokens and max_length {most} "
            "would cut an image; choose a smaller mode or a greater length"
        )
    return row[:most]


def as_batch(
    rows: Sequence[list[int]], settings: PaddingSettings, pad_id: int, image_token_id: int
) -> dict[str, Any]:
    """input_ids, attention_mask (B, S) and images_seq_mask (B, S) bool, or lists of those rows.

    Raises PromptError for rows of several lengths that are to be a tensor without padding.
    """
    lengths = [_padded_length(row, rows, settings) for row in rows]
    kinds: dict[str, tuple[list[list[Any]], Any]] = {
        "input_ids": (list(rows), pad_id),
        "attention_mask": ([[1] * len(row) for row in rows], 0),
        "images_seq_mask": ([[token == image_token_id for token in row] for row in rows], False),
    }
    batch = {
        name: [_filled(row, n, value, settings) for row, n in zip(values, lengths, strict=True)]
        for name, (values, value) in kinds.items()
    }
    if settings.return_tensors is None:
        return batch
    if len(set(lengths)) > 1:
        raise PromptError("prompts of several lengths need padding=True to become one tensor")
    make = np.array if settings.return_tensors == "np" else torch.tensor
    return {name: make(values) for name, values in batch.items()}


def _padded_length(row: list[int], rows: Sequence[list[int]], settings: PaddingSettings) -> int:
    if settings.padding == "do_not_pad":
        return len(row)
    longest = settings.padding == "longest"
    length = max(map(len, rows)) if longest else max(len(row), settings.max_length or 0)
    return length + -length % (settings.pad_to_multiple_of or 1)


def _filled(row: list[Any], length: int, value: Any, settings: PaddingSettings) -> list[Any]:
    filler = [value] * (length - len(row))
    return row + filler if settings.padding_side == "right" else filler + row
