"""Which vLLM releases this package is tested with; standard library only, setup.py reads it."""

from __future__ import annotations

import re

OLDEST_VLLM = "0.31"
NEXT_UNTESTED_VLLM = "0.34"
VLLM_REQUIREMENT = f">={OLDEST_VLLM},<{NEXT_UNTESTED_VLLM}"


def range_problem(version: str) -> str | None:
    """What is wrong with a vLLM version, in one sentence; None for a tested one."""
    if _minor(OLDEST_VLLM) <= _minor(version) < _minor(NEXT_UNTESTED_VLLM):
        return None
    return (
        f"vLLM {version} is outside the range {VLLM_REQUIREMENT} that vllm-dsocr is tested with, "
        "so DeepSeek-OCR may fail to start or answer differently."
    )


def _minor(version: str) -> tuple[int, int]:
    """(major, minor); builds without a release number count as older than all."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (-1, -1)
