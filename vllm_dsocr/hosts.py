"""Which host reads the pages: an EngineChoice -> an Engine. Hosts are imported only when needed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_dsocr.config import OFFICIAL_MODEL
from vllm_dsocr.engine import Completion, Engine, Request

ENGINES = ("vllm", "hf")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What reads the pages: a server, or a host in this process.

    concurrency: pages in flight.  server_retries: how often a server that errs is asked again.
    engine_args: what vLLM's engine is made with. None leaves a choice to the engine.
    """

    server: str | None = None
    engine: str | None = None
    model: str | None = None
    concurrency: int | None = None
    server_retries: int | None = None
    engine_args: Mapping[str, Any] = field(default_factory=dict)


class DeferredEngine:
    """An engine that is imported and loaded when it is entered, and not before.

    max_in_flight, versions: known once it was entered.
    """

    def __init__(self, model: str, make: Callable[[], Engine]) -> None:
        self.model = model
        self.max_in_flight = 1
        self.versions: Mapping[str, str] = {}
        self._make = make

    async def __aenter__(self) -> DeferredEngine:
        """Raises EngineLost, ImportError with what to install."""
        self._engine = self._make()
        await self._engine.__aenter__()
        self.versions = self._engine.versions
        self.max_in_flight = self._engine.max_in_flight
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._engine.__aexit__(*exception)

    async def complete(self, request: Request) -> Completion:
        return await self._engine.complete(request)


async def make_engine(choice: EngineChoice) -> Engine:
    """The engine asked for, not yet entered. Raises EngineLost, ImportError with a hint."""
    if choice.server is not None:
        from vllm_dsocr.server_engine import ServerEngine

        limit = {"max_in_flight": choice.concurrency, "max_retries": choice.server_retries}
        given = {name: value for name, value in limit.items() if value is not None}
        return await ServerEngine.connect(choice.server, choice.model, **given)
    model, host = choice.model or OFFICIAL_MODEL, choice.engine or _installed_engine()
    make = _vllm if host == "vllm" else _transformers
    return DeferredEngine(model, lambda: make(model, choice))


def _vllm(model: str, choice: EngineChoice) -> Engine:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    try:
        from vllm_dsocr.plugin.engine import VllmEngine
    except ImportError as error:
        raise ImportError(
            f"reading in this process needs vLLM ({error}): pip install 'vllm-dsocr[cuda]' or [cpu]"
        ) from error
    return VllmEngine(model, choice.concurrency, **choice.engine_args)


def _transformers(model: str, choice: EngineChoice) -> Engine:
    try:
        from vllm_dsocr.hf.engine import HfEngine
    except ImportError as error:
        raise ImportError(
            f"reading in this process needs vLLM or transformers ({error}): "
            "pip install 'vllm-dsocr[hf]', or name a --server"
        ) from error
    return HfEngine(model)


def _installed_engine() -> str:
    return "vllm" if importlib.util.find_spec("vllm") else "hf"
