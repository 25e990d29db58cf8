"""`dsocr lora check PATH`, `dsocr lora merge PATH OUT`: adapters and what can be done with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_dsocr.adapter_names import AdapterReport, check_adapter

EXIT_NOT_SERVED, EXIT_NO_ADAPTER = 1, 2


def main(argv: Sequence[str]) -> int:
    """0 when vLLM loads the adapter or the merged checkpoint is written."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"dsocr lora: {error}", file=sys.stderr)
        return EXIT_NO_ADAPTER


def _check(args: argparse.Namespace) -> int:
    report = check_adapter(args.adapter)
    print("\n".join(_lines(report, args.adapter)))
    return EXIT_NOT_SERVED if report.problems else 0


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


def _merge(args: argparse.Namespace) -> int:
    from vllm_dsocr.hf.lora import merge

    merge(args.adapter, args.output, args.base)
    print(args.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsocr lora", description="Adapters made by PEFT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="will vLLM load it, and what does it change")
    merge = commands.add_parser("merge", help="write the base with the adapter worked in")
    for command, run in ((check, _check), (merge, _merge)):
        command.add_argument("adapter", type=Path, metavar="PATH", help="folder of the adapter")
        command.set_defaults(run=run)
    merge.add_argument("output", type=Path, metavar="OUT", help="folder of the checkpoint")
    merge.add_argument("--base", help="checkpoint to merge into; default: what the adapter names")
    return parser
