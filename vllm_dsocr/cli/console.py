"""Events of a conversion -> what a person, or a program, sees of it.

People get a progress bar on stderr and a table at the end; programs get one JSON object per line.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vllm_dsocr.document.blocks import STATUSES

Event = dict[str, Any]
Reporter = Callable[[Event], None]


def json_lines(event: Event) -> None:
    """Prints the event as one line of JSON."""
    print(json.dumps(event, ensure_ascii=False), flush=True)


class ProgressBar:
    """Pages done, pages per second, time left; a line for every page in trouble."""

    def __init__(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            print("no progress bar: pip install tqdm", file=sys.stderr)
            self._bar = None
        else:
            self._bar = tqdm(unit="page", file=sys.stderr, dynamic_ncols=True)

    def __call__(self, event: Event) -> None:
        if event["event"] == "start":
            self._expect(event["pages"])
        elif event["event"] == "page":
            self._advance(1)
            if event["status"] != "ok" and not event["kept"]:
                self._say(f"{event['document']}, page {event['page']}: {_trouble(event)}")
        elif event["kept"]:
            self._advance(sum(event["statuses"].values()))

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _expect(self, pages: int) -> None:
        if self._bar is not None:
            self._bar.total = pages
            self._bar.refresh()

    def _advance(self, pages: int) -> None:
        if self._bar is None:
            return
        if self._bar.total is not None and self._bar.n + pages > self._bar.total:
            self._bar.total = self._bar.n + pages  # a multi-page image is counted as it comes
        self._bar.update(pages)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)


def summary_table(summaries: Sequence[Event]) -> Iterator[str]:
    """Lines: one per document, then the sum."""
    width = max([8, *(len(summary["document"]) for summary in summaries)])
    yield f"{'document':<{width}} {'pages':>6} " + " ".join(f"{name:>9}" for name in STATUSES)
    total: Counter[str] = Counter()
    for summary in summaries:
        total.update(summary["statuses"])
        reason = f"  {summary['reason']}" if summary["reason"] else ""
        yield f"{summary['document']:<{width}} {_counts(summary['statuses'])}{reason}"
    yield f"{'all':<{width}} {_counts(total)}"


def _counts(statuses: dict[str, int]) -> str:
    columns = " ".join(f"{statuses.get(name, 0):>9}" for name in STATUSES)
    return f"{sum(statuses.values()):>6} {columns}"


def _trouble(event: Event) -> str:
    return event["reason"] or event["status"]
