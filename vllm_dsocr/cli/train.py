"""`dsocr train CONFIG.yaml`: fine-tune on pages with their text."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_dsocr.cli.lazy import APP, examples

if TYPE_CHECKING:
    from vllm_dsocr.hf.training import TrainSettings

app = typer.Typer(**APP)
EXAMPLES = examples(
    "dsocr train config.yaml",
    "dsocr train config.yaml --check",
    "dsocr train config.yaml --resume",
    "torchrun --nproc-per-node 8 -m vllm_dsocr.cli train config.yaml",
)


@app.command(epilog=EXAMPLES)
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="docs/training.md has all its keys")
    ],
    resume: Annotated[bool, typer.Option(help="go on from the last checkpoint")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="look through the data and train nothing")
    ] = False,
) -> int:
    """Fine-tune the whole model, parts of it or adapters on pages with their text.

    Prints the last metrics as JSON. With --check it says how many samples are kept and what is
    wrong with others or with their grounding tags; the exit code is 1 if anything is.
    """
    try:
        from vllm_dsocr.hf.training import read_settings

        settings = read_settings(config)
        if check:
            return _check(settings)
        from vllm_dsocr.hf.training import train as run

        metrics = run(settings, resume=resume)
    except (ImportError, OSError, ValueError) as error:
        print(f"dsocr train: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(metrics))
    return 0


def _check(settings: TrainSettings) -> int:
    from vllm_dsocr.hf.training.check import check

    kept, problems = check(settings)
    print("\n".join([*kept, *(f"problem: {problem}" for problem in problems)]))
    return 1 if problems else 0
