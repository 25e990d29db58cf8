"""Counting what tensors hold: views cost nothing, what is dropped is given back."""

from __future__ import annotations

import torch

from benchmarks.live_bytes import LiveBytes

SIZE = 1000
BYTES = 4 * SIZE


def test_results_count_until_nothing_refers_to_them() -> None:
    given = torch.zeros(SIZE)
    with LiveBytes() as live:
        one = given + 1
        assert live.now == BYTES
        view = one.view(10, 100)
        del one
        assert live.now == BYTES
        view.relu_()
        assert live.now == BYTES
        del view
        assert live.now == 0
    assert live.peak == BYTES


def test_the_peak_is_what_lived_together() -> None:
    given = torch.zeros(SIZE)
    with torch.inference_mode(), LiveBytes() as live:
        kept = (given + 1) * 2  # the sum lives until the product is there
        assert live.now == BYTES
        del kept
        given * 2
    assert live.peak == 2 * BYTES
