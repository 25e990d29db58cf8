"""One document's folder: page records and figures as they come, finished documents at the end.

    OUT/scan.pdf/
      source.json          which file or URL this is, and the hash of its content when it was read
      pages/0001.json      one page with the key of its content and settings, and what read it;
                           written last, so that a page is either wholly there or not at all
      pages/0001.failed.json   the last reading failed; what was read before stays beside it
      images/0001-0.png    its figures
      document.md ...      the finished document in each format that was asked for
      manifest.json        written when all of that is there, marked before any of it is replaced
      timings.jsonl        how long pages took; the only file that differs from run to run
      .dsocr.lock          held by the run that writes here

Knows nothing of engines or of how documents are drawn.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.record import page_from_record, page_record
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.page.files import content_hash
from vllm_dsocr.pipeline.files import remove_leftovers, write_atomic
from vllm_dsocr.render.finished import IMAGES, figure_name

MANIFEST, SOURCE = "manifest.json", "source.json"


class DocumentFolder:
    """What is known of one document. Constructing it creates nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pages = path / "pages"
        self._marking, self._is_marked = threading.Lock(), False

    @property
    def source(self) -> str | None:
        """The path or URL this document was read from; None where there is no document."""
        source = _read_json(self.path / SOURCE).get("source")
        return source or self.manifest().get("path")

    @property
    def sha256(self) -> str | None:
        """The hash of that source's content when it was read."""
        return _read_json(self.path / SOURCE).get("sha256")

    def belongs_to(self, source: str, path: Path) -> bool:
        """Whether it is of that source, or of the same content under another path."""
        if self.source == source:
            return True
        known = self.sha256
        try:
            return bool(known) and content_hash(path) == known
        except OSError:
            return False

    def prepare(self, source: str, sha256: str) -> None:
        """Makes the folder and clears what a killed run left half written."""
        for folder in (self.path, self._pages, self.path / IMAGES):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        facts = {"source": source, "sha256": sha256}
        if _read_json(self.path / SOURCE) != facts:
            write_atomic(self.path / SOURCE, [json_text(facts), "\n"])

    def load(self, number: int, key: str) -> Page | None:
        """The page as recorded under that key; None when it is not there or is damaged.

        A failure is returned only where nothing was read under that key.
        """
        return self._load(self._record_path(number), key) or self._load(
            self._failure_path(number), key
        )

    def recorded(self, key: Callable[[int], str]) -> Iterator[Page]:
        """All pages as recorded under their keys, in order."""
        digits = (path.name.partition(".")[0] for path in self._pages.glob("*.json"))
        for number in sorted({int(text) for text in digits if text.isdecimal()}):
            page = self.load(number, key(number))
            if page is not None:
                yield page

    def commit(
        self,
        page: Page,
        key: str,
        figures: Iterable[tuple[Figure, bytes]] = (),
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Writes a page: its figures, then its record, which makes it count.

        versions: of what read it.  A failed page takes nothing away: what was read before, with
        other settings, stays.
        """
        record = json_text({"key": key, "versions": dict(versions or {}), **page_record(page)})
        if page.status == "failed":
            write_atomic(self._failure_path(page.number), [record])
            return
        self.mark_unfinished()
        names = set()
        for figure, data in figures:
            names.add(figure_name(figure))
            write_atomic(self.path / IMAGES / figure_name(figure), [data])
        for stale in (self.path / IMAGES).glob(f"{page.number:04d}-*"):
            if stale.name not in names:
                stale.unlink()
        write_atomic(self._record_path(page.number), [record])
        self._failure_path(page.number).unlink(missing_ok=True)

    def pages(self, keys: Mapping[int, str]) -> Iterator[Page]:
        """Recorded pages by number and key, one at a time. Raises OSError for one not recorded."""
        for number, key in keys.items():
            page = self.load(number, key)
            if page is None:
                raise OSError(f"the record of page {number} is gone")
            yield page

    def versions(self, keys: Mapping[int, str]) -> dict[str, str]:
        """Of all that read those pages, in this run or an earlier one."""
        found: dict[str, set[str]] = {}
        for number, key in keys.items():
            paths = (self._record_path(number), self._failure_path(number))
            record = next((r for r in map(_read_json, paths) if r.get("key") == key), {})
            for name, version in record.get("versions", {}).items():
                found.setdefault(name, set()).add(version)
        return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}

    def forget_others(self, is_current: Callable[[int, str], bool]) -> None:
        """Removes records and figures that are not of the finished document's recipe."""
        for path in self._pages.glob("*.json"):
            digits = path.name.partition(".")[0]
            if digits.isdecimal() and not is_current(int(digits), str(_read_json(path).get("key"))):
                path.unlink()
        for path in (self.path / IMAGES).glob("[0-9]*-*"):
            digits = path.name.partition("-")[0]
            if digits.isdecimal() and not self._record_path(int(digits)).exists():
                path.unlink()

    def figure(self, figure: Figure) -> bytes:
        """A figure's file."""
        return (self.path / IMAGES / figure_name(figure)).read_bytes()

    def write(self, name: str, pieces: Iterable[str | bytes]) -> None:
        """A finished file of the document."""
        write_atomic(self.path / name, pieces)

    def keep_only(self, name: str, files: Collection[str]) -> None:
        """Takes away what else lies in a finished folder of files, `name`/..."""
        for path in (self.path / name).glob("*"):
            if f"{name}/{path.name}" not in files:
                path.unlink()

    def remove(self, name: str) -> None:
        """Takes a finished file, or folder of files, away."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def log_timing(self, record: Mapping[str, Any]) -> None:
        """Adds a line to the timings."""
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def mark_unfinished(self) -> None:
        """Notes in a manifest that what it tells of is being replaced: a killed run is then known.

        Threads may do so at a time.
        """
        with self._marking:
            manifest = {} if self._is_marked else self.manifest()
            if manifest and not manifest.get("unfinished"):
                self.write(MANIFEST, [json_text(manifest | {"unfinished": True}, indent=1), "\n"])
            self._is_marked = True

    def manifest(self) -> dict[str, Any]:
        """What was written when the document was finished, {} before that."""
        manifest = _read_json(self.path / MANIFEST)
        return manifest if isinstance(manifest.get("recipe"), dict) else {}

    def _load(self, path: Path, key: str) -> Page | None:
        record = _read_json(path)
        try:
            return page_from_record(record) if record["key"] == key else None
        except (ValueError, KeyError, TypeError):
            return None

    def _record_path(self, number: int) -> Path:
        return self._pages / f"{number:04d}.json"

    def _failure_path(self, number: int) -> Path:
        return self._pages / f"{number:04d}.failed.json"


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
