"""The vLLM host: the only folder that imports vllm.

    messages -> renderer (one BOS, stripped text) -> processing (tiles, placeholders) -> model

Importing this costs nothing; vLLM loads the parts by name when it needs them.
"""

from __future__ import annotations

TOKENIZER_MODE = "deepseek_ocr"  # vLLM picks renderer and tokenizer by this name


def register_renderer() -> None:
    """Make the tokenizer mode known: the official prompt rules, markup in the text."""
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    RENDERER_REGISTRY.register(
        TOKENIZER_MODE, "vllm_dsocr.plugin.inputs.renderer", "DeepseekOCRRenderer"
    )
    TokenizerRegistry.register(
        TOKENIZER_MODE, "vllm_dsocr.plugin.inputs.tokenizer", "DeepseekOCRTokenizer"
    )
