"""A split of documents over runs that know nothing of each other, such as the machines of a job."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index`, counted from 1, of `total` parts."""

    index: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8` is the second of eight. Raises ValueError."""
        index, _, total = text.partition("/")
        if not all(part.isascii() and part.isdecimal() for part in (index, total)):
            raise ValueError(f"{text!r} is not I/N, such as 1/4")
        if not 1 <= int(index) <= int(total):
            raise ValueError(f"{text!r}: I of I/N counts from 1 to N")
        return cls(int(index), int(total))

    def has(self, document: str) -> bool:
        """Whether the document is in this part; it is in exactly one, whatever others there are."""
        digest = hashlib.sha256(os.fsencode(document)).digest()
        return int.from_bytes(digest[:8]) % self.total == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.total}"


WHOLE = Shard(1, 1)
