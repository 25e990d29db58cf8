"""transformers' own tests of models and of generation, on this model.

They are in its repository, not in its package: `make test-transformers CHECKOUT=DIR` names a
checkout, best of the release that is installed. What cannot hold is skipped below, with its reason.
"""

from __future__ import annotations

import copy
import os
import sys
import unittest

import pytest

CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT", "")
if not CHECKOUT:
    pytest.skip("needs a checkout: make test-transformers CHECKOUT=DIR", allow_module_level=True)
sys.path.insert(0, CHECKOUT)
sys.modules.pop("tests", None)  # ours is a folder, theirs is a package

import torch  # noqa: E402
from tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, ids_tensor  # noqa: E402

from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM  # noqa: E402

# Parts of names of tests, and why they say nothing here.
LEFT_OUT = {
    "batched_and_grouped_inference": (
        "counts calls of transformers' own functions, which want all experts in one tensor; "
        "tests/hf/test_experts.py compares ours"
    ),
}
NUM_IMAGE_TOKENS = 3  # of one view of 64 px: one token, newline, separator


class Mapping(dict):
    """config.vision_config is the file's own mapping; their helpers set attributes on it."""

    __getattr__ = dict.get
    __setattr__ = dict.__setitem__

    def __deepcopy__(self, memo: dict) -> Mapping:
        return Mapping(copy.deepcopy(dict(self), memo))


class ModelTester:
    """Sizes and inputs: two prompts with one image each."""

    batch_size = 2
    seq_length = 10
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> DeepseekOCRConfig:
        widths = {
            "sam_vit_b": {
                "width": 32, "layers": 2, "heads": 2, "global_attn_indexes": [1],
                "downsample_channels": [16, 32], "neck_channels": 16, "window_size": 3,
            },
            "clip-l-14-224": {
                "width": 32, "layers": 2, "heads": 2, "image_size": 28, "patch_size": 14,
            },
        }  # fmt: skip
        config = DeepseekOCRConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            moe_intermediate_size=16,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            n_routed_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            vision_config={"image_size": 64, "width": widths},
            projector_config={"input_dim": 64, "n_embed": self.hidden_size},
        )
        config.vision_config = Mapping(config.vision_config)
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[DeepseekOCRConfig, dict]:
        shape = (self.batch_size, self.seq_length)
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[:, 1 : 1 + NUM_IMAGE_TOKENS] = True
        inputs = {
            "input_ids": ids_tensor(shape, self.vocab_size - 3) + 3,
            "attention_mask": torch.ones(shape, dtype=torch.long),
            "images": torch.rand(self.batch_size, 3, 64, 64),
            "images_seq_mask": mask,
            "images_spatial_crop": torch.ones(self.batch_size, 2, dtype=torch.long),
        }
        return self.get_config(), inputs


class DeepseekOCRCommonTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (DeepseekOCRForCausalLM,)
    all_generative_model_classes = (DeepseekOCRForCausalLM,)
    # CLIP's own patch embedding is in the checkpoint, and no pass uses it.
    test_all_params_have_gradient = False

    def setUp(self) -> None:
        for name, reason in LEFT_OUT.items():
            if name in self.id():
                self.skipTest(reason)
        self.model_tester = ModelTester(self)

    def test_left_padding_compatibility(self) -> None:
        """Their test pads what it knows, and images_seq_mask has to be as long as the ids."""
        _, inputs = self.prepare_config_and_inputs_for_generate()
        padded = torch.nn.functional.pad(inputs["images_seq_mask"], (32, 0))
        super().test_left_padding_compatibility(padded_custom_inputs={"images_seq_mask": padded})
