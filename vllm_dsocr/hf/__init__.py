"""Host: transformers. Configuration, processor, model with training and `infer()`; no vLLM.

Importing it makes the Auto classes of transformers find these, see `auto`.
"""

from vllm_dsocr.hf.auto import register
from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor

__all__ = ["DeepseekOCRConfig", "DeepseekOCRForCausalLM", "DeepseekOCRProcessor", "register"]

register()
