"""Host: transformers. Configuration, processor, model with training and `infer()`; no vLLM."""

from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor

__all__ = ["DeepseekOCRConfig", "DeepseekOCRForCausalLM", "DeepseekOCRProcessor"]
