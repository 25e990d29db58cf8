"""transformers behind the seam the pipeline uses, on the tiny random checkpoint."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request, clean_text
from vllm_dsocr.hf.engine import HfEngine
from vllm_dsocr.hf.logits import NGramGuardProcessor
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.page.source import open_image
from vllm_dsocr.repetition import NGramGuard, NGramRule

PROMPT = TASKS["free"]


def _complete(path: Path, *requests: Request) -> list[Completion]:
    async def ask() -> list[Completion]:
        async with HfEngine(str(path), device="cpu") as engine:
            return [await engine.complete(request) for request in requests]

    return asyncio.run(ask())


def _request(path: Path, **options) -> Request:
    image = open_image(path.parent / "images" / "v3_small.png")
    return Request(image, PROMPT, **{"mode": "tiny", "max_tokens": 16, **options})


def test_greedy_text_is_that_of_generate(tiny_path: Path, model, processor) -> None:
    request = _request(tiny_path)
    (completion,) = _complete(tiny_path, request)
    inputs = processor(PROMPT, request.image)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=16, pad_token_id=0)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert completion.text == processor.tokenizer.decode(new)
    assert (completion.finish, completion.num_text_tokens) == ("length", 16)
    assert completion.num_vision_tokens == 73


def test_logprobs_are_those_of_the_model_itself(tiny_path: Path, model, processor) -> None:
    request = _request(tiny_path)
    plain, scored = _complete(tiny_path, request, replace(request, logprobs=True))
    assert plain.tokens == () and plain.text == scored.text
    inputs = processor(PROMPT, request.image)
    length = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=16, pad_token_id=0)
    with torch.inference_mode():
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, :length] = inputs["images_seq_mask"]
        views = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        logits = model(input_ids=ids, **{**views, "images_seq_mask": mask}).logits[0]
    expected = logits.float().log_softmax(-1)[length - 1 : -1].gather(1, ids[0, length:, None])
    found = torch.tensor([token.logprob for token in scored.tokens])
    torch.testing.assert_close(found, expected[:, 0], rtol=1e-3, atol=1e-3)
    assert clean_text("".join(token.text for token in scored.tokens)) == scored.text


def test_modes_and_seeds_are_honoured(tiny_path: Path) -> None:
    warm = {"temperature": 5.0}
    base, one, same, other = _complete(
        tiny_path,
        _request(tiny_path, mode="base"),
        _request(tiny_path, seed=1, **warm),
        _request(tiny_path, seed=1, **warm),
        _request(tiny_path, seed=2, **warm),
    )
    assert base.num_vision_tokens == 273
    assert one.text == same.text != other.text


@pytest.mark.parametrize(
    ("options", "words"),
    [({"mode": "huge"}, "mode must be one of"), ({"prompt": "no tag"}, "0 <image> tags")],
)
def test_what_cannot_be_is_that_pages_error(tiny_path: Path, options, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        _complete(tiny_path, replace(_request(tiny_path), **options))


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineLost, match="cannot load"):
        _complete(tmp_path)


def test_the_guard_bans_in_every_row_what_the_rule_bans() -> None:
    rule, prompt_length = NGramRule(2, 8), 3
    processor = NGramGuardProcessor(rule, prompt_length)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(0, 4, (3, 40), generator=generator)
    prompt = torch.zeros(3, prompt_length, dtype=torch.long)
    for length in range(40):
        ids = torch.cat([prompt, outputs[:, :length]], dim=1)
        scores = processor(ids, torch.zeros(3, 4))
        for row in range(3):
            banned = set(NGramGuard(rule, outputs[row, :length].tolist()).banned())
            assert set(torch.nonzero(scores[row].isinf()).flatten().tolist()) == banned
