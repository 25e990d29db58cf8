"""A read document -> the answer of docling-serve. Knows nothing of requests or storage."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.render.finished import FinishedDocument, RenderOptions
from vllm_dsocr.render.formats import FORMATS
from vllm_dsocr.server.work.reading import ReadDocument

Content = Literal["md", "json", "html", "text", "doctags"]
ImageMode = Literal["placeholder", "embedded", "referenced"]
CONTENTS: tuple[Content, ...] = ("md", "json", "html", "text", "doctags")
PLACEHOLDER = "<!-- image -->"

_HTML_TAG = re.compile(r"(<html)[^>]*>")  # clients look for how docling's own begins
_LINK = re.compile(r"!\[[^\]\n]*\]\(dsocr-figure\)")
_SUFFIXES: dict[Content, str] = {
    "md": ".md",
    "json": ".json",
    "html": ".html",
    "text": ".txt",
    "doctags": ".doctags",
}


@dataclass(frozen=True, slots=True)
class DoclingOptions:
    """What a request wants to have."""

    to_formats: Sequence[Content] = ("md",)
    image_export_mode: ImageMode = "embedded"
    page_breaks: str = ""


def document_answer(document: ReadDocument, options: DoclingOptions) -> dict[str, Any]:
    """`document`, `status` and `errors` of one document."""
    troubled = [page for page in document.pages if page.status != "ok"]
    status = "success"
    if troubled:
        all_failed = all(page.status == "failed" for page in document.pages)
        status = "failure" if all_failed else "partial_success"
    contents = {f"{name}_content": _content(name, document, options) for name in CONTENTS}
    return {
        "document": {"filename": document.stored.name, **contents},
        "status": status,
        "errors": [_error(page) for page in troubled],
        "timings": {},
    }


def failed_answer(name: str, sentence: str) -> dict[str, Any]:
    """A document of several that could not be read at all."""
    contents = {f"{content}_content": None for content in CONTENTS}
    error = {"component_type": "model", "module_name": "vllm-dsocr", "error_message": sentence}
    return {
        "document": {"filename": name, **contents},
        "status": "failure",
        "errors": [error],
        "timings": {},
    }


def zip_answer(answers: Sequence[dict[str, Any]]) -> bytes:
    """Every content of every document as a file of its own."""
    buffer = io.BytesIO()
    taken: set[str] = set()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for answer in answers:
            document = answer["document"]
            stem = _unique(PurePosixPath(document["filename"]).stem or "document", taken)
            for name in CONTENTS:
                content = document[f"{name}_content"]
                if content is not None:
                    text = json.dumps(content) if name == "json" else content
                    archive.writestr(stem + _SUFFIXES[name], text)
    return buffer.getvalue()


def _unique(stem: str, taken: set[str]) -> str:
    candidate, number = stem, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem}~{number}"
    taken.add(candidate)
    return candidate


def _content(name: Content, document: ReadDocument, options: DoclingOptions) -> Any:
    if name not in options.to_formats:
        return None
    if name == "md":
        text = FORMATS["md"].text(_finished(document, options))
        return _LINK.sub(PLACEHOLDER, text)
    finished = _finished(document, options)
    if name == "json":
        return json.loads(FORMATS["docling"].text(finished))
    if name == "doctags":
        return _doctags(finished)
    if name == "html":
        return _HTML_TAG.sub(r"\1>", FORMATS["html"].text(finished), count=1)
    return FORMATS["txt"].text(finished)


def _finished(document: ReadDocument, options: DoclingOptions) -> FinishedDocument:
    embedded = options.image_export_mode == "embedded"

    def link(figure: Figure) -> str:
        if not embedded:
            return "dsocr-figure"
        return f"data:image/png;base64,{base64.b64encode(document.figure(figure)).decode()}"

    return FinishedDocument(
        title=document.stored.name,
        pages=lambda: document.pages,
        figure=document.figure,
        options=RenderOptions(page_comments=False),
        link=link,
    )


def _doctags(finished: FinishedDocument) -> str:
    from docling_core.types.doc import DoclingDocument

    exported = DoclingDocument.model_validate_json(FORMATS["docling"].text(finished))
    return exported.export_to_doctags()


def _error(page: Page) -> dict[str, str]:
    reason = page.reason or f"the text is {page.status}"
    return {
        "component_type": "model",
        "module_name": "vllm-dsocr",
        "error_message": f"page {page.number}: {reason}",
    }
