"""Who may put the next page into the engine: the document that has the fewest there.

Bounds the pages in flight, for the whole server and for one document, and so the images in memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairGate:
    """`total` slots, at most `per_document` for one document. Belongs to one event loop."""

    def __init__(self, total: int, per_document: int) -> None:
        self.total = total
        self.per_document = per_document
        self._running: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def resize(self, total: int, per_document: int) -> None:
        """Other bounds from now on; pages that run are left to run."""
        self.total, self.per_document = total, per_document
        self._admit()

    @property
    def num_running(self) -> int:
        return self._running.total()

    @property
    def num_waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @asynccontextmanager
    async def slot(self, document: Hashable) -> AsyncIterator[None]:
        """Waits for a place; leaving gives it to the document with the fewest pages running."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(document, deque()).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            self._withdraw(document, turn)
            raise
        try:
            yield
        finally:
            self._leave(document)

    def _admit(self) -> None:
        while self._running.total() < self.total:
            open_to = [d for d in self._waiting if self._running[d] < self.per_document]
            if not open_to:
                return
            document = min(open_to, key=self._running.__getitem__)  # first come among equals
            turn = self._waiting[document].popleft()
            self._forget_if_idle(document)
            if not turn.done():
                self._running[document] += 1
                turn.set_result(None)

    def _withdraw(self, document: Hashable, turn: asyncio.Future[None]) -> None:
        """Cancelled: before its turn it leaves the queue, in that very moment it gives it back."""
        if turn.done() and not turn.cancelled():
            self._leave(document)
        elif document in self._waiting and turn in self._waiting[document]:
            self._waiting[document].remove(turn)
            self._forget_if_idle(document)

    def _leave(self, document: Hashable) -> None:
        self._running[document] -= 1
        if not self._running[document]:
            del self._running[document]
        self._admit()

    def _forget_if_idle(self, document: Hashable) -> None:
        if not self._waiting.get(document, True):
            del self._waiting[document]
