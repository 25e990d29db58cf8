"""A benchmark's folder and the texts read -> our own estimate; scores beside published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from vllm_dsocr.evaluation import fox, olmocr_bench, omnidocbench
from vllm_dsocr.evaluation.bench.pages import omnidocbench_file

_LANGUAGES = ("language: english", "language: simplified_chinese")
_EDITS = ("text_edit", "formula_edit", "table_edit", "order_edit")


def estimate(benchmark: str, data: Path, out: Path) -> dict[str, Any]:
    """Raises ValueError, OSError."""
    if benchmark == "olmocr-bench":
        return olmocr_bench.score(data, out.name)
    if benchmark == "fox":
        return fox.score(data, out)
    return omnidocbench.score(omnidocbench_file(data), out)


def beside(
    benchmark: str, scores: Mapping[str, Any], published: Mapping[str, Any]
) -> list[tuple[str, float | None, float]]:
    """(name, here, published) for every published number."""
    here = {"olmocr-bench": _olmocr, "fox": _fox, "omnidocbench": _omnidocbench}[benchmark]
    numbers = {name: value for name, value in published.items() if name != "source"}
    return [(name, here(name, scores), value) for name, value in numbers.items()]


def _olmocr(name: str, scores: Mapping[str, Any]) -> float | None:
    return scores["overall"] if name == "overall" else scores["files"].get(name)


def _fox(name: str, scores: Mapping[str, Any]) -> float | None:
    group = scores.get(name.removeprefix("precision, "))
    return group["precision"] if group else None


def _omnidocbench(name: str, scores: Mapping[str, Any]) -> float | None:
    """The only name published: the mean over languages of the mean of the four edit distances."""
    rows = [scores[language] for language in _LANGUAGES if scores.get(language)]
    return fmean(map(_overall, rows)) if len(rows) == len(_LANGUAGES) else None


def _overall(row: Mapping[str, Any]) -> float:
    values = [row[key] for key in _EDITS if row.get(key) is not None]
    return fmean(values) if values else 1.0
