"""One database for files, jobs and pages: SQLite on this machine, or PostgreSQL for several.

Calls block: use them in threads. A job belongs to the worker that claimed it for as long as its
lease runs; every later write of that worker is refused once somebody else took over.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    create_engine,
    delete,
    event,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from vllm_dsocr.server.storage.tables import Base, Job, ReadPage, StoredFile

ENDED = ("success", "failure", "cancelled")
_ID = re.compile(r"[0-9a-f]{32}")
_TOUCH_SECONDS = 60.0  # no write for each use
MAX_STARTS = 5  # a job that takes the server down each time is given up


class Database:
    """Files, jobs and pages of one or more servers."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)
        self._create_tables()
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)

    def _create_tables(self) -> None:
        try:
            Base.metadata.create_all(self._engine)
        except (IntegrityError, OperationalError, ProgrammingError):
            Base.metadata.create_all(self._engine)  # another server was making them as well

    @property
    def engine(self) -> Engine:
        return self._engine

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with self._sessions.begin() as session:
            yield session

    # files

    def add_file(self, owner: str, sha256: str, name: str, size: int, purpose: str) -> StoredFile:
        """Records a file whose bytes are already stored."""
        file = StoredFile(
            id=uuid.uuid4().hex,
            owner=owner,
            sha256=sha256,
            name=name,
            size=size,
            purpose=purpose,
            created=time.time(),
        )
        with self._write() as session:
            session.add(file)
        return file

    def file(self, owner: str | None, file_id: str) -> StoredFile | None:
        """The owner's file, or anybody's for None; None where it is not there or another's."""
        if not _ID.fullmatch(file_id):  # databases stumble over some of what clients send
            return None
        with self._sessions() as session:
            file = session.get(StoredFile, file_id)
            return file if file is not None and owner in (None, file.owner) else None

    def files(self, owner: str, limit: int = 100, offset: int = 0) -> list[StoredFile]:
        """Those the owner has uploaded, newest first; purposes with a slash are our own."""
        query = select(StoredFile).where(*_uploaded(owner))
        return self._all(query.order_by(StoredFile.created.desc()).limit(limit).offset(offset))

    def num_files(self, owner: str) -> int:
        with self._sessions() as session:
            query = select(func.count()).select_from(StoredFile).where(*_uploaded(owner))
            return int(session.scalar(query) or 0)

    def stored_bytes(self, owner: str) -> int:
        with self._sessions() as session:
            total = select(func.sum(StoredFile.size)).where(StoredFile.owner == owner)
            return int(session.scalar(total) or 0)

    def delete_file(self, file: StoredFile) -> bool:
        """Forgets it; True when no other record names the same bytes."""
        with self._write() as session:
            session.execute(delete(StoredFile).where(StoredFile.id == file.id))
            others = select(func.count()).where(StoredFile.sha256 == file.sha256)
            return not session.scalar(others)

    def is_stored(self, sha256: str) -> bool:
        """Whether some file has these bytes."""
        with self._sessions() as session:
            query = select(StoredFile.id).where(StoredFile.sha256 == sha256).limit(1)
            return session.scalar(query) is not None

    def files_before(self, moment: float) -> list[StoredFile]:
        return self._all(select(StoredFile).where(StoredFile.created < moment))

    # jobs

    def add_job(self, owner: str, kind: str, body: dict[str, Any], webhook: str = "") -> Job:
        """A new job, waiting."""
        job = Job(
            id=uuid.uuid4().hex,
            owner=owner,
            kind=kind,
            body=body,
            webhook=webhook,
            created=time.time(),
        )
        with self._write() as session:
            session.add(job)
        return job

    def job(self, owner: str | None, job_id: str) -> Job | None:
        """The owner's job, or anybody's for None."""
        if not _ID.fullmatch(job_id):
            return None
        with self._sessions() as session:
            job = session.get(Job, job_id)
            return job if job is not None and owner in (None, job.owner) else None

    def jobs(self, owner: str, kind: str, limit: int = 100, offset: int = 0) -> list[Job]:
        """Newest first."""
        query = select(Job).where(Job.owner == owner, Job.kind == kind)
        return self._all(query.order_by(Job.created.desc()).limit(limit).offset(offset))

    def num_waiting(self) -> int:
        with self._sessions() as session:
            query = select(func.count()).select_from(Job).where(Job.state == "pending")
            return int(session.scalar(query) or 0)

    def position(self, job: Job) -> int:
        """How many jobs will be taken before this waiting one, itself included."""
        with self._sessions() as session:
            before = (Job.state == "pending", Job.created <= job.created)
            query = select(func.count()).select_from(Job).where(*before)
            return int(session.scalar(query) or 0)

    def claim_job(
        self, worker: str, lease_seconds: float, running: Collection[str] = ()
    ) -> Job | None:
        """The oldest job that waits, or whose server died; it is the worker's from now on.

        running: ids that the worker is at, whatever became of their leases while it stood still.
        """
        now = time.time()
        free = or_(Job.state == "pending", (Job.state == "started") & (Job.lease < now))
        query = select(Job).where(free, Job.id.not_in(running)).order_by(Job.created).limit(1)
        with self._write() as session:
            if self._engine.dialect.name == "sqlite":
                session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            job = session.scalar(query.with_for_update(skip_locked=True))
            if job is None:
                return None
            job.starts += 1
            job.worker, job.lease = worker, now + lease_seconds
            job.state, job.started = "started", job.started or now
            if job.starts > MAX_STARTS:
                job.state, job.finished = "failure", now
                job.error = "the server went down each time it worked on this"
            return job

    def renew(self, worker: str, job_id: str, lease_seconds: float) -> bool:
        """Whether the job is still this worker's; if so, for longer."""
        return self._update_own(worker, job_id, lease=time.time() + lease_seconds)

    def progress(self, worker: str, job_id: str, pages: int, pages_done: int) -> bool:
        return self._update_own(worker, job_id, pages=pages, pages_done=pages_done)

    def end_job(self, worker: str, job_id: str, state: str, error: str = "") -> bool:
        """False when somebody else has taken the job over."""
        return self._update_own(
            worker, job_id, state=state, error=error, finished=time.time(), lease=0.0
        )

    def give_back(self, worker: str, job_id: str) -> bool:
        """A server that goes down in good order lets the next one take the job at once."""
        return self._update_own(
            worker, job_id, state="pending", worker="", lease=0.0, starts=Job.starts - 1
        )

    def cancel_job(self, job_id: str) -> bool:
        """Ends a job that has not ended."""
        ended = {"state": "cancelled", "finished": time.time(), "lease": 0.0}
        query = update(Job).where(Job.id == job_id, Job.state.not_in(ENDED)).values(**ended)
        with self._write() as session:
            return _num_changed(session.execute(query)) > 0

    def bodies_under_way(self) -> list[dict[str, Any]]:
        """Bodies of jobs that have not ended."""
        return self._all(select(Job.body).where(Job.state.not_in(ENDED)))

    def delete_jobs(self, job_ids: Sequence[str]) -> None:
        with self._write() as session:
            session.execute(delete(Job).where(Job.id.in_(job_ids)))

    def jobs_ended_before(self, moment: float, owner: str | None = None) -> list[Job]:
        query = select(Job).where(Job.state.in_(ENDED), Job.finished <= moment)
        return self._all(query if owner is None else query.where(Job.owner == owner))

    def _update_own(self, worker: str, job_id: str, /, **values: Any) -> bool:
        own = (Job.id == job_id, Job.worker == worker, Job.state == "started")
        with self._write() as session:
            return _num_changed(session.execute(update(Job).where(*own).values(**values))) > 0

    # pages

    def page(self, key: str) -> dict[str, Any] | None:
        """The record of a page that was read."""
        with self._sessions() as session:
            page = session.get(ReadPage, key)
            return None if page is None else page.record

    def add_page(self, key: str, record: dict[str, Any]) -> None:
        """Keeps a page; one that is there already stays."""
        try:
            with self._write() as session:
                session.add(ReadPage(key=key, record=record, created=time.time()))
        except IntegrityError:
            return

    def touch_page(self, key: str) -> None:
        """A page that is used again is kept as long as if it had been read now."""
        now = time.time()
        aged = (ReadPage.key == key, ReadPage.created < now - _TOUCH_SECONDS)
        with self._sessions() as session:
            if session.scalar(select(ReadPage.key).where(*aged)) is None:
                return
        with self._write() as session:
            session.execute(update(ReadPage).where(*aged).values(created=now))

    def pages_before(self, moment: float) -> list[ReadPage]:
        return self._all(select(ReadPage).where(ReadPage.created < moment))

    def delete_pages(self, keys: Sequence[str]) -> None:
        with self._write() as session:
            session.execute(delete(ReadPage).where(ReadPage.key.in_(keys)))

    def is_alive(self) -> bool:
        """Whether the database answers."""
        with self._sessions() as session:
            return session.scalar(select(1)) == 1

    def _all(self, query: Select[Any]) -> list[Any]:
        with self._sessions() as session:
            return list(session.scalars(query))


def _uploaded(owner: str) -> tuple[ColumnElement[bool], ...]:
    return StoredFile.owner == owner, StoredFile.purpose.not_like("%/%")


def _num_changed(result: Any) -> int:
    """Rows of an update; the result of one has a count that results in general have not."""
    return int(result.rowcount)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Writers wait for each other; readers wait for nobody."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=30000")
