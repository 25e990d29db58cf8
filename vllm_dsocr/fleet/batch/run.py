"""Files -> documents on a Ray cluster: what the one process does that was started.

It tells the cluster what to do, counts what comes back, and has a document written as soon as its
last page is there. Whatever happens to machines, what is recorded stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.data import ActorPoolStrategy, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vllm_dsocr.engine import EngineLost
from vllm_dsocr.fleet.batch.cluster import Shares
from vllm_dsocr.fleet.batch.draw import Draw, draw_documents, file_columns
from vllm_dsocr.fleet.batch.finish import finish
from vllm_dsocr.fleet.batch.ledger import Ledger
from vllm_dsocr.fleet.batch.read import PageReader, Read
from vllm_dsocr.fleet.batch.rows import Row, rows_of
from vllm_dsocr.hosts import EngineChoice
from vllm_dsocr.pipeline.document import Event, OpenDocument
from vllm_dsocr.pipeline.files import CannotWrite
from vllm_dsocr.pipeline.finish import Recipe
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.pipeline.work import FailuresInARow, Work

PAGES_PER_BATCH = 8  # of an engine's rows; several batches are under way at a time
MAX_DRAW_TASKS = 10_000
DRAWS_PER_PROCESS = 200  # then a fresh one: what libraries leak is gone
MAX_FINISHING = 32  # documents that are being written at a time


@dataclass(frozen=True, slots=True)
class Fleet:
    """What reads, with which share of the cluster.  allow_hosts: see `page.fetch`."""

    choice: EngineChoice
    shares: Shares
    allow_hosts: tuple[str, ...] = ()


class FleetConversion:
    """One run over some files, as `pipeline.run.Conversion`. The cluster is connected."""

    def __init__(
        self, fleet: Fleet, work: Work, out: Path, report: Callable[[Event], None]
    ) -> None:
        self._fleet = fleet
        self._work = work
        self._out = out
        self._report = report
        self._failures = FailuresInARow(work.effort.max_failures)
        self._open: dict[int, _Progress] = {}
        self._finishing: dict[Any, int] = {}  # by the task's reference
        self._finish: Any = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(finish)

    def run(self, files: Sequence[InputFile], **facts: Any) -> list[Event]:
        """Summaries of all documents, in order. Raises EngineLost, CannotWrite, TooManyFailures."""
        self._report({"event": "start", "documents": len(files), "pages": None, **facts})
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Ledger)
        self._ledger: Any = actor.options(num_cpus=0, scheduling_strategy=here).remote(self._out)
        self._num_files = len(files)
        try:
            documents = self._pass(files, 0)
            again = [i for i, document in enumerate(documents) if document.in_use]
            if again:  # finished by now, or given up
                taken = self._pass([documents[i].file for i in again], len(files))
                for i, document in zip(again, taken, strict=True):
                    documents[i] = document
        except ray.exceptions.RayError as error:
            raise EngineLost(f"the cluster gave up: {_sentence(error)}") from error
        finally:
            ray.kill(self._ledger)
        return [document.summary() for document in documents]

    def _pass(self, files: Sequence[InputFile], first: int) -> list[OpenDocument]:
        documents = [self._opened(file) for file in files]
        self._open = {first + i: _Progress(document) for i, document in enumerate(documents)}
        if not files:
            return documents
        items = [file_columns(first + i, file) for i, file in enumerate(files)]
        for batch in self._dataset(items).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for row in rows_of(batch):
                self._take(row)
            self._collect(MAX_FINISHING)
        self._collect(0)
        for progress in self._open.values():
            if not progress.document.in_use:
                self._fail(progress.document, "not all of its pages came back; start again")
        return documents

    def _opened(self, file: InputFile) -> OpenDocument:
        recipe = Recipe("", False, self._work.settings, self._work.output)
        return OpenDocument(file, DocumentFolder(self._out / file.name), recipe)

    def _dataset(self, items: list[dict[str, Any]]) -> Dataset:
        shares, out = self._fleet.shares, self._out
        draw = Draw(self._work, out, self._ledger, self._fleet.allow_hosts)
        read = Read(self._work, self._fleet.choice, out, self._ledger)
        num_tasks = min(len(items), MAX_DRAW_TASKS)
        return (
            ray.data.from_items(items, override_num_blocks=num_tasks)
            .map_batches(
                partial(draw_documents, draw=draw),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=shares.draw_cpus,
                max_calls=DRAWS_PER_PROCESS,  # unlike the actors' options: the stages stay apart
            )
            .map_batches(
                PageReader,
                fn_constructor_args=(read,),
                batch_size=PAGES_PER_BATCH,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=shares.workers),
                num_cpus=shares.cpus,
                num_gpus=shares.gpus,
            )
        )

    def _take(self, row: Row) -> None:
        if row.kind == "lost":
            raise EngineLost(row.facts["reason"])
        if row.kind == "full":
            raise CannotWrite(row.facts["reason"])
        progress = self._open.get(row.document)
        if progress is not None:  # else a row that came twice
            getattr(self, f"_on_{row.kind}")(row, progress)

    def _on_page(self, row: Row, progress: _Progress) -> None:
        if row.page in progress.done:
            return
        facts = dict(row.facts)
        progress.name(facts.pop("name"), self._out)
        answered, trouble = facts.pop("answered", None), facts.pop("trouble", None)
        document, note = progress.document, facts.pop("note")
        progress.done.add(row.page)
        document.count(facts["status"], note)
        self._report({"event": "page", "document": document.name, "page": row.page, **facts})
        if answered is not None:
            self._failures.count(answered, trouble)
        self._end_when_complete(row.document, progress)

    def _on_kept(self, row: Row, progress: _Progress) -> None:
        document = progress.document
        for page in row.facts["pages"]:
            document.count(page["status"], page["note"])
        self._report({"event": "document", "kept": True, **document.summary()})
        self._close(row.document)

    def _on_in_use(self, row: Row, progress: _Progress) -> None:
        document = progress.document
        document.in_use, document.reason = True, row.facts["reason"]
        event = "in_use" if row.document < self._num_files else "document"
        self._report({"event": event, "kept": False, **document.summary()})

    def _on_end(self, row: Row, progress: _Progress) -> None:
        progress.expect(row.facts, self._out)
        facts, recipe = row.facts, progress.document.recipe
        progress.document.recipe = replace(
            recipe, content_hash=facts["sha256"], is_pdf=facts["is_pdf"]
        )
        self._end_when_complete(row.document, progress)

    def _on_failed(self, row: Row, progress: _Progress) -> None:
        progress.expect(row.facts, self._out)
        progress.trouble = row.facts["reason"]
        self._end_when_complete(row.document, progress)

    def _end_when_complete(self, index: int, progress: _Progress) -> None:
        """Has the document written, once it is known which pages it has and all are there."""
        document = progress.document
        if progress.expected is None or not progress.expected <= progress.done:
            return
        if progress.trouble is not None:
            self._fail(document, progress.trouble)
            return self._close(index)
        document.numbers[:] = progress.expected
        if document.is_left_alone():
            self._report({"event": "document", "kept": False, **document.summary()})
            return self._close(index)
        facts = (document.file, document.folder.path, document.recipe, document.numbers)
        rest = (self._work.password, self._fleet.allow_hosts)
        self._finishing[self._finish.remote(*facts, *rest)] = index

    def _collect(self, most: int) -> None:
        """What was written meanwhile; waits while more than `most` are on their way."""
        while self._finishing:
            wait = None if len(self._finishing) > most else 0
            done, _ = ray.wait(list(self._finishing), timeout=wait)
            if not done:
                return
            for reference in done:
                index = self._finishing.pop(reference)
                self._written(index, ray.get(reference))

    def _written(self, index: int, outcome: tuple[str, str]) -> None:
        kind, reason = outcome
        document = self._open[index].document
        if kind == "full":
            raise CannotWrite(f"cannot write to {self._out}: {reason}")
        if kind == "failed":
            self._fail(document, reason)
        else:
            self._report({"event": "document", "kept": False, **document.summary()})
        self._close(index)

    def _fail(self, document: OpenDocument, reason: str) -> None:
        document.fail(RuntimeError(reason))
        self._report({"event": "document", "kept": False, **document.summary()})

    def _close(self, index: int) -> None:
        del self._open[index]
        self._ledger.release.remote(index)


class _Progress:
    """How far a document is.  expected: its pages, once all are known."""

    def __init__(self, document: OpenDocument) -> None:
        self.document = document
        self.done: set[int] = set()
        self.expected: set[int] | None = None
        self.trouble: str | None = None

    def expect(self, facts: dict[str, Any], out: Path) -> None:
        """The name it got, and which pages it has."""
        self.expected = set(facts["numbers"])
        self.name(facts["name"], out)

    def name(self, name: str, out: Path) -> None:
        """The document is the one of that name."""
        if name != self.document.file.name:
            self.document.file = replace(self.document.file, name=name)
            self.document.folder = DocumentFolder(out / name)


def _sentence(error: ray.exceptions.RayError) -> str:
    """The last line of what may be a long trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
