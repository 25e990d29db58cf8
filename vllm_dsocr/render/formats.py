"""Every format a document can be written in, by name.

A format is a module of this folder with one function, `pieces(document)`, that gives the file's
content as text or bytes; or `files(document)` where there are several. It is imported when it is
asked for, so nobody needs the libraries of formats he does not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.render.finished import FinishedDocument

Pieces = Iterable[str | bytes]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a document.

    file: what it is called in the document's folder.  is_folder: `file` is a folder of files.
    """

    file: str
    media_type: str
    module: str
    is_folder: bool = False

    def load(self) -> ModuleType:
        """Its module. Raises ImportError with what to install."""
        return import_module(f"vllm_dsocr.render.{self.module}")

    def files(self, document: FinishedDocument) -> Iterator[tuple[str, Pieces]]:
        """(path below the document's folder, content) of everything it writes."""
        if self.is_folder:
            for name, pieces in self.load().files(document):
                yield f"{self.file}/{name}", pieces
        else:
            yield self.file, self.load().pieces(document)

    def data(self, document: FinishedDocument) -> bytes:
        """The one file as bytes, text as UTF-8."""
        if self.is_folder:
            raise ValueError(f"{self.file} is several files")
        return b"".join(map(encoded, self.load().pieces(document)))

    def text(self, document: FinishedDocument) -> str:
        """The one file as text."""
        return self.data(document).decode()


def encoded(piece: str | bytes) -> bytes:
    """The bytes a piece is written as."""
    return piece if isinstance(piece, bytes) else utf8(piece)


FORMATS: dict[str, Format] = {
    "md": Format("document.md", "text/markdown", "markdown"),
    "json": Format("document.json", "application/json", "document_json"),
    "html": Format("document.html", "text/html", "html.document"),
    "txt": Format("document.txt", "text/plain", "txt"),
    "jsonl": Format("document.jsonl", "application/jsonl", "jsonl"),
    "chunks": Format("document.chunks.jsonl", "application/jsonl", "chunks"),
    "pdf": Format("document.pdf", "application/pdf", "pdf.searchable"),
    "report": Format("report.html", "text/html", "html.report"),
    "layout": Format("layout", "image/png", "layout", is_folder=True),
    "layout-pdf": Format("layout.pdf", "application/pdf", "pdf.layout"),
    "docling": Format("document.docling.json", "application/json", "docling"),
}
DEFAULT_FORMATS = ("md", "json", "html")
