"""Samples -> what is wrong with them, before a run: `dsocr train --check`. Reads, never trains."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vllm_dsocr.config import BOS_TOKEN, DET_CLOSE, DET_OPEN, EOS_TOKEN, REF_CLOSE, REF_OPEN
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data import PageDataset
from vllm_dsocr.hf.training.data.samples import Sample, read_samples
from vllm_dsocr.hf.training.settings import TrainSettings

_BOX = r"\[\s*\d{1,3}(?:\s*,\s*\d{1,3}){3}\s*\]"
_TAG = re.compile(
    f"{re.escape(REF_OPEN)}(?:[^<]|<(?!\\|))+{re.escape(REF_CLOSE)}{re.escape(DET_OPEN)}"
    rf"\s*\[\s*({_BOX}(?:\s*,\s*{_BOX})*)\s*\]\s*{re.escape(DET_CLOSE)}"
)


def well_formed_tags(text: str) -> int:
    """How many grounding tags are written to the letter; the reader of answers takes more."""
    return sum(all(map(_is_box, re.findall(_BOX, tag[1]))) for tag in _TAG.finditer(text))


def _is_box(written: str) -> bool:
    left, top, right, bottom = map(int, re.findall(r"\d+", written))
    return left <= right and top <= bottom


def check(settings: TrainSettings) -> tuple[list[str], list[str]]:
    """(how many samples are kept, problems), of the data and of the held-out pages."""
    processor = DeepseekOCRProcessor.from_pretrained(settings.model, **settings.page)
    kept, problems = [], []
    for path in filter(None, (settings.data, settings.eval_data)):
        unread: list[str] = []
        samples = read_samples(path, settings.prompt, unread.append)
        dataset = PageDataset(samples, processor, settings.max_length, True, unread)
        kept.append(f"{path}: {dataset.kept}")
        if not len(dataset):
            problems.append(f"{path}: nothing to train on")
        problems += [*unread, *(reason for _, reason in dataset.bad)]
        for number, sample in enumerate(samples, 1):
            problems += [f"{path}, sample {number}: {words}" for words in answer_problems(sample)]
    return kept, problems


def answer_problems(sample: Sample) -> Iterator[str]:
    """Why what the model is to write could not be read back as it is meant."""
    for _, answer in sample.turns:
        tags = max(answer.count(DET_OPEN), answer.count(REF_OPEN))
        boxed = well_formed_tags(answer)
        if tags != boxed:
            yield (
                f"{tags} grounding tags, {boxed} of them well formed: <|ref|>LABEL<|/ref|>"
                "<|det|>[[x1, y1, x2, y2]]<|/det|>, integers 0..999, x1 <= x2, y1 <= y2"
            )
        if not answer.strip():
            yield "the answer is empty"
        for token in (BOS_TOKEN, EOS_TOKEN):
            if token in answer:
                yield f"the answer contains {token}, which is set by the training"
