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


@pytest.mark.parametrize("form", [attention._additive, attention._augmented])
def test_forms_equal_the_definition(form):
    q, k, v, table_h, table_w = inputs()
    rel = attention.relative_scores(q, table_h, table_w, side=5)
    torch.testing.assert_close(form(q, k, v, *rel), by_definition(q, k, v, table_h, table_w))


def test_chunks_of_queries_change_nothing(monkeypatch):
    q, k, v, table_h, table_w = inputs()
    rel = attention.relative_scores(q, table_h, table_w, side=5)
    whole = attention._additive(q, k, v, *rel)
    monkeypatch.setattr(attention, "MAX_BIAS_ELEMENTS", 7 * q.shape[0] * q.shape[1] * 25)
    torch.testing.assert_close(attention._additive(q, k, v, *rel), whole)


def test_table_of_another_size_is_resized_linearly():
    table = torch.arange(7.0)[:, None]  # distances -3..3 of a side of 4
    entries = attention.relative_table(table, 3)
    assert entries.shape == (3, 3, 1)
    assert entries[0, 0] == entries[2, 2] == 3.0  # distance 0 stays in the middle
    assert entries[2, 0] > entries[1, 0] > entries[0, 0]
