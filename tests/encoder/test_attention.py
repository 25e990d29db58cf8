"""Attention with decomposed relative positions: every form against the definition."""

import pytest
import torch

from vllm_dsocr.encoder import attention


def inputs(side=5, heads=2, dim=8, batch=2):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, batch, heads, side * side, dim)
    table_h, table_w = torch.randn(2, 2 * side - 1, dim)
    return q, k, v, table_h, table_w


def by_definition(q, k, v, table_h, table_w):
    """softmax(q.k / sqrt(d) + q.table_h[row distance] + q.table_w[column distance]) v, in loops."""
    tokens, dim = q.shape[-2:]
    side = int(tokens**0.5)
    scores = q @ k.transpose(-1, -2) * dim**-0.5
    for i in range(tokens):
        for j in range(tokens):
            down = i // side - j // side + side - 1
            right = i % side - j % side + side - 1
            scores[..., i, j] += q[..., i, :] @ table_h[down] + q[..., i, :] @ table_w[right]
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("form", [attention._in_pieces, attention._augmented])
@pytest.mark.parametrize("side, dim", [(5, 8), (3, 8)])  # wide and narrow against the head
def test_forms_equal_the_definition(form, side, dim):
    q, k, v, table_h, table_w = inputs(side, dim=dim)
    rel = attention.relative_scores(q, table_h, table_w, side)
    torch.testing.assert_close(form(q, k, v, *rel), by_definition(q, k, v, table_h, table_w))


@pytest.mark.parametrize("scores", [7 * 25, 3 * 25 * 25])  # some queries, some heads
def test_pieces_change_nothing(monkeypatch, scores):
    q, k, v, table_h, table_w = inputs()
    rel = attention.relative_scores(q, table_h, table_w, side=5)
    monkeypatch.setattr(attention, "SCORES_PER_THREAD", scores // torch.get_num_threads())
    pieces = attention._in_pieces(q, k, v, *rel)
    torch.testing.assert_close(pieces, by_definition(q, k, v, table_h, table_w))


def test_gradients_are_those_of_the_definition():
    inner, table_h, table_w = torch.stack(inputs()[:3]), *inputs()[3:]
    leaf, same = (t.clone().requires_grad_() for t in (inner, inner))
    rel = attention.relative_scores(leaf[0], table_h, table_w, side=5)
    attention.grid_attention(*leaf, *rel).square().sum().backward()
    by_definition(*same, table_h, table_w).square().sum().backward()
    torch.testing.assert_close(leaf.grad, same.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", attention.BACKENDS)
def test_backends_agree(backend):
    device = "cpu"
    if backend != "sdpa":
        pytest.importorskip(backend)
        if not torch.cuda.is_available():
            pytest.skip(f"{backend} needs a CUDA device")
        device = "cuda"
    q, k, v = torch.randn(3, 2, 2, 20, 16, device=device).to(torch.bfloat16)
    want = (q.float() @ k.float().mT / 4).softmax(-1) @ v.float()
    got = attention.attend(q, k, v, 0.25, backend)
    torch.testing.assert_close(got.float(), want, atol=0.03, rtol=0.03)


def test_table_of_another_size_is_resized_linearly():
    table = torch.arange(7.0)[:, None]  # distances -3..3 of a side of 4
    entries = attention.relative_table(table, 3)
    assert entries.shape == (3, 3, 1)
    assert entries[0, 0] == entries[2, 2] == 3.0  # distance 0 stays in the middle
    assert entries[2, 0] > entries[1, 0] > entries[0, 0]
