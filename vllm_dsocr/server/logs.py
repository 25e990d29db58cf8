"""Lines of log as JSON objects, each with the request or job it is about.

In `text` nothing is changed: whoever runs the service formats its lines. Standard library only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from vllm_dsocr.document.unicode import json_text

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("dsocr_about", default=MappingProxyType({}))


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Whatever is logged inside, in tasks and threads that begin there too, carries these ids."""
    token = _ABOUT.set({**_ABOUT.get(), **ids})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonLines(logging.Formatter):
    """time, level, logger, message; the ids of `about`; `facts` of the record; a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ABOUT.get(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_text(line)


def write_json(logger: str, level: str) -> None:
    """Sends what a logger and those below it say to stderr, as JSON and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    chosen = logging.getLogger(logger)
    chosen.handlers = [handler]
    chosen.setLevel(level.upper())
    chosen.propagate = False
    for client in ("httpx", "httpx2"):  # a line for every page, and more
        logging.getLogger(client).setLevel(logging.WARNING)
