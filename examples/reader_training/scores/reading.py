"""Pages and a model -> texts and their character error rate, through transformers' `generate`.

Knows nothing of training or of how the pages came about.
"""

from __future__ import annotations

import torch
from PIL import Image

from vllm_dsocr.config import IMAGE_TOKEN
from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.prompt import TASKS

from ..batches import CELL, normalise
from ..pages import Page
from ..tokenizer import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID, decode_markup, encode_markup

MAX_NEW_TOKENS = 400
MAX_MARKUP_TOKENS = 640


@torch.inference_mode()
def read_images(
    model: DeepseekOCRForCausalLM, images: list[Image.Image], prompt: str, max_new_tokens: int
) -> list[str]:
    """Greedy answers, special tokens by name, for square grey images of one size in one batch."""
    side = images[0].width // CELL
    text = encode_markup(prompt.removeprefix(IMAGE_TOKEN))
    prompt_ids = [BOS_ID, *[IMAGE_ID] * (side * (side + 1) + 1), *text]
    ids = torch.tensor([prompt_ids] * len(images))
    views = [normalise(image).expand(1, 3, -1, -1).to(model.dtype) for image in images]
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        images=[(view[:0], view) for view in views],
        images_seq_mask=ids == IMAGE_ID,
        images_spatial_crop=torch.ones(len(images), 2, dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return [decode_markup(row) for row in out[:, ids.shape[1] :].tolist()]


def read_pages(model: DeepseekOCRForCausalLM, pages: list[Page]) -> list[str]:
    """Greedy texts of pages of lines."""
    return read_images(model, [page.image for page in pages], TASKS["free"], MAX_NEW_TOKENS)


def count_errors(texts: list[str], truths: list[str]) -> tuple[int, int]:
    """Wrong characters and characters printed; their quotient is the character error rate."""
    pairs = zip(texts, truths, strict=True)
    wrong = sum(edit_distance(text, truth) for text, truth in pairs)
    return wrong, sum(map(len, truths))
