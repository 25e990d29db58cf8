"""Options as a program gives them -> a sentence on the first that cannot be. Knows no command line.

The command line has its own parser; what is wrong there is said before a Reader is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import urlsplit

from vllm_dsocr.config import ALPHAS, MODES
from vllm_dsocr.hosts import ENGINES
from vllm_dsocr.pipeline.settings import Again
from vllm_dsocr.render.finished import MarkdownStyle, MathStyle, TableStyle

_ONE_OF: dict[str, tuple[str, ...]] = {
    "mode": tuple(MODES),
    "alpha": tuple(ALPHAS),
    "engine": ENGINES,
    "again": get_args(Again),
    "tables": get_args(TableStyle),
    "math": get_args(MathStyle),
    "markdown": get_args(MarkdownStyle),
}
_AT_LEAST = {
    **{"retries": 0, "max_failures": 0, "server_retries": 0},
    **{"max_tokens": 1, "concurrency": 1, "timeout": 0.001, "dpi": 1},
}


def check_values(options: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that an option does not take, TypeError for one of its kind."""
    for name, value in options.items():
        if value is None:
            continue
        if name == "server" and not is_address(value):
            raise ValueError(f"{value!r} is no server's address, such as http://localhost:8000")
        if name in _ONE_OF and value not in _ONE_OF[name]:
            raise ValueError(f"{name} is one of {', '.join(_ONE_OF[name])}, not {value!r}")
        if name in _AT_LEAST:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number, not {value!r}")
            if math.isnan(value) or value < _AT_LEAST[name]:
                raise ValueError(f"{name} is at least {_AT_LEAST[name]}, not {value!r}")


def is_address(text: str) -> bool:
    """Whether a server may be there."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, half a bracket
        return False
