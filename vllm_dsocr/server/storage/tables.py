"""The tables: files that clients sent, jobs they started, pages that were read.

Times are Unix seconds, so that servers in any zone agree. An owner is the hash of an API key, ""
where there are none.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables."""


class StoredFile(Base):
    """Something a client sent. Its bytes are the blob `files/<sha256>`, once for all senders."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(512))
    size: Mapped[int] = mapped_column(BigInteger)
    purpose: Mapped[str] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Float)

    __table_args__ = (Index("files_by_owner", "owner", "created"), Index("files_by_hash", "sha256"))


class Job(Base):
    """Work that goes on without its client. `worker` and `lease` say who does it, until when."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), default="pending")
    worker: Mapped[str] = mapped_column(String(64), default="")
    lease: Mapped[float] = mapped_column(Float, default=0.0)
    starts: Mapped[int] = mapped_column(Integer, default=0)
    pages: Mapped[int] = mapped_column(Integer, default=0)
    pages_done: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str] = mapped_column(Text, default="")
    webhook: Mapped[str] = mapped_column(Text, default="")
    created: Mapped[float] = mapped_column(Float)
    started: Mapped[float] = mapped_column(Float, default=0.0)
    finished: Mapped[float] = mapped_column(Float, default=0.0)

    __table_args__ = (Index("jobs_by_state", "state", "created"),)


class ReadPage(Base):
    """A page that was read: its record under the key of its bytes and settings.

    What makes a restart go on where it was, and a page that is sent twice be read once.
    """

    __tablename__ = "pages"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    record: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[float] = mapped_column(Float)
