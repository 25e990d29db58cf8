"""`dsocr bench`: a public benchmark read as its published numbers were, and scored."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_dsocr.cli.engines import EngineChoice, engine_arg, make_engine
from vllm_dsocr.cli.lazy import APP, examples
from vllm_dsocr.config import MODES, OFFICIAL_MODEL
from vllm_dsocr.engine import EngineLost

if TYPE_CHECKING:
    from vllm_dsocr.evaluation.bench.reading import Read
    from vllm_dsocr.evaluation.bench.settings import BenchSettings

EXIT_FAILED_PAGES, EXIT_STOPPED = 1, 2
ENGINE: dict[str, Any] = {"rich_help_panel": "What reads the pages"}
NAMES = ("olmocr-bench", "omnidocbench", "fox")

app = typer.Typer(**APP)


@dataclass(frozen=True, slots=True)
class Job:
    """A command line, read. out: where the texts go."""

    benchmark: str
    data: Path
    out: Path
    settings: BenchSettings
    repeats: int
    engine: EngineChoice
    python: str


def _benchmark(text: str) -> str:
    if text not in NAMES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(NAMES)}")
    return text


def _mode(text: str) -> str:
    if text not in MODES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(MODES)}")
    return text


@app.command(
    epilog=examples(
        "dsocr bench olmocr-bench bench_data --server http://localhost:8000/v1",
        "dsocr bench omnidocbench OmniDocBench/ --model deepseek-ai/DeepSeek-OCR --mode base",
        "dsocr bench fox focus_benchmark_test --mode tiny",
        "dsocr bench olmocr-bench bench_data --scorer-python ~/olmocr/bin/python",
    )
)
def bench(
    benchmark: Annotated[
        str, typer.Argument(parser=_benchmark, metavar="BENCHMARK", help=", ".join(NAMES))
    ],
    data: Annotated[Path, typer.Argument(help="the benchmark's folder")],
    candidate: Annotated[str, typer.Option(help="folder in DATA for the texts")] = "dsocr",
    mode: Annotated[
        str | None,
        typer.Option(parser=_mode, metavar="MODE", help="gundam, for fox small, without it"),
    ] = None,
    dpi: Annotated[float, typer.Option(min=10, max=1200, help="of pages of PDFs")] = 144,
    repeats: Annotated[int, typer.Option(min=1, help="readings a page, olmocr-bench only")] = 1,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="an OpenAI-compatible server", **ENGINE)
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm or hf, in this process, without a server", **ENGINE)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"checkpoint ({OFFICIAL_MODEL}), or the server's name for it", **ENGINE),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="pages in flight at a time", **ENGINE)
    ] = None,
    engine_args: Annotated[
        list[str] | None,
        typer.Option("--engine-arg", metavar="NAME=VALUE", help="for vLLM's engine", **ENGINE),
    ] = None,
    scorer_python: Annotated[
        str, typer.Option(metavar="PYTHON", help="one that has the benchmark's own scorer")
    ] = sys.executable,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object only")] = False,
) -> int:
    """Reads a benchmark's pages with the published settings and scores what was read.

    What is read already is not read again. The benchmark's own scorer is used where it is
    installed, else our estimate, which docs/evaluation.md describes.
    """
    if Path(candidate).name != candidate or candidate in ("", ".", ".."):
        print(f"dsocr bench: {candidate!r} is no name of a folder", file=sys.stderr)
        return EXIT_STOPPED
    try:
        from vllm_dsocr.evaluation.bench.settings import OFFICIAL

        settings = replace(OFFICIAL[benchmark], dpi=dpi, mode=mode or OFFICIAL[benchmark].mode)
        arguments = dict(map(engine_arg, engine_args or []))
        choice = EngineChoice(server, engine, model, concurrency, engine_args=arguments)
        folder = data if data.is_dir() else data.parent
        out = folder / candidate
        job = Job(benchmark, data, out, settings, repeats, choice, scorer_python)
        say = (lambda line: None) if as_json else (lambda line: print(line, file=sys.stderr))
        read = asyncio.run(_read(job, say))
        result = _scores(job, read)
    except (EngineLost, ImportError, OSError, ValueError) as error:
        print(f"dsocr bench: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("dsocr bench: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if not as_json:
        print("\n".join(_lines(result)))
    print(json.dumps(result, ensure_ascii=False))
    return EXIT_FAILED_PAGES if read.troubles else 0


async def _read(job: Job, say: Callable[[str], None]) -> Read:
    from vllm_dsocr.evaluation.bench.pages import PAGES
    from vllm_dsocr.evaluation.bench.reading import read_pages

    pages = PAGES[job.benchmark](job.data, job.repeats)
    return await read_pages(await make_engine(job.engine), pages, job.out, job.settings, say)


def _scores(job: Job, read: Read) -> dict[str, Any]:
    from vllm_dsocr.evaluation.bench import official
    from vllm_dsocr.evaluation.bench.estimate import estimate
    from vllm_dsocr.evaluation.bench.published import published

    figures, source = published(job.benchmark, job.settings.mode)
    try:
        ours, by = official.score(job.benchmark, job.data, job.out, job.python), "its own scorer"
        note = ""
    except official.NoScorer as error:
        ours, by, note = estimate(job.benchmark, job.data, job.out), "our estimate", str(error)
    return {
        "benchmark": job.benchmark,
        "mode": job.settings.mode,
        "texts": str(job.out),
        "pages": asdict(read),
        "scored_by": by,
        "why": note,
        "scores": ours,
        "published": {"source": source, **figures},
    }


def _lines(result: dict[str, Any]) -> Iterator[str]:
    from vllm_dsocr.cli.eval import result_lines
    from vllm_dsocr.evaluation.bench.estimate import beside

    pages = result["pages"]
    yield (
        f"{result['benchmark']}, mode {result['mode']}: {pages['read']} pages read, "
        f"{pages['kept']} kept, {len(pages['troubles'])} failed; texts in {result['texts']}"
    )
    yield f"scored by {result['scored_by']}" + (f" ({result['why']})" if result["why"] else "")
    yield from result_lines(result["scores"])
    rows = beside(result["benchmark"], result["scores"], result["published"])
    if rows:
        yield ""
        yield f"{'':<32} {'here':>8} {'published':>10}  {result['published']['source']}"
        yield from (f"{name:<32} {_number(here):>8} {there:>10.3f}" for name, here, there in rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
