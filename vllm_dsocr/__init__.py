"""vllm-dsocr: DeepSeek-OCR for vLLM and transformers.

`convert`, `read`, `Reader` and `Document` are imported when they are first used: vLLM loads this
package in every process and needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vllm_dsocr.pipeline.result import Document as Document
    from vllm_dsocr.reader import Reader as Reader
    from vllm_dsocr.reader import aconvert as aconvert
    from vllm_dsocr.reader import aread as aread
    from vllm_dsocr.reader import convert as convert
    from vllm_dsocr.reader import read as read

_HOMES = {
    **dict.fromkeys(("Reader", "aconvert", "aread", "convert", "read"), "vllm_dsocr.reader"),
    "Document": "vllm_dsocr.pipeline.result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def register() -> None:
    """Entry point of group `vllm.general_plugins`: model, prompt rules, defaults; all by name.

    Unconditional on purpose: vLLM has a class of the same architecture name, and the usual
    "only if not registered yet" guard would leave that one in place.
    """
    from vllm_dsocr.plugin.lifeline import follow

    follow()

    from vllm import ModelRegistry

    from vllm_dsocr.config import ARCHITECTURE
    from vllm_dsocr.plugin import register_renderer
    from vllm_dsocr.plugin.setup.defaults import register_defaults

    ModelRegistry.register_model(ARCHITECTURE, "vllm_dsocr.plugin.model:DeepseekOCRForCausalLM")
    register_renderer()
    register_defaults()
