"""Samples -> what is wrong with them, before a run: `dsocr train --check`. Reads, never trains."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_dsocr.config import BOS_TOKEN, DET_OPEN, EOS_TOKEN, REF_OPEN
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data import PageDataset
from vllm_dsocr.hf.training.samples import Sample, read_samples
from vllm_dsocr.hf.training.settings import TrainSettings


def check(settings: TrainSettings) -> tuple[list[str], list[str]]:
    """(how many samples are kept, problems), of the data and of the held-out pages."""
    processor = DeepseekOCRProcessor.from_pretrained(settings.model, **settings.page)
    kept, problems = [], []
    for path in filter(None, (settings.data, settings.eval_data)):
        samples = read_samples(path, settings.prompt)
        dataset = PageDataset(samples, processor, settings.max_length, skip_bad=True)
        kept.append(f"{path}: {dataset.kept}")
        problems += [reason for _, reason in dataset.bad]
        for number, sample in enumerate(samples, 1):
            problems += [f"{path}, sample {number}: {words}" for words in answer_problems(sample)]
    return kept, problems


def answer_problems(sample: Sample) -> Iterator[str]:
    """Why what the model is to write could not be read back as it is meant."""
    for _, answer in sample.turns:
        tags = max(answer.count(DET_OPEN), answer.count(REF_OPEN))
        boxed = sum(block.label is not None for block in parse_blocks(answer))
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
