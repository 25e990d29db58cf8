"""Pages and a model -> texts and their character error rate, through transformers' `generate`.

Knows nothing of training or of how the pages came about.
"""

from __future__ import annotations

import torch

from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.metrics import edit_distance

from .batches import CELL, normalise
from .pages import Page
from .tokenizer import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID, decode, encode

PROMPT = "\nFree OCR."
MAX_NEW_TOKENS = 400


@torch.inference_mode()
def read_pages(model: DeepseekOCRForCausalLM, pages: list[Page]) -> list[str]:
    """Greedy texts of square pages of one size, read as one batch."""
    side = pages[0].image.width // CELL
    prompt = [BOS_ID, *[IMAGE_ID] * (side * (side + 1) + 1), *encode(PROMPT)]
    ids = torch.tensor([prompt] * len(pages))
    views = [normalise(page).expand(1, 3, -1, -1).to(model.dtype) for page in pages]
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        images=[(view[:0], view) for view in views],
        images_seq_mask=ids == IMAGE_ID,
        images_spatial_crop=torch.ones(len(pages), 2, dtype=torch.long),
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return [decode(row) for row in out[:, ids.shape[1] :].tolist()]


def count_errors(texts: list[str], pages: list[Page]) -> tuple[int, int]:
    """Wrong characters and characters printed; their quotient is the character error rate."""
    pairs = zip(texts, pages, strict=True)
    wrong = sum(edit_distance(text, page.text) for text, page in pairs)
    return wrong, sum(len(page.text) for page in pages)
