"""`dsocr serve [MODEL] ...` -> `vllm serve MODEL ...`, in its place."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from vllm_dsocr.cli.lazy import APP, PassThrough, examples
from vllm_dsocr.config import OFFICIAL_MODEL

app = typer.Typer(**APP)

OFTEN_WANTED = {
    "--port 8000 --host 0.0.0.0": "where to listen",
    "--max-model-len 8192": "longest page, prompt included, in tokens",
    "--gpu-memory-utilization 0.9": "share of the GPU's memory to use",
    "--tensor-parallel-size 2": "spread the model over GPUs",
    "--trust-request-mm-kwargs": "let requests choose the mode (dsocr convert --mode)",
    "--enable-prompt-tokens-details": "report image tokens apart",
}
HELP = "\n\n".join(
    [
        "Serves a DeepSeek-OCR checkpoint with vLLM and an OpenAI-compatible API.",
        f"MODEL is a folder or a name on the hub; without it {OFFICIAL_MODEL} is served. "
        "Everything else is passed on as it is; nothing else is needed. Often wanted:",
        "\n".join(f"{flag:<32} {what}" for flag, what in OFTEN_WANTED.items()),
        "All options: vllm serve --help=all",
    ]
)


@app.command(
    cls=PassThrough,
    help=HELP,
    options_metavar="[MODEL] [any option of vllm serve]",
    epilog=examples(
        "dsocr serve",
        "dsocr serve my/checkpoint --port 8001 --trust-request-mm-kwargs",
        "dsocr convert scans/ -o out --server http://localhost:8000",
    ),
)
def serve(ctx: typer.Context) -> int:
    """Replaces this process by vLLM's; returns only when vLLM is not installed."""
    program = _vllm_program()
    if program is None:
        print("serving needs vLLM: pip install 'vllm-dsocr[cuda]' or [cpu]", file=sys.stderr)
        return 2
    sys.stdout.flush()
    os.execv(program, serve_command(ctx.args, program))


def serve_command(argv: Sequence[str], program: str = "vllm") -> list[str]:
    """The command line of vLLM, with the official model where none is named."""
    named = bool(argv) and not argv[0].startswith("-")
    return [program, "serve", *([] if named else [OFFICIAL_MODEL]), *argv]


def _vllm_program() -> str | None:
    """The one of this Python's environment first, then the one on the path."""
    beside = Path(sys.executable).with_name("vllm")
    return str(beside) if beside.exists() else shutil.which("vllm")
