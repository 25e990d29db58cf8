"""A document whose pages are all recorded -> its files: the last task of the cluster at it."""

from __future__ import annotations

from pathlib import Path

from vllm_dsocr.fleet.batch.sources import at_hand
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.document import OpenDocument
from vllm_dsocr.pipeline.files import is_hopeless
from vllm_dsocr.pipeline.finish import Recipe
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.store import DocumentFolder


def finish(
    file: InputFile,
    folder: Path,
    recipe: Recipe,
    numbers: list[int],
    password: str | None,
    allow_hosts: tuple[str, ...],
) -> tuple[str, str]:
    """`ok`, or `failed` or `full` with a reason; the latter ends the run."""
    try:
        with at_hand(file, allow_hosts) as local:
            document = OpenDocument(local, DocumentFolder(folder), recipe, numbers)
            document.finish(password)
    except (PageError, RuntimeError) as error:
        return "failed", str(error)
    except OSError as error:
        reason = str(error.strerror or error)
        return ("full", reason) if is_hopeless(error) else ("failed", f"cannot write it: {reason}")
    return "ok", ""
