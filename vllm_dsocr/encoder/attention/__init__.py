"""Attention of both towers: plain, and over a grid of patches with decomposed relative positions.

    Grid (projected patches, bias, tables, window) -> a form of FORMS -> attended patches

Bias of query i and key j: rel_h[i, row(j)] + rel_w[i, col(j)] (MViTv2, arXiv 2112.01526, sec. 4.1).
Every form computes the same; which one serves is measured (`choice`) or named. Knows nothing of
blocks, models or hosts.
"""

from vllm_dsocr.encoder.attention.forms import AUTO, FORMS, Form, Forms
from vllm_dsocr.encoder.attention.grid import Grid
from vllm_dsocr.encoder.attention.plain import PLAIN, attend

__all__ = ["AUTO", "FORMS", "PLAIN", "Form", "Forms", "Grid", "attend"]
