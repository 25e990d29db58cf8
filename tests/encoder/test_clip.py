"""CLIP tower: positions of other sizes, the class token."""

import torch

from vllm_dsocr.config import ClipSizes
from vllm_dsocr.encoder.clip import ClipVit, Embeddings
from vllm_dsocr.encoder.positions import resize_grid

SIZES = ClipSizes(width=8, layers=1, heads=2, image_size=56, patch_size=14)


def test_own_size_uses_the_position_table_as_it_is():
    embeddings = Embeddings(SIZES)
    features = torch.zeros(1, 8, 4, 4)
    expected = embeddings.position_embedding.weight.clone()
    expected[0] += embeddings.class_embedding
    torch.testing.assert_close(embeddings(features)[0], expected)


def test_other_sizes_keep_the_class_position():
    embeddings = Embeddings(SIZES)
    out = embeddings(torch.zeros(1, 8, 6, 6))
    assert out.shape == (1, 37, 8)
    class_position = embeddings.position_embedding.weight[0] + embeddings.class_embedding
    torch.testing.assert_close(out[0, 0], class_position)


def test_constant_tables_stay_constant_when_resized():
    table = torch.full((1, 4, 4, 2), 0.7)
    torch.testing.assert_close(resize_grid(table, 10), torch.full((1, 10, 10, 2), 0.7))


def test_tower_keeps_one_vector_per_feature_and_one_class_token():
    assert ClipVit(SIZES)(torch.randn(3, 8, 5, 5)).shape == (3, 26, 8)
