"""Paths and folders of a command line -> the files to read and what to call them.

Looks at names only: what is in a file is found out when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_dsocr.page.files import PAGE_SUFFIXES
from vllm_dsocr.page.source import PageError


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read; `name` is its folder below the output folder, with forward slashes.

    error: why there is no such file, if it is known already.
    """

    path: Path
    name: str
    error: PageError | None = None


def find_inputs(
    paths: Sequence[Path], errors: Mapping[Path, PageError] | None = None
) -> list[InputFile]:
    """The files themselves and what lies in the folders, in a settled order, with unique names.

    Folders are searched through for files with the suffixes of images and PDFs; hidden ones are
    passed over. A file that was named itself is taken whatever its suffix, even a missing one.
    """
    names: set[str] = set()
    inputs = []
    for path in paths:
        error = (errors or {}).get(path)
        for file, wish in _below(path) if path.is_dir() else [(path, path.name)]:
            name = _unique(wish, names)
            names.add(name)
            inputs.append(InputFile(file, name, error))
    return inputs


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in PAGE_SUFFIXES and path.is_file() and not hidden:
            yield path, relative.as_posix()


def _unique(name: str, taken: set[str]) -> str:
    """The name, or the first of `name~2`, `name~3` that is free."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}~{number}"
    return candidate
