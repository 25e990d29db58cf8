"""One file on its way through a run: what is known of it, and what is said of it at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.pipeline.finish import Recipe
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.store import DocumentFolder

Event = dict[str, Any]


@dataclass
class OpenDocument:
    """A file that is being read.

    numbers: its pages so far.  statuses: how many ended how.  reason: the first trouble.
    failed: whether the file itself could not be read or written, apart from any page.
    """

    file: InputFile
    folder: DocumentFolder
    recipe: Recipe
    numbers: list[int] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    reason: str | None = None
    failed: bool = False
    reading: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its name as text that any program can read."""
        return utf8(self.file.name).decode()

    def count(self, status: str, note: str | None) -> None:
        """One more page is done."""
        self.statuses[status] += 1
        self.reason = self.reason or note

    def fail(self, error: Exception) -> None:
        """The file is given up; what was written of it before stays."""
        self.failed = True
        self.reason = " ".join(str(error).split()) or type(error).__name__

    def summary(self) -> Event:
        """Name, number of pages by status, whether the file failed, first trouble."""
        return {
            "document": self.name,
            "statuses": dict(sorted(self.statuses.items())),
            "failed": self.failed,
            "reason": self.reason,
        }
