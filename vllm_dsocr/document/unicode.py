"""Text as it came -> text that has bytes.

Half of a surrogate pair is a character to Python and to JSON, but not to UTF-8. Standard library
only.
"""

from __future__ import annotations

import json
from typing import Any


def utf8(text: str) -> bytes:
    """The text in UTF-8: halves that belong together joined, a lone one as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON with its letters as they are; lone surrogates escaped, so that they read back."""
    written = json.dumps(value, ensure_ascii=False, indent=indent)
    return written.encode("utf-8", "backslashreplace").decode()
