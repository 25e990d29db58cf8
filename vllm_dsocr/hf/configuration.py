"""config.json in the official layout <-> one flat transformers configuration.

The published file states the decoder twice: at the top level and under `language_config`. Here the
flat attributes are the truth; `language_config` is read into them and written back from them.
Knows nothing of weights.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig

from vllm_dsocr.config import ARCHITECTURE, VisionSizes

# Decoder keys of the official config.json, besides those every Llama-like config has.
_LANGUAGE_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "first_k_dense_replace",
    "hidden_size",
    "intermediate_size",
    "kv_lora_rank",
    "lm_head",
    "max_position_embeddings",
    "moe_intermediate_size",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "rm_head",
    "rms_norm_eps",
    "routed_scaling_factor",
    "scoring_func",
    "topk_group",
    "topk_method",
    "use_mla",
    "v_head_dim",
    "vocab_size",
)


class DeepseekOCRConfig(LlamaConfig):
    """Sizes of decoder, towers and projector; defaults are the published checkpoint's.

    The decoder is a Llama (half-split rotary, no MLA) whose layers from `first_k_dense_replace` on
    have a mixture of experts. `vision_config` and `projector_config` stay the file's own mappings.
    """

    model_type = "deepseek_vl_v2"

    vocab_size: int = 129280
    hidden_size: int = 1280
    intermediate_size: int = 6848
    num_hidden_layers: int = 12
    num_attention_heads: int = 10
    num_key_value_heads: int | None = 10
    max_position_embeddings: int = 8192
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    first_k_dense_replace: int = 1
    moe_intermediate_size: int = 896
    n_routed_experts: int = 64
    n_shared_experts: int | None = 2
    num_experts_per_tok: int = 6
    n_group: int | None = 1
    topk_group: int | None = 1
    topk_method: str = "greedy"
    scoring_func: str = "softmax"
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    aux_loss_alpha: float = 0.001
    seq_aux: bool = True
    use_mla: bool = False
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    lm_head: bool = True
    rm_head: bool = False
    vision_config: dict[str, Any] | None = None
    projector_config: dict[str, Any] | None = None
    language_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.language_config = dict(self.language_config or {})
        self.vision_config = dict(self.vision_config or {})
        self.projector_config = dict(self.projector_config or {})
        for key in _LANGUAGE_KEYS:
            if key in self.language_config:
                setattr(self, key, self.language_config[key])
        if "rope_theta" in self.language_config:
            kwargs.setdefault("rope_theta", self.language_config["rope_theta"])
        self.architectures = getattr(self, "architectures", None) or [ARCHITECTURE]
        kwargs.pop("auto_map", None)  # names files of the hub, which are neither used nor saved
        super().__post_init__(**kwargs)
        self._refuse_unsupported()

    def _refuse_unsupported(self) -> None:
        if self.use_mla or self.topk_method != "greedy" or self.scoring_func != "softmax":
            got = f"{self.use_mla}, {self.topk_method!r}, {self.scoring_func!r}"
            raise ValueError(
                "only DeepSeek-OCR's decoder is supported: use_mla false, topk_method 'greedy', "
                f"scoring_func 'softmax'; got {got}"
            )

    @property
    def vision_sizes(self) -> VisionSizes:
        """Sizes of towers and projector, official values where the checkpoint is silent."""
        return VisionSizes.from_config(self.vision_config or {}, self.projector_config or {})

    def to_dict(self) -> dict[str, Any]:
        """The official layout, `language_config` renewed from the flat attributes."""
        output = super().to_dict()
        language = {key: getattr(self, key) for key in _LANGUAGE_KEYS}
        language["rope_theta"] = self.rope_parameters["rope_theta"]
        language.setdefault("architectures", ["DeepseekV2ForCausalLM"])
        output["language_config"] = {**(self.language_config or {}), **language}
        return output
