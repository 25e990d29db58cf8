"""Held-out pages -> texts and their error rate, read under the guard that serving has.

Knows nothing of losses or settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import GenerationConfig

from vllm_dsocr.config import EOS_TOKEN
from vllm_dsocr.engine import clean_text
from vllm_dsocr.hf.logits import NGramGuardProcessor, serving_rule
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data.samples import Sample
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.source import open_image


@torch.no_grad()
def read_pages(
    model: nn.Module,
    processor: DeepseekOCRProcessor,
    samples: Sequence[Sample],
    **generation: Any,
) -> list[str]:
    """Greedy texts of a batch; no page gets more than twice the tokens of the longest answer."""
    images = [open_image(image, alpha=None) for sample in samples for image in sample.images]
    inputs = processor([sample.context for sample in samples], images)
    tensors = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in inputs.items()}
    answers = processor.tokenizer([sample.answer for sample in samples])["input_ids"]
    length = inputs["input_ids"].shape[1]
    rule = serving_rule(processor.tokenizer.get_vocab())
    ids = model.generate(
        **tensors,
        logits_processor=[NGramGuardProcessor(rule, length)],
        generation_config=GenerationConfig(
            max_new_tokens=2 * max(map(len, answers)) + 1,
            eos_token_id=processor.tokenizer.convert_tokens_to_ids(EOS_TOKEN),
            pad_token_id=processor.pad_token_id,
        ),
        **generation,
    )
    return [clean_text(text) for text in processor.tokenizer.batch_decode(ids[:, length:])]


def error_rate(
    model: nn.Module,
    processor: DeepseekOCRProcessor,
    samples: Sequence[Sample],
    batch_size: int,
    accelerator: Accelerator,
    **generation: Any,
) -> float:
    """Wrong characters per character of the truth; every rank reads its share.

    All ranks read the same number of batches, since those that hold shards wait for each other.
    """
    own = list(samples[accelerator.process_index :: accelerator.num_processes])
    most = -(-len(samples) // accelerator.num_processes)
    counts = torch.zeros(2, dtype=torch.long, device=accelerator.device)  # wrong, all
    for start in range(0, most, batch_size):
        batch = own[start : start + batch_size]
        texts = read_pages(model, processor, batch or samples[:1], **generation)
        for text, sample in zip(texts, batch, strict=False):  # no sample: read for the others
            counts += torch.tensor([edit_distance(text, sample.answer), len(sample.answer)]).to(
                counts
            )
    wrong, total = accelerator.reduce(counts, "sum").tolist()
    return wrong / max(1, total)
