"""Host: transformers. Configuration, processor, model with training and `infer()`; no vLLM."""

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor

__all__ = ["DeepseekOCRConfig", "DeepseekOCRForCausalLM", "DeepseekOCRProcessor"]

# Where the Trainer looks up whose labels are shifted when it smooths them.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(
    DeepseekOCRConfig.model_type, DeepseekOCRForCausalLM.__name__
)
