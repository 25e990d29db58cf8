"""Token ids and image masks of the official code."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from tests.parity.loader import Case, ParityData, each_case, resolution, unrle
from vllm_dsocr.config import BOS_TOKEN, IMAGE_TOKEN
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.prompt import PromptError, expand_placeholders, prompt_ids

# With one image, the official code does what nobody can have meant in two kinds of prompts: one
# without <image> is encoded twice, around the image; of several <image> only the first gets an
# image and the text between them is lost. All other prompts must give the same ids.


def _has_one_tag(case: Case) -> bool:
    return case["prompt"].count(IMAGE_TOKEN) == 1


def _has_no_tag(case: Case) -> bool:
    return IMAGE_TOKEN not in case["prompt"]


def _has_several_tags(case: Case) -> bool:
    return case["prompt"].count(IMAGE_TOKEN) > 1


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _ids(tokenizer: Tokenizer, prompt: str, counts: list[int]) -> list[int]:
    bos, image = tokenizer.token_to_id(BOS_TOKEN), tokenizer.token_to_id(IMAGE_TOKEN)
    ids = prompt_ids(prompt, lambda text: _encode(tokenizer, text), bos)
    return expand_placeholders(ids, image, counts)


def _num_image_tokens(data: ParityData, case: Case) -> int:
    size = data.image_record(case.document["image"])["rgb_size_after_exif"]
    return plan_tiles(*size, resolution(case["mode"])).num_image_tokens


@each_case("prompts.json", _has_one_tag)
def test_prompts_with_one_image_tag(data: ParityData, tokenizer: Tokenizer, case: Case) -> None:
    ids = _ids(tokenizer, case["prompt"], [_num_image_tokens(data, case)])
    image_token_id = tokenizer.token_to_id(IMAGE_TOKEN)
    assert ids == unrle(case["input_ids_rle"])
    assert [token == image_token_id for token in ids] == unrle(case["images_seq_mask_rle"])
    assert len(ids) == case["seq_len"]


@each_case("prompts.json", _has_no_tag)
def test_prompts_without_an_image_tag(tokenizer: Tokenizer, case: Case) -> None:
    """Refused with an image, plain text without one."""
    with pytest.raises(PromptError, match="0 <image> tags for 1 images"):
        _ids(tokenizer, case["prompt"], [7])
    text = _encode(tokenizer, case["prompt"].strip())
    assert _ids(tokenizer, case["prompt"], []) == [tokenizer.token_to_id(BOS_TOKEN), *text]


@each_case("prompts.json", _has_several_tags)
def test_prompts_with_several_image_tags(tokenizer: Tokenizer, case: Case) -> None:
    """Each tag gets its own image and the text between them stays."""
    first, *others = case["prompt"].strip().split(IMAGE_TOKEN)
    counts = list(range(2, 2 + len(others)))
    expected = [tokenizer.token_to_id(BOS_TOKEN), *_encode(tokenizer, first)]
    for count, text in zip(counts, others, strict=True):
        expected += [tokenizer.token_to_id(IMAGE_TOKEN)] * count + _encode(tokenizer, text)
    assert _ids(tokenizer, case["prompt"], counts) == expected
    with pytest.raises(PromptError, match=f"{len(others)} <image> tags for 1 images"):
        _ids(tokenizer, case["prompt"], [7])


@each_case("pixels_*.json", _has_one_tag)
def test_prompts_of_all_images(tokenizer: Tokenizer, case: Case) -> None:
    ids = _ids(tokenizer, case["prompt"], [case["n_image_tokens"]])
    assert ids == unrle(case["input_ids_rle"])
