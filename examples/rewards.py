"""Reward functions for TRL's GRPOTrainer, made of this package's scores.

    GRPOTrainer(model, reward_funcs=[text_reward, layout_reward, end_reward], ...)

Each takes the completions and the data set's columns as TRL passes them, here `answer`, the truth,
and gives a number from 0 to 1 for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_dsocr.config import DET_OPEN
from vllm_dsocr.hf.training.check import well_formed_tags
from vllm_dsocr.metrics import normalised_distance

Completion = str | list[dict[str, str]]


def text_reward(
    completions: Sequence[Completion], answer: Sequence[str], **columns: Any
) -> list[float]:
    """1 for the truth, 0 for a text that has nothing of it."""
    pairs = zip(map(said, completions), answer, strict=True)
    return [1 - normalised_distance(text, truth) for text, truth in pairs]


def layout_reward(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """The share of well-formed grounding tags; 1 where there are none."""
    shares = []
    for text in map(said, completions):
        tags = text.count(DET_OPEN)
        shares.append(well_formed_tags(text) / tags if tags else 1.0)
    return shares


def end_reward(
    completions: Sequence[Completion], answer: Sequence[str], **columns: Any
) -> list[float]:
    """1 up to the length of the truth, falling to 0 at twice that: what goes round in circles."""
    pairs = zip(map(said, completions), answer, strict=True)
    return [min(1.0, max(0.0, 2 - len(text) / max(1, len(truth)))) for text, truth in pairs]


def said(completion: Completion) -> str:
    """The text of a completion, which TRL gives as a text or as messages."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
