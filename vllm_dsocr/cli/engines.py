"""`--server`, `--engine` and `--model` -> an Engine; hosts are imported only when chosen."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import typer

from vllm_dsocr.config import OFFICIAL_MODEL
from vllm_dsocr.engine import Engine

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


async def make_engine(choice: EngineChoice) -> Engine:
    """The engine asked for, not yet entered. Raises EngineLost, ImportError with a hint."""
    limit = {"max_in_flight": choice.concurrency} if choice.concurrency else {}
    if choice.server:
        from vllm_dsocr.server_engine import ServerEngine

        if choice.server_retries is not None:
            limit["max_retries"] = choice.server_retries
        return await ServerEngine.connect(choice.server, choice.model, **limit)
    model = choice.model or OFFICIAL_MODEL
    if (choice.engine or _installed_engine()) == "vllm":
        from vllm_dsocr.plugin.engine import VllmEngine

        return VllmEngine(model, **limit, **choice.engine_args)
    from vllm_dsocr.hf.engine import HfEngine

    return HfEngine(model)


def _installed_engine() -> str:
    return "vllm" if importlib.util.find_spec("vllm") else "hf"


def engine_arg(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where the value is JSON or else text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def positive(text: str) -> int:
    """An argument of argparse that counts from 1."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def count(text: str) -> int:
    """An argument of argparse that counts from 0."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)
