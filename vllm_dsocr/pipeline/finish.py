"""When a document is finished, and what is written then.

The manifest says what a document was made of: content, settings, pages, formats. A run that would
make the same document again finds it there and does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_dsocr import __version__
from vllm_dsocr.document.blocks import Page
from vllm_dsocr.page.ranges import ALL_PAGES, PageRanges
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.outputs import PagePictures, write_format
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.pipeline.store import MANIFEST, DocumentFolder
from vllm_dsocr.render.finished import FinishedDocument, RenderOptions
from vllm_dsocr.render.formats import DEFAULT_FORMATS, FORMATS
from vllm_dsocr.render.markdown import page_note


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """Which pages are wanted and how documents are written; formats are names of FORMATS."""

    wanted: PageRanges = ALL_PAGES
    formats: tuple[str, ...] = DEFAULT_FORMATS
    options: RenderOptions = RenderOptions()


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a finished document depends on."""

    content_hash: str
    settings: ReadSettings
    output: OutputSettings

    def facts(self) -> dict[str, Any]:
        """The recipe as JSON values; equal recipes have equal facts."""
        return {
            "sha256": self.content_hash,
            "settings": asdict(self.settings),
            "wanted": str(self.output.wanted),
            "formats": list(self.output.formats),
            "options": asdict(self.output.options),
        }

    def page_key(self, number: int) -> str:
        """The key of one page's record."""
        return self.settings.page_key(self.content_hash, number)


def is_unanswered(page: Page) -> bool:
    """Whether the engine, not the file, is why the page has no text: worth another try."""
    return page.status == "failed" and bool(page.attempts)


def finished_pages(folder: DocumentFolder, recipe: Recipe) -> list[dict[str, Any]] | None:
    """The manifest's pages of a document made by this recipe; None if there is work to do."""
    manifest = folder.manifest()
    if manifest.get("recipe") != recipe.facts() or manifest["unanswered"]:
        return None
    files = (folder.path / FORMATS[name].file for name in recipe.output.formats)
    return manifest["pages"] if all(file.exists() for file in files) else None


def finish_document(
    file: InputFile,
    folder: DocumentFolder,
    recipe: Recipe,
    numbers: Sequence[int],
    versions: Mapping[str, str],
) -> None:
    """Writes every format and then the manifest."""
    output = recipe.output
    document = FinishedDocument(
        title=file.path.name,
        pages=lambda: folder.pages(numbers),
        figure=folder.figure,
        pictures=lambda: PagePictures(file.path, output.wanted, recipe.settings.dpi),
        about=_about(file, recipe, versions),
        source=file.path,
        options=output.options,
    )
    for name in output.formats:
        write_format(FORMATS[name], document, folder.path)
    manifest = {"path": str(file.path.absolute()), **_manifest(document, recipe)}
    folder.write(MANIFEST, [json.dumps(manifest, ensure_ascii=False, indent=1), "\n"])


def reopen(folder: DocumentFolder) -> FinishedDocument | None:
    """A document that an earlier run finished, to write it in yet another format; else None."""
    manifest = folder.manifest()
    if not manifest:
        return None
    path, recipe = Path(manifest["path"]), manifest["recipe"]
    wanted, dpi = PageRanges.parse(recipe["wanted"]), recipe["settings"]["dpi"]
    return FinishedDocument(
        title=path.name,
        pages=lambda: folder.pages(page["page"] for page in manifest["pages"]),
        figure=folder.figure,
        pictures=lambda: PagePictures(path, wanted, dpi),
        source=path,
    )


def _about(file: InputFile, recipe: Recipe, versions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "source": {"name": file.name, "sha256": recipe.content_hash},
        "settings": asdict(recipe.settings),
        "versions": {"vllm-dsocr": __version__, **versions},
    }


def _manifest(document: FinishedDocument, recipe: Recipe) -> dict[str, Any]:
    pages, unanswered = [], []
    for page in document.pages():
        key, note = recipe.page_key(page.number), page_note(page)
        pages.append({"page": page.number, "status": page.status, "note": note, "key": key})
        if is_unanswered(page):
            unanswered.append(page.number)
    return {"recipe": recipe.facts(), "unanswered": unanswered, "pages": pages}
