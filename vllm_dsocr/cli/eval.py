"""`dsocr eval`: texts that were read, held against the truth or a benchmark's files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vllm_dsocr.cli.lazy import APP, examples

app = typer.Typer(
    help="Error rates of characters and words, edit distance, TEDS of tables, reading order; our "
    "own estimates of two benchmarks. Prints a table and, as the last line, one JSON object.",
    **APP,
)
Json = Annotated[bool, typer.Option("--json", help="The JSON object only.")]


@app.command(
    epilog=examples("dsocr eval folder out truth/", "dsocr eval folder out truth/ --pages")
)
def folder(
    read: Annotated[Path, typer.Argument(help="NAME.md, or what `dsocr convert` wrote")],
    truth: Annotated[Path, typer.Argument(help="NAME.md or NAME.txt, one per document")],
    pages: Annotated[bool, typer.Option("--pages", help="Scores of every document too.")] = False,
    as_json: Json = False,
) -> int:
    """Texts against a folder of texts of the same names; one that is missing counts as empty."""
    return _print(lambda: _folder(read, truth, pages), as_json)


@app.command(epilog=examples("dsocr eval omnidocbench out/ OmniDocBench.json"))
def omnidocbench(
    read: Annotated[Path, typer.Argument(help="IMAGE.md, or what `dsocr convert` wrote")],
    truth: Annotated[Path, typer.Argument(metavar="OmniDocBench.json")],
    as_json: Json = False,
) -> int:
    """Texts against OmniDocBench.json: our estimate, docs/evaluation.md says how near it is."""
    from vllm_dsocr.evaluation import omnidocbench as benchmark

    return _print(lambda: benchmark.score(truth, read), as_json)


@app.command(epilog=examples("dsocr eval olmocr-bench bench_data dsocr"))
def olmocr_bench(
    bench: Annotated[Path, typer.Argument(metavar="bench_data", help="folder of the *.jsonl")],
    candidate: Annotated[str, typer.Argument(help="folder in it with NAME_pgPAGE_repeatN.md")],
    as_json: Json = False,
) -> int:
    """Facts of olmOCR-bench: our estimate, docs/evaluation.md says how near it is."""
    from vllm_dsocr.evaluation import olmocr_bench as benchmark

    return _print(lambda: benchmark.score(bench, candidate), as_json)


def _folder(read: Path, truth: Path, pages: bool) -> dict[str, Any]:
    from vllm_dsocr.evaluation.page import score_folder, summary

    scores = score_folder(read, truth)
    every = {score.name: summary([score]) for score in scores} if pages else {}
    return {"all": summary(scores), **every}


def _print(score: Callable[[], dict[str, Any]], as_json: bool) -> int:
    try:
        result = score()
    except ImportError as error:
        print(
            f"dsocr eval: {error.name} is missing: pip install 'vllm-dsocr[eval]'", file=sys.stderr
        )
        return 2
    except (OSError, ValueError, KeyError) as error:
        print(f"dsocr eval: {error}", file=sys.stderr)
        return 2
    if not as_json:
        print("\n".join(result_lines(result)))
    print(json.dumps(result, ensure_ascii=False))
    return 0


def result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Summaries as a table, everything else name by name."""
    tables = {name: value for name, value in result.items() if _is_summary(value)}
    width = max((len(name) for name in tables), default=0)
    for number, (name, row) in enumerate(tables.items()):
        if not number:
            yield f"{'':<{width}} " + " ".join(f"{column:>14}" for column in row)
        yield f"{name:<{width}} " + " ".join(f"{_number(value):>14}" for value in row.values())
    for name, value in result.items():
        if name not in tables:
            yield f"{name}: {_one_line(value)}"


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_one_line(one)}" for name, one in value.items()) or "none"
    return _number(value) if isinstance(value, float | int | None) else str(value)


def _is_summary(value: Any) -> bool:
    return isinstance(value, dict) and "pages" in value


def _number(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
