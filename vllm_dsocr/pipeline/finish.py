"""When a document is finished, and what is written then.

The manifest says what a document was made of: source, content, settings, pages, formats. A run that
would make the same document again finds it there and does nothing. What lies in a document's folder
is of one recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_dsocr import __version__
from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.page.files import ReadOptions
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
    """Everything a finished document depends on, but for the formats it is there in."""

    content_hash: str
    is_pdf: bool
    settings: ReadSettings
    output: OutputSettings

    def facts(self) -> dict[str, Any]:
        """The recipe as JSON values; equal recipes have equal facts."""
        return {
            "sha256": self.content_hash,
            "settings": self.settings.facts(self.is_pdf),
            "wanted": str(self.output.wanted),
            "options": asdict(self.output.options),
        }

    def page_key(self, number: int) -> str:
        """The key of one page's record."""
        return self.settings.page_key(self.content_hash, number, self.is_pdf)


def is_unanswered(page: Page) -> bool:
    """Whether the engine, not the file, is why the model read no text: worth another try."""
    return page.status in ("failed", "text-layer") and bool(page.attempts)


def finished_pages(folder: DocumentFolder, recipe: Recipe) -> list[dict[str, Any]] | None:
    """The manifest's pages of a document made by this recipe; None if there is work to do."""
    manifest = folder.manifest()
    if manifest.get("recipe") != recipe.facts():
        return None
    if manifest.get("unanswered") or manifest.get("unfinished"):
        return None
    formats = recipe.output.formats
    if not set(formats) <= set(manifest.get("formats", ())):
        return None
    files = (folder.path / FORMATS[name].file for name in formats)
    return manifest["pages"] if all(file.exists() for file in files) else None


def finish_document(
    file: InputFile,
    folder: DocumentFolder,
    recipe: Recipe,
    numbers: list[int],
    password: str | None = None,
) -> None:
    """Writes every format, removes what is of another recipe, and then writes the manifest."""
    settings, output = recipe.settings, recipe.output
    keys = {number: recipe.page_key(number) for number in numbers}
    reading = ReadOptions(settings.dpi, settings.alpha, password)
    document = FinishedDocument(
        title=file.path.name,
        pages=lambda: folder.pages(keys),
        figure=folder.figure,
        pictures=lambda: PagePictures(file.path, output.wanted, reading),
        about=_about(file, recipe, folder.versions(keys)),
        source=file.path,
        options=output.options,
    )
    formats = _formats(folder, recipe)
    folder.mark_unfinished()
    for name in formats:
        files = write_format(FORMATS[name], document, folder.path)
        if FORMATS[name].is_folder:
            folder.keep_only(FORMATS[name].file, files)
    facts = {"source": file.identity, "recipe": recipe.facts(), "formats": formats}
    manifest = facts | _manifest(document, recipe)
    for name in FORMATS.keys() - set(formats):
        folder.remove(FORMATS[name].file)
    folder.forget_others(lambda number, key: key == recipe.page_key(number))
    folder.write(MANIFEST, [json_text(manifest, indent=1), "\n"])


def _formats(folder: DocumentFolder, recipe: Recipe) -> list[str]:
    """Those asked for, and those there are of the same recipe."""
    manifest = folder.manifest()
    there = manifest.get("formats", []) if manifest.get("recipe") == recipe.facts() else []
    return [name for name in FORMATS if name in recipe.output.formats or name in there]


def reopen(folder: DocumentFolder) -> FinishedDocument | None:
    """A document that an earlier run finished, to write it in yet another format; else None."""
    manifest = folder.manifest()
    if not manifest:
        return None
    path, recipe = Path(manifest.get("source", "")), manifest["recipe"]
    wanted, settings = PageRanges.parse(recipe["wanted"]), recipe["settings"]
    keys = {page["page"]: page["key"] for page in manifest["pages"]}
    reading = ReadOptions(**{k: settings[k] for k in ("dpi", "alpha") if k in settings})
    return FinishedDocument(
        title=path.name,
        pages=lambda: folder.pages(keys),
        figure=folder.figure,
        pictures=lambda: PagePictures(path, wanted, reading),
        about=manifest.get("about", {}),
        source=path,
        options=RenderOptions(**recipe["options"]),
    )


def _about(file: InputFile, recipe: Recipe, versions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "source": {"name": file.name, "sha256": recipe.content_hash},
        "settings": recipe.facts()["settings"],
        "versions": {"vllm-dsocr": __version__, **versions},
    }


def _manifest(document: FinishedDocument, recipe: Recipe) -> dict[str, Any]:
    pages, unanswered = [], []
    for page in document.pages():
        key, note = recipe.page_key(page.number), page_note(page)
        pages.append({"page": page.number, "status": page.status, "note": note, "key": key})
        if is_unanswered(page):
            unanswered.append(page.number)
    return {"about": document.about, "unanswered": unanswered, "pages": pages}
