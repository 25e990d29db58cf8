"""Events of a conversion -> what a person, or a program, sees of it.

People get progress on stderr and a bounded table at the end; programs get one JSON object per line.
Names and reasons come from files and servers: no control character of theirs reaches a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vllm_dsocr.document.blocks import STATUSES
from vllm_dsocr.pipeline.document import Event

Reporter = Callable[[Event], None]
MAX_ROWS = 20  # of the closing table
MAX_NAME = 60  # letters of a name in it


def printable(text: str) -> str:
    """The text on one line, with every letter that could move a cursor or hide as its escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split(" "))
    )


def say(sentence: str) -> None:
    """One line on stderr."""
    print(printable(sentence), file=sys.stderr, flush=True)


@contextmanager
def own_stdout() -> Iterator[TextIO]:
    """stdout for our results alone: what else writes there, child processes too, goes to stderr."""
    try:
        shared = sys.stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):
        shared = False  # a stream of the program that called us
    if not shared:
        yield sys.stdout
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(kept, "w", encoding="utf-8", errors="replace", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def json_lines(stream: TextIO) -> Reporter:
    """Prints every event as one line of JSON."""

    def report(event: Event) -> None:
        print(json.dumps(event, ensure_ascii=False), file=stream, flush=True)

    return report


class ProgressReport:
    """Pages done and time left; what is going on before that; a line for every page in trouble.

    On a terminal a moving bar, elsewhere lines for what a log should hold.
    """

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self._moves = self._console.is_terminal
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
        times = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, *times, console=self._console, disable=not self._moves, transient=True
        )
        self._bar = self._progress.add_task("pages", total=None)
        self._total = self._done = 0
        self._progress.start()

    def __call__(self, event: Event) -> None:
        getattr(self, f"_on_{event['event']}", lambda event: None)(event)

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()

    def _on_counting(self, event: Event) -> None:
        self._state(f"counting the pages of {event['documents']} files")

    def _on_start(self, event: Event) -> None:
        self._total = event["pages"] or 0  # on a cluster nobody counts them first
        pages = f", {self._total} pages" if self._total else ""
        self._state(f"{event['documents']} files{pages}")
        if event.get("passed_over"):
            self._line(f"passed over: {passed_over(event['passed_over'])}")

    def _on_loading(self, event: Event) -> None:
        self._state(f"loading {event['model']}")

    def _on_ready(self, event: Event) -> None:
        self._state(f"reading (ready after {event['seconds']:g} s)")

    def _on_warning(self, event: Event) -> None:
        self._line(f"warning: {event['text']}")

    def _on_page(self, event: Event) -> None:
        self._advance(1)
        if event["status"] != "ok" and not event["kept"]:
            trouble = event["reason"] or event["status"]
            self._line(f"{event['document']}, page {event['page']}: {trouble}")

    def _on_in_use(self, event: Event) -> None:
        self._line(f"{event['document']}: {event['reason']}; passed over for now")

    def _on_document(self, event: Event) -> None:
        if event["failed"] or event["in_use"]:
            self._line(f"{event['document']}: {event['reason']}")
        if event["kept"]:
            self._advance(sum(event["statuses"].values()))

    def _advance(self, pages: int) -> None:
        self._done += pages
        self._total = max(self._total, self._done)  # a multi-page image is counted as it comes
        self._progress.update(self._bar, completed=self._done, total=self._total)

    def _state(self, text: str) -> None:
        if self._moves:
            self._progress.update(self._bar, description=printable(text), total=self._total or None)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(printable(text), markup=False)


def passed_over(counts: Mapping[str, int]) -> str:
    """`3 .docx, 1 .txt`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count} {suffix}" for suffix, count in ordered[:10]]
    rest = sum(count for _, count in ordered[10:])
    return ", ".join(named + ([f"{rest} others"] if rest else []))


def summary_table(summaries: Sequence[Event]) -> Iterator[str]:
    """Lines: documents in trouble first, at most MAX_ROWS of them all, then the sum."""
    rows = sorted(summaries, key=lambda summary: not summary["reason"])[:MAX_ROWS]
    rows = [summary for summary in summaries if summary in rows]
    width = max([8, *(len(_name(summary)) for summary in rows)])
    yield f"{'document':<{width}} {'pages':>6} " + " ".join(f"{name:>10}" for name in STATUSES)
    for summary in rows:
        reason = f"  {printable(summary['reason'])}" if summary["reason"] else ""
        yield f"{_name(summary):<{width}} {_counts(summary['statuses'])}{reason}"
    if len(rows) < len(summaries):
        yield f"and {len(summaries) - len(rows)} more documents"
    total: Counter[str] = Counter()
    for summary in summaries:
        total.update(summary["statuses"])
    yield f"{'all':<{width}} {_counts(total)}"
    failed = sum(summary["failed"] for summary in summaries)
    if failed:
        yield f"{failed} of {len(summaries)} files could not be read or written"
    in_use = sum(summary["in_use"] for summary in summaries)
    if in_use:
        yield f"{in_use} of {len(summaries)} files were another run's to the end"


def _name(summary: Mapping[str, Any]) -> str:
    name = printable(summary["document"])
    return name if len(name) <= MAX_NAME else f"...{name[3 - MAX_NAME :]}"


def _counts(statuses: Mapping[str, int]) -> str:
    columns = " ".join(f"{statuses.get(name, 0):>10}" for name in STATUSES)
    return f"{sum(statuses.values()):>6} {columns}"
