"""Arguments that choose what reads the pages. The choice itself is `vllm_dsocr.hosts`."""

from __future__ import annotations

import argparse
import json
from typing import Any

import typer

from vllm_dsocr.hosts import ENGINES as ENGINES
from vllm_dsocr.hosts import EngineChoice as EngineChoice
from vllm_dsocr.hosts import make_engine as make_engine


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
