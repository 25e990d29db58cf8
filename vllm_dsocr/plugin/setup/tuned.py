"""Where block sizes that were tuned here lie, and how vLLM comes to find them.

    $XDG_CACHE_HOME/vllm-dsocr/experts (~/.cache without it) -> VLLM_TUNED_CONFIG_FOLDER

Set where this architecture is served and nobody has set it; workers inherit it. Files have the
names of vLLM, which falls back on its own folder for those that ours lacks.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"


def tuned_folder() -> Path:
    """May not exist."""
    cache = os.environ.get("XDG_CACHE_HOME")
    root = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return root / "vllm-dsocr" / "experts"


def use_tuned_folder() -> None:
    """To be called before vLLM starts its engine."""
    if os.environ.get(VARIABLE) is None and any(tuned_folder().glob("*.json")):
        os.environ[VARIABLE] = str(tuned_folder())
