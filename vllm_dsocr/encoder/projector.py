"""Projector: both towers' features (N, q*q, C) -> decoder width (N, q*q, D), one linear map."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    def __init__(self, input_dim: int, n_embed: int) -> None:
        super().__init__()
        self.layers = nn.Linear(input_dim, n_embed)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
