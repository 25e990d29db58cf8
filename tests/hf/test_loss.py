"""The lean loss against the plain one: value, gradients, what is kept and what is ignored."""

import copy

import pytest
import torch
from PIL import Image
from torch import nn

from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf.model.loss import lean_cross_entropy, next_tokens

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def plain_and_lean(seed=0, **options):
    """(loss, gradient of the states, gradient of the head) of either kind, on random states."""
    torch.manual_seed(seed)
    head, states = nn.Linear(12, 50, bias=False), torch.randn(2, 9, 12)
    labels = torch.randint(0, 50, (2, 9))
    labels[0, :4] = IGNORE_INDEX
    for lean in (False, True):
        hidden, own = states.clone().requires_grad_(), copy.deepcopy(head)
        targets = next_tokens(labels)
        if lean:
            loss = lean_cross_entropy(own, hidden, targets, **options)
        else:
            loss = nn.functional.cross_entropy(own(hidden).flatten(0, 1), targets.flatten())
        loss.backward()
        yield loss.detach(), hidden.grad, own.weight.grad


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_value_and_gradients_are_the_plain_ones(chunk):
    for plain, lean in zip(*plain_and_lean(chunk=chunk), strict=True):
        torch.testing.assert_close(lean, plain, **EXACT)


def test_the_sum_is_divided_by_what_the_caller_counts():
    (mean, *_), (loss, *_) = plain_and_lean(num_items=torch.tensor(7))
    counted = 5 + 8  # labels that some position before them predicts
    torch.testing.assert_close(loss, mean * counted / 7, **EXACT)


@pytest.fixture
def trained(model):
    return copy.deepcopy(model).train()


@pytest.fixture
def inputs(processor):
    both = ["<image>\nFree OCR.", "some more words without a picture"]
    batch = dict(processor(both, Image.new("RGB", (90, 60), "grey")))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE_INDEX)
    return {**batch, "labels": labels.masked_fill(batch["images_seq_mask"], IGNORE_INDEX)}


@pytest.mark.parametrize("keep", [0, 5, torch.tensor([3, 70, 75])])
def test_the_whole_model_trains_the_same(trained, inputs, keep):
    runs = []
    for lean in (False, True):
        trained.lean_loss = lean
        trained.zero_grad()
        out = trained(**inputs, logits_to_keep=keep)
        out.loss.backward()
        grads = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
        runs.append((out.loss.detach(), grads))
        assert (out.logits is None) == lean
    (plain, plain_grads), (lean, lean_grads) = runs
    torch.testing.assert_close(lean, plain, **EXACT)
    torch.testing.assert_close(lean_grads, plain_grads, **EXACT)


def test_kept_positions_alone_carry_loss(trained, inputs):
    whole = trained.eval()(**inputs, logits_to_keep=4)
    last = trained(**{**inputs, "labels": None}).logits[:, -4:]
    assert whole.logits.shape[1] == 4
    expected = nn.functional.cross_entropy(
        last[:, :3].flatten(0, 1), inputs["labels"][:, -3:].flatten()
    )
    torch.testing.assert_close(whole.loss, expected)


def test_reading_still_gives_logits(trained, inputs):
    trained.lean_loss = True
    assert trained.eval()(**{**inputs, "labels": None}).logits is not None
