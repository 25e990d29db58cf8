"""vllm-dsocr: DeepSeek-OCR for vLLM and transformers."""

__version__ = "0.1.0"


def register() -> None:
    """Entry point of group `vllm.general_plugins`: model, prompt rules, defaults; all by name.

    Unconditional on purpose: vLLM has a class of the same architecture name, and the usual
    "only if not registered yet" guard would leave that one in place.
    """
    from vllm import ModelRegistry

    from vllm_dsocr.config import ARCHITECTURE
    from vllm_dsocr.plugin import register_renderer
    from vllm_dsocr.plugin.setup.defaults import register_defaults

    ModelRegistry.register_model(ARCHITECTURE, "vllm_dsocr.plugin.model:DeepseekOCRForCausalLM")
    register_renderer()
    register_defaults()
