"""What one process must know of a run on many: which documents are its own, and what was begun.

Ray runs a task again when its machine is gone, and expects the same rows of it. So what a task
found when it first looked at a document is kept here, and found again by the next one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from vllm_dsocr.pipeline.claim import Claim, claim
from vllm_dsocr.pipeline.files import CannotWrite, InUse
from vllm_dsocr.pipeline.inputs import InputFile

Entry = dict[str, Any]
MAX_BEGUN = 3  # times that a page is begun; what died at it so often had a reason


class Ledger:
    """Holds the locks of the documents that are being written; they die with it."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._claims: dict[int, Claim] = {}
        self._entries: dict[int, Entry] = {}
        self._begun: dict[int, Counter[int]] = {}

    def entry(self, document: int) -> Entry | None:
        """What was found when the document was first looked at."""
        return self._entries.get(document)

    def remember(self, document: int, entry: Entry) -> Entry:
        """What was found first, which is this unless another task was before."""
        return self._entries.setdefault(document, entry)

    def claim(self, document: int, file: InputFile, sha256: str) -> Entry:
        """`name`: of the document, which is this run's from now on; or `in_use`, `full`, `failed`:
        why it is not.
        """
        try:
            if document not in self._claims:
                self._claims[document] = claim(self._out, file, sha256)
        except InUse as error:
            return {"in_use": str(error)}
        except CannotWrite as error:
            return {"full": str(error)}
        except OSError as error:
            return {"failed": f"cannot write {file.name}: {error.strerror or error}"}
        return {"name": self._claims[document].file.name}

    def release(self, document: int) -> None:
        """The document is finished, or given up."""
        held = self._claims.pop(document, None)
        if held is not None:
            held.release()
        self._entries.pop(document, None)
        self._begun.pop(document, None)

    def num_begun(self, pages: list[tuple[int, int]]) -> int:
        """How many of the pages, (document, number), have been begun before."""
        return sum(number in self._begun.get(document, ()) for document, number in pages)

    def begin(self, document: int, number: int) -> int:
        """How often the page has been begun, this time included; 0 stands for drawing them."""
        begun = self._begun.setdefault(document, Counter())
        begun[number] += 1
        return begun[number]
