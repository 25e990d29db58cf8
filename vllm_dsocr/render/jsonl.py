"""Format `jsonl`: a page a line, with the fields of Dolma (id, text, source, added, metadata).

`added` is left out: the same document gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vllm_dsocr import __version__
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.markdown import parts_markdown
from vllm_dsocr.render.text.joining import PageParts, joined, parts_of

SOURCE = "vllm-dsocr"


def pieces(document: FinishedDocument) -> Iterator[str]:
    """One JSON object a line, text as Markdown; pages that could not be read have empty text."""
    source = document.about.get("source", {})
    options = document.options
    pages: Iterable[PageParts] = parts_of(document.pages(), options.furniture)
    for held in joined(pages) if options.join_pages else pages:
        page = held.page
        record = {
            "id": f"{source.get('sha256') or document.title}-{page.number}",
            "text": parts_markdown(held.parts, document.link, options),
            "source": SOURCE,
            "version": __version__,
            "metadata": {
                "file": source.get("name", document.title),
                "page": page.number,
                "status": page.status,
                "reason": page.reason,
                "width": page.width,
                "height": page.height,
                "num_text_tokens": page.num_text_tokens,
                "mode": page.mode,
            },
        }
        yield json_text(record) + "\n"
