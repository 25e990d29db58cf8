"""`dsocr convert PATHS... -o OUT`: files, folders and allowed URLs in, documents out.

Exit code 0 when every page was read, 1 when a page failed, 2 when the run could not go on.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vllm_dsocr.cli.console import Event, ProgressBar, json_lines, summary_table
from vllm_dsocr.cli.engines import EngineChoice, engine_arg, make_engine
from vllm_dsocr.cli.lazy import APP, examples
from vllm_dsocr.config import MODES, OFFICIAL_MODEL
from vllm_dsocr.document.compression import compression_table
from vllm_dsocr.engine import EngineLost
from vllm_dsocr.page.fetch import fetch, is_url
from vllm_dsocr.page.pdf import DEFAULT_DPI
from vllm_dsocr.page.prompt import TASKS, PromptError
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import InUse, locked
from vllm_dsocr.pipeline.finish import OutputSettings, reopen
from vllm_dsocr.pipeline.inputs import InputFile, find_inputs
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.render.finished import RenderOptions
from vllm_dsocr.render.formats import DEFAULT_FORMATS, FORMATS

EXIT_FAILED_PAGES, EXIT_STOPPED = 1, 2

app = typer.Typer(**APP)
READING: dict[str, Any] = {"rich_help_panel": "How pages are read"}
WRITING: dict[str, Any] = {"rich_help_panel": "What is written"}
ENGINE: dict[str, Any] = {"rich_help_panel": "What reads the pages"}
_TASKS = ", ".join("locate TEXT" if name == "locate" else name for name in TASKS)


def _task(text: str) -> str:
    """One task, as it is written in settings."""
    try:
        ReadSettings("", text).prompt  # noqa: B018  raises for what is no task
    except PromptError as error:
        raise typer.BadParameter(str(error)) from error
    return " ".join(text.split())


def _mode(text: str) -> str:
    if text not in MODES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(MODES)}")
    return text


def _ranges(text: str) -> PageRanges:
    try:
        return PageRanges.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(FORMATS)}")
    return names


@dataclass(frozen=True, slots=True)
class Job:
    """A command line, read: what is converted, how, where to and what is said about it."""

    sources: list[str]
    out: Path
    output: OutputSettings
    reading: Callable[[str], ReadSettings]  # by the model's name, which the engine may choose
    engine: EngineChoice
    allow_hosts: list[str]
    as_json: bool
    stats: bool


@app.command(
    epilog=examples(
        "dsocr convert scans/ report.pdf -o out --server http://localhost:8000/v1",
        "dsocr convert report.pdf -o out --pages 1-3,7 --format md,docling",
        "dsocr convert page.png -o out --engine hf --task 'locate the stamp'",
    )
)
def convert(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="image, PDF, folder, or URL of an allowed host"),
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="folder", show_default=False)
    ],
    task: Annotated[
        str, typer.Option(parser=_task, metavar="TASK", help=f"one of: {_TASKS}", **READING)
    ] = "markdown",
    mode: Annotated[
        str | None,
        typer.Option(
            parser=_mode,
            metavar="MODE",
            help=f"one of: {', '.join(MODES)}; without it the model's default",
            **READING,
        ),
    ] = None,
    pages: Annotated[
        PageRanges,
        typer.Option(parser=_ranges, metavar="RANGES", help="such as 1-3,7 or 5-", **READING),
    ] = "1-",
    dpi: Annotated[
        float, typer.Option(min=10, max=1200, help="of PDF pages", **READING)
    ] = DEFAULT_DPI,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="longest text of a page", **READING)
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="other settings to try on a page that goes wrong", **READING)
    ] = 4,
    allow_host: Annotated[
        list[str], typer.Option(metavar="HOST", help="may be fetched from; may be repeated")
    ] = (),
    formats: Annotated[
        tuple,
        typer.Option(
            "--format",
            parser=_formats,
            metavar="FORMATS",
            help=f"comma separated, of {', '.join(FORMATS)}",
            **WRITING,
        ),
    ] = ",".join(DEFAULT_FORMATS),
    tables: Annotated[
        Literal["html", "markdown"], typer.Option(help="in Markdown", **WRITING)
    ] = "html",
    math: Annotated[
        Literal["dollar", "official"],
        typer.Option(help="formulas in Markdown: $ and $$, or as the model writes them", **WRITING),
    ] = "dollar",
    markdown: Annotated[
        Literal["tidy", "official"],
        typer.Option(help="official: what the official post-processing makes of a page", **WRITING),
    ] = "tidy",
    furniture: Annotated[
        bool, typer.Option(help="headers, footers and page numbers", **WRITING)
    ] = True,
    page_comments: Annotated[
        bool, typer.Option(help="a comment in Markdown where a page begins", **WRITING)
    ] = True,
    join_pages: Annotated[
        bool,
        typer.Option(
            "--join-pages", help="join tables and paragraphs that run over a page's end", **WRITING
        ),
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="vision and text tokens of every page", **WRITING)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="log as lines of JSON on stdout", **WRITING)
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="an OpenAI-compatible server, such as http://HOST:8000", **ENGINE
        ),
    ] = None,
    engine: Annotated[
        Literal["vllm", "hf"] | None,
        typer.Option(help="without a server: host in this process", **ENGINE),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"checkpoint ({OFFICIAL_MODEL}), or the server's name for it", **ENGINE),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="pages in flight at a time", **ENGINE)
    ] = None,
    server_retries: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="how often a server that errs is asked again, waiting longer each time",
            **ENGINE,
        ),
    ] = None,
    engine_args: Annotated[
        list[Any],
        typer.Option(
            "--engine-arg",
            parser=engine_arg,
            metavar="NAME=VALUE",
            help="passed to vLLM's engine, such as max_model_len=4096; may be repeated",
            **ENGINE,
        ),
    ] = (),
) -> int:
    """Reads images and PDFs into Markdown, HTML, JSON and more.

    A run that was interrupted goes on where it was when it is started again; a finished one does
    nothing.
    """
    options = RenderOptions(tables, math, markdown, furniture, page_comments, join_pages)
    return _run(
        Job(
            sources=paths,
            out=out,
            output=OutputSettings(pages, formats, options),
            reading=lambda name: ReadSettings(name, task, mode, dpi, max_tokens, retries),
            engine=EngineChoice(
                server, engine, model, concurrency, server_retries, dict(engine_args)
            ),
            allow_hosts=list(allow_host),
            as_json=as_json,
            stats=stats,
        )
    )


def _run(job: Job) -> int:
    """Runs the command; every expected trouble is one line on stderr."""
    try:
        with locked(job.out), tempfile.TemporaryDirectory(prefix="dsocr-") as downloads:
            summaries = asyncio.run(_convert(job, _inputs(job, Path(downloads))))
    except (EngineLost, InUse, ImportError) as error:
        print(f"dsocr convert: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("dsocr convert: stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    _print_end(job, summaries)
    failed = any(summary["statuses"].get("failed") for summary in summaries)
    return EXIT_FAILED_PAGES if failed else 0


async def _convert(job: Job, files: Sequence[InputFile]) -> list[Event]:
    for name in job.output.formats:
        FORMATS[name].load()  # says now what it needs, not at the end
    engine = await make_engine(job.engine)
    settings = job.reading(engine.model)
    if job.as_json:
        return await Conversion(engine, settings, job.output, job.out, json_lines).run(files)
    bar = ProgressBar()
    try:
        return await Conversion(engine, settings, job.output, job.out, bar).run(files)
    finally:
        bar.close()


def _inputs(job: Job, downloads: Path) -> list[InputFile]:
    """What is on the command line, URLs fetched; what cannot be fetched becomes a failed file."""
    paths, errors = [], {}
    for index, text in enumerate(job.sources):
        if not is_url(text):
            paths.append(Path(text))
            continue
        folder = downloads / str(index)
        folder.mkdir()
        try:
            paths.append(fetch(text, folder, job.allow_hosts))
        except PageError as error:
            paths.append(folder / "download")
            errors[paths[-1]] = error
    return find_inputs(paths, errors)


def _print_end(job: Job, summaries: Sequence[Event]) -> None:
    if job.as_json:
        json_lines({"event": "summary", "documents": summaries})
        return
    print("\n".join(summary_table(summaries)))
    if job.stats:
        for summary in summaries:
            document = reopen(DocumentFolder(job.out / summary["document"]))
            if document is not None:
                print(f"\n{summary['document']}")
                print("\n".join(compression_table(document.pages())))
