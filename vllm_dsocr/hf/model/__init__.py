"""Token ids and page views -> logits and losses; see `causal`.

views -> backbone (moe) -> causal (loss, balance)
"""

from vllm_dsocr.hf.model.backbone import DeepseekOCRModel
from vllm_dsocr.hf.model.causal import DeepseekOCRForCausalLM

__all__ = ["DeepseekOCRForCausalLM", "DeepseekOCRModel"]
