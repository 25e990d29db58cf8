"""Bytes under keys, on disk or in any storage fsspec knows. Written at once or not at all.

Calls block: use them in threads.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec


class Blobs:
    """A flat store of bytes; keys are made by this package, never by clients."""

    def __init__(self, url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self.is_local = "file" in _protocols(self._fs)
        if self.is_local:
            Path(self._root).mkdir(parents=True, exist_ok=True)

    def write(self, key: str, data: bytes) -> None:
        """Puts the bytes where `read(key)` finds them; a reader sees all of them or none."""
        path = self._path(key)
        if not self.is_local:
            self._fs.pipe_file(path, data)  # object stores replace whole objects
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)  # a full disk needs its bytes back
            raise

    def read(self, key: str) -> bytes:
        """Raises FileNotFoundError."""
        return bytes(self._fs.cat_file(self._path(key)))

    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(self._path(key)))

    def delete(self, key: str) -> None:
        """Removes the bytes, if they are there."""
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def local_path(self, key: str, cache: Path) -> Path:
        """A file with the bytes, for programs that need one; remote ones are kept in `cache`."""
        if self.is_local:
            return Path(self._path(key))
        target = cache / key.replace("/", "-")
        if not target.exists():
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
            cache.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(self.read(key))
            temporary.replace(target)
        return target

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
