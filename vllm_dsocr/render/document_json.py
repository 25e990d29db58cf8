"""Format `json`: everything known of a document; `docs/document.schema.json` describes it."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_dsocr.document.record import page_record
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.render.finished import FinishedDocument

FORMAT = "dsocr-document"
FORMAT_VERSION = 1


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The JSON, one page a line; the document's `about` is among its leading keys."""
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, **document.about}
    yield json_text(head, indent=1)[:-2] + ',\n "pages": [\n'
    separator = "  "
    for page in document.pages():
        yield separator + json_text(page_record(page))
        separator = ",\n  "
    yield "\n ]\n}\n"
