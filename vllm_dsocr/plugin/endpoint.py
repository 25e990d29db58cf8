"""The OCR service inside vLLM's own API server: an entry point of group `vllm.endpoint_plugins`.

The same routes as `dsocr gateway` has, over the server's engine client, with its API key, its names
of the model and of adapters. vLLM loads this only where VLLM_PLUGINS names `dsocr_api`, which
`dsocr serve` does.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient
from vllm.logger import init_logger

from vllm_dsocr.config import ARCHITECTURE
from vllm_dsocr.plugin.engine import ServedEngine
from vllm_dsocr.server.app import attach, start
from vllm_dsocr.server.logs import write_json
from vllm_dsocr.server.settings import Settings

logger = init_logger(f"vllm.{__name__}")


class OcrEndpoint:
    """vLLM's `EndpointPlugin`: routes first, what they need once the engine is there."""

    name = "dsocr_api"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._app: FastAPI | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Routes, and an end for what `init_state` begins."""
        attach(app, own_process=False)
        self._app = app
        served = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(application: FastAPI) -> AsyncIterator[Any]:
            async with served(application) as state:
                try:
                    yield state
                finally:
                    await self._stack.aclose()

        app.router.lifespan_context = lifespan

    async def init_state(
        self, engine_client: EngineClient | None, state: State, args: Namespace
    ) -> None:
        """Begins to read pages. Other models are served as ever: our routes then answer 503."""
        assert self._app is not None and engine_client is not None
        if ARCHITECTURE not in engine_client.model_config.architectures:
            logger.info("The served model is not DeepSeek-OCR: its OCR routes answer 503.")
            return
        settings = settings_of(args)
        if settings.log_format == "json":
            write_json("vllm_dsocr", "info")
        loras = state.openai_serving_models.lora_requests
        engine = ServedEngine(engine_client, model_names(args), loras)
        await self._stack.enter_async_context(start(self._app, engine, settings, REGISTRY))


def settings_of(args: Namespace) -> Settings:
    """The environment's settings under the server's own keys and model name."""
    keys = [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
    settings = Settings.from_environment()
    name = settings.model_name or model_names(args)[0]
    return replace(settings, api_keys=tuple(keys), model_name=name)


def model_names(args: Namespace) -> list[str]:
    """What the server calls its model, the first name first."""
    names = args.served_model_name or [args.model]
    return [names] if isinstance(names, str) else list(names)
