"""The `dsocr` command: one file per subcommand, each imported only when it is called.

A subcommand `thing` is a file `cli/thing.py` and a line in COMMANDS. The file has

    app = typer.Typer(**APP)

    @app.command(epilog=examples("dsocr thing a.pdf", "dsocr thing b/ --level 3"))
    def thing(
        path: Annotated[Path, typer.Argument(help="what is looked at")],
        level: Annotated[int, typer.Option(help="how closely", min=1)] = 2,
    ) -> int:
        '''One or two sentences that stand above the options.'''
        ...
        return 0

with `APP` and `examples` from `cli/lazy.py`. The function returns the exit code. A wrong value is
`raise typer.BadParameter("one sentence")`, from a `parser=` or `callback=` of the option; any other
expected trouble is one line on stderr that begins with `dsocr thing: ` and exit code 2. A
subcommand with subcommands has several `@app.command()`. One that hands its arguments to another
program is `@app.command(cls=PassThrough)` and finds them in `ctx.args`, see `cli/serve.py`.
Nothing heavy is imported at the top of these files: `dsocr thing --help` has to be quick too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vllm_dsocr import __version__
from vllm_dsocr.cli.lazy import APP, LazyCommand

DOCUMENTS, SERVING, TRAINING, JUDGING = "Documents", "Serving", "Training", "Judging"

# name: ("module:name" of a typer app or of a function from arguments to exit code, what it does,
# heading in the help)
COMMANDS = {
    "convert": ("vllm_dsocr.cli.convert:app", "Read files and folders into documents.", DOCUMENTS),
    "view": ("vllm_dsocr.cli.view:app", "Look at converted pages beside their text.", DOCUMENTS),
    "serve": ("vllm_dsocr.cli.serve:app", "Serve a model with vLLM.", SERVING),
    "gateway": (
        "vllm_dsocr.cli.gateway:app",
        "Serve OCR protocols in front of servers.",
        SERVING,
    ),
    "doctor": (
        "vllm_dsocr.cli.doctor:app",
        "What will be in force, and what is wrong.",
        SERVING,
    ),
    "tune": ("vllm_dsocr.cli.tune:app", "Time the encoder's attention on this device.", SERVING),
    "plan": ("vllm_dsocr.cli.plan:app", "What the model costs to run.", SERVING),
    "train": ("vllm_dsocr.cli.train:app", "Fine-tune on pages with their text.", TRAINING),
    "lora": ("vllm_dsocr.cli.lora:app", "Check and merge adapters.", TRAINING),
    "bench": ("vllm_dsocr.cli.bench:app", "Read and score a public benchmark.", JUDGING),
    "eval": ("vllm_dsocr.cli.eval:app", "Hold texts against the truth.", JUDGING),
}

# What every wrong argument is: typer.TyperException since 0.27, and nameless in 0.26, which is the
# newest that docling-core takes.
REFUSAL: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(**APP)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit code; 2, and one line, for wrong arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    command = typer.main.get_group(app)
    for name, facts in COMMANDS.items():
        command.add_command(LazyCommand(name, *facts))
    try:
        code = command.main(arguments, prog_name="dsocr", standalone_mode=False)
    except REFUSAL as error:
        return _refused(error)
    return code if isinstance(code, int) else 0


def _refused(error: Any) -> int:
    """Says what is wrong with the arguments and where help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "dsocr"
    sentence = " ".join(error.format_message().split())
    print(f"{command}: {sentence} ({command} --help tells more)", file=sys.stderr)
    return int(error.exit_code)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dsocr {__version__}")
        raise typer.Exit


@app.callback(help="DeepSeek-OCR: pages in, documents out.")
def _dsocr(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Everything is in the subcommands."""
