"""Words of a command line -> files, and a file -> its bytes on the machine that draws it.

Local paths and what fsspec knows: s3://, gs://, https:// and more. Listed here, fetched where they
are drawn: nothing but names goes through the process that runs the conversion.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from vllm_dsocr.page.fetch import fetch, is_url, url_name
from vllm_dsocr.page.files import PAGE_SUFFIXES, SourceError
from vllm_dsocr.pipeline.inputs import Download, InputFile, Inputs, find_inputs
from vllm_dsocr.pipeline.shard import WHOLE, Shard


def find_sources(texts: Sequence[str], out: Path, shard: Shard = WHOLE) -> Inputs:
    """As `find_inputs`, with URLs that are fetched later; below a remote folder files are known by
    their suffix. Raises ImportError with what a URL needs.
    """
    places: list[Path | Download] = []
    for text in texts:
        if is_url(text):
            places.append(Download(Path(url_name(text)), text))
        elif is_remote(text):
            places += _listed(text)
        else:
            places.append(Path(text))
    inputs = find_inputs(places, out, shard)
    inputs.files[:] = [replace(file, path=file.path.absolute()) for file in inputs.files]
    return inputs


def is_remote(text: str) -> bool:
    """Whether a source is not on a file system of this machine."""
    return "://" in text


@contextmanager
def at_hand(file: InputFile, allow_hosts: Collection[str] = ()) -> Iterator[InputFile]:
    """The file where it can be opened: itself, or a copy. Raises PageError."""
    if file.error is not None:
        raise file.error
    if not is_remote(file.source):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="dsocr-") as scratch:
        if is_url(file.source):
            path = fetch(file.source, Path(scratch), allow_hosts, typed=True)
        else:
            path = _copy(file.source, Path(scratch))
        yield replace(file, path=path)


def _listed(url: str) -> list[Path | Download]:
    """What is behind a URL of fsspec: one file, or all below a folder."""
    try:
        system, root = fsspec.core.url_to_fs(url)
        if system.isfile(root):
            return [_download(system, root, PurePosixPath(root).name)]
        found = [path for path in system.find(root) if _is_wanted(path, root)]
    except ImportError:
        raise
    except Exception as error:  # each file system has errors of its own
        return [_missing(url, error)]
    if not found:
        return [_missing(url, FileNotFoundError("no file with pages there"))]
    return [_download(system, path, _below(path, root)) for path in found]


def _is_wanted(path: str, root: str) -> bool:
    parts = PurePosixPath(_below(path, root)).parts
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and PurePosixPath(path).suffix.lower() in PAGE_SUFFIXES


def _below(path: str, root: str) -> str:
    return path.removeprefix(root.rstrip("/")).lstrip("/")


def _download(system: Any, path: str, name: str) -> Download:
    return Download(Path(PurePosixPath(path).name), system.unstrip_protocol(path), name=name)


def _missing(url: str, error: Exception) -> Download:
    name = PurePosixPath(url).name
    return Download(Path(name), url, SourceError(_sentence(url, error)), name)


def _copy(url: str, folder: Path) -> Path:
    try:
        system, root = fsspec.core.url_to_fs(url)
        path = folder / PurePosixPath(root).name
        system.get_file(root, str(path))
    except Exception as error:  # each file system has errors of its own
        raise SourceError(_sentence(url, error)) from error
    return path


def _sentence(url: str, error: Exception) -> str:
    return f"cannot fetch {url}: {' '.join(str(error).split()) or type(error).__name__}"
