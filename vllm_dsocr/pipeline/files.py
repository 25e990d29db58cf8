"""Writing so that a reader, or the next run, sees a whole file or none. Standard library only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_dsocr.document.unicode import utf8

_TEMPORARY = ".tmp"


class InUse(Exception):
    """Another run is writing to the same place."""


def write_atomic(path: Path, pieces: Iterable[str | bytes]) -> None:
    """Puts the pieces, UTF-8, where `path` is, at once; on disk when this returns."""
    temporary = path.with_name(path.name + _TEMPORARY)
    with temporary.open("wb") as file:
        for piece in pieces:
            file.write(utf8(piece) if isinstance(piece, str) else piece)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run had not finished writing in this folder."""
    for path in folder.glob("*" + _TEMPORARY):
        path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder; the lock dies with the process. Raises InUse."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InUse(f"another run is writing to {folder}") from error
        yield
