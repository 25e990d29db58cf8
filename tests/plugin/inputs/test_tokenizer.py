"""Which tokens reach the text of a client that asks for none of the special ones."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

pytest.importorskip("vllm")

from vllm import SamplingParams
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer, IncrementalDetokenizer

from vllm_dsocr.config import BOS_TOKEN, EOS_TOKEN, IMAGE_TOKEN, MARKUP_TOKENS, PAD_TOKEN
from vllm_dsocr.plugin.inputs.tokenizer import DeepseekOCRTokenizer

STRIPPED = (BOS_TOKEN, IMAGE_TOKEN, PAD_TOKEN, EOS_TOKEN)
TEXTS = ("Free OCR.", "<image>\n<|grounding|>OCR this image.", "<table><tr><td>é 1</td>", " a  b\n")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> PreTrainedTokenizerFast:
    return DeepseekOCRTokenizer.from_pretrained(str(checkpoint), truncation_side="left")


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(checkpoint)


def ids(tokenizer: Any, tokens: tuple[str, ...]) -> list[int]:
    return [tokenizer.get_vocab()[token] for token in tokens]


def test_markup_stays_and_the_rest_goes(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = ids(tokenizer, (*STRIPPED, *MARKUP_TOKENS, *STRIPPED))
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "".join(MARKUP_TOKENS)


def test_nothing_changes_where_special_tokens_are_asked_for(
    tokenizer: PreTrainedTokenizerFast, plain: PreTrainedTokenizerFast
) -> None:
    tokens = ids(tokenizer, (*STRIPPED, *MARKUP_TOKENS))
    assert tokenizer.decode(tokens) == plain.decode(tokens) == "".join(STRIPPED + MARKUP_TOKENS)


@pytest.mark.parametrize("text", TEXTS)
def test_text_has_the_same_ids(
    tokenizer: PreTrainedTokenizerFast, plain: PreTrainedTokenizerFast, text: str
) -> None:
    assert tokenizer.encode(text) == plain.encode(text)


def test_streamed_text_is_the_whole_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """With the detokenizer vLLM uses for streams, token by token."""
    words = tokenizer.encode("é 1")
    tokens = [*ids(tokenizer, ("<td>", IMAGE_TOKEN)), *words, *ids(tokenizer, ("</td>", EOS_TOKEN))]
    request = SimpleNamespace(request_id="", prompt_token_ids=[5], sampling_params=SamplingParams())
    stream = IncrementalDetokenizer.from_new_request(tokenizer, request)
    assert isinstance(stream, FastIncrementalDetokenizer)
    pieces = []
    for token in tokens:
        stream.update([token], stop_terminated=False)
        pieces.append(stream.get_next_output_text(finished=False, delta=True))
    assert pieces[0] == "<td>"
    assert "".join(pieces) == "<td>é 1</td>"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_keep_the_markup(tokenizer: PreTrainedTokenizerFast, duplicate: Any) -> None:
    tokens = ids(tokenizer, ("<td>", "<image>"))
    assert duplicate(tokenizer).decode(tokens, skip_special_tokens=True) == "<td>"
