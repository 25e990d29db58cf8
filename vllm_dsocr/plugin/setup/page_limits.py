"""A server's flags -> which pages memory is planned for.

    --trust-request-mm-kwargs    requests choose the mode, else there is the server's own alone
    --disable-chunked-mm-input   a page has to fit into one step

The image processor is not shown these flags; they travel to it in the model's configuration, to all
processes. A larger page that comes all the same is refused by vLLM before the engine sees it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PretrainedConfig
from vllm.config import VllmConfig

from vllm_dsocr.plugin.setup.switches import switches

_ATTRIBUTE = "dsocr_page_limits"
_TRUST = "--trust-request-mm-kwargs"


@dataclass(frozen=True, slots=True)
class PageLimits:
    """request_modes: whether any mode may be asked for.  max_tokens: of a page, if bounded."""

    request_modes: bool = True
    max_tokens: int | None = None


def set_page_limits(vllm_config: VllmConfig) -> None:
    """Raises OptionError for switches that do not exist."""
    stated = switches(vllm_config.additional_config).request_modes
    scheduler = vllm_config.scheduler_config
    limits = PageLimits(
        request_modes=modes_may_be_asked_for(sys.argv) if stated is None else stated,
        max_tokens=scheduler.max_num_batched_tokens if scheduler.disable_chunked_mm_input else None,
    )
    setattr(vllm_config.model_config.hf_config, _ATTRIBUTE, asdict(limits))


def page_limits(config: PretrainedConfig) -> PageLimits:
    """Those that were set; without any, all that a page may come to."""
    return PageLimits(**getattr(config, _ATTRIBUTE, {}))


def modes_may_be_asked_for(argv: Sequence[str]) -> bool:
    """Whether requests reach the image processor with options of their own.

    vLLM keeps this flag to its HTTP server, so the command line is looked at. Only that of a server
    without the flag says no; a file of flags may hold it.
    """
    if not _serves_http(argv):
        return True
    names = [word.partition("=")[0].replace("_", "-") for word in argv]
    return any(name in (_TRUST, "--config") for name in names)


def _serves_http(argv: Sequence[str]) -> bool:
    program = Path(argv[0]) if argv else Path()
    by_command = program.name == "vllm" and list(argv[1:2]) == ["serve"]
    return by_command or program.parts[-2:] == ("openai", "api_server.py")
