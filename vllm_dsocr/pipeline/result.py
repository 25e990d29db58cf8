"""A converted document in a program's hands: its text in any format, its pages, its blocks."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.pipeline.finish import reopen
from vllm_dsocr.pipeline.outputs import write_format
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.render.finished import figure_path
from vllm_dsocr.render.formats import DEFAULT_FORMATS, FORMATS, Format

if TYPE_CHECKING:
    from docling_core.types.doc import DoclingDocument


class Document:
    """What was read of one file.

    folder: where it lies as `dsocr convert` writes it; `keep` is whatever has to live as long.
    Raises ValueError where there is no finished document.
    """

    def __init__(self, folder: Path, keep: object = None) -> None:
        document = reopen(DocumentFolder(folder))
        if document is None:
            raise ValueError(f"no finished document in {folder}")
        self.folder = folder
        self._document = document
        self._keep = keep

    def __repr__(self) -> str:
        statuses = ", ".join(page.status for page in self.pages[:5])
        return f"<Document {self.name!r}: {len(self.pages)} pages ({statuses})>"

    @property
    def name(self) -> str:
        """The source's file name."""
        return self._document.title

    @cached_property
    def pages(self) -> list[Page]:
        """Every page with its status, text and blocks."""
        return list(self._document.pages())

    @property
    def markdown(self) -> str:
        """The whole text; figures are links into `images/`."""
        return self.text("md")

    @property
    def html(self) -> str:
        """One self-contained page that runs nothing."""
        return self.text("html")

    def json(self) -> dict[str, Any]:
        """Everything known, as `docs/document.schema.json` describes it."""
        return json.loads(self.text("json"))

    def text(self, format: str) -> str:
        """In any format of `render.formats.FORMATS` that is one text file, else ValueError."""
        return _format(format).text(self._document)

    def to_docling(self) -> DoclingDocument:
        """For Docling. Raises ImportError without docling-core."""
        data = self.text("docling")
        from docling_core.types.doc import DoclingDocument

        return DoclingDocument.model_validate_json(data)

    def save(
        self, folder: str | Path, formats: tuple[str, ...] | list[str] | str = DEFAULT_FORMATS
    ) -> Path:
        """Writes the formats, and the figures they link to, into a folder, which is returned.

        formats: names, also in one text with commas.  Raises ValueError for one there is not.
        """
        if isinstance(formats, str):
            formats = [name.strip() for name in formats.split(",")]
        for name in formats:
            _format(name)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in formats:
            write_format(FORMATS[name], self._document, folder)
        for page in self.pages:
            for figure in page.figures:
                path = folder / figure_path(figure)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(self._document.figure(figure))
        return folder


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ValueError(f"{name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]
