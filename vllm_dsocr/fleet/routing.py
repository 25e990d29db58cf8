"""Several servers of one model as one Engine: the least loaded reads the next page.

Servers may come and go: those that do not answer are asked again, and a discovery is asked who
there is. Load is what a server has yet to encode, counted in vision tokens, because pages differ
thirtyfold. A page is a question that may be asked again, so one whose server goes away is read by
another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from vllm_dsocr.config import DEFAULT_MODE, MODES
from vllm_dsocr.engine import Completion, Engine, EngineLost, Request
from vllm_dsocr.page.geometry import plan_tiles

logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[Engine]]
PROBE_SECONDS = 5.0


@dataclass(eq=False)
class Replica:
    """One server. engine: None while it cannot be reached."""

    name: str
    connect: Connect
    engine: Engine | None = None
    num_outstanding_tokens: int = 0
    num_running: int = 0
    is_draining: bool = False
    failures: int = 0
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        """Makes it ready. Raises EngineLost."""
        engine = await self.connect()
        self._stack = AsyncExitStack()
        self.engine = await self._stack.enter_async_context(engine)

    async def close(self) -> None:
        """Leaves it; pages it still reads are lost to it."""
        self.engine = None
        await self._stack.aclose()


class BalancedEngine:
    """Replicas behind one Engine, which may come and go.

    model: None takes the name of the first one that answers.  discover: gives the replicas there
    are at the moment beside `replicas`; known ones are recognised by name.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        model: str | None = None,
        discover: Callable[[], Awaitable[Sequence[Replica]]] | None = None,
    ) -> None:
        self.replicas = list(replicas)
        self._named = {replica.name for replica in replicas}
        self._discover = discover
        self.model = model or ""
        self.versions: Mapping[str, str] = {}
        self._probing: asyncio.Task[None] | None = None

    @property
    def max_in_flight(self) -> int:
        """What all of them take together, those that are away for now included."""
        known = [r.engine.max_in_flight for r in self.replicas if r.engine is not None]
        return max(known, default=1) * len(self.replicas)

    @property
    def is_ready(self) -> bool:
        """Whether a page could be read now."""
        return self.num_ready > 0

    @property
    def num_ready(self) -> int:
        """Replicas that answer."""
        return sum(replica.engine is not None for replica in self.replicas)

    async def __aenter__(self) -> BalancedEngine:
        """Replicas that do not answer yet are asked again and again."""
        await self._refresh()
        self._probing = asyncio.create_task(self._probe(), name="probe-replicas")
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._probing is not None:
            self._probing.cancel()
        await asyncio.gather(*(replica.close() for replica in self.replicas))

    async def complete(self, request: Request) -> Completion:
        """Raises EngineError of the server that read it, EngineLost when none is left."""
        cost = num_vision_tokens(request)
        tried: set[Replica] = set()
        while (replica := self._least_loaded(tried)) is not None:
            tried.add(replica)
            replica.num_outstanding_tokens += cost
            replica.num_running += 1
            try:
                assert replica.engine is not None
                return await replica.engine.complete(request)
            except EngineLost as error:
                await self._lose(replica, error)
            finally:
                replica.num_outstanding_tokens -= cost
                replica.num_running -= 1
        raise EngineLost("no server is left that answers")

    def drain(self, name: str, draining: bool = True) -> None:
        """Whether a replica gets new pages; those it has are read to their end."""
        for replica in self.replicas:
            if replica.name == name:
                replica.is_draining = draining

    def _least_loaded(self, tried: set[Replica]) -> Replica | None:
        ready = [
            replica
            for replica in self.replicas
            if replica.engine is not None and not replica.is_draining and replica not in tried
        ]
        return min(ready, key=lambda replica: replica.num_outstanding_tokens, default=None)

    async def _open(self, replica: Replica) -> None:
        try:
            await replica.open()
        except EngineLost as error:
            replica.failures += 1
            logger.warning("%s does not answer: %s", replica.name, error)
            return
        assert replica.engine is not None
        self.model = self.model or replica.engine.model
        self.versions = self.versions or replica.engine.versions

    async def _lose(self, replica: Replica, error: EngineLost) -> None:
        if replica.engine is None:  # another page has found it out before
            return
        replica.failures += 1
        logger.warning("%s is gone, its pages go to others: %s", replica.name, error)
        await replica.close()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._refresh()

    async def _refresh(self) -> None:
        """Takes in who is new, lets go who is no longer named, tries who is away."""
        if self._discover is not None:
            found = {replica.name: replica for replica in await self._discover()}
            known = {replica.name for replica in self.replicas}
            self.replicas += [found[name] for name in found if name not in known]
            for gone in [r for r in self.replicas if r.name not in self._named | set(found)]:
                await self._let_go(gone)
        away = [replica for replica in self.replicas if replica.engine is None]
        await asyncio.gather(*(self._open(replica) for replica in away))

    async def _let_go(self, replica: Replica) -> None:
        """It gets no more pages, and is left when it has read those it has."""
        replica.is_draining = True
        if replica.num_running == 0:
            self.replicas.remove(replica)
            await replica.close()


def num_vision_tokens(request: Request) -> int:
    """What a page will cost to encode, in tokens."""
    mode = request.mode if request.mode in MODES else DEFAULT_MODE
    return plan_tiles(*request.image.size, MODES[mode]).num_image_tokens
