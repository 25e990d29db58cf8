"""`dsocr serve [MODEL] ...` -> `vllm serve MODEL ...`, in its place."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import typer

from vllm_dsocr.cli.lazy import APP, PassThrough, examples
from vllm_dsocr.config import OFFICIAL_MODEL
from vllm_dsocr.server.flags import take_flags

app = typer.Typer(**APP)

ADDED_FLAGS = ("--trust-request-mm-kwargs",)  # requests may choose the mode
MIDDLEWARE = "vllm_dsocr.server.auth.ApiKeyHeader"  # keys where OCR clients put them
OWN_PLUGINS = ("dsocr", "dsocr_api")
ENDPOINT_GROUP = "vllm.endpoint_plugins"
OFTEN_WANTED = {
    "--port 8000 --host 0.0.0.0": "where to listen",
    "--max-model-len 8192": "longest page, prompt included, in tokens",
    "--gpu-memory-utilization 0.9": "share of the GPU's memory to use",
    "--tensor-parallel-size 2": "spread the model over GPUs",
    "--api-key KEY": "let in those who have it (X-Api-Key and Bearer)",
    "--ocr-max-pages 1000": "settings of the OCR service, see dsocr gateway --help",
    "--enable-prompt-tokens-details": "report image tokens apart",
}
HELP = "\n\n".join(
    [
        "Serves a DeepSeek-OCR checkpoint with vLLM: the OpenAI-compatible API, OCR protocols "
        "(Mistral, docling-serve, Open WebUI) and a web page at /.",
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
        "dsocr serve my/checkpoint --port 8001 --ocr-data /var/lib/dsocr",
        "dsocr convert scans/ -o out --server http://localhost:8000",
    ),
)
def serve(ctx: typer.Context) -> int:
    """Replaces this process by vLLM's; returns only when vLLM is not installed."""
    program = _vllm_program()
    if program is None:
        print("serving needs vLLM: pip install 'vllm-dsocr[cuda]' or [cpu]", file=sys.stderr)
        return 2
    try:
        settings, arguments = take_flags(ctx.args, "ocr")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    sys.stdout.flush()
    environment = {**os.environ, **settings, "VLLM_PLUGINS": allowed_plugins()}
    os.execve(program, serve_command(arguments, program), environment)


def serve_command(argv: Sequence[str], program: str = "vllm") -> list[str]:
    """The command line of vLLM, with the official model where none is named."""
    named = bool(argv) and not argv[0].startswith("-")
    added = [flag for flag in ADDED_FLAGS if not _is_given(flag, argv)]
    model = [] if named else [OFFICIAL_MODEL]
    return [program, "serve", *model, *argv, *added, "--middleware", MIDDLEWARE]


def _is_given(flag: str, argv: Sequence[str]) -> bool:
    """Whether the user has said it, or its opposite."""
    return bool({flag, flag.replace("--", "--no-", 1)} & set(argv))


def allowed_plugins() -> str:
    """VLLM_PLUGINS, an allowlist for every kind of plugin: what would be loaded anyway, and ours.

    Endpoints add routes, so vLLM loads none that is not named; of others it loads all unless some
    are. What the user has named stays.
    """
    stated = os.environ.get("VLLM_PLUGINS")
    if stated is not None:
        return ",".join(dict.fromkeys([*filter(None, stated.split(",")), *OWN_PLUGINS]))
    found = entry_points()
    groups = [g for g in found.groups if g.startswith("vllm.") and g != ENDPOINT_GROUP]
    names = [plugin.name for group in groups for plugin in found.select(group=group)]
    return ",".join(dict.fromkeys([*names, *OWN_PLUGINS]))


def _vllm_program() -> str | None:
    """The one of this Python's environment first, then the one on the path."""
    beside = Path(sys.executable).with_name("vllm")
    return str(beside) if beside.exists() else shutil.which("vllm")
