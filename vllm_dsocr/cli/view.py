"""`dsocr view OUT`: every converted document as a page with its boxes beside the text."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from vllm_dsocr.cli.lazy import APP, examples
from vllm_dsocr.pipeline.claim import WAIT_SECONDS
from vllm_dsocr.pipeline.files import CannotWrite, InUse, locked, write_atomic
from vllm_dsocr.pipeline.finish import reopen
from vllm_dsocr.pipeline.outputs import write_format
from vllm_dsocr.pipeline.store import MANIFEST, DocumentFolder
from vllm_dsocr.render.formats import FORMATS
from vllm_dsocr.render.html.style import CSS, content_policy

INDEX = "index.html"

app = typer.Typer(**APP)


@app.command(epilog=examples("dsocr view out", "dsocr view out --no-open"))
def view(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="folder of dsocr convert")],
    no_open: Annotated[bool, typer.Option("--no-open", help="print the address only")] = False,
) -> int:
    """Shows every converted document as a page with its boxes beside the text.

    Writes the reports that are missing, prints where to look and opens it.
    """
    if not documents_in(output):
        print(f"dsocr view: no finished document in {output}", file=sys.stderr)
        return 2
    try:
        index = write_index(output)
    except (CannotWrite, InUse) as error:
        print(f"dsocr view: {error}", file=sys.stderr)
        return 2
    print(index)
    if not no_open and index is not None:
        webbrowser.open(index.absolute().as_uri())
    return 0


def write_index(out: Path) -> Path | None:
    """A list of all documents with a report for each; None when there is no document.

    A report is made anew unless it is younger than its document. Pictures come from the source
    files, which have to be where they were; without them a report has the text alone.
    """
    folders = documents_in(out)
    for folder in folders:
        _write_report(folder)
    if not folders:
        return None
    with locked(out, WAIT_SECONDS):
        write_atomic(out / INDEX, _index(out, folders))
    return out / INDEX


def documents_in(out: Path) -> list[Path]:
    """Folders of finished documents."""
    folders = [path.parent for path in sorted(out.rglob(MANIFEST))]
    return [folder for folder in folders if DocumentFolder(folder).manifest()]


def _write_report(folder: Path) -> None:
    report, manifest = folder / FORMATS["report"].file, folder / MANIFEST
    document = reopen(DocumentFolder(folder))
    is_new = report.exists() and report.stat().st_mtime_ns >= manifest.stat().st_mtime_ns
    if document is None or is_new:
        return
    with suppress(InUse), locked(folder):  # a run that writes it makes the report stale anyway
        write_format(FORMATS["report"], document, folder)


def _index(out: Path, folders: Sequence[Path]) -> Iterator[str]:
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">\n'
        f"<title>Documents</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        "<header><h1>Documents</h1></header>\n<article>\n<ul>\n"
    )
    for folder in folders:
        name = folder.relative_to(out).as_posix()
        link = quote(os.fsencode(f"{name}/{FORMATS['report'].file}"))
        yield f'<li><a href="{link}">{escape(name)}</a> {_fates(folder)}</li>\n'
    yield "</ul>\n</article>\n</body>\n</html>\n"


def _fates(folder: Path) -> str:
    """How many pages had which end."""
    statuses = [page["status"] for page in DocumentFolder(folder).manifest().get("pages", [])]
    return " ".join(
        f'<span class="status {status}">{statuses.count(status)} {status}</span>'
        for status in sorted(set(statuses))
    )
