"""Prompts and images -> what the model takes; see `processor`.

sources (images) , chat (messages) -> processor -> padding (one batch)
"""

from vllm_dsocr.hf.processing.processor import DeepseekOCRProcessor, vision_inputs

__all__ = ["DeepseekOCRProcessor", "vision_inputs"]
