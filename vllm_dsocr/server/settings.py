"""What an operator may set, with the values in force when nothing is said.

Every field is a flag of `dsocr serve` and `dsocr gateway` (`--ocr-max-pages` for `max_pages`) and
an environment variable (`DSOCR_MAX_PAGES`). Knows nothing of protocols.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

PREFIX = "DSOCR_"
LOG_FORMATS = ("text", "json")
_MIB = 1 << 20
_LEAST = 1e-9  # above 0; where 0 is the default it means something


def _setting(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, slots=True)
class Settings:
    """One server's settings; sizes in bytes, times in seconds."""

    data: Path = _setting(Path("dsocr-data"), "folder of jobs, files and results")
    database: str = _setting("", "SQLAlchemy URL, such as postgresql+psycopg://...; SQLite in data")
    storage: str = _setting("", "fsspec URL for files and results, such as s3://bucket; data")
    api_keys: tuple[str, ...] = _setting((), "keys that are let in; none lets everybody in")
    model_name: str = _setting("", "name answers give the model; the engine's own")
    model_aliases: tuple[str, ...] = _setting(
        ("mistral-ocr*", "*deepseek-ocr*"),
        "other names requests may give it; * stands for any text",
    )
    dpi: float = _setting(144.0, "resolution at which PDF pages are drawn")
    max_file_bytes: int = _setting(100 * _MIB, "largest upload")
    max_incoming_bytes: int = _setting(2048 * _MIB, "bodies of all requests at a time; then 429")
    max_pages: int = _setting(1000, "most pages of one document")
    max_pixels: int = _setting(178_956_970, "most pixels of one image")
    max_documents: int = _setting(64, "documents read for waiting clients at a time; then 429")
    max_queue: int = _setting(1000, "jobs that may wait; then 429")
    jobs_at_once: int = _setting(8, "jobs that run at a time on this server")
    pages_in_flight: int = _setting(0, "pages in the engine at a time; 0: what the engine wants")
    pages_per_request: int = _setting(0, "of them for one document; 0: half of all")
    document_seconds: float = _setting(3600.0, "longest a document may take")
    page_seconds: float = _setting(300.0, "longest a page may take")
    draw_processes: int = _setting(0, "processes that draw pages; 0: one a core, 8 at most")
    draw_bytes: int = _setting(2048 * _MIB, "memory of one of them")
    quota_bytes: int = _setting(10_240 * _MIB, "stored files of one key")
    keep_seconds: float = _setting(86_400.0, "how long files and results are kept")
    allow_hosts: tuple[str, ...] = _setting((), "hosts documents may be fetched from")
    private_hosts: tuple[str, ...] = _setting((), "of them, those that may be private addresses")
    webhook_hosts: tuple[str, ...] = _setting((), "hosts that may be told of finished jobs")
    webhook_secret: str = _setting("", "signs what they are told")
    log_format: str = _setting("text", "json: a JSON object a line, with request ids")
    lease_seconds: float = _setting(30.0, "after this a job of a server that died is taken over")
    drain_seconds: float = _setting(30.0, "how long SIGTERM waits for what is being read")

    def __post_init__(self) -> None:
        if self.log_format not in LOG_FORMATS:
            raise ValueError(f"log_format is one of {', '.join(LOG_FORMATS)}")
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, (int, float)):
                continue
            least = 0 if item.default == 0 else _LEAST
            if not least <= value < float("inf"):
                raise ValueError(f"{item.name} cannot be {value}")

    @classmethod
    def from_environment(cls, **given: Any) -> Settings:
        """What is given, over DSOCR_* variables, over the defaults. Raises ValueError."""
        hints = get_type_hints(cls)
        values = {
            item.name: parse(item.name, hints[item.name], os.environ[PREFIX + item.name.upper()])
            for item in fields(cls)
            if PREFIX + item.name.upper() in os.environ
        }
        return cls(**{**values, **{k: v for k, v in given.items() if v is not None}})

    def database_url(self) -> str:
        """Where jobs are kept."""
        return self.database or f"sqlite:///{self.data / 'dsocr.sqlite'}"

    def storage_url(self) -> str:
        """Where files and results are kept."""
        return self.storage or str(self.data / "blobs")


def parse(name: str, kind: Any, text: str) -> Any:
    """A setting's value from text; lists are comma separated. Raises ValueError naming it."""
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{name} takes a {kind.__name__}, got {text!r}") from error
