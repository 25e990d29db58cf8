"""`dsocr convert PATHS... -o OUT`: files, folders and URLs in, documents out.

Exit code 0 when all is well, 1 when a page or file is not, 2 when the run could not go on, 130 when
it was interrupted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from vllm_dsocr.cli.console import ProgressReport, Reporter, json_lines, own_stdout, say
from vllm_dsocr.cli.console import summary_table as summary_table
from vllm_dsocr.cli.engines import engine_arg
from vllm_dsocr.cli.lazy import APP, examples
from vllm_dsocr.cli.optional import ANY_CLUSTER, RayCommand
from vllm_dsocr.cli.stopping import EXIT_INTERRUPTED, stops_in_order
from vllm_dsocr.config import MODES, OFFICIAL_MODEL
from vllm_dsocr.document.compression import compression_table
from vllm_dsocr.engine import EngineLost
from vllm_dsocr.page.pdf import DEFAULT_DPI
from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.pipeline.claim import WAIT_SECONDS
from vllm_dsocr.pipeline.document import Event
from vllm_dsocr.pipeline.files import CannotWrite, InUse, locked
from vllm_dsocr.pipeline.finish import OutputSettings, reopen
from vllm_dsocr.pipeline.inputs import Download, Inputs, find_inputs, read_lists
from vllm_dsocr.pipeline.run import TooManyFailures
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.pipeline.shard import WHOLE, Shard
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.reader import Reader, fetched
from vllm_dsocr.render.finished import RenderOptions
from vllm_dsocr.render.formats import DEFAULT_FORMATS, FORMATS

EXIT_NOT_ALL_WELL, EXIT_STOPPED = 1, 2
STREAM = "-"  # stdin for a source, stdout for OUT

app = typer.Typer(**APP)
READING: dict[str, Any] = {"rich_help_panel": "How pages are read"}
TROUBLE: dict[str, Any] = {"rich_help_panel": "When something goes wrong"}
WRITING: dict[str, Any] = {"rich_help_panel": "What is written"}
ENGINE: dict[str, Any] = {"rich_help_panel": "What reads the pages"}
RAY: dict[str, Any] = {"rich_help_panel": "On a Ray cluster"}
_TASKS = (
    "markdown (text with layout), ocr (text line by line), free (plain text), figure (charts and "
    "drawings), describe (a picture in words), locate TEXT (where something is)"
)


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


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(FORMATS)}")
    return names


def _table(text: str) -> str:
    if not text.rstrip("/").endswith((".parquet", ".jsonl")):
        raise typer.BadParameter(f"{text!r} does not end in .parquet or .jsonl")
    return text


@dataclass(frozen=True, slots=True)
class RayChoice:
    """Which cluster reads, with how many engines, and where rows of pages go."""

    address: str | None
    workers: int | None
    table: str | None


def _ray(
    address: str | None, workers: int | None, table: str | None, is_stream: bool
) -> RayChoice | None:
    if address is None:
        if workers is not None or table is not None:
            raise typer.BadParameter("--workers and --table are of --ray")
        return None
    if is_stream:
        raise typer.BadParameter("stdin and stdout are of this machine, not of a cluster")
    return RayChoice(None if address == ANY_CLUSTER else address, workers, table)


@dataclass(frozen=True, slots=True)
class Job:
    """A command line, read."""

    sources: list[str]
    out: Path
    reader: Reader
    output: OutputSettings
    shard: Shard
    ray: RayChoice | None
    allow_hosts: list[str]
    to_stdout: bool
    as_json: bool
    stats: bool
    strict: bool


@app.command(
    cls=RayCommand,
    epilog=examples(
        "dsocr convert scans/ report.pdf -o out --server http://localhost:8000",
        "dsocr convert report.pdf -o out --pages 1-3,7 --format md,docling",
        "dsocr convert page.png -o out --engine hf --task 'locate the stamp'",
        "dsocr convert scans/ -o out --server http://localhost:8000 --retry-failed --auto-rotate",
        "dsocr convert scans/ -o /shared/out --server http://localhost:8000 --shard 1/4",
        "dsocr convert scans/ s3://bucket/in list.txt -o /shared/out --ray 10.0.0.1:6379",
        "curl -s https://example.org/a.pdf | dsocr convert - -o - > a.md",
    ),
)
def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="image, PDF, folder, URL, or .txt with one of these a line; - is stdin",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="folder; - writes one document to stdout",
            show_default=False,
        ),
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
    alpha: Annotated[
        Literal["white", "drop"],
        typer.Option(help="behind transparency: white paper, or what lies under it", **READING),
    ] = "white",
    password: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="of encrypted PDFs",
            envvar="DSOCR_PDF_PASSWORD",
            show_default=False,
            **READING,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="longest text of a page", **READING)
    ] = None,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="how sure the model was of each word, in json",
            **READING,
        ),
    ] = False,
    allow_host: Annotated[
        list[str],
        typer.Option(metavar="HOST", help="where redirects of a URL may lead too", **READING),
    ] = (),
    retries: Annotated[
        int, typer.Option(min=0, help="other settings to try on a page that goes wrong", **TROUBLE)
    ] = 4,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="for all tries of a page together; 600 with a server, else no bound",
            **TROUBLE,
        ),
    ] = None,
    max_failures: Annotated[
        int,
        typer.Option(
            min=0, help="pages in a row without an answer that end the run; 0: never", **TROUBLE
        ),
    ] = 10,
    auto_rotate: Annotated[
        bool,
        typer.Option(
            "--auto-rotate", help="turn pages that come out empty or looping, too", **TROUBLE
        ),
    ] = False,
    fallback: Annotated[
        Literal["text-layer"] | None,
        typer.Option(help="what stands in for a page of a PDF that failed", **TROUBLE),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="read failed, truncated and repeated pages again", **TROUBLE
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="read all pages again", **TROUBLE)] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="exit with 1 for truncated and repeated pages, too", **TROUBLE
        ),
    ] = False,
    formats: Annotated[
        tuple,  # type: ignore[type-arg]  # Typer would ask for as many words
        typer.Option(
            "--format",
            parser=_formats,
            metavar="FORMATS",
            help=f"comma separated, of {', '.join(FORMATS)}",
            **WRITING,
        ),
    ] = ",".join(DEFAULT_FORMATS),
    tables: Annotated[
        Literal["html", "markdown"], typer.Option(help="tables in Markdown", **WRITING)
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
        bool, typer.Option("--json", help="events as lines of JSON on stdout", **WRITING)
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
    shard: Annotated[
        Shard,
        typer.Option(
            parser=_shard,
            metavar="I/N",
            help="read part I of N of the documents, for N machines with one OUT",
            **ENGINE,
        ),
    ] = "1/1",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="read on a Ray cluster: HOST:PORT, local for one of this run's own; none: the one "
            "this machine is in, or else local",
            show_default=False,
            **RAY,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="engines on the cluster; none: all that fit", **RAY),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            parser=_table,
            metavar="FOLDER",
            help="every page as a row, too, in a folder or URL named .parquet or .jsonl",
            **RAY,
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
    nothing. Exit code: 0 when all is well, 1 when a page or file is not, 2 when the run could not
    go on, 130 when it was interrupted.
    """
    to_stdout = out == STREAM
    if to_stdout and (as_json or stats):
        raise typer.BadParameter("-o - leaves no room on stdout for --json or --stats")
    if to_stdout and FORMATS[formats[0]].is_folder:
        raise typer.BadParameter(f"-o - takes a format of one file, {formats[0]} is several")
    if to_stdout and shard != WHOLE:
        raise typer.BadParameter("-o - writes one document, --shard takes part of several")
    if not out or not all(paths):  # most likely a variable of the shell that is not set
        raise typer.BadParameter("a PATH or OUT is empty")
    if server is not None and (engine or engine_args):
        raise typer.BadParameter("--engine and --engine-arg are of this process, not of a --server")
    if retry_failed and force:
        raise typer.BadParameter("--force reads all pages again, --retry-failed some of them")
    try:
        reader = Reader(
            **_choice(server, engine, model, concurrency, server_retries, dict(engine_args)),
            task=task, mode=mode, dpi=dpi, alpha=alpha, max_tokens=max_tokens, password=password,
            confidence=confidence,
            retries=retries, timeout=timeout, max_failures=max_failures, auto_rotate=auto_rotate,
            text_layer=fallback is not None,
            again="all" if force else "failed" if retry_failed else "unanswered",
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    options = RenderOptions(tables, math, markdown, furniture, page_comments, join_pages)
    output = OutputSettings(pages, formats[:1] if to_stdout else formats, options)
    with tempfile.TemporaryDirectory(prefix="dsocr-") as scratch:
        place = Path(scratch) / "out" if to_stdout else Path(out)
        on_ray = _ray(ray, workers, table, to_stdout or STREAM in paths)
        job = Job(
            paths, place, reader, output, shard, on_ray, list(allow_host), to_stdout, as_json,
            stats, strict,
        )  # fmt: skip
        with own_stdout() as stdout:
            return _run(job, Path(scratch), stdout)


def _choice(*values: Any) -> dict[str, Any]:
    names = ("server", "engine", "model", "concurrency", "server_retries", "engine_args")
    return dict(zip(names, values, strict=True))


def _run(job: Job, scratch: Path, stdout: TextIO) -> int:
    """Runs the command; every expected trouble is one line on stderr."""
    try:
        with stops_in_order():
            return _converted(job, scratch, stdout)
    except KeyboardInterrupt:
        say("dsocr convert: interrupted; the same command goes on from here")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_STOPPED  # whoever read our output has left
    except (EngineLost, InUse, CannotWrite, TooManyFailures, ImportError, OSError) as error:
        say(f"dsocr convert: {error}")
        return EXIT_STOPPED


def _converted(job: Job, scratch: Path, stdout: TextIO) -> int:
    refusal = _refusal(job)
    if refusal:
        say(f"dsocr convert: {refusal}")
        return EXIT_STOPPED
    for name in job.output.formats:
        FORMATS[name].load()  # says now what it needs, not at the end
    with locked(job.out, WAIT_SECONDS):
        pass  # it can be written to, and is known for an output folder
    inputs = _inputs(job, scratch)
    if job.to_stdout and len(inputs.files) != 1:
        say(f"dsocr convert: -o - takes one document, here are {len(inputs.files)}")
        return EXIT_STOPPED
    progress = None if job.as_json else ProgressReport()
    try:
        report = progress or json_lines(stdout)
        convert = _convert_on_ray if job.ray else _convert_here
        summaries = convert(job, inputs, report)
    finally:
        if progress:
            progress.close()
    _print_end(job, summaries, stdout)
    return _exit_code(job, summaries)


def _refusal(job: Job) -> str | None:
    """Why these arguments cannot be carried out, before anything is touched."""
    for text in job.sources:
        if os.path.isdir(text) and os.path.realpath(text) == os.path.realpath(job.out):
            return f"{text} cannot be both read and written to: choose another -o"
    return None


def _convert_here(job: Job, inputs: Inputs, report: Reporter) -> list[Event]:
    return asyncio.run(_convert(job, inputs, report))


def _convert_on_ray(job: Job, inputs: Inputs, report: Reporter) -> list[Event]:
    from vllm_dsocr.fleet.batch.convert import RayOptions, convert_on_ray

    assert job.ray is not None
    options = RayOptions(job.ray.address, job.ray.workers, job.ray.table)
    return convert_on_ray(job.reader, inputs, job.out, job.output, options, report, job.allow_hosts)


async def _convert(job: Job, inputs: Inputs, report: Reporter) -> list[Event]:
    for text in inputs.warnings:
        report({"event": "warning", "text": text})
    async with job.reader as reader:
        return await reader.arun(inputs, job.out, job.output, report)


def _inputs(job: Job, scratch: Path) -> Inputs:
    """What is on the command line; stdin and URLs are fetched, on a cluster later."""
    texts = [text for text in read_lists(job.sources) if text != STREAM]
    if job.ray is not None:
        from vllm_dsocr.fleet.batch.sources import find_sources

        return find_sources(texts, job.out, job.shard)
    places: list[Path | Download] = fetched(texts, scratch, job.allow_hosts)
    if STREAM in job.sources:
        path = scratch / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        places.append(Download(path, "stdin"))
    return find_inputs(places, job.out, job.shard)


def _exit_code(job: Job, summaries: Sequence[Event]) -> int:
    bad = {"failed", "truncated", "repeated", "text-layer"} if job.strict else {"failed"}
    ill = any(
        summary["failed"]
        or summary["in_use"]
        or any(summary["statuses"].get(status) for status in bad)
        for summary in summaries
    )
    return EXIT_NOT_ALL_WELL if ill else 0


def _print_end(job: Job, summaries: Sequence[Event], stdout: TextIO) -> None:
    if job.as_json:
        json_lines(stdout)({"event": "summary", "documents": summaries})
    elif job.to_stdout:
        _print_document(job, stdout)
    else:
        print("\n".join(summary_table(summaries)), file=stdout)
        if job.stats:
            _print_stats(job, summaries, stdout)


def _print_document(job: Job, stdout: TextIO) -> None:
    """The one document in its first format."""
    for manifest in job.out.rglob("manifest.json"):
        document = reopen(DocumentFolder(manifest.parent))
        if document is not None:
            stdout.flush()
            data = (manifest.parent / FORMATS[job.output.formats[0]].file).read_bytes()
            binary: Any = getattr(stdout, "buffer", stdout)
            binary.write(data)


def _print_stats(job: Job, summaries: Sequence[Event], stdout: TextIO) -> None:
    for summary in summaries:
        document = reopen(DocumentFolder(job.out / summary["document"]))
        if document is not None:
            print(f"\n{summary['document']}", file=stdout)
            print("\n".join(compression_table(document.pages())), file=stdout)
