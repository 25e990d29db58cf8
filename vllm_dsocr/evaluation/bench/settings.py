"""The settings of the published evaluation, and what its script does to an answer.

Source: run_dpsk_ocr_eval_batch.py of DeepSeek-OCR, and the paper (arXiv 2510.18234) for Fox.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_dsocr.config import EOS_TOKEN
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.repetition import NGramRule

_NUMBERED = re.compile(r"\\quad\s*\([^)]*\)")
_DISPLAYED = re.compile(r"\\\[(.*?)\\\]", re.DOTALL)
_MARK = re.compile(r"<\|ref\|>.*?<\|/ref\|><\|det\|>.*?<\|/det\|>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How every page of a benchmark is read. dpi: of pages of PDFs."""

    prompt: str = TASKS["markdown"]
    mode: str = "gundam"
    max_tokens: int = 8192
    guard: NGramRule = NGramRule(size=40, window=90)
    dpi: float = 144.0


OFFICIAL = {
    "olmocr-bench": BenchSettings(),
    "omnidocbench": BenchSettings(),
    "fox": BenchSettings(prompt=TASKS["free"], mode="small"),
}


def cleaned(answer: str) -> str:
    """The text that is scored: without marks of boxes, numbers of formulas and centring."""
    text = _DISPLAYED.sub(_without_number, answer.replace(EOS_TOKEN, ""))
    text = _MARK.sub("", text).replace("<center>", "").replace("</center>", "")
    return re.sub(r"\n{3,}", "\n\n", text)


def _without_number(match: re.Match[str]) -> str:
    return f"\\[{_NUMBERED.sub('', match[1]).strip()}\\]"
