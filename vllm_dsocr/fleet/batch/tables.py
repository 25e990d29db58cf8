"""Documents in OUT -> every page as a row, in Parquet or JSON lines, written by the cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.pipeline.finish import reopen
from vllm_dsocr.pipeline.store import DocumentFolder

DOCUMENTS_PER_FILE = 1000


def write_table(out: Path, summaries: Sequence[Mapping[str, Any]], target: str) -> None:
    """The pages of all finished documents among the summaries, earlier runs' too, as files below
    `target`: a folder, or a URL of a file system that Arrow knows.
    """
    names = [summary["document"] for summary in summaries if summary["statuses"]]
    if not names:
        return
    items = [{"document": name} for name in names]
    num_files = -(-len(items) // DOCUMENTS_PER_FILE)
    documents = ray.data.from_items(items, override_num_blocks=num_files)
    pages = documents.flat_map(partial(_rows, out=out))
    if target.rstrip("/").endswith(".parquet"):
        pages.write_parquet(target)
    else:
        pages.write_json(target)


def _rows(item: Mapping[str, str], out: Path) -> list[dict[str, Any]]:
    document = reopen(DocumentFolder(out / item["document"]))
    if document is None:
        return []
    source = document.about.get("source", {})
    return [
        {
            "document": item["document"],
            "source": os.fspath(document.source or ""),
            "sha256": source.get("sha256", ""),
            **_row(page),
        }
        for page in document.pages()
    ]


def _row(page: Page) -> dict[str, Any]:
    """Text as the model wrote it, markup and all."""
    return {
        "page": page.number,
        "status": page.status,
        "reason": page.reason or "",
        "text": page.text,
        "width": page.width,
        "height": page.height,
        "mode": page.mode or "",
        "num_vision_tokens": page.num_vision_tokens or 0,
        "num_text_tokens": page.num_text_tokens or 0,
    }
