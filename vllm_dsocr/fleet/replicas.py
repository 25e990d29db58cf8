"""Servers of one model that come and go, and which of them is asked next: the least loaded.

Those that do not answer are asked again, those that answer are watched, and a discovery is asked
who there is. Load is what a server has yet to encode, counted in vision tokens, because pages
differ thirtyfold. A page is a question that may be asked again, so one whose server goes away, or
makes a mistake of its own, is read by another. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from vllm_dsocr.engine import Engine, EngineFault, EngineLost, NoAdapter

logger = logging.getLogger(__name__)
T = TypeVar("T")

Connect = Callable[[], Awaitable[Engine]]
Check = Callable[[], Awaitable[None]]
Discover = Callable[[], Awaitable[Sequence["Replica"]]]

PROBE_SECONDS = 5.0  # between looks at every server
ANSWER_SECONDS = 10.0  # within which a server that works says that it does
LIST_SECONDS = 2.0  # that a request waits for servers to say what they have
MAX_MISSED = 3  # looks in a row without an answer
MAX_FAULTS = 3  # requests in a row that another server answered
REST_SECONDS = 30.0  # that a server with so many faults is passed over
MAX_SERVERS = 3  # one request is put to: it may be what takes them down


@dataclass(eq=False)
class Replica:
    """One server. engine: None while it cannot be reached.

    check: raises EngineLost when the server answers no more; None: whoever asks finds out.
    adapters: those it had when it was last asked, each with where it took it from.
    """

    name: str
    connect: Connect
    check: Check | None = None
    engine: Engine | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    num_outstanding_tokens: int = 0
    num_running: int = 0
    is_draining: bool = False
    trouble: str = ""  # why it does not answer, as it stands in the log
    failures: int = 0  # since it is known: times it was gone or at fault
    missed: int = 0
    faults: int = 0
    resting_until: float = 0.0
    _gone: asyncio.Future[None] | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        """Makes it ready. Raises EngineLost."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                engine = await self.connect()
                self._stack = AsyncExitStack()
                opened = await self._stack.enter_async_context(engine)
                await self._list_models(opened)  # before anybody takes it for one without adapters
        except TimeoutError as error:
            await self._stack.aclose()
            raise EngineLost(f"it did not answer within {ANSWER_SECONDS:g} s") from error
        self.engine = opened
        self._gone = asyncio.get_running_loop().create_future()
        self.missed = self.faults = 0

    async def close(self) -> None:
        """Leaves it; who waits for it is told that it is gone."""
        self.engine = None
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        await self._stack.aclose()

    @contextmanager
    def carrying(self, num_tokens: int) -> Iterator[None]:
        """Counts what it has been given."""
        self.num_outstanding_tokens += num_tokens
        self.num_running += 1
        try:
            yield
        finally:
            self.num_outstanding_tokens -= num_tokens
            self.num_running -= 1

    @asynccontextmanager
    async def unless_gone(self) -> AsyncIterator[None]:
        """What is done inside ends with EngineLost as soon as somebody finds the server gone."""
        gone = self._gone
        if gone is None or gone.done():
            raise EngineLost("the server is gone")
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(None) as scope:

                def end(_: asyncio.Future[None]) -> None:
                    with suppress(RuntimeError):  # it has been left already
                        scope.reschedule(now())

                gone.add_done_callback(end)
                try:
                    yield
                finally:
                    gone.remove_done_callback(end)
        except Exception as error:
            if gone.done() and not isinstance(error, EngineLost):
                raise EngineLost("the server went away while it was at it") from error
            raise

    async def look(self) -> None:
        """Raises EngineLost when the server has not answered for a while."""
        if self.check is None:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self.check()
                await self.list_models()
            self.missed = 0
        except TimeoutError as error:
            self.missed += 1
            if self.missed >= MAX_MISSED:
                raise EngineLost("it takes connections and does not answer") from error

    async def list_models(self) -> None:
        """What else it has beside its model, where it can tell."""
        if self.engine is not None:
            await self._list_models(self.engine)

    async def _list_models(self, engine: Engine) -> None:
        if (ask := getattr(engine, "list_models", None)) is not None:
            await ask()
            self.adapters = getattr(engine, "adapters", {})


