"""`dsocr train CONFIG.yaml`: fine-tune on pages with their text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Trains and prints the last metrics as JSON; 2 for what is wrong with settings or data."""
    args = _parser().parse_args(argv)
    try:
        from vllm_dsocr.hf.train_settings import read_settings
        from vllm_dsocr.hf.training import train

        metrics = train(read_settings(args.config), resume=args.resume)
    except (ImportError, OSError, ValueError) as error:
        print(f"dsocr train: {error}", file=sys.stderr)
        return 2
    print(json.dumps(metrics))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsocr train",
        description="Fine-tune the whole model, parts of it or adapters; docs/training.md has all "
        "keys of the configuration.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser
