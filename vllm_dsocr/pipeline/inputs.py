"""Paths and folders of a command line -> the files to read and what to call them.

A document's name does not depend on the order of arguments. Two files that would have one name get
names of their own, and a name keeps belonging to the source that had it first.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_dsocr.page.files import holds_pages
from vllm_dsocr.page.sniff import file_kind
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.shard import WHOLE, Shard
from vllm_dsocr.pipeline.store import DocumentFolder

_MAX_NAME_BYTES = 255  # of a folder, on nearly every file system


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read; `name` is its folder below the output folder, with forward slashes.

    source: what it is known by, a path or URL.  error: why there is no such file, if it is known.
    """

    path: Path
    name: str
    source: str = ""
    error: PageError | None = None

    @property
    def identity(self) -> str:
        """What tells this source from others of the same name."""
        return self.source or os.path.abspath(self.path)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a command line comes to.

    passed_over: how many files without pages lay in the folders, by suffix.  warnings: sentences.
    """

    files: list[InputFile]
    passed_over: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Download:
    """Where what was behind a URL lies, or why it does not.

    name: of the document, where it is not the file's own.
    """

    path: Path
    url: str
    error: PageError | None = None
    name: str = ""


def find_inputs(
    paths: Sequence[Path | Download], out: Path | None = None, shard: Shard = WHOLE
) -> Inputs:
    """The files themselves and what lies in the folders, each once, with unique names.

    Folders are searched for images and PDFs, known by name or content; hidden files, `out` and
    documents that a conversion wrote are passed over. A file that was named itself is taken
    whatever it is, even a missing one, and so is in a folder what only fails when it is opened: a
    link to nothing, a folder that may not be looked into. Of all these, those in the shard are
    given; which these are depends on names below the folders, not on where machines have mounted
    them.
    """
    inputs = Inputs([])
    wishes: dict[str, tuple[Path | Download, str]] = {}
    for path in paths:
        if isinstance(path, Download):
            wishes.setdefault(path.url, (path, path.name or path.path.name))
            continue
        found = [(path, path.name)]
        if os.path.isdir(path):  # False too where the name itself is impossible
            found = list(_below(path, out, inputs.passed_over))
            if not found:
                inputs.warnings.append(_why_nothing(path, out))
        for file, wish in found:
            wishes.setdefault(os.path.abspath(file), (file, wish))
    counts = Counter(wish for _, wish in wishes.values())
    for identity, (place, wish) in wishes.items():
        if not shard.has(wish if counts[wish] == 1 else _typed(place)):
            continue
        name = _name(wish, identity, place, out, counts[wish] > 1)
        if isinstance(place, Download):
            inputs.files.append(InputFile(place.path, name, place.url, place.error))
        else:
            inputs.files.append(InputFile(place, name, identity))
    return inputs


def read_lists(sources: Sequence[str]) -> list[str]:
    """The sources, with those in the lines of text files named `.txt` in the place of the files.

    Raises OSError.
    """
    found: list[str] = []
    for text in sources:
        if text.lower().endswith(".txt") and Path(text).is_file() and file_kind(Path(text)) is None:
            lines = os.fsdecode(Path(text).read_bytes()).splitlines()
            found += [line for line in lines if line.strip()]
        else:
            found.append(text)
    return found


def _below(folder: Path, out: Path | None, passed_over: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Files with pages and where they lie in the folder; the rest is counted."""
    closed: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=lambda e: closed.append(e.filename)):
        here = Path(parent)
        if _is_document(here) or _same(here, out):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = here / name
            if (path.is_file() or _leads_nowhere(path)) and holds_pages(path):
                yield path, path.relative_to(folder).as_posix()
            else:
                passed_over[path.suffix.lower() or "no suffix"] += 1
    for path in map(Path, closed):
        yield path, path.relative_to(folder).as_posix() if path != folder else path.name


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not os.path.exists(path)


def _why_nothing(folder: Path, out: Path | None) -> str:
    """A sentence on a folder in which nothing is to be read."""
    if _same(folder, out) or any(_is_document(Path(place)) for place, _, _ in os.walk(folder)):
        return f"{folder} is what dsocr convert wrote: nothing in it is read"
    return f"{folder} has no images or PDFs in it"


def _typed(place: Path | Download) -> str:
    """A source as it stood on the command line, or was found below a folder that did."""
    return place.url if isinstance(place, Download) else place.as_posix()


def _is_document(folder: Path) -> bool:
    """Whether a conversion wrote this folder. OUT itself may be one that has files of its own."""
    return DocumentFolder(folder).source is not None


def _same(folder: Path, out: Path | None) -> bool:
    return out is not None and os.path.realpath(folder) == os.path.realpath(out)


def _name(
    wish: str, identity: str, place: Path | Download, out: Path | None, is_shared: bool
) -> str:
    """The wish, or one that no other source can have."""
    own = own_name(wish, identity)
    if out is None:
        return own if is_shared else wish
    if (out / own).exists():
        return own
    plain = DocumentFolder(out / wish)
    if is_taken(plain.path):
        return own
    if plain.source is None:
        return own if is_shared else wish
    path = place.path if isinstance(place, Download) else place
    return wish if plain.belongs_to(identity, path) else own


def is_taken(folder: Path) -> bool:
    """Whether something else than a folder lies there, such as the source itself."""
    return os.path.lexists(folder) and not os.path.isdir(folder)


def own_name(wish: str, identity: str) -> str:
    """The name that a source has where the one it wishes for is another's."""
    digest = "~" + hashlib.sha256(os.fsencode(identity)).hexdigest()[:8]
    folder, slash, last = wish.rpartition("/")
    while len(os.fsencode(last + digest)) > _MAX_NAME_BYTES:
        last = last[:-1]
    return f"{folder}{slash}{last}{digest}"
