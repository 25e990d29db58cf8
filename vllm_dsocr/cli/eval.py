"""`dsocr eval`: texts that were read, held against the truth or a benchmark's files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_dsocr.evaluation import olmocr_bench, omnidocbench
from vllm_dsocr.evaluation.page import score_folder, summary


def main(argv: Sequence[str]) -> int:
    """Prints a table and, as the last line, one JSON object; 2 for files that cannot be used."""
    args = _parser().parse_args(argv)
    try:
        result = args.run(args)
    except (OSError, ValueError, KeyError) as error:
        print(f"dsocr eval: {error}", file=sys.stderr)
        return 2
    if not args.json:
        print("\n".join(_lines(result)))
    print(json.dumps(result, ensure_ascii=False))
    return 0


def _folder(args: argparse.Namespace) -> dict[str, Any]:
    scores = score_folder(args.read, args.truth)
    pages = {score.name: summary([score]) for score in scores}
    return {"all": summary(scores), **(pages if args.pages else {})}


def _omnidocbench(args: argparse.Namespace) -> dict[str, Any]:
    return omnidocbench.score(args.truth, args.read)


def _olmocr_bench(args: argparse.Namespace) -> dict[str, Any]:
    return olmocr_bench.score(args.bench, args.candidate)


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Summaries as a table, everything else name by name."""
    tables = {name: value for name, value in result.items() if _is_summary(value)}
    width = max((len(name) for name in tables), default=0)
    for number, (name, row) in enumerate(tables.items()):
        if not number:
            yield f"{'':<{width}} " + " ".join(f"{column:>14}" for column in row)
        yield f"{name:<{width}} " + " ".join(f"{_number(value):>14}" for value in row.values())
    for name in result.keys() - tables.keys():
        yield f"{name}: {result[name]}"


def _is_summary(value: Any) -> bool:
    return isinstance(value, dict) and "pages" in value


def _number(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsocr eval",
        description="Error rates of characters and words, edit distance, TEDS of tables and "
        "reading order.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    folder = _add(commands, "folder", _folder, "texts against a folder of texts of the same names")
    folder.add_argument("read", type=Path, help="NAME.md, or what `dsocr convert` wrote")
    folder.add_argument("truth", type=Path, help="NAME.md or NAME.txt, one per page")
    folder.add_argument("--pages", action="store_true", help="scores of every page too")
    omni = _add(commands, "omnidocbench", _omnidocbench, "texts against OmniDocBench.json")
    omni.add_argument("read", type=Path, help="IMAGE.md, or what `dsocr convert` wrote")
    omni.add_argument("truth", type=Path, metavar="OmniDocBench.json")
    olmo = _add(commands, "olmocr-bench", _olmocr_bench, "facts of olmOCR-bench")
    olmo.add_argument("bench", type=Path, metavar="bench_data", help="folder of the *.jsonl")
    olmo.add_argument("candidate", help="folder in it with NAME_pgPAGE_repeatN.md")
    return parser


def _add(commands: Any, name: str, run: Any, about: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about)
    command.add_argument("--json", action="store_true", help="the JSON object only")
    command.set_defaults(run=run)
    return command
