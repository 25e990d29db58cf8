"""`dsocr convert PATHS... -o OUT`: files, folders and allowed URLs in, documents out.

Exit code 0 when every page was read, 1 when a page failed, 2 when the run could not go on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vllm_dsocr.cli.console import Event, ProgressBar, json_lines, summary_table
from vllm_dsocr.cli.engines import add_engine_arguments, count, make_engine, positive
from vllm_dsocr.config import MODES
from vllm_dsocr.document.compression import compression_table
from vllm_dsocr.engine import EngineLost
from vllm_dsocr.page.fetch import fetch, is_url
from vllm_dsocr.page.pdf import DEFAULT_DPI
from vllm_dsocr.page.prompt import TASKS, PromptError
from vllm_dsocr.page.ranges import ALL_PAGES, PageRanges
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import InUse, locked
from vllm_dsocr.pipeline.finish import OutputSettings, reopen
from vllm_dsocr.pipeline.inputs import InputFile, find_inputs
from vllm_dsocr.pipeline.outputs import DEFAULT_FORMATS, FORMATS
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.pipeline.store import DocumentFolder

EXIT_FAILED_PAGES, EXIT_STOPPED = 1, 2


def main(argv: Sequence[str]) -> int:
    """Runs the command; every expected trouble is one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        with locked(args.output), tempfile.TemporaryDirectory(prefix="dsocr-") as downloads:
            summaries = asyncio.run(_convert(args, _inputs(args, Path(downloads))))
    except (EngineLost, InUse, ImportError) as error:
        print(f"dsocr convert: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("dsocr convert: stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    _print_end(args, summaries)
    failed = any(summary["statuses"].get("failed") for summary in summaries)
    return EXIT_FAILED_PAGES if failed else 0


async def _convert(args: argparse.Namespace, files: Sequence[InputFile]) -> list[Event]:
    if "docling" in args.format:
        import vllm_dsocr.render.docling  # noqa: F401  says now what it needs, not at the end
    engine = await make_engine(args)
    settings = ReadSettings(
        engine.model, args.task, args.mode, args.dpi, args.max_tokens, args.retries
    )
    output = OutputSettings(args.pages, tuple(args.format), args.tables)
    if args.json:
        return await Conversion(engine, settings, output, args.output, json_lines).run(files)
    bar = ProgressBar()
    try:
        return await Conversion(engine, settings, output, args.output, bar).run(files)
    finally:
        bar.close()


def _inputs(args: argparse.Namespace, downloads: Path) -> list[InputFile]:
    """What is on the command line, URLs fetched; what cannot be fetched becomes a failed file."""
    paths, errors = [], {}
    for index, text in enumerate(args.paths):
        if not is_url(text):
            paths.append(Path(text))
            continue
        folder = downloads / str(index)
        folder.mkdir()
        try:
            paths.append(fetch(text, folder, args.allow_host))
        except PageError as error:
            paths.append(folder / "download")
            errors[paths[-1]] = error
    return find_inputs(paths, errors)


def _print_end(args: argparse.Namespace, summaries: Sequence[Event]) -> None:
    if args.json:
        json_lines({"event": "summary", "documents": summaries})
        return
    print("\n".join(summary_table(summaries)))
    if args.stats:
        for summary in summaries:
            document = reopen(DocumentFolder(args.output / summary["document"]))
            if document is not None:
                print(f"\n{summary['document']}")
                print("\n".join(compression_table(document.pages())))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsocr convert",
        description="Read images and PDFs into Markdown, HTML and JSON. A run that was interrupted "
        "goes on where it was when it is started again; a finished one does nothing.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="image, PDF, folder, or URL of an allowed host"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    _add_reading(parser)
    _add_writing(parser)
    add_engine_arguments(parser)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how pages are read")
    tasks = ", ".join("locate TEXT" if name == "locate" else name for name in TASKS)
    group.add_argument("--task", type=_task, default="markdown", help=f"one of: {tasks}")
    group.add_argument("--mode", choices=MODES, help="resolution; without it the model's default")
    group.add_argument("--pages", type=_ranges, default=ALL_PAGES, help="such as 1-3,7 or 5-")
    group.add_argument("--dpi", type=_dpi, default=float(DEFAULT_DPI), help="of PDF pages")
    group.add_argument("--max-tokens", type=positive, help="longest text of a page")
    group.add_argument(
        "--retries",
        type=count,
        default=4,
        help="other settings to try on a page that goes wrong (4)",
    )
    group.add_argument(
        "--allow-host", metavar="HOST", action="append", default=[], help="may be fetched from"
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is written")
    group.add_argument(
        "--format",
        type=_formats,
        default=DEFAULT_FORMATS,
        help=f"comma separated, of {', '.join(FORMATS)} ({','.join(DEFAULT_FORMATS)})",
    )
    group.add_argument("--tables", choices=("html", "markdown"), default="html", help="in Markdown")
    group.add_argument("--stats", action="store_true", help="vision and text tokens of every page")
    group.add_argument("--json", action="store_true", help="log as lines of JSON on stdout")


def _task(text: str) -> str:
    try:
        ReadSettings("", text).prompt  # noqa: B018  raises for what is no task
    except PromptError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return " ".join(text.split())


def _ranges(text: str) -> PageRanges:
    try:
        return PageRanges.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _dpi(text: str) -> float:
    try:
        dpi = float(text)
    except ValueError:
        dpi = 0.0
    if not 10 <= dpi <= 1200:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 10 and 1200")
    return dpi


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(FORMATS)}")
    return names
