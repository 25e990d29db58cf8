"""`--server`, `--engine` and `--model` -> an Engine; hosts are imported only when chosen."""

from __future__ import annotations

import argparse
import importlib.util
import json
from typing import Any

from vllm_dsocr.config import OFFICIAL_MODEL
from vllm_dsocr.engine import Engine

ENGINES = ("vllm", "hf")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """What reads the pages."""
    group = parser.add_argument_group("what reads the pages")
    group.add_argument(
        "--server", metavar="URL", help="an OpenAI-compatible server, such as http://HOST:8000/v1"
    )
    group.add_argument("--engine", choices=ENGINES, help="without a server: host in this process")
    group.add_argument(
        "--model", help=f"checkpoint ({OFFICIAL_MODEL}), or the server's name for it"
    )
    group.add_argument("--concurrency", type=positive, help="pages in flight at a time")
    group.add_argument(
        "--server-retries",
        type=count,
        metavar="N",
        help="how often a server that errs or hangs up is asked again, waiting longer each time",
    )
    group.add_argument(
        "--engine-arg",
        metavar="NAME=VALUE",
        type=_engine_arg,
        action="append",
        default=[],
        help="passed to vLLM's engine, such as max_model_len=4096; may be repeated",
    )


async def make_engine(args: argparse.Namespace) -> Engine:
    """The engine asked for, not yet entered. Raises EngineLost, ImportError with a hint."""
    limit = {"max_in_flight": args.concurrency} if args.concurrency else {}
    if args.server:
        from vllm_dsocr.server_engine import ServerEngine

        if args.server_retries is not None:
            limit["max_retries"] = args.server_retries
        return await ServerEngine.connect(args.server, args.model, **limit)
    model = args.model or OFFICIAL_MODEL
    if (args.engine or _installed_engine()) == "vllm":
        from vllm_dsocr.plugin.engine import VllmEngine

        return VllmEngine(model, **limit, **dict(args.engine_arg))
    from vllm_dsocr.hf.engine import HfEngine

    return HfEngine(model)


def _installed_engine() -> str:
    return "vllm" if importlib.util.find_spec("vllm") else "hf"


def _engine_arg(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def positive(text: str) -> int:
    """An argument that counts from 1."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def count(text: str) -> int:
    """An argument that counts from 0."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)
