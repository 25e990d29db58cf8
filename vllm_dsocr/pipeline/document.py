"""One file on its way through a run: what is known of it, and what is said of it at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.pipeline.claim import Claim
from vllm_dsocr.pipeline.finish import Recipe, finish_document
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.store import DocumentFolder

Event = dict[str, Any]


@dataclass
class OpenDocument:
    """A file that is being read.

    numbers: its pages so far.  statuses: how many ended how.  reason: the first trouble.
    failed: whether the file itself could not be read or written, apart from any page.
    in_use: whether another run writes it.  claim: what keeps other runs from it.
    """

    file: InputFile
    folder: DocumentFolder
    recipe: Recipe
    numbers: list[int] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    reason: str | None = None
    failed: bool = False
    in_use: bool = False
    claim: Claim | None = None
    reading: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its name as text that any program can read."""
        return utf8(self.file.name).decode()

    def take(self, claim: Claim) -> None:
        """From here on this run is the one that writes it."""
        self.claim, self.file, self.folder = claim, claim.file, claim.folder

    def release(self) -> None:
        """Lets other runs write it."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    def count(self, status: str, note: str | None) -> None:
        """One more page is done."""
        self.statuses[status] += 1
        self.reason = self.reason or note

    def fail(self, error: Exception) -> None:
        """The file is given up; what was written of it before stays."""
        self.failed = True
        self.reason = " ".join(str(error).split()) or type(error).__name__

    def is_left_alone(self) -> bool:
        """Whether nothing is written at the end, and the reason for it."""
        if not self.numbers:
            self.reason = f"it has no page in {self.recipe.output.wanted}"
            return True
        if self.statuses.keys() == {"failed"} and self.folder.manifest():
            self.reason = f"{self.reason}; the finished document stays as it was"
            return True
        return False

    def finish(self, password: str | None) -> None:
        """Writes what is there of it. Raises OSError, or RuntimeError for a fault of a format."""
        numbers = sorted(self.numbers)
        try:
            finish_document(self.file, self.folder, self.recipe, numbers, password)
        except OSError:
            raise
        except Exception as error:  # the pages are there
            raise RuntimeError(f"cannot be written: {type(error).__name__}: {error}") from error

    def summary(self) -> Event:
        """Name, pages by status, whether the file failed or is another run's, first trouble."""
        return {
            "document": self.name,
            "statuses": dict(sorted(self.statuses.items())),
            "failed": self.failed,
            "in_use": self.in_use,
            "reason": self.reason,
        }
