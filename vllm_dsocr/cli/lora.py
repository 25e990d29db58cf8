"""`dsocr lora check PATH`, `dsocr lora merge PATH OUT`: adapters and what can be done with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vllm_dsocr.adapter_names import AdapterReport, check_adapter
from vllm_dsocr.cli.lazy import APP, examples

EXIT_NOT_SERVED, EXIT_NO_ADAPTER = 1, 2
Adapter = Annotated[Path, typer.Argument(metavar="PATH", help="folder of the adapter")]

app = typer.Typer(**APP, help="Adapters made by PEFT.")


@app.command(epilog=examples("dsocr lora check runs/adapter"))
def check(adapter: Adapter) -> int:
    """Say whether vLLM loads an adapter, and what each of its tensors changes."""
    try:
        report = check_adapter(adapter)
    except (OSError, ValueError) as error:
        return _refused(error)
    print("\n".join(_lines(report, adapter)))
    return EXIT_NOT_SERVED if report.problems else 0


@app.command(
    epilog=examples("dsocr lora merge runs/adapter OUT", "dsocr lora merge runs/checkpoint-200 OUT")
)
def merge(
    adapter: Adapter,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="folder of the checkpoint")],
    base: Annotated[
        str | None, typer.Option(help="checkpoint to merge into; default: what the adapter names")
    ] = None,
) -> int:
    """Write the base with the adapter worked in, a checkpoint like any other."""
    try:
        from vllm_dsocr.hf.training.lora import merge as run

        run(adapter, output, base)
    except (ImportError, OSError, ValueError) as error:
        return _refused(error)
    print(output)
    return 0


def _refused(error: Exception) -> int:
    print(f"dsocr lora: {error}", file=sys.stderr)
    return EXIT_NO_ADAPTER


def _lines(report: AdapterReport, adapter: Path) -> list[str]:
    names = [f"{name} -> {goal or '-'}  ({count} tensors)" for name, goal, count in report.modules]
    if any(".experts." in name for name, _, _ in report.modules):
        names.append("note: on the CPU vLLM leaves out what is for routed experts")
    if report.problems:
        advice = (
            f"vLLM cannot serve it as it is; `dsocr lora merge {adapter} OUT` makes a checkpoint"
        )
        return [*names, *(f"problem: {problem}" for problem in report.problems), advice]
    flags = " ".join(["--enable-lora", f"--lora-modules NAME={adapter}", *report.hints])
    return [*names, f"vLLM loads it: vllm serve BASE {flags}"]
