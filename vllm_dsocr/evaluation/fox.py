"""Fox's English page OCR and a folder of texts -> precision by length of the text.

    DATA/en_page_ocr.json   [{"image": NAME, "len": tokens, "conversations": [question, answer]}]
    DATA/en_pdf_png/NAME    the pages

Precision is the share of the words read that are on the page, each as often as it is there. A text
that reads little of a page, but that right, has a high one, so recall and edit distance stand
beside it. Texts are compared as words; an empty text has a precision of 0.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from vllm_dsocr.evaluation.page import find_text, tidy
from vllm_dsocr.metrics import normalised_distance

TRUTH = "en_page_ocr.json"
IMAGES = "en_pdf_png"
BIN = 100  # tokens


def read_truth(data: Path) -> dict[str, tuple[str, int]]:
    """Image -> its text and the tokens of it, 0 where they are not counted.

    Raises ValueError, OSError.
    """
    entries = json.loads((data / TRUTH).read_text(encoding="utf-8"))
    try:
        return {
            PurePosixPath(entry["image"]).name: (
                str(entry["conversations"][1]["value"]),
                int(entry.get("len", 0)),
            )
            for entry in entries
        }
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{data / TRUTH} is no list of images with conversations") from error


def score(data: Path, read: Path) -> dict[str, Any]:
    """`all`, and by hundreds of tokens: means over pages; `missing` pages count as empty."""
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    missing = 0
    for name, (truth, tokens) in read_truth(data).items():
        text = find_text(read, PurePosixPath(name).stem, name)
        missing += text is None
        one = score_text(text or "", truth)
        start = tokens // BIN * BIN
        for group in ("all", *([f"{start}-{start + BIN} tokens"] if tokens else [])):
            groups[group].append(one)
    result: dict[str, Any] = {
        name: {"pages": len(ones)} | {key: fmean(one[key] for one in ones) for key in ones[0]}
        for name, ones in sorted(groups.items())
    }
    return {**result, "missing": missing}


def score_text(text: str, truth: str) -> dict[str, float]:
    """precision, recall, edit_distance of words; 0 to 1."""
    read, there = tidy(text).split(), tidy(truth).split()
    common = (Counter(read) & Counter(there)).total()
    return {
        "precision": common / max(1, len(read)),
        "recall": common / max(1, len(there)),
        "edit_distance": normalised_distance(read, there),
    }
