"""config.json -> ModelSizes: every number a cost depends on. Knows no costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vllm_dsocr.config import VisionSizes


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """The decoder in the words of config.json; defaults are the published checkpoint's."""

    vocab_size: int = 129280
    hidden_size: int = 1280
    intermediate_size: int = 6848
    num_hidden_layers: int = 12
    num_attention_heads: int = 10
    num_key_value_heads: int = 10
    first_k_dense_replace: int = 1
    moe_intermediate_size: int = 896
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    num_experts_per_tok: int = 6

    @property
    def head_size(self) -> int:
        """Numbers per attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_dense_layers(self) -> int:
        """Layers whose feed-forward is no mixture of experts."""
        return min(self.first_k_dense_replace, self.num_hidden_layers)

    @property
    def num_moe_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.num_hidden_layers - self.num_dense_layers


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The whole model; without arguments the published one."""

    vision: VisionSizes = field(default_factory=VisionSizes)
    decoder: DecoderSizes = field(default_factory=DecoderSizes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelSizes:
        """From config.json; what it leaves out is the published value. Raises OptionError."""
        stated = {**config, **config.get("language_config", {})}
        names = [f.name for f in fields(DecoderSizes)]
        decoder = {name: stated[name] for name in names if stated.get(name) is not None}
        vision, projector = config.get("vision_config", {}), config.get("projector_config", {})
        return cls(VisionSizes.from_config(vision, projector), DecoderSizes(**decoder))

    @classmethod
    def from_file(cls, path: Path) -> ModelSizes:
        """A config.json or the folder that holds one. Raises OSError, ValueError."""
        file = path / "config.json" if path.is_dir() else path
        return cls.from_config(json.loads(file.read_text(encoding="utf-8")))
