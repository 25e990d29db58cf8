"""`dsocr view OUT`: every converted document as a page with its boxes beside the text."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from vllm_dsocr.pipeline.files import InUse, locked, write_atomic
from vllm_dsocr.pipeline.finish import reopen
from vllm_dsocr.pipeline.outputs import FORMATS
from vllm_dsocr.pipeline.store import MANIFEST, DocumentFolder
from vllm_dsocr.render.style import CSS, content_policy

INDEX = "index.html"


def main(argv: Sequence[str]) -> int:
    """Writes what is missing, prints where to look, opens it."""
    args = _parser().parse_args(argv)
    try:
        with locked(args.output):
            index = write_index(args.output)
    except InUse as error:
        print(f"dsocr view: {error}", file=sys.stderr)
        return 2
    if index is None:
        print(f"dsocr view: no finished document in {args.output}", file=sys.stderr)
        return 2
    print(index)
    if not args.no_open:
        webbrowser.open(index.absolute().as_uri())
    return 0


def write_index(out: Path) -> Path | None:
    """A list of all documents with a report for each; None when there is no document.

    A report is made anew unless it is younger than its document. Pictures come from the source
    files, which have to be where they were; without them a report has the text alone.
    """
    folders = [path.parent for path in sorted(out.rglob(MANIFEST))]
    for folder in folders:
        _write_report(folder)
    if not folders:
        return None
    write_atomic(out / INDEX, _index(out, folders))
    return out / INDEX


def _write_report(folder: Path) -> None:
    report, manifest = folder / FORMATS["report"].file, folder / MANIFEST
    document = reopen(DocumentFolder(folder))
    is_new = report.exists() and report.stat().st_mtime_ns >= manifest.stat().st_mtime_ns
    if document is not None and not is_new:
        FORMATS["report"].write(document)


def _index(out: Path, folders: Sequence[Path]) -> Iterator[str]:
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">\n'
        f"<title>Documents</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        "<header><h1>Documents</h1></header>\n<article>\n<ul>\n"
    )
    for folder in folders:
        name = folder.relative_to(out).as_posix()
        link = quote(f"{name}/{FORMATS['report'].file}")
        yield f'<li><a href="{link}">{escape(name)}</a> {_fates(folder)}</li>\n'
    yield "</ul>\n</article>\n</body>\n</html>\n"


def _fates(folder: Path) -> str:
    """How many pages had which end."""
    statuses = [page["status"] for page in DocumentFolder(folder).manifest().get("pages", [])]
    return " ".join(
        f'<span class="status {status}">{statuses.count(status)} {status}</span>'
        for status in sorted(set(statuses))
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dsocr view", description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUT", help="folder of dsocr convert")
    parser.add_argument("--no-open", action="store_true", help="print the address only")
    return parser
