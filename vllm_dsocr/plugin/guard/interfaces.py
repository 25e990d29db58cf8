"""vLLM's two interfaces of a logits processor, as far as the installed release has them.

Model Runner V1 and its interface are on their way out; where it is gone, an empty class stands in
its place and nothing else here changes.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
except ImportError:

    class LogitsProcessorV1:  # type: ignore[no-redef]
        """No Model Runner V1 in this release."""


__all__ = ["LogitsProcessorV1", "LogitsProcessorV2", "is_v2_state"]


def is_v2_state(argument: Any) -> bool:
    """Whether it is what Model Runner V2 builds a processor with; V1 gives a device there."""
    return isinstance(argument, LogitsProcRequestState)
