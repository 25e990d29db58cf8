"""Several servers of one model as one Engine: the least loaded reads the next page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_dsocr.config import DEFAULT_MODE, MODES
from vllm_dsocr.engine import Completion, Engine, Request
from vllm_dsocr.fleet.replicas import Discover, Replica, Replicas
from vllm_dsocr.page.geometry import plan_tiles


class BalancedEngine:
    """Replicas behind one Engine, which may come and go.

    model: None takes the name of the first one that answers.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        model: str | None = None,
        discover: Discover | None = None,
    ) -> None:
        self.replicas = Replicas(replicas, discover)
        self._model = model or ""

    @property
    def model(self) -> str:
        """The name the servers have for it; what was known of it stays when all are away."""
        self._model = self._model or next((e.model for e in self._engines), "")
        return self._model

    @property
    def names(self) -> Sequence[str]:
        """Other names that servers have for it."""
        return [name for engine in self._engines for name in getattr(engine, "names", ())]

    @property
    def adapters(self) -> Mapping[str, str]:
        """What tells those of each name apart: where servers took them from.

        Those of a server that is away for now are still known.
        """
        found: dict[str, set[str]] = {}
        for replica in self.replicas.all:
            for name, root in replica.adapters.items():
                found.setdefault(name, set()).add(root)
        return {name: " ".join(sorted(roots)) for name, roots in found.items()}

    async def list_models(self) -> None:
        """Asks the servers what they have now; `names` and `adapters` are as of the last look."""
        await self.replicas.list_models()

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the first one that answers."""
        return next((engine.versions for engine in self._engines), {})

    @property
    def max_in_flight(self) -> int:
        """What all of them take together, those that are away for now included."""
        known = [engine.max_in_flight for engine in self._engines]
        return max(known, default=1) * len(self.replicas.all)

    @property
    def is_ready(self) -> bool:
        """Whether a page could be read now."""
        return self.num_ready > 0

    @property
    def num_ready(self) -> int:
        """Replicas that answer."""
        return len(self.replicas.ready)

    @property
    def _engines(self) -> list[Engine]:
        return [r.engine for r in self.replicas.all if r.engine is not None]

    async def __aenter__(self) -> BalancedEngine:
        await self.replicas.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.replicas.stop()

    async def complete(self, request: Request) -> Completion:
        """Raises EngineError of the server that read it, EngineLost when none is left.

        A page for an adapter goes to servers that have it.
        """

        async def read(replica: Replica) -> Completion:
            assert replica.engine is not None
            return await replica.engine.complete(request)

        return await self.replicas.ask(num_vision_tokens(request), read, request.adapter)


def num_vision_tokens(request: Request) -> int:
    """What a page will cost to encode, in tokens."""
    mode = request.mode if request.mode in MODES else DEFAULT_MODE
    return plan_tiles(*request.image.size, MODES[mode]).num_image_tokens
