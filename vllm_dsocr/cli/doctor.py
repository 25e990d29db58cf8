"""`dsocr doctor [MODEL] ...` -> what serving it would come to, and what is wrong here."""

from __future__ import annotations

import os
import sys

import typer

from vllm_dsocr.cli.lazy import APP, PassThrough, examples

app = typer.Typer(**APP)

HELP = "\n\n".join(
    [
        "Prints what serving MODEL with these options would come to, and what is wrong with this "
        "environment. Without MODEL only the environment is looked at.",
        "Exits with 1 when serving would fail, with 2 for options that vllm serve does not have.",
    ]
)


@app.command(
    cls=PassThrough,
    help=HELP,
    options_metavar="[MODEL] [any option of vllm serve]",
    epilog=examples(
        "dsocr doctor",
        "dsocr doctor deepseek-ai/DeepSeek-OCR",
        "dsocr doctor my/checkpoint --max-model-len 4096 --trust-request-mm-kwargs",
    ),
)
def doctor(ctx: typer.Context) -> int:
    """The exit code: 1 when serving would fail, 2 for a command line that cannot be read."""
    from vllm_dsocr.plugin.doctor.report import report

    model, flags = ctx.args[0] if ctx.args else None, ctx.args[1:]
    if model is not None and model.startswith("-"):
        print("dsocr doctor: the model comes first, its options behind it", file=sys.stderr)
        return 2
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        return report(model, flags)
    except SystemExit:  # vLLM's parser leaves so, with a line about the option
        return 2