class Replicas:
    """The servers there are.

    discover: gives those there are at the moment beside `replicas`; known ones are recognised by
    name.
    """

    def __init__(self, replicas: Sequence[Replica], discover: Discover | None = None) -> None:
        self.all = list(replicas)
        self._named = {replica.name for replica in replicas}
        self._discover = discover
        self._probing: asyncio.Task[None] | None = None

    @property
    def ready(self) -> list[Replica]:
        """Those that answer."""
        return [replica for replica in self.all if replica.engine is not None]

    async def start(self) -> None:
        """Servers that do not answer yet are asked again and again."""
        await self._refresh()
        self._probing = asyncio.create_task(self._probe(), name="probe-replicas")

    async def stop(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
        await asyncio.gather(*(replica.close() for replica in self.all))

    async def ask(
        self,
        num_tokens: int,
        work: Callable[[Replica], Awaitable[T]],
        adapter: str | None = None,
    ) -> T:
        """What the work comes to at the least loaded server, or at another where that fails.

        num_tokens: of vision, which it loads a server with.  adapter: only servers that have it are
        asked, as long as any is known to.  Work raises EngineLost where the server is gone,
        EngineFault where it made a mistake that another may not make, NoAdapter. Raises the last
        fault, or EngineLost when no server is left.
        """
        tried: list[Replica] = []
        faulty: list[Replica] = []
        fault: EngineFault | NoAdapter | None = None
        while len(tried) < MAX_SERVERS and (replica := self._least_loaded(tried, adapter)):
            tried.append(replica)
            try:
                with replica.carrying(num_tokens):
                    async with replica.unless_gone():
                        result = await work(replica)
            except EngineLost as error:
                await self._lose(replica, error)
            except EngineFault as error:
                fault = error
                faulty.append(replica)
            except NoAdapter as error:
                fault = fault or error
                await replica.list_models()
            else:
                replica.faults = 0
                self._blame(faulty)
                return result
        if fault is None and len(tried) == MAX_SERVERS:
            fault = EngineFault(f"{MAX_SERVERS} servers went away while they were at it")
        raise fault or EngineLost("no server is left that answers")

    async def list_models(self) -> None:
        """Looks at once at what the servers have, and not at the next look."""
        looks = (replica.list_models() for replica in self.ready)
        with suppress(TimeoutError):
            async with asyncio.timeout(LIST_SECONDS):
                await asyncio.gather(*looks)

    def drain(self, name: str, draining: bool = True) -> None:
        """Whether a server gets new pages; those it has are read to their end."""
        for replica in self.all:
            if replica.name == name:
                replica.is_draining = draining

    def _least_loaded(self, tried: Sequence[Replica], adapter: str | None) -> Replica | None:
        now = time.monotonic()
        suited = [r for r in self.all if adapter in r.adapters] or self.all
        open_to = [r for r in self.ready if r in suited and not r.is_draining and r not in tried]
        rested = [r for r in open_to if r.resting_until <= now]
        return min(
            rested or open_to,
            key=lambda replica: (replica.num_outstanding_tokens, replica.num_running),
            default=None,
        )

    def _blame(self, failed: Sequence[Replica]) -> None:
        """What one server could answer is no fault of the request at the others."""
        for replica in failed:
            if replica.engine is None:
                continue
            replica.failures += 1
            replica.faults += 1
            if replica.faults >= MAX_FAULTS:
                replica.faults = 0
                replica.resting_until = time.monotonic() + REST_SECONDS
                logger.warning(
                    "%s made %d mistakes in a row: it is passed over for %g s",
                    *(replica.name, MAX_FAULTS, REST_SECONDS),
                )

    async def _open(self, replica: Replica) -> None:
        try:
            await replica.open()
        except EngineLost as error:
            replica.failures += 1
            if str(error) != replica.trouble:  # once, and not at every look
                logger.warning("%s does not answer: %s", replica.name, error)
            replica.trouble = str(error)
        else:
            replica.trouble = ""
            logger.info("%s answers", replica.name)

    async def _look(self, replica: Replica) -> None:
        try:
            await replica.look()
        except EngineLost as error:
            await self._lose(replica, error)

    async def _lose(self, replica: Replica, error: EngineLost) -> None:
        if replica.engine is None:  # another page has found it out before
            return
        replica.failures += 1
        logger.warning("%s is gone, its pages go to others: %s", replica.name, error)
        await replica.close()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self._refresh()
            except Exception:
                logger.exception("looking at the servers failed; it is tried again")

    async def _refresh(self) -> None:
        """Takes in who is new, lets go who is no longer named, tries who is away."""
        if self._discover is not None:
            found = {replica.name: replica for replica in await self._discover()}
            known = {replica.name for replica in self.all}
            self.all += [found[name] for name in found if name not in known]
            for gone in [r for r in self.all if r.name not in self._named | set(found)]:
                await self._let_go(gone)
        await asyncio.gather(
            *(self._look(r) if r.engine is not None else self._open(r) for r in self.all)
        )

    async def _let_go(self, replica: Replica) -> None:
        """It gets no more pages, and is left when it has read those it has."""
        replica.is_draining = True
        if replica.num_running == 0:
            self.all.remove(replica)
            await replica.close()
